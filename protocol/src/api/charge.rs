//! Charges of the Payment scheme: invoices for them, and the claim that lets one payment buy one
//! response (design sections 5 and 6).

use serde::{Deserialize, Serialize};

use super::ClientHint;
use crate::amount::Sat;
use crate::hash::PaymentHash;

/// `POST` of [`ChargeOffersRequest`]: fresh invoices. 200 with [`ChargeOffers`]; 429 or 503 with
/// `Retry-After` and a problem body when none may or can be made.
pub const CHARGE_OFFERS_PATH: &str = "/v1/charges/offers";
/// `POST` of [`ClaimsRequest`]. 200 with [`ClaimsAnswer`]; after any other answer each attempt has to
/// be abandoned.
pub const CLAIM_PATH: &str = "/v1/charges/claim";
/// Most claims in one [`ClaimsRequest`].
pub const MAX_CLAIMS: usize = 64;
/// `POST` of [`AbandonRequest`]. 200 with an empty object once all are abandoned for good.
pub const ABANDON_PATH: &str = "/v1/charges/abandon";
/// Most attempts in one [`AbandonRequest`].
pub const MAX_ABANDONED: usize = 256;

/// Body of `POST /v1/charges/offers`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ChargeOffersRequest {
    /// Name of the asking VM, as in [`super::BootstrapQuery::vm`].
    pub vm: String,
    /// Idempotency id, 32 hex digits.
    pub request_id: String,
    /// How many offers are wanted, 1 to [`super::MAX_OFFERS_PER_REQUEST`]; fewer may come.
    pub count: u16,
    /// Name of the service; becomes the invoice's description.
    pub service: String,
    /// Price of one response.
    pub amount: Sat,
    /// The client for whom this is, when a request waits for it; absent when a stock is filled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientHint>,
}

/// Answer to [`ChargeOffersRequest`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ChargeOffers {
    /// At least one, each with an invoice of its own.
    pub offers: Vec<ChargeOffer>,
}

/// One invoice. The filter makes the challenge of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ChargeOffer {
    /// Payment hash, 64 hex digits.
    pub payment_hash: PaymentHash,
    /// BOLT 11 text.
    pub invoice: String,
    /// When the filter must stop showing this offer, Unix seconds.
    pub show_until: u64,
    /// When the invoice, and with it the challenge, expires, Unix seconds.
    pub expires: u64,
}

/// Body of `POST /v1/charges/claim`: claims of requests that came at about the same time.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimsRequest {
    /// Name of the asking VM.
    pub vm: String,
    /// At least one, at most [`MAX_CLAIMS`].
    pub claims: Vec<ClaimRequest>,
}

/// One claim: everything else that could refuse this request has been looked at; may it be served
/// for this payment?
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimRequest {
    /// Random name of this attempt, 32 hex digits; never used for another request.
    pub attempt: String,
    /// What was paid.
    pub payment_hash: PaymentHash,
    /// Id of the challenge, for the books.
    pub challenge_id: String,
    /// Name of the service, for the books.
    pub service: String,
    /// Price, for the books.
    pub amount: Sat,
    /// When the challenge expires, Unix seconds: the claim must be remembered longer.
    pub expires: u64,
    /// Win only if the node says that the invoice is settled.
    pub settled: bool,
}

/// Answer to [`ClaimsRequest`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ClaimsAnswer {
    /// Who has it: one answer for each claim, in the same order.
    pub claims: Vec<Claim>,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Claim {
    /// This attempt: forward the request.
    Won,
    /// Another attempt, for good: 402.
    Lost,
    /// Another attempt that is so young that it may yet be abandoned: 503.
    Busy,
    /// Nobody yet: the node has not settled the payment. 503.
    Unsettled,
}

/// Body of `POST /v1/charges/abandon`: these attempts were refused without forwarding. It may
/// overtake the claim itself, which must then not win any more.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AbandonRequest {
    /// Name of the VM.
    pub vm: String,
    /// At most [`MAX_ABANDONED`].
    pub attempts: Vec<Attempt>,
}

/// One attempt to claim a payment.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// As in [`ClaimRequest::attempt`].
    pub attempt: String,
    /// What it claimed.
    pub payment_hash: PaymentHash,
}
