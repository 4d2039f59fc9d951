//! Answers of the sidecar as a tree.
//!
//! Reading them into their types by `serde` would bring the words for every way in which they can
//! be wrong, floating-point numbers included, into a module that has to stay small; here a wrong
//! answer is just that.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A JSON value; numbers other than unsigned whole ones are not told apart.
#[derive(Debug, PartialEq)]
pub(crate) enum Json<'j> {
    Other,
    Bool(bool),
    Number(u64),
    Text(Cow<'j, str>),
    List(Vec<Self>),
    Object(Vec<(Cow<'j, str>, Self)>),
}

impl<'j> Json<'j> {
    /// `None` if the text is not JSON.
    pub(crate) fn parse(text: &'j [u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// The value of a key; the last one if it is given twice.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(entries) = self else {
            return None;
        };
        entries
            .iter()
            .rev()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub(crate) fn bool(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn list(&self, key: &str) -> Option<&[Self]> {
        match self.get(key)? {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    /// The text of this value itself.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Json<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree)
    }
}

struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Other)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Json<'de>, E> {
        Ok(Json::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Json<'de>, E> {
        Ok(Json::Other)
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json<'de>, A::Error> {
        let mut object = Vec::new();
        while let Some(key) = entries.next_key()? {
            let Json::Text(key) = key else { continue };
            object.push((key, entries.next_value()?));
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_by_its_keys() {
        let text = br#"{"a":[{"b":"x\u0041","n":7,"t":true}],"f":-1.5,"z":null}"#;
        let json = Json::parse(text).unwrap();
        let item = &json.list("a").unwrap()[0];
        assert_eq!(item.text("b"), Some("xA"));
        assert_eq!((item.number("n"), item.bool("t")), (Some(7), Some(true)));
        assert_eq!(
            (json.number("f"), json.text("z"), json.get("q")),
            (None, None, None)
        );
    }

    #[test]
    fn what_is_not_json_is_nothing() {
        for text in [&b""[..], b"{", b"[1,]", b"{} {}", b"\xff", b"{1:2}"] {
            assert_eq!(Json::parse(text), None);
        }
        let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
        assert_eq!(Json::parse(&deep), None);
    }
}
