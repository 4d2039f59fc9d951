//! Between Envoy and the gates: callbacks become events, decisions become host calls.
//!
//! One VM may hold several root contexts: two listeners with a filter each, or the old and the new
//! configuration while connections drain. Each has a gate of its own; Envoy announces a stream
//! with its root context immediately before its headers.
//!
//! Calls to the sidecar are made on behalf of the root context, so that an answer is never lost
//! with the stream that wanted it. No gate is borrowed while a host call runs that could lead to
//! another callback.

mod metrics;
#[cfg(feature = "payment")]
mod receipts;
#[cfg(feature = "payment")]
mod streams;
mod turns;

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::rc::Rc;

use log::{error, info};
use protocol::policy::PluginConfig;
use proxy_wasm::types::LogLevel;

use self::metrics::Metrics;
#[cfg(feature = "payment")]
pub(crate) use self::receipts::on_response_headers;
#[cfg(feature = "payment")]
pub(crate) use self::streams::{on_response_body, on_response_trailers};
use self::turns::Calls;
use crate::abi::{self, Action, Buffer, Map};
use crate::flow::{Decision, Edit, Gate, Note, Notice, Now, Origin, Reply, Surroundings, trailers};
use crate::head::{Head, is_ours};
use crate::outcome::Outcome;
use crate::pairs::{self, Pairs};

/// Time between ticks while nothing waits.
const TICK_MS: u32 = 100;
/// Time between ticks while held requests wait for their turn.
const BACKLOG_TICK_MS: u32 = 20;

/// Everything behind one root context.
struct Root {
    id: u32,
    gate: RefCell<Gate>,
    metrics: Metrics,
    calls: Calls,
    tick_ms: Cell<u32>,
}

thread_local! {
    static ROOTS: RefCell<Vec<Rc<Root>>> = const { RefCell::new(Vec::new()) };
    /// The stream announced last, and its root context.
    static ANNOUNCED: Cell<(u32, u32)> = const { Cell::new((0, 0)) };
}

/// Called once, before any other callback.
pub(crate) fn start() {
    proxy_wasm::set_log_level(LogLevel::Info);
}

pub(crate) fn on_context_create(context: u32, root: u32) {
    if root != 0 {
        ANNOUNCED.set((context, root));
    }
}

/// `false` refuses the configuration: Envoy then does not start, or keeps the one before.
pub(crate) fn on_configure(root: u32, size: usize) -> bool {
    let text = match abi::buffer(Buffer::PluginConfiguration, size) {
        Ok(text) => text,
        Err(refused) => {
            error!("plugin configuration is not readable: status {}", refused.0);
            return false;
        }
    };
    let config = match PluginConfig::from_json(&text) {
        Ok(config) => config,
        Err(errors) => {
            for error in errors.iter() {
                error!("plugin configuration: {error}");
            }
            return false;
        }
    };
    if config.payment.is_some() && !cfg!(feature = "payment") {
        error!("plugin configuration: payment: this module is built without the Payment scheme");
        return false;
    }
    let token = std::env::var(&config.sidecar.token_env).ok();
    let vm = random();
    let plugin = abi::property(b"plugin_name").unwrap_or_default().to_vec();
    let mut gate = Gate::new(config, Origin { token, vm, plugin });
    drop_dead_roots(root);
    ROOTS.with(|roots| {
        let Ok(roots) = roots.try_borrow() else {
            return;
        };
        for other in roots.iter().rev() {
            if let Ok(other) = other.gate.try_borrow() {
                gate.inherit(&other, now());
            }
        }
    });
    let root = Rc::new(Root {
        id: root,
        gate: RefCell::new(gate),
        metrics: Metrics::default(),
        calls: Calls::default(),
        tick_ms: Cell::new(0),
    });
    let is_installed = ROOTS.with(|roots| {
        let Ok(mut roots) = roots.try_borrow_mut() else {
            return false;
        };
        roots.retain(|other| other.id != root.id);
        roots.push(root.clone());
        true
    });
    if is_installed {
        turns::tick(&root);
    }
    is_installed
}

pub(crate) fn on_tick(root: u32) {
    if let Some(root) = find(root) {
        #[cfg(feature = "payment")]
        if ROOTS.with(|roots| roots.try_borrow().is_ok_and(|roots| roots.len() > 1)) {
            drop_dead_roots(root.id);
        }
        turns::tick(&root);
    }
}

pub(crate) fn on_call_answered(root: u32, token: u32, headers: usize, body_size: usize) {
    if let Some(root) = find(root) {
        turns::answered(&root, token, headers, body_size);
    }
}

