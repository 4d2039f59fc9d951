//! Challenges byte for byte as they leave Envoy. Several clients read them by position or by a
//! fixed pattern, so order and spelling are part of what is sold.

#[path = "wire/h2.rs"]
mod h2;

use std::time::Duration;

use anyhow::Context;
use e2e::gate::Gate;
use e2e::{eventually, raw};
use serde_json::{Value, json};

/// The only form that every known client reads: the LSAT line first, `macaroon` before `invoice`,
/// quoted, comma and blank, everything newer behind them.
fn expected_lines(macaroon: &str, invoice: &str) -> [String; 2] {
    [
        format!("LSAT macaroon=\"{macaroon}\", invoice=\"{invoice}\""),
        format!(
            "L402 macaroon=\"{macaroon}\", invoice=\"{invoice}\", version=\"0\", token=\"{macaroon}\""
        ),
    ]
}

/// Token and invoice as the body of a 402 names them.
fn named(body: &Value) -> anyhow::Result<(&str, &str)> {
    let text = |key| body.get(key).and_then(Value::as_str);
    let (macaroon, invoice) = (text("macaroon"), text("invoice"));
    Ok((
        macaroon.with_context(|| format!("no macaroon in {body}"))?,
        invoice.with_context(|| format!("no invoice in {body}"))?,
    ))
}

/// Header lines in order: name and value.
type Fields = Vec<(String, String)>;

/// Header lines and body of an HTTP/1 answer.
fn parts(answer: &[u8]) -> anyhow::Result<(Fields, Vec<u8>)> {
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .context("no end of headers")?;
    let head = String::from_utf8(answer.get(..end).unwrap_or_default().to_vec())?;
    let lines = head.split("\r\n").skip(1).filter_map(|line| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_owned(), value.to_owned()))
    });
    Ok((
        lines.collect(),
        answer.get(end + 4..).unwrap_or_default().to_vec(),
    ))
}

/// `GET` as HTTP/1.1 on a connection of its own.
fn get_h1(gate: &Gate, target: &str) -> anyhow::Result<Vec<u8>> {
    let request = format!("GET {target} HTTP/1.1\r\nhost: api.test\r\nconnection: close\r\n\r\n");
    raw::exchange(
        gate.envoy.address(),
        request.as_bytes(),
        Duration::from_secs(10),
    )
}

#[tokio::test]
async fn http1_carries_the_lsat_line_and_then_the_l402_line() -> anyhow::Result<()> {
    let gate = Gate::dev("wire-h1").start().await?;
    let answer = get_h1(&gate, "/v1/forecast")?;
    assert_eq!(raw::status(&answer), Some(402));
    let (headers, body) = parts(&answer)?;
    let body: Value = serde_json::from_slice(&body)?;
    let (macaroon, invoice) = named(&body)?;
    let lines: Vec<&str> = headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("www-authenticate"))
        .map(|(_, value)| value.as_str())
        .collect();
    assert_eq!(lines, expected_lines(macaroon, invoice));
    // What Aperture's and lnget's patterns ask of the two values.
    assert!(macaroon.len().is_multiple_of(4), "the token is padded");
    assert!(
        macaroon
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte))
    );
    assert!(invoice.starts_with("lnbcrt"), "{invoice}");
    assert_eq!(body.get("price_sats"), Some(&json!(10)));
    assert_eq!(gate.upstream.count(), 0);
    Ok(())
}

#[tokio::test]
async fn http2_carries_the_same_lines_in_the_same_order() -> anyhow::Result<()> {
    let gate = Gate::dev("wire-h2").start().await?;
    let request = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "api.test"),
        (":path", "/v1/a"),
    ];
    let frames = h2::exchange(gate.envoy.address(), &request, &[])?;
    let head = frames.first().context("no answer")?;
    assert_eq!(head.values(":status"), ["402"]);
    let lines = head.values("www-authenticate");
    let (macaroon, invoice) = pick(lines.first().copied().unwrap_or_default())?;
    assert_eq!(lines, expected_lines(macaroon, invoice));
    assert_eq!(gate.upstream.count(), 0);
    Ok(())
}

/// The two values of a line, between its quotation marks.
fn pick(line: &str) -> anyhow::Result<(&str, &str)> {
    let mut quoted = line.split('"').skip(1).step_by(2);
    let (macaroon, invoice) = (quoted.next(), quoted.next());
    Ok((
        macaroon.context("no first value")?,
        invoice.context("no second value")?,
    ))
}

