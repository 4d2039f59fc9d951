//! Sessions of the Payment scheme: deposits, and what is done to a session as a whole. What it is
//! spent on goes through leases ([`crate::lease`]).
//!
//! Each call is one transaction, and safe to repeat: a repeated call of the same challenge and
//! payload ([`SessionCall::fingerprint`]) gets the recorded result (X1).

use serde::{Deserialize, Serialize};

use crate::amount::Sat;
use crate::hash::PaymentHash;
use crate::lease;

/// `POST` of [`super::charge::ChargeOffersRequest`], whose amount is the deposit: fresh invoices.
/// Answered as [`super::charge::CHARGE_OFFERS_PATH`] is.
pub const DEPOSIT_OFFERS_PATH: &str = "/v1/sessions/offers";
/// `POST` of [`OpenRequest`]. 200 with [`OpenAnswer`].
pub const OPEN_PATH: &str = "/v1/sessions/open";
/// `POST` of [`TopUpRequest`]. 200 with [`TopUpAnswer`].
pub const TOP_UP_PATH: &str = "/v1/sessions/topup";
/// `POST` of [`CloseRequest`]. 200 with [`CloseAnswer`]. The answer may take as long as
/// [`CLOSE_SECONDS`].
pub const CLOSE_PATH: &str = "/v1/sessions/close";
/// Longest time in which a close is answered, the refund included: 2 s for leases to come back
/// (spec/lease L8), the rest for the refund, which goes on after that.
pub const CLOSE_SECONDS: u64 = 8;
/// Longest return invoice, in bytes.
pub const MAX_RETURN_INVOICE_LEN: usize = 2_048;

/// What was presented: an authentic challenge with a right preimage, judged by the filter.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SessionCall {
    /// Id of the challenge. Its first byte, decoded, is the key generation.
    pub challenge_id: String,
    /// The same for two calls that say the same: 64 hex digits.
    pub fingerprint: String,
    /// Payment hash of the challenge's deposit invoice: what open and topUp claim.
    pub payment_hash: PaymentHash,
    /// When the challenge expires, Unix seconds.
    pub expires: u64,
    /// It has expired by the filter's clock: only a recorded result, money that has arrived and
    /// was claimed by nobody, or the session's own challenge may still answer it.
    pub is_expired: bool,
}

/// Body of `POST /v1/sessions/open`.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OpenRequest {
    /// Name of the asking VM, as in [`super::BootstrapQuery::vm`].
    pub vm: String,
    /// What was presented; its payment hash becomes the session id.
    pub call: SessionCall,
    /// Name of the service, for the books.
    pub service: String,
    /// Price of one unit by the challenge: the deposit must cover it.
    pub price: Sat,
    /// After so long without use the sidecar closes the session, in seconds.
    pub idle_timeout_seconds: u64,
    /// BOLT 11 text as the client wrote it: refused beyond [`MAX_RETURN_INVOICE_LEN`] bytes.
    pub return_invoice: String,
    /// First report of the VM's lease: granted in the same transaction (spec/lease L10).
    pub lease: lease::Report,
}

impl std::fmt::Debug for OpenRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenRequest")
            .field("call", &self.call)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

/// Answer to [`OpenRequest`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct OpenAnswer {
    /// What became of it.
    pub result: OpenResult,
    /// When it was opened, Unix seconds; 0 if it was not.
    pub at: u64,
    /// Answer to [`OpenRequest::lease`], if this call opened the session. A call that only repeats
    /// an earlier one begins no lease: it is to be served as a bearer (X1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<lease::Answer>,
    /// For what that grants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<lease::Terms>,
    /// Why a return invoice was refused, in words for the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What became of an open.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpenResult {
    /// The session is open, by this call or by an earlier one that said the same.
    Opened,
    /// The node has not settled the deposit; nothing was claimed. 503.
    Unsettled,
    /// The payment was used for something else.
    Consumed,
    /// It was opened by this call once, and is closed.
    Closed,
    /// The challenge has expired and its payment has not arrived.
    Expired,
    /// Refunds cannot go to this invoice; nothing was claimed.
    InvalidReturnInvoice,
    /// What arrived does not cover one unit; nothing was claimed.
    TooLittle,
}

/// Body of `POST /v1/sessions/topup`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TopUpRequest {
    /// Name of the asking VM.
    pub vm: String,
    /// What was presented; its payment hash is that of the new deposit.
    pub call: SessionCall,
    /// The session.
    pub session_id: PaymentHash,
    /// Name of the service whose challenge it was, for the books; may be empty.
    pub service: String,
}

/// Answer to [`TopUpRequest`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TopUpAnswer {
    /// What became of it.
    pub result: TopUpResult,
    /// When it was credited, Unix seconds; 0 if it was not.
    pub at: u64,
    /// The result had been recorded before: by an earlier call that said the same.
    #[serde(default)]
    pub repeated: bool,
}

/// What became of a topUp.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TopUpResult {
    /// Credited, by this call or by an earlier one that said the same.
    Credited,
    /// The node has not settled the deposit; nothing was claimed. 503.
    Unsettled,
    /// The payment was used for something else.
    Consumed,
    /// No such session; nothing was claimed.
    NotFound,
    /// The session is closed; nothing was claimed, and the payment may open a new session.
    Closed,
    /// The challenge has expired and its payment has not arrived.
    Expired,
}

/// Body of `POST /v1/sessions/close`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CloseRequest {
    /// Name of the asking VM.
    pub vm: String,
    /// What was presented.
    pub call: SessionCall,
    /// The session.
    pub session_id: PaymentHash,
    /// The VM's lease of it, released with this call, if it has one (spec/lease L8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<lease::Report>,
}

/// Answer to [`CloseRequest`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct CloseAnswer {
    /// What became of it.
    pub result: CloseResult,
    /// When it was closed, Unix seconds; 0 if it was not.
    pub at: u64,
    /// What goes back to the buyer, in satoshis.
    pub refund_sats: u64,
    /// `succeeded`, `failed` or `skipped` (X17); empty unless closed.
    pub refund_status: String,
    /// The close had been recorded before, by an earlier call that said the same, whether that one
    /// has been answered or not.
    #[serde(default)]
    pub repeated: bool,
    /// Answer to [`CloseRequest::lease`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<lease::Answer>,
}

/// What became of a close.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CloseResult {
    /// Closed, by this call or by an earlier one that said the same.
    Closed,
    /// No such session.
    NotFound,
    /// Closed before, by another call or because nobody used it.
    AlreadyClosed,
    /// The challenge was used for something else.
    Consumed,
    /// The challenge has expired and is not one of the session's own.
    Expired,
}
