//! Events that the gate itself puts into a metered stream (spec/payment-auth section 2.8).

use std::borrow::Cow;

use super::json::Object;
use super::receipt::SUCCESS;
use super::{METHOD, jcs};
use crate::hash::PaymentHash;
use crate::time::UnixSeconds;

/// The stream is held until the session is topped up.
pub const NEED_TOPUP: &str = "payment-need-topup";
/// Nobody topped up: the stream ends here.
pub const SESSION_TIMEOUT: &str = "session-timeout";
/// The stream is over and paid.
pub const RECEIPT: &str = "payment-receipt";

/// State of a session that cannot pay for its next unit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Balance<'a> {
    /// The session.
    pub session_id: Cow<'a, str>,
    /// All that the session has spent so far, in satoshi (X15).
    pub spent: u64,
    /// Price of the next unit in satoshi.
    pub required: u64,
}

impl<'a> Balance<'a> {
    /// The state of a session, amounts in satoshi.
    #[must_use]
    pub fn new(session_id: PaymentHash, spent: u64, required: u64) -> Self {
        Self {
            session_id: session_id.to_string().into(),
            spent,
            required,
        }
    }

    /// The canonical JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        jcs::Object::with_capacity(160)
            .number("balanceRequired", self.required)
            .number("balanceSpent", self.spent)
            .text("sessionId", &self.session_id)
            .finish()
    }

    /// Reads the data of an event, as a client does.
    #[must_use]
    pub fn from_json(json: &'a [u8]) -> Option<Self> {
        let mut object = Object::parse(json)?;
        Some(Self {
            spent: object.number("balanceSpent")?,
            required: object.number("balanceRequired")?,
            session_id: object.take_text("sessionId")?,
        })
    }

    /// The whole event that says so while the stream is held.
    #[must_use]
    pub fn need_topup(&self) -> String {
        event(NEED_TOPUP, &self.to_json())
    }

    /// The whole event before the stream is cut off.
    #[must_use]
    pub fn session_timeout(&self) -> String {
        event(SESSION_TIMEOUT, &self.to_json())
    }
}

/// What one stream cost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StreamReceipt {
    /// The session.
    pub session_id: PaymentHash,
    /// Satoshi spent on this stream.
    pub spent: u64,
    /// Units delivered in this stream.
    pub units: u64,
    /// The moment of settlement.
    pub timestamp: UnixSeconds,
}

impl StreamReceipt {
    /// The whole event, to stand before `[DONE]`.
    #[must_use]
    pub fn event(&self) -> String {
        let json = jcs::Object::with_capacity(256)
            .text("method", METHOD)
            .text("reference", &self.session_id.to_string())
            .number("spent", self.spent)
            .text("status", SUCCESS)
            .text("timestamp", &self.timestamp.to_rfc3339())
            .number("units", self.units)
            .finish();
        event(RECEIPT, &json)
    }
}

/// `json` has no line breaks: JSON escapes them.
fn event(name: &str, json: &str) -> String {
    ["event: ", name, "\ndata: ", json, "\n\n"].concat()
}
