//! Credentials in `Authorization` headers (spec/l402 section 2.2).
//!
//! ```text
//! credential = ("L402" / "LSAT") 1*SP base64 *( "," base64 ) ":" 64HEXDIG
//! ```
//!
//! Envoy hands over several header lines joined by commas, and proxies in front of it may have
//! joined them before, so one value may hold credentials of ours and of other schemes in any
//! order. Ours are taken out whatever their form; the others are left for the upstream.

use super::{Credential, MAX_HEADER_LEN, MAX_TOKENS_PER_REQUEST, Malformed};
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
    let mut found = Authorization::default();
    let mut foreign = Foreign::default();
    let mut budget = Budget {
        bytes: MAX_HEADER_LEN,
        tokens: MAX_TOKENS_PER_REQUEST,
    };
    for value in values {
        for part in Groups::new(value) {
            let Some(ours) = after_our_scheme(part) else {
                foreign.keep(part);
                continue;
            };
            foreign.has_ours = true;
            match credential(ours, &mut budget) {
                Ok(credential) => found.credentials.push(credential),
                Err(malformed) => found.malformed = found.malformed.or(Some(malformed)),
            }
        }
    }
    found.upstream = foreign.into_upstream();
    found
}

struct Budget {
    bytes: usize,
    tokens: usize,
}

fn credential(text: &[u8], budget: &mut Budget) -> Result<Credential, Malformed> {
    budget.bytes = budget
        .bytes
        .checked_sub(text.len())
        .ok_or(Malformed::TooLong)?;
    let colon = text
        .iter()
        .position(|byte| *byte == b':')
        .ok_or(Malformed::NoColon)?;
    let (tokens, preimage) = text.split_at_checked(colon).ok_or(Malformed::NoColon)?;
    // A second colon is no hexadecimal digit.
    let preimage = preimage
        .strip_prefix(b":")
        .map(<[u8]>::trim_ascii)
        .unwrap_or_default();
    let preimage = Preimage::from_hex(preimage).map_err(|_| Malformed::Preimage)?;
    let credential = Credential::decode(tokens, Some(preimage), base64_decode_into)?;
    budget.tokens = budget
        .tokens
        .checked_sub(credential.token_count())
        .ok_or(Malformed::TooManyTokens)?;
    Ok(credential)
}

/// What follows the scheme if it is one of ours; empty if nothing does.
fn after_our_scheme(part: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = part.split_at_checked(4)?;
    let is_ours = SCHEMES.iter().any(|ours| scheme.eq_ignore_ascii_case(ours));
    let ends_there = rest.first().is_none_or(|byte| is_blank(*byte));
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

/// Splits a header value where a new scheme begins. RFC 9110 has no list of credentials, so this
/// is a matter of looks: after a comma, `scheme 1*SP something` begins anew, while `name=value`,
/// `name = value` and everything else belongs to what came before.
struct Groups<'a> {
    rest: &'a [u8],
    /// There is no closing quote in what is left.
    quotes_are_plain: bool,
}

impl<'a> Groups<'a> {
    const fn new(value: &'a [u8]) -> Self {
        Self {
            rest: value.trim_ascii(),
            quotes_are_plain: false,
        }
    }

    /// Position of the next comma at or after `from` that is in no quoted string.
    fn comma(&mut self, from: usize) -> Option<usize> {
        let mut at = from;
        loop {
            let tail = self.rest.get(at..)?;
            at += tail.iter().position(|byte| matches!(byte, b',' | b'"'))?;
            if self.rest.get(at) == Some(&b',') {
                return Some(at);
            }
            at = self.after_quote(at);
        }
    }

    /// Where to go on after the quotation mark at `open`: behind the quoted string if it is the
    /// value of a parameter and has an end. Any other mark is an ordinary byte, so that a stray
    /// one hides nothing that follows.
    fn after_quote(&mut self, open: usize) -> usize {
        let before = self.rest.get(..open).unwrap_or_default().trim_ascii_end();
        if self.quotes_are_plain || !before.ends_with(b"=") {
            return open + 1;
        }
        let mut at = open + 1;
        while let Some(byte) = self.rest.get(at) {
            match byte {
                b'"' => return at + 1,
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        self.quotes_are_plain = true;
        open + 1
    }
}

impl<'a> Iterator for Groups<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let mut from = 0;
        while let Some(comma) = self.comma(from) {
            let (group, rest) = self.rest.split_at_checked(comma)?;
            let rest = rest.get(1..)?.trim_ascii_start();
            if begins_a_scheme(rest) {
                self.rest = rest;
                return Some(group.trim_ascii());
            }
            from = comma + 1;
        }
        Some(std::mem::take(&mut self.rest))
    }
}

fn begins_a_scheme(text: &[u8]) -> bool {
    let length = text.iter().take_while(|byte| is_token(**byte)).count();
    let (scheme, rest) = text.split_at(length);
    let is_ours = SCHEMES.iter().any(|ours| scheme.eq_ignore_ascii_case(ours));
    let Some(next) = rest.first() else {
        return is_ours;
    };
    if is_ours && (is_blank(*next) || *next == b',') {
        return true;
    }
    let value = rest.trim_ascii_start().first();
    length > 0 && is_blank(*next) && value.is_some_and(|byte| !matches!(byte, b'=' | b','))
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}
