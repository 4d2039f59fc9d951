//! What was learnt of accounts a short while ago, in bounded memory.

use std::collections::{BTreeMap, VecDeque};

use protocol::lease::AccountId;

/// A word about each of at most so many accounts, the oldest forgotten first.
pub(in crate::flow) struct Recent<T> {
    most: usize,
    /// With the moment from which it no longer counts, in milliseconds of the steady clock.
    words: BTreeMap<AccountId, (T, u64)>,
    /// Oldest first; an account may be in it twice.
    order: VecDeque<AccountId>,
}

impl<T: Copy> Recent<T> {
    pub(in crate::flow) const fn new(most: usize) -> Self {
        Self {
            most,
            words: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }

    pub(in crate::flow) fn note(&mut self, account: AccountId, word: T, until_ms: u64) {
        if self.words.insert(account, (word, until_ms)).is_some() {
            return;
        }
        self.order.push_back(account);
        if self.order.len() > self.most
            && let Some(oldest) = self.order.pop_front()
        {
            self.words.remove(&oldest);
        }
    }

    pub(in crate::flow) fn find(&self, account: &AccountId, now_ms: u64) -> Option<T> {
        let (word, until_ms) = self.words.get(account)?;
        (now_ms < *until_ms).then_some(*word)
    }

    /// It is not so any longer.
    pub(in crate::flow) fn forget(&mut self, account: &AccountId) {
        if let Some((_, until_ms)) = self.words.get_mut(account) {
            *until_ms = 0;
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.words.len().max(self.order.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_counts_until_its_end_and_memory_is_bounded() {
        let mut recent = Recent::new(3);
        let account = |number| AccountId([number; 32]);
        recent.note(account(0), 'a', 10);
        assert_eq!(recent.find(&account(0), 9), Some('a'));
        assert_eq!(recent.find(&account(0), 10), None);
        recent.note(account(0), 'b', 20);
        assert_eq!(recent.find(&account(0), 10), Some('b'));
        recent.forget(&account(0));
        assert_eq!(recent.find(&account(0), 0), None);
        for _ in 0..2 {
            for number in 1..=250 {
                recent.note(account(number), 'c', 20);
                assert_eq!(recent.find(&account(number), 0), Some('c'));
            }
        }
        assert_eq!(recent.len(), 3);
        assert_eq!(recent.find(&account(1), 0), None);
    }
}
