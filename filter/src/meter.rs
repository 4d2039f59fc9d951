//! Metering of one stream of server-sent events: a unit for each event with data.
//!
//! A pure state machine. Chunks of the response's body, its trailers and ticks go in; what the body
//! buffer becomes and what Envoy is to do come out. Bytes leave in order, none is lost or doubled,
//! and no event with data leaves before a unit was taken for it.
//!
//! When a unit is lacking, what is paid leaves, and the rest waits here until there is credit
//! again, while the connection stays. What makes that intricate is when Envoy lets a filter touch
//! a response's body (measured with Envoy 1.40):
//!
//! | a callback said | until the next one |
//! |---|---|
//! | [`Go::On`] | nothing can be put into the body |
//! | [`Go::Stop`] | a tick may change the body and let it go; Envoy resets a stream whose body outgrows its buffer |
//! | [`Go::Press`] | Envoy keeps what there is and stops reading from the upstream when its buffer is full; a tick can let all of it go, and must not touch it |
//!
//! After [`Go::Stop`] the next chunk is added to the buffer before the callback, and a `resume`
//! within the callback lets the buffer go at once. Once the end of the stream has been seen,
//! whatever is let go ends the response. So:
//!
//! - Normally chunks go on, less the start of an event that is not finished yet.
//! - The chunk that cannot be paid whole: its paid part stays in the buffer, the rest comes here,
//!   Stop; the next tick or chunk lets the paid part go.
//! - While little waits here: the same for each chunk, so that a tick can let go what is paid since.
//! - When more waits than [`STOP_LIMIT`], Press instead of Stop: the end of the stream, when all that
//!   waits has to go into the buffer, could overflow it. If a few units pay for all of it, and
//!   the client knows that it has to, it goes into Envoy's buffer at once, and a tick lets it go when
//!   they are there. Otherwise it stays here,
//!   and what is paid leaves with the next chunk; a tick only pays for it.
//! - The same after a chunk of more than [`HUGE_CHUNK`]: the next one, added to the buffer before its
//!   callback, could overflow it.
//! - When more waits than [`SOFT_LIMIT`], all of it goes into Envoy's buffer, and there is
//!   back-pressure. From then on all of it has to be paid before any of it leaves.
//! - The stream has ended: all has to be paid before any of it leaves.

mod backlog;
mod standing;
mod step;
#[cfg(test)]
mod tests;

use self::backlog::Backlog;
pub use self::step::{Change, Go, Step, Till};

/// With more bytes than this waiting here the upstream is slowed down.
pub const SOFT_LIMIT: usize = 256 * 1024;
/// With more bytes than this waiting here nothing is stopped: at the end of the stream they would
/// have to go into Envoy's buffer at once, beside a chunk, and may be too many.
const STOP_LIMIT: usize = 64 * 1024;
/// What Envoy's buffer holds: a chunk beside [`STOP_LIMIT`].
const MOST_AT_ONCE: usize = 112 * 1024;
/// Most bytes that are put into Envoy's buffer and let go at once. What overflows the buffer resets
/// the stream within the call, and to let go a stream that is gone crashes Envoy: so more than this
/// waits in the buffer for the next tick, which first looks whether the stream is still there.
const SLICE: usize = 16 * 1024;

/// A chunk as large as this comes from an upstream that has more: nothing is kept in Envoy's buffer
/// beside the next one.
const LARGE_CHUNK: usize = 16 * 1024;
/// A chunk of more bytes than this does not come where the upstream's buffer is as small as we
/// recommend: the next one may be larger than the buffer here.
const HUGE_CHUNK: usize = 48 * 1024;
/// So many units are had at once or not at all: to wait for all of them is no loss.
const FEW: usize = 8;

/// What the last callback of the stream said, and what that means.
#[derive(Debug)]
enum Mode {
    /// On.
    Passing,
    /// Stop. Envoy's buffer begins with so many bytes that may leave.
    Stopped { kept: usize },
    /// Press, with what waits here. Envoy's buffer has so many bytes that may leave.
    Pressing { kept: usize },
    /// Press, with all that waits in Envoy's buffer.
    Pressed {
        /// Units that are lacking for it.
        owed: u64,
        /// Units that were taken for it, so far.
        paid: u64,
    },
    /// The client has been told that it ends here; whatever else comes is dropped.
    Cut,
    /// Envoy has all of it, the end included.
    Over,
}

