//! Responses whose events are sold one by one: the steps of their meters in host calls.
//!
//! All other responses end at one look into a small map, up to their last bytes.

use std::rc::Rc;

use super::{Envoy, ROOTS, Root, send, turns};
use crate::abi::{self, Action, Buffer, Map};
use crate::flow::{Reply, Spent};
use crate::meter::{Change, Go, Step};

/// Streams let go in one callback, at most: each lets Envoy send, and all of that on one stack.
const TURNS: usize = 100;
/// Streams that have a turn in one callback, at most.
const LOOKS: usize = 1_000;

/// How the response to a request goes on that is sold by the event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Begun {
    /// It is no stream of events: it was sold as a whole.
    Whole,
    /// Each event will be counted.
    Metered,
    /// It has been answered otherwise.
    Refused,
}

/// The headers of a successful response have come.
pub(super) fn begin(root: &Root, context: u32, spent: &Rc<Spent>, end: bool) -> Begun {
    let map = Map::ResponseHeaders;
    let value = |name: &[u8]| abi::header(map, name).unwrap_or_default();
    if !is_event_stream(&value(b"content-type")) {
        return Begun::Whole;
    }
    let Ok(mut gate) = root.gate.try_borrow_mut() else {
        return refuse(root, &Reply::fault());
    };
    let encoding = value(b"content-encoding");
    let is_plain = encoding.is_empty() || encoding.trim_ascii().eq_ignore_ascii_case(b"identity");
    if end || !is_plain {
        gate.give_back(spent);
    }
    if end {
        return Begun::Whole;
    }
    if !is_plain {
        drop(gate);
        return refuse(root, &Reply::uncountable(spent.tag()));
    }
    if abi::remove_header(map, b"content-length").is_err() {
        gate.give_back(spent);
        drop(gate);
        return refuse(root, &Reply::fault());
    }
    gate.meter(context, spent.clone(), &Envoy);
    Begun::Metered
}

fn is_event_stream(content_type: &[u8]) -> bool {
    let kind = content_type.split(|byte| *byte == b';').next();
    kind.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
}

fn refuse(root: &Root, reply: &Reply) -> Begun {
    send(root, reply);
    Begun::Refused
}

/// What a callback of a response's body is to a gate.
enum Whose {
    /// No gate meters the response.
    Nobodys,
    Metered(Rc<Root>),
    /// That cannot be known.
    Unknown,
}

/// Looks whether a gate meters the response. Of any other one it takes note of the end.
fn metered(context: u32, is_last: bool) -> Whose {
    ROOTS.with(|roots| {
        let Ok(roots) = roots.try_borrow() else {
            return Whose::Unknown;
        };
        for root in roots.iter() {
            let Ok(mut gate) = root.gate.try_borrow_mut() else {
                return Whose::Unknown;
            };
            if gate.has_stream(context) {
                return Whose::Metered(root.clone());
            }
            if is_last {
                gate.response_ended(context);
            }
        }
        Whose::Nobodys
    })
}

pub(crate) fn on_response_body(context: u32, size: usize, end: bool) -> Action {
    let root = match metered(context, end) {
        Whose::Nobodys => return Action::Continue,
        Whose::Metered(root) => root,
        // What cannot be metered goes nowhere.
        Whose::Unknown => return Action::Stop,
    };
    let buffer = match size {
        0 => Ok(abi::Received::default()),
        _ => abi::buffer(Buffer::ResponseBody, size),
    };
    let Ok(buffer) = buffer else {
        return Action::Stop;
    };
    let step = match root.gate.try_borrow_mut() {
        Ok(mut gate) => gate.stream_chunk(context, &buffer, end, &Envoy),
        Err(_) => None,
    };
    drop(buffer);
    let Some(step) = step else {
        return Action::Stop;
    };
    carry_out(&root, context, step)
}

pub(crate) fn on_response_trailers(context: u32) -> Action {
    let root = match metered(context, true) {
        Whose::Nobodys => return Action::Continue,
        Whose::Metered(root) => root,
        Whose::Unknown => return Action::Stop,
    };
    let step = match root.gate.try_borrow_mut() {
        Ok(mut gate) => gate.stream_trailers(context, &Envoy),
        Err(_) => None,
    };
    let Some(step) = step else {
        return Action::Stop;
    };
    carry_out(&root, context, step)
}

/// Does what the meter says in a callback of the stream.
fn carry_out(root: &Rc<Root>, context: u32, step: Step) -> Action {
    if step == Step::NOTHING {
        return Action::Continue;
    }
    let action = match step.go {
        Go::On => Action::Continue,
        Go::Stop => Action::Stop,
        Go::Press => Action::StopAndPress,
    };
    put(context, step);
    // Who has begun to wait asks for units, and wants quick ticks.
    turns::make_calls(root, Some(context));
    action
}

/// Makes the host calls of a step; the stream is the effective context, and there.
fn put(context: u32, step: Step) {
    let put = match &step.change {
        Change::Keep => Ok(()),
        Change::Replace(bytes) => abi::replace_response_body(bytes),
        Change::Append(bytes) if bytes.is_empty() => Ok(()),
        Change::Append(bytes) => abi::append_response_body(bytes),
    };
    if let Err(refused) = put {
        log::error!(
            "stream {context}: its body is not to be changed: {}",
            refused.0
        );
        let _ = abi::close_response();
        return;
    }
    if step.resume {
        let _ = abi::continue_response();
    }
    if step.close {
        let _ = abi::close_response();
    }
}

/// Gives streams their turns, a bounded number of them. Between ticks only those that wait for
/// units have one.
pub(super) fn take_turns(root: &Root, is_tick: bool) {
    let turns = match root.gate.try_borrow_mut() {
        Ok(mut gate) => gate.stream_turns(LOOKS, is_tick, &Envoy),
        Err(_) => return,
    };
    if turns.is_empty() {
        return;
    }
    let mut taken = 0;
    for context in turns {
        if taken >= TURNS {
            if let Ok(mut gate) = root.gate.try_borrow_mut() {
                gate.put_off(context);
            }
            break;
        }
        let is_there = turns::is_there(context);
        let Ok(mut gate) = root.gate.try_borrow_mut() else {
            break;
        };
        if !is_there {
            gate.stream_gone(context);
            continue;
        }
        let step = gate.take_stream_turn(context, &Envoy);
        drop(gate);
        if let Some(step) = step.filter(|step| *step != Step::NOTHING) {
            put(context, step);
            taken += 1;
        }
    }
    let _ = abi::set_effective_context(root.id);
}

/// Looks for streams that have gone; the sessions of those that have not are in use.
pub(super) fn look(root: &Root) {
    let Ok(count) = root.gate.try_borrow().map(|gate| gate.streams()) else {
        return;
    };
    // All of them within some seconds, however many there are.
    let looks = count.min(64 + count / 16);
    for _ in 0..looks {
        let Ok(mut gate) = root.gate.try_borrow_mut() else {
            break;
        };
        let Some(context) = gate.next_stream() else {
            break;
        };
        if abi::set_effective_context(context).is_ok() {
            gate.stream_lives(context, &Envoy);
        } else {
            gate.stream_gone(context);
        }
    }
    if looks > 0 {
        let _ = abi::set_effective_context(root.id);
    }
}
