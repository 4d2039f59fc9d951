//! Replies that the gate makes itself.

use protocol::http::problem;
use protocol::l402::challenge;
use serde::Serialize;

use super::Note;
use super::stock::Offer;
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

/// The body: RFC 9457 with the extensions of a 402.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    price_sats: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    invoice: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    macaroon: Option<&'a str>,
}

/// Title, HTTP status and gRPC status of a sort of problem.
type Kind = (&'static str, u16, u8);

impl Reply {
    fn problem(kind: Kind, detail: &str, manner: Manner, note: Note) -> Self {
        Self::with_problem(kind, detail, manner, note, None)
    }

    fn with_problem(
        (title, status, grpc_status): Kind,
        detail: &str,
        manner: Manner,
        note: Note,
        sale: Option<(&Offer, u64)>,
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
        headers.push(("content-type", problem::CONTENT_TYPE.to_owned()));
        let problem = Problem {
            r#type: match note.outcome {
                Outcome::Challenged => PAYMENT_REQUIRED,
                Outcome::Refused => VERIFICATION_FAILED,
                _ => "about:blank",
            },
            title,
            status,
            detail,
            service: note
                .service
                .as_ref()
                .filter(|_| sale.is_some())
                .map(|service| &*service.name),
            price_sats: sale.map(|(_, price)| price),
            invoice: sale.map(|(offer, _)| offer.invoice.as_str()),
            macaroon: sale.map(|(offer, _)| offer.macaroon.as_str()),
        };
        // Texts and numbers always have a form in JSON.
        let body = serde_json::to_string(&problem).unwrap_or_default();
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
        (offer, price_sats): (&Offer, u64),
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
        let sale = Some((offer, price_sats));
        let mut reply = Self::with_problem((title, status, 13), detail, manner, note, sale);
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
    pub(super) fn unauthorized(refused: Option<&'static str>, manner: Manner, note: Note) -> Self {
        let detail = refused.unwrap_or("a paid credential is needed, and none is sold here");
        let note = Note {
            outcome: Outcome::Unauthorized,
            ..note
        };
        Self::problem(("Unauthorized", 401, 16), detail, manner, note)
    }

    /// 429.
    pub(super) fn limited(retry_after: u64, manner: Manner, note: Note) -> Self {
        let note = Note {
            outcome: Outcome::Limited,
            ..note
        };
        Self::problem(
            ("Too Many Requests", 429, 8),
            "too many unpaid requests",
            manner,
            note,
        )
        .with_retry_after(retry_after)
    }

    /// 503: a fault of ours. Never with a challenge, since several clients would pay again.
    pub(super) fn unavailable(retry_after: u64, manner: Manner, note: Note) -> Self {
        let note = Note {
            outcome: Outcome::Unavailable,
            ..note
        };
        let detail = "payments cannot be handled just now";
        Self::problem(("Service Unavailable", 503, 14), detail, manner, note)
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
        let detail = ["the request ", reason].concat();
        Self::problem(
            ("Bad Request", 400, 3),
            &detail,
            manner,
            Note::of(Outcome::Ambiguous),
        )
    }

    /// 414: looking for a service would take too long.
    pub(super) fn too_long(manner: Manner) -> Self {
        let note = Note::of(Outcome::Ambiguous);
        Self::problem(
            ("URI Too Long", 414, 3),
            "the path is too long",
            manner,
            note,
        )
    }

    /// 404: nothing is sold or given away there.
    pub(super) fn unmatched(manner: Manner) -> Self {
        let note = Note::of(Outcome::Unmatched);
        Self::problem(
            ("Not Found", 404, 12),
            "no service is offered here",
            manner,
            note,
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
