//! Who a client is: the part of its address that one client is taken to own.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use protocol::policy::ClientLimits;

/// Bits of the wider prefixes.
const WIDE: (u8, u8) = (24, 48);

/// A client address cut to the part that one client is taken to own. IPv4 is kept as it is mapped
/// into IPv6.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Prefix {
    pub(super) bits: u128,
    length: u8,
}

/// Bits before an IPv4 address that is mapped into IPv6.
const MAPPED: u8 = 96;

impl Prefix {
    /// Of clients whose address is not known: no setting makes a prefix of no bits.
    const NOBODY: Self = Self { bits: 0, length: 0 };

    pub(super) fn of(address: IpAddr, v4: u8, v6: u8) -> Self {
        let (address, length) = match address.to_canonical() {
            IpAddr::V4(address) => (address.to_ipv6_mapped(), MAPPED + v4.min(32)),
            IpAddr::V6(address) => (address, v6.min(128)),
        };
        let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        let bits = address.to_bits() & mask;
        Self { bits, length }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv6Addr::from_bits(self.bits);
        match address.to_ipv4_mapped() {
            Some(address) => write!(f, "{address}/{}", self.length.saturating_sub(MAPPED)),
            None => write!(f, "{address}/{}", self.length),
        }
    }
}

/// Who causes challenges.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::flow) struct Client {
    pub(super) prefix: Prefix,
    /// Only if it is wider than `prefix`.
    pub(super) wide: Option<Prefix>,
}

impl Client {
    /// All clients without an address are one: nothing tells them apart.
    pub(in crate::flow) fn new(address: Option<IpAddr>, limits: &ClientLimits) -> Self {
        let Some(address) = address else {
            return Self {
                prefix: Prefix::NOBODY,
                wide: None,
            };
        };
        let prefix = Prefix::of(address, limits.prefix_v4, limits.prefix_v6);
        let wide = Prefix::of(address, WIDE.0, WIDE.1);
        Self {
            prefix,
            wide: (wide.length < prefix.length).then_some(wide),
        }
    }

    /// What names it to the sidecar; `None` without an address.
    pub(in crate::flow) fn prefix(&self) -> Option<Prefix> {
        (self.prefix != Prefix::NOBODY).then_some(self.prefix)
    }
}
