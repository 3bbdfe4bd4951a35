//! Clients that do one kind of operation each, over and over, and judge every answer.
//!
//! An operation that the client gave up has an unknown outcome: it is counted, and what follows allows for both. Keys are
//! written once each, so that an attempt that arrives late alters nothing that is known.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::wait_for;
use tikv_client::{KvPair, RawClient};
use tokio::task::JoinSet;

/// What is done, with the number of acknowledged operations that count as progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Put,
    Batch,
    Scan,
    DeleteRange,
    CompareAndSwap,
    TimeToLive,
    Expiry,
}

const KINDS: [(Kind, u64); 7] = [
    (Kind::Put, 50),
    (Kind::Batch, 20),
    (Kind::Scan, 20),
    (Kind::DeleteRange, 10),
    (Kind::CompareAndSwap, 50),
    (Kind::TimeToLive, 20),
    (Kind::Expiry, 1),
];

/// Keys of one batch, spread over all regions of their kind.
const BATCH: u64 = 20;
/// Keys that scans go over at most.
const SCANNED: u64 = 300;
/// How often in a row a scan may miss a key. The client finds a region by key and again by id; a split in between makes
/// it take the end of the larger one, and skip what the smaller has no more.
const SHORT_MAX: u32 = 3;
/// Longest delay of an expiry.
const EXPIRY_MAX: Duration = Duration::from_secs(15);

/// What a key holds at the end.
struct Expected {
    any_of: Vec<String>,
    /// Whether it must hold one; where the outcome is unknown, it may.
    certain: bool,
}

impl Expected {
    fn new(value: impl Into<String>, certain: bool) -> Self {
        Self {
            any_of: vec![value.into()],
            certain,
        }
    }

    fn allows(&self, value: &str) -> bool {
        self.any_of.iter().any(|expected| expected == value)
    }
}

type Known = BTreeMap<String, Expected>;

/// The running clients.
pub struct Work {
    state: Arc<State>,
    client: RawClient,
    kinds: Vec<(Kind, u64)>,
    tasks: JoinSet<Known>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    acknowledged: [AtomicU64; KINDS.len()],
    gave_up: [AtomicU64; KINDS.len()],
    short_scans: AtomicU64,
    wrong: Mutex<Option<String>>,
}

impl State {
    fn runs(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn acknowledged(&self, kind: Kind) -> u64 {
        self.acknowledged[kind as usize].load(Ordering::Relaxed)
    }

    fn acknowledge(&self, kind: Kind) {
        self.acknowledged[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The answer, or `None` when the client gave up, which says nothing of the outcome. A refusal of the operation itself
    /// is an error: nothing here deserves one.
    fn outcome<T>(&self, kind: Kind, answer: tikv_client::Result<T>) -> Result<Option<T>> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(error) => {
                let said = format!("{error:?}");
                ensure!(
                    !said.contains("KvError") && !said.contains("KeyError("),
                    "{kind:?} was refused: {said}"
                );
                self.gave_up[kind as usize].fetch_add(1, Ordering::Relaxed);
                Ok(None)
            }
        }
    }
}

impl Work {
    /// Starts one client of each kind; the last two only where values can expire.
    pub fn start(client: &RawClient, api_version: u32) -> Self {
        let state = Arc::new(State::default());
        let mut tasks = JoinSet::new();
        macro_rules! run {
            ($task:ident $(, $argument:expr)*) => {{
                let (state, client) = (state.clone(), client.clone());
                tasks.spawn(async move {
                    let mut known = Known::new();
                    if let Err(error) = $task(&state, &client, &mut known $(, $argument)*).await {
                        state.wrong.lock().expect("no one panics").get_or_insert(format!("{error:#}"));
                    }
                    known
                });
            }};
        }
        run!(put, 0);
        run!(put, 1);
        run!(batch);
        run!(scan);
        run!(delete_range);
        run!(compare_and_swap, "c1");
        run!(compare_and_swap, "c9");
        if api_version == 2 {
            run!(time_to_live);
            run!(expiry);
        }
        let expires = |kind| matches!(kind, Kind::TimeToLive | Kind::Expiry);
        let kinds = KINDS
            .into_iter()
            .filter(|(kind, _)| api_version == 2 || !expires(*kind))
            .collect();
        Self {
            state,
            client: client.clone(),
            kinds,
            tasks,
        }
    }

