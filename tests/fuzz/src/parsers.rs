//! Parsers of crates that link RocksDB, without it: their files are compiled once more as modules of this crate.
//!
//! They name what they use by `crate::…`, so that is here under the same names. Only files without RocksDB, threads and sockets
//! can be among them; which others decode something is listed in docs/reliability.md.

#![allow(dead_code, unused_imports, missing_docs, clippy::all)]

/// `crates/engine`: what is read before RocksDB opens its log or takes a file in.
#[path = "../../../crates/engine/src"]
pub mod engine {
    pub mod error;
    pub mod rocks {
        pub mod log_check;
        pub mod table;

        use std::fs::File;
        use std::path::Path;

        use super::error::Error;

        /// The newest number in the write-ahead log of a folder, and the bytes that were cut from it.
        pub fn check(folder: &Path) -> Result<(u64, u64), Error> {
            log_check::check(folder).map(|checked| (checked.last_number, checked.bytes_cut))
        }

        /// The mark of a logged batch.
        pub fn mark(number: u64, synced: u64) -> [u8; log_check::MARK_BYTES] {
            log_check::mark(number, synced)
        }

        /// How a checksum is stored.
        pub fn mask(checksum: u32) -> u32 {
            table::mask(checksum)
        }

        /// Count, bytes, first and last of the keys of a sorted file.
        pub fn read_keys(file: &File, length: u64) -> Result<(u64, u64, Vec<u8>, Vec<u8>), Error> {
            let keys = table::read_keys("it", file, length)?;
            Ok((keys.count, keys.content_bytes, keys.first, keys.last))
        }
    }
}

/// `crates/server`: what people write, and requests of clients on their way to the machines.
#[path = "../../../crates/server/src"]
pub mod server {
    pub mod config;
    pub mod exit;
    pub mod cli {
        pub mod key;
        pub mod rule {
            pub mod file;

            use proto::pontoon::v1::{ListRulesResponse, PlacementGroup};

            /// The version and the groups in a text, on a cluster with a default rule like every other's.
            pub fn read(
                text: &str,
                api_version: u32,
            ) -> Result<(u64, Vec<PlacementGroup>), String> {
                let file = file::File::parse(text)?;
                let known = ListRulesResponse::default();
                let read = file.to_wire(&known, api_version);
                read.map_err(|failure| failure.to_string())
            }

            /// A file of these rules.
            pub fn show(version: u64, groups: Vec<PlacementGroup>, api_version: u32) -> String {
                let rules = ListRulesResponse {
                    version,
                    groups,
                    default: None,
                    error: None,
                };
                let file = file::File::from_wire(rules, api_version);
                serde_json::to_string(&file).expect("it is plain data")
            }
        }

        pub use key::{escape, unescape};
    }
    pub mod services {
        pub mod pd {
            pub mod convert;
        }
        pub mod tikv {
            pub mod check;
            pub mod errors;
        }
    }
    pub mod store_process {
        pub mod orders;
    }
}
