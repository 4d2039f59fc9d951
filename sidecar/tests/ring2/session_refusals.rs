//! What calls on sessions are refused for, and that nothing is lost by it.

use hyper::StatusCode;
use protocol::api::session::{
    CLOSE_PATH, CloseResult, DEPOSIT_OFFERS_PATH, OPEN_PATH, OpenResult, TOP_UP_PATH, TopUpResult,
};
use protocol::hash::PaymentHash;
use protocol::lease::{AccountId, HolderId, LEASES_PATH, LeasesRequest, MAX_REPORTS, Report};
use serde_json::{Value, json};

use crate::session_client::{
    Buyer, DEPOSIT, call_of, closes, offer, open_of, opened, post, report, return_invoice,
    top_up_of, wish,
};
use crate::support::{Sidecar, VM};

#[tokio::test]
async fn a_deposit_that_was_not_paid_opens_nothing_and_one_paid_late_does() {
    let sidecar = Sidecar::dev("").await;
    let offer = offer(sidecar.api).await;
    let open = open_of(&offer, 1);
    let mut expired = open.clone();
    expired.call.is_expired = true;
    assert_eq!(
        opened(sidecar.api, &open).await.result,
        OpenResult::Unsettled
    );
    assert_eq!(
        opened(sidecar.api, &expired).await.result,
        OpenResult::Expired
    );
    sidecar.pay(&offer.invoice).await.unwrap();
    assert_eq!(
        opened(sidecar.api, &expired).await.result,
        OpenResult::Opened
    );
}

#[tokio::test]
async fn an_open_that_is_refused_claims_nothing() {
    let sidecar = Sidecar::dev("").await;
    let other = Buyer::opened(&sidecar).await;
    let buyer = Buyer::new(&sidecar).await;
    let good = open_of(&buyer.offer, 2);
    let own = crate::support::wish(1);
    let own = sidecar.api.ask(&own).await.json()["offers"][0]["invoice"].clone();
    let mut broken = good.return_invoice.clone();
    broken.push('q');
    let taken = open_of(&other.offer, 1).return_invoice;
    let with_amount = return_invoice(5, Some(1_000), 3_600);
    let short = return_invoice(6, None, 599);
    for text in [
        own.as_str().unwrap(),
        &broken,
        &taken,
        &with_amount,
        &short,
        "",
        &"l".repeat(2_049),
        &"l".repeat(12_000),
    ] {
        let mut bad = good.clone();
        text.clone_into(&mut bad.return_invoice);
        let answer = opened(sidecar.api, &bad).await;
        assert_eq!(answer.result, OpenResult::InvalidReturnInvoice, "{text}");
        let reason = answer.reason.unwrap();
        assert!(!reason.is_empty());
        assert!(text.is_empty() || !reason.contains(text), "{reason}");
    }
    let mut dear = good.clone();
    dear.price = protocol::amount::Sat::new(DEPOSIT + 1).unwrap();
    assert_eq!(
        opened(sidecar.api, &dear).await.result,
        OpenResult::TooLittle
    );
    assert_eq!(opened(sidecar.api, &good).await.result, OpenResult::Opened);
    let mut other_words = good.clone();
    other_words.call.fingerprint = "ab".repeat(32);
    assert_eq!(
        opened(sidecar.api, &other_words).await.result,
        OpenResult::Consumed
    );
}

#[tokio::test]
async fn a_payment_for_something_else_is_no_deposit() {
    let sidecar = Sidecar::dev("").await;
    let path = protocol::api::charge::CHARGE_OFFERS_PATH;
    let charge = post(sidecar.api, path, &wish()).await.json()["offers"][0].clone();
    let charge: protocol::api::charge::ChargeOffer = serde_json::from_value(charge).unwrap();
    sidecar.pay(&charge.invoice).await.unwrap();
    let answer = opened(sidecar.api, &open_of(&charge, 1)).await;
    assert_eq!(answer.result, OpenResult::Consumed);
    let buyer = Buyer::opened(&sidecar).await;
    let topping = top_up_of(&charge, buyer.id);
    let answer = post(sidecar.api, TOP_UP_PATH, &topping).await.json();
    assert_eq!(answer["result"], json!(TopUpResult::Consumed));
}

#[tokio::test]
async fn a_top_up_is_refused_for_its_reason_and_its_money_is_not_lost() {
    let sidecar = Sidecar::dev("").await;
    let (buyer, more) = (Buyer::opened(&sidecar).await, Buyer::new(&sidecar).await);
    let result = async |request| {
        let answer = post(sidecar.api, TOP_UP_PATH, &request).await;
        assert_eq!(answer.status, StatusCode::OK, "{:?}", answer.body);
        answer.json()["result"].clone()
    };
    let nowhere = top_up_of(&more.offer, PaymentHash([9; 32]));
    assert_eq!(result(nowhere).await, json!(TopUpResult::NotFound));
    let unpaid = offer(sidecar.api).await;
    let unpaid = top_up_of(&unpaid, buyer.id);
    assert_eq!(result(unpaid.clone()).await, json!(TopUpResult::Unsettled));
    let mut expired = unpaid;
    expired.call.is_expired = true;
    assert_eq!(result(expired).await, json!(TopUpResult::Expired));
    let own = top_up_of(&buyer.offer, buyer.id);
    assert_eq!(result(own).await, json!(TopUpResult::Consumed));

    buyer.closed(sidecar.api, &buyer.close(9)).await;
    let late = top_up_of(&more.offer, buyer.id);
    assert_eq!(result(late).await, json!(TopUpResult::Closed));
    let open = open_of(&more.offer, 3);
    assert_eq!(opened(sidecar.api, &open).await.result, OpenResult::Opened);
}

