//! How many invoices may be unpaid at a time, and for whom.

/// One in so many of the unpaid invoices is kept for clients that have paid before.
const KEPT: u32 = 5;

/// Whether the client that waits has paid for something before, as its filter says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// Not as far as is known; also whoever fills a stock ahead of need.
    New,
    /// It has.
    HasPaid,
}

/// How many more invoices may be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    new: usize,
    has_paid: usize,
}

impl Room {
    /// Beside `out` that are unpaid already, of `most`.
    pub(super) fn beside(out: u64, most: u32) -> Self {
        let left = |most: u32| {
            let left = u64::from(most).saturating_sub(out);
            usize::try_from(left).unwrap_or(usize::MAX)
        };
        Self {
            new: left(most - most / KEPT),
            has_paid: left(most),
        }
    }

    /// For a client of this standing.
    pub(super) const fn of(self, standing: Standing) -> usize {
        match standing {
            Standing::New => self.new,
            Standing::HasPaid => self.has_paid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_is_kept_for_who_has_paid() {
        let room = |out, most| {
            let room = Room::beside(out, most);
            (room.of(Standing::New), room.of(Standing::HasPaid))
        };
        assert_eq!(room(0, 20_000), (16_000, 20_000));
        assert_eq!(room(15_999, 20_000), (1, 4_001));
        assert_eq!(room(16_000, 20_000), (0, 4_000));
        assert_eq!(room(20_001, 20_000), (0, 0));
        assert_eq!(room(0, 1), (1, 1), "too few to keep one");
    }
}
