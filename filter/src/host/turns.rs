//! What happens in root callbacks: ticks, answers of the sidecar, and the turns of held requests.

use std::cell::RefCell;

use protocol::api::{MARKER_HEADER, MARKER_VALUE};

use super::metrics::Metrics;
use super::{BACKLOG_TICK_MS, Envoy, Root, TICK_MS, clean, forward, now, now_ms, print, send};
use crate::abi::{self, Buffer, Map};
use crate::flow::{Answer, CallKind, Decision, Due, Note, Reply};
use crate::head::Head;
use crate::pairs::{self, Pairs};

/// Most replies and resumes in one callback: resumed requests with trailers
/// nest, and some 1,500 of them overflow the VM's stack.
const TURNS: usize = 100;
/// Most held requests looked at in one callback, those whose clients have gone included.
const LOOKS: usize = 2_000;
/// Largest answer of the sidecar that is read.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Calls under way, by the host's token.
#[derive(Default)]
pub(super) struct Calls(RefCell<Vec<(u32, CallKind)>>);

impl Calls {
    fn begun(&self, token: u32, kind: CallKind) {
        if let Ok(mut calls) = self.0.try_borrow_mut() {
            calls.push((token, kind));
        }
    }

    fn ended(&self, token: u32) -> Option<CallKind> {
        let mut calls = self.0.try_borrow_mut().ok()?;
        let place = calls.iter().position(|(known, _)| *known == token)?;
        Some(calls.swap_remove(place).1)
    }
}

pub(super) fn tick(root: &Root) {
    if let Ok(mut gate) = root.gate.try_borrow_mut() {
        gate.tick(now());
    }
    #[cfg(feature = "payment")]
    super::streams::take_turns(root, true);
    after_event(root);
    #[cfg(feature = "payment")]
    {
        super::receipts::look(root);
        super::streams::look(root);
    }
}

pub(super) fn answered(root: &Root, token: u32, headers: usize, body_size: usize) {
    let Some(kind) = root.calls.ended(token) else {
        return;
    };
    let headers = if headers > 0 {
        abi::header_pairs(Map::CallHeaders).ok()
    } else {
        None
    };
    let body = match body_size {
        1..=MAX_ANSWER => abi::buffer(Buffer::CallBody, body_size).ok(),
        _ => None,
    };
    let fields = headers
        .as_deref()
        .and_then(Pairs::parse)
        .unwrap_or_default();
    let number = |name: &[u8]| {
        let text = fields.values(name).next()?;
        std::str::from_utf8(text).ok()?.parse::<u64>().ok()
    };
    let answer = Answer {
        status: number(b":status")
            .and_then(|status| status.try_into().ok())
            .unwrap_or_default(),
        is_marked: fields
            .values(MARKER_HEADER.as_bytes())
            .eq([MARKER_VALUE.as_bytes()]),
        retry_after: number(b"retry-after"),
        body: body.as_deref().unwrap_or_default(),
        no_cluster: false,
    };
    tell_gate(root, kind, &answer);
    #[cfg(feature = "payment")]
    super::streams::take_turns(root, false);
    after_event(root);
}

fn tell_gate(root: &Root, kind: CallKind, answer: &Answer<'_>) {
    if let Ok(mut gate) = root.gate.try_borrow_mut() {
        let result = gate.answered(kind, answer, now());
        Metrics::called(kind, result);
    }
}

/// After anything that happened to the root context.
fn after_event(root: &Root) {
    take_turns(root);
    make_calls(root, None);
    let mut has_backlog = false;
    if let Ok(mut gate) = root.gate.try_borrow_mut() {
        has_backlog = gate.has_backlog();
        while let Some(notice) = gate.next_notice() {
            print(&notice);
        }
    }
    tick_each(
        root,
        if has_backlog {
            BACKLOG_TICK_MS
        } else {
            TICK_MS
        },
    );
}

fn tick_each(root: &Root, tick_ms: u32) {
    if root.tick_ms.replace(tick_ms) != tick_ms {
        let _ = abi::set_tick_period(tick_ms);
    }
}

/// Answers or resumes held requests whose turn it is, a bounded number of them.
fn take_turns(root: &Root) {
    let mut turns = 0;
    for _ in 0..LOOKS {
        let due = match root.gate.try_borrow_mut() {
            Ok(mut gate) if turns < TURNS => gate.next_due(),
            _ => None,
        };
        let Some(due) = due else { break };
        if !is_there(due.stream) {
            if let Ok(mut gate) = root.gate.try_borrow_mut() {
                gate.gone(due);
            }
            continue;
        }
        turns += 1;
        take_turn(root, due);
    }
    if turns > 0 {
        let _ = abi::set_effective_context(root.id);
    }
}

