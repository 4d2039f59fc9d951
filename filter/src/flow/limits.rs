//! How many challenges one client may cause: a token bucket per address prefix, in bounded memory.
//!
//! A wider prefix has a larger bucket of its own, so that who owns many addresses side by side gets
//! only some times as much. Who has paid is not held to that.
//!
//! A table of sets of four, the set chosen by a seeded hash. In a full set the fullest bucket gives
//! way: it differs least from a new one. One that has paid gives way last.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use protocol::policy::ClientLimits;

const WAYS: usize = 4;
const SETS: usize = 2_048;
/// Buckets count in thousandths of a challenge.
const MILLI: u64 = 1_000;
/// Bits of the wider prefixes.
const WIDE: (u8, u8) = (24, 48);
/// How many times the limits of a client all clients of a wider prefix get together.
const WIDE_FACTOR: u64 = 10;

/// A client address cut to the part that one client is taken to own. IPv4 is kept as it is mapped
/// into IPv6.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Prefix {
    bits: u128,
    length: u8,
}

/// Bits before an IPv4 address that is mapped into IPv6.
const MAPPED: u8 = 96;

impl Prefix {
    /// Of clients whose address is not known: no setting makes a prefix of no bits.
    const NOBODY: Self = Self { bits: 0, length: 0 };

    fn of(address: IpAddr, v4: u8, v6: u8) -> Self {
        let (address, length) = match address.to_canonical() {
            IpAddr::V4(address) => (address.to_ipv6_mapped(), MAPPED + v4.min(32)),
            IpAddr::V6(address) => (address, v6.min(128)),
        };
        let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        let bits = address.to_bits() & mask;
        Self { bits, length }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv6Addr::from_bits(self.bits);
        match address.to_ipv4_mapped() {
            Some(address) => write!(f, "{address}/{}", self.length.saturating_sub(MAPPED)),
            None => write!(f, "{address}/{}", self.length),
        }
    }
}

/// Who causes challenges.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Client {
    prefix: Prefix,
    /// Only if it is wider than `prefix`.
    wide: Option<Prefix>,
}

impl Client {
    /// All clients without an address are one: nothing tells them apart.
    pub(super) fn new(address: Option<IpAddr>, limits: &ClientLimits) -> Self {
        let Some(address) = address else {
            return Self {
                prefix: Prefix::NOBODY,
                wide: None,
            };
        };
        let prefix = Prefix::of(address, limits.prefix_v4, limits.prefix_v6);
        let wide = Prefix::of(address, WIDE.0, WIDE.1);
        Self {
            prefix,
            wide: (wide.length < prefix.length).then_some(wide),
        }
    }

