//! One connection through a proxy.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{broadcast::error::RecvError, mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{Caller, Cut, Harm, Rules, Shared, Way, sniff::Sniffer};

/// Bytes that are read at a time.
const PIECE_BYTES: usize = 16 << 10;
/// Pieces under way in one direction; who sends more has to wait.
const PIECES_MAX: usize = 256;
/// Time between two pieces of a throttled direction.
const PACE: Duration = Duration::from_millis(20);

/// What both directions know of their connection.
pub(super) struct Connection {
    shared: Arc<Shared>,
    number: u64,
    to: usize,
    caller: Mutex<Caller>,
    cut: watch::Sender<Option<Cut>>,
}

/// What holds for a direction now.
#[derive(Clone, Copy, Debug, Default)]
struct Effect {
    delay: Duration,
    bytes_per_second: Option<u64>,
    hold: bool,
    flip: Option<u64>,
}

type Piece = (Instant, Vec<u8>);

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, number: u64, to: usize) -> Self {
        Self {
            shared,
            number,
            to,
            caller: Mutex::new(Caller::Unknown),
            cut: watch::Sender::new(None),
        }
    }

    /// Passes bytes until both directions ended. A process that does not listen shows as a reset.
    pub(super) async fn run(self, caller: TcpStream, address: &str) {
        let Ok(process) = TcpStream::connect(address).await else {
            reset(&caller);
            return;
        };
        for stream in [&caller, &process] {
            // It only costs time if it fails.
            let _ = stream.set_nodelay(true);
        }
        let (from_caller, to_caller) = caller.into_split();
        let (from_process, to_process) = process.into_split();
        let mut passing = pin!(async {
            tokio::join!(
                self.pass(from_caller, to_process, Way::There),
                self.pass(from_process, to_caller, Way::Back),
            )
        });
        let mut cuts = self.shared.cuts.subscribe();
        loop {
            tokio::select! {
                _ = &mut passing => return,
                cut = cuts.recv() => match cut {
                    Ok((which, cut)) => {
                        let way = match cut {
                            Cut::Reset => Way::There,
                            Cut::HalfClose(way) => way,
                        };
                        if which.meets(self.caller(), self.to, way) {
                            self.cut(cut);
                        }
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    fn caller(&self) -> Caller {
        *self.caller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn identify(&self, caller: Caller) {
        if matches!(caller, Caller::Peer(_)) {
            self.shared.counts.peers.fetch_add(1, Relaxed);
        }
        *self.caller.lock().unwrap_or_else(PoisonError::into_inner) = caller;
    }

    fn cut(&self, cut: Cut) {
        let counter = match cut {
            Cut::Reset => &self.shared.counts.resets,
            Cut::HalfClose(_) => &self.shared.counts.half_closes,
        };
        counter.fetch_add(1, Relaxed);
        self.cut.send_replace(Some(cut));
    }

    /// Waits until a cut concerns a direction.
    async fn until_cut(&self, way: Way) {
        let mut cuts = self.cut.subscribe();
        let concerns = |cut: &Option<Cut>| match cut {
            None => false,
            Some(Cut::Reset) => true,
            Some(Cut::HalfClose(closed)) => *closed == way,
        };
        // The sender lives as long as this.
        let _ = cuts.wait_for(concerns).await;
    }

    /// What holds for a direction.
    fn effect(&self, rules: &Rules, way: Way) -> Effect {
        let caller = self.caller();
        let mut effect = Effect::default();
        let meeting = rules
            .iter()
            .map(|(_, rule)| rule)
            .filter(|rule| rule.which.meets(caller, self.to, way));
        for rule in meeting {
            match rule.harm {
                Harm::Delay(delay) => effect.delay = effect.delay.max(delay),
                Harm::Throttle(rate) => {
                    let rate = effect
                        .bytes_per_second
                        .map_or(rate, |other| other.min(rate));
                    effect.bytes_per_second = Some(rate.max(1));
                }
                Harm::Hold => effect.hold = true,
                Harm::Flip(distance) if matches!(caller, Caller::Peer(_)) => {
                    effect.flip = Some(distance.max(1));
                }
                Harm::Flip(_) => {}
            }
        }
        effect
    }

    /// Passes one direction until it ends.
    async fn pass(&self, from: OwnedReadHalf, to: OwnedWriteHalf, way: Way) {
        let (pieces, arriving) = mpsc::channel(PIECES_MAX);
        tokio::join!(self.take(from, pieces, way), self.give(to, arriving, way));
    }

    /// Reads pieces and notes when they may go on.
    async fn take(&self, mut from: OwnedReadHalf, pieces: mpsc::Sender<Piece>, way: Way) {
        let mut sniffer = (way == Way::There).then(Sniffer::default);
        let mut pieces = Some(pieces);
        let mut last = Instant::now();
        let read = async {
            loop {
                let mut piece = vec![0; PIECE_BYTES];
                let Ok(read) = from.read(&mut piece).await else {
                    self.cut.send_replace(Some(Cut::Reset));
                    return;
                };
                if read == 0 {
                    return;
                }
                piece.truncate(read);
                if let Some(reading) = &mut sniffer {
                    let caller = reading.read(&piece);
                    if caller != Caller::Unknown {
                        self.identify(caller);
                        sniffer = None;
                    }
                }
                let delay = self.effect(&self.shared.rules.borrow(), way).delay;
                if !delay.is_zero() {
                    self.shared.counts.delayed.fetch_add(1, Relaxed);
                }
                // In order, also when a delay gets shorter.
                last = last.max(Instant::now() + delay);
                let passed = match &pieces {
                    Some(pieces) => pieces.send((last, piece)).await.is_ok(),
                    // The other side is closed, and the sender does not know: what it says is lost.
                    None => true,
                };
                if !passed {
                    pieces = None;
                }
            }
        };
        tokio::select! {
            () = read => {}
            () = self.until_reset() => reset(from.as_ref()),
        }
    }

    async fn until_reset(&self) {
        let mut cuts = self.cut.subscribe();
        // The sender lives as long as this.
        let _ = cuts.wait_for(|cut| *cut == Some(Cut::Reset)).await;
    }

    /// Writes pieces as they may go on.
    async fn give(&self, mut to: OwnedWriteHalf, arriving: mpsc::Receiver<Piece>, way: Way) {
        tokio::select! {
            () = self.write(&mut to, arriving, way) => {}
            () = self.until_cut(way) => {}
        }
        if *self.cut.borrow() == Some(Cut::Reset) {
            reset(to.as_ref());
            // Or it would say before that it ends in order.
            to.forget();
        } else {
            // The end of what the sender said, or a half close. The receiver may be gone.
            drop(to.shutdown().await);
        }
    }

    async fn write(&self, to: &mut OwnedWriteHalf, mut arriving: mpsc::Receiver<Piece>, way: Way) {
        let mut rules = self.shared.rules.subscribe();
        let mut flips = Flips::new(self.shared.seed, self.number, way);
        let counts = &self.shared.counts;
        while let Some((moment, mut piece)) = arriving.recv().await {
            sleep_until(moment).await;
            let mut waited = false;
            let mut effect = loop {
                let effect = self.effect(&rules.borrow_and_update(), way);
                if !effect.hold {
                    break effect;
                }
                if !waited {
                    counts.held.fetch_add(1, Relaxed);
                    waited = true;
                }
                // The sender lives as long as this.
                let _ = rules.changed().await;
            };
            if let Some(distance) = effect.flip {
                flips.strike(&mut piece, distance, &counts.flips);
            }
            if effect.bytes_per_second.is_some() {
                counts.throttled.fetch_add(1, Relaxed);
            }
            let mut left = &piece[..];
            while !left.is_empty() {
                let part = match effect.bytes_per_second {
                    Some(rate) => {
                        sleep(PACE).await;
                        let part = rate as f64 * PACE.as_secs_f64();
                        left.len().min((part as usize).max(1))
                    }
                    None => left.len(),
                };
                if to.write_all(&left[..part]).await.is_err() {
                    self.cut.send_replace(Some(Cut::Reset));
                    return;
                }
                left = &left[part..];
                effect = self.effect(&rules.borrow_and_update(), way);
            }
        }
    }
}

/// Which bits are flipped: in distances drawn anew after each.
struct Flips {
    random: ChaCha8Rng,
    /// Bytes to the next one, once a distance is known.
    next: Option<u64>,
}

impl Flips {
    fn new(seed: u64, connection: u64, way: Way) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(connection * 2 + u64::from(way == Way::Back));
        Self { random, next: None }
    }

    fn strike(&mut self, piece: &mut [u8], distance: u64, count: &AtomicU64) {
        let mut at = 0;
        loop {
            let next = match self.next {
                Some(next) => next,
                None => self.random.next_u64() % (2 * distance),
            };
            let left = (piece.len() - at) as u64;
            if next >= left {
                self.next = Some(next - left);
                return;
            }
            at += next as usize;
            piece[at] ^= 1 << (self.random.next_u32() % 8);
            at += 1;
            count.fetch_add(1, Relaxed);
            self.next = None;
        }
    }
}

/// Has the connection end with a reset once it is dropped.
fn reset(stream: &TcpStream) {
    // If it fails the connection ends in order, which is another of the ways in which they end.
    let _ = stream.set_zero_linger();
}
