//! What is taken out of a request before an upstream sees it, on every route.
//!
//! The payment schemes meet here: each says what of the request's head is its own.

use protocol::l402::authorization::{self, Authorization, Upstream};
use protocol::l402::metadata::{self, Metadata};
use protocol::l402::{Budget, Credential, Identifier, Malformed};
use protocol::macaroon::Macaroon;
use protocol::payment::{self, CredentialError};

use crate::head::{Head, METADATA, is_control, is_ours, is_override};
use crate::pairs::Pairs;

const PAYMENT_AUTHORIZATION: &[u8] = payment::authorization::PAYMENT_AUTHORIZATION.as_bytes();

/// A change of the request's header fields.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Edit<'h> {
    /// Remove all values.
    Remove(&'h [u8]),
    /// Put one value in the place of all.
    Replace(&'h [u8], Vec<u8>),
}

/// Removals of the fields in our own name space: only the gate may set those.
pub(super) fn remove_ours<'h>(pairs: &Pairs<'h>, edits: &mut Vec<Edit<'h>>) {
    remove(pairs, is_ours, edits);
}

/// Removals of the fields that name another path or method to some upstreams, and of those by which
/// a client tells Envoy how to forward.
pub(super) fn remove_overrides<'h>(pairs: &Pairs<'h>, edits: &mut Vec<Edit<'h>>) {
    remove(pairs, |name| is_override(name) || is_control(name), edits);
}

fn remove<'h>(pairs: &Pairs<'h>, which: fn(&[u8]) -> bool, edits: &mut Vec<Edit<'h>>) {
    let names = pairs.iter().map(|(name, _)| name);
    edits.extend(names.filter(|name| which(name)).map(Edit::Remove));
}

/// A credential of the Payment scheme, or why what was meant as one is none.
pub(super) type PaymentCredential = Result<payment::authorization::Presented, CredentialError>;

/// What the client presents to us.
#[derive(Default)]
pub(super) struct Presented {
    pub(super) credentials: Vec<Credential>,
    pub(super) malformed: Option<Malformed>,
    /// What is left for their verification.
    pub(super) budget: Budget,
    pub(super) payment: Option<PaymentCredential>,
}

impl Presented {
    /// Something of L402 was presented, usable or not.
    pub(super) const fn has_l402(&self) -> bool {
        !self.credentials.is_empty() || self.malformed.is_some()
    }

    fn note(&mut self, malformed: Option<Malformed>) {
        self.malformed = self.malformed.or(malformed);
    }
}

/// Takes the credentials of ours out of a request that needs none. The commonest form, one
/// credential alone in its field, is known without decoding it.
pub(super) fn drop_credentials<'h>(head: &Head<'h>, host_is_ours: bool, edits: &mut Vec<Edit<'h>>) {
    let is_plain = |value: &[u8]| {
        let name = if has_l402_scheme(value) {
            4
        } else if has_payment_scheme(value) {
            payment::SCHEME.len()
        } else {
            return false;
        };
        value.get(name) == Some(&b' ') && !value.contains(&b',')
    };
    if !head.has_metadata
        && !head.has_payment_authorization
        && !head.authorization_repeated
        && head.authorization.is_some_and(is_plain)
    {
        edits.push(Edit::Remove(b"authorization"));
    } else {
        take_credentials(head, host_is_ours, edits);
    }
}

