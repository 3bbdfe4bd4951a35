//! Refusals in the words of the wire. Clients act on the variant (`proto/facts/client_errors.csv`), so the choice of one
//! is a choice of what the client does next.

use std::time::Duration;

use proto::{errorpb, metapb};
use store::event::Refusal;

/// Least time a client should wait after [`Refusal::Busy`].
const BUSY_BACKOFF: Duration = Duration::from_millis(100);

/// Why a request is answered with an error.
#[derive(Clone, Debug, PartialEq)]
pub enum Reject {
    /// A cause that clients act upon: they look the region up again, wait, or give up.
    Region(Box<errorpb::Error>),
    /// A mistake in the request, or an outcome that no retry may touch. Handed to the caller as it is.
    Text(String),
}

impl From<Refusal> for Reject {
    fn from(refusal: Refusal) -> Self {
        Reject::Region(Box::new(region_error(refusal)))
    }
}

/// The table: one wire error for each refusal.
pub fn region_error(refusal: Refusal) -> errorpb::Error {
    let message = refusal.to_string();
    let error = errorpb::Error {
        message,
        ..Default::default()
    };
    match refusal {
        Refusal::NotLeader { region, leader } => errorpb::Error {
            not_leader: Some(errorpb::NotLeader {
                region_id: region.0,
                leader,
            }),
            ..error
        },
        // Busy would make clients give up; like this they come back. Who is missing stands in the message, for people.
        Refusal::NoQuorum { region, missing: _ } => errorpb::Error {
            not_leader: Some(errorpb::NotLeader {
                region_id: region.0,
                leader: None,
            }),
            ..error
        },
        Refusal::EpochNotMatch { current } => errorpb::Error {
            epoch_not_match: Some(errorpb::EpochNotMatch {
                current_regions: current,
            }),
            ..error
        },
        Refusal::KeyNotInRegion { key, region } => {
            let metapb::Region {
                id,
                start_key,
                end_key,
                ..
            } = region;
            let cause = errorpb::KeyNotInRegion {
                key,
                region_id: id,
                start_key,
                end_key,
            };
            errorpb::Error {
                key_not_in_region: Some(cause),
                ..error
            }
        }
        Refusal::RegionNotFound(region) => errorpb::Error {
            region_not_found: Some(errorpb::RegionNotFound {
                region_id: region.0,
            }),
            ..error
        },
        Refusal::PeerMismatch { asked, local } => {
            let cause = errorpb::MismatchPeerId {
                request_peer_id: asked.0,
                store_peer_id: local.0,
            };
            errorpb::Error {
                mismatch_peer_id: Some(cause),
                ..error
            }
        }
        Refusal::Merging(region) => errorpb::Error {
            proposal_in_merging_mode: Some(errorpb::ProposalInMergingMode {
                region_id: region.0,
            }),
            ..error
        },
        Refusal::StaleCommand => errorpb::Error {
            stale_command: Some(errorpb::StaleCommand {}),
            ..error
        },
        Refusal::Busy { reason } => {
            let cause = errorpb::ServerIsBusy {
                reason: reason.to_owned(),
                backoff_ms: BUSY_BACKOFF.as_millis() as u64,
                ..Default::default()
            };
            errorpb::Error {
                server_is_busy: Some(cause),
                ..error
            }
        }
        Refusal::TooLarge { region, bytes } => {
            let cause = errorpb::RaftEntryTooLarge {
                region_id: region.0,
                entry_size: bytes,
            };
            errorpb::Error {
                raft_entry_too_large: Some(cause),
                ..error
            }
        }
        Refusal::Unknown => {
            let cause = errorpb::UndeterminedResult {
                message: error.message.clone(),
            };
            errorpb::Error {
                undetermined_result: Some(cause),
                ..error
            }
        }
    }
}

/// The request was meant for another store.
pub(super) fn store_not_match(asked: u64, actual: u64) -> Reject {
    Reject::Region(Box::new(errorpb::Error {
        message: format!("store {asked} was asked for, store {actual} is here"),
        store_not_match: Some(errorpb::StoreNotMatch {
            request_store_id: asked,
            actual_store_id: actual,
        }),
        ..Default::default()
    }))
}

