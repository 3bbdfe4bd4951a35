//! The placement process: a member of the placement group.
//!
//! A member is a store with one region (DESIGN D7): the same node, over its own directory, replicates that region among
//! the members. The `driver` runs the placement machine over it while this member leads; the services in front ask the
//! driver. One port serves clients, stores, the other members, tools, and plain HTTP.
//!
//! Start: an empty directory asks the other members whether their group has begun. If it has not, they form it together
//! (`formation`); if it has, this is a new member in an old place, and the leader takes it in (`succession`).
//!
//! Stop: SIGTERM hands the leadership over first, within `drain_timeout`; a second signal stops at once.

mod directory;
mod driver;
mod error;
mod formation;
mod handle;
mod joining;
mod member;
mod server;
mod service;
mod succession;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use engine::{RocksEngine, RocksOptions};
use placement::Settings;
use proto::StoreId;
use proto::pontoon::v1::refusal::Reason;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use transport::BoxError;

pub use self::error::Error;
pub use self::handle::{Input, ORDERS_MAX, Placement, Standing};
pub use self::member::{Members, REGION};

use self::directory::Directory;
use self::driver::Driver;
use self::server::Served;
use crate::config::{Size, Span, section};
use crate::metrics::Metrics;
use crate::runtime::{self, Node, fatal};
use crate::store_process::link;

section! {
    /// A member of the placement group.
    pub struct PlacementConfig {
        /// Folder that holds everything this member keeps. Locked while the member runs.
        pub data_dir: PathBuf = PathBuf::from("placement"),
        /// Address to listen on for clients, stores, other members and plain HTTP.
        pub addr: String = "127.0.0.1:2379".to_owned(),
        /// Address that others are told; must be one of `members`. Empty: the address to listen on.
        pub advertise_addr: String = String::new(),
        /// Advertised addresses of all members, the same list in the same order for each: 1, 3 or 5. A directory remembers
        /// its list and is refused under another. The first start needs all of them; later ones a majority.
        pub members: Vec<String> = vec!["127.0.0.1:2379".to_owned()],
        /// Version of the client interface, fixed when the cluster starts for the first time: 1 for plain keys, 2 for
        /// keyspaces with time to live.
        pub api_version: u32 = 1,
        /// Copies that every region should have. Fixed when the cluster starts for the first time.
        pub replicas: u32 = 3,
        /// Resolution of the two times below.
        pub tick: Span = Span::millis(50),
        /// Shortest silence of the leader after which an election starts; the longest is twice that. Shorter finds a dead
        /// leader sooner and mistakes a slow one for dead.
        pub election_timeout: Span = Span::millis(500),
        /// Time between heartbeats of the members, at most a fifth of `election_timeout`.
        pub heartbeat: Span = Span::millis(100),
        /// A store that was silent for so long takes no new replicas, and its address is free for a new store. Several
        /// times the stores' own interval of 10 s.
        pub store_down_after: Span = Span::secs(30),
        /// The replicas of a store that was silent for so long are replaced. Shorter than a restart or a repair takes copies
        /// data for nothing; longer leaves regions with one replica less. At least `store_down_after`.
        pub store_lost_after: Span = Span::secs(1800),
        /// A member that is being taken in, after its directory was emptied, and was silent for so long is given up: it leaves
        /// the group, and joins anew when it is back. Longer than a restart and than the state takes to be copied; until then
        /// the leader goes on speaking to it. At least twice `election_timeout`.
        pub newcomer_lost_after: Span = Span::secs(1800),
        /// Time given to hand the leadership over when the member is told to stop. 0 hands nothing over: the others elect
        /// a leader once they miss this one.
        pub drain_timeout: Span = Span::secs(5),
        /// Threads that serve clients, stores and members.
        pub rpc_threads: usize = 2,
    }
    sections {
        /// How regions are kept even over the stores.
        pub balance: BalanceConfig,
        /// When small neighbours are merged by themselves.
        pub merge: MergeConfig,
    }
}

section! {
    /// How regions are kept even over the stores: space, leaders and load.
    pub struct BalanceConfig {
        /// Whether anything is moved for that. Lost and drained stores are emptied all the same.
        pub enabled: bool = true,
        /// Percent of `store_rate` that may be taken, each way, 0 to 100; repair gets 50 at the least.
        pub rebalance_share: u32 = 30,
        /// Bytes per second that the disk and the network of a store can take in and give out.
        pub store_rate: Size = Size::mib(100),
        /// Time after a member began to lead before anything is moved: stores tell first what they have.
        pub settle: Span = Span::secs(30),
        /// A region that was moved is left alone for so long, unless its load doubles.
        pub rest: Span = Span::secs(600),
    }
}

