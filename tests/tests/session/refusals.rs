//! Who gets nothing, and where.

use e2e::gate::Gate;
use e2e::http_client::Answer;
use e2e::payment::{Session, offer_of, present};
use serde_json::{Value, json};

use crate::{DEPOSIT, FORECAST, closed, deposit, further, opened, refunded, selling};

#[tokio::test(flavor = "multi_thread")]
async fn nobody_spends_what_is_not_his() -> anyhow::Result<()> {
    let gate = selling(Gate::dev("session-strangers")).start().await?;
    let session = opened(&gate).await?;
    let stranger = deposit(&gate).await?;
    gate.upstream.clear();
    let problem = |answer: &Answer| {
        let said = answer.json();
        let kind = said["type"].as_str().unwrap_or("").to_owned();
        (
            answer.status,
            kind.rsplit("problems/").next().unwrap_or("").to_owned(),
        )
    };
    let payload = |action: &str, more: Value| {
        let mut payload = json!({ "action": action });
        e2e::envoy::merge(&mut payload, more);
        payload
    };
    let (id, other) = (session.id()?.to_owned(), stranger.id()?.to_owned());
    let return_invoice = gate.wallet.return_invoice().await?;
    let wrong = "00".repeat(32);
    let cases = [
        (
            payload("bearer", json!({ "sessionId": id, "preimage": wrong })),
            "invalid-preimage",
        ),
        (
            payload(
                "bearer",
                json!({ "sessionId": id, "preimage": stranger.preimage }),
            ),
            "invalid-preimage",
        ),
        (
            payload(
                "bearer",
                json!({ "sessionId": other, "preimage": stranger.preimage }),
            ),
            "session-not-found",
        ),
        (
            payload(
                "close",
                json!({ "sessionId": id, "preimage": stranger.preimage }),
            ),
            "invalid-preimage",
        ),
        (
            payload(
                "close",
                json!({ "sessionId": other, "preimage": stranger.preimage }),
            ),
            "session-not-found",
        ),
        (
            payload(
                "topUp",
                json!({ "sessionId": id, "topUpPreimage": session.preimage }),
            ),
            "invalid-preimage",
        ),
        (
            payload(
                "topUp",
                json!({ "sessionId": wrong, "topUpPreimage": stranger.preimage }),
            ),
            "session-not-found",
        ),
        (
            payload(
                "open",
                json!({ "preimage": wrong, "returnInvoice": return_invoice }),
            ),
            "invalid-preimage",
        ),
        (
            payload(
                "open",
                json!({ "preimage": stranger.preimage, "returnInvoice": stranger.offer.invoice()? }),
            ),
            "invalid-return-invoice",
        ),
        (
            payload(
                "open",
                json!({ "preimage": stranger.preimage, "returnInvoice": session.return_invoice }),
            ),
            "invalid-return-invoice",
        ),
        (
            payload(
                "open",
                json!({ "preimage": stranger.preimage, "returnInvoice": "lnbcrt1nonsense" }),
            ),
            "invalid-return-invoice",
        ),
        (
            payload("open", json!({ "preimage": stranger.preimage })),
            "malformed-credential",
        ),
        (payload("sing", json!({})), "malformed-credential"),
    ];
    for (payload, expected) in cases {
        let answer = present(&gate.http(), FORECAST, &stranger.offer.credential(&payload)).await?;
        let expected = (402, ["lightning/", expected].concat());
        assert_eq!(
            problem(&answer),
            expected,
            "{} {}",
            payload["action"],
            answer.text()
        );
        offer_of(&answer, "session")?;
    }
    assert_eq!(gate.upstream.count(), 0);
    // Nothing of that has cost anybody anything.
    let answer = present(&gate.http(), FORECAST, &stranger.open()).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let (offer, preimage) = further(&gate).await?;
    let top_up = session.top_up(&offer, &preimage)?;
    assert_eq!(present(&gate.http(), FORECAST, &top_up).await?.status, 200);
    // One payment, one use: not for another session, and not to open one.
    let again = stranger.top_up(&offer, &preimage)?;
    let answer = present(&gate.http(), FORECAST, &again).await?;
    assert_eq!(
        problem(&answer),
        (402, "lightning/unknown-challenge".to_owned())
    );
    let third = Session {
        offer,
        preimage,
        return_invoice,
    };
    let answer = present(&gate.http(), FORECAST, &third.open()).await?;
    assert_eq!(
        problem(&answer),
        (402, "lightning/unknown-challenge".to_owned())
    );
    assert_eq!(closed(&gate, &session).await?.0, 2 * DEPOSIT as u64 - 1);
    assert_eq!(closed(&gate, &stranger).await?.0, DEPOSIT as u64 - 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn top_up_and_close_are_answered_at_any_path_and_never_forwarded() -> anyhow::Result<()> {
    let gate = selling(Gate::dev("session-anywhere")).start().await?;
    let session = opened(&gate).await?;
    gate.upstream.clear();
    let (offer, preimage) = further(&gate).await?;
    let top_up = session.top_up(&offer, &preimage)?;
    for target in ["/v1/health", "/nowhere", FORECAST] {
        let answer = present(&gate.http(), target, &top_up).await?;
        assert_eq!(
            (answer.status, answer.json()),
            (200, json!({ "status": "ok" })),
            "{target}"
        );
        let post = gate
            .http()
            .post(target, "{}")
            .header("authorization", &top_up);
        assert_eq!(post.send().await?.status, 200, "{target}");
    }
    let answer = present(&gate.http(), "/v1/health", &session.close()?).await?;
    assert_eq!(refunded(&answer)?.0, 2 * DEPOSIT as u64 - 1);
    assert_eq!(gate.upstream.count(), 0);
    Ok(())
}
