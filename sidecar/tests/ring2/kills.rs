//! The program dies at each step at which something is decided about money, comes back, and is
//! asked the same again: nothing is lost, nothing is done twice.
//!
//! Steps of calls on the ledger are named in `src/faults.rs` of the sidecar.

use hyper::StatusCode;
use protocol::api::charge::{
    ABANDON_PATH, AbandonRequest, Attempt, CLAIM_PATH, Claim, ClaimRequest, ClaimsAnswer,
};
use protocol::api::session::{
    CLOSE_PATH, CloseAnswer, CloseRequest, CloseResult, OPEN_PATH, OpenAnswer, OpenRequest,
    OpenResult, TOP_UP_PATH,
};
use protocol::lease::{Answer as Lease, LEASES_PATH, LeasesAnswer, LeasesRequest, Report};
use protocol::time::UnixSeconds;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sidecar::domain::ports::{Ledger as _, RefundLedger as _, SessionLedger as _};
use sidecar::domain::refund::RefundState;
use sidecar::domain::session::SessionState;
use tempfile::TempDir;

use crate::process::{Program, read_log, run, write_config_on};
use crate::session_client::{Buyer, DEPOSIT, offer, open_of, report, top_up_of};
use crate::several::claim_of;
use crate::support::{Answer, Store, VM, claims, eventually, on_each_ledger, pay};

on_each_ledger! {
    killed_at_each_step_of_a_claim,
    killed_at_each_step_of_abandoning_an_attempt,
    killed_when_a_deposit_arrives,
    killed_at_each_step_of_an_open,
    killed_at_each_step_of_a_top_up,
    killed_at_each_step_of_a_report,
    killed_at_each_step_of_a_close,
    killed_at_each_step_of_a_refund,
    killed_when_a_dead_lease_has_gone_back,
}

/// Of every call that changes the ledger.
const STEPS: [&str; 3] = ["asked", "written", "committed"];
/// What every session here spends; more than a route costs, so that all of the rest goes back.
const SPENT: u64 = 20;

/// A program that comes back whenever it has died, and a buyer.
struct Shop {
    store: Store,
    dir: TempDir,
    program: Program,
    /// Number of sessions so far.
    sessions: u8,
}

impl Shop {
    async fn open(store: Store) -> Self {
        let dir = TempDir::new().unwrap();
        write_config_on(&store, dir.path());
        let program = Program::start(dir.path()).await;
        Self {
            store,
            dir,
            program,
            sessions: 0,
        }
    }

    /// Lets the program die at its next `step`.
    fn arm(&self, step: &str) {
        let written = self.dir.path().join("stop-next");
        std::fs::write(&written, step).unwrap();
        std::fs::rename(written, self.dir.path().join("stop")).unwrap();
    }

    /// If it has died, it comes back.
    async fn revive(&mut self) {
        if self.program.has_stopped() {
            let _ = std::fs::remove_file(self.dir.path().join("stop"));
            self.program = Program::start(self.dir.path()).await;
        }
    }

