//! Tables of events: what goes in, what must come out.

#[cfg(feature = "payment")]
mod charges;
mod credentials;
mod fixture;
mod offers;
mod places;
mod properties;
mod readings;
#[cfg(feature = "payment")]
mod sessions;
mod sidecar;
