//! Receipts on responses: nearly all of them have none, and those are looked at no further.

use super::streams::{self, Begun};
use super::{Envoy, ROOTS, Root, now_ms};
use crate::abi::{self, Action, Map};
use crate::flow::{Admission, Awaited, cache_control};

/// Streams looked for in one tick, at least, to see whether they are still there.
const LOOKS: usize = 64;

const RECEIPT: &[u8] = b"payment-receipt";
const CACHE_CONTROL: &[u8] = b"cache-control";

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
            if let Some(action) = answered(&root, context, &paid, end) {
                return action;
            }
        }
        None => {}
    }
    if gives_receipts {
        let _ = abi::remove_header(Map::ResponseHeaders, RECEIPT);
    }
    Action::Continue
}

/// A response to a paid request; `None` if it gets no receipt.
fn answered(root: &Root, context: u32, paid: &Admission, end: bool) -> Option<Action> {
    let status = abi::header(Map::ResponseHeaders, b":status").unwrap_or_default();
    let mut gets_receipt = is_success(&status);
    let mut is_whole = true;
    if let Admission::Session(spent) = paid {
        if spent.is_unanswered(&status, grpc_status, details) {
            if let Ok(mut gate) = root.gate.try_borrow_mut() {
                gate.give_back(spent);
            }
            gets_receipt = false;
        } else {
            if gets_receipt && paid.is_by_event() {
                let begun = streams::begin(root, context, spent, end);
                if begun == Begun::Refused {
                    return Some(Action::StopAll);
                }
                is_whole = begun == Begun::Whole;
            }
            note_earned(root, paid);
        }
    }
    if end || !is_whole {
        ended(root, context);
    }
    gets_receipt.then(|| {
        give(paid);
        Action::Continue
    })
}

fn note_earned(root: &Root, paid: &Admission) {
    if let Admission::Session(spent) = paid
        && let Ok(mut gate) = root.gate.try_borrow_mut()
    {
        gate.is_earned(spent, now_ms);
    }
}

const fn is_success(status: &[u8]) -> bool {
    matches!(status, [b'2', b'0'..=b'9', b'0'..=b'9'])
}

/// Of a response that is nothing but headers.
fn grpc_status() -> Vec<u8> {
    let status = abi::header(Map::ResponseHeaders, b"grpc-status").unwrap_or_default();
    status.to_vec()
}

/// Who made the response, and why.
fn details() -> Vec<u8> {
    let details = abi::property(b"response\0code_details").unwrap_or_default();
    details.to_vec()
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
