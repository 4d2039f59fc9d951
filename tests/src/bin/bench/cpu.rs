//! CPU time of a process and the core it may use.

use std::fs;

use anyhow::{Context as _, Result};
use rustix::thread::{CpuSet, Pid, sched_setaffinity};

/// CPU time of all threads of `pid` so far, in nanoseconds.
///
/// `schedstat` counts exactly, `stat` in ticks of 10 ms.
pub(crate) fn nanoseconds(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("Envoy is gone")? {
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        sum += text
            .split(' ')
            .next()
            .context("schedstat")?
            .parse::<u64>()?;
    }
    Ok(sum)
}

/// Memory that `pid` alone holds, in bytes (the private part of its resident set).
pub(crate) fn private_bytes(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib = |name: &str| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(name)?
                    .trim()
                    .strip_suffix(" kB")?
                    .parse::<u64>()
                    .ok()
            })
            .with_context(|| format!("{name} in smaps_rollup"))
    };
    Ok((kib("Private_Clean:")? + kib("Private_Dirty:")?) * 1024)
}

/// Keeps this thread, and those it will start, on one core.
pub(crate) fn pin_self(core: usize) -> Result<()> {
    sched_setaffinity(None, &only(core))?;
    Ok(())
}

/// Keeps the threads that `pid` has now, and those they will start, on one core.
pub(crate) fn pin(pid: u32, core: usize) -> Result<()> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread: i32 = thread?.file_name().to_string_lossy().parse()?;
        // A thread that has ended meanwhile needs no core.
        let _ = sched_setaffinity(Pid::from_raw(thread), &only(core));
    }
    Ok(())
}

fn only(core: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(core);
    set
}
