//! Canonical JSON (RFC 8785): one text for one value, so that it can be hashed and compared.
//!
//! Written here because that is all there is to it on top of `serde_json`: the crates for it bring
//! a second number formatter or a tree of their own into a filter that has to stay small. The
//! filter itself writes only objects whose members are given in order, and so carries neither a
//! tree nor floating-point numbers for it.

use std::fmt::Write as _;

use serde_json::{Number, Value};

/// Integers up to here are the same as `f64`, which is all that JSON numbers mean to RFC 8785.
const MAX_EXACT: u64 = 1 << 53;

/// The canonical text of a value.
///
/// Numbers are IEEE 754 doubles here, as the RFC wants it: integers beyond 2^53 lose their last
/// digits. They are as precise as the parser was that made the value.
#[must_use]
pub fn to_string(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value);
    out
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(out, number),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push('[');
            let mut separator = "";
            for item in items {
                out.push_str(separator);
                write_value(out, item);
                separator = ",";
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            // By UTF-16 code units, which is not the order of UTF-8 beyond the basic plane.
            members.sort_by(|(left, _), (right, _)| left.encode_utf16().cmp(right.encode_utf16()));
            out.push('{');
            let mut separator = "";
            for (name, member) in members {
                out.push_str(separator);
                write_string(out, name);
                out.push(':');
                write_value(out, member);
                separator = ",";
            }
            out.push('}');
        }
    }
}

