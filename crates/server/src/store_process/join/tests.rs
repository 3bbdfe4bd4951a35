//! Directories that become stores, with a placement member that answers as it is told.

use engine::MemoryEngine;
use tokio::task::JoinSet;

use super::*;
use crate::exit::Kind;
use crate::store_process::ids::WrongIds;
use crate::store_process::stub::{Answers, Stub};

/// Joins an empty directory while placement answers so. What came of it, and the first region that placement was told.
async fn join_with(
    engine: &MemoryEngine,
    gives: &[(u64, u32)],
) -> (Result<(), Error>, Option<metapb::Region>) {
    let answers = Answers {
        gives: gives.to_vec(),
        ..Default::default()
    };
    let mut tasks = JoinSet::new();
    let stub = Stub::serve(&mut tasks, answers).await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let placement = PlacementClient::new(std::slice::from_ref(&stub.address));
    let this_store = |id: StoreId| metapb::Store {
        id: id.0,
        ..Default::default()
    };
    let joined = join(engine, directory.path(), &placement, this_store).await;
    tasks.shutdown().await;
    (joined, stub.first_region())
}

#[tokio::test]
async fn an_empty_directory_becomes_a_store_and_makes_the_first_region() {
    let engine = MemoryEngine::new();
    let (joined, region) = join_with(&engine, &[(7, 1), (9, 2)]).await;
    joined.expect("placement gave what it was asked for");
    let identity = identity::read(&engine).expect("a sound engine");
    assert_eq!(identity.map(|identity| identity.store_id), Some(7));
    let region = region.expect("the cluster had none");
    assert_eq!((region.id, region.peers[0].id), (8, 9));
    assert!(has_regions(&engine).expect("a sound engine"));
}

/// R31: an answer of any other count makes no store.
#[tokio::test]
async fn a_store_takes_no_id_that_was_not_given() {
    for (last, count) in [(9, 0), (9, 2), (0, 0), (0, 1)] {
        let engine = MemoryEngine::new();
        let (joined, region) = join_with(&engine, &[(last, count)]).await;
        let error = joined.expect_err("it was asked for one id");
        let wrong = WrongIds {
            asked: 1,
            count,
            last,
        };
        assert!(
            matches!(error, Error::Ids(said) if said == wrong),
            "{error}"
        );
        assert_eq!(error.kind(), Kind::Environment);
        let identity = identity::read(&engine).expect("a sound engine");
        assert_eq!((identity, region), (None, None));
    }
}

/// R31: nor a first region. The store is asked again when it is started again.
#[tokio::test]
async fn a_first_region_takes_no_id_that_was_not_given() {
    for (last, count) in [(9, 1), (9, 3), (9, 0), (1, 2)] {
        let engine = MemoryEngine::new();
        let (joined, region) = join_with(&engine, &[(7, 1), (last, count)]).await;
        let error = joined.expect_err("it was asked for two ids");
        let wrong = WrongIds {
            asked: 2,
            count,
            last,
        };
        assert!(
            matches!(error, Error::Ids(said) if said == wrong),
            "{error}"
        );
        assert_eq!(region, None);
        assert!(!has_regions(&engine).expect("a sound engine"));
    }
}
