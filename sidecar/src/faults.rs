//! Faults that a test asks for: the end of this process at a named step, and a clock that is wrong.
//!
//! Only the feature `faults` builds them in. This package's own tests turn it on; no release has
//! it. Without it everything here is nothing.
//!
//! - `$FAULT_STOP_FILE` names a file. While a step stands in it, such as `top_up.written`, the
//!   process ends there, as by SIGKILL: nothing is unwound, answered or written any more. Steps of
//!   a call on the ledger are `asked` (nothing is done), `written` (done in a transaction that is
//!   not committed) and `committed` (nobody has been told).
//! - `$FAULT_CLOCK_SECONDS` is added to the time of day, for this process and for the embedded
//!   network.

#[cfg(feature = "faults")]
mod on {
    use std::path::PathBuf;
    use std::sync::LazyLock;

    static STOP_FILE: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("FAULT_STOP_FILE").map(PathBuf::from));
    static CLOCK_MILLIS: LazyLock<i64> = LazyLock::new(|| {
        let seconds = std::env::var("FAULT_CLOCK_SECONDS").ok();
        let seconds = seconds.and_then(|seconds| seconds.parse::<i64>().ok());
        seconds.unwrap_or(0).saturating_mul(1_000)
    });

    /// Ends the process if this is the step that a test named. `call` may be the path of a function
    /// or an expression that calls it: its words are compared.
    pub(crate) fn stop_at(call: &str, when: &str) {
        let Some(file) = &*STOP_FILE else { return };
        let Ok(wanted) = std::fs::read_to_string(file) else {
            return;
        };
        let mut words = call.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let is_here = wanted
            .split_once('.')
            .is_some_and(|(wanted, at)| at == when && words.any(|word| word == wanted));
        if is_here {
            eprintln!("stopped at {wanted}");
            std::process::abort();
        }
    }

    /// The time of day as this process has it.
    pub(crate) fn shifted(unix_millis: u64) -> u64 {
        unix_millis.saturating_add_signed(*CLOCK_MILLIS)
    }
}

#[cfg(not(feature = "faults"))]
mod off {
    #[inline(always)]
    pub(crate) const fn stop_at(_: &str, _: &str) {}

    #[inline(always)]
    pub(crate) const fn shifted(unix_millis: u64) -> u64 {
        unix_millis
    }
}

#[cfg(not(feature = "faults"))]
pub(crate) use self::off::{shifted, stop_at};
#[cfg(feature = "faults")]
pub(crate) use self::on::{shifted, stop_at};
