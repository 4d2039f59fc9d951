//! What a challenge asks for: the JSON inside its `request` (spec/payment-auth sections 2.3, 2.4).
//!
//! Amounts are whole satoshis; the scheme cannot say less than one. The expiry is never in here
//! (R-CHARGE-2).

use std::borrow::Cow;

use super::jcs;
use super::json::Object;
use crate::amount::Sat;
use crate::encoding::{base64url, base64url_decode};
use crate::hash::PaymentHash;

/// The only unit of amounts.
pub const CURRENCY: &str = "sat";

/// Why a `request` cannot be understood.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
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

/// The Bitcoin networks that the scheme has names for. Testnet has none (section 2.3): the scheme
/// cannot be used there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Network {
    /// Real money.
    Mainnet,
    /// A chain of one's own.
    Regtest,
    /// Play money with a signature.
    Signet,
}

impl Network {
    const ALL: [Self; 3] = [Self::Mainnet, Self::Regtest, Self::Signet];

    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mainnet => "mainnet",
            Self::Regtest => "regtest",
            Self::Signet => "signet",
        }
    }

    /// The network of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|network| network.as_str() == name)
    }

    /// The network of a BOLT 11 invoice, by the start of its text.
    #[must_use]
    pub fn of_invoice(invoice: &str) -> Option<Self> {
        // A digit follows: that of an amount, or the separator `1` where there is none.
        let starts = |prefix: &str| {
            invoice
                .strip_prefix(prefix)
                .is_some_and(|rest| rest.starts_with(|next: char| next.is_ascii_digit()))
        };
        [
            ("lnbcrt", Self::Regtest),
            ("lnbc", Self::Mainnet),
            ("lntbs", Self::Signet),
        ]
        .into_iter()
        .find_map(|(prefix, network)| starts(prefix).then_some(network))
    }
}

/// What one charge costs and how to pay it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChargeRequest<'a> {
    /// The price; equals the amount of the invoice.
    pub amount: Sat,
    /// Also the memo of the invoice.
    pub description: Option<Cow<'a, str>>,
    /// A name of the seller's for the sale; not used here.
    pub external_id: Option<Cow<'a, str>>,
    /// BOLT 11 text.
    pub invoice: Cow<'a, str>,
    /// Network of the invoice; absent means mainnet.
    pub network: Option<Network>,
    /// Payment hash of the invoice: always there in ours, since a preimage is checked against it.
    pub payment_hash: Option<PaymentHash>,
    /// Not used with Lightning: the invoice names the payee.
    pub recipient: Option<Cow<'a, str>>,
}

impl<'a> ChargeRequest<'a> {
    /// A request with all that is needed and nothing else.
    #[must_use]
    pub fn new(amount: Sat, invoice: &'a str, hash: PaymentHash, network: Network) -> Self {
        Self {
            amount,
            description: None,
            external_id: None,
            invoice: invoice.into(),
            network: Some(network),
            payment_hash: Some(hash),
            recipient: None,
        }
    }

    /// The canonical JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let hash = self.payment_hash.map(|hash| hash.to_string());
        jcs::Object::with_capacity(self.invoice.len() + 256)
            .text("amount", &self.amount.to_string())
            .text("currency", CURRENCY)
            .optional("description", self.description.as_deref())
            .optional("externalId", self.external_id.as_deref())
            .object("methodDetails", |details| {
                details
                    .text("invoice", &self.invoice)
                    .optional("network", self.network.map(Network::as_str))
                    .optional("paymentHash", hash.as_deref());
            })
            .optional("recipient", self.recipient.as_deref())
            .finish()
    }

    /// The value of the parameter `request`.
    #[must_use]
    pub fn encode(&self) -> String {
        base64url(self.to_json().as_bytes())
    }

    /// Reads the JSON that [`decode`] gives.
    ///
    /// # Errors
    ///
    /// [`RequestError`] names the first member that is wrong. Unknown members are ignored.
    pub fn from_json(json: &'a [u8]) -> Result<Self, RequestError> {
        let mut object = Object::parse(json).ok_or(RequestError::NotJson)?;
        let mut details = object
            .take_object("methodDetails")
            .ok_or(RequestError::Member("methodDetails"))?;
        Ok(Self {
            amount: amount(&object)?,
            invoice: required(&mut details, "invoice")?,
            network: optional(&mut details, "network")?
                .map(|name| Network::from_name(&name).ok_or(RequestError::Member("network")))
                .transpose()?,
            payment_hash: optional(&mut details, "paymentHash")?
                .map(|text| hash(&text))
                .transpose()?,
            description: optional(&mut object, "description")?,
            external_id: optional(&mut object, "externalId")?,
            recipient: optional(&mut object, "recipient")?,
        })
    }
}

