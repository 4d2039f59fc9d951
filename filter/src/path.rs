//! What a path and an authority mean, if they cannot mean anything else to an upstream.
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

/// The path without query in its one canonical form: every escape that stands for a visible ASCII
/// character is undone, the others are in upper case. What may not stand in a path unescaped stays
/// escaped, so two paths that mean the same have the same form.
///
/// # Errors
/// [`Ambiguity`] if an upstream could read it as another one.
pub fn canonical(target: Option<&[u8]>) -> Result<Cow<'_, [u8]>, Ambiguity> {
    let target = target.unwrap_or_default();
    let path = target
        .split(|byte| *byte == b'?')
        .next()
        .unwrap_or_default();
    if path.first() != Some(&b'/') {
        return Err(Ambiguity::NotAPath);
    }
    let mut has_escape = false;
    let mut before = 0;
    for byte in path {
        match byte {
            0..=0x20 | 0x7f.. | b'\\' | b'#' => return Err(Ambiguity::Byte),
            b'/' if before == b'/' => return Err(Ambiguity::EmptySegment),
            b'%' => has_escape = true,
            _ => {}
        }
        before = *byte;
    }
    let path = if has_escape {
        Cow::Owned(unescape(path)?)
    } else {
        Cow::Borrowed(path)
    };
    // Only a segment that begins with a dot can be a dot segment, and few paths have one.
    let has_dot_segment = path.windows(2).any(|pair| pair == b"/.")
        && path.split(|byte| *byte == b'/').any(|segment| {
            matches!(
                segment.split(|byte| *byte == b';').next(),
                Some(b"." | b"..")
            )
        });
    if has_dot_segment {
        Err(Ambiguity::DotSegment)
    } else {
        Ok(path)
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
        let [byte] = protocol::encoding::hex_decode(digits).map_err(|_| Ambiguity::Escape)?;
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

/// Another path that an upstream might take a canonical one for: without parameters, segments that
/// are empty without them, a slash at the end, and what follows an escaped `?` or `#`; in lower
/// case. A path is only free if this is not paid. The first `named` bytes stay as they are: a free
/// path names them, so they are no disguise.
#[must_use]
pub fn loosely(path: &[u8], named: usize) -> Option<Vec<u8>> {
    let (named, rest) = path.split_at_checked(named)?;
    let is_end = |three: &[u8]| three == b"%3F" || three == b"%23";
    let end = rest.windows(3).position(is_end).unwrap_or(rest.len());
    let is_plain = end == rest.len()
        && (rest.last() != Some(&b'/') || path.len() == 1)
        && !rest.iter().any(|b| *b == b';' || b.is_ascii_uppercase());
    if is_plain {
        return None;
    }
    let mut loose = named.to_vec();
    let rest = rest.get(..end).unwrap_or_default();
    for (number, segment) in rest.split(|byte| *byte == b'/').enumerate() {
        let name = segment
            .split(|byte| *byte == b';')
            .next()
            .unwrap_or_default();
        if number > 0 && !name.is_empty() && loose.last() != Some(&b'/') {
            loose.push(b'/');
        }
        loose.extend(name.iter().map(u8::to_ascii_lowercase));
    }
    if loose.is_empty() {
        loose.push(b'/');
    }
    Some(loose)
}

/// The authority as text, without the dot that may end a fully qualified name.
///
/// # Errors
/// [`Ambiguity::Authority`] if it is not one host with an optional port.
pub fn authority(bytes: &[u8]) -> Result<&str, Ambiguity> {
    let is_host = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':' | b'[' | b']')
    };
    if bytes.is_empty() || !bytes.iter().all(is_host) {
        return Err(Ambiguity::Authority);
    }
    std::str::from_utf8(bytes).map_err(|_| Ambiguity::Authority)
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
            assert_eq!(
                canonical(Some(target.as_bytes())),
                Ok(path.as_bytes().into())
            );
        }
    }

    #[test]
    fn two_spellings_of_one_path_have_one_form() {
        let path = canonical(Some(b"/%70aid/caf%C3%a9%20%3f%21")).unwrap();
        assert_eq!(path.escape_ascii().to_string(), "/paid/caf%C3%A9%20%3F!");
    }

    #[test]
    fn paths_that_some_upstreams_take_for_others_are_also_seen_as_those() {
        let after = |named: usize, path: &str| {
            loosely(path.as_bytes(), named).map(|path| String::from_utf8(path).unwrap())
        };
        let loose = |path: &str| after(0, path);
        assert_eq!(loose("/paid"), None);
        assert_eq!(loose("/"), None);
        assert_eq!(loose("/PAID;a=b/x;/").as_deref(), Some("/paid/x"));
        assert_eq!(loose("/;a").as_deref(), Some("/"));
        assert_eq!(loose("/;a/;/paid/x").as_deref(), Some("/paid/x"));
        assert_eq!(loose("/paid/x%3Fa/b").as_deref(), Some("/paid/x"));
        assert_eq!(loose("/paid/x%23").as_deref(), Some("/paid/x"));
        assert_eq!(loose("/caf%C3%A9").as_deref(), Some("/caf%c3%a9"));

        assert_eq!(after(6, "/Docs/"), None);
        assert_eq!(after(6, "/Docs/a"), None);
        assert_eq!(after(6, "/Docs/A/;x/B/").as_deref(), Some("/Docs/a/b"));
        assert_eq!(after(6, "/Docs/;x").as_deref(), Some("/Docs/"));
        assert_eq!(after(3, "/DocS").as_deref(), Some("/Docs"));
        assert_eq!(after(1, "/;a/paid/x").as_deref(), Some("/paid/x"));
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

    #[test]
    fn an_authority_is_one_host() {
        for good in [
            "a.example",
            "a.example:80",
            "[::1]:80",
            "10.0.0.1",
            "a_b.example.",
        ] {
            assert_eq!(authority(good.as_bytes()), Ok(good));
        }
        for bad in ["", "a,b", "u@a", "a b", "a/b", "a%2eb", "a\u{e9}"] {
            assert_eq!(
                authority(bad.as_bytes()),
                Err(Ambiguity::Authority),
                "{bad}"
            );
        }
    }
}
