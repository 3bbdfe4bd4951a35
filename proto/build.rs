//! Compiles every definition below `protos/` with protox, so that no `protoc` is needed.

use std::{
    env,
    error::Error,
    fs, io,
    path::{Path, PathBuf},
};

use prost::Message;
use prost_build::{Service, ServiceGenerator};

const ROOT: &str = "protos";

/// Fields that are rarely set and large. Behind a pointer they cost nothing in the messages that every request and
/// answer carries. A path without a leading dot matches the end of a field's full name.
const BOXED: [&str; 8] = [
    "region_error",
    ".kvrpcpb.Context.trace_context",
    ".kvrpcpb.Context.resource_control_context",
    ".kvrpcpb.Context.source_stmt",
    ".kvrpcpb.KvPair.error",
    ".tikvpb.BatchCommandsRequest.Request.cmd.Prewrite",
    ".tikvpb.BatchCommandsRequest.Request.cmd.PessimisticLock",
    ".metapb.Region.encryption_meta",
];

/// Services whose messages carry a checksum.
const CHECKED: [&str; 2] = ["pontoon.v1.Peer", "pontoon.v1.Liveness"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={ROOT}");
    let mut files = Vec::new();
    definitions(Path::new(ROOT), &mut files)?;
    files.sort();

    let mut compiler = protox::Compiler::new([ROOT])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(&files)?;
    let descriptors = compiler.file_descriptor_set();

    // Reflection and the tests need no comments.
    let mut bare = descriptors.clone();
    for file in &mut bare.file {
        file.source_code_info = None;
    }
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out_dir.join("descriptors.bin"), bare.encode_to_vec())?;

    let services = env::var_os("CARGO_FEATURE_SERVICES").is_some();
    let mut config = prost_build::Config::new();
    if services {
        config.service_generator(Box::new(Stubs {
            plain: stubs("tonic_prost::ProstCodec"),
            checked: stubs("crate::checked::Codec"),
        }));
    }
    let mut builder = tonic_prost_build::configure()
        // Not by the builder's own generator.
        .build_client(false)
        .build_server(false)
        .bytes(".")
        .btree_map(".")
        .emit_rerun_if_changed(false)
        .include_file("packages.rs");
    for path in BOXED {
        builder = builder.boxed(path);
    }
    builder.compile_fds_with_config(descriptors, config)?;
    Ok(())
}

/// Generates the stubs of each service with the codec that suits it.
struct Stubs {
    plain: Box<dyn ServiceGenerator>,
    checked: Box<dyn ServiceGenerator>,
}

impl ServiceGenerator for Stubs {
    fn generate(&mut self, service: Service, code: &mut String) {
        let name = format!("{}.{}", service.package, service.proto_name);
        if CHECKED.contains(&&*name) {
            self.checked.generate(service, code);
        } else {
            self.plain.generate(service, code);
        }
    }
}

fn stubs(codec: &str) -> Box<dyn ServiceGenerator> {
    tonic_prost_build::configure()
        // A server implements what it serves; every other method answers UNIMPLEMENTED.
        .generate_default_stubs(true)
        .codec_path(codec)
        .service_generator()
}

/// Collects the `.proto` files below `folder`.
fn definitions(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            definitions(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "proto")
        {
            files.push(path);
        }
    }
    Ok(())
}
