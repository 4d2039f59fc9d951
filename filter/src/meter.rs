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
mod chunk;
mod standing;
mod step;
#[cfg(test)]
mod tests;
mod tick;

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

/// A chunk of more bytes than this does not come where the upstream's buffer is as small as we
/// recommend: the next one may be larger than the buffer here.
const HUGE_CHUNK: usize = 48 * 1024;

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

    /// After all that may leave has left.
    const fn then_on(&mut self) {
        self.mode = if self.has_ended {
            Mode::Over
        } else {
            Mode::Passing
        };
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
}
