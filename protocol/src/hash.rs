//! Payment hashes and the preimages that prove a payment.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::encoding::{DecodeError, hex_decode, hex_encode};
use crate::secret::Secret;

/// SHA-256 of one message.
#[must_use]
pub fn sha256(message: &[u8]) -> [u8; 32] {
    Sha256::digest(message).into()
}

/// The hash that a Lightning invoice commits to; public.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PaymentHash(pub [u8; 32]);

impl PaymentHash {
    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for PaymentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex_encode(&self.0))
    }
}

impl fmt::Debug for PaymentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PaymentHash({self})")
    }
}

impl FromStr for PaymentHash {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hex_decode(text).map(Self)
    }
}

impl Serialize for PaymentHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PaymentHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What the payer of an invoice learns: with the token it commits to, as good as money.
///
/// Never printed, cleared from memory when dropped.
#[derive(Clone)]
pub struct Preimage(Secret);

impl Preimage {
    /// Takes the 32 bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(Secret::new(bytes))
    }

    /// 64 hexadecimal digits of either case.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Hex`] for anything else.
    pub fn from_hex(text: impl AsRef<[u8]>) -> Result<Self, DecodeError> {
        hex_decode(text).map(Self::new)
    }

    /// The hash of the invoice that this preimage settles.
    #[must_use]
    pub fn hash(&self) -> PaymentHash {
        PaymentHash(sha256(self.expose()))
    }

    /// The secret itself, for the one place that hands it to the payer.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }
}

impl PartialEq for Preimage {
    fn eq(&self, other: &Self) -> bool {
        self.0.equals(other.expose())
    }
}

impl Eq for Preimage {}

impl fmt::Debug for Preimage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Preimage(…)")
    }
}

impl FromStr for Preimage {
    type Err = DecodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_hex(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preimage_is_not_printed() {
        assert_eq!(format!("{:?}", Preimage::new([7; 32])), "Preimage(…)");
    }

    #[test]
    fn a_payment_hash_reads_what_it_prints() {
        let hash = Preimage::new([7; 32]).hash();
        assert_eq!(hash.to_string().parse(), Ok(hash));
    }
}
