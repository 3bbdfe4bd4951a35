//! What one attempt met, and what to do next. The retry loop reads only [`Cause::next`] and [`Cause::executed`].

use std::{error::Error as StdError, time::Duration};

use proto::{StoreId, errorpb, metapb};

/// Why one attempt gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// Another peer leads the region, or nobody does at the moment.
    #[error("the peer does not lead the region")]
    NotLeader {
        /// The leader, when the peer knows one.
        leader: Option<metapb::Peer>,
    },
    /// The region changed since we heard of it.
    #[error("the region changed")]
    EpochNotMatch {
        /// The regions that cover its range now, as far as the store knows them.
        current: Vec<metapb::Region>,
    },
    /// The store knows better than our idea of what is where.
    #[error("the route is wrong: {what}")]
    Route {
        /// What was wrong.
        what: &'static str,
    },
    /// Another store has the address.
    #[error("another store has the address")]
    WrongStore,
    /// The store cannot do it at the moment.
    #[error("the store is not ready: {what}")]
    NotReady {
        /// What it waits for.
        what: &'static str,
        /// The least time to leave it alone.
        pause: Duration,
    },
    /// The store does not take requests of this size.
    #[error("the request of {bytes} bytes is too large for the store")]
    TooLarge {
        /// Its size as the store counts it.
        bytes: u64,
    },
    /// The store refuses the request as such.
    #[error("the store refused: {message}")]
    Refused {
        /// The store's words.
        message: String,
    },
    /// The store does not know either whether it was done.
    #[error("the store does not know the outcome")]
    Undetermined,
    /// The request was never sent.
    #[error("store {store} cannot be reached")]
    Unreachable {
        /// The store.
        store: StoreId,
        /// Why.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// More waits for the store than may.
    #[error("too much waits for store {store}")]
    QueueFull {
        /// The store.
        store: StoreId,
    },
    /// The request was sent, and no answer came.
    #[error("the answer of store {store} is lost: {why}")]
    Lost {
        /// The store.
        store: StoreId,
        /// How it was lost.
        why: String,
    },
    /// The placement group does not answer, or not with what was asked.
    #[error("placement gives no answer: {why}")]
    Placement {
        /// What it or the connection said.
        why: String,
    },
    /// The placement group was told to do something, and no answer came.
    #[error("the answer of placement is lost: {why}")]
    PlacementLost {
        /// How it was lost.
        why: String,
    },
}

/// Where the next attempt goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// To the same peer.
    Here,
    /// To another peer of the same region: the one named, or else the next.
    Elsewhere,
    /// Wherever the placement group, or what the store told, says.
    AfterRefresh,
    /// Nowhere.
    Never,
}

/// When the next attempt may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At once.
    Now,
    /// After a pause that grows with the attempts.
    Backoff,
    /// The same, but at least this long.
    AtLeast(Duration),
}

/// Whether the request had an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executed {
    /// It has none, now or later.
    No,
    /// It may have one, now or later.
    Perhaps,
}

impl Cause {
    /// What to do after this.
    pub fn next(&self) -> (Next, When) {
        match self {
            Self::NotLeader { leader: Some(_) } => (Next::Elsewhere, When::Now),
            Self::NotLeader { leader: None } => (Next::Elsewhere, When::Backoff),
            Self::EpochNotMatch { .. } => (Next::AfterRefresh, When::Now),
            Self::Route { .. }
            | Self::WrongStore
            | Self::Placement { .. }
            | Self::PlacementLost { .. } => (Next::AfterRefresh, When::Backoff),
            Self::NotReady { pause, .. } => (Next::Here, When::AtLeast(*pause)),
            Self::Undetermined | Self::QueueFull { .. } => (Next::Here, When::Backoff),
            Self::Unreachable { .. } | Self::Lost { .. } => (Next::Elsewhere, When::Backoff),
            Self::TooLarge { .. } | Self::Refused { .. } => (Next::Never, When::Now),
        }
    }

