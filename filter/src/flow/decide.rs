//! The rules of the request path, in the order of the design, section 7.

use protocol::policy::{
    Access, Found, InvalidStatus, PluginConfig, Policy, RequestView, Unmatched,
};
use protocol::time::UnixSeconds;

use super::asked::Asked;
use super::clean;
use super::reply::{Manner, Reply};
use super::waiting::{Turn, Unoffered};
use super::{Decision, Note, ServiceTag, State, Surroundings};
use crate::head::Head;
use crate::outcome::Outcome;
use crate::path;

/// A request on a host of ours that matched a service.
pub(super) struct Matched<'a> {
    pub(super) index: usize,
    pub(super) capability: Option<&'a str>,
    pub(super) access: Access,
    /// How much of the path a free one spells out.
    free_part: usize,
    cors_passthrough: bool,
}

/// Where a request belongs.
enum Place<'a> {
    Foreign,
    Unmatched,
    TooLong,
    Service(Matched<'a>),
}

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
    };
    let path = path::canonical(head.path);
    let is_preflight = head.is_preflight();
    let method = match head.requested_method {
        Some(method) if is_preflight => method,
        _ => head.method,
    };
    let place = find(
        &config.policy,
        head,
        path.as_deref().unwrap_or(b"/"),
        method,
    );
    if matches!(place, Place::Foreign) {
        clean::drop_credentials(head, false, &mut edits);
        return Decision::Forward {
            edits,
            note: Note::of(Outcome::Foreign),
        };
    }
    if let Err(ambiguity) = path
        .map(|_| ())
        .and(path::authority(head.authority).map(|_| ()))
    {
        return Decision::reply(Reply::ambiguous(ambiguity.reason(), manner));
    }
    let matched = match place {
        Place::TooLong => return Decision::reply(Reply::too_long(manner)),
        Place::Service(matched) => Some(matched),
        Place::Foreign | Place::Unmatched => None,
    };
    let note = |outcome| Note {
        service: matched
            .as_ref()
            .and_then(|matched| state.tag(matched.index)),
        ..Note::of(outcome)
    };
    let Some(matched) = &matched else {
        if config.unmatched == Unmatched::Pass {
            clean::drop_credentials(head, true, &mut edits);
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
    if is_preflight && matched.cors_passthrough {
        clean::drop_credentials(head, true, &mut edits);
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
        clean::drop_credentials(head, true, &mut edits);
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
    };
    asked.priced(state, edits)
}

fn find<'a>(policy: &'a Policy, head: &Head<'_>, path: &[u8], method: &[u8]) -> Place<'a> {
    let header = |name: &str| {
        let values: Vec<_> = head.pairs.values(name.as_bytes()).collect();
        (!values.is_empty()).then(|| values.join(&b", "[..]))
    };
    let view = |path| RequestView {
        authority: head.authority,
        path,
        method,
        headers: &header,
    };
    let place = Place::of(policy.find(&view(path)), path);
    let named = match &place {
        Place::Unmatched => 0,
        Place::Service(matched) if matched.access == Access::Free => matched.free_part,
        Place::Service(_) | Place::Foreign | Place::TooLong => return place,
    };
    // Nothing is open that some upstream could take for something paid.
    let loose = path::loosely(path, named);
    if let Some(loose) = &loose
        && let Some(paid) = Place::of(policy.find(&view(loose)), loose).if_paid()
    {
        return paid;
    }
    let loose = loose.as_deref().unwrap_or(path);
    if let Some(found) = policy.find_any_case(&view(loose))
        && let Some(paid) = Place::of(found, loose).if_paid()
    {
        return paid;
    }
    place
}

impl<'a> Place<'a> {
    fn of(found: Found<'a>, path: &[u8]) -> Self {
        match found {
            Found::Foreign => Self::Foreign,
            Found::Unmatched => Self::Unmatched,
            Found::TooLong => Self::TooLong,
            Found::Matched {
                service,
                rule,
                access,
            } => Self::Service(Matched {
                index: service.index(),
                capability: rule.capability(),
                access,
                free_part: match access {
                    Access::Free => service.free_part(path),
                    Access::Priced | Access::NoInvoice => 0,
                },
                cors_passthrough: service.cors_passthrough(),
            }),
        }
    }

    fn if_paid(self) -> Option<Self> {
        match &self {
            Self::Service(matched) if matched.access != Access::Free => Some(self),
            _ => None,
        }
    }
}

/// The answer to a request that has been held, or would have been had the stock been empty. `None`
/// if it is to be decided anew.
pub(super) fn answer(config: &PluginConfig, state: &State, turn: Turn) -> Option<Reply> {
    match turn {
        Turn::Decide => None,
        Turn::Refuse {
            shelf,
            manner,
            status,
            retry_after_seconds,
        } => {
            let service = shelf.and_then(|index| state.tag(index));
            let note = Note {
                service,
                ..Note::of(Outcome::Unavailable)
            };
            Some(match status {
                429 => Reply::limited(retry_after_seconds, manner, note),
                _ => Reply::unavailable(retry_after_seconds, manner, note),
            })
        }
        Turn::Challenge {
            shelf,
            unoffered,
            offer,
        } => {
            let Unoffered {
                manner, refused, ..
            } = unoffered;
            let template = &state.shelves.get(shelf)?.template;
            let note = Note {
                service: state.tag(shelf),
                ..Note::of(outcome_of(refused))
            };
            let status = match refused {
                Some(_) => config.l402_invalid_status.code(),
                None => InvalidStatus::PaymentRequired.code(),
            };
            let price = template.price_msat.to_sat_ceil();
            let reply = Reply::challenge((&offer, price), refused, status, manner, note);
            Some(reply.with_challenge(&offer, config.lsat_line))
        }
    }
}

impl State {
    pub(super) fn tag(&self, index: usize) -> Option<ServiceTag> {
        let name = self.names.get(index)?.clone();
        Some(ServiceTag { index, name })
    }
}

pub(super) const fn outcome_of(refused: Option<&'static str>) -> Outcome {
    if refused.is_some() {
        Outcome::Refused
    } else {
        Outcome::Challenged
    }
}

pub(super) const fn seconds(now_ms: u64) -> UnixSeconds {
    UnixSeconds(now_ms / 1_000)
}
