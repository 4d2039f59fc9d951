//! Receipts on responses: nearly all of them have none, and those are looked at no further.

use std::rc::Rc;

use super::{ROOTS, Root};
use crate::abi::{self, Map};
use crate::flow::{Claimed, cache_control};

/// Streams looked for in one tick, to see whether they have ended without a response.
const LOOKS: usize = 64;

const RECEIPT: &[u8] = b"payment-receipt";
const CACHE_CONTROL: &[u8] = b"cache-control";

/// Gives a paid response its receipt. Nothing but the gate itself may give one.
pub(crate) fn on_response_headers(context: u32) {
    let mut gives_receipts = false;
    let claimed = ROOTS.with(|roots| {
        let roots = roots.try_borrow().ok()?;
        roots.iter().find_map(|root| {
            let mut gate = root.gate.try_borrow_mut().ok()?;
            gives_receipts |= gate.gives_receipts();
            gate.receipt_for(context)
        })
    });
    match claimed {
        Some(claimed) if is_success() => give(&claimed),
        _ if gives_receipts => {
            let _ = abi::remove_header(Map::ResponseHeaders, RECEIPT);
        }
        _ => {}
    }
}

fn is_success() -> bool {
    abi::header(Map::ResponseHeaders, b":status").is_ok_and(|status| {
        let is_digit = u8::is_ascii_digit;
        matches!(&*status, [b'2', tens, ones] if is_digit(tens) && is_digit(ones))
    })
}

/// A response that cannot be made private goes without its receipt (R-CORE-33).
fn give(claimed: &Rc<Claimed>) {
    let map = Map::ResponseHeaders;
    let said = abi::header(map, CACHE_CONTROL).unwrap_or_default();
    let is_private = abi::replace_header(map, CACHE_CONTROL, &cache_control(&said)).is_ok();
    if !is_private {
        let _ = abi::remove_header(map, RECEIPT);
        return;
    }
    let _ = abi::replace_header(map, RECEIPT, claimed.receipt().as_bytes());
    if claimed.is_for_browser() {
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
