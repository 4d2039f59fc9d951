//! Command lines of the programs in this package: `--name value` or `--name=value`, and flags.

use std::collections::VecDeque;

use anyhow::bail;
use tokio::signal::unix::{SignalKind, signal};

/// What is left of the command line.
#[derive(Debug)]
pub struct Args {
    rest: VecDeque<String>,
    usage: &'static str,
}

impl Args {
    /// This program's own command line.
    #[must_use]
    pub fn from_env(usage: &'static str) -> Self {
        Self {
            rest: std::env::args().skip(1).collect(),
            usage,
        }
    }

    /// The value of `--name`, if it is given.
    ///
    /// # Errors
    /// When it is given without a value.
    pub fn value(&mut self, name: &str) -> anyhow::Result<Option<String>> {
        let with_value = format!("{name}=");
        let Some(at) = self
            .rest
            .iter()
            .position(|arg| arg == name || arg.starts_with(&with_value))
        else {
            return Ok(None);
        };
        let arg = self.rest.remove(at).unwrap_or_default();
        if let Some(value) = arg.strip_prefix(&with_value) {
            return Ok(Some(value.to_owned()));
        }
        match self.rest.remove(at) {
            Some(value) => Ok(Some(value)),
            None => bail!("{name} needs a value\nusage: {}", self.usage),
        }
    }

    /// Whether the flag `--name` is given.
    pub fn flag(&mut self, name: &str) -> bool {
        let at = self.rest.iter().position(|arg| arg == name);
        at.is_some_and(|at| self.rest.remove(at).is_some())
    }

    /// The next argument that is no option.
    pub fn positional(&mut self) -> Option<String> {
        let at = self.rest.iter().position(|arg| !arg.starts_with('-'))?;
        self.rest.remove(at)
    }

    /// Ends the reading of arguments.
    ///
    /// # Errors
    /// When some are left.
    pub fn finish(self) -> anyhow::Result<()> {
        match self.rest.front() {
            Some(arg) => bail!("what is {arg}?\nusage: {}", self.usage),
            None => Ok(()),
        }
    }
}

/// Waits for Ctrl-C or SIGTERM.
///
/// # Errors
/// When signals cannot be waited for.
pub async fn end_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ctrl_c = tokio::signal::ctrl_c() => Ok(ctrl_c?),
        _ = terminate.recv() => Ok(()),
    }
}
