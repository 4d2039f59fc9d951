//! Receipts on responses: nearly all of them have none, and those are looked at no further.

use super::streams::{self, Begun};
use super::{Envoy, ROOTS, Root};
use crate::abi::{self, Action, Map};
use crate::flow::{Admission, Awaited, cache_control};

/// Streams looked for in one tick, at least, to see whether they are still there.
const LOOKS: usize = 64;

const RECEIPT: &[u8] = b"payment-receipt";
const CACHE_CONTROL: &[u8] = b"cache-control";

/// What the response says of itself.
enum Status {
    Success,
    /// 502, 503 or 504.
    NoAnswer,
    Other,
}

/// Gives a paid response its receipt. Nothing but the gate itself may give one. What a session paid
/// for a response that Envoy made in the upstream's place is given back.
///
/// A stream that ends without any response headers was ended by its client: whatever the upstream
/// does or fails to do, Envoy makes a response of it.
pub(crate) fn on_response_headers(context: u32, end: bool) -> Action {
    let mut gives_receipts = false;
    let awaited = ROOTS.with(|roots| {
        let roots = roots.try_borrow().ok()?;
        roots.iter().find_map(|root| {
            let mut gate = root.gate.try_borrow_mut().ok()?;
            gives_receipts |= gate.gives_receipts();
            Some((root.clone(), gate.receipt_for(context)?))
        })
    });
    match awaited {
        // Replies of the gate's come here as well.
        Some((_, Awaited::Reply)) => return Action::Continue,
        Some((root, Awaited::Paid(paid))) => {
            let (status, mut is_whole) = (status(), true);
            match (&status, &paid) {
                (Status::Success, Admission::Session(spent)) if paid.is_by_event() => {
                    let begun = streams::begin(&root, context, spent, end);
                    if begun == Begun::Refused {
                        return Action::StopAll;
                    }
                    is_whole = begun == Begun::Whole;
                }
                (Status::NoAnswer, Admission::Session(spent)) if is_made_by_envoy() => {
                    if let Ok(mut gate) = root.gate.try_borrow_mut() {
                        gate.give_back(spent);
                    }
                }
                _ => {}
            }
            if end || !is_whole {
                ended(&root, context);
            }
            if matches!(status, Status::Success) {
                give(&paid);
                return Action::Continue;
            }
        }
        None => {}
    }
    if gives_receipts {
        let _ = abi::remove_header(Map::ResponseHeaders, RECEIPT);
    }
    Action::Continue
}

fn status() -> Status {
    let status = abi::header(Map::ResponseHeaders, b":status").unwrap_or_default();
    match &*status {
        [b'2', tens, ones] if tens.is_ascii_digit() && ones.is_ascii_digit() => Status::Success,
        b"502" | b"503" | b"504" => Status::NoAnswer,
        _ => Status::Other,
    }
}

/// The upstream has not answered. A response of whose origin nothing is known is taken for its own.
fn is_made_by_envoy() -> bool {
    abi::property(b"response\0code_details")
        .is_ok_and(|details| !details.is_empty() && &*details != b"via_upstream")
}

/// A response that cannot be made private goes without its receipt (R-CORE-33).
fn give(paid: &Admission) {
    let Some(receipt) = paid.receipt() else {
        return;
    };
    let map = Map::ResponseHeaders;
    let said = abi::header(map, CACHE_CONTROL).unwrap_or_default();
    let is_private = abi::replace_header(map, CACHE_CONTROL, &cache_control(&said)).is_ok();
    if !is_private {
        let _ = abi::remove_header(map, RECEIPT);
        return;
    }
    let _ = abi::replace_header(map, RECEIPT, receipt.as_bytes());
    if paid.is_for_browser() {
        let _ = abi::add_header(map, b"access-control-expose-headers", b"Payment-Receipt");
    }
}

fn ended(root: &Root, context: u32) {
    if let Ok(mut gate) = root.gate.try_borrow_mut() {
        gate.response_ended(context);
    }
}

/// Looks for requests that have gone; the sessions of those that have not are in use.
pub(super) fn look(root: &Root) {
    let Ok(count) = root.gate.try_borrow().map(|gate| gate.requests()) else {
        return;
    };
    let looks = count.min(LOOKS + count / 16);
    for _ in 0..looks {
        let Ok(mut gate) = root.gate.try_borrow_mut() else {
            break;
        };
        let Some(stream) = gate.next_request() else {
            break;
        };
        match abi::set_effective_context(stream) {
            Ok(()) => gate.request_lives(stream, &Envoy),
            Err(_) => gate.response_ended(stream),
        }
    }
    if looks > 0 {
        let _ = abi::set_effective_context(root.id);
    }
}
