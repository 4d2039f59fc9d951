//! Macaroons: the V2 binary format and the HMAC chain (spec/l402 sections 2.5 and 2.6).
//!
//! ```text
//! 02 [01 len location] 02 len identifier 00 { 02 len caveat 00 } 00 06 20 <32 bytes>
//! ```
//!
//! [`Macaroon`] is a view of received bytes and allocates nothing; [`MacaroonBuf`] owns the bytes
//! of a macaroon that is made or attenuated here.

use std::sync::LazyLock;

use crate::mac::{self, MacKey};
use crate::secret::Secret;

/// Most caveats of a macaroon that is accepted (R-L402-34).
pub const MAX_CAVEATS: usize = 64;

const VERSION: u8 = 2;
const END: u8 = 0;
const LOCATION: u8 = 1;
const IDENTIFIER: u8 = 2;
const SIGNATURE: u8 = 6;
const SIGNATURE_LEN: u8 = 32;

/// Every library hashes the root key with this label first, though the text of the specification
/// does not say so (spec/l402 E1).
static KEY_GENERATOR: LazyLock<MacKey> = LazyLock::new(|| MacKey::new(b"macaroons-key-generator"));

/// Why bytes are no macaroon that is accepted here.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, thiserror::Error)]
#[non_exhaustive]
pub enum MacaroonError {
    /// Another format: V1 packets, JSON or something else.
    #[error("not the V2 binary format")]
    NotV2,
    /// The bytes end early.
    #[error("ends too early")]
    Short,
    /// A length is not the shortest LEB128 number, or far too large.
    #[error("length is not a minimal varint")]
    Length,
    /// The header section is not an optional location and an identifier.
    #[error("header section is not a location and an identifier")]
    Header,
    /// A caveat section holds anything but one caveat id.
    #[error("caveat of a third party, or malformed")]
    Caveat,
    /// More than [`MAX_CAVEATS`].
    #[error("more than {MAX_CAVEATS} caveats")]
    TooManyCaveats,
    /// What follows the caveats is not exactly one signature.
    #[error("signature malformed, or something after it")]
    Signature,
}

/// A well-formed macaroon with first-party caveats only. Nothing is verified yet.
#[derive(Clone, Copy)]
pub struct Macaroon<'a> {
    location: &'a [u8],
    identifier: &'a [u8],
    caveats: &'a [u8],
    signature: &'a [u8; 32],
}

impl<'a> Macaroon<'a> {
    /// Reads exactly one macaroon; bytes after it are refused.
    ///
    /// # Errors
    ///
    /// [`MacaroonError`] names the first thing that is wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, MacaroonError> {
        let mut reader = Reader(bytes);
        if reader.byte()? != VERSION {
            return Err(MacaroonError::NotV2);
        }
        let (location, identifier) = header(&mut reader)?;
        let caveats = caveat_section(&mut reader)?;
        let signature = match reader.0 {
            [SIGNATURE, SIGNATURE_LEN, signature @ ..] => {
                signature.try_into().map_err(|_| MacaroonError::Signature)?
            }
            _ => return Err(MacaroonError::Signature),
        };
        Ok(Self {
            location,
            identifier,
            caveats,
            signature,
        })
    }

    /// A hint where the macaroon may be used; not signed, so it means nothing.
    #[must_use]
    pub const fn location(&self) -> &'a [u8] {
        self.location
    }

    /// What names the root key.
    #[must_use]
    pub const fn identifier(&self) -> &'a [u8] {
        self.identifier
    }

    /// The caveats in the order in which they were added.
    #[must_use]
    pub const fn caveats(&self) -> Caveats<'a> {
        Caveats(Reader(self.caveats))
    }

    /// Recomputes the chain from the root key and compares it in constant time.
    #[must_use]
    pub fn is_signed_with(&self, root_key: &[u8]) -> bool {
        let mut chain = Chain::start(root_key, self.identifier);
        for caveat in self.caveats() {
            chain.add(caveat);
        }
        chain.0.equals(self.signature)
    }
}

