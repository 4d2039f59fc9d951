//! Sessions of the Payment scheme: what the ledger keeps of them and what becomes of the calls
//! that open, top up and close them. What they are spent on goes through [leases](super::lease).

use protocol::amount::Sat;
use protocol::hash::PaymentHash;
use protocol::lease::{Answer, Report};
use protocol::time::UnixSeconds;

use super::invoice::NodeId;
use super::lease::Reported;
use super::refund::{RefundState, RefundStatus};
use super::return_invoice::ReturnInvoice;

/// Results of closes are remembered for so long after they were given, whatever their challenge
/// says (R-SESSION-12).
pub const RESULT_SECONDS: u64 = 300;
/// And for so long beyond that, far more than the clocks of sidecar and filter may differ.
pub const RESULT_MARGIN_SECONDS: u64 = 3_600;

/// A session is closed so long before its return invoice expires, at least, so that the refund can
/// still be paid, twice if need be.
pub const RETURN_MARGIN_SECONDS: u64 = 60;

const fn margin(idle_timeout_seconds: u64) -> u64 {
    match idle_timeout_seconds > RETURN_MARGIN_SECONDS {
        true => idle_timeout_seconds,
        false => RETURN_MARGIN_SECONDS,
    }
}

/// When a session with this return invoice is closed at the latest.
#[must_use]
pub const fn close_by(return_expires: UnixSeconds, idle_timeout_seconds: u64) -> UnixSeconds {
    let margin = margin(idle_timeout_seconds);
    UnixSeconds(return_expires.0.saturating_sub(margin))
}

/// How long a return invoice must still live when its session begins, so that the buyer has one
/// idle timeout at least: twice the idle timeout (R-SESSION-6), and more if that is short.
#[must_use]
pub const fn least_return_life(idle_timeout_seconds: u64) -> u64 {
    idle_timeout_seconds.saturating_add(margin(idle_timeout_seconds))
}

/// Until when the result of a close given at `at` is remembered.
#[must_use]
pub fn remembered_until(challenge_expires: UnixSeconds, at: UnixSeconds) -> UnixSeconds {
    let least = at.0.saturating_add(RESULT_SECONDS);
    let until = challenge_expires.0.max(least);
    UnixSeconds(until.saturating_add(RESULT_MARGIN_SECONDS))
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SessionState {
    /// It can be spent from.
    Open,
    /// Nothing is granted any more, and leases are still out.
    Closing,
    /// No lease is left, and what goes back is fixed.
    Closed,
}

impl SessionState {
    /// Name in the ledger and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closing => "closing",
            Self::Closed => "closed",
        }
    }

    /// The state of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Open, Self::Closing, Self::Closed]
            .into_iter()
            .find(|state| state.as_str() == name)
    }
}

/// A session as the ledger keeps it. Moments are milliseconds by the ledger's clock.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SessionRow {
    /// Payment hash of the first deposit.
    pub id: PaymentHash,
    /// Service whose challenge opened it.
    pub service: String,
    /// Credited, ever.
    pub deposited: Sat,
    /// Debited.
    pub spent: Sat,
    /// Where the rest goes.
    pub return_invoice: ReturnInvoice,
    /// The node that has the deposits.
    pub node: NodeId,
    /// Key generation of the opening challenge.
    pub generation: u8,
    /// After so long without use it is closed.
    pub idle_timeout_seconds: u64,
    /// Closed then at the latest, since its return invoice expires.
    pub close_by: UnixSeconds,
    /// Where it stands.
    pub state: SessionState,
    /// When it was opened.
    pub opened_ms: u64,
    /// When it was last used.
    pub active_ms: u64,
    /// When it stopped granting.
    pub closed_ms: Option<u64>,
}

/// Which call it was: what makes a repeated one known (X1).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CallMark {
    /// Id of the challenge.
    pub challenge_id: String,
    /// The same for two calls that say the same.
    pub fingerprint: [u8; 32],
    /// Payment hash of the challenge's deposit invoice.
    pub payment_hash: PaymentHash,
    /// When the challenge expires.
    pub expires: UnixSeconds,
    /// Key generation of the challenge.
    pub generation: u8,
}

/// What a call was for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CallKind {
    /// A first deposit.
    Open,
    /// A further one.
    TopUp,
    /// The end.
    Close,
}

impl CallKind {
    /// Name in the ledger.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::TopUp => "topup",
            Self::Close => "close",
        }
    }
}

/// What a session began with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewSession {
    /// The call; its payment hash becomes the session's id.
    pub call: CallMark,
    /// Name of the service, for the books.
    pub service: String,
    /// What was really paid, settled, in whole satoshis.
    pub deposited: Sat,
    /// Where the rest goes.
    pub return_invoice: ReturnInvoice,
    /// The node that has the deposit, unless the sale names it.
    pub node: NodeId,
    /// After so long without use it is closed.
    pub idle_timeout_seconds: u64,
    /// First report of the opening VM's lease (spec/lease L10).
    pub lease: Report,
}

