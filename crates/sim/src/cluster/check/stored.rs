//! R12: what is digested of a region is what the entry that asks for it left, and nothing later; and whoever asks whether all members
//! store the same gets an answer.

use std::collections::BTreeMap;

use engine::Family;
use proto::pontoon::v1::AppliedState;
use proto::{RegionId, StoreId};
use store::event::{Asked, RequestId};
use store::{codec, keys};

use super::content::Contents;
use crate::rule::{Violation, ensure};

/// Names of requests that are no client's.
const FIRST: u64 = 1 << 63;

/// Questions that were asked of stores, and what is known of what they should see.
#[derive(Debug, Default)]
pub struct Stored {
    /// Views are not looked at.
    blind: bool,
    asked: u64,
    waiting: BTreeMap<RequestId, StoreId>,
}

impl Stored {
    /// Of a world in which the simulator compares, or leaves that to the stores.
    pub fn new(blind: bool) -> Stored {
        Stored {
            blind,
            ..Stored::default()
        }
    }

    /// A name for a question to a store.
    pub fn ask(&mut self, store: StoreId) -> RequestId {
        self.asked += 1;
        let request = RequestId(FIRST + self.asked);
        self.waiting.insert(request, store);
        request
    }

    /// Whether a request was such a question, which is answered now.
    ///
    /// # Errors
    /// It was answered before.
    pub fn answer(&mut self, request: RequestId) -> Result<bool, Violation> {
        if request.0 < FIRST {
            return Ok(false);
        }
        let waited = self.waiting.remove(&request).is_some();
        ensure!(Assertion, waited, "{request:?} is answered twice");
        Ok(true)
    }

    /// A store stopped, and what it was asked with it.
    pub fn forget(&mut self, store: StoreId) {
        self.waiting.retain(|_, asked| *asked != store);
    }

    /// A store that owes an answer.
    pub fn owing(&self) -> Option<StoreId> {
        self.waiting.values().next().copied()
    }

    /// Looks at what an applier gives to be digested.
    ///
    /// # Errors
    /// R12.
    pub fn learn(
        &self,
        store: StoreId,
        region: RegionId,
        asked: &Asked,
        contents: &mut Contents,
    ) -> Result<(), Violation> {
        let Some(data) = asked.data.as_ref().filter(|_| !self.blind) else {
            return Ok(());
        };
        let view = data.view.view();
        let applied = view.get(Family::State, &keys::applied_state(region));
        let applied = applied.ok().flatten();
        let applied: Option<AppliedState> = applied.and_then(|bytes| codec::decode_record(&bytes));
        let index = applied.map(|applied| applied.index);
        ensure!(
            Determinism,
            index == Some(asked.position.index),
            "store {store} digests what region {region} stores at applied index {index:?}, asked for that at {}",
            asked.position.index
        );
        contents.check_view(store.0, region, view)
    }
}
