//! Tokens of a paid invoice, with caveats as a test likes them.
#![allow(dead_code)]

use protocol::hash::Preimage;
use protocol::keys::{L402Key, L402Keys};
use protocol::l402::{Credential, Grant, Identifier, Refusal, Target, TokenId, mint, verify};
use protocol::macaroon::MacaroonBuf;
use protocol::time::UnixSeconds;

pub(crate) const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

pub(crate) fn preimage() -> Preimage {
    Preimage::new([5; 32])
}

pub(crate) fn identifier() -> Identifier {
    Identifier {
        payment_hash: preimage().hash(),
        token_id: TokenId::new(1, [6; 31]),
    }
}

pub(crate) fn keys() -> L402Keys {
    [(1, L402Key::new([7; 32]))].into_iter().collect()
}

pub(crate) fn token<C: AsRef<[u8]>>(caveats: impl IntoIterator<Item = C>) -> MacaroonBuf {
    let root_key = L402Key::new([7; 32]).root_key(&identifier());
    mint(&root_key, &identifier(), caveats)
}

pub(crate) fn check(
    token: &MacaroonBuf,
    service: &str,
    capability: Option<&str>,
) -> Result<Grant, Refusal> {
    let credential = Credential::of_macaroon(token.to_bytes(), Some(preimage()));
    let target = Target {
        service,
        capability,
        now: NOW,
    };
    verify(&credential, &keys(), |_| false, &target)
}
