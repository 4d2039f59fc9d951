//! What a client presents: tokens and the preimage that pays for all of them.

use std::fmt;

use super::MAX_TOKENS;
use crate::hash::Preimage;

/// One or more serialised macaroons with at most one preimage (spec/l402 section 2.2).
///
/// A bearer secret: neither tokens nor preimage are printed.
#[derive(Clone, Eq, PartialEq)]
pub struct Credential {
    /// All tokens, one after the other.
    bytes: Vec<u8>,
    /// Where each token ends in `bytes`; only the first `count` mean anything.
    ends: [usize; MAX_TOKENS],
    count: usize,
    preimage: Option<Preimage>,
}

/// Why something that was meant as a credential of ours is none.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// All credentials together are longer than [`super::MAX_HEADER_LEN`].
    #[error("malformed: credential too long")]
    TooLong,
    /// More than [`MAX_TOKENS`], or [`super::MAX_TOKENS_PER_REQUEST`] in all.
    #[error("malformed: too many tokens")]
    TooManyTokens,
    /// There is no colon between tokens and preimage, or nothing at all.
    #[error("malformed: no preimage after a colon")]
    NoColon,
    /// Not exactly 64 hexadecimal digits after the colon.
    #[error("malformed: preimage is not 64 hex digits")]
    Preimage,
    /// A token is empty, or neither base64 nor, in metadata, hexadecimal.
    #[error("malformed: token encoding")]
    Encoding,
}

impl Malformed {
    /// The same text as `Display`, for problem details and logs.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "malformed: credential too long",
            Self::TooManyTokens => "malformed: too many tokens",
            Self::NoColon => "malformed: no preimage after a colon",
            Self::Preimage => "malformed: preimage is not 64 hex digits",
            Self::Encoding => "malformed: token encoding",
        }
    }
}

impl Credential {
    /// Decodes a comma-separated list of tokens with `decode`, which appends one to a buffer.
    pub(super) fn decode<E>(
        list: &[u8],
        preimage: Option<Preimage>,
        decode: impl Fn(&[u8], &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<Self, Malformed> {
        // Three quarters for base64, half for hexadecimal: never too little, one allocation.
        let mut bytes = Vec::with_capacity(list.len() / 4 * 3 + 3);
        let mut ends = [0; MAX_TOKENS];
        let mut count = 0;
        for text in list.split(|byte| *byte == b',') {
            let end = ends.get_mut(count).ok_or(Malformed::TooManyTokens)?;
            let start = bytes.len();
            decode(text.trim_ascii(), &mut bytes).map_err(|_| Malformed::Encoding)?;
            if bytes.len() == start {
                return Err(Malformed::Encoding);
            }
            *end = bytes.len();
            count += 1;
        }
        Ok(Self {
            bytes,
            ends,
            count,
            preimage,
        })
    }

    /// A credential of one serialised macaroon.
    #[must_use]
    pub fn of_macaroon(macaroon: Vec<u8>, preimage: Option<Preimage>) -> Self {
        let mut ends = [0; MAX_TOKENS];
        let [first, ..] = &mut ends;
        *first = macaroon.len();
        Self {
            bytes: macaroon,
            ends,
            count: 1,
            preimage,
        }
    }

    /// The serialised macaroons, in the order in which they were sent.
    pub fn tokens(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().take(self.count).filter_map(move |end| {
            let token = self.bytes.get(start..*end);
            start = *end;
            token
        })
    }

    /// How many tokens there are: 1 to [`MAX_TOKENS`].
    #[must_use]
    pub const fn token_count(&self) -> usize {
        self.count
    }

    /// The preimage of the header; without one each token must hold it as a caveat.
    #[must_use]
    pub const fn preimage(&self) -> Option<&Preimage> {
        self.preimage.as_ref()
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("tokens", &self.count)
            .field("has_preimage", &self.preimage.is_some())
            .finish()
    }
}
