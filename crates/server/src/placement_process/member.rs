//! Who the members of a placement group are.
//!
//! Every member has the same list of addresses, and a position in it. Its id is more than the position: an emptied directory
//! is somebody else (RELIABILITY R7, R30), so an id holds a *birth* besides, drawn when the directory is made. The position
//! is in the low bits, and by it an id tells its address: one process listens there, whoever it is.

use proto::{RegionId, StoreId, metapb, pdpb};

use super::error::Error;

/// The one region of a placement group.
pub const REGION: RegionId = RegionId(1);

/// Low bits of an id that hold the position, counted from 1.
const POSITION_BITS: u32 = 3;
/// Random bits above them: ids stay below 2^53, which every reader of JSON can hold.
const BIRTH_BITS: u32 = 50;

/// The members' addresses, in the order of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    addresses: Vec<String>,
    position: usize,
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
        let position = addresses
            .iter()
            .position(|address| address == me)
            .ok_or_else(|| {
                wrong(format!(
                    "it does not name {me}, this member's advertise_addr"
                ))
            })?;
        Ok(Self {
            addresses,
            position,
        })
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.addresses.len()
    }

    /// Which of them this process is.
    pub fn position(&self) -> usize {
        self.position
    }

    /// The id of an empty directory of this member; `birth` is random, and what does not fit of it is left out.
    pub fn born(&self, birth: u64) -> StoreId {
        let birth = birth & ((1 << BIRTH_BITS) - 1);
        StoreId(birth << POSITION_BITS | (self.position as u64 + 1))
    }

    /// The position of a member of this group; `None` for an id that none can have.
    pub fn position_of(&self, member: StoreId) -> Option<usize> {
        let position = position(member)?;
        (position < self.size() && member.0 >> POSITION_BITS < 1 << BIRTH_BITS).then_some(position)
    }

    /// The address of a member.
    pub fn address(&self, member: StoreId) -> Option<&str> {
        self.addresses
            .get(self.position_of(member)?)
            .map(String::as_str)
    }

    /// The positions of the others, with their addresses.
    pub fn others(&self) -> impl Iterator<Item = (usize, &str)> {
        let addresses = self.addresses.iter().map(String::as_str).enumerate();
        addresses.filter(|(position, _)| *position != self.position)
    }

    /// What tells groups apart by their lists: a hash, FNV-1a of 64 bits. Clients never see it; the cluster's own id is
    /// replicated state.
    pub fn group_id(&self) -> u64 {
        hash(self.addresses.join("\n").as_bytes())
    }

    /// What tells groups apart in handshakes between members (R30): the list, and with whom the group began. Members of two
    /// attempts to form a group never talk, even if a directory of the one comes back from a shelf.
    pub fn handshake_id(&self, first: &[StoreId]) -> u64 {
        if *first == self.oldest() {
            // Before ids had births, positions told all.
            return self.group_id();
        }
        let mut text = self.addresses.join("\n");
        for member in first {
            text.push('\n');
            text.push_str(&member.to_string());
        }
        hash(text.as_bytes())
    }

    /// With whom a group began whose directories note nothing: the ids without a birth.
    pub fn oldest(&self) -> Vec<StoreId> {
        (1..=self.size() as u64).map(StoreId).collect()
    }

    /// Whether these are members of this group, one for each position, in their order.
    pub fn is_whole(&self, members: &[StoreId]) -> bool {
        let positions = members.iter().map(|member| self.position_of(*member));
        positions.eq((0..self.size()).map(Some))
    }

    /// A member as clients are told of it.
    pub fn describe(&self, member: StoreId) -> Option<pdpb::Member> {
        let url = format!("http://{}", self.address(member)?);
        Some(pdpb::Member {
            name: name(self.position_of(member)?),
            member_id: member.0,
            peer_urls: vec![url.clone()],
            client_urls: vec![url],
            binary_version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }
}

/// The descriptor with which a group of these members begins, the same at every one of them.
pub fn first_region(first: &[StoreId]) -> metapb::Region {
    let peers = first.iter().map(|member| metapb::Peer {
        id: member.0,
        store_id: member.0,
        ..Default::default()
    });
    metapb::Region {
        id: REGION.0,
        region_epoch: Some(metapb::RegionEpoch {
            conf_ver: 1,
            version: 1,
        }),
        peers: peers.collect(),
        ..Default::default()
    }
}

/// The position that an id names, in a group of whatever size.
pub fn position(member: StoreId) -> Option<usize> {
    let low = member.0 & ((1 << POSITION_BITS) - 1);
    usize::try_from(low.checked_sub(1)?).ok()
}

/// What people call the member at a position, whoever it is.
pub fn name(position: usize) -> String {
    format!("placement-{}", position + 1)
}

/// An address without its scheme.
fn bare(address: &str) -> &str {
    address.trim_start_matches("http://").trim_end_matches('/')
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash.max(1)
}

#[cfg(test)]
mod tests {
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
    }

    #[test]
    fn an_id_tells_its_position_and_its_birth() {
        let members =
            Members::new(&list(&["http://a:1", "b:1", "c:1"]), "b:1").expect("a group of three");
        assert_eq!(members.position(), 1);
        let (first, second) = (members.born(1), members.born(u64::MAX));
        assert_eq!((first, members.born(0)), (StoreId(10), StoreId(2)));
        assert!(second.0 < 1 << 53, "{second}");
        for id in [first, second, StoreId(2)] {
            assert_eq!(members.address(id), Some("b:1"));
        }
        for none in [0, 4, 8, 12, 1 << 53 | 1] {
            assert_eq!(members.address(StoreId(none)), None, "{none}");
        }
        let described = members.describe(first).expect("a member");
        assert_eq!(
            (described.name.as_str(), described.member_id),
            ("placement-2", 10)
        );
        let others: Vec<_> = members.others().collect();
        assert_eq!(others, [(0, "a:1"), (2, "c:1")]);
    }

    /// R30: who began with others is of another group, and directories from before births are of the one they were of.
    #[test]
    fn groups_are_told_apart_by_list_and_beginning() {
        let members = Members::new(&list(&["a:1", "b:1", "c:1"]), "a:1").expect("a group of three");
        let ids = |ids: [u64; 3]| ids.map(StoreId);
        assert!(members.is_whole(&ids([1, 10, 3])));
        for wrong in [[1, 3, 2], [1, 2, 2], [1, 2, 4], [0, 2, 3]] {
            assert!(!members.is_whole(&ids(wrong)), "{wrong:?}");
        }
        assert!(!members.is_whole(&ids([1, 2, 3])[..2]));
        let oldest = members.handshake_id(&members.oldest());
        assert_eq!(oldest, members.group_id());
        let one = members.handshake_id(&ids([1, 10, 3]));
        let other = members.handshake_id(&ids([1, 18, 3]));
        assert!(one != other && one != oldest && other != oldest);
        let elsewhere = Members::new(&list(&["a:1", "b:1", "d:1"]), "a:1").expect("a group");
        assert_ne!(elsewhere.group_id(), members.group_id());
        assert_ne!(elsewhere.handshake_id(&ids([1, 10, 3])), one);
    }
}