/// Takes the credentials of ours out of the request. On hosts that are not ours the metadata names
/// belong to others as well (an LND node has a `grpc-metadata-macaroon` of its own), so there only
/// what could be a token of this kind of gate is taken.
pub(super) fn take_credentials<'h>(
    head: &Head<'h>,
    host_is_ours: bool,
    edits: &mut Vec<Edit<'h>>,
) -> Presented {
    let mut presented = Presented::default();
    let could_hold = |has_scheme: fn(&[u8]) -> bool| {
        head.authorization.is_some_and(|value| {
            head.authorization_repeated
                || value.contains(&b',')
                || has_scheme(value.trim_ascii_start())
        })
    };
    let mut upstream = Upstream::Untouched;
    if could_hold(has_l402_scheme) {
        let values = head.pairs.values(b"authorization");
        let found: Authorization = authorization::parse_within(values, &mut presented.budget);
        presented.credentials = found.credentials;
        presented.note(found.malformed);
        upstream = found.upstream;
    }
    let is_known = super::payment::IS_BUILT_IN;
    if is_known && (head.has_payment_authorization || could_hold(has_payment_scheme)) {
        // What L402 leaves: after a credential of the one scheme that of the other begins anew.
        let left: Vec<&[u8]> = match &upstream {
            Upstream::Untouched => head.pairs.values(b"authorization").collect(),
            Upstream::Removed => Vec::new(),
            Upstream::Replaced(value) => vec![value],
        };
        let own_field = head.pairs.values(PAYMENT_AUTHORIZATION);
        let found = payment::authorization::parse(left, own_field);
        presented.payment = found.presented.transpose();
        if found.upstream != Upstream::Untouched {
            upstream = found.upstream;
        }
    }
    match upstream {
        Upstream::Untouched => {}
        Upstream::Removed => edits.push(Edit::Remove(b"authorization")),
        Upstream::Replaced(value) => edits.push(Edit::Replace(b"authorization", value)),
    }
    if is_known && head.has_payment_authorization {
        edits.push(Edit::Remove(PAYMENT_AUTHORIZATION));
    }
    if head.has_metadata {
        for name in METADATA {
            take_metadata(head, name, host_is_ours, &mut presented, edits);
        }
    }
    presented
}

fn take_metadata<'h>(
    head: &Head<'h>,
    name: &'static [u8],
    host_is_ours: bool,
    presented: &mut Presented,
    edits: &mut Vec<Edit<'h>>,
) {
    let mut is_taken = false;
    for value in head.pairs.values(name) {
        // Elsewhere nothing is verified, and all that could be a token has to go.
        if !host_is_ours {
            presented.budget = Budget::default();
        }
        let name = String::from_utf8_lossy(name);
        match metadata::parse_within(&name, value, &mut presented.budget) {
            Metadata::Foreign => {}
            Metadata::Ours(credential) if host_is_ours || credential.tokens().any(is_a_token) => {
                presented.credentials.push(credential);
                is_taken = true;
            }
            Metadata::Malformed(malformed) if host_is_ours => {
                presented.note(Some(malformed));
                is_taken = true;
            }
            Metadata::Ours(_) | Metadata::Malformed(_) => {}
        }
    }
    if is_taken {
        edits.push(Edit::Remove(name));
    }
}

fn is_a_token(bytes: &[u8]) -> bool {
    Macaroon::parse(bytes).is_ok_and(|macaroon| Identifier::parse(macaroon.identifier()).is_ok())
}

/// A credential of the Payment scheme could be in the request.
pub(super) fn may_hold_payment(head: &Head<'_>) -> bool {
    head.has_payment_authorization
        || head.authorization.is_some_and(|value| {
            head.authorization_repeated
                || has_payment_scheme(value.trim_ascii_start())
                || value.contains(&b',')
        })
}

fn has_l402_scheme(value: &[u8]) -> bool {
    value.get(..4).is_some_and(|scheme| {
        scheme.eq_ignore_ascii_case(b"L402") || scheme.eq_ignore_ascii_case(b"LSAT")
    })
}

fn has_payment_scheme(value: &[u8]) -> bool {
    let scheme = payment::SCHEME.as_bytes();
    value
        .get(..scheme.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

/// Fields of trailers that must not reach the upstream: the same as of headers.
#[must_use]
pub fn trailers<'h>(pairs: &Pairs<'h>) -> Vec<Edit<'h>> {
    let head = Head::new(*pairs);
    let mut edits = Vec::new();
    remove_ours(pairs, &mut edits);
    take_credentials(&head, false, &mut edits);
    edits
}