/// Makes the stream the effective context, unless it has gone: then the context before it stays
/// effective, and nothing may be done in its name.
///
/// Envoy keeps a stream that has ended in this turn of its loop until the turn is over, and crashes
/// when such a one is let go; but only of one that has ended the duration is known.
pub(super) fn is_there(stream: u32) -> bool {
    abi::set_effective_context(stream).is_ok() && abi::property(b"request\0duration").is_err()
}

fn take_turn(root: &Root, due: Due) {
    let (stream, since_ms) = (due.stream, due.since_ms);
    let decision = match root.gate.try_borrow_mut() {
        Ok(mut gate) => gate.answer(due),
        // Cannot be: no gate is borrowed while a callback begins.
        Err(_) => Some(Decision::reply(Reply::fault())),
    };
    let is_decided = match decision {
        Some(decision) => carry_out(root, stream, decision),
        None => decide_anew(root, stream),
    };
    if is_decided {
        root.metrics
            .held(now_ms().saturating_sub(since_ms).saturating_mul(1_000));
    }
}

/// Decides a request that was held for keys, from the headers that it still has.
fn decide_anew(root: &Root, stream: u32) -> bool {
    let bytes = abi::header_pairs(Map::RequestHeaders).unwrap_or_default();
    let pairs = Pairs::parse(&bytes).filter(|pairs| pairs.iter().next().is_some());
    let decision = match (pairs, root.gate.try_borrow_mut()) {
        (Some(pairs), Ok(mut gate)) => gate.request(stream, &Head::new(pairs), &Envoy),
        _ => Decision::reply(Reply::fault()),
    };
    carry_out(root, stream, decision)
}

/// `false` if the request goes on being held.
fn carry_out(root: &Root, stream: u32, decision: Decision<'_>) -> bool {
    match decision {
        Decision::Forward { edits, note } => resume(root, stream, &edits, &note),
        Decision::Reply(reply) => send(root, &reply),
        Decision::Hold => return false,
        Decision::HoldCleaned(edits) => {
            if clean(&edits).is_ok() {
                return false;
            }
            if let Ok(mut gate) = root.gate.try_borrow_mut() {
                gate.let_go(stream);
            }
            send(root, &Reply::fault());
        }
    }
    true
}

fn resume(root: &Root, stream: u32, edits: &[crate::flow::Edit<'_>], note: &Note) {
    match forward(root, Map::RequestHeaders, edits, note) {
        Ok(()) => {
            let _ = abi::continue_request();
        }
        Err(_) => {
            if let Ok(mut gate) = root.gate.try_borrow_mut() {
                gate.not_forwarded(stream, note);
            }
            send(root, &Reply::fault());
        }
    }
}

/// Makes the calls that the gate asks for, on behalf of the root context. `stream` is the one whose
/// callback is running, if it is a stream's.
pub(super) fn make_calls(root: &Root, stream: Option<u32>) {
    let mut is_root_effective = stream.is_none();
    loop {
        let call = match root.gate.try_borrow_mut() {
            Ok(mut gate) => gate.next_call(),
            Err(_) => None,
        };
        let Some(call) = call else { break };
        is_root_effective = is_root_effective || abi::set_effective_context(root.id).is_ok();
        let fields: Vec<(&[u8], &[u8])> = call
            .headers
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        let headers = pairs::encode(&fields);
        let token = abi::http_call(
            call.cluster.as_bytes(),
            &headers,
            &call.body,
            call.timeout_ms,
        );
        match token {
            Ok(token) => root.calls.begun(token, call.kind),
            Err(refused) => {
                let answer = Answer {
                    no_cluster: refused == abi::BAD_ARGUMENT,
                    ..Answer::default()
                };
                tell_gate(root, call.kind, &answer);
            }
        }
    }
    let Some(stream) = stream else { return };
    // Who waits for units of a session is not to wait for a slow tick.
    let is_slow = cfg!(feature = "payment") && root.tick_ms.get() != BACKLOG_TICK_MS;
    if is_slow && root.gate.try_borrow().is_ok_and(|gate| gate.has_backlog()) {
        is_root_effective = is_root_effective || abi::set_effective_context(root.id).is_ok();
        if is_root_effective {
            tick_each(root, BACKLOG_TICK_MS);
        }
    }
    if is_root_effective {
        let _ = abi::set_effective_context(stream);
    }
}
