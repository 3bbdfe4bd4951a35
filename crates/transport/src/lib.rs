//! Carries ready-made frames and snapshots between stores (DESIGN D5).
//!
//! It knows how to reach a store, how to batch and how much to hold; it does not know what a message means. Delivery is
//! not promised: a frame may be lost with its connection or dropped from a full queue, and Raft repeats itself.
//!
//! **Sending.** [`Transport::send`] queues a frame for a store and returns at once. Each store has one queue, bounded in
//! bytes, and one link: a task that keeps a stream open while there is something to say. The stream takes what has
//! gathered whenever the connection has room, so frames grow with load, and an idle link adds no delay. When the queue
//! is full the frame is dropped and the owner is told by an [`Event`]; heartbeats have a reserve of their own and
//! overtake the rest, so that a slow link does not look like a dead leader (R33).
//!
//! **Handshake.** The first message of a stream says who is calling and whom it means to reach. Nothing is delivered
//! before [`Identity`] was compared on the receiving side (R30); a refusal names its reason and arrives at the sender as
//! [`Event::Refused`].
//!
//! **Damage.** Each message carries a checksum (`proto::checked`). One that does not fit is dropped unread, and its stream with
//! it; the link is opened again (F8).
//!
//! **Beats** ([`Beats`]) have a connection each, too, so that nothing stands in front of them.
//!
//! **Snapshots** have a connection each, so that bulk data never stands in front of frames.
//!
//! The receiving side is [`PeerService`], a tonic service that hands everything to a [`Receiver`].

mod beats;
mod error;
mod events;
mod identity;
mod link;
mod queue;
mod receive;
mod transport;

use std::time::Duration;

pub use beats::Beats;
pub use error::{BoxError, SnapshotError};
pub use events::{Event, Events};
pub use identity::Identity;
pub use receive::{PeerService, Receiver, SnapshotSink};
pub use transport::{QueueStats, Resolve, Transport};

/// Limits and times of the sending side.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes that may wait for one store; what exceeds it is dropped. Default 64 MiB. Heartbeats have an extra 1/64.
    pub queue_bytes_max: usize,
    /// Size up to which waiting frames are joined into one. Default 1 MiB; larger saves little, smaller costs calls.
    pub frame_bytes_max: usize,
    /// Time for each of: resolving, connecting, the handshake. Default 2 s.
    pub connect_timeout: Duration,
    /// First pause after a failed attempt; it doubles up to `backoff_max`. Default 50 ms.
    pub backoff_min: Duration,
    /// Longest pause between two attempts, hence the time until a restarted store is found again. Default 1 s.
    pub backoff_max: Duration,
    /// A connection that leaves a ping unanswered for this long is closed. Default 3 s.
    pub silence_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queue_bytes_max: 64 << 20,
            frame_bytes_max: 1 << 20,
            connect_timeout: Duration::from_secs(2),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            silence_max: Duration::from_secs(3),
        }
    }
}

/// Largest message that a receiver decodes. A frame is cut at [`Config::frame_bytes_max`], so only a single message with
/// the largest entry (8 MiB) comes near.
const MESSAGE_BYTES_MAX: usize = 32 << 20;
