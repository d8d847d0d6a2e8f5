//! Compiles the contract with a compiler written in Rust: no protoc is needed on any machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["agent", "operations", "transfer", "journal", "gateway", "enroll"]
        .map(|name| format!("umsid/v1/{name}.proto"));
    println!("cargo::rerun-if-changed=umsid");
    let descriptors = protox::compile(files, ["."])?;
    tonic_prost_build::configure().build_transport(true).compile_fds(descriptors)?;
    Ok(())
}
