//! Generates the contract's Rust from `proto/`, with protox: no protoc on the machine.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../proto");
    let files = protox::compile(["job/v1/job.proto"], ["../proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("job.v1.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        // One order of a map's entries: the same spec is always the same bytes.
        .btree_map(".job.v1.JobSpec")
        .codec_path("crate::codec::ExactCodec")
        .build_transport(false)
        .compile_fds(files)?;
    Ok(())
}
