//! Streams of events that a session pays for while they last.
//!
//! Each has a [`Meter`]; here is what it costs, whose money it is, and how long it may wait for
//! more. Envoy tells nobody of a stream that has gone, so all are looked for in turn.

use std::cell::Cell;
use std::rc::Rc;

use protocol::hash::PaymentHash;
use protocol::lease::{AccountId, HolderId};
use protocol::payment::event::{Balance, StreamReceipt};
use protocol::policy::PluginConfig;
use protocol::time::UnixSeconds;

use super::Spent;
use super::bearer::Heard;
use crate::flow::{Gate, Now, State, Surroundings, millis};
use crate::lease::{InVain, Leases, Spend};
use crate::meter::{Meter, Step, Till};

/// Streams that wait for money in this VM, at most: with what waits for each in memory.
const MOST_WAITING: usize = 512;
/// The same of one session.
const MOST_WAITING_PER_ACCOUNT: usize = 32;
/// How long a lease may be late before the client is told that its money is at an end.
const LATE_MS: u64 = 1_000;
/// Leases of which it is remembered how much was taken for a stream.
const MOST_TAKINGS: usize = 64;

/// Why a stream gets nothing more.
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
    /// It wants ticks.
    is_active: bool,
    hope: Hope,
    /// When it was last said that the session is in use.
    touched_ms: u64,
    /// What the session had spent when that was last known.
    spent_before: u64,
}

/// All streams that are metered, in the order of their numbers.
#[derive(Default)]
pub(in crate::flow) struct Streams {
    all: Vec<(u32, Box<Stream>)>,
    /// How many wait.
    waiting: usize,
    /// How many want ticks, those included.
    active: usize,
    /// Where the next turns begin.
    next_turn: u32,
    /// The same for looking whether streams are still there.
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

    /// Somebody waits for units.
    pub(in crate::flow) const fn are_waiting(&self) -> bool {
        self.waiting > 0
    }

    fn count_waiting(&self, account: &AccountId) -> usize {
        if self.waiting == 0 {
            return 0;
        }
        let all = self.all.iter().map(|(_, stream)| stream);
        all.filter(|one| one.waits_since_ms.is_some() && one.spent.account() == *account)
            .count()
    }

    pub(in crate::flow) fn wait_for(&self, account: &AccountId) -> bool {
        self.count_waiting(account) > 0
    }

    pub(in crate::flow) const fn want_ticks(&self) -> bool {
        self.active > 0
    }

    /// News of a session.
    pub(super) fn heard_of(&mut self, heard: &Heard) {
        if self.waiting == 0 {
            return;
        }
        for (_, stream) in &mut self.all {
            let is_meant = stream.waits_since_ms.is_some()
                && stream.spent.account() == heard.account
                && stream.hope != Hope::None;
            if is_meant {
                stream.hope = match heard.in_vain {
                    None => Hope::Late,
                    Some(InVain::Short) if stream.price() >= heard.need => Hope::Short,
                    Some(InVain::Short) => stream.hope,
                    Some(InVain::Closed | InVain::Unknown) => Hope::None,
                };
            }
        }
    }
}

impl Stream {
    fn price(&self) -> u64 {
        self.spent.price().get()
    }
}

/// Takes units from leases.
struct Counter<'a, S> {
    leases: &'a mut Leases,
    spent: &'a Spent,
    takings: &'a mut Vec<(HolderId, u64)>,
    around: &'a S,
    steady_ms: Cell<Option<u64>>,
}

