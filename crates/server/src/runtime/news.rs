//! What the node has to tell placement: a mailbox that keeps the newest, so that a slow or absent placement group costs
//! memory for each region once and no more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use bytes::Bytes;
use proto::{RegionId, StoreId, metapb};
use store::event::{Divergence, OrderAnswer, OwnSplit, RegionReport};
use tokio::sync::Notify;

/// Splits and refused orders kept for a reader that is away. Beyond it the oldest go: region reports repeat what splits
/// tell, and placement gives up orders by itself.
const KEPT_MAX: usize = 4096;

/// What gathered since it was last taken.
#[derive(Debug, Default)]
pub struct NewsBatch {
    /// The newest report of each region.
    pub reports: BTreeMap<RegionId, RegionReport>,
    /// Applied splits: parent and children, left to right.
    pub splits: Vec<Vec<metapb::Region>>,
    /// Splits that leaders decided, and those that they wanted and could not have.
    pub own_splits: Vec<OwnSplit>,
    /// Replicas that differ.
    pub divergences: Vec<Divergence>,
    /// What became of orders.
    pub orders: Vec<OrderAnswer>,
    /// So many ids are wanted for the pool.
    pub ids_wanted: u32,
    /// Keys of which the owner is wanted.
    pub locate: BTreeSet<Bytes>,
    /// Regions of which the members are wanted.
    pub describe: BTreeSet<RegionId>,
    /// Stores of which it is wanted whether they were removed.
    pub inquire: BTreeSet<StoreId>,
}

/// What the store has to tell after one turn.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// See [`store::event::Effects::reports`].
    pub reports: Vec<RegionReport>,
    /// See [`store::event::Effects::splits`].
    pub splits: Vec<Vec<metapb::Region>>,
    /// See [`store::event::Effects::own_splits`].
    pub own_splits: Vec<OwnSplit>,
    /// See [`store::event::Effects::divergences`].
    pub divergences: Vec<Divergence>,
    /// See [`store::event::Effects::orders`].
    pub orders: Vec<OrderAnswer>,
    /// What it wants to know.
    pub questions: Questions,
}

/// What the store wants to know.
#[derive(Debug, Default)]
pub(super) struct Questions {
    /// See [`store::event::Effects::ids_wanted`].
    pub ids_wanted: u32,
    /// See [`store::event::Effects::locate`].
    pub locate: Vec<Bytes>,
    /// See [`store::event::Effects::describe`].
    pub describe: Vec<RegionId>,
    /// See [`store::event::Effects::inquire`].
    pub inquire: Vec<StoreId>,
}

impl Questions {
    fn is_empty(&self) -> bool {
        self.ids_wanted == 0
            && self.locate.is_empty()
            && self.describe.is_empty()
            && self.inquire.is_empty()
    }
}

impl NewsBatch {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.reports.is_empty()
            && self.splits.is_empty()
            && self.own_splits.is_empty()
            && self.divergences.is_empty()
            && self.orders.is_empty()
            && self.ids_wanted == 0
            && self.locate.is_empty()
            && self.describe.is_empty()
            && self.inquire.is_empty()
    }
}

/// The mailbox. One worker writes, one task reads.
#[derive(Default)]
pub struct News {
    batch: Mutex<NewsBatch>,
    written: Notify,
}

impl News {
    /// Waits until there is something to tell, and takes it.
    pub async fn take(&self) -> NewsBatch {
        loop {
            let written = self.written.notified();
            let batch =
                std::mem::take(&mut *self.batch.lock().expect("no holder of the lock panics"));
            if !batch.is_empty() {
                return batch;
            }
            written.await;
        }
    }

