//! `pontoon` for tests that take the power away (feature `fault-env`). With `PONTOON_FAULT_DISK` set, whatever a process had
//! not synced is gone when it ends.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    server::cli::main()
}
