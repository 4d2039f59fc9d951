//! What the use cases need of the world. Adapters implement these traits.

mod books;
mod refunds;
mod sessions;

use std::future::Future;
use std::time::Duration;

use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;

pub use self::sessions::SessionLedger;
use super::claim::{AttemptId, ClaimTimes, Claimed, NewClaim};
use super::deny_list::Version;
use super::invoice::{
    Cancellation, Invoice, InvoiceRequest, InvoiceState, NodeId, NodeInfo, NodeStatus, Settlement,
};
use super::keys::{FilterHeard, NewKey};
use super::ledger::{
    Duty, GenerationUse, LedgerError, NewRevocation, OfferBatch, OfferName, Snapshot,
};
use super::offer::{OfferRow, Sale};
use super::payment::{PaymentOrder, PaymentState};
use super::payout::WorkerId;

pub use self::books::BooksLedger;
pub use self::refunds::RefundLedger;

/// What time it is.
pub trait Clock: Send + Sync + 'static {
    /// Wall clock in milliseconds since 1970, UTC.
    fn unix_millis(&self) -> u64;

    /// Time since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;

    /// Wall clock in seconds.
    fn now(&self) -> UnixSeconds {
        UnixSeconds(self.unix_millis() / 1_000)
    }
}

/// Random bytes for keys and token ids.
pub trait Random: Send + Sync + 'static {
    /// 32 bytes that nobody can guess.
    ///
    /// # Errors
    /// The operating system has none.
    fn secret(&self) -> Result<[u8; 32], RandomError>;
}

/// The operating system gave no random bytes.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no random bytes from the operating system: {0}")]
pub struct RandomError(pub String);

/// Why the node did not do it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LightningError {
    /// The node is not in a state to answer.
    #[error("lightning node is {}: {detail}", .status.as_str())]
    Unavailable {
        /// What is the matter.
        status: NodeStatus,
        /// What it, or the network, said.
        detail: String,
    },
    /// No answer in time; whether it was done is not known.
    #[error("lightning node did not answer {rpc} in time")]
    Timeout {
        /// Which call.
        rpc: &'static str,
    },
    /// The node refused.
    #[error("lightning node refused {rpc}: {detail}")]
    Refused {
        /// Which call.
        rpc: &'static str,
        /// What it said.
        detail: String,
    },
    /// The node has made or begun a payment of this hash before: it will not make another, and
    /// [`Lightning::track`] tells what became of it.
    #[error("lightning node has a payment of this hash: {detail}")]
    Exists {
        /// What it said.
        detail: String,
    },
    /// The answer makes no sense.
    #[error("lightning node answered {rpc} with nonsense: {detail}")]
    Nonsense {
        /// Which call.
        rpc: &'static str,
        /// What is wrong.
        detail: String,
    },
}

/// Settlements as they happen.
pub trait Settlements: Send {
    /// The next one. Waits for it as long as it takes; an error ends the stream.
    fn next(&mut self) -> impl Future<Output = Result<Settlement, LightningError>> + Send;
}

