//! A path that an upstream could read as a paid one never gets there unpaid, whatever Envoy does
//! to paths before the filter sees them.
//!
//! The oracle is an upstream that is as sloppy as can be: it may unescape (again and again, overlong
//! forms too), take `\` for `/`, merge slashes, drop parameters, resolve dots, cut at `?`, `#` or
//! a zero byte and ignore case, in any order and any of it or none.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use e2e::envoy::{Normalisation, merge};
use e2e::gate::Gate;
use e2e::raw::{Part, RawUpstream, exchange, h2_exchange, status};
use e2e::unpaid;
use serde_json::{Value, json};

const HOST: &str = "api.test";
const ALL: [Normalisation; 4] = [
    Normalisation::None,
    Normalisation::Istio,
    Normalisation::EnvoyGateway,
    Normalisation::Recommended,
];

/// What an upstream might do to a path.
type Step = fn(&[u8]) -> Vec<u8>;

const STEPS: [Step; 7] = [
    unescape,
    |path| {
        path.iter()
            .map(|b| if *b == b'\\' { b'/' } else { *b })
            .collect()
    },
    |path| {
        let mut path = path.to_vec();
        path.dedup_by(|next, before| *next == b'/' && *before == b'/');
        path
    },
    |path| {
        let segments = path.split(|byte| *byte == b'/');
        let names = segments.map(|segment| before(segment, b";"));
        names.collect::<Vec<_>>().join(&b'/')
    },
    resolve_dots,
    |path| before(path, b"?#\0").to_vec(),
    |path| path.to_ascii_lowercase(),
];

fn before<'a>(text: &'a [u8], ends: &[u8]) -> &'a [u8] {
    text.split(|byte| ends.contains(byte))
        .next()
        .unwrap_or_default()
}

/// Undoes every escape once, and overlong UTF-8 of ASCII with it.
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut rest = path;
    while let [first, after @ ..] = rest {
        let escape = (*first == b'%').then(|| after.get(..2)).flatten();
        let byte = escape
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        plain.push(byte.unwrap_or(*first));
        rest = match byte {
            Some(_) => after.get(2..).unwrap_or_default(),
            None => after,
        };
    }
    let mut short = Vec::new();
    let mut rest = &plain[..];
    loop {
        rest = match rest {
            [] => return short,
            [first @ (0xc0 | 0xc1), second @ 0x80..=0xbf, after @ ..] => {
                short.push((first & 3) << 6 | (second & 0x3f));
                after
            }
            [0xe0, second @ 0x80..=0x81, third @ 0x80..=0xbf, after @ ..] => {
                short.push((second & 3) << 6 | (third & 0x3f));
                after
            }
            [first, after @ ..] => {
                short.push(*first);
                after
            }
        };
    }
}

