//! Labels, and the closed sets that their values are of.

use std::fmt::{self, Write as _};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};

/// A closed set of label values.
macro_rules! label_values {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[allow(missing_docs)]
        pub enum $name {
            $($variant),+
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
                encoder.write_str(match self {
                    $(Self::$variant => $text),+
                })
            }
        }
    };
}

label_values! {
    /// What became of a wish for offers.
    OfferOutcome {
        Issued = "issued",
        Invalid = "invalid",
        LimitedClient = "limited_client",
        LimitedOverall = "limited_overall",
        TooManyOutstanding = "too_many_outstanding",
        TooManyWaiting = "too_many_waiting",
        NodeUnavailable = "node_unavailable",
        Timeout = "timeout",
        Ledger = "ledger",
    }
}

label_values! {
    /// What became of a claim.
    ClaimOutcome {
        Won = "won",
        Lost = "lost",
        Busy = "busy",
        Unsettled = "unsettled",
        Invalid = "invalid",
        Ledger = "ledger",
    }
}

label_values! {
    /// Calls of the Lightning port.
    Rpc {
        AddInvoice = "add_invoice",
        Cancel = "cancel",
        Lookup = "lookup",
        Pay = "pay",
        Status = "status",
        Track = "track",
    }
}

label_values! {
    /// How a call ended.
    CallResult {
        Ok = "ok",
        Error = "error",
        Timeout = "timeout",
    }
}

label_values! {
    /// Routes of the API.
    Route {
        Abandon = "abandon",
        Bootstrap = "bootstrap",
        ChargeOffers = "charge_offers",
        Claim = "claim",
        Close = "close",
        DepositOffers = "deposit_offers",
        Leases = "leases",
        Offers = "offers",
        Open = "open",
        Other = "other",
        TopUp = "topup",
    }
}

/// Labels of a wish for offers.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct OfferLabels {
    /// What became of it.
    pub outcome: OfferOutcome,
}

/// Labels of a claim.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct ClaimLabels {
    /// What became of it.
    pub outcome: ClaimOutcome,
}

/// Labels of a call to the node.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct RpcLabels {
    /// Which call.
    pub rpc: Rpc,
    /// How it ended.
    pub result: CallResult,
}

/// Labels of an API request.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct HttpLabels {
    /// Which route.
    pub route: Route,
    /// HTTP status.
    pub status: u16,
}

/// Labels of a state of something that is in exactly one of several.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct StateLabels {
    /// Which state.
    pub state: &'static str,
}

/// Labels of something that has one of several reasons.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct ReasonLabels {
    /// Which reason.
    pub reason: &'static str,
}

/// Labels of a sale.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct SchemeLabels {
    /// Payment scheme.
    pub scheme: &'static str,
}

/// Labels of a call on a session.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct SessionCallLabels {
    /// `open`, `topup` or `close`.
    pub call: &'static str,
    /// What became of it.
    pub outcome: &'static str,
}

/// Labels of a deposit.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct DepositLabels {
    /// `open` or `topup`.
    pub kind: &'static str,
}

/// Labels of a session that we stopped.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub struct StopLabels {
    /// `idle` or `return_invoice_expires`.
    pub reason: &'static str,
}
