//! Master keys: where their bytes are, and how one is known without showing it.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use hmac::{Hmac, KeyInit as _, Mac as _};
use protocol::keys::MasterSecret;
use sha2::Sha256;

use crate::config;
use crate::domain::keys::{Generation, KeySource, NewKey};
use crate::domain::ports::{Random, RandomError};

const FINGERPRINT_LABEL: &[u8] = b"boltgate/fingerprint/v0";

/// The operator's master keys, or none: then the ledger keeps keys that were made here.
pub struct MasterKeys {
    file: Option<PathBuf>,
    keys: Mutex<Vec<MasterSecret>>,
}

impl MasterKeys {
    /// `file` is where `keys` came from; it is read again when a generation needs another key.
    #[must_use]
    pub const fn new(keys: Vec<MasterSecret>, file: Option<PathBuf>) -> Self {
        Self {
            file,
            keys: Mutex::new(keys),
        }
    }

    /// The key for a ledger without any.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn first_key(&self, random: &dyn Random) -> Result<NewKey, RandomError> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.first()
            .map_or_else(|| made(random), |key| Ok(from_file(key)))
    }

    /// The key for a rotation beside the `present` generations: of the operator's keys the one
    /// after the newest that is a generation, since those before it were used and may have been
    /// revoked; where the operator gives none, a new one. `None`: the operator gives keys and all
    /// have been in use.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn next_key(
        &self,
        present: &[Generation],
        random: &dyn Random,
    ) -> Result<Option<NewKey>, RandomError> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.is_empty() {
            return made(random).map(Some);
        }
        let is_present = |key: &NewKey| {
            present
                .iter()
                .any(|generation| generation.fingerprint == key.fingerprint)
        };
        let unused = keys.iter().map(from_file).rev();
        Ok(unused.take_while(|key| !is_present(key)).last())
    }

    /// The bytes of a generation, if they can be found.
    #[must_use]
    pub fn of(&self, generation: &Generation) -> Option<MasterSecret> {
        if let KeySource::Ledger(master) = &generation.source {
            return Some(master.clone());
        }
        self.find(&generation.fingerprint).or_else(|| {
            self.read_again();
            self.find(&generation.fingerprint)
        })
    }

    fn find(&self, wanted: &[u8; 32]) -> Option<MasterSecret> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.iter().find(|key| fingerprint(key) == *wanted).cloned()
    }

    fn read_again(&self) {
        let Some(file) = &self.file else { return };
        match config::read_master_keys(file) {
            Ok(keys) => *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = keys,
            Err(error) => tracing::error!(%error, "master keys cannot be read again"),
        }
    }
}

fn made(random: &dyn Random) -> Result<NewKey, RandomError> {
    let master = MasterSecret::new(random.secret()?);
    let fingerprint = fingerprint(&master);
    Ok(NewKey {
        source: KeySource::Ledger(master),
        fingerprint,
    })
}

fn from_file(master: &MasterSecret) -> NewKey {
    NewKey {
        source: KeySource::File,
        fingerprint: fingerprint(master),
    }
}

/// Tells keys apart and says nothing about their bytes.
fn fingerprint(master: &MasterSecret) -> [u8; 32] {
    let mut block = zeroize::Zeroizing::new([0; 64]);
    block.split_at_mut(32).0.copy_from_slice(master.expose());
    let mut mac = Hmac::<Sha256>::new((&*block).into());
    mac.update(FINGERPRINT_LABEL);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use protocol::api::KeyState;
    use protocol::time::UnixSeconds;

    use super::*;
    use crate::adapters::system::SystemRandom;
    use crate::domain::deny_list::Version;

    fn generation(of: &MasterSecret) -> Generation {
        Generation {
            id: 0,
            state: KeyState::Current,
            source: KeySource::File,
            fingerprint: fingerprint(of),
            issued: None,
            added: Version(1),
            created: UnixSeconds(1),
        }
    }

    #[test]
    fn a_key_that_was_used_before_and_is_gone_is_not_used_again() {
        let file: Vec<_> = (1..=3).map(|n| MasterSecret::new([n; 32])).collect();
        let keys = MasterKeys::new(file.clone(), None);
        let next = |present: &[Generation]| {
            let next = keys.next_key(present, &SystemRandom).unwrap();
            next.map(|key| key.fingerprint)
        };
        // The first one was revoked.
        assert_eq!(next(&[generation(&file[1])]), Some(fingerprint(&file[2])));
        assert_eq!(next(&[generation(&file[2])]), None);
        let made_here = MasterSecret::new([9; 32]);
        assert_eq!(next(&[generation(&made_here)]), Some(fingerprint(&file[0])));
    }
}
