//! What a client presents: a challenge sent back and the proof that it was paid
//! (spec/payment-auth section 2.5).

use std::borrow::Cow;

use super::challenge::{Challenge, Intent};
use super::json::Object;
use super::request::lower_hex;
use super::{SCHEME, jcs};
use crate::encoding::base64url;
use crate::hash::{PaymentHash, Preimage};

/// Why something that was meant as a credential of ours is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[error("{}", self.reason())]
pub enum CredentialError {
    /// More than one in a request (R-CORE-20).
    Several,
    /// Longer than [`super::MAX_HEADER_LEN`].
    TooLong,
    /// Nothing, or not base64url.
    Encoding,
    /// Not one JSON object, or one that is nested too deeply or names a member twice.
    NotJson,
    /// `challenge` is absent, or one of its members is absent, empty or no string.
    Challenge,
    /// `payload` is absent, or one of the members that the intent wants is absent or no string.
    Payload,
    /// `action` is none of the session actions.
    Action,
    /// A preimage is not 64 lower-case hexadecimal digits.
    Preimage,
    /// A session id is not 64 lower-case hexadecimal digits.
    SessionId,
}

impl CredentialError {
    /// A short text of a closed set, fit for a problem's `detail`, logs and metric labels.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Several => "more than one Payment credential",
            Self::TooLong => "malformed: credential too long",
            Self::Encoding => "malformed: not base64url",
            Self::NotJson => "malformed: not a JSON object",
            Self::Challenge => "malformed: challenge",
            Self::Payload => "malformed: payload",
            Self::Action => "malformed: action",
            Self::Preimage => "malformed: preimage is not 64 lower-case hex digits",
            Self::SessionId => "malformed: session id is not 64 lower-case hex digits",
        }
    }
}

/// A credential in parts. What they say is not checked yet: see [`super::verify()`].
///
/// A bearer secret: has no `Debug`.
pub struct Credential<'a> {
    /// What the client says it was asked for.
    pub challenge: Challenge<'a>,
    /// Who pays, in the client's words; must not be asked for (R-CHARGE-9).
    pub source: Option<Cow<'a, str>>,
    payload: Object<'a>,
}

impl<'a> Credential<'a> {
    /// Reads the JSON, canonical or not; unknown members are ignored, wherever they are.
    ///
    /// # Errors
    ///
    /// [`CredentialError`] names the first thing wrong.
    pub fn from_json(json: &'a [u8]) -> Result<Self, CredentialError> {
        let mut object = Object::parse(json).ok_or(CredentialError::NotJson)?;
        let challenge = object
            .take_object("challenge")
            .and_then(challenge)
            .ok_or(CredentialError::Challenge)?;
        let payload = object
            .take_object("payload")
            .ok_or(CredentialError::Payload)?;
        Ok(Self {
            challenge,
            payload,
            source: object.take_text("source"),
        })
    }

    /// Meant as topUp or close of a session, which belong to the realm and to no resource, well
    /// formed or not.
    #[must_use]
    pub fn is_for_realm(&self) -> bool {
        self.challenge.intent == Intent::Session.as_str()
            && matches!(self.payload.text("action"), Some("topUp" | "close"))
    }

    /// The proof for a charge.
    ///
    /// # Errors
    ///
    /// [`CredentialError`] of the payload.
    pub fn charge_preimage(&self) -> Result<Preimage, CredentialError> {
        self.preimage("preimage")
    }

    /// The action on a session.
    ///
    /// # Errors
    ///
    /// [`CredentialError`] of the payload.
    pub fn session_payload(&self) -> Result<SessionPayload<'_>, CredentialError> {
        let action = self
            .payload
            .text("action")
            .ok_or(CredentialError::Payload)?;
        Ok(match action {
            "open" => SessionPayload::Open {
                preimage: self.preimage("preimage")?,
                return_invoice: self
                    .payload
                    .text("returnInvoice")
                    .ok_or(CredentialError::Payload)?,
            },
            "bearer" => SessionPayload::Bearer {
                session_id: self.session_id()?,
                preimage: self.preimage("preimage")?,
            },
            "topUp" => SessionPayload::TopUp {
                session_id: self.session_id()?,
                preimage: self.preimage("topUpPreimage")?,
            },
            "close" => SessionPayload::Close {
                session_id: self.session_id()?,
                preimage: self.preimage("preimage")?,
            },
            _ => return Err(CredentialError::Action),
        })
    }

    fn preimage(&self, name: &str) -> Result<Preimage, CredentialError> {
        let text = self.payload.text(name).ok_or(CredentialError::Payload)?;
        lower_hex(text)
            .and_then(|text| Preimage::from_hex(text).ok())
            .ok_or(CredentialError::Preimage)
    }

    fn session_id(&self) -> Result<PaymentHash, CredentialError> {
        let text = self
            .payload
            .text("sessionId")
            .ok_or(CredentialError::Payload)?;
        lower_hex(text)
            .and_then(|text| text.parse().ok())
            .ok_or(CredentialError::SessionId)
    }
}

fn challenge(mut object: Object<'_>) -> Option<Challenge<'_>> {
    let mut required = |name| object.take_text(name).filter(|text| !text.is_empty());
    let mut challenge = Challenge {
        id: required("id")?,
        realm: required("realm")?,
        method: required("method")?,
        intent: required("intent")?,
        request: required("request")?,
        ..Challenge::default()
    };
    for (name, slot) in [
        ("expires", &mut challenge.expires),
        ("digest", &mut challenge.digest),
        ("description", &mut challenge.description),
        ("opaque", &mut challenge.opaque),
    ] {
        if object.has(name) {
            *slot = Some(object.take_text(name)?);
        }
    }
    Some(challenge)
}

/// What a session credential asks for, with its proof. A bearer secret: has no `Debug`.
#[allow(missing_docs)] // Members are those of spec/payment-auth section 2.5.
pub enum SessionPayload<'a> {
    /// Begin a session with the deposit of the challenge; the rest of it goes to the invoice.
    Open {
        preimage: Preimage,
        return_invoice: &'a str,
    },
    /// Use a session.
    Bearer {
        session_id: PaymentHash,
        preimage: Preimage,
    },
    /// Add the deposit of the challenge to a session.
    TopUp {
        session_id: PaymentHash,
        preimage: Preimage,
    },
    /// End a session.
    Close {
        session_id: PaymentHash,
        preimage: Preimage,
    },
}

/// The value of an `Authorization` header, as a client writes it: canonical JSON, all that the
/// challenge had, and the members of `payload`.
#[must_use]
pub fn encode(challenge: &Challenge<'_>, payload: &[(&str, &str)]) -> String {
    let mut echo: Vec<_> = challenge.params().collect();
    echo.sort_unstable();
    let mut payload = payload.to_vec();
    payload.sort_unstable();
    let json = jcs::Object::with_capacity(challenge.request.len() + 512)
        .object("challenge", |object| fill(object, &echo))
        .object("payload", |object| fill(object, &payload))
        .finish();
    format!("{SCHEME} {}", base64url(json.as_bytes()))
}

fn fill(object: &mut jcs::Object, members: &[(&str, &str)]) {
    for (name, value) in members {
        object.text(name, value);
    }
}