fn header<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], &'a [u8]), MacaroonError> {
    let mut tag = reader.byte()?;
    let mut location: &[u8] = &[];
    if tag == LOCATION {
        location = reader.field()?;
        tag = reader.byte()?;
    }
    if tag != IDENTIFIER {
        return Err(MacaroonError::Header);
    }
    let identifier = reader.field()?;
    if reader.byte()? != END {
        return Err(MacaroonError::Header);
    }
    Ok((location, identifier))
}

/// The bytes of all caveats, checked, without the 0 that ends them.
fn caveat_section<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], MacaroonError> {
    let start = reader.0;
    let mut count = 0;
    loop {
        let length = start.len() - reader.0.len();
        match reader.byte()? {
            END => return start.get(..length).ok_or(MacaroonError::Short),
            IDENTIFIER => {}
            _ => return Err(MacaroonError::Caveat),
        }
        count += 1;
        if count > MAX_CAVEATS {
            return Err(MacaroonError::TooManyCaveats);
        }
        reader.field()?;
        if reader.byte()? != END {
            return Err(MacaroonError::Caveat);
        }
    }
}

/// The caveats of a [`Macaroon`].
#[derive(Clone)]
pub struct Caveats<'a>(Reader<'a>);

impl<'a> Iterator for Caveats<'a> {
    type Item = &'a [u8];

    /// The section was checked when it was parsed, so it ends where the reader first fails.
    fn next(&mut self) -> Option<Self::Item> {
        self.0.byte().ok()?;
        let caveat = self.0.field().ok()?;
        self.0.byte().ok()?;
        Some(caveat)
    }
}

#[derive(Clone)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, MacaroonError> {
        let (first, rest) = self.0.split_first().ok_or(MacaroonError::Short)?;
        self.0 = rest;
        Ok(*first)
    }

    fn field(&mut self) -> Result<&'a [u8], MacaroonError> {
        let length = self.varint()?;
        let (field, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(MacaroonError::Short)?;
        self.0 = rest;
        Ok(field)
    }

    /// Unsigned LEB128 of at most three bytes: no header carries more than two million bytes.
    fn varint(&mut self) -> Result<usize, MacaroonError> {
        let mut value = 0;
        for shift in [0, 7, 14] {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let is_minimal = byte != 0 || shift == 0;
                return if is_minimal {
                    Ok(value)
                } else {
                    Err(MacaroonError::Length)
                };
            }
        }
        Err(MacaroonError::Length)
    }
}

/// The signature of a macaroon while caveats are added to it; a key itself, so not printed.
#[derive(Clone)]
pub struct Chain(Secret);

impl Chain {
    /// Signature of a macaroon without caveats.
    #[must_use]
    pub fn start(root_key: &[u8], identifier: &[u8]) -> Self {
        let derived = Secret::new(derive_key(root_key));
        Self::resume(mac::sign(derived.expose(), &[identifier]))
    }

    /// Continues from the signature of a macaroon.
    #[must_use]
    pub const fn resume(signature: [u8; 32]) -> Self {
        Self(Secret::new(signature))
    }

    /// Adds a caveat; nobody can take it back.
    pub fn add(&mut self, caveat: &[u8]) {
        *self = Self::resume(mac::sign(self.signature(), &[caveat]));
    }

    /// The signature so far.
    #[must_use]
    pub const fn signature(&self) -> &[u8; 32] {
        self.0.expose()
    }
}

/// The key of the first HMAC of a chain, made from the root key.
#[must_use]
pub fn derive_key(root_key: &[u8]) -> [u8; 32] {
    KEY_GENERATOR.sign(&[root_key])
}

/// The bytes of a well-formed macaroon that can be attenuated. A bearer secret: has no `Debug`.
#[derive(Clone)]
pub struct MacaroonBuf {
    /// Everything up to the 0 that ends the caveats.
    body: Vec<u8>,
    signature: [u8; 32],
}

