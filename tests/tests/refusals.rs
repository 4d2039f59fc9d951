//! Tokens that must not be taken: 402 with the reason and a fresh challenge, nothing upstream.

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::gate::Gate;
use e2e::l402::Token;
use e2e::macaroon::{Macaroon, hex};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const FORECAST: &str = "/v1/forecast";

/// Two services, the first one with two capabilities.
fn two_services(plugin: &mut Value) {
    let Some(services) = plugin.get_mut("services").and_then(Value::as_array_mut) else {
        return;
    };
    services.clear();
    services.push(json!({
        "name": "weather",
        "match": [
            { "hosts": ["127.0.0.1"], "path": { "exact": FORECAST }, "capability": "forecast" },
            { "hosts": ["127.0.0.1"], "path": { "prefix": "/v1/" }, "capability": "archive" },
        ],
        "price": { "sat": 10 },
        "lifetime": "1h",
        "capabilities": ["forecast", "archive"],
    }));
    services.push(json!({
        "name": "maps",
        "match": [{ "hosts": ["127.0.0.1"], "path": { "prefix": "/maps/" } }],
        "price": { "sat": 20 },
    }));
}

/// The gate refuses `token` on `target` for `reason`, asks for money anew, and keeps it from the
/// upstream.
async fn refused(gate: &Gate, target: &str, token: &Token, reason: &str) -> anyhow::Result<()> {
    gate.upstream.clear();
    let answer = gate.http().get(target).token(token).send().await?;
    assert_eq!(answer.status, 402, "{reason}: {}", answer.text());
    assert_eq!(answer.reason(), reason);
    let challenges = answer.challenges();
    assert_eq!(challenges.len(), 2, "{reason}: {:?}", answer.headers);
    for challenge in challenges {
        challenge.check()?;
        assert_ne!(challenge.macaroon, token.macaroon);
    }
    assert_eq!(
        gate.upstream.count(),
        0,
        "{reason}: it reached the upstream"
    );
    Ok(())
}

#[tokio::test]
async fn a_token_that_is_not_good_is_refused_with_its_reason() -> anyhow::Result<()> {
    let gate = Gate::dev("refusals").plugin(two_services).start().await?;
    let good = gate.buy(FORECAST).await?;
    let macaroon = good.decoded()?;
    assert_eq!(
        gate.http().get(FORECAST).token(&good).send().await?.status,
        200
    );

    // Made by the buyer: the right form, the right preimage, any root key.
    let preimage = [7; 32];
    let mut identifier = vec![0, 0];
    identifier.extend_from_slice(&Sha256::digest(preimage));
    identifier.extend_from_slice(macaroon.identifier.get(34..).context("no token id")?);
    let forged = Macaroon::mint(&[1; 32], identifier, &["services=weather:0"]);
    let forged = Token {
        macaroon: forged.to_base64(),
        preimage: hex(&preimage),
    };
    refused(&gate, FORECAST, &forged, "bad signature").await?;

    // A caveat taken away: the signature is that of more.
    let mut shortened = macaroon.clone();
    shortened.caveats.pop();
    refused(
        &gate,
        FORECAST,
        &good.with(shortened.to_base64()),
        "bad signature",
    )
    .await?;
    // One bit of the signature.
    let mut flipped = macaroon.clone();
    flipped.signature[31] ^= 1;
    refused(
        &gate,
        FORECAST,
        &good.with(flipped.to_base64()),
        "bad signature",
    )
    .await?;

    // Cut off in the middle of the signature, and before it.
    let bytes = macaroon.to_bytes();
    for (left, reason) in [
        (bytes.len() - 1, "malformed: signature"),
        (40, "malformed: short"),
    ] {
        let cut = STANDARD.encode(bytes.get(..left).unwrap_or_default());
        refused(&gate, FORECAST, &good.with(cut), reason).await?;
    }

    // Caveats that would allow more than was bought.
    for (caveat, reason) in [
        ("services=weather:0,maps:0", "services widened"),
        ("services=weather:1", "services widened"),
        (
            "weather_capabilities=forecast,archive,admin",
            "capabilities widened",
        ),
        ("weather_valid_until=99999999999", "expiry widened"),
        ("weather_valid_until=1", "expired"),
    ] {
        let token = good.with(macaroon.attenuate(caveat).to_base64());
        refused(&gate, FORECAST, &token, reason).await?;
    }

    // Sold for another service, or narrowed by its holder to another part of this one.
    refused(&gate, "/maps/tile", &good, "service not authorised").await?;
    let narrow = macaroon.attenuate("weather_capabilities=forecast");
    let narrow = good.with(narrow.to_base64());
    refused(&gate, "/v1/archive", &narrow, "capability not authorised").await?;

    // Not paid for: a preimage, but of something else.
    let unpaid = gate.challenge(FORECAST).await?.paid(&good.preimage);
    refused(&gate, FORECAST, &unpaid, "preimage mismatch").await?;

    // Other forms of macaroons.
    refused(
        &gate,
        FORECAST,
        &good.with(macaroon.to_v1_base64()),
        "malformed: not v2",
    )
    .await?;
    let third = macaroon.third_party_base64("https://auth.example", b"user=7", &[9; 72]);
    let reason = "malformed: third-party or malformed caveat";
    refused(&gate, FORECAST, &good.with(third), reason).await?;

    // Less than was bought is fine: that is what delegation is.
    let note = narrow.decoded()?.attenuate("note=for my agent");
    for token in [&good, &narrow, &good.with(note.to_base64())] {
        let served = gate.http().get(FORECAST).token(token).send().await?;
        assert_eq!(served.status, 200, "{}", served.text());
    }
    Ok(())
}

#[tokio::test]
async fn a_refused_upload_stays_away_from_the_upstream() -> anyhow::Result<()> {
    let gate = Gate::dev("refusals-post").start().await?;
    let token = gate.buy(FORECAST).await?;
    let body = vec![b'x'; 200_000];
    let unpaid = gate.h2().post(FORECAST, body.clone()).send().await?;
    assert_eq!(unpaid.status, 402);
    assert_eq!(gate.upstream.count(), 0);
    let paid = gate
        .http()
        .post(FORECAST, body.clone())
        .token(&token)
        .send()
        .await?;
    assert_eq!(paid.status, 200);
    assert_eq!(gate.upstream.last()?.body_bytes, body.len());
    Ok(())
}
