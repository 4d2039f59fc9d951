//! The rules of the request path, in the order of the design, section 7.

use protocol::policy::{Access, InvalidStatus, PluginConfig, Unmatched, canonical};
use protocol::time::UnixSeconds;

use super::asked::{Asked, Taken};
use super::clean;
use super::place::{Matched, Place, Target};
use super::reply::{Manner, Reply, Sale, Why};
use super::session::first_seller;
use super::waiting::{Turn, Unoffered};
use super::{
    Admission, Decision, Note, RETRY_AFTER_SECONDS, ServiceTag, State, Surroundings, payment,
};
use crate::head::Head;
use crate::outcome::Outcome;
use crate::path;

pub(super) fn request<'h>(
    config: &PluginConfig,
    state: &mut State,
    stream: u32,
    head: &Head<'h>,
    around: &impl Surroundings,
) -> Decision<'h> {
    let mut edits = Vec::new();
    if head.has_ours {
        clean::remove_ours(&head.pairs, &mut edits);
    }
    let manner = Manner {
        grpc: head.is_grpc(),
        cors: head.origin.is_some(),
        head: head.method == b"HEAD",
        deadline: head.has_deadline,
    };
    let path = canonical(head.path);
    let is_preflight = head.is_preflight();
    let method = match head.requested_method {
        Some(method) if is_preflight => method,
        _ => head.method,
    };
    let target = Target::new(head, path.as_ref().ok());
    let place = target.place(&config.policy, method);
    if matches!(place, Place::Foreign) {
        if config.other_hosts == Unmatched::Deny {
            return Decision::reply(Reply::unmatched(manner));
        }
        clean::drop_credentials(head, false, &mut edits);
        return Decision::Forward {
            edits,
            note: Note::of(Outcome::Foreign),
        };
    }
    if let Err(ambiguity) = path
        .as_ref()
        .map(|_| ())
        .map_err(|ambiguity| *ambiguity)
        .and(path::authority(head.authority).map(|_| ()))
    {
        return Decision::reply(Reply::ambiguous(ambiguity.reason(), manner));
    }
    let matched = match place {
        Place::TooLong => return Decision::reply(Reply::too_long(manner)),
        Place::Unclear(reason) => return Decision::reply(Reply::ambiguous(reason, manner)),
        Place::Service(matched) => Some(matched),
        Place::Foreign | Place::Unmatched => None,
    };
    if head.has_overrides {
        clean::remove_overrides(&head.pairs, &mut edits);
    }
    let mut taken = None;
    if payment::IS_BUILT_IN
        && state.sessions.are_sold()
        && !is_preflight
        && clean::may_hold_payment(head)
    {
        let sold_elsewhere;
        let at_place = matched
            .as_ref()
            .filter(|matched| state.takes_sessions(config, matched));
        let (seller, is_elsewhere) = match at_place {
            Some(seller) => (seller, false),
            None => {
                let access = matched.as_ref().map(|matched| matched.access);
                sold_elsewhere = Matched {
                    index: first_seller(config).unwrap_or_default(),
                    capability: None,
                    access: match access {
                        Some(Access::NoInvoice) => Access::NoInvoice,
                        _ => Access::Priced,
                    },
                    cors_passthrough: false,
                };
                (&sold_elsewhere, true)
            }
        };
        let asked = Asked {
            config,
            stream,
            head,
            matched: seller,
            manner,
            around,
            is_elsewhere,
        };
        if !is_elsewhere && let Some(decision) = asked.seen_bearer(state, &mut edits) {
            return decision;
        }
        let found = Taken::out_of(head, &mut edits);
        if let Some(payment) = &found.presented.payment
            && let Some(decision) = asked.for_realm(state, &mut edits, payment)
        {
            return decision;
        }
        taken = Some(found);
    }
    let is_taken = taken.is_some();
    let drop_credentials = |edits: &mut Vec<_>| {
        if !is_taken {
            clean::drop_credentials(head, true, edits);
        }
    };
    let note = |outcome| Note {
        service: matched
            .as_ref()
            .and_then(|matched| state.tag(matched.index)),
        ..Note::of(outcome)
    };
    // A preflight stands where the request that it asks about does; what passes on must be open
    // where it stands itself as well.
    let may_pass = || !is_preflight || target.place(&config.policy, head.method).is_open();
    let Some(matched) = &matched else {
        if config.unmatched == Unmatched::Pass && may_pass() {
            drop_credentials(&mut edits);
            return Decision::Forward {
                edits,
                note: note(Outcome::Passed),
            };
        }
        // The request that a preflight asks about will meet the same rule; a header match cannot
        // be tried yet.
        return Decision::reply(match is_preflight {
            true => Reply::preflight(method, head.requested_headers, note(Outcome::Preflight)),
            false => Reply::unmatched(manner),
        });
    };
    if is_preflight && matched.cors_passthrough && may_pass() {
        drop_credentials(&mut edits);
        return Decision::Forward {
            edits,
            note: note(Outcome::Free),
        };
    }
    if is_preflight {
        let note = note(Outcome::Preflight);
        return Decision::reply(Reply::preflight(method, head.requested_headers, note));
    }
    if matched.access == Access::Free {
        drop_credentials(&mut edits);
        return Decision::Forward {
            edits,
            note: note(Outcome::Free),
        };
    }
    let asked = Asked {
        config,
        stream,
        head,
        matched,
        manner,
        around,
        is_elsewhere: false,
    };
    asked.priced(state, edits, taken)
}

