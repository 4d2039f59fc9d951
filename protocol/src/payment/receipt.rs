//! Receipts: the `Payment-Receipt` header of a paid response (spec/payment-auth section 2.6).
//!
//! Only on success: never on an error response, and never without `Cache-Control: private`.

use std::borrow::Cow;

use super::json::Object;
use super::{METHOD, jcs};
use crate::encoding::{base64url, base64url_decode};
use crate::hash::PaymentHash;
use crate::time::UnixSeconds;

/// Name of the header.
pub const HEADER: &str = "payment-receipt";
/// The only `status` there is.
pub(super) const SUCCESS: &str = "success";

/// Proof of what was paid for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Receipt<'a> {
    /// The challenge that was presented; always there in ours.
    pub challenge_id: Option<Cow<'a, str>>,
    /// Payment hash of a charge, id of a session. Never the preimage.
    pub reference: Cow<'a, str>,
    /// The moment of settlement, RFC 3339.
    pub timestamp: Cow<'a, str>,
    /// What became of the rest of a session: on close, and only there.
    pub refund: Option<Refund>,
}

/// What a closed session gives back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refund {
    /// In satoshi, 0 included.
    pub sats: u64,
    /// Whether it has arrived.
    pub status: RefundStatus,
}

/// Whether a refund has arrived.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RefundStatus {
    /// It has.
    Succeeded,
    /// It has not, or nobody knows yet (X17).
    Failed,
    /// There is none to pay.
    Skipped,
}

impl RefundStatus {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    /// The status of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Succeeded, Self::Failed, Self::Skipped]
            .into_iter()
            .find(|status| status.as_str() == name)
    }
}

/// Why a text is no receipt of ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// Not base64url.
    #[error("not base64url")]
    Encoding,
    /// Not one JSON object with each member once.
    #[error("not a JSON object")]
    NotJson,
    /// A member is absent or of the wrong form.
    #[error("member {0} absent or malformed")]
    Member(&'static str),
}

impl<'a> Receipt<'a> {
    /// Receipt for a charge or an action on a session.
    #[must_use]
    pub fn new(challenge_id: &'a str, reference: PaymentHash, now: UnixSeconds) -> Self {
        Self {
            challenge_id: Some(challenge_id.into()),
            reference: reference.to_string().into(),
            timestamp: now.to_rfc3339().into(),
            refund: None,
        }
    }

    /// Receipt for closing a session.
    #[must_use]
    pub const fn with_refund(mut self, refund: Refund) -> Self {
        self.refund = Some(refund);
        self
    }

    /// The canonical JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut object = jcs::Object::with_capacity(256);
        object
            .optional("challengeId", self.challenge_id.as_deref())
            .text("method", METHOD)
            .text("reference", &self.reference);
        if let Some(refund) = self.refund {
            object
                .number("refundSats", refund.sats)
                .text("refundStatus", refund.status.as_str());
        }
        object
            .text("status", SUCCESS)
            .text("timestamp", &self.timestamp)
            .finish()
    }

    /// The value of the header.
    #[must_use]
    pub fn to_header(&self) -> String {
        base64url(self.to_json().as_bytes())
    }

    /// Reads the JSON that [`decode`] gives, as a client does. A refund status without an amount
    /// means zero, as Aperture writes it.
    ///
    /// # Errors
    ///
    /// [`ReceiptError`] names the first member that is wrong.
    pub fn from_json(json: &'a [u8]) -> Result<Self, ReceiptError> {
        let mut object = Object::parse(json).ok_or(ReceiptError::NotJson)?;
        for (name, expected) in [("method", METHOD), ("status", SUCCESS)] {
            if object.text(name) != Some(expected) {
                return Err(ReceiptError::Member(name));
            }
        }
        let refund = match object.take_text("refundStatus") {
            None => None,
            Some(name) => Some(Refund {
                sats: match object.number("refundSats") {
                    Some(sats) => sats,
                    None if object.has("refundSats") => {
                        return Err(ReceiptError::Member("refundSats"));
                    }
                    None => 0,
                },
                status: RefundStatus::from_name(&name)
                    .ok_or(ReceiptError::Member("refundStatus"))?,
            }),
        };
        let mut required = |name| object.take_text(name).ok_or(ReceiptError::Member(name));
        Ok(Self {
            reference: required("reference")?,
            timestamp: required("timestamp")?,
            challenge_id: object.take_text("challengeId"),
            refund,
        })
    }
}

/// The JSON of a header value.
///
/// # Errors
///
/// [`ReceiptError::Encoding`].
pub fn decode(header: &str) -> Result<Vec<u8>, ReceiptError> {
    base64url_decode(header).map_err(|_| ReceiptError::Encoding)
}
