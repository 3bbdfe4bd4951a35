//! `BatchCommands`: many requests over one stream.
//!
//! One task serves a stream. It keeps all requests of all batches running side by side and sends whatever is answered by
//! the time it looks as one batch, in any order, so answers batch as load grows. Scans have tasks of their own, because
//! they work long.
//!
//! A client that sends and does not listen is held back twice: at most [`RUNNING_MAX`] requests and [`BYTES_MAX`] bytes run
//! for a stream before it is read on, and answers wait for room on the wire.
//!
//! A command that is not served costs its sender an answer, never the stream, on which the requests of others run: a
//! transactional one is aborted, one of a later version is answered with a response that holds nothing.
//! Only a message that cannot be taken apart ends the stream.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use engine::Engine;
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use prost::Message;
use proto::kvrpcpb as kv;
use proto::tikvpb::batch_commands_request::request::Cmd as Ask;
use proto::tikvpb::batch_commands_response::Response as Answered;
use proto::tikvpb::batch_commands_response::response::Cmd as Answer;
use proto::tikvpb::{BatchCommandsEmptyResponse, BatchCommandsRequest, BatchCommandsResponse};
use tonic::{Status, Streaming};

use super::{Answers, Kind, TikvService};

/// Requests of one stream that run at a time.
const RUNNING_MAX: usize = 8192;
/// Requests of one message; with more the stream is ended.
const REQUESTS_MAX: usize = 8192;
/// Bytes of requests of one stream that run at a time.
const BYTES_MAX: usize = 32 << 20;
/// Answers in one message, and their bytes; one answer always fits.
const ANSWERS_MAX: usize = 512;
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Serves a stream.
pub(super) fn serve<E: Engine>(
    service: TikvService<E>,
    requests: Streaming<BatchCommandsRequest>,
) -> Answers {
    let mut closing = service.shared.closing.clone();
    Box::pin(Serving {
        service,
        closing: Box::pin(async move {
            // A sender that is gone closes as well.
            let _ = closing.wait_for(|closing| *closing).await;
        }),
        requests: Some(requests),
        failure: None,
        running: FuturesUnordered::new(),
        running_bytes: 0,
        answered: VecDeque::new(),
    })
}

/// An answered request: its id, the size it had, and the answer.
type Done = (u64, usize, Option<Answer>);

struct Serving<E: Engine> {
    service: TikvService<E>,
    /// Ready when the server stops.
    closing: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// `None` once the client sends no more, or the stream failed.
    requests: Option<Streaming<BatchCommandsRequest>>,
    /// Ends the stream after what is answered.
    failure: Option<Status>,
    running: FuturesUnordered<Pin<Box<dyn Future<Output = Done> + Send>>>,
    running_bytes: usize,
    answered: VecDeque<(u64, Option<Answer>)>,
}

impl<E: Engine> Stream for Serving<E> {
    type Item = Result<BatchCommandsResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            this.read(context);
            let mut progressed = false;
            while this.answered.len() < ANSWERS_MAX
                && let Poll::Ready(Some((id, bytes, answer))) =
                    this.running.poll_next_unpin(context)
            {
                progressed = true;
                this.running_bytes -= bytes;
                this.answered.push_back((id, answer));
            }
            if let Some(batch) = this.batch() {
                return Poll::Ready(Some(Ok(batch)));
            }
            if let Some(status) = this.failure.take() {
                this.running.clear();
                return Poll::Ready(Some(Err(status)));
            }
            if this.requests.is_none() && this.running.is_empty() {
                return Poll::Ready(None);
            }
            if !progressed {
                return Poll::Pending;
            }
        }
    }
}

impl<E: Engine> Serving<E> {
    /// Starts requests as long as the client sent some and there is room.
    fn read(&mut self, context: &mut Context<'_>) {
        if self.requests.is_some() && self.closing.as_mut().poll(context).is_ready() {
            self.requests = None;
        }
        while self.running.len() < RUNNING_MAX
            && self.running_bytes < BYTES_MAX
            && let Some(requests) = &mut self.requests
            && let Poll::Ready(next) = requests.poll_next_unpin(context)
        {
            match next {
                Some(Ok(batch)) => self.start(batch),
                Some(Err(status)) => self.fail(status),
                None => self.requests = None,
            }
        }
    }

    fn start(&mut self, batch: BatchCommandsRequest) {
        if batch.requests.len() != batch.request_ids.len() {
            let (requests, ids) = (batch.requests.len(), batch.request_ids.len());
            return self.fail(Status::invalid_argument(format!(
                "{requests} requests have {ids} ids"
            )));
        }
        if batch.requests.len() > REQUESTS_MAX {
            let requests = batch.requests.len();
            return self.fail(Status::resource_exhausted(format!(
                "{requests} requests in one message: send at most {REQUESTS_MAX}"
            )));
        }
        for (request, id) in batch.requests.into_iter().zip(batch.request_ids) {
            let bytes = request.encoded_len();
            let service = self.service.clone();
            self.running_bytes += bytes;
            self.running.push(Box::pin(async move {
                (id, bytes, service.command(request.cmd).await)
            }));
        }
    }

    fn fail(&mut self, status: Status) {
        self.requests = None;
        self.failure.get_or_insert(status);
    }

