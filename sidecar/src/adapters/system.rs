//! Clock and randomness of the operating system.

use std::time::{Duration, Instant, SystemTime};

use rand::TryRng as _;

use crate::domain::ports::{Clock, Random, RandomError};
use crate::faults;

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// Its monotonic time begins now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn unix_millis(&self) -> u64 {
        unix_millis()
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The machine's wall clock in milliseconds since 1970, UTC.
#[must_use]
pub fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let millis = since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    });
    faults::shifted(millis)
}

/// The machine's random bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn secret(&self) -> Result<[u8; 32], RandomError> {
        let mut bytes = [0; 32];
        rand::rngs::SysRng
            .try_fill_bytes(&mut bytes)
            .map_err(|error| RandomError(error.to_string()))?;
        Ok(bytes)
    }
}
