//! Credentials that a sidecar's filters accept, made without a payment: hundreds of thousands of
//! them are needed.

use anyhow::{Context as _, Result};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use e2e::{http_client::Http, sidecar::Sidecar};
use protocol::{
    amount::Sat,
    api::{Bootstrap, KeyState},
    encoding::hex_encode,
    hash::{PaymentHash, Preimage},
    keys::{ChallengeKeys, L402Key, L402Keys, PaymentKey, PaymentKeys},
    l402::{Identifier, RootKeys as _, TokenId, caveats_for, mint},
    payment::{
        Challenge, Realm, credential,
        request::{ChargeRequest, Network, SessionRequest},
    },
    time::UnixSeconds,
};
use serde_json::json;

use crate::subjects::{BEARER, REALM};

/// Of the sidecars behind the Envoys that sell by tokens alone, and behind those that sell by all
/// schemes.
pub(crate) struct Mints {
    pub(crate) tokens: Mint,
    pub(crate) payments: Mint,
}

/// Mints tokens, charges and bearers that a sidecar's filters accept, as if each had been paid for.
pub(crate) struct Mint {
    keys: L402Keys,
    charges: ChallengeKeys,
    sessions: ChallengeKeys,
    generation: u8,
    next: u64,
}

impl Mint {
    /// Asks the sidecar for the keys, as a filter does.
    pub(crate) async fn of(sidecar: &Sidecar) -> Result<Self> {
        let answer = Http::h2(sidecar.address())
            .get("/v1/bootstrap?vm=00000000000000000000000000000bec")
            .header("authorization", format!("Bearer {BEARER}"))
            .send()
            .await?;
        let bootstrap: Bootstrap = serde_json::from_str(&answer.text())?;
        let current = bootstrap
            .keys
            .iter()
            .find(|key| key.state == KeyState::Current);
        let current = current.context("no current key")?;
        let key: L402Key = current.l402.parse()?;
        let generation = current.generation;
        let payment: PaymentKey = current.payment.parse()?;
        let payment = PaymentKeys::from_iter([(generation, payment)]);
        Ok(Self {
            keys: [(generation, key)].into_iter().collect(),
            charges: payment.charge("weather"),
            sessions: payment.session(&REALM.parse()?),
            generation,
            next: 0,
        })
    }

    /// A preimage that was never used before.
    fn preimage(&mut self) -> [u8; 32] {
        self.next += 1;
        let mut preimage = [7_u8; 32];
        preimage[..8].copy_from_slice(&self.next.to_be_bytes());
        preimage
    }

    /// The value of an `Authorization` header for a charge that was never presented before.
    pub(crate) fn charge(&mut self, run: u64) -> Result<String> {
        let mut preimage = self.preimage();
        preimage[8..16].copy_from_slice(&run.to_be_bytes());
        let hex = hex_encode(&preimage);
        let preimage = Preimage::new(preimage);
        let key = self.charges.get(self.generation).context("no key")?;
        let realm: Realm = REALM.parse()?;
        let invoice = invoice();
        let amount = Sat::new(10).context("an amount")?;
        let request = ChargeRequest::new(amount, &invoice, preimage.hash(), Network::Regtest);
        let expires = UnixSeconds(unix_seconds()?.saturating_add(600));
        let challenge = Challenge::charge(key, &realm, &request, expires);
        Ok(credential::encode(&challenge, &[("preimage", &hex)]))
    }

    /// A session that nobody has opened, and the value of an `Authorization` header that spends
    /// from it at a price of one satoshi.
    pub(crate) fn bearer(&mut self) -> Result<(PaymentHash, String)> {
        let preimage = self.preimage();
        let hex = hex_encode(&preimage);
        let hash = Preimage::new(preimage).hash();
        let key = self.sessions.get(self.generation).context("no key")?;
        let realm: Realm = REALM.parse()?;
        let request = SessionRequest {
            amount: Sat::new(1).context("an amount")?,
            deposit_amount: Sat::new(1_000),
            deposit_invoice: Some(invoice().into()),
            description: None,
            idle_timeout_seconds: Some(3_600),
            payment_hash: hash,
            unit_type: Some("request".into()),
        };
        let expires = UnixSeconds(unix_seconds()?.saturating_add(3_600));
        let challenge = Challenge::session(key, &realm, &request, expires);
        let id = hash.to_string();
        let payload = [("action", "bearer"), ("preimage", &hex), ("sessionId", &id)];
        Ok((hash, credential::encode(&challenge, &payload)))
    }

    /// The key generation of all that is minted.
    pub(crate) const fn generation(&self) -> u8 {
        self.generation
    }

    /// The value of an `Authorization` header that was never used before.
    pub(crate) fn credential(&mut self, service: &str) -> Result<String> {
        let preimage = self.preimage();
        let mut name = [9_u8; 31];
        name[..8].copy_from_slice(&self.next.to_be_bytes());
        let identifier = Identifier {
            payment_hash: Preimage::new(preimage).hash(),
            token_id: TokenId::new(self.generation, name),
        };
        let root_key = self.keys.root_key(&identifier).context("no key")?;
        let template = serde_json::from_value(json!({
            "service": service, "tier": 0, "price_msat": 10_000, "lifetime_seconds": 86_400,
            "capabilities": [], "constraints": [],
        }))?;
        let caveats = caveats_for(&template, Some(UnixSeconds(4_102_444_800)));
        let token = mint(&root_key, &identifier, &caveats);
        let hex: String = preimage.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!(
            "L402 {}:{hex}",
            BASE64_STANDARD.encode(token.to_bytes())
        ))
    }
}

/// As long as a real one; nobody decodes it any more.
fn invoice() -> String {
    format!("lnbcrt100n1{}", "q".repeat(270))
}

fn unix_seconds() -> Result<u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(now.as_secs())
}
