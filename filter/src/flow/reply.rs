//! Replies that the gate makes itself.

use std::borrow::Cow;

use protocol::http::problem;
use protocol::l402;
use protocol::payment;
use protocol::payment::jcs::Object;
use protocol::payment::problem::ProblemType;
use protocol::payment::receipt::{self, Receipt};
use protocol::policy::Unit;

use super::Note;
use super::stock::{Goods, Offer};
use crate::outcome::Outcome;

/// How a client wants to be talked to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Manner {
    /// A gRPC request: one frame of trailers.
    pub(super) grpc: bool,
    /// A browser asks across origins: it hides headers that are not named.
    pub(super) cors: bool,
    /// A HEAD request: no body can come.
    pub(super) head: bool,
    /// The client has set a deadline of its own, which others than the gate may keep to.
    pub(super) deadline: bool,
}

impl Manner {
    /// What the service sells as one unit, to this request: an answer without a body has no events,
    /// and is sold as a whole.
    pub(super) const fn unit(self, unit: Unit) -> Unit {
        match self.head {
            true => Unit::Request,
            false => unit,
        }
    }
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

const PAYMENT_REQUIRED: &str = ProblemType::PaymentRequired.uri();
const VERIFICATION_FAILED: &str = ProblemType::VerificationFailed.uri();

/// Why a credential was refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Why {
    /// For people.
    pub(super) reason: Cow<'static, str>,
    /// What the Payment scheme calls it, if the credential was of that scheme.
    pub(super) problem: Option<ProblemType>,
}

impl Why {
    /// A credential of a scheme by which the service is not sold.
    pub(super) const SCHEME_NOT_SOLD: Self = Self {
        reason: Cow::Borrowed("not sold by this authentication scheme"),
        problem: None,
    };
    /// A charge that has been used already.
    pub(super) const CONSUMED: Self = Self {
        reason: Cow::Borrowed("challenge already used"),
        problem: Some(ProblemType::UnknownChallenge),
    };
    /// A session challenge of another service, or of long ago (X3).
    pub(super) const PRICE_NOT_OFFERED: Self = Self {
        reason: Cow::Borrowed("the challenge is for another price than this"),
        problem: Some(ProblemType::UnknownChallenge),
    };
    /// What is left in a session is less than one unit.
    pub(super) const INSUFFICIENT_BALANCE: Self = Self {
        reason: Cow::Borrowed("the session cannot pay for this: top it up"),
        problem: Some(ProblemType::InsufficientBalance),
    };
    /// Nothing more can be had of a session.
    pub(super) const SESSION_CLOSED: Self = Self {
        reason: Cow::Borrowed("the session is closed"),
        problem: Some(ProblemType::SessionClosed),
    };
    /// Nobody has opened it.
    pub(super) const SESSION_NOT_FOUND: Self = Self {
        reason: Cow::Borrowed("there is no such session"),
        problem: Some(ProblemType::SessionNotFound),
    };
    /// A refund could not go there.
    pub(super) const INVALID_RETURN_INVOICE: Self = Self {
        reason: Cow::Borrowed("refunds cannot be paid to this invoice"),
        problem: Some(ProblemType::InvalidReturnInvoice),
    };
}

impl From<l402::Refusal> for Why {
    fn from(refusal: l402::Refusal) -> Self {
        Self {
            reason: refusal.reason().into(),
            problem: None,
        }
    }
}

impl From<payment::Refusal> for Why {
    fn from(refusal: payment::Refusal) -> Self {
        Self {
            reason: refusal.reason().into(),
            problem: refusal.problem_type(),
        }
    }
}

/// What a 402 offers.
pub(super) struct Sale<'a> {
    /// One for each scheme.
    pub(super) offers: &'a [Offer],
    pub(super) price_sats: u64,
    /// Why the credential that came was refused, if one came.
    pub(super) refused: Option<Why>,
}

/// Invoice and macaroon of an offer of a token.
fn token_of(offer: &Offer) -> Option<(&str, &str)> {
    match &offer.goods {
        Goods::Token(macaroon) => Some((&offer.invoice, macaroon)),
        Goods::Charge(_) | Goods::Deposit(_) => None,
    }
}

