//! What is taken out of a request before an upstream sees it, on every route.
//!
//! The payment schemes meet here: each says what of the request's head is its own.

use protocol::l402::authorization::{self, Authorization, Upstream};
use protocol::l402::metadata::{self, Metadata};
use protocol::l402::{Budget, Credential, Identifier, Malformed};
use protocol::macaroon::Macaroon;

use crate::head::{Head, METADATA, is_ours, is_override};
use crate::pairs::Pairs;

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

/// Removals of the fields that name another path or method to some upstreams.
pub(super) fn remove_overrides<'h>(pairs: &Pairs<'h>, edits: &mut Vec<Edit<'h>>) {
    remove(pairs, is_override, edits);
}

fn remove<'h>(pairs: &Pairs<'h>, which: fn(&[u8]) -> bool, edits: &mut Vec<Edit<'h>>) {
    let names = pairs.iter().map(|(name, _)| name);
    edits.extend(names.filter(|name| which(name)).map(Edit::Remove));
}

/// What the client presents to us.
#[derive(Debug, Default)]
pub(super) struct Presented {
    pub(super) credentials: Vec<Credential>,
    pub(super) malformed: Option<Malformed>,
    /// What is left for their verification.
    pub(super) budget: Budget,
}

impl Presented {
    fn note(&mut self, malformed: Option<Malformed>) {
        self.malformed = self.malformed.or(malformed);
    }
}

/// Takes the credentials of ours out of a request that needs none. The commonest form, one
/// credential alone in its field, is known without decoding it.
pub(super) fn drop_credentials<'h>(head: &Head<'h>, host_is_ours: bool, edits: &mut Vec<Edit<'h>>) {
    let is_plain = |value: &[u8]| {
        let scheme_ends = value.get(4).is_some_and(|byte| *byte == b' ');
        scheme_ends && has_our_scheme(value) && !value.contains(&b',')
    };
    if !head.has_metadata
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
    if head
        .authorization
        .is_some_and(|value| head.authorization_repeated || could_be_ours(value))
    {
        let Authorization {
            credentials,
            malformed,
            upstream,
        } = authorization::parse_within(head.pairs.values(b"authorization"), &mut presented.budget);
        presented.credentials = credentials;
        presented.note(malformed);
        match upstream {
            Upstream::Untouched => {}
            Upstream::Removed => edits.push(Edit::Remove(b"authorization")),
            Upstream::Replaced(value) => edits.push(Edit::Replace(b"authorization", value)),
        }
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

/// One look at a single credential of another scheme, which is what most requests carry.
fn could_be_ours(value: &[u8]) -> bool {
    value.contains(&b',') || has_our_scheme(value.trim_ascii_start())
}

fn has_our_scheme(value: &[u8]) -> bool {
    value.get(..4).is_some_and(|scheme| {
        scheme.eq_ignore_ascii_case(b"L402") || scheme.eq_ignore_ascii_case(b"LSAT")
    })
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