section! {
    /// When small neighbours are merged by themselves. What both have together stays far below what the stores split a
    /// region at, so that no split follows.
    pub struct MergeConfig {
        /// Whether they are. By command they are merged all the same.
        pub enabled: bool = true,
        /// A region is left alone until it has been small for so long, at one version and under one leader. So a boundary that a
        /// split made stays for this time at least: longer for regions that are split long before they are filled.
        pub after: Span = Span::secs(600),
        /// Size of both together at the most; with half of it a region is small. 40 % of the stores' `split.region_bytes`;
        /// stores refuse to merge more.
        pub together_bytes: Size = Size::mib(38),
        /// Keys of both together at the most. 40 % of `split.region_keys`.
        pub together_keys: u64 = 384_000,
        /// Requests per second of both together at the most. A quarter of `split.requests_per_second`.
        pub together_requests: u64 = 750,
    }
}

/// Cache of the engine: the replicated state is small.
const CACHE_BYTES: usize = 16 << 20;
/// Memory for writes that are not in files yet.
const MEMTABLE_BYTES: usize = 8 << 20;
/// Time given to calls under way when the server closes.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Runs a placement member until SIGTERM or SIGINT. The log is set up by the caller.
///
/// # Errors
/// What kept it from starting or made it stop; [`Error`] is among the causes where it has a kind of its own.
pub fn run(config: PlacementConfig) -> anyhow::Result<()> {
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

async fn serve(config: PlacementConfig) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(Error::Runtime)?;
    let members = Arc::new(check(&config)?);
    // The address is taken first: a taken port is the commonest mistake, and nothing has been written by then.
    let listen = |source| Error::Listen {
        address: config.addr.clone(),
        source,
    };
    let listener = TcpListener::bind(&config.addr).await.map_err(listen)?;
    let starting = Member::start(&config, members, listener);
    let member = tokio::select! {
        started = starting => started?,
        () = signals.next() => {
            tracing::info!(addr = config.addr, "stopped before the group was formed");
            return Ok(());
        }
    };
    let drain_timeout = *config.drain_timeout;
    member
        .run(drain_timeout, async move || signals.next().await)
        .await
}

/// A member whose node, driver and server run.
struct Member {
    node: Node<RocksEngine>,
    peers: transport::PeerService<link::Incoming<RocksEngine>>,
    placement: Placement,
    address: std::net::SocketAddr,
    /// Told to stop: probers are to send nobody any more.
    stop: watch::Sender<bool>,
    /// The server ends.
    close: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<()>,
    tasks: tokio::task::JoinSet<()>,
    failures: mpsc::Receiver<Error>,
}

impl Member {
    /// Opens the directory, waits until it is one of a group that has begun, and starts everything. Left unfinished it
    /// leaves nothing running.
    async fn start(
        config: &PlacementConfig,
        members: Arc<Members>,
        listener: TcpListener,
    ) -> Result<Self, Error> {
        let listen = |source| Error::Listen {
            address: config.addr.clone(),
            source,
        };
        let address = listener.local_addr().map_err(listen)?;
        let engine = open(config)?;
        let (path, birth) = (&config.data_dir, rand::random());
        let mut directory =
            Directory::take(engine.clone(), path, &members, birth, config.api_version)?;
        let (told, known) = watch::channel(directory.known().clone());

        let (failed, mut failures) = mpsc::channel(4);
        let (close, closing) = watch::channel(false);
        let waiting = server::waiting::<RocksEngine>(members.clone(), known.clone());
        let current = Arc::new(ArcSwap::from_pointee(waiting));
        let serving = server::serve(listener, config.addr.clone(), current.clone(), closing);
        let serving = tokio::spawn(report(failed.clone(), serving));
        tokio::select! {
            settled = joining::settle(&mut directory, &members, &told) => settled?,
            Some(failure) = failures.recv() => return Err(failure),
        }

        let me = directory.handshake(&members);
        tracing::info!(member = me.store.0, boot = me.boot, addr = %address, "starting");
        let (transport, events) = transport(me, members.clone());
        let network = Arc::new(link::Outgoing {
            transport,
            runtime: tokio::runtime::Handle::current(),
            liveness: None,
        });
        let metrics = Arc::new(Metrics::new());
        let store = store::Store::open(engine.clone(), store_options(config, me.boot))
            .map_err(|error| directory::store_error(path, error))?;
        let options = runtime::Options {
            tick: *config.tick,
            background: BACKGROUND_THREADS,
            ..Default::default()
        };
        let node = Node::start(
            store,
            engine,
            network,
            &options,
            metrics.clone(),
            fatal::exit_process(),
        );
        let node = node.map_err(Error::Runtime)?;
        let handle = node.handle();

        let mut tasks = tokio::task::JoinSet::new();
        let (driver, placement) = Driver::new(
            handle.clone(),
            &members,
            directory.known(),
            settings(config),
            &metrics,
        );
        tasks.spawn(report(failed.clone(), driver.run()));
        tasks.spawn(report(failed.clone(), watch_links(events, handle.clone())));
        tasks.spawn(report(
            failed.clone(),
            joining::watch_members(handle.clone()),
        ));
        let has_region = directory.has_region()?;
        let joining = joining::be_taken_in(handle.clone(), members.clone(), me.store, has_region);
        tasks.spawn(report(failed, joining));
        let peers = transport::PeerService::new(me, link::Incoming::new(handle.clone(), None));
        let served = Served {
            placement: placement.clone(),
            members,
            known,
            node: handle,
            metrics,
            peers: peers.clone(),
            regions_per_minute: regions_per_minute(config),
        };
        let (stop, stopping) = watch::channel(false);
        current.store(Arc::new(server::routes(served, stopping).await?));
        Ok(Self {
            node,
            peers,
            placement,
            address,
            stop,
            close,
            serving,
            tasks,
            failures,
        })
    }

