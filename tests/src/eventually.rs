//! Waiting for something to become true.

use std::time::{Duration, Instant};

use anyhow::Context;

/// Repeats `probe` until it gives `Ok`, at most until `deadline` has passed; then the last error
/// is returned, with `what` in front of it.
///
/// # Errors
/// The probe's last error, when the deadline has passed.
pub async fn eventually<T, Fut>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Fut,
) -> anyhow::Result<T>
where
    Fut: Future<Output = anyhow::Result<T>>,
{
    let start = Instant::now();
    loop {
        // A probe that hangs counts as one that fails.
        let left = deadline
            .saturating_sub(start.elapsed())
            .max(Duration::from_millis(100));
        let result = match tokio::time::timeout(left, probe()).await {
            Ok(result) => result,
            Err(_) => Err(anyhow::anyhow!("no answer in time")),
        };
        match result {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= deadline => {
                return Err(error).with_context(|| format!("{what}: not within {deadline:?}"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(25)).await,
        }
    }
}

/// [`eventually`] for code without a runtime.
///
/// # Errors
/// The probe's last error, when the deadline has passed.
pub fn eventually_blocking<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= deadline => {
                return Err(error).with_context(|| format!("{what}: not within {deadline:?}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
