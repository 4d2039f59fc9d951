//! What the host says of streams, and what it asks about them.

use std::rc::Rc;

use protocol::lease::AccountId;
use protocol::policy::PluginConfig;

use super::act::Act;
use super::line::Standing;
use super::{Hope, Spent, Stream, Streams};
use crate::flow::{Gate, Now, Surroundings, millis};
use crate::meter::{Meter, Step};

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
