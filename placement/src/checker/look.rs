//! What the rules find in a region: who is missing, and who is left over.

use proto::{StoreId, metapb};

use super::Checker;
use crate::regions::RegionInfo;
use crate::rules::seats;

/// Who serves what, in the words of checks.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Voters that rules ask for.
    pub wanted: u32,
    /// Of these, those that nobody serves as.
    pub missing_voters: usize,
    /// Learners that rules ask for and nobody serves as.
    pub missing_learners: usize,
    /// Voters that no rule counts on, the least useful first.
    pub spare: Vec<metapb::Peer>,
    /// The first learner that is not what a rule counts on it for: nobody does, or it is to vote.
    pub stray: Option<metapb::Peer>,
    /// Whether that one is to vote.
    pub stray_votes: bool,
    /// A voter that a rule counts on as a learner.
    pub demoted: Option<metapb::Peer>,
    /// Whether the leader is not where rules want it.
    pub led_wrong: bool,
    /// By peer, the rule that it serves.
    serves: Vec<(u64, usize)>,
}

impl Look {
    /// The rule that a peer serves, by its position among those of the region.
    pub fn rule_of(&self, peer: u64) -> Option<usize> {
        let found = self.serves.iter().find(|(id, _)| *id == peer);
        found.map(|(_, rule)| *rule)
    }
}

impl Checker<'_> {
    /// Looks at a region that is not joint.
    pub(super) fn look(&self, region: &RegionInfo) -> Look {
        let mut seats = seats(region);
        for seat in &mut seats {
            if let Some(peer) = region.peer(seat.peer) {
                seat.trouble = self.trouble(region, peer);
            }
        }
        // All else equal, those of stores with the most peers are left out, and of these the newest.
        seats.sort_by_key(|seat| (self.regions.counts(seat.store).0, seat.peer));
        let key = &region.region.start_key;
        let fit = self.places.fit(key, &seats);
        let roles: Vec<_> = self.places.roles(key).collect();
        let mut look = Look {
            wanted: self.places.layout().counts(key).0,
            led_wrong: fit.cost.leader > 0,
            ..Look::default()
        };
        for (role, missing) in roles.iter().zip(&fit.missing) {
            if role.votes() {
                look.missing_voters += *missing as usize;
            } else {
                look.missing_learners += *missing as usize;
            }
        }
        let mut stray = None;
        for (seat, serves) in seats.iter().zip(&fit.serves) {
            let Some(peer) = region.peer(seat.peer) else {
                continue;
            };
            look.serves.extend(serves.map(|rule| (peer.id, rule)));
            match serves.map(|rule| roles[rule].votes()) {
                None if seat.votes => look.spare.push(*peer),
                Some(false) if seat.votes => look.demoted = look.demoted.or(Some(*peer)),
                None | Some(true) if !seat.votes => {
                    // In the order of the descriptor, which does not change as stores fill.
                    let at = region.region.peers.iter().position(|p| p.id == peer.id);
                    if stray.is_none_or(|(known, _, _)| at < known) {
                        stray = Some((at, *peer, serves.is_some()));
                    }
                }
                None | Some(_) => {}
            }
        }
        if let Some((_, peer, votes)) = stray {
            look.stray = Some(peer);
            look.stray_votes = votes;
        }
        look.spare
            .sort_by_key(|peer| std::cmp::Reverse(self.uselessness(region, peer)));
        look
    }

    /// The learner of a region that is not what a rule counts on it for.
    pub fn stray(&self, region: &RegionInfo) -> Option<u64> {
        let learner = |peer: &metapb::Peer| peer.role() == metapb::PeerRole::Learner;
        if region.is_joint() || !region.region.peers.iter().any(learner) {
            return None;
        }
        self.look(region).stray.map(|peer| peer.id)
    }

    fn uselessness(&self, region: &RegionInfo, peer: &metapb::Peer) -> (u32, u32, u64) {
        let peers = self.regions.counts(StoreId(peer.store_id)).0;
        (self.trouble(region, peer), peers, peer.id)
    }

    /// How much it would be better not to count on a peer.
    fn trouble(&self, region: &RegionInfo, peer: &metapb::Peer) -> u32 {
        let store = StoreId(peer.store_id);
        let troubles = [
            !region.caught_up(peer.id),
            self.down(store),
            self.stores.leaving(store),
            region.is_damaged(peer.id),
            self.lost(region, peer),
            self.stores.gone(store),
        ];
        let weigh = |(level, there): (usize, &bool)| u32::from(*there) << level;
        troubles.iter().enumerate().map(weigh).sum()
    }

    /// Who should lead instead, if somebody can.
    pub(super) fn right_leader(&self, region: &RegionInfo) -> Option<metapb::Peer> {
        let fits = |peer: &&metapb::Peer| {
            region.leader.as_ref().map(|leader| leader.id) != Some(peer.id)
                && self.can_take_over(region, peer).is_ok()
                && self.places.may_lead(region, StoreId(peer.store_id))
        };
        let leaders = |peer: &&metapb::Peer| (self.led(peer), peer.id);
        region.voters().filter(fits).min_by_key(leaders).copied()
    }
}
