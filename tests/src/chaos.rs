//! A cluster of real processes under fire, with clients that write down what they see (RELIABILITY F1 to F22, R23, R26, R37).
//!
//! Placement members and stores are children of this process. Each is told the address of a proxy as its own, so that every
//! connection between them, and every one of a client, passes one ([`crate::proxy`]). Two hands are at work meanwhile: one harms
//! network and processes (`harm`), one orders what administrators may order (`order`). What they do, and how strong, is drawn
//! from the seed; when it happens depends on the machine, so a seed does not repeat a run exactly.
//!
//! Harm is of a kind that the cluster must survive: at most one store and one member are away at a time, but for the moments at
//! which all stores are killed together, after which all come back.
//!
//! At the end everything is mended, every key is read, and the histories decide. A run also fails when a process ended by itself
//! or the cluster does not become whole again; it is void when a kind of fault that was planned did not happen.

mod harm;
mod order;
mod processes;
mod report;

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use client::{Client, Options, UnknownWrites};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use tokio::sync::watch;
use workload::Workload;

pub use harm::Harms;
pub use order::Orders;
use processes::Processes;
pub use report::{Outcome, Report};

/// What a run is.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// How long the cluster is harmed, at least.
    pub length: Duration,
    /// From which the plan follows.
    pub seed: u64,
    /// Stores; with three copies of everything, a store can be emptied if there are four.
    pub stores: usize,
    /// Placement members.
    pub members: usize,
    /// Clients.
    pub clients: usize,
    /// Whether disks are harmed as well, and lose what was not synced when a process is killed. The binary has to be
    /// `pontoon-fault-disk`.
    pub disks: bool,
    /// Folder for everything; a new one if unset.
    pub folder: Option<PathBuf>,
    /// Says how it goes, about every five seconds.
    pub verbose: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            length: Duration::from_secs(60),
            seed: 1,
            stores: 4,
            members: 3,
            clients: 24,
            disks: false,
            folder: None,
            verbose: false,
        }
    }
}

/// How much longer a run may last for everything to happen that was planned.
const LONGER_MAX: Duration = Duration::from_secs(90);
/// How long the cluster may take to become whole.
const HEALING_MAX: Duration = Duration::from_secs(120);
/// Connections to the cluster that the clients share.
const CONNECTIONS: usize = 6;

/// What happened so far, by name, and the log of it.
pub(crate) struct Events {
    began: Instant,
    log: Mutex<File>,
    happened: Mutex<BTreeMap<&'static str, u64>>,
    now: Mutex<BTreeMap<&'static str, String>>,
}

impl Events {
    /// Notes what a hand does now.
    fn doing(&self, hand: &'static str, what: String) {
        self.note(&what);
        self.now
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(hand, what);
    }

