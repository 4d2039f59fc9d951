//! Receipts on responses: nearly all of them have none, and those are looked at no further.

use super::streams::{self, Begun};
use super::{ROOTS, Root, now_ms};
use crate::abi::{self, Action, Map};
use crate::flow::{Admission, Awaited, cache_control};

/// Streams looked for in one tick, to see whether they have ended without a response.
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
            let status = abi::header(Map::ResponseHeaders, b":status").unwrap_or_default();
            if let Admission::Session(spent) = &paid
                && spent.is_unanswered(&status, grpc_status, details)
            {
                if let Ok(mut gate) = root.gate.try_borrow_mut() {
                    gate.give_back(spent);
                }
            } else if is_success(&status) {
                if let Admission::Session(spent) = &paid
                    && paid.is_by_event()
                    && streams::begin(&root, context, spent, end) == Begun::Refused
                {
                    return Action::StopAll;
                }
                note_earned(&root, &paid);
                give(&paid);
                return Action::Continue;
            } else {
                note_earned(&root, &paid);
            }
        }
        None => {}
    }
    if gives_receipts {
        let _ = abi::remove_header(Map::ResponseHeaders, RECEIPT);
    }
    Action::Continue
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

/// Forgets receipts for streams that have ended without a response.
pub(super) fn forget_ended(root: &Root) {
    let mut looked = false;
    for _ in 0..LOOKS {
        let Ok(mut gate) = root.gate.try_borrow_mut() else {
            break;
        };
        let Some(stream) = gate.next_awaited() else {
            break;
        };
        looked = true;
        if abi::set_effective_context(stream).is_err() {
            let _ = gate.receipt_for(stream);
        }
    }
    if looked {
        let _ = abi::set_effective_context(root.id);
    }
}
