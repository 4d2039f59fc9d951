//! The answers to calls on sessions, and their names in metrics.

use protocol::api::session::{
    CloseAnswer, CloseResult, OpenAnswer, OpenResult, TopUpAnswer, TopUpResult,
};

use crate::app::payments::NoDeposit;
use crate::domain::return_invoice::InvalidReturnInvoice;

/// An expired challenge is worth what was paid for it, and nothing without (design section 6).
pub(super) const fn not_opened(missing: NoDeposit, is_expired: bool) -> OpenResult {
    match (missing, is_expired) {
        (NoDeposit::Elsewhere, _) => OpenResult::Consumed,
        (NoDeposit::NotThere, true) => OpenResult::Expired,
        (NoDeposit::NotThere, false) | (NoDeposit::Unknown, _) => OpenResult::Unsettled,
    }
}

pub(super) const fn not_credited(missing: NoDeposit, is_expired: bool) -> TopUpResult {
    match (missing, is_expired) {
        (NoDeposit::Elsewhere, _) => TopUpResult::Consumed,
        (NoDeposit::NotThere, true) => TopUpResult::Expired,
        (NoDeposit::NotThere, false) | (NoDeposit::Unknown, _) => TopUpResult::Unsettled,
    }
}

pub(super) const fn unopened(result: OpenResult) -> OpenAnswer {
    OpenAnswer {
        result,
        at: 0,
        lease: None,
        terms: None,
        reason: None,
    }
}

pub(super) fn invalid_return_invoice(reason: &InvalidReturnInvoice) -> OpenAnswer {
    OpenAnswer {
        reason: Some(reason.to_string()),
        ..unopened(OpenResult::InvalidReturnInvoice)
    }
}

pub(super) const fn uncredited(result: TopUpResult) -> TopUpAnswer {
    TopUpAnswer {
        result,
        at: 0,
        repeated: false,
    }
}

pub(super) const fn unclosed(result: CloseResult) -> CloseAnswer {
    CloseAnswer {
        result,
        at: 0,
        refund_sats: 0,
        refund_status: String::new(),
        repeated: false,
        lease: None,
    }
}

pub(super) const fn open_outcome(result: OpenResult) -> &'static str {
    match result {
        OpenResult::Opened => "done",
        OpenResult::Unsettled => "unsettled",
        OpenResult::Consumed => "consumed",
        OpenResult::Closed => "closed",
        OpenResult::Expired => "expired",
        OpenResult::InvalidReturnInvoice => "invalid_return_invoice",
        OpenResult::TooLittle => "too_little",
    }
}

pub(super) const fn top_up_outcome(result: TopUpResult) -> &'static str {
    match result {
        TopUpResult::Credited => "done",
        TopUpResult::Unsettled => "unsettled",
        TopUpResult::Consumed => "consumed",
        TopUpResult::NotFound => "not_found",
        TopUpResult::Closed => "closed",
        TopUpResult::Expired => "expired",
    }
}

pub(super) const fn close_outcome(result: CloseResult) -> &'static str {
    match result {
        CloseResult::Closed => "done",
        CloseResult::NotFound => "not_found",
        CloseResult::AlreadyClosed => "closed",
        CloseResult::Consumed => "consumed",
        CloseResult::Expired => "expired",
    }
}
