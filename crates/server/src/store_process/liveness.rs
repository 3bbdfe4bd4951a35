//! The thread of [`store::liveness::Liveness`]: it gives the machine a clock and connections, and tells the node what changes
//! (LIVENESS §2, §3). Nothing else runs on it, so that neither a disk nor a region holds a beat up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use engine::Engine;
use proto::StoreId;
use proto::pontoon::v1::Beat;
use store::liveness::{Change, Liveness, Timing};
use tokio::sync::Notify;
use transport::{Beats, Identity, Transport};

use crate::metrics::Metrics;
use crate::runtime::Handle;

/// The way to the thread. What it has not taken yet is bounded by the number of stores.
#[derive(Clone, Default)]
pub struct Inlet {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    added: Notify,
}

/// What the thread has not taken yet.
#[derive(Default)]
struct Waiting {
    beats: BTreeMap<StoreId, Beat>,
    stores: Option<BTreeSet<StoreId>>,
    wants: Option<bool>,
    gone: BTreeSet<StoreId>,
    stops: bool,
}

impl Inlet {
    /// A beat arrived. It stands for those before it.
    pub fn beat(&self, from: StoreId, mut beat: Beat) {
        self.add(|waiting| {
            let older = waiting.beats.get(&from);
            beat.answer |= older.is_some_and(|older| older.answer);
            waiting.beats.insert(from, beat);
        });
    }

    /// See [`Liveness::share`].
    pub fn share(&self, stores: BTreeSet<StoreId>) {
        self.add(|waiting| waiting.stores = Some(stores));
    }

    /// See [`Liveness::want`].
    pub fn want(&self, wants: bool) {
        self.add(|waiting| waiting.wants = Some(wants));
    }

    /// No process listens at a store's address (S7).
    pub fn gone(&self, store: StoreId) {
        self.add(|waiting| {
            waiting.gone.insert(store);
        });
    }

    fn stop(&self) {
        self.add(|waiting| waiting.stops = true);
    }

    fn add(&self, what: impl FnOnce(&mut Waiting)) {
        what(&mut self.waiting());
        self.shared.added.notify_one();
    }

    fn take(&self) -> Waiting {
        std::mem::take(&mut *self.waiting())
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        let waiting = self.shared.waiting.lock();
        waiting.expect("no holder of the lock panics")
    }
}

/// A running thread. Dropping it without [`Thread::stop`] leaves it running to the end of the process.
pub struct Thread {
    inlet: Inlet,
    thread: JoinHandle<()>,
}

impl Thread {
    /// Starts beating for the process that `transport` speaks for.
    ///
    /// # Errors
    /// The operating system refused a thread, or what a runtime needs.
    pub fn start<E: Engine>(
        inlet: Inlet,
        me: Identity,
        timing: Timing,
        transport: Transport,
        node: Handle<E>,
        metrics: Arc<Metrics>,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let body = {
            let inlet = inlet.clone();
            move || runtime.block_on(run(&inlet, me, timing, &transport, &node, &metrics))
        };
        let thread = std::thread::Builder::new()
            .name("liveness".to_owned())
            .spawn(body)?;
        Ok(Thread { inlet, thread })
    }

    /// Ends the thread, which waits for nothing.
    pub fn stop(self) {
        self.inlet.stop();
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

async fn run<E: Engine>(
    inlet: &Inlet,
    me: Identity,
    timing: Timing,
    transport: &Transport,
    node: &Handle<E>,
    metrics: &Metrics,
) {
    let started = Instant::now();
    let beats = Beats::new(transport, timing.beat);
    let mut liveness = Liveness::new(me.store, me.boot, timing, started.elapsed());
    loop {
        let due = started + liveness.due();
        tokio::select! {
            () = inlet.shared.added.notified() => {}
            () = tokio::time::sleep_until(due.into()) => {}
        }
        // The clock is read first: what came after it is no older than it says.
        let now = started.elapsed();
        let Waiting {
            beats: arrived,
            stores,
            wants,
            gone,
            stops,
        } = inlet.take();
        if stops {
            return;
        }
        if let Some(stores) = stores {
            liveness.share(&stores);
        }
        for beat in arrived.values() {
            liveness.on_beat(beat, now);
        }
        gone.into_iter().for_each(|store| liveness.end(store));
        if let Some(wants) = wants {
            liveness.want(wants);
        }
        if now >= liveness.due() {
            liveness.tick(now);
        }
        let (changes, outgoing) = liveness.take();
        for change in changes {
            tell(&change, metrics);
            node.support(change);
        }
        for beat in outgoing {
            beats.send(beat);
        }
        let standings = || liveness.standings();
        let count = |which: fn(&store::liveness::Standing) -> bool| {
            standings().filter(which).count() as i64
        };
        metrics.stores_linked.set(count(|pair| pair.linked));
        metrics
            .stores_supported
            .set(count(|pair| pair.gives.is_some()));
        metrics
            .stores_supporting
            .set(count(|pair| pair.holds.is_some()));
    }
}

fn tell(change: &Change, metrics: &Metrics) {
    match change {
        Change::Given(store, id) => {
            metrics.supports_begun.inc();
            tracing::info!(%store, id = id.get(), "support for a store begins");
        }
        Change::Ended(store, id) => {
            metrics.supports_ended.inc();
            tracing::info!(%store, id = id.get(), "support for a store ends");
        }
        Change::Held(store, Some(id)) => {
            tracing::info!(%store, id = id.get(), "a store supports this one");
        }
        Change::Held(store, None) => tracing::info!(%store, "a store does not support this one"),
        Change::Linked(..) => tracing::debug!(?change, "a link"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_stands_for_those_before_it() {
        let inlet = Inlet::default();
        let beat = |seq, answer| Beat {
            seq,
            answer,
            ..Default::default()
        };
        inlet.beat(StoreId(2), beat(1, true));
        inlet.beat(StoreId(2), beat(2, false));
        inlet.beat(StoreId(3), beat(7, false));
        inlet.gone(StoreId(3));
        let taken = inlet.take();
        let expected = [(StoreId(2), beat(2, true)), (StoreId(3), beat(7, false))];
        assert_eq!(taken.beats, BTreeMap::from(expected));
        assert_eq!(taken.gone, BTreeSet::from([StoreId(3)]));
        assert!(inlet.take().beats.is_empty());
    }
}
