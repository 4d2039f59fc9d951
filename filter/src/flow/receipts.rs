//! Receipts for charges and sessions: put on the response of the request that was forwarded for one.
//!
//! Streams end without a word to us, so those whose response never came are looked for from ticks.
//! A session whose request is under way, up to the end of its response, is in use meanwhile.

use std::rc::Rc;

use protocol::hash::PaymentHash;
use protocol::payment::receipt::Receipt;

use super::{Admission, Gate, Spent, Surroundings, millis};

/// What the response of a stream is awaited for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Awaited {
    /// It is to have a receipt for this, if it is a success.
    Paid(Admission),
    /// It is a reply of the gate's, with a receipt already.
    Reply,
}

/// How far the response of a stream is.
enum Progress {
    /// Not there yet.
    Awaited(Awaited),
    /// It has begun, for a unit of a session.
    Begun(Rc<Spent>),
}

struct Request {
    stream: u32,
    progress: Progress,
    /// When its session was last known to be in use, by the steady clock; 0 before it was looked at.
    touched_ms: u64,
}

/// Streams that await a receipt or the end of their response, in the order of their numbers.
#[derive(Default)]
pub(super) struct Receipts {
    all: Vec<Request>,
    /// The next one to be looked for.
    next: usize,
}

impl Receipts {
    pub(super) fn await_one(&mut self, stream: u32, awaited: Awaited) {
        let place = self.all.partition_point(|one| one.stream < stream);
        let request = Request {
            stream,
            progress: Progress::Awaited(awaited),
            touched_ms: 0,
        };
        self.all.insert(place, request);
    }

    fn place(&self, stream: u32) -> Option<usize> {
        self.all
            .binary_search_by_key(&stream, |one| one.stream)
            .ok()
    }

    fn take(&mut self, stream: u32) -> Option<Awaited> {
        let place = self.place(stream)?;
        let progress = &mut self.all.get_mut(place)?.progress;
        match progress {
            Progress::Awaited(Awaited::Paid(Admission::Session(spent))) => {
                let spent = spent.clone();
                *progress = Progress::Begun(spent.clone());
                Some(Awaited::Paid(Admission::Session(spent)))
            }
            Progress::Begun(_) => None,
            Progress::Awaited(_) => match self.all.remove(place).progress {
                Progress::Awaited(awaited) => Some(awaited),
                Progress::Begun(_) => None,
            },
        }
    }

    fn forget(&mut self, stream: u32) {
        if let Some(place) = self.place(stream) {
            self.all.remove(place);
        }
    }
}

impl Gate {
    /// The response to a stream begins: what it is a receipt for, if for anything. Told once.
    pub fn receipt_for(&mut self, stream: u32) -> Option<Awaited> {
        self.state.receipts.take(stream)
    }

    /// The response to a stream has ended, or the stream has gone.
    pub fn response_ended(&mut self, stream: u32) {
        self.state.receipts.forget(stream);
    }

    /// How many streams await a receipt or the end of their response.
    #[must_use]
    pub const fn requests(&self) -> usize {
        self.state.receipts.all.len()
    }

    /// One of these streams, in turn: it may have gone.
    pub fn next_request(&mut self) -> Option<u32> {
        let receipts = &mut self.state.receipts;
        if receipts.next >= receipts.all.len() {
            receipts.next = 0;
        }
        let stream = receipts.all.get(receipts.next)?.stream;
        receipts.next += 1;
        Some(stream)
    }

    /// The stream is still there: the session that has paid for it is in use (X16).
    pub fn request_lives(&mut self, stream: u32, around: &impl Surroundings) {
        let quarter_ms = self.quarter_of_idle_ms();
        let receipts = &mut self.state.receipts;
        let place = receipts.place(stream);
        let Some(request) = place.and_then(|place| receipts.all.get_mut(place)) else {
            return;
        };
        let (Progress::Begun(spent) | Progress::Awaited(Awaited::Paid(Admission::Session(spent)))) =
            &request.progress
        else {
            return;
        };
        let now_ms = around.steady_ms();
        if request.touched_ms == 0 {
            // What it has spent is just being told.
            request.touched_ms = now_ms;
        } else if now_ms.saturating_sub(request.touched_ms) >= quarter_ms {
            request.touched_ms = now_ms;
            self.state.sessions.leases.touch(spent.account());
        }
    }

    /// How often it is said that a session is in use (spec/lease L9).
    pub(super) fn quarter_of_idle_ms(&self) -> u64 {
        let payment = self.config.payment.as_ref();
        payment.map_or(0, |payment| millis(payment.idle_timeout) / 4)
    }

    /// This gate sells by the Payment scheme: receipts on its responses are its own.
    #[must_use]
    pub const fn gives_receipts(&self) -> bool {
        self.config.payment.is_some()
    }
}

impl Admission {
    /// The value of `payment-receipt`; tokens have none.
    #[must_use]
    pub fn receipt(&self) -> Option<String> {
        let receipt = match self {
            Self::Token(_) => return None,
            Self::Charge(claimed) => {
                let charge = &claimed.charge;
                Receipt::new(&charge.challenge_id, charge.payment_hash, claimed.at)
            }
            Self::Session(spent) => {
                let session = PaymentHash(spent.account().0);
                Receipt::new(&spent.bearer.challenge_id, session, spent.at)
            }
        };
        Some(receipt.to_header())
    }

    /// A browser asked across origins: it must be told which header it may read.
    #[must_use]
    pub fn is_for_browser(&self) -> bool {
        match self {
            Self::Token(_) => false,
            Self::Charge(claimed) => claimed.cors,
            Self::Session(spent) => spent.manner.cors,
        }
    }
}

/// The `cache-control` of a response with a receipt, which nobody else may be given (R-CORE-33):
/// what the upstream said, with `private` and without `public`.
#[must_use]
pub fn cache_control(said: &[u8]) -> Vec<u8> {
    let is = |directive: &[u8], name: &str| directive.eq_ignore_ascii_case(name.as_bytes());
    let mut directives: Vec<&[u8]> = said
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|directive| !directive.is_empty() && !is(directive, "public"))
        .collect();
    if !directives.iter().any(|directive| is(directive, "private")) {
        directives.push(b"private");
    }
    directives.join(b", ".as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_with_a_receipt_is_private() {
        for (said, expected) in [
            ("", "private"),
            ("no-cache", "no-cache, private"),
            ("Public, max-age=60", "max-age=60, private"),
            (
                "max-age=1,private,no-transform",
                "max-age=1, private, no-transform",
            ),
            ("private=\"x\"", "private=\"x\", private"),
        ] {
            assert_eq!(cache_control(said.as_bytes()), expected.as_bytes());
        }
    }
}