    /// Runs until `signal` completes, then hands the leadership over, unless it completes again.
    async fn run(
        mut self,
        drain_timeout: Duration,
        mut signal: impl AsyncFnMut(),
    ) -> Result<(), Error> {
        let result = tokio::select! {
            () = signal() => Ok(()),
            Some(failure) = self.failures.recv() => Err(failure),
        };
        self.stop.send_replace(true);
        let drains = result.is_ok() && !drain_timeout.is_zero();
        let address = self.address;
        let ending = async {
            if drains {
                tracing::info!(
                    leads = self.placement.standing().serving.is_some(),
                    "handing the leadership over"
                );
                let drained = self.node.handle().drain(drain_timeout).await;
                tracing::info!(all = drained, "handed over");
            }
            self.stop().await;
        };
        tokio::select! {
            () = ending => tracing::info!(addr = %address, "stopped"),
            () = signal() => {
                tracing::warn!("told twice: stopping at once");
                fatal::exit_at_once(0);
            }
        }
        result
    }

    /// Ends everything, in the order that leaves nobody with half an answer.
    async fn stop(self) {
        let Self {
            node,
            peers,
            stop,
            close,
            serving,
            mut tasks,
            ..
        } = self;
        stop.send_replace(true);
        peers.close();
        // The server is gone when it was the one that failed.
        close.send_replace(true);
        // With the driver gone every stream of a client ends.
        tasks.abort_all();
        if tokio::time::timeout(CLOSE_MAX, serving).await.is_err() {
            tracing::debug!("connections were still open");
        }
        fatal::stop_within(node, fatal::STOP_MAX).await;
    }
}

/// Sends to other members, whose addresses their ids tell.
fn transport(
    me: transport::Identity,
    members: Arc<Members>,
) -> (transport::Transport, transport::Events) {
    let resolve = move |member: StoreId| {
        let address = members.address(member).map(str::to_owned);
        std::future::ready(
            address.ok_or_else(|| BoxError::from(format!("there is no member {member}"))),
        )
    };
    transport::Transport::new(me, transport::Config::default(), Arc::new(resolve))
}

/// Passes the failure of a task on.
async fn report(failed: mpsc::Sender<Error>, task: impl Future<Output = Result<(), Error>>) {
    if let Err(error) = task.await {
        // With several failures at once the first is the cause.
        drop(failed.try_send(error));
    }
}

