//! Challenges and credentials of HTTP authentication (RFC 9110 section 11), read and written.
//!
//! ```text
//! challenge   = auth-scheme [ 1*SP ( token68 / #auth-param ) ]
//! credentials = auth-scheme [ 1*SP ( token68 / #auth-param ) ]
//! auth-param  = token BWS "=" BWS ( token / quoted-string )
//! ```
//!
//! The credential of L402 is of another form (it has a colon): see [`crate::l402::authorization`].

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// Longest text that is read.
pub const MAX_LEN: usize = 16 * 1024;
/// Most challenges of one header value.
pub const MAX_CHALLENGES: usize = 32;
/// Most parameters of one challenge.
pub const MAX_PARAMS: usize = 32;

/// Why a text does not follow the grammar.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// Longer than [`MAX_LEN`], or more than [`MAX_CHALLENGES`] or [`MAX_PARAMS`].
    #[error("too long")]
    TooLong,
    /// A scheme was expected.
    #[error("expected an authentication scheme at byte {at}")]
    Scheme {
        /// Position in the text.
        at: usize,
    },
    /// Neither a parameter nor the end of one.
    #[error("expected a parameter at byte {at}")]
    Param {
        /// Position in the text.
        at: usize,
    },
    /// A quoted string has no end, or a byte that may not be in one.
    #[error("quoted string malformed at byte {at}")]
    QuotedString {
        /// Position in the text.
        at: usize,
    },
    /// A parameter occurs twice in one challenge.
    #[error("parameter given twice before byte {at}")]
    Duplicate {
        /// Position in the text.
        at: usize,
    },
}

/// One challenge or credential: a scheme and what follows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Challenge<'a> {
    /// Name of the scheme as written; compare without regard to case.
    pub scheme: &'a str,
    /// What follows the scheme.
    pub value: Value<'a>,
}

/// What follows a scheme.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Value<'a> {
    /// One piece in the manner of base64, as in `Basic` and `Bearer`.
    Token68(&'a str),
    /// Named parameters in the order of the text, perhaps none.
    Params(Vec<(&'a str, Cow<'a, str>)>),
}

impl<'a> Challenge<'a> {
    /// The scheme is `name`.
    #[must_use]
    pub const fn is(&self, name: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(name)
    }

    /// The parameter `name`, compared without regard to case.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        let Value::Params(params) = &self.value else {
            return None;
        };
        params
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| &**value)
    }

    /// Reads a header value with any number of challenges (`WWW-Authenticate`).
    ///
    /// # Errors
    ///
    /// [`AuthError`] names the first place where the text leaves the grammar.
    pub fn parse_list(text: &'a str) -> Result<Vec<Self>, AuthError> {
        Self::read_list(Reader::new(text)?)
    }

    /// As [`Self::parse_list`], but of a parameter given twice the first one counts: nobody behind
    /// the origin can then change a value by adding another.
    ///
    /// # Errors
    ///
    /// As [`Self::parse_list`], apart from [`AuthError::Duplicate`].
    pub fn parse_list_first_wins(text: &'a str) -> Result<Vec<Self>, AuthError> {
        let mut reader = Reader::new(text)?;
        reader.first_wins = true;
        Self::read_list(reader)
    }

    fn read_list(mut reader: Reader<'a>) -> Result<Vec<Self>, AuthError> {
        let mut challenges = Vec::new();
        reader.skip_commas();
        while !reader.is_at_end() {
            if challenges.len() == MAX_CHALLENGES {
                return Err(AuthError::TooLong);
            }
            challenges.push(reader.challenge()?);
            reader.skip_commas();
        }
        Ok(challenges)
    }

    /// Reads exactly one credential or challenge.
    ///
    /// # Errors
    ///
    /// As [`Self::parse_list`], and [`AuthError::Scheme`] if there is not exactly one.
    pub fn parse_one(text: &'a str) -> Result<Self, AuthError> {
        let mut all = Self::parse_list(text)?;
        match (all.pop(), all.is_empty()) {
            (Some(one), true) => Ok(one),
            _ => Err(AuthError::Scheme { at: text.len() }),
        }
    }
}

/// Writes every parameter as a quoted string, comma and blank between them.
///
/// Bytes that a quoted string may not hold, such as line breaks, are left out.
impl fmt::Display for Challenge<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.scheme)?;
        match &self.value {
            Value::Token68(token) => write!(f, " {token}"),
            Value::Params(params) => {
                let mut separator = " ";
                for (name, value) in params {
                    write!(f, "{separator}{name}=\"")?;
                    write_quoted(f, value)?;
                    f.write_char('"')?;
                    separator = ", ";
                }
                Ok(())
            }
        }
    }
}

/// In runs between the few bytes that need care: values are long, and most have none.
fn write_quoted(f: &mut fmt::Formatter<'_>, value: &str) -> fmt::Result {
    let needs_care =
        |byte: u8| matches!(byte, b'"' | b'\\') || byte != b'\t' && byte.is_ascii_control();
    let mut rest = value;
    // Only ASCII bytes need care, so all of these are character boundaries.
    while let Some(at) = rest.bytes().position(needs_care) {
        let (plain, special) = rest.split_at(at);
        f.write_str(plain)?;
        let (special, after) = special.split_at(1);
        if matches!(special, "\"" | "\\") {
            f.write_char('\\')?;
            f.write_str(special)?;
        }
        rest = after;
    }
    f.write_str(rest)
}

