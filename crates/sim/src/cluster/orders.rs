//! Orders that come late: R18 at proposal, and what binds an operator to an epoch (R22).

use std::collections::{BTreeMap, VecDeque};

use proto::{RegionId, StoreId, metapb};
use raft::Role;
use store::event::{Event, Order, OrderAnswer, OrderKind};

use super::world::World;
use crate::rule::{Violation, ensure};

/// Orders that were given.
#[derive(Debug, Default)]
pub struct Orders {
    /// Those that a store has not answered, oldest first.
    asked: BTreeMap<StoreId, VecDeque<(RegionId, metapb::RegionEpoch)>>,
    /// The newest split of each region, until it was given again.
    splits: BTreeMap<RegionId, Order>,
}

impl Orders {
    /// A store gets an order.
    pub fn ask(&mut self, store: StoreId, order: &Order) {
        let asked = self.asked.entry(store).or_default();
        asked.push_back((order.region, order.epoch));
        if matches!(order.kind, OrderKind::Split(_)) {
            self.splits.insert(order.region, order.clone());
        }
    }

    /// A store stops; what it has not answered it never will.
    pub fn forget(&mut self, store: StoreId) {
        self.asked.remove(&store);
    }

    /// A store answers the oldest order that it has not answered.
    ///
    /// # Errors
    /// R18: it took one that is not for the epoch of its peer.
    pub fn check(&mut self, store: StoreId, answer: &OrderAnswer) -> Result<(), Violation> {
        let asked = self.asked.entry(store).or_default().pop_front();
        ensure!(
            Epoch,
            asked.is_some_and(|(region, _)| region == answer.region),
            "store {store} answers {answer:?}, the oldest order is {asked:?}"
        );
        let epoch = asked.map(|(_, epoch)| epoch);
        ensure!(
            Epoch,
            answer.result.is_err() || answer.epoch == epoch,
            "store {store} takes an order for region {} at {epoch:?}, which is at {:?} there",
            answer.region,
            answer.epoch
        );
        Ok(())
    }
}

impl World {
    /// Gives a split again whose region has changed since, as a network would that held the order back. A store that refuses
    /// it does nothing else, so worlds are what they are without.
    pub(super) fn order_late(&mut self) -> Result<(), Violation> {
        let rested = self
            .nodes
            .iter()
            .filter(|(_, node)| node.store.is_some() && !node.dirty)
            .filter(|(_, node)| node.paused_until <= self.schedule.now());
        let led = rested.flat_map(|(store, node)| node.views.values().map(|view| (*store, view)));
        let late = led
            .filter(|(_, view)| view.role == Role::Leader && view.owns_range)
            .find_map(|(store, view)| {
                let order = self.orders.splits.get(&RegionId(view.region.id))?;
                (view.region.region_epoch != Some(order.epoch)).then(|| (store, order.clone()))
            });
        let Some((store, order)) = late else {
            return Ok(());
        };
        self.count("order late");
        let region = order.region;
        self.step_at_once(store, Event::Order(order))?;
        self.orders.splits.remove(&region);
        Ok(())
    }
}
