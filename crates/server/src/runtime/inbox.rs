//! What waits for the region worker, in four lanes.
//!
//! | Lane | Holds | Limit | When it is full |
//! |---|---|---|---|
//! | control | completions, orders, ids, stops | what is outstanding elsewhere, each of it limited | – |
//! | beats | heartbeats of other stores and answers to ours | bytes | they are dropped; the next come soon |
//! | frames | Raft frames from other stores | bytes | the frame is dropped; Raft repeats it |
//! | requests | proposals and reads of clients, questions of tools | count and bytes | refused as busy |
//!
//! Control never waits behind data (D12): a turn takes it first, and a worker whose log disk or appliers lag takes nothing
//! but control and beats, so that the completions it waits for get through and no leader is lost to load.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Instant;

use bytes::Bytes;
use prost::Message;
use proto::pontoon::v1::Frame;
use proto::{RegionId, StoreId, metapb};
use raft::PeerId;
use store::event::{
    Applied, OperationResult, Order, Refusal, Target, TaskDone, Transfer, Verification,
};
use tokio::sync::oneshot;

/// Completions and commands.
pub(super) enum Control {
    /// See [`store::event::Event::LogWritten`].
    LogWritten(u64),
    /// See [`store::event::Event::Applied`].
    Applied(Vec<Applied>),
    /// See [`store::event::Event::Order`].
    Order(Order),
    /// See [`store::event::Event::Ids`].
    Ids(Vec<u64>),
    /// See [`store::event::Event::Located`].
    Located(Bytes, metapb::Region),
    /// See [`store::event::Event::Described`].
    Described(metapb::Region),
    /// See [`store::event::Event::StoreRemoved`].
    StoreRemoved(StoreId),
    /// See [`store::event::Event::SnapshotReceived`].
    SnapshotReceived(StoreId, proto::pontoon::v1::SnapshotHead),
    /// See [`store::event::Event::TaskDone`].
    TaskDone(TaskDone),
    /// See [`store::event::Event::Damaged`].
    Damaged(RegionId, PeerId),
    /// See [`store::event::Event::Progress`].
    Progress(Transfer),
    /// See [`store::event::Event::Unreachable`].
    Unreachable(StoreId),
    /// See [`store::event::Event::Support`].
    Support(store::liveness::Change),
    /// See [`store::event::Event::Dial`].
    Dial(store::Dial),
    /// See [`store::event::Event::Drain`].
    Drain,
    /// Ends the worker.
    Stop,
}

/// A write or read of a client, or a question of a tool.
pub(super) struct Request {
    /// Where.
    pub target: Target,
    /// What, and who waits for it.
    pub kind: RequestKind,
    /// When it was handed in.
    pub arrived: Instant,
    /// Its size in memory.
    pub bytes: usize,
}

/// The kinds of request with their answers.
pub(super) enum RequestKind {
    /// Operations to propose.
    Propose(
        Vec<proto::pontoon::v1::Operation>,
        oneshot::Sender<Result<Vec<OperationResult>, Refusal>>,
    ),
    /// The right to read at a linearizable point.
    Read(oneshot::Sender<Result<(), Refusal>>),
    /// Whether all members of the region store the same.
    Verify(oneshot::Sender<Result<Verification, Refusal>>),
}

/// Limits of the lanes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub frame_bytes_max: usize,
    pub requests_max: usize,
    pub request_bytes_max: usize,
}

/// What one turn of the worker works on.
#[derive(Default)]
pub(super) struct Turn {
    pub control: Vec<Control>,
    /// Heartbeats first, then the rest.
    pub frames: Vec<(StoreId, Frame)>,
    pub requests: Vec<Request>,
}

/// The lanes.
pub(super) struct Inbox {
    limits: Limits,
    lanes: Mutex<Lanes>,
    ready: Condvar,
}

#[derive(Default)]
struct Lanes {
    control: Vec<Control>,
    beats: Vec<(StoreId, Frame)>,
    beat_bytes: usize,
    frames: Vec<(StoreId, Frame)>,
    frame_bytes: usize,
    requests: Vec<Request>,
    request_bytes: usize,
    /// The worker sleeps until something comes that it admits.
    sleeping: Option<Admit>,
    closed: bool,
}