    /// Adds news.
    pub(super) fn add(&self, told: Told) {
        let Told {
            reports,
            splits,
            own_splits,
            divergences,
            orders,
            questions,
        } = told;
        let quiet = reports.is_empty()
            && splits.is_empty()
            && own_splits.is_empty()
            && divergences.is_empty()
            && orders.is_empty();
        if quiet && questions.is_empty() {
            return;
        }
        let Questions {
            ids_wanted,
            locate,
            describe,
            inquire,
        } = questions;
        let mut batch = self.batch.lock().expect("no holder of the lock panics");
        for report in reports {
            batch.reports.insert(RegionId(report.region.id), report);
        }
        batch.splits.extend(splits);
        batch.own_splits.extend(own_splits);
        batch.divergences.extend(divergences);
        batch.orders.extend(orders);
        batch.ids_wanted = batch.ids_wanted.max(ids_wanted);
        // Wanted again after a while, so what finds no room is not lost.
        let room = KEPT_MAX.saturating_sub(batch.locate.len());
        batch.locate.extend(locate.into_iter().take(room));
        let room = KEPT_MAX.saturating_sub(batch.describe.len());
        batch.describe.extend(describe.into_iter().take(room));
        let room = KEPT_MAX.saturating_sub(batch.inquire.len());
        batch.inquire.extend(inquire.into_iter().take(room));
        let surplus = batch.splits.len().saturating_sub(KEPT_MAX);
        batch.splits.drain(..surplus);
        let surplus = batch.own_splits.len().saturating_sub(KEPT_MAX);
        batch.own_splits.drain(..surplus);
        let surplus = batch.divergences.len().saturating_sub(KEPT_MAX);
        batch.divergences.drain(..surplus);
        let surplus = batch.orders.len().saturating_sub(KEPT_MAX);
        batch.orders.drain(..surplus);
        drop(batch);
        self.written.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use raft::PeerId;
    use store::event::Difference;

    use super::*;

    fn report(region: u64, term: u64) -> RegionReport {
        RegionReport {
            region: metapb::Region {
                id: region,
                ..Default::default()
            },
            leader: metapb::Peer::default(),
            term,
            down: Vec::new(),
            pending: Vec::new(),
            bytes: 0,
            keys: 0,
            load: store::Load::default(),
            interval_ms: 0,
        }
    }

    #[tokio::test]
    async fn the_newest_report_of_a_region_is_kept() {
        let news = News::default();
        news.add(Told {
            reports: vec![report(1, 5), report(2, 1)],
            ..Told::default()
        });
        let questions = Questions {
            ids_wanted: 64,
            locate: vec!["k".into()],
            describe: vec![RegionId(7)],
            inquire: vec![StoreId(3)],
        };
        news.add(Told {
            reports: vec![report(1, 6)],
            questions,
            ..Told::default()
        });
        let batch = news.take().await;
        assert_eq!(batch.reports.len(), 2);
        assert_eq!(batch.reports[&RegionId(1)].term, 6);
        assert_eq!(batch.ids_wanted, 64);
        assert!(batch.locate.contains("k".as_bytes()));
        assert!(batch.describe.contains(&RegionId(7)));
        assert!(batch.inquire.contains(&StoreId(3)));
    }

    #[tokio::test]
    async fn an_absent_reader_costs_bounded_memory() {
        let news = News::default();
        let digest = store::Digest { since: 1, value: 0 };
        for _ in 0..KEPT_MAX + 10 {
            let split = OwnSplit {
                region: RegionId(1),
                epoch: None,
                cause: store::SplitCause::Size,
                keys: vec![],
                inputs: vec![],
                result: Ok(()),
            };
            let divergence = Divergence {
                region: RegionId(1),
                peer: PeerId(2),
                other: None,
                index: 9,
                difference: Difference::Applied {
                    ours: digest,
                    theirs: digest,
                },
            };
            news.add(Told {
                splits: vec![vec![]],
                own_splits: vec![split],
                divergences: vec![divergence],
                ..Told::default()
            });
        }
        let batch = news.take().await;
        assert_eq!(batch.splits.len(), KEPT_MAX);
        assert_eq!(batch.own_splits.len(), KEPT_MAX);
        assert_eq!(batch.divergences.len(), KEPT_MAX);
    }
}
