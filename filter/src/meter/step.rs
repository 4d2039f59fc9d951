//! What a meter is given, and what it says is to be done.

/// Where units come from.
pub trait Till {
    /// Takes one unit of the price; `false` if there is none just now.
    fn take(&mut self) -> bool;
    /// The event that says what the stream has cost.
    fn receipt(&self, units: u64) -> String;
}

/// What becomes of the response's body buffer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// It stays.
    Keep,
    /// It becomes this.
    Replace(Vec<u8>),
    /// This is added to it.
    Append(Vec<u8>),
}

/// What Envoy is to do with the stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Go {
    /// Go on.
    On,
    /// Keep what is in the buffer.
    Stop,
    /// The same, and slow the upstream down when the buffer is full.
    Press,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, Eq, PartialEq)]
#[must_use]
pub struct Step {
    /// First.
    pub change: Change,
    /// Then: let go what is in the buffer.
    pub resume: bool,
    /// Or: end the stream, now that the client has all that it will get.
    pub close: bool,
    /// The value that a callback of the stream returns; without meaning for a tick.
    pub go: Go,
}

impl Step {
    /// Nothing.
    pub const NOTHING: Self = Self {
        change: Change::Keep,
        resume: false,
        close: false,
        go: Go::On,
    };

    pub(super) const fn go(go: Go) -> Self {
        Self {
            go,
            ..Self::NOTHING
        }
    }

    pub(super) const fn resume(change: Change, go: Go) -> Self {
        Self {
            change,
            resume: true,
            close: false,
            go,
        }
    }
}
