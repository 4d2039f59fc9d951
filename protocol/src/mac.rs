//! HMAC-SHA256, the only MAC in use here.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::hash::sha256;

const BLOCK: usize = 64;

/// A key whose two padded blocks are hashed already. Cloning it costs a copy; each message saves
/// two of the four or five compressions that a short HMAC takes.
#[derive(Clone)]
pub(crate) struct MacKey(Hmac<Sha256>);

impl MacKey {
    pub(crate) fn new(key: &[u8]) -> Self {
        Self(keyed(key))
    }

    pub(crate) fn sign(&self, parts: &[&[u8]]) -> [u8; 32] {
        finish(self.0.clone(), parts)
    }
}

/// HMAC of the concatenated `parts` under `key`.
pub(crate) fn sign(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    finish(keyed(key), parts)
}

/// A key is padded here with zeros to a whole block, which is what HMAC does with it anyway, since
/// that constructor cannot fail. Longer keys are hashed first (RFC 2104).
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    let mut block = [0; BLOCK];
    if let Some(start) = block.get_mut(..key.len()) {
        start.copy_from_slice(key);
    } else {
        let (start, _) = block.split_at_mut(32);
        start.copy_from_slice(&sha256(key));
    }
    Hmac::new(&block.into())
}

fn finish(mut mac: Hmac<Sha256>, parts: &[&[u8]]) -> [u8; 32] {
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::hex_encode;

    #[test]
    fn rfc_4231_cases_hold() {
        let cases: [(Vec<u8>, &[u8], &str); 3] = [
            (
                vec![0x0b; 20],
                b"Hi There",
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            ),
            (
                b"Jefe".to_vec(),
                b"what do ya want for nothing?",
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
            ),
            (
                vec![0xaa; 131],
                b"Test Using Larger Than Block-Size Key - Hash Key First",
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            ),
        ];
        for (key, message, expected) in cases {
            let (start, end) = message.split_at(5);
            assert_eq!(hex_encode(&sign(&key, &[message])), expected);
            assert_eq!(hex_encode(&MacKey::new(&key).sign(&[start, end])), expected);
        }
    }
}
