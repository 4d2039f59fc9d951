//! Developer commands: `cargo xtask <command>`.
//!
//! Everything a command needs beyond Rust, Python, Go and Node is fetched or built below the
//! target folder ([`tools`]); nothing else is written.

mod build;
mod check;
mod demo;
mod deps;
mod dist;
mod doctor;
mod fuzz;
mod link;
mod paths;
mod postlink;
mod run;
mod test;
mod tools;

use std::process::ExitCode;

use anyhow::bail;

const HELP: &str = "\
cargo xtask <command>

  demo [--once]          sell and buy something through a real Envoy, step by step, then stay up
                         to be tried by hand; --once: exit, status 0 only if every step held
  test [ARG…]            all tests: units, sidecar, real Envoy, real LND. ARGs go to `cargo test`
  check                  formatting, lints (native and wasm), docs, dependency and licence rules
  build [--release]      the filter (post-linked, size checked), the sidecar, the test programs;
                         --filter: only the filter
  bench [ARG…]           cost per request and per event as a fraction of bare Envoy, claims per
                         second, memory, …; --only NAME,NAME: only these
  fuzz [--seconds N] [T] each fuzz target (or T) for N seconds, 10 by default
  dist                   release artefacts in target/dist
  setup                  only fetch and build the tools that tests use
  doctor                 name each missing tool and how to get it
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> anyhow::Result<()> {
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", args),
    };
    match command {
        "build" => build::command(rest),
        "check" => check::command(),
        "test" => test::command(rest),
        "demo" => demo::demo(rest),
        "bench" => demo::bench(rest),
        "fuzz" => fuzz::command(rest),
        "dist" => dist::command(),
        "setup" => tools::all(),
        "doctor" => doctor::command(),
        link::FLAVOR => link::command(args),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => bail!("no such command: {other}\n\n{HELP}"),
    }
}
