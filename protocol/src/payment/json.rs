//! JSON from strangers as a tree: no more than it needs, and nothing ambiguous.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Deepest nesting that is read; a credential has two levels.
const MAX_DEPTH: usize = 8;
/// Most members of one object.
const MAX_MEMBERS: usize = 64;

/// A JSON value. Arrays and what is not told apart here are `Other`.
///
/// Has no `Debug`: there are secrets in it.
pub(super) enum Json<'j> {
    Other,
    Number(u64),
    Text(Cow<'j, str>),
    Object(Object<'j>),
}

/// Members in the order of the text, each name once.
#[derive(Default)]
pub(super) struct Object<'j>(Vec<(Cow<'j, str>, Json<'j>)>);

impl<'j> Object<'j> {
    /// Reads a text that is one object: `None` also for one that names a member twice, since
    /// another reader may take the other value, and for one nested too deeply or too wide.
    pub(super) fn parse(text: &'j [u8]) -> Option<Self> {
        let mut reader = serde_json::Deserializer::from_slice(text);
        let value = Tree { depth: MAX_DEPTH }.deserialize(&mut reader).ok()?;
        reader.end().ok()?;
        match value {
            Json::Object(object) => Some(object),
            _ => None,
        }
    }

    fn get(&self, name: &str) -> Option<&Json<'j>> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value)
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.get(name)? {
            Json::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn take(&mut self, name: &str) -> Option<Json<'j>> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    pub(super) fn take_text(&mut self, name: &str) -> Option<Cow<'j, str>> {
        match self.take(name)? {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn take_object(&mut self, name: &str) -> Option<Self> {
        match self.take(name)? {
            Json::Object(object) => Some(object),
            _ => None,
        }
    }
}

#[derive(Clone, Copy)]
struct Tree {
    depth: usize,
}

impl Tree {
    fn below<E: serde::de::Error>(self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1);
        depth
            .map(|depth| Self { depth })
            .ok_or_else(|| E::custom("nested too deeply"))
    }
}

impl<'de> DeserializeSeed<'de> for Tree {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Json<'de>, E> {
        Ok(Json::Other)
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
        let below = self.below()?;
        while items.next_element_seed(below)?.is_some() {}
        Ok(Json::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json<'de>, A::Error> {
        let below = self.below()?;
        let mut object = Object::default();
        while let Some(name) = entries.next_key_seed(below)? {
            let Json::Text(name) = name else { continue };
            if object.has(&name) || object.0.len() == MAX_MEMBERS {
                return Err(A::Error::custom("member given twice, or too many"));
            }
            object.0.push((name, entries.next_value_seed(below)?));
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_read_by_its_names() {
        let text = br#"{"a":{"b":"x\u0041"},"n":7,"l":[1,{"x":null}],"f":-1.5,"t":true}"#;
        let mut object = Object::parse(text).unwrap();
        assert_eq!(object.number("n"), Some(7));
        assert!(object.has("l") && !object.has("q"));
        assert_eq!((object.text("l"), object.number("f")), (None, None));
        assert_eq!(object.take_object("a").unwrap().text("b"), Some("xA"));
    }

    #[test]
    fn texts_that_are_no_object_or_have_two_meanings_are_refused() {
        let deep = format!("{}1{}", r#"{"a":"#.repeat(9), "}".repeat(9));
        let names: Vec<_> = (0..65).map(|name| format!(r#""{name}":1"#)).collect();
        let wide = format!("{{{}}}", names.join(","));
        let arrays = format!(r#"{{"a":{}{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
        for text in [
            "",
            "[]",
            "1",
            "{",
            "{}{}",
            "{1:2}",
            "{\"a\":1,}",
            "{\"a\":1,\"a\":1}",
            r#"{"a":1,"\u0061":1}"#,
            "{\"a\":\"\n\"}",
            &deep,
            &wide,
            &arrays,
        ] {
            assert!(Object::parse(text.as_bytes()).is_none(), "{text}");
        }
        assert!(Object::parse(b"{\"a\":\"\xff\"}").is_none());
    }
}
