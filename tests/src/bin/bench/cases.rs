//! The lines of the table: what is sent to which Envoy, and what it is compared with.

use std::net::SocketAddr;

use anyhow::Result;

use crate::{
    CONNECTIONS,
    load::{Connections, Load, Round, Streams},
    mint::Mints,
    sse::{Cut, Pacing},
    subjects::request,
};

/// Challenges of one round: what a filter keeps in stock lasts for them.
const CHALLENGES: usize = 400;
/// In the name of a case of another build, between case and build.
pub(crate) const OF: char = '@';

/// The order of the table.
pub(crate) const ORDER: [&str; 23] = [
    "bare",
    "noop",
    "free",
    "free-with-token",
    "l402-seen",
    "l402-fresh",
    BARE_PAYMENT,
    "bearer",
    "charge",
    "challenge-stock",
    "challenge-node-20ms",
    "jwt-authn",
    "ext-authz-h2",
    "services-1",
    "services-100",
    "services-1000",
    "revocations-10000",
    SSE_BARE,
    "sse-free",
    "sse",
    COALESCED_BARE,
    "sse-coalesced-free",
    "sse-coalesced",
];
/// With credentials of the Payment scheme, which are three times as long as a token of L402.
const BARE_PAYMENT: &str = "bare-payment";
const SSE_BARE: &str = "sse-bare";
const COALESCED_BARE: &str = "sse-coalesced-bare";

/// The case that is the whole of which another one is a fraction: the same through bare Envoy.
pub(crate) fn reference(case: &str) -> &'static str {
    match case.split(OF).next().unwrap_or(case) {
        case if case.starts_with("sse-coalesced") => COALESCED_BARE,
        case if case.starts_with("sse") => SSE_BARE,
        "bearer" | "charge" => BARE_PAYMENT,
        _ => "bare",
    }
}

/// How the streams of a case are cut.
pub(crate) fn cut(case: &str) -> Cut {
    Cut {
        chunks: 200,
        events: if reference(case) == COALESCED_BARE {
            16
        } else {
            1
        },
    }
}

/// One line of the table.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) pid: u32,
    pub(crate) connections: Connections,
    pub(crate) kind: Kind,
    /// Units that its answers have cost so far, or payments.
    pub(crate) units: u64,
}

/// What its requests are.
pub(crate) enum Kind {
    /// The same request each time.
    Same(Load),
    /// The same request each time, paid for by a session.
    Bearer(Load),
    /// Each with a token that was never seen.
    Fresh,
    /// Each with a charge that was never presented: durably claimed before it is forwarded.
    Charge,
    /// Without a token, each from another client address. No more in a round than the filter keeps
    /// in stock.
    Challenge,
    /// Streams of events below a path, with these header lines; a session pays if they are metered.
    Events {
        base: &'static str,
        more: String,
        is_metered: bool,
        pacing: Pacing,
    },
}

impl Case {
    /// Before each round: a session's lease is at hand, as it is where a session is in use.
    pub(crate) async fn warm(&mut self, mints: &mut Mints, requests: usize) -> Result<()> {
        if matches!(
            self.kind,
            Kind::Bearer(_)
                | Kind::Events {
                    is_metered: true,
                    ..
                }
        ) {
            let requests = self.requests(mints, requests)?;
            self.send(requests).await?;
        }
        Ok(())
    }

    /// What is sent in a round of so many requests.
    pub(crate) fn requests(&self, mints: &mut Mints, requests: usize) -> Result<Requests> {
        let load = match &self.kind {
            Kind::Same(load) | Kind::Bearer(load) => load.repeated(requests),
            Kind::Fresh => Load {
                requests: (0..requests)
                    .map(|_| Ok(paid("/v1/forecast", &mints.tokens.credential("weather")?)))
                    .collect::<Result<_>>()?,
                status: 200,
                has_receipt: false,
            },
            Kind::Charge => Load {
                requests: (0..requests)
                    .map(|_| {
                        Ok(paid(
                            "/v1/forecast",
                            &mints.payments.charge(rand::random())?,
                        ))
                    })
                    .collect::<Result<_>>()?,
                status: 200,
                has_receipt: true,
            },
            Kind::Challenge => Load {
                requests: (0..requests.min(CHALLENGES))
                    .map(|_| {
                        let [a, b, c] = rand::random::<[u8; 3]>();
                        request(
                            "/v1/forecast",
                            &format!("x-forwarded-for: 10.{a}.{b}.{c}\r\n"),
                        )
                    })
                    .collect(),
                status: 402,
                has_receipt: false,
            },
            Kind::Events { .. } => {
                let chunks = cut(&self.name).chunks * CONNECTIONS;
                return Ok(Requests::Streams(requests.div_ceil(chunks)));
            }
        };
        Ok(Requests::Load(load))
    }

    /// Sends it; each answer is as it should be.
    pub(crate) async fn send(&mut self, requests: Requests) -> Result<Round> {
        let round = match (&requests, &self.kind) {
            (
                Requests::Streams(count),
                Kind::Events {
                    base,
                    more,
                    is_metered,
                    pacing,
                },
            ) => {
                let streams = Streams {
                    base,
                    more,
                    cut: cut(&self.name),
                    is_metered: *is_metered,
                    count: *count,
                    pacing,
                };
                self.connections.stream(&streams).await?
            }
            (Requests::Load(load), _) => self.connections.send(load).await?,
            (Requests::Streams(_), _) => anyhow::bail!("this case has no streams"),
        };
        self.units += round.answers as u64;
        Ok(round)
    }
}

/// Requests of a round.
pub(crate) enum Requests {
    Load(Load),
    /// So many on each connection.
    Streams(usize),
}

/// A request with a credential.
pub(crate) fn paid(path: &str, credential: &str) -> Vec<u8> {
    request(path, &authorization(credential))
}

/// A header line.
pub(crate) fn authorization(credential: &str) -> String {
    format!("authorization: {credential}\r\n")
}

/// The same request each time, which is to be let through.
pub(crate) fn ok(request: Vec<u8>) -> Load {
    Load {
        requests: vec![request],
        status: 200,
        has_receipt: false,
    }
}

/// The same, paid for by the Payment scheme.
pub(crate) fn ok_with_receipt(request: Vec<u8>) -> Load {
    Load {
        has_receipt: true,
        ..ok(request)
    }
}
