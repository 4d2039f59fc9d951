//! Streams of events that a session pays for while they last.
//!
//! Each has a [`Meter`]; here is what it costs, whose money it is, and how long it may wait for
//! more. Envoy tells nobody of a stream that has gone, so all are looked for in turn.

mod act;
mod host;
mod line;

use std::rc::Rc;

use protocol::lease::{AccountId, HolderId};

use self::line::{Line, Pace, Standing};
use super::Spent;
use super::bearer::Heard;
use crate::flow::State;
use crate::lease::InVain;
use crate::meter::Meter;

/// Streams in this VM whose sessions are known to have too little, at most.
const MOST_SHORT: usize = 512;
/// The same of one session.
const MOST_SHORT_PER_ACCOUNT: usize = 32;
/// Bytes that wait in this VM for units, at most.
const MOST_HELD: usize = 128 * 1024 * 1024;
/// How long a lease may be late before the client is told that its money is at an end.
const LATE_MS: u64 = 1_000;
/// Time between questions on behalf of streams whose sessions have too little: at first, and after
/// they have waited for long.
const ASK_MS: u64 = 100;
const ASK_SELDOM_MS: u64 = 1_000;
/// That time grows with the time that they have waited, of which it is this part.
const ASK_PART: u64 = 50;
/// Reports go with ticks, which come a little early or late.
const SLACK_MS: u64 = 10;

/// Whether a stream gets more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Hope {
    /// Units may come.
    Late,
    /// The session has too little.
    Short,
    /// The session is over, or too many wait.
    None,
}

/// One stream.
struct Stream {
    spent: Rc<Spent>,
    meter: Meter,
    /// Units taken, by lease, the newest last.
    takings: Vec<(HolderId, u64)>,
    /// Since when it waits for its next unit, by the steady clock.
    waits_since_ms: Option<u64>,
    hope: Hope,
    standing: Standing,
    /// Bytes that wait.
    held: usize,
    /// When it was last said that the session is in use.
    touched_ms: u64,
    /// What the session had spent when that was last known.
    spent_before: u64,
}

/// All streams that are metered, in the order of their numbers.
#[derive(Default)]
pub(in crate::flow) struct Streams {
    all: Vec<(u32, Box<Stream>)>,
    line: Line,
    /// Bytes that wait.
    held: usize,
    /// Where it is next looked whether streams are still there.
    next_look: u32,
}

impl Streams {
    fn place(&self, id: u32) -> Result<usize, usize> {
        self.all.binary_search_by_key(&id, |(known, _)| *known)
    }

    fn find(&mut self, id: u32) -> Option<&mut Stream> {
        let place = self.place(id).ok()?;
        self.all.get_mut(place).map(|(_, stream)| &mut **stream)
    }

    /// Somebody waits for units that may come.
    pub(in crate::flow) const fn are_hopeful(&self) -> bool {
        self.line.are_hopeful()
    }

    pub(in crate::flow) fn wait_for(&self, account: &AccountId) -> bool {
        !self.line.waiting_for(account).is_empty()
    }

    pub(in crate::flow) fn want_ticks(&self) -> bool {
        self.line.want_quick_turns()
    }

    /// Takes note of where a stream stands now.
    fn settle(&mut self, id: u32) {
        let Ok(place) = self.place(id) else {
            return;
        };
        let Some((_, stream)) = self.all.get_mut(place) else {
            return;
        };
        let standing = stream.where_it_stands();
        let before = std::mem::replace(&mut stream.standing, standing);
        let held = stream.meter.held();
        self.held = (self.held + held) - std::mem::replace(&mut stream.held, held);
        let account = stream.spent.account();
        self.line.moved(id, account, before, standing);
    }

