//! Caveats: `condition=value`, split at the first `=` (spec/l402 section 2.7).
//!
//! | condition | value |
//! |---|---|
//! | `services` | `name:tier[,name:tier…]` |
//! | `<service>_capabilities` | `capability[,capability…]` |
//! | `<service>_valid_until` | Unix seconds |
//! | `<capability>_<constraint>` | a number, for the constraints that can be compared |
//! | `preimage` | 64 hexadecimal digits |

use std::str::FromStr;

/// Condition of the caveat that names services and tiers.
pub const SERVICES: &str = "services";
/// Condition of the caveat that holds the preimage.
pub const PREIMAGE: &str = "preimage";
/// Ends the condition that names the capabilities of a service.
pub const CAPABILITIES_SUFFIX: &str = "_capabilities";
/// Ends the condition that names the end of a token's life for a service.
pub const VALID_UNTIL_SUFFIX: &str = "_valid_until";
/// Most entries of a list: lists are compared entry by entry.
pub const MAX_LIST: usize = 64;

/// A caveat that is not what its condition asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("malformed caveat")]
pub struct MalformedCaveat;

/// Condition and value; `None` for a caveat without `=`, which nobody can satisfy or fail.
#[must_use]
pub fn split(caveat: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = caveat.iter().position(|byte| *byte == b'=')?;
    let (condition, rest) = caveat.split_at_checked(at)?;
    Some((condition, rest.strip_prefix(b"=")?))
}

/// One entry of a `services` caveat.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ServiceTier<'a> {
    /// Name of the service.
    pub name: &'a [u8],
    /// Its tier; names and tiers are compared together (spec/l402 E9).
    pub tier: u8,
}

impl<'a> ServiceTier<'a> {
    fn parse(entry: &'a [u8]) -> Result<Self, MalformedCaveat> {
        let at = entry
            .iter()
            .position(|byte| *byte == b':')
            .ok_or(MalformedCaveat)?;
        let (name, tier) = entry.split_at_checked(at).ok_or(MalformedCaveat)?;
        let tier = tier.strip_prefix(b":").ok_or(MalformedCaveat)?;
        if name.is_empty() {
            return Err(MalformedCaveat);
        }
        let tier = decimal::<u8>(tier).ok_or(MalformedCaveat)?;
        Ok(Self { name, tier })
    }
}

/// The checked value of a `services` caveat.
#[derive(Clone, Copy)]
pub struct Services<'a>(&'a [u8]);

impl<'a> Services<'a> {
    /// Checks every entry.
    ///
    /// # Errors
    ///
    /// An empty name, a tier above 255, or more than [`MAX_LIST`] entries.
    pub fn parse(value: &'a [u8]) -> Result<Self, MalformedCaveat> {
        let mut count = 0;
        for entry in entries(value) {
            ServiceTier::parse(entry)?;
            count += 1;
        }
        if count > MAX_LIST {
            Err(MalformedCaveat)
        } else {
            Ok(Self(value))
        }
    }

    /// The entries in order.
    pub fn iter(self) -> impl Iterator<Item = ServiceTier<'a>> {
        entries(self.0).filter_map(|entry| ServiceTier::parse(entry).ok())
    }

    /// The first entry of this name.
    #[must_use]
    pub fn find(self, name: &str) -> Option<ServiceTier<'a>> {
        self.iter().find(|entry| entry.name == name.as_bytes())
    }

    /// Every entry is also in `wider`.
    #[must_use]
    pub fn is_within(self, wider: Self) -> bool {
        self.0 == wider.0
            || self
                .iter()
                .all(|entry| wider.iter().any(|other| other == entry))
    }
}

/// The checked value of a `<service>_capabilities` caveat.
#[derive(Clone, Copy)]
pub struct Capabilities<'a>(&'a [u8]);

impl<'a> Capabilities<'a> {
    /// Checks every entry.
    ///
    /// # Errors
    ///
    /// An empty name, or more than [`MAX_LIST`] entries.
    pub fn parse(value: &'a [u8]) -> Result<Self, MalformedCaveat> {
        let mut count = 0;
        for entry in entries(value) {
            if entry.is_empty() {
                return Err(MalformedCaveat);
            }
            count += 1;
        }
        if count > MAX_LIST {
            Err(MalformedCaveat)
        } else {
            Ok(Self(value))
        }
    }

    /// The entries in order.
    pub fn iter(self) -> impl Iterator<Item = &'a [u8]> {
        entries(self.0)
    }

    /// The capability is in the list.
    #[must_use]
    pub fn contains(self, capability: &[u8]) -> bool {
        self.iter().any(|entry| entry == capability)
    }

    /// Every entry is also in `wider`.
    #[must_use]
    pub fn is_within(self, wider: Self) -> bool {
        self.0 == wider.0 || self.iter().all(|entry| wider.contains(entry))
    }
}

fn entries(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',')
}

/// A number of decimal digits only: no sign, no space.
#[must_use]
pub fn decimal<T: FromStr>(text: &[u8]) -> Option<T> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}
