//! L402, also called LSAT: a macaroon that commits to a payment hash, good together with the
//! preimage (spec/l402).
//!
//! A token is [minted](mint()) by the sidecar, shown in a [`challenge`], and comes back in the
//! `Authorization` header ([`authorization`]) or in gRPC metadata ([`metadata`]) as a
//! [`Credential`], which [`verify()`] takes apart again. Nothing needs a look-up outside the caller's
//! memory.

use crate::macaroon::{MAX_CAVEATS, Macaroon, MacaroonError};

pub mod authorization;
pub mod caveat;
pub mod challenge;
mod credential;
mod identifier;
pub mod metadata;
mod mint;
mod refusal;
mod verify;

pub use credential::{Credential, Malformed};
pub use identifier::{IDENTIFIER_LEN, Identifier, IdentifierError, TokenId};
pub use mint::{caveats_for, mint};
pub use refusal::Refusal;
pub use verify::{Grant, RootKeys, Target, verify, verify_within};

/// Most bytes of credentials that are looked at in one request (R-L402-34).
pub const MAX_HEADER_LEN: usize = 16 * 1024;
/// Most tokens under one preimage (spec/l402 section 2.2).
pub const MAX_TOKENS: usize = 8;
/// Most tokens in all credentials of one request: a client that sends its credential both as
/// `LSAT` and as `L402`, as Aperture does, doubles them.
pub const MAX_TOKENS_PER_REQUEST: usize = 2 * MAX_TOKENS;

/// What may still be looked at in one request, whatever fields its credentials come in: who pays
/// nothing shall not cost much.
#[derive(Clone, Debug)]
pub struct Budget {
    bytes: usize,
    tokens: usize,
    caveats: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            bytes: MAX_HEADER_LEN,
            tokens: MAX_TOKENS_PER_REQUEST,
            caveats: MAX_CAVEATS,
        }
    }
}

impl Budget {
    fn take_bytes(&mut self, count: usize) -> Result<(), Malformed> {
        self.bytes = self.bytes.checked_sub(count).ok_or(Malformed::TooLong)?;
        Ok(())
    }

    fn take_tokens(&mut self, credential: &Credential) -> Result<(), Malformed> {
        let count = credential.token_count();
        self.tokens = self
            .tokens
            .checked_sub(count)
            .ok_or(Malformed::TooManyTokens)?;
        Ok(())
    }

    /// Caveats cost a hash each, so they are counted where a chain is computed.
    fn take_caveats(&mut self, macaroon: &Macaroon<'_>) -> Result<(), MacaroonError> {
        let count = macaroon.caveats().count();
        self.caveats = self
            .caveats
            .checked_sub(count)
            .ok_or(MacaroonError::TooManyCaveats)?;
        Ok(())
    }
}
