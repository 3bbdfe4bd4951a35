//! Compiles the part of the fault disk that RocksDB calls (feature `fault-env`). Also present so that cargo takes the pinned build
//! dependencies of Cargo.toml into its feature union.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "fault-env")]
    fault_disk();
}

/// With the headers of the RocksDB that is linked, and the definitions it was compiled with as far as these headers look at
/// them: classes must be laid out alike.
#[cfg(feature = "fault-env")]
fn fault_disk() {
    use std::env;
    use std::path::Path;

    const SOURCE: &str = "src/rocks/disk/shim.cc";
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=ROCKSDB_CXX_STD");
    let system = env::var("CARGO_CFG_TARGET_OS").expect("cargo sets it");
    assert_eq!(system, "linux", "the feature fault-env is for Linux");
    let rocksdb = env::var("DEP_ROCKSDB_CARGO_MANIFEST_DIR").expect("librocksdb-sys tells it");
    let rocksdb = Path::new(&rocksdb).join("rocksdb");
    let standard = env::var("ROCKSDB_CXX_STD").unwrap_or_else(|_| "-std=c++20".to_owned());
    let mut build = cc::Build::new();
    for name in [
        "OS_LINUX",
        "ROCKSDB_PLATFORM_POSIX",
        "ROCKSDB_LIB_IO_POSIX",
        "ROCKSDB_SCHED_GETCPU_PRESENT",
        "ROCKSDB_AUXV_GETAUXVAL_PRESENT",
        "ROCKSDB_FALLOCATE_PRESENT",
        "ROCKSDB_RANGESYNC_PRESENT",
        "HAVE_ALIGNED_NEW",
        "HAVE_UINT128_EXTENSION",
    ] {
        build.define(name, None);
    }
    build
        .cpp(true)
        .flag(standard)
        .flag("-include")
        .flag("cstdint")
        .define("NDEBUG", "1")
        .include(rocksdb.join("include"))
        .include(&rocksdb)
        .warnings(false)
        .file(SOURCE)
        .compile("pontoon_fault_disk");
}
