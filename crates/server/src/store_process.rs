//! The store process: a directory, an identity, a node, and the services in front of it.
//!
//! Start: the directory is opened and its identity read; an empty one asks placement for an id, and is the first of its
//! cluster if nobody bootstrapped it. The boot counter is raised and synced before anything is sent (D11). Placement is
//! told before the node starts; if it does not answer in time and the directory already belongs to a cluster, the store
//! starts without (R32) and tells it later.
//!
//! Stop: SIGTERM hands every leadership over first, within `drain_timeout`, then ends calls, streams and threads, each within
//! a limit of its own; a second signal stops at once, at any of these steps. What was acknowledged is durable either way.

mod address_book;
mod error;
mod ids;
mod join;
pub(crate) mod link;
mod liveness;
mod news;
mod orders;
mod placement_client;
mod registration;
mod server;

#[cfg(test)]
mod stub;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use proto::pontoon::v1::refusal::Reason;
use proto::{StoreId, metapb};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub use self::error::Error;

use self::address_book::AddressBook;
use self::placement_client::{PlacementClient, PlacementError};
use self::registration::Registration;
use crate::config::{Size, Span, section};
use crate::metrics::Metrics;
use crate::runtime::{self, Handle, Node, fatal};
use crate::services::replicas::ReplicasService;
use crate::services::tikv::{ApiVersion, Rules, TikvService};
use crate::status::{self, Status};

section! {
    /// A store: hosts regions in one folder.
    pub struct StoreConfig {
        /// Folder that holds everything this store keeps. Locked while the store runs; an empty one joins the cluster as
        /// a new store.
        pub data_dir: PathBuf = PathBuf::from("store"),
        /// Address to listen on for clients and other stores.
        pub addr: String = "127.0.0.1:20160".to_owned(),
        /// Address that clients and other stores are told. Empty: the address to listen on.
        pub advertise_addr: String = String::new(),
        /// Address to listen on for `/health`, `/status` and `/metrics`.
        pub status_addr: String = "127.0.0.1:20180".to_owned(),
        /// Addresses of the placement members; one that answers is enough.
        pub placement: Vec<String> = vec!["127.0.0.1:2379".to_owned()],
        /// Where the store is, as `key=value`, from the largest unit to the smallest, for example `["zone=a", "rack=7"]`.
        pub labels: Vec<String> = Vec::new(),
        /// Time given to hand leaderships over when the store is told to stop. 0 hands nothing over: the regions led
        /// here elect new leaders once they miss this one.
        pub drain_timeout: Span = Span::secs(5),
        /// Threads that serve clients and other stores.
        pub rpc_threads: usize = 2,
        /// Threads that apply committed writes.
        pub apply_threads: usize = 1,
        /// Threads for snapshots and for clearing ranges.
        pub background_threads: usize = 2,
    }
    sections {
        /// Timing and limits of Raft.
        pub raft: RaftConfig,
        /// When regions split by themselves.
        pub split: SplitConfig,
        /// Looking for replicas that do not store the same.
        pub verify: VerifyConfig,
        /// Beats between stores, and what followers pledge for them.
        pub liveness: LivenessConfig,
        /// Limits of requests in work.
        pub limits: LimitsConfig,
        /// Memory of the storage engine.
        pub engine: EngineConfig,
    }
}

section! {
    /// Timing and limits of Raft. All stores of a cluster should have the same.
    pub struct RaftConfig {
        /// Resolution of all times below.
        pub tick: Span = Span::millis(50),
        /// Shortest silence of a leader after which an election starts; the longest is twice that. Shorter finds a dead
        /// leader sooner and mistakes a slow one for dead.
        pub election_timeout: Span = Span::millis(500),
        /// Time between heartbeats, at most a fifth of `election_timeout`.
        pub heartbeat: Span = Span::millis(100),
        /// Applied entries of a region after which its log is compacted.
        pub compact_entries: u64 = 10_000,
        /// Applied entries that stay behind a compaction for members that lag a little. Fewer make them need a snapshot
        /// sooner; more cost disk.
        pub compact_tail_entries: u64 = 1_000,
        /// The same in bytes.
        pub compact_bytes: Size = Size::mib(64),
        /// Snapshots received at a time.
        pub snapshot_slots: usize = 4,
    }
}

