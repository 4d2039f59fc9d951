//! Credentials in `Authorization` headers (spec/l402 section 2.2).
//!
//! ```text
//! credential = ("L402" / "LSAT") 1*SP base64 *( "," base64 ) ":" 64HEXDIG
//! ```
//!
//! Envoy hands over several header lines joined by commas, and proxies in front of it may have
//! joined them before, so one value may hold credentials of ours and of other schemes in any
//! order. Ours are taken out whatever their form; the others are left for the upstream.

use super::{Budget, Credential, Malformed};
use crate::encoding::base64_decode_into;
use crate::hash::Preimage;
use crate::http::auth::is_token;

const SCHEMES: [&[u8]; 2] = [b"L402", b"LSAT"];

/// What [`parse`] found.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Authorization {
    /// Credentials of ours, in the order of the header.
    pub credentials: Vec<Credential>,
    /// What is wrong with the first credential of ours that cannot be used, if there is one.
    pub malformed: Option<Malformed>,
    /// What the upstream may see.
    pub upstream: Upstream,
}

impl Authorization {
    /// Something of ours was presented, usable or not.
    #[must_use]
    pub const fn is_ours(&self) -> bool {
        !self.credentials.is_empty() || self.malformed.is_some()
    }
}

/// What becomes of the `Authorization` header on its way to the upstream.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Upstream {
    /// Nothing of ours was in it.
    #[default]
    Untouched,
    /// All of it was ours: remove the header.
    Removed,
    /// Put this in its place: the credentials of other schemes.
    Replaced(Vec<u8>),
}

/// Reads all values of the `Authorization` header, each perhaps joined from several by commas.
#[must_use]
pub fn parse<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Authorization {
    parse_within(values, &mut Budget::default())
}

/// The same, if other fields of the request may hold credentials too.
#[must_use]
pub fn parse_within<'a>(
    values: impl IntoIterator<Item = &'a [u8]>,
    budget: &mut Budget,
) -> Authorization {
    let mut found = Authorization::default();
    let mut foreign = Foreign::default();
    for value in values {
        for part in Parts(value) {
            let Some(ours) = after_our_scheme(part) else {
                foreign.keep(part);
                continue;
            };
            foreign.has_ours = true;
            match credential(ours, budget) {
                Ok(credential) => found.credentials.push(credential),
                Err(malformed) => found.malformed = found.malformed.or(Some(malformed)),
            }
        }
    }
    found.upstream = foreign.into_upstream();
    found
}

fn credential(text: &[u8], budget: &mut Budget) -> Result<Credential, Malformed> {
    budget.take_bytes(text.len())?;
    // The last one, since it is near the end; another before it is no base64.
    let colon = text
        .iter()
        .rposition(|byte| *byte == b':')
        .ok_or(Malformed::NoColon)?;
    let (tokens, preimage) = text.split_at_checked(colon).ok_or(Malformed::NoColon)?;
    let preimage = preimage
        .strip_prefix(b":")
        .map(<[u8]>::trim_ascii)
        .unwrap_or_default();
    let preimage = Preimage::from_hex(preimage).map_err(|_| Malformed::Preimage)?;
    let credential = Credential::decode(tokens, Some(preimage), base64_decode_into)?;
    budget.take_tokens(&credential)?;
    Ok(credential)
}

/// What follows the scheme if it is one of ours; empty if nothing does. Only a blank should follow
/// it, but whatever ends the name makes it ours, lest an upstream be more lenient than we are.
fn after_our_scheme(text: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = text.split_at_checked(4)?;
    let is_ours = SCHEMES.iter().any(|ours| scheme.eq_ignore_ascii_case(ours));
    let ends_there = rest.first().is_none_or(|byte| !is_token(*byte));
    (is_ours && ends_there).then(|| rest.trim_ascii())
}

/// Credentials of other schemes, collected only once something of ours has been seen.
#[derive(Default)]
struct Foreign<'a> {
    parts: Vec<&'a [u8]>,
    has_ours: bool,
}

impl<'a> Foreign<'a> {
    fn keep(&mut self, part: &'a [u8]) {
        if !part.is_empty() {
            self.parts.push(part);
        }
    }

    fn into_upstream(self) -> Upstream {
        if !self.has_ours {
            Upstream::Untouched
        } else if self.parts.is_empty() {
            Upstream::Removed
        } else {
            Upstream::Replaced(self.parts.join(b", ".as_slice()))
        }
    }
}

/// Splits a header value into credentials of ours and everything between them.
///
/// RFC 9110 has no list of credentials, so this is a matter of looks. After any comma the name of
/// one of our schemes begins a credential of ours, also within a quoted string: a stray quotation
/// mark must not carry a credential past us. It ends at the next comma after which `scheme 1*SP
/// something` stands, while `name=value`, `name = value` and anything else belongs to it.
struct Parts<'a>(&'a [u8]);

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.0.trim_ascii();
        if text.is_empty() {
            return None;
        }
        let is_end = if after_our_scheme(text).is_some() {
            begins_a_scheme
        } else {
            |rest: &[u8]| after_our_scheme(rest).is_some()
        };
        let mut rest = text;
        while let Some(comma) = rest.iter().position(|byte| *byte == b',') {
            rest = rest.get(comma + 1..)?.trim_ascii_start();
            if is_end(rest) {
                self.0 = rest;
                let part = text.get(..text.len() - rest.len())?.trim_ascii_end();
                return Some(part.strip_suffix(b",").unwrap_or(part).trim_ascii_end());
            }
        }
        self.0 = &[];
        Some(text)
    }
}

fn begins_a_scheme(text: &[u8]) -> bool {
    let length = text.iter().take_while(|byte| is_token(**byte)).count();
    let (_, rest) = text.split_at(length);
    let has_blank = rest.first().is_some_and(|byte| is_blank(*byte));
    let value = rest.trim_ascii_start().first();
    let has_value = value.is_some_and(|byte| !matches!(byte, b'=' | b','));
    length > 0 && has_blank && has_value || after_our_scheme(text).is_some()
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}
