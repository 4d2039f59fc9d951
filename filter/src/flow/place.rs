//! Where a request belongs, and where else an upstream could take it to belong.

use std::cell::Cell;

use protocol::policy::{Access, Canonical, Found, Policy, RequestView};

use crate::head::{Head, reads_as};
use crate::path;

/// A request on a host of ours that matched a service.
pub(super) struct Matched<'a> {
    pub(super) index: usize,
    pub(super) capability: Option<&'a str>,
    pub(super) access: Access,
    pub(super) cors_passthrough: bool,
}

impl Matched<'_> {
    /// A token for this place need not be good for the other one.
    fn sells_less_than(&self, other: &Self) -> bool {
        self.index != other.index
            || other.capability.is_some() && other.capability != self.capability
    }
}

/// Where a request belongs.
pub(super) enum Place<'a> {
    Foreign,
    Unmatched,
    TooLong,
    /// Some upstreams would take it to another place, where this place's price is not enough. The
    /// reason goes on with "the request …".
    Unclear(&'static str),
    Service(Matched<'a>),
}

impl<'a> Place<'a> {
    fn of(found: Found<'a>) -> Self {
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
                cors_passthrough: service.cors_passthrough(),
            }),
        }
    }

    fn into_paid(self) -> Option<Matched<'a>> {
        match self {
            Self::Service(matched) if matched.access != Access::Free => Some(matched),
            _ => None,
        }
    }

    /// A preflight may go on from here.
    pub(super) const fn is_open(&self) -> bool {
        match self {
            Self::Foreign | Self::Unmatched => true,
            Self::TooLong | Self::Unclear(_) => false,
            Self::Service(matched) => {
                matched.cors_passthrough || matches!(matched.access, Access::Free)
            }
        }
    }
}

/// What is asked for, apart from the method.
pub(super) struct Target<'r, 'h> {
    head: &'r Head<'h>,
    path: &'r [u8],
    is_plain: bool,
}

impl<'r, 'h> Target<'r, 'h> {
    /// Without a canonical path only the host counts: the request will be refused on one of ours.
    pub(super) fn new(head: &'r Head<'h>, path: Option<&'r Canonical<'_>>) -> Self {
        Self {
            head,
            path: path.map_or(b"/", |path| &path.path),
            is_plain: path.is_none_or(|path| path.is_plain),
        }
    }

    /// The place of the request if it had that method.
    pub(super) fn place<'a>(&self, policy: &'a Policy, method: &[u8]) -> Place<'a> {
        let is_unclear = Cell::new(false);
        let headers = |name: &str| {
            let (value, is_only_one) = self.value(name.as_bytes());
            is_unclear.set(is_unclear.get() || !is_only_one);
            value.map(<[u8]>::to_vec)
        };
        let found = policy.find(&self.view(self.path, method, &headers));
        let place = if self.is_plain && !policy.has_capitals() {
            Place::of(found)
        } else {
            self.closest(policy, found, method, &headers)
        };
        if is_unclear.get() {
            return Place::Unclear("repeats a header that decides its price");
        }
        place
    }

    /// The value of a header, and whether no upstream could see another one. Any value of several
    /// could count, and so could one whose name is only taken for that name.
    fn value(&self, name: &[u8]) -> (Option<&'h [u8]>, bool) {
        let mut fields = self
            .head
            .pairs
            .iter()
            .filter(|(have, _)| reads_as(have, name));
        let (first, second) = (fields.next(), fields.next());
        let is_exact = first.is_none_or(|(have, _)| have == name);
        (first.map(|(_, value)| value), is_exact && second.is_none())
    }

    fn view<'v>(
        &'v self,
        path: &'v [u8],
        method: &'v [u8],
        headers: &'v dyn Fn(&str) -> Option<Vec<u8>>,
    ) -> RequestView<'v> {
        RequestView {
            authority: self.head.authority,
            path,
            method,
            headers,
        }
    }

    /// The place that was found, unless an upstream that reads paths more loosely could take the
    /// request to something paid: then nothing is open, and nothing is sold for another's price.
    #[inline(never)]
    fn closest<'a>(
        &self,
        policy: &'a Policy,
        found: Found<'a>,
        method: &[u8],
        headers: &dyn Fn(&str) -> Option<Vec<u8>>,
    ) -> Place<'a> {
        let mut place = Place::of(found);
        let (is_paid, named) = match found {
            Found::Foreign | Found::TooLong => return place,
            Found::Unmatched => (false, 0),
            Found::Matched {
                service,
                access: Access::Free,
                ..
            } => (false, service.free_part(self.path)),
            Found::Matched { rule, .. } => (true, rule.spelt_out()),
        };
        // One token is good everywhere, or the configuration itself says what this path costs.
        if is_paid && (policy.is_uniform() || named == self.path.len()) {
            return place;
        }
        let loose = if self.is_plain {
            None
        } else {
            path::loosely(self.path, named)
        };
        let path = loose.as_deref().unwrap_or(self.path);
        let any_case = policy.find_any_case(&self.view(path, method, headers));
        // In small letters a path may fall out of the regular expression by which it was found, and
        // only the other look-up knows that; it finds all that this one does.
        let as_written = (loose.is_some() && !(is_paid && any_case.is_some()))
            .then(|| policy.find(&self.view(path, method, headers)));
        for reading in [as_written, any_case].into_iter().flatten() {
            let Some(other) = Place::of(reading).into_paid() else {
                continue;
            };
            match &place {
                Place::Service(mine) if mine.access != Access::Free => {
                    if mine.sells_less_than(&other) {
                        return Place::Unclear(
                            "can be read as one for something else that is sold",
                        );
                    }
                }
                _ => place = Place::Service(other),
            }
        }
        place
    }
}
