//! Which of the metered streams wait for units of which session, and whose turn it is.

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
    /// By account, in their order.
    waiting: Vec<(AccountId, Vec<u32>)>,
    /// How many of those may have units coming.
    hopeful: usize,
    /// How many of those have not.
    short: usize,
    quick: Vec<u32>,
    slow: Vec<u32>,
    /// Where the next round begins.
    start: u32,
    slow_round_ms: Option<u64>,
}

impl Line {
    fn place(&self, account: &AccountId) -> Result<usize, usize> {
        self.waiting
            .binary_search_by(|(known, _)| known.cmp(account))
    }

    const fn of(&mut self, pace: Pace) -> &mut Vec<u32> {
        match pace {
            Pace::Quick => &mut self.quick,
            Pace::Slow => &mut self.slow,
        }
    }

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
            (false, true) => match self.place(&account) {
                Ok(place) => {
                    if let Some((_, of)) = self.waiting.get_mut(place) {
                        of.push(id);
                    }
                }
                Err(place) => self.waiting.insert(place, (account, vec![id])),
            },
            (true, false) => {
                if let Ok(place) = self.place(&account)
                    && let Some((_, of)) = self.waiting.get_mut(place)
                {
                    of.retain(|known| *known != id);
                    if of.is_empty() {
                        self.waiting.remove(place);
                    }
                }
            }
            _ => {}
        }
        if from.pace != to.pace {
            if let Some(pace) = from.pace {
                let of = self.of(pace);
                if let Ok(place) = of.binary_search(&id) {
                    of.remove(place);
                }
            }
            if let Some(pace) = to.pace {
                let of = self.of(pace);
                if let Err(place) = of.binary_search(&id) {
                    of.insert(place, id);
                }
            }
        }
    }

    /// Those who wait for units of the account; whose turn it is comes first.
    pub(super) fn waiting_for(&self, account: &AccountId) -> &[u32] {
        let place = self.place(account).ok();
        let of = place.and_then(|place| self.waiting.get(place));
        of.map_or(&[], |(_, of)| of)
    }

    /// All who wait for units.
    pub(super) fn all_waiting(&self) -> impl Iterator<Item = u32> {
        self.waiting.iter().flat_map(|(_, of)| of).copied()
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
        if let Ok(place) = self.place(account)
            && let Some((_, of)) = self.waiting.get_mut(place)
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
