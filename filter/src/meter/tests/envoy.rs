//! What Envoy 1.40 does with a response's body on either side of a filter, as it was measured, and
//! a panic where it would lose bytes, end a response twice or crash.

use super::*;

/// Units in a purse.
#[derive(Default)]
pub(super) struct Purse {
    pub(super) units: u64,
    pub(super) taken: u64,
}

impl Till for Purse {
    fn take(&mut self) -> bool {
        let has_one = self.units > 0;
        self.units -= u64::from(has_one);
        self.taken += u64::from(has_one);
        has_one
    }

    fn receipt(&self, units: u64) -> String {
        format!("event: payment-receipt\ndata: {units}\n\n")
    }
}

/// What the client is told when units are lacking.
pub(super) fn word() -> String {
    "event: payment-need-topup\ndata: {}\n\n".to_owned()
}

/// Envoy, with a client that reads all it is sent.
pub(super) struct Envoy {
    pub(super) meter: Meter,
    pub(super) purse: Purse,
    sent: Vec<u8>,
    buffer: Vec<u8>,
    /// The last body callback said Stop: the buffer can be read and changed.
    is_open: bool,
    /// Something is stopped that a callback's `On` would let go.
    is_stopped: bool,
    /// Overflow slows the upstream down and does not reset the stream.
    is_streaming: bool,
    has_seen_end: bool,
    has_trailers: bool,
    pub(super) is_ended: bool,
    pub(super) is_closed: bool,
}

/// `per_connection_buffer_limit_bytes`.
const LIMIT: usize = 1024 * 1024;

impl Envoy {
    pub(super) fn with_units(units: u64) -> Self {
        Self {
            meter: Meter::new(),
            purse: Purse { units, taken: 0 },
            sent: Vec::new(),
            buffer: Vec::new(),
            is_open: false,
            is_stopped: false,
            is_streaming: false,
            has_seen_end: false,
            has_trailers: false,
            is_ended: false,
            is_closed: false,
        }
    }

    pub(super) fn sent(&self) -> &str {
        std::str::from_utf8(&self.sent).unwrap()
    }

    /// The upstream is not read from.
    pub(super) fn is_slowed(&self) -> bool {
        self.buffer.len() > LIMIT
    }

    fn check_limit(&self) {
        assert!(self.is_streaming || self.buffer.len() <= LIMIT, "reset");
    }

    fn end(&mut self) {
        assert!(!self.is_ended, "ended twice");
        assert!(self.buffer.is_empty(), "bytes are lost");
        self.is_ended = true;
    }

    fn let_go(&mut self) {
        self.is_stopped = false;
        self.sent.append(&mut self.buffer);
        if self.has_seen_end || self.has_trailers {
            self.end();
        }
    }

    fn change(bytes: &mut Vec<u8>, change: Change) {
        match change {
            Change::Keep => {}
            Change::Replace(new) => *bytes = new,
            Change::Append(new) => bytes.extend(new),
        }
    }

    pub(super) fn data(&mut self, chunk: &[u8], end: bool) {
        assert!(!self.has_seen_end && !self.is_slowed());
        self.has_seen_end |= end;
        let mut data = chunk.to_vec();
        let (resume, close, go);
        if self.is_open {
            self.is_streaming = false;
            self.buffer.append(&mut data);
            self.check_limit();
            let step = self.meter.chunk(&self.buffer, end, &mut self.purse);
            (resume, close, go) = (step.resume, step.close, step.go);
            Self::change(&mut self.buffer, step.change);
            self.check_limit();
        } else {
            let step = self.meter.chunk(&data, end, &mut self.purse);
            (resume, close, go) = (step.resume, step.close, step.go);
            Self::change(&mut data, step.change);
        }
        assert!(!close);
        if resume {
            self.let_go();
        }
        self.is_open = go == Go::Stop;
        if go == Go::On {
            if self.is_stopped {
                self.buffer.append(&mut data);
                self.let_go();
            } else {
                assert!(self.buffer.is_empty(), "bytes stay behind");
                self.sent.append(&mut data);
                if end {
                    self.end();
                }
            }
        } else {
            self.is_stopped = true;
            self.is_streaming = go == Go::Press;
            self.buffer.append(&mut data);
            self.check_limit();
        }
    }

    pub(super) fn trailers(&mut self) {
        assert!(!self.has_seen_end && !self.is_slowed());
        self.has_trailers = true;
        let step = self.meter.trailers(&mut self.purse);
        self.touch(step.change);
        if step.close {
            self.is_closed = true;
            return;
        }
        if step.resume {
            self.let_go();
        }
        match step.go {
            Go::On if self.is_stopped => self.let_go(),
            Go::On => self.end(),
            Go::Stop | Go::Press => self.is_stopped = true,
        }
    }

    /// A change outside of a body callback.
    fn touch(&mut self, change: Change) {
        assert!(self.is_open || change == Change::Keep, "crash");
        Self::change(&mut self.buffer, change);
        self.check_limit();
    }

    fn do_from_tick(&mut self, step: Step) {
        if self.is_ended || self.is_closed {
            assert_eq!(step, Step::NOTHING);
            return;
        }
        self.touch(step.change);
        if step.resume {
            self.let_go();
        }
        self.is_closed |= step.close;
    }

    /// A tick; `says` that the account is known to be empty.
    pub(super) fn tick(&mut self, says: bool) {
        let word = (says && self.meter.wants_word()).then(word);
        let step = self.meter.tick(&mut self.purse, word);
        self.do_from_tick(step);
    }

    pub(super) fn time_out(&mut self) {
        let step = self.meter.time_out(&self.purse, "TIMEOUT\n\n");
        self.do_from_tick(step);
    }

    pub(super) fn knows_the_end(&self) -> bool {
        self.has_seen_end || self.has_trailers
    }
}
