//! What names in requests look like. A filter's policy was checked before, so this only keeps
//! nonsense out of tokens, ledger and logs.

const LONGEST_NAME: usize = 128;
const LONGEST_ID: usize = 128;

/// A name of a service, capability or condition.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= LONGEST_NAME
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// A random name made by a filter: 32 hexadecimal digits.
pub(super) fn is_random_name(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The id of a challenge, ours or not.
pub(super) fn is_challenge_id(text: &str) -> bool {
    (1..=LONGEST_ID).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}
