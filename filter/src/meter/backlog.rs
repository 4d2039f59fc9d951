//! Bytes of one stream that have come and not left, and how far they are paid for.

use protocol::payment::sse::{Kind, Scanner};

use super::Till;

/// An unfinished event of more bytes than this is taken for one with data and paid for at its
/// start; the rest of it then need not be kept until its end has come.
const LARGE: usize = 64 * 1024;

/// What the next unit is lacking for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Lack {
    /// The event that ends there.
    Event(usize),
    /// The large event whose start has come.
    Start,
}

/// Why reading has stopped.
enum Halt {
    /// There is no more.
    Read,
    /// A unit is lacking.
    Lacking,
    /// The event that has just been read is `[DONE]`.
    Done,
}

/// How far bytes are read and paid for.
struct Cursor {
    scanner: Scanner,
    /// So many bytes from the start may leave.
    open: usize,
    /// So many bytes from the start the scanner has read.
    read: usize,
    lack: Option<Lack>,
    /// Where the paid events among the bytes end.
    ends: Vec<usize>,
    /// The unit that came with the request is still there.
    prepaid: bool,
    /// The event that is not finished yet is paid for: its bytes may leave as they come.
    early: bool,
    /// The event that was read last is `[DONE]`, and has yet to be let go.
    after_done: bool,
    units: u64,
}

impl Cursor {
    fn charge(&mut self, till: &mut impl Till) -> bool {
        if std::mem::take(&mut self.early) {
            return true;
        }
        if std::mem::take(&mut self.prepaid) || till.take() {
            self.units = self.units.saturating_add(1);
            return true;
        }
        false
    }

    /// Pays for what is lacking; `false` if that cannot be.
    fn settle(&mut self, till: &mut impl Till) -> bool {
        let Some(lack) = self.lack else {
            return true;
        };
        if !self.charge(till) {
            return false;
        }
        self.lack = None;
        match lack {
            Lack::Event(end) => {
                self.open = end;
                self.ends.push(end);
            }
            Lack::Start => {
                self.early = true;
                self.open = self.read;
            }
        }
        true
    }

    fn advance(&mut self, bytes: &[u8], till: &mut impl Till) -> Halt {
        loop {
            if !self.settle(till) {
                return Halt::Lacking;
            }
            let start = self.read;
            let mut events = self.scanner.feed(bytes.get(start..).unwrap_or_default());
            let event = events.next();
            let free = events.free();
            if free > 0 {
                self.open = start + free;
                self.early = false;
            }
            let Some(event) = event else {
                self.read = bytes.len();
                if self.early {
                    self.open = self.read;
                } else if self.read - self.open > LARGE {
                    self.lack = Some(Lack::Start);
                    continue;
                }
                return Halt::Read;
            };
            self.read = start + event.end;
            match event.kind {
                Kind::Data => self.lack = Some(Lack::Event(self.read)),
                Kind::Done => {
                    self.after_done = true;
                    return Halt::Done;
                }
            }
        }
    }
}

/// See the module.
pub(super) struct Backlog {
    bytes: Vec<u8>,
    cursor: Cursor,
    /// The receipt has been put in.
    has_receipt: bool,
    /// The stream has ended in an event that lacks its unit.
    tail_lacks: bool,
    /// The end of the stream has been dealt with.
    is_finished: bool,
}

