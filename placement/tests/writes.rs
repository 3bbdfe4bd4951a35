//! What is written at once fits into an entry of the placement region, whatever is commanded and whatever ends at once.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use placement::decision::Who;
use placement::{
    Answer, Effects, Event, JournalQuery, Now, Placement, Refusal, RegionInfo, Request, RequestId,
    Settings, Write,
};
use proto::{RegionId, metapb};

/// What an entry of a region may hold (`store::Options::entry_bytes_max`).
const ENTRY_BYTES_MAX: usize = 8 << 20;
/// Keys of one command: a little less than a mebibyte.
const KEYS: usize = 100;
const REGIONS: u64 = 16;

struct World {
    machine: Placement,
    now: Now,
    requests: u64,
    writes: Vec<Write>,
    answers: BTreeMap<RequestId, Result<Answer, Refusal>>,
}

impl World {
    fn step(&mut self, event: Event) {
        let effects = self.machine.step(event, self.now);
        self.take(effects);
    }

    fn take(&mut self, effects: Effects) {
        self.answers.extend(effects.answers);
        if let Some(write) = effects.write {
            let bytes: usize = write
                .changes
                .iter()
                .map(|change| {
                    let length = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
                    change.key.len() + length(&change.previous) + length(&change.value)
                })
                .sum();
            assert!(bytes < ENTRY_BYTES_MAX, "{bytes} bytes in a write");
            self.writes.push(write);
        }
    }

    fn ask(&mut self, request: Request) -> RequestId {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.step(Event::Request(id, Box::new(request)));
        id
    }

    /// Applies every write, those that follow included.
    fn settle(&mut self) -> usize {
        let mut count = 0;
        while let Some(write) = self.writes.pop() {
            count += 1;
            self.step(Event::Written(write.token));
        }
        count
    }

    fn split(&mut self, region: u64) -> RequestId {
        let keys = (0..KEYS).map(|number| {
            let mut key = vec![b'k'; 10_240];
            key[..6].copy_from_slice(format!("{region:03}{number:03}").as_bytes());
            key.into()
        });
        let keys = keys.collect();
        self.ask(Request::Split {
            region: RegionId(region),
            keys,
        })
    }
}

fn region(id: u64) -> RegionInfo {
    let peer = metapb::Peer {
        id: 1000 + id,
        store_id: 1,
        ..Default::default()
    };
    let key = |id: u64| match id {
        1 => Bytes::new(),
        id if id > REGIONS => Bytes::new(),
        id => format!("{id:03}").into(),
    };
    RegionInfo {
        region: metapb::Region {
            id,
            start_key: key(id),
            end_key: key(id + 1),
            region_epoch: Some(metapb::RegionEpoch {
                conf_ver: 1,
                version: 99,
            }),
            peers: vec![peer],
            ..Default::default()
        },
        leader: Some(peer),
        term: 5,
        ..Default::default()
    }
}

#[test]
fn many_large_splits_fit_into_writes() {
    let mut world = World {
        machine: Placement::new(Settings::default()),
        now: Now {
            wall_ms: 1_000_000,
            monotonic: Duration::from_secs(100),
        },
        requests: 0,
        writes: Vec::new(),
        answers: BTreeMap::new(),
    };
    let effects = world
        .machine
        .lead(1, BTreeMap::new(), 4711, world.now)
        .expect("it is empty");
    world.take(effects);
    world.settle();
    let mut first = region(1).region;
    first.end_key = Bytes::new();
    first.region_epoch = Some(metapb::RegionEpoch {
        conf_ver: 1,
        version: 1,
    });
    let store = metapb::Store {
        id: 1,
        address: "a".into(),
        ..Default::default()
    };
    world.ask(Request::AllocateIds(2000));
    world.settle();
    world.ask(Request::Bootstrap {
        store,
        boot: None,
        region: first,
    });
    world.settle();
    for id in 1..=REGIONS {
        world.step(Event::Report(Box::new(region(id))));
    }
    world.settle();

    // All of them are commanded while one write is under way.
    let asked: Vec<_> = (1..=REGIONS).map(|id| (id, world.split(id))).collect();
    let busy = |world: &World, id: &RequestId| {
        matches!(world.answers.get(id), Some(Err(Refusal::Busy(_))))
    };
    let refused: Vec<_> = asked
        .iter()
        .filter(|(_, request)| busy(&world, request))
        .map(|(region, _)| *region)
        .collect();
    assert!(
        !refused.is_empty() && refused.len() < asked.len() - 2,
        "{refused:?} {:?}",
        world.answers
    );
    // What an administrator needs to see why, and to end it, is served nevertheless.
    let running = Request::Operators {
        operator: None,
        region: None,
    };
    let pause = |seconds| Request::PauseScheduler {
        who: Who::BalanceLeader,
        duration: Duration::from_secs(seconds),
    };
    let query = JournalQuery {
        limit: 10,
        ..Default::default()
    };
    let small = [
        running,
        Request::Journal(query),
        Request::Schedulers,
        pause(60),
        pause(0),
        Request::CancelOperator(u64::MAX),
    ];
    let small = small.map(|request| world.ask(request));
    world.settle();
    for request in small {
        let answer = world.answers.get(&request);
        assert!(
            answer.is_some() && !busy(&world, &request),
            "{request:?}: {answer:?}"
        );
    }
    let taken = asked
        .iter()
        .filter(|(_, request)| matches!(world.answers.get(request), Some(Ok(Answer::Operator(_)))));
    assert_eq!(taken.count() + refused.len(), asked.len());

    // What was refused can be asked for again.
    for id in refused {
        let request = world.split(id);
        world.settle();
        let answer = &world.answers[&request];
        assert!(matches!(answer, Ok(Answer::Operator(_))), "{answer:?}");
    }

    // All end at once.
    world.now.monotonic += Duration::from_secs(60);
    world.step(Event::Tick);
    assert!(world.settle() > 1, "more than one write takes");
    let request = world.ask(Request::Operators {
        operator: None,
        region: None,
    });
    let Some(Ok(Answer::Operators(operators))) = world.answers.get(&request) else {
        panic!("operators are listed");
    };
    assert_eq!(operators.len() as u64, REGIONS);
    assert!(
        operators
            .iter()
            .all(|operator| operator.state == placement::State::Cancelled)
    );
}
