//! Hexadecimal and base64, strict about everything that has two spellings and no reason for it.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};

/// Padding is a matter of taste of the sender; trailing bits that carry nothing must be zero,
/// else one token would have several spellings.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const LENIENT_STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const LENIENT_URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Text that is not what its encoding allows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// Not hexadecimal digits, or not as many as asked for.
    #[error("expected {digits} hexadecimal digits")]
    Hex {
        /// How many digits belong there.
        digits: usize,
    },
    /// An odd number of hexadecimal digits, or something else among them.
    #[error("expected pairs of hexadecimal digits")]
    HexPairs,
    /// Not base64 of one of the two alphabets.
    #[error("expected base64")]
    Base64,
}

/// Lower-case hexadecimal digits of `bytes`.
#[must_use]
pub fn hex_encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for nibble in [byte >> 4, byte & 0x0f] {
            // A nibble is always below 16, so the default is never taken.
            let digit = HEX_DIGITS
                .get(usize::from(nibble))
                .copied()
                .unwrap_or_default();
            text.push(char::from(digit));
        }
    }
    text
}

/// Exactly `N` bytes from `2 * N` hexadecimal digits of either case.
///
/// # Errors
///
/// [`DecodeError::Hex`] for any other text.
pub fn hex_decode<const N: usize>(text: impl AsRef<[u8]>) -> Result<[u8; N], DecodeError> {
    let text = text.as_ref();
    let error = DecodeError::Hex { digits: 2 * N };
    if text.len() != 2 * N {
        return Err(error);
    }
    let mut bytes = [0; N];
    decode_pairs(text, bytes.iter_mut()).map_err(|_| error)?;
    Ok(bytes)
}

/// Bytes from any number of pairs of hexadecimal digits, appended to `out`.
///
/// # Errors
///
/// [`DecodeError::HexPairs`]; `out` may then have grown.
pub fn hex_decode_into(text: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    if !text.len().is_multiple_of(2) {
        return Err(DecodeError::HexPairs);
    }
    let start = out.len();
    out.resize(start + text.len() / 2, 0);
    decode_pairs(text, out.iter_mut().skip(start))
}

fn decode_pairs<'a>(
    text: &[u8],
    bytes: impl Iterator<Item = &'a mut u8>,
) -> Result<(), DecodeError> {
    for (byte, pair) in bytes.zip(text.as_chunks::<2>().0) {
        let [high, low] = pair.map(nibble);
        // An invalid digit is 0xff, which no valid nibble reaches.
        if (high | low) > 0x0f {
            return Err(DecodeError::HexPairs);
        }
        *byte = high << 4 | low;
    }
    Ok(())
}

const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        b'A'..=b'F' => digit - b'A' + 10,
        _ => 0xff,
    }
}

/// Base64 of the standard alphabet with padding.
#[must_use]
pub fn base64_std(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Bytes from base64 of the standard or the URL-safe alphabet (not a mixture), padded or not.
///
/// # Errors
///
/// [`DecodeError::Base64`], also for trailing bits that are not zero.
pub fn base64_decode_lenient(text: impl AsRef<[u8]>) -> Result<Vec<u8>, DecodeError> {
    let text = text.as_ref();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 3);
    base64_decode_into(text, &mut bytes)?;
    Ok(bytes)
}

/// As [`base64_decode_lenient`], appended to `out`.
///
/// # Errors
///
/// [`DecodeError::Base64`]; `out` may then have grown.
pub fn base64_decode_into(text: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let start = out.len();
    // Nearly everybody sends the standard alphabet: trying it first saves a look at every byte.
    if LENIENT_STANDARD.decode_vec(text, out).is_err() {
        out.truncate(start);
        LENIENT_URL_SAFE
            .decode_vec(text, out)
            .map_err(|_| DecodeError::Base64)?;
    }
    Ok(())
}

/// Base64 of the URL-safe alphabet without padding, as the Payment scheme writes everything.
#[must_use]
pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Bytes from base64 of the URL-safe alphabet, with the padding that belongs there or none.
///
/// # Errors
///
/// [`DecodeError::Base64`], also for trailing bits that are not zero.
pub fn base64url_decode(text: impl AsRef<[u8]>) -> Result<Vec<u8>, DecodeError> {
    let text = text.as_ref();
    let engine = if text.ends_with(b"=") {
        &URL_SAFE
    } else {
        &URL_SAFE_NO_PAD
    };
    engine.decode(text).map_err(|_| DecodeError::Base64)
}

/// Exactly `N` bytes from unpadded base64 of the URL-safe alphabet.
///
/// # Errors
///
/// [`DecodeError::Base64`] for any other text.
pub fn base64url_decode_exact<const N: usize>(
    text: impl AsRef<[u8]>,
) -> Result<[u8; N], DecodeError> {
    let mut bytes = [0; N];
    match URL_SAFE_NO_PAD.decode_slice(text, &mut bytes) {
        Ok(length) if length == N => Ok(bytes),
        _ => Err(DecodeError::Base64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_takes_either_case_and_writes_lower() {
        assert_eq!(hex_decode::<2>("aBfF"), Ok([0xab, 0xff]));
        assert_eq!(hex_encode(&[0xab, 0x0f]), "ab0f");
    }

    #[test]
    fn hex_of_another_length_or_alphabet_is_refused() {
        for text in ["", "ab", "abcde", "abcdef", "abcg", "ab\u{e9}"] {
            assert_eq!(
                hex_decode::<2>(text),
                Err(DecodeError::Hex { digits: 4 }),
                "{text}"
            );
        }
        assert_eq!(
            hex_decode_into(b"abc", &mut Vec::new()),
            Err(DecodeError::HexPairs)
        );
    }

    #[test]
    fn base64_takes_both_alphabets_with_or_without_padding() {
        for text in ["+/8=", "+/8", "-_8=", "-_8"] {
            assert_eq!(base64_decode_lenient(text), Ok(vec![0xfb, 0xff]), "{text}");
        }
    }

    #[test]
    fn base64_with_mixed_alphabets_or_stray_bits_is_refused() {
        for text in ["+_8=", "+/9=", "+/8==", "+", "+/8=A", "+/ 8", "+/8\n"] {
            assert_eq!(
                base64_decode_lenient(text),
                Err(DecodeError::Base64),
                "{text}"
            );
        }
    }

    #[test]
    fn base64url_of_a_fixed_length_has_one_spelling() {
        assert_eq!(base64url_decode_exact::<2>("-_8"), Ok([0xfb, 0xff]));
        for text in ["-_8=", "-_9", "-_", "-_8A", "+/8", ""] {
            let read = base64url_decode_exact::<2>(text);
            assert_eq!(read, Err(DecodeError::Base64), "{text}");
        }
    }
}
