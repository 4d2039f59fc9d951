//! Points in time as values; the clock itself belongs to the caller.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Seconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(transparent)]
pub struct UnixSeconds(pub u64);

impl UnixSeconds {
    /// This many whole seconds later; stays at the end of time instead of wrapping.
    #[must_use]
    pub const fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration.as_secs()))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_secs(self.0.saturating_sub(earlier.0))
    }
}

/// Seconds of a day.
const DAY: u64 = 86_400;
/// Days from 0000-03-01 to 1970-01-01 in the Gregorian calendar carried back.
const EPOCH: u64 = 719_468;
/// Days of 400 years, after which the calendar repeats.
const ERA: u64 = 146_097;

/// Date and time as RFC 3339 writes them in UTC with whole seconds: `2026-03-15T12:05:00Z`.
impl UnixSeconds {
    /// The last second that has four digits of year.
    pub const MAX_RFC3339: Self = Self(253_402_300_799);

    /// The RFC 3339 form; times after [`Self::MAX_RFC3339`] are written as that.
    #[must_use]
    pub fn to_rfc3339(self) -> String {
        let seconds = self.0.min(Self::MAX_RFC3339.0);
        let (days, time) = (seconds / DAY, seconds % DAY);
        // Years begin in March here, so that a leap day is the last one.
        let days = days + EPOCH;
        let (era, day) = (days / ERA, days % ERA);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, carry) = if month < 10 {
            (month + 3, 0)
        } else {
            (month - 9, 1)
        };
        let year = year + era * 400 + carry;
        let (hour, minute, second) = (time / 3_600, time / 60 % 60, time % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }

    /// Reads what [`Self::to_rfc3339`] writes and nothing else: no fraction, no other zone, no
    /// leap second, nothing before 1970.
    #[must_use]
    pub fn from_rfc3339(text: &str) -> Option<Self> {
        let field = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
        let (year, month, day) = (field(0, 4)?, field(5, 7)?, field(8, 10)?);
        let (hour, minute, second) = (field(11, 13)?, field(14, 16)?, field(17, 19)?);
        if year < 1_970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return None;
        }
        let (years, months) = if month > 2 {
            (year, month - 3)
        } else {
            (year - 1, month + 9)
        };
        let (era, year) = (years / 400, years % 400);
        let days = (153 * months + 2) / 5 + day - 1 + 365 * year + year / 4 - year / 100;
        let days = (era * ERA + days).checked_sub(EPOCH)?;
        let read = Self(days * DAY + hour * 3_600 + minute * 60 + second);
        // A 30th of February, an hour 24 or a sign among the digits does not come back.
        (read.to_rfc3339() == text).then_some(read)
    }
}

impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let cases = [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_773_576_000, "2026-03-15T12:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ];
        for (seconds, text) in cases {
            assert_eq!(UnixSeconds(seconds).to_rfc3339(), text);
            assert_eq!(UnixSeconds::from_rfc3339(text), Some(UnixSeconds(seconds)));
        }
        assert_eq!(
            UnixSeconds(u64::MAX).to_rfc3339(),
            UnixSeconds::MAX_RFC3339.to_rfc3339()
        );
    }

    #[test]
    fn every_day_of_four_centuries_comes_back() {
        for day in 0..ERA + 1 {
            let time = UnixSeconds(day * DAY + day % DAY);
            let text = time.to_rfc3339();
            assert_eq!(UnixSeconds::from_rfc3339(&text), Some(time), "{text}");
        }
    }

    #[test]
    fn other_forms_of_a_date_are_not_read() {
        for text in [
            "",
            "2026-03-15",
            "2026-03-15T12:00:00",
            "2026-03-15t12:00:00z",
            "2026-03-15T12:00:00.5Z",
            "2026-03-15T12:00:00+00:00",
            "2026-02-30T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-03-15T24:00:00Z",
            "2026-03-15T12:00:60Z",
            "+026-03-15T12:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-03-15T12:00:00Zé",
        ] {
            assert_eq!(UnixSeconds::from_rfc3339(text), None, "{text}");
        }
    }
}
