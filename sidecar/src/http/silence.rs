//! Connections that say nothing. A listener serves a bounded number, so whoever could hold them in
//! silence could lock everybody else out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// From the beginning of a connection, TLS included, to its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// Where requests need no token a connection without any for between one and two such spans ends.
/// Envoy's health checks come every 60 s at the least.
const NEXT_REQUEST: Duration = Duration::from_secs(120);

/// Given when a connection has been used by who may.
#[derive(Clone, Debug, Default)]
pub struct Proof(Arc<AtomicBool>);

impl Proof {
    /// This connection is in good use.
    pub fn give(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_given(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// How long a connection may stay without a request that counts.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    first: Duration,
    next: Option<Duration>,
}

impl Silence {
    /// Only a request with a token counts, which its route says by [`Proof::give`]. Then the
    /// connection may be idle: a filter's request that meets the closing of its connection is
    /// lost.
    #[must_use]
    pub const fn until_authenticated() -> Self {
        Self {
            first: FIRST_REQUEST,
            next: None,
        }
    }

    /// Every request counts, and they have to go on.
    #[must_use]
    pub const fn between_requests() -> Self {
        Self {
            first: FIRST_REQUEST,
            next: Some(NEXT_REQUEST),
        }
    }

    pub(super) const fn any_request_proves(self) -> bool {
        self.next.is_some()
    }

    /// Returns when the connection has been silent for too long; never, if that cannot be.
    pub(super) async fn too_long(self, proof: &Proof) {
        tokio::time::sleep(self.first).await;
        let Some(next) = self.next else {
            if proof.is_given() {
                std::future::pending::<()>().await;
            }
            return;
        };
        while proof.take() {
            tokio::time::sleep(next).await;
        }
    }
}

#[cfg(test)]
mod tests;
