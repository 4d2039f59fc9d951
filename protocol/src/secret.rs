//! 32 bytes that nobody may see.

use subtle::ConstantTimeEq as _;
use zeroize::Zeroize as _;

/// Has no `Debug` or `Display`, is compared in constant time and cleared when dropped.
#[derive(Clone)]
pub(crate) struct Secret([u8; 32]);

impl Secret {
    pub(crate) const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn equals(&self, other: &[u8; 32]) -> bool {
        self.0.ct_eq(other).into()
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
