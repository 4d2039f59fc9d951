//! A secret in all the forms in which it might be told.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use e2e::macaroon::unhex;

/// Shorter texts are in everything.
const SHORTEST: usize = 12;

/// What must be nowhere, in the forms in which it might be.
#[derive(Default)]
pub(crate) struct Secrets(pub(crate) Vec<(&'static str, String)>);

impl Secrets {
    /// A text: as it is, and inside of base64 wherever it begins there.
    pub(crate) fn text(&mut self, what: &'static str, text: &str) {
        self.put(what, text.to_lowercase());
        self.encoded(what, text.as_bytes());
    }

    /// Bytes that are told as hexadecimal digits.
    pub(crate) fn hex(&mut self, what: &'static str, digits: &str) -> anyhow::Result<()> {
        let bytes = unhex(digits)?;
        let list: Vec<String> = bytes.iter().map(u8::to_string).collect();
        self.put(what, list.join(", "));
        self.put(what, list.join(","));
        self.text(what, &digits.to_lowercase());
        self.encoded(what, digits.to_uppercase().as_bytes());
        self.encoded(what, &bytes);
        Ok(())
    }

    fn encoded(&mut self, what: &'static str, bytes: &[u8]) {
        for before in 0..3 {
            let all = [&vec![0; before], bytes].concat();
            for base64 in [URL_SAFE_NO_PAD.encode(&all), STANDARD_NO_PAD.encode(&all)] {
                // Digits that depend on the neighbours as well are left out.
                let inner = base64.get(if before == 0 { 0 } else { 4 }..base64.len() - 2);
                self.put(what, inner.unwrap_or_default().to_lowercase());
            }
        }
    }

    fn put(&mut self, what: &'static str, text: String) {
        if text.len() >= SHORTEST && !self.0.iter().any(|(_, known)| *known == text) {
            self.0.push((what, text));
        }
    }

    /// Those that are in a text, with what is around the first one.
    pub(crate) fn found(&self, text: &str) -> Vec<String> {
        let text = text.to_lowercase();
        let found = self.0.iter().filter_map(|(what, secret)| {
            let at = text.find(secret.as_str())?;
            let around = text.get(at.saturating_sub(120)..at).unwrap_or_default();
            Some(format!("{what} after {around:?}"))
        });
        found.collect()
    }
}
