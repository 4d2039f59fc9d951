//! What a running sidecar tells about itself, and its embedded network about its counts.

use serde::Deserialize;

use crate::http_client::Http;
use crate::sidecar::Sidecar;

/// Counts of the embedded network.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub struct DevStats {
    /// Invoices that were made.
    pub invoices: u64,
    /// Invoices that were paid.
    pub payments: u64,
    /// What was paid.
    pub paid_msat: u64,
}

impl Sidecar {
    /// What the embedded network has counted.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn dev_stats(&self) -> anyhow::Result<DevStats> {
        let answer = Http::new(self.dev_address()).get("/stats").send().await?;
        Ok(serde_json::from_slice(&answer.body)?)
    }

    /// What it says about its readiness, ready or not.
    ///
    /// # Errors
    /// When its admin port does not answer.
    pub async fn readiness(&self) -> anyhow::Result<String> {
        let admin = Http::new(self.admin_address());
        Ok(admin.get("/readyz").send().await?.text())
    }
}
