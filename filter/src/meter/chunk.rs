//! What a chunk of the body leads to.

use super::{
    Change, Go, HUGE_CHUNK, MOST_AT_ONCE, Meter, Mode, SLICE, SOFT_LIMIT, STOP_LIMIT, Step, Till,
};

/// A chunk as large as this comes from an upstream that has more: nothing is kept in Envoy's buffer
/// beside the next one.
const LARGE_CHUNK: usize = 16 * 1024;
/// So many units are had at once or not at all: to wait for all of them is no loss.
const FEW: usize = 8;

impl Meter {
    /// A body callback. `buffer` is the whole of Envoy's buffer as it is shown, `end` that nothing
    /// comes after it.
    ///
    /// `word` is what a tick could not say (see [`Self::wants_word_with_chunk`]).
    pub fn chunk(
        &mut self,
        buffer: &[u8],
        end: bool,
        till: &mut impl Till,
        word: Option<String>,
    ) -> Step {
        self.has_ended |= end;
        match &mut self.mode {
            Mode::Passing => {
                if end {
                    self.backlog.take_in(buffer);
                } else if self.backlog.passes(buffer, till) {
                    return Step::NOTHING;
                }
                self.passing(buffer, till)
            }
            Mode::Stopped { kept } => {
                let (kept, chunk) = buffer.split_at_checked(*kept).unwrap_or((buffer, &[]));
                self.backlog.take_in(chunk);
                self.stopped(kept, chunk.len(), till)
            }
            Mode::Pressing { .. } => {
                self.backlog.take_in(buffer);
                self.pressing(buffer.len(), till, word)
            }
            Mode::Pressed { .. } => {
                self.backlog.take_in(buffer);
                self.pressed(till)
            }
            Mode::Cut => {
                let change = Change::Replace(Vec::new());
                if end {
                    self.mode = Mode::Over;
                    return Step::resume(change, Go::Stop);
                }
                Step {
                    change,
                    ..Step::go(Go::Stop)
                }
            }
            Mode::Over => Step::NOTHING,
        }
    }

    fn let_all_go(&mut self) -> Vec<u8> {
        let before = self.backlog.unsent();
        let out = self.backlog.let_go(usize::MAX).collect();
        self.kept_units = before.saturating_sub(self.backlog.unsent());
        out
    }

    fn passing(&mut self, chunk: &[u8], till: &mut impl Till) -> Step {
        let is_paid = self.pay(till);
        let waiting = self.backlog.len();
        let is_much = waiting > STOP_LIMIT || chunk.len() > HUGE_CHUNK;
        if !is_paid && is_much && (self.has_ended || self.can_be_pressed(waiting)) {
            return self.press(till);
        }
        let presses = is_much && !self.has_ended;
        let out = if is_paid || self.has_ended || presses {
            self.let_all_go()
        } else {
            self.backlog.let_go(beside(chunk.len())).collect()
        };
        let kept = out.len();
        let go = if is_paid {
            self.then_on();
            Go::On
        } else if presses {
            self.mode = Mode::Pressing { kept };
            Go::Press
        } else {
            self.mode = Mode::Stopped { kept };
            Go::Stop
        };
        let change = if out == chunk {
            Change::Keep
        } else {
            Change::Replace(out)
        };
        Step {
            change,
            ..Step::go(go)
        }
    }

    /// So much may wait in Envoy's buffer as a whole, where nothing more can be said to the client.
    fn can_be_pressed(&self, waiting: usize) -> bool {
        self.backlog.open() == 0
            && (waiting > SOFT_LIMIT || self.is_told && self.backlog.lacks_only(FEW))
    }