fn is_quotable(character: char) -> bool {
    character == '\t' || !character.is_ascii_control()
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// A parameter given twice is no error.
    first_wins: bool,
}

impl<'a> Reader<'a> {
    const fn new(text: &'a str) -> Result<Self, AuthError> {
        if text.len() > MAX_LEN {
            Err(AuthError::TooLong)
        } else {
            Ok(Self {
                text,
                at: 0,
                first_wins: false,
            })
        }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    const fn is_at_end(&self) -> bool {
        self.at >= self.text.len()
    }

    fn take_while(&mut self, holds: impl Fn(u8) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.bytes().take_while(|byte| holds(*byte)).count();
        self.at += length;
        // Only ASCII bytes hold, so this is a character boundary.
        rest.get(..length).unwrap_or_default()
    }

    fn skip_blanks(&mut self) -> usize {
        self.take_while(is_blank).len()
    }

    fn skip_commas(&mut self) {
        self.take_while(|byte| is_blank(byte) || byte == b',');
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn challenge(&mut self) -> Result<Challenge<'a>, AuthError> {
        let scheme = self.take_while(is_token);
        if scheme.is_empty() {
            return Err(AuthError::Scheme { at: self.at });
        }
        let blanks = self.skip_blanks();
        if self.is_at_end() || self.peek() == Some(b',') {
            return Ok(Challenge {
                scheme,
                value: Value::Params(Vec::new()),
            });
        }
        if blanks == 0 {
            return Err(AuthError::Scheme { at: self.at });
        }
        let value = match self.token68() {
            Some(token) => Value::Token68(token),
            None => Value::Params(self.params()?),
        };
        Ok(Challenge { scheme, value })
    }

    /// A token68 reaches up to a comma or the end; anything else is a parameter.
    fn token68(&mut self) -> Option<&'a str> {
        let start = self.at;
        let body = self.take_while(is_token68).len();
        let padding = self.take_while(|byte| byte == b'=').len();
        let token = self.text.get(start..start + body + padding)?;
        self.skip_blanks();
        if body > 0 && (self.is_at_end() || self.peek() == Some(b',')) {
            return Some(token);
        }
        self.at = start;
        None
    }

    fn params(&mut self) -> Result<Vec<(&'a str, Cow<'a, str>)>, AuthError> {
        let mut params: Vec<(&str, _)> = Vec::new();
        while let Some((name, value)) = self.param(params.is_empty())? {
            if params.len() == MAX_PARAMS {
                return Err(AuthError::TooLong);
            }
            if params
                .iter()
                .any(|(known, _)| known.eq_ignore_ascii_case(name))
            {
                if self.first_wins {
                    continue;
                }
                return Err(AuthError::Duplicate { at: self.at });
            }
            params.push((name, value));
        }
        Ok(params)
    }

    /// The next parameter of this challenge; `None` where the next challenge begins.
    fn param(&mut self, is_first: bool) -> Result<Option<(&'a str, Cow<'a, str>)>, AuthError> {
        let start = self.at;
        self.skip_commas();
        let name = self.take_while(is_token);
        self.skip_blanks();
        if name.is_empty() && self.is_at_end() {
            return Ok(None);
        }
        if name.is_empty() || !self.eat(b'=') {
            let error = AuthError::Param { at: self.at };
            self.at = start;
            return if is_first || name.is_empty() {
                Err(error)
            } else {
                Ok(None)
            };
        }
        self.skip_blanks();
        let value = if self.eat(b'"') {
            self.quoted()?
        } else {
            let value = self.take_while(is_token);
            if value.is_empty() {
                return Err(AuthError::Param { at: self.at });
            }
            Cow::Borrowed(value)
        };
        self.skip_blanks();
        if self.is_at_end() || self.peek() == Some(b',') {
            Ok(Some((name, value)))
        } else {
            Err(AuthError::Param { at: self.at })
        }
    }

    fn quoted(&mut self) -> Result<Cow<'a, str>, AuthError> {
        let start = self.at;
        let mut unescaped: Option<String> = None;
        let mut characters = self.rest().char_indices();
        while let Some((offset, character)) = characters.next() {
            let at = start + offset;
            let kept = match character {
                '"' => {
                    self.at = at + 1;
                    let plain = self.text.get(start..at).unwrap_or_default();
                    return Ok(unescaped.map_or(Cow::Borrowed(plain), Cow::Owned));
                }
                '\\' => {
                    unescaped.get_or_insert_with(|| {
                        self.text.get(start..at).unwrap_or_default().to_owned()
                    });
                    characters.next().map(|(_, escaped)| escaped)
                }
                other => Some(other),
            };
            let Some(kept) = kept.filter(|kept| is_quotable(*kept)) else {
                return Err(AuthError::QuotedString { at });
            };
            if let Some(unescaped) = &mut unescaped {
                unescaped.push(kept);
            }
        }
        Err(AuthError::QuotedString {
            at: self.text.len(),
        })
    }
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// RFC 9110 section 5.6.2.
pub(crate) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

const fn is_token68(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/')
}

#[cfg(test)]
mod tests;
