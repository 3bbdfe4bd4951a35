//! The hand that orders what administrators may order.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use client::{Admin, Client, OperatorId};
use proto::{
    RegionId, StoreId,
    pontoon::v1::{RegionStatus, operator_status::State},
};
use tokio::sync::watch;

use super::{Choice, Deck, Events, Wanted, pause};
use crate::wait_within;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Split,
    Merge,
    Move,
    Transfer,
    Drain,
}

const KINDS: [(Kind, &str); 5] = [
    (Kind::Split, "split"),
    (Kind::Merge, "merge"),
    (Kind::Move, "move"),
    (Kind::Transfer, "transfer"),
    (Kind::Drain, "drain and undrain"),
];

/// More regions than that are not made by order.
const REGIONS_MAX: usize = 12;
/// How long an order may take before another is given.
const ORDER_MAX: Duration = Duration::from_secs(12);
/// Time that one kind takes, about: shorter runs have fewer kinds.
const STEP: Duration = Duration::from_secs(6);

/// What is planned.
pub struct Orders {
    choice: Choice,
    deck: Deck<Kind>,
}

impl Orders {
    /// By the seed, and as many kinds as there is time for. The first is a split: without it there is nothing to merge.
    pub(super) fn plan(wanted: &Wanted) -> Self {
        let mut choice = Choice::new(wanted.seed, 2);
        let mut kinds = KINDS.to_vec();
        // A store can be emptied and a replica moved only if there is one without.
        if wanted.stores < 4 {
            kinds.retain(|(kind, _)| !matches!(kind, Kind::Drain | Kind::Move));
        }
        let deck = Deck::new(kinds, 1, &mut choice, wanted.length, STEP);
        Self { choice, deck }
    }

    pub(super) fn kinds(&self) -> Vec<&'static str> {
        self.deck.names()
    }

    /// Gives one order after the other until it is stopped. One that did not come true is given again in its turn.
    pub(super) async fn work(
        mut self,
        client: Client,
        prefix: &'static str,
        events: Arc<Events>,
        mut stopping: watch::Receiver<bool>,
    ) {
        let admin = client.admin();
        loop {
            let (kind, name) = self.deck.deal(&mut self.choice);
            let order = order(
                kind,
                &mut self.choice,
                &client,
                &admin,
                prefix,
                &events,
                &mut stopping,
            );
            match order.await {
                Ok(true) => events.happened(name),
                Ok(false) => events.note(&format!("{kind:?} did not come true")),
                // Under fire placement may not answer, or refuse what does not fit any more.
                Err(error) => events.note(&format!("{kind:?} was refused: {error}")),
            }
            let calm = self.choice.millis(50, 1_000);
            if !pause(calm, &mut stopping).await {
                return;
            }
        }
    }
}

/// Gives an order and waits for it. Returns whether it came true.
async fn order(
    kind: Kind,
    choice: &mut Choice,
    client: &Client,
    admin: &Admin,
    prefix: &str,
    events: &Events,
    stopping: &mut watch::Receiver<bool>,
) -> Result<bool, client::Error> {
    let regions = admin
        .regions(Default::default(), Default::default(), 0)
        .await?;
    // A placement member that just began to lead knows none yet.
    let places: Vec<usize> = (0..regions.len()).collect();
    let Some(region) = choice.pick(&places).map(|place| &regions[place]) else {
        return Ok(false);
    };
    let id = RegionId(region.region.as_ref().map_or(0, |region| region.id));
    let stores: Vec<u64> = peers(region);
    let all: Vec<u64> = admin
        .stores()
        .await?
        .iter()
        .filter_map(|store| store.store.as_ref())
        .map(|store| store.id)
        .collect();
    let operator = match kind {
        Kind::Split => {
            if regions.len() >= REGIONS_MAX {
                return Ok(false);
            }
            let key = client.route_key(format!("{prefix}{:04x}", choice.below(1 << 16)))?;
            let (region, _) = admin.find_region(key.clone()).await?;
            events.doing("order", format!("split region {} ", region.id));
            admin.split_region(RegionId(region.id), vec![key]).await?
        }
        Kind::Merge => {
            if regions.len() < 2 {
                return Ok(false);
            }
            events.doing("order", format!("merge region {id}"));
            admin.merge_region(id, None).await?
        }
        Kind::Move => {
            let free: Vec<u64> = all
                .iter()
                .copied()
                .filter(|one| !stores.contains(one))
                .collect();
            let (Some(from), Some(to)) = (choice.pick(&stores), choice.pick(&free)) else {
                return Ok(false);
            };
            events.doing("order", format!("move region {id} from {from} to {to}"));
            admin.move_replica(id, StoreId(from), StoreId(to)).await?
        }
        Kind::Transfer => {
            let leader = region.leader.as_ref().map_or(0, |leader| leader.store_id);
            let others: Vec<u64> = stores
                .iter()
                .copied()
                .filter(|one| *one != leader)
                .collect();
            let Some(to) = choice.pick(&others) else {
                return Ok(false);
            };
            events.doing("order", format!("transfer region {id} to {to}"));
            admin.transfer_leader(id, StoreId(to)).await?
        }
        Kind::Drain => {
            let Some(store) = choice.pick(&all) else {
                return Ok(false);
            };
            return drain(store, admin, events, stopping).await;
        }
    };
    done(operator, admin, stopping).await
}

