//! Threads of a store: the driver that gives the store machine time, a disk and a network.
//!
//! A placement member is a store with one region (D7), so it runs the same driver over its own machine.
//!
//! | Thread | Does | Takes from | Full: what then |
//! |---|---|---|---|
//! | `region` (1) | steps the store, publishes views, hands everything on | its inbox | see the module `inbox` |
//! | `log` (1) | joins log batches, writes, syncs, lets go of what waited | a queue counted in bytes | the region worker takes only completions until it caught up |
//! | `apply-N` | carries out committed entries | a queue counted in bytes | the same |
//! | `background-N` | builds and installs snapshots, clears ranges | a queue bounded by the store's slots | – |
//! | `send-N` | streams snapshots | the same | – |
//! | `fetch` (1) | reads the log for members that lag | a queue bounded by one fetch per member of each region led here | – |
//!
//! Requests come from RPC threads through a [`Handle`], which counts their bytes until they are answered and refuses
//! above a limit. A failed write, sync or apply ends the process ([`fatal`]).

// A refusal carries what clients act on and is moved a few times on a path that is rare; a box would be noise.
#![allow(clippy::result_large_err)]

mod applier;
mod background;
pub mod fatal;
mod freezes;
mod handle;
mod inbox;
mod log_writer;
mod network;
mod news;
mod queue;
mod reads;
mod transfers;
mod views;
mod worker;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::Engine;
use store::apply::Applier;
use tokio::sync::watch;

pub use handle::{Handle, Permit};
pub use network::{Network, ReadFile};
pub use news::{News, NewsBatch};
pub use transfers::{Pace, Ticket};
pub use views::Views;
pub(crate) use worker::shortened;

use self::applier::ApplyWorker;
use self::background::Background;
use self::fatal::OnFatal;
use self::freezes::Freezes;
use self::inbox::{Control, Inbox, Limits};
use self::log_writer::{Busy, LogWriter};
use self::queue::Queue;
use self::reads::Reads;
use self::transfers::Transfers;
use self::worker::{Requests, Worker};
use crate::metrics::Metrics;

/// Threads and limits of a node.
#[derive(Clone, Debug)]
pub struct Options {
    /// Real time of one tick.
    pub tick: Duration,
    /// Threads that apply committed entries, at least one.
    pub appliers: usize,
    /// Threads for background work, at least one; as many again stream snapshots.
    pub background: usize,
    /// Frames that wait for the worker, in bytes. Full: a frame is dropped.
    pub frame_bytes_max: usize,
    /// Requests that wait for the worker. Full: refused as busy.
    pub requests_max: usize,
    /// Bytes of requests in work, from their arrival to their answer. Full: refused as busy.
    pub request_bytes_max: usize,
    /// Bytes that wait for the log writer or for one applier. Full: the worker takes nothing new meanwhile.
    pub backlog_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            tick: Duration::from_millis(50),
            appliers: 1,
            background: 2,
            frame_bytes_max: 64 << 20,
            requests_max: 65_536,
            request_bytes_max: 128 << 20,
            backlog_bytes_max: 64 << 20,
        }
    }
}

/// Longest tick. A request waits 300 ms for a leader (REGIONS §8), which is counted in ticks, and not in less than one.
const TICK_MAX: Duration = Duration::from_millis(300);

/// Refuses a tick that would round times which are counted in it to something else.
///
/// # Errors
/// What a tick must be.
pub fn check_tick(tick: Duration) -> Result<(), &'static str> {
    if tick.is_zero() || !tick.subsec_nanos().is_multiple_of(1_000_000) || tick > TICK_MAX {
        return Err(
            "it must be a whole number of milliseconds, from 1 to 300: so long requests wait for a leader",
        );
    }
    Ok(())
}

/// A running node. Dropping it without [`Node::stop`] leaves its threads running to the end of the process.
pub struct Node<E: Engine> {
    handle: Handle<E>,
    inbox: Arc<Inbox>,
    transfers: Arc<Transfers>,
    stages: Stages,
    region: JoinHandle<()>,
    others: Vec<JoinHandle<()>>,
}

/// The queues between threads.
struct Stages {
    log: Arc<Queue<(store::event::LogBatch, u64)>>,
    appliers: Vec<Arc<Queue<(store::event::ApplyTask, u64)>>>,
    tasks: Arc<Queue<store::event::Task>>,
    sends: Arc<Queue<store::event::Task>>,
    fetches: Arc<Queue<store::event::Task>>,
}

impl Stages {
    fn new(appliers: usize) -> Self {
        Stages {
            log: Arc::default(),
            appliers: (0..appliers).map(|_| Arc::default()).collect(),
            tasks: Arc::default(),
            sends: Arc::default(),
            fetches: Arc::default(),
        }
    }
}

