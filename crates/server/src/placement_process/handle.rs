//! The way to the placement machine, for the services of a member.

use std::sync::Arc;
use std::time::Duration;

use placement::plan::Metadata;
use placement::{Answer, Now, Refusal, RegionInfo, Request};
use proto::StoreId;
use proto::pontoon::v1::{Divergence, OwnSplit, RegionStep, StepRefusal};
use tokio::sync::{mpsc, oneshot, watch};

/// Requests and reports that wait for the driver. Full: the caller waits, which holds its connection up.
pub const INPUTS_MAX: usize = 4096;
/// Orders that wait for one store. Full: an order is dropped, and sent again later.
pub const ORDERS_MAX: usize = 1024;

/// What goes to the driver.
#[derive(Debug)]
pub enum Input {
    /// Something is asked for.
    Request {
        /// What.
        request: Box<Request>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<Answer, Refusal>>,
    },
    /// A store opened a stream for its regions.
    Open {
        /// The store.
        store: StoreId,
        /// Names the stream.
        stream: u64,
        /// Where orders go.
        orders: mpsc::Sender<Result<RegionStep, tonic::Status>>,
    },
    /// A copy of what the leader knows is wanted; nobody answers on a member that does not lead.
    Metadata(oneshot::Sender<(Metadata, Now)>),
    /// The leader of a region told about it.
    Report(Box<RegionInfo>),
    /// A store refused a step.
    Refused(Box<StepRefusal>),
    /// The leader of a region split it by its own decision, or would have.
    OwnSplit(Box<OwnSplit>),
    /// A store found two replicas of a region that differ.
    Divergence(Divergence),
    /// A stream ended.
    Close {
        /// The store.
        store: StoreId,
        /// Names the stream.
        stream: u64,
    },
}

/// Where a member stands. Published by the driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Who the members are now, by position, as far as known here.
    pub members: Arc<[StoreId]>,
    /// The member that leads, as far as known.
    pub leader: Option<StoreId>,
    /// The cluster's identity, once it is durable.
    pub cluster_id: Option<u64>,
    /// The term in which this member leads and serves.
    pub serving: Option<u64>,
}

/// The way to the placement machine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Placement {
    me: StoreId,
    dial: (u64, u64),
    inputs: mpsc::Sender<Input>,
    standing: watch::Receiver<Standing>,
}

impl Placement {
    /// For a driver that takes `inputs` and publishes `standing`; `dial` as in [`Placement::dial`].
    pub fn new(
        me: StoreId,
        dial: (u64, u64),
        inputs: mpsc::Sender<Input>,
        standing: watch::Receiver<Standing>,
    ) -> Self {
        Self {
            me,
            dial,
            inputs,
            standing,
        }
    }

    /// Bytes per second that snapshots of a store may take, each way, for balance and for repair.
    pub fn dial(&self) -> (u64, u64) {
        self.dial
    }

    /// Asks, and waits for the answer. For what may be asked again: an answer that is lost shows as
    /// [`Refusal::NotLeader`] too.
    ///
    /// # Errors
    /// The refusal.
    pub async fn ask(&self, request: Request) -> Result<Answer, Refusal> {
        self.ask_once(request)
            .await
            .unwrap_or(Err(Refusal::NotLeader))
    }

    /// Asks, and waits for the answer. `None` when it is lost: what was asked for may be done, now or later (R26).
    pub async fn ask_once(&self, request: Request) -> Option<Result<Answer, Refusal>> {
        let (reply, answer) = oneshot::channel();
        let request = Box::new(request);
        if let Err(refusal) = self.send(Input::Request { request, reply }).await {
            return Some(Err(refusal));
        }
        answer.await.ok()
    }

    /// A copy of what the leader knows, and when that was.
    ///
    /// # Errors
    /// [`Refusal::NotLeader`].
    pub async fn metadata(&self) -> Result<(Metadata, Now), Refusal> {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Metadata(reply)).await?;
        answer.await.map_err(|_| Refusal::NotLeader)
    }

    /// Hands something to the driver.
    ///
    /// # Errors
    /// [`Refusal::NotLeader`] when the driver is gone.
    pub async fn send(&self, input: Input) -> Result<(), Refusal> {
        self.inputs
            .send(input)
            .await
            .map_err(|_| Refusal::NotLeader)
    }

    /// Where this member stands now.
    pub fn standing(&self) -> Standing {
        self.standing.borrow().clone()
    }

    /// Waits until this member serves no more in `term`.
    pub async fn deposed(&self, term: u64) {
        let mut standing = self.standing.clone();
        // An error means that the driver is gone, and nobody leads here.
        drop(
            standing
                .wait_for(|standing| standing.serving != Some(term))
                .await,
        );
    }

    /// Where this member stands once it knows a leader that serves, or after `patience`.
    pub async fn settled(&self, patience: Duration) -> Standing {
        let mut standing = self.standing.clone();
        let settled = |standing: &Standing| {
            let led = standing
                .leader
                .is_some_and(|leader| leader != self.me || standing.serving.is_some());
            led && standing.cluster_id.is_some()
        };
        drop(tokio::time::timeout(patience, standing.wait_for(settled)).await);
        self.standing()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R26: a command that was taken and gets no answer is not refused.
    #[tokio::test]
    async fn a_lost_answer_is_no_refusal() {
        let (sender, mut inputs) = mpsc::channel(1);
        let (_standing, watched) = watch::channel(Standing::default());
        let placement = Placement::new(StoreId(1), (0, 0), sender, watched);
        let driver = tokio::spawn(async move {
            let taken = inputs.recv().await;
            assert!(matches!(taken, Some(Input::Request { .. })));
        });
        assert_eq!(placement.ask_once(Request::AllocateIds(1)).await, None);
        driver.await.expect("it took the request");
        assert_eq!(
            placement.ask_once(Request::AllocateIds(1)).await,
            Some(Err(Refusal::NotLeader))
        );
    }
}
