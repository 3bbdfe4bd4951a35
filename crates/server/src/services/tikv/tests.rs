//! Errors against the tables of the wire interface, and the checks of requests.

use std::collections::BTreeMap;

use bytes::Bytes;
use proto::kvrpcpb::{self as kv, Context};
use proto::{RegionId, StoreId, memcomparable, metapb};
use raft::PeerId;
use store::event::Refusal;

use super::check::{ApiVersion, KEY_BYTES_MAX, Rules, VALUE_BYTES_MAX};
use super::errors::{Answer, Reject, cause, region_error};
use super::raw::TimesToLive;

const CLIENT_ERRORS: &str = include_str!("../../../../../proto/facts/client_errors.csv");
const CLIENT_FIELDS: &str = include_str!("../../../../../proto/facts/client_fields.csv");

fn region() -> metapb::Region {
    metapb::Region {
        id: 7,
        start_key: "a".into(),
        end_key: "m".into(),
        ..Default::default()
    }
}

/// Every refusal with the variant it is told as.
fn refusals() -> Vec<(Refusal, &'static str)> {
    let leader = metapb::Peer {
        id: 3,
        store_id: 2,
        ..Default::default()
    };
    vec![
        (
            Refusal::NotLeader {
                region: RegionId(7),
                leader: Some(leader),
            },
            "not_leader",
        ),
        (
            Refusal::NotLeader {
                region: RegionId(7),
                leader: None,
            },
            "not_leader",
        ),
        (
            Refusal::NoQuorum {
                region: RegionId(7),
                missing: vec![StoreId(2), StoreId(3)],
            },
            "not_leader",
        ),
        (
            Refusal::EpochNotMatch {
                current: vec![region()],
            },
            "epoch_not_match",
        ),
        (
            Refusal::KeyNotInRegion {
                key: "z".into(),
                region: region(),
            },
            "key_not_in_region",
        ),
        (Refusal::RegionNotFound(RegionId(7)), "region_not_found"),
        (
            Refusal::PeerMismatch {
                asked: PeerId(1),
                local: PeerId(2),
            },
            "mismatch_peer_id",
        ),
        (Refusal::Merging(RegionId(7)), "proposal_in_merging_mode"),
        (Refusal::StaleCommand, "stale_command"),
        (Refusal::Busy { reason: "full" }, "server_is_busy"),
        (
            Refusal::TooLarge {
                region: RegionId(7),
                bytes: 9,
            },
            "raft_entry_too_large",
        ),
        (Refusal::Unknown, "undetermined_result"),
    ]
}

/// What a client does next after each variant of a region error: the retries of the table.
fn reactions() -> BTreeMap<String, String> {
    let mut reactions = BTreeMap::new();
    for line in CLIENT_ERRORS.lines().skip(1) {
        let mut columns = line.split(',');
        let (first, variant, retries) = (columns.next(), columns.next(), columns.next_back());
        if first == Some("errorpb.Error") {
            reactions.insert(
                variant.expect("a variant").to_owned(),
                retries.expect("retries").to_owned(),
            );
        }
    }
    reactions
}

#[test]
fn every_refusal_is_one_variant_with_its_cause() {
    for (refusal, variant) in refusals() {
        let text = refusal.to_string();
        let error = region_error(refusal);
        assert_eq!(error.message, text);
        assert_eq!(cause(&Reject::Region(Box::new(error))), variant);
    }
}

#[test]
fn a_leader_is_named_or_left_out_but_never_empty() {
    let with = region_error(refusals().swap_remove(0).0)
        .not_leader
        .expect("not_leader");
    assert_eq!(
        (with.region_id, with.leader.map(|leader| leader.store_id)),
        (7, Some(2))
    );
    let without = region_error(Refusal::NotLeader {
        region: RegionId(7),
        leader: None,
    });
    assert_eq!(without.not_leader.expect("not_leader").leader, None);
}

