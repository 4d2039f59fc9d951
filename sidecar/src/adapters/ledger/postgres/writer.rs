//! Group commit of claims.
//!
//! A commit costs a wait for the disk, whatever is in it. So claims that wait go into one
//! transaction together, in statements of many rows. Two such transactions go at a time, so that
//! one is prepared while the disk writes the other.

use std::fmt;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Instant;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;

use super::connect::Connections;
use super::failure::{Failure, Tries};
use super::session::{DEADLINE, Session, within};
use super::{Observer, statements};
use crate::adapters::ledger::sqlite::Commit;
use crate::domain::claim::{ClaimTimes, Claimed, NewClaim};
use crate::domain::ledger::LedgerError;
use crate::faults;

/// Most claims in one transaction.
const MOST_PER_COMMIT: usize = 512;
/// Most claims that wait; more wait outside, each caller in its own task.
const QUEUE: usize = 4_096;
/// Transactions at a time.
const LANES: usize = 2;

type Answer = oneshot::Sender<Result<Claimed, LedgerError>>;
type Waiting = ((NewClaim, ClaimTimes), Answer);

pub(super) struct Writer {
    queue: StdMutex<Option<mpsc::Sender<Waiting>>>,
    lanes: Mutex<JoinSet<()>>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Writer")
    }
}

impl Writer {
    /// On the runtime that this is called on.
    pub(super) fn start(pool: &Connections, observer: &Observer) -> Self {
        let (queue, waiting) = mpsc::channel::<Waiting>(QUEUE);
        let waiting = Arc::new(Mutex::new(waiting));
        let mut lanes = JoinSet::new();
        for _ in 0..LANES {
            let (pool, waiting) = (pool.clone(), Arc::clone(&waiting));
            let observer = Arc::clone(observer);
            lanes.spawn(async move {
                loop {
                    let mut batch = Vec::new();
                    // The lane that takes holds the receiver only while it waits for the first.
                    let taken = waiting
                        .lock()
                        .await
                        .recv_many(&mut batch, MOST_PER_COMMIT)
                        .await;
                    if taken == 0 {
                        return;
                    }
                    let begun = Instant::now();
                    decide(&pool, batch).await;
                    observer(Commit {
                        changes: taken,
                        took: begun.elapsed(),
                    });
                }
            });
        }
        Self {
            queue: StdMutex::new(Some(queue)),
            lanes: Mutex::new(lanes),
        }
    }

    /// Decides a claim and returns when the decision is on disk.
    pub(super) async fn claim(
        &self,
        claim: NewClaim,
        times: ClaimTimes,
    ) -> Result<Claimed, LedgerError> {
        faults::stop_at("claim", "asked");
        let (answer, answered) = oneshot::channel();
        let queue = self
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let queue = queue.ok_or(LedgerError::Closed)?;
        let sent = queue.send(((claim, times), answer)).await;
        sent.map_err(|_| LedgerError::Closed)?;
        drop(queue);
        let answered = answered.await.map_err(|_| LedgerError::Closed)?;
        faults::stop_at("claim", "committed");
        answered
    }

    /// Decides what is queued and ends.
    pub(super) async fn close(&self) {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let mut lanes = self.lanes.lock().await;
        while lanes.join_next().await.is_some() {}
    }
}

async fn decide(pool: &Connections, batch: Vec<Waiting>) {
    let (claims, answers): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
    let decided = within(DEADLINE, transaction(pool, &claims)).await;
    match decided {
        Ok(decided) => {
            for (answer, claimed) in answers.into_iter().zip(decided) {
                // Nobody may be waiting any more; the claim stands all the same.
                let _ = answer.send(Ok(claimed));
            }
        }
        // One of them makes no sense to the database; the others are not to suffer.
        Err(failure) if failure.refused && claims.len() > 1 => {
            for (claim, answer) in claims.into_iter().zip(answers) {
                let alone = within(DEADLINE, transaction(pool, &[claim])).await;
                let claimed = alone.map(|decided| decided.first().copied());
                let claimed = claimed.map(|claimed| claimed.unwrap_or(Claimed::Busy));
                let _ = answer.send(claimed.map_err(Into::into));
            }
        }
        Err(failure) => {
            let error = LedgerError::from(failure);
            tracing::error!(%error, claims = claims.len(), "claims failed");
            for answer in answers {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}

async fn transaction(
    pool: &Connections,
    claims: &[(NewClaim, ClaimTimes)],
) -> Result<Vec<Claimed>, Failure> {
    let mut tries = Tries::default();
    loop {
        let mut session = Session::of(pool).await?;
        let tx = session.begin().await?;
        let done = match statements::claim_all(&tx, claims).await {
            Ok(done) => {
                faults::stop_at("claim", "written");
                tx.commit().await.map(|()| done).map_err(Failure::from)
            }
            Err(failure) => tx.rollback().await.map_err(Failure::from).and(Err(failure)),
        };
        session.keep();
        match done {
            Err(failure) if tries.again(&failure).await => {}
            done => return done,
        }
    }
}
