//! Acceptances remembered, so that a credential seen before costs no HMAC chain.
//!
//! Only acceptances are kept, under the whole text of the credential, the service, the capability
//! and the generation of the keys (the policy never changes within one gate). Expiry and deny list
//! are the caller's to look at on each hit. Sets of four: a look-up is bounded whatever the
//! credentials, so that the hash need not resist someone who crafts collisions.

const WAYS: usize = 4;

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

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Sets of [`WAYS`] credentials.
    pub(super) sets: usize,
    /// Longer credentials are verified each time.
    pub(super) longest: usize,
}

struct Entry<T> {
    credential: Box<[u8]>,
    service: usize,
    capability: Option<Box<str>>,
    accepted: T,
}

impl<T> Entry<T> {
    fn matches(&self, key: &Key<'_>) -> bool {
        self.service == key.service
            && *self.credential == *key.credential
            && self.capability.as_deref() == key.capability
    }
}

/// The bounded map. Starts empty and grows to its bound.
pub(super) struct Verdicts<T> {
    bounds: Bounds,
    sets: Vec<[Option<Box<Entry<T>>>; WAYS]>,
    /// Which way of a full set is given up next.
    victim: usize,
    key_generation: u64,
}

impl<T> Verdicts<T> {
    pub(super) const fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            sets: Vec::new(),
            victim: 0,
            key_generation: 0,
        }
    }

    /// Forgets everything if the keys are not those under which it was learnt.
    pub(super) fn enter_generation(&mut self, key_generation: u64) {
        if self.key_generation != key_generation {
            self.key_generation = key_generation;
            self.sets.clear();
        }
    }

    pub(super) fn find(&self, key: &Key<'_>) -> Option<&T> {
        let set = self.sets.get(self.set_of(key))?;
        set.iter()
            .flatten()
            .find(|entry| entry.matches(key))
            .map(|entry| &entry.accepted)
    }

    pub(super) fn insert(&mut self, key: &Key<'_>, accepted: T) {
        if key.credential.len() > self.bounds.longest {
            return;
        }
        if self.sets.is_empty() {
            self.sets.resize_with(self.bounds.sets, Default::default);
        }
        let place = self.set_of(key);
        let Some(set) = self.sets.get_mut(place) else {
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
                accepted,
            }));
        }
    }

    /// Forgets one acceptance that is one no longer.
    pub(super) fn remove(&mut self, key: &Key<'_>) {
        let place = self.set_of(key);
        if let Some(set) = self.sets.get_mut(place) {
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

impl<T> Verdicts<T> {
    fn set_of(&self, key: &Key<'_>) -> usize {
        usize::try_from(hash_of(key) >> 40).unwrap_or_default() % self.bounds.sets.max(1)
    }
}

/// Eight bytes at a time; the end of a credential (signature and preimage) varies most.
fn hash_of(key: &Key<'_>) -> u64 {
    const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, rest) = key.credential.as_chunks::<8>();
    let mut hash = key.service as u64;
    for word in words {
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(PRIME);
    }
    for byte in rest {
        hash = (hash.rotate_left(5) ^ u64::from(*byte)).wrapping_mul(PRIME);
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        sets: 512,
        longest: 1_024,
    };

    fn key(credential: &[u8]) -> Key<'_> {
        Key {
            credential,
            service: 0,
            capability: None,
        }
    }

    #[test]
    fn every_part_of_the_key_counts() {
        let mut verdicts = Verdicts::new(BOUNDS);
        verdicts.enter_generation(1);
        let known = Key {
            credential: b"abc",
            service: 1,
            capability: Some("read"),
        };
        verdicts.insert(&known, ());
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
        let mut verdicts = Verdicts::new(BOUNDS);
        for number in 0..20_000_u32 {
            verdicts.insert(&key(&number.to_le_bytes()), ());
        }
        assert!(verdicts.len() <= BOUNDS.sets * WAYS);
        let long = vec![b'a'; BOUNDS.longest + 1];
        verdicts.insert(&key(&long), ());
        assert!(verdicts.find(&key(&long)).is_none());
    }

    #[test]
    fn a_new_acceptance_is_found_at_once_and_gone_when_removed() {
        let mut verdicts = Verdicts::new(BOUNDS);
        for number in 0..10_000_u32 {
            let bytes = number.to_le_bytes();
            verdicts.insert(&key(&bytes), ());
            assert!(verdicts.find(&key(&bytes)).is_some());
        }
        let last = 9_999_u32.to_le_bytes();
        verdicts.remove(&key(&last));
        assert!(verdicts.find(&key(&last)).is_none());
    }
}