    /// Asks until there is an answer, as a filter does.
    async fn ask<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> T {
        let body = serde_json::to_vec(body).unwrap();
        let answer = eventually("an answer", async || {
            let request = self.program.api.request("POST", path, body.clone());
            let answered: Result<Answer, String> = self.program.api.try_send(request).await;
            if answered.is_err() {
                self.revive().await;
            }
            answered.ok().filter(|a| a.status == StatusCode::OK)
        })
        .await;
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// Asks a program that dies at `step` of it.
    async fn ask_over<T: DeserializeOwned>(
        &mut self,
        step: &str,
        path: &str,
        body: &impl Serialize,
    ) -> T {
        self.arm(step);
        let answer = self.ask(path, body).await;
        self.has_died(step).await;
        answer
    }

    async fn claim(&mut self, claim: &ClaimRequest) -> Claim {
        let one = claims(std::slice::from_ref(claim));
        let answer: ClaimsAnswer = self.ask(CLAIM_PATH, &one).await;
        answer.claims[0]
    }

    /// It has died at `step`, and runs again: until then the step stands in its file.
    async fn has_died(&mut self, step: &str) {
        let line = format!("stopped at {step}\n");
        let file = self.dir.path().join("stop");
        eventually(step, async || {
            self.revive().await;
            let has_died = read_log(self.dir.path()).contains(&line);
            (has_died && !file.exists()).then_some(())
        })
        .await;
    }

    /// At the door of the dev network, which dies with the program.
    async fn door(&mut self, path: &str, body: Option<Value>) -> Value {
        let body = body.map(|body| body.to_string());
        let answer = eventually("the door", async || {
            let url = format!("http://{}{path}", self.program.dev);
            let answer = sidecar::http::client::request(&url, body.clone()).await;
            if answer.is_err() {
                self.revive().await;
            }
            answer.ok()
        })
        .await;
        serde_json::from_str(&answer.body).unwrap()
    }

    /// Has paid a deposit and has a return invoice.
    async fn buyer(&mut self) -> (Buyer, OpenRequest) {
        let offer = offer(self.program.api).await;
        pay(self.program.dev, &offer.invoice).await.unwrap();
        let made = json!({ "expiry_seconds": 86_400 });
        let made = self.door("/invoices", Some(made)).await;
        let id = offer.payment_hash;
        let buyer = Buyer { offer, id };
        self.sessions += 1;
        let mut open = open_of(&buyer.offer, self.sessions);
        open.return_invoice = made["invoice"].as_str().unwrap().to_owned();
        open.lease.need = SPENT;
        (buyer, open)
    }

    /// Has a session and a lease of what it is going to spend.
    async fn opened(&mut self) -> Buyer {
        let (buyer, open) = self.buyer().await;
        let answer: OpenAnswer = self.ask(OPEN_PATH, &open).await;
        assert_eq!(answer.result, OpenResult::Opened);
        buyer
    }

    async fn say(&mut self, report: Report) -> Lease {
        let mut answer: LeasesAnswer = self.ask(LEASES_PATH, &reports(report)).await;
        answer.answers.remove(0)
    }

    async fn is(&self, buyer: &Buyer, state: SessionState, deposited: u64, spent: u64) {
        let ledger = self.store.open(self.dir.path()).await;
        let row = ledger.find_session(buyer.id).await.unwrap().unwrap();
        let found = (row.state, row.deposited.get(), row.spent.get());
        assert_eq!(found, (state, deposited, spent));
    }

    /// Closes, and all is as it must be: at the buyer, at the node and in the ledger.
    async fn ends(&mut self, buyer: &Buyer, deposited: u64) {
        let closing = closing(buyer);
        let answer: CloseAnswer = self.ask(CLOSE_PATH, &closing).await;
        self.ended(buyer, deposited, &closing, &answer).await;
    }

    async fn ended(
        &mut self,
        buyer: &Buyer,
        deposited: u64,
        closing: &CloseRequest,
        answer: &CloseAnswer,
    ) {
        let rest = deposited - SPENT;
        assert_eq!(answer.result, CloseResult::Closed);
        assert_eq!(answer.refund_sats, rest);
        let ledger = self.store.open(self.dir.path()).await;
        let paid = eventually("the refund", async || {
            // It may die over the refund as well.
            self.revive().await;
            let refund = ledger.find_refund(buyer.id).await.unwrap().unwrap();
            (refund.refund.state == RefundState::Succeeded).then_some(refund)
        })
        .await;
        assert_eq!(paid.payout.unwrap().sent.get(), rest);
        let received = self
            .door(&format!("/invoices/{}", paid.refund.return_hash), None)
            .await;
        assert_eq!(received["received_msat"], json!(rest * 1_000));
        self.is(buyer, SessionState::Closed, deposited, SPENT).await;
        let again: CloseAnswer = self.ask(CLOSE_PATH, closing).await;
        assert_eq!((again.at, again.result), (answer.at, answer.result));
        assert!(again.repeated);
        assert_eq!(again.refund_sats, answer.refund_sats);
        assert_eq!(again.refund_status, answer.refund_status);
    }

    /// The ledger proves itself, and each session was paid back once.
    async fn adds_up(mut self) {
        let arguments = ["ledger", "check", "--config", "config.yaml"];
        let checked = run(self.dir.path(), &arguments).await;
        assert!(checked.status.success(), "{checked:?}");
        let stats = self.door("/stats", None).await;
        assert_eq!(stats["sent"], json!(self.sessions), "{stats}");
    }
}

fn reports(report: Report) -> LeasesRequest {
    LeasesRequest {
        vm: VM.to_owned(),
        reports: vec![report],
    }
}

/// Brings the lease with it, all of it spent.
fn closing(buyer: &Buyer) -> CloseRequest {
    CloseRequest {
        lease: Some(Report {
            used: SPENT,
            release: true,
            ..report(buyer.id, 1)
        }),
        ..buyer.close(9)
    }
}

fn abandon_of(claim: &ClaimRequest) -> AbandonRequest {
    AbandonRequest {
        vm: VM.to_owned(),
        attempts: vec![Attempt {
            attempt: claim.attempt.clone(),
            payment_hash: claim.payment_hash,
        }],
    }
}

async fn killed_at_each_step_of_a_claim(store: Store) {
    let mut shop = Shop::open(store).await;
    for (payment, step) in STEPS.iter().enumerate() {
        let payment = payment as u32;
        let step = format!("claim.{step}");
        // The filter repeats what it did not hear the answer of, as the same attempt.
        let one = claims(&[claim_of(payment, 1)]);
        let won: ClaimsAnswer = shop.ask_over(&step, CLAIM_PATH, &one).await;
        assert_eq!(won.claims, [Claim::Won], "{step}");
        assert_ne!(
            shop.claim(&claim_of(payment, 2)).await,
            Claim::Won,
            "{step}"
        );
    }
    shop.adds_up().await;
}

async fn killed_at_each_step_of_abandoning_an_attempt(store: Store) {
    let mut shop = Shop::open(store).await;
    for (payment, step) in STEPS.iter().enumerate() {
        let payment = payment as u32;
        let step = format!("abandon.{step}");
        let refused = claim_of(payment, 1);
        assert_eq!(shop.claim(&refused).await, Claim::Won);
        let _: Value = shop
            .ask_over(&step, ABANDON_PATH, &abandon_of(&refused))
            .await;
        let again = shop.claim(&claim_of(payment, 2)).await;
        assert_eq!(again, Claim::Won, "{step}: the payment is free again");
        assert_ne!(shop.claim(&refused).await, Claim::Won, "{step}");
    }
    shop.adds_up().await;
}

async fn killed_when_a_deposit_arrives(store: Store) {
    let mut shop = Shop::open(store).await;
    for step in STEPS {
        let step = format!("record_settlements.{step}");
        let offer = offer(shop.program.api).await;
        shop.arm(&step);
        let paid = json!({ "invoice": offer.invoice });
        shop.door("/pay", Some(paid)).await;
        shop.has_died(&step).await;
        let id = offer.payment_hash;
        let ledger = shop.store.open(shop.dir.path()).await;
        eventually("the sale", async || {
            let sales = ledger.sales(UnixSeconds(0), 100).await.unwrap();
            let mine = sales.iter().filter(|sale| sale.payment_hash == id);
            (mine.count() == 1).then_some(())
        })
        .await;
    }
    shop.adds_up().await;
}

async fn killed_at_each_step_of_an_open(store: Store) {
    let mut shop = Shop::open(store).await;
    for step in STEPS {
        let step = format!("open_session.{step}");
        let (buyer, open) = shop.buyer().await;
        let opened: OpenAnswer = shop.ask_over(&step, OPEN_PATH, &open).await;
        assert_eq!(opened.result, OpenResult::Opened, "{step}");
        // An open that is repeated begins no lease; the one that nobody heard of goes back.
        let is_repeated = step.ends_with("committed");
        let granted = opened.lease.map(|lease| lease.granted);
        assert_eq!(granted, (!is_repeated).then_some(SPENT), "{step}");
        shop.is(&buyer, SessionState::Open, DEPOSIT, 0).await;
        let again: OpenAnswer = shop.ask(OPEN_PATH, &open).await;
        assert_eq!((again.result, again.at), (OpenResult::Opened, opened.at));
        shop.is(&buyer, SessionState::Open, DEPOSIT, 0).await;
        shop.ends(&buyer, DEPOSIT).await;
    }
    shop.adds_up().await;
}

async fn killed_at_each_step_of_a_top_up(store: Store) {
    let mut shop = Shop::open(store).await;
    for step in STEPS {
        let step = format!("top_up.{step}");
        let buyer = shop.opened().await;
        let more = offer(shop.program.api).await;
        pay(shop.program.dev, &more.invoice).await.unwrap();
        let topping = top_up_of(&more, buyer.id);
        let credited: Value = shop.ask_over(&step, TOP_UP_PATH, &topping).await;
        let said =
            |repeated| json!({"result": "credited", "at": credited["at"], "repeated": repeated});
        assert_eq!(credited, said(step.ends_with("committed")));
        let again: Value = shop.ask(TOP_UP_PATH, &topping).await;
        assert_eq!(again, said(true), "{step}");
        shop.is(&buyer, SessionState::Open, 2 * DEPOSIT, 0).await;
        shop.ends(&buyer, 2 * DEPOSIT).await;
    }
    shop.adds_up().await;
}

async fn killed_at_each_step_of_a_report(store: Store) {
    let mut shop = Shop::open(store).await;
    for step in STEPS {
        let step = format!("report_leases.{step}");
        let buyer = shop.opened().await;
        let used = Report {
            used: SPENT / 2,
            ..report(buyer.id, 1)
        };
        let told: LeasesAnswer = shop
            .ask_over(&step, LEASES_PATH, &reports(used.clone()))
            .await;
        let told = &told.answers[0];
        assert_eq!((told.spent, told.r#final), (SPENT / 2, false), "{step}");
        assert_eq!(shop.say(used).await.spent, SPENT / 2, "{step}: once");
        shop.ends(&buyer, DEPOSIT).await;
    }
    shop.adds_up().await;
}

async fn killed_at_each_step_of_a_close(store: Store) {
    let mut shop = Shop::open(store).await;
    for call in ["begin_close", "record_answer"] {
        for step in STEPS {
            let step = format!("{call}.{step}");
            let buyer = shop.opened().await;
            let closing = closing(&buyer);
            let answer = shop.ask_over(&step, CLOSE_PATH, &closing).await;
            shop.ended(&buyer, DEPOSIT, &closing, &answer).await;
        }
    }
    shop.adds_up().await;
}

/// The payment itself is in `refunds::killed`, with a node that outlives the program.
async fn killed_at_each_step_of_a_refund(store: Store) {
    let mut shop = Shop::open(store).await;
    let mut steps = vec!["pay.asked".to_owned(), "pay.answered".to_owned()];
    for call in ["begin_sending", "record_refund"] {
        steps.extend(STEPS.map(|step| format!("{call}.{step}")));
    }
    for step in steps {
        let buyer = shop.opened().await;
        let closing = closing(&buyer);
        let answer = shop.ask_over(&step, CLOSE_PATH, &closing).await;
        shop.ended(&buyer, DEPOSIT, &closing, &answer).await;
    }
    shop.adds_up().await;
}

async fn killed_when_a_dead_lease_has_gone_back(store: Store) {
    let mut shop = Shop::open(store).await;
    let buyer = shop.opened().await;
    let used = Report {
        used: SPENT,
        want: 2 * SPENT,
        ..report(buyer.id, 1)
    };
    assert!(shop.say(used).await.granted > SPENT);
    // Another VM carries the close; of the first one nothing is heard any more.
    let closing = buyer.close(9);
    let step = "reclaim.committed";
    let answer = shop.ask_over(step, CLOSE_PATH, &closing).await;
    shop.ended(&buyer, DEPOSIT, &closing, &answer).await;
    shop.adds_up().await;
}