    /// Notes something in the log. Its times count from the beginning of the workload, as those of histories do.
    fn note(&self, what: &str) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        // A log that cannot be written is no reason to end.
        let _ = writeln!(log, "{:>10} ms {what}", self.began.elapsed().as_millis());
    }

    fn happened(&self, kind: &'static str) {
        *self
            .happened
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(kind)
            .or_default() += 1;
    }

    fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.happened
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn missing(&self, planned: &[&'static str]) -> Vec<&'static str> {
        let counts = self.counts();
        let happened = |kind: &&'static str| counts.contains_key(*kind);
        planned
            .iter()
            .copied()
            .filter(|kind| !happened(kind))
            .collect()
    }

    fn now(&self) -> String {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.values().cloned().collect::<Vec<_>>().join("; ")
    }
}

/// Runs it.
///
/// # Errors
/// The cluster does not start. Everything else is in the report.
pub async fn run(wanted: Wanted) -> Result<Report> {
    let mut processes = Processes::start(&wanted).await?;
    let folder = processes.folder().to_owned();
    let options = Options {
        unknown_writes: UnknownWrites::Report,
        budget: Duration::from_secs(5),
        attempt_timeout: Duration::from_secs(2),
        ..Options::default()
    };
    let placement = processes.placement();
    processes.wait_serving(&placement, HEALING_MAX).await?;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let client = Client::connect(&placement, options).await;
        clients.push(client.context("a client connects")?);
    }
    processes.learn_ids(&clients[0].admin()).await?;
    let log = File::create(folder.join("events.log"))?;

    let prefix = "k";
    let settings = workload::Settings {
        seed: wanted.seed,
        prefix: prefix.to_owned(),
        clients: wanted.clients,
        read_limit: HEALING_MAX,
        ..workload::Settings::default()
    };
    let events = Arc::new(Events {
        began: Instant::now(),
        log: Mutex::new(log),
        happened: Mutex::default(),
        now: Mutex::default(),
    });
    let workload = Workload::start(clients.clone(), settings);
    let processes = Arc::new(tokio::sync::Mutex::new(processes));
    let (stop, stopping) = watch::channel(false);
    let harms = Harms::plan(&wanted);
    let orders = Orders::plan(&wanted);
    let planned = [harms.kinds(), orders.kinds()].concat();
    let hands = [
        tokio::spawn(harms.work(processes.clone(), events.clone(), stopping.clone())),
        tokio::spawn(orders.work(clients[0].clone(), prefix, events.clone(), stopping.clone())),
        tokio::spawn(processes::watch_ends(
            processes.clone(),
            events.clone(),
            stopping,
        )),
    ];

    let mut tick = tokio::time::interval(Duration::from_millis(200));
    let mut told = Instant::now();
    loop {
        tick.tick().await;
        let progress = workload.progress();
        let elapsed = events.began.elapsed();
        if wanted.verbose && told.elapsed() >= Duration::from_secs(5) {
            told = Instant::now();
            let rate = progress.acknowledged as f64 / elapsed.as_secs_f64();
            eprintln!(
                "[{:>5.0} s] {} operations ({rate:.0}/s), {} unknown, {} histories, {} violations, silence {:.1} s | {}",
                elapsed.as_secs_f64(),
                progress.acknowledged,
                progress.unknown,
                progress.keys,
                progress.violations,
                progress.silence.as_secs_f64(),
                events.now(),
            );
        }
        let over = elapsed >= wanted.length && events.missing(&planned).is_empty();
        if over || elapsed >= wanted.length + LONGER_MAX || progress.violations > 0 {
            break;
        }
    }
    stop.send_replace(true);
    for hand in hands {
        hand.await?;
    }
    if wanted.verbose {
        eprintln!("mending everything");
    }
    let mut processes = processes.lock().await;
    processes.mend().await?;
    let admin = clients[0].admin();
    let healing = async {
        order::undrain_all(&admin, HEALING_MAX).await?;
        processes::wait_whole(&admin, HEALING_MAX).await
    };
    let unhealed = healing.await.err().map(|error| format!("{error:#}"));
    if wanted.verbose {
        eprintln!("reading every key");
    }
    let verdict = workload.finish().await;
    let report = Report {
        seed: wanted.seed,
        missing: events.missing(&planned),
        happened: events.counts(),
        network: processes.network_counts(),
        damaged: processes.damaged_messages(),
        ended: processes.take_ends(),
        differing: crate::differing(&folder)?,
        unhealed,
        verdict,
        folder,
        command: command(&wanted),
    };
    processes.end();
    report.keep()?;
    Ok(report)
}

fn command(wanted: &Wanted) -> String {
    format!(
        "cargo run --release -p tests --bin chaos -- --seconds {} --seed {} --stores {} --members {} --clients {}{}",
        wanted.length.as_secs(),
        wanted.seed,
        wanted.stores,
        wanted.members,
        wanted.clients,
        if wanted.disks { " --disks" } else { "" },
    )
}

/// Random choices of one hand.
pub(crate) struct Choice(ChaCha8Rng);

impl Choice {
    fn new(seed: u64, hand: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(hand);
        Self(random)
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }

    /// A time from one to another, in milliseconds.
    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from + 1))
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let count = from.len() as u64;
        (count > 0).then(|| from[self.below(count) as usize])
    }

    fn shuffle<T>(&mut self, deck: &mut [T]) {
        for place in (1..deck.len()).rev() {
            let other = self.below(place as u64 + 1) as usize;
            deck.swap(place, other);
        }
    }
}

/// Kinds of things that a hand does, in an order that the seed chooses.
struct Deck<K> {
    cards: Vec<(K, &'static str)>,
    dealt: usize,
}

impl<K: Copy> Deck<K> {
    /// As many of the cards as there is time for when each takes about one `step`. The first ones stay first, for the others need them.
    fn new(
        mut cards: Vec<(K, &'static str)>,
        first: usize,
        choice: &mut Choice,
        length: Duration,
        step: Duration,
    ) -> Self {
        choice.shuffle(&mut cards[first..]);
        cards.truncate((length.as_secs() / step.as_secs()).max(1) as usize);
        Self { cards, dealt: 0 }
    }

    fn names(&self) -> Vec<&'static str> {
        self.cards.iter().map(|(_, name)| *name).collect()
    }

    /// The next card, and after the last one the first of another order.
    fn deal(&mut self, choice: &mut Choice) -> (K, &'static str) {
        if self.dealt == self.cards.len() {
            choice.shuffle(&mut self.cards);
            self.dealt = 0;
        }
        self.dealt += 1;
        self.cards[self.dealt - 1]
    }
}

/// Waits, unless the run is over meanwhile. Returns whether it goes on.
pub(crate) async fn pause(length: Duration, stopping: &mut watch::Receiver<bool>) -> bool {
    tokio::select! {
        () = tokio::time::sleep(length) => true,
        _ = stopping.wait_for(|stop| *stop) => false,
    }
}
