//! The clients, and who judges the keys that they leave behind.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use history::{Effect, Moment, NEVER, Operation, Value};
use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    Failed, Fault, GROUP, Register, Settings, Verdict, Violation,
    key::{Intent, Key, Told},
    value,
};

/// Reads at the end, at a time.
const READERS: usize = 64;
/// Histories checked at a time: each may take a core for a moment, which the cluster beside it needs, too.
const CHECKS: usize = 1;
/// Pause of a client whose operation was not done: the cluster was just asked for as long as it may be.
const REFUSED_PAUSE: Duration = Duration::from_millis(10);

/// Running clients.
pub struct Workload<R> {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
    judge: tokio::task::JoinHandle<Judge<R>>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Operations that were answered.
    pub acknowledged: u64,
    /// Writes whose outcome is not known.
    pub unknown: u64,
    /// Operations that were not done.
    pub not_done: u64,
    /// Histories that were checked.
    pub keys: u64,
    /// Violations found.
    pub violations: u64,
    /// How long nobody has been answered.
    pub silence: Duration,
}

struct Shared {
    settings: Settings,
    began: Instant,
    stop: AtomicBool,
    acknowledged: AtomicU64,
    unknown: AtomicU64,
    not_done: AtomicU64,
    checked: AtomicU64,
    violations: AtomicU64,
    /// When somebody was answered last, and the longest time between two such moments.
    answered_at: AtomicU64,
    silence_max: AtomicU64,
    values: AtomicU64,
    keys: AtomicU64,
    /// By group and place: the keys in use.
    places: Vec<Mutex<Arc<Key>>>,
    /// Keys whose last operation has ended. Few, since each stands for hundreds of operations.
    over: mpsc::UnboundedSender<Arc<Key>>,
}

impl<R: Register> Workload<R> {
    /// Starts the clients over the given registers, of which each client uses one: several connections to one cluster.
    ///
    /// # Panics
    /// Without a register, outside a runtime, or with settings that leave nothing to do.
    pub fn start(registers: Vec<R>, settings: Settings) -> Self {
        assert!(!registers.is_empty(), "a workload needs a register");
        assert!(
            settings.clients > 0 && settings.keys_per_group >= 2 && settings.operations_per_key > 0,
            "{settings:?} leaves nothing to do"
        );
        let (over, ended) = mpsc::unbounded_channel();
        let groups = settings.clients.div_ceil(GROUP);
        let mut shared = Shared {
            began: Instant::now(),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            not_done: AtomicU64::new(0),
            checked: AtomicU64::new(0),
            violations: AtomicU64::new(0),
            answered_at: AtomicU64::new(0),
            silence_max: AtomicU64::new(0),
            values: AtomicU64::new(1),
            keys: AtomicU64::new(0),
            places: Vec::new(),
            over,
            settings,
        };
        let mut random = ChaCha8Rng::seed_from_u64(shared.settings.seed);
        for place in 0..groups * shared.settings.keys_per_group {
            let key = shared.new_key(place, &mut random);
            shared.places.push(Mutex::new(key));
        }
        let shared = Arc::new(shared);
        let mut clients = JoinSet::new();
        for client in 0..shared.settings.clients {
            let register = registers[client % registers.len()].clone();
            clients.spawn(work(shared.clone(), register, client));
        }
        let judge = Judge {
            shared: shared.clone(),
            register: registers[0].clone(),
            verdict: Verdict::default(),
            remembered: Vec::new(),
        };
        let judge = tokio::spawn(judge.run(ended));
        Self {
            shared,
            clients,
            judge,
        }
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        let shared = &self.shared;
        let since = shared
            .now()
            .saturating_sub(shared.answered_at.load(Relaxed));
        Progress {
            acknowledged: shared.acknowledged.load(Relaxed),
            unknown: shared.unknown.load(Relaxed),
            not_done: shared.not_done.load(Relaxed),
            keys: shared.checked.load(Relaxed),
            violations: shared.violations.load(Relaxed),
            silence: Duration::from_nanos(since),
        }
    }

    /// Lets the clients end what they do, checks what is left to check, and reads every key again. What disturbed the cluster
    /// must have ended.
    ///
    /// # Panics
    /// When a client did.
    pub async fn finish(mut self) -> Verdict {
        let shared = self.shared;
        shared.answered();
        let span = shared.began.elapsed();
        let acknowledged = shared.acknowledged.load(Relaxed);
        shared.stop.store(true, Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client does not panic");
        }
        for place in &shared.places {
            let key = lock(place).clone();
            if key.retire() {
                shared.hand_over(key);
            }
        }
        // No more keys come, which ends the judge: its last message is an empty one.
        shared.hand_over(Arc::new(Key::new(Bytes::new(), false)));
        let mut judge = self.judge.await.expect("the judge does not panic");
        judge.read_back().await;
        let mut verdict = judge.verdict;
        verdict.span = span;
        verdict.acknowledged = acknowledged;
        verdict.unknown = shared.unknown.load(Relaxed);
        verdict.not_done = shared.not_done.load(Relaxed);
        verdict.longest_silence = Duration::from_nanos(shared.silence_max.load(Relaxed));
        verdict
    }
}

