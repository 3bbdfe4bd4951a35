//! Which services and methods a process has, asked over the wire, for the tests of both kinds of process.

use bytes::Bytes;
use futures::stream;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

const METHODS: &str = include_str!("../../../../proto/facts/rpcs.csv");

/// Steps of the table that are served whole.
const STEPS: [&str; 4] = ["1", "2", "3", "7"];
/// Methods of later steps that are served, too.
const BESIDES: [&str; 13] = [
    "LoadKeyspace",
    "GetAllStores",
    "UnsafeDestroyRange",
    "GetPrevRegion",
    "ScanRegions",
    "BatchScanRegions",
    "AskSplit",
    "ReportSplit",
    "PutClusterConfig",
    "ScatterRegion",
    "SplitRegions",
    "SplitAndScatterRegions",
    "GetOperator",
];
/// Methods that take a stream.
const STREAMS: [&str; 3] = ["Tso", "RegionHeartbeat", "BatchCommands"];

/// Calls every method of `service` that the table wants served, and returns how many there were: with an empty request, to
/// which any answer will do, and with what is no request at all, which costs its sender an error and nobody else anything.
pub async fn call_all(channel: &Channel, service: &str) -> usize {
    let mut count = 0;
    for line in METHODS.lines().skip(1) {
        let columns: Vec<&str> = line.split(',').collect();
        let [step, package, of, method, ..] = columns[..] else {
            panic!("a row has more columns: {line}")
        };
        let wanted = STEPS.contains(&step) || BESIDES.contains(&method);
        if wanted && format!("{package}.{of}") == service {
            let code = call(channel, service, method, ()).await;
            assert_ne!(code, Code::Unimplemented, "{service}/{method}");
            // A first field, as every request has it, but of bytes that are no message.
            let code = call(channel, service, method, Bytes::from_static(b"\xff\xff")).await;
            let streams = STREAMS.contains(&method);
            assert!(
                code == Code::Internal || streams,
                "{service}/{method}: {code}"
            );
            count += 1;
        }
    }
    // Or this would show nothing.
    let code = call(channel, service, "NoSuchMethod", ()).await;
    assert_eq!(code, Code::Unimplemented);
    count
}

async fn call<M>(channel: &Channel, service: &str, method: &str, message: M) -> Code
where
    M: Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.expect("it serves");
    let path = format!("/{service}/{method}").parse().expect("a path");
    let codec = ProstCodec::<M, ()>::default();
    let answered = if STREAMS.contains(&method) {
        let request = Request::new(stream::iter([message]));
        grpc.streaming(request, path, codec).await.map(drop)
    } else {
        let request = Request::new(message);
        grpc.unary(request, path, codec).await.map(drop)
    };
    answered.err().map_or(Code::Ok, |status| status.code())
}

/// The services that reflection lists, as text.
pub async fn reflected(channel: &Channel) -> String {
    let mut reflection = ServerReflectionClient::new(channel.clone());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = reflection
        .server_reflection_info(stream::iter([request]))
        .await
        .expect("an answer");
    let answer = answers.into_inner().message().await.expect("no error");
    format!("{:?}", answer.expect("one answer"))
}