/// Tells the node what the transport lost, and ends the process when another member knows a later start of this one.
async fn watch_links(
    events: transport::Events,
    node: runtime::Handle<RocksEngine>,
) -> Result<(), Error> {
    loop {
        match events.next().await {
            transport::Event::Unreachable(member) => node.unreachable(member),
            // Members do not beat.
            transport::Event::Gone(_) => {}
            transport::Event::Refused(by, refusal) => match refusal.reason() {
                Reason::Boot => return Err(Error::ShutOut { by }),
                // Known of once its address is another's: until the group has removed it.
                Reason::Store => tracing::debug!(member = %by, "another member is at its address"),
                reason => {
                    tracing::warn!(member = %by, reason = reason.as_str_name(), "a member refuses this one")
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

fn check(config: &PlacementConfig) -> Result<Members, Error> {
    let wrong = |setting, reason: &str| {
        Err(Error::Setting {
            setting,
            reason: reason.to_owned(),
        })
    };
    if ![1, 2].contains(&config.api_version) {
        return wrong("api_version", "1 and 2 are known");
    }
    if config.replicas == 0 {
        return wrong("replicas", "it is zero");
    }
    if let Err(reason) = runtime::check_tick(*config.tick) {
        return wrong("tick", reason);
    }
    if *config.heartbeat < *config.tick {
        return wrong(
            "heartbeat",
            "it must be at least tick, in which it is counted",
        );
    }
    if config.heartbeat.is_zero() || *config.heartbeat * 5 > *config.election_timeout {
        return wrong(
            "heartbeat",
            "it must be above zero and at most a fifth of election_timeout",
        );
    }
    if config.balance.rebalance_share > 100 {
        return wrong(
            "balance.rebalance_share",
            "it is percent of balance.store_rate: 100 at the most",
        );
    }
    let me = if config.advertise_addr.is_empty() {
        &config.addr
    } else {
        &config.advertise_addr
    };
    Members::new(&config.members, me)
}

fn open(config: &PlacementConfig) -> Result<RocksEngine, Error> {
    let path = || config.data_dir.clone();
    std::fs::create_dir_all(&config.data_dir).map_err(|source| {
        let error = engine::Error::Io {
            operation: "creating it",
            source: source.into(),
        };
        Error::Directory {
            path: path(),
            source: error.into(),
        }
    })?;
    let options = RocksOptions {
        cache_bytes: CACHE_BYTES,
        memtable_bytes: MEMTABLE_BYTES,
        ..Default::default()
    };
    crate::disk::open(&config.data_dir, &options).map_err(|error| match error {
        engine::Error::InUse { .. } => Error::DirectoryInUse { path: path() },
        error => Error::Directory {
            path: path(),
            source: error.into(),
        },
    })
}

/// What regions that may merge have together, as a part of a full one.
const TOGETHER_SHARE: f64 = 0.4;
/// Threads for snapshots of the one region.
const BACKGROUND_THREADS: usize = 1;

/// Full regions that the dial lets a store take in within a minute.
fn regions_per_minute(config: &PlacementConfig) -> f64 {
    let balance = &config.balance;
    let bytes =
        balance.store_rate.bytes() as f64 * f64::from(balance.rebalance_share) / 100.0 * 60.0;
    let full = config.merge.together_bytes.bytes() as f64 / TOGETHER_SHARE;
    bytes / full
}

fn settings(config: &PlacementConfig) -> Settings {
    Settings {
        api_version: config.api_version,
        replicas: config.replicas,
        store_down_after: *config.store_down_after,
        store_lost_after: (*config.store_lost_after).max(*config.store_down_after),
        balance: placement::BalanceSettings {
            enabled: config.balance.enabled,
            share_percent: config.balance.rebalance_share,
            store_rate_bytes: config.balance.store_rate.bytes(),
            settle: *config.balance.settle,
            rest: *config.balance.rest,
            ..Default::default()
        },
        merge: placement::MergeSettings {
            enabled: config.merge.enabled,
            after: *config.merge.after,
            small_bytes: config.merge.together_bytes.bytes() / 2,
            small_keys: config.merge.together_keys / 2,
            bytes_max: config.merge.together_bytes.bytes(),
            keys_max: config.merge.together_keys,
            requests_max: config.merge.together_requests,
            ..Default::default()
        },
        ..Default::default()
    }
}

fn store_options(config: &PlacementConfig, boot: u64) -> store::Options {
    let ticks = |span: Span| (span.as_millis() / config.tick.as_millis().max(1)).max(1) as u32;
    let election_ticks = ticks(config.election_timeout);
    store::Options {
        raft: raft::Options {
            election_ticks,
            heartbeat_ticks: ticks(config.heartbeat),
            ..Default::default()
        },
        // Members that start together must not draw the same timeouts.
        seed: rand::random::<u64>() ^ boot,
        // The region of a placement group is never split.
        ids_low: 0,
        split: store::SplitOptions::never(),
        snapshot_sends: BACKGROUND_THREADS,
        // Who is down is told to `watch_members` and nobody else.
        down_ticks: u64::from(
            ticks(config.newcomer_lost_after).max(election_ticks.saturating_mul(2)),
        ),
        ..store::Options::with_tick(config.tick.as_millis().max(1) as u64)
    }
}
