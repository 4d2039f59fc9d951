//! Finds the first rule for a host and a path without looking at all of them.
//!
//! Hosts and paths are kept in sorted arrays. One binary search finds all prefixes of a text: the
//! longest is its predecessor or an ancestor of it, and each entry knows its longest proper prefix
//! in the array. Host names are turned round, so that `*.example.org` is a prefix as well.

use std::collections::BTreeMap;

use super::matcher::{Case, Host, MAX_HOST, PathMatch, is_host_byte};
use super::service::Rule;

/// What the index says about a request.
pub(super) enum Verdict {
    Foreign,
    Unmatched,
    Rule(u32),
}

/// All rules by host.
#[derive(Default)]
pub(super) struct HostIndex {
    exact: Sorted<PathIndex>,
    /// By the reversed suffix: `gro.elpmaxe.` for `*.example.org`.
    below: Sorted<PathIndex>,
    any: Option<PathIndex>,
}

/// Rules of one host pattern by path; their numbers ascend in each list.
#[derive(Default)]
struct PathIndex {
    exact: Sorted<Vec<u32>>,
    /// Any path is the empty prefix.
    prefix: Sorted<Vec<u32>>,
    regex: Vec<u32>,
}

impl HostIndex {
    /// With [`Case::Any`] it is to be asked with paths in lower case.
    pub(super) fn new(rules: &[Rule], case: Case) -> Self {
        let paths = |rules| PathIndex::new(rules, case);
        let (mut exact, mut below, mut any) = (Builder::new(), Builder::new(), Vec::new());
        for (id, rule) in (0_u32..).zip(rules) {
            for host in &rule.hosts {
                match host {
                    Host::Any => any.push((id, rule)),
                    Host::Below(suffix) => {
                        below.push((suffix.bytes().rev().collect(), (id, rule)));
                    }
                    Host::Exact(name) => {
                        exact.push((name.bytes().rev().collect(), (id, rule)));
                    }
                }
            }
        }
        Self {
            exact: Sorted::new(exact, paths),
            below: Sorted::new(below, paths),
            any: (!any.is_empty()).then(|| paths(any)),
        }
    }

    /// The first rule that matches host and path and for which `holds`.
    pub(super) fn find(
        &self,
        authority: &[u8],
        path: &[u8],
        holds: impl Fn(u32) -> bool,
    ) -> Verdict {
        let mut buffer = [0; MAX_HOST];
        let Some(host) = reversed_host(authority, &mut buffer) else {
            return Verdict::Unmatched;
        };
        let exact = self.exact.get(host);
        let mut below = self.below.prefixes_of(host).peekable();
        if exact.is_none() && below.peek().is_none() && self.any.is_none() {
            return Verdict::Foreign;
        }
        let mut first = First {
            id: u32::MAX,
            holds,
        };
        for paths in exact.into_iter().chain(below).chain(&self.any) {
            paths.find(path, &mut first);
        }
        if first.id == u32::MAX {
            Verdict::Unmatched
        } else {
            Verdict::Rule(first.id)
        }
    }
}

/// The smallest number so far.
struct First<F> {
    id: u32,
    holds: F,
}

impl<F: Fn(u32) -> bool> First<F> {
    /// `ids` ascend: nothing after one that is too large is of interest.
    fn offer(&mut self, ids: &[u32]) {
        for id in ids {
            if *id >= self.id {
                return;
            }
            if (self.holds)(*id) {
                self.id = *id;
                return;
            }
        }
    }
}

impl PathIndex {
    fn new(rules: Vec<(u32, &Rule)>, case: Case) -> Self {
        let key = |path: &str| match case {
            Case::AsWritten => path.as_bytes().to_vec(),
            Case::Any => path.to_ascii_lowercase().into_bytes(),
        };
        let (mut exact, mut prefix, mut regex) = (Builder::new(), Builder::new(), Vec::new());
        for (id, rule) in rules {
            match &rule.path {
                None => prefix.push((Vec::new(), id)),
                Some(PathMatch::Exact(path)) => exact.push((key(path), id)),
                Some(PathMatch::Prefix(path)) => prefix.push((key(path), id)),
                Some(PathMatch::Regex(_)) => regex.push(id),
            }
        }
        Self {
            exact: Sorted::new(exact, |ids| ids),
            prefix: Sorted::new(prefix, |ids| ids),
            regex,
        }
    }

    fn find(&self, path: &[u8], first: &mut First<impl Fn(u32) -> bool>) {
        if let Some(ids) = self.exact.get(path) {
            first.offer(ids);
        }
        for ids in self.prefix.prefixes_of(path) {
            first.offer(ids);
        }
        first.offer(&self.regex);
    }
}

