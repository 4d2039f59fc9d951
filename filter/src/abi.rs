//! The proxy-wasm ABI 0.2.1 as the filter uses it: the only module with `unsafe` code.
//!
//! Three reasons not to use the SDK's calls: they panic on a status they do not expect, and a
//! panic kills the worker's VM; they allocate for each answer; and their text getters panic on
//! bytes that are not UTF-8. The SDK stays for the log and for calls that cannot fail.
//!
//! Whatever the host hands over in bytes goes through one receive buffer: during the host call the
//! host asks [`boltgate_on_memory_allocate`] for space and is given the buffer's, and after the
//! call the buffer is wrapped as [`Received`], which returns it when dropped.

#![allow(unsafe_code)]

use std::{cell::Cell, ops::Deref, ptr};

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

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    safe fn proxy_set_effective_context(context: u32) -> u32;
    safe fn proxy_continue_stream(stream_type: u32) -> u32;
    #[cfg(feature = "payment")]
    safe fn proxy_close_stream(stream_type: u32) -> u32;
    safe fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    safe fn proxy_increment_metric(metric: u32, offset: i64) -> u32;
    safe fn proxy_record_metric(metric: u32, value: u64) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    #[cfg(feature = "payment")]
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_get_buffer_bytes(
        buffer: u32,
        start: usize,
        max: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    #[cfg(feature = "payment")]
    fn proxy_set_buffer_bytes(
        buffer: u32,
        start: usize,
        length: usize,
        data: *const u8,
        size: usize,
    ) -> u32;
    fn proxy_get_property(
        path: *const u8,
        path_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_set_property(
        path: *const u8,
        path_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, name_size: usize) -> u32;
    fn proxy_add_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_http_call(
        cluster: *const u8,
        cluster_size: usize,
        headers: *const u8,
        headers_size: usize,
        body: *const u8,
        body_size: usize,
        trailers: *const u8,
        trailers_size: usize,
        timeout_milliseconds: u32,
        token: *mut u32,
    ) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, metric: *mut u32) -> u32;
}

#[cfg(feature = "payment")]
#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> u32;
}

// Outside the blocks above: it is the linker's own symbol, not an import from `env`.
unsafe extern "C" {
    fn __wasm_call_ctors();
}

// ---- The receive buffer ----

/// More capacity than this is not kept for the next answer: a large answer comes rarely.
const KEPT_CAPACITY: usize = 256 * 1024;

thread_local! {
    /// Not in use; taken by the allocation callback.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// Handed to the host in the host call that is running.
    static LENT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Bytes that the host handed over.
#[derive(Debug, Default)]
pub(crate) struct Received(Vec<u8>);

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        if (1..=KEPT_CAPACITY).contains(&buffer.capacity()) {
            SPARE.set(buffer);
        }
    }
}

/// Makes a host call that hands over bytes, and takes them.
fn receive(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Hosted<Received> {
    let (mut data, mut size) = (ptr::null_mut(), 0_usize);
    let status = call(&raw mut data, &raw mut size);
    let mut received = Received(LENT.take());
    hosted(status)?;
    if data.is_null() || size == 0 {
        return Ok(received);
    }
    if !ptr::eq(data, received.0.as_ptr()) || size > received.0.capacity() {
        return Err(Refused(u32::MAX));
    }
    // SAFETY: the host wrote `size` bytes from `data` on, which is where this buffer's space
    // begins, and `size` is not more than it has.
    unsafe { received.0.set_len(size) };
    Ok(received)
}

/// Gives the host space for an answer, in place of the SDK's allocator. Null when there is none,
/// which the host takes as a failed call.
#[unsafe(no_mangle)]
extern "C" fn boltgate_on_memory_allocate(size: usize) -> *mut u8 {
    let mut buffer = SPARE.take();
    buffer.clear();
    if buffer.try_reserve_exact(size.max(1)).is_err() {
        return ptr::null_mut();
    }
    let space = buffer.as_mut_ptr();
    LENT.set(buffer);
    space
}

// ---- Calls ----

/// Makes `context` the one that following calls are about, until this callback returns. Refused if
/// there is no such context (any more), and then the one before stays.
pub(crate) fn set_effective_context(context: u32) -> Hosted<()> {
    hosted(proxy_set_effective_context(context))
}

/// Lets the effective context's held request go on.
pub(crate) fn continue_request() -> Hosted<()> {
    hosted(proxy_continue_stream(0))
}

/// Lets what Envoy keeps of the effective context's response go on. Never before its headers have
/// come, and never for a stream that may be gone: either crashes Envoy.
#[cfg(feature = "payment")]
pub(crate) fn continue_response() -> Hosted<()> {
    hosted(proxy_continue_stream(1))
}

/// Resets the effective context's stream, once this callback has returned.
#[cfg(feature = "payment")]
pub(crate) fn close_response() -> Hosted<()> {
    hosted(proxy_close_stream(1))
}

pub(crate) fn set_tick_period(milliseconds: u32) -> Hosted<()> {
    hosted(proxy_set_tick_period_milliseconds(milliseconds))
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> Hosted<u64> {
    let mut time = 0;
    // SAFETY: the host writes one u64.
    hosted(unsafe { proxy_get_current_time_nanoseconds(&raw mut time) })?;
    Ok(time)
}

/// Nanoseconds of a clock that never goes back. The ABI itself has none, but its host lends the one
/// of WASI.
#[cfg(feature = "payment")]
pub(crate) fn steady_now() -> Hosted<u64> {
    const MONOTONIC: u32 = 1;
    let mut time = 0;
    // SAFETY: the host writes one u64.
    hosted(unsafe { clock_time_get(MONOTONIC, 0, &raw mut time) })?;
    Ok(time)
}

/// All pairs of a header map in the ABI's encoding (see [`crate::pairs`]).
pub(crate) fn header_pairs(map: Map) -> Hosted<Received> {
    // SAFETY: the host writes one pointer and one size.
    receive(|data, size| unsafe { proxy_get_header_map_pairs(map as u32, data, size) })
}

/// The values of `name`, joined by commas; nothing if there is none.
#[cfg(feature = "payment")]
pub(crate) fn header(map: Map, name: &[u8]) -> Hosted<Received> {
    // SAFETY: the host reads `name` and writes one pointer and one size.
    receive(|data, size| unsafe {
        proxy_get_header_map_value(map as u32, name.as_ptr(), name.len(), data, size)
    })
}

/// The first `max` bytes of a buffer.
pub(crate) fn buffer(buffer: Buffer, max: usize) -> Hosted<Received> {
    // SAFETY: the host writes one pointer and one size.
    receive(|data, size| unsafe { proxy_get_buffer_bytes(buffer as u32, 0, max, data, size) })
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
    hosted(unsafe { proxy_set_buffer_bytes(buffer, start, length, bytes.as_ptr(), bytes.len()) })
}

/// A property; the parts of `path` are joined with NUL.
pub(crate) fn property(path: &[u8]) -> Hosted<Received> {
    // SAFETY: the host reads `path` and writes one pointer and one size.
    receive(|data, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) })
}

