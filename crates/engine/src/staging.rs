//! What the staging areas of both engines share.

use crate::Error;

/// Longest name of a staged file, in bytes. File systems allow 255; the rest is for suffixes of our own.
const NAME_BYTES_MAX: usize = 200;

/// Refuses names that are not plain file names. Names come from other stores, so they are outside bytes (R34): a slash
/// or a leading dot would reach beyond the staging area.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty()
        || name.len() > NAME_BYTES_MAX
        || name.starts_with('.')
        || !name.bytes().all(plain)
    {
        return Err(Error::StagingName {
            name: name.chars().take(64).collect(),
        });
    }
    Ok(())
}

/// A staged file that should not be there.
pub(crate) fn exists(name: &str) -> Error {
    Error::Staging {
        name: name.to_owned(),
        exists: true,
    }
}

/// A staged file that should be there.
pub(crate) fn missing(name: &str) -> Error {
    Error::Staging {
        name: name.to_owned(),
        exists: false,
    }
}
