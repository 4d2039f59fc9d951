//! `leash LOG PROGRAM [ARG…]`: runs a program that cannot outlive whoever holds our standard input.
//!
//! It is the head of a process group of its own. When standard input ends (its holder has closed
//! it or has died, even by SIGKILL) the whole group is killed. The first line of standard output
//! is the program's process id; its own output goes to LOG.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, getpid, kill_process, kill_process_group};

fn main() -> anyhow::Result<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let log = args.next().context("usage: leash LOG PROGRAM [ARG…]")?;
    let program = args.next().context("usage: leash LOG PROGRAM [ARG…]")?;
    let log = OpenOptions::new().create(true).append(true).open(log)?;
    let mut child = Command::new(&program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    println!("{}", child.id());
    std::io::stdout().flush()?;
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .context("no process id")?;
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        let _ = std::io::stdin().read_to_end(&mut rest);
        // First the program alone, so that it is waited for below and leaves no zombie; then,
        // should that take long, everything.
        let _ = kill_process(pid, Signal::KILL);
        std::thread::sleep(Duration::from_secs(1));
        let _ = kill_process_group(getpid(), Signal::KILL);
    });
    let status = child.wait()?;
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}