    /// Whether the attempt had an effect.
    pub fn executed(&self) -> Executed {
        match self {
            Self::Undetermined | Self::Lost { .. } | Self::PlacementLost { .. } => {
                Executed::Perhaps
            }
            Self::NotLeader { .. }
            | Self::EpochNotMatch { .. }
            | Self::Route { .. }
            | Self::WrongStore
            | Self::NotReady { .. }
            | Self::TooLarge { .. }
            | Self::Refused { .. }
            | Self::Unreachable { .. }
            | Self::QueueFull { .. }
            | Self::Placement { .. } => Executed::No,
        }
    }

    /// The cause in a region error. A store sets one; of several the one that asks for most care counts.
    pub(crate) fn of_region_error(error: errorpb::Error) -> Self {
        let route = |what| Self::Route { what };
        let not_ready = |what| Self::NotReady {
            what,
            pause: Duration::ZERO,
        };
        let errorpb::Error {
            message: _,
            not_leader,
            region_not_found,
            key_not_in_region,
            epoch_not_match,
            server_is_busy,
            stale_command,
            store_not_match,
            raft_entry_too_large,
            max_timestamp_not_synced,
            read_index_not_ready,
            proposal_in_merging_mode,
            data_is_not_ready,
            region_not_initialized,
            disk_full,
            recovery_in_progress,
            flashback_in_progress,
            flashback_not_prepared,
            is_witness,
            mismatch_peer_id,
            bucket_version_not_match,
            undetermined_result,
        } = error;
        if undetermined_result.is_some() {
            return Self::Undetermined;
        }
        if let Some(too_large) = raft_entry_too_large {
            return Self::TooLarge {
                bytes: too_large.entry_size,
            };
        }
        if let Some(busy) = server_is_busy {
            // A store does not get to park a client for good.
            let pause = Duration::from_millis(busy.backoff_ms.min(5_000));
            return Self::NotReady {
                what: "it is busy",
                pause,
            };
        }
        if let Some(not_leader) = not_leader {
            let leader = not_leader
                .leader
                .filter(|leader| leader.id != 0 && leader.store_id != 0);
            return Self::NotLeader { leader };
        }
        if let Some(epoch) = epoch_not_match {
            return Self::EpochNotMatch {
                current: epoch.current_regions,
            };
        }
        let causes = [
            (store_not_match.is_some(), Self::WrongStore),
            (
                region_not_found.is_some(),
                route("the store has no such region"),
            ),
            (
                mismatch_peer_id.is_some(),
                route("the store has another peer of the region"),
            ),
            (
                key_not_in_region.is_some(),
                route("the key is not in the region"),
            ),
            (is_witness.is_some(), route("the peer holds no data")),
            (
                bucket_version_not_match.is_some(),
                route("the buckets changed"),
            ),
            (
                flashback_not_prepared.is_some(),
                route("the region is not prepared for flashback"),
            ),
            // The command is certain not to be applied: another one has its place in the log.
            (stale_command.is_some(), not_ready("the leader changed")),
            (
                proposal_in_merging_mode.is_some(),
                not_ready("the region is merging"),
            ),
            (
                region_not_initialized.is_some(),
                not_ready("the peer is being created"),
            ),
            (
                read_index_not_ready.is_some(),
                not_ready("the leader has not committed yet"),
            ),
            (data_is_not_ready.is_some(), not_ready("the peer is behind")),
            (
                max_timestamp_not_synced.is_some(),
                not_ready("timestamps are not synced"),
            ),
            (
                recovery_in_progress.is_some(),
                not_ready("the cluster recovers"),
            ),
            (
                flashback_in_progress.is_some(),
                not_ready("a flashback runs"),
            ),
            (disk_full.is_some(), not_ready("its disk is full")),
        ];
        let set = causes.into_iter().find(|(set, _)| *set);
        set.map_or(route("the store gave no reason"), |(_, cause)| cause)
    }
}

#[cfg(test)]
mod tests;
