//! Registers in memory that do what they should, or something else: the verdict tells them apart.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use workload::{Failed, Fault, Judgement, Register, Settings, Verdict, Workload};

/// What goes wrong, once in a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    /// Nothing.
    Nothing,
    /// Answers are lost: half of those operations were done, the others not.
    LostAnswers,
    /// A put is acknowledged and not done.
    LostPut,
    /// A read finds what was there before the last write.
    StaleRead,
    /// A swap writes whatever it finds.
    BlindSwap,
    /// An operation that is said not to be done is done.
    DoneAllTheSame,
    /// A value loses its last byte.
    Cut,
    /// After everything ended two of the oldest keys are gone.
    LostAtTheEnd,
    /// Nobody is answered soon.
    Slow,
    /// Nothing can be read any more once it ended.
    Dead,
}

#[derive(Clone)]
struct Memory {
    planted: Planted,
    state: Arc<Mutex<BTreeMap<Bytes, Vec<Bytes>>>>,
    operations: Arc<AtomicU64>,
    ended: Arc<AtomicU64>,
}

impl Memory {
    fn new(planted: Planted) -> Self {
        Self {
            planted,
            state: Arc::default(),
            operations: Arc::default(),
            ended: Arc::default(),
        }
    }

    /// Whether the fault strikes this operation. Other clients get a turn before it.
    async fn strikes(&self, planted: Planted) -> bool {
        if self.planted == Planted::Slow {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        tokio::task::yield_now().await;
        let number = self.operations.fetch_add(1, Relaxed);
        self.planted == planted && number % 37 == 36
    }

    fn write(&self, key: &Bytes, value: Option<Bytes>) {
        let mut state = self.state.lock().unwrap();
        let versions = state.entry(key.clone()).or_default();
        versions.push(value.unwrap_or_default());
    }

    fn read(&self, key: &Bytes, back: usize) -> Option<Bytes> {
        let state = self.state.lock().unwrap();
        let versions = state.get(key)?;
        let value = versions.get(versions.len().checked_sub(1 + back)?)?;
        (!value.is_empty()).then(|| value.clone())
    }
}

impl Register for Memory {
    async fn get(&self, key: Bytes) -> Result<Option<Bytes>, Failed> {
        if self.planted == Planted::Dead && self.ended.load(Relaxed) == 1 {
            return Err(Failed::NotDone);
        }
        let stale = self.strikes(Planted::StaleRead).await;
        let cut = self.strikes(Planted::Cut).await;
        let found = self.read(&key, usize::from(stale));
        Ok(found.map(|found| match cut {
            true => found.slice(..found.len() - 1),
            false => found,
        }))
    }

    async fn put(&self, key: Bytes, value: Bytes) -> Result<(), Failed> {
        if self.strikes(Planted::LostAnswers).await {
            if self.operations.load(Relaxed).is_multiple_of(2) {
                self.write(&key, Some(value));
            }
            return Err(Failed::Unknown);
        }
        if self.strikes(Planted::DoneAllTheSame).await {
            self.write(&key, Some(value));
            return Err(Failed::NotDone);
        }
        if !self.strikes(Planted::LostPut).await {
            self.write(&key, Some(value));
        }
        Ok(())
    }

    async fn delete(&self, key: Bytes) -> Result<(), Failed> {
        if self.strikes(Planted::LostAnswers).await {
            return Err(Failed::Unknown);
        }
        self.write(&key, None);
        Ok(())
    }

    async fn swap(
        &self,
        key: Bytes,
        expected: Option<Bytes>,
        value: Bytes,
    ) -> Result<(bool, Option<Bytes>), Failed> {
        let blind = self.strikes(Planted::BlindSwap).await;
        let lost = self.strikes(Planted::LostAnswers).await;
        let found = self.read(&key, 0);
        let swaps = found == expected;
        if swaps || blind {
            self.write(&key, Some(value));
        }
        match lost {
            true => Err(Failed::Unknown),
            false => Ok((swaps, found)),
        }
    }
}

async fn verdict(planted: Planted) -> Verdict {
    let memory = Memory::new(planted);
    let settings = Settings {
        operations_per_key: 100,
        clients: if planted == Planted::Slow { 1 } else { 24 },
        read_limit: match planted {
            Planted::Dead => Duration::from_millis(200),
            _ => Duration::from_secs(20),
        },
        ..Settings::default()
    };
    let workload = Workload::start(vec![memory.clone()], settings);
    let enough = |done: u64, checked: u64| match planted {
        Planted::Slow => done > 10,
        _ => done > 20_000 && checked > 100,
    };
    loop {
        let progress = workload.progress();
        if enough(progress.acknowledged, progress.keys) {
            break;
        }
        tokio::task::yield_now().await;
    }
    memory.ended.store(1, Relaxed);
    if planted == Planted::LostAtTheEnd {
        let mut state = memory.state.lock().unwrap();
        // Keys that are over, and were never deleted.
        let oldest = |key: &Bytes| key.ends_with(b"-1") || key.ends_with(b"-3");
        for (_, versions) in state.iter_mut().filter(|(key, _)| oldest(key)) {
            versions.push(Bytes::new());
        }
    }
    workload.finish().await
}

async fn violations(planted: Planted) -> Verdict {
    let verdict = verdict(planted).await;
    assert_eq!(verdict.judgement(), Judgement::Violated, "{verdict}");
    println!("{planted:?}\n{verdict}");
    verdict
}

#[tokio::test]
async fn what_is_sound_passes() {
    let verdict = verdict(Planted::Nothing).await;
    assert_eq!(verdict.judgement(), Judgement::Passed, "{verdict}");
    assert!(
        verdict.keys > 100 && verdict.read_back == verdict.keys,
        "{verdict}"
    );
    assert_eq!((verdict.unknown, verdict.not_done), (0, 0));
}

#[tokio::test]
async fn unknown_outcomes_are_no_violation() {
    let verdict = verdict(Planted::LostAnswers).await;
    assert_eq!(verdict.judgement(), Judgement::Passed, "{verdict}");
    assert!(verdict.unknown > 100, "{verdict}");
}

#[tokio::test]
async fn every_planted_fault_is_found() {
    for planted in [
        Planted::LostPut,
        Planted::StaleRead,
        Planted::BlindSwap,
        Planted::DoneAllTheSame,
    ] {
        let verdict = violations(planted).await;
        for violation in &verdict.violations {
            assert!(
                matches!(violation.fault, Fault::History(_)),
                "{planted:?}: {violation}"
            );
            let shown = violation.shown_by.len();
            assert!((1..=12).contains(&shown), "{planted:?}: {violation}");
        }
    }
}

#[tokio::test]
async fn altered_values_are_found() {
    let verdict = violations(Planted::Cut).await;
    let altered = |fault: &Fault| matches!(fault, Fault::Altered { .. });
    assert!(verdict.violations.iter().any(|one| altered(&one.fault)));
}

#[tokio::test]
async fn what_is_gone_at_the_end_is_found() {
    let verdict = violations(Planted::LostAtTheEnd).await;
    assert_eq!(verdict.violations_total, 2, "{verdict}");
}

#[tokio::test]
async fn too_little_is_void() {
    let verdict = verdict(Planted::Slow).await;
    assert_eq!(verdict.judgement(), Judgement::Void, "{verdict}");
}

#[tokio::test]
async fn a_cluster_that_does_not_come_back_does_not_pass() {
    let verdict = verdict(Planted::Dead).await;
    assert_eq!(verdict.judgement(), Judgement::Unread, "{verdict}");
    assert!(verdict.unread > 100);
}
