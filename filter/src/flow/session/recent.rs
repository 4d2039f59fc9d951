//! What was learnt of accounts a short while ago, in bounded memory.

use protocol::lease::AccountId;

/// A word about an account, and until when it counts, in milliseconds of the steady clock.
type Word<T> = (AccountId, T, u64);

/// A word about some accounts. Each has one place, and may lose it to another: account ids are
/// hashes, so that their first bytes are a good hash of them.
pub(in crate::flow) struct Recent<T> {
    most: usize,
    /// Empty until the first word.
    words: Vec<Option<Word<T>>>,
}

impl<T: Copy> Recent<T> {
    pub(in crate::flow) const fn new(most: usize) -> Self {
        Self {
            most,
            words: Vec::new(),
        }
    }

    fn place_of(&self, account: &AccountId) -> usize {
        let first = account
            .0
            .first_chunk()
            .map_or(0, |b| u32::from_le_bytes(*b));
        usize::try_from(first).unwrap_or_default() % self.most.max(1)
    }

    pub(in crate::flow) fn note(&mut self, account: AccountId, word: T, until_ms: u64) {
        if self.words.is_empty() {
            self.words.resize(self.most, None);
        }
        let place = self.place_of(&account);
        if let Some(place) = self.words.get_mut(place) {
            *place = Some((account, word, until_ms));
        }
    }

    pub(in crate::flow) fn find(&self, account: &AccountId, now_ms: u64) -> Option<T> {
        let (of, word, until_ms) = self.words.get(self.place_of(account))?.as_ref()?;
        (of == account && now_ms < *until_ms).then_some(*word)
    }

    /// It is not so any longer.
    pub(in crate::flow) fn forget(&mut self, account: &AccountId) {
        let place = self.place_of(account);
        if let Some(place) = self.words.get_mut(place) {
            place.take_if(|(of, ..)| of == account);
        }
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
        for number in 1..=250 {
            recent.note(account(number), 'c', 20);
            assert_eq!(recent.find(&account(number), 0), Some('c'));
        }
        assert_eq!(recent.words.len(), 3);
        // Only the account itself is forgotten.
        let others: Vec<_> = (0..250).map(account).collect();
        others.iter().for_each(|account| recent.forget(account));
        assert_eq!(recent.find(&account(250), 0), Some('c'));
        recent.forget(&account(250));
        assert_eq!(recent.find(&account(250), 0), None);
    }
}
