//! Keys and revocations from the sidecar: when to ask, and what an answer means.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

use protocol::encoding::hex_decode;
use protocol::keys::{L402Key, L402Keys, PaymentKey, PaymentKeys};

use protocol::json::Json;

/// How soon to ask again while there are no keys yet: at first, and later. The very first call is
/// made while Envoy reads its configuration, has no clusters yet, and fails at once.
const FIRST_RETRIES_MS: (u64, u64) = (50, 200);

/// So long after the start clusters may yet come and hosts become healthy.
pub(super) const START_MS: u64 = 5_000;

/// Why no keys came.
pub(super) struct Fault {
    /// For an operator.
    pub(super) text: String,
    pub(super) kind: FaultKind,
}

/// How a fault is to be taken right after the start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum FaultKind {
    /// The call could not be made at all.
    NotMade,
    /// Nobody was there to answer.
    Away,
    /// The answer was wrong.
    Wrong,
}

impl Fault {
    fn wrong(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            kind: FaultKind::Wrong,
        }
    }
}

/// A clock that is set back by less does not matter.
const CLOCK_SLACK_MS: u64 = 1_000;

/// Hashes of revoked identifiers.
type DenyList = HashSet<[u8; 32], BuildHasherDefault<First8>>;

/// The members are SHA-256 hashes already, so their first bytes are a good hash of them.
#[derive(Default)]
struct First8(u64);

impl Hasher for First8 {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }
}

/// What the sidecar has told.
#[derive(Clone, Default)]
pub(super) struct Keys {
    version: Option<String>,
    /// All generations with which a credential may be verified.
    pub(super) l402: L402Keys,
    /// The same generations: challenge keys come from these.
    pub(super) payment: PaymentKeys,
    /// The generation that issues.
    pub(super) current: Option<u8>,
    denied: DenyList,
    /// When the answer that these keys and this list are known from was asked for.
    asked_ms: u64,
    /// Changes whenever the keys do.
    pub(super) generation: u64,
}

impl Keys {
    /// Nothing can be verified yet.
    pub(super) const fn is_absent(&self) -> bool {
        self.version.is_none()
    }

    /// How old the deny list is at most. One from the future, after the clock was set back, is of
    /// unknown age.
    pub(super) const fn age_ms(&self, now_ms: u64) -> u64 {
        match now_ms.checked_sub(self.asked_ms) {
            Some(age) => age,
            None if self.asked_ms - now_ms < CLOCK_SLACK_MS => 0,
            None => u64::MAX,
        }
    }

    pub(super) fn is_denied(&self, identifier_hash: &[u8; 32]) -> bool {
        !self.denied.is_empty() && self.denied.contains(identifier_hash)
    }

    /// Installs an answer ([`protocol::api::Bootstrap`]) in one step, or nothing of it.
    fn install(&mut self, answer: &Json<'_>, asked_ms: u64) -> Option<()> {
        let version = answer.text("version")?;
        let revocations = answer.get("revocations")?;
        let is_full = revocations.bool("full")?;
        if self.is_absent() && !is_full {
            return None;
        }
        let keys: Vec<_> = answer
            .list("keys")?
            .iter()
            .map(key)
            .collect::<Option<_>>()?;
        if keys.is_empty() {
            return None;
        }
        let add = hashes(revocations.list("add")?)?;
        let remove = hashes(revocations.list("remove")?)?;

        if is_full {
            self.denied.clear();
        }
        for hash in &remove {
            self.denied.remove(hash);
        }
        self.denied.extend(add);
        self.current = keys
            .iter()
            .find(|key| key.is_current)
            .map(|key| key.generation);
        let are_same = self.l402.len() == keys.len()
            && keys.iter().all(|key| {
                let l402 = self.l402.get(key.generation);
                let payment = self.payment.get(key.generation);
                l402.is_some_and(|known| known.expose_hex() == key.l402.expose_hex())
                    && payment.is_some_and(|known| known.expose_hex() == key.payment.expose_hex())
            });
        if !are_same {
            self.l402 = L402Keys::new();
            self.payment = PaymentKeys::new();
            for key in keys {
                self.l402.insert(key.generation, key.l402);
                self.payment.insert(key.generation, key.payment);
            }
            self.generation += 1;
        }
        self.version = Some(version.to_owned());
        self.asked_ms = asked_ms;
        Some(())
    }
}

/// What [`protocol::api::KeyGeneration`] says.
struct KeyGeneration {
    generation: u8,
    is_current: bool,
    l402: L402Key,
    payment: PaymentKey,
}

fn key(json: &Json<'_>) -> Option<KeyGeneration> {
    let key = |name| hex_decode(json.text(name)?).ok();
    Some(KeyGeneration {
        generation: json.number("generation")?.try_into().ok()?,
        is_current: json.text("state")? == "current",
        l402: L402Key::new(key("l402")?),
        payment: PaymentKey::new(key("payment")?),
    })
}

