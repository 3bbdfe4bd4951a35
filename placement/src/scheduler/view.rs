//! The stores that may take part in balance, with everything under way counted as done.

use std::collections::{BTreeMap, BTreeSet};

use proto::StoreId;

use super::{Member, Relief, View};
use crate::event::Now;
use crate::operator::{Operator, Step};
use crate::operators::Operators;
use crate::regions::index::{Sums, leader_store};
use crate::regions::{RegionInfo, Regions};
use crate::rests::Rests;
use crate::rules::Places;
use crate::score::{Burden, Column, Dimension, Load, Scores, Shape};
use crate::settings::Settings;
use crate::stores::Stores;

/// Space of a store of which nothing is known, so that stores that tell none are alike.
const CAPACITY_BYTES: f64 = (1u64 << 40) as f64;

impl<'a> View<'a> {
    /// Looks at the cluster.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        regions: &'a Regions,
        stores: &'a Stores,
        operators: &'a Operators,
        rests: &'a Rests,
        relief: Relief,
        places: &'a Places,
        settings: &'a Settings,
        now: Now,
    ) -> Self {
        let up: Vec<_> = stores
            .ids()
            .filter(|store| stores.takes_peers(*store, now, settings.store_down_after))
            .collect();
        let absent = stores.ids().filter(|store| !stores.is_tombstone(*store));
        let absent = absent.filter(|store| up.binary_search(store).is_err());
        let absent = absent.map(|store| match stores.leaving(store) {
            true => (store, "it is leaving"),
            false => (store, "it is not up"),
        });
        let sums: Vec<_> = up
            .iter()
            .map(|store| {
                regions
                    .of_store(*store)
                    .map(|index| index.sums)
                    .unwrap_or_default()
            })
            .collect();
        let members = up.iter().map(|store| Member {
            available: stores.available_bytes(*store),
            busy: operators.busy(*store),
            ..Member::default()
        });
        let peers: u64 = sums.iter().map(|sums| u64::from(sums.peers)).sum();
        let size: u64 = sums.iter().map(|sums| sums.size).sum();
        let average_region = size.checked_div(peers).unwrap_or(0);
        let mut view = Self {
            members: members.collect(),
            absent: absent.collect(),
            scores: scores(&up, stores, &sums, average_region, settings),
            average_region,
            regions,
            stores,
            operators,
            rests,
            places,
            settings,
            now,
            taken: BTreeSet::new(),
            relief,
        };
        for operator in operators.under_way() {
            view.expect(operator);
        }
        view.relieve();
        view
    }

    /// Finds who is to be relieved of load.
    fn relieve(&mut self) {
        let before = std::mem::take(&mut self.relief);
        for dimension in super::hot::DIMENSIONS {
            let column = self.scores.column(dimension);
            for (position, store) in self.scores.stores().iter().enumerate() {
                let above = column.used(position) - column.mean;
                let limit = if before.contains(&(*store, dimension)) {
                    column.hysteresis
                } else {
                    2.0 * column.hysteresis
                };
                if above > limit {
                    self.relief.insert((*store, dimension));
                }
            }
        }
    }

    /// Counts what an operator has still to do as done.
    fn expect(&mut self, operator: &Operator) {
        let Some(region) = self.regions.get(operator.region) else {
            return;
        };
        let burden = Burden::of(region);
        let first = leader_store(region);
        let mut leader = first;
        for (at, step) in operator.steps.iter().enumerate() {
            match step {
                Step::AddLearner(peer) => {
                    let store = StoreId(peer.store_id);
                    if region.peer(peer.id).is_none() {
                        self.add(store, &burden, 1.0, &OF_PEERS);
                    }
                    if !region.caught_up(peer.id) {
                        self.under_way(region, store, burden.size);
                    }
                }
                Step::RemoveLearner(peer) if region.peer(peer.id).is_some() => {
                    self.add(StoreId(peer.store_id), &burden, -1.0, &OF_PEERS);
                }
                Step::TransferLeader(peer) if at >= operator.step => {
                    leader = Some(StoreId(peer.store_id));
                }
                Step::RemoveLearner(_)
                | Step::TransferLeader(_)
                | Step::CatchUp(_)
                | Step::Swap { .. }
                | Step::Split(_)
                | Step::Merge(_) => {}
            }
        }
        if leader != first {
            for (store, sign) in [(first, -1.0), (leader, 1.0)] {
                if let Some(store) = store {
                    self.add(store, &burden, sign, &OF_LEADERS);
                }
            }
        }
    }

    fn add(&mut self, store: StoreId, burden: &Burden, sign: f64, dimensions: &[Dimension]) {
        if let Some(position) = self.scores.position(store) {
            for dimension in dimensions {
                let amount = sign * burden.amount(*dimension);
                self.scores.add(*dimension, position, amount);
            }
        }
    }

    fn under_way(&mut self, region: &RegionInfo, to: StoreId, bytes: u64) {
        if let Some(position) = self.scores.position(to) {
            self.members[position].receives += bytes;
        }
        if let Some(position) = self.leader(region) {
            self.members[position].sends += bytes;
        }
    }
}

