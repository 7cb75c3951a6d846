//! Generates the protobuf code of VStream's messages into `OUT_DIR`, with a parser in Rust: no `protoc` is needed.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=proto/vtgate.proto");
    #[cfg(feature = "vstream")]
    protobuf_codegen::Codegen::new()
        .pure()
        .include("proto")
        .input("proto/vtgate.proto")
        .cargo_out_dir("proto")
        .customize(protobuf_codegen::Customize::default().lite_runtime(true).gen_mod_rs(true))
        .run_from_script();
}
