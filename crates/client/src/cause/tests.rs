//! The table `client_errors.csv` says what the public client does with each error. Ours may be quicker or more patient,
//! but where that one drops a route, backs off or gives up, ours must have a reason to differ; the reasons are here.

use super::*;

/// A region error for a row of the table.
fn region_error(variant: &str) -> errorpb::Error {
    let error = errorpb::Error::default();
    let peer = metapb::Peer {
        id: 4,
        store_id: 2,
        ..Default::default()
    };
    match variant {
        "not_leader with leader" => errorpb::Error {
            not_leader: Some(errorpb::NotLeader {
                region_id: 1,
                leader: Some(peer),
            }),
            ..error
        },
        "not_leader without leader" => errorpb::Error {
            not_leader: Some(errorpb::NotLeader {
                region_id: 1,
                leader: None,
            }),
            ..error
        },
        "store_not_match" => errorpb::Error {
            store_not_match: Some(Default::default()),
            ..error
        },
        "epoch_not_match with no current_regions" => errorpb::Error {
            epoch_not_match: Some(Default::default()),
            ..error
        },
        "epoch_not_match with this region at an older epoch" | "epoch_not_match otherwise" => {
            let current_regions = vec![metapb::Region {
                id: 1,
                ..Default::default()
            }];
            errorpb::Error {
                epoch_not_match: Some(errorpb::EpochNotMatch { current_regions }),
                ..error
            }
        }
        "stale_command" => errorpb::Error {
            stale_command: Some(Default::default()),
            ..error
        },
        "region_not_found" => errorpb::Error {
            region_not_found: Some(Default::default()),
            ..error
        },
        "server_is_busy" => {
            let busy = errorpb::ServerIsBusy {
                backoff_ms: 100,
                ..Default::default()
            };
            errorpb::Error {
                server_is_busy: Some(busy),
                ..error
            }
        }
        "raft_entry_too_large" => errorpb::Error {
            raft_entry_too_large: Some(Default::default()),
            ..error
        },
        "max_timestamp_not_synced" => errorpb::Error {
            max_timestamp_not_synced: Some(Default::default()),
            ..error
        },
        other if other.starts_with("any other") => errorpb::Error {
            message: "odd".to_owned(),
            ..error
        },
        other => panic!("the table has a new region error: {other}"),
    }
}

/// Rows of the table about region errors: variant, reaction, retries.
fn rows() -> Vec<[String; 3]> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../proto/facts/client_errors.csv"
    );
    let text = std::fs::read_to_string(path).expect("the table is part of the project");
    let rows: Vec<[String; 3]> = text
        .lines()
        .filter_map(|line| line.strip_prefix("errorpb.Error,"))
        .map(|line| {
            let (variant, rest) = line.split_once(',').expect("four columns");
            let (reaction, retries) = rest.rsplit_once(',').expect("four columns");
            [variant, reaction, retries].map(str::to_owned)
        })
        .collect();
    assert_eq!(rows.len(), 12, "a row was added or lost");
    rows
}

#[test]
fn reactions_agree_with_the_table() {
    for [variant, reaction, retries] in rows() {
        let cause = Cause::of_region_error(region_error(&variant));
        let (next, when) = cause.next();
        assert_eq!(cause.executed(), Executed::No, "{variant}");
        match retries.as_str() {
            "at once" => assert_eq!(when, When::Now, "{variant}"),
            "after back-off" => {
                // An epoch answer is used at once when it taught something; the loop backs off when it did not.
                let taught = matches!(cause, Cause::EpochNotMatch { .. });
                assert!(taught || when != When::Now, "{variant}: {when:?}");
            }
            // Busy and unsynced are passing states, and our budget is ten seconds.
            "never"
                if ["server_is_busy", "max_timestamp_not_synced"].contains(&variant.as_str()) =>
            {
                assert_eq!(next, Next::Here, "{variant}");
            }
            "never" => assert_eq!(next, Next::Never, "{variant}"),
            other => panic!("{variant}: {other}"),
        }
        // Dropping the route is asking again. Without a leader we try the next peer first, since peers learn of a leader
        // before placement does; and a stale command says nothing against the route.
        let drops =
            reaction.starts_with("drops the region") || reaction.starts_with("drops region");
        if drops && !["not_leader without leader", "stale_command"].contains(&variant.as_str()) {
            assert_eq!(next, Next::AfterRefresh, "{variant}");
        }
    }
}

#[test]
fn every_kind_of_cause_has_its_reaction() {
    use {Executed::*, Next::*};
    let backoff = When::Backoff;
    let leader = Some(metapb::Peer {
        id: 1,
        store_id: 1,
        ..Default::default()
    });
    let store = StoreId(1);
    let source = || "refused".into();
    let table = [
        (Cause::NotLeader { leader }, Elsewhere, When::Now, No),
        (Cause::NotLeader { leader: None }, Elsewhere, backoff, No),
        (
            Cause::EpochNotMatch { current: vec![] },
            AfterRefresh,
            When::Now,
            No,
        ),
        (Cause::Route { what: "" }, AfterRefresh, backoff, No),
        (Cause::WrongStore, AfterRefresh, backoff, No),
        (
            Cause::PlacementLost { why: String::new() },
            AfterRefresh,
            backoff,
            Perhaps,
        ),
        (
            Cause::NotReady {
                what: "",
                pause: Duration::ZERO,
            },
            Here,
            When::AtLeast(Duration::ZERO),
            No,
        ),
        (Cause::TooLarge { bytes: 1 }, Never, When::Now, No),
        (
            Cause::Refused {
                message: String::new(),
            },
            Never,
            When::Now,
            No,
        ),
        (Cause::Undetermined, Here, backoff, Perhaps),
        (
            Cause::Unreachable {
                store,
                source: source(),
            },
            Elsewhere,
            backoff,
            No,
        ),
        (Cause::QueueFull { store }, Here, backoff, No),
        (
            Cause::Lost {
                store,
                why: String::new(),
            },
            Elsewhere,
            backoff,
            Perhaps,
        ),
        (
            Cause::Placement { why: String::new() },
            AfterRefresh,
            backoff,
            No,
        ),
    ];
    for (cause, next, when, executed) in table {
        assert_eq!(
            (cause.next(), cause.executed()),
            ((next, when), executed),
            "{cause}"
        );
    }
}

#[test]
fn an_unknown_outcome_outweighs_every_other_cause() {
    let both = errorpb::Error {
        undetermined_result: Some(Default::default()),
        not_leader: Some(Default::default()),
        ..Default::default()
    };
    assert!(matches!(Cause::of_region_error(both), Cause::Undetermined));
}

#[test]
fn an_empty_leader_is_no_leader() {
    let empty = errorpb::NotLeader {
        region_id: 1,
        leader: Some(metapb::Peer::default()),
    };
    let cause = Cause::of_region_error(errorpb::Error {
        not_leader: Some(empty),
        ..Default::default()
    });
    assert!(matches!(cause, Cause::NotLeader { leader: None }));
}

#[test]
fn a_store_cannot_park_a_client() {
    let busy = errorpb::ServerIsBusy {
        backoff_ms: u64::MAX,
        ..Default::default()
    };
    let cause = Cause::of_region_error(errorpb::Error {
        server_is_busy: Some(busy),
        ..Default::default()
    });
    assert_eq!(cause.next().1, When::AtLeast(Duration::from_secs(5)));
}
