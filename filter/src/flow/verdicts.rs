//! Acceptances remembered, so that a credential seen before costs no HMAC chain.
//!
//! Only acceptances are kept, under the whole text of the credential, the service, the capability
//! and the generation of the keys (the policy never changes within one gate). Expiry and deny list
//! are the caller's to look at on each hit. Sets of four: a look-up is bounded whatever the
//! credentials, so that the hash need not resist someone who crafts collisions.

use std::rc::Rc;

use super::Admitted;

const WAYS: usize = 4;
const SETS: usize = 512;
/// Longer credentials are verified each time. With [`SETS`] and [`WAYS`] this bounds the memory.
const MAX_CREDENTIAL: usize = 1_024;

/// What an acceptance depends on besides keys, expiry and deny list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Key<'a> {
    /// The text of the header field.
    pub(super) credential: &'a [u8],
    /// Number of the service in the policy.
    pub(super) service: usize,
    /// The capability that the matched rule asks for.
    pub(super) capability: Option<&'a str>,
}

struct Entry {
    credential: Box<[u8]>,
    service: usize,
    capability: Option<Box<str>>,
    admitted: Rc<Admitted>,
}

impl Entry {
    fn matches(&self, key: &Key<'_>) -> bool {
        self.service == key.service
            && *self.credential == *key.credential
            && self.capability.as_deref() == key.capability
    }
}

/// The bounded map. Starts empty and grows to its bound.
#[derive(Default)]
pub(super) struct Verdicts {
    sets: Vec<[Option<Box<Entry>>; WAYS]>,
    /// Which way of a full set is given up next.
    victim: usize,
    key_generation: u64,
}

impl Verdicts {
    /// Forgets everything if the keys are not those under which it was learnt.
    pub(super) fn enter_generation(&mut self, key_generation: u64) {
        if self.key_generation != key_generation {
            self.key_generation = key_generation;
            self.sets.clear();
        }
    }

    pub(super) fn find(&self, key: &Key<'_>) -> Option<&Rc<Admitted>> {
        let set = self.sets.get(set_of(key))?;
        set.iter()
            .flatten()
            .find(|entry| entry.matches(key))
            .map(|entry| &entry.admitted)
    }

    pub(super) fn insert(&mut self, key: &Key<'_>, admitted: Rc<Admitted>) {
        if key.credential.len() > MAX_CREDENTIAL {
            return;
        }
        if self.sets.is_empty() {
            self.sets.resize_with(SETS, Default::default);
        }
        let Some(set) = self.sets.get_mut(set_of(key)) else {
            return;
        };
        self.victim = (self.victim + 1) % WAYS;
        let way = set
            .iter()
            .position(|way| way.as_ref().is_none_or(|entry| entry.matches(key)))
            .unwrap_or(self.victim);
        if let Some(way) = set.get_mut(way) {
            *way = Some(Box::new(Entry {
                credential: key.credential.into(),
                service: key.service,
                capability: key.capability.map(Into::into),
                admitted,
            }));
        }
    }

    /// Forgets one acceptance that is one no longer.
    pub(super) fn remove(&mut self, key: &Key<'_>) {
        if let Some(set) = self.sets.get_mut(set_of(key)) {
            for way in set {
                if way.as_ref().is_some_and(|entry| entry.matches(key)) {
                    *way = None;
                }
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.sets.iter().flatten().flatten().count()
    }
}

/// Eight bytes at a time; the end of a credential (signature and preimage) varies most.
fn set_of(key: &Key<'_>) -> usize {
    const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = key.credential.as_chunks::<8>();
    let mut hash = key.service as u64;
    for word in words {
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(PRIME);
    }
    for byte in rest {
        hash = (hash.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(PRIME);
    }
    usize::try_from(hash >> 40).unwrap_or_default() % SETS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(credential: &[u8]) -> Key<'_> {
        Key {
            credential,
            service: 0,
            capability: None,
        }
    }

    #[test]
    fn every_part_of_the_key_counts() {
        let mut verdicts = Verdicts::default();
        verdicts.enter_generation(1);
        let known = Key {
            credential: b"abc",
            service: 1,
            capability: Some("read"),
        };
        verdicts.insert(&known, Rc::new(Admitted::for_tests()));
        assert!(verdicts.find(&known).is_some());
        for other in [
            Key {
                credential: b"abd",
                ..known
            },
            Key {
                service: 2,
                ..known
            },
            Key {
                capability: None,
                ..known
            },
            Key {
                capability: Some("write"),
                ..known
            },
        ] {
            assert!(verdicts.find(&other).is_none(), "{other:?}");
        }
        verdicts.enter_generation(2);
        assert!(verdicts.find(&known).is_none());
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let mut verdicts = Verdicts::default();
        for number in 0..20_000_u32 {
            verdicts.insert(&key(&number.to_le_bytes()), Rc::new(Admitted::for_tests()));
        }
        assert!(verdicts.len() <= SETS * WAYS);
        let long = vec![b'a'; MAX_CREDENTIAL + 1];
        verdicts.insert(&key(&long), Rc::new(Admitted::for_tests()));
        assert!(verdicts.find(&key(&long)).is_none());
    }

    #[test]
    fn a_new_acceptance_is_found_at_once_and_gone_when_removed() {
        let mut verdicts = Verdicts::default();
        for number in 0..10_000_u32 {
            let bytes = number.to_le_bytes();
            verdicts.insert(&key(&bytes), Rc::new(Admitted::for_tests()));
            assert!(verdicts.find(&key(&bytes)).is_some());
        }
        let last = 9_999_u32.to_le_bytes();
        verdicts.remove(&key(&last));
        assert!(verdicts.find(&key(&last)).is_none());
    }
}
