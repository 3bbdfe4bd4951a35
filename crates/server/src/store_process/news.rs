//! What placement is told over the stream for regions, in the words of the wire.

use proto::pdpb;
use proto::pontoon::v1::{
    self as wire, JournalNumber, RegionNews, StepId, StepRefusal, own_split::Cause, region_news,
};
use store::SplitCause;
use store::event::{Divergence, OrderAnswer, OrderRefusal, OwnSplit};

use crate::runtime::shortened;

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

/// A split that a leader decided, or wanted and could not have.
pub fn own_split(header: pdpb::RequestHeader, split: &OwnSplit) -> RegionNews {
    let number = |(name, value): &(&'static str, f64)| JournalNumber {
        name: (*name).into(),
        value: *value,
    };
    let keys: Vec<_> = split.keys.iter().map(|key| shortened(key)).collect();
    let cause = match split.cause {
        SplitCause::Size => Cause::Size,
        SplitCause::Load => Cause::Load,
        SplitCause::Appends => Cause::Appends,
    };
    let told = wire::OwnSplit {
        header: Some(header),
        region_id: split.region.0,
        epoch: split.epoch,
        cause: cause.into(),
        refused: split.result.is_err(),
        text: match &split.result {
            Ok(()) => keys.join(", "),
            Err(reason) => reason.to_string(),
        },
        inputs: split.inputs.iter().map(number).collect(),
    };
    RegionNews {
        kind: Some(region_news::Kind::OwnSplit(told)),
    }
}

/// Two replicas that do not hold the same.
pub fn divergence(header: pdpb::RequestHeader, divergence: &Divergence) -> RegionNews {
    RegionNews {
        kind: Some(region_news::Kind::Divergence(wire::Divergence {
            header: Some(header),
            region_id: divergence.region.0,
            peer_id: divergence.peer.0,
            other_id: divergence.other.map_or(0, |other| other.0),
            index: divergence.index,
        })),
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

    #[test]
    fn a_split_tells_where_and_why_or_why_not() {
        let split = OwnSplit {
            region: RegionId(7),
            epoch: None,
            cause: SplitCause::Load,
            keys: vec!["key".into(), [b'k'; 100].to_vec().into()],
            inputs: vec![("requests per second", 120.0)],
            result: Ok(()),
        };
        let told = |split: &OwnSplit| {
            let news = own_split(pdpb::RequestHeader::default(), split);
            let Some(region_news::Kind::OwnSplit(told)) = news.kind else {
                panic!("a split");
            };
            told
        };
        let done = told(&split);
        assert_eq!((done.region_id, done.cause()), (7, Cause::Load));
        assert!(!done.refused);
        assert_eq!(done.text, format!("key, {}…", "k".repeat(24)));
        assert_eq!(done.inputs[0].name, "requests per second");
        let hot = OwnSplit {
            result: Err(store::event::NoSplit::HotKey),
            ..split
        };
        let hot = told(&hot);
        assert!(hot.refused);
        assert_eq!(hot.text, "one key has most of its load");
    }
}
