//! Ids, operations and regions in few words.

use bytes::Bytes;
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::operation::Kind;
use proto::{RegionId, StoreId, metapb};

pub fn s(id: u64) -> StoreId {
    StoreId(id)
}

pub fn r(id: u64) -> RegionId {
    RegionId(id)
}

pub fn put(key: &str, value: &str) -> wire::Operation {
    let (key, value) = (
        Bytes::copy_from_slice(key.as_bytes()),
        Bytes::copy_from_slice(value.as_bytes()),
    );
    wire::Operation {
        kind: Some(Kind::Put(wire::Put {
            key,
            value,
            expires_at: 0,
        })),
    }
}

pub fn swap(key: &str, previous: Option<&str>, value: &str) -> wire::Operation {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let previous = previous.map(bytes);
    let swap = wire::CompareAndSwap {
        key: bytes(key),
        value: bytes(value),
        expires_at: 0,
        previous,
        now: 0,
    };
    wire::Operation {
        kind: Some(Kind::CompareAndSwap(swap)),
    }
}

/// A region of three voters on stores 1 to 3 (or fewer), peers numbered `region * 10 + store`.
pub fn region(id: u64, start: &str, end: &str, stores: &[u64]) -> metapb::Region {
    let peers = stores.iter().map(|store| metapb::Peer {
        id: id * 10 + store,
        store_id: *store,
        ..Default::default()
    });
    metapb::Region {
        id,
        start_key: Bytes::copy_from_slice(start.as_bytes()),
        end_key: Bytes::copy_from_slice(end.as_bytes()),
        region_epoch: Some(metapb::RegionEpoch {
            conf_ver: 1,
            version: 1,
        }),
        peers: peers.collect(),
        ..Default::default()
    }
}
