//! The two streams: timestamps, and regions.

use std::sync::atomic::Ordering;

use futures::StreamExt;
use placement::{Answer, Refusal, Request as Ask};
use proto::pontoon::v1::{RegionNews, RegionStep, region_news};
use proto::{StoreId, pdpb};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Status, Streaming};

use super::{PdService, convert};
use crate::placement_process::{Input, ORDERS_MAX};

/// Requests of one stream that are worked on at once; more wait in the connection.
const REQUESTS_AT_ONCE: usize = 1024;

/// Answers requests for timestamps in their order. Those that wait together share one confirmation of the leadership. The
/// first that cannot be answered ends the stream, since callers read no header, and so does the loss of the leadership:
/// whoever has nothing to ask now looks for the new leader before it asks again.
pub fn timestamps(
    service: PdService,
    requests: Streaming<pdpb::TsoRequest>,
) -> BoxStream<pdpb::TsoResponse> {
    let serving = service.placement.standing().serving;
    let placement = service.placement.clone();
    let deposed = async move {
        match serving {
            Some(term) => placement.deposed(term).await,
            // The first request is refused.
            None => std::future::pending().await,
        }
    };
    let answers = requests
        .map(move |request| {
            let service = service.clone();
            async move { timestamp(&service, request?).await }
        })
        .buffered(REQUESTS_AT_ONCE);
    let mut failed = false;
    let answers = answers.take_while(move |answer| {
        let go_on = !failed;
        failed |= answer.is_err();
        std::future::ready(go_on)
    });
    Box::pin(answers.take_until(deposed))
}

async fn timestamp(
    service: &PdService,
    request: pdpb::TsoRequest,
) -> Result<pdpb::TsoResponse, Status> {
    let refused = |error: pdpb::Error| match error.r#type() {
        pdpb::ErrorType::Unknown => Status::unavailable(error.message),
        _ => Status::failed_precondition(error.message),
    };
    service.admit(request.header.as_ref()).map_err(refused)?;
    match service.placement.ask(Ask::Timestamps(request.count)).await {
        Ok(Answer::Timestamp {
            physical_ms,
            logical,
            count,
        }) => Ok(pdpb::TsoResponse {
            header: Some(service.header(None)),
            count,
            timestamp: Some(pdpb::Timestamp {
                physical: i64::try_from(physical_ms).unwrap_or(i64::MAX),
                logical: i64::from(logical),
                suffix_bits: 0,
            }),
        }),
        Ok(_) => Err(Status::internal("another answer was expected")),
        Err(refusal) => Err(convert::status(&refusal)),
    }
}

/// Takes reports of regions and refusals of steps, and gives steps back. The stream ends when this member is deposed.
pub fn regions(
    service: &PdService,
    news: BoxStream<RegionNews>,
) -> Result<BoxStream<RegionStep>, Status> {
    let Some(term) = service.placement.standing().serving else {
        return Err(convert::status(&Refusal::NotLeader));
    };
    let (orders, answers) = mpsc::channel(ORDERS_MAX);
    let service = service.clone();
    tokio::spawn(async move {
        let deposed = service.placement.clone();
        let ended = tokio::select! {
            ended = take_news(&service, news, &orders) => ended,
            () = deposed.deposed(term) => Err(convert::status(&Refusal::NotLeader)),
        };
        if let Err(status) = ended {
            // Nobody listens any more when this fails.
            drop(orders.try_send(Err(status)));
        }
    });
    Ok(ReceiverStream::new(answers).boxed())
}

async fn take_news(
    service: &PdService,
    mut news: BoxStream<RegionNews>,
    orders: &mpsc::Sender<Result<RegionStep, Status>>,
) -> Result<(), Status> {
    let stream = service.streams.fetch_add(1, Ordering::Relaxed);
    let mut opened: Option<StoreId> = None;
    let ended = loop {
        let request = match news.next().await {
            Some(Ok(RegionNews {
                kind: Some(region_news::Kind::Report(request)),
            })) => request,
            Some(Ok(RegionNews {
                kind: Some(region_news::Kind::Refusal(refusal)),
            })) => {
                if let Err(error) = service.admit(refusal.header.as_ref()) {
                    break Err(Status::failed_precondition(error.message));
                }
                let refusal = Input::Refused(Box::new(refusal));
                let sent = service.placement.send(refusal).await;
                sent.map_err(|refusal| convert::status(&refusal))?;
                continue;
            }
            Some(Ok(RegionNews {
                kind: Some(region_news::Kind::OwnSplit(split)),
            })) => {
                if let Err(error) = service.admit(split.header.as_ref()) {
                    break Err(Status::failed_precondition(error.message));
                }
                let split = Input::OwnSplit(Box::new(split));
                let sent = service.placement.send(split).await;
                sent.map_err(|refusal| convert::status(&refusal))?;
                continue;
            }
            Some(Ok(RegionNews {
                kind: Some(region_news::Kind::Divergence(told)),
            })) => {
                if let Err(error) = service.admit(told.header.as_ref()) {
                    break Err(Status::failed_precondition(error.message));
                }
                let sent = service.placement.send(Input::Divergence(told)).await;
                sent.map_err(|refusal| convert::status(&refusal))?;
                continue;
            }
            // From a later version.
            Some(Ok(RegionNews { kind: None })) => continue,
            None => break Ok(()),
            Some(Err(status)) => break Err(status),
        };
        if let Err(error) = service.admit(request.header.as_ref()) {
            break Err(Status::failed_precondition(error.message));
        }
        let Some(report) = convert::report(request) else {
            break Err(Status::invalid_argument("a report without a region"));
        };
        let store = report.leader.map(|leader| StoreId(leader.store_id));
        if let Some(store) = store.filter(|store| opened != Some(*store)) {
            opened = Some(store);
            let open = Input::Open {
                store,
                stream,
                orders: orders.clone(),
            };
            service
                .placement
                .send(open)
                .await
                .map_err(|refusal| convert::status(&refusal))?;
        }
        let report = Input::Report(Box::new(report));
        service
            .placement
            .send(report)
            .await
            .map_err(|refusal| convert::status(&refusal))?;
    };
    if let Some(store) = opened {
        service
            .placement
            .send(Input::Close { store, stream })
            .await
            .map_err(|refusal| convert::status(&refusal))?;
    }
    ended
}