#[tokio::test]
async fn the_lsat_line_can_be_left_out() -> anyhow::Result<()> {
    let gate = Gate::dev("wire-no-lsat")
        .plugin(|plugin| {
            if let Some(plugin) = plugin.as_object_mut() {
                plugin.insert("lsatLine".to_owned(), json!(false));
            }
        })
        .start()
        .await?;
    let answer = get_h1(&gate, "/v1/forecast")?;
    let (headers, body) = parts(&answer)?;
    let body: Value = serde_json::from_slice(&body)?;
    let (macaroon, invoice) = named(&body)?;
    let lines: Vec<&str> = headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("www-authenticate"))
        .map(|(_, value)| value.as_str())
        .collect();
    let [_, l402] = expected_lines(macaroon, invoice);
    assert_eq!(lines, [l402]);
    Ok(())
}

#[tokio::test]
async fn each_402_sells_another_invoice() -> anyhow::Result<()> {
    let gate = Gate::dev("wire-fresh").start().await?;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let (_, body) = parts(&get_h1(&gate, "/v1/forecast")?)?;
        let body: Value = serde_json::from_slice(&body)?;
        let (macaroon, invoice) = named(&body)?;
        assert!(seen.insert(macaroon.to_owned()), "a token twice");
        assert!(seen.insert(invoice.to_owned()), "an invoice twice");
    }
    Ok(())
}

#[tokio::test]
async fn a_grpc_challenge_is_one_frame_of_trailers() -> anyhow::Result<()> {
    let gate = Gate::dev("wire-grpc").start().await?;
    let request = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "api.test"),
        (":path", "/v1/weather.v1.Weather/Forecast"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let empty_message = [0; 5];
    let frames = h2::exchange(gate.envoy.address(), &request, &empty_message)?;
    let [only] = frames.as_slice() else {
        anyhow::bail!("not one frame: {frames:?}")
    };
    assert!(only.ends);
    assert_eq!(only.values(":status"), ["200"]);
    assert_eq!(only.values("content-type"), ["application/grpc"]);
    assert_eq!(only.values("grpc-status"), ["13"]);
    assert_eq!(only.values("grpc-message"), ["payment required"]);
    let lines = only.values("www-authenticate");
    let (macaroon, invoice) = pick(lines.first().copied().unwrap_or_default())?;
    assert_eq!(lines, expected_lines(macaroon, invoice));
    assert_eq!(gate.upstream.count(), 0);
    Ok(())
}

#[tokio::test]
async fn nothing_but_a_402_carries_a_challenge() -> anyhow::Result<()> {
    let mut gate = Gate::dev("wire-no-challenge")
        .plugin(|plugin| {
            if let Some(plugin) = plugin.as_object_mut() {
                // The last offers in stock shall be asked for without a pause.
                let limits = json!({ "challengesPerMinute": 60_000, "burst": 60_000 });
                plugin.insert("clientLimits".to_owned(), limits);
            }
        })
        .start()
        .await?;
    let token = gate.buy("/v1/forecast").await?;
    let paid = gate.http().get("/v1/forecast").token(&token).send().await?;
    let free = gate.http().get("/v1/health").send().await?;
    let unmatched = gate.http().get("/elsewhere").send().await?;
    let ambiguous = gate.http().get("/v1/a%25").send().await?;
    for (answer, status) in [
        (&paid, 200),
        (&free, 200),
        (&unmatched, 404),
        (&ambiguous, 400),
    ] {
        assert_eq!(answer.status, status);
    }
    for answer in [&paid, &free, &unmatched, &ambiguous] {
        assert!(
            !answer.headers.contains_key("www-authenticate"),
            "{answer:?}"
        );
    }

    gate.sidecar.kill();
    let http = gate.http();
    eventually("offers run out", Duration::from_secs(20), || async {
        let answer = http.get("/v1/forecast").send().await?;
        let challenged = answer.headers.contains_key("www-authenticate");
        assert_eq!(challenged, answer.status == 402, "{answer:?}");
        anyhow::ensure!(answer.status == 503, "still {}", answer.status);
        assert!(!answer.header("retry-after").is_empty(), "{answer:?}");
        Ok(())
    })
    .await
}
