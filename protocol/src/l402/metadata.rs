//! Credentials in gRPC metadata (spec/l402 section 2.3): the macaroon in hexadecimal, with the
//! preimage as a caveat.

use super::{Budget, Credential, Malformed};
use crate::encoding::hex_decode_into;
use crate::macaroon::Macaroon;

/// Headers that may carry a token, in the order in which they are looked at.
pub const NAMES: [&str; 3] = ["token", "macaroon", "grpc-metadata-macaroon"];

/// What a header of [`NAMES`] holds.
#[derive(Debug, Eq, PartialEq)]
pub enum Metadata {
    /// Nothing of ours: the name `token` is too common to claim every value of it.
    Foreign,
    /// One or more tokens, to be taken out of the request.
    Ours(Credential),
    /// Meant for us and useless, to be taken out of the request.
    Malformed(Malformed),
}

/// Reads the value of the header `name`, perhaps joined from several by commas.
#[must_use]
pub fn parse(name: &str, value: &[u8]) -> Metadata {
    parse_within(name, value, &mut Budget::default())
}

/// The same, if other fields of the request may hold credentials too.
#[must_use]
pub fn parse_within(name: &str, value: &[u8], budget: &mut Budget) -> Metadata {
    let result = if value.len() > budget.bytes {
        Err(Malformed::TooLong)
    } else {
        Credential::decode(value, None, hex_decode_into)
    };
    let is_shared_name = name.eq_ignore_ascii_case("token");
    match result {
        Ok(found) if is_shared_name && !found.tokens().any(is_macaroon) => Metadata::Foreign,
        Ok(credential) => {
            let taken = budget
                .take_bytes(value.len())
                .and_then(|()| budget.take_tokens(&credential));
            taken.map_or_else(Metadata::Malformed, |()| Metadata::Ours(credential))
        }
        Err(_) if is_shared_name && !starts_like_a_macaroon(value) => Metadata::Foreign,
        Err(malformed) => Metadata::Malformed(malformed),
    }
}

fn is_macaroon(token: &[u8]) -> bool {
    Macaroon::parse(token).is_ok()
}

/// Version 2 and an identifier of 66 bytes, or version 2 and a location.
fn starts_like_a_macaroon(value: &[u8]) -> bool {
    let value = value.trim_ascii_start();
    value.starts_with(b"020242") || value.starts_with(b"0201")
}
