//! The crate `openraft` 0.9, on one thread, with the leanest storage that its interface allows.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Cursor;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex};

use openraft::error::{InstallSnapshotError, RPCError, RaftError};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::storage::{LogFlushed, LogState, RaftLogStorage, RaftStateMachine, Snapshot};
use openraft::{
    BasicNode, Config, Entry, EntryPayload, LogId, OptionalSend, Raft, RaftLogReader,
    RaftSnapshotBuilder, SnapshotMeta, StorageError, StoredMembership, Vote,
};
use tokio::runtime::Runtime;

use crate::PAYLOAD_BYTES;

openraft::declare_raft_types!(
    /// What the group speaks in.
    pub Types:
        D = Vec<u8>,
        R = (),
        Node = BasicNode,
);

type Node = Raft<Types>;
type Peers = Arc<Mutex<BTreeMap<u64, Node>>>;

#[derive(Default)]
struct LogState_ {
    entries: BTreeMap<u64, Entry<Types>>,
    vote: Option<Vote<u64>>,
    purged: Option<LogId<u64>>,
}

/// A log in memory.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<LogState_>>);

impl Log {
    fn with<T>(&self, work: impl FnOnce(&mut LogState_) -> T) -> T {
        work(&mut self.0.lock().expect("nobody panics under this lock"))
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry<Types>>, StorageError<u64>> {
        Ok(self.with(|log| {
            log.entries
                .range(range)
                .map(|(_, entry)| entry.clone())
                .collect()
        }))
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError<u64>> {
        Ok(self.with(|log| LogState {
            last_purged_log_id: log.purged,
            last_log_id: log
                .entries
                .last_key_value()
                .map(|(_, entry)| entry.log_id)
                .or(log.purged),
        }))
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError<u64>> {
        self.with(|log| log.vote = Some(*vote));
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError<u64>> {
        Ok(self.with(|log| log.vote))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<Types>,
    ) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.with(|log| {
            log.entries
                .extend(entries.into_iter().map(|entry| (entry.log_id.index, entry)))
        });
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        self.with(|log| drop(log.entries.split_off(&log_id.index)));
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId<u64>) -> Result<(), StorageError<u64>> {
        self.with(|log| {
            log.entries = log.entries.split_off(&(log_id.index + 1));
            log.purged = Some(log_id);
        });
        Ok(())
    }
}

/// A state machine that only remembers where it is.
#[derive(Clone, Default)]
pub struct Machine {
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, BasicNode>,
}

impl RaftSnapshotBuilder<Types> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, StorageError<u64>> {
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            snapshot_id: format!("{:?}", self.applied),
        };
        Ok(Snapshot {
            meta,
            snapshot: Box::new(Cursor::new(Vec::new())),
        })
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, BasicNode>), StorageError<u64>> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut answers = Vec::new();
        for entry in entries {
            self.applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            answers.push(());
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(
        &mut self,
    ) -> Result<Box<Cursor<Vec<u8>>>, StorageError<u64>> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, BasicNode>,
        _: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError<u64>> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, StorageError<u64>> {
        Ok(None)
    }
}

struct Network(Peers);

struct Link {
    target: u64,
    peers: Peers,
}

impl Link {
    fn node(&self) -> Node {
        self.peers.lock().expect("nobody panics under this lock")[&self.target].clone()
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _: &BasicNode) -> Link {
        Link {
            target,
            peers: self.0.clone(),
        }
    }
}

type Failure<E = RaftError<u64>> = RPCError<u64, BasicNode, E>;

fn failed<E: std::error::Error + 'static>(error: E) -> openraft::error::NetworkError {
    openraft::error::NetworkError::new(&error)
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failure> {
        self.node()
            .append_entries(request)
            .await
            .map_err(|error| RPCError::Network(failed(error)))
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        _: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failure<RaftError<u64, InstallSnapshotError>>> {
        self.node()
            .install_snapshot(request)
            .await
            .map_err(|error| RPCError::Network(failed(error)))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        _: RPCOption,
    ) -> Result<VoteResponse<u64>, Failure> {
        self.node()
            .vote(request)
            .await
            .map_err(|error| RPCError::Network(failed(error)))
    }
}

/// Three nodes; the first leads.
pub struct Group {
    runtime: Runtime,
    leader: Node,
}

impl Default for Group {
    fn default() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let leader = runtime.block_on(async {
            let config = Config {
                heartbeat_interval: 100,
                election_timeout_min: 500,
                election_timeout_max: 1000,
                max_payload_entries: 64,
                ..Config::default()
            };
            let config = Arc::new(config.validate().expect("a valid configuration"));
            let peers = Peers::default();
            for id in 1..=3 {
                let node = Raft::new(
                    id,
                    config.clone(),
                    Network(peers.clone()),
                    Log::default(),
                    Machine::default(),
                )
                .await
                .expect("a fresh node");
                peers
                    .lock()
                    .expect("nobody panics under this lock")
                    .insert(id, node);
            }
            let leader = peers.lock().expect("nobody panics under this lock")[&1].clone();
            let members: BTreeMap<u64, BasicNode> =
                (1..=3).map(|id| (id, BasicNode::default())).collect();
            leader.initialize(members).await.expect("an empty group");
            leader
                .wait(None)
                .state(openraft::ServerState::Leader, "the first node leads")
                .await
                .expect("an election");
            leader
        });
        Self { runtime, leader }
    }
}

impl Group {
    /// Proposes `count` commands at once and waits until the leader has applied them all.
    pub fn run(&mut self, count: usize) {
        let leader = &self.leader;
        self.runtime.block_on(async {
            let mut answers = Vec::with_capacity(count);
            for _ in 0..count {
                answers.push(
                    leader
                        .client_write_ff(vec![7; PAYLOAD_BYTES])
                        .await
                        .expect("the leader takes proposals"),
                );
            }
            for answer in answers {
                answer.await.expect("an answer").expect("the leader stays");
            }
        });
    }
}