section! {
    /// When regions split by themselves. A limit of 0 is none. All stores of a cluster should have the same.
    pub struct SplitConfig {
        /// Size from which a region is split in halves. Smaller regions move faster; each costs memory and heartbeats.
        pub region_bytes: Size = Size::mib(96),
        /// Keys from which a region is split in halves.
        pub region_keys: u64 = 960_000,
        /// Requests per second above which a region is split where its load halves, when it had more in three of five
        /// seconds. One key with most of the load is never divided.
        pub requests_per_second: u64 = 3_000,
        /// Bytes read and written per second, likewise.
        pub bytes_per_second: Size = Size::mib(30),
        /// Split a region that grows at its end before it is full, so that another store takes what comes next.
        pub ahead_of_appends: bool = true,
    }
}

section! {
    /// Looking for replicas that do not store the same: each region's leader has all of them digest what they store, and
    /// compares. Damage that no read would meet is found that way, too.
    pub struct VerifyConfig {
        /// Time in which each region has its turn, spread evenly. 0: none has; `pontoon verify replicas` still works.
        pub every: Span = Span::secs(86_400),
        /// Bytes of this store read per second for that, on average. What does not fit into `every` takes longer.
        pub bytes_per_second: Size = Size::mib(16),
    }
}

section! {
    /// Beats between stores, and what followers pledge for them. All stores of a cluster should have the same.
    pub struct LivenessConfig {
        /// Beat, and let followers pledge to leaders on stores that do.
        pub pledges: bool = false,
        /// Time between two beats, at most a fifth of `silence`.
        pub beat: Span = Span::millis(100),
        /// Time without a beat after which a store is not supported any more.
        pub silence: Span = Span::millis(500),
    }
}

section! {
    /// Limits of requests in work. Above them requests are refused as busy.
    pub struct LimitsConfig {
        /// Requests that wait for the region worker.
        pub waiting_requests: usize = 65_536,
        /// Bytes of requests from their arrival to their answer.
        pub request_bytes: Size = Size::mib(128),
        /// Bytes that wait for the log disk, or for an apply thread, above which nothing new is taken in.
        pub backlog_bytes: Size = Size::mib(64),
        /// Bytes that wait for one other store; what exceeds them is dropped and repeated later.
        pub send_queue_bytes: Size = Size::mib(64),
    }
}

section! {
    /// Memory of the storage engine.
    pub struct EngineConfig {
        /// Cache for blocks read from disk.
        pub block_cache: Size = Size::mib(256),
        /// Memory for writes that are not in files yet, of the data family; the log family has twice that.
        pub memtable: Size = Size::mib(64),
    }
}

/// Runs a store until SIGTERM or SIGINT. The log is set up by the caller.
///
/// # Errors
/// What kept it from starting or made it stop; [`Error`] is among the causes where it has a kind of its own.
pub fn run(config: StoreConfig) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.rpc_threads.max(1))
        .thread_name("rpc")
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let result = runtime.block_on(serve(config));
    // Calls that are still under way do not hold the process up.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(result?)
}

