//! What became of a request: a closed set of words for access logs and metrics.

macro_rules! outcomes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $word:literal,)+) => {
        /// What became of a request.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum Outcome {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Outcome {
            /// All there are.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word in logs and metrics.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}

outcomes! {
    /// Forwarded: the host is not ours.
    Foreign = "foreign",
    /// Forwarded: on a host of ours, matched by no service, and the policy lets such pass.
    Passed = "passed",
    /// Forwarded: on a free path.
    Free = "free",
    /// Forwarded: paid for.
    Paid = "paid",
    /// 402: no credential.
    Challenged = "challenged",
    /// 402 (or 401 by setting): a credential that is not good.
    Refused = "refused",
    /// 401: no good credential on a path where no invoice may be made.
    Unauthorized = "unauthorized",
    /// 429: too many challenges.
    Limited = "limited",
    /// 503: a fault of ours.
    Unavailable = "unavailable",
    /// 400: an upstream could read it otherwise than we do.
    Ambiguous = "ambiguous",
    /// 404: on a host of ours, matched by no service.
    Unmatched = "unmatched",
    /// 403: sold by the Payment scheme only, and the request came without TLS.
    Insecure = "insecure",
    /// 200: a deposit was added to a session.
    ToppedUp = "topped_up",
    /// 200: a session was closed.
    Closed = "closed",
    /// A CORS preflight, answered here.
    Preflight = "preflight",
}

/// Counter of requests by outcome, and by service where there is one. Services come from the
/// policy and outcomes are a closed set, so the number of names is bounded.
#[must_use]
pub fn requests_counter(outcome: Outcome, service: Option<&str>) -> String {
    let service = service.unwrap_or("-");
    format!(
        "boltgate_requests_total.outcome.{}.service.{service}",
        outcome.word()
    )
}

/// Histogram: how long requests were held for the sidecar, in microseconds.
pub const HELD_HISTOGRAM: &str = "boltgate_held_microseconds";

/// What became of a call to the sidecar.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CallResult {
    /// Answered as hoped.
    Ok,
    /// The sidecar said no (429, 503).
    Refused,
    /// Anything else.
    Failed,
}

impl CallResult {
    /// The word in metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Counter of calls to the sidecar.
#[must_use]
pub fn calls_counter(call: &str, result: CallResult) -> String {
    format!(
        "boltgate_sidecar_calls_total.call.{call}.result.{}",
        result.word()
    )
}
