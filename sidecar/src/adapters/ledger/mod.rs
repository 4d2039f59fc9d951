//! Stores behind the ledger port.

mod any;
mod books;
#[cfg(test)]
pub(crate) mod conformance;
pub mod postgres;
pub mod sqlite;

pub use self::any::AnyLedger;
use crate::config::LedgerConfig;

/// What to do with a store whose schema is of an earlier version of this program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Migration {
    /// Bring it up to date.
    ToLatest,
    /// Refuse it.
    Never,
}

impl Migration {
    /// What the configuration says.
    #[must_use]
    pub const fn of(config: &LedgerConfig) -> Self {
        match config.auto_migrate {
            true => Self::ToLatest,
            false => Self::Never,
        }
    }
}
