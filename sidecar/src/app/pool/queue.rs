//! Who waits for an invoice: clients that have paid before all others, each in the order of coming.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::{PoolError, Standing};
use crate::domain::invoice::Invoice;

pub(super) type Answer = Result<Invoice, PoolError>;
type Waiter = oneshot::Sender<Answer>;

#[derive(Default)]
pub(super) struct Queue {
    payers: VecDeque<Waiter>,
    others: VecDeque<Waiter>,
}

impl Queue {
    /// Those who wait, and those who do no more and have not been noticed.
    pub(super) fn len(&self) -> usize {
        self.payers.len() + self.others.len()
    }

    /// Those who still wait.
    pub(super) fn open(&self) -> usize {
        open(&self.payers) + open(&self.others)
    }

    /// How many would be served before one who comes now.
    pub(super) fn in_front_of(&self, standing: Standing) -> usize {
        match standing {
            Standing::New => self.open(),
            Standing::HasPaid => open(&self.payers),
        }
    }

    /// Takes a place.
    pub(super) fn push(&mut self, standing: Standing) -> oneshot::Receiver<Answer> {
        let (waiter, place) = oneshot::channel();
        let queue = match standing {
            Standing::New => &mut self.others,
            Standing::HasPaid => &mut self.payers,
        };
        queue.retain(|waiter| !waiter.is_closed());
        queue.push_back(waiter);
        place
    }

    /// Answers the first who still waits; gives the answer back if nobody does.
    pub(super) fn answer(&mut self, mut answer: Answer) -> Option<Answer> {
        while let Some(waiter) = self.payers.pop_front().or_else(|| self.others.pop_front()) {
            match waiter.send(answer) {
                Ok(()) => return None,
                Err(unsent) => answer = unsent,
            }
        }
        Some(answer)
    }
}

fn open(queue: &VecDeque<Waiter>) -> usize {
    queue.iter().filter(|waiter| !waiter.is_closed()).count()
}
