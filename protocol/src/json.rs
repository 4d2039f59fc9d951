//! JSON as a tree: one reader for configuration, answers of the sidecar and credentials.
//!
//! Reading into types by `serde` would bring the words for every way in which a text can be wrong
//! into a module that has to stay small. Keys that are given twice are kept, for those who want to
//! say so, or refused, where two readers could take different values.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Whole numbers up to here survive the trip through a protobuf `Struct`, where every number is
/// a double.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// A JSON value.
///
/// Has no `Debug`: there may be secrets in it.
pub enum Json<'j> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number from zero on, perhaps written as a double.
    Number(u64),
    /// Any other number.
    OtherNumber,
    /// A string.
    Text(Cow<'j, str>),
    /// An array.
    List(Vec<Self>),
    /// Members in the order of the text.
    Object(Vec<(Cow<'j, str>, Self)>),
}

/// What is read, and what is refused.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// Deepest nesting; the parser itself stops at 128.
    pub(crate) depth: usize,
    /// Most members of one object, if no name may be given twice.
    pub(crate) unique_members: Option<usize>,
}

impl Limits {
    const NONE: Self = Self {
        depth: usize::MAX,
        unique_members: None,
    };
}

impl<'j> Json<'j> {
    /// `None` if the text is not JSON.
    #[must_use]
    pub fn parse(text: &'j [u8]) -> Option<Self> {
        Self::read(text, Limits::NONE).ok()
    }

    /// # Errors
    /// Says where the text is not JSON.
    pub(crate) fn read_any(text: &'j [u8]) -> Result<Self, serde_json::Error> {
        Self::read(text, Limits::NONE)
    }

    /// `Null` for what is beyond the limits.
    ///
    /// # Errors
    /// Says where the text is not JSON.
    pub(crate) fn read(text: &'j [u8], limits: Limits) -> Result<Self, serde_json::Error> {
        let mut reader = serde_json::Deserializer::from_slice(text);
        let is_refused = Cell::new(false);
        let tree = Tree {
            limits,
            is_refused: &is_refused,
        };
        let value = tree.deserialize(&mut reader)?;
        reader.end()?;
        // Errors of one's own would bring half of the formatting machinery with them.
        Ok(if is_refused.get() { Self::Null } else { value })
    }

    /// The value of a key; the last one if it is given twice.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(entries) = self else {
            return None;
        };
        entries
            .iter()
            .rev()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
    }

    /// The text of a key.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_text()
    }

    /// The number of a key.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The truth of a key.
    #[must_use]
    pub fn bool(&self, key: &str) -> Option<bool> {
        match self.get(key)? {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The items of a key.
    #[must_use]
    pub fn list(&self, key: &str) -> Option<&[Self]> {
        match self.get(key)? {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    /// The text of this value itself.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

#[derive(Clone, Copy)]
struct Tree<'c> {
    limits: Limits,
    is_refused: &'c Cell<bool>,
}

impl Tree<'_> {
    fn below(mut self) -> Self {
        match self.limits.depth.checked_sub(1) {
            Some(depth) => self.limits.depth = depth,
            None => self.is_refused.set(true),
        }
        self
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(u64::try_from(value).map_or(Json::OtherNumber, Json::Number))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json<'de>, E> {
        if value.fract() == 0.0 && (0.0..=MAX_EXACT).contains(&value) {
            // Whole and in range, so the conversion is exact.
            Ok(Json::Number(value as u64))
        } else {
            Ok(Json::OtherNumber)
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json<'de>, A::Error> {
        let below = self.below();
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(below)? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json<'de>, A::Error> {
        let below = self.below();
        let mut object: Vec<(Cow<'de, str>, Json<'de>)> = Vec::new();
        while let Some(key) = entries.next_key_seed(below)? {
            let Json::Text(key) = key else { continue };
            let value = entries.next_value_seed(below)?;
            if let Some(most) = self.limits.unique_members
                && (object.len() == most || object.iter().any(|(known, _)| *known == key))
            {
                self.is_refused.set(true);
                continue;
            }
            object.push((key, value));
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
        assert_eq!((json.number("f"), json.text("z")), (None, None));
        assert!(json.get("q").is_none());
    }

    #[test]
    fn what_is_not_json_is_nothing() {
        for text in [&b""[..], b"{", b"[1,]", b"{} {}", b"\xff", b"{1:2}"] {
            assert!(Json::parse(text).is_none());
        }
        let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
        assert!(Json::parse(&deep).is_none());
    }
}