    /// Waits until more operations of each kind are acknowledged.
    pub async fn make_progress(&self) -> Result<()> {
        for (kind, more) in &self.kinds {
            self.check()?;
            let goal = self.state.acknowledged(*kind) + more;
            wait_for(
                &format!("{more} more of {kind:?} are acknowledged"),
                async || Ok(self.check().is_err() || self.state.acknowledged(*kind) >= goal),
            )
            .await?;
        }
        self.check()
    }

    /// That no client gave up anything so far.
    pub fn none_given_up(&self) -> Result<()> {
        for (kind, _) in &self.kinds {
            let gave_up = self.state.gave_up[*kind as usize].load(Ordering::Relaxed);
            ensure!(
                gave_up == 0,
                "the client gave {gave_up} operations of {kind:?} up"
            );
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let wrong = self.state.wrong.lock().expect("no one panics");
        wrong
            .as_ref()
            .map_or(Ok(()), |wrong| Err(anyhow::anyhow!(wrong.clone())))
    }

    /// Ends the clients and reads back all they wrote.
    pub async fn stop_and_verify(mut self) -> Result<()> {
        self.state.stop.store(true, Ordering::Relaxed);
        let mut known = Known::new();
        while let Some(more) = self.tasks.join_next().await {
            known.extend(more?);
        }
        self.check()?;
        let keys: Vec<&String> = known.keys().collect();
        let mut found = BTreeMap::new();
        for some in keys.chunks(200) {
            let mut pairs = None;
            wait_for("what was written is read", async || {
                pairs = Some(
                    self.client
                        .batch_get(some.iter().map(|key| (*key).clone()))
                        .await?,
                );
                Ok(true)
            })
            .await?;
            found.extend(texts(pairs.context("an answer")?));
        }
        for (key, expected) in &known {
            match found.get(key) {
                Some(found) => ensure!(
                    expected.allows(found),
                    "{key} holds {found}, not one of {:?}",
                    expected.any_of
                ),
                None => ensure!(!expected.certain, "acknowledged write of {key} is lost"),
            }
        }
        for (kind, _) in &self.kinds {
            let gave_up = self.state.gave_up[*kind as usize].load(Ordering::Relaxed);
            println!(
                "{kind:?}: {} acknowledged, {gave_up} given up by the client",
                self.state.acknowledged(*kind)
            );
        }
        let short = self.state.short_scans.load(Ordering::Relaxed);
        println!(
            "{short} scans were short at first; {} keys verified",
            known.len()
        );
        Ok(())
    }
}

fn texts(pairs: Vec<KvPair>) -> Vec<(String, String)> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    pairs
        .into_iter()
        .map(|KvPair(key, value)| (text(key.into()), text(value)))
        .collect()
}

/// Puts a key and gets it.
async fn put(state: &State, client: &RawClient, known: &mut Known, writer: u32) -> Result<()> {
    for number in 0u64.. {
        if !state.runs() {
            break;
        }
        let key = format!("p{}-{writer}-{number:06}", number % 10);
        let value = format!("{writer}/{number}");
        let put = state.outcome(Kind::Put, client.put(key.clone(), value.clone()).await)?;
        known.insert(key.clone(), Expected::new(value.clone(), put.is_some()));
        let Some(found) = state.outcome(Kind::Put, client.get(key.clone()).await)? else {
            continue;
        };
        if put.is_some() {
            ensure!(
                found.as_deref() == Some(value.as_bytes()),
                "get of {key} found {found:?}"
            );
            state.acknowledge(Kind::Put);
        }
    }
    Ok(())
}

/// Puts a batch over all regions of the kind and gets it.
async fn batch(state: &State, client: &RawClient, known: &mut Known) -> Result<()> {
    for number in 0u64.. {
        if !state.runs() {
            break;
        }
        let pairs: Vec<(String, String)> = (0..BATCH)
            .map(|each| {
                (
                    format!("b{}-{number:06}-{each}", each % 10),
                    format!("{number}"),
                )
            })
            .collect();
        let put = state.outcome(Kind::Batch, client.batch_put(pairs.clone()).await)?;
        known.extend(
            pairs
                .iter()
                .map(|(key, value)| (key.clone(), Expected::new(value.clone(), put.is_some()))),
        );
        let keys = pairs.iter().map(|(key, _)| key.clone());
        let Some(found) = state.outcome(Kind::Batch, client.batch_get(keys).await)? else {
            continue;
        };
        if put.is_some() {
            let (found, wanted): (BTreeMap<_, _>, BTreeMap<_, _>) = (
                texts(found).into_iter().collect(),
                pairs.into_iter().collect(),
            );
            ensure!(
                found == wanted,
                "of batch {number} {} keys were found",
                found.len()
            );
            state.acknowledge(Kind::Batch);
        }
    }
    Ok(())
}

/// Scans keys of several regions while they become more.
async fn scan(state: &State, client: &RawClient, known: &mut Known) -> Result<()> {
    let mut short = 0;
    for number in 0u64.. {
        if !state.runs() {
            break;
        }
        if number < SCANNED {
            let key = format!("s{}-{number:06}", number % 10);
            let put = state.outcome(
                Kind::Scan,
                client.put(key.clone(), number.to_string()).await,
            )?;
            known.insert(key, Expected::new(number.to_string(), put.is_some()));
        }
        let scanned = client.scan("s0".to_owned().."s:".to_owned(), 1000).await;
        let Some(scanned) = state.outcome(Kind::Scan, scanned)? else {
            // A scan that finds a dead store keeps it in the client's cache; other operations forget it.
            let forget = client
                .batch_get((0..10).map(|digit| format!("s{digit}")))
                .await;
            state.outcome(Kind::Scan, forget)?;
            continue;
        };
        let scanned = texts(scanned);
        ensure!(
            scanned.windows(2).all(|pair| pair[0].0 < pair[1].0),
            "a scan is not in order"
        );
        for (key, value) in &scanned {
            let wanted = known
                .get(key)
                .with_context(|| format!("a scan found {key}, which nobody put"))?;
            ensure!(wanted.allows(value), "a scan found {value} at {key}");
        }
        let scanned: BTreeMap<_, _> = scanned.into_iter().collect();
        match known
            .iter()
            .find(|(key, expected)| expected.certain && !scanned.contains_key(*key))
        {
            Some((key, _)) => {
                short += 1;
                state.short_scans.fetch_add(1, Ordering::Relaxed);
                ensure!(
                    short < SHORT_MAX,
                    "{short} scans in a row missed keys, as {key}"
                );
            }
            None => {
                short = 0;
                state.acknowledge(Kind::Scan);
            }
        }
    }
    Ok(())
}

/// Fills a range that goes over several regions and empties it; what is beside it stays.
async fn delete_range(state: &State, client: &RawClient, known: &mut Known) -> Result<()> {
    for beside in ["d-before", "d:after"] {
        let put = state.outcome(
            Kind::DeleteRange,
            client.put(beside.to_owned(), "stays").await,
        )?;
        known.insert(beside.to_owned(), Expected::new("stays", put.is_some()));
    }
    for number in 0u64.. {
        if !state.runs() {
            break;
        }
        let keys: Vec<String> = (0..10)
            .map(|digit| format!("d{digit}-{number:06}"))
            .collect();
        let pairs = keys.iter().map(|key| (key.clone(), "goes"));
        let put = state.outcome(Kind::DeleteRange, client.batch_put(pairs).await)?;
        let deleted = client.delete_range("d0".to_owned().."d:".to_owned()).await;
        let deleted = state.outcome(Kind::DeleteRange, deleted)?;
        let left = state.outcome(Kind::DeleteRange, client.batch_get(keys).await)?;
        if let (Some(()), Some(()), Some(left)) = (put, deleted, left) {
            ensure!(
                left.is_empty(),
                "{} keys are left in a deleted range",
                left.len()
            );
            state.acknowledge(Kind::DeleteRange);
        }
    }
    Ok(())
}

/// Counts by compare-and-swap. A step whose outcome is unknown is taken again: it finds the count before or after it, and
/// can do no harm when it arrives late. So the count is exact.
async fn compare_and_swap(
    state: &State,
    client: &RawClient,
    known: &mut Known,
    key: &str,
) -> Result<()> {
    let client = client.with_atomic_for_cas();
    let mut count = None;
    while state.runs() {
        let next = count.map_or(0, |count: u64| count + 1);
        let (before, after) = (
            count.map(|count| count.to_string().into_bytes()),
            next.to_string(),
        );
        let swapped = client
            .compare_and_swap(key.to_owned(), before.clone(), after.clone())
            .await;
        match state.outcome(Kind::CompareAndSwap, swapped)? {
            // The last step may stay unknown; then the count is one of two.
            None => {
                let certain = count.is_some();
                let any_of = count
                    .into_iter()
                    .chain([next])
                    .map(|count| count.to_string())
                    .collect();
                known.insert(key.to_owned(), Expected { any_of, certain });
                continue;
            }
            Some((found, true)) => ensure!(
                found == before,
                "{key}: swapped {found:?} instead of {before:?}"
            ),
            // An attempt that the client repeated on its own.
            Some((found, false)) => {
                ensure!(
                    found.as_deref() == Some(after.as_bytes()),
                    "{key}: found {found:?} instead of {before:?}"
                );
            }
        }
        state.acknowledge(Kind::CompareAndSwap);
        known.insert(key.to_owned(), Expected::new(after, true));
        count = Some(next);
    }
    Ok(())
}

/// Puts keys that live long and asks how long.
async fn time_to_live(state: &State, client: &RawClient, known: &mut Known) -> Result<()> {
    for number in 0u64.. {
        if !state.runs() {
            break;
        }
        let key = format!("t{}-{number:06}", number % 10);
        let put = client
            .put_with_ttl(key.clone(), number.to_string(), 1000)
            .await;
        let put = state.outcome(Kind::TimeToLive, put)?;
        known.insert(
            key.clone(),
            Expected::new(number.to_string(), put.is_some()),
        );
        let left = state.outcome(Kind::TimeToLive, client.get_key_ttl_secs(key.clone()).await)?;
        if let (Some(()), Some(left)) = (put, left) {
            let left = left.with_context(|| format!("{key} is lost"))?;
            ensure!((900..=1000).contains(&left), "{left} s left of 1000");
            state.acknowledge(Kind::TimeToLive);
        }
    }
    Ok(())
}

/// Puts keys that live two seconds, which begin within the second of the put, and waits for them to go.
async fn expiry(state: &State, client: &RawClient, _: &mut Known) -> Result<()> {
    for number in 0u64.. {
        if !state.runs() {
            break;
        }
        let key = format!("t{}-short-{number:06}", number % 10);
        let begun = Instant::now();
        let put = client.put_with_ttl(key.clone(), "lived", 2).await;
        if state.outcome(Kind::Expiry, put)?.is_none() {
            continue;
        }
        let put = Instant::now();
        let mut pause = tokio::time::interval(Duration::from_millis(50));
        loop {
            pause.tick().await;
            match state.outcome(Kind::Expiry, client.get(key.clone()).await)? {
                Some(None) => break,
                _ => ensure!(put.elapsed() < EXPIRY_MAX, "{key} outlived its time"),
            }
        }
        ensure!(
            begun.elapsed() >= Duration::from_secs(1),
            "{key} was gone after {:?}",
            begun.elapsed()
        );
        state.acknowledge(Kind::Expiry);
    }
    Ok(())
}
