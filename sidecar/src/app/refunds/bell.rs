//! Between those who make refunds and wait for them, and the worker who pays.

use tokio::sync::{Notify, watch};

/// Tells the worker of a new refund, and others of one that was decided. Of this process only:
/// with several sidecars another may pay, so who waits looks at the ledger now and then as well.
#[derive(Debug)]
pub struct RefundBell {
    due: Notify,
    decided: watch::Sender<u64>,
}

impl RefundBell {
    /// Silent.
    #[must_use]
    pub fn new() -> Self {
        Self {
            due: Notify::new(),
            decided: watch::Sender::new(0),
        }
    }

    /// A refund was written: it is paid at once, not at the next look.
    pub fn ring(&self) {
        self.due.notify_one();
    }

    /// Changes whenever a refund was paid or failed for good. Subscribe before looking at the
    /// ledger, so that nothing is missed.
    #[must_use]
    pub fn decisions(&self) -> watch::Receiver<u64> {
        self.decided.subscribe()
    }

    pub(super) async fn is_due(&self) {
        self.due.notified().await;
    }

    pub(super) fn tell_decided(&self) {
        self.decided
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Default for RefundBell {
    fn default() -> Self {
        Self::new()
    }
}
