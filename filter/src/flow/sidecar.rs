//! Calls to the sidecar: when, what, and what their answers mean.

use std::collections::VecDeque;

use protocol::api::charge::CHARGE_OFFERS_PATH;
use protocol::api::{self, ClientHint};
use protocol::encoding::hex_encode;
use protocol::payment::jcs::Object;
use protocol::policy::PluginConfig;

use super::bootstrap::{Keys, NOT_MADE, Poll, Polled};
use super::stock::{NoOffers, Offer, Scheme, Shelf, Wares};
use super::{Gate, Origin, RETRY_AFTER_SECONDS, State, claims, millis, payment};
use crate::outcome::CallResult;
use protocol::json::Json;

/// Offers that all shelves of a gate may hold together, beyond what waiting requests need.
const ALL_OFFERS: usize = 2_048;
/// Longest `Retry-After` that is passed on.
pub(super) const LONGEST_RETRY_SECONDS: u64 = 3_600;

/// What a call was made for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CallKind {
    /// Keys and revocations.
    Bootstrap,
    /// That many offers of a service by one scheme.
    Offers {
        /// Number of the shelf that they are for.
        shelf: usize,
        /// How many were asked for.
        count: u16,
    },
    /// May this request be served for what it has paid?
    Claim {
        /// Of the claim.
        number: u64,
    },
    /// Attempts that were not served.
    Abandon {
        /// Of the batch.
        number: u64,
    },
}

impl CallKind {
    /// The word in metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Bootstrap => "bootstrap",
            Self::Offers { .. } => "offers",
            Self::Claim { .. } => "claim",
            Self::Abandon { .. } => "abandon",
        }
    }
}

/// A call for the host to make.
#[derive(Clone, PartialEq)]
pub struct Call {
    /// To be given back with the answer.
    pub kind: CallKind,
    /// Envoy cluster.
    pub cluster: String,
    /// Pseudo-header fields and others.
    pub headers: Vec<(&'static str, String)>,
    /// JSON, or nothing.
    pub body: Vec<u8>,
    /// The host gives up after as long.
    pub timeout_ms: u32,
}

/// What came back. A call that could not be made is answered with status 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answer<'a> {
    /// `:status`.
    pub status: u16,
    /// The marker that the sidecar itself sets is there.
    pub is_marked: bool,
    /// `retry-after` in seconds.
    pub retry_after: Option<u64>,
    /// The body.
    pub body: &'a [u8],
}

/// Something an operator should read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Notice {
    /// All is well (again).
    Info(String),
    /// A fault.
    Error(String),
}

/// The line to the sidecar.
pub(super) struct Sidecar {
    /// `Bearer …`: a secret.
    authorization: Option<String>,
    vm: String,
    vm_bytes: [u8; 16],
    requests: u64,
    poll: Poll,
    calls: VecDeque<Call>,
    notices: VecDeque<Notice>,
    says_no_offers: bool,
}

impl Sidecar {
    pub(super) fn new(config: &PluginConfig, origin: Origin) -> Self {
        let seed = origin
            .vm
            .first_chunk::<8>()
            .map_or(1, |bytes| u64::from_le_bytes(*bytes));
        let token = origin
            .token
            .filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
        let mut notices = VecDeque::new();
        if token.is_none() {
            notices.push_back(Notice::Error(format!(
                "environment variable {} holds no usable token for the sidecar (is it in \
                 host_env_keys?): every paid request is answered 503",
                config.sidecar.token_env
            )));
        }
        Self {
            authorization: token.map(|token| ["Bearer ", &token].concat()),
            vm: hex_encode(&origin.vm),
            vm_bytes: origin.vm,
            requests: 0,
            poll: Poll::new(
                millis(config.poll_interval),
                millis(config.sidecar.timeout),
                seed,
            ),
            calls: VecDeque::new(),
            notices,
            says_no_offers: false,
        }
    }

    pub(super) const fn has_token(&self) -> bool {
        self.authorization.is_some()
    }

    /// What this VM is called.
    pub(super) fn vm(&self) -> &str {
        &self.vm
    }

    pub(super) fn name_of_attempt(&self, number: u64) -> String {
        claims::name_of_attempt(&self.vm_bytes, number)
    }

    pub(super) fn poll(&mut self, config: &PluginConfig, now_ms: u64, keys: &Keys) {
        if self.has_token()
            && let Some(path) = self.poll.due(now_ms, keys, &self.vm)
        {
            let cluster = &config.sidecar.cluster;
            self.call(
                config,
                CallKind::Bootstrap,
                cluster,
                ("GET", path),
                Vec::new(),
            );
        }
    }

