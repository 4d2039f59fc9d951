//! Which filters are live, and whether all of them have the next generation.

use std::collections::HashMap;
use std::time::Duration;

use crate::domain::deny_list::Version;

/// More filter VMs than this are not told apart; each is a worker thread of some Envoy.
const MAX_FILTERS: usize = 65_536;

/// What is known of the filters: who polled when, and what each has installed.
#[derive(Debug)]
pub struct FilterRegistry {
    window: Duration,
    started: Duration,
    filters: HashMap<String, Seen>,
    /// When other sidecars told what they have heard; `None`: there are no others.
    told: Option<Duration>,
    /// Since when which generation is known here to be next.
    noticed: Option<(Version, Duration)>,
}

/// Without word from the store for so long we do not know what other sidecars have heard.
const TOLD_FOR: Duration = Duration::from_secs(3);
/// A sidecar answers filters from what it has read of the ledger within this time.
const OTHERS_TRUST: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug)]
struct Seen {
    polled: Duration,
    known: Option<Version>,
}

/// A filter that some sidecar has heard of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FilterHeard {
    /// Name of its VM.
    pub vm: String,
    /// What it has installed, if that is of this ledger.
    pub known: Option<Version>,
    /// How long ago it polled.
    pub silent: Duration,
}

/// Whether a *next* generation may become current.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Promotion {
    /// Every live filter has it.
    Allowed,
    /// Too little time has passed to have heard of every live filter: since this process began or,
    /// where other sidecars serve from the same ledger, since the generation was added.
    Listening,
    /// So many live filters have not acknowledged it.
    Unacknowledged(usize),
}

/// A live filter that holds a rotation up.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Behind {
    /// Name of its VM.
    pub vm: String,
    /// How long ago it polled.
    pub silent: Duration,
}

impl FilterRegistry {
    /// `window`: a filter that polled within it is live. `started`: now, on the monotonic clock.
    #[must_use]
    pub fn new(window: Duration, started: Duration) -> Self {
        Self {
            window,
            started,
            filters: HashMap::new(),
            told: None,
            noticed: None,
        }
    }

    /// A filter polled and has `known` installed.
    pub fn polled(&mut self, vm: &str, known: Option<Version>, now: Duration) {
        let seen = Seen { polled: now, known };
        if let Some(filter) = self.filters.get_mut(vm) {
            *filter = seen;
            return;
        }
        if self.filters.len() >= MAX_FILTERS {
            self.forget_silent(now);
        }
        if self.filters.len() < MAX_FILTERS {
            self.filters.insert(vm.to_owned(), seen);
        }
    }

    /// Filters that polled here after `since`.
    #[must_use]
    pub fn heard_since(&self, since: Duration, now: Duration) -> Vec<FilterHeard> {
        let heard = self.filters.iter().filter(|(_, seen)| seen.polled > since);
        let heard = heard.map(|(vm, seen)| FilterHeard {
            vm: vm.clone(),
            known: seen.known,
            silent: now.saturating_sub(seen.polled),
        });
        heard.collect()
    }

    /// What all sidecars on this ledger have heard, as told at `now`.
    pub fn told(&mut self, all: Vec<FilterHeard>, now: Duration) {
        self.told = Some(now);
        for filter in all {
            let polled = now.saturating_sub(filter.silent);
            let is_news = |seen: &Seen| seen.polled < polled;
            if self.filters.get(&filter.vm).is_none_or(is_news) {
                self.polled(&filter.vm, filter.known, polled);
            }
        }
    }

    /// A generation that filters learn with version `added` is next.
    pub fn notice(&mut self, added: Version, now: Duration) {
        if self.noticed.is_none_or(|(noticed, _)| noticed != added) {
            self.noticed = Some((added, now));
        }
    }

    /// Whether every sidecar that still serves gives the generation of `added` to filters, and
    /// what filters that got their keys before have is old.
    ///
    /// A filter that another sidecar has heard last may be missing here: its row may not be
    /// written yet, or that sidecar be cut off from the ledger. But no sidecar answers from what
    /// it read longer than [`OTHERS_TRUST`] ago, so a filter without this generation got its keys
    /// no later than that after the generation was added; a window later it has asked again or
    /// knows that its keys are old.
    fn has_spread(&self, added: Version, now: Duration) -> bool {
        let Some(told) = self.told else { return true };
        let since = self.noticed.filter(|(noticed, _)| *noticed == added);
        now.saturating_sub(told) <= TOLD_FOR
            && since.is_some_and(|(_, since)| {
                now.saturating_sub(since) > self.window.saturating_add(OTHERS_TRUST)
            })
    }

    /// Drops the filters that are not live.
    pub fn forget_silent(&mut self, now: Duration) {
        let window = self.window;
        self.filters
            .retain(|_, seen| now.saturating_sub(seen.polled) <= window);
    }

    /// Number of live filters.
    #[must_use]
    pub fn live(&self, now: Duration) -> usize {
        self.live_filters(now).count()
    }

