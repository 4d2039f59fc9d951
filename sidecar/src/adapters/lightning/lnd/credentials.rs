//! The macaroon file.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use protocol::encoding::hex_encode;
use tonic::metadata::{Ascii, MetadataValue};

use crate::domain::invoice::NodeStatus;
use crate::domain::ports::LightningError;

/// Larger files are no macaroon.
const MOST_BYTES: usize = 16 * 1024;

/// Reads the file when first used and again after the node refused what was in it.
#[derive(Clone)]
pub(super) struct MacaroonFile {
    path: Arc<PathBuf>,
    cached: Arc<Mutex<Option<MetadataValue<Ascii>>>>,
}

impl MacaroonFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path: Arc::new(path),
            cached: Arc::default(),
        }
    }

    pub(super) async fn value(
        &self,
        rpc: &'static str,
    ) -> Result<MetadataValue<Ascii>, LightningError> {
        let cached = self
            .cached
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(value) = cached {
            return Ok(value);
        }
        let bytes = tokio::fs::read(&*self.path)
            .await
            .map_err(|error| self.unusable(&error.to_string()))?;
        let value = header_value(&bytes).ok_or_else(|| self.unusable("not a macaroon"))?;
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = Some(value.clone());
        tracing::debug!(rpc, "macaroon read");
        Ok(value)
    }

    pub(super) fn forget(&self) {
        *self.cached.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn unusable(&self, why: &str) -> LightningError {
        LightningError::Unavailable {
            status: NodeStatus::Unauthorized,
            detail: format!("{}: {why}", self.path.display()),
        }
    }
}

/// Hex as LND wants it, from a binary file or one that holds hex.
fn header_value(bytes: &[u8]) -> Option<MetadataValue<Ascii>> {
    if bytes.is_empty() || bytes.len() > MOST_BYTES {
        return None;
    }
    let text = bytes.trim_ascii();
    let is_hex = !text.is_empty() && text.iter().all(u8::is_ascii_hexdigit);
    let hex = if is_hex {
        String::from_utf8_lossy(text).into_owned()
    } else {
        hex_encode(bytes)
    };
    let mut value = MetadataValue::try_from(hex).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_and_hex_files_are_taken() {
        assert_eq!(header_value(&[2, 1, 0xff]).unwrap(), "0201ff");
        assert_eq!(header_value(b"0201ff\n").unwrap(), "0201ff");
        assert!(header_value(b"").is_none());
    }
}
