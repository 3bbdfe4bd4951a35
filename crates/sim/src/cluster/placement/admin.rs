//! Administrators of a world with placement: they ask for splits, merges, moves and drains as the invented operator orders them
//! elsewhere. What happens to stores that only placement mends, and when all is at rest.

use engine::CrashMode;
use placement::{Answer, OperatorView, Refusal, Request, State};
use proto::metapb::{self, PeerRole};
use proto::{RegionId, StoreId};
use raft::PeerId;
use store::event::Event;
use store::keys;

use super::super::check::placement::check_members;
use super::super::client::{KEYS, key};
use super::super::settings::TICK;
use super::super::world::{Action, World};
use super::link::record;
use super::{Ask, BEAT, Errand, LOST_AFTER, Placed, Said, What, virtual_time};
use crate::group::settings::Fault;
use crate::peers::PeerSet;
use crate::rule::{Violation, ensure};
use crate::schedule::Time;

/// In the end nothing is begun for so long: longer than anything that placement waits for.
const QUIET: Time = 400 * TICK;
/// Time for placement to bring a healed cluster to rest.
const SETTLING: Time = 6_000 * TICK;

impl World {
    /// An administrator asks for something.
    pub(in super::super) fn administer(&mut self) -> Result<(), Violation> {
        if self.rot.is_some() && self.healing {
            self.look_through()?;
        }
        if let Some(lost) = self.lost_store() {
            self.command(Ask::Command("store removed"), Request::RemoveStore(lost));
            self.replace_later();
        }
        self.command(
            Ask::Look,
            Request::Operators {
                operator: None,
                region: None,
            },
        );
        self.command(Ask::Stores, Request::Stores);
        let floor = self.placed.as_ref().map(|placed| placed.stamps.highest());
        let count = self.draw(3) as u32 + 1;
        self.command(
            Ask::Stamps(floor.unwrap_or_default()),
            Request::Timestamps(count),
        );
        if self.healing {
            return self.unblock();
        }
        let Some((ask, request)) = self.pick_command() else {
            return Ok(());
        };
        self.command(ask, request);
        Ok(())
    }

    fn draw(&mut self, bound: u64) -> u64 {
        let placed = self.placed.as_mut().expect("a world with placement");
        placed.random.below(bound)
    }

    fn pick_command(&mut self) -> Option<(Ask, Request)> {
        let regions: Vec<metapb::Region> = self.descriptors.newest().cloned().collect();
        let place = self.draw(regions.len() as u64) as usize;
        let region = &regions[place];
        let id = RegionId(region.id);
        let here: Vec<StoreId> = region
            .peers
            .iter()
            .map(|peer| StoreId(peer.store_id))
            .collect();
        let lost = self.lost_store();
        let free = self.nodes.keys().copied();
        let free: Vec<StoreId> = free
            .filter(|store| !here.contains(store) && Some(*store) != lost)
            .collect();
        let from = here[self.draw(here.len() as u64) as usize];
        Some(match self.draw(20) {
            0..5 if regions.len() < self.settings.regions_max => {
                let key = key(1 + self.draw(KEYS - 1));
                let inside = keys::contains(&region.start_key, &region.end_key, &key);
                if !inside || key == region.start_key {
                    return None;
                }
                let request = Request::Split {
                    region: id,
                    keys: vec![key],
                };
                (Ask::Command("split asked of placement"), request)
            }
            5..9 => {
                let request = Request::Merge {
                    region: id,
                    target: None,
                };
                (Ask::Command("merge asked of placement"), request)
            }
            9..12 if !free.is_empty() => {
                let request = Request::MoveReplica {
                    region: id,
                    from,
                    to: free[self.draw(free.len() as u64) as usize],
                };
                (Ask::Command("move asked of placement"), request)
            }
            12..15 => {
                let request = Request::TransferLeader {
                    region: id,
                    to: from,
                };
                (Ask::Command("transfer asked of placement"), request)
            }
            15 => {
                let all = regions.iter().map(|region| RegionId(region.id)).collect();
                (
                    Ask::Command("scatter asked of placement"),
                    Request::Scatter(all),
                )
            }
            16 => {
                let placed = self.placed.as_ref()?;
                let running = placed.operators.iter();
                let running = running.filter(|operator| operator.state == State::Running);
                let newest = running.map(|operator| operator.id).next()?;
                (
                    Ask::Command("operator ended by command"),
                    Request::CancelOperator(newest),
                )
            }
            17..20 => return self.pick_drain(),
            _ => return None,
        })
    }

