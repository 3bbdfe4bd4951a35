//! How far apart the replicas of a region are, by the labels of their stores.

use std::collections::BTreeMap;

use proto::{StoreId, metapb};

/// Isolation over location labels, widest first (zone, rack, host). Two replicas that share a place cost the more, the
/// narrower it is: one of them on another host of the same zone is better than two on one host. A store that does not
/// tell its place counts as being where any other is, so it is never preferred for that.
#[derive(Debug, Default)]
pub(crate) struct Isolation {
    /// Numbers of values, by level; 0 is "not told".
    places: BTreeMap<StoreId, Vec<u32>>,
    levels: usize,
}

/// How much worse it is to share a place one level narrower: more than all pairs of a region at the level above.
const NARROWER: u64 = 32;

impl Isolation {
    pub fn new<'a>(
        labels: &[String],
        stores: impl IntoIterator<Item = (StoreId, &'a [metapb::StoreLabel])>,
    ) -> Self {
        let mut names: BTreeMap<&'a str, u32> = BTreeMap::new();
        let mut isolation = Self {
            places: BTreeMap::new(),
            levels: labels.len(),
        };
        for (store, told) in stores {
            let place = labels.iter().map(|label| {
                let value = told.iter().find(|told| told.key == *label);
                let next = names.len() as u32 + 1;
                value.map_or(0, |told| *names.entry(&told.value).or_insert(next))
            });
            let place = place.collect();
            isolation.places.insert(store, place);
        }
        isolation
    }

    /// Whether any store tells its place: otherwise every store is as good as any other.
    pub fn tells(&self) -> bool {
        self.places.values().flatten().any(|place| *place != 0)
    }

    /// What two replicas on these stores share.
    pub fn shared(&self, one: StoreId, other: StoreId) -> u64 {
        let (Some(one), Some(other)) = (self.places.get(&one), self.places.get(&other)) else {
            return 0;
        };
        let apart = |(one, other): (&u32, &u32)| *one != 0 && *other != 0 && one != other;
        let same = one.iter().zip(other).position(apart).unwrap_or(self.levels);
        // 1 for the widest place, and a digit more for each one narrower.
        (0..same).fold(0, |cost, _| cost * NARROWER + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn isolation(stores: &[(u64, &str, &str)]) -> Isolation {
        let label = |key: &str, value: &str| metapb::StoreLabel {
            key: key.into(),
            value: value.into(),
        };
        let labels: Vec<_> = stores
            .iter()
            .map(|(id, zone, host)| {
                let mut labels = vec![label("zone", zone), label("host", host)];
                labels.retain(|label| !label.value.is_empty());
                (StoreId(*id), labels)
            })
            .collect();
        let levels = ["zone".to_owned(), "host".to_owned()];
        Isolation::new(
            &levels,
            labels.iter().map(|(id, labels)| (*id, &labels[..])),
        )
    }

    #[test]
    fn the_narrower_the_shared_place_the_worse() {
        let isolation = isolation(&[
            (1, "a", "a1"),
            (2, "a", "a1"),
            (3, "a", "a2"),
            (4, "b", "b1"),
            (5, "c", "c1"),
            (6, "", ""),
        ]);
        let cost = |stores: &[u64]| {
            let pairs = stores.iter().enumerate();
            let pairs =
                pairs.flat_map(|(at, one)| stores[at + 1..].iter().map(move |two| (one, two)));
            pairs
                .map(|(one, two)| isolation.shared(StoreId(*one), StoreId(*two)))
                .sum::<u64>()
        };
        assert_eq!(cost(&[1, 4, 5]), 0, "three zones");
        assert!(cost(&[1, 3, 4]) > 0, "two of one zone");
        assert!(
            cost(&[1, 2, 4]) > cost(&[1, 3, 4]),
            "two on one host are worse"
        );
        assert_eq!(
            cost(&[1, 6]),
            cost(&[1, 2]),
            "a place that is not told may be this one"
        );
    }

    /// Hosts may have one name in two zones.
    #[test]
    fn a_wider_place_decides() {
        let isolation = isolation(&[(1, "a", "host"), (2, "b", "host")]);
        assert_eq!(isolation.shared(StoreId(1), StoreId(2)), 0);
    }
}