/// The state of one stream.
pub struct Meter {
    backlog: Backlog,
    mode: Mode,
    /// The end of the body or trailers have come.
    has_ended: bool,
    /// The client has been told that units are lacking.
    is_told: bool,
    /// Units taken for what Envoy keeps while [`Mode::Pressing`].
    kept_units: u64,
    /// Units taken for what will never leave.
    wasted: u64,
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
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

/// How much may wait in Envoy's buffer for a tick, beside a chunk like the one that has come.
const fn beside(chunk: usize) -> usize {
    if chunk < LARGE_CHUNK { SLICE } else { 0 }
}

impl Meter {
    /// A stream whose response headers have come, and whose first unit is paid.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            backlog: Backlog::new(),
            mode: Mode::Passing,
            has_ended: false,
            is_told: false,
            kept_units: 0,
            wasted: 0,
        }
    }

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

    fn pay(&mut self, till: &mut impl Till) -> bool {
        let units = self.backlog.units();
        let is_paid = if self.has_ended {
            self.backlog.finish(till)
        } else {
            self.backlog.pay(till)
        };
        self.is_told &= self.backlog.units() == units;
        is_paid
    }

    fn let_all_go(&mut self) -> Vec<u8> {
        let before = self.backlog.unsent();
        let out = self.backlog.let_go(usize::MAX).collect();
        self.kept_units = before.saturating_sub(self.backlog.unsent());
        out
    }

    /// After all that may leave has left.
    const fn then_on(&mut self) {
        self.mode = if self.has_ended {
            Mode::Over
        } else {
            Mode::Passing
        };
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

    fn pay_owed(&mut self, till: &mut impl Till) -> bool {
        let Mode::Pressed { owed, paid } = &mut self.mode else {
            return false;
        };
        while *owed > 0 && till.take() {
            *owed -= 1;
            *paid = paid.saturating_add(1);
        }
        *owed == 0
    }

    /// The trailers callback. The unfinished event that is lost where nothing can be put into the
    /// body any more is one that readers drop.
    pub fn trailers(&mut self, till: &mut impl Till) -> Step {
        self.has_ended = true;
        match self.mode {
            // Bytes that wait here cannot be put back: better broken off than incomplete.
            Mode::Pressing { kept } if self.backlog.lacks() || self.backlog.open() > 0 => {
                self.wasted = if kept > 0 { self.kept_units } else { 0 };
                self.mode = Mode::Over;
                Step {
                    close: true,
                    ..Step::go(Go::Stop)
                }
            }
            Mode::Passing | Mode::Pressing { .. } | Mode::Over => {
                self.mode = Mode::Over;
                Step::NOTHING
            }
            Mode::Stopped { .. } => {
                let step = self.tick(till, None);
                Step {
                    go: Go::Stop,
                    ..step
                }
            }
            Mode::Pressed { .. } => {
                if self.pay_owed(till) {
                    self.mode = Mode::Over;
                    return Step::NOTHING;
                }
                Step::go(Go::Stop)
            }
            Mode::Cut => {
                self.mode = Mode::Over;
                Step::resume(Change::Keep, Go::Stop)
            }
        }
    }

    /// Time has passed, or there may be credit. `word` tells the client that units are lacking, if
    /// they still are (see [`Self::wants_word`]).
    pub fn tick(&mut self, till: &mut impl Till, word: Option<String>) -> Step {
        match self.mode {
            Mode::Passing | Mode::Over => Step::NOTHING,
            Mode::Pressing { kept } => {
                self.pay(till);
                if kept == 0 {
                    return Step::NOTHING;
                }
                self.mode = Mode::Pressing { kept: 0 };
                Step::resume(Change::Keep, Go::Press)
            }
            Mode::Stopped { kept } => {
                let is_paid = self.pay(till);
                if self.has_ended {
                    if !is_paid {
                        return Step::NOTHING;
                    }
                    let out = self.backlog.let_go(usize::MAX).collect();
                    return self.end_with(kept, out);
                }
                let mut out: Vec<u8> = self.backlog.let_go(SLICE).collect();
                if let Some(word) = word.filter(|_| self.wants_word() && self.backlog.open() == 0) {
                    out.extend_from_slice(word.as_bytes());
                    self.is_told = true;
                }
                if kept == 0 && out.is_empty() {
                    return Step::NOTHING;
                }
                self.mode = Mode::Stopped { kept: 0 };
                Step::resume(Change::Append(out), Go::Stop)
            }
            Mode::Pressed { .. } => {
                if !self.pay_owed(till) {
                    return Step::NOTHING;
                }
                self.then_on();
                Step::resume(Change::Keep, Go::Stop)
            }
            Mode::Cut => {
                self.mode = Mode::Over;
                Step {
                    close: true,
                    ..Step::NOTHING
                }
            }
        }
    }

    /// Lets the last of the stream go, after so many bytes that are in Envoy's buffer.
    fn end_with(&mut self, kept: usize, out: Vec<u8>) -> Step {
        if out.len() > SLICE {
            self.mode = Mode::Stopped {
                kept: kept + out.len(),
            };
            return Step {
                change: Change::Append(out),
                ..Step::go(Go::Stop)
            };
        }
        self.mode = Mode::Over;
        Step::resume(Change::Append(out), Go::Stop)
    }

    /// Nobody has paid, and nobody will be waited for: what is paid leaves, `word` says that it is
    /// the end, and the rest is dropped. To be said again while the stream [`Self::is_waiting`].
    pub fn time_out(&mut self, till: &impl Till, word: &str) -> Step {
        match self.mode {
            Mode::Stopped { .. } if self.backlog.open() > SLICE && !self.has_ended => {
                let out = self.backlog.let_go(SLICE).collect();
                self.mode = Mode::Stopped { kept: 0 };
                Step::resume(Change::Append(out), Go::Stop)
            }
            Mode::Stopped { kept } => {
                self.backlog.cut(till);
                let mut out: Vec<u8> = self.backlog.let_go(usize::MAX).collect();
                out.extend_from_slice(word.as_bytes());
                if self.has_ended {
                    return self.end_with(kept, out);
                }
                self.mode = Mode::Cut;
                Step::resume(Change::Append(out), Go::Stop)
            }
            // Nothing more can be said.
            Mode::Passing | Mode::Pressing { .. } | Mode::Pressed { .. } => {
                if let Mode::Pressed { paid, .. } = self.mode {
                    self.wasted = paid;
                }
                self.mode = Mode::Over;
                Step {
                    close: true,
                    ..Step::NOTHING
                }
            }
            Mode::Cut | Mode::Over => Step::NOTHING,
        }
    }
}
