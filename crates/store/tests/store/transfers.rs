//! Handing leadership over (REGIONS §6, §10 row 41).

use raft::PeerId;
use store::event::{Event, OrderKind, OrderRefusal, StepId};

use crate::harness::*;

#[test]
fn leadership_moves_without_losing_writes() {
    let mut cluster = Cluster::new(3, &[region(1, "", "", &[1, 2, 3])]);
    cluster.elect_at(r(1), 1);
    let mut requests = Vec::new();
    for number in 0..5 {
        requests.push(cluster.propose_at(s(1), r(1), vec![put(&format!("a{number}"), "1")]));
    }
    cluster
        .order(r(1), OrderKind::TransferLeader(PeerId(12)))
        .expect("it starts");
    cluster.until("it moved", |cluster| cluster.leader(r(1)) == Some(s(2)));
    cluster.until("all are answered", |cluster| {
        requests.iter().all(|id| cluster.answers.contains_key(id))
    });
    assert!(requests.iter().all(|id| cluster.answers[id].is_ok()));
    cluster.put(r(1), "b", "2");
    cluster.assert_same_data(&[1, 2, 3]);
}

#[test]
fn transfer_refused() {
    let mut cluster = Cluster::new(4, &[region(1, "", "", &[1, 2, 3])]);
    cluster.put(r(1), "a", "1");
    cluster.elect_at(r(1), 1);
    cluster.add_learner(r(1), 14, 4);
    let to = |peer| OrderKind::TransferLeader(PeerId(peer));
    assert_eq!(
        cluster.order(r(1), to(14)),
        Err(OrderRefusal::Invalid("the target does not vote"))
    );
    assert_eq!(
        cluster.order(r(1), to(99)),
        Err(OrderRefusal::Invalid("the target is no member"))
    );
    cluster.isolate(s(3));
    for number in 0..70 {
        cluster.put(r(1), &format!("k{number}"), "x");
    }
    let lagging = cluster.order(r(1), to(13));
    assert!(
        matches!(
            lagging,
            Err(OrderRefusal::NotCaughtUp {
                peer: PeerId(13),
                ..
            })
        ),
        "{lagging:?}"
    );
    cluster.hold_apply.insert(s(1));
    cluster
        .order(r(1), OrderKind::Split(vec!["m".into()]))
        .expect("the lane is free");
    assert_eq!(cluster.order(r(1), to(12)), Err(OrderRefusal::LaneBusy));
    cluster.hold_apply.clear();
    cluster.settle();
}

/// A step is repeated until its effect shows: while it is under way it is taken as taken, anything else is refused, and
/// says who refused it.
#[test]
fn a_step_under_way_is_not_refused() {
    let mut cluster = Cluster::new(3, &[region(1, "", "", &[1, 2, 3])]);
    cluster.put(r(1), "a", "1");
    cluster.elect_at(r(1), 1);
    let split = |key: &'static str| OrderKind::Split(vec![key.into()]);
    let id = |operator, position| StepId { operator, position };
    cluster.hold_apply.insert(s(1));
    let first = cluster.order_step(s(1), r(1), id(7, 2), split("m"));
    assert_eq!(first.result, Ok(()));
    let again = cluster.order_step(s(1), r(1), id(7, 2), split("m"));
    assert_eq!(again.result, Ok(()));
    for (other, kind) in [
        (id(8, 2), split("k")),
        (id(7, 3), split("k")),
        (StepId::default(), split("m")),
    ] {
        let refused = cluster.order_step(s(1), r(1), other, kind);
        assert_eq!(refused.result, Err(OrderRefusal::LaneBusy), "{other:?}");
        let view = cluster.view(1, r(1));
        assert_eq!(
            (refused.epoch, refused.term),
            (view.region.region_epoch, view.term)
        );
    }
    cluster.hold_apply.clear();
    cluster.settle();
    let next = cluster.order_step(s(1), r(1), id(8, 0), split("k"));
    assert_eq!(next.result, Ok(()), "the lane is free");
}

/// A store that drains hands over by itself, to whom it finds best.
#[test]
fn a_draining_store_transfers_nothing_on_command() {
    let mut cluster = Cluster::new(2, &[region(1, "", "", &[1])]);
    cluster.put(r(1), "a", "1");
    cluster.add_learner(r(1), 12, 2);
    cluster.step(s(1), Event::Drain);
    let refused = cluster.order_at(s(1), r(1), OrderKind::TransferLeader(PeerId(12)));
    assert_eq!(refused, Err(OrderRefusal::StoreDraining(s(1))));
}

#[test]
fn a_transferee_that_is_behind_does_not_lead() {
    let mut cluster = Cluster::new(3, &[region(1, "", "", &[1, 2, 3])]);
    cluster.put(r(1), "a", "1");
    cluster.elect_at(r(1), 1);
    // A structural entry is durably committed there and not applied when the power goes.
    cluster.hold_apply.insert(s(2));
    cluster.split(r(1), &["m"]);
    cluster.ticks(3);
    cluster.crash(s(2), POWER);
    cluster.restart(s(2));
    cluster.hold_apply.insert(s(2));
    cluster.until("it is level again", |cluster| cluster.caught_up(r(1), 12));
    assert!(cluster.store(2).raft(r(1)).expect("it runs").behind());
    let _either_side_refuses = cluster.order(r(1), OrderKind::TransferLeader(PeerId(12)));
    cluster.ticks(30);
    assert_ne!(
        cluster.elect(r(1)),
        s(2),
        "a peer behind its durable commit index does not lead"
    );
    cluster.hold_apply.clear();
    cluster.put(r(1), "b", "2");
    cluster.elect_at(r(1), 2);
    cluster.put(r(1), "b", "3");
}

#[test]
fn drain_hands_everything_over() {
    let regions: Vec<_> = (0..10)
        .map(|id| {
            region(
                id + 1,
                &start(id),
                &start(id + 1).repeat((id < 9) as usize),
                &[1, 2, 3],
            )
        })
        .collect();
    fn start(id: u64) -> String {
        if id == 0 {
            String::new()
        } else {
            format!("{id}")
        }
    }
    let mut cluster = Cluster::new(3, &regions);
    for id in 1..=10 {
        cluster.elect_at(r(id), 1);
    }
    cluster.step(s(1), Event::Drain);
    cluster.until("nothing is led there", |cluster| {
        cluster.nodes[&s(1)].drained
    });
    for id in 1..=10 {
        cluster.until("another leads", |cluster| {
            cluster.leader(r(id)).is_some_and(|leader| leader != s(1))
        });
    }
    cluster.crash(s(1), KILL);
    for id in 1..=10u64 {
        let key = format!("{}x", id - 1);
        cluster.put(r(id), if id == 1 { "0" } else { &key }, "1");
    }
}
