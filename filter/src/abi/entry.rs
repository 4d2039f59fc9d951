//! Entry points: the post-link step gives them the ABI's names.

use super::imports;

#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    // SAFETY: called once by the host before anything else, as WASI reactors are.
    unsafe { imports::__wasm_call_ctors() };
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
