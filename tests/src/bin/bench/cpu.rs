//! CPU time of a process and the core it may use.

use std::fs;

use anyhow::{Context as _, Result};
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

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

/// Memory that `pid` has in RAM, in megabytes.
pub(crate) fn resident_megabytes(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = kib.and_then(|kib| kib.trim().strip_suffix(" kB"));
    let kib: f64 = kib.context("VmRSS in status")?.parse()?;
    Ok(kib * 1_024.0 / 1e6)
}

/// Does `start` while this thread may use all cores, so that what it starts may, too.
pub(crate) fn on_all_cores<T>(start: impl FnOnce() -> T) -> Result<T> {
    let before = sched_getaffinity(None)?;
    let mut all = CpuSet::new();
    for core in 0..CpuSet::MAX_CPU {
        all.set(core);
    }
    sched_setaffinity(None, &all)?;
    let started = start();
    sched_setaffinity(None, &before)?;
    Ok(started)
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
