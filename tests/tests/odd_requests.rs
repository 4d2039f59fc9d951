//! Requests that no ordinary client sends. None of them gets anything unpaid, none makes the gate
//! believe what only the gate may say, and none kills the filter's VM.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use e2e::gate::{Builder, Gate};
use e2e::l402::Token;
use e2e::raw::{Part, exchange, h2_exchange, status};
use e2e::unpaid::{self, MARK, none_arrived};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const FORECAST: &str = "/v1/forecast";
const HOST: &str = "api.test";
const QUIET: Duration = Duration::from_secs(10);

fn gate(name: &str) -> Builder<'static> {
    Gate::dev(name)
        .plugin(unpaid::without_limits)
        .sidecar(unpaid::sidecar_without_limits())
        .envoy(|config| {
            config.http10 = true;
            config.upgrades = true;
            config.manager = serde_json::json!({ "delayed_close_timeout": "0s" });
        })
}

/// After all of it: the VM is the one from the beginning, and it sells and serves.
async fn alive(gate: &Gate, token: &Token) -> anyhow::Result<()> {
    none_arrived(gate)?;
    let reloads = gate.envoy.stats("vm_reload").await?;
    assert!(reloads.iter().all(|(_, count)| *count == 0), "{reloads:?}");
    for http in [gate.http(), gate.h2()] {
        let served = http.get(FORECAST).token(token).send().await?;
        assert_eq!(served.status, 200, "{}", served.text());
        let refused = http.get(FORECAST).header(MARK, "1").send().await?;
        unpaid::challenge(&refused)?;
    }
    let fresh = gate.buy(FORECAST).await?;
    let served = gate.http().get(FORECAST).token(&fresh).send().await?;
    assert_eq!(served.status, 200);
    none_arrived(gate)
}

async fn send(gate: &Gate, bytes: impl Into<Vec<u8>>) -> anyhow::Result<Vec<u8>> {
    let (server, bytes) = (gate.envoy.address(), bytes.into());
    tokio::task::spawn_blocking(move || exchange(server, &bytes, QUIET)).await?
}

/// Request line and fields of an unpaid request; no empty line yet.
fn head(method: &str, target: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nhost: {HOST}\r\n{MARK}: 1\r\nconnection: close\r\n")
}

/// An unpaid request from its lines, with `|` for the end of a line, marked in its second one.
fn lines(request: &str) -> String {
    let (head, body) = request
        .trim_end_matches('|')
        .split_once("||")
        .unwrap_or((request, ""));
    let (first, fields) = head.split_once('|').unwrap_or((head, ""));
    let close = if head.contains("connection:") {
        ""
    } else {
        "connection: close"
    };
    let fields = [&format!("{MARK}: 1"), fields, close];
    let fields: Vec<_> = fields
        .into_iter()
        .flat_map(|some| some.split('|'))
        .filter(|f| !f.is_empty())
        .collect();
    let head = format!("{first}|{}||", fields.join("|"));
    format!("{head}{body}").replace('|', "\r\n")
}

#[tokio::test]
async fn random_bytes_in_headers_neither_pay_nor_kill() -> anyhow::Result<()> {
    let gate = gate("odd-bytes").start().await?;
    let token = gate.buy(FORECAST).await?;
    let server = gate.envoy.address();
    tokio::task::spawn_blocking(move || random_headers(server)).await??;
    alive(&gate, &token).await
}

fn random_headers(server: SocketAddr) -> anyhow::Result<()> {
    // Names in which something is done with the value, and values that reach the parsers.
    const NAMES: [&str; 10] = [
        "authorization",
        "origin",
        "content-type",
        "macaroon",
        "token",
        "grpc-metadata-macaroon",
        "access-control-request-headers",
        "x-boltgate-service",
        "x-other",
        "cookie",
    ];
    const STARTS: [&str; 6] = [
        "",
        "L402 ",
        "LSAT ",
        "L402 AgEE:",
        "application/grpc",
        "Basic ",
    ];
    let mut random = StdRng::seed_from_u64(402);
    let mut bytes = |length: usize| -> Vec<u8> { (0..length).map(|_| random.random()).collect() };
    let kinds = STARTS
        .into_iter()
        .flat_map(|start| NAMES.map(|name| (name.as_bytes(), start.as_bytes())));
    for (round, (name, start)) in kinds.cycle().take(150).enumerate() {
        let value = [start, &bytes(round)].concat();
        let odd_name = bytes(round % 12 + 1);
        // By HTTP/1.1 as it comes: mostly not HTTP at all.
        let mut request = head("GET", FORECAST).into_bytes();
        for field in [
            [name, b": ", &value].concat(),
            [&odd_name, &b": "[..], &value].concat(),
        ] {
            request.extend([&field[..], b"\r\n"].concat());
        }
        request.extend(b"\r\n");
        exchange(server, &request, QUIET)?;
        // Without what ends a line or a connection: these bytes reach the filter, all others.
        let clean: Vec<u8> = value
            .iter()
            .copied()
            .filter(|b| !matches!(b, 0 | b'\r' | b'\n'))
            .collect();
        let mut request = head("GET", FORECAST).into_bytes();
        request.extend([name, b": ", &clean, b"\r\n\r\n"].concat());
        exchange(server, &request, QUIET)?;
        let fields: [(&[u8], &[u8]); 7] = [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":authority", HOST.as_bytes()),
            (b":path", FORECAST.as_bytes()),
            (MARK.as_bytes(), b"1"),
            (name, &clean),
            (b"x-odd", &clean),
        ];
        h2_exchange(server, &[Part::Fields(&fields)], QUIET)?;
    }
    Ok(())
}

