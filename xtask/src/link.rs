//! The filter's linker: `rust-lld`, without the callbacks that the SDK exports.
//!
//! The compiler has the linker export every `no_mangle` function, the SDK's callbacks among them,
//! and with these come the SDK's dispatcher and its contexts, which never run here. Once linked
//! they cannot be told from what is needed, as their tables of functions are mere bytes by then. So
//! the compiler is given this program as its linker, and the exports are left out in time.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::postlink;

/// The first argument of a linker for wasm, by which a call from the compiler is known.
pub(crate) const FLAVOR: &str = "-flavor";

/// Links twice: first with all exports, to see that each of our callbacks has the signature that
/// the SDK gives it, then without the SDK's.
///
/// # Errors
/// If the linker fails or a callback of ours is not one of the ABI.
pub(crate) fn command(args: &[String]) -> Result<()> {
    let output = args
        .iter()
        .skip_while(|arg| *arg != "-o")
        .nth(1)
        .context("the linker was given no -o")?;
    lld(args)?;
    postlink::check(Path::new(output))?;
    lld(&without_callbacks(args))
}

fn without_callbacks(args: &[String]) -> Vec<String> {
    let mut kept = Vec::with_capacity(args.len());
    let mut args = args.iter().peekable();
    while let Some(arg) = args.next() {
        let is_callback = |name: &&String| name.starts_with(postlink::ABI);
        if arg == "--export" && args.next_if(is_callback).is_some() {
            continue;
        }
        kept.push(arg.clone());
    }
    kept
}

/// The compiler's own linker, which it puts on the path of the linker it calls.
fn lld(args: &[String]) -> Result<()> {
    let status = Command::new("rust-lld")
        .args(args)
        .status()
        .context("cannot run rust-lld, which comes with the Rust toolchain")?;
    if !status.success() {
        bail!("rust-lld: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exports_of_callbacks_are_left_out() {
        let given = "-flavor wasm --export _initialize --export proxy_on_tick \
                     --export boltgate_on_tick --export proxy_abi_version_0_2_1 \
                     --export proxy_on_log proxy_on.o -o filter.wasm";
        let kept = "-flavor wasm --export _initialize --export boltgate_on_tick \
                    --export proxy_abi_version_0_2_1 proxy_on.o -o filter.wasm";
        let words = |line: &str| -> Vec<String> {
            line.split_whitespace().map(ToOwned::to_owned).collect()
        };
        assert_eq!(without_callbacks(&words(given)), words(kept));
    }
}
