//! Receipts for charges and sessions: put on the response of the request that was forwarded for one.
//!
//! Streams end without a word to us, so those whose response never came are looked for from ticks.

use protocol::hash::PaymentHash;
use protocol::payment::receipt::Receipt;

use super::{Admission, Gate};

/// What the response of a stream is awaited for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Awaited {
    /// It is to have a receipt for this, if it is a success.
    Paid(Admission),
    /// It is a reply of the gate's, with a receipt already.
    Reply,
}

/// Streams that await a receipt, in the order of their numbers.
#[derive(Default)]
pub(super) struct Receipts {
    awaited: Vec<(u32, Awaited)>,
    /// The next one to be looked for.
    next: usize,
}

impl Receipts {
    pub(super) fn await_one(&mut self, stream: u32, awaited: Awaited) {
        let place = self.awaited.partition_point(|(known, _)| *known < stream);
        self.awaited.insert(place, (stream, awaited));
    }

    fn take(&mut self, stream: u32) -> Option<Awaited> {
        let place = self
            .awaited
            .binary_search_by_key(&stream, |(known, _)| *known)
            .ok()?;
        Some(self.awaited.remove(place).1)
    }
}

impl Gate {
    /// The response to a stream begins: what it is a receipt for, if for anything. Told once.
    pub fn receipt_for(&mut self, stream: u32) -> Option<Awaited> {
        self.state.receipts.take(stream)
    }

    /// One of the streams that await a receipt, in turn: it may have ended.
    pub fn next_awaited(&mut self) -> Option<u32> {
        let receipts = &mut self.state.receipts;
        if receipts.next >= receipts.awaited.len() {
            receipts.next = 0;
        }
        let (stream, _) = receipts.awaited.get(receipts.next)?;
        receipts.next += 1;
        Some(*stream)
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
