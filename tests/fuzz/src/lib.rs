//! Fuzz targets: what comes from disk, network and people, decoded and used as the real processes do (RELIABILITY R34, F28).
//!
//! A target is a function of bytes that panics when something does not hold; each module here is one, and `targets/` gives
//! each to libFuzzer. `run` beside this package builds them, replays the corpus and goes on from there;
//! docs/reliability.md lists which target covers which decoder.
//!
//! That nothing panics, overflows, hangs or fills memory is a property of all of them. Most have more: what is decoded is
//! encoded to the same, a model agrees, a machine keeps its invariants.
//!
//! Checksums would keep a fuzzer outside, so targets make the ones that fit themselves, unless the input says not to.

mod input;
mod node;
mod parsers;
mod words;

pub mod files;
pub mod keys;
pub mod log;
pub mod peer;
pub mod placement;
pub mod records;
pub mod store;
pub mod texts;

use std::path::Path;

use input::Input;
// By these names the parsers know them.
use parsers::engine::error::Error;
use parsers::server::{cli, config, exit};

/// Seeds of a target: a name and an input each.
pub type Seeds = Vec<(&'static str, Vec<u8>)>;

/// The folder to which `run --seeds` wants the seeds of a target written.
const SEEDS: &str = "FUZZ_SEEDS";

/// Writes the seeds of a target and ends, if that is what it was started for.
///
/// This is a part of the fuzz target, and not a program of its own, because whatever is compiled with coverage counters must
/// be linked with libFuzzer.
///
/// # Panics
/// When they cannot be written.
pub fn sow(seeds: fn() -> Seeds) {
    let Some(folder) = std::env::var_os(SEEDS) else {
        return;
    };
    for (name, seed) in seeds() {
        std::fs::write(Path::new(&folder).join(name), seed).expect("the folder is there");
    }
    std::process::exit(0);
}
