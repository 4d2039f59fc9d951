//! Tables of events: what goes in, what must come out.

mod credentials;
mod fixture;
mod offers;
mod places;
mod properties;
mod readings;
mod sidecar;
