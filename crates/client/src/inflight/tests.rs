use proto::{
    kvrpcpb::{RawGetRequest, RawGetResponse},
    tikvpb::batch_commands_response,
};

use super::*;

fn command(key: u8) -> Command {
    Command::RawGet(RawGetRequest {
        key: vec![key].into(),
        ..Default::default()
    })
}

fn answer(value: u8) -> Answer {
    Answer::RawGet(RawGetResponse {
        value: vec![value].into(),
        ..Default::default()
    })
}

fn response(answers: &[(u64, u8)]) -> BatchCommandsResponse {
    BatchCommandsResponse {
        request_ids: answers.iter().map(|(id, _)| *id).collect(),
        responses: answers
            .iter()
            .map(|(_, value)| batch_commands_response::Response {
                cmd: Some(answer(*value)),
            })
            .collect(),
        ..Default::default()
    }
}

fn push(in_flight: &InFlight, key: u8, bytes: usize) -> Reply {
    in_flight.push(command(key), bytes).unwrap().1
}

fn take(in_flight: &InFlight, generation: u64) -> Option<BatchCommandsRequest> {
    match in_flight.poll_batch(generation, &mut Context::from_waker(Waker::noop())) {
        Poll::Ready(batch) => batch,
        Poll::Pending => None,
    }
}

fn opened() -> (InFlight, u64) {
    let in_flight = InFlight::new(1 << 20);
    let generation = in_flight.begin();
    in_flight.open();
    (in_flight, generation)
}

#[test]
fn what_queued_up_leaves_together_and_answers_find_their_callers() {
    let (in_flight, generation) = opened();
    let mut replies: Vec<_> = (0..3).map(|key| push(&in_flight, key, 10)).collect();
    let batch = take(&in_flight, generation).unwrap();
    assert_eq!(batch.requests.len(), 3);
    let ids = batch.request_ids;
    in_flight.answer(response(&[(ids[2], 2), (ids[0], 0), (99, 9), (ids[0], 7)]));
    assert_eq!(replies[0].try_recv().unwrap().unwrap(), answer(0));
    assert_eq!(replies[2].try_recv().unwrap().unwrap(), answer(2));
    assert!(replies[1].try_recv().is_err(), "still waits");
}

#[test]
fn a_batch_is_bounded() {
    let in_flight = InFlight::new(8 << 20);
    let generation = in_flight.begin();
    in_flight.open();
    let _replies: Vec<_> = (0..=255).map(|key| push(&in_flight, key, 4_000)).collect();
    let _large = push(&in_flight, 0, 30_000);
    let first = take(&in_flight, generation).unwrap();
    assert!(first.requests.len() == 256, "{}", first.requests.len());
    assert_eq!(take(&in_flight, generation).unwrap().requests.len(), 1);
    let _replies: Vec<_> = (0..1_000).map(|_| push(&in_flight, 0, 10)).collect();
    assert_eq!(
        take(&in_flight, generation).unwrap().requests.len(),
        BATCH_MAX
    );
}

#[test]
fn a_lost_stream_loses_what_was_sent_and_keeps_what_waits() {
    let (in_flight, generation) = opened();
    let mut sent = push(&in_flight, 1, 10);
    take(&in_flight, generation).unwrap();
    let mut waiting = push(&in_flight, 2, 10);
    in_flight.lose("gone");
    assert!(matches!(sent.try_recv().unwrap(), Err(Miss::Lost(_))));
    assert_eq!(
        take(&in_flight, generation),
        None,
        "the old stream gets nothing more"
    );
    let generation = in_flight.begin();
    assert_eq!(take(&in_flight, generation), None, "not open yet");
    in_flight.open();
    assert_eq!(take(&in_flight, generation).unwrap().requests.len(), 1);
    assert!(waiting.try_recv().is_err());
}

#[test]
fn an_unreachable_store_gives_back_what_waits() {
    let in_flight = InFlight::new(1 << 20);
    let mut reply = push(&in_flight, 1, 10);
    in_flight.refuse("refused");
    assert!(matches!(reply.try_recv().unwrap(), Err(Miss::NotSent(_))));
    assert!(
        in_flight
            .poll_waiting(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );
}

#[test]
fn a_full_queue_refuses_until_callers_give_up() {
    let in_flight = InFlight::new(100);
    let first = push(&in_flight, 1, 60);
    assert!(in_flight.push(command(2), 60).is_err());
    drop(first);
    let second = push(&in_flight, 2, 60);
    assert!(in_flight.push(command(3), 1_000).is_err());
    drop(second);
    let _alone = push(&in_flight, 3, 1_000);
    in_flight.close();
    assert!(in_flight.push(command(3), 1).is_err());
}

#[test]
fn requests_given_up_are_not_sent() {
    let (in_flight, generation) = opened();
    drop(push(&in_flight, 1, 10));
    let _kept = push(&in_flight, 2, 10);
    assert_eq!(take(&in_flight, generation).unwrap().requests.len(), 1);
}

#[test]
fn an_empty_answer_is_a_lost_one() {
    let (in_flight, generation) = opened();
    let mut reply = push(&in_flight, 1, 10);
    let ids = take(&in_flight, generation).unwrap().request_ids;
    in_flight.answer(BatchCommandsResponse {
        request_ids: ids,
        responses: vec![batch_commands_response::Response { cmd: None }],
        ..Default::default()
    });
    assert!(matches!(reply.try_recv().unwrap(), Err(Miss::Lost(_))));
}

#[test]
fn giving_up_tells_whether_the_request_was_sent() {
    let (in_flight, generation) = opened();
    let (first, _reply) = in_flight.push(command(1), 10).unwrap();
    let (second, _other) = in_flight.push(command(2), 10).unwrap();
    assert!(matches!(
        in_flight.withdraw(first, "late".to_owned()),
        Miss::NotSent(_)
    ));
    assert_eq!(take(&in_flight, generation).unwrap().request_ids, [second]);
    assert!(matches!(
        in_flight.withdraw(second, "late".to_owned()),
        Miss::Lost(_)
    ));
    in_flight.answer(response(&[(second, 0)]));
}