impl MacaroonBuf {
    /// A new macaroon without caveats. An empty location is left out.
    #[must_use]
    pub fn new(root_key: &[u8], location: &[u8], identifier: &[u8]) -> Self {
        let mut body = vec![VERSION];
        if !location.is_empty() {
            write_field(&mut body, LOCATION, location);
        }
        write_field(&mut body, IDENTIFIER, identifier);
        body.push(END);
        Self {
            body,
            signature: *Chain::start(root_key, identifier).signature(),
        }
    }

    /// Adds a caveat. Needs only what a holder has (R-L402-23).
    pub fn add(&mut self, caveat: &[u8]) {
        write_field(&mut self.body, IDENTIFIER, caveat);
        self.body.push(END);
        let mut chain = Chain::resume(self.signature);
        chain.add(caveat);
        self.signature = *chain.signature();
    }

    /// The V2 binary form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.body.len() + 35);
        bytes.extend_from_slice(&self.body);
        bytes.extend_from_slice(&[END, SIGNATURE, SIGNATURE_LEN]);
        bytes.extend_from_slice(&self.signature);
        bytes
    }

    /// Standard base64 with padding, the form for HTTP headers.
    #[must_use]
    pub fn to_base64(&self) -> String {
        crate::encoding::base64_std(&self.to_bytes())
    }
}

impl From<&Macaroon<'_>> for MacaroonBuf {
    fn from(macaroon: &Macaroon<'_>) -> Self {
        let mut body = vec![VERSION];
        if !macaroon.location.is_empty() {
            write_field(&mut body, LOCATION, macaroon.location);
        }
        write_field(&mut body, IDENTIFIER, macaroon.identifier);
        body.push(END);
        body.extend_from_slice(macaroon.caveats);
        Self {
            body,
            signature: *macaroon.signature,
        }
    }
}

fn write_field(out: &mut Vec<u8>, tag: u8, field: &[u8]) {
    out.push(tag);
    write_varint(out, field.len());
    out.extend_from_slice(field);
}

fn write_varint(out: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        // Masked to seven bits, so the conversion loses nothing.
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::{hex_decode_into, hex_encode};

    #[test]
    fn lengths_are_minimal_leb128() {
        for (value, hex) in [
            (0, "00"),
            (127, "7f"),
            (128, "8001"),
            (300, "ac02"),
            (16_384, "808001"),
        ] {
            let mut bytes = Vec::new();
            write_varint(&mut bytes, value);
            assert_eq!(hex_encode(&bytes), hex);
            assert_eq!(Reader(&bytes).varint(), Ok(value));
        }
        for hex in ["8000", "808000", "80808001", "ffffff7f"] {
            let mut bytes = Vec::new();
            hex_decode_into(hex.as_bytes(), &mut bytes).unwrap();
            assert_eq!(Reader(&bytes).varint(), Err(MacaroonError::Length), "{hex}");
        }
    }

    #[test]
    fn more_than_64_caveats_are_refused() {
        let mut macaroon = MacaroonBuf::new(b"root", b"", b"id");
        for _ in 0..MAX_CAVEATS {
            macaroon.add(b"x=1");
        }
        assert_eq!(
            Macaroon::parse(&macaroon.to_bytes())
                .unwrap()
                .caveats()
                .count(),
            MAX_CAVEATS
        );
        macaroon.add(b"x=1");
        assert_eq!(
            Macaroon::parse(&macaroon.to_bytes()).err(),
            Some(MacaroonError::TooManyCaveats)
        );
    }

    #[test]
    fn any_location_is_kept_and_means_nothing() {
        let mut macaroon = MacaroonBuf::new(b"root", b"here", b"id");
        macaroon.add(b"x=1");
        let bytes = macaroon.to_bytes();
        let parsed = Macaroon::parse(&bytes).unwrap();
        assert_eq!(parsed.location(), b"here");
        assert!(parsed.is_signed_with(b"root"));
        assert!(!parsed.is_signed_with(b"toor"));
        assert!(MacaroonBuf::from(&parsed).to_bytes() == bytes);
    }
}
