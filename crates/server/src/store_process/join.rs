//! How a directory becomes a store of a cluster.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use engine::{Direction, Engine, Family, RocksEngine, RocksOptions, View};
use prost::Message;
use proto::pontoon::v1::admin_client::AdminClient;
use proto::pontoon::v1::{AdminHeader, ClusterStatusRequest, StoreIdentity, admin_error};
use proto::{StoreId, metapb, pdpb};
use store::identity;

use super::EngineConfig;
use super::error::Error;
use super::ids;
use super::placement_client::{PlacementClient, PlacementError};
use crate::services::tikv::ApiVersion;

/// How long one call to placement may take before it is said that placement is missing.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a store that could start without placement waits for it.
const GREETING: Duration = Duration::from_secs(3);
/// The region that this store proposed as the cluster's first. Kept until it is known whether it became that.
const FIRST_REGION: &str = "first-region";

/// Opens the engine of a directory.
pub fn open(directory: &Path, config: &EngineConfig) -> Result<RocksEngine, Error> {
    let path = || directory.to_owned();
    std::fs::create_dir_all(directory).map_err(|source| {
        engine_error(
            path(),
            engine::Error::Io {
                operation: "creating it",
                source: source.into(),
            },
        )
    })?;
    let options = RocksOptions {
        cache_bytes: usize::try_from(config.block_cache.bytes()).unwrap_or(usize::MAX),
        memtable_bytes: usize::try_from(config.memtable.bytes()).unwrap_or(usize::MAX),
        losable_from: Some(store::keys::FIRST_DATA),
        ..RocksOptions::default()
    };
    let engine = crate::disk::open(directory, &options);
    let engine = engine.map_err(|error| engine_error(path(), error))?;
    let lost = engine.lost_ranges().len();
    if lost > 0 {
        tracing::error!(
            ranges = lost,
            "data is lost with a damaged file: replicas that it may have been of are to be replaced"
        );
    }
    Ok(engine)
}

fn engine_error(path: PathBuf, error: engine::Error) -> Error {
    match error {
        engine::Error::InUse { .. } => Error::DirectoryInUse { path },
        error => Error::Directory {
            path,
            source: error.into(),
        },
    }
}

/// Sorts what is wrong with a directory.
pub fn store_error(path: &Path, error: store::Error) -> Error {
    let path = path.to_owned();
    match error {
        store::Error::Format { found, supported } => Error::NewerFormat {
            path,
            found,
            supported,
        },
        source => Error::Directory { path, source },
    }
}

/// Gives the directory its identity, and the cluster its first region if it has none. A directory that has an identity
/// and regions needs no placement for this; an empty one waits for it.
pub async fn join<E: Engine>(
    engine: &E,
    directory: &Path,
    placement: &PlacementClient,
    this_store: impl Fn(StoreId) -> metapb::Store,
) -> Result<(), Error> {
    let identity = match identity::read(engine).map_err(|error| store_error(directory, error))? {
        Some(identity) => {
            check_cluster(&identity, directory, placement).await?;
            identity
        }
        None => create(engine, directory, placement).await?,
    };
    if !has_regions(engine).map_err(|error| engine_error(directory.to_owned(), error))? {
        bootstrap(
            engine,
            directory,
            placement,
            &this_store(StoreId(identity.store_id)),
        )
        .await?;
    }
    Ok(())
}

/// A directory of another cluster is refused, if placement can tell.
async fn check_cluster(
    identity: &StoreIdentity,
    directory: &Path,
    placement: &PlacementClient,
) -> Result<(), Error> {
    match tokio::time::timeout(GREETING, placement.leader()).await {
        Ok(Ok(leader)) if leader.cluster_id != identity.cluster_id => Err(Error::OtherCluster {
            path: directory.to_owned(),
            store: identity.store_id,
            theirs: identity.cluster_id,
            ours: leader.cluster_id,
        }),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(reason)) => {
            tracing::warn!(
                reason,
                "placement does not answer; starting with what is here"
            );
            Ok(())
        }
        Err(_) => {
            tracing::warn!("placement does not answer in time; starting with what is here");
            Ok(())
        }
    }
}