/// What became of an open.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Opened {
    /// The session is there, and this is the first grant.
    Opened {
        /// When, milliseconds.
        at_ms: u64,
        /// Of the lease.
        lease: Reported,
    },
    /// The payment was claimed before, by whatever call; nothing was done.
    Claimed,
    /// The return invoice belongs to another session; nothing was done.
    ReturnInvoiceUsed,
}

/// A further deposit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewDeposit {
    /// The call; its payment hash is claimed.
    pub call: CallMark,
    /// For which session.
    pub session_id: PaymentHash,
    /// Name of the service, for the books.
    pub service: String,
    /// What was really paid, settled, in whole satoshis.
    pub amount: Sat,
}

/// What became of a further deposit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Deposited {
    /// Credited at this moment, milliseconds.
    Credited(u64),
    /// The payment was claimed before; nothing was done.
    Claimed,
    /// No such session; nothing was done.
    NotFound,
    /// The session is closing or closed; nothing was done.
    Closed,
}

/// A wish to end a session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewClose {
    /// The call.
    pub call: CallMark,
    /// Which session.
    pub session_id: PaymentHash,
    /// The challenge has expired: it must be that of one of the session's deposits.
    pub must_be_own: bool,
    /// Last report of the closing VM's lease (spec/lease L8).
    pub lease: Option<Report>,
}

/// What became of a wish to end a session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CloseBegun {
    /// The session stops, by this call or by an earlier one that said the same.
    Begun {
        /// When it stopped granting, seconds.
        at: UnixSeconds,
        /// By an earlier call.
        is_repeated: bool,
        /// What was answered to this call before.
        answered: Option<Refunded>,
        /// Of the lease.
        lease: Option<Reported>,
    },
    /// No such session.
    NotFound,
    /// It was closed before, by another call or because nobody used it.
    AlreadyClosed,
    /// The challenge was used for something else.
    Consumed,
    /// The challenge has expired and is not one of the session's own.
    Expired,
}

/// What the answer to a close says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refunded {
    /// What goes back.
    pub refund: Sat,
    /// What is known of it.
    pub status: RefundStatus,
}

/// What was recorded of an open or a topUp.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RecordedDeposit {
    /// The call that was answered.
    pub fingerprint: [u8; 32],
    /// When it was done.
    pub at: UnixSeconds,
}

/// How far the end of a session has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ending {
    /// Where the session stands.
    pub state: SessionState,
    /// What is neither spent nor refunded yet; fixed once closed. Once refunded: what the buyer
    /// got, which is less if routing cost more than the session spent.
    pub rest: Sat,
    /// Where the refund stands, if there is one.
    pub refund: Option<RefundState>,
}

impl Ending {
    /// What is to be answered, as soon as that is settled; `None`: not yet.
    #[must_use]
    pub fn answer(&self) -> Option<Refunded> {
        let status = match (self.state, self.refund) {
            (SessionState::Open | SessionState::Closing, _) => return None,
            (SessionState::Closed, None) => RefundStatus::Skipped,
            (SessionState::Closed, Some(RefundState::Succeeded)) => RefundStatus::Succeeded,
            (SessionState::Closed, Some(RefundState::Failed)) => RefundStatus::Failed,
            (SessionState::Closed, Some(RefundState::Pending | RefundState::Sending)) => {
                return None;
            }
        };
        Some(Refunded {
            refund: self.rest,
            status,
        })
    }

    /// What is to be answered when there is no more time: an unknown outcome is `failed` (X17).
    /// `None`: what goes back is not fixed yet.
    #[must_use]
    pub fn answer_now(&self) -> Option<Refunded> {
        let unknown = Refunded {
            refund: self.rest,
            status: RefundStatus::Failed,
        };
        let is_fixed = self.state == SessionState::Closed;
        self.answer().or_else(|| is_fixed.then_some(unknown))
    }
}

/// What a batch of reports led to, in their order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ReportedLeases {
    /// One for each report, but those on accounts that are held up while others are not.
    pub answers: Vec<Answer>,
    /// Units that were served and can no longer be debited.
    pub lost_units: u64,
    /// Sessions that were settled by it.
    pub settled: Vec<PaymentHash>,
}

/// A session that was stopped because nobody uses it or its return invoice expires.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stopped {
    /// Which one.
    pub session_id: PaymentHash,
    /// Nobody used it; else its return invoice would have expired.
    pub was_idle: bool,
}

/// What one sweep did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SweptLeases {
    /// Sessions looked at.
    pub sessions: usize,
    /// Units that went back to buyers.
    pub reclaimed: u64,
    /// Sessions that were settled by it.
    pub settled: Vec<PaymentHash>,
}

/// How much there is of what.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SessionCounts {
    /// Sessions that can be spent from.
    pub open: u64,
    /// Sessions whose leases are still out.
    pub closing: u64,
    /// Leases that have not ended.
    pub holders: u64,
}
