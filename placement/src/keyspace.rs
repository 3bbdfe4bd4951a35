//! Keyspaces: named tenants with a key prefix of their own, in clusters of api-version 2.
//!
//! A client opened with a keyspace asks for regions by memcomparable-encoded keys and decodes the boundaries it gets, so
//! the edges of a keyspace are boundaries of regions (DESIGN D10). The one keyspace today is `DEFAULT`, id 0.

use bytes::Bytes;
use proto::{memcomparable, metapb};

/// The name of the keyspace that every cluster has.
pub const DEFAULT: &str = "DEFAULT";
/// Its id.
pub const DEFAULT_ID: u32 = 0;

/// First byte of raw keys, and of transactional ones.
const MODES: [u8; 2] = [b'r', b'x'];

/// The id of a keyspace.
pub(crate) fn id(name: &str) -> Option<u32> {
    (name == DEFAULT).then_some(DEFAULT_ID)
}

/// Edges of keyspaces strictly inside a region, in order.
pub(crate) fn edges_inside(api_version: u32, region: &metapb::Region) -> Vec<Bytes> {
    if api_version != 2 {
        return Vec::new();
    }
    let inside = |edge: &Bytes| {
        *edge > region.start_key && (region.end_key.is_empty() || *edge < region.end_key)
    };
    edges(DEFAULT_ID).into_iter().filter(inside).collect()
}

/// Where the raw and the transactional keys of a keyspace start and end, in order.
fn edges(id: u32) -> [Bytes; 4] {
    let edge = |mode: u8, id: u32| {
        let [_, high, middle, low] = id.to_be_bytes();
        memcomparable::encode(&[mode, high, middle, low])
    };
    [
        edge(MODES[0], id),
        edge(MODES[0], id + 1),
        edge(MODES[1], id),
        edge(MODES[1], id + 1),
    ]
}

/// Whether a key can be a boundary of a region: in api-version 2 clients decode boundaries.
pub(crate) fn valid_boundary(api_version: u32, key: &[u8]) -> bool {
    api_version != 2 || memcomparable::decode(key).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edges_of_the_default_keyspace() {
        let whole = metapb::Region::default();
        let edges = edges_inside(2, &whole);
        let plain: Vec<_> = edges
            .iter()
            .map(|edge| memcomparable::decode(edge).expect("encoded above"))
            .collect();
        assert_eq!(
            plain,
            [&b"r\0\0\0"[..], b"r\0\0\x01", b"x\0\0\0", b"x\0\0\x01"]
        );
        let mut middle = whole.clone();
        middle.start_key = edges[0].clone();
        middle.end_key = edges[2].clone();
        assert_eq!(edges_inside(2, &middle), [edges[1].clone()]);
        assert!(edges_inside(1, &whole).is_empty());
    }
}
