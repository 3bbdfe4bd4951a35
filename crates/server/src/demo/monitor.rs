//! Counts what the cluster does by itself, by watching its regions.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::task::JoinHandle;

use crate::remote::{Region, Remote};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(100);

/// Watches until it is dropped.
pub struct Monitor {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

/// What was seen of all regions that there ever were.
#[derive(Default)]
struct Seen {
    regions: BTreeMap<u64, History>,
    merged: u64,
}

struct History {
    terms: (u64, u64),
    voters: BTreeSet<u64>,
    came: u64,
}

/// What happened since the watch began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Happened {
    /// Regions that came from splits.
    pub splits: u64,
    /// Regions that became part of a neighbour.
    pub merges: u64,
    /// Voters that came to a region that was known: a move or a repair each.
    pub moves: u64,
    /// Terms that began. Each is an election, a transfer of leadership included.
    pub elections: u64,
}

impl Seen {
    fn look(&mut self, regions: &[Region]) {
        for region in regions.iter().filter(|region| region.term > 0) {
            let voters = region.peers.iter().filter(|peer| peer.votes());
            let voters: BTreeSet<u64> = voters.map(|peer| peer.id).collect();
            match self.regions.get_mut(&region.id) {
                Some(known) => {
                    known.terms.1 = known.terms.1.max(region.term);
                    for voter in voters {
                        known.came += u64::from(known.voters.insert(voter));
                    }
                }
                None => {
                    let history = History {
                        terms: (region.term, region.term),
                        voters,
                        came: 0,
                    };
                    self.regions.insert(region.id, history);
                }
            }
        }
        // A region that is hidden for a moment is back at the next look; one that stays away was taken in, if the others
        // cover all keys.
        let covered = regions
            .first()
            .is_some_and(|first| first.start_key.is_empty())
            && regions.last().is_some_and(|last| last.end_key.is_empty())
            && regions
                .windows(2)
                .all(|pair| pair[0].end_key == pair[1].start_key);
        if covered {
            let here: BTreeSet<u64> = regions.iter().map(|region| region.id).collect();
            let gone = self.regions.keys().filter(|id| !here.contains(id));
            self.merged = gone.count() as u64;
        }
    }

    fn happened(&self) -> Happened {
        let sum = |of: &dyn Fn(&History) -> u64| self.regions.values().map(of).sum();
        Happened {
            splits: (self.regions.len() as u64).saturating_sub(1),
            merges: self.merged,
            moves: sum(&|region| region.came),
            elections: sum(&|region| region.terms.1 - region.terms.0),
        }
    }
}

impl Monitor {
    /// Begins to watch a cluster of one region.
    pub fn start(remote: Remote) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let watched = seen.clone();
        let task = tokio::spawn(async move {
            loop {
                // While placement elects, nothing can be seen; the next look makes up for it.
                if let Ok(regions) = remote.regions(&[], &[]).await {
                    let mut watched = watched.lock().expect("no holder of this lock panics");
                    watched.look(&regions);
                }
                tokio::time::sleep(INTERVAL).await;
            }
        });
        Self { seen, task }
    }

    /// What happened so far.
    pub fn happened(&self) -> Happened {
        let seen = self.seen.lock().expect("no holder of this lock panics");
        seen.happened()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use proto::{metapb, pontoon::v1::RegionStatus};

    use super::*;

    fn region(id: u64, range: (&'static str, &'static str), term: u64, peers: &[u64]) -> Region {
        let peers = peers.iter().map(|peer| metapb::Peer {
            id: *peer,
            store_id: *peer,
            ..metapb::Peer::default()
        });
        Region::from(RegionStatus {
            region: Some(metapb::Region {
                id,
                start_key: range.0.into(),
                end_key: range.1.into(),
                peers: peers.collect(),
                ..metapb::Region::default()
            }),
            term,
            ..RegionStatus::default()
        })
    }

    #[test]
    fn what_regions_do_is_counted_once() {
        let mut seen = Seen::default();
        seen.look(&[region(1, ("", ""), 5, &[1, 2, 3])]);
        let split = [
            region(1, ("", "m"), 5, &[1, 2, 3]),
            region(2, ("m", ""), 1, &[21, 22, 23]),
        ];
        seen.look(&split);
        seen.look(&split[..1]);
        assert_eq!(seen.happened().merges, 0, "hidden is not gone");
        seen.look(&[
            region(1, ("", "m"), 7, &[1, 2, 4]),
            region(2, ("m", ""), 1, &[21, 22, 23]),
        ]);
        seen.look(&[region(1, ("", ""), 7, &[1, 2, 4])]);
        assert_eq!(
            seen.happened(),
            Happened {
                splits: 1,
                merges: 1,
                moves: 1,
                elections: 2,
            }
        );
    }
}