    /// A store is to be emptied, or not any more.
    fn pick_drain(&mut self) -> Option<(Ask, Request)> {
        if let Some(drained) = self.placed.as_ref()?.drained {
            let empty = self.descriptors.newest().all(|region| {
                let mut peers = region.peers.iter();
                peers.all(|peer| peer.store_id != drained.0)
            });
            let asked = (
                Ask::Command("drain taken back"),
                Request::UndrainStore(drained),
            );
            let ends = if empty { 2 } else { 10 };
            return (self.draw(ends) == 0).then_some(asked);
        }
        let stores: Vec<StoreId> = self.nodes.keys().copied().collect();
        let lost = self.lost_store();
        let store = stores[self.draw(stores.len() as u64) as usize];
        (Some(store) != lost).then_some((Ask::Command("drain begun"), Request::DrainStore(store)))
    }

    /// What an administrator hears.
    pub(super) fn learn_answer(&mut self, said: Said) -> Result<(), Violation> {
        let Said { member, what, .. } = said;
        let What::Answer(_, ask, answer) = what else {
            return Ok(());
        };
        let now = self.schedule.now();
        self.trace.note(now, [52, member.0, self.events, 0], || {
            format!("administrator: {ask:?}: {answer:?}")
        });
        let placed = self.placed.as_mut().expect("a world with placement");
        if matches!(answer, Err(Refusal::NotLeader)) {
            if placed.leader == member {
                placed.leader = placed.group.after(member);
            }
            return Ok(());
        }
        match (ask, answer) {
            (Ask::Look, Ok(Answer::Operators(operators))) => placed.look(operators, now),
            (
                Ask::Stamps(floor),
                Ok(Answer::Timestamp {
                    physical_ms,
                    logical,
                    count,
                }),
            ) => {
                placed.stamps.learn((physical_ms, logical), count, floor)?;
                self.count("timestamps of placement");
                Ok(())
            }
            // What was asked for may have been done though the answer was lost.
            (Ask::Stores, Ok(Answer::Stores(stores))) => {
                let drained = stores.iter().find(|info| info.drain.is_some());
                placed.drained = drained.map(|info| StoreId(info.store.id));
                Ok(())
            }
            (Ask::Command(what), Ok(_)) => {
                self.count(what);
                Ok(())
            }
            (_, Err(_)) => {
                self.count("command refused");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn lost_store(&self) -> Option<StoreId> {
        self.nodes
            .keys()
            .copied()
            .find(|store| self.is_lost(*store))
    }

    /// A lost store gets another disk, some time later: what is empty joins under a new id (R30).
    fn replace_later(&mut self) {
        let placed = self.placed.as_mut().expect("a world with placement");
        if !std::mem::replace(&mut placed.replaced, true) {
            self.schedule
                .after(100 * TICK, Action::Placement(Errand::Replace));
        }
    }

    pub(super) fn replace_lost(&mut self) -> Result<(), Violation> {
        let last = self.nodes.keys().last().map_or(0, |id| id.0);
        self.count("store replaced");
        self.add_store(StoreId(last + 1), &[])
    }

    /// What only placement mends begins at a store that is up: it is cut off from placement, stops as it is told to, or stays away
    /// for so long that it is replaced.
    pub(in super::super) fn begin_placement_trouble(
        &mut self,
        id: StoreId,
        duration: Time,
    ) -> Result<(), Violation> {
        let now = self.schedule.now();
        match self.draw(4) {
            0..2 => {
                let all: PeerSet = self.nodes.keys().map(|id| PeerId(id.0)).collect();
                let placed = self.placed.as_mut().expect("a world with placement");
                placed.mute.0 |= placed.random.next() & all.0;
                placed.deaf.0 |= placed.random.next() & all.0;
                self.count("placement cut off");
                let mend = Action::Placement(Errand::Mend);
                self.schedule.after(duration, mend);
                Ok(())
            }
            2 => {
                let placed = self.placed.as_mut().expect("a world with placement");
                let link = placed.links.get_mut(&id).expect("begun with the process");
                link.stopping = true;
                self.count("store told to stop");
                let incarnation = self.nodes[&id].incarnation;
                let stop = Action::Placement(Errand::Stop(id, incarnation));
                self.schedule.after(duration + BEAT, stop);
                self.step(id, Event::Drain)
            }
            _ => {
                let placed = self.placed.as_mut().expect("a world with placement");
                if placed.away.is_some_and(|(_, until)| now < until) || self.loss.is_some() {
                    return Ok(());
                }
                if self.settings.faults.has(Fault::LostStore) && self.settings.replicas >= 3 {
                    self.lose(id, 0);
                    return Ok(());
                }
                let placed = self.placed.as_mut().expect("a world with placement");
                let lost = virtual_time(LOST_AFTER);
                let away = placed.random.between(lost, 3 * lost);
                placed.away = Some((id, now + away));
                self.count("store away for long");
                self.stop_in(id, CrashMode::Kill);
                self.schedule.after(away, Action::Restart(id));
                Ok(())
            }
        }
    }

    /// Faults end: those that placement had, too.
    pub(in super::super) fn heal_placement(&mut self) -> Result<(), Violation> {
        let now = self.schedule.now();
        let Some(placed) = &mut self.placed else {
            return Ok(());
        };
        (placed.mute, placed.deaf, placed.away) = Default::default();
        placed.quiet_since = now;
        placed.group.heal()
    }

    /// A drain that leaves too few stores is taken back.
    fn unblock(&mut self) -> Result<(), Violation> {
        let lost = self.lost_store();
        let placed = self.placed.as_ref().expect("a world with placement");
        let Some(drained) = placed.drained else {
            return Ok(());
        };
        let left = self
            .nodes
            .keys()
            .filter(|store| Some(**store) != lost && **store != drained);
        if (left.count() as u64) < self.settings.replicas {
            self.command(
                Ask::Command("drain taken back"),
                Request::UndrainStore(drained),
            );
        }
        Ok(())
    }

    /// How much longer than elsewhere a healed world may take.
    pub(in super::super) fn settling_limit(&self) -> Time {
        let lost = if self.loss.is_some() { 2 } else { 1 };
        if self.placed.is_some() {
            lost * SETTLING
        } else {
            0
        }
    }

    /// Whether every region is as placement wants it, and nothing is begun any more (R37).
    pub(in super::super) fn placement_rests(&self) -> Result<(), String> {
        let Some(placed) = &self.placed else {
            return Ok(());
        };
        let lost = self.lost_store();
        let left = self.nodes.keys().filter(|store| Some(**store) != lost);
        let wanted = self.settings.replicas.min(left.count() as u64) as usize;
        for region in self.descriptors.newest() {
            let voters = region
                .peers
                .iter()
                .filter(|peer| peer.role() == PeerRole::Voter);
            let voters = voters.count();
            if voters != wanted || region.peers.len() != wanted {
                return Err(format!("{wanted} voters are wanted of {region:?}"));
            }
            let goes = |store: u64| [lost, placed.drained].contains(&Some(StoreId(store)));
            if let Some(peer) = region.peers.iter().find(|peer| goes(peer.store_id)) {
                return Err(format!(
                    "region {}: peer {} is on a store that is drained or lost",
                    region.id, peer.id
                ));
            }
        }
        let running = placed
            .operators
            .iter()
            .find(|operator| operator.state == State::Running);
        if let Some(operator) = running {
            return Err(format!("{operator:?} is under way"));
        }
        let quiet = self.schedule.now() - placed.quiet_since;
        if quiet < QUIET {
            return Err(format!(
                "placement rests since {} ms only, {:?}",
                quiet / 1000,
                placed.operators.first()
            ));
        }
        Ok(())
    }

    /// What is counted of a world that came to rest.
    pub(in super::super) fn count_rest(&mut self) -> Result<(), Violation> {
        let Some(placed) = &mut self.placed else {
            return Ok(());
        };
        placed.group.check()?;
        if placed.drained.is_some() {
            self.count("store drained");
        }
        Ok(())
    }
}

impl World {
    /// Placement knows the cluster as it begins. The real first store begins alone; here its region has all its peers already, as
    /// the first report tells.
    pub(in super::super) fn found_placement(
        &mut self,
        region: &metapb::Region,
    ) -> Result<(), Violation> {
        let Some(placed) = &mut self.placed else {
            return Ok(());
        };
        let alone = metapb::Region {
            peers: region.peers[..1].to_vec(),
            ..region.clone()
        };
        let first = StoreId(region.peers[0].store_id);
        placed.group.found(record(first, 0), alone)
    }

    /// R22: a descriptor that is about to be known is one that placement would make.
    pub(in super::super) fn check_members(&self, after: &metapb::Region) -> Result<(), Violation> {
        // What cannot be read may have to go before there is a place for another.
        if self.placed.is_none() || self.rot.is_some() {
            return Ok(());
        }
        let before = self.descriptors.newest().find(|known| known.id == after.id);
        let epoch = |region: &metapb::Region| {
            let epoch = region.region_epoch.unwrap_or_default();
            (epoch.version, epoch.conf_ver)
        };
        match before {
            Some(before) if epoch(before) < epoch(after) => {
                check_members(before, after, self.settings.replicas as usize)
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Placed {
    /// Operators as a member tells them.
    fn look(&mut self, operators: Vec<OperatorView>, now: Time) -> Result<(), Violation> {
        let running = operators
            .iter()
            .filter(|operator| operator.state == State::Running);
        let held = running.flat_map(|operator| [Some(operator.region), operator.target]);
        let mut held: Vec<RegionId> = held.flatten().collect();
        held.sort_unstable();
        ensure!(
            Moves,
            held.windows(2).all(|pair| pair[0] != pair[1]),
            "a region has two operators: {operators:?}"
        );
        let newest = |operators: &[OperatorView]| operators.first().map(|operator| operator.id);
        if !held.is_empty() || newest(&operators) != newest(&self.operators) {
            self.quiet_since = now;
        }
        self.operators = operators;
        Ok(())
    }
}
