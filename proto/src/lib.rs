//! Messages and service stubs of everything that crosses a wire, and the identities that all packages share.
//!
//! The definitions in `protos/` are of two kinds. The packages of the public interface (`pdpb`, `tikvpb`, `kvrpcpb` and
//! what they refer to) are a contract with clients that exist; their names, numbers and types are those of the tables in
//! `facts/`, and `tests/facts.rs` compares the two. The package [`pontoon::v1`] is our own, between stores, placement
//! members and tools.
//!
//! This crate holds no logic beyond the shape of bytes: [`memcomparable`] keys, and the checksum that ends each message between
//! stores (`checked`). Service stubs need the feature `services`; without it only messages are compiled, which
//! keeps tonic out of the crates that do no I/O.
//!
//! Shapes worth knowing: `bytes` fields are [`bytes::Bytes`], maps are ordered, and the field `region_error` of every
//! answer is boxed, because it is large and nearly always absent.

#[cfg(feature = "services")]
pub mod checked;
mod id;
pub mod memcomparable;

pub use id::{RegionId, StoreId};
pub use packages::*;

/// The encoded `FileDescriptorSet` of all packages, for the reflection service and for tests.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Metadata of an answer to a compare-and-swap whose outcome the store does not know, with any value.
///
/// The public interface has no place for this: clients repeat after a region error, which would make one swap two, and
/// take the answer's own error for certain failure. Our client reads this beside the answer (RELIABILITY R26).
pub const OUTCOME_UNKNOWN: &str = "pontoon-outcome-unknown";

#[allow(missing_docs, clippy::all, rustdoc::all)]
mod packages {
    include!(concat!(env!("OUT_DIR"), "/packages.rs"));
}
