//! Calls of the host.

use std::ptr;

use super::received::{Received, receive};
use super::{Buffer, Hosted, Map, MetricKind, hosted, imports};

/// Makes `context` the one that following calls are about, until this callback returns. Refused if
/// there is no such context (any more), and then the one before stays.
pub(crate) fn set_effective_context(context: u32) -> Hosted<()> {
    hosted(imports::proxy_set_effective_context(context))
}

/// Lets the effective context's held request go on.
pub(crate) fn continue_request() -> Hosted<()> {
    hosted(imports::proxy_continue_stream(0))
}

/// Lets what Envoy keeps of the effective context's response go on. Never before its headers have
/// come, and never for a stream that may be gone: either crashes Envoy.
#[cfg(feature = "payment")]
pub(crate) fn continue_response() -> Hosted<()> {
    hosted(imports::proxy_continue_stream(1))
}

/// Resets the effective context's stream, once this callback has returned.
#[cfg(feature = "payment")]
pub(crate) fn close_response() -> Hosted<()> {
    hosted(imports::proxy_close_stream(1))
}

pub(crate) fn set_tick_period(milliseconds: u32) -> Hosted<()> {
    hosted(imports::proxy_set_tick_period_milliseconds(milliseconds))
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> Hosted<u64> {
    let mut time = 0;
    // SAFETY: the host writes one u64.
    hosted(unsafe { imports::proxy_get_current_time_nanoseconds(&raw mut time) })?;
    Ok(time)
}

/// Nanoseconds of a clock that never goes back. The ABI itself has none, but its host lends the one
/// of WASI.
#[cfg(feature = "payment")]
pub(crate) fn steady_now() -> Hosted<u64> {
    const MONOTONIC: u32 = 1;
    let mut time = 0;
    // SAFETY: the host writes one u64.
    hosted(unsafe { imports::clock_time_get(MONOTONIC, 0, &raw mut time) })?;
    Ok(time)
}

/// All pairs of a header map in the ABI's encoding (see [`crate::pairs`]).
pub(crate) fn header_pairs(map: Map) -> Hosted<Received> {
    // SAFETY: the host writes one pointer and one size.
    receive(|data, size| unsafe { imports::proxy_get_header_map_pairs(map as u32, data, size) })
}

/// The values of `name`, joined by commas; nothing if there is none.
#[cfg(feature = "payment")]
pub(crate) fn header(map: Map, name: &[u8]) -> Hosted<Received> {
    // SAFETY: the host reads `name` and writes one pointer and one size.
    receive(|data, size| unsafe {
        imports::proxy_get_header_map_value(map as u32, name.as_ptr(), name.len(), data, size)
    })
}

/// The first `max` bytes of a buffer.
pub(crate) fn buffer(buffer: Buffer, max: usize) -> Hosted<Received> {
    // SAFETY: the host writes one pointer and one size.
    receive(|data, size| unsafe {
        imports::proxy_get_buffer_bytes(buffer as u32, 0, max, data, size)
    })
}

/// Puts other bytes in the place of a response's body, as far as Envoy shows or keeps it. Outside of
/// a body callback only after one that returned [`Action::Stop`].
#[cfg(feature = "payment")]
pub(crate) fn replace_response_body(bytes: &[u8]) -> Hosted<()> {
    set_response_body(0, bytes)
}

/// Puts bytes after it, under the same condition.
#[cfg(feature = "payment")]
pub(crate) fn append_response_body(bytes: &[u8]) -> Hosted<()> {
    set_response_body(isize::MAX.unsigned_abs(), bytes)
}

#[cfg(feature = "payment")]
fn set_response_body(start: usize, bytes: &[u8]) -> Hosted<()> {
    let length = isize::MAX.unsigned_abs();
    let buffer = Buffer::ResponseBody as u32;
    // SAFETY: the host reads one byte string.
    hosted(unsafe {
        imports::proxy_set_buffer_bytes(buffer, start, length, bytes.as_ptr(), bytes.len())
    })
}

/// A property; the parts of `path` are joined with NUL.
pub(crate) fn property(path: &[u8]) -> Hosted<Received> {
    // SAFETY: the host reads `path` and writes one pointer and one size.
    receive(|data, size| unsafe {
        imports::proxy_get_property(path.as_ptr(), path.len(), data, size)
    })
}

/// Sets filter state, readable by the access log.
pub(crate) fn set_property(path: &[u8], value: &[u8]) -> Hosted<()> {
    // SAFETY: the host reads two byte strings.
    hosted(unsafe {
        imports::proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len())
    })
}

/// Removes every value of `name`.
pub(crate) fn remove_header(map: Map, name: &[u8]) -> Hosted<()> {
    // SAFETY: the host reads one byte string.
    hosted(unsafe { imports::proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()) })
}

/// Adds a value of `name` after those there are.
pub(crate) fn add_header(map: Map, name: &[u8], value: &[u8]) -> Hosted<()> {
    // SAFETY: the host reads two byte strings.
    hosted(unsafe {
        imports::proxy_add_header_map_value(
            map as u32,
            name.as_ptr(),
            name.len(),
            value.as_ptr(),
            value.len(),
        )
    })
}

/// Puts one value in the place of all of `name`.
pub(crate) fn replace_header(map: Map, name: &[u8], value: &[u8]) -> Hosted<()> {
    // SAFETY: the host reads two byte strings.
    hosted(unsafe {
        imports::proxy_replace_header_map_value(
            map as u32,
            name.as_ptr(),
            name.len(),
            value.as_ptr(),
            value.len(),
        )
    })
}

/// Answers the effective context's request. `headers` in the ABI's encoding. With a gRPC status
/// the request must be gRPC: Envoy would answer any other with 200 and `body`.
pub(crate) fn send_reply(
    status: u16,
    headers: &[u8],
    body: &[u8],
    grpc_status: Option<u8>,
) -> Hosted<()> {
    // SAFETY: the host reads three byte strings, of which `details` is empty.
    hosted(unsafe {
        imports::proxy_send_local_response(
            u32::from(status),
            ptr::null(),
            0,
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            grpc_status.map_or(-1, i32::from),
        )
    })
}

/// Starts a call to a cluster; its answer is announced with the token returned.
pub(crate) fn http_call(
    cluster: &[u8],
    headers: &[u8],
    body: &[u8],
    timeout_milliseconds: u32,
) -> Hosted<u32> {
    let no_trailers = 0_u32.to_le_bytes();
    let mut token = 0;
    // SAFETY: the host reads four byte strings and writes one u32.
    hosted(unsafe {
        imports::proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            body.as_ptr(),
            body.len(),
            no_trailers.as_ptr(),
            no_trailers.len(),
            timeout_milliseconds,
            &raw mut token,
        )
    })?;
    Ok(token)
}

/// The id of the metric of that name, which is made when there is none yet.
pub(crate) fn define_metric(kind: MetricKind, name: &str) -> Hosted<u32> {
    let mut metric = 0;
    // SAFETY: the host reads one byte string and writes one u32.
    hosted(unsafe {
        imports::proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &raw mut metric)
    })?;
    Ok(metric)
}

pub(crate) fn increment_metric(metric: u32) -> Hosted<()> {
    hosted(imports::proxy_increment_metric(metric, 1))
}

pub(crate) fn record_metric(metric: u32, value: u64) -> Hosted<()> {
    hosted(imports::proxy_record_metric(metric, value))
}
