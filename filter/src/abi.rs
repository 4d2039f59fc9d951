//! The proxy-wasm ABI 0.2.1 as the filter uses it: the only place with `unsafe` code.
//!
//! Three reasons not to use the SDK's calls: they panic on a status they do not expect, and a
//! panic kills the worker's VM; they allocate for each answer; and their text getters panic on
//! bytes that are not UTF-8. The SDK stays for the log and for calls that cannot fail.
//!
//! `unsafe` is allowed here and in the modules below, and nowhere else in the workspace.

#![allow(unsafe_code)]

mod calls;
mod entry;
mod imports;
mod received;

pub(crate) use self::calls::{
    add_header, buffer, continue_request, define_metric, header_pairs, http_call, increment_metric,
    now, property, record_metric, remove_header, replace_header, send_reply, set_effective_context,
    set_property, set_tick_period,
};
#[cfg(feature = "payment")]
pub(crate) use self::calls::{
    append_response_body, close_response, continue_response, header, replace_response_body,
    steady_now,
};
#[cfg(feature = "payment")]
pub(crate) use self::received::Received;

/// A status other than 0 from the host. 2 is "bad argument", for instance a stream that is gone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Refused(pub(crate) u32);

/// Of a call: Envoy knows no such cluster.
pub(crate) const BAD_ARGUMENT: Refused = Refused(2);

/// `Ok` unless the host refused.
pub(crate) type Hosted<T> = Result<T, Refused>;

const fn hosted(status: u32) -> Hosted<()> {
    if status == 0 {
        Ok(())
    } else {
        Err(Refused(status))
    }
}

/// Header maps by the ABI's number.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum Map {
    RequestHeaders = 0,
    RequestTrailers = 1,
    #[cfg(feature = "payment")]
    ResponseHeaders = 2,
    CallHeaders = 6,
}

/// What Envoy does with a stream after a callback, by the ABI's number.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum Action {
    Continue = 0,
    /// For trailers: nothing goes on until the stream is continued. For a body the same; Envoy keeps
    /// what there is of it, and resets the stream if that outgrows its buffer.
    Stop = 1,
    /// For a body: the same, but a full buffer slows the upstream down.
    #[cfg(feature = "payment")]
    StopAndPress = 2,
    /// For headers: neither they nor body nor trailers go on until the stream is continued. With
    /// [`Self::Stop`] a listener set to `allow_on_headers_stop_iteration` would let the body go on,
    /// and the headers with it.
    StopAll = 4,
}

/// Buffers by the ABI's number.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum Buffer {
    #[cfg(feature = "payment")]
    ResponseBody = 1,
    CallBody = 4,
    PluginConfiguration = 7,
}

/// Kinds of metric by the ABI's number.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum MetricKind {
    Counter = 0,
    Histogram = 2,
}
