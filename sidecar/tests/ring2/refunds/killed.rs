//! `kill -9` of the program at each step of a refund. The fake node does the stopping: it leaves
//! the program waiting exactly where it is to die.

use std::path::PathBuf;

use sidecar::domain::refund::RefundState;
use tempfile::TempDir;

use super::{HOUR, hash, owe, refund, refund_is};
use crate::fake_lnd::{FakeLnd, Routing, Serving};
use crate::payments::return_invoice;
use crate::process::{Program, free_address, read_log};
use crate::support::{TOKEN, eventually};

struct Street {
    dir: TempDir,
    lnd: FakeLnd,
    _serving: Serving,
    program: Program,
}

impl Street {
    /// A program that owes something, and gets as far as `routing` lets it.
    async fn with(routing: Routing) -> Self {
        let (dir, lnd) = (TempDir::new().unwrap(), FakeLnd::new());
        lnd.route(routing);
        let serving = lnd.serve("127.0.0.1:0", None).await;
        let at = dir.path().display();
        let [api, admin] = [free_address(), free_address()];
        let yaml = format!(
            "listen: {api}\nadmin: {admin}\ntokenFiles: ['{at}/token']\ndrain: 2s\n\
             ledger: {{ sqlite: {{ path: '{at}/ledger.db' }} }}\n\
             lightning: {{ lnd: {{ endpoint: 'http://{lnd}', macaroonFile: '{at}/macaroon' }} }}\n\
             log: {{ level: trace }}\n# dev: {{ listen: {admin} }}\n",
            lnd = serving.address,
        );
        std::fs::write(dir.path().join("config.yaml"), yaml).unwrap();
        std::fs::write(dir.path().join("token"), TOKEN).unwrap();
        std::fs::write(dir.path().join("macaroon"), [2, 1, 3, 0xff]).unwrap();
        let program = Program::start(dir.path()).await;
        Self {
            dir,
            lnd,
            _serving: serving,
            program,
        }
    }

    fn ledger(&self) -> PathBuf {
        self.dir.path().join("ledger.db")
    }

    async fn sent_to_node(&self, times: usize) {
        eventually("a payment at the node", async || {
            (self.lnd.send_requests().len() == times).then_some(())
        })
        .await;
    }

    /// Dies and comes back; the node is as it was or as `meanwhile` makes it.
    async fn killed(mut self, meanwhile: impl FnOnce(&FakeLnd)) -> Self {
        self.program.kill();
        meanwhile(&self.lnd);
        self.program = Program::start(self.dir.path()).await;
        self
    }

    /// Paid, exactly once, and written so; nothing secret was logged.
    async fn paid_once(self) {
        let work = refund_is(&self.ledger(), 1, RefundState::Succeeded).await;
        assert_eq!(work.payout.unwrap().sent.get(), 900);
        assert_eq!(self.lnd.arrived(), [(hash(1), 900_000, 0)]);
        let log = eventually("it says so", async || {
            let log = read_log(self.dir.path());
            log.contains("refund is paid").then_some(log)
        })
        .await;
        assert!(!log.contains(&return_invoice(1, None, HOUR)[..60]));
    }
}

#[tokio::test]
async fn killed_before_it_was_written_that_it_is_sent() {
    let street = Street::with(Routing::NeverTell).await;
    owe(&street.ledger(), 1, 900, 100);
    eventually("a worker that waits for the node", async || {
        street.lnd.is_asked_to_track().then_some(())
    })
    .await;
    let work = refund(&street.ledger(), 1).await;
    assert_eq!(work.refund.state, RefundState::Pending);
    let arrive = |lnd: &FakeLnd| lnd.route(Routing::Arrive { fee_msat: 0 });
    let street = street.killed(arrive).await;
    street.sent_to_node(1).await;
    street.paid_once().await;
}

#[tokio::test]
async fn killed_when_it_was_written_and_not_yet_at_the_node() {
    let street = Street::with(Routing::Ignore).await;
    owe(&street.ledger(), 1, 900, 100);
    street.sent_to_node(1).await;
    let work = refund(&street.ledger(), 1).await;
    assert_eq!(work.refund.state, RefundState::Sending);
    let arrive = |lnd: &FakeLnd| lnd.route(Routing::Arrive { fee_msat: 0 });
    let street = street.killed(arrive).await;
    street.sent_to_node(2).await;
    street.paid_once().await;
}

#[tokio::test]
async fn killed_while_the_payment_is_under_way() {
    let street = Street::with(Routing::Hold).await;
    owe(&street.ledger(), 1, 900, 100);
    street.sent_to_node(1).await;
    let street = street.killed(|_| {}).await;
    street.lnd.resolve(hash(1), Ok(0));
    street.sent_to_node(1).await;
    street.paid_once().await;
}

#[tokio::test]
async fn killed_when_it_was_paid_and_not_yet_written() {
    let street = Street::with(Routing::ArriveSilently).await;
    owe(&street.ledger(), 1, 900, 100);
    street.sent_to_node(1).await;
    let work = refund(&street.ledger(), 1).await;
    assert_eq!(work.refund.state, RefundState::Sending);
    let street = street.killed(|_| {}).await;
    street.sent_to_node(1).await;
    street.paid_once().await;
}
