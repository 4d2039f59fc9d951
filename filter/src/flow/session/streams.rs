//! Streams of events that a session pays for while they last.
//!
//! Each has a [`Meter`]; here is what it costs, whose money it is, and how long it may wait for
//! more. Envoy tells nobody of a stream that has gone, so all are looked for in turn.

mod line;

use std::cell::Cell;
use std::rc::Rc;

use protocol::hash::PaymentHash;
use protocol::lease::{AccountId, HolderId};
use protocol::payment::event::{Balance, StreamReceipt};
use protocol::policy::PluginConfig;
use protocol::time::UnixSeconds;

use self::line::{Line, Pace, Standing};
use super::Spent;
use super::bearer::Heard;
use crate::flow::{Gate, Now, State, Surroundings, millis};
use crate::lease::{InVain, Leases, Spend};
use crate::meter::{Meter, Step, Till};

/// Streams in this VM whose sessions are known to have too little, at most.
const MOST_SHORT: usize = 512;
/// The same of one session.
const MOST_SHORT_PER_ACCOUNT: usize = 32;
/// Bytes that wait in this VM for units, at most.
const MOST_HELD: usize = 128 * 1024 * 1024;
/// How long a lease may be late before the client is told that its money is at an end.
const LATE_MS: u64 = 1_000;
/// Units that a stream takes in a turn while others of its session wait for some.
const MOST_IN_A_TURN: u32 = 16;
/// Leases of which it is remembered how much was taken for a stream.
const MOST_TAKINGS: usize = 64;

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

/// Takes units from leases.
struct Counter<'a, S> {
    leases: &'a mut Leases,
    spent: &'a Spent,
    takings: &'a mut Vec<(HolderId, u64)>,
    around: &'a S,
    steady_ms: Cell<Option<u64>>,
    /// Units that may still be taken in this turn.
    left: u32,
}

impl<S: Surroundings> Till for Counter<'_, S> {
    fn take(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        let now_ms = self.steady_ms.get().unwrap_or_else(|| {
            let now_ms = self.around.steady_ms();
            self.steady_ms.set(Some(now_ms));
            now_ms
        });
        let price = self.spent.price().get();
        let Spend::Taken(holder) = self.leases.spend(self.spent.account(), price, now_ms) else {
            return false;
        };
        self.left -= 1;
        match self.takings.last_mut() {
            Some((last, count)) if *last == holder => *count = count.saturating_add(1),
            _ => {
                if self.takings.len() >= MOST_TAKINGS {
                    self.takings.remove(0);
                }
                self.takings.push((holder, 1));
            }
        }
        true
    }

    fn receipt(&self, units: u64) -> String {
        let receipt = StreamReceipt {
            session_id: PaymentHash(self.spent.account().0),
            spent: units.saturating_mul(self.spent.price().get()),
            units,
            timestamp: UnixSeconds(self.around.now_ms() / 1_000),
        };
        receipt.event()
    }
}

/// What is done to a stream.
enum Act<'a> {
    Chunk {
        buffer: &'a [u8],
        end: bool,
        word: Option<String>,
    },
    Trailers,
    Tick(Option<String>),
    TimeOut(String),
}

impl State {
    /// Has something done to a stream, and takes note of what has become of it.
    fn step(&mut self, id: u32, around: &impl Surroundings, act: Act<'_>) -> Option<Step> {
        let sessions = &mut self.sessions;
        let streams = &mut sessions.streams;
        let place = streams.place(id).ok()?;
        let (_, stream) = streams.all.get_mut(place)?;
        let left = match streams.line.waiting_for(&stream.spent.account()) {
            [] => u32::MAX,
            [only] if *only == id => u32::MAX,
            _ => MOST_IN_A_TURN,
        };
        let mut till = Counter {
            leases: &mut sessions.leases,
            spent: &stream.spent,
            takings: &mut stream.takings,
            around,
            steady_ms: Cell::new(None),
            left,
        };
        let meter = &mut stream.meter;
        let before = meter.taken();
        let step = match act {
            Act::Chunk { buffer, end, word } => meter.chunk(buffer, end, &mut till, word),
            Act::Trailers => meter.trailers(&mut till),
            Act::Tick(word) => meter.tick(&mut till, word),
            Act::TimeOut(word) => meter.time_out(&till, &word),
        };
        let now_ms = till.steady_ms.get();
        if meter.is_quiet() && stream.standing == Standing::default() && stream.held == 0 {
            return Some(step);
        }
        let is_waiting = meter.is_waiting();
        let has_taken = meter.taken() != before;
        let has_waited = stream.waits_since_ms.is_some();
        let is_over = meter.is_over();
        let begins = is_waiting && (!has_waited || has_taken);
        if begins || !is_waiting {
            stream.hope = Hope::Late;
            stream.waits_since_ms = begins.then(|| now_ms.unwrap_or_else(|| around.steady_ms()));
        }
        let account = stream.spent.account();
        sessions.streams.settle(id);
        if has_waited && (has_taken || step != Step::NOTHING) {
            sessions.streams.line.served(id, &account);
        }
        if begins {
            sessions.leases.ask_now(&account);
            sessions.reports.hurry();
        }
        sessions.streams.look_at_memory(id, &account);
        if is_over {
            self.end_stream(id);
        }
        Some(step)
    }

