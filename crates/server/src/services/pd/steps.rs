//! `pontoon.v1.Steps`: the stream of region heartbeats with what that has no place for.

use futures::StreamExt;
use proto::pontoon::v1::steps_server::Steps;
use proto::pontoon::v1::{RegionNews, RegionStep};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::{PdService, streams};

#[tonic::async_trait]
impl Steps for PdService {
    async fn exchange(
        &self,
        request: Request<Streaming<RegionNews>>,
    ) -> Result<Response<BoxStream<RegionStep>>, Status> {
        streams::regions(self, request.into_inner().boxed()).map(Response::new)
    }
}
