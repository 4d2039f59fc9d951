//! Finding the one Payment credential of a request.
//!
//! It comes in `Authorization`, perhaps joined by commas with credentials of other schemes, or in
//! `Payment-Authorization`, which some clients use so that `Authorization` is free for the
//! upstream. Ours are taken out whatever their form; the others are left.

use zeroize::Zeroizing;

use super::{Credential, CredentialError, MAX_HEADER_LEN, SCHEME};
use crate::encoding::base64url_decode;
pub use crate::http::credentials::Upstream;
use crate::http::credentials::{Foreign, Parts, after_scheme};

/// The other header in which a credential may come; all of it is ours.
pub const PAYMENT_AUTHORIZATION: &str = "payment-authorization";

/// The decoded JSON of a credential. A bearer secret: has no `Debug`, is cleared when dropped.
pub struct Presented(Zeroizing<Vec<u8>>);

impl Presented {
    /// The credential in parts.
    ///
    /// # Errors
    ///
    /// [`CredentialError`] names the first thing wrong.
    pub fn credential(&self) -> Result<Credential<'_>, CredentialError> {
        Credential::from_json(&self.0)
    }
}

/// What [`parse`] found.
pub struct Authorization {
    /// The credential, if one was presented, or why what was presented is none.
    pub presented: Result<Option<Presented>, CredentialError>,
    /// What the upstream may see of `Authorization`; of `Payment-Authorization` it sees nothing.
    pub upstream: Upstream,
}

impl Authorization {
    /// Something of ours was presented, usable or not.
    #[must_use]
    pub const fn is_ours(&self) -> bool {
        !matches!(self.presented, Ok(None))
    }
}

/// Reads all values of `Authorization` and of [`PAYMENT_AUTHORIZATION`], each perhaps joined from
/// several by commas.
#[must_use]
pub fn parse<'a>(
    authorization: impl IntoIterator<Item = &'a [u8]>,
    payment_authorization: impl IntoIterator<Item = &'a [u8]>,
) -> Authorization {
    let mut found = Found::default();
    let mut foreign = Foreign::default();
    for value in authorization {
        for part in Parts::new(value, after_our_scheme) {
            if let Some(ours) = after_our_scheme(part) {
                found.add(ours);
                foreign.skip();
            } else {
                foreign.keep(part);
            }
        }
    }
    for value in payment_authorization {
        for part in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            // With or without the name of the scheme: the header says it already.
            found.add(after_our_scheme(part).unwrap_or(part));
        }
    }
    Authorization {
        presented: found.decode(),
        upstream: foreign.into_upstream(),
    }
}

#[derive(Default)]
struct Found<'a> {
    first: Option<&'a [u8]>,
    count: usize,
}

impl<'a> Found<'a> {
    fn add(&mut self, text: &'a [u8]) {
        self.first = self.first.or(Some(text));
        self.count += 1;
    }

    fn decode(&self) -> Result<Option<Presented>, CredentialError> {
        let Some(text) = self.first else {
            return Ok(None);
        };
        if self.count > 1 {
            return Err(CredentialError::Several);
        }
        if text.len() > MAX_HEADER_LEN {
            return Err(CredentialError::TooLong);
        }
        match base64url_decode(text) {
            Ok(json) if !json.is_empty() => Ok(Some(Presented(Zeroizing::new(json)))),
            _ => Err(CredentialError::Encoding),
        }
    }
}

fn after_our_scheme(text: &[u8]) -> Option<&[u8]> {
    after_scheme(text, SCHEME.as_bytes())
}
