//! The ledger as an accountant sees it: what was earned, held and paid back, and whether it adds up.

use std::fmt;

use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;

/// Something in a ledger that must not be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// What must not be, in words.
    pub rule: &'static str,
    /// Of which session or payment.
    pub of: PaymentHash,
    /// The numbers that do not agree, by name.
    pub found: Vec<(&'static str, i64)>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.of, self.rule)?;
        for (name, value) in &self.found {
            write!(f, ", {name} {value}")?;
        }
        Ok(())
    }
}

/// What an entry of the books is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EntryKind {
    /// A payment that arrived.
    Sale,
    /// A session.
    Session,
    /// What a closed session is owed.
    Refund,
    /// A deposit that has arrived and was never credited: its buyer can still open or top up a
    /// session with it. It is one of the sales too.
    UnclaimedDeposit,
    /// A charge that was paid and buys nothing yet: its buyer can present it until its challenge
    /// expires, and has nothing for it after that. It is one of the sales too.
    UnclaimedCharge,
}

impl EntryKind {
    /// Those of an export: each payment is in it once.
    pub const BOOKS: [Self; 3] = [Self::Sale, Self::Session, Self::Refund];
    /// What was paid and nobody has presented. A token is sold when it is paid.
    pub const UNCLAIMED: [Self; 2] = [Self::UnclaimedDeposit, Self::UnclaimedCharge];

    /// Its word in an export.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sale => "sale",
            Self::Session => "session",
            Self::Refund => "refund",
            Self::UnclaimedDeposit => "unclaimed_deposit",
            Self::UnclaimedCharge => "unclaimed_charge",
        }
    }
}

/// Where to go on reading entries of one kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Place {
    /// In the unit in which the ledger orders this kind.
    pub key: u64,
    /// The last entry that was read; `None`: all of this key are to come.
    pub after: Option<PaymentHash>,
}

impl Place {
    /// Entries of that moment and later.
    #[must_use]
    pub const fn since(kind: EntryKind, since: UnixSeconds) -> Self {
        let key = match kind {
            EntryKind::Sale | EntryKind::UnclaimedDeposit | EntryKind::UnclaimedCharge => since.0,
            EntryKind::Session | EntryKind::Refund => since.0.saturating_mul(1_000),
        };
        Self { key, after: None }
    }
}

/// One line of the books. Amounts are millisatoshi.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// What it is about.
    pub kind: EntryKind,
    /// When: the payment settled, the session was opened, the refund last changed.
    pub at: UnixSeconds,
    /// Payment hash, or id of the session.
    pub id: PaymentHash,
    /// Service.
    pub service: String,
    /// Scheme of a sale; state of the others.
    pub state: String,
    /// Paid, deposited, or owed.
    pub amount_msat: u64,
    /// What a session has spent.
    pub spent_msat: Option<u64>,
    /// What a buyer was sent back.
    pub sent_msat: Option<u64>,
    /// What routing cost.
    pub fee_msat: Option<u64>,
    /// Where it stands in its ledger.
    pub place: Place,
}
