//! Whatever the host hands over in bytes goes through one receive buffer: during the host call the
//! host asks [`boltgate_on_memory_allocate`] for space and is given the buffer's, and after the
//! call the buffer is wrapped as [`Received`], which returns it when dropped.

use std::{cell::Cell, ops::Deref, ptr};

use super::{Hosted, Refused, hosted};

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
pub(super) fn receive(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Hosted<Received> {
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
