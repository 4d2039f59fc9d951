//! What a match looks at: hosts, paths, methods, headers.

use regex_lite::{Regex, RegexBuilder};

use super::canonical::canonical;
use super::reader::{Node, or_default};
use crate::http::auth::is_token;

const MAX_HOSTS: usize = 256;
const MAX_METHODS: usize = 32;
const MAX_HEADERS: usize = 16;
const MAX_TEXT: usize = 1_024;
const MAX_REGEX: usize = 256;
/// Bytes of a compiled regular expression: with [`super::MAX_PATH_LEN`] this bounds its cost.
const REGEX_SIZE: usize = 32 * 1024;
/// Longest host name, as in DNS.
pub(super) const MAX_HOST: usize = 253;

/// A host pattern, lower case, without port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Host {
    /// `*`
    Any,
    /// `*.example.org`, kept as `.example.org`: any name below it, not the name itself.
    Below(String),
    Exact(String),
}

pub(super) fn read_hosts(node: &Node<'_>) -> Vec<Host> {
    node.list(1..=MAX_HOSTS)
        .iter()
        .filter_map(read_host)
        .collect()
}

fn read_host(node: &Node<'_>) -> Option<Host> {
    let text = node.string()?.to_ascii_lowercase();
    if text == "*" {
        return Some(Host::Any);
    }
    let name = text.strip_prefix("*.").unwrap_or(&text);
    let is_address = name.starts_with('[') && name.ends_with(']');
    let is_host = !name.is_empty()
        && name.len() <= MAX_HOST
        && !name.starts_with('.')
        && !name.ends_with('.')
        && (is_address && name == text && name.bytes().all(is_host_byte)
            || name
                .bytes()
                .all(|byte| is_host_byte(byte) && !matches!(byte, b'[' | b']' | b':')));
    if !is_host {
        node.error("expected a host name without port, \"*.\" and a host name, or \"*\"");
        return None;
    }
    Some(if name.len() < text.len() {
        Host::Below(format!(".{name}"))
    } else {
        Host::Exact(text)
    })
}

pub(super) const fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'[' | b']' | b':')
}

/// How a path is compared, without its query.
pub(super) enum PathMatch {
    Exact(String),
    Prefix(String),
    Regex(PathRegex),
}

/// Whether capitals in the configuration's paths count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Case {
    AsWritten,
    /// For upstreams that tell no difference.
    Any,
}

/// A regular expression over whole paths.
pub(super) struct PathRegex {
    as_written: Regex,
    any_case: Regex,
}

impl PathMatch {
    pub(super) fn read(node: Node<'_>) -> Option<Self> {
        let object = node.object()?;
        let exact = object
            .optional("exact")
            .map(|node| read_path(&node, "").map(Self::Exact));
        let prefix = object
            .optional("prefix")
            .map(|node| read_path(&node, "x").map(Self::Prefix));
        let regex = object
            .optional("regex")
            .map(|node| read_regex(&node).map(Self::Regex));
        let mut given = [exact, prefix, regex].into_iter().flatten();
        let first = given.next();
        if first.is_none() || given.next().is_some() {
            object.error("expected exactly one of exact, prefix and regex");
        }
        object.finish();
        first.flatten()
    }

    /// Some upstreams would take more paths for this one than it matches as written.
    pub(super) fn has_capitals(&self) -> bool {
        let text = match self {
            Self::Exact(text) | Self::Prefix(text) => text,
            Self::Regex(regex) => regex.as_written.as_str(),
        };
        text.bytes().any(|byte| byte.is_ascii_uppercase())
    }

    /// Whether some path may match both. Capitals are taken for what they are without, and a regular
    /// expression for one that matches everything: nothing is said that might be wrong.
    pub(super) fn may_meet(&self, other: &Self) -> bool {
        let begins = |text: &str, with: &str| {
            text.as_bytes()
                .get(..with.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()))
        };
        match (self, other) {
            (Self::Regex(_), _) | (_, Self::Regex(_)) => true,
            (Self::Exact(one), Self::Exact(other)) => one.eq_ignore_ascii_case(other),
            (Self::Exact(path), Self::Prefix(prefix))
            | (Self::Prefix(prefix), Self::Exact(path)) => begins(path, prefix),
            (Self::Prefix(one), Self::Prefix(other)) => begins(one, other) || begins(other, one),
        }
    }

    /// How much of a path that matches is written in the configuration.
    pub(super) const fn spelt_out(&self) -> usize {
        match self {
            Self::Exact(text) | Self::Prefix(text) => text.len(),
            Self::Regex(_) => 0,
        }
    }

    pub(super) fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => path == exact.as_bytes(),
            Self::Prefix(prefix) => path.starts_with(prefix.as_bytes()),
            Self::Regex(regex) => regex.matches(path, Case::AsWritten),
        }
    }
}

