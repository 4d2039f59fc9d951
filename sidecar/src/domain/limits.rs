//! Token buckets: how much may be issued, overall and for one client prefix.

use std::collections::HashMap;
use std::time::Duration;

/// Rate and size of a bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quota {
    /// Tokens that flow in per second.
    pub per_second: f64,
    /// Tokens that a full bucket holds.
    pub burst: f64,
}

impl Quota {
    /// The same, `factor` times as large.
    #[must_use]
    pub fn times(self, factor: u32) -> Self {
        let factor = f64::from(factor);
        Self {
            per_second: self.per_second * factor,
            burst: self.burst * factor,
        }
    }
}

/// A bucket that is full at first.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    taken: f64,
    at: Duration,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub const fn full(now: Duration) -> Self {
        Self {
            taken: 0.0,
            at: now,
        }
    }

    /// Takes up to `want` whole tokens, at least one.
    ///
    /// # Errors
    /// How long until there is one.
    pub fn take(&mut self, want: u16, quota: Quota, now: Duration) -> Result<u16, Duration> {
        self.refill(quota, now);
        let available = (quota.burst - self.taken).floor();
        if available < 1.0 {
            let missing = 1.0 - (quota.burst - self.taken);
            return Err(Duration::try_from_secs_f64(missing / quota.per_second)
                .unwrap_or(Duration::from_secs(3_600)));
        }
        // A float saturates when it becomes an integer, so this is at most `want`.
        let granted = want.min(available as u16);
        self.taken += f64::from(granted);
        Ok(granted)
    }

    /// Puts back what was taken and not used.
    pub fn give_back(&mut self, count: u16) {
        self.taken = (self.taken - f64::from(count)).max(0.0);
    }

    /// Whether nothing is missing from it.
    #[must_use]
    pub fn is_full(&self, quota: Quota, now: Duration) -> bool {
        self.taken <= now.saturating_sub(self.at).as_secs_f64() * quota.per_second
    }

    fn refill(&mut self, quota: Quota, now: Duration) {
        let elapsed = now.saturating_sub(self.at).as_secs_f64();
        self.taken = (self.taken - elapsed * quota.per_second).max(0.0);
        self.at = self.at.max(now);
    }
}

/// One bucket per client prefix, for a bounded number of prefixes.
///
/// When there are too many, those that are full again are forgotten; if all are in use, further
/// prefixes share one bucket, so that a flood of addresses costs no memory.
#[derive(Debug)]
pub struct Buckets {
    quota: Quota,
    most: usize,
    buckets: HashMap<String, Bucket>,
    shared: Bucket,
}

impl Buckets {
    /// At most `most` buckets of this size.
    #[must_use]
    pub fn new(quota: Quota, most: usize, now: Duration) -> Self {
        Self {
            quota,
            most,
            buckets: HashMap::new(),
            shared: Bucket::full(now),
        }
    }

    /// As [`Bucket::take`], for `key`, with a bucket `factor` times as large.
    ///
    /// # Errors
    /// How long until there is a token.
    pub fn take(
        &mut self,
        key: &str,
        want: u16,
        factor: u32,
        now: Duration,
    ) -> Result<u16, Duration> {
        let quota = self.quota.times(factor);
        self.bucket(key, now).take(want, quota, now)
    }

    /// As [`Bucket::give_back`], for `key`.
    pub fn give_back(&mut self, key: &str, count: u16) {
        if let Some(bucket) = self.buckets.get_mut(key) {
            bucket.give_back(count);
        }
    }

    /// Forgets the buckets that are full.
    pub fn forget_full(&mut self, now: Duration) {
        let quota = self.quota;
        self.buckets.retain(|_, bucket| !bucket.is_full(quota, now));
    }

    fn bucket(&mut self, key: &str, now: Duration) -> &mut Bucket {
        let room = self.buckets.len() < self.most || self.buckets.contains_key(key);
        if room {
            self.buckets
                .entry(key.to_owned())
                .or_insert_with(|| Bucket::full(now))
        } else {
            &mut self.shared
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUOTA: Quota = Quota {
        per_second: 2.0,
        burst: 4.0,
    };

    fn second(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let mut bucket = Bucket::full(second(0));
        assert_eq!(bucket.take(3, QUOTA, second(0)), Ok(3));
        assert_eq!(bucket.take(3, QUOTA, second(0)), Ok(1));
        assert_eq!(
            bucket.take(1, QUOTA, second(0)),
            Err(Duration::from_millis(500))
        );
        assert_eq!(bucket.take(9, QUOTA, second(1)), Ok(2));
    }

    #[test]
    fn what_was_not_used_can_be_given_back() {
        let mut bucket = Bucket::full(second(0));
        assert_eq!(bucket.take(4, QUOTA, second(0)), Ok(4));
        bucket.give_back(2);
        assert_eq!(bucket.take(4, QUOTA, second(0)), Ok(2));
    }

    #[test]
    fn prefixes_do_not_take_from_each_other() {
        let mut buckets = Buckets::new(QUOTA, 10, second(0));
        assert_eq!(buckets.take("a", 4, 1, second(0)), Ok(4));
        assert!(buckets.take("a", 1, 1, second(0)).is_err());
        assert_eq!(buckets.take("b", 4, 1, second(0)), Ok(4));
    }

    #[test]
    fn who_has_paid_has_a_larger_bucket() {
        let mut buckets = Buckets::new(QUOTA, 10, second(0));
        assert_eq!(buckets.take("a", 4, 1, second(0)), Ok(4));
        assert_eq!(buckets.take("a", 100, 10, second(0)), Ok(36));
    }

    #[test]
    fn a_flood_of_prefixes_shares_one_bucket_and_memory_stays_bounded() {
        let mut buckets = Buckets::new(QUOTA, 2, second(0));
        for prefix in 0..100 {
            let _ = buckets.take(&prefix.to_string(), 4, 1, second(0));
        }
        assert_eq!(buckets.buckets.len(), 2);
        assert!(buckets.take("new", 1, 1, second(0)).is_err());
        buckets.forget_full(second(10));
        assert!(buckets.buckets.is_empty());
        assert_eq!(buckets.take("new", 4, 1, second(10)), Ok(4));
    }
}
