//! What a path means, if it cannot mean anything else to an upstream.
//!
//! Envoy, the filter and the router see the same text, but an upstream may normalise it further.
//! A text that could then name another resource is refused on hosts that are ours. What is left is
//! decoded once, and the policy is matched against that.

use std::borrow::Cow;

/// Why a request target or an authority is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ambiguity {
    /// No path at all (CONNECT), or one that does not begin with `/`.
    NotAPath,
    /// A `.` or `..` segment, with or without parameters.
    DotSegment,
    /// `//`.
    EmptySegment,
    /// `\`, `#`, a control character, a blank, or a byte that is not ASCII.
    Byte,
    /// `%` without two hexadecimal digits.
    Escape,
    /// An escape that stands for a delimiter, a dot, `%`, or a control character.
    EscapedDelimiter,
    /// Escapes that together are not UTF-8.
    NotUtf8,
    /// An authority that is empty, names several hosts, or is none.
    Authority,
}

impl Ambiguity {
    /// For the client, to go on with "the request …".
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotAPath => "has no path",
            Self::DotSegment => "path has a dot segment",
            Self::EmptySegment => "path has an empty segment",
            Self::Byte => "path has a character that must be escaped",
            Self::Escape => "path has an incomplete escape",
            Self::EscapedDelimiter => "path has an escaped delimiter",
            Self::NotUtf8 => "path is not UTF-8",
            Self::Authority => "names no host, or several",
        }
    }
}

/// A path in its one form.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Canonical<'a> {
    /// The path, without query.
    pub path: Cow<'a, [u8]>,
    /// There is nothing in it that some upstreams read and others do not: no capital, parameter,
    /// escape, or slash at the end.
    pub is_plain: bool,
}

/// The path without query in its one canonical form: every escape that stands for a visible ASCII
/// character is undone, the others are in upper case. What may not stand in a path unescaped stays
/// escaped, so two paths that mean the same have the same form.
///
/// # Errors
/// [`Ambiguity`] if an upstream could read it as another one.
pub fn canonical(target: Option<&[u8]>) -> Result<Canonical<'_>, Ambiguity> {
    let target = target.unwrap_or_default();
    let path = target
        .split(|byte| *byte == b'?')
        .next()
        .unwrap_or_default();
    if path.first() != Some(&b'/') {
        return Err(Ambiguity::NotAPath);
    }
    let (mut has_escape, mut has_dot, mut is_plain) = (false, false, true);
    let mut before = 0;
    for byte in path {
        match byte {
            0..=0x20 | 0x7f.. | b'\\' | b'#' => return Err(Ambiguity::Byte),
            b'/' if before == b'/' => return Err(Ambiguity::EmptySegment),
            b'.' if before == b'/' => has_dot = true,
            b'%' => has_escape = true,
            b';' | b'A'..=b'Z' => is_plain = false,
            _ => {}
        }
        before = *byte;
    }
    is_plain &= !has_escape && (before != b'/' || path.len() == 1);
    let path = if has_escape {
        Cow::Owned(unescape(path)?)
    } else {
        Cow::Borrowed(path)
    };
    // Only a segment that begins with a dot can be a dot segment, and few paths have one. Neither
    // dot nor slash may be escaped.
    let has_dot_segment = has_dot
        && path.split(|byte| *byte == b'/').any(|segment| {
            matches!(
                segment.split(|byte| *byte == b';').next(),
                Some(b"." | b"..")
            )
        });
    if has_dot_segment {
        Err(Ambiguity::DotSegment)
    } else {
        Ok(Canonical { path, is_plain })
    }
}

fn unescape(path: &[u8]) -> Result<Vec<u8>, Ambiguity> {
    let mut canonical = Vec::with_capacity(path.len());
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            canonical.push(*first);
            decoded.push(*first);
            continue;
        }
        let (digits, after) = rest.split_first_chunk::<2>().ok_or(Ambiguity::Escape)?;
        let [byte] = crate::encoding::hex_decode(digits).map_err(|_| Ambiguity::Escape)?;
        rest = after;
        decoded.push(byte);
        match byte {
            0..0x20 | 0x7f | b'.' | b'/' | b'\\' | b'%' | b';' => {
                return Err(Ambiguity::EscapedDelimiter);
            }
            b' ' | b'?' | b'#' | 0x80.. => {
                canonical.push(b'%');
                canonical.extend(digits.iter().map(u8::to_ascii_uppercase));
            }
            _ => canonical.push(byte),
        }
    }
    if std::str::from_utf8(&decoded).is_err() {
        return Err(Ambiguity::NotUtf8);
    }
    Ok(canonical)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_path_is_taken_without_its_query() {
        for (target, path) in [
            ("/v1/a?b=//../%2e", "/v1/a"),
            ("/", "/"),
            ("/v1/", "/v1/"),
            ("/a;b=c/.../.well-known", "/a;b=c/.../.well-known"),
        ] {
            let found = canonical(Some(target.as_bytes())).unwrap();
            assert_eq!(found.path, path.as_bytes());
        }
    }

    #[test]
    fn a_path_is_plain_if_nothing_in_it_could_be_a_disguise() {
        for (path, is_plain) in [
            ("/", true),
            ("/v1/a-b_c.d?B;%", true),
            ("/v1/", false),
            ("/v1/A", false),
            ("/v1/a;b", false),
            ("/v1/%61", false),
        ] {
            let found = canonical(Some(path.as_bytes())).unwrap();
            assert_eq!(found.is_plain, is_plain, "{path}");
        }
    }

    #[test]
    fn two_spellings_of_one_path_have_one_form() {
        let path = canonical(Some(b"/%70aid/caf%C3%a9%20%3f%21")).unwrap();
        assert_eq!(
            path.path.escape_ascii().to_string(),
            "/paid/caf%C3%A9%20%3F!"
        );
    }

    #[test]
    fn every_path_that_can_be_read_otherwise_is_refused() {
        use Ambiguity::*;
        for (path, why) in [
            (&b""[..], NotAPath),
            (b"*", NotAPath),
            (b"http://a/b", NotAPath),
            (b"?a", NotAPath),
            (b"/a/../b", DotSegment),
            (b"/a/..", DotSegment),
            (b"/.", DotSegment),
            (b"/./a", DotSegment),
            (b"/a/..;/b", DotSegment),
            (b"/a/.;x=y/b", DotSegment),
            (b"//a", EmptySegment),
            (b"/a//", EmptySegment),
            (b"/a\\b", Byte),
            (b"/a b", Byte),
            (b"/a\tb", Byte),
            (b"/a\x00", Byte),
            (b"/a#b", Byte),
            (b"/a\x7f", Byte),
            (b"/a\xff", Byte),
            (b"/caf\xc3\xa9", Byte),
            (b"/a%", Escape),
            (b"/a%2", Escape),
            (b"/a%zz", Escape),
            (b"/%2e%2e/b", EscapedDelimiter),
            (b"/%2E", EscapedDelimiter),
            (b"/a%2fb", EscapedDelimiter),
            (b"/a%5Cb", EscapedDelimiter),
            (b"/a%252e", EscapedDelimiter),
            (b"/a%3bb", EscapedDelimiter),
            (b"/a%00", EscapedDelimiter),
            (b"/a%0d%0a", EscapedDelimiter),
            (b"/%ff", NotUtf8),
            (b"/%c0%ae", NotUtf8),
        ] {
            assert_eq!(canonical(Some(path)), Err(why), "{}", path.escape_ascii());
        }
        assert_eq!(canonical(None), Err(NotAPath));
    }
}