const OF_PEERS: [Dimension; 3] = [
    Dimension::Size,
    Dimension::WrittenBytes,
    Dimension::WrittenKeys,
];
const OF_LEADERS: [Dimension; 3] = [Dimension::Leaders, Dimension::Proposals, Dimension::Reads];

fn scores(
    up: &[StoreId],
    stores: &Stores,
    sums: &[Sums],
    average_region: u64,
    settings: &Settings,
) -> Scores {
    let balance = &settings.balance;
    let capacities = capacities(up, stores);
    let column = |dimension: Dimension| {
        let amount = |sums: &Sums| match dimension {
            Dimension::Size => sums.size as f64,
            Dimension::Leaders => f64::from(sums.leaders),
            Dimension::WrittenBytes => sums.written_bytes as f64,
            Dimension::WrittenKeys => sums.written_keys as f64,
            Dimension::Proposals => sums.proposals as f64,
            Dimension::Reads => sums.reads as f64,
        };
        let loads = sums.iter().enumerate().map(|(position, sums)| Load {
            amount: amount(sums),
            capacity: match dimension {
                Dimension::Size => capacities[position],
                _ => 1.0,
            },
        });
        let even = f64::from(balance.tolerance_percent) / 100.0;
        let hot = f64::from(balance.hot_tolerance_percent) / 100.0;
        let shape = |floor: u64, tolerance, grain: f64| Shape {
            floor: floor as f64,
            tolerance,
            grain,
            steep: dimension == Dimension::Size,
        };
        let shape = match dimension {
            Dimension::Size => shape(1, even, average_region.max(1) as f64),
            Dimension::Leaders => shape(1, even, 1.0),
            Dimension::WrittenKeys => shape(balance.hot_keys_min, hot, 0.0),
            Dimension::WrittenBytes | Dimension::Proposals | Dimension::Reads => {
                shape(balance.hot_bytes_min, hot, 0.0)
            }
        };
        Column::new(loads.collect(), shape)
    };
    Scores::new(up.to_vec(), Dimension::ALL.map(column))
}

/// Space that regions can use: what they use, and what is free. What others have on the same disk is not counted.
fn capacities(up: &[StoreId], stores: &Stores) -> Vec<f64> {
    let told: BTreeMap<StoreId, f64> = up
        .iter()
        .filter_map(|store| {
            let space = stores
                .space(*store)
                .filter(|space| space.capacity_bytes > 0)?;
            let usable = space.available_bytes.saturating_add(space.used_bytes);
            Some((*store, usable.min(space.capacity_bytes).max(1) as f64))
        })
        .collect();
    let others = if told.is_empty() {
        CAPACITY_BYTES
    } else {
        told.values().sum::<f64>() / told.len() as f64
    };
    up.iter()
        .map(|store| told.get(store).copied().unwrap_or(others))
        .collect()
}
