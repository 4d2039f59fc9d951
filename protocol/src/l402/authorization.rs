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
pub use crate::http::credentials::Upstream;
use crate::http::credentials::{Foreign, Parts, after_scheme};

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
        for part in Parts::new(value, after_our_scheme) {
            let Some(ours) = after_our_scheme(part) else {
                foreign.keep(part);
                continue;
            };
            foreign.skip();
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

fn after_our_scheme(text: &[u8]) -> Option<&[u8]> {
    SCHEMES.iter().find_map(|scheme| after_scheme(text, scheme))
}
