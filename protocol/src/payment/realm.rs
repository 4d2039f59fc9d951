//! The protection space that challenges name.

use std::fmt;
use std::str::FromStr;

/// A realm that may be written into a challenge: from configuration only, never from the request.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Realm(String);

/// Why a text is no realm.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RealmError {
    /// Nothing, or more than [`Realm::MAX_LEN`].
    #[error("expected 1 to {} characters", Realm::MAX_LEN)]
    Length,
    /// Joins the slots of the challenge id: two challenges could share one (S7).
    #[error("must not contain '|'")]
    Delimiter,
    /// Would have to be escaped, which several clients cannot read.
    #[error("must not contain quotation marks or backslashes")]
    Quote,
    /// Not printable ASCII: some clients could not send it back.
    #[error("must be printable ASCII")]
    Unprintable,
}

impl Realm {
    /// Longest realm in bytes.
    pub const MAX_LEN: usize = 255;

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Realm {
    type Err = RealmError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !(1..=Self::MAX_LEN).contains(&text.len()) {
            return Err(RealmError::Length);
        }
        for byte in text.bytes() {
            match byte {
                b'|' => return Err(RealmError::Delimiter),
                b'"' | b'\\' => return Err(RealmError::Quote),
                b' '..=b'~' => (),
                _ => return Err(RealmError::Unprintable),
            }
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_cannot_be_taken_for_anything_else() {
        assert!("api.example.com".parse::<Realm>().is_ok());
        assert!("Weather, and more = fun".parse::<Realm>().is_ok());
        let long = "x".repeat(256);
        let cases = [
            ("", RealmError::Length),
            (&long, RealmError::Length),
            ("a|b", RealmError::Delimiter),
            ("a\"b", RealmError::Quote),
            ("a\\b", RealmError::Quote),
            ("a\tb", RealmError::Unprintable),
            ("a\r\nb", RealmError::Unprintable),
            ("caf\u{e9}", RealmError::Unprintable),
            ("a\u{7f}", RealmError::Unprintable),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<Realm>(), Err(error), "{text:?}");
        }
    }
}