async fn serve(config: StoreConfig) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(Error::Runtime)?;
    check(&config)?;
    // Addresses are taken first: a taken port is the commonest mistake, and nothing has been written by then.
    let socket = reserve(&config.addr).await?;
    let status_socket = reserve(&config.status_addr).await?;
    let engine = join::open(&config.data_dir, &config.engine)?;
    let placement = Arc::new(PlacementClient::new(&config.placement));
    let start_timestamp = unix_seconds();
    let this_store = |id: StoreId| describe(&config, id, start_timestamp);

    let joining = join::join(&engine, &config.data_dir, &placement, &this_store);
    tokio::select! {
        joined = joining => joined?,
        () = signals.next() => return Ok(()),
    };
    let identity = store::identity::bump_boot(&engine)
        .map_err(|error| join::store_error(&config.data_dir, error))?;
    let api = ApiVersion::from_number(identity.api_version)
        .ok_or(Error::ApiVersion(identity.api_version))?;
    let this_store = this_store(StoreId(identity.store_id));
    let registered = tokio::select! {
        registered = greet(&placement, &this_store, identity.boot) => registered?,
        () = signals.next() => return Ok(()),
    };
    tracing::info!(
        store = identity.store_id,
        cluster = identity.cluster_id,
        boot = identity.boot,
        addr = config.addr,
        "starting"
    );

    let metrics = Arc::new(Metrics::new());
    let addresses = Arc::new(AddressBook::open(config.data_dir.join("stores.json")));
    let me = transport::Identity {
        cluster_id: identity.cluster_id,
        store: StoreId(identity.store_id),
        boot: identity.boot,
        format: identity.format,
    };
    let transport_config = transport::Config {
        queue_bytes_max: bytes(config.limits.send_queue_bytes),
        ..Default::default()
    };
    let (transport, events) = transport::Transport::new(me, transport_config, addresses.clone());
    let inlet = config.liveness.pledges.then(liveness::Inlet::default);
    let network = Arc::new(link::Outgoing {
        transport: transport.clone(),
        runtime: tokio::runtime::Handle::current(),
        liveness: inlet.clone(),
    });
    let store = store::Store::open(engine.clone(), store_options(&config, identity.boot, api))
        .map_err(|error| join::store_error(&config.data_dir, error))?;
    let options = node_options(&config);
    let node = Node::start(
        store,
        engine,
        network,
        &options,
        metrics.clone(),
        fatal::exit_process(),
    )
    .map_err(Error::Runtime)?;
    let handle = node.handle();
    let beating = match &inlet {
        Some(inlet) => {
            let timing = store::liveness::Timing {
                beat: *config.liveness.beat,
                silence: *config.liveness.silence,
            };
            let (inlet, handle, metrics) = (inlet.clone(), handle.clone(), metrics.clone());
            let thread = liveness::Thread::start(inlet, me, timing, transport, handle, metrics);
            Some(thread.map_err(Error::Runtime)?)
        }
        None => None,
    };

    let (stop, stopping) = watch::channel(false);
    let (failed, mut failures) = mpsc::channel::<Error>(4);
    let registration = Arc::new(Registration {
        node: handle.clone(),
        placement: placement.clone(),
        identity: identity.clone(),
        store: this_store,
        addresses: addresses.clone(),
        data_dir: config.data_dir.clone(),
        stopping: stopping.clone(),
    });
    let mut tasks = JoinSet::new();
    tasks.spawn(report(failed.clone(), {
        let registration = registration.clone();
        async move { registration.beat(registered).await }
    }));
    tasks.spawn(async move { registration.regions().await });
    tasks.spawn(report(
        failed.clone(),
        watch_links(events, handle.clone(), inlet.clone()),
    ));

    let rules = Rules {
        cluster_id: identity.cluster_id,
        store_id: identity.store_id,
        api,
    };
    let (close, closing) = watch::channel(false);
    let tikv = TikvService::new(handle.clone(), rules, addresses, closing.clone());
    let replicas = ReplicasService::new(handle.clone(), identity.cluster_id);
    let peers = transport::PeerService::new(me, link::Incoming::new(handle.clone(), inlet.clone()));
    let listener = listen(socket, &config.addr)?;
    let status_listener = listen(status_socket, &config.status_addr)?;
    let serving = report(
        failed.clone(),
        server::serve(
            listener,
            config.addr.clone(),
            tikv,
            replicas,
            peers.clone(),
            stopping,
            closing,
        ),
    );
    let serving = tokio::spawn(serving);
    // It serves, so others may rest on it.
    if let Some(inlet) = &inlet {
        inlet.want(true);
    }
    let status = Status::new(handle.clone(), metrics, &identity);
    tasks.spawn(report(
        failed,
        status::serve(status_listener, config.status_addr.clone(), status),
    ));

    let result = tokio::select! {
        () = signals.next() => Ok(()),
        Some(failure) = failures.recv() => Err(failure),
    };
    stop.send_replace(true);
    if let Some(inlet) = &inlet {
        inlet.want(false);
    }
    let drains = result.is_ok() && !config.drain_timeout.is_zero();
    let ending = async {
        if drains {
            tracing::info!("handing leaderships over");
            let drained = handle.drain(*config.drain_timeout).await;
            tracing::info!(all = drained, "handed over");
        }
        peers.close();
        // Either is gone when it was the one that failed.
        close.send_replace(true);
        if tokio::time::timeout(CLOSE_MAX, serving).await.is_err() {
            tracing::debug!("connections were still open");
        }
        tasks.abort_all();
        if let Some(beating) = beating {
            beating.stop();
        }
        fatal::stop_within(node, fatal::STOP_MAX).await;
    };
    tokio::select! {
        () = ending => tracing::info!("stopped"),
        () = signals.next() => {
            tracing::warn!("told twice: stopping at once");
            fatal::exit_at_once(0);
        }
    }
    result
}

