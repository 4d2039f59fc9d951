//! Hands the host's triple to the fuzz command.

fn main() {
    let host = std::env::var("HOST").unwrap_or_default();
    println!("cargo::rustc-env=HOST_TRIPLE={host}");
    println!("cargo::rerun-if-changed=build.rs");
}