#[test]
fn only_refusals_that_no_retry_can_help_end_the_operation() {
    // A client gives up after these, so nothing that passes may be told this way, but for a full queue.
    let reactions = reactions();
    let never: Vec<&str> = reactions
        .iter()
        .filter(|(_, retries)| *retries == "never")
        .map(|(variant, _)| variant.as_str())
        .collect();
    assert_eq!(
        never,
        [
            "max_timestamp_not_synced",
            "raft_entry_too_large",
            "server_is_busy"
        ]
    );
    for (refusal, variant) in refusals() {
        let given_up = never.contains(&variant);
        let meant = matches!(refusal, Refusal::Busy { .. } | Refusal::TooLarge { .. });
        assert_eq!(given_up, meant, "{variant}");
    }
    // The others have a row, or are among those that the table lumps together.
    let listed: Vec<&String> = reactions.keys().collect();
    for (_, variant) in refusals() {
        let lumped = ["mismatch_peer_id", "undetermined_result"].contains(&variant);
        assert!(
            lumped || listed.iter().any(|row| row.contains(variant)),
            "{variant} is not in the table"
        );
    }
}

#[test]
fn an_answer_without_error_field_puts_mistakes_into_a_pair() {
    for line in CLIENT_FIELDS
        .lines()
        .filter(|line| line.starts_with("Tikv,Raw"))
    {
        let columns: Vec<&str> = line.split(',').collect();
        let fields: Vec<&str> = columns[3].split(';').collect();
        assert!(fields.contains(&"region_error"), "{}", columns[1]);
        let own = fields.contains(&"error");
        let in_pair = fields.iter().any(|field| field.ends_with(".error"));
        assert!(own != in_pair, "{} has one place for mistakes", columns[1]);
    }
    let text = || Reject::Text("no".to_owned());
    assert_eq!(kv::RawPutResponse::rejected(text()).error, "no");
    let scan = kv::RawScanResponse::rejected(text());
    assert_eq!(
        scan.kvs[0].error.as_ref().map(|error| error.abort.as_str()),
        Some("no")
    );
    let error = Reject::Region(Box::default());
    assert!(
        kv::RawBatchGetResponse::rejected(error)
            .region_error
            .is_some()
    );
}

fn rules(api: ApiVersion) -> Rules {
    Rules {
        cluster_id: 5,
        store_id: 1,
        api,
    }
}

fn text(reject: Result<(), Reject>) -> String {
    match reject {
        Err(Reject::Text(text)) => text,
        other => panic!("{other:?} is not a text"),
    }
}

#[test]
fn a_request_for_somebody_else_is_refused() {
    let rules = rules(ApiVersion::V1);
    let context = Context::default();
    assert_eq!(rules.check(&context, ""), Ok(()));
    assert_eq!(rules.check(&context, "default"), Ok(()));
    assert!(text(rules.check(&context, "write")).contains("\"write\""));

    let other_cluster = Context {
        cluster_id: 6,
        ..Default::default()
    };
    assert!(text(rules.check(&other_cluster, "")).contains("cluster 6"));
    assert_eq!(
        rules.check(
            &Context {
                cluster_id: 5,
                ..Default::default()
            },
            ""
        ),
        Ok(())
    );

    let peer = Some(metapb::Peer {
        store_id: 2,
        ..Default::default()
    });
    let Err(Reject::Region(error)) = rules.check(
        &Context {
            peer,
            ..Default::default()
        },
        "",
    ) else {
        panic!("another store's peer");
    };
    let mismatch = error.store_not_match.expect("store_not_match");
    assert_eq!(
        (mismatch.request_store_id, mismatch.actual_store_id),
        (2, 1)
    );
}

#[test]
fn the_api_version_must_be_the_clusters() {
    let ask = |version: i32| Context {
        api_version: version,
        ..Default::default()
    };
    for (api, served) in [
        (ApiVersion::V1, kv::ApiVersion::V1),
        (ApiVersion::V2, kv::ApiVersion::V2),
    ] {
        for version in [
            kv::ApiVersion::V1,
            kv::ApiVersion::V1ttl,
            kv::ApiVersion::V2,
            kv::ApiVersion::V3,
        ] {
            assert_eq!(
                rules(api).check(&ask(version.into()), "").is_ok(),
                version == served,
                "{version:?} at {api:?}"
            );
        }
        assert!(text(rules(api).check(&ask(99), "")).contains("unknown"));
    }
}