/// What the worker takes besides control.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admit {
    Everything,
    /// The log writer or the appliers lag: only what tells that they caught up, and who leads.
    NoData,
}

impl Inbox {
    pub fn new(limits: Limits) -> Self {
        Inbox {
            limits,
            lanes: Mutex::default(),
            ready: Condvar::new(),
        }
    }

    /// Queues a completion or a command.
    pub fn control(&self, control: Control) {
        let mut lanes = self.lock();
        lanes.control.push(control);
        self.wake(lanes, true);
    }

    /// Queues a frame; `false` when it, or a part of it, was dropped because the lane is full.
    pub fn frame(&self, from: StoreId, mut frame: Frame) -> bool {
        let beats = Frame {
            heartbeats: frame.heartbeats.take(),
            heartbeat_responses: frame.heartbeat_responses.take(),
            ..Frame::default()
        };
        let (beat_bytes, bytes) = (beats.encoded_len(), frame.encoded_len());
        let max = self.limits.frame_bytes_max;
        let mut lanes = self.lock();
        let has_room = |taken: usize, more: usize| taken == 0 || taken + more <= max;
        let takes_beats = has_room(lanes.beat_bytes, beat_bytes);
        if takes_beats && beat_bytes > 0 {
            lanes.beat_bytes += beat_bytes;
            lanes.beats.push((from, beats));
        }
        let takes_rest = has_room(lanes.frame_bytes, bytes);
        if takes_rest && bytes > 0 {
            lanes.frame_bytes += bytes;
            lanes.frames.push((from, frame));
        }
        self.wake(lanes, takes_beats && beat_bytes > 0);
        takes_beats && takes_rest
    }

    /// Queues a request.
    ///
    /// # Errors
    /// [`Refusal::Busy`] when the lane is full. Once the inbox is closed, [`Refusal::NotLeader`]: nothing is led by a node
    /// that stops, and other than a busy store this is no reason for a client to give up.
    pub fn request(&self, request: Request) -> Result<(), Refusal> {
        let mut lanes = self.lock();
        if lanes.closed {
            return Err(Refusal::NotLeader {
                region: request.target.region,
                leader: None,
            });
        }
        if lanes.requests.len() >= self.limits.requests_max {
            return Err(Refusal::Busy {
                reason: "too many requests are waiting",
            });
        }
        if lanes.request_bytes + request.bytes > self.limits.request_bytes_max
            && !lanes.requests.is_empty()
        {
            return Err(Refusal::Busy {
                reason: "too many bytes of requests are waiting",
            });
        }
        lanes.request_bytes += request.bytes;
        lanes.requests.push(request);
        self.wake(lanes, false);
        Ok(())
    }

    /// What gathered, as far as `admit` lets it; waits for something until `deadline`.
    pub fn take(&self, deadline: Instant, admit: Admit) -> Turn {
        let mut lanes = self.lock();
        loop {
            let some = !(lanes.control.is_empty() && lanes.beats.is_empty())
                || admit == Admit::Everything
                    && !(lanes.frames.is_empty() && lanes.requests.is_empty());
            let left = deadline.saturating_duration_since(Instant::now());
            if some || left.is_zero() {
                lanes.sleeping = None;
                let control = std::mem::take(&mut lanes.control);
                let mut frames = std::mem::take(&mut lanes.beats);
                lanes.beat_bytes = 0;
                if admit == Admit::NoData {
                    return Turn {
                        control,
                        frames,
                        requests: Vec::new(),
                    };
                }
                lanes.frame_bytes = 0;
                lanes.request_bytes = 0;
                frames.append(&mut lanes.frames);
                return Turn {
                    control,
                    frames,
                    requests: std::mem::take(&mut lanes.requests),
                };
            }
            lanes.sleeping = Some(admit);
            lanes = self
                .ready
                .wait_timeout(lanes, left)
                .expect("no holder of the lock panics")
                .0;
        }
    }

    /// Refuses requests from now on and drops those that wait.
    pub fn close(&self) {
        let mut lanes = self.lock();
        lanes.closed = true;
        lanes.requests.clear();
        lanes.request_bytes = 0;
    }