/// Lets a browser's page see the reply and what it says.
fn expose(headers: &mut Vec<(&'static str, String)>, manner: Manner) {
    if manner.cors {
        headers.push(("access-control-allow-origin", "*".to_owned()));
        let names = "WWW-Authenticate, Retry-After, Payment-Receipt".to_owned();
        headers.push(("access-control-expose-headers", names));
    }
}

/// Title, HTTP status and gRPC status of a sort of problem.
type Kind = (&'static str, u16, u8);

impl Reply {
    fn problem(kind: Kind, detail: &str, manner: Manner, note: Note) -> Self {
        Self::with_problem(kind, detail, manner, note, None, None)
    }

    fn with_problem(
        (title, status, grpc_status): Kind,
        detail: &str,
        manner: Manner,
        note: Note,
        named: Option<ProblemType>,
        sale: Option<&Sale<'_>>,
    ) -> Self {
        let mut headers = vec![("cache-control", "no-store".to_owned())];
        expose(&mut headers, manner);
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
        let kind = match (named, note.outcome) {
            (Some(kind), _) => kind.uri(),
            (None, Outcome::Challenged) => PAYMENT_REQUIRED,
            (None, Outcome::Refused) if sale.is_some() => VERIFICATION_FAILED,
            _ => "about:blank",
        };
        let mut body = Object::with_capacity(1_024);
        body.text("type", kind)
            .text("title", title)
            .number("status", status.into())
            .text("detail", detail);
        if let Some(sale) = sale {
            let service = note.service.as_ref().map(|service| &*service.name);
            body.optional("service", service)
                .number("price_sats", sale.price_sats);
            // Some clients pay the invoice that they find here, so it must not come alone.
            if let Some((invoice, macaroon)) = sale.offers.iter().find_map(token_of) {
                body.text("invoice", invoice).text("macaroon", macaroon);
            }
        }
        Self {
            status,
            headers,
            body: body.finish(),
            grpc_status: None,
            note,
        }
    }

    /// 402 with offers, or `status` where the operator wants another for refused credentials.
    /// `payment` are the lines of the offers by the Payment scheme.
    pub(super) fn challenge(
        sale: &Sale<'_>,
        status: u16,
        lsat_line: bool,
        payment: impl IntoIterator<Item = String>,
        manner: Manner,
        note: Note,
    ) -> Self {
        const NAME: &str = "www-authenticate";
        let refused = sale.refused.as_ref();
        let named = refused.and_then(|why| why.problem);
        let detail = match refused {
            Some(why) => &*why.reason,
            None => "this resource is sold by the request",
        };
        let title = match named {
            _ if status != 402 => "Unauthorized",
            Some(kind) => kind.title(),
            None => "Payment Required",
        };
        let kind = (title, status, 13);
        let mut reply = Self::with_problem(kind, detail, manner, note, named, Some(sale));
        if manner.grpc {
            "payment required".clone_into(&mut reply.body);
        }
        // In the order that every known client can read.
        if let Some((invoice, macaroon)) = sale.offers.iter().find_map(token_of) {
            if lsat_line {
                let line = l402::challenge::lsat_line(macaroon, invoice);
                reply.headers.push((NAME, line));
            }
            let line = l402::challenge::l402_line(macaroon, invoice);
            reply.headers.push((NAME, line));
        }
        let payment = payment.into_iter().map(|line| (NAME, line));
        reply.headers.extend(payment);
        reply
    }

    /// 400 for a Payment credential to which no challenge is the answer.
    pub(super) fn bad_credential(refusal: payment::Refusal, manner: Manner, note: Note) -> Self {
        let note = Note {
            outcome: Outcome::Refused,
            ..note
        };
        let why = Why::from(refusal);
        let title = why.problem.map_or("Bad Request", ProblemType::title);
        let kind = (title, 400, 3);
        Self::with_problem(kind, &why.reason, manner, note, why.problem, None)
    }

    /// 200 for what was done to a session (spec/payment-auth section 2.7), with its receipt.
    pub(super) fn managed(receipt: &Receipt<'_>, body: String, manner: Manner, note: Note) -> Self {
        let mut headers = vec![
            ("cache-control", "private, no-store".to_owned()),
            (receipt::HEADER, receipt.to_header()),
        ];
        expose(&mut headers, manner);
        if !manner.grpc {
            headers.push(("content-type", "application/json".to_owned()));
        }
        Self {
            status: 200,
            headers,
            body,
            grpc_status: manner.grpc.then_some(0),
            note,
        }
    }

    /// 403: what is sold by the Payment scheme alone, to a request without TLS.
    pub(super) fn insecure(manner: Manner, note: Note) -> Self {
        let note = Note {
            outcome: Outcome::Insecure,
            ..note
        };
        let detail = "the Payment scheme is for https only";
        Self::problem(("Forbidden", 403, 7), detail, manner, note)
    }

    fn with_retry_after(mut self, seconds: u64) -> Self {
        self.headers.push(("retry-after", seconds.to_string()));
        self
    }

    /// 401 without a challenge: where no invoice may be made.
    pub(super) fn unauthorized(refused: Option<&Why>, manner: Manner, note: Note) -> Self {
        let detail = refused.map_or(
            "a paid credential is needed, and none is sold here",
            |why| &*why.reason,
        );
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

    /// 502 in the place of a response whose events cannot be counted.
    #[must_use]
    pub fn uncountable(service: &super::ServiceTag) -> Self {
        let note = Note {
            service: Some(service.clone()),
            ..Note::of(Outcome::Unavailable)
        };
        let detail = "the upstream has compressed a stream whose events are sold one by one";
        Self::problem(("Bad Gateway", 502, 14), detail, Manner::default(), note)
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
