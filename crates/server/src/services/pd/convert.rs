//! The placement machine's types on the wire.

use std::time::Duration;

use placement::{OperatorView, OrderKind, Refusal, RegionInfo, Space, State, StoreInfo};
use proto::{eraftpb, metapb, pdpb};

/// A refusal as clients and stores of the public interface act on it (`client_errors.csv`): whatever it is, a client asks
/// the members for the leader and tries again. What a store must not repeat has a type of its own.
pub fn error(refusal: &Refusal) -> pdpb::Error {
    let kind = match refusal {
        // An address is free once the store that had it is silent, so asking again helps.
        Refusal::NotLeader | Refusal::Busy(_) | Refusal::AddressInUse { .. } => {
            pdpb::ErrorType::Unknown
        }
        Refusal::NotBootstrapped => pdpb::ErrorType::NotBootstrapped,
        Refusal::AlreadyBootstrapped => pdpb::ErrorType::AlreadyBootstrapped,
        Refusal::RegionNotFound(_) => pdpb::ErrorType::RegionNotFound,
        Refusal::StoreTombstone(_) => pdpb::ErrorType::StoreTombstone,
        Refusal::StaleBoot { .. } => pdpb::ErrorType::DuplicatedEntry,
        Refusal::StoreNotFound(_) | Refusal::KeyspaceNotFound(_) => pdpb::ErrorType::EntryNotFound,
        Refusal::Rules(_) | Refusal::Invalid(_) => pdpb::ErrorType::InvalidValue,
    };
    pdpb::Error {
        r#type: kind.into(),
        message: refusal.to_string(),
    }
}

/// A refusal where the interface has only a status.
pub fn status(refusal: &Refusal) -> tonic::Status {
    match refusal {
        Refusal::NotLeader => tonic::Status::unavailable(refusal.to_string()),
        Refusal::Busy(_) => tonic::Status::resource_exhausted(refusal.to_string()),
        Refusal::Rules(_) | Refusal::Invalid(_) => {
            tonic::Status::invalid_argument(refusal.to_string())
        }
        Refusal::NotBootstrapped
        | Refusal::AlreadyBootstrapped
        | Refusal::RegionNotFound(_)
        | Refusal::StoreNotFound(_)
        | Refusal::StoreTombstone(_)
        | Refusal::AddressInUse { .. }
        | Refusal::StaleBoot { .. }
        | Refusal::KeyspaceNotFound(_) => tonic::Status::failed_precondition(refusal.to_string()),
    }
}

/// A report of a region's leader. `None` when it lacks the region.
pub fn report(request: pdpb::RegionHeartbeatRequest) -> Option<RegionInfo> {
    let down = |stats: pdpb::PeerStats| Some((stats.peer?, stats.down_seconds));
    let told = |interval: &pdpb::TimeInterval| {
        interval
            .end_timestamp
            .saturating_sub(interval.start_timestamp)
    };
    let seconds = request.interval.as_ref().map_or(0, told);
    let rate = |sum: u64| sum.checked_div(seconds).unwrap_or(0);
    let queries = request.query_stats.unwrap_or_default();
    let sum = |counts: [u64; 3]| counts.into_iter().fold(0, u64::saturating_add);
    let write_requests = sum([queries.put, queries.delete, queries.delete_range]);
    let read_requests = sum([queries.get, queries.scan, queries.coprocessor]);
    Some(RegionInfo {
        region: request.region?,
        // A peer without id is how older stores say that nobody leads.
        leader: request.leader.filter(|leader| leader.id != 0),
        term: request.term,
        down: request.down_peers.into_iter().filter_map(down).collect(),
        pending: request.pending_peers,
        damaged: Vec::new(),
        bytes: request.approximate_size,
        keys: request.approximate_keys,
        written_bytes: rate(request.bytes_written),
        written_keys: rate(request.keys_written),
        read_bytes: rate(request.bytes_read),
        read_keys: rate(request.keys_read),
        write_requests: rate(write_requests),
        read_requests: rate(read_requests),
        interval: Duration::from_secs(seconds),
    })
}

/// Space of a store.
pub fn space(stats: &pdpb::StoreStats) -> Space {
    Space {
        capacity_bytes: stats.capacity,
        available_bytes: stats.available,
        used_bytes: stats.used_size,
        regions: stats.region_count,
    }
}

/// A store's figures, as last told.
pub fn stats(info: &StoreInfo) -> pdpb::StoreStats {
    let space = info.space.unwrap_or_default();
    pdpb::StoreStats {
        store_id: info.store.id,
        capacity: space.capacity_bytes,
        available: space.available_bytes,
        used_size: space.used_bytes,
        region_count: space.regions,
        is_stopping: info.stopping,
        ..Default::default()
    }
}