impl Backlog {
    pub(super) const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            cursor: Cursor {
                scanner: Scanner::new(),
                open: 0,
                read: 0,
                lack: None,
                ends: Vec::new(),
                prepaid: true,
                early: false,
                after_done: false,
                units: 0,
            },
            has_receipt: false,
            tail_lacks: false,
            is_finished: false,
        }
    }

    /// The commonest case: nothing is kept, and all of the chunk may leave as it is. Otherwise the
    /// chunk is taken in, and [`Self::pay`] goes on with it.
    pub(super) fn passes(&mut self, chunk: &[u8], till: &mut impl Till) -> bool {
        if self.bytes.is_empty()
            && matches!(self.cursor.advance(chunk, till), Halt::Read)
            && self.cursor.open == chunk.len()
        {
            (self.cursor.open, self.cursor.read) = (0, 0);
            self.cursor.ends.clear();
            return true;
        }
        self.take_in(chunk);
        false
    }

    pub(super) fn take_in(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
    }

    /// Pays for all events that are whole; `false` if a unit is lacking.
    pub(super) fn pay(&mut self, till: &mut impl Till) -> bool {
        loop {
            if std::mem::take(&mut self.cursor.after_done) {
                self.put_receipt(till);
                self.cursor.open = self.cursor.read;
            }
            match self.cursor.advance(&self.bytes, till) {
                Halt::Read => return true,
                Halt::Lacking => return false,
                Halt::Done => {}
            }
        }
    }

    /// Pays for what there is when the stream has ended; `false` if a unit is lacking.
    pub(super) fn finish(&mut self, till: &mut impl Till) -> bool {
        if !self.pay(till) {
            return false;
        }
        if self.is_finished {
            return true;
        }
        // Within an event there is no place for another one.
        if !self.cursor.early {
            let has_data = self.cursor.scanner.unfinished() == Some(Kind::Data);
            self.tail_lacks = has_data && !self.cursor.charge(till);
            if self.tail_lacks {
                return false;
            }
            self.put_receipt(till);
            if has_data {
                self.cursor.ends.push(self.bytes.len());
            }
        }
        self.cursor.open = self.bytes.len();
        self.is_finished = true;
        true
    }

    /// Puts the receipt after what may leave.
    fn put_receipt(&mut self, till: &impl Till) {
        if std::mem::replace(&mut self.has_receipt, true) {
            return;
        }
        let receipt = till.receipt(self.cursor.units);
        let place = self.cursor.open;
        self.bytes.splice(place..place, receipt.bytes());
        self.cursor.read = self.cursor.read.saturating_add(receipt.len());
        for end in self.cursor.ends.iter_mut().filter(|end| **end > place) {
            *end = end.saturating_add(receipt.len());
        }
    }

    /// What is left can never be paid for: it is dropped, and the receipt is for what was.
    pub(super) fn cut(&mut self, till: &impl Till) {
        let cursor = &mut self.cursor;
        self.bytes.truncate(cursor.open);
        (cursor.read, cursor.lack) = (cursor.open, None);
        (self.tail_lacks, self.is_finished) = (false, true);
        if !cursor.early {
            self.put_receipt(till);
        }
        self.cursor.open = self.bytes.len();
    }

    /// Takes out the first bytes that may leave, at most as many.
    pub(super) fn let_go(&mut self, most: usize) -> std::vec::Drain<'_, u8> {
        let cursor = &mut self.cursor;
        let count = cursor.open.min(most);
        cursor.open -= count;
        cursor.read -= count;
        if let Some(Lack::Event(end)) = &mut cursor.lack {
            *end -= count;
        }
        cursor.ends.retain_mut(|end| {
            let stays = *end > count;
            *end = end.saturating_sub(count);
            stays
        });
        self.bytes.drain(..count)
    }

    /// How many bytes may leave.
    pub(super) const fn open(&self) -> usize {
        self.cursor.open
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// A unit is lacking.
    pub(super) const fn lacks(&self) -> bool {
        self.tail_lacks || self.cursor.lack.is_some()
    }

    /// At most so many units are lacking for what has come.
    pub(super) fn lacks_only(&self, few: usize) -> bool {
        let mut scanner = self.cursor.scanner.clone();
        let rest = self.bytes.get(self.cursor.read..).unwrap_or_default();
        let priced = scanner.feed(rest).filter(|event| event.kind == Kind::Data);
        priced.take(few).count() + usize::from(self.lacks()) <= few
    }

    /// Units spent on this stream.
    pub(super) const fn units(&self) -> u64 {
        self.cursor.units
    }

    /// Units spent on events that have not left.
    pub(super) fn unsent(&self) -> u64 {
        self.cursor.ends.len() as u64
    }

    /// The unit that came with the request has bought nothing yet.
    pub(super) const fn has_prepaid(&self) -> bool {
        self.cursor.prepaid
    }
}