#[tokio::test]
async fn huge_and_many_headers_neither_pay_nor_kill() -> anyhow::Result<()> {
    let gate = gate("odd-large").start().await?;
    let token = gate.buy(FORECAST).await?;
    for (size, least) in [(15_000, 402), (17_000, 402), (57_000, 402), (70_000, 431)] {
        for value in [
            "L402 ".to_owned() + &"A".repeat(size),
            "L402 ".repeat(size / 5),
            ",".repeat(size),
        ] {
            for http in [gate.http(), gate.h2()] {
                let request = http
                    .get(FORECAST)
                    .header(MARK, "1")
                    .header("authorization", &value);
                // Over HTTP/2 Envoy resets a stream with too large headers.
                let Ok(answer) = request.send().await else {
                    continue;
                };
                assert!(
                    [least, 431].contains(&answer.status),
                    "{size}: {}",
                    answer.status
                );
            }
        }
    }
    // A hundred credentials, forged ones and a good one at the end: too many to be looked at.
    let forged = e2e::impostor::token_under_claimed_key("weather")?.authorization();
    let count = 99;
    for (first, last) in [
        (&*forged, &*forged),
        ("Basic dTpw", &*forged),
        ("L402", "L402"),
        (&*forged, &*token.authorization()),
    ] {
        let mut request = gate.http().get(FORECAST).header(MARK, "1");
        for _ in 0..count {
            request = request.header("authorization", first);
        }
        let answer = request.header("authorization", last).send().await?;
        assert!(matches!(answer.status, 402 | 431), "{}", answer.status);
        let joined = vec![first; 100].join(", ");
        let request = gate
            .h2()
            .get(FORECAST)
            .header(MARK, "1")
            .header("authorization", joined);
        assert_eq!(request.send().await?.status, 402);
    }
    alive(&gate, &token).await
}

#[tokio::test]
async fn odd_forms_of_requests_are_not_free() -> anyhow::Result<()> {
    let gate = gate("odd-forms").start().await?;
    let token = gate.buy(FORECAST).await?;
    let paid = token.authorization();
    let websocket = "connection: upgrade|upgrade: websocket|sec-websocket-version: 13|\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==";
    let h2c = "connection: upgrade, http2-settings|upgrade: h2c|http2-settings: AAMAAABkAAQAAP__";
    let dropped = format!("connection: close, authorization|authorization: {paid}");
    let preflight = "x-http-method-override: OPTIONS|origin: https://a.test|\
        access-control-request-method: GET";
    let elsewhere = "x-envoy-original-path: /v1/health|x-original-url: /v1/health|\
        x-rewrite-url: /v1/health";
    let get = |more: &str| format!("GET {FORECAST} HTTP/1.1|host: {HOST}|{more}");
    let post =
        |more: &str, body: &str| format!("POST {FORECAST} HTTP/1.1|host: {HOST}|{more}||{body}");
    for (what, request, expected) in [
        (
            "HTTP/1.0",
            format!("GET {FORECAST} HTTP/1.0|host: {HOST}"),
            &[402][..],
        ),
        (
            "HTTP/1.0 without Host",
            format!("GET {FORECAST} HTTP/1.0"),
            &[400],
        ),
        ("no Host", format!("GET {FORECAST} HTTP/1.1"), &[400]),
        (
            "an empty Host",
            format!("GET {FORECAST} HTTP/1.1|host:"),
            &[400],
        ),
        ("two Hosts", get(&format!("host: {HOST}")), &[400]),
        ("two different Hosts", get("host: other.test"), &[400]),
        (
            "a Host with a user",
            format!("GET {FORECAST} HTTP/1.1|host: u@{HOST}"),
            &[400],
        ),
        (
            "a Host in other letters",
            format!("GET {FORECAST} HTTP/1.1|host: API.Test.:81"),
            &[402],
        ),
        (
            "absolute form",
            format!("GET http://{HOST}{FORECAST} HTTP/1.1|host: other.test"),
            &[402],
        ),
        (
            "OPTIONS *",
            format!("OPTIONS * HTTP/1.1|host: {HOST}"),
            &[400, 404],
        ),
        (
            "OPTIONS",
            format!("OPTIONS {FORECAST} HTTP/1.1|host: {HOST}"),
            &[402],
        ),
        (
            "CONNECT",
            format!("CONNECT {HOST}:80 HTTP/1.1|host: {HOST}:80|x: y"),
            &[400, 404],
        ),
        (
            "an odd method",
            format!("STEAL {FORECAST} HTTP/1.1|host: {HOST}"),
            &[400, 402],
        ),
        ("a websocket", get(websocket), &[402]),
        ("an upgrade to HTTP/2", get(h2c), &[402, 403]),
        (
            "a credential that the connection removes",
            get(&dropped),
            &[402],
        ),
        (
            "a folded header",
            get(&format!("authorization: L402| {}:00", token.macaroon)),
            &[400, 402],
        ),
        (
            "two lengths",
            post("content-length: 1|content-length: 2", "x"),
            &[400],
        ),
        (
            "length and chunks",
            post("content-length: 3|transfer-encoding: chunked", "0||"),
            &[400, 402],
        ),
        (
            "a request behind the body",
            post("content-length: 0", &get("")),
            &[402],
        ),
        ("a method in other headers", get(preflight), &[402]),
        ("a path in other headers", get(elsewhere), &[402]),
    ] {
        let answer = send(&gate, lines(&request)).await?;
        let got = status(&answer).with_context(|| format!("{what}: {}", answer.escape_ascii()))?;
        assert!(expected.contains(&got), "{what}: {got}");
        none_arrived(&gate).context(what)?;
    }

    // Who waits for 100 gets the 402, and may keep the body to himself.
    let waiting = head("POST", FORECAST) + "content-length: 5\r\nexpect: 100-continue\r\n\r\n";
    let answer = send(&gate, waiting).await?;
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("HTTP/1.1 402 "), "{text}");

    // Extended CONNECT over HTTP/2, and CONNECT itself.
    for protocol in [&b"websocket"[..], b"connect-udp", b""] {
        let mut fields: Vec<(&[u8], &[u8])> =
            vec![(b":method", b"CONNECT"), (b":authority", HOST.as_bytes())];
        if !protocol.is_empty() {
            let rest: [(&[u8], &[u8]); 3] = [
                (b":protocol", protocol),
                (b":scheme", b"http"),
                (b":path", FORECAST.as_bytes()),
            ];
            fields.extend(rest);
        }
        fields.push((MARK.as_bytes(), b"1"));
        let server = gate.envoy.address();
        h2_exchange(
            server,
            &[Part::Fields(&fields), Part::Data(b"GET / HTTP/1.1\r\n\r\n")],
            QUIET,
        )?;
        none_arrived(&gate)?;
    }
    assert_eq!(gate.upstream.count(), 0, "{:?}", gate.upstream.requests());
    alive(&gate, &token).await
}