/// A new store. Its id is never used again, so one that dies before it is written down costs a number.
async fn create<E: Engine>(
    engine: &E,
    directory: &Path,
    placement: &PlacementClient,
) -> Result<StoreIdentity, Error> {
    let (cluster_id, api_version) = loop {
        match describe_cluster(placement).await {
            Ok(found) => break found,
            Err(reason) => tracing::warn!(reason, "waiting for placement"),
        }
        placement.forget();
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    if ApiVersion::from_number(api_version).is_none() {
        return Err(Error::ApiVersion(api_version));
    }
    let id = StoreId(*allocate(placement, 1).await?.start());
    tracing::info!(store = %id, cluster = cluster_id, api_version, "joining as a new store");
    identity::create(engine, cluster_id, id, api_version)
        .map_err(|error| store_error(directory, error))
}

/// The cluster's id and the version of its client interface.
async fn describe_cluster(placement: &PlacementClient) -> Result<(u64, u32), String> {
    let leader = placement.leader().await?;
    let request = ClusterStatusRequest {
        header: Some(AdminHeader {
            cluster_id: leader.cluster_id,
        }),
    };
    let mut client = AdminClient::new(leader.channel);
    let answer = tokio::time::timeout(PATIENCE, client.cluster_status(request)).await;
    let status = answer
        .map_err(|_| "no answer in time".to_owned())?
        .map_err(|status| status.message().to_owned())?
        .into_inner();
    match status.error {
        Some(error) if error.kind() != admin_error::Kind::None => Err(error.message),
        _ => Ok((status.cluster_id, status.api_version)),
    }
}

/// Fresh ids, `count` of them.
async fn allocate(placement: &PlacementClient, count: u32) -> Result<RangeInclusive<u64>, Error> {
    let answer = persist(|| async {
        placement
            .call(PATIENCE, |mut client, header| {
                let request = pdpb::AllocIdRequest {
                    header: Some(header),
                    count,
                };
                async move { client.alloc_id(request).await }
            })
            .await
    });
    Ok(ids::given(&answer.await?, count)?)
}

/// Makes the first region of the cluster, unless another store does. Placement decides: whose region it takes, that store
/// creates it. What was proposed is written down before, so that a store that dies in between finishes after its restart.
async fn bootstrap<E: Engine>(
    engine: &E,
    directory: &Path,
    placement: &PlacementClient,
    this_store: &metapb::Store,
) -> Result<(), Error> {
    let file = directory.join(FIRST_REGION);
    let kept = std::fs::read(&file)
        .ok()
        .and_then(|bytes| metapb::Region::decode(&bytes[..]).ok());
    if kept.is_none() && is_bootstrapped(placement).await? {
        return Ok(());
    }
    let region = match kept {
        Some(region) => region,
        None => {
            let ids = allocate(placement, 2).await?;
            let region = first_region(*ids.start(), *ids.end(), this_store.id);
            write_durably(&file, &region.encode_to_vec()).map_err(|source| {
                let error = engine::Error::Io {
                    operation: "writing the first region",
                    source: source.into(),
                };
                engine_error(directory.to_owned(), error)
            })?;
            region
        }
    };
    if is_ours(placement, this_store, &region).await? {
        tracing::info!(region = region.id, "bootstrapping the cluster");
        identity::bootstrap(engine, std::slice::from_ref(&region))
            .map_err(|error| store_error(directory, error))?;
    }
    forget(&file).map_err(|source| {
        let error = engine::Error::Io {
            operation: "removing the proposal of a first region",
            source: source.into(),
        };
        engine_error(directory.to_owned(), error)
    })
}

/// Whether placement takes the region as the first, or has taken it.
async fn is_ours(
    placement: &PlacementClient,
    this_store: &metapb::Store,
    region: &metapb::Region,
) -> Result<bool, Error> {
    let asked = placement.call(PATIENCE, |mut client, header| {
        let (store, region) = (Some(this_store.clone()), Some(region.clone()));
        let request = pdpb::BootstrapRequest {
            header: Some(header),
            store,
            region,
        };
        async move { client.bootstrap(request).await }
    });
    match asked.await {
        Ok(_) => return Ok(true),
        Err(PlacementError::Refused {
            kind: pdpb::ErrorType::AlreadyBootstrapped,
            ..
        }) => {}
        Err(PlacementError::Refused { message, .. }) => {
            return Err(Error::Refused { reason: message });
        }
        Err(error @ PlacementError::Unreachable { .. }) => {
            // Whether it was taken is not known; ask below until it is.
            tracing::warn!(%error, "waiting for placement");
        }
    }
    if !is_bootstrapped(placement).await? {
        return Box::pin(is_ours(placement, this_store, region)).await;
    }
    // Placement registers the store whose region it takes. Nothing else has registered this one yet: that comes after the
    // proposal is forgotten.
    let stores = persist(|| async {
        placement
            .call(PATIENCE, |mut client, header| {
                let request = pdpb::GetAllStoresRequest {
                    header: Some(header),
                    ..Default::default()
                };
                async move { client.get_all_stores(request).await }
            })
            .await
    });
    Ok(stores
        .await?
        .stores
        .iter()
        .any(|store| store.id == this_store.id))
}

async fn is_bootstrapped(placement: &PlacementClient) -> Result<bool, Error> {
    let answer = persist(|| async {
        placement
            .call(PATIENCE, |mut client, header| {
                let request = pdpb::IsBootstrappedRequest {
                    header: Some(header),
                };
                async move { client.is_bootstrapped(request).await }
            })
            .await
    });
    Ok(answer.await?.bootstrapped)
}

/// Repeats a call until placement is there to answer it.
async fn persist<T>(mut call: impl AsyncFnMut() -> Result<T, PlacementError>) -> Result<T, Error> {
    loop {
        match call().await {
            Ok(answer) => return Ok(answer),
            Err(error @ PlacementError::Unreachable { .. }) => {
                tracing::warn!(%error, "waiting for placement")
            }
            Err(PlacementError::Refused { message, .. }) => {
                return Err(Error::Refused { reason: message });
            }
        }
    }
}

/// The whole key space, with one voter.
fn first_region(region: u64, peer: u64, store_id: u64) -> metapb::Region {
    metapb::Region {
        id: region,
        start_key: Bytes::new(),
        end_key: Bytes::new(),
        region_epoch: Some(metapb::RegionEpoch {
            conf_ver: 1,
            version: 1,
        }),
        peers: vec![metapb::Peer {
            id: peer,
            store_id,
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn has_regions<E: Engine>(engine: &E) -> Result<bool, engine::Error> {
    use std::ops::Bound;
    let (start, end) = store::keys::region_states();
    let mut found = false;
    let bounds = (Bound::Included(&start[..]), Bound::Excluded(&end[..]));
    engine.view().scan(
        Family::State,
        bounds.0,
        bounds.1,
        Direction::Forward,
        &mut |_, _| {
            found = true;
            false
        },
    )?;
    Ok(found)
}

/// Removes a file, for good when it returns.
fn forget(file: &Path) -> std::io::Result<()> {
    std::fs::remove_file(file)?;
    sync_parent(file)
}

fn sync_parent(file: &Path) -> std::io::Result<()> {
    match file.parent() {
        Some(directory) => std::fs::File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

fn write_durably(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let mut open = std::fs::File::create(file)?;
    open.write_all(bytes)?;
    open.sync_all()?;
    sync_parent(file)
}

#[cfg(test)]
mod tests;
