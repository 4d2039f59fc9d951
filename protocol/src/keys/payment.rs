//! Keys of the Payment scheme: one for the charges of each service, one for the sessions of each
//! realm (design section 3).
//!
//! What a challenge was issued for is thus bound by its key and needs no place in the challenge,
//! where several clients would lose it: a charge of one service does not verify for another.
//!
//! The id of a challenge is `base64url(generation ‖ HMAC)`, 33 bytes, 44 characters without padding.
//! That is the HMAC of spec/payment-auth section 2.2 with one byte before it. Clients hand the id
//! back as it is, while anything new inside `request` might not survive those that decode it and
//! encode it again.

use std::str::FromStr;

use subtle::ConstantTimeEq as _;

use super::Generations;
use crate::encoding::{DecodeError, base64url, base64url_decode_exact, hex_decode, hex_encode};
use crate::hash::sha256;
use crate::mac::{self, MacKey};
use crate::payment::{Issued, Realm, Slots};
use crate::secret::Secret;

pub(super) const LABEL: &[u8] = b"boltgate/payment/v0";
const CHARGE_LABEL: &[u8] = b"payment-charge-key/v0\0";
const DYNAMIC_CHARGE_LABEL: &[u8] = b"payment-dynamic-charge-key/v0\0";
const SESSION_LABEL: &[u8] = b"payment-session-key/v0\0";

/// Key of one generation that filters hold: makes all challenge keys. Has no `Debug`.
#[derive(Clone)]
pub struct PaymentKey(Secret);

impl PaymentKey {
    /// Takes the 32 bytes that [`super::MasterSecret::derive_payment`] made.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(Secret::new(bytes))
    }

    /// 64 hexadecimal digits, for the bootstrap answer to filters and nothing else.
    #[must_use]
    pub fn expose_hex(&self) -> String {
        hex_encode(self.0.expose())
    }

    fn derive(&self, generation: u8, parts: &[&[u8]]) -> ChallengeKey {
        ChallengeKey::new(generation, mac::sign(self.0.expose(), parts))
    }
}

impl FromStr for PaymentKey {
    type Err = DecodeError;

    /// 64 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        hex_decode(text).map(Self::new)
    }
}

/// Key of one generation for the challenges of one purpose. Has no `Debug`.
#[derive(Clone)]
pub struct ChallengeKey {
    generation: u8,
    mac: MacKey,
}

impl ChallengeKey {
    /// Takes a generation and 32 bytes; only [`PaymentKeys`] makes the ones in use.
    #[must_use]
    pub fn new(generation: u8, bytes: [u8; 32]) -> Self {
        Self::from_secret(generation, &bytes)
    }

    /// A key of any length, for test vectors.
    #[must_use]
    pub fn from_secret(generation: u8, secret: &[u8]) -> Self {
        Self {
            generation,
            mac: MacKey::new(secret),
        }
    }

    /// The HMAC of a challenge (spec/payment-auth section 2.2).
    #[must_use]
    pub fn sign(&self, slots: &Slots<'_>) -> [u8; 32] {
        self.mac.sign(&slots.joined())
    }

    /// The id of a challenge: 44 characters.
    #[must_use]
    pub fn id(&self, slots: &Slots<'_>) -> String {
        let mut bytes = [self.generation; 33];
        let (_generation, mac) = bytes.split_at_mut(1);
        mac.copy_from_slice(&self.sign(slots));
        base64url(&bytes)
    }
}

/// The key generation that the id of a challenge names; `None` if it has not the form of ours.
#[must_use]
pub fn generation_of(id: &str) -> Option<u8> {
    let [generation, ..] = base64url_decode_exact::<33>(id).ok()?;
    Some(generation)
}

/// The challenge keys of all generations for one purpose.
pub type ChallengeKeys = Generations<ChallengeKey>;

impl Issued for ChallengeKeys {
    fn is_issued(&self, id: &str, slots: &Slots<'_>) -> bool {
        let Ok([generation, mac @ ..]) = base64url_decode_exact::<33>(id) else {
            return false;
        };
        self.get(generation)
            .is_some_and(|key| key.sign(slots).ct_eq(&mac).into())
    }
}

