//! Where the child of a split ahead of appends goes: it is empty, so it goes for nothing, and it will be full.
//!
//! It counts as full where it is, as does every other that is being filled. Then a voter goes elsewhere if balance would move
//! a full region from the one store to the other, so what is placed is not moved again for being full; and stores that are
//! even stay as they are.

use proto::{StoreId, metapb};

use super::{Action, Best, CANDIDATES, EVEN, View};
use crate::decision::{Decision, Who};
use crate::dial::Dial;
use crate::regions::RegionInfo;
use crate::regions::index::leader_store;
use crate::rests::Part;
use crate::score::{Burden, Dimension, REGION_BYTES, Shifts};

const WHO: Who = Who::AppendAhead;
const SIZE: Dimension = Dimension::Size;
const LEADERS: Dimension = Dimension::Leaders;

/// Where a child goes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spread {
    /// Voters that go, and where to; at least one.
    pub moves: Vec<(metapb::Peer, StoreId)>,
    /// Who leads then, if another one should than would by itself.
    pub leader: Option<StoreId>,
    /// With everything but the outcome.
    pub decision: Decision,
}

impl View<'_> {
    /// Counts a region as full where it is.
    pub fn grow(&mut self, region: &RegionInfo, full: u64) {
        let lacks = full.saturating_sub(region.bytes) as f64;
        for peer in &region.region.peers {
            if let Some(position) = self.scores.position(StoreId(peer.store_id)) {
                self.scores.add(SIZE, position, lacks);
            }
        }
    }
}

/// A store that a voter could go to.
#[derive(Clone, Copy)]
struct Target {
    position: usize,
    /// Why it takes nothing now, if so.
    closed: Option<&'static str>,
}

/// Why a region stays where it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stays {
    pub refusal: Decision,
    /// Whether that is for good: else something stands in the way for now.
    pub settled: bool,
}

/// Chooses for a region that was counted as [full](View::grow): one voter after the other, the best exchange first.
pub(crate) fn spread(
    view: &mut View,
    dial: &Dial,
    region: &RegionInfo,
    full: u64,
) -> Result<Spread, Box<Stays>> {
    let decision = |view: &View, (from, to): (Option<StoreId>, Option<StoreId>), reason| {
        let decision = Decision::refused(WHO, Some(region.id()), reason);
        view.explain(decision.between(from, to), SIZE)
            .input("region bytes", region.bytes as f64)
            .input("bytes of a full region", full as f64)
    };
    let hindered = match view.movable(region.id(), Part::Replicas) {
        Ok((_, burden)) => view.sends(region, burden.size, dial).err(),
        Err(reason) => Some(reason),
    };
    if let Some(reason) = hindered {
        return Err(Box::new(Stays {
            refusal: decision(view, (None, None), reason),
            settled: false,
        }));
    }
    let targets = targets(view, dial, region, full);
    let mut best = Best::default();
    let (mut explained, mut chosen) = (None, Vec::new());
    let (mut moves, mut fall) = (Vec::new(), 0.0);
    let mut after = region.clone();
    // Each voter goes once at the most.
    while let Some((from, to, shifts)) = exchange(view, &after, &moves, &targets, full, &mut best) {
        explained
            .get_or_insert_with(|| decision(view, (Some(StoreId(from.store_id)), Some(to)), ""));
        view.scores.apply(&shifts);
        for peer in &mut after.region.peers {
            if peer.id == from.id {
                peer.store_id = to.0;
            }
        }
        chosen.push((to, best.rank.1));
        fall -= best.rank.1;
        moves.push((from, to));
    }
    let Some(explained) = explained else {
        let (reason, at) = best.obstacle().unwrap_or((EVEN, None));
        let to = at.map(|at| view.store(at));
        let refusal = decision(view, (None, to), reason);
        return Err(Box::new(Stays {
            settled: targets.iter().all(|target| target.closed.is_none()),
            refusal: best.considered.tell(refusal, view),
        }));
    };
    let mut considered = best.considered;
    for (to, score) in chosen {
        considered.choose(to, score);
    }
    let explained = explained
        .input("peers to move", moves.len() as f64)
        .expect("fall", fall);
    Ok(Spread {
        decision: considered.tell(explained, view),
        leader: leader(view, region, &after),
        moves,
    })
}

