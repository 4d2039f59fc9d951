//! The master secret and what is derived from it (design section 3, spec/l402 E6).
//!
//! ```text
//! master ──HMAC "boltgate/l402/v0"─────► L402Key ──HMAC "l402-root-key/v0" ‖ 0 ‖ identifier──► RootKey
//! master ──HMAC "boltgate/payment/v0"──► PaymentKey ──HMAC purpose ‖ what it is for──► ChallengeKey
//! ```
//!
//! The sidecar owns the master; filters only ever see [`L402Key`]s and [`PaymentKey`]s. The first
//! byte of a token id, and that of a challenge id, names the generation of the key, so that one
//! chain or HMAC is computed however many keys are alive.

mod payment;

use std::str::FromStr;

use crate::encoding::{DecodeError, hex_decode, hex_encode};
use crate::l402::{Identifier, RootKeys};
use crate::mac::{self, MacKey};
use crate::secret::Secret;

pub use payment::{ChallengeKey, ChallengeKeys, PaymentKey, PaymentKeys, generation_of};

const L402_LABEL: &[u8] = b"boltgate/l402/v0";
const ROOT_KEY_LABEL: &[u8] = b"l402-root-key/v0\0";

/// Source of every other key of one generation. Has no `Debug` and never leaves the sidecar.
#[derive(Clone)]
pub struct MasterSecret(Secret);

impl MasterSecret {
    /// Takes 32 random bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(Secret::new(bytes))
    }

    /// The secret itself, for the ledger that keeps it.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }

    /// The key from which the root keys of L402 tokens are derived.
    #[must_use]
    pub fn derive_l402(&self) -> L402Key {
        L402Key::new(mac::sign(self.expose(), &[L402_LABEL]))
    }

    /// The key from which the challenge keys of the Payment scheme are derived.
    #[must_use]
    pub fn derive_payment(&self) -> PaymentKey {
        PaymentKey::new(mac::sign(self.expose(), &[payment::LABEL]))
    }
}

impl FromStr for MasterSecret {
    type Err = DecodeError;

    /// 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hex_decode(text).map(Self::new)
    }
}

/// Key of one generation that filters hold: makes the root key of any token. Has no `Debug`.
#[derive(Clone)]
pub struct L402Key {
    bytes: Secret,
    /// Used for every token that is verified.
    mac: MacKey,
}

impl L402Key {
    /// Takes the 32 bytes that [`MasterSecret::derive_l402`] made.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self {
            mac: MacKey::new(&bytes),
            bytes: Secret::new(bytes),
        }
    }

    /// 64 hexadecimal digits, for the bootstrap answer to filters and nothing else.
    #[must_use]
    pub fn expose_hex(&self) -> String {
        hex_encode(self.bytes.expose())
    }

    /// The root key of the token with this identifier.
    #[must_use]
    pub fn root_key(&self, identifier: &Identifier) -> RootKey {
        RootKey::new(self.mac.sign(&[ROOT_KEY_LABEL, &identifier.to_bytes()]))
    }
}

impl FromStr for L402Key {
    type Err = DecodeError;

    /// 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hex_decode(text).map(Self::new)
    }
}

/// Root key of one token. Has no `Debug`.
#[derive(Clone)]
pub struct RootKey(Secret);

impl RootKey {
    /// Takes the 32 bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(Secret::new(bytes))
    }

    /// The secret itself, for the start of a chain.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }
}

/// The keys of all generations with which something issued here may still be verified.
#[derive(Clone)]
pub struct Generations<K>(Vec<(u8, K)>);

/// Root keys of tokens come from these.
pub type L402Keys = Generations<L402Key>;

impl<K> Generations<K> {
    /// No key yet: everything is refused.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds the key of a generation, or takes the place of the one there was.
    pub fn insert(&mut self, generation: u8, key: K) {
        if let Some((_, old)) = self.0.iter_mut().find(|(known, _)| *known == generation) {
            *old = key;
        } else {
            self.0.push((generation, key));
        }
    }

    /// The key of a generation, if it is still alive.
    #[must_use]
    pub fn get(&self, generation: u8) -> Option<&K> {
        self.0
            .iter()
            .find(|(known, _)| *known == generation)
            .map(|(_, key)| key)
    }

    /// How many generations are alive.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// No generation is alive: nothing can be verified.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Another kind of keys, one derived from each of these.
    fn derive<D>(&self, of: impl Fn(u8, &K) -> D) -> Generations<D> {
        Generations(
            self.0
                .iter()
                .map(|(generation, key)| (*generation, of(*generation, key)))
                .collect(),
        )
    }
}

impl<K> Default for Generations<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K> FromIterator<(u8, K)> for Generations<K> {
    /// Of several keys of one generation the last one stays.
    fn from_iter<T: IntoIterator<Item = (u8, K)>>(keys: T) -> Self {
        let mut all = Self::new();
        for (generation, key) in keys {
            all.insert(generation, key);
        }
        all
    }
}

impl RootKeys for L402Keys {
    fn root_key(&self, identifier: &Identifier) -> Option<RootKey> {
        self.get(identifier.token_id.generation())
            .map(|key| key.root_key(identifier))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::PaymentHash;
    use crate::l402::TokenId;

    fn identifier(generation: u8) -> Identifier {
        Identifier {
            payment_hash: PaymentHash([1; 32]),
            token_id: TokenId::new(generation, [2; 31]),
        }
    }

    #[test]
    fn the_first_byte_of_the_token_id_chooses_the_key() {
        let (old, new) = (L402Key::new([3; 32]), L402Key::new([4; 32]));
        let keys: L402Keys = [(1, old.clone()), (2, new.clone())].into_iter().collect();
        for (generation, key) in [(1, old), (2, new)] {
            let id = identifier(generation);
            assert_eq!(
                keys.root_key(&id).map(|root| *root.expose()),
                Some(*key.root_key(&id).expose())
            );
        }
        assert!(keys.root_key(&identifier(3)).is_none());
    }

    #[test]
    fn a_key_survives_its_trip_to_the_filter() {
        let key = MasterSecret::new([9; 32]).derive_l402();
        let id = identifier(0);
        let there: L402Key = key.expose_hex().parse().unwrap();
        assert_eq!(there.root_key(&id).expose(), key.root_key(&id).expose());
    }
}
