//! Counters and the histogram, defined when first used.

use std::cell::{Cell, RefCell};

use crate::abi::{self, MetricKind};
use crate::flow::{CallKind, Note};
use crate::outcome::{CallResult, HELD_HISTOGRAM, Outcome, calls_counter, requests_counter};

/// Number of outcomes.
const OUTCOMES: usize = Outcome::ALL.len();

/// Ids of the requests counters of one service; 0 is not yet defined.
type Counters = [u32; OUTCOMES];

/// Ids that the host has given, by service: the first row is for requests without one.
#[derive(Default)]
pub(super) struct Metrics {
    requests: RefCell<Vec<Counters>>,
    held: Cell<Option<u32>>,
}

impl Metrics {
    pub(super) fn count(&self, note: &Note) {
        let row = note
            .service
            .as_ref()
            .map_or(0, |service| service.index.saturating_add(1));
        let column = note.outcome as usize;
        let Ok(mut requests) = self.requests.try_borrow_mut() else {
            return;
        };
        if requests.len() <= row {
            requests.resize(row.saturating_add(1), [0; OUTCOMES]);
        }
        let Some(id) = requests
            .get_mut(row)
            .and_then(|counters| counters.get_mut(column))
        else {
            return;
        };
        if *id == 0 {
            let service = note.service.as_ref().map(|service| &*service.name);
            let name = requests_counter(note.outcome, service);
            *id = abi::define_metric(MetricKind::Counter, &name).unwrap_or_default();
        }
        let _ = abi::increment_metric(*id);
    }

    /// A request has been held for as long.
    pub(super) fn held(&self, microseconds: u64) {
        let id = self
            .held
            .get()
            .or_else(|| abi::define_metric(MetricKind::Histogram, HELD_HISTOGRAM).ok());
        self.held.set(id);
        if let Some(id) = id {
            let _ = abi::record_metric(id, microseconds);
        }
    }

    /// Calls are rare: the host finds the counter by its name.
    pub(super) fn called(kind: CallKind, result: CallResult) {
        let name = calls_counter(kind.word(), result);
        if let Ok(id) = abi::define_metric(MetricKind::Counter, &name) {
            let _ = abi::increment_metric(id);
        }
    }
}
