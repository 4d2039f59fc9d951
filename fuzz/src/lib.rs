//! What the fuzz targets do with their input: parse it, and hold what was read against what the
//! parser promises. Each target is one function of the same name here.

mod payment;

use std::sync::LazyLock;

use protocol::api::{Bootstrap, Offers, OffersRequest};
use protocol::hash::Preimage;
use protocol::http::auth::Challenge;
use protocol::keys::{L402Key, L402Keys};
use protocol::l402::authorization::{self, Upstream};
use protocol::l402::metadata::{self, Metadata};
use protocol::l402::{
    Credential, Grant, Identifier, MAX_TOKENS, Refusal, RootKeys as _, Target, TokenId, mint,
    verify,
};
use protocol::macaroon::{Macaroon, MacaroonBuf};
use protocol::policy::{Found, PluginConfig, RequestView};
use protocol::time::UnixSeconds;
use serde::de::DeserializeOwned;

pub use payment::{payment_challenge, payment_credential, payment_receipt, payment_request, sse};

static KEYS: LazyLock<L402Keys> = LazyLock::new(|| {
    (0..=u8::MAX)
        .map(|generation| (generation, L402Key::new([7; 32])))
        .collect()
});
const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

/// A target: takes any bytes, panics when something does not hold.
pub type Body = fn(&[u8]);

/// Every target by name.
pub const TARGETS: [(&str, Body); 12] = [
    ("api_types", api_types),
    ("auth_grammar", auth_grammar),
    ("authorization", authorization),
    ("caveats", caveats),
    ("macaroon", macaroon),
    ("metadata", metadata),
    ("payment_challenge", payment_challenge),
    ("payment_credential", payment_credential),
    ("payment_receipt", payment_receipt),
    ("payment_request", payment_request),
    ("plugin_config", plugin_config),
    ("sse", sse),
];

/// `Authorization`, one value per line: nothing of ours is left for the upstream, and nobody who
/// does not have the key is let in.
pub fn authorization(data: &[u8]) {
    let values: Vec<_> = data.split(|byte| *byte == b'\n').collect();
    let found = authorization::parse(values.iter().copied());
    for credential in &found.credentials {
        assert!((1..=MAX_TOKENS).contains(&credential.tokens().count()));
        assert!(accept(credential, "a", None).is_err());
    }
    match &found.upstream {
        Upstream::Untouched => assert!(!found.is_ours()),
        Upstream::Removed => assert!(found.is_ours()),
        Upstream::Replaced(rest) => {
            assert!(found.is_ours());
            assert!(!authorization::parse([rest.as_slice()]).is_ours());
        }
    }
}

/// gRPC metadata: first byte chooses the name.
pub fn metadata(data: &[u8]) {
    let Some((choice, value)) = data.split_first() else {
        return;
    };
    let name = metadata::NAMES[usize::from(*choice) % metadata::NAMES.len()];
    match metadata::parse(name, value) {
        Metadata::Ours(credential) => assert!(accept(&credential, "a", None).is_err()),
        Metadata::Foreign => assert_eq!(name, "token"),
        Metadata::Malformed(malformed) => assert!(malformed.reason().starts_with("malformed")),
    }
}

/// A macaroon that is read is written as it was, apart from an empty location.
pub fn macaroon(data: &[u8]) {
    let Ok(read) = Macaroon::parse(data) else {
        return;
    };
    let mut owned = MacaroonBuf::from(&read);
    let written = owned.to_bytes();
    assert!(written == data || data.starts_with(&[2, 1, 0]));
    assert!(!read.is_signed_with(b"a key that nobody knows"));
    let _ = Identifier::parse(read.identifier());
    let count = read.caveats().count();
    owned.add(b"x=1");
    let written = owned.to_bytes();
    match Macaroon::parse(&written) {
        Ok(attenuated) => assert_eq!(attenuated.caveats().count(), count + 1),
        Err(error) => assert_eq!(error, protocol::macaroon::MacaroonError::TooManyCaveats),
    }
}

