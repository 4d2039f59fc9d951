//! Calls to the sidecar: when, what, and what their answers mean.

mod offers;

use std::collections::VecDeque;

use protocol::encoding::hex_encode;
use protocol::policy::{PluginConfig, Service, Tls};

use super::bootstrap::{Fault, FaultKind, Keys, Poll, Polled};
use super::{Gate, Now, Origin, claims, millis, payment};
use crate::outcome::CallResult;

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
    /// May these requests be served for what they have paid?
    Claim {
        /// Of the call.
        number: u64,
    },
    /// Attempts that were not served.
    Abandon {
        /// Of the batch.
        number: u64,
    },
    /// What this VM has spent and wants to spend of accounts.
    Leases {
        /// Of the reports.
        number: u64,
    },
    /// A session is to begin.
    Open {
        /// Of the call.
        number: u64,
    },
    /// A deposit is to be added to one.
    TopUp {
        /// Of the call.
        number: u64,
    },
    /// One is to end.
    Close {
        /// Of the call.
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
            Self::Leases { .. } => "leases",
            Self::Open { .. } => "open",
            Self::TopUp { .. } => "topup",
            Self::Close { .. } => "close",
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
    /// The call could not be made since Envoy knows no cluster of that name.
    pub no_cluster: bool,
}

impl Answer<'_> {
    /// What is wrong with a call that could not be made, or to which nobody answered; `setting`
    /// names the cluster.
    fn absence(&self, cluster: &str, setting: &str) -> Option<Fault> {
        let (text, kind) = match self.status {
            0 if self.no_cluster => (
                format!("Envoy knows no cluster {cluster:?} ({setting})"),
                FaultKind::NotMade,
            ),
            0 => ("the call could not be made".to_owned(), FaultKind::NotMade),
            _ if self.is_marked => return None,
            status => (
                format!("status {status}, not from the sidecar itself"),
                match status {
                    503 | 504 => FaultKind::Away,
                    _ => FaultKind::Wrong,
                },
            ),
        };
        Some(Fault { text, kind })
    }
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
    says_no_offers: Option<Loudness>,
    /// When it was said last that keys are too old.
    says_old_ms: Option<u64>,
}

/// How something was said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Loudness {
    /// As what may pass by itself.
    Low,
    /// As a fault.
    High,
}

/// How often it is said that keys are too old.
const OLD_KEYS_EACH_MS: u64 = 60_000;

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
        let payment = config.payment.as_ref().filter(|_| payment::IS_BUILT_IN);
        let sells_payment =
            |service: &Service| service.charge().is_some() || service.session().is_some();
        if payment.is_some_and(|payment| payment.tls == Tls::Required)
            && config.policy.services().iter().any(sells_payment)
        {
            let notice = "charges and sessions are offered on https requests only (payment.tls)";
            notices.push_back(Notice::Info(notice.to_owned()));
        }
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
            says_no_offers: None,
            says_old_ms: None,
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

    /// Says it when keys have become too old, and again as long as they are.
    pub(super) fn look_at_age(&mut self, config: &PluginConfig, now_ms: u64, keys: &Keys) {
        let age_ms = keys.age_ms(now_ms);
        if keys.is_absent() || age_ms <= millis(config.revocation_max_age) {
            self.says_old_ms = None;
            return;
        }
        let is_said = |said: u64| now_ms.abs_diff(said) < OLD_KEYS_EACH_MS;
        if self.says_old_ms.is_some_and(is_said) {
            return;
        }
        self.says_old_ms = Some(now_ms);
        let age = match age_ms {
            u64::MAX => "of unknown age".to_owned(),
            age_ms => format!("{} s old", age_ms / 1_000),
        };
        self.notices.push_back(Notice::Error(format!(
            "keys and revocations are {age}: paid requests are answered 503 until the sidecar \
             answers (cluster {:?})",
            config.sidecar.cluster
        )));
    }

    /// `false` without a token.
    pub(super) fn call(
        &mut self,
        config: &PluginConfig,
        kind: CallKind,
        cluster: &str,
        target: (&str, String),
        body: Vec<u8>,
    ) -> bool {
        let timeout_ms = millis(config.sidecar.timeout);
        self.call_within(config, kind, cluster, target, body, timeout_ms)
    }

    /// The same with a timeout of its own.
    pub(super) fn call_within(
        &mut self,
        config: &PluginConfig,
        kind: CallKind,
        cluster: &str,
        (method, path): (&str, String),
        body: Vec<u8>,
        timeout_ms: u64,
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
            timeout_ms: u32::try_from(timeout_ms).unwrap_or(u32::MAX),
        });
        true
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
    pub fn answered(&mut self, kind: CallKind, answer: &Answer<'_>, now: Now) -> CallResult {
        match kind {
            CallKind::Bootstrap => self.bootstrapped(answer, now.ms),
            CallKind::Offers { shelf, count } => self.offered(shelf, count, answer, now.ms),
            _ if !payment::IS_BUILT_IN => CallResult::Failed,
            CallKind::Claim { number } => self.claimed(number, answer, now.ms),
            CallKind::Abandon { number } => self.heard_abandoned(number, answer),
            CallKind::Leases { number } => self.reported(number, answer, now),
            CallKind::Open { number } | CallKind::TopUp { number } | CallKind::Close { number } => {
                self.ran_errand(number, answer, now)
            }
        }
    }

    fn bootstrapped(&mut self, answer: &Answer<'_>, now_ms: u64) -> CallResult {
        let state = &mut self.state;
        let sidecar = &self.config.sidecar;
        let wrong = |text| {
            Err(Fault {
                text,
                kind: FaultKind::Wrong,
            })
        };
        let told = match (
            answer.absence(&sidecar.cluster, "sidecar.cluster"),
            answer.status,
        ) {
            (Some(fault), _) => Err(fault),
            (None, 200) => Ok(Some(answer.body)),
            (None, 304) => Ok(None),
            (None, 401) => wrong(format!(
                "it does not accept the token in {}",
                sidecar.token_env
            )),
            (None, status) => wrong(format!("status {status}")),
        };
        let before = state.keys.generation;
        let polled = state.sidecar.poll.answered(now_ms, &mut state.keys, told);
        if state.keys.generation != before {
            state.derive_keys(&self.config);
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
            Polled::EarlyFault(fault) => {
                notices.push_back(Notice::Info(format!(
                    "no keys from the sidecar yet: {fault}"
                )));
                CallResult::Failed
            }
            Polled::SameFault => CallResult::Failed,
        }
    }
}
