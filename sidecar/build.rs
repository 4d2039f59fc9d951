//! Compiles the vendored LND interface, client for the adapter and server for the tests' fake
//! node, without `protoc`.

use std::error::Error;

const FOLDER: &str = "proto/lnd";
const FILES: [&str; 4] = [
    "lightning.proto",
    "invoices.proto",
    "router.proto",
    "stateservice.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={FOLDER}");
    let descriptors = protox::compile(FILES, [FOLDER])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