/// The Payment keys of all generations with which a challenge may still be verified.
pub type PaymentKeys = Generations<PaymentKey>;

impl PaymentKeys {
    /// Keys for the charges of a service at a fixed price.
    #[must_use]
    pub fn charge(&self, service: &str) -> ChallengeKeys {
        self.derive(|generation, key| key.derive(generation, &[CHARGE_LABEL, service.as_bytes()]))
    }

    /// Keys for a charge whose price was made for one request: it buys that request only.
    ///
    /// `path` is `:path` with its query, `body` the whole body.
    #[must_use]
    pub fn dynamic_charge(
        &self,
        service: &str,
        method: &[u8],
        path: &[u8],
        body: &[u8],
    ) -> ChallengeKeys {
        // Hashes, so that no two sets of parts run together into the same bytes.
        let parts = [service.as_bytes(), method, path, body].map(sha256);
        self.derive(|generation, key| {
            key.derive(generation, &[DYNAMIC_CHARGE_LABEL, parts.as_flattened()])
        })
    }

    /// Keys for the sessions of a realm.
    #[must_use]
    pub fn session(&self, realm: &Realm) -> ChallengeKeys {
        self.derive(|generation, key| {
            key.derive(generation, &[SESSION_LABEL, realm.as_str().as_bytes()])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::MasterSecret;

    const SLOTS: Slots<'_> = Slots {
        realm: "r",
        method: "lightning",
        intent: "charge",
        request: "e30",
        expires: "2026-03-15T12:05:00Z",
        digest: "",
        opaque: "",
    };

    fn keys(generations: &[u8]) -> PaymentKeys {
        generations
            .iter()
            .map(|id| (*id, MasterSecret::new([*id; 32]).derive_payment()))
            .collect()
    }

    #[test]
    fn an_id_is_verified_by_the_generation_that_made_it_and_no_other() {
        let all = keys(&[1, 2]).charge("a");
        let old = all.get(1).unwrap().id(&SLOTS);
        let new = all.get(2).unwrap().id(&SLOTS);
        assert_eq!((old.len(), new.len()), (44, 44));
        let named = ["x", &old, &new].map(generation_of);
        assert_eq!(named, [None, Some(1), Some(2)]);
        assert!(all.is_issued(&old, &SLOTS) && all.is_issued(&new, &SLOTS));
        let rotated = keys(&[2, 3]).charge("a");
        assert!(!rotated.is_issued(&old, &SLOTS) && rotated.is_issued(&new, &SLOTS));
    }

    #[test]
    fn every_purpose_has_a_key_of_its_own() {
        let keys = keys(&[1]);
        let realm = |name: &str| name.parse::<Realm>().unwrap();
        let all = [
            keys.charge("a"),
            keys.charge("b"),
            keys.session(&realm("a")),
            keys.session(&realm("b")),
            keys.dynamic_charge("a", b"GET", b"/", b""),
            keys.dynamic_charge("b", b"GET", b"/", b""),
            keys.dynamic_charge("a", b"POST", b"/", b""),
            keys.dynamic_charge("a", b"GET", b"/?x", b""),
            keys.dynamic_charge("a", b"GET", b"/", b"x"),
            keys.dynamic_charge("aG", b"ET", b"/", b""),
        ];
        for (made, one) in all.iter().enumerate() {
            let id = one.get(1).unwrap().id(&SLOTS);
            for (tried, other) in all.iter().enumerate() {
                assert_eq!(
                    other.is_issued(&id, &SLOTS),
                    made == tried,
                    "{made} {tried}"
                );
            }
        }
    }

    #[test]
    fn a_payment_key_survives_its_trip_to_the_filter() {
        let key = MasterSecret::new([9; 32]).derive_payment();
        let there: PaymentKey = key.expose_hex().parse().unwrap();
        let [here, there] = [key, there].map(|key| PaymentKeys::from_iter([(0, key)]));
        let id = here.charge("a").get(0).unwrap().id(&SLOTS);
        assert!(there.charge("a").is_issued(&id, &SLOTS));
    }
}