impl<E: Engine> Node<E> {
    /// Starts the threads of a node around an opened store.
    ///
    /// # Errors
    /// The operating system refused a thread.
    pub fn start(
        store: store::Store<E>,
        engine: E,
        network: Arc<dyn Network>,
        options: &Options,
        metrics: Arc<Metrics>,
        on_fatal: OnFatal,
    ) -> std::io::Result<Self> {
        assert!(
            options.appliers > 0 && options.background > 0,
            "every stage needs a thread"
        );
        let inbox = Arc::new(Inbox::new(Limits {
            frame_bytes_max: options.frame_bytes_max,
            requests_max: options.requests_max,
            request_bytes_max: options.request_bytes_max,
        }));
        let views = Arc::new(Views::default());
        let transfers = Arc::new(Transfers::new(inbox.clone()));
        let news = Arc::new(News::default());
        let reads = Arc::new(Reads::default());
        let progress = Arc::new(AtomicU64::new(0));
        let started = Instant::now();
        let (drained_sender, drained) = watch::channel(false);
        let stages = Stages::new(options.appliers);
        let busy = Arc::new(Busy::new(started));
        let handle = Handle::new(handle::Parts {
            engine: engine.clone(),
            inbox: inbox.clone(),
            views: views.clone(),
            transfers: transfers.clone(),
            news: news.clone(),
            reads: reads.clone(),
            metrics: metrics.clone(),
            drained,
            progress: progress.clone(),
            log_busy: busy.clone(),
            started,
            request_bytes_max: options.request_bytes_max,
        });

        let mut others = Vec::new();
        others.push(spawn("log".to_owned(), {
            let writer = LogWriter {
                engine: engine.clone(),
                queue: stages.log.clone(),
                inbox: inbox.clone(),
                network: network.clone(),
                metrics: metrics.clone(),
                on_fatal: on_fatal.clone(),
                busy,
            };
            move || writer.run()
        })?);
        for (number, queue) in stages.appliers.iter().enumerate() {
            let worker = ApplyWorker {
                applier: Applier::new(engine.clone(), store.options()),
                queue: queue.clone(),
                inbox: inbox.clone(),
                metrics: metrics.clone(),
                on_fatal: on_fatal.clone(),
            };
            others.push(spawn(format!("apply-{number}"), move || worker.run())?);
        }
        for (name, queue, threads) in [
            ("background", &stages.tasks, options.background),
            ("send", &stages.sends, options.background),
            ("fetch", &stages.fetches, 1),
        ] {
            for number in 0..threads {
                let background = Background {
                    engine: engine.clone(),
                    queue: queue.clone(),
                    inbox: inbox.clone(),
                    network: network.clone(),
                    transfers: transfers.clone(),
                    metrics: metrics.clone(),
                    on_fatal: on_fatal.clone(),
                };
                others.push(spawn(format!("{name}-{number}"), move || background.run())?);
            }
        }
        let region = spawn("region".to_owned(), {
            let worker = Worker {
                store,
                inbox: inbox.clone(),
                views,
                transfers: transfers.clone(),
                news,
                reads,
                network,
                log: stages.log.clone(),
                appliers: stages.appliers.clone(),
                tasks: stages.tasks.clone(),
                sends: stages.sends.clone(),
                fetches: stages.fetches.clone(),
                drained: drained_sender,
                requests: Requests::new(&metrics),
                freezes: Freezes::default(),
                metrics,
                progress,
                reads_due: started,
                started,
                tick: options.tick,
                backlog_bytes_max: options.backlog_bytes_max,
                on_fatal,
            };
            move || worker.run()
        })?;
        Ok(Node {
            handle,
            inbox,
            transfers,
            stages,
            region,
            others,
        })
    }

    /// The way in.
    pub fn handle(&self) -> Handle<E> {
        self.handle.clone()
    }

    /// Ends the threads. What was handed to the log writer and the appliers is finished first; requests without an answer
    /// have an unknown outcome. Snapshots on their way end in the middle. Blocks until all threads are gone, for ever if
    /// one waits for a disk that hangs.
    pub fn stop(self) {
        self.inbox.close();
        self.transfers.stop();
        self.inbox.control(Control::Stop);
        join(self.region);
        self.stages.log.close();
        for queue in &self.stages.appliers {
            queue.close();
        }
        self.stages.tasks.close();
        self.stages.sends.close();
        self.stages.fetches.close();
        self.others.into_iter().for_each(join);
    }
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).spawn(body)
}

/// Waits for a thread, and carries its panic on in tests; a server has aborted by then.
fn join(thread: JoinHandle<()>) {
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
