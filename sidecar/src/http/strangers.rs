//! Who asks without a valid token. An operator must read of it, since most often it is a filter of
//! theirs with a wrong token; but whoever can reach the port must not be able to fill the log.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often one peer is named.
const EACH: Duration = Duration::from_secs(60);
/// Peers that are named within that time; more are not.
const MOST: usize = 64;

/// The other end of a connection, as each of its requests carries it.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// When which peer was named.
#[derive(Debug, Default)]
pub struct Strangers(Mutex<HashMap<IpAddr, Instant>>);

impl Strangers {
    /// Says in the log who it was, unless that was said a moment ago.
    pub(super) fn refused(&self, peer: Option<Peer>) {
        let Some(Peer(address)) = peer else { return };
        let ip = address.ip().to_canonical();
        if self.is_to_be_named(ip, Instant::now()) {
            tracing::warn!(peer = %ip, "refused: no valid bearer token (is a filter's token old?)");
        }
    }

    fn is_to_be_named(&self, ip: IpAddr, now: Instant) -> bool {
        // Nothing can be half done in it.
        let mut named = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        named.retain(|_, at| now.saturating_duration_since(*at) < EACH);
        if named.len() >= MOST || named.contains_key(&ip) {
            return false;
        }
        named.insert(ip, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_named_once_a_minute_and_not_too_many_are() {
        let strangers = Strangers::default();
        let start = Instant::now();
        let one = IpAddr::from([192, 0, 2, 1]);
        let at = |seconds| start + Duration::from_secs(seconds);
        let named: Vec<u64> = (0..180)
            .filter(|second| strangers.is_to_be_named(one, at(*second)))
            .collect();
        assert_eq!(named, [0, 60, 120]);

        let others = (0..=255).map(|last| IpAddr::from([198, 51, 100, last]));
        let named = others.filter(|other| strangers.is_to_be_named(*other, at(200)));
        assert_eq!(named.count(), MOST);
    }
}
