//! Generates the gRPC code from `secateur/v1/*.proto` and `inference/inference.proto`, with protox instead of protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=secateur");
    println!("cargo:rerun-if-changed=inference");
    let files = ["secateur/v1/fleet.proto", "secateur/v1/operator.proto", "inference/inference.proto"];
    let descriptors = protox::compile(files, ["."])?;
    let generator = tonic_prost_build::configure().codec_path("crate::codec::Small");
    generator.bytes(".secateur.v1.Chunk").compile_fds(descriptors)?;
    Ok(())
}