#[test]
fn keys_and_values_have_limits() {
    let rules = rules(ApiVersion::V1);
    let context = Context {
        region_id: 7,
        ..Default::default()
    };
    let too_large = |rejected: Result<Bytes, Reject>, size: usize| {
        let Err(Reject::Region(error)) = rejected else {
            panic!("{size} bytes must be refused")
        };
        let cause = error.raft_entry_too_large.expect("raft_entry_too_large");
        assert_eq!((cause.region_id, cause.entry_size), (7, size as u64));
    };
    assert!(matches!(
        rules.key(&context, &Bytes::new()),
        Err(Reject::Text(_))
    ));
    assert!(
        rules.bound(&context, &Bytes::new()).is_ok(),
        "an empty bound is unbounded"
    );
    assert!(
        rules
            .key(&context, &vec![b'k'; KEY_BYTES_MAX].into())
            .is_ok()
    );
    too_large(
        rules.key(&context, &vec![b'k'; KEY_BYTES_MAX + 1].into()),
        KEY_BYTES_MAX + 1,
    );
    assert!(
        rules
            .value(&context, &vec![0; VALUE_BYTES_MAX].into())
            .is_ok()
    );
    too_large(
        rules.value(&context, &vec![0; VALUE_BYTES_MAX + 1].into()),
        VALUE_BYTES_MAX + 1,
    );
}

#[test]
fn keys_of_version_2_are_raw_keys_in_encoded_space() {
    let rules = rules(ApiVersion::V2);
    let context = Context::default();
    let key = Bytes::from_static(b"r\0\0\x01hello");
    let stored = rules.key(&context, &key).expect("a raw key");
    assert_eq!(stored, memcomparable::encode(&key));
    assert_eq!(rules.client_key(&stored), key);
    for bad in ["x\0\0\x01txn", "hello", "r", "r\0\0", "s", "sx"] {
        assert!(
            matches!(rules.key(&context, &Bytes::from(bad)), Err(Reject::Text(_))),
            "{bad:?}"
        );
    }
    let end = rules
        .bound(&context, &Bytes::from_static(b"s\0\0\0"))
        .expect("the end of all raw keys");
    assert!(end > stored);
    assert_eq!(rules.bound(&context, &Bytes::new()), Ok(Bytes::new()));

    // A range that holds transactional keys: only what destroys whole ranges speaks of such.
    let other = Bytes::from_static(b"x\0\0\x01");
    assert!(rules.bound(&context, &other).is_err());
    let stored = rules.any_bound(&context, &other).expect("any key");
    assert_eq!(rules.client_key(&stored), other);
}

#[test]
fn values_expire_in_version_2_only() {
    assert_eq!(rules(ApiVersion::V1).expires_at(0, 100), Ok(0));
    assert!(matches!(
        rules(ApiVersion::V1).expires_at(10, 100),
        Err(Reject::Text(_))
    ));
    assert_eq!(rules(ApiVersion::V2).expires_at(0, 100), Ok(0));
    assert_eq!(rules(ApiVersion::V2).expires_at(10, 100), Ok(110));
    assert_eq!(
        rules(ApiVersion::V2).expires_at(u64::MAX, 100),
        Ok(u64::MAX)
    );
}

#[test]
fn times_to_live_are_one_for_all_or_one_each() {
    assert_eq!(TimesToLive::new(9, vec![], 3), Ok(TimesToLive::Same(9)));
    assert_eq!(TimesToLive::new(9, vec![5], 3), Ok(TimesToLive::Same(5)));
    let each = TimesToLive::new(9, vec![1, 2, 3], 3).expect("one each");
    assert_eq!((each.of(0), each.of(2)), (1, 3));
    assert!(matches!(
        TimesToLive::new(0, vec![1, 2], 3),
        Err(Reject::Text(_))
    ));
}
