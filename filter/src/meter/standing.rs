//! Where a stream stands.

use super::{Meter, Mode};

impl Meter {
    /// A unit is lacking, and a tick could tell the client so.
    #[must_use]
    pub const fn wants_word(&self) -> bool {
        matches!(self.mode, Mode::Stopped { .. })
            && self.backlog.lacks()
            && !self.has_ended
            && !self.is_told
    }

    /// The same for the next chunk, where a tick cannot.
    #[must_use]
    pub const fn wants_word_with_chunk(&self) -> bool {
        matches!(self.mode, Mode::Pressing { .. }) && self.backlog.lacks() && !self.is_told
    }

    /// Units are lacking.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        match self.mode {
            Mode::Passing | Mode::Stopped { .. } | Mode::Pressing { .. } => self.backlog.lacks(),
            Mode::Pressed { owed, .. } => owed > 0,
            Mode::Cut | Mode::Over => false,
        }
    }

    /// A tick could do something, also without a unit.
    #[must_use]
    pub const fn wants_tick(&self) -> bool {
        match self.mode {
            Mode::Passing | Mode::Over => false,
            Mode::Pressing { kept } => kept > 0,
            Mode::Stopped { kept } => (kept > 0 || self.backlog.open() > 0) && !self.is_stuck(),
            Mode::Pressed { owed, .. } => owed == 0,
            Mode::Cut => true,
        }
    }

    /// The stream has ended, and nothing of it may leave before all is paid.
    const fn is_stuck(&self) -> bool {
        self.has_ended && self.backlog.lacks()
    }

    /// Units taken so far, the one that came with the request included. While more is owed for what
    /// Envoy keeps, that only grows as it is paid.
    #[must_use]
    pub const fn taken(&self) -> u64 {
        match self.mode {
            Mode::Pressed { owed, .. } => self.backlog.units().saturating_sub(owed),
            _ => self.backlog.units(),
        }
    }

    /// Nothing waits, neither here nor in Envoy's buffer, and more may come.
    #[must_use]
    pub const fn is_quiet(&self) -> bool {
        matches!(self.mode, Mode::Passing) && !self.backlog.lacks()
    }

    /// Envoy has all of the stream.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.mode, Mode::Over)
    }

    /// Bytes that wait here.
    #[must_use]
    pub fn held(&self) -> usize {
        self.backlog.len()
    }

    /// Units that were taken for events that have not left, should the stream be gone now, or that
    /// have bought nothing by its end.
    #[must_use]
    pub fn unsent(&self) -> u64 {
        let pressed = match self.mode {
            Mode::Pressed { paid, .. } => paid,
            _ => self.wasted,
        };
        let prepaid = self.has_ended && self.backlog.has_prepaid();
        self.backlog.unsent() + pressed + u64::from(prepaid)
    }
}