#[tokio::test]
async fn odd_forms_work_when_they_are_paid_for() -> anyhow::Result<()> {
    let gate = gate("odd-paid").start().await?;
    let paid = gate.buy(FORECAST).await?.authorization();
    for request in [
        format!("GET {FORECAST} HTTP/1.0\r\nhost: {HOST}\r\nauthorization: {paid}\r\n\r\n"),
        format!(
            "GET http://{HOST}{FORECAST} HTTP/1.1\r\nhost: x\r\nauthorization: {paid}\r\nconnection: close\r\n\r\n"
        ),
        format!(
            "GET {FORECAST}?a=%00 HTTP/1.1\r\nhost: API.test.:81\r\nauthorization: {paid}\r\nconnection: close\r\n\r\n"
        ),
        format!(
            "POST {FORECAST} HTTP/1.1\r\nhost: {HOST}\r\nauthorization: {paid}\r\nexpect: 100-continue\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
        ),
    ] {
        let answer = send(&gate, request.clone()).await?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        assert!(text.contains(" 200 OK\r\n"), "{request}{text}");
    }
    assert_eq!(gate.upstream.count(), 4);
    Ok(())
}

#[tokio::test]
async fn an_upload_of_ten_megabytes_is_refused_before_it_reaches_anyone() -> anyhow::Result<()> {
    let gate = gate("odd-upload").start().await?;
    let token = gate.buy(FORECAST).await?;
    let body = Bytes::from(vec![b'x'; 10_000_000]);
    let refused = gate
        .h2()
        .post(FORECAST, body.clone())
        .header(MARK, "1")
        .send()
        .await?;
    unpaid::challenge(&refused)?;
    // By HTTP/1.1 Envoy answers at once and closes: whoever writes all first may not read it.
    for _ in 0..5 {
        let request = gate.http().post(FORECAST, body.clone()).header(MARK, "1");
        if let Ok(answer) = request.send().await {
            unpaid::challenge(&answer)?;
        }
    }
    let head = head("POST", FORECAST) + "content-length: 10000000\r\n\r\n";
    let answer = send(&gate, head).await?;
    assert_eq!(status(&answer), Some(402));
    assert_eq!(gate.upstream.count(), 0);

    let served = gate
        .http()
        .post(FORECAST, body.clone())
        .token(&token)
        .send()
        .await?;
    assert_eq!(served.status, 200);
    assert_eq!(gate.upstream.last()?.body_bytes, body.len());
    alive(&gate, &token).await
}