/// Connections that wait to be accepted.
const LISTEN_BACKLOG: u32 = 1024;
/// Time given to calls under way when the server closes.
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// Time for placement to refuse this store before it serves.
const GREETING_MAX: Duration = Duration::from_secs(2);

/// Tells placement of this store before anything is sent to others. `false` when placement does not answer, which does not
/// keep the store from starting (R32).
async fn greet(
    placement: &PlacementClient,
    store: &metapb::Store,
    boot: u64,
) -> Result<bool, Error> {
    match registration::register(placement, store, boot, GREETING_MAX).await {
        Ok(()) => Ok(true),
        Err(PlacementError::Refused { message, .. }) => Err(Error::Refused { reason: message }),
        Err(error) => {
            tracing::warn!(%error, "placement was not told of this store yet");
            Ok(false)
        }
    }
}

/// Passes the failure of a task on.
async fn report(failed: mpsc::Sender<Error>, task: impl Future<Output = Result<(), Error>>) {
    if let Err(error) = task.await {
        // With several failures at once the first is the cause.
        drop(failed.try_send(error));
    }
}

/// Tells the node what the transport lost, and ends the process when another store knows a later start of this one.
async fn watch_links<E: Engine>(
    events: transport::Events,
    node: Handle<E>,
    inlet: Option<liveness::Inlet>,
) -> Result<(), Error> {
    loop {
        match events.next().await {
            transport::Event::Unreachable(store) => node.unreachable(store),
            transport::Event::Gone(store) => {
                inlet.iter().for_each(|inlet| inlet.gone(store));
            }
            transport::Event::Refused(by, refusal) => match refusal.reason() {
                Reason::Boot => {
                    return Err(Error::ShutOut {
                        by,
                        reason: "a later start of this store is running: its directory is used twice",
                    });
                }
                reason => {
                    tracing::warn!(store = %by, reason = reason.as_str_name(), "a store refuses this one")
                }
            },
        }
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn check(config: &StoreConfig) -> Result<(), Error> {
    let wrong = |setting, reason: &str| {
        Err(Error::Setting {
            setting,
            reason: reason.to_owned(),
        })
    };
    if config.placement.is_empty() {
        return wrong("placement", "it names no member");
    }
    if let Err(reason) = runtime::check_tick(*config.raft.tick) {
        return wrong("raft.tick", reason);
    }
    if *config.raft.heartbeat < *config.raft.tick {
        return wrong(
            "raft.heartbeat",
            "it must be at least raft.tick, in which it is counted",
        );
    }
    if config.raft.heartbeat.is_zero() || *config.raft.heartbeat * 5 > *config.raft.election_timeout
    {
        return wrong(
            "raft.heartbeat",
            "it must be above zero and at most a fifth of raft.election_timeout",
        );
    }
    if config.liveness.beat.is_zero() || *config.liveness.beat * 5 > *config.liveness.silence {
        return wrong(
            "liveness.beat",
            "it must be above zero and at most a fifth of liveness.silence",
        );
    }
    if let Some(label) = config
        .labels
        .iter()
        .find(|label| label.split_once('=').is_none_or(|(key, _)| key.is_empty()))
    {
        return wrong("labels", &format!("`{label}` is not of the form key=value"));
    }
    Ok(())
}

/// Takes an address without listening yet: until the store serves, whoever calls is refused at once instead of waiting.
async fn reserve(address: &str) -> Result<TcpSocket, Error> {
    let failed = |source| Error::Listen {
        address: address.to_owned(),
        source,
    };
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in tokio::net::lookup_host(address).await.map_err(failed)? {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }
        .map_err(failed)?;
        // A port whose last owner was killed is free, though its connections linger.
        socket.set_reuseaddr(true).map_err(failed)?;
        match socket.bind(address) {
            Ok(()) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

fn listen(socket: TcpSocket, address: &str) -> Result<TcpListener, Error> {
    socket
        .listen(LISTEN_BACKLOG)
        .map_err(|source| Error::Listen {
            address: address.to_owned(),
            source,
        })
}

/// What placement is told of this store.
fn describe(config: &StoreConfig, id: StoreId, start_timestamp: i64) -> metapb::Store {
    let address = if config.advertise_addr.is_empty() {
        &config.addr
    } else {
        &config.advertise_addr
    };
    let label = |label: &String| {
        let (key, value) = label.split_once('=')?;
        Some(metapb::StoreLabel {
            key: key.to_owned(),
            value: value.to_owned(),
        })
    };
    metapb::Store {
        id: id.0,
        address: address.clone(),
        peer_address: address.clone(),
        status_address: config.status_addr.clone(),
        labels: config.labels.iter().filter_map(label).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        start_timestamp,
        deploy_path: config.data_dir.display().to_string(),
        ..Default::default()
    }
}

/// What two regions may have together: 40 % of what one is split at, so that no split follows a merge.
fn share(limit: u64, unlimited: u64) -> u64 {
    match limit {
        0 => unlimited,
        limit => limit / 5 * 2,
    }
}

/// What clients may do to them together: 25 % of it.
fn load_share(limit: u64) -> u64 {
    match limit {
        0 => u64::MAX,
        limit => limit / 4,
    }
}

fn store_options(config: &StoreConfig, boot: u64, api: ApiVersion) -> store::Options {
    let (raft, split) = (&config.raft, &config.split);
    let defaults = store::Options::with_tick(raft.tick.as_millis().max(1) as u64);
    let ticks = |span: Span| (span.as_millis() / raft.tick.as_millis().max(1)).max(1) as u32;
    store::Options {
        raft: raft::Options {
            election_ticks: ticks(raft.election_timeout),
            heartbeat_ticks: ticks(raft.heartbeat),
            ..Default::default()
        },
        // Stores that start together must not draw the same timeouts.
        seed: rand::random::<u64>() ^ boot,
        // The largest split takes ten ids for each of its nine children, in a group of nine members.
        ids_low: 128,
        ids_batch: 512,
        compact_entries: raft.compact_entries,
        compact_tail_entries: raft.compact_tail_entries,
        compact_bytes: raft.compact_bytes.bytes(),
        pledges: config.liveness.pledges,
        snapshot_slots: raft.snapshot_slots,
        snapshot_sends: config.background_threads.max(1),
        count_bytes_min: match split.region_bytes.bytes() {
            0 => defaults.count_bytes_min,
            limit => limit / 96,
        },
        verify_every_ticks: match config.verify.every.is_zero() {
            true => 0,
            false => u64::from(ticks(config.verify.every)),
        },
        verify_bytes_per_second: config.verify.bytes_per_second.bytes(),
        merge_bytes_max: share(split.region_bytes.bytes(), defaults.merge_bytes_max),
        merge_keys_max: share(split.region_keys, defaults.merge_keys_max),
        merge_requests_max: load_share(split.requests_per_second),
        merge_load_bytes_max: load_share(split.bytes_per_second.bytes()),
        split: store::SplitOptions {
            bytes: split.region_bytes.bytes(),
            keys: split.region_keys,
            requests_per_second: split.requests_per_second,
            bytes_per_second: split.bytes_per_second.bytes(),
            ahead: split.ahead_of_appends,
            encoded_keys: api == ApiVersion::V2,
            ..defaults.split
        },
        ..defaults
    }
}

fn node_options(config: &StoreConfig) -> runtime::Options {
    runtime::Options {
        tick: *config.raft.tick,
        appliers: config.apply_threads.max(1),
        background: config.background_threads.max(1),
        requests_max: config.limits.waiting_requests,
        request_bytes_max: bytes(config.limits.request_bytes),
        backlog_bytes_max: config.limits.backlog_bytes.bytes(),
        ..Default::default()
    }
}

fn bytes(size: Size) -> usize {
    usize::try_from(size.bytes()).unwrap_or(usize::MAX)
}

fn unix_seconds() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64)
}
