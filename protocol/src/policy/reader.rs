//! Reads JSON and keeps going after an error, so that all of them can be reported at once.
//!
//! `serde` stops at the first error and forgets where it was; hence a tree, which also keeps keys
//! that are given twice. What is called often is not inlined: it runs once, and is small that way.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::{ConfigError, ConfigErrors, MAX_ERRORS};
use crate::json::Json;

const fn kind(json: &Json<'_>) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) | Json::OtherNumber => "a number",
        Json::Text(_) => "a string",
        Json::List(_) => "a list",
        Json::Object(_) => "an object",
    }
}

/// Collects errors while the tree is read.
#[derive(Default)]
pub(super) struct Errors(RefCell<Vec<ConfigError>>);

impl Errors {
    #[inline(never)]
    pub(super) fn add(&self, path: &str, message: impl Into<String>) {
        let mut errors = self.0.borrow_mut();
        if errors.len() < MAX_ERRORS {
            errors.push(ConfigError {
                path: path.to_owned(),
                message: message.into(),
            });
        }
    }

    /// `value` if there was no error.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, ConfigErrors> {
        let errors = self.0.into_inner();
        match value {
            Some(value) if errors.is_empty() => Ok(value),
            _ if errors.is_empty() => Err(ConfigErrors::one("", "not a configuration")),
            _ => Err(ConfigErrors(errors)),
        }
    }
}

/// A value in the tree and where it stands.
pub(super) struct Node<'a> {
    json: &'a Json<'a>,
    path: String,
    errors: &'a Errors,
}

impl<'a> Node<'a> {
    pub(super) const fn root(json: &'a Json<'a>, errors: &'a Errors) -> Self {
        Self {
            json,
            path: String::new(),
            errors,
        }
    }

    #[inline(never)]
    pub(super) fn error(&self, message: impl Into<String>) {
        self.errors.add(&self.path, message);
    }

    /// Where it stands, for an error that is found once it has been read.
    pub(super) fn place(&self) -> Self {
        Self {
            json: self.json,
            path: self.path.clone(),
            errors: self.errors,
        }
    }

    #[inline(never)]
    fn expected(&self, what: &str) {
        self.error(format!("expected {what}, found {}", kind(self.json)));
    }

    #[inline(never)]
    pub(super) fn object(self) -> Option<Object<'a>> {
        let Json::Object(entries) = self.json else {
            self.expected("an object");
            return None;
        };
        for (place, (key, _)) in entries.iter().enumerate() {
            if entries.iter().take(place).any(|(before, _)| before == key) {
                self.errors.add(&join(&self.path, key), "given twice");
            }
        }
        Some(Object {
            entries,
            path: self.path,
            errors: self.errors,
            asked: RefCell::default(),
        })
    }

    /// The items of a list with a length in `length`.
    #[inline(never)]
    pub(super) fn list(&self, length: RangeInclusive<usize>) -> Vec<Self> {
        let Json::List(items) = self.json else {
            self.expected("a list");
            return Vec::new();
        };
        if !length.contains(&items.len()) {
            let (least, most) = (length.start(), length.end());
            self.error(format!(
                "expected {least} to {most} entries, found {}",
                items.len()
            ));
            return Vec::new();
        }
        let item = |(index, json)| Self {
            json,
            path: format!("{}[{index}]", self.path),
            errors: self.errors,
        };
        items.iter().enumerate().map(item).collect()
    }

    #[inline(never)]
    pub(super) fn string(&self) -> Option<&'a str> {
        let Json::Text(text) = self.json else {
            self.expected("a string");
            return None;
        };
        Some(text)
    }

    #[inline(never)]
    pub(super) fn bool(&self) -> Option<bool> {
        let Json::Bool(value) = self.json else {
            self.expected("true or false");
            return None;
        };
        Some(*value)
    }

    #[inline(never)]
    pub(super) fn number(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let number = match self.json {
            Json::Number(number) => Some(*number),
            Json::OtherNumber => None,
            _ => {
                self.expected("a whole number");
                return None;
            }
        };
        let found = number.filter(|number| range.contains(number));
        if found.is_none() {
            let (least, most) = (range.start(), range.end());
            self.error(format!("expected a whole number from {least} to {most}"));
        }
        found
    }

    #[inline(never)]
    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let text = self.string()?;
        let Some(duration) = parse_duration(text) else {
            self.error("expected a duration such as \"500ms\", \"30s\", \"5m\", \"24h\" or \"7d\"");
            return None;
        };
        if !range.contains(&duration) {
            let (least, most) = (range.start(), range.end());
            let [least, most] = [least, most].map(|bound| text_of(*bound));
            self.error(["expected a duration from ", &least, " to ", &most].concat());
            return None;
        }
        Some(duration)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.string()?;
        let found = choices.iter().find(|(word, _)| *word == text);
        if found.is_none() {
            let words: Vec<_> = choices
                .iter()
                .map(|(word, _)| format!("{word:?}"))
                .collect();
            self.error(format!("expected {}", words.join(" or ")));
        }
        found.map(|(_, value)| *value)
    }
}

