//! The step after linking the filter: our entry points take the names of the ABI.
//!
//! The SDK defines every callback there is, under the ABI's names, and Envoy calls each exported
//! one on each request. Ours cannot be defined under the same names; so the filter exports
//! `boltgate_on_x`, the SDK's are not exported at all ([`crate::link`]), and here `boltgate_on_x`
//! is renamed to `proxy_on_x`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use walrus::{ExportItem, FunctionId, Module, ModuleConfig, ValType};

/// Prefix of the filter's own entry points.
const OURS: &str = "boltgate_on_";
/// Prefix of the ABI's callbacks, under which the SDK defines its own.
pub(crate) const ABI: &str = "proxy_on_";
/// What Envoy needs besides the callbacks.
const KEPT: [&str; 3] = ["memory", "_initialize", "proxy_abi_version_0_2_1"];
/// Callbacks of every build. Envoy takes one that is missing for a filter that lets all pass.
const NEEDED: [&str; 7] = [
    "configure",
    "context_create",
    "http_call_response",
    "memory_allocate",
    "request_headers",
    "request_trailers",
    "tick",
];
/// Further callbacks of a build that sells by the Payment scheme: all of them, or none.
const OF_PAYMENT: [&str; 3] = ["response_body", "response_headers", "response_trailers"];

/// Reads the linked filter at `input` and writes the module that Envoy loads to `output`.
///
/// # Errors
/// If a file cannot be read or written, if the module has callbacks of the SDK, or if something
/// that Envoy needs is missing.
pub(crate) fn postlink(input: &Path, output: &Path) -> Result<()> {
    let wasm = fs::read(input).with_context(|| format!("reading {}", input.display()))?;
    let renamed = rename(&wasm).with_context(|| format!("in {}", input.display()))?;
    fs::write(output, renamed).with_context(|| format!("writing {}", output.display()))
}

/// Sees that each callback of ours in `linked`, a module with the SDK's callbacks too, is one of
/// the ABI and has its signature.
///
/// # Errors
/// If the file cannot be read or a callback differs.
pub(crate) fn check(linked: &Path) -> Result<()> {
    let wasm = fs::read(linked).with_context(|| format!("reading {}", linked.display()))?;
    check_signatures(&Module::from_buffer(&wasm)?)
}

fn check_signatures(module: &Module) -> Result<()> {
    let ours = functions_with_prefix(module, OURS);
    ensure!(
        !ours.is_empty(),
        "no export begins with `{OURS}`: not the filter"
    );
    let sdk = functions_with_prefix(module, ABI);
    for (callback, function) in ours {
        let Some(of_sdk) = sdk.get(&callback) else {
            bail!("`{OURS}{callback}`: the ABI has no `{ABI}{callback}`");
        };
        let (want, have) = (signature(module, *of_sdk), signature(module, function));
        ensure!(
            want == have,
            "`{OURS}{callback}` is {have:?}, but `{ABI}{callback}` is {want:?}"
        );
    }
    Ok(())
}

/// Exported functions by the part of their name after `prefix`.
fn functions_with_prefix(module: &Module, prefix: &str) -> BTreeMap<String, FunctionId> {
    module
        .exports
        .iter()
        .filter_map(|export| match export.item {
            ExportItem::Function(function) => {
                Some((export.name.strip_prefix(prefix)?.to_owned(), function))
            }
            _ => None,
        })
        .collect()
}

fn signature(module: &Module, function: FunctionId) -> (&[ValType], &[ValType]) {
    module.types.params_results(module.funcs.get(function).ty())
}

fn rename(wasm: &[u8]) -> Result<Vec<u8>> {
    let mut config = ModuleConfig::new();
    config
        .generate_name_section(false)
        .generate_producers_section(false);
    let mut module = config.parse(wasm)?;

    let mut callbacks = BTreeSet::new();
    for export in module.exports.iter_mut() {
        if let Some(callback) = export.name.strip_prefix(OURS) {
            callbacks.insert(callback.to_owned());
            export.name = format!("{ABI}{callback}");
        } else {
            ensure!(
                KEPT.contains(&export.name.as_str()),
                "exports `{}`: not linked by `cargo xtask build`",
                export.name
            );
        }
    }
    let has = |names: &[&str]| {
        callbacks
            .iter()
            .map(String::as_str)
            .eq(names.iter().copied())
    };
    let mut with_payment = [&NEEDED[..], &OF_PAYMENT].concat();
    with_payment.sort_unstable();
    ensure!(
        has(&NEEDED) || has(&with_payment),
        "not the filter: its callbacks are {callbacks:?}, not {NEEDED:?}, with {OF_PAYMENT:?} or without"
    );
    for name in KEPT {
        ensure!(
            module.exports.iter().any(|export| export.name == name),
            "`{name}` is missing"
        );
    }
    Ok(module.emit_wasm())
}