/// A Lightning node that makes invoices and pays them. Every call but [`Settlements::next`] and
/// [`Lightning::pay`] ends by itself within a few seconds, whatever the node does.
pub trait Lightning: Send + Sync + 'static {
    /// What [`Self::settlements`] gives.
    type Settlements: Settlements;

    /// Makes an invoice.
    fn add_invoice(
        &self,
        request: InvoiceRequest,
    ) -> impl Future<Output = Result<Invoice, LightningError>> + Send;

    /// Where an invoice stands.
    fn lookup(
        &self,
        hash: PaymentHash,
    ) -> impl Future<Output = Result<InvoiceState, LightningError>> + Send;

    /// Makes an invoice unpayable, unless it was paid.
    fn cancel(
        &self,
        hash: PaymentHash,
    ) -> impl Future<Output = Result<Cancellation, LightningError>> + Send;

    /// Pays an invoice, at most once for a hash. Ends a little after `order.timeout`, with
    /// [`PaymentState::InFlight`] or a timeout if it is not decided by then. After an error
    /// [`Self::track`] tells whether anything was sent: the error alone does not.
    fn pay(
        &self,
        order: PaymentOrder,
    ) -> impl Future<Output = Result<PaymentState, LightningError>> + Send;

    /// Where a payment of ours stands.
    fn track(
        &self,
        hash: PaymentHash,
    ) -> impl Future<Output = Result<PaymentState, LightningError>> + Send;

    /// Which node this is.
    fn info(&self) -> impl Future<Output = Result<NodeInfo, LightningError>> + Send;

    /// How it is now.
    fn status(&self) -> impl Future<Output = NodeStatus> + Send;

    /// All settlements after number `since`, past ones first; 0 gives only new ones, since no
    /// node has a settlement 0 and some have a long history of other business.
    fn settlements(
        &self,
        since: u64,
    ) -> impl Future<Output = Result<Self::Settlements, LightningError>> + Send;
}

/// The durable store. Each call is one atomic change: when it returns, it is on disk.
///
/// Decisions are made inside the store's transaction (insert-if-absent, compare-and-set), so that
/// several processes on one store agree.
pub trait Ledger: SessionLedger + RefundLedger + BooksLedger {
    /// What time it is by the store's own clock, milliseconds since 1970; `None`: it has none but
    /// this process's.
    fn now_millis(&self) -> impl Future<Output = Result<Option<u64>, LedgerError>> + Send;

    /// The version alone; cheap.
    fn version(&self) -> impl Future<Output = Result<Version, LedgerError>> + Send;

    /// Everything that filters poll.
    fn snapshot(&self) -> impl Future<Output = Result<Snapshot, LedgerError>> + Send;

