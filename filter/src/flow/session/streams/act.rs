//! What is done to a stream, what it pays with, and what becomes of it.

use std::cell::Cell;

use protocol::hash::PaymentHash;
use protocol::lease::HolderId;
use protocol::payment::event::{Balance, StreamReceipt};
use protocol::time::UnixSeconds;

use super::line::Standing;
use super::{Hope, Spent};
use crate::flow::{State, Surroundings};
use crate::lease::{Leases, Spend};
use crate::meter::{Step, Till};

/// Units that a stream takes in a turn while others of its session wait for some.
const MOST_IN_A_TURN: u32 = 16;
/// Leases of which it is remembered how much was taken for a stream.
const MOST_TAKINGS: usize = 64;

/// What is done to a stream.
pub(super) enum Act<'a> {
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
    pub(super) fn step(
        &mut self,
        id: u32,
        around: &impl Surroundings,
        act: Act<'_>,
    ) -> Option<Step> {
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
    pub(super) fn end_stream(&mut self, id: u32) {
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
    pub(super) fn balance(&mut self, id: u32) -> Option<Balance<'static>> {
        let sessions = &mut self.sessions;
        let stream = sessions.streams.find(id)?;
        let account = stream.spent.account();
        let known = sessions.leases.spent_of(&account).unwrap_or_default();
        stream.spent_before = stream.spent_before.max(known);
        let session = PaymentHash(account.0);
        Some(Balance::new(session, stream.spent_before, stream.price()))
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