    /// Whether a generation that filters learn with version `added` may become current.
    #[must_use]
    pub fn promotion(&self, added: Version, now: Duration) -> Promotion {
        let missing = self
            .live_filters(now)
            .filter(|(_, seen)| seen.is_behind(added))
            .count();
        if missing > 0 {
            return Promotion::Unacknowledged(missing);
        }
        if now.saturating_sub(self.started) <= self.window || !self.has_spread(added, now) {
            return Promotion::Listening;
        }
        Promotion::Allowed
    }

    /// Live filters that have not acknowledged version `added`, the longest silent first.
    #[must_use]
    pub fn behind(&self, added: Version, now: Duration) -> Vec<Behind> {
        let behind = self
            .live_filters(now)
            .filter(|(_, seen)| seen.is_behind(added));
        let mut behind: Vec<Behind> = behind
            .map(|(vm, seen)| Behind {
                vm: vm.clone(),
                silent: now.saturating_sub(seen.polled),
            })
            .collect();
        behind.sort_by(|a, b| b.silent.cmp(&a.silent).then_with(|| a.vm.cmp(&b.vm)));
        behind
    }

    fn live_filters(&self, now: Duration) -> impl Iterator<Item = (&String, &Seen)> {
        self.filters
            .iter()
            .filter(move |(_, seen)| now.saturating_sub(seen.polled) <= self.window)
    }
}

impl Seen {
    fn is_behind(&self, added: Version) -> bool {
        self.known.is_none_or(|known| known < added)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_that_other_sidecars_have_heard_hold_a_rotation_up() {
        let at = Duration::from_secs;
        let heard = |known, silent| FilterHeard {
            vm: "theirs".to_owned(),
            known,
            silent: at(silent),
        };
        let mut filters = FilterRegistry::new(at(30), at(0));
        filters.notice(Version(5), at(100));
        filters.told(vec![heard(Some(Version(4)), 1)], at(200));
        let promotion = filters.promotion(Version(5), at(200));
        assert_eq!(promotion, Promotion::Unacknowledged(1));
        filters.told(vec![heard(Some(Version(5)), 0)], at(201));
        // An older word of the same filter changes nothing.
        filters.told(vec![heard(Some(Version(4)), 20)], at(202));
        assert_eq!(filters.promotion(Version(5), at(202)), Promotion::Allowed);
        assert_eq!(filters.live(at(202)), 1);
        let silence = filters.promotion(Version(5), at(206));
        assert_eq!(silence, Promotion::Listening, "the others are not heard");
    }

    #[test]
    fn with_other_sidecars_a_generation_has_time_to_reach_their_filters() {
        let at = Duration::from_secs;
        let mut filters = FilterRegistry::new(at(30), at(0));
        for second in 100..=146 {
            filters.notice(Version(5), at(second));
            filters.told(Vec::new(), at(second));
            let expected = match second {
                ..=145 => Promotion::Listening,
                _ => Promotion::Allowed,
            };
            assert_eq!(filters.promotion(Version(5), at(second)), expected);
        }
        filters.notice(Version(6), at(147));
        filters.told(Vec::new(), at(147));
        assert_eq!(filters.promotion(Version(6), at(147)), Promotion::Listening);
    }

    #[test]
    fn only_what_was_heard_since_is_news() {
        let at = Duration::from_secs;
        let mut filters = FilterRegistry::new(at(30), at(0));
        filters.polled("one", None, at(10));
        filters.polled("two", Some(Version(1)), at(12));
        let news = filters.heard_since(at(10), at(15));
        assert_eq!(news.len(), 1);
        assert_eq!((news[0].vm.as_str(), news[0].silent), ("two", at(3)));
    }

    #[test]
    fn promotion_waits_for_every_live_filter_and_for_a_whole_window_after_start() {
        let second = Duration::from_secs;
        let mut filters = FilterRegistry::new(second(30), second(0));
        filters.polled("a", Some(Version(5)), second(1));
        filters.polled("b", None, second(2));
        assert_eq!(
            filters.promotion(Version(5), second(10)),
            Promotion::Unacknowledged(1)
        );
        filters.polled("b", Some(Version(5)), second(12));
        assert_eq!(
            filters.promotion(Version(5), second(13)),
            Promotion::Listening
        );
        assert_eq!(
            filters.promotion(Version(5), second(31)),
            Promotion::Allowed
        );
        filters.polled("c", Some(Version(4)), second(32));
        assert_eq!(
            filters.promotion(Version(5), second(33)),
            Promotion::Unacknowledged(1)
        );
        assert_eq!(
            filters.promotion(Version(5), second(63)),
            Promotion::Allowed
        );
    }

    #[test]
    fn live_filters_that_hold_a_rotation_up_are_named_the_longest_silent_first() {
        let second = Duration::from_secs;
        let mut filters = FilterRegistry::new(second(30), second(0));
        filters.polled("gone", None, second(1));
        filters.polled("new", None, second(38));
        filters.polled("old", Some(Version(4)), second(25));
        filters.polled("good", Some(Version(5)), second(40));
        let behind = |vm: &str, silent| Behind {
            vm: vm.to_owned(),
            silent: second(silent),
        };
        assert_eq!(
            filters.behind(Version(5), second(40)),
            [behind("old", 15), behind("new", 2)]
        );
    }
}