/// A step for a region's leader.
pub fn order(order: &placement::Order, cluster_id: u64) -> pdpb::RegionHeartbeatResponse {
    let mut response = pdpb::RegionHeartbeatResponse {
        header: Some(pdpb::ResponseHeader {
            cluster_id,
            error: None,
        }),
        region_id: order.region.0,
        region_epoch: Some(order.epoch),
        target_peer: Some(order.leader),
        ..Default::default()
    };
    use eraftpb::ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
    match &order.kind {
        OrderKind::AddLearner(peer) => {
            response.change_peer = Some(change(*peer, metapb::PeerRole::Learner, AddLearnerNode))
        }
        OrderKind::RemoveLearner(peer) => {
            response.change_peer = Some(change(*peer, metapb::PeerRole::Learner, RemoveNode));
        }
        OrderKind::Swap { promote, demote } => {
            let promote = promote
                .iter()
                .map(|peer| change(*peer, metapb::PeerRole::Voter, AddNode));
            let demote = demote
                .iter()
                .map(|peer| change(*peer, metapb::PeerRole::Learner, AddLearnerNode));
            response.change_peer_v2 = Some(pdpb::ChangePeerV2 {
                changes: promote.chain(demote).collect(),
            });
        }
        OrderKind::TransferLeader(peer) => {
            response.transfer_leader = Some(pdpb::TransferLeader {
                peer: Some(*peer),
                peers: vec![*peer],
            });
        }
        OrderKind::Split(keys) => {
            let policy = pdpb::CheckPolicy::Usekey.into();
            response.split_region = Some(pdpb::SplitRegion {
                policy,
                keys: keys.clone(),
            });
        }
        OrderKind::Merge(target) => {
            response.merge = Some(pdpb::Merge {
                target: Some(target.clone()),
            });
        }
    }
    response
}

fn change(
    peer: metapb::Peer,
    role: metapb::PeerRole,
    kind: eraftpb::ConfChangeType,
) -> pdpb::ChangePeer {
    let peer = metapb::Peer {
        role: role.into(),
        ..peer
    };
    pdpb::ChangePeer {
        peer: Some(peer),
        change_type: kind.into(),
    }
}

/// A region as an answer to a lookup.
pub fn region_response(
    header: pdpb::ResponseHeader,
    info: Option<RegionInfo>,
) -> pdpb::GetRegionResponse {
    let Some(info) = info else {
        return pdpb::GetRegionResponse {
            header: Some(header),
            ..Default::default()
        };
    };
    let region = region(info);
    pdpb::GetRegionResponse {
        header: Some(header),
        region: region.region,
        leader: region.leader,
        down_peers: region.down_peers,
        pending_peers: region.pending_peers,
        buckets: None,
    }
}

/// The newest operator of a region.
pub fn operator(
    header: pdpb::ResponseHeader,
    operator: Option<OperatorView>,
) -> pdpb::GetOperatorResponse {
    let Some(operator) = operator else {
        let message = "the region had no operator lately".to_owned();
        let error = header.error.clone().unwrap_or(pdpb::Error {
            r#type: pdpb::ErrorType::EntryNotFound.into(),
            message,
        });
        return pdpb::GetOperatorResponse {
            header: Some(pdpb::ResponseHeader {
                error: Some(error),
                ..header
            }),
            ..Default::default()
        };
    };
    let status = match operator.state {
        State::Running => pdpb::OperatorStatus::Running,
        State::Done => pdpb::OperatorStatus::Success,
        State::Cancelled => pdpb::OperatorStatus::Cancel,
    };
    pdpb::GetOperatorResponse {
        header: Some(header),
        region_id: operator.region.0,
        desc: operator.cause.into_bytes().into(),
        status: status.into(),
        kind: operator.kind.name().into(),
    }
}

/// A region in a list.
pub fn region(info: RegionInfo) -> pdpb::Region {
    let down = |(peer, down_seconds)| pdpb::PeerStats {
        peer: Some(peer),
        down_seconds,
    };
    pdpb::Region {
        region: Some(info.region),
        leader: info.leader,
        down_peers: info.down.into_iter().map(down).collect(),
        pending_peers: info.pending,
        buckets: None,
    }
}

#[cfg(test)]
mod tests {
    use proto::{RegionId, StoreId};

    use super::*;

    fn peer(id: u64) -> metapb::Peer {
        metapb::Peer {
            id,
            store_id: id,
            ..Default::default()
        }
    }

    fn wire(kind: OrderKind) -> pdpb::RegionHeartbeatResponse {
        let epoch = metapb::RegionEpoch {
            conf_ver: 3,
            version: 4,
        };
        let order = placement::Order {
            store: StoreId(1),
            region: RegionId(7),
            leader: peer(1),
            epoch,
            id: Default::default(),
            kind,
            purpose: Default::default(),
        };
        let response = super::order(&order, 9);
        assert_eq!(
            (response.region_id, response.region_epoch),
            (7, Some(epoch))
        );
        assert_eq!(
            response.header.as_ref().map(|header| header.cluster_id),
            Some(9)
        );
        response
    }

