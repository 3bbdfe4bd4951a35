//! The requests of the raw interface, as the retry loop sees them.

use std::time::Duration;

use prost::Message;
use proto::{
    OUTCOME_UNKNOWN, StoreId, kvrpcpb as kv,
    tikvpb::{
        batch_commands_request::request::Cmd as Command,
        batch_commands_response::response::Cmd as Answer,
    },
};

use crate::{cause::Cause, retry::Effect, store::Store};

/// A request to one peer.
pub(crate) trait Request: Clone {
    type Answer;

    /// What doing it twice would mean.
    const EFFECT: Effect;

    /// Addresses it.
    fn set_context(&mut self, context: kv::Context);

    /// Takes it to a store and returns what came back, refusals included.
    fn carry(
        self,
        store: &Store,
        limit: Duration,
    ) -> impl Future<Output = Result<Self::Answer, Cause>> + Send;

    /// Why the answer is none.
    fn refusal(answer: &mut Self::Answer) -> Option<Cause>;
}

/// The refusal in the two places where most answers have one.
fn refusal(
    region_error: &mut Option<Box<proto::errorpb::Error>>,
    text: &mut String,
) -> Option<Cause> {
    if let Some(error) = region_error.take() {
        return Some(Cause::of_region_error(*error));
    }
    (!text.is_empty()).then(|| Cause::Refused {
        message: std::mem::take(text),
    })
}

/// The refusal in the error of a pair, where answers without a text have theirs.
fn text_of_pairs(pairs: &mut [kv::KvPair]) -> String {
    let error = pairs.iter_mut().find_map(|pair| pair.error.take());
    error.map_or_else(String::new, |error| {
        if error.abort.is_empty() {
            format!("{error:?}")
        } else {
            error.abort
        }
    })
}

fn another(store: StoreId) -> Cause {
    Cause::Lost {
        store,
        why: "the answer is to something else".to_owned(),
    }
}

/// Requests that have a place in `BatchCommands`.
macro_rules! streamed {
    ($($request:ident => $answer:ident as $variant:ident, $effect:ident, $text:expr;)*) => {$(
        impl Request for kv::$request {
            type Answer = kv::$answer;

            const EFFECT: Effect = Effect::$effect;

            fn set_context(&mut self, context: kv::Context) {
                self.context = Some(context);
            }

            async fn carry(self, store: &Store, limit: Duration) -> Result<kv::$answer, Cause> {
                let bytes = self.encoded_len();
                match store.command(Command::$variant(self), bytes, limit).await? {
                    Answer::$variant(answer) => Ok(answer),
                    _ => Err(another(store.id())),
                }
            }

            fn refusal(answer: &mut kv::$answer) -> Option<Cause> {
                let text: fn(&mut kv::$answer) -> String = $text;
                let mut text = text(answer);
                refusal(&mut answer.region_error, &mut text)
            }
        }
    )*};
}

streamed! {
    RawGetRequest => RawGetResponse as RawGet, None, |answer| std::mem::take(&mut answer.error);
    RawBatchGetRequest => RawBatchGetResponse as RawBatchGet, None, |answer| text_of_pairs(&mut answer.pairs);
    RawPutRequest => RawPutResponse as RawPut, Idempotent, |answer| std::mem::take(&mut answer.error);
    RawBatchPutRequest => RawBatchPutResponse as RawBatchPut, Idempotent, |answer| std::mem::take(&mut answer.error);
    RawDeleteRequest => RawDeleteResponse as RawDelete, Idempotent, |answer| std::mem::take(&mut answer.error);
    RawBatchDeleteRequest => RawBatchDeleteResponse as RawBatchDelete, Idempotent,
        |answer| std::mem::take(&mut answer.error);
    RawDeleteRangeRequest => RawDeleteRangeResponse as RawDeleteRange, Idempotent,
        |answer| std::mem::take(&mut answer.error);
    RawScanRequest => RawScanResponse as RawScan, None, |answer| text_of_pairs(&mut answer.kvs);
}

impl Request for kv::RawGetKeyTtlRequest {
    type Answer = kv::RawGetKeyTtlResponse;

    const EFFECT: Effect = Effect::None;

    fn set_context(&mut self, context: kv::Context) {
        self.context = Some(context);
    }

    async fn carry(
        self,
        store: &Store,
        limit: Duration,
    ) -> Result<kv::RawGetKeyTtlResponse, Cause> {
        store
            .call(
                |mut client| async move { Ok(client.raw_get_key_ttl(self).await?.into_inner()) },
                limit,
            )
            .await
    }

    fn refusal(answer: &mut kv::RawGetKeyTtlResponse) -> Option<Cause> {
        refusal(&mut answer.region_error, &mut answer.error)
    }
}

impl Request for kv::RawCasRequest {
    /// With whether the store says that the outcome is not known. It says so beside its answer, because the answer's own
    /// error means certain failure to other clients.
    type Answer = (kv::RawCasResponse, bool);

    const EFFECT: Effect = Effect::Once;

    fn set_context(&mut self, context: kv::Context) {
        self.context = Some(context);
    }

    async fn carry(
        self,
        store: &Store,
        limit: Duration,
    ) -> Result<(kv::RawCasResponse, bool), Cause> {
        let call = |mut client: proto::tikvpb::tikv_client::TikvClient<_>| async move {
            let response = client.raw_compare_and_swap(self).await?;
            let unknown = response.metadata().contains_key(OUTCOME_UNKNOWN);
            Ok((response.into_inner(), unknown))
        };
        store.call(call, limit).await
    }

    fn refusal((answer, unknown): &mut (kv::RawCasResponse, bool)) -> Option<Cause> {
        if *unknown {
            return Some(Cause::Undetermined);
        }
        refusal(&mut answer.region_error, &mut answer.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_found_wherever_an_answer_has_them() {
        let mut put = kv::RawPutResponse {
            error: "no".to_owned(),
            ..Default::default()
        };
        assert!(
            matches!(kv::RawPutRequest::refusal(&mut put), Some(Cause::Refused { message }) if message == "no")
        );
        let error = kv::KeyError {
            abort: "too much".to_owned(),
            ..Default::default()
        };
        let pair = kv::KvPair {
            error: Some(Box::new(error)),
            ..Default::default()
        };
        let mut scan = kv::RawScanResponse {
            kvs: vec![kv::KvPair::default(), pair],
            ..Default::default()
        };
        let refusal = kv::RawScanRequest::refusal(&mut scan);
        assert!(matches!(refusal, Some(Cause::Refused { message }) if message == "too much"));
        let error = proto::errorpb::Error {
            region_not_found: Some(Default::default()),
            ..Default::default()
        };
        let mut get = kv::RawGetResponse {
            region_error: Some(Box::new(error)),
            ..Default::default()
        };
        assert!(matches!(
            kv::RawGetRequest::refusal(&mut get),
            Some(Cause::Route { .. })
        ));
        assert!(kv::RawGetRequest::refusal(&mut kv::RawGetResponse::default()).is_none());
    }

    #[test]
    fn an_unknown_swap_is_not_a_refused_one() {
        let text = kv::RawCasResponse {
            error: "not known".to_owned(),
            ..Default::default()
        };
        let told = kv::RawCasRequest::refusal(&mut (text.clone(), true));
        assert!(matches!(told, Some(Cause::Undetermined)));
        assert!(matches!(
            kv::RawCasRequest::refusal(&mut (text, false)),
            Some(Cause::Refused { .. })
        ));
    }
}
