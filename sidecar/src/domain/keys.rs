//! Key generations and their rotation (design section 3).
//!
//! A new generation is *next*: filters learn it and nothing is issued under it. When every live
//! filter has acknowledged it, it becomes *current*. The one before is *retired* and stays as
//! long as anything issued under it can be valid.

mod filters;

use std::fmt;

use protocol::api::KeyState;
use protocol::keys::MasterSecret;
use protocol::time::UnixSeconds;

pub use self::filters::{Behind, FilterHeard, FilterRegistry, Promotion};
use super::deny_list::Version;
use super::offer::Validity;

/// A retired generation is kept this long after the last token of it expired, in case a filter's
/// clock is behind.
pub const RETIRED_GRACE_SECONDS: u64 = 300;

/// Where the 32 secret bytes of a generation are.
#[derive(Clone)]
pub enum KeySource {
    /// In the ledger.
    Ledger(MasterSecret),
    /// In the operator's file, found by the generation's fingerprint.
    File,
}

impl fmt::Debug for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ledger(_) => "Ledger",
            Self::File => "File",
        })
    }
}

/// A key that is to become a generation.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Where its bytes are.
    pub source: KeySource,
    /// One-way mark of the bytes.
    pub fingerprint: [u8; 32],
}

/// One generation of the master secret.
#[derive(Clone, Debug)]
pub struct Generation {
    /// First byte of the token ids minted under it.
    pub id: u8,
    /// Where it stands.
    pub state: KeyState,
    /// Where its bytes are.
    pub source: KeySource,
    /// One-way mark of the bytes.
    pub fingerprint: [u8; 32],
    /// Latest end of what was issued under it; `None` if nothing was.
    pub issued: Option<Validity>,
    /// Version that brought it to the filters.
    pub added: Version,
    /// When it was added.
    pub created: UnixSeconds,
}

impl Generation {
    /// Whether nothing needs this generation any more.
    #[must_use]
    pub fn is_spent(&self, now: UnixSeconds) -> bool {
        self.state == KeyState::Retired
            && match self.issued {
                None => true,
                Some(Validity::Forever) => false,
                Some(Validity::Until(end)) => end.0.saturating_add(RETIRED_GRACE_SECONDS) < now.0,
            }
    }
}

/// Why a rotation cannot begin.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RotationHeld {
    /// One is under way.
    #[error(
        "generation {id} is next since {since} and becomes current when every live filter has \
         acknowledged it"
    )]
    Pending {
        /// The generation that waits.
        id: u8,
        /// Since when, Unix seconds.
        since: u64,
    },
    /// All 256 generations are in use.
    #[error(
        "no generation is free: {retired} are retired and kept for tokens that are still valid"
    )]
    NoneFree {
        /// How many are retired.
        retired: usize,
    },
    /// The key is in use already.
    #[error("this key is already generation {id}")]
    KnownKey {
        /// The generation that has it.
        id: u8,
    },
}

/// The id for a new generation with this key beside the `present` ones.
///
/// # Errors
/// What holds the rotation.
pub fn plan_rotation(present: &[Generation], key: &NewKey) -> Result<u8, RotationHeld> {
    if let Some(known) = present.iter().find(|g| g.fingerprint == key.fingerprint) {
        return Err(RotationHeld::KnownKey { id: known.id });
    }
    if let Some(next) = present.iter().find(|g| g.state == KeyState::Next) {
        return Err(RotationHeld::Pending {
            id: next.id,
            since: next.created.0,
        });
    }
    let newest = present.iter().max_by_key(|g| g.added).map(|g| g.id);
    let first = newest.map_or(0, |id| id.wrapping_add(1));
    (0..=u8::MAX)
        .map(|step| first.wrapping_add(step))
        .find(|id| present.iter().all(|g| g.id != *id))
        .ok_or_else(|| RotationHeld::NoneFree {
            retired: present
                .iter()
                .filter(|g| g.state == KeyState::Retired)
                .count(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(id: u8, state: KeyState, issued: Option<Validity>) -> Generation {
        Generation {
            id,
            state,
            source: KeySource::File,
            fingerprint: [id; 32],
            issued,
            added: Version(u64::from(id)),
            created: UnixSeconds(7),
        }
    }

    fn key(mark: u8) -> NewKey {
        NewKey {
            source: KeySource::File,
            fingerprint: [mark; 32],
        }
    }

    #[test]
    fn a_second_rotation_is_refused_while_one_is_under_way() {
        let present = [
            generation(0, KeyState::Current, None),
            generation(1, KeyState::Next, None),
        ];
        let held = plan_rotation(&present, &key(9));
        assert_eq!(held, Err(RotationHeld::Pending { id: 1, since: 7 }));
    }

    #[test]
    fn ids_wrap_around_and_skip_those_in_use() {
        let mut present = vec![generation(255, KeyState::Current, None)];
        present.push(Generation {
            added: Version(1),
            ..generation(0, KeyState::Retired, None)
        });
        assert_eq!(plan_rotation(&present, &key(9)), Ok(1));
    }

    #[test]
    fn rotation_is_refused_when_every_generation_is_needed() {
        let present: Vec<_> = (0..=255)
            .map(|id| generation(id, KeyState::Retired, Some(Validity::Forever)))
            .collect();
        let mut fresh = key(0);
        fresh.fingerprint[0] = 1;
        assert_eq!(
            plan_rotation(&present, &fresh),
            Err(RotationHeld::NoneFree { retired: 256 })
        );
    }

    #[test]
    fn a_key_cannot_be_two_generations() {
        let present = [generation(3, KeyState::Current, None)];
        assert_eq!(
            plan_rotation(&present, &key(3)),
            Err(RotationHeld::KnownKey { id: 3 })
        );
    }

    #[test]
    fn a_retired_generation_stays_while_a_token_can_be_valid() {
        let until = |t| Some(Validity::Until(UnixSeconds(t)));
        assert!(!generation(0, KeyState::Retired, until(1_000)).is_spent(UnixSeconds(1_300)));
        assert!(generation(0, KeyState::Retired, until(1_000)).is_spent(UnixSeconds(1_301)));
        assert!(
            !generation(0, KeyState::Retired, Some(Validity::Forever))
                .is_spent(UnixSeconds(u64::MAX))
        );
        assert!(!generation(0, KeyState::Current, None).is_spent(UnixSeconds(u64::MAX)));
    }
}
