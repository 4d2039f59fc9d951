//! `cargo xtask doctor`: what is missing, and how to get it.

use anyhow::bail;

use crate::run::version;

/// A program that somebody must install before the project can do something.
struct Need {
    program: &'static str,
    args: &'static [&'static str],
    /// Oldest version that works, as major and minor.
    least: (u32, u32),
    used_for: &'static str,
    how: &'static str,
}

const NEEDS: [Need; 8] = [
    Need {
        program: "rustup",
        args: &["--version"],
        least: (1, 20),
        used_for: "the pinned Rust toolchain and its wasm target",
        how: "https://rustup.rs",
    },
    Need {
        program: "cc",
        args: &["--version"],
        least: (0, 0),
        used_for: "SQLite and TLS in the sidecar",
        how: "apt install build-essential, dnf install gcc-c++, or xcode-select --install",
    },
    Need {
        program: "c++",
        args: &["--version"],
        least: (0, 0),
        used_for: "fuzzing, a part of the tests",
        how: "apt install build-essential, or dnf install gcc-c++",
    },
    Need {
        program: "python3",
        args: &["--version"],
        least: (3, 11),
        used_for: "fetching Envoy (the demo is content with 3.9), Python clients (tests)",
        how: "apt install python3 python3-venv, or https://www.python.org",
    },
    Need {
        program: "go",
        args: &["version"],
        least: (1, 24),
        used_for: "building LND, btcd and Envoy Gateway's translator (tests)",
        how: "https://go.dev/dl",
    },
    Need {
        program: "node",
        args: &["--version"],
        least: (18, 0),
        used_for: "JavaScript clients (tests)",
        how: "apt install nodejs npm, or https://nodejs.org",
    },
    Need {
        program: "curl",
        args: &["--version"],
        least: (0, 0),
        used_for: "the lines that the demo prints, which a test runs",
        how: "apt install curl, or dnf install curl",
    },
    Need {
        program: "ps",
        args: &["-A", "-o", "pid="],
        least: (0, 0),
        used_for: "a test that the demo leaves nothing running",
        how: "apt install procps, or dnf install procps-ng",
    },
];

/// Prints what is there and what is not; fails if anything is missing.
pub(crate) fn command() -> anyhow::Result<()> {
    let mut missing = 0;
    for need in &NEEDS {
        let found = version(need.program, need.args);
        let verdict = match &found {
            Some(text) if numbers(text) >= Some(need.least) || need.least == (0, 0) => {
                let text = if need.program == "ps" { "" } else { text };
                println!("ok       {:<8} {text}", need.program);
                continue;
            }
            Some(text) => format!("{text}, but {}.{} is needed", need.least.0, need.least.1),
            None => "not found".to_owned(),
        };
        missing += 1;
        println!("MISSING  {:<8} {verdict}", need.program);
        println!("         for: {}", need.used_for);
        println!("         get it: {}", need.how);
    }
    missing += usize::from(!report_venv()) + usize::from(!report_npm());
    if missing > 0 {
        bail!("{missing} tools are missing");
    }
    println!("all there; `cargo xtask setup` fetches the rest into target/tools");
    Ok(())
}

/// Debian splits `ensurepip` off Python, and then no virtual environment can be made.
fn report_venv() -> bool {
    let there = version("python3", &["-c", "import venv, ensurepip; print('venv')"]).is_some();
    if !there {
        println!("MISSING  python3's venv module\n         get it: apt install python3-venv");
    }
    there
}

fn report_npm() -> bool {
    let there = version("npm", &["--version"]).is_some();
    if !there {
        println!("MISSING  npm (comes with Node.js)\n         get it: apt install npm");
    }
    there
}

/// The first two numbers with a dot between them.
fn numbers(text: &str) -> Option<(u32, u32)> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.')
        .find_map(|word| {
            let mut parts = word.split('.');
            Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
        })
}

/// Tests that were left out of a run because a tool of theirs is optional and not there. Nothing
/// is optional at the moment: what tests need, set-up gets or fails over.
pub(crate) fn skipped() -> Vec<String> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        assert_eq!(numbers("go version go1.26.8 linux/amd64"), Some((1, 26)));
        assert_eq!(numbers("Python 3.11.7"), Some((3, 11)));
        assert_eq!(numbers("v20.20.2"), Some((20, 20)));
        assert_eq!(
            numbers("rustup 1.29.0 (28d1352db 2026-03-05)"),
            Some((1, 29))
        );
        assert_eq!(numbers("none"), None);
    }
}