/// The host of an authority in lower case, last byte first; without port and trailing dots. `None`
/// if it cannot be a host name.
fn reversed_host<'a>(authority: &[u8], buffer: &'a mut [u8; MAX_HOST]) -> Option<&'a [u8]> {
    if !authority.iter().all(|byte| is_host_byte(*byte)) {
        return None;
    }
    let mut host = without_port(authority)?;
    while let [start @ .., b'.'] = host {
        host = start;
    }
    if host.is_empty() {
        return None;
    }
    let reversed = buffer.get_mut(..host.len())?;
    for (to, from) in reversed.iter_mut().zip(host.iter().rev()) {
        *to = from.to_ascii_lowercase();
    }
    Some(reversed)
}

/// `None` if there is more than one port, or something else after the address.
fn without_port(authority: &[u8]) -> Option<&[u8]> {
    let is_address = authority.first() == Some(&b'[');
    let end = if is_address {
        authority.iter().position(|byte| *byte == b']')? + 1
    } else {
        authority
            .iter()
            .position(|byte| *byte == b':')
            .unwrap_or(authority.len())
    };
    let (host, port) = authority.split_at_checked(end)?;
    let is_port = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let is_host = is_address || !host.iter().any(|byte| matches!(byte, b'[' | b']'));
    (is_port && is_host).then_some(host)
}

/// Pairs of key and value, not yet sorted; keys may occur several times.
type Builder<V> = Vec<(Vec<u8>, V)>;

const NONE: u32 = u32::MAX;

/// A sorted array of distinct keys.
struct Sorted<T>(Vec<Entry<T>>);

struct Entry<T> {
    key: Box<[u8]>,
    /// The entry with the longest key that this key begins with, or [`NONE`].
    parent: u32,
    value: T,
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Sorted<T> {
    /// Values of equal keys are handed to `make` in the order in which they were given.
    fn new<V>(pairs: Builder<V>, make: impl Fn(Vec<V>) -> T) -> Self {
        // A map rather than a sort: half the code in the filter, where size counts.
        let mut grouped: BTreeMap<Vec<u8>, Vec<V>> = BTreeMap::new();
        for (key, value) in pairs {
            grouped.entry(key).or_default().push(value);
        }
        let mut entries: Vec<Entry<T>> = Vec::with_capacity(grouped.len());
        for (key, values) in grouped {
            let mut parent = u32::try_from(entries.len()).map_or(NONE, |len| len.wrapping_sub(1));
            while let Some(entry) = entries.get(parent as usize) {
                if key.starts_with(&entry.key) {
                    break;
                }
                parent = entry.parent;
            }
            entries.push(Entry {
                key: key.into(),
                parent,
                value: make(values),
            });
        }
        Self(entries)
    }

    fn get(&self, key: &[u8]) -> Option<&T> {
        let at = self
            .0
            .binary_search_by(|entry| (*entry.key).cmp(key))
            .ok()?;
        self.0.get(at).map(|entry| &entry.value)
    }

    /// The values of all keys that `text` begins with, longest first.
    fn prefixes_of<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = &'a T> {
        let after = self.0.partition_point(|entry| &*entry.key <= text);
        let mut next = after.checked_sub(1).and_then(|at| self.0.get(at));
        std::iter::from_fn(move || {
            let entry = next?;
            next = self.0.get(entry.parent as usize);
            Some(entry)
        })
        .filter(move |entry| text.starts_with(&entry.key))
        .map(|entry| &entry.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_search_finds_every_prefix() {
        let keys = ["", "/a", "/a/b", "/aa", "/ab/c", "/b", "/a/b/c"];
        let sorted = Sorted::new(
            keys.iter()
                .map(|key| (key.as_bytes().to_vec(), *key))
                .collect(),
            |values| values.concat(),
        );
        for text in ["", "/", "/a", "/ab", "/aaa", "/a/b/cd", "/c", "/a/c", "zz"] {
            let mut expected: Vec<_> = keys.iter().filter(|key| text.starts_with(**key)).collect();
            expected.sort_by_key(|key| std::cmp::Reverse(key.len()));
            let found: Vec<_> = sorted.prefixes_of(text.as_bytes()).collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn hosts_lose_port_case_and_trailing_dots() {
        let mut buffer = [0; MAX_HOST];
        for authority in ["A.b", "a.B:443", "a.b.", "a.b..:1", "a.b:"] {
            let host = reversed_host(authority.as_bytes(), &mut buffer);
            assert_eq!(host, Some(b"b.a".as_slice()), "{authority}");
        }
        let address = reversed_host(b"[::1]:80", &mut buffer);
        assert_eq!(address, Some(b"]1::[".as_slice()));
    }

    #[test]
    fn what_cannot_be_a_host_is_none() {
        let mut buffer = [0; MAX_HOST];
        let long = "a".repeat(MAX_HOST + 1);
        for authority in [
            "", ".", ":80", "a,b", "u@a", "a b", "a/b", "a:1:2", "a:b", "[::1]x", "x[1]", "a%2e",
            &long,
        ] {
            assert_eq!(
                reversed_host(authority.as_bytes(), &mut buffer),
                None,
                "{authority}"
            );
        }
    }
}
