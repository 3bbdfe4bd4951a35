//! What `prost-build` asks of `protoc`, done by protox: write the descriptors of some files, with all they import and
//! with their comments, to one file. No other option is understood.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    let mut includes: Vec<PathBuf> = Vec::new();
    let mut files: Vec<PathBuf> = Vec::new();
    let mut out: Option<PathBuf> = None;
    let (mut imports, mut source_info) = (false, false);
    let mut args = env::args_os().skip(1);
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("--include_imports") => imports = true,
            Some("--include_source_info") => source_info = true,
            Some("--experimental_allow_proto3_optional") => {}
            Some("-I") => includes.push(args.next().ok_or("-I needs a folder")?.into()),
            Some("-o") => out = Some(args.next().ok_or("-o needs a file")?.into()),
            Some(option) if option.starts_with('-') => {
                return Err(format!("the option {option} is not understood").into());
            }
            _ => files.push(arg.into()),
        }
    }
    let out = out.ok_or("-o names the file to write")?;
    let mut compiler = protox::Compiler::new(includes)?;
    compiler
        .include_imports(imports)
        .include_source_info(source_info)
        .open_files(files)?;
    fs::write(out, compiler.encode_file_descriptor_set())?;
    Ok(())
}