impl<S: Surroundings> Till for Counter<'_, S> {
    fn take(&mut self) -> bool {
        let now_ms = self.steady_ms.get().unwrap_or_else(|| {
            let now_ms = self.around.steady_ms();
            self.steady_ms.set(Some(now_ms));
            now_ms
        });
        let price = self.spent.price().get();
        let Spend::Taken(holder) = self.leases.spend(self.spent.account(), price, now_ms) else {
            return false;
        };
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
    Chunk { buffer: &'a [u8], end: bool },
    Trailers,
    Tick(Option<String>),
    TimeOut(String),
}

impl State {
    /// Has something done to a stream, and takes note of what has become of it.
    fn step(&mut self, id: u32, around: &impl Surroundings, act: Act<'_>) -> Option<Step> {
        let sessions = &mut self.sessions;
        let stream = sessions.streams.find(id)?;
        let mut till = Counter {
            leases: &mut sessions.leases,
            spent: &stream.spent,
            takings: &mut stream.takings,
            around,
            steady_ms: Cell::new(None),
        };
        let meter = &mut stream.meter;
        let before = meter.taken();
        let step = match act {
            Act::Chunk { buffer, end } => meter.chunk(buffer, end, &mut till),
            Act::Trailers => meter.trailers(&mut till),
            Act::Tick(word) => meter.tick(&mut till, word),
            Act::TimeOut(word) => meter.time_out(&till, &word),
        };
        let now_ms = till.steady_ms.get();
        if meter.is_quiet() && stream.waits_since_ms.is_none() && !stream.is_active {
            return Some(step);
        }
        let is_waiting = meter.is_waiting();
        let has_taken = meter.taken() != before;
        let was_active = stream.is_active;
        let has_waited = stream.waits_since_ms.is_some();
        stream.is_active = is_waiting || meter.wants_tick();
        let is_active = stream.is_active;
        let is_over = meter.is_over();
        let begins = is_waiting && (!has_waited || has_taken);
        if begins || !is_waiting {
            stream.hope = Hope::Late;
            stream.waits_since_ms = begins.then(|| now_ms.unwrap_or_else(|| around.steady_ms()));
        }
        let account = stream.spent.account();
        let streams = &mut sessions.streams;
        streams.active = (streams.active + usize::from(is_active)) - usize::from(was_active);
        streams.waiting = (streams.waiting + usize::from(is_waiting)) - usize::from(has_waited);
        if is_waiting && !has_waited {
            let is_too_many = streams.waiting > MOST_WAITING
                || streams.count_waiting(&account) > MOST_WAITING_PER_ACCOUNT;
            if is_too_many && let Some(stream) = streams.find(id) {
                stream.hope = Hope::None;
            }
            sessions.reports.hurry();
        }
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
        streams.active -= usize::from(stream.is_active);
        streams.waiting -= usize::from(has_waited);
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
            is_active: false,
            hope: Hope::Late,
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
        let step = self.state.step(id, around, Act::Chunk { buffer, end })?;
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
        if self.state.sessions.streams.are_waiting() {
            let now = Now {
                ms: around.now_ms(),
                steady_ms: around.steady_ms(),
            };
            self.state.report_leases(&self.config, now);
        }
    }

    /// Streams that want a turn now, at most as many; in turn. Between ticks only those that wait
    /// for units do.
    pub fn stream_turns(&mut self, most: usize, is_tick: bool) -> Vec<u32> {
        let streams = &mut self.state.sessions.streams;
        if streams.active == 0 {
            return Vec::new();
        }
        let (first, rest) = streams.all.split_at(
            streams
                .all
                .partition_point(|(id, _)| *id < streams.next_turn),
        );
        let wants =
            |stream: &Stream| stream.is_active && (is_tick || stream.waits_since_ms.is_some());
        let turns: Vec<u32> = rest
            .iter()
            .chain(first)
            .filter(|(_, stream)| wants(stream))
            .take(most)
            .map(|(id, _)| *id)
            .collect();
        streams.next_turn = turns.last().map_or(0, |last| last.wrapping_add(1));
        turns
    }

    /// What a stream whose turn it is does.
    pub fn take_stream_turn(&mut self, id: u32, around: &impl Surroundings) -> Option<Step> {
        let now_ms = around.steady_ms();
        let stream = self.state.sessions.streams.find(id)?;
        let wait_ms = stream
            .waits_since_ms
            .map(|since| now_ms.saturating_sub(since));
        let hold_ms = hold_ms(&self.config);
        let is_late = wait_ms.is_some_and(|wait| stream.hope == Hope::Short || wait >= LATE_MS);
        let mut word = None;
        if is_late && stream.meter.wants_word() {
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
        let sessions = &mut self.state.sessions;
        let Some(stream) = sessions.streams.find(id) else {
            return;
        };
        let now_ms = around.steady_ms();
        let quarter_ms = self
            .config
            .payment
            .as_ref()
            .map_or(0, |payment| millis(payment.idle_timeout) / 4);
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