    /// Makes `key` the current generation if there is none at all; otherwise does nothing.
    fn install_first_key(
        &self,
        key: NewKey,
        now_millis: u64,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Adds `key` as the next generation and gives its id.
    fn begin_rotation(
        &self,
        key: NewKey,
        now_millis: u64,
    ) -> impl Future<Output = Result<u8, LedgerError>> + Send;

    /// Makes generation `id` current if it is next, and the current one retired: it stays for at
    /// least `kept`, whatever was recorded under it, since filters sign with it until they have
    /// polled. `false` if it was not next.
    fn promote(
        &self,
        id: u8,
        now_millis: u64,
        kept: Duration,
    ) -> impl Future<Output = Result<bool, LedgerError>> + Send;

    /// What depends on generation `id`. Fails if it is not retired.
    fn generation_use(
        &self,
        id: u8,
        now: UnixSeconds,
    ) -> impl Future<Output = Result<GenerationUse, LedgerError>> + Send;

    /// Deletes the retired generation `id` though tokens may need it, and ends the life of its
    /// unpaid offers, so that nobody pays for a token that is dead. Gives what depended on it.
    fn revoke_generation(
        &self,
        id: u8,
        now_millis: u64,
    ) -> impl Future<Output = Result<GenerationUse, LedgerError>> + Send;

    /// Deletes the generations and revocations that nothing needs any more, neither now nor by the
    /// store's own clock; number of both.
    fn prune_expired(
        &self,
        now_millis: u64,
    ) -> impl Future<Output = Result<usize, LedgerError>> + Send;

    /// Refuses a token from now on. `false` if it was refused already; fails when
    /// [`MAX_REVOCATIONS`](protocol::api::MAX_REVOCATIONS) are.
    fn revoke(
        &self,
        revocation: NewRevocation,
        now_millis: u64,
    ) -> impl Future<Output = Result<bool, LedgerError>> + Send;

    /// Writes offers before they leave; fails as a whole if their generation is not current.
    fn record_offers(
        &self,
        batch: OfferBatch,
    ) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Records settlements of one node in their order and remembers the last index. Settlements
    /// of invoices that are none of ours are skipped. Gives the sales that are new; they are of the
    /// node that made the invoice, which is `node` where that was not known.
    fn record_settlements(
        &self,
        node: NodeId,
        settlements: Vec<Settlement>,
    ) -> impl Future<Output = Result<Vec<Sale>, LedgerError>> + Send;

    /// Last settle index of this node; 0 if none.
    fn settle_index(&self, node: NodeId) -> impl Future<Output = Result<u64, LedgerError>> + Send;

    /// Number of offers of this node that are neither paid nor pruned, with those of which it is not
    /// known; without a node of all.
    fn outstanding(
        &self,
        node: Option<NodeId>,
    ) -> impl Future<Output = Result<u64, LedgerError>> + Send;

    /// Unpaid offers of this node, and those of which it is not known, in the order of their hashes,
    /// after `after`, whose invoices expired before `expired_before`; at most `limit`. What another
    /// node made only that one knows.
    fn unpaid(
        &self,
        node: NodeId,
        after: Option<PaymentHash>,
        expired_before: UnixSeconds,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<PaymentHash>, LedgerError>> + Send;

    /// Deletes these offers, except those paid.
    fn drop_unpaid(
        &self,
        hashes: Vec<PaymentHash>,
    ) -> impl Future<Output = Result<usize, LedgerError>> + Send;

    /// Deletes paid offers whose token expired before `before`, and by the store's own clock too;
    /// at most `limit`. Sales stay.
    fn drop_expired_tokens(
        &self,
        before: UnixSeconds,
        limit: u32,
    ) -> impl Future<Output = Result<usize, LedgerError>> + Send;

    /// One offer.
    fn find_offer(
        &self,
        name: OfferName,
    ) -> impl Future<Output = Result<Option<OfferRow>, LedgerError>> + Send;

    /// All sales that settled at or after `since`, oldest first; at most `limit`.
    fn sales(
        &self,
        since: UnixSeconds,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<Sale>, LedgerError>> + Send;

    /// Gives a payment to who claims it first: one atomic insert-if-absent. An attempt that won
    /// wins again; one that was abandoned never does, nor one whose challenge expired `times.kept`
    /// ago, since its claim may be forgotten. All times are the store's own, so that several
    /// sidecars agree; this call and [`Self::abandon`] of one payment never run side by side.
    fn claim(
        &self,
        claim: NewClaim,
        times: ClaimTimes,
    ) -> impl Future<Output = Result<Claimed, LedgerError>> + Send;

    /// Lets go of what these attempts hold, and remembers them for `ClaimTimes::kept` so that none
    /// wins later. Gives how many payments became free.
    fn abandon(
        &self,
        attempts: Vec<(PaymentHash, AttemptId)>,
    ) -> impl Future<Output = Result<usize, LedgerError>> + Send;

    /// Deletes claims whose challenge expired `times.kept` ago or longer, and abandoned attempts
    /// that are as old; at most `limit` of each. The number of both.
    fn drop_old_claims(
        &self,
        times: ClaimTimes,
        limit: u32,
    ) -> impl Future<Output = Result<usize, LedgerError>> + Send;

    /// Tells the other sidecars on this store which filters this one has heard, and gives all that
    /// any of them has heard within `window`, by the store's clock. `None`: this store serves one
    /// sidecar only.
    fn share_filters(
        &self,
        heard: Vec<FilterHeard>,
        window: Duration,
    ) -> impl Future<Output = Result<Option<Vec<FilterHeard>>, LedgerError>> + Send;

    /// Whether `duty` is this process's for so much `time` from now on. It stays with who asks
    /// again before that is over, and goes to whoever asks after.
    fn take_duty(
        &self,
        duty: Duty,
        process: WorkerId,
        time: Duration,
    ) -> impl Future<Output = Result<bool, LedgerError>> + Send;

    /// Writes what is pending and lets go of the store. Later calls fail.
    fn close(&self) -> impl Future<Output = ()> + Send;
}