    /// What is answered, as one message; `None` when nothing is.
    fn batch(&mut self) -> Option<BatchCommandsResponse> {
        let mut bytes = 0;
        let mut batch = BatchCommandsResponse::default();
        while let Some((id, answer)) = self.answered.pop_front() {
            let answer = Answered { cmd: answer };
            bytes += answer.encoded_len();
            batch.request_ids.push(id);
            batch.responses.push(answer);
            if bytes >= ANSWER_BYTES_MAX {
                break;
            }
        }
        (!batch.responses.is_empty()).then_some(batch)
    }
}

impl<E: Engine> TikvService<E> {
    /// Carries out one request of a batch. The answer is empty when this version does not know the request.
    async fn command(self, ask: Option<Ask>) -> Option<Answer> {
        Some(match ask {
            Some(Ask::RawGet(request)) => {
                Answer::RawGet(self.measured(Kind::RawGet, self.get(request)).await)
            }
            Some(Ask::RawPut(request)) => {
                Answer::RawPut(self.measured(Kind::RawPut, self.put(request)).await)
            }
            Some(Ask::RawDelete(request)) => {
                Answer::RawDelete(self.measured(Kind::RawDelete, self.delete(request)).await)
            }
            Some(Ask::RawBatchGet(request)) => Answer::RawBatchGet(
                self.measured(Kind::RawBatchGet, self.batch_get(request))
                    .await,
            ),
            Some(Ask::RawBatchPut(request)) => Answer::RawBatchPut(
                self.measured(Kind::RawBatchPut, self.batch_put(request))
                    .await,
            ),
            Some(Ask::RawBatchDelete(request)) => Answer::RawBatchDelete(
                self.measured(Kind::RawBatchDelete, self.batch_delete(request))
                    .await,
            ),
            Some(Ask::RawDeleteRange(request)) => Answer::RawDeleteRange(
                self.measured(Kind::RawDeleteRange, self.delete_range(request))
                    .await,
            ),
            Some(Ask::RawScan(request)) => {
                Answer::RawScan(self.measured(Kind::RawScan, self.scan(request)).await)
            }
            Some(Ask::RawBatchScan(request)) => Answer::RawBatchScan(
                self.measured(Kind::RawBatchScan, self.batch_scan(request))
                    .await,
            ),
            Some(Ask::RawCoprocessor(request)) => Answer::RawCoprocessor(
                self.measured(Kind::RawCoprocessor, self.coprocessor(request))
                    .await,
            ),
            Some(Ask::Empty(request)) => Answer::Empty(BatchCommandsEmptyResponse {
                test_id: request.test_id,
            }),
            Some(Ask::Get(_)) => Answer::Get(not_served()),
            Some(Ask::Scan(_)) => Answer::Scan(not_served()),
            Some(Ask::Prewrite(_)) => Answer::Prewrite(not_served()),
            Some(Ask::Commit(_)) => Answer::Commit(not_served()),
            Some(Ask::Cleanup(_)) => Answer::Cleanup(not_served()),
            Some(Ask::BatchGet(_)) => Answer::BatchGet(not_served()),
            Some(Ask::BatchRollback(_)) => Answer::BatchRollback(not_served()),
            Some(Ask::ScanLock(_)) => Answer::ScanLock(not_served()),
            Some(Ask::ResolveLock(_)) => Answer::ResolveLock(not_served()),
            Some(Ask::PessimisticLock(_)) => Answer::PessimisticLock(not_served()),
            Some(Ask::PessimisticRollback(_)) => Answer::PessimisticRollback(not_served()),
            Some(Ask::CheckTxnStatus(_)) => Answer::CheckTxnStatus(not_served()),
            Some(Ask::TxnHeartBeat(_)) => Answer::TxnHeartBeat(not_served()),
            Some(Ask::CheckSecondaryLocks(_)) => Answer::CheckSecondaryLocks(not_served()),
            // A command of a later version, whose answer has no place here either.
            None => return None,
        })
    }
}

/// The answer to a transactional command: the one that clients hand to their caller without another try
/// (`proto/facts/client_errors.csv`).
fn not_served<A: Transactional>() -> A {
    A::failed(kv::KeyError {
        abort: "transactions are not served".to_owned(),
        ..Default::default()
    })
}

/// An answer that can hold the error of a transaction.
trait Transactional {
    fn failed(error: kv::KeyError) -> Self;
}

macro_rules! transactional {
    ($($answer:ident: $field:ident = $of:path;)*) => {$(
        impl Transactional for kv::$answer {
            fn failed(error: kv::KeyError) -> Self {
                kv::$answer {
                    $field: $of(error),
                    ..Default::default()
                }
            }
        }
    )*};
}

transactional! {
    GetResponse: error = Some;
    ScanResponse: error = Some;
    CommitResponse: error = Some;
    CleanupResponse: error = Some;
    BatchGetResponse: error = Some;
    BatchRollbackResponse: error = Some;
    ScanLockResponse: error = Some;
    ResolveLockResponse: error = Some;
    CheckTxnStatusResponse: error = Some;
    TxnHeartBeatResponse: error = Some;
    CheckSecondaryLocksResponse: error = Some;
    PrewriteResponse: errors = one;
    PessimisticLockResponse: errors = one;
    PessimisticRollbackResponse: errors = one;
}

fn one(error: kv::KeyError) -> Vec<kv::KeyError> {
    vec![error]
}
