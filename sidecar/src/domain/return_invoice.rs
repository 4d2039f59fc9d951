//! Where the rest of a session goes: the buyer's return invoice (design section 6, R-SESSION-6).

use std::fmt;

use protocol::hash::PaymentHash;
use protocol::time::UnixSeconds;

/// BOLT 11 text of a return invoice. It names the buyer's node, so it is not for logs.
#[derive(Clone, Eq, PartialEq)]
pub struct ReturnText(pub String);

impl ReturnText {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ReturnText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReturnText")
    }
}

/// A return invoice that was found good when its session began.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReturnInvoice {
    /// What is paid.
    pub text: ReturnText,
    /// Its hash; no other session may use it.
    pub payment_hash: PaymentHash,
    /// From then on it can no longer be paid.
    pub expires: UnixSeconds,
}
