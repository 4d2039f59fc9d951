//! The sidecar API, version 1: what filter and sidecar say to each other (design section 5).
//!
//! JSON over HTTP/2. Every request carries `authorization: Bearer <token>`; every answer that the
//! sidecar itself made carries [`MARKER_HEADER`], because Envoy reports an unreachable sidecar as
//! an ordinary 503 or 504 response. An answer without the marker means nothing.

pub mod charge;
pub mod session;

use serde::{Deserialize, Serialize};

use crate::amount::Msat;
use crate::encoding::base64_decode_lenient;
use crate::hash::PaymentHash;
use crate::l402::Identifier;
use crate::macaroon::Macaroon;

/// Header that marks an answer as made by the sidecar itself; its value is [`MARKER_VALUE`].
pub const MARKER_HEADER: &str = "x-boltgate-sidecar";
/// Value of [`MARKER_HEADER`]: the API version.
pub const MARKER_VALUE: &str = "1";
/// `GET`: keys and revocations, polled by every filter VM. Query: [`BootstrapQuery`].
/// 200 with [`Bootstrap`], or 304 without body when nothing changed since `known`.
pub const BOOTSTRAP_PATH: &str = "/v1/bootstrap";
/// `POST` of [`OffersRequest`]: fresh invoices. 200 with [`Offers`]; 429 or 503 with
/// `Retry-After` and a problem body when none may or can be made.
pub const OFFERS_PATH: &str = "/v1/offers";
/// Most offers that one request may ask for.
pub const MAX_OFFERS_PER_REQUEST: u16 = 256;

/// Longest answer that a filter reads; a longer one is no answer to it. The sidecar keeps every
/// answer below it: see [`MAX_REVOCATIONS`].
pub const MAX_ANSWER_LEN: usize = 4 * 1024 * 1024;
/// Most hashes in [`Revocations`], additions and removals together: with the keys of all 256
/// generations they fit into [`MAX_ANSWER_LEN`].
pub const MAX_REVOCATIONS: usize = 60_000;

/// Query string of `GET /v1/bootstrap`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct BootstrapQuery {
    /// Random name of this filter VM: 32 hex digits, made anew with each VM.
    pub vm: String,
    /// [`Bootstrap::version`] that this VM has installed; absent at first. Naming a version is
    /// also the acknowledgement of every key in it, on which key rotation waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<String>,
}

/// Keys and revocations for one filter VM.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Bootstrap {
    /// Opaque, to be sent back as [`BootstrapQuery::known`].
    pub version: String,
    /// All key generations with which a credential may still be verified.
    pub keys: Vec<KeyGeneration>,
    /// Changes of the deny list, to be applied in one step with the keys.
    pub revocations: Revocations,
}

/// Derived keys of one generation of the master secret (design section 3). Never the master.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
pub struct KeyGeneration {
    /// First byte of the token ids minted under this generation.
    pub generation: u8,
    /// `next` and `retired` generations verify and are never used to issue.
    pub state: KeyState,
    /// `HMAC(master, "boltgate/l402/v0")`, 64 hex digits.
    pub l402: String,
    /// `HMAC(master, "boltgate/payment/v0")`, 64 hex digits: the root of the challenge keys.
    pub payment: String,
}

impl std::fmt::Debug for KeyGeneration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyGeneration")
            .field("generation", &self.generation)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// Where a key generation stands in its life.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// Known to filters, not yet used to issue.
    Next,
    /// Issues and verifies.
    Current,
    /// Only verifies, until nothing issued under it can be valid any more.
    Retired,
}

/// Changes of the deny list of identifier hashes (spec/l402 E6).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Revocations {
    /// The list begins anew: forget what was known before applying `add`.
    pub full: bool,
    /// `sha256(identifier)`, 64 hex digits each.
    pub add: Vec<String>,
    /// Hashes whose tokens have expired by themselves.
    pub remove: Vec<String>,
}

/// Body of `POST /v1/offers`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OffersRequest {
    /// Name of the asking VM, as in [`BootstrapQuery::vm`].
    pub vm: String,
    /// Idempotency id, 32 hex digits: a repeated id may be answered with the same offers.
    pub request_id: String,
    /// How many offers are wanted, 1 to [`MAX_OFFERS_PER_REQUEST`]; fewer may come.
    pub count: u16,
    /// What is sold.
    pub template: OfferTemplate,
    /// The client for whom this is, when a request waits for it; absent when a stock is filled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientHint>,
}

