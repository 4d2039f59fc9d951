//! Where the events of a Server-Sent-Events stream end (WHATWG HTML section 9.2), for metering.
//!
//! Upstreams and proxies cut a stream anywhere: an event may come in many pieces, many in one
//! piece, and a line break may be cut in two. The scanner keeps a few bytes of an unfinished line
//! and a few facts about an unfinished event; it copies nothing else and allocates nothing.

use memchr::memchr2;

/// All that a line can mean here shows in so many bytes, a byte order mark included.
const HEAD_LEN: usize = 32;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
const DONE: &[u8] = b"[DONE]";

/// What an event with data is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// One unit.
    Data,
    /// Its data is exactly `[DONE]`: the end of the stream by common custom, and free. No other event
    /// is, whatever its name: our own ([`super::event`]) are put in where nothing is counted.
    Done,
}

/// An event that ended within a chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Event {
    /// Offset in the chunk just after the blank line that ends the event.
    pub end: usize,
    /// What it is.
    pub kind: Kind,
}

/// State between the chunks of one stream.
#[derive(Clone, Debug)]
pub struct Scanner {
    /// Start of the line that the last chunk did not finish.
    head: [u8; HEAD_LEN],
    head_len: usize,
    /// The last chunk ended in CR: an LF belongs to the same line break.
    after_cr: bool,
    /// No line has ended yet: there may be a byte order mark.
    at_start: bool,
    event: Unfinished,
}

/// The event so far.
#[derive(Clone, Copy, Debug, Default)]
struct Unfinished {
    has_data_line: bool,
    /// The data is more than one empty line.
    has_data: bool,
    is_done: bool,
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl Scanner {
    /// Before the first byte of a stream.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            head: [0; HEAD_LEN],
            head_len: 0,
            after_cr: false,
            at_start: true,
            event: Unfinished {
                has_data_line: false,
                has_data: false,
                is_done: false,
            },
        }
    }

    /// The events with data that end in the next bytes of the stream, in order.
    ///
    /// The bytes up to [`Event::end`] count as read once the iterator has given that event, all of
    /// them once it has given `None`. Who stops in between goes on with the bytes after that
    /// offset, in this or any later call.
    ///
    /// Of a CR LF that is cut in two the event ends after the CR; the LF is then the first byte of
    /// what follows, where it does no harm: whatever may be put in between ends in a blank line.
    pub const fn feed<'s, 'c>(&'s mut self, chunk: &'c [u8]) -> Events<'s, 'c> {
        Events {
            scanner: self,
            chunk,
            at: 0,
            free: 0,
        }
    }

    /// What the event that is not finished yet would be if the stream went on with blank lines;
    /// `None` if it has no data. Browsers drop such an event at the end of a stream, other readers
    /// may not.
    #[must_use]
    pub fn unfinished(&self) -> Option<Kind> {
        let mut event = self.event;
        event.add(self.whole_head());
        event.kind()
    }

    /// The kept line without a byte order mark.
    fn whole_head(&self) -> &[u8] {
        let head = self.head.get(..self.head_len).unwrap_or_default();
        self.without_mark(head)
    }

    fn without_mark<'l>(&self, line: &'l [u8]) -> &'l [u8] {
        if self.at_start {
            line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line)
        } else {
            line
        }
    }

    fn keep(&mut self, start_of_line: &[u8]) {
        let free = self.head.get_mut(self.head_len..).unwrap_or_default();
        let length = free.len().min(start_of_line.len());
        for (to, from) in free.iter_mut().zip(start_of_line) {
            *to = *from;
        }
        self.head_len += length;
    }

    /// A line has ended; `rest` is what this chunk has of it. Gives the event that it ends.
    fn end_line(&mut self, rest: &[u8]) -> Option<Kind> {
        let kind = if self.head_len > 0 {
            self.keep(rest);
            let mut event = self.event;
            let kind = event.line(self.whole_head());
            self.event = event;
            self.head_len = 0;
            kind
        } else {
            let line = self.without_mark(rest);
            self.event.line(line)
        };
        self.at_start = false;
        kind
    }
}

impl Unfinished {
    /// Takes a line, of which the first [`HEAD_LEN`] bytes are enough; a blank one gives the event.
    fn line(&mut self, line: &[u8]) -> Option<Kind> {
        if line.is_empty() {
            return std::mem::take(self).kind();
        }
        self.add(line);
        None
    }

    fn add(&mut self, line: &[u8]) {
        if let Some(value) = field(line, b"data") {
            self.is_done = !self.has_data_line && value == DONE;
            self.has_data |= self.has_data_line || !value.is_empty();
            self.has_data_line = true;
        }
    }

    const fn kind(self) -> Option<Kind> {
        match self {
            Self {
                has_data: false, ..
            } => None,
            Self { is_done: true, .. } => Some(Kind::Done),
            Self { .. } => Some(Kind::Data),
        }
    }
}

/// The value of a line of this field; one blank after the colon is not part of it.
fn field<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    match line.strip_prefix(name)? {
        [] => Some(&[]),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

/// Events of one chunk, see [`Scanner::feed`].
#[derive(Debug)]
pub struct Events<'s, 'c> {
    scanner: &'s mut Scanner,
    chunk: &'c [u8],
    at: usize,
    free: usize,
}

impl Events<'_, '_> {
    /// Offset in the chunk just after the last blank line so far that ended no event with data:
    /// comments for instance, which need not wait for what comes after them. 0 if there was none.
    #[must_use]
    pub const fn free(&self) -> usize {
        self.free
    }
}

impl Iterator for Events<'_, '_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        loop {
            let mut rest = self.chunk.get(self.at..).filter(|rest| !rest.is_empty())?;
            if std::mem::take(&mut self.scanner.after_cr)
                && let Some(after) = rest.strip_prefix(b"\n")
            {
                self.at += 1;
                rest = after;
            }
            let Some(length) = memchr2(b'\n', b'\r', rest) else {
                self.scanner.keep(rest);
                self.at = self.chunk.len();
                return None;
            };
            let (line, line_break) = rest.split_at(length);
            self.at += length
                + match line_break {
                    [b'\r', b'\n', ..] => 2,
                    _ => 1,
                };
            self.scanner.after_cr = line_break == b"\r";
            let is_blank = line.is_empty() && self.scanner.head_len == 0;
            if let Some(kind) = self.scanner.end_line(line) {
                return Some(Event { end: self.at, kind });
            }
            if is_blank {
                self.free = self.at;
            }
        }
    }
}

#[cfg(test)]
mod tests;