    fn ask_for_offers(
        &mut self,
        config: &PluginConfig,
        (shelf, count): (usize, u16),
        wares: &Wares,
        client: Option<&ClientHint>,
    ) -> bool {
        self.requests += 1;
        let start = self.vm.get(..16).unwrap_or_default();
        let request_id = [start, &hex_encode(&self.requests.to_be_bytes())].concat();
        let mut body = Object::with_capacity(512);
        body.text("vm", &self.vm)
            .text("request_id", &request_id)
            .number("count", count.into());
        if let Some(client) = client {
            body.object("client", |object| {
                object
                    .text("prefix", &client.prefix)
                    .boolean("has_paid", client.has_paid);
            });
        }
        let path = match wares {
            Wares::Tokens(template) => {
                body.object("template", |object| write_template(object, template));
                api::OFFERS_PATH
            }
            Wares::Charges { service, amount } => {
                body.text("service", service).number("amount", amount.get());
                CHARGE_OFFERS_PATH
            }
        };
        let kind = CallKind::Offers { shelf, count };
        let target = ("POST", path.to_owned());
        let body = body.finish().into_bytes();
        self.call(config, kind, &config.sidecar.offers_cluster, target, body)
    }

    /// `false` without a token.
    pub(super) fn call(
        &mut self,
        config: &PluginConfig,
        kind: CallKind,
        cluster: &str,
        (method, path): (&str, String),
        body: Vec<u8>,
    ) -> bool {
        let Some(authorization) = &self.authorization else {
            return false;
        };
        let mut headers = vec![
            (":method", method.to_owned()),
            (":path", path),
            (":authority", config.sidecar.authority.clone()),
            ("authorization", authorization.clone()),
            ("accept", "application/json".to_owned()),
        ];
        if !body.is_empty() {
            headers.push(("content-type", "application/json".to_owned()));
        }
        self.calls.push_back(Call {
            kind,
            cluster: cluster.to_owned(),
            headers,
            body,
            timeout_ms: u32::try_from(config.sidecar.timeout.as_millis()).unwrap_or(u32::MAX),
        });
        true
    }
}

fn write_template(object: &mut Object, template: &api::OfferTemplate) {
    object
        .text("service", &template.service)
        .number("tier", template.tier.into())
        .number("price_msat", template.price_msat.get());
    if let Some(seconds) = template.lifetime_seconds {
        object.number("lifetime_seconds", seconds);
    }
    object
        .texts("capabilities", &template.capabilities)
        .pairs("constraints", &template.constraints);
}

impl State {
    pub(super) fn restock_all(&mut self, config: &PluginConfig, now_ms: u64) {
        for index in 0..self.shelves.len() {
            self.restock(config, index, now_ms);
        }
    }

    /// Asks for what a shelf lacks.
    pub(super) fn restock(&mut self, config: &PluginConfig, index: usize, now_ms: u64) {
        let Some(shelf) = self.shelves.get_mut(index) else {
            return;
        };
        let service = shelf.service;
        let waiting = self.waiting.count_for(service, shelf.wares.scheme());
        if !shelf.may_want(now_ms, waiting) {
            return;
        }
        let held: usize = self.shelves.iter().map(Shelf::len).sum();
        let mut room = ALL_OFFERS.saturating_sub(held);
        let client = self.waiting.only_client(service).map(|prefix| ClientHint {
            prefix: prefix.to_string(),
            has_paid: self.clients.is_known_to_have_paid(prefix),
        });
        if client.is_some() {
            // On behalf of one client only what it waits for; the stock is filled by itself.
            room = 0;
        }
        let Some(shelf) = self.shelves.get_mut(index) else {
            return;
        };
        while let Some(count) = shelf.wanted(now_ms, waiting, room) {
            let what = (index, count);
            if !self
                .sidecar
                .ask_for_offers(config, what, &shelf.wares, client.as_ref())
            {
                return;
            }
            shelf.call_begun(count);
            room = room.saturating_sub(usize::from(count));
        }
    }
}

impl Gate {
    /// The next call to make.
    pub fn next_call(&mut self) -> Option<Call> {
        self.state.sidecar.calls.pop_front()
    }

    /// The next thing that an operator should read.
    pub fn next_notice(&mut self) -> Option<Notice> {
        self.state.sidecar.notices.pop_front()
    }

    /// A call has been answered, or could not be made. Held requests may now be due.
    pub fn answered(&mut self, kind: CallKind, answer: &Answer<'_>, now_ms: u64) -> CallResult {
        match kind {
            CallKind::Bootstrap => self.bootstrapped(answer, now_ms),
            CallKind::Offers { shelf, count } => self.offered(shelf, count, answer, now_ms),
            CallKind::Claim { .. } | CallKind::Abandon { .. } if !payment::IS_BUILT_IN => {
                CallResult::Failed
            }
            CallKind::Claim { number } => self.claimed(number, answer, now_ms),
            CallKind::Abandon { number } => self.heard_abandoned(number, answer),
        }
    }