/// Decides a request. Whatever goes wrong here ends in a reply.
pub(crate) fn on_request_headers(context: u32) -> Action {
    let (announced, root) = ANNOUNCED.get();
    let root = if announced == context {
        find(root)
    } else {
        None
    };
    let Some(root) = root else {
        return refuse_without_gate();
    };
    let Ok(bytes) = abi::header_pairs(Map::RequestHeaders) else {
        return refuse_without_gate();
    };
    let Some(pairs) = Pairs::parse(&bytes) else {
        return refuse_without_gate();
    };
    let head = Head::new(pairs);
    #[cfg(feature = "trap")]
    trap(&head);
    let decision = match root.gate.try_borrow_mut() {
        Ok(mut gate) => gate.request(context, &head, &Envoy),
        Err(_) => return refuse_without_gate(),
    };
    let action = match decision {
        Decision::Forward { edits, note } => {
            if forward(&root, Map::RequestHeaders, &edits, &note).is_err() {
                if let Ok(mut gate) = root.gate.try_borrow_mut() {
                    gate.not_forwarded(context, &note);
                }
                return refuse_without_gate();
            }
            Action::Continue
        }
        Decision::Reply(reply) => {
            forget_ours(&head);
            send(&root, &reply);
            Action::StopAll
        }
        Decision::Hold => {
            forget_ours(&head);
            Action::StopAll
        }
        Decision::HoldCleaned(edits) => {
            if clean(&edits).is_err() {
                if let Ok(mut gate) = root.gate.try_borrow_mut() {
                    gate.let_go(context);
                }
                return refuse_without_gate();
            }
            Action::StopAll
        }
    };
    turns::make_calls(&root, Some(context));
    action
}

/// Removes the client's fields in our own name space from a request that is not forwarded: the
/// access log prints them as ours.
fn forget_ours(head: &Head<'_>) {
    if head.has_ours {
        for (name, _) in head.pairs.iter().filter(|(name, _)| is_ours(name)) {
            let _ = abi::remove_header(Map::RequestHeaders, name);
        }
    }
}

/// Trailers are cleaned as headers are. By then the request has been decided, unless Envoy
/// does not keep to [`Action::StopAll`].
pub(crate) fn on_request_trailers(context: u32) -> Action {
    let Ok(bytes) = abi::header_pairs(Map::RequestTrailers) else {
        return Action::Stop;
    };
    let Some(pairs) = Pairs::parse(&bytes) else {
        return Action::Stop;
    };
    for edit in trailers(&pairs) {
        if apply(Map::RequestTrailers, &edit).is_err() {
            return Action::Stop;
        }
    }
    if is_held(context) {
        Action::Stop
    } else {
        Action::Continue
    }
}

/// Whether a gate holds the stream; one that cannot be asked may.
fn is_held(context: u32) -> bool {
    let holds = |root: &Rc<Root>| {
        root.gate
            .try_borrow()
            .map_or(true, |gate| gate.holds(context))
    };
    ROOTS.with(|roots| {
        roots
            .try_borrow()
            .map_or(true, |roots| roots.iter().any(holds))
    })
}

fn find(root: u32) -> Option<Rc<Root>> {
    ROOTS.with(|roots| {
        roots
            .try_borrow()
            .ok()?
            .iter()
            .rev()
            .find(|known| known.id == root)
            .cloned()
    })
}

/// Forgets the gates of root contexts that Envoy has deleted. Nobody tells us of that: the callback
/// that would is also called for every stream, and costs as much as reading a header.
#[cfg(not(feature = "payment"))]
fn drop_dead_roots(this: u32) {
    ROOTS.with(|roots| {
        if let Ok(mut roots) = roots.try_borrow_mut() {
            roots.retain(|root| root.id == this || abi::set_effective_context(root.id).is_ok());
        }
    });
    let _ = abi::set_effective_context(this);
}

/// Forgets the gates of root contexts that Envoy has deleted; what they have left to say another
/// gate takes over. Nobody tells us of that: the callback that would is also called for every
/// stream, and costs as much as reading a header.
#[cfg(feature = "payment")]
fn drop_dead_roots(this: u32) {
    let dead: Vec<Rc<Root>> = ROOTS.with(|roots| {
        let Ok(mut roots) = roots.try_borrow_mut() else {
            return Vec::new();
        };
        let is_dead =
            |root: &mut Rc<Root>| root.id != this && abi::set_effective_context(root.id).is_err();
        roots.extract_if(.., is_dead).collect()
    });
    let _ = abi::set_effective_context(this);
    for root in dead {
        // Nobody else holds it: it runs no callback any more.
        let gate = Rc::into_inner(root).map(|root| root.gate.into_inner());
        if let Some(gate) = gate {
            hand_over(gate);
        }
    }
}

