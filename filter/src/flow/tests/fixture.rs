//! A gate with a world around it that the test controls.

use protocol::encoding::hex_encode;
use protocol::hash::Preimage;
use protocol::keys::L402Key;
use protocol::l402::{Identifier, TokenId};
use protocol::macaroon::MacaroonBuf;
use serde_json::{Value, json};

use crate::flow::*;
use crate::pairs::{Pairs, encode};

pub(super) const TOKEN: &str = "sidecar-secret";
pub(super) const KEY: [u8; 32] = [5; 32];
/// The second at which fixtures begin.
pub(super) const CREDENTIAL_TIME: u64 = 1_800_000_000;

/// The steady clock counts from no particular time.
const STEADY_START_MS: u64 = 1_000_000;

const SERVICES: &str = r#"[
    {"name":"weather","match":[{"hosts":["api.example.com"],"path":{"prefix":"/v1/"}}],
     "price":{"sat":10},"freePaths":[{"exact":"/v1/health"}],"noInvoicePaths":[{"prefix":"/v1/cb/"}]},
    {"name":"other","match":[{"hosts":["api.example.com"],"path":{"prefix":"/v2/"}}],
     "price":{"msat":1500}}]"#;

/// The head of a request as it is sent.
#[derive(Clone, Debug)]
pub(super) struct Sent(pub(super) Vec<(Vec<u8>, Vec<u8>)>);

