//! What a received file must be to become a part of a region (R16).

use engine::StagedFile;
use proto::RegionId;
use proto::pontoon::v1::{SnapshotFile, SnapshotHead};

use crate::keys;

/// Why a received file is not taken in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileRefusal {
    /// Its size, number of keys or checksum is another.
    #[error("file {name} is not the one that was announced")]
    Different {
        /// The file.
        name: String,
    },
    /// Whoever built it packed keys of other regions.
    #[error("file {name} holds keys outside of region {region}")]
    OutsideRegion {
        /// The file.
        name: String,
        /// The region.
        region: RegionId,
    },
}

/// Compares a file, as it was found to be, with what the head of its snapshot says: of the file, and of the region that it is
/// for. To be asked before the file is ingested, since its keys are there then, whoever owns them.
///
/// # Errors
/// [`FileRefusal`].
pub fn check_file(
    head: &SnapshotHead,
    announced: &SnapshotFile,
    found: &StagedFile,
) -> Result<(), FileRefusal> {
    let name = || announced.name.clone();
    if (found.bytes, found.keys, found.crc32c)
        != (announced.bytes, announced.keys, announced.crc32c)
    {
        return Err(FileRefusal::Different { name: name() });
    }
    let region = head.region.as_ref();
    let inside = region.is_some_and(|region| {
        keys::data(&region.start_key) <= found.first && found.last < keys::data_end(&region.end_key)
    });
    if !inside {
        return Err(FileRefusal::OutsideRegion {
            name: name(),
            region: super::region_of(head),
        });
    }
    Ok(())
}
