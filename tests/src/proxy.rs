//! A TCP proxy that harms what passes: the network between processes of a test, without privileges.
//!
//! Each process of a cluster gets a [`Net::proxy`] in front of its port and tells the others the proxy's address. A [`Rule`]
//! names connections by who calls whom, and a direction; it holds until it is taken back. What a rule does begins and ends with
//! the bytes that pass next, on connections that are open already too.
//!
//! Who calls is read from the first message of the stream: stores and placement members say it in their hello (`sniff`). All
//! other calls are of clients, or of stores to placement, and cannot be told apart.
//!
//! Bits are flipped between stores and between members only: these messages carry checksums, those of clients do not.

mod connection;
mod sniff;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Result;
use tokio::{
    net::TcpListener,
    sync::{broadcast, watch},
    task::JoinHandle,
};

use connection::Connection;

/// Who opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// It has not said anything yet.
    Unknown,
    /// The store or placement member of that id, to another one.
    Peer(u64),
    /// A client, or a store that asks placement.
    Other,
}

/// Callers that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// All, also those who have not said anything yet.
    Anybody,
    /// One store or member.
    Peer(u64),
    /// Stores or members.
    AnyPeer,
}

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From who called to the process behind the proxy.
    There,
    /// Back to who called.
    Back,
}

/// Connections that a rule is about, and in which direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Which {
    /// Who calls.
    pub from: From,
    /// Number of the process behind the proxy; all if unset.
    pub to: Option<usize>,
    /// Both directions if unset.
    pub way: Option<Way>,
}

impl Which {
    /// Everything that passes.
    pub const ALL: Self = Self {
        from: From::Anybody,
        to: None,
        way: None,
    };

    fn meets(&self, caller: Caller, to: usize, way: Way) -> bool {
        let from = match self.from {
            From::Anybody => true,
            From::Peer(id) => caller == Caller::Peer(id),
            From::AnyPeer => matches!(caller, Caller::Peer(_)),
        };
        from && self.to.is_none_or(|process| process == to) && self.way.is_none_or(|one| one == way)
    }
}

/// What happens to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// They arrive so much later, in order.
    Delay(Duration),
    /// So many pass per second.
    Throttle(u64),
    /// None pass: a black hole. The connection stays open, and they go on when it ends.
    Hold,
    /// One bit in about so many bytes is flipped; between stores and between members only.
    Flip(u64),
}

/// Something that is wrong with the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where.
    pub which: Which,
    /// What.
    pub harm: Harm,
}

/// Something that happens once to connections that are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Both ends see a reset.
    Reset,
    /// One direction ends in order: the receiver sees the end, the sender nothing; what it sends is lost.
    HalfClose(Way),
}

/// What really happened so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Connections that said who calls.
    pub peers: AtomicU64,
    /// Pieces that were delayed.
    pub delayed: AtomicU64,
    /// Pieces that were throttled.
    pub throttled: AtomicU64,
    /// Pieces that waited in a black hole.
    pub held: AtomicU64,
    /// Connections that were reset.
    pub resets: AtomicU64,
    /// Connections of which one half was closed.
    pub half_closes: AtomicU64,
    /// Bits that were flipped.
    pub flips: AtomicU64,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [delayed, throttled, held, resets, half_closes, flips] = [
            &self.delayed,
            &self.throttled,
            &self.held,
            &self.resets,
            &self.half_closes,
            &self.flips,
        ]
        .map(|count| count.load(Relaxed));
        write!(
            f,
            "{delayed} pieces delayed, {throttled} throttled, {held} held; {resets} resets, {half_closes} half closes, \
             {flips} bits flipped"
        )
    }
}

/// Names a rule that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleId(u64);

type Rules = Arc<Vec<(RuleId, Rule)>>;

/// The network between some processes.
pub struct Net {
    shared: Arc<Shared>,
}

struct Shared {
    seed: u64,
    rules: watch::Sender<Rules>,
    cuts: broadcast::Sender<(Which, Cut)>,
    counts: Counts,
    /// Rules and connections that there ever were.
    numbers: AtomicU64,
}

/// Cuts that may wait for a connection to notice them; one that lags behind more misses some.
const CUTS_MAX: usize = 64;

impl Net {
    /// A network that does no harm yet. Which bits it will flip follows from the seed and what passes.
    pub fn new(seed: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                seed,
                rules: watch::Sender::default(),
                cuts: broadcast::Sender::new(CUTS_MAX),
                counts: Counts::default(),
                numbers: AtomicU64::new(0),
            }),
        }
    }

    /// Puts a proxy in front of `address`, whose process has the number `to`, on a port that the kernel chooses, or on `port`.
    ///
    /// # Errors
    /// The port is taken.
    pub async fn proxy(&self, to: usize, address: String, port: u16) -> Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let proxied = listener.local_addr()?.to_string();
        let shared = self.shared.clone();
        let accepting = tokio::spawn(async move {
            loop {
                // The machine may be out of files for a moment.
                let Ok((caller, _)) = listener.accept().await else {
                    tokio::task::yield_now().await;
                    continue;
                };
                let number = shared.numbers.fetch_add(1, Relaxed);
                let connection = Connection::new(shared.clone(), number, to);
                let address = address.clone();
                tokio::spawn(async move { connection.run(caller, &address).await });
            }
        });
        Ok(Proxy {
            address: proxied,
            accepting,
        })
    }

    /// Adds a rule.
    pub fn harm(&self, which: Which, harm: Harm) -> RuleId {
        let id = RuleId(self.shared.numbers.fetch_add(1, Relaxed));
        self.shared.rules.send_modify(|rules| {
            Arc::make_mut(rules).push((id, Rule { which, harm }));
        });
        id
    }

    /// Takes a rule back.
    pub fn mend(&self, rule: RuleId) {
        self.shared.rules.send_modify(|rules| {
            Arc::make_mut(rules).retain(|(id, _)| *id != rule);
        });
    }

    /// Takes all rules back.
    pub fn mend_all(&self) {
        self.shared.rules.send_replace(Rules::default());
    }

    /// Cuts the connections that are open.
    pub fn cut(&self, which: Which, cut: Cut) {
        // Without a connection there is nothing to cut.
        let _ = self.shared.cuts.send((which, cut));
    }

    /// What really happened.
    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }
}

/// A proxy in front of one process. Dropped, it takes no new connections; those that are open stay.
pub struct Proxy {
    /// Where it listens.
    pub address: String,
    accepting: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

#[cfg(test)]
mod tests;
