//! What placement asks of a region, in the words of the wire and of the store.

use proto::pontoon::v1 as wire;
use proto::{RegionId, eraftpb, metapb, pdpb};
use raft::PeerId;
use store::event::{Order, OrderKind, Purpose, StepId};

/// The order in an answer of the heartbeat stream; `None` when it asks for nothing that stores of this version do.
///
/// `region` is the descriptor known here. It tells a voter that shall become a learner from a peer that is new.
pub fn from_wire(
    answer: pdpb::RegionHeartbeatResponse,
    id: wire::StepId,
    purpose: wire::Purpose,
    region: Option<&metapb::Region>,
) -> Option<Order> {
    let region_id = RegionId::from_wire(answer.region_id)?;
    let epoch = answer.region_epoch?;
    let kind = kind(answer, region)?;
    Some(Order {
        region: region_id,
        epoch,
        id: StepId {
            operator: id.operator_id,
            position: id.position,
        },
        kind,
        purpose: match purpose {
            wire::Purpose::Balance => Purpose::Balance,
            wire::Purpose::Restore => Purpose::Repair,
        },
    })
}

/// What an order asks for, in a word. Keys stay out of logs (R36).
pub fn name(kind: &OrderKind) -> &'static str {
    match kind {
        OrderKind::Split(_) => "split",
        OrderKind::AddLearner(_) => "add_learner",
        OrderKind::RemoveLearner(_) => "remove_learner",
        OrderKind::EnterJoint { .. } => "enter_joint",
        OrderKind::TransferLeader(_) => "transfer_leader",
        OrderKind::Merge { .. } => "merge",
    }
}

fn kind(
    answer: pdpb::RegionHeartbeatResponse,
    region: Option<&metapb::Region>,
) -> Option<OrderKind> {
    if let Some(change) = answer.change_peer {
        return single(change, region);
    }
    if let Some(changes) = answer.change_peer_v2 {
        return match <[pdpb::ChangePeer; 1]>::try_from(changes.changes) {
            Ok([change]) => single(change, region),
            Err(changes) => joint(changes),
        };
    }
    if let Some(transfer) = answer.transfer_leader {
        return Some(OrderKind::TransferLeader(PeerId(transfer.peer?.id)));
    }
    if let Some(merge) = answer.merge {
        let target = proto::RegionId::from_wire(merge.target?.id)?;
        return Some(OrderKind::Merge { target });
    }
    let split = answer.split_region?;
    (split.policy() == pdpb::CheckPolicy::Usekey && !split.keys.is_empty())
        .then_some(OrderKind::Split(split.keys))
}

fn single(change: pdpb::ChangePeer, region: Option<&metapb::Region>) -> Option<OrderKind> {
    use eraftpb::ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
    let change_type = change.change_type();
    let peer = change.peer?;
    let id = PeerId(peer.id);
    let present =
        region.is_some_and(|region| region.peers.iter().any(|present| present.id == peer.id));
    Some(match change_type {
        AddLearnerNode if present => OrderKind::EnterJoint {
            promote: Vec::new(),
            demote: vec![id],
        },
        AddLearnerNode => OrderKind::AddLearner(peer),
        AddNode => OrderKind::EnterJoint {
            promote: vec![id],
            demote: Vec::new(),
        },
        RemoveNode => OrderKind::RemoveLearner(id),
    })
}

/// Several changes at once: promotions, and demotions written as "becomes a learner". None at all asks to leave a joint
/// configuration, which its leader does unasked.
fn joint(changes: Vec<pdpb::ChangePeer>) -> Option<OrderKind> {
    let (mut promote, mut demote) = (Vec::new(), Vec::new());
    for change in changes {
        let id = PeerId(change.peer.as_ref()?.id);
        match change.change_type() {
            eraftpb::ConfChangeType::AddNode => promote.push(id),
            eraftpb::ConfChangeType::AddLearnerNode => demote.push(id),
            eraftpb::ConfChangeType::RemoveNode => return None,
        }
    }
    (!promote.is_empty() || !demote.is_empty()).then_some(OrderKind::EnterJoint { promote, demote })
}