    fn bootstrapped(&mut self, answer: &Answer<'_>, now_ms: u64) -> CallResult {
        let state = &mut self.state;
        let told = match answer {
            Answer { status: 0, .. } => Err(NOT_MADE.to_owned()),
            Answer {
                is_marked: false,
                status,
                ..
            } => Err(format!("status {status}, not from the sidecar itself")),
            Answer {
                status: 200, body, ..
            } => Ok(Some(*body)),
            Answer { status: 304, .. } => Ok(None),
            Answer { status: 401, .. } => Err(format!(
                "it does not accept the token in {}",
                self.config.sidecar.token_env
            )),
            Answer { status, .. } => Err(format!("status {status}")),
        };
        let before = state.keys.generation;
        let polled = state.sidecar.poll.answered(now_ms, &mut state.keys, told);
        if state.keys.generation != before {
            state.charge_keys = payment::charge_keys(&self.config, &state.keys);
        }
        let notices = &mut state.sidecar.notices;
        match polled {
            Polled::First => {
                notices.push_back(Notice::Info("keys received from the sidecar".to_owned()));
                state.waiting.keys_arrived();
                CallResult::Ok
            }
            Polled::Ok => CallResult::Ok,
            Polled::Recovered => {
                notices.push_back(Notice::Info("the sidecar answers again".to_owned()));
                CallResult::Ok
            }
            Polled::NewFault(fault) => {
                notices.push_back(Notice::Error(format!("no keys from the sidecar: {fault}")));
                CallResult::Failed
            }
            Polled::SameFault => CallResult::Failed,
        }
    }

    fn offered(
        &mut self,
        index: usize,
        count: u16,
        answer: &Answer<'_>,
        now_ms: u64,
    ) -> CallResult {
        let state = &mut self.state;
        let Some(shelf) = state.shelves.get_mut(index) else {
            return CallResult::Failed;
        };
        let (service, scheme) = (shelf.service, shelf.wares.scheme());
        let result = match offers_in(answer, scheme) {
            Ok(offers) => {
                shelf.arrived(count, offers);
                if std::mem::take(&mut state.sidecar.says_no_offers) {
                    let notice = "the sidecar makes offers again".to_owned();
                    state.sidecar.notices.push_back(Notice::Info(notice));
                }
                CallResult::Ok
            }
            Err(no_offers) => {
                shelf.failed(count, now_ms, no_offers);
                if !std::mem::replace(&mut state.sidecar.says_no_offers, true) {
                    let status = answer.status;
                    let notice = format!("no offers from the sidecar: status {status}");
                    state.sidecar.notices.push_back(Notice::Error(notice));
                }
                let NoOffers {
                    status,
                    retry_after_seconds,
                } = no_offers;
                let count = usize::from(count);
                let State {
                    waiting, clients, ..
                } = &mut *state;
                let what = (service, scheme);
                waiting.offers_refused(what, count, status, retry_after_seconds, |client| {
                    clients.give_back(client, now_ms);
                });
                if answer.is_marked {
                    CallResult::Refused
                } else {
                    CallResult::Failed
                }
            }
        };
        state.hand_out(service, now_ms);
        state.restock_service(&self.config, service, now_ms);
        result
    }
}

/// The offers, or what a client is told instead.
fn offers_in(answer: &Answer<'_>, scheme: Scheme) -> Result<Vec<Offer>, NoOffers> {
    let retry_after_seconds = answer
        .retry_after
        .unwrap_or(RETRY_AFTER_SECONDS)
        .clamp(1, LONGEST_RETRY_SECONDS);
    let no_offers = |status| NoOffers {
        status,
        retry_after_seconds,
    };
    match answer {
        Answer {
            is_marked: true,
            status: 200,
            body,
            ..
        } => {
            let json = Json::parse(body);
            let offers = json
                .as_ref()
                .and_then(|json| json.list("offers"))
                .unwrap_or_default();
            let offers: Option<Vec<_>> = offers
                .iter()
                .map(|offer| Offer::read(offer, scheme))
                .collect();
            offers
                .filter(|offers| !offers.is_empty())
                .ok_or(no_offers(503))
        }
        Answer {
            is_marked: true,
            status: 429,
            ..
        } => Err(no_offers(429)),
        Answer {
            is_marked: true, ..
        } => Err(no_offers(503)),
        Answer { .. } => Err(NoOffers {
            status: 503,
            retry_after_seconds: RETRY_AFTER_SECONDS,
        }),
    }
}
