//! How many offers may be made: for one client, and for all together.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use protocol::api::ClientHint;

use super::IssueError;
use crate::config::OffersConfig;
use crate::domain::limits::{Bucket, Buckets, Quota};

/// Client prefixes whose limits are remembered.
const MOST_CLIENTS: usize = 100_000;

pub(super) struct Limits {
    overall: Bucket,
    quota: Quota,
    clients: Buckets,
    paid_factor: u32,
}

impl Limits {
    pub(super) fn new(config: &OffersConfig, now: Duration) -> Self {
        let per_minute = f64::from(config.per_client_per_minute);
        let client = Quota {
            per_second: per_minute / 60.0,
            burst: per_minute,
        };
        Self {
            overall: Bucket::full(now),
            quota: Quota {
                per_second: f64::from(config.per_second),
                burst: f64::from(config.burst),
            },
            clients: Buckets::new(client, MOST_CLIENTS, now),
            paid_factor: config.paid_factor,
        }
    }

    /// Forgets what need not be remembered.
    pub(super) fn forget_full(&mut self, now: Duration) {
        self.clients.forget_full(now);
    }

    fn take(
        &mut self,
        client: Option<&ClientHint>,
        want: u16,
        now: Duration,
    ) -> Result<u16, IssueError> {
        let mut granted = want;
        if let Some(client) = client {
            let factor = if client.has_paid { self.paid_factor } else { 1 };
            granted = self
                .clients
                .take(&client.prefix, want, factor, now)
                .map_err(IssueError::LimitedClient)?;
        }
        match self.overall.take(granted, self.quota, now) {
            Ok(overall) => {
                self.give_back_client(client, granted.saturating_sub(overall));
                Ok(overall)
            }
            Err(wait) => {
                self.give_back_client(client, granted);
                Err(IssueError::LimitedOverall(wait))
            }
        }
    }

    fn give_back(&mut self, client: Option<&ClientHint>, count: u16) {
        self.overall.give_back(count);
        self.give_back_client(client, count);
    }

    fn give_back_client(&mut self, client: Option<&ClientHint>, count: u16) {
        if let Some(client) = client {
            self.clients.give_back(&client.prefix, count);
        }
    }
}

/// What a request may use of the limits. What it did not use goes back when this is dropped, so
/// that a request that was given up at its deadline costs its client nothing.
pub(super) struct Granted<'a> {
    limits: &'a Mutex<Limits>,
    client: Option<&'a ClientHint>,
    pub(super) unused: u16,
}

impl<'a> Granted<'a> {
    pub(super) fn take(
        limits: &'a Mutex<Limits>,
        client: Option<&'a ClientHint>,
        want: u16,
        now: Duration,
    ) -> Result<Self, IssueError> {
        let unused = lock(limits).take(client, want, now)?;
        Ok(Self {
            limits,
            client,
            unused,
        })
    }

    pub(super) fn use_up(&mut self, count: usize) {
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        self.unused = self.unused.saturating_sub(count);
    }
}

impl Drop for Granted<'_> {
    fn drop(&mut self) {
        lock(self.limits).give_back(self.client, self.unused);
    }
}

pub(super) fn lock(limits: &Mutex<Limits>) -> MutexGuard<'_, Limits> {
    limits.lock().unwrap_or_else(PoisonError::into_inner)
}
