//! Telling our credentials from those of other schemes in one header value.
//!
//! RFC 9110 has no list of credentials, yet Envoy hands over several header lines joined by commas,
//! and proxies in front of it may have joined them before. So this is a matter of looks, and the
//! caller says what one of ours looks like.

use super::auth::is_token;

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

/// What follows `scheme` if the text begins with it; empty if nothing does. Only a blank should
/// follow it, but whatever ends the name will do, lest an upstream be more lenient than we are.
pub(crate) fn after_scheme<'a>(text: &'a [u8], scheme: &[u8]) -> Option<&'a [u8]> {
    let (name, rest) = text.split_at_checked(scheme.len())?;
    let ends_there = rest.first().is_none_or(|byte| !is_token(*byte));
    (name.eq_ignore_ascii_case(scheme) && ends_there).then(|| rest.trim_ascii())
}

/// Credentials of other schemes, of use only if something of ours was among them.
#[derive(Default)]
pub(crate) struct Foreign<'a> {
    parts: Vec<&'a [u8]>,
    has_ours: bool,
}

impl<'a> Foreign<'a> {
    /// A part that is not ours.
    pub(crate) fn keep(&mut self, part: &'a [u8]) {
        if !part.is_empty() {
            self.parts.push(part);
        }
    }

    /// A part that is ours.
    pub(crate) const fn skip(&mut self) {
        self.has_ours = true;
    }

    pub(crate) fn into_upstream(self) -> Upstream {
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
/// After any comma the name of one of our schemes begins a credential of ours, also within a quoted
/// string: a stray quotation mark must not carry a credential past us. It ends at the next comma
/// after which `scheme 1*SP something` stands, while `name=value`, `name = value` and anything else
/// belongs to it.
pub(crate) struct Parts<'a, F> {
    rest: &'a [u8],
    /// What follows our scheme, see [`after_scheme`].
    after_our_scheme: F,
}

impl<'a, F: Fn(&[u8]) -> Option<&[u8]>> Parts<'a, F> {
    pub(crate) const fn new(value: &'a [u8], after_our_scheme: F) -> Self {
        Self {
            rest: value,
            after_our_scheme,
        }
    }

    fn is_ours(&self, text: &[u8]) -> bool {
        (self.after_our_scheme)(text).is_some()
    }
}

impl<'a, F: Fn(&[u8]) -> Option<&[u8]>> Iterator for Parts<'a, F> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let text = self.rest.trim_ascii();
        if text.is_empty() {
            return None;
        }
        let any_scheme_ends = self.is_ours(text);
        let mut rest = text;
        while let Some(comma) = rest.iter().position(|byte| *byte == b',') {
            rest = rest.get(comma + 1..)?.trim_ascii_start();
            if self.is_ours(rest) || any_scheme_ends && begins_a_scheme(rest) {
                self.rest = rest;
                let part = text.get(..text.len() - rest.len())?.trim_ascii_end();
                return Some(part.strip_suffix(b",").unwrap_or(part).trim_ascii_end());
            }
        }
        self.rest = &[];
        Some(text)
    }
}

fn begins_a_scheme(text: &[u8]) -> bool {
    let length = text.iter().take_while(|byte| is_token(**byte)).count();
    let (_, rest) = text.split_at(length);
    let has_blank = rest.first().is_some_and(|byte| is_blank(*byte));
    let value = rest.trim_ascii_start().first();
    let has_value = value.is_some_and(|byte| !matches!(byte, b'=' | b','));
    length > 0 && has_blank && has_value
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}