/// Something in the request is larger than may be stored.
pub(super) fn too_large(region_id: u64, what: &str, bytes: usize, bytes_max: usize) -> Reject {
    let cause = errorpb::RaftEntryTooLarge {
        region_id,
        entry_size: bytes as u64,
    };
    Reject::Region(Box::new(errorpb::Error {
        message: format!("a {what} of {bytes} bytes is too large: at most {bytes_max} are stored"),
        raft_entry_too_large: Some(cause),
        ..Default::default()
    }))
}

/// The name of what an error says, for metrics: a closed set.
pub(super) fn cause(reject: &Reject) -> &'static str {
    let Reject::Region(error) = reject else {
        return "invalid";
    };
    let errorpb::Error {
        not_leader,
        region_not_found,
        key_not_in_region,
        epoch_not_match,
        ..
    } = &**error;
    let errorpb::Error {
        server_is_busy,
        stale_command,
        store_not_match,
        raft_entry_too_large,
        ..
    } = &**error;
    let errorpb::Error {
        mismatch_peer_id,
        proposal_in_merging_mode,
        undetermined_result,
        ..
    } = &**error;
    let causes = [
        (not_leader.is_some(), "not_leader"),
        (region_not_found.is_some(), "region_not_found"),
        (key_not_in_region.is_some(), "key_not_in_region"),
        (epoch_not_match.is_some(), "epoch_not_match"),
        (server_is_busy.is_some(), "server_is_busy"),
        (stale_command.is_some(), "stale_command"),
        (store_not_match.is_some(), "store_not_match"),
        (raft_entry_too_large.is_some(), "raft_entry_too_large"),
        (mismatch_peer_id.is_some(), "mismatch_peer_id"),
        (
            proposal_in_merging_mode.is_some(),
            "proposal_in_merging_mode",
        ),
        (undetermined_result.is_some(), "undetermined_result"),
    ];
    causes
        .iter()
        .find(|(set, _)| *set)
        .map_or("other", |(_, name)| name)
}

/// An answer that can carry a [`Reject`].
pub(super) trait Answer: Default {
    fn rejected(reject: Reject) -> Self;

    /// Whether the operation may still have its effect, which our own client is told beside the answer
    /// ([`proto::OUTCOME_UNKNOWN`]).
    fn outcome_is_unknown(&self) -> bool {
        false
    }
}

/// What the caller of a compare-and-swap reads when its outcome is not known.
pub(super) const SWAP_UNKNOWN: &str =
    "the outcome of the compare-and-swap is not known: read the key";

impl Answer for proto::kvrpcpb::RawCasResponse {
    fn rejected(reject: Reject) -> Self {
        match reject {
            Reject::Region(error) => Self {
                region_error: Some(error),
                ..Default::default()
            },
            Reject::Text(error) => Self {
                error,
                ..Default::default()
            },
        }
    }

    fn outcome_is_unknown(&self) -> bool {
        self.error == SWAP_UNKNOWN
    }
}

/// For answers with a string of their own beside the region error.
macro_rules! answer_with_text {
    ($($name:ident),* $(,)?) => {$(
        impl Answer for proto::kvrpcpb::$name {
            fn rejected(reject: Reject) -> Self {
                match reject {
                    Reject::Region(error) => Self { region_error: Some(error), ..Default::default() },
                    Reject::Text(error) => Self { error, ..Default::default() },
                }
            }
        }
    )*};
}

/// For answers whose only place for a mistake in the request is the error of a pair.
macro_rules! answer_with_pairs {
    ($($name:ident . $pairs:ident),* $(,)?) => {$(
        impl Answer for proto::kvrpcpb::$name {
            fn rejected(reject: Reject) -> Self {
                match reject {
                    Reject::Region(error) => Self { region_error: Some(error), ..Default::default() },
                    Reject::Text(abort) => {
                        let error = proto::kvrpcpb::KeyError { abort, ..Default::default() };
                        let pair = proto::kvrpcpb::KvPair { error: Some(Box::new(error)), ..Default::default() };
                        Self { $pairs: vec![pair], ..Default::default() }
                    }
                }
            }
        }
    )*};
}

answer_with_text!(
    RawGetResponse,
    RawGetKeyTtlResponse,
    RawPutResponse,
    RawBatchPutResponse,
    RawDeleteResponse,
    RawBatchDeleteResponse,
    RawDeleteRangeResponse,
    RawCoprocessorResponse,
    UnsafeDestroyRangeResponse,
);
answer_with_pairs!(
    RawBatchGetResponse.pairs,
    RawScanResponse.kvs,
    RawBatchScanResponse.kvs
);
