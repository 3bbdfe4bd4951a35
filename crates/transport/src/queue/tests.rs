use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Wake,
};

use proto::pontoon::v1::{Append, Entry, RaftMessage, raft_message::Body};

use super::*;

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn message(region: u64, bytes: usize) -> RaftMessage {
    let entry = Entry {
        payload: vec![0; bytes].into(),
        ..Entry::default()
    };
    let append = Append {
        entries: vec![entry],
        ..Append::default()
    };
    RaftMessage {
        region_id: region,
        body: Some(Body::Append(append)),
        ..RaftMessage::default()
    }
}

fn frame(regions: &[u64], bytes: usize) -> Frame {
    Frame {
        messages: regions
            .iter()
            .map(|region| message(*region, bytes))
            .collect(),
        ..Frame::default()
    }
}

fn beat(regions: usize) -> Frame {
    let column = vec![1; regions];
    let batch = HeartbeatBatch {
        region_ids: column.clone(),
        from_peers: column.clone(),
        to_peers: column.clone(),
        terms: column.clone(),
        commits: column.clone(),
        rounds: column.clone(),
        conf_vers: column,
        pledges: Vec::new(),
    };
    Frame {
        heartbeats: Some(batch),
        ..Frame::default()
    }
}

fn queue(queue_bytes_max: usize, frame_bytes_max: usize) -> (Queue, u64) {
    let queue = Queue::new(&Config {
        queue_bytes_max,
        frame_bytes_max,
        ..Config::default()
    });
    let generation = queue.begin();
    queue.accept();
    (queue, generation)
}

fn take(queue: &Queue, generation: u64) -> Option<Frame> {
    match queue.poll_frame(generation, &mut Context::from_waker(Waker::noop())) {
        Poll::Ready(frame) => frame,
        Poll::Pending => None,
    }
}

fn regions(frame: &Frame) -> Vec<u64> {
    frame
        .messages
        .iter()
        .map(|message| message.region_id)
        .collect()
}

#[test]
fn what_gathered_leaves_together_and_in_order() {
    let (queue, generation) = queue(1 << 20, 1 << 20);
    for region in 1..=5 {
        assert_eq!(queue.push(frame(&[region], 10)), Pushed::Queued);
    }
    assert_eq!(regions(&take(&queue, generation).unwrap()), [1, 2, 3, 4, 5]);
    assert_eq!(take(&queue, generation), None);
    assert_eq!(queue.load(), (0, 0));
}

#[test]
fn frames_are_joined_up_to_the_limit_and_cut_above_it() {
    let (queue, generation) = queue(1 << 20, 3_000);
    assert_eq!(queue.push(frame(&[1], 1_000)), Pushed::Queued);
    assert_eq!(queue.push(frame(&[2], 1_000)), Pushed::Queued);
    assert_eq!(queue.push(frame(&[3, 4, 5], 1_000)), Pushed::Queued);
    assert_eq!(queue.push(frame(&[6], 50_000)), Pushed::Queued);
    let mut sent = Vec::new();
    while let Some(frame) = take(&queue, generation) {
        assert!(
            frame.messages.len() == 1 || frame.encoded_len() <= 3_000,
            "{} bytes",
            frame.encoded_len()
        );
        sent.push(regions(&frame));
    }
    assert_eq!(sent, [vec![1, 2], vec![3, 4], vec![5], vec![6]]);
    assert_eq!(queue.load(), (0, 0));
}

/// A column that is left out, since all in it is 0, is filled in where the other frame has it.
#[test]
fn pledges_stay_with_their_heartbeats() {
    let told = |regions: usize, pledges: &[u64]| {
        let mut frame = beat(regions);
        let batch = frame.heartbeats.as_mut().expect("set above");
        batch.pledges = pledges.to_vec();
        frame
    };
    let joined = |frames: &[Frame]| {
        let (queue, generation) = queue(1 << 20, 1 << 20);
        for frame in frames {
            assert_eq!(queue.push(frame.clone()), Pushed::Queued);
        }
        take(&queue, generation)
            .unwrap()
            .heartbeats
            .unwrap()
            .pledges
    };
    assert_eq!(joined(&[told(2, &[]), told(1, &[7])]), [0, 0, 7]);
    assert_eq!(joined(&[told(1, &[7]), told(2, &[])]), [7, 0, 0]);
    assert_eq!(joined(&[told(1, &[7]), told(1, &[9])]), [7, 9]);
    assert!(joined(&[told(1, &[]), told(1, &[])]).is_empty());
}

#[test]
fn a_full_queue_drops_frames_but_takes_heartbeats_first() {
    let (queue, generation) = queue(64_000, 1 << 20);
    assert_eq!(queue.push(frame(&[1], 60_000)), Pushed::Queued);
    assert_eq!(queue.push(frame(&[2], 60_000)), Pushed::Dropped);
    assert_eq!(queue.push(beat(10)), Pushed::Queued);
    assert_eq!(queue.push(beat(10)), Pushed::Queued);
    let sent = take(&queue, generation).unwrap();
    let beats = sent.heartbeats.unwrap();
    assert_eq!((beats.rounds.len(), beats.conf_vers.len()), (20, 20));
    assert_eq!(
        regions(&take(&queue, generation).unwrap_or_default()),
        Vec::<u64>::new()
    );
    assert_eq!(sent.messages.len(), 1);
    assert_eq!(
        queue.push(beat(2_000)),
        Pushed::Dropped,
        "heartbeats have a limit too"
    );
    assert_eq!(queue.load().1, 2);
}

#[test]
fn nothing_leaves_before_the_handshake_or_to_an_older_stream() {
    let queue = Queue::new(&Config::default());
    let first = queue.begin();
    assert_eq!(queue.push(frame(&[1], 1)), Pushed::Queued);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(queue.poll_frame(first, &mut cx).is_pending());
    queue.accept();
    let second = queue.begin();
    assert_eq!(queue.poll_frame(first, &mut cx), Poll::Ready(None));
    assert!(queue.poll_frame(second, &mut cx).is_pending());
    queue.accept();
    assert_eq!(regions(&take(&queue, second).unwrap()), [1]);
}

#[test]
fn a_push_wakes_the_stream_and_closing_ends_it() {
    let (queue, generation) = queue(1 << 20, 1 << 20);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    assert!(queue.poll_frame(generation, &mut cx).is_pending());
    assert_eq!(queue.push(frame(&[1], 1)), Pushed::Queued);
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert_eq!(queue.poll_waiting(&mut cx), Poll::Ready(true));
    assert!(take(&queue, generation).is_some());
    assert!(queue.poll_waiting(&mut cx).is_pending());
    queue.close();
    assert_eq!(woken.0.load(Ordering::SeqCst), 2);
    assert_eq!(queue.poll_waiting(&mut cx), Poll::Ready(false));
    assert_eq!(queue.poll_frame(generation, &mut cx), Poll::Ready(None));
    assert_eq!(queue.push(frame(&[1], 1)), Pushed::Dropped);
}
