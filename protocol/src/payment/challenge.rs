//! Challenges: the `WWW-Authenticate: Payment` lines of a 402 (spec/payment-auth sections 2.1, 2.2).
//!
//! Issued challenges have `id`, `realm`, `method`, `intent`, `request` and `expires`, and never
//! `description`, `digest` or `opaque`: some clients cut a description at an escape, some leave all
//! three out of what they send back. What those would bind is bound by the key.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use super::request::{ChargeRequest, SessionRequest};
use super::{METHOD, Realm, SCHEME};
use crate::encoding::base64_std;
use crate::hash::sha256;
use crate::http::auth::{self, AuthError};
use crate::keys::ChallengeKey;
use crate::time::UnixSeconds;

/// What a payment is for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Intent {
    /// One payment, one response.
    Charge,
    /// A deposit, many responses.
    Session,
}

impl Intent {
    /// The name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Charge => "charge",
            Self::Session => "session",
        }
    }
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Intent {
    type Err = UnknownIntent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "charge" => Ok(Self::Charge),
            "session" => Ok(Self::Session),
            _ => Err(UnknownIntent),
        }
    }
}

/// Neither `charge` nor `session`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("unknown intent")]
pub struct UnknownIntent;

/// The parameters of one challenge, as they are on the wire and as a credential repeats them.
///
/// Nothing about them is checked: what is presented is judged by [`super::verify()`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Challenge<'a> {
    /// Name of the challenge; see [`ChallengeKey::id`].
    pub id: Cow<'a, str>,
    /// Protection space.
    pub realm: Cow<'a, str>,
    /// Payment method; [`METHOD`] in ours.
    pub method: Cow<'a, str>,
    /// See [`Intent`].
    pub intent: Cow<'a, str>,
    /// Base64url of the canonical JSON of a [`ChargeRequest`] or [`SessionRequest`].
    pub request: Cow<'a, str>,
    /// End of life, RFC 3339; always there in ours.
    pub expires: Option<Cow<'a, str>>,
    /// See [`content_digest`]; never in ours.
    pub digest: Option<Cow<'a, str>>,
    /// For people, outside of what the id binds; never in ours.
    pub description: Option<Cow<'a, str>>,
    /// Base64url of canonical JSON; never in ours.
    pub opaque: Option<Cow<'a, str>>,
}

impl<'a> Challenge<'a> {
    /// A challenge for one charge. Presented after `expires` it is refused, so the invoice must
    /// not live shorter, and should not live much longer (X7).
    #[must_use]
    pub fn charge(
        key: &ChallengeKey,
        realm: &'a Realm,
        request: &ChargeRequest<'_>,
        expires: UnixSeconds,
    ) -> Self {
        Self::issue(key, realm, Intent::Charge, request.encode(), expires)
    }

    /// A challenge for opening or topping up a session, to be repeated by its other actions as
    /// well.
    #[must_use]
    pub fn session(
        key: &ChallengeKey,
        realm: &'a Realm,
        request: &SessionRequest<'_>,
        expires: UnixSeconds,
    ) -> Self {
        Self::issue(key, realm, Intent::Session, request.encode(), expires)
    }

    fn issue(
        key: &ChallengeKey,
        realm: &'a Realm,
        intent: Intent,
        request: String,
        expires: UnixSeconds,
    ) -> Self {
        let mut challenge = Self {
            realm: realm.as_str().into(),
            method: METHOD.into(),
            intent: intent.as_str().into(),
            request: request.into(),
            expires: Some(expires.to_rfc3339().into()),
            ..Self::default()
        };
        challenge.id = key.id(&challenge.slots()).into();
        challenge
    }

    /// What the id is made from.
    #[must_use]
    pub fn slots(&self) -> Slots<'_> {
        Slots {
            realm: &self.realm,
            method: &self.method,
            intent: &self.intent,
            request: &self.request,
            expires: self.expires.as_deref().unwrap_or_default(),
            digest: self.digest.as_deref().unwrap_or_default(),
            opaque: self.opaque.as_deref().unwrap_or_default(),
        }
    }

    /// Required parameters first, in the order of the specification's table.
    pub(super) fn params(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let required = [
            ("id", &self.id),
            ("realm", &self.realm),
            ("method", &self.method),
            ("intent", &self.intent),
            ("request", &self.request),
        ];
        let optional = [
            ("expires", &self.expires),
            ("digest", &self.digest),
            ("description", &self.description),
            ("opaque", &self.opaque),
        ];
        let required = required.into_iter().map(|(name, value)| (name, &**value));
        let optional = optional
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_deref()?)));
        required.chain(optional)
    }

    /// The value of one `WWW-Authenticate` line: everything quoted, comma and blank between.
    #[must_use]
    pub fn to_line(&self) -> String {
        auth::Challenge {
            scheme: SCHEME,
            value: auth::Value::Params(
                self.params()
                    .map(|(name, value)| (name, value.into()))
                    .collect(),
            ),
        }
        .to_string()
    }

    /// Reads the Payment challenges of a `WWW-Authenticate` value, as a client does: those that
    /// lack a required parameter are passed over, of a repeated parameter the first counts,
    /// unknown ones are ignored.
    ///
    /// # Errors
    ///
    /// [`AuthError`] names the first place where the text leaves the grammar.
    pub fn parse_list(text: &'a str) -> Result<Vec<Self>, AuthError> {
        let all = auth::Challenge::parse_list_first_wins(text)?;
        let ours = all.into_iter().filter(|one| one.is(SCHEME));
        Ok(ours.filter_map(Self::from_params).collect())
    }

    fn from_params(challenge: auth::Challenge<'a>) -> Option<Self> {
        let auth::Value::Params(mut params) = challenge.value else {
            return None;
        };
        let mut take = |name: &str| {
            let at = params
                .iter()
                .position(|(known, _)| known.eq_ignore_ascii_case(name))?;
            Some(params.swap_remove(at).1)
        };
        Some(Self {
            id: take("id").filter(|id| !id.is_empty())?,
            realm: take("realm")?,
            method: take("method")?,
            intent: take("intent")?,
            request: take("request")?,
            expires: take("expires"),
            digest: take("digest"),
            description: take("description"),
            opaque: take("opaque"),
        })
    }
}

/// The seven values that a challenge id binds, empty where a parameter is absent.
///
/// They are joined by `|` without escaping. None of ours can hold one, since realm, method and
/// intent are compared with ours and the others are no free text; and a presented value with one
/// in it makes more of them than any issued challenge has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs)] // As in `Challenge`.
pub struct Slots<'a> {
    pub realm: &'a str,
    pub method: &'a str,
    pub intent: &'a str,
    pub request: &'a str,
    pub expires: &'a str,
    pub digest: &'a str,
    pub opaque: &'a str,
}

impl<'a> Slots<'a> {
    pub(crate) fn joined(&self) -> [&'a [u8]; 13] {
        let Slots {
            realm,
            method,
            intent,
            request,
            expires,
            digest,
            opaque,
        } = *self;
        [
            realm, "|", method, "|", intent, "|", request, "|", expires, "|", digest, "|", opaque,
        ]
        .map(str::as_bytes)
    }
}

/// Knows the challenges that were issued here.
pub trait Issued {
    /// The id was made here from these slots. To be found out in constant time.
    fn is_issued(&self, id: &str, slots: &Slots<'_>) -> bool;
}

/// RFC 9530 digest of a request body, as the parameter `digest` holds it.
#[must_use]
pub fn content_digest(body: &[u8]) -> String {
    format!("sha-256=:{}:", base64_std(&sha256(body)))
}
