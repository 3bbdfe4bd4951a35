//! Takes requests to the peers that can serve them, and learns from what they meet.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::{Duration, Instant},
};

use bytes::Bytes;
use proto::{StoreId, kvrpcpb};
use tokio::sync::Mutex;

use crate::{
    cache::{Region, RegionCache},
    cause::{Cause, When},
    error::Error,
    keys::{KeySpace, just_below},
    options::Options,
    placement::Placement,
    request::Request,
    retry::Retry,
    store::Store,
};

/// A place in the key space, in route keys.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// This key.
    At(Bytes),
    /// The keys just below this one; empty is the end of the key space.
    Below(Bytes),
}

pub(crate) struct Router {
    pub options: Options,
    pub keys: KeySpace,
    pub placement: Arc<Placement>,
    cluster_id: u64,
    cache: RwLock<RegionCache>,
    /// Held while a region is asked for, so that a hundred callers ask once.
    asking: Mutex<()>,
    stores: RwLock<BTreeMap<StoreId, Arc<Store>>>,
}

impl Router {
    pub(crate) fn new(
        options: Options,
        keys: KeySpace,
        placement: Arc<Placement>,
        cluster_id: u64,
    ) -> Self {
        Self {
            options,
            keys,
            placement,
            cluster_id,
            cache: RwLock::new(RegionCache::new(options.regions_max)),
            asking: Mutex::default(),
            stores: RwLock::default(),
        }
    }

    fn cache(&self) -> RwLockReadGuard<'_, RegionCache> {
        self.cache.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache_mut(&self) -> RwLockWriteGuard<'_, RegionCache> {
        self.cache.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn cached(&self, place: &Place) -> Option<Arc<Region>> {
        let cache = self.cache();
        match place {
            Place::At(key) => cache.get(key),
            Place::Below(upper) => cache.get_below(upper),
        }
        .cloned()
    }

    /// The region at `place`: from the cache, or asked for.
    pub(crate) async fn locate(&self, place: &Place) -> Result<Arc<Region>, Cause> {
        if let Some(region) = self.cached(place).filter(|region| !region.stale) {
            return Ok(region);
        }
        let _asking = self.asking.lock().await;
        let cached = self.cached(place);
        if let Some(region) = cached.clone().filter(|region| !region.stale) {
            return Ok(region);
        }
        let route = match place {
            Place::At(key) => key.clone(),
            Place::Below(upper) => just_below(upper),
        };
        let told = match self.placement.region(route).await {
            Ok((descriptor, leader)) => {
                Region::new(descriptor, leader.as_ref()).ok_or_else(|| Cause::Placement {
                    why: "it sent a region that makes no sense".to_owned(),
                })
            }
            Err(cause) => Err(cause),
        };
        match (told, cached) {
            (Ok(region), _) => {
                self.cache_mut().insert(region.clone());
                // Something newer may be known. If not, what placement told is the best there is, even where it is too
                // old to be remembered: the store that is asked will tell.
                Ok(self.cached(place).unwrap_or_else(|| Arc::new(region)))
            }
            (Err(_), Some(region)) => {
                self.cache_mut().make_do(&region);
                Ok(region)
            }
            (Err(cause), None) => Err(cause),
        }
    }

    /// One attempt.
    pub(crate) async fn attempt<R: Request>(
        &self,
        region: &Region,
        mut request: R,
        limit: Duration,
    ) -> Result<R::Answer, Cause> {
        let peer = region.peer();
        let store = self.store(StoreId(peer.store_id));
        request.set_context(kvrpcpb::Context {
            region_id: region.id.0,
            region_epoch: Some(region.epoch),
            peer: Some(*peer),
            api_version: self.keys.api_version().into(),
            cluster_id: self.cluster_id,
            ..Default::default()
        });
        let mut answer = request.carry(&store, limit).await?;
        match R::refusal(&mut answer) {
            Some(cause) => Err(cause),
            None => Ok(answer),
        }
    }

    /// Corrects what is known about `region` by what an attempt met there; tells when the next may follow.
    pub(crate) async fn learn(&self, region: &Region, cause: &Cause) -> When {
        let (_, when) = cause.next();
        match cause {
            // A peer that names itself does not know better yet.
            Cause::NotLeader {
                leader: Some(leader),
            } if leader.id == region.peer().id => return When::Backoff,
            Cause::NotLeader {
                leader: Some(leader),
            } => self.cache_mut().set_leader(region, leader),
            Cause::NotLeader { leader: None } | Cause::Unreachable { .. } | Cause::Lost { .. } => {
                self.cache_mut().rotate(region);
            }
            Cause::EpochNotMatch { current } if current.is_empty() => {
                self.cache_mut().mark_stale(region)
            }
            Cause::EpochNotMatch { current } => {
                let mut cache = self.cache_mut();
                if !cache.learn(region, current.clone()) {
                    // The peer is behind us, or we heard it all before.
                    if !current.iter().any(|known| known.id == region.id.0) {
                        cache.mark_stale(region);
                    }
                    return When::Backoff;
                }
            }
            Cause::Route { .. } => self.cache_mut().mark_stale(region),
            Cause::WrongStore => {
                self.cache_mut().mark_stale(region);
                self.store(StoreId(region.peer().store_id))
                    .doubt_address()
                    .await;
            }
            Cause::NotReady { .. }
            | Cause::TooLarge { .. }
            | Cause::Refused { .. }
            | Cause::Undetermined
            | Cause::QueueFull { .. }
            | Cause::Placement { .. }
            | Cause::PlacementLost { .. } => {}
        }
        when
    }

    /// Carries out a request on the region of one wire key.
    pub(crate) async fn single<R: Request>(
        &self,
        key: &Bytes,
        request: R,
    ) -> Result<R::Answer, Error> {
        let place = Place::At(self.keys.route(key));
        let mut retry = Retry::new(&self.options, R::EFFECT, Instant::now());
        loop {
            let (cause, when) = match self.locate(&place).await {
                Ok(region) => match self.attempt(&region, request.clone(), retry.limit()).await {
                    Ok(answer) => return Ok(answer),
                    Err(cause) => {
                        let when = self.learn(&region, &cause).await;
                        (cause, when)
                    }
                },
                Err(cause) => (cause, When::Backoff),
            };
            retry.pause(cause, when).await?;
        }
    }

    /// The connection to a store; the first use makes it.
    pub(crate) fn store(&self, id: StoreId) -> Arc<Store> {
        if let Some(store) = self
            .stores
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
        {
            return store.clone();
        }
        let mut stores = self.stores.write().unwrap_or_else(PoisonError::into_inner);
        let store = stores
            .entry(id)
            .or_insert_with(|| Arc::new(Store::new(id, self.placement.clone(), self.options)));
        store.clone()
    }
}