fn hashes(list: &[Json<'_>]) -> Option<Vec<[u8; 32]>> {
    list.iter()
        .map(|hash| hex_decode(hash.as_text()?).ok())
        .collect()
}

/// The polling of the sidecar.
pub(super) struct Poll {
    interval_ms: u64,
    next_ms: u64,
    asked_ms: Option<u64>,
    /// When it was asked for the first time.
    started_ms: Option<u64>,
    /// An answer that has not come by then will not come.
    lost_after_ms: u64,
    retry_ms: u64,
    /// Spreads the polls of many workers.
    jitter: u64,
    /// What was said last, and whether it was said as something that may pass.
    last_fault: Option<(String, bool)>,
}

/// What became of a poll.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Polled {
    /// Keys are there for the first time.
    First,
    /// New or unchanged keys.
    Ok,
    /// The sidecar is well again after a fault.
    Recovered,
    /// A fault, reported for the first time.
    NewFault(String),
    /// The same right after the start: it may pass by itself.
    EarlyFault(String),
    /// The same fault as before.
    SameFault,
}

impl Poll {
    pub(super) const fn new(interval_ms: u64, timeout_ms: u64, seed: u64) -> Self {
        Self {
            interval_ms,
            next_ms: 0,
            asked_ms: None,
            started_ms: None,
            lost_after_ms: timeout_ms.saturating_mul(2),
            retry_ms: FIRST_RETRIES_MS.0,
            jitter: seed | 1,
            last_fault: None,
        }
    }

    /// The start was a moment ago.
    pub(super) fn has_just_begun(&self, now_ms: u64) -> bool {
        self.started_ms
            .is_none_or(|started| now_ms.abs_diff(started) < START_MS)
    }

    /// The path to ask now, if it is time.
    pub(super) fn due(&mut self, now_ms: u64, keys: &Keys, vm: &str) -> Option<String> {
        let may_ask = self
            .asked_ms
            .is_none_or(|asked| now_ms.abs_diff(asked) > self.lost_after_ms);
        // Nothing is planned that far ahead, unless the clock has been set back since.
        let is_planned = now_ms < self.next_ms && self.next_ms - now_ms <= 2 * self.interval_ms;
        if !may_ask || is_planned {
            return None;
        }
        self.asked_ms = Some(now_ms);
        self.started_ms.get_or_insert(now_ms);
        let mut path = [protocol::api::BOOTSTRAP_PATH, "?vm=", vm].concat();
        if let Some(version) = &keys.version {
            path.push_str("&known=");
            path.extend(version.bytes().map(query_byte));
        }
        Some(path)
    }

    /// Takes the answer: the body of a 200, nothing for a 304, or a fault.
    pub(super) fn answered(
        &mut self,
        now_ms: u64,
        keys: &mut Keys,
        answer: Result<Option<&[u8]>, Fault>,
    ) -> Polled {
        let asked_ms = self.asked_ms.take().unwrap_or(now_ms);
        let was_absent = keys.is_absent();
        let result = match answer {
            Ok(Some(body)) => Json::parse(body)
                .and_then(|answer| keys.install(&answer, asked_ms))
                .ok_or_else(|| Fault::wrong("the answer is not a bootstrap")),
            Ok(None) if was_absent => Err(Fault::wrong("unchanged, but nothing is known yet")),
            Ok(None) => {
                keys.asked_ms = asked_ms;
                Ok(())
            }
            Err(fault) => Err(fault),
        };
        // Expected, see above: an operator need not read of it at every start.
        let is_first = keys.is_absent() && self.retry_ms == FIRST_RETRIES_MS.0;
        let delay = if keys.is_absent() {
            let next = (self.retry_ms * 2).min(FIRST_RETRIES_MS.1);
            std::mem::replace(&mut self.retry_ms, next)
        } else {
            self.jittered_interval()
        };
        self.next_ms = now_ms.saturating_add(delay);
        match result {
            Ok(()) if was_absent => {
                self.last_fault = None;
                Polled::First
            }
            Ok(()) if self.last_fault.take().is_some() => Polled::Recovered,
            Ok(()) => Polled::Ok,
            Err(fault) if is_first && fault.kind == FaultKind::NotMade => Polled::SameFault,
            Err(Fault { text, kind }) => {
                let may_pass =
                    keys.is_absent() && kind != FaultKind::Wrong && self.has_just_begun(now_ms);
                let said = (self.last_fault.take()).filter(|(before, _)| *before == text);
                self.last_fault = Some((text.clone(), may_pass));
                match said {
                    // What did not pass is said once more, and louder.
                    Some((_, could_pass)) if may_pass || !could_pass => Polled::SameFault,
                    _ if may_pass => Polled::EarlyFault(text),
                    _ => Polled::NewFault(text),
                }
            }
        }
    }

    /// Within a tenth of the interval, by xorshift.
    fn jittered_interval(&mut self) -> u64 {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        let spread = (self.interval_ms / 5).max(1);
        self.interval_ms
            .saturating_sub(spread / 2)
            .saturating_add(self.jitter % spread)
    }
}

/// The version is opaque; a byte that may not stand in a query is better sent wrong than dangerous:
/// the sidecar then answers in full.
fn query_byte(byte: u8) -> char {
    let is_plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    if is_plain { char::from(byte) } else { '_' }
}
