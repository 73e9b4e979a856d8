//! Makes Rust of the protocols in `proto/`. Needs no protoc: protox is a compiler of its own.

use std::error::Error;

use protox::prost_reflect::{DescriptorPool, MessageDescriptor, Value};

/// Relative to this crate.
const FILES: [&str; 2] = ["proto/csi/v1/csi.proto", "proto/pluginregistration/api.proto"];
/// The option of a field that holds secrets (CSI, "Secrets Requirements").
const SECRET: &str = "csi.v1.csi_secret";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files(FILES)?;
    let secret = with_secrets(&compiler.descriptor_pool())?;
    // Whoever adds a message with secrets gets an error of the compiler until it has a Debug that hides them.
    tonic_prost_build::configure()
        .build_transport(false)
        .btree_map(".")
        .skip_debug(secret)
        .emit_rerun_if_changed(false)
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}

/// The messages that have a field of secrets of their own.
fn with_secrets(pool: &DescriptorPool) -> Result<Vec<String>, Box<dyn Error>> {
    let option = pool.get_extension_by_name(SECRET).ok_or("the option of secret fields is not declared")?;
    let is_secret = |message: &MessageDescriptor| {
        message.fields().any(|field| *field.options().get_extension(&option) == Value::Bool(true))
    };
    Ok(pool.all_messages().filter(is_secret).map(|message| format!(".{}", message.full_name())).collect())
}