/// What a session costs and how to pay its deposit, or a further one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SessionRequest<'a> {
    /// Price of one unit.
    pub amount: Sat,
    /// Amount of the deposit invoice; always there in ours.
    pub deposit_amount: Option<Sat>,
    /// BOLT 11 text; always there in ours, since nobody can know which action follows (X2).
    pub deposit_invoice: Option<Cow<'a, str>>,
    /// For people.
    pub description: Option<Cow<'a, str>>,
    /// After so many seconds without use the session is closed.
    pub idle_timeout_seconds: Option<u64>,
    /// Payment hash of the deposit invoice; that of the first deposit is the session id.
    pub payment_hash: PaymentHash,
    /// What one unit is, for people: `request`, `event`.
    pub unit_type: Option<Cow<'a, str>>,
}

impl<'a> SessionRequest<'a> {
    /// The canonical JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        let deposit = self.deposit_amount.map(|amount| amount.to_string());
        let idle = self.idle_timeout_seconds.map(|seconds| seconds.to_string());
        let invoice = self.deposit_invoice.as_deref();
        jcs::Object::with_capacity(invoice.map_or(0, str::len) + 256)
            .text("amount", &self.amount.to_string())
            .text("currency", CURRENCY)
            .optional("depositAmount", deposit.as_deref())
            .optional("depositInvoice", invoice)
            .optional("description", self.description.as_deref())
            .optional("idleTimeout", idle.as_deref())
            .text("paymentHash", &self.payment_hash.to_string())
            .optional("unitType", self.unit_type.as_deref())
            .finish()
    }

    /// The value of the parameter `request`.
    #[must_use]
    pub fn encode(&self) -> String {
        base64url(self.to_json().as_bytes())
    }

    /// Reads the JSON that [`decode`] gives.
    ///
    /// # Errors
    ///
    /// [`RequestError`] names the first member that is wrong. Unknown members are ignored.
    pub fn from_json(json: &'a [u8]) -> Result<Self, RequestError> {
        let mut object = Object::parse(json).ok_or(RequestError::NotJson)?;
        let amount = amount(&object)?;
        let positive = |text: Cow<'_, str>| Sat::parse_positive(&text);
        Ok(Self {
            amount,
            deposit_amount: optional(&mut object, "depositAmount")?
                .map(|text| positive(text).ok_or(RequestError::Member("depositAmount")))
                .transpose()?,
            deposit_invoice: optional(&mut object, "depositInvoice")?,
            description: optional(&mut object, "description")?,
            idle_timeout_seconds: optional(&mut object, "idleTimeout")?
                .map(|text| {
                    text.parse()
                        .map_err(|_| RequestError::Member("idleTimeout"))
                })
                .transpose()?,
            payment_hash: hash(&required(&mut object, "paymentHash")?)?,
            unit_type: optional(&mut object, "unitType")?,
        })
    }
}

/// The JSON of a `request`.
///
/// # Errors
///
/// [`RequestError::Encoding`].
pub fn decode(request: &str) -> Result<Vec<u8>, RequestError> {
    base64url_decode(request).map_err(|_| RequestError::Encoding)
}

fn amount(object: &Object<'_>) -> Result<Sat, RequestError> {
    if object.text("currency") != Some(CURRENCY) {
        return Err(RequestError::Member("currency"));
    }
    object
        .text("amount")
        .and_then(Sat::parse_positive)
        .ok_or(RequestError::Member("amount"))
}

fn required<'a>(object: &mut Object<'a>, name: &'static str) -> Result<Cow<'a, str>, RequestError> {
    object.take_text(name).ok_or(RequestError::Member(name))
}

fn optional<'a>(
    object: &mut Object<'a>,
    name: &'static str,
) -> Result<Option<Cow<'a, str>>, RequestError> {
    if object.has(name) {
        required(object, name).map(Some)
    } else {
        Ok(None)
    }
}

fn hash(text: &str) -> Result<PaymentHash, RequestError> {
    lower_hex(text)
        .and_then(|text| text.parse().ok())
        .ok_or(RequestError::Member("paymentHash"))
}

/// Hexadecimal digits have one spelling in this scheme.
pub(super) fn lower_hex(text: &str) -> Option<&str> {
    let has_upper = text.bytes().any(|byte| byte.is_ascii_uppercase());
    (!has_upper).then_some(text)
}
