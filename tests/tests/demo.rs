//! The demo as a stranger runs it: every step, the lines it prints, and nothing left behind.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use e2e::{eventually, paths};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

#[tokio::test]
async fn the_demo_sells_prints_lines_that_work_and_leaves_nothing_running() -> anyhow::Result<()> {
    let mut demo = Command::new(paths::program("demo")?)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(demo.stdout.take().context("no output")?).lines();
    let mut all = String::new();
    let mut script = String::new();
    for line in lines.by_ref() {
        let line = line?;
        all.push_str(&line);
        all.push('\n');
        if let Some(command) = line.strip_prefix("  ").filter(|_| all.contains("Ctrl-C")) {
            script.push_str(command);
            script.push('\n');
            if command.contains("L402 $M:$P") {
                break;
            }
        }
    }
    ensure!(script.contains("L402 $M:$P"), "the demo has ended:\n{all}");
    let bought = Command::new("sh").args(["-eu", "-c", &script]).output()?;
    let said = String::from_utf8_lossy(&bought.stdout).into_owned();
    ensure!(
        bought.status.success(),
        "{script}\n{said}\n{}",
        String::from_utf8_lossy(&bought.stderr)
    );
    assert!(said.contains("402 Payment Required"), "{said}");
    assert!(
        said.contains("200 OK") && said.contains("Reykjavik"),
        "{said}"
    );

    let id = i32::try_from(demo.id())?;
    let children = descendants(id)?;
    ensure!(
        children.len() >= 6,
        "three programs and their leashes were expected: {children:?}"
    );
    kill_process(Pid::from_raw(id).context("no process id")?, Signal::INT)?;
    let status = demo.wait()?;
    ensure!(status.success(), "Ctrl-C ended it with {status}");
    eventually("nothing is left", Duration::from_secs(5), || async {
        let left: Vec<&i32> = children
            .iter()
            .filter(|id| Pid::from_raw(**id).is_some_and(|id| test_kill_process(id).is_ok()))
            .collect();
        ensure!(left.is_empty(), "still running: {left:?}");
        Ok(())
    })
    .await
}

/// All processes below `parent`.
fn descendants(parent: i32) -> anyhow::Result<Vec<i32>> {
    let table = Command::new("ps")
        .args(["-A", "-o", "pid=,ppid="])
        .output()?;
    let table = String::from_utf8(table.stdout)?;
    let pairs: Vec<(i32, i32)> = table
        .lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(str::parse::<i32>);
            Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
        })
        .collect();
    let mut found = vec![parent];
    let mut next = 0;
    while let Some(&above) = found.get(next) {
        found.extend(
            pairs
                .iter()
                .filter(|(_, parent)| *parent == above)
                .map(|(id, _)| *id),
        );
        next += 1;
    }
    Ok(found.split_off(1))
}