#[tokio::test]
async fn a_close_is_refused_for_its_reason() {
    let sidecar = Sidecar::dev("").await;
    let (buyer, other) = (Buyer::opened(&sidecar).await, Buyer::new(&sidecar).await);
    let open = open_of(&other.offer, 3);
    opened(sidecar.api, &open).await;
    let mut nowhere = buyer.close(9);
    nowhere.session_id = PaymentHash([9; 32]);
    let mut expired = buyer.close(9);
    expired.call.is_expired = true;
    let mut foreign = buyer.close(9);
    foreign.call = call_of(&other.offer, 5);
    for (request, result) in [
        (nowhere, CloseResult::NotFound),
        (expired, CloseResult::Expired),
        (foreign, CloseResult::Consumed),
    ] {
        let answer = buyer.closed(sidecar.api, &request).await;
        assert_eq!(closes(&answer), (result, 0, ""));
    }
    // The session's own challenge will do, however old.
    let mut own = buyer.close(9);
    own.call = call_of(&buyer.offer, 5);
    own.call.is_expired = true;
    let answer = buyer.closed(sidecar.api, &own).await;
    assert_eq!(answer.result, CloseResult::Closed);
}

#[tokio::test]
async fn the_longest_batch_of_reports_is_read_and_a_longer_one_is_not() {
    let sidecar = Sidecar::dev("").await;
    let long = |n: usize| Report {
        used: u64::MAX - 1,
        returned: u64::MAX - 1,
        want: u64::MAX - 1,
        need: u64::MAX - 1,
        price: u64::MAX - 1,
        account: AccountId([0xff; 32]),
        holder: HolderId((n as u128).to_be_bytes()),
        release: false,
    };
    for (count, status) in [
        (0, StatusCode::OK),
        (MAX_REPORTS, StatusCode::OK),
        (MAX_REPORTS + 1, StatusCode::BAD_REQUEST),
    ] {
        let request = LeasesRequest {
            vm: VM.to_owned(),
            reports: (0..count).map(long).collect(),
        };
        let answer = post(sidecar.api, LEASES_PATH, &request).await;
        assert_eq!(answer.status, status, "{count}");
        if status == StatusCode::OK {
            let answers = answer.json()["answers"].as_array().unwrap().clone();
            assert_eq!(answers.len(), count);
            assert!(answers.iter().all(|a| a["state"] == "unknown"));
        }
    }
}

fn with(base: &Value, field: &str, value: Value) -> Value {
    let mut changed = base.clone();
    let mut at = &mut changed;
    for name in field.split('.') {
        at = &mut at[name];
    }
    *at = value;
    changed
}

#[tokio::test]
async fn only_who_has_the_token_may_ask_and_nonsense_is_refused() {
    let sidecar = Sidecar::dev("").await;
    let (api, buyer) = (sidecar.api, Buyer::new(&sidecar).await);
    let leases = LeasesRequest {
        vm: VM.to_owned(),
        reports: vec![report(buyer.id, 1)],
    };
    let open = json!(open_of(&buyer.offer, 1));
    let (top_up, close) = (
        json!(top_up_of(&buyer.offer, buyer.id)),
        json!(buyer.close(9)),
    );
    let requests = [
        (DEPOSIT_OFFERS_PATH, json!(wish())),
        (OPEN_PATH, open.clone()),
        (TOP_UP_PATH, top_up.clone()),
        (CLOSE_PATH, close.clone()),
        (LEASES_PATH, json!(leases)),
    ];
    for (path, body) in &requests {
        let mut request = api.request("POST", path, serde_json::to_vec(body).unwrap());
        let headers = request.headers_mut();
        headers.insert("authorization", "Bearer wrong".parse().unwrap());
        let answer = api.send(request).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
        for broken in [
            json!({}),
            with(body, "vm", json!("x")),
            with(body, "vm", json!("z".repeat(32))),
            with(body, "preimage", json!("00")),
        ] {
            let answer = post(api, path, &broken).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path} {broken}");
        }
    }
    let calls = [
        (OPEN_PATH, &open),
        (TOP_UP_PATH, &top_up),
        (CLOSE_PATH, &close),
    ];
    for (path, body) in calls {
        for broken in [
            with(body, "call.challenge_id", json!("")),
            with(body, "call.challenge_id", json!("x".repeat(43))),
            with(body, "call.challenge_id", json!("\n".repeat(44))),
            with(body, "call.fingerprint", json!("ab")),
            with(body, "call.payment_hash", json!("ab")),
            with(body, "call.expires", json!(u64::MAX)),
            with(body, "call.more", json!(1)),
        ] {
            let answer = post(api, path, &broken).await;
            assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path} {broken}");
        }
    }
    for broken in [
        with(&open, "price", json!(0)),
        with(&open, "idle_timeout_seconds", json!(0)),
        with(&open, "idle_timeout_seconds", json!(u64::MAX)),
        with(&open, "service", json!("a b")),
        with(&open, "lease.account", json!("00".repeat(32))),
        with(&open, "lease.used", json!(-1)),
    ] {
        let answer = post(api, OPEN_PATH, &broken).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{broken}");
    }
    let other = json!(report(PaymentHash([3; 32]), 1));
    let answer = post(api, CLOSE_PATH, &with(&close, "lease", other)).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let answer = post(api, OPEN_PATH, &open).await.json();
    assert_eq!(
        answer["result"],
        json!(OpenResult::Opened),
        "nothing of it counted"
    );
}
