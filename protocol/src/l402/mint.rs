//! Making of tokens.

use super::Identifier;
use super::caveat::{CAPABILITIES_SUFFIX, SERVICES, VALID_UNTIL_SUFFIX};
use crate::api::OfferTemplate;
use crate::keys::RootKey;
use crate::macaroon::MacaroonBuf;
use crate::time::UnixSeconds;

/// A token that is good for whoever pays the invoice of `identifier.payment_hash`.
///
/// It has no location: a location is not signed, and without one every bit of a token counts.
#[must_use]
pub fn mint<C: AsRef<[u8]>>(
    root_key: &RootKey,
    identifier: &Identifier,
    caveats: impl IntoIterator<Item = C>,
) -> MacaroonBuf {
    let mut macaroon = MacaroonBuf::new(root_key.expose(), b"", &identifier.to_bytes());
    for caveat in caveats {
        macaroon.add(caveat.as_ref());
    }
    macaroon
}

/// The caveats of a token under this template, in the order of the specification: services,
/// capabilities, constraints, end of life (R-L402-26).
#[must_use]
pub fn caveats_for(template: &OfferTemplate, valid_until: Option<UnixSeconds>) -> Vec<String> {
    let service = &template.service;
    let mut caveats = vec![format!("{SERVICES}={service}:{}", template.tier)];
    if !template.capabilities.is_empty() {
        let capabilities = template.capabilities.join(",");
        caveats.push(format!("{service}{CAPABILITIES_SUFFIX}={capabilities}"));
    }
    for (condition, value) in &template.constraints {
        caveats.push(format!("{condition}={value}"));
    }
    if let Some(end) = valid_until {
        caveats.push(format!("{service}{VALID_UNTIL_SUFFIX}={end}"));
    }
    caveats
}
