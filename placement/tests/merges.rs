//! Which neighbours are never merged by themselves, however small they are.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use placement::{
    Effects, Event, Now, Order, OrderKind, Placement, RegionInfo, Request, RequestId, Settings,
    Space,
};
use proto::{RegionId, StoreId, memcomparable, metapb};

struct World {
    machine: Placement,
    now: Now,
    requests: u64,
    orders: Vec<Order>,
}

impl World {
    fn new(settings: Settings) -> World {
        let mut world = World {
            machine: Placement::new(settings),
            now: Now {
                wall_ms: 1_000_000,
                monotonic: Duration::from_secs(100),
            },
            requests: 0,
            orders: Vec::new(),
        };
        let effects = world
            .machine
            .lead(1, BTreeMap::new(), 4711, world.now)
            .expect("it is empty");
        world.carry_out(effects);
        world
    }

    fn step(&mut self, event: Event) {
        let effects = self.machine.step(event, self.now);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Effects) {
        self.orders.extend(effects.orders);
        for (request, answer) in effects.answers {
            assert!(answer.is_ok(), "{request:?}: {answer:?}");
        }
        if let Some(write) = effects.write {
            self.step(Event::Written(write.token));
        }
    }

    fn ask(&mut self, request: Request) {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.step(Event::Request(id, Box::new(request)));
    }

    /// Every region is reported and the store heard, second by second.
    fn wait(&mut self, seconds: u64, regions: &[RegionInfo]) {
        for _ in 0..seconds {
            self.now.wall_ms += 1000;
            self.now.monotonic += Duration::from_secs(1);
            self.ask(Request::StoreHeartbeat {
                store: StoreId(1),
                boot: None,
                space: Space {
                    capacity_bytes: 1 << 40,
                    available_bytes: 1 << 39,
                    used_bytes: 0,
                    regions: 0,
                },
                damaged: Vec::new(),
                stopping: false,
            });
            for region in regions {
                self.step(Event::Report(Box::new(region.clone())));
            }
            self.step(Event::Tick);
        }
    }
}

/// An empty region, led by its only peer.
fn region(id: u64, start: Bytes, end: Bytes) -> RegionInfo {
    let peer = metapb::Peer {
        id: 1000 + id,
        store_id: 1,
        ..Default::default()
    };
    RegionInfo {
        region: metapb::Region {
            id,
            start_key: start,
            end_key: end,
            region_epoch: Some(metapb::RegionEpoch {
                conf_ver: 1,
                version: 9,
            }),
            peers: vec![peer],
            ..Default::default()
        },
        leader: Some(peer),
        term: 5,
        interval: Duration::from_secs(60),
        ..Default::default()
    }
}

/// The regions of these boundaries, with ids from 1.
fn regions(boundaries: &[Bytes]) -> Vec<RegionInfo> {
    let mut boundaries = boundaries.to_vec();
    boundaries.sort();
    let starts = [Bytes::new()].into_iter().chain(boundaries.clone());
    let ends = boundaries.iter().cloned().chain([Bytes::new()]);
    let ranges = (1..).zip(starts.zip(ends));
    ranges
        .map(|(id, (start, end))| region(id, start, end))
        .collect()
}

/// In a cluster of api-version 2 the empty regions between the edges of keyspaces stay, and what is inside of one is merged.
#[test]
fn edges_of_keyspaces_are_never_merged_away() {
    let key = |bytes: &[u8]| memcomparable::encode(bytes);
    let edges = [
        key(b"r\0\0\0"),
        key(b"r\0\0\x01"),
        key(b"x\0\0\0"),
        key(b"x\0\0\x01"),
    ];
    for inside in [None, Some(key(b"r\0\0\0table"))] {
        let mut world = World::new(Settings {
            api_version: 2,
            replicas: 1,
            ..Settings::default()
        });
        let mut whole = region(1, Bytes::new(), Bytes::new()).region;
        whole.region_epoch = Some(metapb::RegionEpoch {
            conf_ver: 1,
            version: 1,
        });
        world.ask(Request::AllocateIds(2000));
        world.ask(Request::Bootstrap {
            store: metapb::Store {
                id: 1,
                address: "a".into(),
                ..Default::default()
            },
            boot: Some(1),
            region: whole,
        });
        let regions = regions(
            &edges
                .iter()
                .cloned()
                .chain(inside.clone())
                .collect::<Vec<_>>(),
        );
        world.wait(700, &regions);
        let merged: Vec<(RegionId, RegionId)> = world
            .orders
            .iter()
            .filter_map(|order| match &order.kind {
                OrderKind::Merge(target) => Some((order.region, RegionId(target.id))),
                _ => None,
            })
            .collect();
        match inside {
            None => assert!(merged.is_empty(), "{merged:?}"),
            // The pieces of raw keys are regions 2 and 3.
            Some(_) => {
                let pair = [RegionId(2), RegionId(3)];
                let inside = |(from, into): &(RegionId, RegionId)| {
                    pair.contains(from) && pair.contains(into)
                };
                assert!(
                    !merged.is_empty() && merged.iter().all(inside),
                    "{merged:?}"
                );
            }
        }
    }
}