/// Gives what a gate without a root context has left to say to one that has the same sidecar.
#[cfg(feature = "payment")]
fn hand_over(gate: Gate) {
    let mut left = Some(gate);
    ROOTS.with(|roots| {
        let Ok(roots) = roots.try_borrow() else {
            return;
        };
        for heir in roots.iter().rev() {
            if let Ok(mut heir) = heir.gate.try_borrow_mut()
                && let Some(gate) = left.take()
            {
                left = heir.absorb(gate);
            }
        }
    });
}

/// Clock and client of the effective context.
struct Envoy;

impl Surroundings for Envoy {
    fn now_ms(&self) -> u64 {
        now_ms()
    }

    fn steady_ms(&self) -> u64 {
        steady_ms()
    }

    fn client(&self) -> Option<IpAddr> {
        let text = abi::property(b"source\0address").ok()?;
        let text = std::str::from_utf8(&text).ok()?;
        let (address, _port) = text.rsplit_once(':')?;
        address
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse()
            .ok()
    }
}

/// A clock that cannot be read stands still: then every deny list is too old or just right, and no
/// time limit passes.
fn now_ms() -> u64 {
    abi::now().unwrap_or_default() / 1_000_000
}

/// One that cannot be read has run out: then no lease may be spent any more.
#[cfg(feature = "payment")]
fn steady_ms() -> u64 {
    abi::steady_now().unwrap_or(u64::MAX) / 1_000_000
}

/// Only leases want it.
#[cfg(not(feature = "payment"))]
const fn steady_ms() -> u64 {
    0
}

fn now() -> Now {
    Now {
        ms: now_ms(),
        steady_ms: steady_ms(),
    }
}

/// Makes the edits and sets what the upstream may trust. An error means that nothing may be
/// forwarded.
fn forward(root: &Root, map: Map, edits: &[Edit<'_>], note: &Note) -> abi::Hosted<()> {
    for edit in edits {
        apply(map, edit)?;
    }
    if let Some(admitted) = &note.admitted {
        for (name, value) in admitted.trusted_fields() {
            abi::add_header(map, name.as_bytes(), value.as_bytes())?;
        }
        if admitted.is_by_event() {
            // What is compressed cannot be metered.
            abi::replace_header(map, b"accept-encoding", b"identity")?;
        }
    }
    tell(root, note);
    Ok(())
}

/// Makes the edits in the headers of a request that is held.
fn clean(edits: &[Edit<'_>]) -> abi::Hosted<()> {
    edits
        .iter()
        .try_for_each(|edit| apply(Map::RequestHeaders, edit))
}

fn apply(map: Map, edit: &Edit<'_>) -> abi::Hosted<()> {
    match edit {
        Edit::Remove(name) => abi::remove_header(map, name),
        Edit::Replace(name, value) => abi::replace_header(map, name, value),
    }
}

/// Answers the effective context's request.
fn send(root: &Root, reply: &Reply) {
    let fields: Vec<(&[u8], &[u8])> = reply
        .headers
        .iter()
        .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
        .collect();
    tell(root, &reply.note);
    let headers = pairs::encode(&fields);
    if let Err(refused) = abi::send_reply(
        reply.status,
        &headers,
        reply.body.as_bytes(),
        reply.grpc_status,
    ) {
        error!("a reply was not accepted: status {}", refused.0);
    }
}

/// Filter state for access logs, and the counter. That they fail must not change what happens to
/// the request. What a paid request carries for the upstream is not said again: the log reads it
/// there, and each property costs as much as a header.
fn tell(root: &Root, note: &Note) {
    let _ = abi::set_property(b"boltgate.outcome", note.outcome.word().as_bytes());
    if let Some(service) = &note.service {
        let _ = abi::set_property(b"boltgate.service", service.name.as_bytes());
    }
    root.metrics.count(note);
}

/// 503 for a stream that cannot be decided.
fn refuse_without_gate() -> Action {
    let word = Outcome::Unavailable.word();
    let _ = abi::set_property(b"boltgate.outcome", word.as_bytes());
    let headers = pairs::encode(&[(b"retry-after", b"1"), (b"cache-control", b"no-store")]);
    let _ = abi::send_reply(503, &headers, b"", None);
    Action::StopAll
}

fn print(notice: &Notice) {
    match notice {
        Notice::Info(text) => info!("{text}"),
        Notice::Error(text) => error!("{text}"),
    }
}

/// Sixteen bytes that no other VM has: the hasher's keys come from the host's random numbers.
fn random() -> [u8; 16] {
    let halves = [0_u8, 1].map(|half| RandomState::new().hash_one(half).to_le_bytes());
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(halves.as_flattened()) {
        *to = *from;
    }
    bytes
}

/// Kills the VM, to see what becomes of its other requests.
#[cfg(feature = "trap")]
fn trap(head: &Head<'_>) {
    let is_asked = head.path.is_some_and(|path| path.starts_with(b"/__trap"))
        || head.pairs.values(b"x-trap").next().is_some();
    if is_asked {
        std::process::abort();
    }
}
