//! Connections, and how one is used: within a deadline, and only again if it is in order.

use std::time::Duration;

use deadpool_postgres::{Object, Transaction};
use tokio_postgres::IsolationLevel;

use super::connect::Connections;
use super::failure::Failure;
use crate::domain::ledger::LedgerError;

/// Longest time for one change or question, all tries and the wait for a connection included.
/// Below the deadlines of the use cases, so that they hear why.
pub(super) const DEADLINE: Duration = Duration::from_millis(2_500);
/// The same for what reads a large part of the ledger.
pub(super) const LONG_DEADLINE: Duration = Duration::from_secs(60);

/// A borrowed connection. Dropped without [`Self::keep`], as when time runs out in the middle of
/// something, it is closed: nobody knows what it would answer next.
pub(super) struct Session {
    object: Option<Object>,
    connections: Connections,
}

impl Session {
    pub(super) async fn of(connections: &Connections) -> Result<Self, Failure> {
        Ok(Self {
            object: Some(connections.get().await?),
            connections: connections.clone(),
        })
    }

    pub(super) fn client(&mut self) -> Result<&mut Object, Failure> {
        Ok(self.object.as_mut().ok_or(LedgerError::Closed)?)
    }

    /// The isolation is named: what decides under a lock must see what was committed before the
    /// lock was had, whatever the database's default is.
    pub(super) async fn begin(&mut self) -> Result<Transaction<'_>, Failure> {
        let begin = self.client()?.build_transaction();
        let begin = begin.isolation_level(IsolationLevel::ReadCommitted);
        Ok(begin.read_only(false).start().await?)
    }

    /// Gives the connection back to the pool.
    pub(super) fn keep(mut self) {
        self.object.take();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            self.connections.cancel(object.cancel_token());
            drop(Object::take(object));
        }
    }
}

/// `work`, or a failure when it takes longer than `deadline`.
pub(super) async fn within<T>(
    deadline: Duration,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::time::timeout(deadline, work)
        .await
        .unwrap_or_else(|_| Err(Failure::timeout()))
}

/// Runs to its end though nobody may be waiting any more: who drops a half-done transaction would
/// pay with a connection.
pub(super) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, LedgerError>> + Send + 'static,
) -> Result<T, LedgerError> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|error| Err(LedgerError::Store(error.to_string())))
}

/// One transaction, tried again when another one crosses it.
macro_rules! change {
    ($pool:expr, |$tx:ident| $work:expr) => {{
        let pool = $pool.clone();
        let call = stringify!($work);
        $crate::faults::stop_at(call, "asked");
        let done = $crate::adapters::ledger::postgres::session::detached(async move {
            let mut tries = $crate::adapters::ledger::postgres::failure::Tries::default();
            let all = async {
                loop {
                    let mut session =
                        $crate::adapters::ledger::postgres::session::Session::of(&pool).await?;
                    let $tx = session.begin().await?;
                    let done = match $work.await {
                        Ok(done) => {
                            $crate::faults::stop_at(call, "written");
                            $tx.commit().await.map(|()| done).map_err(Into::into)
                        }
                        Err(failure) => $tx.rollback().await.map_err(Into::into).and(Err(failure)),
                    };
                    session.keep();
                    match done {
                        Err(failure) if tries.again(&failure).await => {}
                        done => break done,
                    }
                }
            };
            let deadline = $crate::adapters::ledger::postgres::session::DEADLINE;
            let done = $crate::adapters::ledger::postgres::session::within(deadline, all).await;
            done.map_err(Into::into)
        })
        .await;
        $crate::faults::stop_at(call, "committed");
        done
    }};
}

/// One question that needs no transaction.
macro_rules! ask {
    ($pool:expr, |$db:ident| $work:expr) => {
        ask!(
            $pool,
            $crate::adapters::ledger::postgres::session::DEADLINE,
            |$db| $work
        )
    };
    ($pool:expr, $deadline:expr, |$db:ident| $work:expr) => {{
        let pool = $pool.clone();
        $crate::adapters::ledger::postgres::session::detached(async move {
            let all = async {
                let mut session =
                    $crate::adapters::ledger::postgres::session::Session::of(&pool).await?;
                let $db = session.client()?;
                let answer = $work.await;
                session.keep();
                answer
            };
            let answer = $crate::adapters::ledger::postgres::session::within($deadline, all).await;
            answer.map_err(Into::into)
        })
        .await
    }};
}

pub(super) use {ask, change};