fn write_string(out: &mut String, text: &str) {
    out.push('"');
    let mut rest = text;
    while let Some(at) = rest.find(|character| matches!(character, '"' | '\\' | '\0'..='\x1f')) {
        let (plain, special) = rest.split_at(at);
        out.push_str(plain);
        let mut characters = special.chars();
        match characters.next() {
            Some('\x08') => out.push_str("\\b"),
            Some('\t') => out.push_str("\\t"),
            Some('\n') => out.push_str("\\n"),
            Some('\x0c') => out.push_str("\\f"),
            Some('\r') => out.push_str("\\r"),
            Some(quoted @ ('"' | '\\')) => {
                out.push('\\');
                out.push(quoted);
            }
            Some(control) => {
                // Writing to a `String` cannot fail.
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            None => (),
        }
        rest = characters.as_str();
    }
    out.push_str(rest);
    out.push('"');
}

fn write_number(out: &mut String, number: &Number) {
    let exact = |number: u64| number <= MAX_EXACT;
    // Writing to a `String` cannot fail.
    let _ = match (number.as_u64(), number.as_i64()) {
        (Some(number), _) if exact(number) => write!(out, "{number}"),
        (None, Some(number)) if exact(number.unsigned_abs()) => write!(out, "{number}"),
        _ => {
            write_double(out, number.as_f64().unwrap_or_default());
            Ok(())
        }
    };
}

/// As ECMAScript's `Number::toString` does: the shortest digits that come back, without exponent
/// where there are at most 21 digits before the point or six zeros after it.
fn write_double(out: &mut String, number: f64) {
    if number == 0.0 {
        // Of either sign.
        out.push('0');
        return;
    }
    let text = format!("{:e}", number.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    if number < 0.0 {
        out.push('-');
    }
    let zeros = |out: &mut String, count: i32| out.extend((0..count).map(|_| '0'));
    match exponent + 1 {
        point if count <= point && point <= 21 => {
            out.push_str(&digits);
            zeros(out, point - count);
        }
        point if 0 < point && point <= 21 => {
            let (whole, fraction) = digits.split_at(point.unsigned_abs() as usize);
            out.extend([whole, ".", fraction]);
        }
        point if -6 < point && point <= 0 => {
            out.push_str("0.");
            zeros(out, -point);
            out.push_str(&digits);
        }
        _ => {
            let (first, rest) = digits.split_at(1);
            out.push_str(first);
            if !rest.is_empty() {
                out.extend([".", rest]);
            }
            // Writing to a `String` cannot fail.
            let _ = write!(out, "e{exponent:+}");
        }
    }
}

/// Writes an object member by member, for those to whom a tree is too much.
///
/// It is canonical if the members are given in canonical order, which for ASCII names is the order
/// of bytes. Tests hold every use in this crate against [`to_string`].
pub struct Object {
    out: String,
    separator: &'static str,
}

impl Object {
    /// An empty object with room for that many bytes.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        let mut out = String::with_capacity(bytes);
        out.push('{');
        Self { out, separator: "" }
    }

    fn name(&mut self, name: &str) {
        self.out.push_str(self.separator);
        write_string(&mut self.out, name);
        self.out.push(':');
        self.separator = ",";
    }

    /// A text.
    pub fn text(&mut self, name: &str, value: &str) -> &mut Self {
        self.name(name);
        write_string(&mut self.out, value);
        self
    }

    /// A text, or nothing at all.
    pub fn optional(&mut self, name: &str, value: Option<&str>) -> &mut Self {
        if let Some(value) = value {
            self.text(name, value);
        }
        self
    }

    /// A whole number; numbers beyond 2^53 would not be canonical, and are all digits even so.
    pub fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.name(name);
        // Writing to a `String` cannot fail.
        let _ = write!(self.out, "{value}");
        self
    }

    /// True or false.
    pub fn boolean(&mut self, name: &str, value: bool) -> &mut Self {
        self.name(name);
        self.out.push_str(if value { "true" } else { "false" });
        self
    }

    /// A list of texts.
    pub fn texts(&mut self, name: &str, texts: &[String]) -> &mut Self {
        self.name(name);
        let mut separator = '[';
        for text in texts {
            self.out.push(separator);
            write_string(&mut self.out, text);
            separator = ',';
        }
        self.out.push_str(if texts.is_empty() { "[]" } else { "]" });
        self
    }

    /// A list of pairs of texts.
    pub fn pairs(&mut self, name: &str, pairs: &[(String, String)]) -> &mut Self {
        self.name(name);
        let mut separator = "[[";
        for (first, second) in pairs {
            self.out.push_str(separator);
            write_string(&mut self.out, first);
            self.out.push(',');
            write_string(&mut self.out, second);
            separator = "],[";
        }
        self.out
            .push_str(if pairs.is_empty() { "[]" } else { "]]" });
        self
    }

    /// A list of objects, each filled from one item.
    pub fn objects<T>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = T>,
        fill: impl Fn(&mut Self, T),
    ) -> &mut Self {
        self.name(name);
        let mut separator = "[{";
        for item in items {
            self.out.push_str(separator);
            self.separator = "";
            fill(self, item);
            self.out.push('}');
            separator = ",{";
        }
        self.out
            .push_str(if separator == "[{" { "[]" } else { "]" });
        self.separator = ",";
        self
    }

    /// An object inside this one.
    pub fn object(&mut self, name: &str, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.name(name);
        self.out.push('{');
        self.separator = "";
        fill(self);
        self.out.push('}');
        self.separator = ",";
        self
    }

    /// The text.
    #[must_use]
    pub fn finish(&mut self) -> String {
        self.out.push('}');
        std::mem::take(&mut self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_by_members_is_read_as_the_same() {
        let texts = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        let pair = |pair: &str| (pair.to_owned(), format!("{pair}\""));
        let written = Object::with_capacity(0)
            .text("a", "\u{1}\\")
            .boolean("b", true)
            .texts("c", &[])
            .texts("d", &texts(&["1"]))
            .texts("e", &texts(&["1", "2"]))
            .pairs("f", &[])
            .pairs("g", &[pair("x"), pair("y")])
            .objects("h", [0_u64; 0], |object, item| {
                object.number("n", item);
            })
            .objects("i", [1, 2], |object, item| {
                object.number("n", item).text("t", "");
            })
            .number("j", 7)
            .finish();
        let value = serde_json::json!({
            "a": "\u{1}\\", "b": true, "c": [], "d": ["1"], "e": ["1", "2"], "f": [],
            "g": [["x", "x\""], ["y", "y\""]], "h": [],
            "i": [{"n": 1, "t": ""}, {"n": 2, "t": ""}], "j": 7,
        });
        assert_eq!(written, to_string(&value));
    }
}
