//! The sweep looks at every region in time, however many there are (REGIONS §9: all within five minutes).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use placement::{
    Answer, Effects, Event, JournalQuery, Now, Placement, RegionInfo, Request, RequestId, Settings,
};
use proto::{StoreId, metapb};

const REGIONS: u64 = 2000;

struct World {
    machine: Placement,
    now: Now,
    requests: u64,
    answers: Vec<Answer>,
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
            answers: Vec::new(),
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
        for (request, answer) in effects.answers {
            let answer = answer.unwrap_or_else(|refusal| panic!("{request:?}: {refusal}"));
            self.answers.push(answer);
        }
        if let Some(write) = effects.write {
            self.step(Event::Written(write.token));
        }
    }

    fn ask(&mut self, request: Request) -> Answer {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.step(Event::Request(id, Box::new(request)));
        self.answers.pop().expect("it is answered at once")
    }

    fn pass(&mut self, time: Duration) {
        self.now.wall_ms += time.as_millis() as u64;
        self.now.monotonic += time;
        self.step(Event::Tick);
    }
}

/// One of many regions, with its only voter on store 1 where rules want three.
fn region(id: u64) -> RegionInfo {
    let edge = |id: u64| Bytes::copy_from_slice(&id.to_be_bytes());
    let peer = metapb::Peer {
        id: REGIONS + id,
        store_id: 1,
        ..Default::default()
    };
    RegionInfo {
        region: metapb::Region {
            id,
            start_key: if id == 1 { Bytes::new() } else { edge(id) },
            end_key: if id == REGIONS {
                Bytes::new()
            } else {
                edge(id + 1)
            },
            region_epoch: Some(metapb::RegionEpoch {
                conf_ver: 1,
                version: 9,
            }),
            peers: vec![peer],
            ..Default::default()
        },
        leader: Some(peer),
        term: 5,
        ..Default::default()
    }
}

/// Nothing is wrong with 2000 regions when they report, because nobody looks yet; then the cluster is bootstrapped, and
/// each has two voters too few and no store to go to. The sweep alone finds that.
#[test]
fn the_sweep_looks_at_every_region_in_its_ticks() {
    let settings = Settings {
        sweep_regions_min: 1,
        sweep_ticks: 50,
        ..Settings::default()
    };
    let mut world = World::new(settings);
    world.ask(Request::AllocateIds(1000));
    for id in 1..=REGIONS {
        world.step(Event::Report(Box::new(region(id))));
    }
    let store = metapb::Store {
        id: 1,
        address: "a".into(),
        ..Default::default()
    };
    world.ask(Request::Bootstrap {
        store,
        boot: None,
        region: metapb::Region {
            start_key: Bytes::new(),
            end_key: Bytes::new(),
            id: 2,
            peers: vec![metapb::Peer {
                id: 3,
                store_id: 1,
                ..Default::default()
            }],
            ..Default::default()
        },
    });
    for _ in 0..50 {
        world.pass(Duration::from_millis(100));
    }
    // What is refused is written within a second.
    for _ in 0..2 {
        world.pass(Duration::from_secs(1));
    }
    let query = JournalQuery {
        store: Some(StoreId(1)),
        limit: usize::MAX,
        ..JournalQuery::default()
    };
    let Answer::Journal(entries) = world.ask(Request::Journal(query)) else {
        panic!("the journal answers");
    };
    assert_eq!(entries.len() as u64, REGIONS, "refused once each");
    assert!(entries.iter().all(|entry| entry.at_ms <= 1_005_000));
}
