//! Macaroons as a holder handles them, written from the specification (spec/l402 2.4 to 2.6) and
//! apart from the product's own code, so that the two check each other.

use anyhow::{Context, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// A version 2 macaroon with first-party caveats.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Macaroon {
    /// Hint where it came from; not signed.
    pub location: Option<Vec<u8>>,
    /// Identifier: for L402 66 bytes.
    pub identifier: Vec<u8>,
    /// Caveats in order.
    pub caveats: Vec<Vec<u8>>,
    /// The last value of the chain.
    pub signature: [u8; 32],
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    // HMAC takes keys of any length.
    Hmac::<Sha256>::new_from_slice(key).map_or([0; 32], |mut mac| {
        mac.update(message);
        mac.finalize().into_bytes().into()
    })
}

impl Macaroon {
    /// Mints one under a root key.
    #[must_use]
    pub fn mint(root_key: &[u8], identifier: Vec<u8>, caveats: &[&str]) -> Self {
        let key = hmac(b"macaroons-key-generator", root_key);
        let signature = hmac(&key, &identifier);
        let mut macaroon = Self {
            location: None,
            identifier,
            caveats: Vec::new(),
            signature,
        };
        for caveat in caveats {
            macaroon = macaroon.attenuate(caveat);
        }
        macaroon
    }

    /// A holder's right: one more caveat.
    #[must_use]
    pub fn attenuate(&self, caveat: &str) -> Self {
        let mut next = self.clone();
        next.signature = hmac(&self.signature, caveat.as_bytes());
        next.caveats.push(caveat.as_bytes().to_vec());
        next
    }

    /// Reads standard base64 with padding of the binary form.
    ///
    /// # Errors
    /// When it is not one.
    pub fn from_base64(text: &str) -> anyhow::Result<Self> {
        let bytes = STANDARD.decode(text).context("not standard base64")?;
        let mut rest = bytes.as_slice();
        ensure!(take(&mut rest, 1)? == [2], "not version 2");
        let mut location = None;
        let mut identifier = None;
        loop {
            match take(&mut rest, 1)? {
                [0] => break,
                [1] => location = Some(field(&mut rest)?),
                [2] => identifier = Some(field(&mut rest)?),
                other => bail!("unexpected field {other:?} in the header"),
            }
        }
        let mut caveats = Vec::new();
        loop {
            match take(&mut rest, 1)? {
                [0] => break,
                [2] => {
                    caveats.push(field(&mut rest)?);
                    ensure!(take(&mut rest, 1)? == [0], "a caveat without end");
                }
                other => bail!("unexpected field {other:?} in a caveat"),
            }
        }
        ensure!(take(&mut rest, 1)? == [6], "no signature");
        let signature: [u8; 32] = field(&mut rest)?
            .try_into()
            .ok()
            .context("a signature has 32 bytes")?;
        ensure!(rest.is_empty(), "bytes after the signature");
        let identifier = identifier.context("no identifier")?;
        Ok(Self {
            location,
            identifier,
            caveats,
            signature,
        })
    }