/// Caveats, one per line, on a token of ours: each further one can only take away.
pub fn caveats(data: &[u8]) {
    let mut all = vec![b"services=a:0,b:1".as_slice()];
    let targets = [("a", None), ("a", Some("c")), ("b", Some("d"))];
    let mut before = targets.map(|(service, capability)| judge(&all, service, capability));
    // Each one means minting and checking anew, so not as many as there could be.
    for caveat in data.split(|byte| *byte == b'\n').take(12) {
        all.push(caveat);
        let after = targets.map(|(service, capability)| judge(&all, service, capability));
        for (before, after) in before.iter().zip(&after) {
            if let Ok(after) = after {
                let before = before.as_ref().expect("what was refused stays refused");
                assert_eq!(after.tier, before.tier);
                let end = |grant: &Grant| grant.valid_until.map_or(u64::MAX, |end| end.0);
                assert!(end(after) <= end(before));
            }
        }
        before = after;
    }
}

/// A challenge that is read can be written, and is then read as the same.
pub fn auth_grammar(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(challenges) = Challenge::parse_list(text) else {
        return;
    };
    for challenge in challenges {
        let written = challenge.to_string();
        assert!(!written.contains(['\r', '\n']));
        // Writing may add quotes, and with them reach the limit of length.
        if written.len() <= protocol::http::auth::MAX_LEN {
            assert_eq!(Challenge::parse_one(&written).as_ref(), Ok(&challenge));
        }
    }
}

/// A configuration is good, or every error says something; a good one takes any request.
pub fn plugin_config(data: &[u8]) {
    match PluginConfig::from_json(data) {
        Ok(config) => {
            for path in ["/", "/v1/x", "", "/v1/health?x"] {
                let found = config.policy.find(&RequestView {
                    authority: b"api.example.com:80",
                    path: path.as_bytes(),
                    method: b"GET",
                    headers: &|name| Some(name.as_bytes().to_vec()),
                });
                if let Found::Matched { service, .. } = found {
                    assert!(service.price().get() > 0);
                }
            }
        }
        Err(errors) => assert!(errors.iter().all(|error| !error.message.is_empty())),
    }
}

/// What filter and sidecar say to each other comes back as it was.
pub fn api_types(data: &[u8]) {
    comes_back::<Bootstrap>(data);
    comes_back::<OffersRequest>(data);
    if let Some(offers) = comes_back::<Offers>(data) {
        for offer in offers.offers {
            if let Ok(identifier) = offer.check() {
                let hash = identifier.payment_hash.to_string();
                assert!(hash.eq_ignore_ascii_case(&offer.payment_hash));
            }
        }
    }
}

fn comes_back<T: DeserializeOwned + serde::Serialize + PartialEq>(data: &[u8]) -> Option<T> {
    let read: T = serde_json::from_slice(data).ok()?;
    let written = serde_json::to_vec(&read).expect("plain data serialises");
    let again: T = serde_json::from_slice(&written).expect("what was written is read");
    assert!(read == again);
    Some(read)
}

fn accept(
    credential: &Credential,
    service: &str,
    capability: Option<&str>,
) -> Result<Grant, Refusal> {
    verify(
        credential,
        &*KEYS,
        |_| false,
        &Target {
            service,
            capability,
            now: NOW,
        },
    )
}

fn judge(caveats: &[&[u8]], service: &str, capability: Option<&str>) -> Result<Grant, Refusal> {
    let preimage = Preimage::new([5; 32]);
    let identifier = Identifier {
        payment_hash: preimage.hash(),
        token_id: TokenId::new(1, [6; 31]),
    };
    let Some(root_key) = KEYS.root_key(&identifier) else {
        return Err(Refusal::Revoked);
    };
    let token = mint(&root_key, &identifier, caveats).to_bytes();
    accept(
        &Credential::of_macaroon(token, Some(preimage)),
        service,
        capability,
    )
}
