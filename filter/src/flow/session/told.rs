//! What the answers about a session as a whole mean.

use std::borrow::Cow;

use protocol::json::Json;
use protocol::payment::Refusal;
use protocol::payment::receipt::{Refund, RefundStatus};
use protocol::time::UnixSeconds;

use super::errand::Job;
use crate::flow::reply::Why;
use crate::flow::sidecar::Answer;

/// Longest text of the sidecar's that is passed on to a client.
const LONGEST_REASON: usize = 200;

/// The result had been recorded before this call.
type IsRepeated = bool;

/// What a client is told.
pub(super) enum Told {
    /// Whatever the sidecar said is of no use: 503.
    Fault,
    /// Not now: 503.
    NotNow,
    Refused(Why),
    Opened(UnixSeconds, IsRepeated),
    Credited(UnixSeconds, IsRepeated),
    Closed(UnixSeconds, Refund, IsRepeated),
}

impl Told {
    /// Only what the sidecar itself says counts.
    pub(super) fn of(job: &Job, answer: &Answer<'_>, json: Option<&Json<'_>>) -> Self {
        let Some(json) = json.filter(|_| answer.is_marked && answer.status == 200) else {
            return Self::Fault;
        };
        let at = json.number("at").map(UnixSeconds);
        let (Some(result), Some(at)) = (json.text("result"), at) else {
            return Self::Fault;
        };
        match (job, result) {
            // What was opened before comes without a lease.
            (Job::Open(..), "opened") => Self::Opened(at, json.get("lease").is_none()),
            (Job::TopUp, "credited") => Self::Credited(at, is_repeated(json)),
            (Job::Close(_), "closed") => {
                let status = json.text("refund_status").and_then(RefundStatus::from_name);
                match (json.number("refund_sats"), status) {
                    (Some(sats), Some(status)) => {
                        Self::Closed(at, Refund { sats, status }, is_repeated(json))
                    }
                    _ => Self::Fault,
                }
            }
            (Job::Open(..) | Job::TopUp, "unsettled") => Self::NotNow,
            (_, "consumed") => Self::Refused(Why::CONSUMED),
            (_, "expired") => Self::Refused(Refusal::ChallengeExpired.into()),
            (Job::Open(..), "closed")
            | (Job::TopUp, "closed")
            | (Job::Close(_), "already-closed") => Self::Refused(Why::SESSION_CLOSED),
            (Job::TopUp | Job::Close(_), "not-found") => Self::Refused(Why::SESSION_NOT_FOUND),
            (Job::Open(..), "too-little") => Self::Refused(Why::INSUFFICIENT_BALANCE),
            (Job::Open(..), "invalid-return-invoice") => Self::Refused(bad_invoice(json)),
            _ => Self::Fault,
        }
    }

    /// Nothing came of the call that an earlier one had not done: who makes such calls again and
    /// again is slowed down.
    pub(super) const fn costs_a_look_up(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::Opened(_, is_repeated)
            | Self::Credited(_, is_repeated)
            | Self::Closed(_, _, is_repeated) => *is_repeated,
            Self::Fault | Self::NotNow => false,
        }
    }
}

/// A sidecar that is older than this filter does not say.
fn is_repeated(json: &Json<'_>) -> IsRepeated {
    json.bool("repeated").unwrap_or(false)
}

/// With the sidecar's words for it, if they are fit to be passed on.
fn bad_invoice(json: &Json<'_>) -> Why {
    let words = json.text("reason").filter(|words| {
        (1..=LONGEST_REASON).contains(&words.len()) && !words.chars().any(char::is_control)
    });
    Why {
        reason: words.map_or(Why::INVALID_RETURN_INVOICE.reason, |words| {
            Cow::Owned(words.to_owned())
        }),
        ..Why::INVALID_RETURN_INVOICE
    }
}
