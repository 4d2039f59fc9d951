//! What LND's error statuses mean. It uses code 2 (Unknown) for nearly everything, so the text
//! decides.

use tonic::{Code, Status};

use crate::domain::invoice::NodeStatus;
use crate::domain::ports::LightningError;

pub(super) fn to_error(rpc: &'static str, status: &Status) -> LightningError {
    let detail = status.message().to_owned();
    match (status.code(), node_status(status)) {
        (Code::DeadlineExceeded | Code::Cancelled, _) => LightningError::Timeout { rpc },
        (Code::AlreadyExists, _) => LightningError::Exists { detail },
        (_, NodeStatus::Ready) => LightningError::Refused { rpc, detail },
        (_, status) => LightningError::Unavailable { status, detail },
    }
}

/// How the node must be to have answered that; `Ready` if the answer is about the request itself.
pub(super) fn node_status(status: &Status) -> NodeStatus {
    let text = status.message();
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => NodeStatus::Unauthorized,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => NodeStatus::Unreachable,
        _ if text.contains("wallet locked") || text.contains("wallet not created") => {
            NodeStatus::Locked
        }
        _ if text.contains("in the process of starting up")
            || text.contains("waiting to start") =>
        {
            NodeStatus::Starting
        }
        // Says nothing about the request: it may have been done or not.
        _ if text.contains("shutting down") => NodeStatus::Unreachable,
        // While the wallet is locked the main service is not there at all.
        Code::Unimplemented if text.contains("unknown service") => NodeStatus::Locked,
        _ if text.contains("permission denied")
            || text.contains("verification failed")
            || text.contains("macaroon") =>
        {
            NodeStatus::Unauthorized
        }
        // Failures of the transport itself reach us as Unknown with a source.
        Code::Unknown if std::error::Error::source(status).is_some() => NodeStatus::Unreachable,
        _ => NodeStatus::Ready,
    }
}

pub(super) fn says_unknown(detail: &str) -> bool {
    detail.contains("unable to locate invoice") || detail.contains("no existing invoices")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_lnd_are_understood() {
        let cases = [
            (
                Code::Unknown,
                "wallet locked, unlock it to enable full RPC access",
                NodeStatus::Locked,
            ),
            (
                Code::Unknown,
                "the RPC server is in the process of starting up, but not yet ready to accept calls",
                NodeStatus::Starting,
            ),
            (
                Code::Unknown,
                "verification failed: signature mismatch",
                NodeStatus::Unauthorized,
            ),
            (Code::Unknown, "permission denied", NodeStatus::Unauthorized),
            (
                Code::Unimplemented,
                "unknown service lnrpc.Lightning",
                NodeStatus::Locked,
            ),
            (
                Code::Unavailable,
                "connection refused",
                NodeStatus::Unreachable,
            ),
            (
                Code::Unknown,
                "routerrpc server shutting down",
                NodeStatus::Unreachable,
            ),
            (Code::Unknown, "invoice already settled", NodeStatus::Ready),
        ];
        for (code, text, expected) in cases {
            assert_eq!(node_status(&Status::new(code, text)), expected, "{text}");
        }
    }
}
