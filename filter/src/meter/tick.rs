//! What happens without a chunk: trailers, a tick, the end of patience.

use super::{Change, Go, Meter, Mode, SLICE, Step, Till};

impl Meter {
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
