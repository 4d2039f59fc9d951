//! Which of the metered streams wait for units of which session, and whose turn it is.

use std::collections::{BTreeMap, BTreeSet};

use protocol::lease::AccountId;

use super::Hope;

/// Time between turns of streams that can do nothing.
const SLOW_MS: u64 = 100;
/// Ticks come a little early or late.
const SLACK_MS: u64 = 5;

/// How often a stream wants a turn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Pace {
    /// With each tick.
    Quick,
    /// It waits for money of which nothing was heard, and has nothing to say.
    Slow,
}

/// Where a stream stands.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Standing {
    /// It waits for units.
    pub(super) waits: Option<Hope>,
    pub(super) pace: Option<Pace>,
}

impl Standing {
    /// It was heard that the session has too little for it.
    pub(super) fn is_short(self) -> bool {
        self.waits == Some(Hope::Short)
    }
}

/// All that stand somewhere.
#[derive(Default)]
pub(super) struct Line {
    waiting: BTreeMap<AccountId, Vec<u32>>,
    /// How many of those may have units coming.
    hopeful: usize,
    /// How many of those have not.
    short: usize,
    quick: BTreeSet<u32>,
    slow: BTreeSet<u32>,
    /// Where the next round begins.
    start: u32,
    slow_round_ms: Option<u64>,
}

impl Line {
    /// A stream of that session stands elsewhere now.
    pub(super) fn moved(&mut self, id: u32, account: AccountId, from: Standing, to: Standing) {
        if from == to {
            return;
        }
        self.hopeful += usize::from(to.waits == Some(Hope::Late));
        self.hopeful -= usize::from(from.waits == Some(Hope::Late));
        self.short += usize::from(to.is_short());
        self.short -= usize::from(from.is_short());
        match (from.waits.is_some(), to.waits.is_some()) {
            (false, true) => self.waiting.entry(account).or_default().push(id),
            (true, false) => {
                if let Some(of) = self.waiting.get_mut(&account) {
                    of.retain(|known| *known != id);
                    if of.is_empty() {
                        self.waiting.remove(&account);
                    }
                }
            }
            _ => {}
        }
        if from.pace != to.pace {
            match from.pace {
                Some(Pace::Quick) => self.quick.remove(&id),
                Some(Pace::Slow) => self.slow.remove(&id),
                None => false,
            };
            match to.pace {
                Some(Pace::Quick) => self.quick.insert(id),
                Some(Pace::Slow) => self.slow.insert(id),
                None => false,
            };
        }
    }

    /// Those who wait for units of the account; whose turn it is comes first.
    pub(super) fn waiting_for(&self, account: &AccountId) -> &[u32] {
        if self.waiting.is_empty() {
            return &[];
        }
        self.waiting.get(account).map_or(&[], Vec::as_slice)
    }

    /// All who wait for units.
    pub(super) fn all_waiting(&self) -> impl Iterator<Item = u32> {
        self.waiting.values().flatten().copied()
    }

    pub(super) const fn are_hopeful(&self) -> bool {
        self.hopeful > 0
    }

    pub(super) const fn count_short(&self) -> usize {
        self.short
    }

    /// Nobody wants a turn.
    pub(super) fn is_empty(&self) -> bool {
        self.quick.is_empty() && self.slow.is_empty()
    }

    pub(super) fn want_quick_turns(&self) -> bool {
        !self.quick.is_empty()
    }

    /// A stream that waits has found units, or has let something go: next time others of its session
    /// come first.
    pub(super) fn served(&mut self, id: u32, account: &AccountId) {
        if let Some(of) = self.waiting.get_mut(account)
            && let Some(place) = of.iter().position(|known| *known == id)
        {
            of.remove(place);
            of.push(id);
        }
    }

    /// A round of turns, of at most so many streams. It begins where the one before had to end.
    pub(super) fn round(
        &mut self,
        most: usize,
        (is_tick, now_ms): (bool, u64),
        wants: impl Fn(u32) -> bool,
    ) -> Vec<u32> {
        let age_ms = self
            .slow_round_ms
            .map(|then_ms| now_ms.saturating_sub(then_ms));
        let is_slow = is_tick && age_ms.is_none_or(|age| age + SLACK_MS >= SLOW_MS);
        let mut turns: Vec<u32> = self.quick.iter().copied().filter(|id| wants(*id)).collect();
        if is_slow {
            self.slow_round_ms = Some(now_ms);
            turns.extend(&self.slow);
            turns.sort_unstable();
        }
        let start = turns.partition_point(|id| *id < self.start);
        turns.rotate_left(start);
        self.start = turns.get(most).copied().unwrap_or_default();
        turns.truncate(most);
        turns
    }

    /// The round has ended before that stream had its turn.
    pub(super) const fn put_off(&mut self, id: u32) {
        self.start = id;
    }
}