/// Sets filter state, readable by the access log.
pub(crate) fn set_property(path: &[u8], value: &[u8]) -> Hosted<()> {
    // SAFETY: the host reads two byte strings.
    hosted(unsafe { proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) })
}

/// Removes every value of `name`.
pub(crate) fn remove_header(map: Map, name: &[u8]) -> Hosted<()> {
    // SAFETY: the host reads one byte string.
    hosted(unsafe { proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()) })
}

/// Adds a value of `name` after those there are.
pub(crate) fn add_header(map: Map, name: &[u8], value: &[u8]) -> Hosted<()> {
    // SAFETY: the host reads two byte strings.
    hosted(unsafe {
        proxy_add_header_map_value(
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
        proxy_replace_header_map_value(
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
        proxy_send_local_response(
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
        proxy_http_call(
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
        proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &raw mut metric)
    })?;
    Ok(metric)
}

pub(crate) fn increment_metric(metric: u32) -> Hosted<()> {
    hosted(proxy_increment_metric(metric, 1))
}

pub(crate) fn record_metric(metric: u32, value: u64) -> Hosted<()> {
    hosted(proxy_record_metric(metric, value))
}

// ---- Entry points: the post-link step gives them the ABI's names ----

#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    // SAFETY: called once by the host before anything else, as WASI reactors are.
    unsafe { __wasm_call_ctors() };
    crate::host::start();
}

#[unsafe(no_mangle)]
extern "C" fn boltgate_on_context_create(context: u32, root: u32) {
    crate::host::on_context_create(context, root);
}

#[unsafe(no_mangle)]
extern "C" fn boltgate_on_configure(root: u32, size: usize) -> u32 {
    u32::from(crate::host::on_configure(root, size))
}

#[unsafe(no_mangle)]
extern "C" fn boltgate_on_tick(root: u32) {
    crate::host::on_tick(root);
}

#[unsafe(no_mangle)]
extern "C" fn boltgate_on_http_call_response(
    root: u32,
    token: u32,
    headers: usize,
    body_size: usize,
    _trailers: usize,
) {
    crate::host::on_call_answered(root, token, headers, body_size);
}

#[unsafe(no_mangle)]
extern "C" fn boltgate_on_request_headers(context: u32, _headers: usize, _end: u32) -> u32 {
    crate::host::on_request_headers(context) as u32
}

#[unsafe(no_mangle)]
extern "C" fn boltgate_on_request_trailers(context: u32, _trailers: usize) -> u32 {
    crate::host::on_request_trailers(context) as u32
}

/// Envoy calls this for every response, paid or not: some 0.7 µs each, which a module without the
/// Payment scheme does not cost.
#[cfg(feature = "payment")]
#[unsafe(no_mangle)]
extern "C" fn boltgate_on_response_headers(context: u32, _headers: usize, end: u32) -> u32 {
    crate::host::on_response_headers(context, end != 0) as u32
}

/// The same goes for each chunk of each response.
#[cfg(feature = "payment")]
#[unsafe(no_mangle)]
extern "C" fn boltgate_on_response_body(context: u32, size: usize, end: u32) -> u32 {
    crate::host::on_response_body(context, size, end != 0) as u32
}

#[cfg(feature = "payment")]
#[unsafe(no_mangle)]
extern "C" fn boltgate_on_response_trailers(context: u32, _trailers: usize) -> u32 {
    crate::host::on_response_trailers(context) as u32
}
