//! What upstreams see of the gate's own headers and of credentials, on paid, free and foreign
//! routes: the gate's word is the gate's alone, its credentials end there, those of others do not.

use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::eventually;
use e2e::gate::Gate;
use e2e::raw::{Part, h2_exchange};
use e2e::unpaid;
use http::HeaderMap;

const FORECAST: &str = "/v1/forecast";
const HOST: &str = "api.test";
const QUIET: Duration = Duration::from_secs(10);

#[tokio::test]
async fn nobody_but_the_gate_says_what_the_gate_says() -> anyhow::Result<()> {
    let gate = Gate::dev("clean-spoof").start().await?;
    let token = gate.buy(FORECAST).await?;
    let paid = token.authorization();
    let spoofed: [(&[u8], &[u8]); 5] = [
        (b"x-boltgate-service", b"spoofed"),
        (b"x-boltgate-token-id", b"spoofed"),
        (b"x_boltgate_tier", b"spoofed"),
        (b"x-boltgate_scheme", b"spoofed"),
        (b"x-boltgate-new", b"spoofed"),
    ];
    for (host, target, credential) in [
        (HOST, FORECAST, &*paid),
        (HOST, "/v1/health", &*paid),
        ("other.test", FORECAST, &*paid),
        (HOST, "/v1/health", "Basic dTpw"),
    ] {
        gate.upstream.clear();
        let mut fields: Vec<(&[u8], &[u8])> = vec![
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":authority", host.as_bytes()),
            (b":path", target.as_bytes()),
            (b"authorization", credential.as_bytes()),
            // Goes to the upstream by HTTP/2, with which trailers arrive.
            (b"content-type", b"application/grpc"),
        ];
        fields.extend(spoofed);
        let mut trailers = spoofed.to_vec();
        trailers.extend([(&b"authorization"[..], paid.as_bytes()), (b"x-mine", b"1")]);
        let parts = [
            Part::Fields(&fields),
            Part::Data(b"x"),
            Part::Fields(&trailers),
        ];
        h2_exchange(gate.envoy.address(), &parts, QUIET)?;
        let seen = gate
            .upstream
            .last()
            .with_context(|| format!("{host} {target}"))?;
        eventually("the trailers arrive", QUIET, || async {
            let trailers = gate.upstream.last()?.trailers;
            ensure!(trailers.contains_key("x-mine"), "{trailers:?}");
            Ok(())
        })
        .await?;
        let seen = gate.upstream.last().unwrap_or(seen);
        let all = format!("{:?} {:?}", seen.headers, seen.trailers);
        assert!(!all.contains("spoofed"), "{host} {target}: {all}");
        assert!(
            !all.contains(&token.preimage) && !all.contains(&token.macaroon),
            "{all}"
        );
        let is_paid = host == HOST && target == FORECAST;
        assert_eq!(
            seen.header("x-boltgate-service"),
            if is_paid { "weather" } else { "" }
        );
        assert_eq!(
            seen.header("authorization"),
            if credential == paid { "" } else { credential }
        );
    }
    Ok(())
}

#[tokio::test]
async fn credentials_end_at_the_gate_and_foreign_ones_do_not() -> anyhow::Result<()> {
    let gate = Gate::dev("clean-credentials").start().await?;
    let token = gate.buy(FORECAST).await?;
    let (paid, lsat) = (
        token.authorization(),
        token.authorization().replace("L402", "LSAT"),
    );
    let (basic, bearer) = ("Basic dTpw", "Bearer abc.def");
    // Sent, and what of it the upstream may see.
    let cases: [(Vec<&str>, Vec<&str>); 7] = [
        (vec![&paid], vec![]),
        (vec![&lsat], vec![]),
        (vec![basic], vec![basic]),
        (vec![bearer], vec![bearer]),
        (vec![&paid, basic], vec![basic]),
        (vec![bearer, &lsat], vec![bearer]),
        (vec![], vec![]),
    ];
    for (host, target) in [
        (HOST, FORECAST),
        (HOST, "/v1/health"),
        ("other.test", FORECAST),
    ] {
        for (sent, kept) in &cases {
            for joined in [false, true] {
                let lines = if joined && !sent.is_empty() {
                    vec![sent.join(", ")]
                } else {
                    sent.iter().map(ToString::to_string).collect()
                };
                let mut request = gate.http().host(host).get(target);
                for line in &lines {
                    request = request.header("authorization", line);
                }
                gate.upstream.clear();
                let answer = request.send().await?;
                let is_paid = sent.iter().any(|one| *one == paid || *one == lsat);
                if (host, target) == (HOST, FORECAST) && !is_paid {
                    unpaid::challenge(&answer)?;
                    assert_eq!(gate.upstream.count(), 0);
                    continue;
                }
                assert_eq!(
                    answer.status,
                    200,
                    "{host} {target} {lines:?}: {}",
                    answer.text()
                );
                let seen: HeaderMap = gate.upstream.last()?.headers;
                let seen: Vec<_> = seen
                    .get_all("authorization")
                    .iter()
                    .filter_map(|v| v.to_str().ok())
                    .collect();
                ensure!(seen == *kept, "{host} {target} {lines:?}: {seen:?}");
            }
        }
    }
    Ok(())
}