    /// Of too many that wait without money, those that have waited longest are given up: whoever has
    /// just run dry may still be paying.
    fn give_up_some(&mut self, account: &AccountId) {
        let all = &self.all;
        let find = |id: u32| {
            let place = all.binary_search_by_key(&id, |(known, _)| *known).ok()?;
            all.get(place).map(|(_, stream)| stream)
        };
        let short = |id: &u32| {
            let stream = find(*id).filter(|stream| stream.standing.is_short())?;
            Some((stream.waits_since_ms, *id))
        };
        let of_account = self.line.waiting_for(account);
        let too_many = if of_account.iter().filter_map(short).count() > MOST_SHORT_PER_ACCOUNT {
            of_account.iter().filter_map(short).min()
        } else if self.line.count_short() > MOST_SHORT || self.held > MOST_HELD {
            self.line.all_waiting().filter_map(|id| short(&id)).min()
        } else {
            None
        };
        if let Some((_, id)) = too_many {
            self.give_up(id);
        }
    }

    fn give_up(&mut self, id: u32) {
        if let Some(stream) = self.find(id) {
            stream.hope = Hope::None;
        }
        self.settle(id);
    }

    /// Too much waits: a stream without money goes, or else the one that has brought more.
    fn look_at_memory(&mut self, id: u32, account: &AccountId) {
        if self.held > MOST_HELD {
            match self.line.count_short() {
                0 => self.give_up(id),
                _ => self.give_up_some(account),
            }
        }
    }
}

impl State {
    /// News of a session: those who wait for it have a turn.
    pub(super) fn streams_heard_of(&mut self, heard: &Heard) {
        let streams = &mut self.sessions.streams;
        let waiting = streams.line.waiting_for(&heard.account).to_vec();
        if waiting.is_empty() {
            return;
        }
        let mut newest_ms = 0;
        let mut are_all_short = true;
        for id in waiting {
            let Some(stream) = streams.find(id).filter(|one| one.hope != Hope::None) else {
                continue;
            };
            stream.hope = match heard.in_vain {
                None => Hope::Late,
                Some(InVain::Short) if stream.price() >= heard.need => Hope::Short,
                Some(InVain::Short) => stream.hope,
                Some(InVain::Closed | InVain::Unknown) => Hope::None,
            };
            are_all_short &= stream.hope == Hope::Short;
            newest_ms = newest_ms.max(stream.waits_since_ms.unwrap_or_default());
            let has_become_short = stream.hope == Hope::Short && !stream.standing.is_short();
            streams.settle(id);
            if has_become_short {
                streams.give_up_some(&heard.account);
            }
        }
        if heard.in_vain == Some(InVain::Short) && are_all_short {
            let waited_ms = heard.asked_ms.saturating_sub(newest_ms);
            let pause_ms = (waited_ms / ASK_PART).clamp(ASK_MS, ASK_SELDOM_MS) - SLACK_MS;
            let until_ms = heard.asked_ms.saturating_add(pause_ms);
            self.sessions.leases.rest(&heard.account, until_ms);
        }
    }
}

impl Stream {
    fn price(&self) -> u64 {
        self.spent.price().get()
    }

    fn waits_ms(&self, now_ms: u64) -> Option<u64> {
        let since = self.waits_since_ms?;
        Some(now_ms.saturating_sub(since))
    }

    fn where_it_stands(&self) -> Standing {
        let waits = self.waits_since_ms.map(|_| self.hope);
        let wants_tick = self.meter.wants_tick();
        let has_something_to_do = wants_tick || self.meter.wants_word();
        let pace = match waits {
            Some(Hope::Short) if !has_something_to_do => Some(Pace::Slow),
            Some(_) => Some(Pace::Quick),
            None => wants_tick.then_some(Pace::Quick),
        };
        Standing { waits, pace }
    }

    /// The client is to be told that its money is at an end.
    fn is_late(&self, now_ms: u64) -> bool {
        let is_late = |wait| self.hope == Hope::Short || wait >= LATE_MS;
        self.waits_ms(now_ms).is_some_and(is_late)
    }
}