fn peers(region: &RegionStatus) -> Vec<u64> {
    let peers = region.region.iter().flat_map(|region| &region.peers);
    peers.map(|peer| peer.store_id).collect()
}

/// Waits until an operator is done.
async fn done(
    operator: OperatorId,
    admin: &Admin,
    stopping: &mut watch::Receiver<bool>,
) -> Result<bool, client::Error> {
    let deadline = Instant::now() + ORDER_MAX;
    while Instant::now() < deadline {
        match admin.operator(operator).await?.map(|status| status.state()) {
            Some(State::Done) => return Ok(true),
            Some(State::Cancelled) | None => return Ok(false),
            Some(State::Running) => {}
        }
        if !pause(Duration::from_millis(100), stopping).await {
            return Ok(false);
        }
    }
    Ok(false)
}

/// Empties a store as far as it gets, then takes it back. Returns whether at least one replica left it.
async fn drain(
    store: u64,
    admin: &Admin,
    events: &Events,
    stopping: &mut watch::Receiver<bool>,
) -> Result<bool, client::Error> {
    events.doing("order", format!("drain store {store}"));
    let on_store = async || -> Result<BTreeSet<u64>, client::Error> {
        let regions = admin
            .regions(Default::default(), Default::default(), 0)
            .await?;
        let held = regions
            .iter()
            .filter(|region| peers(region).contains(&store));
        Ok(held
            .filter_map(|region| region.region.as_ref())
            .map(|region| region.id)
            .collect())
    };
    let before = on_store().await?;
    admin.drain_store(StoreId(store)).await?;
    let deadline = Instant::now() + ORDER_MAX;
    let mut left = before.clone();
    while !left.is_empty() && Instant::now() < deadline {
        if !pause(Duration::from_millis(200), stopping).await {
            break;
        }
        // Placement may not answer for a moment.
        left = on_store().await.unwrap_or(left);
    }
    events.doing("order", format!("undrain store {store}"));
    // Until it was taken: a store that stays drained is no use to the next orders.
    while let Err(error) = admin.undrain_store(StoreId(store)).await {
        events.note(&format!("undrain was refused: {error}"));
        if !pause(Duration::from_millis(200), stopping).await
            || Instant::now() > deadline + ORDER_MAX
        {
            break;
        }
    }
    Ok(!before.is_subset(&left))
}

/// Takes back every drain.
///
/// # Errors
/// Not in time.
pub(super) async fn undrain_all(admin: &Admin, limit: Duration) -> Result<()> {
    wait_within(limit, "no store is drained", async || {
        let stores = admin.stores().await?;
        let drained: Vec<u64> = stores
            .iter()
            .filter(|store| store.drain.is_some())
            .filter_map(|store| store.store.as_ref())
            .map(|store| store.id)
            .collect();
        for store in &drained {
            admin.undrain_store(StoreId(*store)).await?;
        }
        Ok(drained.is_empty())
    })
    .await
}
