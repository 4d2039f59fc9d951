//! Between those who wait for the end of a session and those who bring it about.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::hash::PaymentHash;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Tells who waits for a session that its end has come nearer, and who pays refunds that there may
/// be one. Of this process only: with several sidecars another may have done it, so both look at
/// the ledger now and then as well.
#[derive(Debug, Default)]
pub struct Endings {
    waiting: Mutex<HashMap<PaymentHash, Arc<Notify>>>,
    paying: Notify,
}

/// One who waits.
pub(super) struct Waiting<'a> {
    endings: &'a Endings,
    session_id: PaymentHash,
    bell: Arc<Notify>,
}

impl Endings {
    /// The session may have been settled: nothing of it is leased any more.
    pub fn settled(&self, session_id: PaymentHash) {
        self.decided(session_id);
        // Kept for the worker if it is busy.
        self.paying.notify_one();
    }

    /// Its refund was paid, or failed for good.
    pub fn decided(&self, session_id: PaymentHash) {
        if let Some(bell) = self.lock().get(&session_id) {
            bell.notify_waiters();
        }
    }

    /// For the one who pays refunds: ends at once if it was busy when there was one.
    pub(super) fn due(&self) -> Notified<'_> {
        self.paying.notified()
    }

    pub(super) fn wait_for(&self, session_id: PaymentHash) -> Waiting<'_> {
        let bell = Arc::clone(self.lock().entry(session_id).or_default());
        Waiting {
            endings: self,
            session_id,
            bell,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PaymentHash, Arc<Notify>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting<'_> {
    /// Ends when something is told from now on, also before it is polled.
    pub(super) fn told(&self) -> Notified<'_> {
        self.bell.notified()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.endings.lock();
        // The map's and this one: nobody else waits, and nobody can begin to meanwhile.
        if Arc::strong_count(&self.bell) <= 2 {
            waiting.remove(&self.session_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_is_told_of_his_session_and_nothing_is_left_behind() {
        let endings = Endings::default();
        let [one, other] = [1, 2].map(|n| PaymentHash([n; 32]));
        {
            let (first, second) = (endings.wait_for(one), endings.wait_for(one));
            let third = endings.wait_for(other);
            let (first_told, second_told, third_told) = (first.told(), second.told(), third.told());
            endings.decided(one);
            first_told.await;
            second_told.await;
            tokio::select! {
                biased;
                () = third_told => panic!("told of another session"),
                () = async {} => {}
            }
            drop(first);
            let told = second.told();
            endings.settled(one);
            told.await;
        }
        assert!(endings.lock().is_empty());
        endings.decided(one);
    }
}
