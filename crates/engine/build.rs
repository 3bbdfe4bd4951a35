//! Present so that cargo takes the pinned build dependencies of Cargo.toml into its feature union.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
