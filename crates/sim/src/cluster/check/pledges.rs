//! LIVENESS L3, P2: what a leader has recorded stands, and who has a pledged quorum has no rival.

use std::collections::{BTreeMap, BTreeSet};

use proto::{RegionId, StoreId};
use raft::{MemberKind, Membership, PeerId, Pledge, Raft, Role, SupportId, Term};

use crate::cluster::node::Node;
use crate::rule::{Violation, ensure};

/// The highest term in which a region was led, as far as it was published.
#[derive(Default)]
pub struct Pledges {
    led: BTreeMap<RegionId, Term>,
}

/// What a look has found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Pledges that stand and are recorded.
    pub recorded: u64,
    /// Leaders whose quorum is pledged.
    pub quorums: u64,
    /// Leaders that a later one has followed, and that do not know it.
    pub deposed: u64,
}

impl Pledges {
    /// A peer leads.
    pub fn lead(&mut self, region: RegionId, term: Term) {
        let led = self.led.entry(region).or_default();
        *led = term.max(*led);
    }

    /// Looks at all leaders of the moment.
    ///
    /// # Errors
    /// [`crate::rule::Rule::Pledge`].
    pub fn check(&self, nodes: &BTreeMap<StoreId, Node>) -> Result<Seen, Violation> {
        let mut seen = Seen::default();
        for (id, node) in nodes {
            let leads = node.views.values().filter(|view| view.role == Role::Leader);
            for view in leads {
                let region = RegionId(view.region.id);
                let raft = node.store.as_ref().and_then(|store| store.raft(region));
                let Some(raft) = raft.filter(|raft| raft.term() == view.term) else {
                    continue;
                };
                if raft.role() == Role::Leader {
                    self.check_leader(*id, region, raft, nodes, &mut seen)?;
                }
            }
        }
        Ok(seen)
    }

    fn check_leader(
        &self,
        id: StoreId,
        region: RegionId,
        raft: &Raft,
        nodes: &BTreeMap<StoreId, Node>,
        seen: &mut Seen,
    ) -> Result<(), Violation> {
        let term = raft.term();
        let led = self.led.get(&region).copied().unwrap_or(term);
        seen.deposed += u64::from(led > term);
        let mut standing = BTreeSet::from([raft.id()]);
        for (peer, status) in raft.member_statuses() {
            let Some(support) = status.record else {
                continue;
            };
            // Where it is, and whether its store still gives the id.
            let theirs = nodes.iter().find(|(_, node)| {
                let view = node.views.get(&region);
                view.is_some_and(|view| view.peer == peer) && gives(node, id) == Some(support)
            });
            let Some((store, node)) = theirs else {
                continue;
            };
            standing.insert(peer);
            seen.recorded += 1;
            let theirs = node.store.as_ref().and_then(|store| store.raft(region));
            let Some(theirs) = theirs.filter(|raft| raft.id() == peer) else {
                continue;
            };
            let pledge = Pledge {
                term,
                leader: raft.id(),
                support,
            };
            ensure!(
                Pledge,
                theirs.pledge() == Some(pledge) || led > term,
                "region {region}: store {id} has recorded {pledge:?} of peer {peer} on store {store}, which gives that id and holds {:?} \
                 in term {}",
                theirs.pledge(),
                theirs.term()
            );
        }
        if has_quorum(raft.membership(), &standing) {
            seen.quorums += 1;
            ensure!(
                Pledge,
                led <= term,
                "region {region}: store {id} leads term {term} with {standing:?} pledged, and term {led} was led"
            );
        }
        Ok(())
    }
}

/// The id that a store gives another now.
fn gives(node: &Node, to: StoreId) -> Option<SupportId> {
    let mut standings = node.live.as_ref()?.standings();
    standings.find(|standing| standing.store == to)?.gives
}

/// Whether these are more than half of each half of a configuration.
fn has_quorum(membership: &Membership, peers: &BTreeSet<PeerId>) -> bool {
    let half = |other: MemberKind| {
        let voters = membership.members.iter();
        let voters = voters.filter(|(_, kind)| **kind == MemberKind::Voter || **kind == other);
        let voters: Vec<_> = voters.map(|(peer, _)| peer).collect();
        let count = voters.iter().filter(|peer| peers.contains(peer)).count();
        2 * count > voters.len()
    };
    half(MemberKind::IncomingVoter) && half(MemberKind::DemotingVoter)
}