fn resolve_dots(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    for segment in path.split(|byte| *byte == b'/').skip(1) {
        match segment {
            b"." => {}
            b".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    let mut resolved = vec![b'/'];
    resolved.extend(kept.join(&b'/'));
    resolved
}

/// Everything that the sloppy upstream might read.
fn readings(target: &[u8]) -> BTreeSet<Vec<u8>> {
    // Where the query begins is beyond doubt.
    let path = before(target, b"?").to_vec();
    let mut known = BTreeSet::from([path.clone()]);
    let mut fresh = vec![path];
    while let Some(path) = fresh.pop() {
        for step in STEPS {
            let next = step(&path);
            if known.insert(next.clone()) {
                fresh.push(next);
            }
        }
    }
    known
}

fn could_be(target: &[u8], paid: &str) -> bool {
    let paid = paid.to_ascii_lowercase().into_bytes();
    let below = [&paid[..], b"/"].concat();
    readings(target)
        .iter()
        .any(|path| *path == paid || path.starts_with(&below))
}

/// `/paid/x` as upstreams of many makes have been made to read it.
const SPELT: &str = "\
    /paid/x /PAID/X /Paid/x //paid/x /paid//x /paid/x/ /paid/x;a=b /paid;a=b/x /;a/paid/x \
    /free;/../paid/x /free/../paid/x /free/./../paid/x /free/%2e%2e/paid/x /free/%2E./paid/x \
    /free/..;/paid/x /free/..;a=b/paid/x /free/%2e%2e;/paid/x /free/.;/..;/paid/x \
    /free/..%2fpaid/x /free/..%5cpaid/x /free/..\\paid/x \\paid\\x /\\paid/x /paid\\x \
    /paid%5cx /paid%2fx /free%2f..%2fpaid/x /free/%252e%252e/paid/x \
    /free/%252e%252e%252fpaid%252fx /%2570aid/x /free/%25252e%25252e/paid/x \
    /free%00/../paid/x /paid/x%00 /paid%00/x /paid/x%00.txt /paid/x%3fa /paid/x%23a \
    /paid/x?a /paid/x#a /free?/../paid/x /free#/../paid/x /free/%c0%ae%c0%ae/paid/x \
    /free/%c0%ae./paid/x /free/..%c0%afpaid/x /%c1%b0aid/x /free/%e0%80%ae%e0%80%ae/paid/x \
    /paid/%zz/../x /free/%ff/../paid/x /free/%/../paid/x /paid/x% /paid/x%2 /./paid/x \
    /.//paid/x /free/..//paid/x /free//../paid/x /free/x/../../paid/x /free/.../paid/x \
    /../paid/x /..//..//paid/x /paid/../paid/x /free/..%3b/paid/x /paid%3ba/x /;/paid/x \
    /;/;/paid/x /%3b/paid/x /free/;/../paid/x /paid/x%20 /paid/x%0a /paid%09/x paid/x * ? \
    /?/paid/x http://api.test/paid/x http://api.test/free/../paid/x http://api.test//paid/x \
    HTTP://API.TEST/paid/x https://api.test:443/paid/x /http://api.test/paid/x \
    /free/%u002e%u002e/paid/x";

/// Spellings of `/paid/x`: each path of the list in the design, and every byte in every disguise.
fn spellings() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = SPELT
        .split(' ')
        .map(|path| path.as_bytes().to_vec())
        .collect();
    all.push(Vec::new());
    let paid = b"/paid/x";
    for (at, byte) in paid.iter().enumerate() {
        let (head, from) = paid.split_at(at);
        let tail = from.get(1..).unwrap_or_default();
        let upper = byte.to_ascii_uppercase();
        let overlong = format!("%{:02x}%{:02x}", 0xc0 | (byte >> 6), 0x80 | (byte & 0x3f));
        for disguise in [
            format!("%{byte:02x}"),
            format!("%{byte:02X}"),
            format!("%{upper:02x}"),
            format!("%25{byte:02x}"),
            format!("%2525{byte:02x}"),
            format!("%{:02x}%{:02x}", b'%', byte),
            char::from(upper).to_string(),
            overlong,
        ] {
            all.push([head, disguise.as_bytes(), tail].concat());
            all.push([b"/free/..", head, disguise.as_bytes(), tail].concat());
        }
        // Between any two bytes, something that an upstream might not see.
        for hidden in [
            "/", "/./", ";", ";a=b", "%00", "\\", "%2f", "//", "/.;/", "%3b", "%0d%0a",
        ] {
            all.push([head, hidden.as_bytes(), from].concat());
        }
        for raw in [0x01, 0x7f, 0x80, 0xa0, 0xae, 0xc0, 0xff] {
            all.push([head, &[raw], from].concat());
        }
    }
    all.push(b"/free/\xc0\xae\xc0\xae/paid/x".to_vec());
    all.push(b"/\xc1\xb0aid/x".to_vec());
    all.push("/ｐaid/x".as_bytes().to_vec());
    all
}

/// What is sold at `/paid/` and how the rest of the host is open.
fn policies() -> [(&'static str, Value); 4] {
    let service = |more: Value| {
        let mut service = json!({ "name": "weather", "price": { "sat": 10 } });
        merge(&mut service, more);
        service
    };
    let at = |path: Value| json!([{ "hosts": [HOST], "path": path }]);
    [
        (
            "free paths below a paid prefix",
            json!({ "services": [service(json!({
            "match": at(json!({ "prefix": "/" })),
            "freePaths": [{ "prefix": "/free" }, { "exact": "/" }],
        }))] }),
        ),
        (
            "a paid prefix, the rest passes",
            json!({ "unmatched": "pass", "services": [
            service(json!({ "match": at(json!({ "prefix": "/paid/" })) })),
        ] }),
        ),
        (
            "one paid path, the rest passes",
            json!({ "unmatched": "pass", "services": [
            service(json!({ "match": at(json!({ "exact": "/paid/x" })) })),
        ] }),
        ),
        (
            "a regular expression, the rest passes",
            json!({ "unmatched": "pass", "services": [
            service(json!({ "match": at(json!({ "regex": "/paid/[a-z]+" })) })),
        ] }),
        ),
    ]
}

/// Targets of all requests that have arrived.
fn arrived(upstream: &RawUpstream) -> Vec<Vec<u8>> {
    let all = upstream.received();
    let lines = all
        .iter()
        .flat_map(|bytes| bytes.split(|byte| *byte == b'\n'));
    let targets = lines.filter_map(|line| {
        let line = line.strip_suffix(b" HTTP/1.1\r")?;
        let start = line.iter().position(|byte| *byte == b' ')? + 1;
        Some(line.get(start..)?.to_vec())
    });
    targets.collect()
}

/// Sends every spelling by HTTP/1.1 and by HTTP/2, some at a time.
fn send_all(server: SocketAddr) -> anyhow::Result<()> {
    let all = spellings();
    let quiet = Duration::from_secs(10);
    let send = |path: &[u8]| {
        let end = format!(" HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
        exchange(server, &[b"GET ", path, end.as_bytes()].concat(), quiet)?;
        let fields: [(&[u8], &[u8]); 4] = [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":authority", HOST.as_bytes()),
            (b":path", path),
        ];
        h2_exchange(server, &[Part::Fields(&fields)], quiet)
    };
    let share = all.len().div_ceil(4);
    std::thread::scope(|scope| {
        let threads: Vec<_> = all
            .chunks(share)
            .map(|some| scope.spawn(move || some.iter().try_for_each(|path| send(path))))
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a sender panicked"))?
        })
    })
}