/// What one L402 offer sells, from the policy of the filter that asks.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OfferTemplate {
    /// Name of the service; becomes the `services` caveat and the invoice description.
    pub service: String,
    /// Tier of the service in the `services` caveat.
    pub tier: u8,
    /// Price of the invoice.
    pub price_msat: Msat,
    /// Life of the token, counted from when its invoice can be paid at the latest; `None` is for
    /// ever.
    pub lifetime_seconds: Option<u64>,
    /// `<service>_capabilities`; empty means all, and then no caveat is written.
    pub capabilities: Vec<String>,
    /// Further caveats as `(condition, value)`, in order.
    pub constraints: Vec<(String, String)>,
}

/// Who waits for an offer, for the sidecar's limits.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ClientHint {
    /// Client address reduced to its prefix (/32 and /64 by default), e.g. `192.0.2.7/32`.
    pub prefix: String,
    /// This prefix has presented something paid for at this VM: larger limits.
    pub has_paid: bool,
}

/// Answer to [`OffersRequest`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Offers {
    /// At least one, each with an invoice of its own.
    pub offers: Vec<Offer>,
}

/// One invoice with the token that becomes valid when it is paid.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
pub struct Offer {
    /// Payment hash, 64 hex digits.
    pub payment_hash: String,
    /// BOLT 11 text.
    pub invoice: String,
    /// The macaroon, standard padded base64.
    pub macaroon: String,
    /// When the filter must stop showing this offer, Unix seconds: some time before the invoice
    /// itself expires, so that who sees it can still pay.
    pub show_until: u64,
}

/// Why an [`Offer`] must not be shown to anybody.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OfferError {
    /// Not 64 hexadecimal digits.
    #[error("payment hash malformed")]
    PaymentHash,
    /// Not the letters and digits of BOLT 11, or far too long.
    #[error("invoice malformed")]
    Invoice,
    /// Not standard base64 of a V2 macaroon with an identifier of version 0.
    #[error("macaroon malformed")]
    Macaroon,
    /// The macaroon commits to another payment: whoever paid would get nothing.
    #[error("macaroon and invoice do not belong together")]
    Mismatch,
}

impl Offer {
    /// Longest invoice text; what is shown has to fit into a response header.
    pub const MAX_INVOICE_LEN: usize = 4096;

    /// Checks all that can be checked without keys, so that the fields can be written into
    /// headers as they are.
    ///
    /// # Errors
    ///
    /// [`OfferError`] names the first field that is wrong.
    pub fn check(&self) -> Result<Identifier, OfferError> {
        let payment_hash: PaymentHash = self
            .payment_hash
            .parse()
            .map_err(|_| OfferError::PaymentHash)?;
        let invoice_fits = (1..=Self::MAX_INVOICE_LEN).contains(&self.invoice.len());
        if !invoice_fits
            || !self
                .invoice
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric())
        {
            return Err(OfferError::Invoice);
        }
        let is_standard = !self
            .macaroon
            .bytes()
            .any(|byte| matches!(byte, b'-' | b'_'))
            && self.macaroon.len().is_multiple_of(4);
        if !is_standard {
            return Err(OfferError::Macaroon);
        }
        let bytes = base64_decode_lenient(&self.macaroon).map_err(|_| OfferError::Macaroon)?;
        let macaroon = Macaroon::parse(&bytes).map_err(|_| OfferError::Macaroon)?;
        let identifier =
            Identifier::parse(macaroon.identifier()).map_err(|_| OfferError::Macaroon)?;
        if identifier.payment_hash != payment_hash {
            return Err(OfferError::Mismatch);
        }
        Ok(identifier)
    }
}

impl std::fmt::Debug for Offer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Offer")
            .field("payment_hash", &self.payment_hash)
            .field("show_until", &self.show_until)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_revocations_as_there_may_be_fit_into_an_answer_with_every_key() {
        let hash = "ab".repeat(32);
        let keys = (0..=u8::MAX).map(|generation| KeyGeneration {
            generation,
            state: KeyState::Retired,
            l402: hash.clone(),
            payment: hash.clone(),
        });
        let bootstrap = Bootstrap {
            version: format!("{}.{}", "ab".repeat(16), u64::MAX),
            keys: keys.collect(),
            revocations: Revocations {
                full: false,
                add: vec![hash; MAX_REVOCATIONS],
                remove: Vec::new(),
            },
        };
        let answer = serde_json::to_vec(&bootstrap).unwrap();
        assert!(answer.len() < MAX_ANSWER_LEN, "{}", answer.len());
    }
}
