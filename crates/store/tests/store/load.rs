//! What reports say of the load of a region.

use proto::pontoon::v1 as wire;
use proto::pontoon::v1::operation::Kind;
use store::event::{Event, ReadVolume, RegionReport};
use store::{Load, Options, Requests};

use crate::harness::*;

fn one(options: Options) -> Cluster {
    Cluster::with(
        3,
        &[region(1, "", "", &[1, 2, 3])],
        options,
        engine::MemoryOptions::default(),
    )
}

fn last_report(cluster: &Cluster, store: u64, region: u64) -> RegionReport {
    let reports = cluster.nodes[&s(store)].reports.iter().rev();
    let mut of_region = reports.filter(|report| report.region.id == region);
    of_region.next().cloned().expect("a report")
}

fn delete(key: &'static str) -> wire::Operation {
    wire::Operation {
        kind: Some(Kind::Delete(wire::Delete { key: key.into() })),
    }
}

#[test]
fn load_is_told_with_the_time_it_was_counted_over() {
    let mut cluster = one(Options {
        load_report_ticks: 20,
        report_ticks: 500,
        ..options()
    });
    let leader = cluster.elect(r(1));
    for _ in 0..10 {
        cluster.propose_at(leader, r(1), vec![put("k", "value"), delete("l")]);
        cluster.read_at(leader, r(1), "k");
    }
    cluster.settle();
    let volume = |region, keys, bytes| ReadVolume {
        region: r(region),
        keys,
        bytes,
    };
    // What is told of a region that is not led here is not counted.
    cluster.step(
        leader,
        Event::Reads(vec![volume(1, 10, 90), volume(9, 1, 1)]),
    );
    let reported = cluster.nodes[&leader].reports.len();
    cluster.until("the load is told", |cluster| {
        cluster.nodes[&leader].reports.len() > reported
    });
    let report = last_report(&cluster, leader.0, 1);
    let stored_put = store::keys::data(b"k").len() + store::value::encode(b"value", 0).len();
    let expected = Load {
        written_bytes: 10 * (stored_put + "l".len()) as u64,
        written_keys: 20,
        read_bytes: 90,
        read_keys: 10,
        requests: Requests {
            gets: 10,
            puts: 10,
            ..Requests::default()
        },
    };
    assert_eq!(report.load, expected);
    let ticks = report.interval_ms / cluster.options.tick_ms;
    assert!((1..=200).contains(&ticks), "{ticks} ticks");
}

#[test]
fn idle_regions_stay_silent_and_busy_ones_do_not() {
    let mut cluster = one(Options {
        load_report_ticks: 20,
        report_ticks: 500,
        ..options()
    });
    let leader = cluster.elect(r(1));
    cluster.ticks(40);
    let quiet = cluster.nodes[&leader].reports.len();
    cluster.ticks(100);
    assert_eq!(cluster.nodes[&leader].reports.len(), quiet);
    for _ in 0..10 {
        for _ in 0..10 {
            cluster.propose_at(leader, r(1), vec![put("k", "v")]);
        }
        cluster.ticks(10);
    }
    let busy = cluster.nodes[&leader].reports.len() - quiet;
    assert!((3..=5).contains(&busy), "{busy} reports in 100 ticks");
}

#[test]
fn a_new_leader_and_a_split_count_anew() {
    let mut cluster = one(options());
    cluster.elect_at(r(1), 1);
    for _ in 0..20 {
        cluster.put(r(1), "a", "1");
        cluster.put(r(1), "z", "1");
    }
    cluster.ticks(100);
    assert_eq!(last_report(&cluster, 1, 1).load.requests.puts, 40);
    let child = cluster.split(r(1), &["m"])[0];
    for region in [r(1), child] {
        let report = last_report(&cluster, 1, region.0);
        assert_eq!(
            (report.load, report.interval_ms),
            (Load::default(), 0),
            "{region}"
        );
    }
    cluster.put(child, "z", "2");
    cluster.ticks(60);
    assert_eq!(last_report(&cluster, 1, child.0).load.requests.puts, 1);
    cluster.elect_at(child, 2);
    cluster.put(child, "z", "3");
    cluster.ticks(60);
    assert_eq!(last_report(&cluster, 2, child.0).load.requests.puts, 1);
}

/// A region is not taken for small, and merged, because its leader restarted: its size is as durable as its data (REGIONS §9).
#[test]
fn a_restarted_leader_tells_the_size_and_begins_to_count_load() {
    let mut cluster = one(options());
    cluster.elect_at(r(1), 1);
    for number in 0..20 {
        cluster.put(r(1), &format!("k{number:02}"), "value");
    }
    cluster.ticks(100);
    let before = last_report(&cluster, 1, 1);
    assert!(before.bytes > 20 * 8 && before.keys == 20, "{before:?}");
    for mode in [KILL, POWER] {
        for store in 1..=3 {
            cluster.crash(s(store), mode);
        }
        for store in 1..=3 {
            let node = cluster.nodes.get_mut(&s(store)).expect("a node");
            node.reports.clear();
            cluster.restart(s(store));
        }
        let leader = cluster.elect(r(1));
        let first = cluster.nodes[&leader].reports.first().cloned();
        let first = first.expect("a leader reports at once");
        assert_eq!((first.bytes, first.keys), (before.bytes, before.keys));
        assert_eq!((first.load, first.interval_ms), (Load::default(), 0));
    }
}
