//! Challenges as the vector files write them.
#![allow(dead_code)]

use protocol::payment::Challenge;
use serde_json::Value;

pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("{key} in {value}"))
}

pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key]
        .as_array()
        .unwrap_or_else(|| panic!("{key} in {value}"))
}

pub(crate) fn challenge(params: &Value) -> Challenge<'_> {
    let optional = |key: &str| params[key].as_str().map(Into::into);
    let required = |key: &str| text(params, key).into();
    Challenge {
        id: required("id"),
        realm: required("realm"),
        method: required("method"),
        intent: required("intent"),
        request: required("request"),
        expires: optional("expires"),
        digest: optional("digest"),
        description: optional("description"),
        opaque: optional("opaque"),
    }
}