    #[test]
    fn orders_are_said_in_the_public_words() {
        let change = wire(OrderKind::AddLearner(peer(4)))
            .change_peer
            .expect("a change");
        assert_eq!(
            change.change_type(),
            eraftpb::ConfChangeType::AddLearnerNode
        );
        assert_eq!(
            change.peer.expect("a peer").role(),
            metapb::PeerRole::Learner
        );
        let change = wire(OrderKind::RemoveLearner(peer(4)))
            .change_peer
            .expect("a change");
        assert_eq!(change.change_type(), eraftpb::ConfChangeType::RemoveNode);
        let swap = wire(OrderKind::Swap {
            promote: vec![peer(4)],
            demote: vec![peer(2)],
        });
        let kinds: Vec<_> = swap
            .change_peer_v2
            .expect("changes")
            .changes
            .iter()
            .map(pdpb::ChangePeer::change_type)
            .collect();
        assert_eq!(
            kinds,
            [
                eraftpb::ConfChangeType::AddNode,
                eraftpb::ConfChangeType::AddLearnerNode
            ]
        );
        let transfer = wire(OrderKind::TransferLeader(peer(2)))
            .transfer_leader
            .expect("a transfer");
        assert_eq!(transfer.peer, Some(peer(2)));
        let split = wire(OrderKind::Split(vec!["k".into()]))
            .split_region
            .expect("a split");
        assert_eq!(
            (split.policy(), split.keys),
            (pdpb::CheckPolicy::Usekey, vec!["k".into()])
        );
        let target = metapb::Region {
            id: 9,
            ..Default::default()
        };
        let merge = wire(OrderKind::Merge(target.clone()))
            .merge
            .expect("a merge");
        assert_eq!(merge.target, Some(target));
    }

    #[test]
    fn sums_of_a_report_become_rates() {
        let request = pdpb::RegionHeartbeatRequest {
            region: Some(metapb::Region::default()),
            bytes_written: 3_000,
            keys_written: 90,
            bytes_read: 600,
            keys_read: 30,
            approximate_size: 5,
            approximate_keys: 6,
            query_stats: Some(pdpb::QueryStats {
                get: 60,
                scan: 30,
                put: 300,
                delete: 30,
                delete_range: 30,
                ..Default::default()
            }),
            interval: Some(pdpb::TimeInterval {
                start_timestamp: 70,
                end_timestamp: 100,
            }),
            ..Default::default()
        };
        let info = report(request.clone()).expect("a region");
        assert_eq!((info.written_bytes, info.written_keys), (100, 3));
        assert_eq!((info.read_bytes, info.read_keys), (20, 1));
        assert_eq!((info.write_requests, info.read_requests), (12, 3));
        assert_eq!(info.interval, Duration::from_secs(30));
        assert_eq!((info.bytes, info.keys), (5, 6));
        let timeless = pdpb::RegionHeartbeatRequest {
            interval: None,
            ..request
        };
        let info = report(timeless).expect("a region");
        assert_eq!((info.written_bytes, info.interval), (0, Duration::ZERO));
    }

    /// R34: whoever counts more than there can be gets no further than the end of the numbers.
    #[test]
    fn counts_of_a_report_end_at_the_largest_number() {
        let request = pdpb::RegionHeartbeatRequest {
            region: Some(metapb::Region::default()),
            query_stats: Some(pdpb::QueryStats {
                get: u64::MAX,
                scan: 1,
                put: u64::MAX,
                delete_range: u64::MAX,
                ..Default::default()
            }),
            interval: Some(pdpb::TimeInterval {
                start_timestamp: 0,
                end_timestamp: 1,
            }),
            ..Default::default()
        };
        let info = report(request).expect("a region");
        assert_eq!(
            (info.write_requests, info.read_requests),
            (u64::MAX, u64::MAX)
        );
    }

    #[test]
    fn the_newest_operator_is_told_or_none() {
        let header = pdpb::ResponseHeader::default();
        let none = super::operator(header.clone(), None);
        let error = none.header.and_then(|header| header.error);
        assert_eq!(
            error.map(|error| error.r#type()),
            Some(pdpb::ErrorType::EntryNotFound)
        );
        let view = OperatorView {
            id: 3,
            kind: placement::Kind::MoveReplica,
            state: State::Cancelled,
            region: RegionId(7),
            target: None,
            steps: Vec::new(),
            step: 0,
            cause: "store 2 is drained".into(),
            reason: String::new(),
            age_ms: 5,
        };
        let told = super::operator(header, Some(view));
        assert_eq!(
            (told.region_id, told.status(), &told.kind[..]),
            (7, pdpb::OperatorStatus::Cancel, &b"move-replica"[..])
        );
    }

    #[test]
    fn a_report_without_a_leader_has_none() {
        let request = pdpb::RegionHeartbeatRequest {
            region: Some(metapb::Region::default()),
            leader: Some(metapb::Peer::default()),
            ..Default::default()
        };
        assert_eq!(report(request).expect("a region").leader, None);
        assert_eq!(report(pdpb::RegionHeartbeatRequest::default()), None);
    }
}