#[tokio::test]
async fn no_spelling_of_a_paid_path_is_free() -> anyhow::Result<()> {
    let upstream = RawUpstream::start()?;
    let address = upstream.address();
    let mut gate = Gate::dev("paths")
        .plugin(unpaid::without_limits)
        .sidecar(unpaid::sidecar_without_limits())
        .envoy(|config| {
            config.upstream = address;
            config.manager = json!({ "delayed_close_timeout": "0s" });
        })
        .start()
        .await?;
    let plain: Value = serde_json::from_str(&gate.envoy.config.plugin)?;
    let mut found = Vec::new();
    for (what, over) in policies() {
        let mut plugin = plain.clone();
        merge(&mut plugin, over);
        gate.envoy.config.plugin = plugin.to_string();
        for normalisation in ALL {
            gate.envoy.config.normalisation = normalisation;
            ensure!(gate.envoy.reload().await?, "refused: {what}");
            let ask = |path: &str| gate.http().host(HOST).get(path).send();
            e2e::eventually(
                "the policy is in force",
                Duration::from_secs(20),
                || async {
                    let (free, paid) = (ask("/free/a").await?, ask("/paid/x").await?);
                    ensure!(
                        (free.status, paid.status) == (200, 402),
                        "{} {}",
                        free.status,
                        paid.status
                    );
                    Ok(())
                },
            )
            .await?;
            upstream.clear();
            let server = gate.envoy.address();
            tokio::task::spawn_blocking(move || send_all(server)).await??;
            let arrived = arrived(&upstream);
            assert!(
                !arrived.is_empty(),
                "{normalisation:?}: nothing passes at all"
            );
            let unpaid = arrived.iter().filter(|path| could_be(path, "/paid/x"));
            found.extend(unpaid.map(|path| {
                let path = path.escape_ascii();
                format!("{what}, {normalisation:?}: {path}")
            }));
        }
    }
    found.sort();
    found.dedup();
    assert!(
        found.is_empty(),
        "{} unpaid at the upstream:\n{}",
        found.len(),
        found.join("\n")
    );
    Ok(())
}

#[test]
fn the_oracle_sees_through_disguises() {
    for target in [
        "/paid/x",
        "/PAID/X;a",
        "/free/..;/paid/x",
        "/%2570aid%252fx",
        "/free/%c0%ae%c0%ae\\paid/x",
        "/;/paid/x%3fa",
        "/free%2f..%5cpaid//x%00",
    ] {
        assert!(could_be(target.as_bytes(), "/paid/x"), "{target}");
    }
    for target in [
        "/free",
        "/free/paid/x",
        "/?/paid/x",
        "/free?/../paid/x",
        "/paidx",
        "/paid",
    ] {
        assert!(!could_be(target.as_bytes(), "/paid/x"), "{target}");
    }
    assert_eq!(status(b"HTTP/1.1 402 Payment Required\r\n"), Some(402));
}
