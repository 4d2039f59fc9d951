//! Kinds of walk: who asks for what, and how much there is.

use rand::RngExt as _;
use rand::rngs::StdRng;

/// Between requests of the VM that is left in a scarce walk.
const PAUSE: u64 = 12;

/// What a walk is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Course {
    /// Faults nearly all the time, and close at any moment.
    Rough,
    /// Faults in the beginning. One VM is left at the end, and must reach the last unit that it can
    /// afford.
    Calm,
    /// The same, but soon there is too little for all the others, who go on asking in vain. The one
    /// VM has a request now and then, which does not wait: units that come too late for it must
    /// still be there for the next one. Whoever waits takes them as they come, and hardly notices
    /// that they are recalled at once.
    Scarce,
}

impl Course {
    /// One walk in five is scarce.
    pub(crate) fn of(seed: u64, random: &mut StdRng) -> Self {
        match seed % 5 {
            2 => Self::Scarce,
            _ if random.random_bool(0.5) => Self::Calm,
            _ => Self::Rough,
        }
    }

    /// What a request costs at each VM, and what is paid in.
    pub(crate) fn money(self, random: &mut StdRng) -> ([u64; 3], u64) {
        if self == Self::Scarce {
            let dear = 200;
            let deposited = dear * random.random_range(1..=4) + random.random_range(100..dear);
            return ([random.random_range(1..=2), dear, dear], deposited);
        }
        let prices = [(); 3].map(|()| [1, 1, 5, 20][random.random_range(0..4)]);
        let dearest = prices.into_iter().max().unwrap_or(1);
        let deposited = random.random_range(1..=60) * dearest;
        (prices, deposited * if self == Self::Calm { 3 } else { 1 })
    }

    /// A VM has a new request.
    pub(crate) fn asks(self, vm: usize, now: u64, random: &mut StdRng) -> bool {
        match self {
            Self::Scarce if vm == 0 => now.is_multiple_of(PAUSE),
            Self::Rough => random.random_bool(0.3),
            Self::Calm | Self::Scarce => random.random_bool(0.3) && (now < 280 || vm == 0),
        }
    }

    /// Whoever lacks units tries again.
    pub(crate) fn waits(self, vm: usize, random: &mut StdRng) -> bool {
        match self {
            Self::Rough => random.random_bool(0.9),
            // In vain or not.
            Self::Calm => true,
            Self::Scarce => vm != 0,
        }
    }
}