    /// What names it to the sidecar; `None` without an address.
    pub(super) fn prefix(&self) -> Option<Prefix> {
        (self.prefix != Prefix::NOBODY).then_some(self.prefix)
    }
}

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

    fn client(address: &str) -> Client {
        Client::new(Some(address.parse().unwrap()), &ClientLimits::default())
    }

    fn taken(clients: &mut Clients, client: Client, now_ms: u64) -> usize {
        (0..1_000)
            .take_while(|_| clients.take(client, now_ms).is_ok())
            .count()
    }

    #[test]
    fn a_client_gets_its_burst_and_then_its_rate() {
        let mut clients = clients();
        let client = client("192.0.2.1");
        assert_eq!(taken(&mut clients, client, 0), 3);
        assert_eq!(clients.take(client, 0), Err(1));
        assert_eq!(taken(&mut clients, client, 999), 0);
        assert_eq!(taken(&mut clients, client, 2_000), 2);
        assert_eq!(taken(&mut clients, client, 1_000_000), 3);
    }

    #[test]
    fn a_slow_drip_of_requests_does_not_starve_the_bucket() {
        let mut clients = clients();
        let client = client("192.0.2.1");
        taken(&mut clients, client, 0);
        let got = (0..5_000)
            .filter(|ms| clients.take(client, *ms).is_ok())
            .count();
        assert_eq!(got, 4);
    }

    #[test]
    fn one_client_does_not_touch_another() {
        let mut clients = clients();
        taken(&mut clients, client("192.0.2.1"), 0);
        assert_eq!(taken(&mut clients, client("192.0.2.2"), 0), 3);
    }

    #[test]
    fn who_has_paid_gets_more() {
        let mut clients = clients();
        let client = client("192.0.2.1");
        taken(&mut clients, client, 0);
        clients.has_paid(client, 0);
        assert!(clients.is_known_to_have_paid(client.prefix));
        assert_eq!(taken(&mut clients, client, 0), 30);
    }

    #[test]
    fn many_addresses_side_by_side_share_a_larger_bucket() {
        let mut clients = clients();
        let all = |clients: &mut Clients, addresses: fn(u32) -> String| -> usize {
            let addresses = (0..250).map(addresses);
            addresses.map(|a| taken(clients, client(&a), 0)).sum()
        };
        assert_eq!(all(&mut clients, |n| format!("192.0.2.{n}")), 30);
        assert_eq!(all(&mut clients, |n| format!("2001:db8:0:{n:x}::1")), 30);
        assert_eq!(taken(&mut clients, client("192.0.3.1"), 0), 3);
        // A seller's customer there is not kept out.
        clients.has_paid(client("192.0.2.7"), 0);
        assert_eq!(taken(&mut clients, client("192.0.2.7"), 0), 30);
        assert_eq!(taken(&mut clients, client("192.0.2.8"), 1_000), 1);
        let wide = ClientLimits {
            prefix_v4: 24,
            ..ClientLimits::default()
        };
        let address = Some("192.0.4.1".parse().unwrap());
        assert_eq!(Client::new(address, &wide).wide, None);
    }

    #[test]
    fn what_was_not_given_is_given_back() {
        let mut clients = clients();
        let client = client("192.0.2.1");
        for _ in 0..100 {
            clients.take(client, 0).unwrap();
            clients.give_back(client, 0);
        }
        clients.give_back(client, 0);
        assert_eq!(taken(&mut clients, client, 0), 3);
    }

    #[test]
    fn clients_without_an_address_are_one() {
        let mut clients = clients();
        let nobody = Client::new(None, &ClientLimits::default());
        clients.has_paid(nobody, 0);
        assert_eq!(taken(&mut clients, nobody, 0), 3);
        assert_eq!(taken(&mut clients, client("192.0.2.1"), 0), 3);
        assert_eq!(nobody.prefix(), None);
    }

    #[test]
    fn a_flood_of_strangers_takes_nothing_from_who_has_paid() {
        let mut clients = clients();
        let payer = client("192.0.2.1");
        clients.has_paid(payer, 0);
        for number in 0..100_000_u32 {
            let address = IpAddr::V4((number << 8).into());
            let stranger = Client::new(Some(address), &ClientLimits::default());
            let _ = clients.take(stranger, 0);
        }
        assert_eq!(taken(&mut clients, payer, 0), 30);
    }

    #[test]
    fn memory_is_bounded_and_a_busy_client_is_not_forgotten() {
        let mut clients = clients();
        let busy = client("192.0.2.1");
        taken(&mut clients, busy, 0);
        for number in 0..100_000_u32 {
            let address = Some(IpAddr::V4((number << 8).into()));
            let _ = clients.take(Client::new(address, &ClientLimits::default()), 0);
            if number % 1_000 == 0 {
                assert_eq!(clients.take(busy, 0), Err(1), "after {number}");
            }
        }
        assert_eq!(clients.sets.len(), SETS);
    }

    #[test]
    fn addresses_are_cut_to_what_one_client_owns() {
        let prefix = |address: &str| Prefix::of(address.parse().unwrap(), 32, 64);
        assert_eq!(prefix("2001:db8::1"), prefix("2001:db8::ffff:1"));
        assert_ne!(prefix("2001:db8::1"), prefix("2001:db8:0:1::1"));
        assert_eq!(prefix("::ffff:192.0.2.7"), prefix("192.0.2.7"));
        assert_eq!(prefix("192.0.2.7").to_string(), "192.0.2.7/32");
        assert_eq!(prefix("2001:db8::1").to_string(), "2001:db8::/64");
        assert_eq!(
            Prefix::of("1.2.3.4".parse().unwrap(), 8, 0).to_string(),
            "1.0.0.0/8"
        );
    }
}