impl Sent {
    pub(super) fn raw(fields: &[(&str, &str)]) -> Self {
        Self(
            fields
                .iter()
                .map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec()))
                .collect(),
        )
    }

    pub(super) fn get(path: &str) -> Self {
        Self::raw(&[
            (":method", "GET"),
            (":path", path),
            (":authority", "api.example.com"),
        ])
    }

    pub(super) fn host(mut self, host: &str) -> Self {
        self.0[2].1 = host.as_bytes().to_vec();
        self
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.0
            .push((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        self
    }

    pub(super) fn encoded(&self) -> Vec<u8> {
        let fields: Vec<_> = self.0.iter().map(|(n, v)| (&n[..], &v[..])).collect();
        encode(&fields)
    }
}

/// What the upstream would see.
pub(super) struct Forwarded {
    pub(super) names: Vec<String>,
    pub(super) note: Note,
    fields: Vec<(String, String)>,
}

impl Forwarded {
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Makes the edits as Envoy does.
pub(super) fn apply(sent: &Sent, edits: &[Edit<'_>]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut fields = sent.0.clone();
    for edit in edits {
        match edit {
            Edit::Remove(name) => fields.retain(|(field, _)| field != name),
            Edit::Replace(name, value) => {
                fields.retain(|(field, _)| field != name);
                fields.push((name.to_vec(), value.clone()));
            }
        }
    }
    fields
}

pub(super) fn outcome(decision: &Decision<'_>) -> Option<Outcome> {
    match decision {
        Decision::Forward { note, .. } => Some(note.outcome),
        Decision::Reply(reply) => Some(reply.note.outcome),
        Decision::Hold | Decision::HoldCleaned(_) => None,
    }
}

pub(super) struct Fixture {
    pub(super) gate: Gate,
    pub(super) now_ms: u64,
    pub(super) client: Option<IpAddr>,
    streams: u32,
    tokens: u8,
    last: Option<Identifier>,
    versions: u32,
}

struct World(Now, Option<IpAddr>);

impl Surroundings for World {
    fn now_ms(&self) -> u64 {
        self.0.ms
    }

    fn steady_ms(&self) -> u64 {
        self.0.steady_ms
    }

    fn client(&self) -> Option<IpAddr> {
        self.1
    }
}

impl Fixture {
    fn build(settings: &str, services: &str, token: Option<&str>) -> Self {
        let settings = if settings.is_empty() {
            String::new()
        } else {
            format!("{settings},")
        };
        Self::of_cluster("boltgate", &settings, services, token)
    }

    fn of_cluster(cluster: &str, settings: &str, services: &str, token: Option<&str>) -> Self {
        let text =
            format!(r#"{{"sidecar":{{"cluster":"{cluster}"}},{settings}"services":{services}}}"#);
        Self::of_text(&text, token)
    }

    /// Of a whole plugin configuration.
    pub(super) fn whole(text: &str) -> Self {
        Self::of_text(text, Some(TOKEN))
    }

    fn of_text(text: &str, token: Option<&str>) -> Self {
        let config = PluginConfig::from_json(text.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
        Self {
            gate: Gate::new(
                config,
                Origin {
                    token: token.map(str::to_owned),
                    vm: [1; 16],
                    plugin: b"boltgate".to_vec(),
                },
            ),
            now_ms: CREDENTIAL_TIME * 1_000,
            client: Some(IpAddr::from([192, 0, 2, 1])),
            streams: 10,
            tokens: 0,
            last: None,
            versions: 0,
        }
    }

    /// A gate without keys.
    pub(super) fn new() -> Self {
        Self::build("", SERVICES, Some(TOKEN))
    }

    pub(super) fn with(services: &str) -> Self {
        Self::build("", services, Some(TOKEN))
    }

    pub(super) fn of(settings: &str, services: &str) -> Self {
        Self::build(settings, services, Some(TOKEN))
    }

    pub(super) fn with_settings(settings: &str) -> Self {
        Self::build(settings, SERVICES, Some(TOKEN))
    }

    pub(super) fn of_another_sidecar() -> Self {
        Self::of_cluster("another", "", SERVICES, Some(TOKEN))
    }

    pub(super) fn without_token() -> Self {
        Self::build("", SERVICES, None)
    }

    /// A gate with keys and an empty stock.
    pub(super) fn ready() -> Self {
        let mut gate = Self::new();
        gate.bootstrap();
        gate
    }

    /// A gate with keys and that many offers for `weather`.
    pub(super) fn stocked(count: usize) -> Self {
        let mut gate = Self::ready();
        gate.fill(count);
        gate
    }

    pub(super) fn request<'h>(&mut self, sent: &'h Sent) -> Decision<'h> {
        // The test keeps what it sent; a borrow of the encoded bytes would not outlive this call.
        let bytes: &'h [u8] = Box::leak(sent.encoded().into_boxed_slice());
        self.streams += 1;
        let head = Head::new(Pairs::parse(bytes).unwrap());
        self.gate
            .request(self.streams, &head, &World(self.now(), self.client))
    }

    /// Both clocks go on together; the steady one began when the fixture did.
    pub(super) const fn now(&self) -> Now {
        Now {
            ms: self.now_ms,
            steady_ms: self
                .now_ms
                .saturating_sub(CREDENTIAL_TIME * 1_000 - STEADY_START_MS),
        }
    }

    pub(super) fn reply(&mut self, sent: &Sent) -> Reply {
        match self.request(sent) {
            Decision::Reply(reply) => *reply,
            other => panic!("expected a reply, found {other:?}"),
        }
    }

    pub(super) fn forwarded(&mut self, sent: &Sent) -> Forwarded {
        match self.request(sent) {
            Decision::Forward { edits, note } => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let fields: Vec<_> = apply(sent, &edits)
                    .iter()
                    .map(|(name, value)| (text(name), text(value)))
                    .collect();
                let names = fields.iter().map(|(name, _)| name.clone()).collect();
                Forwarded {
                    names,
                    note,
                    fields,
                }
            }
            other => panic!("expected to be forwarded, found {other:?}"),
        }
    }

    fn mint(&mut self, service: &str, until: Option<u64>) -> (MacaroonBuf, Preimage) {
        self.tokens += 1;
        let preimage = Preimage::new([self.tokens; 32]);
        let identifier = Identifier {
            payment_hash: preimage.hash(),
            token_id: TokenId::new(1, [self.tokens; 31]),
        };
        self.last = Some(identifier);
        let root = L402Key::new(KEY).root_key(&identifier);
        let mut caveats = vec![format!("services={service}:0")];
        caveats.extend(until.map(|until| format!("{service}_valid_until={until}")));
        (
            fixture_macaroon(root.expose(), &identifier, &caveats),
            preimage,
        )
    }

    /// A paid credential for an `Authorization` header.
    pub(super) fn token(&mut self, service: &str, until: Option<u64>) -> String {
        let (macaroon, preimage) = self.mint(service, until);
        format!(
            "L402 {}:{}",
            macaroon.to_base64(),
            hex_encode(preimage.expose())
        )
    }

    /// A paid credential under a key of one's own, with more caveats.
    pub(super) fn token_of(
        &mut self,
        (generation, key): (u8, [u8; 32]),
        service: &str,
        caveats: &[String],
    ) -> String {
        self.tokens += 1;
        let preimage = Preimage::new([self.tokens; 32]);
        let identifier = Identifier {
            payment_hash: preimage.hash(),
            token_id: TokenId::new(generation, [self.tokens; 31]),
        };
        let root = L402Key::new(key).root_key(&identifier);
        let services = [format!("services={service}:0")];
        let caveats = [&services[..], caveats].concat();
        let macaroon = fixture_macaroon(root.expose(), &identifier, &caveats);
        let preimage = hex_encode(preimage.expose());
        format!("L402 {}:{preimage}", macaroon.to_base64())
    }

    /// A paid token for gRPC metadata.
    pub(super) fn metadata_token(&mut self, service: &str) -> String {
        let (mut macaroon, preimage) = self.mint(service, None);
        let caveat = format!("preimage={}", hex_encode(preimage.expose()));
        macaroon.add(caveat.as_bytes());
        hex_encode(&macaroon.to_bytes())
    }

    pub(super) fn bootstrap_body(
        keys: &[(u8, [u8; 32])],
        revoked: &[String],
        version: &str,
    ) -> String {
        let keys: Vec<_> = keys
            .iter()
            .map(|(generation, key)| {
                json!({"generation": generation, "state": "current", "l402": hex_encode(key),
                       "payment": hex_encode(&key.map(|byte| !byte))})
            })
            .collect();
        let revocations = json!({"full": true, "add": revoked, "remove": []});
        json!({"version": version, "keys": keys, "revocations": revocations}).to_string()
    }

    pub(super) fn answer_bootstrap(&mut self, status: u16, is_marked: bool, body: &str) {
        self.gate.tick(self.now());
        while self
            .gate
            .next_call()
            .is_some_and(|call| call.kind != CallKind::Bootstrap)
        {}
        let answer = Answer {
            status,
            is_marked,
            retry_after: None,
            body: body.as_bytes(),
            ..Answer::default()
        };
        self.gate.answered(CallKind::Bootstrap, &answer, self.now());
    }

    pub(super) fn bootstrap(&mut self) {
        self.install_keys(&[(1, KEY)]);
    }

    pub(super) fn install_keys(&mut self, keys: &[(u8, [u8; 32])]) {
        self.versions += 1;
        let version = format!("v-{}", self.versions);
        let body = Self::bootstrap_body(keys, &[], &version);
        self.answer_bootstrap(200, true, &body);
    }

    /// Revokes the token minted last.
    pub(super) fn revoke_last(&mut self) {
        let revoked = hex_encode(&self.last.unwrap().hash());
        let body = Self::bootstrap_body(&[(1, KEY)], &[revoked], "revoked");
        self.answer_bootstrap(200, true, &body);
    }

    /// The path of the poll that is to be made.
    pub(super) fn bootstrap_path(&mut self) -> Option<String> {
        let call = self.gate.next_call()?;
        call.headers
            .into_iter()
            .find(|(name, _)| *name == ":path")
            .map(|(_, path)| path)
    }

    /// The next call for offers and its body.
    pub(super) fn offers_call(&mut self) -> (CallKind, Value) {
        loop {
            let call = self.gate.next_call().expect("a call for offers");
            if call.kind != CallKind::Bootstrap {
                return (call.kind, serde_json::from_slice(&call.body).unwrap());
            }
        }
    }

    /// Answers a call with that many offers.
    pub(super) fn offers(&mut self, kind: CallKind, count: usize) {
        let offers: Vec<_> = (0..count)
            .map(|_| {
                let (macaroon, preimage) = self.mint("weather", None);
                json!({
                    "payment_hash": preimage.hash().to_string(),
                    "invoice": format!("lnbcrt1{}", self.tokens),
                    "macaroon": macaroon.to_base64(),
                    "show_until": CREDENTIAL_TIME + 100_000,
                })
            })
            .collect();
        let body = json!({"offers": offers}).to_string();
        let answer = Answer {
            status: 200,
            is_marked: true,
            retry_after: None,
            body: body.as_bytes(),
            ..Answer::default()
        };
        self.gate.answered(kind, &answer, self.now());
    }

    /// Puts offers for `weather` on the shelf.
    pub(super) fn fill(&mut self, count: usize) {
        let kind = CallKind::Offers {
            shelf: 0,
            count: u16::try_from(count).unwrap(),
        };
        self.offers(kind, count);
    }

    /// The statuses of the replies that are due.
    pub(super) fn due_statuses(&mut self) -> Vec<u16> {
        let mut statuses = Vec::new();
        while let Some(due) = self.gate.next_due() {
            match self.gate.answer(due) {
                Some(Decision::Reply(reply)) => statuses.push(reply.status),
                Some(other) => panic!("expected a reply, found {other:?}"),
                None => {}
            }
        }
        statuses
    }
}

/// What only tests of the Payment scheme need.
#[cfg(feature = "payment")]
impl Fixture {
    pub(super) const fn around(&self) -> impl Surroundings + use<> {
        World(self.now(), self.client)
    }

    /// The stream of the latest request.
    pub(super) const fn stream(&self) -> u32 {
        self.streams
    }

    /// A number that no token and no offer has yet.
    pub(super) const fn number(&mut self) -> u8 {
        self.tokens += 1;
        self.tokens
    }
}

fn fixture_macaroon(root: &[u8; 32], identifier: &Identifier, caveats: &[String]) -> MacaroonBuf {
    let mut macaroon = MacaroonBuf::new(root, b"lsat", &identifier.to_bytes());
    for caveat in caveats {
        macaroon.add(caveat.as_bytes());
    }
    macaroon
}
