//! Published region states, as the threads outside the worker see them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use dashmap::DashMap;
use proto::RegionId;
use store::event::{RegionView, ViewChange};
use tokio::sync::Notify;

/// The published views and the index of ranges over them.
///
/// One thread, the worker, publishes; everybody reads. A view is replaced whole, so a reader has one consistent picture
/// of one region for as long as it holds it.
#[derive(Default)]
pub struct Views {
    regions: DashMap<RegionId, Arc<RegionView>>,
    /// Regions that own their range, by start key.
    ranges: RwLock<BTreeMap<Bytes, Arc<RegionView>>>,
    changed: Notify,
    damage_changed: Notify,
    leaders: AtomicUsize,
}

impl Views {
    /// The view of a region.
    pub fn region(&self, id: RegionId) -> Option<Arc<RegionView>> {
        self.regions.get(&id).map(|view| view.clone())
    }

    /// The view of the region that owns a key here.
    pub fn find(&self, key: &[u8]) -> Option<Arc<RegionView>> {
        let ranges = self.ranges.read().expect("no holder of the lock panics");
        let (_, view) = ranges
            .range::<[u8], _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(key)))
            .next_back()?;
        let end = &view.region.end_key;
        (end.is_empty() || key < &end[..]).then(|| view.clone())
    }

    /// The views of all regions that own a range, in the order of their ranges.
    pub fn owners(&self) -> Vec<Arc<RegionView>> {
        self.ranges
            .read()
            .expect("no holder of the lock panics")
            .values()
            .cloned()
            .collect()
    }

    /// All views, uninitialized regions included, in no order.
    pub fn all(&self) -> Vec<Arc<RegionView>> {
        self.regions
            .iter()
            .map(|entry| entry.value().clone())
            .collect()
    }

    /// Number of regions.
    pub fn len(&self) -> usize {
        self.regions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// Number of regions led here.
    pub fn leaders(&self) -> usize {
        self.leaders.load(Ordering::Relaxed)
    }

    /// Completes at the next publication. Create it, look at the views, then await it, and no change is missed.
    pub fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// Regions whose data here is damaged (R13), in no order.
    pub fn damaged(&self) -> Vec<u64> {
        let damaged = self.regions.iter().filter(|entry| entry.damaged);
        damaged.map(|entry| entry.region.id).collect()
    }

    /// Completes when [`Views::damaged`] changed since it was last awaited. For one task.
    pub async fn damage_changed(&self) {
        self.damage_changed.notified().await;
    }

    /// Publishes changes. Called by one thread only.
    pub fn publish(&self, changes: Vec<ViewChange>) {
        if changes.is_empty() {
            return;
        }
        for change in changes {
            match change {
                ViewChange::Set(view) => self.set(view),
                ViewChange::Removed(id) => self.remove(id),
            }
        }
        self.changed.notify_waiters();
    }

    fn set(&self, view: Arc<RegionView>) {
        let id = RegionId(view.region.id);
        let old = self.regions.insert(id, view.clone());
        self.count(old.as_deref(), Some(&view));
        let mut ranges = self.ranges.write().expect("no holder of the lock panics");
        if let Some(old) = old
            && old.owns_range
            && (!view.owns_range || old.region.start_key != view.region.start_key)
        {
            remove_range(&mut ranges, &old);
        }
        if view.owns_range {
            ranges.insert(view.region.start_key.clone(), view);
        }
    }

    fn remove(&self, id: RegionId) {
        let Some((_, old)) = self.regions.remove(&id) else {
            return;
        };
        self.count(Some(&old), None);
        if old.owns_range {
            remove_range(
                &mut self.ranges.write().expect("no holder of the lock panics"),
                &old,
            );
        }
    }

    fn count(&self, old: Option<&RegionView>, new: Option<&RegionView>) {
        let damaged = |view: Option<&RegionView>| view.is_some_and(|view| view.damaged);
        if damaged(old) != damaged(new) {
            self.damage_changed.notify_one();
        }
        let leads =
            |view: Option<&RegionView>| view.is_some_and(|view| view.role == raft::Role::Leader);
        match (leads(old), leads(new)) {
            (false, true) => self.leaders.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.leaders.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
    }
}

/// Takes a region's range out, unless another region starts there by now (a split child, say, published first).
fn remove_range(ranges: &mut BTreeMap<Bytes, Arc<RegionView>>, view: &RegionView) {
    if ranges
        .get(&view.region.start_key)
        .is_some_and(|present| present.region.id == view.region.id)
    {
        ranges.remove(&view.region.start_key);
    }
}

#[cfg(test)]
mod tests {
    use proto::metapb;
    use raft::{PeerId, Role};

    use super::*;

    fn view(id: u64, start: &'static str, end: &'static str, role: Role) -> ViewChange {
        ViewChange::Set(Arc::new(RegionView {
            region: metapb::Region {
                id,
                start_key: Bytes::from_static(start.as_bytes()),
                end_key: Bytes::from_static(end.as_bytes()),
                ..Default::default()
            },
            peer: PeerId(id * 10),
            owns_range: true,
            frozen: false,
            role,
            term: 1,
            leader: None,
            damaged: false,
        }))
    }

    fn owner(views: &Views, key: &str) -> Option<u64> {
        views.find(key.as_bytes()).map(|view| view.region.id)
    }

    #[test]
    fn keys_find_their_region_across_splits_and_removals() {
        let views = Views::default();
        assert_eq!(owner(&views, "a"), None);
        views.publish(vec![view(1, "", "", Role::Leader)]);
        assert_eq!(
            (owner(&views, ""), owner(&views, "zzz")),
            (Some(1), Some(1))
        );
        assert_eq!(views.leaders(), 1);

        views.publish(vec![
            view(1, "", "m", Role::Leader),
            view(2, "m", "", Role::Leader),
        ]);
        assert_eq!((owner(&views, "l"), owner(&views, "m")), (Some(1), Some(2)));
        assert_eq!(views.leaders(), 2);

        views.publish(vec![
            view(2, "m", "", Role::Follower),
            ViewChange::Removed(RegionId(1)),
        ]);
        assert_eq!((owner(&views, "l"), owner(&views, "m")), (None, Some(2)));
        assert_eq!((views.leaders(), views.len()), (0, 1));
    }

    #[test]
    fn a_region_that_took_the_start_key_keeps_it_when_the_old_owner_goes() {
        let views = Views::default();
        views.publish(vec![view(1, "a", "m", Role::Follower)]);
        views.publish(vec![
            view(2, "a", "z", Role::Follower),
            ViewChange::Removed(RegionId(1)),
        ]);
        assert_eq!(owner(&views, "b"), Some(2));
    }

    #[test]
    fn a_region_that_owns_nothing_is_not_found_by_key() {
        let views = Views::default();
        views.publish(vec![view(1, "a", "m", Role::Follower)]);
        let ViewChange::Set(owned) = view(1, "a", "m", Role::Follower) else {
            unreachable!("made above")
        };
        views.publish(vec![ViewChange::Set(Arc::new(RegionView {
            owns_range: false,
            frozen: false,
            ..(*owned).clone()
        }))]);
        assert_eq!(owner(&views, "b"), None);
        assert!(views.region(RegionId(1)).is_some());
        assert!(views.owners().is_empty());
    }
}