impl Shared {
    fn now(&self) -> Moment {
        self.began.elapsed().as_nanos() as Moment
    }

    fn answered(&self) {
        let now = self.now();
        let before = self.answered_at.fetch_max(now, Relaxed);
        self.silence_max
            .fetch_max(now.saturating_sub(before), Relaxed);
    }

    /// A key for a place: spread over the range of all keys, so that splits fall between them.
    fn new_key(&self, place: usize, random: &mut ChaCha8Rng) -> Arc<Key> {
        let number = self.keys.fetch_add(1, Relaxed);
        let spread: u16 = random.random();
        let name = format!("{}{spread:04x}-{number}", self.settings.prefix);
        Arc::new(Key::new(name.into(), place.is_multiple_of(2)))
    }

    /// The key at a place with an operation begun on it. One that has had all of its operations makes room for another.
    fn begin(&self, place: usize, random: &mut ChaCha8Rng) -> Arc<Key> {
        let mut there = lock(&self.places[place]);
        while !there.try_begin(self.settings.operations_per_key) {
            let old = std::mem::replace(&mut *there, self.new_key(place, random));
            if old.retire() {
                self.hand_over(old);
            }
        }
        there.clone()
    }

    fn hand_over(&self, key: Arc<Key>) {
        // The judge goes last.
        let _ = self.over.send(key);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One client.
async fn work<R: Register>(shared: Arc<Shared>, register: R, client: usize) {
    let mut random = ChaCha8Rng::seed_from_u64(shared.settings.seed);
    random.set_stream(client as u64 + 1);
    let keys = shared.settings.keys_per_group;
    let first = client / GROUP * keys;
    while !shared.stop.load(Relaxed) {
        let key = shared.begin(first + random.random_range(0..keys), &mut random);
        let intent = intend(&shared, &key, &mut random);
        let began = shared.now();
        let told = act(&register, &key, intent).await;
        let ended = shared.now();
        let counter = match &told {
            Ok(_) => &shared.acknowledged,
            Err(Failed::Unknown) => &shared.unknown,
            Err(Failed::NotDone) => &shared.not_done,
        };
        counter.fetch_add(1, Relaxed);
        if key.end(began, ended, intent, &told) {
            shared.hand_over(key);
        }
        match told {
            Ok(_) => shared.answered(),
            Err(_) => sleep(REFUSED_PAUSE).await,
        }
    }
}

fn intend(shared: &Shared, key: &Key, random: &mut ChaCha8Rng) -> Intent {
    let new = || shared.values.fetch_add(1, Relaxed);
    match random.random_range(0..100) {
        0..45 => Intent::Get,
        45..60 if key.every_kind => Intent::Swap {
            // Now and then something else, so that swaps fail, too.
            expected: if random.random_range(0..10) == 0 {
                None
            } else {
                key.guess()
            },
            new: new(),
        },
        60..70 if key.every_kind => Intent::Delete,
        _ => Intent::Put(new()),
    }
}

async fn act<R: Register>(register: &R, key: &Key, intent: Intent) -> Result<Told, Failed> {
    let name = key.name.clone();
    match intent {
        Intent::Get => register.get(name).await.map(Told::Found),
        Intent::Put(number) => {
            let put = register.put(name, value::bytes(number)).await;
            put.map(|()| Told::Done)
        }
        Intent::Delete => register.delete(name).await.map(|()| Told::Done),
        Intent::Swap { expected, new } => {
            let swap = register.swap(name, expected.map(value::bytes), value::bytes(new));
            let told = swap.await;
            told.map(|(swapped, found)| Told::Swapped(swapped, found))
        }
    }
}

/// A key that nobody uses any more, and what it may hold.
struct Remembered {
    name: Bytes,
    known: Value,
    /// What operations without an answer may write yet.
    open: Vec<Value>,
}

/// Reads keys that are over, checks their histories, and remembers what they hold.
struct Judge<R> {
    shared: Arc<Shared>,
    register: R,
    verdict: Verdict,
    remembered: Vec<Remembered>,
}

impl<R: Register> Judge<R> {
    async fn run(mut self, mut over: mpsc::UnboundedReceiver<Arc<Key>>) -> Self {
        let checks = Arc::new(Semaphore::new(CHECKS));
        let mut cases = JoinSet::new();
        loop {
            tokio::select! {
                Some(key) = over.recv() => {
                    if key.name.is_empty() {
                        break;
                    }
                    let case = hear(self.shared.clone(), self.register.clone(), key, checks.clone());
                    cases.spawn(case);
                }
                Some(case) = cases.join_next() => self.decide(case.expect("a check does not panic")),
            }
        }
        while let Some(case) = cases.join_next().await {
            self.decide(case.expect("a check does not panic"));
        }
        self
    }

    fn decide(&mut self, case: Case) {
        let verdict = &mut self.verdict;
        verdict.keys += 1;
        verdict.operations += case.operations as u64;
        self.shared.checked.fetch_add(1, Relaxed);
        let key = || String::from_utf8_lossy(&case.name).into_owned();
        if let Some(altered) = &case.altered {
            verdict.violate(Violation {
                key: key(),
                fault: Fault::Altered {
                    bytes: altered.len(),
                },
                shown_by: Vec::new(),
            });
        }
        match case.refused {
            None => {}
            Some((refused, shown_by)) if refused.is_violation() => {
                verdict.violate(Violation {
                    key: key(),
                    fault: Fault::History(refused),
                    shown_by,
                });
            }
            Some((refused, _)) => {
                verdict.undecided += 1;
                verdict.undecided_because.get_or_insert(refused);
            }
        }
        match case.known {
            Some(known) => self.remembered.push(Remembered {
                name: case.name,
                known,
                open: case.open,
            }),
            None if case.altered.is_none() => verdict.unread += 1,
            None => {}
        }
        self.shared
            .violations
            .store(verdict.violations_total, Relaxed);
    }

    /// Reads every key again.
    async fn read_back(&mut self) {
        let deadline = Instant::now() + self.shared.settings.read_limit;
        let mut reads = JoinSet::new();
        let mut left = std::mem::take(&mut self.remembered).into_iter();
        loop {
            while reads.len() < READERS
                && let Some(key) = left.next()
            {
                let register = self.register.clone();
                reads.spawn(async move {
                    let found = read(&register, &key.name, deadline).await;
                    (key, found)
                });
            }
            let Some(read) = reads.join_next().await else {
                return;
            };
            let (key, found) = read.expect("a read does not panic");
            self.compare(&key, found);
        }
    }

    fn compare(&mut self, key: &Remembered, found: Option<Option<Bytes>>) {
        let verdict = &mut self.verdict;
        let name = || String::from_utf8_lossy(&key.name).into_owned();
        let Some(found) = found else {
            verdict.unread += 1;
            return;
        };
        verdict.read_back += 1;
        let found = match found.as_ref().map(|found| (value::number(found), found)) {
            None => None,
            Some((Some(number), _)) => Some(number),
            Some((None, bytes)) => {
                verdict.violate(Violation {
                    key: name(),
                    fault: Fault::Altered { bytes: bytes.len() },
                    shown_by: Vec::new(),
                });
                return;
            }
        };
        if found != key.known && !key.open.contains(&found) {
            verdict.violate(Violation {
                key: name(),
                fault: Fault::Changed {
                    known: key.known,
                    found,
                },
                shown_by: Vec::new(),
            });
        }
    }
}

/// What is to be decided about a key.
struct Case {
    name: Bytes,
    operations: usize,
    altered: Option<Bytes>,
    refused: Option<(history::Refused, Vec<Operation>)>,
    /// What it held at last; `None` when it could not be read.
    known: Option<Value>,
    open: Vec<Value>,
}

/// Reads a key that is over and checks its history.
async fn hear<R: Register>(
    shared: Arc<Shared>,
    register: R,
    key: Arc<Key>,
    checks: Arc<Semaphore>,
) -> Case {
    let (mut operations, mut altered) = key.take();
    let began = shared.now();
    let last = loop {
        // While the clients work the cluster may be disturbed for any time; then it has only so much.
        let stopped = shared.stop.load(Relaxed);
        let deadline = Instant::now() + shared.settings.read_limit;
        match read(&register, &key.name, deadline).await {
            None if !stopped => {}
            last => break last,
        }
    };
    let ended = shared.now();
    let mut known = None;
    if let Some(last) = last {
        match last.as_ref().map(|last| (value::number(last), last)) {
            None => known = Some(None),
            Some((Some(number), _)) => known = Some(Some(number)),
            Some((None, bytes)) => altered = Some(bytes.clone()),
        }
    }
    if let Some(known) = known {
        operations.push(Operation {
            began,
            ended,
            effect: Effect::Get(known),
        });
    }
    let open = operations
        .iter()
        .filter(|operation| operation.ended == NEVER)
        .filter_map(|operation| match operation.effect {
            Effect::Put(value) | Effect::Swap { new: value, .. } => Some(Some(value)),
            Effect::Delete => Some(None),
            Effect::Get(_) => None,
        })
        .collect();
    let count = operations.len();
    let turn = checks.acquire().await.expect("it is never closed");
    let refused = tokio::task::spawn_blocking(move || {
        let refused = history::check(&operations).err()?;
        let shown = if refused.is_violation() {
            history::smallest(&operations)
        } else {
            Vec::new()
        };
        Some((refused, shown))
    });
    let refused = refused.await.expect("a check does not panic");
    drop(turn);
    Case {
        name: key.name.clone(),
        operations: count,
        altered,
        refused,
        known,
        open,
    }
}

/// Reads until there is an answer. `None` when there is none in time.
async fn read<R: Register>(register: &R, key: &Bytes, deadline: Instant) -> Option<Option<Bytes>> {
    let attempts = async {
        loop {
            match register.get(key.clone()).await {
                Ok(found) => return found,
                Err(_) => sleep(REFUSED_PAUSE).await,
            }
        }
    };
    let left = deadline.saturating_duration_since(Instant::now());
    timeout(left, attempts).await.ok()
}
