//! JSON from strangers: no more than it needs, and nothing ambiguous.

use std::borrow::Cow;

use crate::json::{Json, Limits};

/// A credential has two levels.
const LIMITS: Limits = Limits {
    depth: 8,
    unique_members: Some(64),
};

/// Members in the order of the text, each name once.
///
/// Has no `Debug`: there are secrets in it.
#[derive(Default)]
pub(super) struct Object<'j>(Vec<(Cow<'j, str>, Json<'j>)>);

impl<'j> Object<'j> {
    /// Reads a text that is one object: `None` also for one that names a member twice, since
    /// another reader may take the other value, and for one nested too deeply or too wide.
    pub(super) fn parse(text: &'j [u8]) -> Option<Self> {
        Self::of(Json::read(text, LIMITS).ok()?)
    }

    fn of(json: Json<'j>) -> Option<Self> {
        match json {
            Json::Object(members) => Some(Self(members)),
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
        Self::of(self.take(name)?)
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
