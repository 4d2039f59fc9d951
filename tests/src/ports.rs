//! Free TCP ports on loopback.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

use anyhow::bail;
use rand::RngExt as _;

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// `wanted` if nobody listens on it, else a [`free`] one.
///
/// # Errors
/// When there is none.
pub fn free_or(wanted: u16) -> anyhow::Result<u16> {
    // Also one that listens on all addresses keeps us from it.
    let unused = ["127.0.0.1", "0.0.0.0"]
        .iter()
        .all(|host| TcpListener::bind((*host, wanted)).is_ok());
    if unused { Ok(wanted) } else { free() }
}

/// A port that nobody listens on and that this process has not given out before. It lies below
/// the range from which systems take ports of outgoing connections, so that it stays free until
/// the program it is for binds it.
///
/// # Errors
/// When there is none.
pub fn free() -> anyhow::Result<u16> {
    for _ in 0..1000 {
        let port = rand::rng().random_range(10_300..32_000);
        let unused = TcpListener::bind(("127.0.0.1", port)).is_ok();
        if unused
            && GIVEN
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(port)
        {
            return Ok(port);
        }
    }
    bail!("no free port found")
}
