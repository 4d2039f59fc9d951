//! What can go wrong, and what of it is worth another try.

use std::error::Error as _;
use std::time::Duration;

use deadpool_postgres::PoolError;
use rand::RngExt as _;
use tokio_postgres::error::SqlState;

use crate::domain::keys::RotationHeld;
use crate::domain::ledger::LedgerError;

/// Tries of one change that stands in the way of another.
const TRIES: u32 = 5;

/// How another transaction stood in the way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Crossed {
    /// Both went on, and one had to be undone.
    Undone,
    /// It had a lock for longer than who wants it waits. That takes long: once more is enough.
    Waited,
}

/// Why a try failed.
#[derive(Debug)]
pub(super) struct Failure {
    error: LedgerError,
    /// The database undid it because of another transaction; alone it may succeed.
    crossed: Option<Crossed>,
    /// The database refused these values; other changes in the same transaction may be good.
    pub(super) refused: bool,
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        Self {
            error,
            crossed: None,
            refused: false,
        }
    }
}

impl From<RotationHeld> for Failure {
    fn from(held: RotationHeld) -> Self {
        LedgerError::Held(held).into()
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        let code = error.code();
        let crossed = |code: &SqlState| match *code {
            SqlState::T_R_SERIALIZATION_FAILURE | SqlState::T_R_DEADLOCK_DETECTED => {
                Some(Crossed::Undone)
            }
            SqlState::LOCK_NOT_AVAILABLE => Some(Crossed::Waited),
            _ => None,
        };
        Self {
            crossed: code.and_then(crossed),
            // Classes of data exceptions and of violated constraints.
            refused: code
                .is_some_and(|code| ["22", "23"].iter().any(|c| code.code().starts_with(c))),
            error: LedgerError::Store(told(&error)),
        }
    }
}

impl From<PoolError> for Failure {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Closed => LedgerError::Closed.into(),
            PoolError::Backend(error) => error.into(),
            PoolError::Timeout(_) => {
                LedgerError::Store("no connection to PostgreSQL in time".to_owned()).into()
            }
            other => LedgerError::Store(other.to_string()).into(),
        }
    }
}

impl From<Failure> for LedgerError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl Failure {
    /// Time has run out; whether it was done is not known.
    pub(super) fn timeout() -> Self {
        LedgerError::Store("PostgreSQL did not answer in time".to_owned()).into()
    }
}

/// Without the detail that PostgreSQL adds: it shows rows, and a row may hold a master key.
fn told(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        return format!("{} ({})", said.message(), said.code().code());
    }
    let (text, cause) = (error.to_string(), error.source().map(ToString::to_string));
    match cause {
        Some(cause) if !text.contains(&cause) => format!("{text}: {cause}"),
        _ => text,
    }
}

/// Counts the tries of one change.
#[derive(Debug, Default)]
pub(super) struct Tries {
    all: u32,
    has_waited: bool,
}

impl Tries {
    /// Whether to try once more, after a pause that grows and differs between processes.
    pub(super) async fn again(&mut self, failure: &Failure) -> bool {
        self.all += 1;
        match failure.crossed {
            Some(Crossed::Undone) if self.all < TRIES => {}
            Some(Crossed::Waited) if !self.has_waited => self.has_waited = true,
            _ => return false,
        }
        tracing::debug!(error = %failure.error, tries = self.all, "crossed by another transaction");
        let pause = rand::rng().random_range(1..=5 * self.all);
        tokio::time::sleep(Duration::from_millis(u64::from(pause))).await;
        true
    }
}