/// What becomes of a request that has been held, or would have been had the stock been empty.
/// `None` if it is to be decided anew.
pub(super) fn answer(
    config: &PluginConfig,
    state: &mut State,
    turn: Turn,
) -> Option<Decision<'static>> {
    if let Turn::Challenge {
        service,
        unoffered,
        offers,
    } = &turn
    {
        state.note_deposits(*service, unoffered, offers);
    }
    let state = &*state;
    let note = |service: Option<usize>, outcome| Note {
        service: service.and_then(|index| state.tag(index)),
        ..Note::of(outcome)
    };
    Some(match turn {
        Turn::Decide => return None,
        Turn::Forward { service, claimed } => Decision::Forward {
            edits: Vec::new(),
            note: Note {
                admitted: Some(Admission::Charge(claimed)),
                ..note(Some(service), Outcome::Paid)
            },
        },
        Turn::Spent(spent) => Decision::Forward {
            edits: Vec::new(),
            note: Note {
                service: Some(spent.tag.clone()),
                admitted: Some(Admission::Session(spent)),
                ..Note::of(Outcome::Paid)
            },
        },
        Turn::Reply(reply) => Decision::Reply(reply),
        Turn::Refuse {
            service,
            manner,
            status,
            retry_after_seconds,
        } => {
            let note = note(service, Outcome::Unavailable);
            Decision::reply(match status {
                429 => Reply::limited(retry_after_seconds, manner, note),
                _ => Reply::unavailable(retry_after_seconds, manner, note),
            })
        }
        Turn::Unauthorized { service, unoffered } => {
            let note = note(Some(service), Outcome::Unauthorized);
            let refused = unoffered.refused.as_ref();
            Decision::reply(Reply::unauthorized(refused, unoffered.manner, note))
        }
        Turn::Challenge {
            service,
            unoffered,
            offers,
        } => {
            let Unoffered {
                manner,
                refused,
                wanted,
                deposit,
                ..
            } = unoffered;
            let charge = offers
                .iter()
                .find_map(|offer| state.charge_line(config, service, offer));
            let session = offers
                .iter()
                .chain(&deposit)
                .find_map(|offer| state.session_line(config, service, offer));
            let outcome = outcome_of(refused.is_some());
            // No key may issue, and nothing else is sold.
            if charge.is_none() && session.is_none() && !wanted.l402 {
                let note = note(Some(service), outcome);
                let reply = Reply::unavailable(RETRY_AFTER_SECONDS, manner, note);
                return Some(Decision::reply(reply));
            }
            let status = match refused {
                Some(Why { problem: None, .. }) if wanted.l402 => config.l402_invalid_status,
                _ => InvalidStatus::PaymentRequired,
            };
            let price = config.policy.services().get(service)?.price();
            let sale = Sale {
                offers: &offers,
                price_sats: price.to_sat_ceil(),
                refused,
            };
            let note = note(Some(service), outcome);
            let lsat = config.lsat_line;
            let lines = charge.into_iter().chain(session);
            let reply = Reply::challenge(&sale, status.code(), lsat, lines, manner, note);
            Decision::reply(reply)
        }
    })
}

impl State {
    /// What is asked for there can be paid by a session.
    fn takes_sessions(&self, config: &PluginConfig, matched: &Matched<'_>) -> bool {
        matched.access != Access::Free && self.session_terms(config, matched.index).is_some()
    }

    pub(super) fn tag(&self, index: usize) -> Option<ServiceTag> {
        let name = self.names.get(index)?.clone();
        Some(ServiceTag { index, name })
    }
}

pub(super) const fn outcome_of(is_refused: bool) -> Outcome {
    if is_refused {
        Outcome::Refused
    } else {
        Outcome::Challenged
    }
}

pub(super) const fn seconds(now_ms: u64) -> UnixSeconds {
    UnixSeconds(now_ms / 1_000)
}