/// As it is written in a configuration.
fn text_of(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_millis()) {
        (seconds, 0) => format!("{seconds}s"),
        (seconds, millis) => format!("{}ms", seconds.saturating_mul(1_000) + u64::from(millis)),
    }
}

/// A number and a unit.
fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let seconds = match unit {
        "ms" => return Some(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

fn join(path: &str, key: &str) -> String {
    // A key that is no plain word would make the path ambiguous.
    let is_word = !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    match (path.is_empty(), is_word) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[{key:?}]"),
    }
}

/// An object of the tree; remembers which keys were asked for.
pub(super) struct Object<'a> {
    entries: &'a [(Cow<'a, str>, Json<'a>)],
    path: String,
    errors: &'a Errors,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Object<'a> {
    pub(super) fn error(&self, message: impl Into<String>) {
        self.errors.add(&self.path, message);
    }

    /// The value of a key; `null` is as good as none.
    #[inline(never)]
    pub(super) fn optional(&self, key: &'static str) -> Option<Node<'a>> {
        self.asked.borrow_mut().push(key);
        let (_, json) = self.entries.iter().find(|(name, _)| name == key)?;
        let is_null = matches!(json, Json::Null);
        (!is_null).then(|| self.child(key, json))
    }

    #[inline(never)]
    pub(super) fn required(&self, key: &'static str) -> Option<Node<'a>> {
        let found = self.optional(key);
        if found.is_none() {
            self.errors.add(&join(&self.path, key), "missing");
        }
        found
    }

    /// Every entry, for objects with free keys.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'a str, Node<'a>)> {
        self.entries
            .iter()
            .map(|(key, json)| (&**key, self.child(key, json)))
    }

    #[inline(never)]
    fn child(&self, key: &str, json: &'a Json<'a>) -> Node<'a> {
        Node {
            json,
            path: join(&self.path, key),
            errors: self.errors,
        }
    }

    /// Refuses the keys that nobody asked for.
    #[inline(never)]
    pub(super) fn finish(self) {
        let asked = self.asked.into_inner();
        for (key, _) in self.entries {
            if !asked.contains(&&**key) {
                let message = format!("unknown key, known are {}", asked.join(", "));
                self.errors.add(&join(&self.path, key), message);
            }
        }
    }
}

/// A field with a default: the default where it is absent, and where it is wrong, so that reading
/// can go on; the error is kept.
pub(super) fn or_default<T>(
    node: Option<Node<'_>>,
    default: T,
    read: impl FnOnce(&Node<'_>) -> Option<T>,
) -> T {
    node.and_then(|node| read(&node)).unwrap_or(default)
}

/// Says that a value was used before.
pub(super) struct Once<'a> {
    seen: RefCell<BTreeSet<String>>,
    what: &'a str,
}

impl<'a> Once<'a> {
    pub(super) fn new(what: &'a str) -> Self {
        Self {
            seen: RefCell::default(),
            what,
        }
    }

    #[inline(never)]
    pub(super) fn check(&self, node: &Node<'_>, value: &str) {
        if !self.seen.borrow_mut().insert(value.to_owned()) {
            node.error(format!("{} {value:?} is given twice", self.what));
        }
    }
}
