//! The step after linking the filter: our entry points take the place of the SDK's.
//!
//! The SDK exports every callback there is, and Envoy calls each exported one on each request, so
//! an unused export costs time. Defining the SDK's names ourselves would be a clash at link time;
//! so the filter exports `boltgate_on_x`, and here that function becomes `proxy_on_x`. Every other
//! export goes, and with it the code that only it could reach.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, bail, ensure};
use walrus::{ExportItem, FunctionId, Module, ModuleConfig};

/// Prefix of the filter's own entry points.
const OURS: &str = "boltgate_on_";
/// Prefix of the ABI's callbacks, under which the SDK exports its own.
const ABI: &str = "proxy_on_";
/// What Envoy needs besides the callbacks.
const KEPT: [&str; 3] = ["memory", "_initialize", "proxy_abi_version_0_2_1"];

/// Reads the linked filter at `input` and writes the module that Envoy loads to `output`.
///
/// # Errors
/// If a file cannot be read or written, if an entry point of ours has no counterpart of the same
/// signature in the SDK, or if something that Envoy needs is missing.
pub(crate) fn postlink(input: &Path, output: &Path) -> Result<()> {
    let wasm = std::fs::read(input).with_context(|| format!("reading {}", input.display()))?;
    let linked = relink(&wasm).with_context(|| format!("in {}", input.display()))?;
    std::fs::write(output, linked).with_context(|| format!("writing {}", output.display()))
}

fn relink(wasm: &[u8]) -> Result<Vec<u8>> {
    let mut config = ModuleConfig::new();
    config
        .generate_name_section(false)
        .generate_producers_section(false);
    let mut module = config.parse(wasm)?;

    let ours = functions_with_prefix(&module, OURS);
    ensure!(
        !ours.is_empty(),
        "no export begins with `{OURS}`: not the filter"
    );
    for (callback, function) in &ours {
        put_in_place(&mut module, callback, *function)?;
    }
    delete_unused_exports(&mut module, &ours);
    for name in KEPT {
        ensure!(
            module.exports.iter().any(|export| export.name == name),
            "`{name}` is missing"
        );
    }
    walrus::passes::gc::run(&mut module);
    Ok(module.emit_wasm())
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

fn put_in_place(module: &mut Module, callback: &str, function: FunctionId) -> Result<()> {
    let name = format!("{ABI}{callback}");
    let signature = |function| {
        let (parameters, results) = module.types.params_results(module.funcs.get(function).ty());
        (parameters.to_vec(), results.to_vec())
    };
    let sdk = module
        .exports
        .iter()
        .find(|export| export.name == name)
        .with_context(|| format!("`{OURS}{callback}`: the ABI has no `{name}`"))?;
    let ExportItem::Function(replaced) = sdk.item else {
        bail!("`{name}` is not a function")
    };
    let (want, have) = (signature(replaced), signature(function));
    ensure!(
        want == have,
        "`{OURS}{callback}` is {have:?}, but `{name}` is {want:?}"
    );
    let id = sdk.id();
    module.exports.get_mut(id).item = ExportItem::Function(function);
    Ok(())
}

fn delete_unused_exports(module: &mut Module, ours: &BTreeMap<String, FunctionId>) {
    let unused: Vec<_> = module
        .exports
        .iter()
        .filter(|export| {
            let used = KEPT.contains(&export.name.as_str())
                || export
                    .name
                    .strip_prefix(ABI)
                    .is_some_and(|name| ours.contains_key(name));
            !used
        })
        .map(walrus::Export::id)
        .collect();
    for id in unused {
        module.exports.delete(id);
    }
}

#[cfg(test)]
mod tests {
    use walrus::{FunctionBuilder, ValType};

    use super::*;

    /// A module that exports `name` as functions of as many `i32` as given.
    fn linked(functions: &[(&str, usize)]) -> Vec<u8> {
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
        module.emit_wasm()
    }

    const NEEDED: [(&str, usize); 2] = [("_initialize", 0), ("proxy_abi_version_0_2_1", 0)];

    fn relinked(functions: &[(&str, usize)]) -> Result<Vec<String>> {
        let all: Vec<_> = NEEDED.iter().chain(functions).copied().collect();
        let module = Module::from_buffer(&relink(&linked(&all))?)?;
        let mut names: Vec<_> = module
            .exports
            .iter()
            .map(|export| export.name.clone())
            .collect();
        names.sort();
        Ok(names)
    }

    #[test]
    fn only_callbacks_of_ours_stay_exported() {
        let names = relinked(&[
            ("proxy_on_tick", 1),
            ("proxy_on_log", 1),
            ("boltgate_on_tick", 1),
            ("__heap_base", 0),
        ]);
        assert_eq!(
            names.unwrap(),
            [
                "_initialize",
                "memory",
                "proxy_abi_version_0_2_1",
                "proxy_on_tick"
            ]
        );
    }

    #[test]
    fn code_that_only_a_deleted_export_reached_is_gone() {
        let functions = [
            ("proxy_on_tick", 1),
            ("proxy_on_log", 1),
            ("boltgate_on_tick", 1),
        ];
        let all: Vec<_> = NEEDED.iter().chain(&functions).copied().collect();
        let module = Module::from_buffer(&relink(&linked(&all)).unwrap()).unwrap();
        assert_eq!(module.funcs.iter().count(), 3);
    }

    #[test]
    fn another_signature_is_refused() {
        let error = relinked(&[("proxy_on_tick", 1), ("boltgate_on_tick", 2)]).unwrap_err();
        assert!(error.to_string().contains("`boltgate_on_tick`"), "{error}");
    }

    #[test]
    fn a_callback_unknown_to_the_abi_is_refused() {
        let error = relinked(&[("boltgate_on_tock", 1)]).unwrap_err();
        assert!(error.to_string().contains("proxy_on_tock"), "{error}");
    }

    #[test]
    fn a_module_without_callbacks_of_ours_is_refused() {
        assert!(relinked(&[("proxy_on_tick", 1)]).is_err());
    }
}
