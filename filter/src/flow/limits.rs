//! How many challenges one client may cause: a token bucket per address prefix, in bounded memory.
//!
//! A table of sets of four, the set chosen by a seeded hash. In a full set the fullest bucket gives
//! way: it differs least from a new one.

use std::fmt;
use std::net::IpAddr;

const WAYS: usize = 4;
const SETS: usize = 2_048;
/// Buckets count in thousandths of a challenge.
const MILLI: u64 = 1_000;

/// A client address cut to the part that one client is taken to own.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    pub(super) fn of(address: IpAddr, v4: u8, v6: u8) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(v4.min(32)))
                    .unwrap_or(0);
                Self {
                    address: IpAddr::V4((address.to_bits() & mask).into()),
                    length: v4.min(32),
                }
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(v6.min(128)))
                    .unwrap_or(0);
                Self {
                    address: IpAddr::V6((address.to_bits() & mask).into()),
                    length: v6.min(128),
                }
            }
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[derive(Clone, Copy)]
struct Bucket {
    prefix: Prefix,
    milli: u64,
    filled_ms: u64,
    has_paid: bool,
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
    fn of(&self, has_paid: bool) -> (u64, u64) {
        let factor = if has_paid { self.paid_factor.max(1) } else { 1 };
        (
            self.per_minute.saturating_mul(factor),
            self.burst.saturating_mul(factor),
        )
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

    /// Takes one challenge from the client's bucket; else the seconds after which there is one.
    pub(super) fn take(&mut self, prefix: Prefix, now_ms: u64) -> Result<(), u64> {
        let limits = self.limits;
        let Some(bucket) = self.bucket(prefix, now_ms) else {
            return Err(1);
        };
        let (per_minute, burst) = limits.of(bucket.has_paid);
        // In the future only after the clock was set back.
        bucket.filled_ms = bucket.filled_ms.min(now_ms);
        let elapsed = now_ms.saturating_sub(bucket.filled_ms);
        // Thousandths per millisecond is challenges per second.
        let gained = elapsed.saturating_mul(per_minute) / 60;
        if gained > 0 {
            bucket.milli = bucket
                .milli
                .saturating_add(gained)
                .min(burst.saturating_mul(MILLI));
            bucket.filled_ms = now_ms;
        }
        if let Some(left) = bucket.milli.checked_sub(MILLI) {
            bucket.milli = left;
            return Ok(());
        }
        let missing = MILLI - bucket.milli;
        Err(missing
            .saturating_mul(60)
            .div_ceil(per_minute.max(1))
            .div_ceil(MILLI)
            .max(1))
    }

    /// The client has presented something paid for: larger limits from now on.
    pub(super) fn has_paid(&mut self, prefix: Prefix, now_ms: u64) {
        let (_, burst) = self.limits.of(true);
        let Some(bucket) = self.bucket(prefix, now_ms) else {
            return;
        };
        if !bucket.has_paid {
            bucket.has_paid = true;
            bucket.milli = burst.saturating_mul(MILLI);
        }
    }

    /// Whether the client is known to have paid.
    pub(super) fn is_known_to_have_paid(&self, prefix: Prefix) -> bool {
        let set = self.sets.get(self.set_of(prefix));
        let known = set.and_then(|set| set.iter().flatten().find(|b| b.prefix == prefix));
        known.is_some_and(|bucket| bucket.has_paid)
    }

    fn bucket(&mut self, prefix: Prefix, now_ms: u64) -> Option<&mut Bucket> {
        if self.sets.is_empty() {
            self.sets.resize(SETS, [None; WAYS]);
        }
        let (_, burst) = self.limits.of(false);
        let index = self.set_of(prefix);
        let set = self.sets.get_mut(index)?;
        let known = set
            .iter()
            .position(|way| way.is_some_and(|b| b.prefix == prefix));
        let place = known.or_else(|| {
            let fullness = |way: &Option<Bucket>| way.map_or(u64::MAX, |bucket| bucket.milli);
            let ways = set.iter().enumerate();
            ways.max_by_key(|(_, way)| fullness(way))
                .map(|(place, _)| place)
        })?;
        let way = set.get_mut(place)?;
        if known.is_none() {
            let milli = burst.saturating_mul(MILLI);
            *way = Some(Bucket {
                prefix,
                milli,
                filled_ms: now_ms,
                has_paid: false,
            });
        }
        way.as_mut()
    }

    /// The seed keeps strangers from choosing the set that they fill.
    fn set_of(&self, prefix: Prefix) -> usize {
        const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
        let bits = match prefix.address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
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
mod tests {
    use super::*;

    fn clients() -> Clients {
        Clients::new(
            Limits {
                per_minute: 60,
                burst: 3,
                paid_factor: 10,
            },
            7,
        )
    }

    fn prefix(address: &str) -> Prefix {
        Prefix::of(address.parse().unwrap(), 32, 64)
    }

    fn taken(clients: &mut Clients, prefix: Prefix, now_ms: u64) -> usize {
        (0..1_000)
            .take_while(|_| clients.take(prefix, now_ms).is_ok())
            .count()
    }

    #[test]
    fn a_client_gets_its_burst_and_then_its_rate() {
        let mut clients = clients();
        let client = prefix("192.0.2.1");
        assert_eq!(taken(&mut clients, client, 0), 3);
        assert_eq!(clients.take(client, 0), Err(1));
        assert_eq!(taken(&mut clients, client, 999), 0);
        assert_eq!(taken(&mut clients, client, 2_000), 2);
        assert_eq!(taken(&mut clients, client, 1_000_000), 3);
    }

    #[test]
    fn a_slow_drip_of_requests_does_not_starve_the_bucket() {
        let mut clients = clients();
        let client = prefix("192.0.2.1");
        taken(&mut clients, client, 0);
        let got = (0..5_000)
            .filter(|ms| clients.take(client, *ms).is_ok())
            .count();
        assert_eq!(got, 4);
    }

    #[test]
    fn one_client_does_not_touch_another() {
        let mut clients = clients();
        taken(&mut clients, prefix("192.0.2.1"), 0);
        assert_eq!(taken(&mut clients, prefix("192.0.2.2"), 0), 3);
    }

    #[test]
    fn who_has_paid_gets_more() {
        let mut clients = clients();
        let client = prefix("192.0.2.1");
        taken(&mut clients, client, 0);
        clients.has_paid(client, 0);
        assert!(clients.is_known_to_have_paid(client));
        assert_eq!(taken(&mut clients, client, 0), 30);
    }

    #[test]
    fn memory_is_bounded_and_a_busy_client_is_not_forgotten() {
        let mut clients = clients();
        let busy = prefix("192.0.2.1");
        taken(&mut clients, busy, 0);
        for number in 0..100_000_u32 {
            let _ = clients.take(Prefix::of(IpAddr::V4(number.into()), 32, 64), 0);
            if number % 1_000 == 0 {
                assert_eq!(clients.take(busy, 0), Err(1), "after {number}");
            }
        }
        assert_eq!(clients.sets.len(), SETS);
    }

    #[test]
    fn addresses_are_cut_to_what_one_client_owns() {
        assert_eq!(prefix("2001:db8::1"), prefix("2001:db8::ffff:1"));
        assert_ne!(prefix("2001:db8::1"), prefix("2001:db8:0:1::1"));
        assert_eq!(prefix("::ffff:192.0.2.7"), prefix("192.0.2.7"));
        assert_eq!(prefix("192.0.2.7").to_string(), "192.0.2.7/32");
        assert_eq!(prefix("2001:db8::1").to_string(), "2001:db8::/64");
        assert_eq!(
            Prefix::of("1.2.3.4".parse().unwrap(), 0, 0).to_string(),
            "0.0.0.0/0"
        );
    }
}