    /// Forgets a stream that is over or gone. What it was not delivered is given back.
    fn end_stream(&mut self, id: u32) {
        let sessions = &mut self.sessions;
        let streams = &mut sessions.streams;
        let Ok(place) = streams.place(id) else {
            return;
        };
        let (_, mut stream) = streams.all.remove(place);
        let account = stream.spent.account();
        let has_waited = stream.waits_since_ms.is_some();
        streams.held -= stream.held;
        let gone = Standing::default();
        streams.line.moved(id, account, stream.standing, gone);
        let price = stream.price();
        let mut unsent = stream.meter.unsent();
        while unsent > 0 {
            // The first unit was taken with the request.
            let (holder, count) = stream
                .takings
                .pop()
                .unwrap_or((stream.spent.holder, unsent));
            let count = count.min(unsent);
            unsent -= count;
            let amount = count.saturating_mul(price);
            sessions.leases.give_back(&account, holder, amount);
        }
        if has_waited && !self.sessions.streams.wait_for(&account) {
            self.stop_asking_in_vain(&account);
        }
    }

    /// What is to be said of the session's money.
    fn balance(&mut self, id: u32) -> Option<Balance<'static>> {
        let sessions = &mut self.sessions;
        let stream = sessions.streams.find(id)?;
        let account = stream.spent.account();
        let known = sessions.leases.spent_of(&account).unwrap_or_default();
        stream.spent_before = stream.spent_before.max(known);
        let session = PaymentHash(account.0);
        Some(Balance::new(session, stream.spent_before, stream.price()))
    }
}

impl Gate {
    /// The response that a session pays for is a stream of events: each of them costs a unit.
    pub fn meter(&mut self, id: u32, spent: Rc<Spent>, around: &impl Surroundings) {
        let stream = Stream {
            spent,
            meter: Meter::new(),
            takings: Vec::new(),
            waits_since_ms: None,
            hope: Hope::Late,
            standing: Standing::default(),
            held: 0,
            touched_ms: around.steady_ms(),
            spent_before: 0,
        };
        let streams = &mut self.state.sessions.streams;
        // The host does not use a number twice while there is a stream of that number.
        if let Err(place) = streams.place(id) {
            streams.all.insert(place, (id, Box::new(stream)));
        }
    }

    /// Bytes of a metered stream have come; `buffer` is what Envoy shows of them.
    pub fn stream_chunk(
        &mut self,
        id: u32,
        buffer: &[u8],
        end: bool,
        around: &impl Surroundings,
    ) -> Option<Step> {
        let stream = self.state.sessions.streams.find(id)?;
        let mut word = None;
        if stream.meter.wants_word_with_chunk() && stream.is_late(around.steady_ms()) {
            word = self.state.balance(id).map(|balance| balance.need_topup());
        }
        let act = Act::Chunk { buffer, end, word };
        let step = self.state.step(id, around, act)?;
        self.ask_for_streams(around);
        Some(step)
    }

    /// The trailers of a metered stream have come.
    pub fn stream_trailers(&mut self, id: u32, around: &impl Surroundings) -> Option<Step> {
        let step = self.state.step(id, around, Act::Trailers)?;
        self.ask_for_streams(around);
        Some(step)
    }

    /// Who has just begun to wait is asked for without waiting for a tick.
    fn ask_for_streams(&mut self, around: &impl Surroundings) {
        if self.state.sessions.streams.are_hopeful() {
            let now = Now {
                ms: around.now_ms(),
                steady_ms: around.steady_ms(),
            };
            self.state.report_leases(&self.config, now);
        }
    }