#[cfg(test)]
mod tests {
    use eraftpb::ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};

    use super::*;

    fn change(id: u64, change_type: eraftpb::ConfChangeType) -> pdpb::ChangePeer {
        let peer = metapb::Peer {
            id,
            store_id: id * 10,
            ..Default::default()
        };
        pdpb::ChangePeer {
            peer: Some(peer),
            change_type: change_type.into(),
        }
    }

    fn answer() -> pdpb::RegionHeartbeatResponse {
        let region_epoch = Some(metapb::RegionEpoch {
            conf_ver: 2,
            version: 3,
        });
        pdpb::RegionHeartbeatResponse {
            region_id: 7,
            region_epoch,
            ..Default::default()
        }
    }

    fn translated(answer: pdpb::RegionHeartbeatResponse) -> Option<OrderKind> {
        let region = metapb::Region {
            id: 7,
            peers: vec![metapb::Peer {
                id: 1,
                ..Default::default()
            }],
            ..Default::default()
        };
        let id = wire::StepId {
            operator_id: 40,
            position: 2,
        };
        let purpose = wire::Purpose::Restore;
        let order = from_wire(answer, id, purpose, Some(&region))?;
        assert_eq!((order.id.operator, order.id.position), (40, 2));
        assert_eq!(order.purpose, Purpose::Repair);
        assert_eq!((order.region, order.epoch.version), (RegionId(7), 3));
        Some(order.kind)
    }

    #[test]
    fn changes_of_peers_are_translated() {
        let one = |change| {
            translated(pdpb::RegionHeartbeatResponse {
                change_peer: Some(change),
                ..answer()
            })
        };
        assert!(
            matches!(one(change(2, AddLearnerNode)), Some(OrderKind::AddLearner(peer)) if peer.store_id == 20)
        );
        assert!(matches!(
            one(change(2, RemoveNode)),
            Some(OrderKind::RemoveLearner(PeerId(2)))
        ));
        assert!(
            matches!(one(change(2, AddNode)), Some(OrderKind::EnterJoint { promote, .. }) if promote == [PeerId(2)])
        );
        assert!(
            matches!(one(change(1, AddLearnerNode)), Some(OrderKind::EnterJoint { demote, .. }) if demote == [PeerId(1)]),
            "a peer that is there already becomes a learner"
        );

        let many = |changes| {
            let change_peer_v2 = Some(pdpb::ChangePeerV2 { changes });
            translated(pdpb::RegionHeartbeatResponse {
                change_peer_v2,
                ..answer()
            })
        };
        let Some(OrderKind::EnterJoint { promote, demote }) =
            many(vec![change(2, AddNode), change(1, AddLearnerNode)])
        else {
            panic!("a joint change");
        };
        assert_eq!((promote, demote), (vec![PeerId(2)], vec![PeerId(1)]));
        assert!(many(vec![]).is_none());
        assert!(many(vec![change(2, AddNode), change(1, RemoveNode)]).is_none());
        assert!(matches!(
            many(vec![change(3, AddLearnerNode)]),
            Some(OrderKind::AddLearner(_))
        ));
    }

    #[test]
    fn other_steps_are_translated_or_ignored() {
        let transfer = pdpb::TransferLeader {
            peer: Some(metapb::Peer {
                id: 5,
                ..Default::default()
            }),
            peers: vec![],
        };
        let transfer = translated(pdpb::RegionHeartbeatResponse {
            transfer_leader: Some(transfer),
            ..answer()
        });
        assert!(matches!(
            transfer,
            Some(OrderKind::TransferLeader(PeerId(5)))
        ));

        let split = |policy: pdpb::CheckPolicy, keys: Vec<bytes::Bytes>| {
            let split_region = Some(pdpb::SplitRegion {
                policy: policy.into(),
                keys,
            });
            translated(pdpb::RegionHeartbeatResponse {
                split_region,
                ..answer()
            })
        };
        assert!(
            matches!(split(pdpb::CheckPolicy::Usekey, vec!["k".into()]), Some(OrderKind::Split(keys)) if keys == ["k"])
        );
        assert!(split(pdpb::CheckPolicy::Scan, vec![]).is_none());
        let merge = |id| {
            let region = metapb::Region {
                id,
                ..Default::default()
            };
            translated(pdpb::RegionHeartbeatResponse {
                merge: Some(pdpb::Merge {
                    target: Some(region),
                }),
                ..answer()
            })
        };
        assert!(
            matches!(merge(9), Some(OrderKind::Merge { target }) if target == proto::RegionId(9))
        );
        assert!(merge(0).is_none());
        assert!(translated(answer()).is_none());
        assert!(
            from_wire(
                pdpb::RegionHeartbeatResponse {
                    region_id: 0,
                    ..answer()
                },
                wire::StepId::default(),
                wire::Purpose::Balance,
                None
            )
            .is_none()
        );
    }
}
