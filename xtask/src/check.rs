//! `cargo xtask check`: what needs no running of the product.

use crate::run::{cargo, run, step};
use crate::{deps, tools};

/// Formatting, lints, documentation, dependencies. The first that fails ends it.
pub(crate) fn command() -> anyhow::Result<()> {
    tools::wasm_target()?;
    step("formatting");
    run(&mut cargo(&["fmt", "--all", "--check"]))?;
    let client = "tests/clients/mpp/Cargo.toml";
    run(&mut cargo(&["fmt", "--manifest-path", client, "--check"]))?;
    deps::check()?;
    step("lints, native");
    for what in [
        &["--workspace"][..],
        &["-p", "filter", "--no-default-features"],
    ] {
        run(cargo(&["clippy", "--locked", "--all-targets"])
            .args(what)
            .args(["--", "-D", "warnings"]))?;
    }
    step("lints, filter on wasm");
    for features in [&[][..], &["--no-default-features"], &["--features", "trap"]] {
        run(cargo(&[
            "clippy",
            "--locked",
            "-p",
            "filter",
            "--target",
            "wasm32-wasip1",
        ])
        .args(features)
        .args(["--", "-D", "warnings"]))?;
    }
    step("documentation");
    run(cargo(&[
        "doc",
        "--locked",
        "--workspace",
        "--no-deps",
        "--document-private-items",
    ])
    // Private items are documented too, so links to them lead somewhere.
    .env(
        "RUSTDOCFLAGS",
        "-D warnings -A rustdoc::private_intra_doc_links",
    ))?;
    eprintln!("all checks passed");
    Ok(())
}
