//! How many challenges one client may cause: a token bucket per address prefix, in bounded memory.
//!
//! A wider prefix has a larger bucket of its own, so that who owns many addresses side by side gets
//! only some times as much. Who has paid is not held to that.
//!
//! A table of sets of four, the set chosen by a seeded hash. In a full set the fullest bucket gives
//! way: it differs least from a new one. One that has paid gives way last.

mod prefix;

pub(super) use self::prefix::{Client, Prefix};

const WAYS: usize = 4;
const SETS: usize = 2_048;
/// Buckets count in thousandths of a challenge.
const MILLI: u64 = 1_000;
/// How many times the limits of a client all clients of a wider prefix get together.
const WIDE_FACTOR: u64 = 10;

#[derive(Clone, Copy)]
struct Bucket {
    prefix: Prefix,
    /// Times the limits of a client.
    factor: u64,
    milli: u64,
    filled_ms: u64,
    has_paid: bool,
}

impl Bucket {
    fn fill(&mut self, limits: &Limits, now_ms: u64) {
        // In the future only after the clock was set back.
        self.filled_ms = self.filled_ms.min(now_ms);
        let gained = limits.gain(self.factor, now_ms.saturating_sub(self.filled_ms));
        if gained > 0 {
            let most = limits.most(self.factor);
            self.milli = self.milli.saturating_add(gained).min(most);
            self.filled_ms = now_ms;
        }
    }

    /// In thousandths of what it holds at most.
    fn fullness(mut self, limits: &Limits, now_ms: u64) -> u64 {
        self.fill(limits, now_ms);
        self.milli.saturating_mul(MILLI) / limits.most(self.factor).max(1)
    }
}

/// Sizes of the buckets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Challenges per minute and prefix.
    pub(super) per_minute: u64,
    /// How many may come at once.
    pub(super) burst: u64,
    /// Times this for a prefix that has paid.
    pub(super) paid_factor: u64,
}

impl Limits {
    const fn per_minute(&self, factor: u64) -> u64 {
        self.per_minute.saturating_mul(factor)
    }

    const fn most(&self, factor: u64) -> u64 {
        self.burst.saturating_mul(factor).saturating_mul(MILLI)
    }

    /// Thousandths per millisecond is challenges per second.
    const fn gain(&self, factor: u64, elapsed_ms: u64) -> u64 {
        elapsed_ms.saturating_mul(self.per_minute(factor)) / 60
    }

    /// Seconds until a bucket has a challenge again.
    fn wait(&self, bucket: &Bucket) -> u64 {
        MILLI
            .saturating_sub(bucket.milli)
            .saturating_mul(60)
            .div_ceil(self.per_minute(bucket.factor).max(1))
            .div_ceil(MILLI)
            .max(1)
    }
}

/// The buckets of all clients.
pub(super) struct Clients {
    limits: Limits,
    seed: u64,
    /// Empty until the first client comes.
    sets: Vec<[Option<Bucket>; WAYS]>,
}

impl Clients {
    pub(super) const fn new(limits: Limits, seed: u64) -> Self {
        Self {
            limits,
            seed,
            sets: Vec::new(),
        }
    }

    /// Takes one challenge from the client's buckets; else the seconds after which there is one.
    pub(super) fn take(&mut self, client: Client, now_ms: u64) -> Result<(), u64> {
        let limits = self.limits;
        let own = self.bucket(client.prefix, 1, now_ms).ok_or(1_u64)?;
        if own.milli < MILLI {
            return Err(limits.wait(own));
        }
        let wide = client.wide.filter(|_| !own.has_paid);
        if let Some(wide) = wide {
            let wide = self.bucket(wide, WIDE_FACTOR, now_ms).ok_or(1_u64)?;
            if wide.milli < MILLI {
                return Err(limits.wait(wide));
            }
            wide.milli -= MILLI;
        }
        if let Some(own) = self.bucket(client.prefix, 1, now_ms) {
            own.milli = own.milli.saturating_sub(MILLI);
        }
        Ok(())
    }

    /// Gives back what was taken for a challenge that was not given.
    pub(super) fn give_back(&mut self, client: Client, now_ms: u64) {
        let limits = self.limits;
        let wide = client.wide.map(|wide| (wide, WIDE_FACTOR));
        for (prefix, factor) in [Some((client.prefix, 1)), wide].into_iter().flatten() {
            let Some(bucket) = self.bucket(prefix, factor, now_ms) else {
                return;
            };
            let most = limits.most(bucket.factor);
            bucket.milli = bucket.milli.saturating_add(MILLI).min(most);
            if bucket.has_paid {
                return;
            }
        }
    }

    /// The client has presented something paid for: larger limits from now on.
    pub(super) fn has_paid(&mut self, client: Client, now_ms: u64) {
        let limits = self.limits;
        let Some(bucket) = client
            .prefix()
            .and_then(|prefix| self.bucket(prefix, 1, now_ms))
        else {
            return;
        };
        if !bucket.has_paid {
            bucket.has_paid = true;
            bucket.factor = limits.paid_factor.max(1);
            bucket.milli = limits.most(bucket.factor);
        }
    }

    /// Whether the client is known to have paid.
    pub(super) fn is_known_to_have_paid(&self, prefix: Prefix) -> bool {
        let set = self.sets.get(self.set_of(prefix));
        let known = set.and_then(|set| set.iter().flatten().find(|b| b.prefix == prefix));
        known.is_some_and(|bucket| bucket.has_paid)
    }

    /// The bucket of a prefix, as full as it is now; a new one of that factor if there is none.
    #[inline(never)]
    fn bucket(&mut self, prefix: Prefix, factor: u64, now_ms: u64) -> Option<&mut Bucket> {
        if self.sets.is_empty() {
            self.sets.resize(SETS, [None; WAYS]);
        }
        let limits = self.limits;
        let index = self.set_of(prefix);
        let set = self.sets.get_mut(index)?;
        let known = set
            .iter()
            .position(|way| way.is_some_and(|b| b.prefix == prefix));
        let place = known.or_else(|| {
            let gives_way = |way: &Option<Bucket>| match way {
                None => (true, u64::MAX),
                Some(bucket) => (!bucket.has_paid, bucket.fullness(&limits, now_ms)),
            };
            let ways = set.iter().enumerate();
            ways.max_by_key(|(_, way)| gives_way(way))
                .map(|(place, _)| place)
        })?;
        let way = set.get_mut(place)?;
        if known.is_none() {
            *way = Some(Bucket {
                prefix,
                factor,
                milli: limits.most(factor),
                filled_ms: now_ms,
                has_paid: false,
            });
        }
        let bucket = way.as_mut()?;
        bucket.fill(&limits, now_ms);
        Some(bucket)
    }

    /// The seed keeps strangers from choosing the set that they fill.
    fn set_of(&self, prefix: Prefix) -> usize {
        const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
        let bits = prefix.bits;
        let (high, low) = ((bits >> 64) as u64, bits as u64);
        let mut hash = self.seed;
        for part in [high, low] {
            hash = (hash ^ part).wrapping_mul(PRIME);
            hash ^= hash >> 32;
        }
        usize::try_from(hash & 0xffff_ffff).unwrap_or_default() % SETS
    }
}

#[cfg(test)]
mod tests;
