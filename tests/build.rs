//! Compiles the gRPC interface of the tests' upstream, without `protoc`.

use std::error::Error;

const FOLDER: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={FOLDER}");
    let descriptors = protox::compile(["weather.proto"], [FOLDER])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
