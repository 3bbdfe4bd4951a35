//! Who the members of a placement group are.
//!
//! The group is configured, not negotiated: every member has the same list, and the position in it is the member's
//! identity. So an empty directory needs nobody to begin: every member writes the same first descriptor of region 1, with
//! all members as voters, and they elect each other by Raft.

use std::path::{Path, PathBuf};

use engine::Engine;
use proto::pontoon::v1::StoreIdentity;
use proto::{RegionId, StoreId, metapb, pdpb};
use store::identity;

use super::error::Error;

/// The one region of a placement group.
pub const REGION: RegionId = RegionId(1);

/// The members, in the order of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    addresses: Vec<String>,
    me: usize,
}

impl Members {
    /// The members of a configuration, and which of them this process is.
    ///
    /// # Errors
    /// [`Error::Setting`] when the list is no group or does not name this member.
    pub fn new(addresses: &[String], me: &str) -> Result<Self, Error> {
        let addresses: Vec<String> = addresses
            .iter()
            .map(|address| bare(address).to_owned())
            .collect();
        let wrong = |reason: String| Error::Setting {
            setting: "members",
            reason,
        };
        if ![1, 3, 5].contains(&addresses.len()) {
            return Err(wrong(format!(
                "it names {} members: 1, 3 or 5 make a group",
                addresses.len()
            )));
        }
        if let Some(twice) = addresses
            .iter()
            .find(|address| addresses.iter().filter(|other| other == address).count() > 1)
        {
            return Err(wrong(format!("it names {twice} twice")));
        }
        let me = bare(me);
        let me = addresses
            .iter()
            .position(|address| address == me)
            .ok_or_else(|| {
                wrong(format!(
                    "it does not name {me}, this member's advertise_addr"
                ))
            })?;
        Ok(Self { addresses, me })
    }

    /// The identity of this member.
    pub fn me(&self) -> StoreId {
        id(self.me)
    }

    /// The address of a member.
    pub fn address(&self, member: StoreId) -> Option<&str> {
        let position = usize::try_from(member.0.checked_sub(1)?).ok()?;
        self.addresses.get(position).map(String::as_str)
    }

    /// What tells groups apart in handshakes between members (R30): a hash of the list, FNV-1a of 64 bits. Clients never
    /// see it; the cluster's own id is replicated state.
    pub fn group_id(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in self.addresses.join("\n").bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash.max(1)
    }

    /// The first descriptor of the region, the same at every member.
    pub fn first_region(&self) -> metapb::Region {
        let peer = |position| metapb::Peer {
            id: id(position).0,
            store_id: id(position).0,
            ..Default::default()
        };
        metapb::Region {
            id: REGION.0,
            region_epoch: Some(metapb::RegionEpoch {
                conf_ver: 1,
                version: 1,
            }),
            peers: (0..self.addresses.len()).map(peer).collect(),
            ..Default::default()
        }
    }

    /// A member as clients are told of it.
    pub fn describe(&self, member: StoreId) -> Option<pdpb::Member> {
        let url = format!("http://{}", self.address(member)?);
        Some(pdpb::Member {
            name: format!("placement-{member}"),
            member_id: member.0,
            peer_urls: vec![url.clone()],
            client_urls: vec![url],
            binary_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    /// All members as clients are told of them.
    pub fn describe_all(&self) -> Vec<pdpb::Member> {
        (0..self.addresses.len())
            .filter_map(|position| self.describe(id(position)))
            .collect()
    }
}

fn id(position: usize) -> StoreId {
    StoreId(position as u64 + 1)
}

/// An address without its scheme.
fn bare(address: &str) -> &str {
    address.trim_start_matches("http://").trim_end_matches('/')
}

/// Makes a directory this member's, or checks that it is, and raises its boot counter.
///
/// # Errors
/// [`Error::OtherMember`] when it belongs to another group or another member.
pub fn take_directory<E: Engine>(
    engine: &E,
    path: &Path,
    members: &Members,
    api_version: u32,
) -> Result<StoreIdentity, Error> {
    let failed = |error| store_error(path, error);
    let identity = match identity::read(engine).map_err(failed)? {
        Some(identity) => identity,
        None => identity::create(engine, members.group_id(), members.me(), api_version)
            .map_err(failed)?,
    };
    if (identity.cluster_id, identity.store_id) != (members.group_id(), members.me().0) {
        return Err(Error::OtherMember {
            path: path.to_owned(),
            member: identity.store_id,
            same_group: identity.cluster_id == members.group_id(),
        });
    }
    identity::bootstrap(engine, &[members.first_region()]).map_err(failed)?;
    identity::bump_boot(engine).map_err(failed)
}

/// Sorts what is wrong with a directory.
pub fn store_error(path: &Path, error: store::Error) -> Error {
    let path: PathBuf = path.to_owned();
    match error {
        store::Error::Format { found, supported } => Error::NewerFormat {
            path,
            found,
            supported,
        },
        source => Error::Directory { path, source },
    }
}

#[cfg(test)]
mod tests {
    use engine::MemoryEngine;

    use super::*;

    fn list(addresses: &[&str]) -> Vec<String> {
        addresses
            .iter()
            .map(|address| (*address).to_owned())
            .collect()
    }

    #[test]
    fn a_list_that_is_no_group_is_refused() {
        for (addresses, me) in [
            (&["a:1", "b:1"][..], "a:1"),
            (&["a:1", "b:1", "a:1"], "a:1"),
            (&["a:1"], "b:1"),
            (&[], "a:1"),
        ] {
            assert!(
                matches!(
                    Members::new(&list(addresses), me),
                    Err(Error::Setting { .. })
                ),
                "{addresses:?}"
            );
        }
        let members =
            Members::new(&list(&["http://a:1", "b:1", "c:1"]), "b:1").expect("a group of three");
        assert_eq!(members.me(), StoreId(2));
        assert_eq!(members.address(StoreId(1)), Some("a:1"));
        assert_eq!(members.address(StoreId(0)), None);
        assert_eq!(members.address(StoreId(4)), None);
        assert_eq!(members.describe(StoreId(3)), members.describe_all().pop());
    }

    /// F26: a directory of another group, or of another member, is refused and stays as it is.
    #[test]
    fn a_directory_belongs_to_one_member() {
        let engine = MemoryEngine::new();
        let addresses = list(&["a:1", "b:1", "c:1"]);
        let members = Members::new(&addresses, "a:1").expect("a group of three");
        let path = Path::new("dir");
        let first = take_directory(&engine, path, &members, 1).expect("an empty directory");
        let again = take_directory(&engine, path, &members, 1).expect("its own directory");
        assert_eq!((first.boot, again.boot), (1, 2));

        let other = Members::new(&addresses, "b:1").expect("a group of three");
        let error = take_directory(&engine, path, &other, 1).unwrap_err();
        assert!(
            matches!(
                error,
                Error::OtherMember {
                    member: 1,
                    same_group: true,
                    ..
                }
            ),
            "{error}"
        );
        let other = Members::new(&list(&["a:1"]), "a:1").expect("a group of one");
        let error = take_directory(&engine, path, &other, 1).unwrap_err();
        assert!(
            matches!(
                error,
                Error::OtherMember {
                    same_group: false,
                    ..
                }
            ),
            "{error}"
        );
    }
}