    /// Wakes the worker if it sleeps and would take what was just queued. The lock is given back first, so that the worker
    /// does not wake into it.
    fn wake(&self, mut lanes: MutexGuard<'_, Lanes>, urgent: bool) {
        let wake = match lanes.sleeping {
            Some(Admit::Everything) => true,
            Some(Admit::NoData) => urgent,
            None => false,
        };
        if wake {
            lanes.sleeping = None;
            drop(lanes);
            self.ready.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().expect("no holder of the lock panics")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proto::pontoon::v1::{HeartbeatBatch, Notice};
    use proto::{RegionId, metapb};
    use store::event::Keys;

    use super::*;

    fn inbox() -> Inbox {
        Inbox::new(Limits {
            frame_bytes_max: 100,
            requests_max: 2,
            request_bytes_max: 100,
        })
    }

    fn read(bytes: usize) -> Request {
        let target = Target {
            region: RegionId(1),
            peer: None,
            epoch: None,
            keys: Keys::Clamped(bytes::Bytes::new()),
        };
        Request {
            target,
            kind: RequestKind::Read(oneshot::channel().0),
            arrived: Instant::now(),
            bytes,
        }
    }

    #[test]
    fn full_lanes_refuse_and_control_passes() {
        let inbox = inbox();
        assert!(inbox.request(read(60)).is_ok());
        assert_eq!(
            inbox.request(read(60)),
            Err(Refusal::Busy {
                reason: "too many bytes of requests are waiting"
            })
        );
        assert!(inbox.request(read(1)).is_ok());
        assert_eq!(
            inbox.request(read(1)),
            Err(Refusal::Busy {
                reason: "too many requests are waiting"
            })
        );
        let appends = |bytes: usize| Frame {
            notices: vec![Notice {
                to_peer: 1,
                region: Some(metapb::Region {
                    start_key: vec![0; bytes].into(),
                    ..Default::default()
                }),
            }],
            ..Frame::default()
        };
        let beats = |regions: usize| HeartbeatBatch {
            region_ids: vec![1; regions],
            ..HeartbeatBatch::default()
        };
        assert!(
            inbox.frame(StoreId(2), appends(1000)),
            "one frame always fits, however large"
        );
        assert!(!inbox.frame(StoreId(2), appends(1)));
        let mixed = Frame {
            heartbeats: Some(beats(3)),
            ..appends(1)
        };
        assert!(!inbox.frame(StoreId(3), mixed), "a part found no room");
        let too_many = Frame {
            heartbeat_responses: Some(beats(100)),
            ..Frame::default()
        };
        assert!(!inbox.frame(StoreId(3), too_many), "beats are limited, too");
        inbox.control(Control::LogWritten(1));

        let deadline = Instant::now() + Duration::from_secs(10);
        let turn = inbox.take(deadline, Admit::NoData);
        assert_eq!(
            (turn.control.len(), turn.frames.len(), turn.requests.len()),
            (1, 1, 0),
            "control and beats pass"
        );
        assert_eq!(
            turn.frames,
            [(
                StoreId(3),
                Frame {
                    heartbeats: Some(beats(3)),
                    ..Frame::default()
                }
            )]
        );
        let turn = inbox.take(deadline, Admit::Everything);
        assert_eq!(
            (turn.control.len(), turn.frames.len(), turn.requests.len()),
            (0, 1, 2)
        );
        assert!(inbox.request(read(60)).is_ok(), "taking makes room");
    }

    #[test]
    fn the_deadline_ends_the_wait_though_data_is_held_back() {
        let inbox = inbox();
        assert!(inbox.request(read(1)).is_ok());
        let turn = inbox.take(Instant::now() + Duration::from_millis(1), Admit::NoData);
        assert!(turn.control.is_empty() && turn.requests.is_empty());
    }

    #[test]
    fn a_closed_inbox_takes_no_request() {
        let inbox = inbox();
        inbox.close();
        assert_eq!(
            inbox.request(read(1)),
            Err(Refusal::NotLeader {
                region: RegionId(1),
                leader: None
            })
        );
    }
}
