//! Money: millisatoshi and whole satoshi, with checked arithmetic only.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An amount in millisatoshi (1/1000 satoshi), the unit of Lightning.
///
/// There are no operators on purpose: every sum or difference of money says what happens when it
/// does not fit.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(transparent)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Msat(u64);

impl Msat {
    /// All bitcoin there can ever be, in millisatoshi: no amount is larger.
    pub const MAX: Self = Self(21_000_000 * 100_000_000 * 1_000);
    /// No money.
    pub const ZERO: Self = Self(0);

    /// `None` if the amount is more than all bitcoin there can be.
    #[must_use]
    pub const fn new(msat: u64) -> Option<Self> {
        if msat <= Self::MAX.0 {
            Some(Self(msat))
        } else {
            None
        }
    }

    /// Whole satoshis as millisatoshi; `None` if more than [`Self::MAX`].
    #[must_use]
    pub const fn from_sat(sat: u64) -> Option<Self> {
        match sat.checked_mul(1_000) {
            Some(msat) => Self::new(msat),
            None => None,
        }
    }

    /// The plain number of millisatoshi.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whole satoshis, a part of one counted as a whole (spec/l402 E18).
    #[must_use]
    pub const fn to_sat_ceil(self) -> u64 {
        self.0.div_ceil(1_000)
    }

    /// Whole satoshis, a part of one dropped.
    #[must_use]
    pub const fn to_sat_floor(self) -> u64 {
        self.0 / 1_000
    }

    /// `None` if the sum is more than [`Self::MAX`].
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(msat) => Self::new(msat),
            None => None,
        }
    }

    /// `None` if the difference would be negative.
    #[must_use]
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(msat) => Some(Self(msat)),
            None => None,
        }
    }
}

/// An amount in whole satoshi: the unit of the Payment scheme, which knows no smaller one
/// (spec/payment-auth sections 2.3 and 2.4). No operators, for the reason [`Msat`] has none.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(try_from = "u64", into = "u64")]
pub struct Sat(u64);

impl TryFrom<u64> for Sat {
    type Error = &'static str;

    fn try_from(sat: u64) -> Result<Self, Self::Error> {
        Self::new(sat).ok_or("more than all bitcoin there can be")
    }
}

impl From<Sat> for u64 {
    fn from(amount: Sat) -> Self {
        amount.0
    }
}

impl Sat {
    /// All bitcoin there can ever be, in satoshi.
    pub const MAX: Self = Self(Msat::MAX.0 / 1_000);
    /// No money.
    pub const ZERO: Self = Self(0);

    /// `None` if the amount is more than all bitcoin there can be.
    #[must_use]
    pub const fn new(sat: u64) -> Option<Self> {
        if sat <= Self::MAX.0 {
            Some(Self(sat))
        } else {
            None
        }
    }

    /// The price of something that costs `msat`: a part of a satoshi counts as a whole one.
    #[must_use]
    pub const fn price_of(msat: Msat) -> Self {
        Self(msat.to_sat_ceil())
    }

    /// The plain number of satoshi.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The same amount in millisatoshi.
    #[must_use]
    pub const fn to_msat(self) -> Msat {
        // At most `Sat::MAX`, so the product is at most `Msat::MAX`.
        Msat(self.0 * 1_000)
    }

    /// Reads an amount as requests write it: decimal digits, positive, without leading zero.
    #[must_use]
    pub fn parse_positive(text: &str) -> Option<Self> {
        let is_canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
        if is_canonical {
            text.parse().ok().and_then(Self::new)
        } else {
            None
        }
    }
}

impl fmt::Display for Sat {
    /// The digits alone, as requests want them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Msat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} msat", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_never_exceed_all_bitcoin() {
        assert_eq!(Msat::MAX.checked_add(Msat::new(1).unwrap()), None);
        assert_eq!(Msat::new(Msat::MAX.get() + 1), None);
        assert_eq!(Msat::from_sat(u64::MAX), None);
    }

    #[test]
    fn differences_are_never_negative() {
        assert_eq!(Msat::ZERO.checked_sub(Msat::new(1).unwrap()), None);
    }

    #[test]
    fn satoshis_round_up_or_down_as_asked() {
        let price = Msat::new(1_001).unwrap();
        assert_eq!((price.to_sat_ceil(), price.to_sat_floor()), (2, 1));
    }

    #[test]
    fn an_amount_in_satoshi_has_one_spelling() {
        assert_eq!(Sat::parse_positive("100"), Sat::new(100));
        let most = Sat::MAX.to_string();
        assert_eq!(Sat::parse_positive(&most), Some(Sat::MAX));
        assert_eq!(Sat::MAX.to_msat(), Msat::MAX);
        let wrong = [
            "",
            "0",
            "01",
            "+1",
            "-1",
            "1.0",
            " 1",
            "1e2",
            "2100000000000001",
        ];
        for text in wrong {
            assert_eq!(Sat::parse_positive(text), None, "{text}");
        }
    }
}
