//! Where things are.

use std::env;
use std::path::{Path, PathBuf};

/// The project's root folder.
pub(crate) fn root() -> PathBuf {
    let manifest =
        env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let manifest = PathBuf::from(manifest);
    manifest
        .parent()
        .map_or(manifest.clone(), Path::to_path_buf)
}

/// Cargo's target folder, absolute: `$CARGO_TARGET_DIR` or `target`.
pub(crate) fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => std::path::absolute(&dir).unwrap_or_else(|_| dir.into()),
        None => root().join("target"),
    }
}

/// The tools that tests run, below the target folder.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

/// The filter as Envoy loads it.
pub(crate) fn filter_wasm() -> PathBuf {
    target().join("boltgate/filter.wasm")
}

/// The filter without the Payment scheme.
pub(crate) fn l402_wasm() -> PathBuf {
    target().join("boltgate/filter-l402.wasm")
}

/// The filter with a route that traps, for tests of a crashing VM.
pub(crate) fn trap_wasm() -> PathBuf {
    target().join("boltgate/filter-trap.wasm")
}
