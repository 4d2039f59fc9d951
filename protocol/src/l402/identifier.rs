//! The macaroon identifier, version 0 (spec/l402 section 2.4).

use std::fmt;
use std::str::FromStr;

use crate::encoding::{DecodeError, hex_decode, hex_encode};
use crate::hash::{PaymentHash, sha256};

/// Length of an [`Identifier`] in bytes.
pub const IDENTIFIER_LEN: usize = 66;

const VERSION: [u8; 2] = [0, 0];

/// Random name of a token; its first byte names the key generation under which it was minted.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TokenId(pub [u8; 32]);

impl TokenId {
    /// Puts the generation in front of 31 random bytes.
    #[must_use]
    pub fn new(generation: u8, random: [u8; 31]) -> Self {
        let mut bytes = [generation; 32];
        let (_, rest) = bytes.split_at_mut(1);
        rest.copy_from_slice(&random);
        Self(bytes)
    }

    /// The key generation under which the token was minted.
    #[must_use]
    pub const fn generation(&self) -> u8 {
        let [generation, ..] = self.0;
        generation
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex_encode(&self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenId({self})")
    }
}

impl FromStr for TokenId {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hex_decode(text).map(Self)
    }
}

/// What a token commits to: the payment that makes it valid, and its own name.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Identifier {
    /// Hash of the invoice that has to be paid.
    pub payment_hash: PaymentHash,
    /// Random name.
    pub token_id: TokenId,
}

/// Why bytes are no identifier of version 0.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum IdentifierError {
    /// Not [`IDENTIFIER_LEN`] bytes.
    #[error("expected {IDENTIFIER_LEN} bytes, found {found}")]
    Length {
        /// How many there are.
        found: usize,
    },
    /// A version other than 0.
    #[error("expected version 0, found {found}")]
    Version {
        /// The version there is.
        found: u16,
    },
}

impl Identifier {
    /// Reads the 66 bytes.
    ///
    /// # Errors
    ///
    /// [`IdentifierError`] says whether length or version is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, IdentifierError> {
        let length = IdentifierError::Length { found: bytes.len() };
        let (version, rest) = bytes.split_first_chunk::<2>().ok_or(length)?;
        let (payment_hash, rest) = rest.split_first_chunk::<32>().ok_or(length)?;
        let token_id: [u8; 32] = rest.try_into().map_err(|_| length)?;
        if *version != VERSION {
            return Err(IdentifierError::Version {
                found: u16::from_be_bytes(*version),
            });
        }
        Ok(Self {
            payment_hash: PaymentHash(*payment_hash),
            token_id: TokenId(token_id),
        })
    }

    /// The 66 bytes that go into the macaroon.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; IDENTIFIER_LEN] {
        let mut bytes = [0; IDENTIFIER_LEN];
        let (_version, rest) = bytes.split_at_mut(VERSION.len());
        let (payment_hash, token_id) = rest.split_at_mut(32);
        payment_hash.copy_from_slice(&self.payment_hash.0);
        token_id.copy_from_slice(&self.token_id.0);
        bytes
    }

    /// `sha256(identifier)`, under which a token is known to the deny list.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        sha256(&self.to_bytes())
    }
}