    /// The binary form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![2];
        if let Some(location) = &self.location {
            put(&mut bytes, 1, location);
        }
        put(&mut bytes, 2, &self.identifier);
        bytes.push(0);
        for caveat in &self.caveats {
            put(&mut bytes, 2, caveat);
            bytes.push(0);
        }
        bytes.push(0);
        put(&mut bytes, 6, &self.signature);
        bytes
    }

    /// Standard base64 with padding of the binary form.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(self.to_bytes())
    }

    /// The same macaroon in version 1's packets.
    #[must_use]
    pub fn to_v1_base64(&self) -> String {
        let mut bytes = Vec::new();
        let mut packet = |key: &str, value: &[u8]| {
            let length = 4 + key.len() + 1 + value.len() + 1;
            bytes.extend_from_slice(format!("{length:04x}{key} ").as_bytes());
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        };
        packet("location", self.location.as_deref().unwrap_or_default());
        packet("identifier", &self.identifier);
        for caveat in &self.caveats {
            packet("cid", caveat);
        }
        packet("signature", &self.signature);
        STANDARD.encode(bytes)
    }

    /// The same macaroon with a correctly signed third-party caveat at its end.
    #[must_use]
    pub fn third_party_base64(&self, location: &str, caveat: &[u8], verification: &[u8]) -> String {
        let mut bound = hmac(&self.signature, verification).to_vec();
        bound.extend_from_slice(&hmac(&self.signature, caveat));
        let signature = hmac(&self.signature, &bound);
        let mut bytes = self.to_bytes();
        // Drop the end of the caveats and the signature field: 0x00, 0x06, 0x20, 32 bytes.
        bytes.truncate(bytes.len().saturating_sub(35));
        put(&mut bytes, 1, location.as_bytes());
        put(&mut bytes, 2, caveat);
        put(&mut bytes, 4, verification);
        bytes.extend_from_slice(&[0, 0]);
        put(&mut bytes, 6, &signature);
        STANDARD.encode(bytes)
    }

    /// Bytes 2 to 34 of the identifier, as hex.
    ///
    /// # Errors
    /// When the identifier is not an L402 one of version 0.
    pub fn payment_hash(&self) -> anyhow::Result<String> {
        ensure!(self.identifier.len() == 66, "an identifier has 66 bytes");
        ensure!(
            self.identifier.starts_with(&[0, 0]),
            "the identifier's version is 0"
        );
        Ok(hex(self.identifier.get(2..34).unwrap_or_default()))
    }

    /// Bytes 34 to 66 of the identifier, as hex.
    ///
    /// # Errors
    /// When the identifier is not an L402 one.
    pub fn token_id(&self) -> anyhow::Result<String> {
        ensure!(self.identifier.len() == 66, "an identifier has 66 bytes");
        Ok(hex(self.identifier.get(34..).unwrap_or_default()))
    }

    /// Caveats as text.
    #[must_use]
    pub fn caveat_texts(&self) -> Vec<String> {
        self.caveats
            .iter()
            .map(|caveat| String::from_utf8_lossy(caveat).into_owned())
            .collect()
    }
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> anyhow::Result<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count).context("too short")?;
    *rest = left;
    Ok(taken)
}

fn field(rest: &mut &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut length = 0_usize;
    for shift in (0..28).step_by(7) {
        let byte = take(rest, 1)?.first().copied().unwrap_or_default();
        length |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(take(rest, length)?.to_vec());
        }
    }
    bail!("a length that does not end")
}

fn put(bytes: &mut Vec<u8>, tag: u8, value: &[u8]) {
    bytes.push(tag);
    let mut length = value.len();
    while length >= 0x80 {
        bytes.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap_or_default());
    bytes.extend_from_slice(value);
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads hex of either case.
///
/// # Errors
/// When it is none.
pub fn unhex(text: &str) -> anyhow::Result<Vec<u8>> {
    ensure!(text.len().is_multiple_of(2), "an odd number of hex digits");
    (0..text.len())
        .step_by(2)
        .map(|at| {
            let digits = text.get(at..at + 2).context("not hex")?;
            Ok(u8::from_str_radix(digits, 16)?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the wire vectors that the product's own tests use as well.
    const ROOT: &str = "a6361520f25244fa67585dfff031d8e373ddd8415ec650b15f38acbec745d0ce";
    const IDENTIFIER: &str = "000080dfae1389bc697d375f03bc6dfcfcd5572683646e5723f3f6c7717ca1b8c02c\
                              1d07e1ad6766760d32bab489e7ca77f2e7534c8f582e2effa70041b4d3576db3";

    #[test]
    fn minting_agrees_with_the_published_vector() {
        let mut macaroon = Macaroon::mint(
            &unhex(ROOT).unwrap(),
            unhex(IDENTIFIER).unwrap(),
            &["services=weather:0"],
        );
        assert_eq!(
            hex(&macaroon.signature),
            "685a315ab332782361b1a73237027cca8b0bd7ea425a76dfeac1e75f6f9eb526"
        );
        macaroon.location = Some(b"lsat".to_vec());
        assert_eq!(
            hex(&macaroon.to_bytes()),
            "0201046c7361740242000080dfae1389bc697d375f03bc6dfcfcd5572683646e5723f3f6c7717ca1b8c02c\
             1d07e1ad6766760d32bab489e7ca77f2e7534c8f582e2effa70041b4d3576db300021273657276696365733d\
             776561746865723a3000000620685a315ab332782361b1a73237027cca8b0bd7ea425a76dfeac1e75f6f9eb526"
        );
        assert_eq!(
            Macaroon::from_base64(&macaroon.to_base64()).unwrap(),
            macaroon
        );
    }
}