#[cfg(test)]
mod tests {
    use walrus::FunctionBuilder;

    use super::*;

    /// A module that exports `name` as functions of as many `i32` as given.
    fn linked(functions: &[(&str, usize)]) -> Module {
        let mut module = Module::default();
        let memory = module.memories.add_local(false, false, 1, None, None);
        module.exports.add("memory", memory);
        for (index, (name, parameters)) in functions.iter().enumerate() {
            let types = vec![ValType::I32; *parameters];
            let arguments: Vec<_> = types.iter().map(|ty| module.locals.add(*ty)).collect();
            let mut builder = FunctionBuilder::new(&mut module.types, &types, &[ValType::I32]);
            builder.func_body().i32_const(i32::try_from(index).unwrap());
            let function = builder.finish(arguments, &mut module.funcs);
            module.exports.add(name, function);
        }
        module
    }

    /// The exports of a module with these callbacks of ours, and `more`, once it is renamed.
    fn renamed(callbacks: &[&str], more: &[(&str, usize)]) -> Result<Vec<String>> {
        let ours: Vec<_> = callbacks
            .iter()
            .map(|name| format!("{OURS}{name}"))
            .collect();
        let ours = ours.iter().map(|name| (name.as_str(), 1));
        let needed = [("_initialize", 0), ("proxy_abi_version_0_2_1", 0)];
        let all: Vec<_> = needed
            .into_iter()
            .chain(ours)
            .chain(more.iter().copied())
            .collect();
        let module = Module::from_buffer(&rename(&linked(&all).emit_wasm())?)?;
        let names = module.exports.iter().map(|export| export.name.clone());
        Ok(names.collect())
    }

    fn refusal(checked: Result<impl Sized>) -> String {
        checked.err().unwrap().to_string()
    }

    #[test]
    fn callbacks_of_ours_get_the_names_of_the_abi() {
        for more in [&[][..], &OF_PAYMENT] {
            let callbacks = [&NEEDED[..], more].concat();
            let mut names = renamed(&callbacks, &[]).unwrap();
            names.sort_unstable();
            let renamed = callbacks.iter().map(|name| format!("{ABI}{name}"));
            let mut expected: Vec<_> = renamed.chain(KEPT.map(str::to_owned)).collect();
            expected.sort_unstable();
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn a_module_with_callbacks_of_the_sdk_is_refused() {
        let error = refusal(renamed(&NEEDED, &[("proxy_on_log", 1)]));
        assert!(error.contains("`proxy_on_log`"), "{error}");
    }

    #[test]
    fn a_module_that_lacks_a_callback_is_refused() {
        for missing in 0..NEEDED.len() {
            let mut callbacks = NEEDED.to_vec();
            callbacks.remove(missing);
            let error = refusal(renamed(&callbacks, &[]));
            assert!(error.contains("not the filter"), "{error}");
        }
        let half = [&NEEDED[..], &OF_PAYMENT[..2]].concat();
        assert!(refusal(renamed(&half, &[])).contains("not the filter"));
        assert!(refusal(check_signatures(&linked(&[("proxy_on_tick", 1)]))).contains("not the"));
    }

    #[test]
    fn the_signature_of_a_callback_has_to_be_that_of_the_sdk() {
        let same = [("proxy_on_tick", 1), ("boltgate_on_tick", 1)];
        check_signatures(&linked(&same)).unwrap();
        let other = [("proxy_on_tick", 1), ("boltgate_on_tick", 2)];
        let error = refusal(check_signatures(&linked(&other)));
        assert!(error.contains("`boltgate_on_tick`"), "{error}");
    }

    #[test]
    fn a_callback_unknown_to_the_abi_is_refused() {
        let error = refusal(check_signatures(&linked(&[("boltgate_on_tock", 1)])));
        assert!(error.contains("proxy_on_tock"), "{error}");
    }
}
