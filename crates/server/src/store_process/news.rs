//! What placement is told over the stream for regions, in the words of the wire.

use proto::pdpb;
use proto::pontoon::v1::{RegionNews, StepId, StepRefusal, region_news};
use store::event::{OrderAnswer, OrderRefusal};

/// A report of a region.
pub fn report(report: pdpb::RegionHeartbeatRequest) -> RegionNews {
    RegionNews {
        kind: Some(region_news::Kind::Report(report)),
    }
}

/// A refusal of a step.
pub fn refusal(
    header: pdpb::RequestHeader,
    answer: &OrderAnswer,
    reason: &OrderRefusal,
) -> RegionNews {
    let refusal = StepRefusal {
        header: Some(header),
        id: Some(StepId {
            operator_id: answer.id.operator,
            position: answer.id.position,
        }),
        region_id: answer.region.0,
        epoch: answer.epoch,
        term: answer.term,
        kind: reason.kind().into(),
        text: reason.to_string(),
    };
    RegionNews {
        kind: Some(region_news::Kind::Refusal(refusal)),
    }
}

#[cfg(test)]
mod tests {
    use proto::RegionId;
    use proto::pontoon::v1::step_refusal::Kind;
    use raft::PeerId;

    use super::*;

    #[test]
    fn a_refusal_names_the_step_and_the_refuser() {
        let epoch = Some(proto::metapb::RegionEpoch {
            conf_ver: 3,
            version: 4,
        });
        let reason = OrderRefusal::NotCaughtUp {
            peer: PeerId(12),
            lag: 70,
        };
        let answer = OrderAnswer {
            region: RegionId(7),
            id: store::event::StepId {
                operator: 40,
                position: 2,
            },
            epoch,
            term: 9,
            result: Err(reason.clone()),
        };
        let news = refusal(pdpb::RequestHeader::default(), &answer, &reason);
        let Some(region_news::Kind::Refusal(refusal)) = news.kind else {
            panic!("a refusal");
        };
        let id = refusal.id.expect("a step");
        assert_eq!((id.operator_id, id.position), (40, 2));
        assert_eq!(
            (refusal.region_id, refusal.epoch, refusal.term),
            (7, epoch, 9)
        );
        assert_eq!(refusal.kind(), Kind::NotCaughtUp);
        assert_eq!(refusal.text, "peer 12 lags by 70 entries");
    }
}
