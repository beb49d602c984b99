//! Compiles the few messages of Istio's own. No `protoc` is needed.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = PathBuf::from("proto");
    let files: Vec<PathBuf> = ["ca.proto", "nds.proto", "typed_struct.proto", "alpn.proto"].iter().map(|f| dir.join(f)).collect();
    println!("cargo::rerun-if-changed=proto");
    let set = protox::compile(&files, [&dir])?;
    // One set of well-known types for everything: the one of Envoy's crate.
    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::envoy_types::pb::google::protobuf")
        .compile_fds(set)?;
    Ok(())
}
