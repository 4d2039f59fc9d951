//! Sessions: deposits, what is spent of them, and what goes back.

use protocol::api::session::{
    CLOSE_PATH, CloseAnswer, CloseRequest, CloseResult, OPEN_PATH, OpenRequest, OpenResult,
    TOP_UP_PATH, TopUpResult,
};
use protocol::hash::PaymentHash;
use protocol::lease::{AccountState, LEASES_PATH, LeasesAnswer, LeasesRequest, Report, Terms};
use serde_json::{Value, json};
use sidecar::domain::ports::SessionLedger as _;
use sidecar::domain::session::SessionState;
use tempfile::TempDir;

use crate::process::{Program, write_config_on};
use crate::session_client::{
    Buyer, DEPOSIT, closes, insist, offer, open_of, opened, post, report, say, top_up_of,
};
use crate::support::{Api, Sidecar, Store, VM, eventually, on_each_ledger, pay};

on_each_ledger! {
    a_session_from_its_deposit_to_its_refund,
    a_close_waits_for_leases_and_not_for_the_dead,
    many_leases_at_once_never_share_more_than_there_is,
    of_many_opens_and_top_ups_with_one_payment_one_is_credited,
    a_session_that_nobody_uses_is_closed_and_one_in_use_is_not,
    a_kill_keeps_balances_leases_and_what_was_answered,
}

async fn state(sidecar: &Sidecar, id: PaymentHash) -> (SessionState, u64, u64) {
    let ledger = sidecar.open_ledger().await;
    let row = ledger.find_session(id).await.unwrap().unwrap();
    (row.state, row.deposited.get(), row.spent.get())
}

