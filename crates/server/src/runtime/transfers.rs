//! Snapshots on their way: which of them may be worked on, and how whoever works on one learns that it may not any more.
//!
//! The store decides ([`TransferChange`]); this tells the threads and streams that build, send and receive. Nobody holds
//! up a thread for a snapshot that was given up, or for a node that stops, whatever the other side does.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use proto::StoreId;
use store::event::{Transfer, TransferChange};
use tokio::sync::watch;

use super::inbox::{Control, Inbox};

/// Time between two reports of progress; far below the time after which a snapshot without progress is given up.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// The snapshots of a node that may be worked on.
pub(super) struct Transfers {
    inbox: Arc<Inbox>,
    table: Mutex<Table>,
}

struct Table {
    under_way: BTreeMap<Transfer, UnderWay>,
    /// Ends everything when it is dropped.
    running: Option<watch::Sender<()>>,
}

struct UnderWay {
    /// The store on the other side.
    other: StoreId,
    /// Work on it ends when this is dropped.
    end: watch::Sender<()>,
    pace: Pace,
}

/// Bytes per second at which a snapshot may leave; it may change at any time. 0: as fast as it can.
#[derive(Clone, Debug, Default)]
pub struct Pace(Arc<AtomicU64>);

impl Pace {
    /// Sets it.
    pub fn set(&self, bytes_per_second: u64) {
        self.0.store(bytes_per_second, Ordering::Relaxed);
    }

    /// The time that so many bytes take.
    pub fn time_of(&self, bytes: usize) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            rate => Duration::from_secs_f64(bytes as f64 / rate as f64),
        }
    }
}

impl Transfers {
    pub fn new(inbox: Arc<Inbox>) -> Self {
        let table = Table {
            under_way: BTreeMap::new(),
            running: Some(watch::Sender::new(())),
        };
        Transfers {
            inbox,
            table: Mutex::new(table),
        }
    }

    /// Takes over what the store decided.
    pub fn change(&self, changes: Vec<TransferChange>) {
        if changes.is_empty() {
            return;
        }
        let mut table = self.lock();
        if table.running.is_none() {
            return;
        }
        for change in changes {
            match change {
                TransferChange::Begun(transfer, other) => {
                    let begun = UnderWay {
                        other,
                        end: watch::Sender::new(()),
                        pace: Pace::default(),
                    };
                    table.under_way.insert(transfer, begun);
                }
                TransferChange::Paced(transfer, rate) => {
                    if let Some(under_way) = table.under_way.get(&transfer) {
                        under_way.pace.set(rate);
                    }
                }
                TransferChange::Ended(transfer) => {
                    table.under_way.remove(&transfer);
                }
            }
        }
    }

    /// The right to work on a snapshot that the store began; `None` once it ended.
    pub fn ticket(&self, transfer: Transfer) -> Option<Ticket> {
        let table = self.lock();
        let UnderWay { end, pace, .. } = table.under_way.get(&transfer)?;
        let mut ticket = Ticket::new(transfer, end.subscribe(), &self.inbox);
        ticket.pace = pace.clone();
        Some(ticket)
    }

    /// The right to take a snapshot in that was granted to this store.
    pub fn granted(&self, transfer: Transfer, from: StoreId) -> Option<Ticket> {
        let table = self.lock();
        let granted = table
            .under_way
            .get(&transfer)
            .filter(|granted| granted.other == from)?;
        let end = granted.end.subscribe();
        Some(Ticket::new(transfer, end, &self.inbox))
    }

    /// The right to do what only the end of the node ends; `None` while it stops.
    pub fn past_return(&self, transfer: Transfer) -> Option<Ticket> {
        let table = self.lock();
        let running = table.running.as_ref()?;
        Some(Ticket::new(transfer, running.subscribe(), &self.inbox))
    }

    /// Ends everything.
    pub fn stop(&self) {
        let mut table = self.lock();
        table.running = None;
        table.under_way.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no holder of the lock panics")
    }
}

/// The right to work on a snapshot, until the store gives it up.
#[derive(Clone)]
pub struct Ticket {
    transfer: Transfer,
    end: watch::Receiver<()>,
    inbox: Arc<Inbox>,
    told: Option<Instant>,
    pace: Pace,
}

impl Ticket {
    fn new(transfer: Transfer, end: watch::Receiver<()>, inbox: &Arc<Inbox>) -> Self {
        Ticket {
            transfer,
            end,
            inbox: inbox.clone(),
            told: None,
            pace: Pace::default(),
        }
    }

    /// How fast its bytes may leave.
    pub fn pace(&self) -> Pace {
        self.pace.clone()
    }

    /// Tells the store that a piece is done, and returns whether to go on.
    pub fn progress(&mut self) -> bool {
        if self.is_over() {
            return false;
        }
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.told = Some(Instant::now());
            self.inbox.control(Control::Progress(self.transfer));
        }
        true
    }

    /// Whether the snapshot was given up.
    pub fn is_over(&self) -> bool {
        self.end.has_changed().is_err()
    }

    /// Waits until the snapshot is given up.
    pub async fn over(&mut self) {
        // Nothing is ever sent: the only news is that the sender is gone.
        while self.end.changed().await.is_ok() {}
    }
}
