//! Problem details (RFC 9457).

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::Value;

/// Media type of a [`Problem`].
pub const CONTENT_TYPE: &str = "application/problem+json";

/// Why a request was not served, for machines and people.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: Option<String>,
    members: Vec<(&'static str, Value)>,
}

impl Problem {
    /// `kind` is a URI that names the sort of problem, `title` says the same in words and does
    /// not change from one occurrence to the next.
    #[must_use]
    pub const fn new(kind: &'static str, title: &'static str, status: u16) -> Self {
        Self {
            kind,
            title,
            status,
            detail: None,
            members: Vec::new(),
        }
    }

    /// What happened this time.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// An extension member; must not have the name of a standard one.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.members.push((name, value.into()));
        self
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// The JSON text.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings, numbers and `Value`s always serialise.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", self.kind)?;
        map.serialize_entry("title", self.title)?;
        map.serialize_entry("status", &self.status)?;
        if let Some(detail) = &self.detail {
            map.serialize_entry("detail", detail)?;
        }
        for (name, value) in &self.members {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_members_come_first_and_extensions_follow() {
        let problem = Problem::new("about:blank", "Payment Required", 402)
            .with_detail("a \"reason\"")
            .with("price_sats", 10);
        assert_eq!(
            problem.to_json(),
            r#"{"type":"about:blank","title":"Payment Required","status":402,"detail":"a \"reason\"","price_sats":10}"#
        );
    }
}
