//! Stores and regions in the form that commands print.

use bytes::Bytes;
use proto::{
    metapb,
    pontoon::v1::{RegionStatus, StoreStatus},
};
use serde::Serialize;

use crate::cli::{escape, escape_boundary};

/// A store that was not heard of for so long counts as down.
const SILENT_MS_MAX: u64 = 20_000;

/// One store.
#[derive(Clone, Debug, Serialize)]
pub struct Store {
    /// Its id.
    pub id: u64,
    /// Where it serves.
    pub address: String,
    /// Where it answers `/health` and `/metrics`.
    pub status_address: String,
    /// `up`, `silent`, `draining`, `drained`, `offline` (leaves for good) or `tombstone`.
    pub state: &'static str,
    /// How far it is emptied, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Labels, as `NAME=VALUE`.
    pub labels: Vec<String>,
    /// Replicas that it hosts.
    pub regions: u32,
    /// Regions that it leads.
    pub leaders: u32,
    /// Bytes that its data takes.
    pub used_bytes: u64,
    /// Bytes of its disk.
    pub capacity_bytes: u64,
    /// Bytes of its disk that are free.
    pub available_bytes: u64,
    /// Milliseconds since it was heard of.
    pub silent_ms: u64,
    /// How often it was started.
    pub boot: u64,
}

/// How far a drain is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Drain {
    /// Replicas when it began.
    pub replicas_at_start: u32,
    /// Milliseconds since then.
    pub elapsed_ms: u64,
    /// Milliseconds left at the pace so far; absent while nothing is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
}

impl Store {
    /// Whether it takes part in the cluster, as far as placement knows.
    pub fn is_up(&self) -> bool {
        self.state == "up"
    }
}

impl From<StoreStatus> for Store {
    fn from(status: StoreStatus) -> Self {
        let store = status.store.unwrap_or_default();
        Self {
            state: match store.state() {
                metapb::StoreState::Up if status.silent_ms > SILENT_MS_MAX => "silent",
                metapb::StoreState::Up => "up",
                metapb::StoreState::Offline if status.drain.is_none() => "offline",
                metapb::StoreState::Offline if status.regions == 0 => "drained",
                metapb::StoreState::Offline => "draining",
                metapb::StoreState::Tombstone => "tombstone",
            },
            drain: status.drain.map(|drain| Drain {
                replicas_at_start: drain.peers_at_start,
                elapsed_ms: drain.elapsed_ms,
                left_ms: drain.left_ms,
            }),
            labels: store
                .labels
                .iter()
                .map(|label| format!("{}={}", label.key, label.value))
                .collect(),
            id: store.id,
            address: store.address,
            status_address: store.status_address,
            regions: status.regions,
            leaders: status.leaders,
            used_bytes: status.used_bytes,
            capacity_bytes: status.capacity_bytes,
            available_bytes: status.available_bytes,
            silent_ms: status.silent_ms,
            boot: status.boot,
        }
    }
}

/// One replica of a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// Its id.
    pub id: u64,
    /// The store that hosts it.
    pub store: u64,
    /// `voter`, `learner`, `incoming` or `demoting`.
    pub role: &'static str,
    /// Not heard of by the leader.
    pub down: bool,
    /// Behind, and not caught up yet.
    pub pending: bool,
    /// Some of its data cannot be read: it is to be replaced.
    pub damaged: bool,
}

impl Peer {
    /// Whether it votes, now or in the new half of a joint configuration.
    pub fn votes(&self) -> bool {
        matches!(self.role, "voter" | "incoming")
    }
}

/// One region.
#[derive(Clone, Debug, Serialize)]
pub struct Region {
    /// Its id.
    pub id: u64,
    /// First key, in printed form; empty is infinite.
    pub start: String,
    /// First key after it, in printed form; empty is infinite.
    pub end: String,
    /// First key.
    #[serde(skip)]
    pub start_key: Bytes,
    /// First key after it.
    #[serde(skip)]
    pub end_key: Bytes,
    /// Moves with every membership change.
    pub conf_ver: u64,
    /// Moves with every split and merge.
    pub version: u64,
    /// Its replicas.
    pub peers: Vec<Peer>,
    /// The store that leads it, if any does.
    pub leader_store: Option<u64>,
    /// Term of the leader.
    pub term: u64,
    /// About so many bytes.
    pub approximate_bytes: u64,
    /// About so many keys.
    pub approximate_keys: u64,
}

impl Region {
    /// Voters that are neither down nor behind nor damaged.
    pub fn healthy_voters(&self) -> usize {
        self.peers
            .iter()
            .filter(|peer| peer.votes() && !peer.down && !peer.pending && !peer.damaged)
            .count()
    }

    /// Whether a membership change is under way.
    pub fn is_changing(&self) -> bool {
        self.peers.iter().any(|peer| peer.role != "voter")
    }

    /// Whether it holds a key in region space.
    pub fn holds(&self, key: &[u8]) -> bool {
        *self.start_key <= *key && (self.end_key.is_empty() || *key < *self.end_key)
    }

    /// Whether a store hosts a replica.
    pub fn is_on(&self, store: u64) -> bool {
        self.peers.iter().any(|peer| peer.store == store)
    }

    /// The range in printed form, half-open.
    pub fn range(&self) -> String {
        format!(
            "[{}, {})",
            escape_boundary(&self.start_key, "-inf"),
            escape_boundary(&self.end_key, "+inf")
        )
    }

    /// The replicas as stores: the leader with a star, others than voters with their role.
    pub fn replicas(&self) -> String {
        let each = self.peers.iter().map(|peer| {
            let mut text = peer.store.to_string();
            if Some(peer.store) == self.leader_store {
                text.push('*');
            }
            if peer.role != "voter" {
                text.push_str(&format!(" {}", peer.role));
            }
            if peer.damaged {
                text.push_str(" damaged");
            } else if peer.down {
                text.push_str(" down");
            } else if peer.pending {
                text.push_str(" behind");
            }
            text
        });
        each.collect::<Vec<_>>().join(", ")
    }
}

impl From<RegionStatus> for Region {
    fn from(status: RegionStatus) -> Self {
        let region = status.region.unwrap_or_default();
        let epoch = region.region_epoch.unwrap_or_default();
        let among = |peers: &[metapb::Peer], id: u64| peers.iter().any(|peer| peer.id == id);
        let peers = region
            .peers
            .iter()
            .map(|peer| Peer {
                id: peer.id,
                store: peer.store_id,
                role: match peer.role() {
                    metapb::PeerRole::Voter => "voter",
                    metapb::PeerRole::Learner => "learner",
                    metapb::PeerRole::IncomingVoter => "incoming",
                    metapb::PeerRole::DemotingVoter => "demoting",
                },
                down: among(&status.down_peers, peer.id),
                pending: among(&status.pending_peers, peer.id),
                damaged: among(&status.damaged_peers, peer.id),
            })
            .collect();
        Self {
            id: region.id,
            start: escape(&region.start_key),
            end: escape(&region.end_key),
            start_key: region.start_key,
            end_key: region.end_key,
            conf_ver: epoch.conf_ver,
            version: epoch.version,
            peers,
            leader_store: status
                .leader
                .map(|leader| leader.store_id)
                .filter(|store| *store != 0),
            term: status.term,
            approximate_bytes: status.approximate_bytes,
            approximate_keys: status.approximate_keys,
        }
    }
}