/// The least used stores without a peer of the region: whether they may take one, and have room for it when it is full.
fn targets(view: &View, dial: &Dial, region: &RegionInfo, full: u64) -> Vec<Target> {
    let bytes = Burden::of(region).size;
    let order = view.ascending(SIZE).into_iter();
    let others = order.filter(|position| region.peer_on(view.store(*position)).is_none());
    let target = |position| Target {
        position,
        closed: view.receives_growing(position, bytes, full, dial).err(),
    };
    others.take(CANDIDATES).map(target).collect()
}

/// The best exchange of a voter that has not gone yet, with what it shifts.
fn exchange(
    view: &View,
    region: &RegionInfo,
    moves: &[(metapb::Peer, StoreId)],
    targets: &[Target],
    full: u64,
    best: &mut Best,
) -> Option<(metapb::Peer, StoreId, Shifts)> {
    let burden = Burden {
        size: full.saturating_add(REGION_BYTES),
        ..Burden::default()
    };
    let before = view.violations(region);
    for peer in region.voters() {
        let from = StoreId(peer.store_id);
        let gone = moves.iter().any(|(gone, _)| gone.id == peer.id);
        let Some(source) = view.scores.position(from).filter(|_| !gone) else {
            continue;
        };
        for target in targets {
            let to = view.store(target.position);
            if region.peer_on(to).is_some() {
                continue;
            }
            let shifts = Shifts::default().peer(&burden, source, target.position);
            let verdict = view.scores.judge(SIZE, &shifts);
            if !verdict.accepted {
                let reason = "the difference is within the hysteresis";
                best.consider(to, -verdict.fall, reason);
                continue;
            }
            match (view.after_move(region, before, from, to), target.closed) {
                (Ok(after), None) => {
                    best.consider(to, -verdict.fall, "another is better");
                    let leads = false;
                    let action = Action::Move { from, to, leads };
                    best.offer(after, verdict.fall, region.id(), action, shifts);
                }
                (Ok(_), Some(reason)) => {
                    best.consider(to, f64::INFINITY, reason);
                    best.reject_target(target.position, reason);
                }
                (Err(reason), _) => {
                    best.consider(to, f64::INFINITY, reason);
                    // What may pass is the better answer.
                    if best.obstacle.is_none() {
                        best.reject(reason);
                    }
                }
            }
        }
    }
    let (_, Action::Move { from, to, .. }, shifts) = best.found.take()? else {
        return None;
    };
    Some((*region.peer_on(from)?, to, shifts))
}

/// Who leads a region after its moves: its leader, if that stays and leads no more than others by what balance leaves alone;
/// else the voter whose store leads least.
fn leader(view: &View, region: &RegionInfo, after: &RegionInfo) -> Option<StoreId> {
    let column = view.scores.column(LEADERS);
    let leads = |peer: &metapb::Peer| {
        let store = StoreId(peer.store_id);
        let position = view.scores.position(store)?;
        let may = view.stays(position).is_ok() && view.places.may_lead(after, store);
        may.then_some((position, store))
    };
    let least = after.voters().filter_map(leads);
    let (target, to) = least.min_by(|(a, _), (b, _)| {
        let used = |at: usize| (column.used(at), view.scores.column(SIZE).used(at));
        let ((led, size), (more, other)) = (used(*a), used(*b));
        led.total_cmp(&more).then(size.total_cmp(&other))
    })?;
    let old = leader_store(region)?;
    let stays = after.voters().any(|peer| peer.store_id == old.0);
    let source = view.scores.position(old).filter(|_| stays);
    let moved = source.is_none_or(|source| {
        let shifts = Shifts::default().leader(&Burden::default(), source, target);
        view.scores.judge(LEADERS, &shifts).accepted
    });
    moved.then_some(to)
}
