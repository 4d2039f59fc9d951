//! Replies that the gate makes itself.

use protocol::api::Offer;
use protocol::http::problem::{self, Problem};
use protocol::l402::challenge;

use super::Note;
use crate::outcome::Outcome;

/// How a client wants to be talked to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Manner {
    /// A gRPC request: one frame of trailers.
    pub(super) grpc: bool,
    /// A browser asks across origins: it hides headers that are not named.
    pub(super) cors: bool,
}

/// A reply for the host to send. With it the stream is decided: it is never resumed.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Fields besides those that Envoy adds.
    pub headers: Vec<(&'static str, String)>,
    /// The body, or the message of a gRPC status.
    pub body: String,
    /// Only on gRPC requests: on any other Envoy would turn it into a 200.
    pub grpc_status: Option<u8>,
    /// For logs and metrics.
    pub note: Note,
}

const PAYMENT_REQUIRED: &str = "https://paymentauth.org/problems/payment-required";
const VERIFICATION_FAILED: &str = "https://paymentauth.org/problems/verification-failed";

impl Reply {
    fn problem(
        (title, status, grpc_status): (&'static str, u16, u8),
        detail: &str,
        manner: Manner,
        note: Note,
        extend: impl FnOnce(Problem) -> Problem,
    ) -> Self {
        let mut headers = vec![("cache-control", "no-store".to_owned())];
        if manner.cors {
            headers.push(("access-control-allow-origin", "*".to_owned()));
            let names = "WWW-Authenticate, Retry-After".to_owned();
            headers.push(("access-control-expose-headers", names));
        }
        if manner.grpc {
            let body = detail.to_owned();
            return Self {
                status: 200,
                headers,
                body,
                grpc_status: Some(grpc_status),
                note,
            };
        }
        let kind = match note.outcome {
            Outcome::Challenged => PAYMENT_REQUIRED,
            Outcome::Refused => VERIFICATION_FAILED,
            _ => "about:blank",
        };
        let body = extend(Problem::new(kind, title, status).with_detail(detail)).to_json();
        headers.push(("content-type", problem::CONTENT_TYPE.to_owned()));
        Self {
            status,
            headers,
            body,
            grpc_status: None,
            note,
        }
    }

    /// 402 with an offer, or `status` where the operator wants another for refused credentials.
    pub(super) fn challenge(
        offer: &Offer,
        price_sats: u64,
        refused: Option<&'static str>,
        status: u16,
        manner: Manner,
        note: Note,
    ) -> Self {
        let detail = refused.unwrap_or("this resource is sold by the request");
        let title = if status == 402 {
            "Payment Required"
        } else {
            "Unauthorized"
        };
        let service = note
            .service
            .as_ref()
            .map(|service| service.name.to_string());
        let mut reply = Self::problem((title, status, 13), detail, manner, note, |problem| {
            problem
                .with("service", service.unwrap_or_default())
                .with("price_sats", price_sats)
                .with("invoice", offer.invoice.as_str())
                .with("macaroon", offer.macaroon.as_str())
        });
        if manner.grpc {
            "payment required".clone_into(&mut reply.body);
        }
        reply
    }

    /// The lines of a challenge, in the order that every known client can read.
    pub(super) fn with_challenge(mut self, offer: &Offer, lsat_line: bool) -> Self {
        const NAME: &str = "www-authenticate";
        if lsat_line {
            self.headers
                .push((NAME, challenge::lsat_line(&offer.macaroon, &offer.invoice)));
        }
        self.headers
            .push((NAME, challenge::l402_line(&offer.macaroon, &offer.invoice)));
        self
    }

    fn with_retry_after(mut self, seconds: u64) -> Self {
        self.headers.push(("retry-after", seconds.to_string()));
        self
    }

    /// 401 without a challenge: where no invoice may be made.
    pub(super) fn unauthorized(
        refused: Option<&'static str>,
        manner: Manner,
        mut note: Note,
    ) -> Self {
        note.outcome = Outcome::Unauthorized;
        let detail = refused.unwrap_or("a paid credential is needed, and none is sold here");
        Self::problem(("Unauthorized", 401, 16), detail, manner, note, |problem| {
            problem
        })
    }

    /// 429.
    pub(super) fn limited(retry_after: u64, manner: Manner, mut note: Note) -> Self {
        note.outcome = Outcome::Limited;
        let kind = ("Too Many Requests", 429, 8);
        Self::problem(kind, "too many unpaid requests", manner, note, |problem| {
            problem
        })
        .with_retry_after(retry_after)
    }

    /// 503: a fault of ours. Never with a challenge, since several clients would pay again.
    pub(super) fn unavailable(retry_after: u64, manner: Manner, mut note: Note) -> Self {
        note.outcome = Outcome::Unavailable;
        let kind = ("Service Unavailable", 503, 14);
        Self::problem(
            kind,
            "payments cannot be handled just now",
            manner,
            note,
            |problem| problem,
        )
        .with_retry_after(retry_after)
    }

    /// 503 for a request about which nothing is known any more.
    #[must_use]
    pub fn fault() -> Self {
        let note = Note::of(Outcome::Unavailable);
        Self::unavailable(super::RETRY_AFTER_SECONDS, Manner::default(), note)
    }

    /// 400: an upstream could read the request otherwise than we do.
    pub(super) fn ambiguous(reason: &str, manner: Manner) -> Self {
        let (kind, note) = (("Bad Request", 400, 3), Note::of(Outcome::Ambiguous));
        let detail = ["the request ", reason].concat();
        Self::problem(kind, &detail, manner, note, |problem| problem)
    }

    /// 414: looking for a service would take too long.
    pub(super) fn too_long(manner: Manner) -> Self {
        let (kind, note) = (("URI Too Long", 414, 3), Note::of(Outcome::Ambiguous));
        Self::problem(kind, "the path is too long", manner, note, |problem| {
            problem
        })
    }

    /// 404: nothing is sold or given away there.
    pub(super) fn unmatched(manner: Manner) -> Self {
        let (kind, note) = (("Not Found", 404, 12), Note::of(Outcome::Unmatched));
        Self::problem(
            kind,
            "no service is offered here",
            manner,
            note,
            |problem| problem,
        )
    }

    /// 204: yes to a CORS preflight, which asks for nothing that is paid.
    pub(super) fn preflight(method: &[u8], headers: Option<&[u8]>, note: Note) -> Self {
        let allowed = match headers.and_then(field_names) {
            Some(names) => ["authorization, ", names].concat(),
            None => "authorization".to_owned(),
        };
        let methods = match token(method) {
            Some(method) => ["GET, HEAD, POST, ", method].concat(),
            None => "GET, HEAD, POST".to_owned(),
        };
        Self {
            status: 204,
            headers: vec![
                ("access-control-allow-origin", "*".to_owned()),
                ("access-control-allow-methods", methods),
                ("access-control-allow-headers", allowed),
                ("access-control-max-age", "600".to_owned()),
                (
                    "vary",
                    "origin, access-control-request-method, access-control-request-headers"
                        .to_owned(),
                ),
            ],
            body: String::new(),
            grpc_status: None,
            note,
        }
    }
}

/// A list of header names that is safe to say back.
fn field_names(value: &[u8]) -> Option<&str> {
    let is_safe =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b',' | b' ');
    (value.len() <= 4_096 && value.iter().all(is_safe))
        .then(|| std::str::from_utf8(value).ok())
        .flatten()
        .filter(|names| !names.is_empty())
}

fn token(value: &[u8]) -> Option<&str> {
    (value.len() <= 32 && value.iter().all(u8::is_ascii_alphabetic))
        .then(|| std::str::from_utf8(value).ok())
        .flatten()
        .filter(|method| !method.is_empty())
}
