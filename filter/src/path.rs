//! What a path may be taken for, and what an authority means.

pub use protocol::policy::{Ambiguity, Canonical, canonical};

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