    fn stopped(&mut self, kept: &[u8], chunk: usize, till: &mut impl Till) -> Step {
        let is_paid = self.pay(till);
        let replaced = |out: &[u8]| Change::Replace([kept, out].concat());
        if self.has_ended && !is_paid {
            let change = if chunk == 0 {
                Change::Keep
            } else {
                replaced(&[])
            };
            return Step {
                change,
                ..Step::go(Go::Stop)
            };
        }
        let most = if self.has_ended {
            usize::MAX
        } else {
            SLICE.max(chunk)
        };
        let out: Vec<u8> = self.backlog.let_go(most).collect();
        if out.len() > SLICE.max(chunk) {
            self.mode = Mode::Stopped {
                kept: kept.len() + out.len(),
            };
            return Step {
                change: replaced(&out),
                ..Step::go(Go::Stop)
            };
        }
        let step = Step::resume(replaced(&out), Go::Stop);
        if is_paid && self.backlog.open() == 0 {
            self.then_on();
            // At the end Envoy would send what is left, which is nothing, and end a second time.
            let go = if self.has_ended { Go::Stop } else { Go::On };
            return Step { go, ..step };
        }
        self.mode = Mode::Stopped { kept: 0 };
        let waiting = self.backlog.len();
        if self.backlog.open() > 0 || waiting <= STOP_LIMIT && chunk <= HUGE_CHUNK {
            return step;
        }
        let is_alone = kept.is_empty() && out.is_empty();
        if is_alone && waiting <= MOST_AT_ONCE && self.can_be_pressed(waiting) {
            return self.press(till);
        }
        self.mode = Mode::Pressing { kept: 0 };
        Step {
            go: Go::Press,
            ..step
        }
    }

    fn pressing(&mut self, chunk: usize, till: &mut impl Till, word: Option<String>) -> Step {
        let is_paid = self.pay(till);
        let Mode::Pressing { kept } = self.mode else {
            return Step::NOTHING;
        };
        if is_paid {
            let out = self.backlog.let_go(usize::MAX).collect();
            self.then_on();
            // What Envoy has kept leaves before this.
            return Step {
                change: Change::Replace(out),
                ..Step::NOTHING
            };
        }
        let waiting = self.backlog.len();
        if self.has_ended && waiting > STOP_LIMIT {
            let kept_units = if kept > 0 { self.kept_units } else { 0 };
            let step = self.press(till);
            if let Mode::Pressed { paid, .. } = &mut self.mode {
                *paid = paid.saturating_add(kept_units);
            }
            return step;
        }
        let is_much = waiting > STOP_LIMIT || chunk > HUGE_CHUNK;
        if is_much && self.can_be_pressed(waiting) {
            // What may leave is not to wait for the rest.
            return Step {
                resume: kept > 0,
                ..self.press(till)
            };
        }
        if self.has_ended {
            self.mode = Mode::Stopped { kept };
            return Step {
                change: Change::Replace(Vec::new()),
                ..Step::go(Go::Stop)
            };
        }
        if !is_much {
            // From here a tick can go on.
            let out: Vec<u8> = self.backlog.let_go(beside(chunk)).collect();
            self.mode = Mode::Stopped { kept: out.len() };
            return Step {
                change: Change::Replace(out),
                resume: kept > 0,
                ..Step::go(Go::Stop)
            };
        }
        let mut out = self.let_all_go();
        if let Some(word) = word.filter(|_| self.wants_word_with_chunk()) {
            out.extend_from_slice(word.as_bytes());
            self.is_told = true;
        }
        self.mode = Mode::Pressing { kept: out.len() };
        Step {
            change: Change::Replace(out),
            resume: kept > 0,
            ..Step::go(Go::Press)
        }
    }

    /// Gives Envoy all that waits, to be paid as a whole.
    fn press(&mut self, till: &impl Till) -> Step {
        let paid = self.backlog.unsent();
        self.mode = Mode::Pressed { owed: 0, paid };
        self.put_on_credit(till)
    }

    fn put_on_credit(&mut self, till: &impl Till) -> Step {
        let mut credit = OnCredit { till, units: 0 };
        self.pay(&mut credit);
        if let Mode::Pressed { owed, .. } = &mut self.mode {
            *owed = owed.saturating_add(credit.units);
        }
        let out = self.backlog.let_go(usize::MAX).collect();
        Step {
            change: Change::Replace(out),
            ..Step::go(Go::Press)
        }
    }

    fn pressed(&mut self, till: &mut impl Till) -> Step {
        let step = self.put_on_credit(till);
        if self.pay_owed(till) {
            self.then_on();
            return Step { go: Go::On, ..step };
        }
        step
    }
}

/// How much may wait in Envoy's buffer for a tick, beside a chunk like the one that has come.
const fn beside(chunk: usize) -> usize {
    if chunk < LARGE_CHUNK { SLICE } else { 0 }
}

/// Counts what would have to be paid.
struct OnCredit<'t, T> {
    till: &'t T,
    units: u64,
}

impl<T: Till> Till for OnCredit<'_, T> {
    fn take(&mut self) -> bool {
        self.units = self.units.saturating_add(1);
        true
    }

    fn receipt(&self, units: u64) -> String {
        self.till.receipt(units)
    }
}