    /// Streams that want a turn now, at most as many; in turn. Between ticks only those that wait
    /// for units do.
    pub fn stream_turns(
        &mut self,
        most: usize,
        is_tick: bool,
        around: &impl Surroundings,
    ) -> Vec<u32> {
        let Streams { all, line, .. } = &mut self.state.sessions.streams;
        if line.is_empty() {
            return Vec::new();
        }
        let account = |id: u32| {
            let place = all.binary_search_by_key(&id, |(known, _)| *known).ok()?;
            let (_, stream) = all.get(place)?;
            stream.waits_since_ms.map(|_| stream.spent.account())
        };
        let time = (is_tick, around.steady_ms());
        let mut turns = line.round(most, time, |id| is_tick || account(id).is_some());
        // Among those of one session who was served last comes last.
        let mut seen: Vec<(AccountId, usize)> = Vec::new();
        for id in &mut turns {
            if let Some(account) = account(*id)
                && let of_account @ [_, _, ..] = line.waiting_for(&account)
            {
                let place = seen.binary_search_by(|(known, _)| known.cmp(&account));
                let place = place.unwrap_or_else(|place| {
                    seen.insert(place, (account, 0));
                    place
                });
                if let Some((_, nth)) = seen.get_mut(place) {
                    *id = of_account.get(*nth).copied().unwrap_or(*id);
                    *nth += 1;
                }
            }
        }
        turns
    }

    /// The turns of a round have ended before that stream had its own.
    pub const fn put_off(&mut self, id: u32) {
        self.state.sessions.streams.line.put_off(id);
    }

    /// What a stream whose turn it is does.
    pub fn take_stream_turn(&mut self, id: u32, around: &impl Surroundings) -> Option<Step> {
        let now_ms = around.steady_ms();
        let stream = self.state.sessions.streams.find(id)?;
        let wait_ms = stream.waits_ms(now_ms);
        let hold_ms = hold_ms(&self.config);
        let mut word = None;
        if stream.meter.wants_word() && stream.is_late(now_ms) {
            word = self.state.balance(id).map(|balance| balance.need_topup());
        }
        let step = self.state.step(id, around, Act::Tick(word))?;
        if step != Step::NOTHING {
            return Some(step);
        }
        let Some(stream) = self.state.sessions.streams.find(id) else {
            return Some(step);
        };
        let is_over = stream.meter.is_waiting()
            && (stream.hope == Hope::None || wait_ms.is_some_and(|wait| wait >= hold_ms));
        if !is_over {
            return Some(step);
        }
        let word = self.state.balance(id)?.session_timeout();
        self.state.step(id, around, Act::TimeOut(word))
    }

    /// One of the streams in turn: whoever asks looks whether it is still there.
    pub fn next_stream(&mut self) -> Option<u32> {
        let streams = &mut self.state.sessions.streams;
        let place = streams
            .all
            .partition_point(|(id, _)| *id < streams.next_look);
        let next = streams.all.get(place).or_else(|| streams.all.first());
        let id = next.map(|(id, _)| *id)?;
        streams.next_look = id.wrapping_add(1);
        Some(id)
    }

    /// The stream is metered, and not over.
    #[must_use]
    pub fn has_stream(&self, id: u32) -> bool {
        self.state.sessions.streams.place(id).is_ok()
    }

    /// How many streams are metered.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.state.sessions.streams.all.len()
    }

    /// The stream is still there: its session is in use (X16).
    pub fn stream_lives(&mut self, id: u32, around: &impl Surroundings) {
        let quarter_ms = self.quarter_of_idle_ms();
        let sessions = &mut self.state.sessions;
        let Some(stream) = sessions.streams.find(id) else {
            return;
        };
        let now_ms = around.steady_ms();
        if now_ms.saturating_sub(stream.touched_ms) >= quarter_ms {
            stream.touched_ms = now_ms;
            sessions.leases.touch(stream.spent.account());
        }
    }

    /// The stream has gone. What was delivered stays paid.
    pub fn stream_gone(&mut self, id: u32) {
        self.state.end_stream(id);
    }
}

/// How long a stream waits for money.
fn hold_ms(config: &PluginConfig) -> u64 {
    let payment = config.payment.as_ref();
    payment.map_or(0, |payment| millis(payment.stream_hold))
}