async fn a_session_from_its_deposit_to_its_refund(store: Store) {
    let sidecar = Sidecar::dev_on(store, "").await;
    let buyer = Buyer::new(&sidecar).await;
    let opening = open_of(&buyer.offer, 1);
    let first = opened(sidecar.api, &opening).await;
    assert_eq!(first.result, OpenResult::Opened);
    assert!(first.at > 0);
    let lease = first.lease.unwrap();
    assert_eq!((lease.granted, lease.state), (2, AccountState::Open));

    // The answer was lost: the same session, however often it is asked for, no second credit and
    // no lease beside the first.
    for n in 2..6 {
        let again = OpenRequest {
            lease: report(buyer.id, n),
            ..opening.clone()
        };
        let again = opened(sidecar.api, &again).await;
        assert_eq!((again.result, again.at), (OpenResult::Opened, first.at));
        assert_eq!(again.lease, None);
    }
    let counts = sidecar.open_ledger().await.session_counts().await.unwrap();
    assert_eq!(counts.holders, 1);
    assert_eq!(
        state(&sidecar, buyer.id).await,
        (SessionState::Open, DEPOSIT, 0)
    );

    // Two requests were served, and the next would cost more than there is.
    let spent = Report {
        used: 2,
        need: DEPOSIT,
        ..report(buyer.id, 1)
    };
    let answer = say(sidecar.api, spent.clone()).await;
    assert_eq!((answer.spent, answer.short), (2, true));
    let more = Buyer::new(&sidecar).await;
    let topping = top_up_of(&more.offer, buyer.id);
    let credited = post(sidecar.api, TOP_UP_PATH, &topping).await.json();
    let said = |repeated| json!({"result": "credited", "at": credited["at"], "repeated": repeated});
    assert_eq!(credited, said(false));
    for _ in 0..2 {
        let repeated = post(sidecar.api, TOP_UP_PATH, &topping).await.json();
        assert_eq!(repeated, said(true));
    }
    assert_eq!(
        state(&sidecar, buyer.id).await,
        (SessionState::Open, 2 * DEPOSIT, 2)
    );
    let answer = say(sidecar.api, spent).await;
    assert_eq!((answer.granted, answer.short), (2 + DEPOSIT, false));

    // The VM that carries the close brings its lease with it.
    let closing = CloseRequest {
        lease: Some(Report {
            used: 2 + DEPOSIT,
            release: true,
            ..report(buyer.id, 1)
        }),
        ..buyer.close(9)
    };
    let answer = buyer.closed(sidecar.api, &closing).await;
    let rest = DEPOSIT - 2;
    // No way leads to the node of this return invoice.
    assert_eq!(closes(&answer), (CloseResult::Closed, rest, "failed"));
    assert!(!answer.repeated && answer.lease.as_ref().unwrap().r#final);
    let row = state(&sidecar, buyer.id).await;
    assert_eq!(row, (SessionState::Closed, 2 * DEPOSIT, 2 + DEPOSIT));
    for _ in 0..2 {
        let repeated = buyer.closed(sidecar.api, &closing).await;
        assert_eq!((repeated.at, repeated.repeated), (answer.at, true));
        assert_eq!(closes(&repeated), closes(&answer));
    }

    // Whatever comes now comes too late.
    let reopened = opened(sidecar.api, &opening).await;
    assert_eq!(reopened.result, OpenResult::Closed);
    let late = say(sidecar.api, report(buyer.id, 7)).await;
    assert!(late.r#final);
    assert_eq!(late.state, AccountState::Closed);
    let other = buyer.closed(sidecar.api, &buyer.close(8)).await;
    assert_eq!(closes(&other), (CloseResult::AlreadyClosed, 0, ""));
    assert!(!other.repeated, "another call");
    let sat = async |kind| {
        let line = format!("boltgate_sidecar_deposits_sat_total{{kind=\"{kind}\"}}");
        sidecar.metric(&line).await
    };
    let deposit = DEPOSIT as f64;
    assert_eq!(sat("open").await, Some(deposit));
    assert_eq!(sat("topup").await, Some(deposit));
}

#[tokio::test]
async fn who_is_granted_a_lease_is_told_how_to_keep_it() {
    let terms = "reclaimAfter: 9s, leaseValid: 7s, leaseTick: 200ms, leaseTickWaiting: 40ms";
    let sidecar = Sidecar::dev(&format!("filters: {{ {terms} }}")).await;
    let said = Terms {
        valid_ms: 7_000,
        tick_ms: 200,
        waiting_tick_ms: 40,
    };
    let buyer = Buyer::new(&sidecar).await;
    let open = opened(sidecar.api, &open_of(&buyer.offer, 1)).await;
    assert_eq!((open.result, open.terms), (OpenResult::Opened, Some(said)));
    let request = LeasesRequest {
        vm: VM.to_owned(),
        reports: vec![report(buyer.id, 1)],
    };
    let answer = post(sidecar.api, LEASES_PATH, &request).await;
    let answer: LeasesAnswer = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(answer.terms, said);
}

#[tokio::test]
async fn what_is_left_reaches_the_buyer_before_the_answer_to_the_close() {
    let sidecar = Sidecar::dev("").await;
    let door = async |path: &str, body: Option<Value>| -> Value {
        let url = format!("http://{}{path}", sidecar.dev.unwrap());
        let body = body.map(|body| body.to_string());
        let answer = sidecar::http::client::request(&url, body).await.unwrap();
        serde_json::from_str(&answer.body).unwrap()
    };
    let made = door("/invoices", Some(json!({ "expiry_seconds": 86_400 }))).await;
    let buyer = Buyer::new(&sidecar).await;
    let mut open = open_of(&buyer.offer, 1);
    made["invoice"]
        .as_str()
        .unwrap()
        .clone_into(&mut open.return_invoice);
    // More is earned than routing costs, so the buyer does not pay for that.
    open.lease.need = 20;
    opened(sidecar.api, &open).await;
    let closing = CloseRequest {
        lease: Some(Report {
            used: 20,
            ..report(buyer.id, 1)
        }),
        ..buyer.close(9)
    };
    let rest = DEPOSIT - 20;
    for _ in 0..2 {
        let answer = buyer.closed(sidecar.api, &closing).await;
        assert_eq!(closes(&answer), (CloseResult::Closed, rest, "succeeded"));
    }
    let path = format!("/invoices/{}", made["payment_hash"].as_str().unwrap());
    let received = door(&path, None).await;
    assert_eq!(received["received_msat"], json!(rest * 1_000), "once");
}

#[tokio::test]
async fn a_session_that_is_spent_has_nothing_to_refund() {
    let sidecar = Sidecar::dev("").await;
    let buyer = Buyer::opened(&sidecar).await;
    let all = Report {
        need: DEPOSIT,
        ..report(buyer.id, 1)
    };
    assert_eq!(say(sidecar.api, all).await.granted, DEPOSIT);
    let closing = CloseRequest {
        lease: Some(Report {
            used: DEPOSIT,
            release: true,
            ..report(buyer.id, 1)
        }),
        ..buyer.close(9)
    };
    let answer = buyer.closed(sidecar.api, &closing).await;
    assert_eq!(closes(&answer), (CloseResult::Closed, 0, "skipped"));
}

#[tokio::test]
async fn money_that_arrives_while_an_open_waits_is_credited() {
    let sidecar = Sidecar::dev("").await;
    let (api, offer) = (sidecar.api, offer(sidecar.api).await);
    let open = open_of(&offer, 1);
    let waiting = tokio::spawn(async move { opened(api, &open).await });
    sidecar.pay(&offer.invoice).await.unwrap();
    assert_eq!(waiting.await.unwrap().result, OpenResult::Opened);
    let sales = "boltgate_sidecar_sales_total{scheme=\"session\"}";
    eventually("the sale", async || {
        (sidecar.metric(sales).await == Some(1.0)).then_some(())
    })
    .await;
}

async fn a_close_waits_for_leases_and_not_for_the_dead(store: Store) {
    let sidecar = Sidecar::dev_on(store, "").await;
    let (api, buyer) = (sidecar.api, Buyer::opened(&sidecar).await);
    for holder in [1, 2] {
        let ask = Report {
            need: 10,
            ..report(buyer.id, holder)
        };
        assert_eq!(say(api, ask).await.granted, 10);
    }
    let closing = buyer.close(9);
    let request = closing.clone();
    let closed = tokio::spawn(async move {
        let answer = post(api, CLOSE_PATH, &request).await;
        serde_json::from_slice::<CloseAnswer>(&answer.body).unwrap()
    });
    // One VM hears of it and brings its lease back; of the other nothing is heard any more.
    eventually("the recall", async || {
        say(api, report(buyer.id, 1)).await.recall.then_some(())
    })
    .await;
    let back = Report {
        used: 4,
        release: true,
        ..report(buyer.id, 1)
    };
    assert!(say(api, back).await.r#final);
    let answer = closed.await.unwrap();
    let rest = DEPOSIT - 4;
    assert_eq!(closes(&answer), (CloseResult::Closed, rest, "failed"));
    let late = Report {
        used: 10,
        ..report(buyer.id, 2)
    };
    assert!(say(api, late).await.r#final);
    let lost = "boltgate_sidecar_lost_units_total";
    assert_eq!(sidecar.metric(lost).await, Some(10.0));
    let row = state(&sidecar, buyer.id).await;
    assert_eq!(row, (SessionState::Closed, DEPOSIT, 4));
}

async fn many_leases_at_once_never_share_more_than_there_is(store: Store) {
    let sidecar = Sidecar::dev_on(store, "").await;
    let (api, buyer) = (sidecar.api, Buyer::opened(&sidecar).await);
    let mut tasks = tokio::task::JoinSet::new();
    for holder in 1..=64 {
        let ask = Report {
            need: 2,
            want: 5,
            ..report(buyer.id, holder)
        };
        tasks.spawn(async move { say(api, ask).await.granted });
    }
    let mut granted = 0;
    while let Some(done) = tasks.join_next().await {
        granted += done.unwrap();
    }
    assert_eq!(granted, DEPOSIT);
}

async fn of_many_opens_and_top_ups_with_one_payment_one_is_credited(store: Store) {
    let sidecar = Sidecar::dev_on(store, "").await;
    let (api, other) = (sidecar.api, Buyer::opened(&sidecar).await);
    let buyer = Buyer::new(&sidecar).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..24 {
        let topping = top_up_of(&buyer.offer, other.id);
        // Another return invoice makes it another call.
        let open = open_of(&buyer.offer, 100 + n);
        tasks.spawn(async move {
            match n % 2 {
                0 => insist(api, TOP_UP_PATH, &topping).await.json(),
                _ => insist(api, OPEN_PATH, &open).await.json(),
            }
        });
    }
    let (mut made, mut credited) = (0, 0);
    while let Some(done) = tasks.join_next().await {
        let result = done.unwrap()["result"].clone();
        made += u64::from(result == json!(OpenResult::Opened));
        credited += u64::from(result == json!(TopUpResult::Credited));
    }
    // All top-ups are the same call, and each is answered as the first was.
    assert!(
        [(1, 0), (0, 12)].contains(&(made, credited)),
        "{made} {credited}"
    );
    let ledger = sidecar.open_ledger().await;
    let own = ledger.find_session(buyer.id).await.unwrap();
    let own = own.map_or(0, |row| row.deposited.get());
    let (_, others, _) = state(&sidecar, other.id).await;
    assert_eq!(own + others, 2 * DEPOSIT);
}

async fn a_session_that_nobody_uses_is_closed_and_one_in_use_is_not(store: Store) {
    let sidecar = Sidecar::dev_on(store, "").await;
    let (idle, busy) = (Buyer::new(&sidecar).await, Buyer::new(&sidecar).await);
    for (buyer, n) in [(&idle, 1), (&busy, 2)] {
        let mut open = open_of(&buyer.offer, n);
        open.idle_timeout_seconds = 2;
        assert_eq!(opened(sidecar.api, &open).await.result, OpenResult::Opened);
    }
    eventually("the idle one is closed", async || {
        // A stream with nothing to report says so.
        let answer = say(sidecar.api, report(busy.id, 5)).await;
        assert_eq!(answer.state, AccountState::Open);
        let (state, ..) = state(&sidecar, idle.id).await;
        (state == SessionState::Closed).then_some(())
    })
    .await;
    let stopped = "boltgate_sidecar_sessions_stopped_total{reason=\"idle\"}";
    assert_eq!(sidecar.metric(stopped).await, Some(1.0));
    let answer = idle.closed(sidecar.api, &idle.close(9)).await;
    assert_eq!(closes(&answer), (CloseResult::AlreadyClosed, 0, ""));
    let ledger = sidecar.open_ledger().await;
    let ending = ledger.ending(idle.id).await.unwrap().unwrap();
    assert!(ending.refund.is_some(), "its rest goes back");
}

async fn a_kill_keeps_balances_leases_and_what_was_answered(store: Store) {
    let dir = TempDir::new().unwrap();
    write_config_on(&store, dir.path());
    let program = Program::start(dir.path()).await;
    let (api, dev) = (program.api, program.dev);
    let deposit = async |api: Api| {
        let offer = offer(api).await;
        pay(dev, &offer.invoice).await.unwrap();
        offer
    };
    let (first, more) = (deposit(api).await, deposit(api).await);
    let open = open_of(&first, 1);
    let begun = opened(api, &open).await;
    let id = first.payment_hash;
    let spent = Report {
        used: 1,
        want: 10,
        ..report(id, 1)
    };
    assert_eq!(say(api, spent).await.granted, 10);
    let topping = top_up_of(&more, id);
    let credited = post(api, TOP_UP_PATH, &topping).await.json();
    program.kill();

    let program = Program::start(dir.path()).await;
    let api = program.api;
    let again = opened(api, &open).await;
    assert_eq!((again.result, again.at), (OpenResult::Opened, begun.at));
    let repeated = post(api, TOP_UP_PATH, &topping).await.json();
    let recorded = json!({"result": "credited", "at": credited["at"], "repeated": true});
    assert_eq!(repeated, recorded);
    // The lease goes on where it was.
    let spent = Report {
        used: 10,
        ..report(id, 1)
    };
    let answer = say(api, spent).await;
    assert_eq!((answer.spent, answer.r#final), (10, false));

    // Killed while a close waits for the lease: the same call finds what it began.
    let buyer = Buyer { offer: first, id };
    let closing = buyer.close(9);
    let request = closing.clone();
    let waiting = tokio::spawn(async move {
        let request = api.request("POST", CLOSE_PATH, serde_json::to_vec(&request).unwrap());
        let connection = tokio::net::TcpStream::connect(api.0).await.unwrap();
        let io = hyper_util::rt::TokioIo::new(connection);
        let handshake = hyper::client::conn::http1::handshake(io).await;
        let (mut sender, connection) = handshake.unwrap();
        tokio::spawn(connection);
        sender.send_request(request).await.is_ok()
    });
    let ledger = store.open(dir.path()).await;
    eventually("the close has begun", async || {
        let row = ledger.find_session(id).await.unwrap().unwrap();
        (row.state != SessionState::Open).then_some(())
    })
    .await;
    program.kill();
    waiting.await.unwrap();

    let program = Program::start(dir.path()).await;
    let answer = buyer.closed(program.api, &closing).await;
    let rest = 2 * DEPOSIT - 10;
    assert_eq!(closes(&answer), (CloseResult::Closed, rest, "failed"));
    assert!(answer.repeated, "though it was never answered");
    let row = ledger.find_session(id).await.unwrap().unwrap();
    assert_eq!(row.state, SessionState::Closed);
    assert_eq!(row.deposited.get(), row.spent.get() + rest);

    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(log.contains("deposit credited"), "the log is there");
    assert!(!log.contains(&open.return_invoice));
}
