//! The deny list of revoked tokens and what a filter that knows an older version must learn.

use protocol::api::MAX_REVOCATIONS;
use protocol::time::UnixSeconds;

use super::offer::Validity;

/// Version of everything that filters poll. It grows with each change, and faster than the wall
/// clock's milliseconds at least, so that a ledger restored from a copy never names a version
/// twice for different contents.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Version(pub u64);

/// One revoked token.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Revocation {
    /// `sha256(identifier)`.
    pub identifier_hash: [u8; 32],
    /// Version that brought it.
    pub added: Version,
    /// When the token expires by itself, and with it this entry.
    pub expires: Validity,
    /// Version in which it left the list again, if it did.
    pub removed: Option<Version>,
}

/// All revocations, those that left the list not long ago included.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DenyList {
    entries: Vec<Revocation>,
    floor: Version,
}

/// What changed since a version.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changes {
    /// `add` is the whole list.
    pub full: bool,
    /// Hashes to refuse from now on.
    pub add: Vec<[u8; 32]>,
    /// Hashes to forget.
    pub remove: Vec<[u8; 32]>,
}

impl DenyList {
    /// `floor`: the newest version of which removals are no longer remembered.
    #[must_use]
    pub const fn new(entries: Vec<Revocation>, floor: Version) -> Self {
        Self { entries, floor }
    }

    /// Number of tokens refused now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries
            .iter()
            .filter(|entry| entry.removed.is_none())
            .count()
    }

    /// Whether no token is refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a filter that knows `known` (nothing, if `None`) must change.
    #[must_use]
    pub fn changes_since(&self, known: Option<Version>) -> Changes {
        let difference = known
            .filter(|known| *known >= self.floor)
            .map(|known| self.difference(known));
        // Many additions with many removals are longer than the list, which always fits.
        match difference {
            Some(changes) if changes.add.len() + changes.remove.len() <= MAX_REVOCATIONS => changes,
            _ => Changes {
                full: true,
                add: self.hashes(|entry| entry.removed.is_none()),
                remove: Vec::new(),
            },
        }
    }

    fn difference(&self, known: Version) -> Changes {
        Changes {
            full: false,
            add: self.hashes(|entry| entry.removed.is_none() && entry.added > known),
            remove: self.hashes(|entry| {
                entry.added <= known && entry.removed.is_some_and(|removed| removed > known)
            }),
        }
    }

    fn hashes(&self, wanted: impl Fn(&Revocation) -> bool) -> Vec<[u8; 32]> {
        self.entries
            .iter()
            .filter(|entry| wanted(entry))
            .map(|e| e.identifier_hash)
            .collect()
    }
}

/// Expired revocations leave the list this long after the token could last be valid, in case a
/// filter's clock is behind.
pub const EXPIRY_GRACE_SECONDS: u64 = 300;

/// Whether a revocation is no longer needed.
#[must_use]
pub const fn is_obsolete(expires: Validity, now: UnixSeconds) -> bool {
    match expires {
        Validity::Forever => false,
        Validity::Until(end) => end.0.saturating_add(EXPIRY_GRACE_SECONDS) < now.0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn entry(hash: u8, added: u64, removed: Option<u64>) -> Revocation {
        Revocation {
            identifier_hash: [hash; 32],
            added: Version(added),
            expires: Validity::Forever,
            removed: removed.map(Version),
        }
    }

    fn applied(mut list: BTreeSet<[u8; 32]>, changes: &Changes) -> BTreeSet<[u8; 32]> {
        if changes.full {
            list.clear();
        }
        for hash in &changes.remove {
            list.remove(hash);
        }
        list.extend(changes.add.iter().copied());
        list
    }

    fn active_at(entries: &[Revocation], version: u64) -> BTreeSet<[u8; 32]> {
        entries
            .iter()
            .filter(|e| e.added.0 <= version && e.removed.is_none_or(|removed| removed.0 > version))
            .map(|e| e.identifier_hash)
            .collect()
    }

    #[test]
    fn a_filter_older_than_the_remembered_removals_gets_the_whole_list() {
        let list = DenyList::new(vec![entry(1, 5, None)], Version(4));
        assert!(list.changes_since(Some(Version(3))).full);
        assert!(!list.changes_since(Some(Version(4))).full);
        assert!(list.changes_since(None).full);
    }

    #[test]
    fn changes_too_long_for_one_answer_become_the_whole_list() {
        let number = |n: usize| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_be_bytes());
            hash
        };
        let list = |count: usize| {
            let gone = (0..count).map(|n| Revocation {
                identifier_hash: number(n),
                ..entry(0, 1, Some(3))
            });
            DenyList::new(gone.chain([entry(255, 2, None)]).collect(), Version(0))
        };
        let most = list(MAX_REVOCATIONS - 1).changes_since(Some(Version(1)));
        assert_eq!((most.full, most.remove.len()), (false, MAX_REVOCATIONS - 1));
        let more = list(MAX_REVOCATIONS).changes_since(Some(Version(1)));
        assert_eq!((more.full, more.add), (true, vec![[255; 32]]));
    }

    proptest! {
        #[test]
        fn a_filter_that_applies_the_changes_holds_the_present_list(
            spans in proptest::collection::vec((1u64..50, proptest::option::of(1u64..50)), 0..40),
            known in 0u64..50,
        ) {
            let entries: Vec<Revocation> = spans
                .iter()
                .enumerate()
                .map(|(i, (added, life))| {
                    entry(i as u8, *added, life.map(|life| added + life).filter(|end| *end <= 50))
                })
                .collect();
            let list = DenyList::new(entries.clone(), Version(0));
            let before = active_at(&entries, known);
            let after = applied(before, &list.changes_since(Some(Version(known))));
            prop_assert_eq!(after, active_at(&entries, 50));
        }
    }
}
