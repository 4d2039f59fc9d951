//! Header lists in the encoding of the proxy-wasm ABI.
//!
//! ```text
//! count, count × (name length, value length), count × (name 00 value 00)      lengths: u32 LE
//! ```

/// Header fields that the host handed over, read in place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pairs<'a> {
    lengths: &'a [[u8; 8]],
    text: &'a [u8],
}

impl<'a> Pairs<'a> {
    /// `None` if the bytes are not such a list. No bytes at all are an empty list.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let (count, rest) = bytes.split_first_chunk::<4>()?;
        let count = usize::try_from(u32::from_le_bytes(*count)).ok()?;
        let (lengths, text) = rest.split_at_checked(count.checked_mul(8)?)?;
        Some(Self {
            lengths: lengths.as_chunks::<8>().0,
            text,
        })
    }

    /// All fields in their order.
    #[must_use]
    pub const fn iter(&self) -> Fields<'a> {
        Fields {
            lengths: self.lengths,
            text: self.text,
        }
    }

    /// The values of the fields of that (lower-case) name.
    pub fn values(&self, name: &[u8]) -> impl Iterator<Item = &'a [u8]> {
        self.iter()
            .filter(move |(field, _)| *field == name)
            .map(|(_, value)| value)
    }
}

/// Iterator over [`Pairs`]; ends early where the bytes do.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    lengths: &'a [[u8; 8]],
    text: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let ([n0, n1, n2, n3, v0, v1, v2, v3], lengths) = self.lengths.split_first()?;
        let name = usize::try_from(u32::from_le_bytes([*n0, *n1, *n2, *n3])).ok()?;
        let value = usize::try_from(u32::from_le_bytes([*v0, *v1, *v2, *v3])).ok()?;
        let (name, text) = self.text.split_at_checked(name)?;
        let (_, text) = text.split_first()?;
        let (value, text) = text.split_at_checked(value)?;
        let (_, text) = text.split_first()?;
        (self.lengths, self.text) = (lengths, text);
        Some((name, value))
    }
}

/// Encodes a list for the host.
#[must_use]
pub fn encode(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let text: usize = fields
        .iter()
        .map(|(name, value)| name.len() + value.len() + 10)
        .sum();
    let mut out = Vec::with_capacity(4 + text);
    put_length(&mut out, fields.len());
    for (name, value) in fields {
        put_length(&mut out, name.len());
        put_length(&mut out, value.len());
    }
    for (name, value) in fields {
        out.extend_from_slice(name);
        out.push(0);
        out.extend_from_slice(value);
        out.push(0);
    }
    out
}

/// Lengths here are of things the filter itself made, far below 4 GiB.
fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_read_again(
            fields in prop::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..20),
        ) {
            let borrowed: Vec<_> = fields.iter().map(|(n, v)| (&n[..], &v[..])).collect();
            let bytes = encode(&borrowed);
            let read: Vec<_> = Pairs::parse(&bytes).unwrap().iter().collect();
            prop_assert_eq!(read, borrowed);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in any::<Vec<u8>>()) {
            if let Some(pairs) = Pairs::parse(&bytes) {
                prop_assert!(pairs.iter().count() <= bytes.len());
            }
        }
    }

    #[test]
    fn a_list_that_ends_early_is_read_as_far_as_it_goes() {
        let bytes = encode(&[(b"a", b"1"), (b"b", b"2")]);
        let cut = &bytes[..bytes.len() - 1];
        assert_eq!(Pairs::parse(cut).unwrap().iter().count(), 1);
    }
}
