//! What placement promises: R31 ids, R28 timestamps, R22 moves.

use std::collections::{BTreeMap, BTreeSet};

use proto::metapb::{self, PeerRole};
use proto::{RegionId, StoreId};

use crate::rule::{Violation, ensure};

/// Identities that placement handed out, to whomever.
#[derive(Debug)]
pub struct Ids {
    /// Up to here the cluster began with them.
    first: u64,
    given: BTreeSet<u64>,
    /// Peers that placement itself made, each with its place.
    peers: BTreeMap<u64, (RegionId, StoreId)>,
}

impl Ids {
    /// Of a cluster that begins with so many.
    pub fn new(first: u64) -> Ids {
        Ids {
            first,
            given: BTreeSet::new(),
            peers: BTreeMap::new(),
        }
    }

    /// Some are handed out.
    ///
    /// # Errors
    /// R31: one was before.
    pub fn give(&mut self, last: u64, count: u64) -> Result<(), Violation> {
        for id in last - count + 1..=last {
            let is_new = self.given.insert(id) && !self.peers.contains_key(&id);
            ensure!(Ids, is_new, "identity {id} is handed out twice");
        }
        Ok(())
    }

    /// A peer is to be added.
    ///
    /// # Errors
    /// R31: its identity is another's.
    pub fn place(&mut self, peer: &metapb::Peer, region: RegionId) -> Result<(), Violation> {
        let place = (region, StoreId(peer.store_id));
        let known = *self.peers.entry(peer.id).or_insert(place);
        ensure!(
            Ids,
            known == place,
            "peer {} is to be at {place:?} and at {known:?} (region, store)",
            peer.id
        );
        ensure!(
            Ids,
            peer.id > self.first && !self.given.contains(&peer.id),
            "peer {} is to be added, whose identity is handed out",
            peer.id
        );
        Ok(())
    }
}

/// A timestamp.
pub type Stamp = (u64, u32);

/// Timestamps that clients have.
#[derive(Debug, Default)]
pub struct Stamps {
    highest: Stamp,
}

impl Stamps {
    /// What is known when one is asked for.
    pub fn highest(&self) -> Stamp {
        self.highest
    }

    /// Some arrived, of which `last` is the last, which were asked for when `floor` was known.
    ///
    /// # Errors
    /// R28.
    pub fn learn(&mut self, last: Stamp, count: u32, floor: Stamp) -> Result<(), Violation> {
        let first = (last.0, last.1.saturating_sub(count - 1));
        ensure!(
            Timestamps,
            first > floor,
            "timestamps {first:?} to {last:?} were asked for when {floor:?} was known"
        );
        self.highest = self.highest.max(last);
        Ok(())
    }
}

/// Whether a change of members is one that placement makes.
///
/// # Errors
/// R22: a voter leaves before its successor votes.
pub fn check_members(
    before: &metapb::Region,
    after: &metapb::Region,
    wanted: usize,
) -> Result<(), Violation> {
    let count = |region: &metapb::Region, roles: &[PeerRole]| {
        let peers = region.peers.iter();
        peers.filter(|peer| roles.contains(&peer.role())).count()
    };
    let had = count(before, &[PeerRole::Voter, PeerRole::DemotingVoter]);
    let has = count(after, &[PeerRole::Voter, PeerRole::IncomingVoter]);
    ensure!(
        Moves,
        has >= had.min(wanted),
        "{had} voters of region {} become {has}, {wanted} are wanted: {before:?} becomes {after:?}",
        after.id
    );
    Ok(())
}