impl PathRegex {
    pub(super) fn matches(&self, path: &[u8], case: Case) -> bool {
        let regex = match case {
            Case::AsWritten => &self.as_written,
            Case::Any => &self.any_case,
        };
        std::str::from_utf8(path).is_ok_and(|path| regex.is_match(path))
    }
}

/// `more` is what a path may go on with.
fn read_path(node: &Node<'_>, more: &str) -> Option<String> {
    let text = node.string()?;
    let is_path = text.starts_with('/')
        && text.len() <= MAX_TEXT
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'));
    if !is_path {
        node.error(format!(
            "expected a path of at most {MAX_TEXT} visible ASCII characters that begins with \
             \"/\" and has no query"
        ));
        return None;
    }
    // Requests are compared in their canonical form: a path that has another would never match, and
    // a rule meant for others would take what belongs to it.
    let whole = [text, more].concat();
    match canonical(Some(whole.as_bytes())) {
        Ok(found) if *found.path == *whole.as_bytes() => Some(text.to_owned()),
        Ok(found) => {
            let path = found.path.strip_suffix(more.as_bytes());
            // It is ASCII, as the text is.
            let path = std::str::from_utf8(path.unwrap_or_default()).unwrap_or_default();
            node.error(format!("no request has this path: write \"{path}\""));
            None
        }
        Err(ambiguity) => {
            let why = ambiguity.reason();
            node.error(format!(
                "no request has this path, it would be refused: {why}"
            ));
            None
        }
    }
}

/// The pattern has to match the whole path.
fn read_regex(node: &Node<'_>) -> Option<PathRegex> {
    let pattern = node.string()?;
    if pattern.len() > MAX_REGEX {
        node.error(format!(
            "expected a regular expression of at most {MAX_REGEX} bytes"
        ));
        return None;
    }
    let compile = |pattern: &str, any_case: bool| {
        RegexBuilder::new(pattern)
            .size_limit(REGEX_SIZE)
            .case_insensitive(any_case)
            .build()
    };
    // First by itself: `a)|(b` must not become valid by the parentheses around it.
    let compiled = compile(pattern, false).and_then(|_| {
        let whole = format!("^(?:{pattern})$");
        Ok(PathRegex {
            as_written: compile(&whole, false)?,
            any_case: compile(&whole, true)?,
        })
    });
    compiled
        .map_err(|error| node.error(format!("invalid regular expression: {error}")))
        .ok()
}

pub(super) fn read_methods(node: &Node<'_>) -> Option<Vec<String>> {
    let read = |node: &Node<'_>| {
        let text = node.string()?;
        if text.is_empty() || text.len() > 64 || !text.bytes().all(is_token) {
            node.error("expected a method such as \"GET\"");
            return None;
        }
        Some(text.to_owned())
    };
    Some(node.list(0..=MAX_METHODS).iter().filter_map(read).collect())
}

/// What a request header has to be.
pub(super) struct HeaderMatch {
    name: String,
    value: HeaderValue,
}

enum HeaderValue {
    Present,
    Exact(String),
    Prefix(String),
}

impl HeaderMatch {
    pub(super) fn holds(&self, lookup: &dyn Fn(&str) -> Option<Vec<u8>>) -> bool {
        lookup(&self.name).is_some_and(|found| match &self.value {
            HeaderValue::Present => true,
            HeaderValue::Exact(exact) => found == exact.as_bytes(),
            HeaderValue::Prefix(prefix) => found.starts_with(prefix.as_bytes()),
        })
    }

    fn read(node: Node<'_>) -> Option<Self> {
        let object = node.object()?;
        let name = object.required("name").and_then(|node| {
            let name = node.string()?.to_ascii_lowercase();
            if name.is_empty() || name.len() > MAX_TEXT || !name.bytes().all(is_token) {
                node.error("expected the name of a header");
                return None;
            }
            Some(name)
        });
        let text = |node: Node<'_>| {
            let text = node.string()?;
            if text.len() > MAX_TEXT {
                node.error(format!("expected at most {MAX_TEXT} bytes"));
            }
            Some(text.to_owned())
        };
        let exact = object
            .optional("exact")
            .map(|node| text(node).map(HeaderValue::Exact));
        let prefix = object
            .optional("prefix")
            .map(|node| text(node).map(HeaderValue::Prefix));
        let present = object.optional("present").map(|node| {
            let is_true = or_default(Some(node), false, |node| {
                let value = node.bool()?;
                if !value {
                    node.error("expected true");
                }
                Some(value)
            });
            is_true.then_some(HeaderValue::Present)
        });
        let mut given = [exact, prefix, present].into_iter().flatten();
        let first = given.next();
        if first.is_none() || given.next().is_some() {
            object.error("expected exactly one of exact, prefix and present");
        }
        object.finish();
        Some(Self {
            name: name?,
            value: first.flatten()?,
        })
    }
}

pub(super) fn read_headers(node: &Node<'_>) -> Option<Vec<HeaderMatch>> {
    Some(
        node.list(0..=MAX_HEADERS)
            .into_iter()
            .filter_map(HeaderMatch::read)
            .collect(),
    )
}
