//! What requests about sessions must look like. The filter judged the credential; this keeps
//! nonsense out of the ledger.

use protocol::amount::Sat;
use protocol::api::session::{CloseRequest, OpenRequest, SessionCall, TopUpRequest};
use protocol::encoding::hex_decode;
use protocol::hash::PaymentHash;
use protocol::keys::generation_of;
use protocol::lease::Report;
use protocol::time::UnixSeconds;

use super::{SessionError, Sessions};
use crate::app::claims::LONGEST_LIFE;
use crate::app::names::{is_name, is_random_name};
use crate::domain::ports::{Ledger, Lightning};
use crate::domain::session::CallMark;

/// A year; no use of a session is rarer.
const LONGEST_IDLE_SECONDS: u64 = 366 * 86_400;

type Read<T> = Result<T, SessionError>;

const fn invalid<T>(what: &'static str) -> Read<T> {
    Err(SessionError::Invalid(what))
}

impl<L: Ledger, N: Lightning> Sessions<L, N> {
    pub(super) fn read_open(&self, request: &OpenRequest) -> Read<CallMark> {
        check_vm(&request.vm)?;
        check_service(&request.service)?;
        if request.price == Sat::ZERO {
            return invalid("price must be at least 1");
        }
        if !(1..=LONGEST_IDLE_SECONDS).contains(&request.idle_timeout_seconds) {
            return invalid("idle_timeout_seconds must be from 1 to 31622400");
        }
        check_lease(&request.lease, request.call.payment_hash)?;
        self.read_call(&request.call)
    }

    pub(super) fn read_top_up(&self, request: &TopUpRequest) -> Read<CallMark> {
        check_vm(&request.vm)?;
        if !request.service.is_empty() {
            check_service(&request.service)?;
        }
        self.read_call(&request.call)
    }

    pub(super) fn read_close(&self, request: &CloseRequest) -> Read<CallMark> {
        check_vm(&request.vm)?;
        if let Some(lease) = &request.lease {
            check_lease(lease, request.session_id)?;
        }
        self.read_call(&request.call)
    }

    fn read_call(&self, call: &SessionCall) -> Read<CallMark> {
        let Some(generation) = generation_of(&call.challenge_id) else {
            return invalid("challenge_id is no id of ours");
        };
        let Ok(fingerprint) = hex_decode(&call.fingerprint) else {
            return invalid("fingerprint must be 64 hexadecimal digits");
        };
        let latest = self.clock.now().saturating_add(LONGEST_LIFE);
        if call.expires > latest.0 {
            return invalid("expires is too far away");
        }
        Ok(CallMark {
            challenge_id: call.challenge_id.clone(),
            fingerprint,
            payment_hash: call.payment_hash,
            expires: UnixSeconds(call.expires),
            generation,
        })
    }
}

fn check_vm(vm: &str) -> Read<()> {
    match is_random_name(vm) {
        true => Ok(()),
        false => invalid("vm must be 32 hexadecimal digits"),
    }
}

fn check_service(service: &str) -> Read<()> {
    match is_name(service) {
        true => Ok(()),
        false => invalid("names of services have letters, digits, - and _ only"),
    }
}

fn check_lease(lease: &Report, session_id: PaymentHash) -> Read<()> {
    match lease.account.0 == session_id.0 {
        true => Ok(()),
        false => invalid("the lease is of another session"),
    }
}
