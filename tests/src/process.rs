//! Programs under test: each in a process group of its own, its output in a file, gone when its
//! handle is dropped and gone when this process dies, however it dies (see the `leash` program).

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::paths;

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    leash: Child,
    pid: Pid,
    group: Pid,
    log: PathBuf,
}

impl Process {
    /// Starts `command` (its program, arguments, environment and folder), with output appended
    /// to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(name: &str, log: &Path, command: &Command) -> anyhow::Result<Self> {
        let mut leash = Command::new(paths::program("leash")?);
        leash
            .arg(log)
            .arg(command.get_program())
            .args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => leash.env(key, value),
                None => leash.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            leash.current_dir(folder);
        }
        let mut leash = leash
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdout = leash.stdout.take().context("no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let pid = line.trim().parse::<i32>().ok().and_then(Pid::from_raw);
        let group = i32::try_from(leash.id()).ok().and_then(Pid::from_raw);
        let (Some(pid), Some(group)) = (pid, group) else {
            let _ = leash.kill();
            bail!("cannot start {name}: see {}", log.display());
        };
        Ok(Self {
            name: name.to_owned(),
            leash,
            pid,
            group,
            log: log.to_path_buf(),
        })
    }

    /// Process id of the program itself.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// File with all that it has printed.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// What it has printed so far.
    #[must_use]
    pub fn output(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Exit status if it has ended: the program's own, or 128 and the signal's number.
    pub fn ended(&mut self) -> Option<i32> {
        let status = self.leash.try_wait().ok().flatten()?;
        Some(status.code().unwrap_or(-1))
    }

    /// An error that shows the end of its output, if it has ended.
    ///
    /// # Errors
    /// When it has ended.
    pub fn check_running(&mut self) -> anyhow::Result<()> {
        if let Some(code) = self.ended() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let tail = lines
                .get(lines.len().saturating_sub(15)..)
                .unwrap_or_default();
            bail!(
                "{} has ended with status {code}:\n{}",
                self.name,
                tail.join("\n")
            );
        }
        Ok(())
    }

    /// Kills it at once (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        // The program first: then its leash sees it end and leaves no zombie.
        if self.ended().is_none() {
            let _ = kill_process(self.pid, Signal::KILL);
            let start = Instant::now();
            while self.ended().is_none() && start.elapsed() < Duration::from_secs(1) {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let _ = kill_process_group(self.group, Signal::KILL);
        let _ = self.leash.wait();
    }

    /// Asks it to end (SIGTERM) and gives its exit status; kills it after `deadline`.
    ///
    /// # Errors
    /// When it had to be killed.
    pub fn stop(&mut self, deadline: Duration) -> anyhow::Result<i32> {
        let start = Instant::now();
        let _ = kill_process(self.pid, Signal::TERM);
        while start.elapsed() < deadline {
            if let Some(code) = self.ended() {
                return Ok(code);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill();
        bail!("{} did not stop within {deadline:?}", self.name)
    }

    /// Stops its execution without ending it (SIGSTOP): it hangs, its sockets stay open.
    ///
    /// # Errors
    /// When it is gone.
    pub fn freeze(&self) -> anyhow::Result<()> {
        Ok(kill_process(self.pid, Signal::STOP)?)
    }

    /// Lets it go on after [`Self::freeze`].
    ///
    /// # Errors
    /// When it is gone.
    pub fn thaw(&self) -> anyhow::Result<()> {
        Ok(kill_process(self.pid, Signal::CONT)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
