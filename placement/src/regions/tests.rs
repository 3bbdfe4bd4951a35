use proptest::prelude::*;

use super::*;

fn info(id: u64, start: &str, end: &str, conf_ver: u64, version: u64, term: u64) -> RegionInfo {
    let peer = metapb::Peer {
        id: id * 10,
        store_id: id % 3 + 1,
        ..Default::default()
    };
    RegionInfo {
        region: metapb::Region {
            id,
            start_key: Bytes::copy_from_slice(start.as_bytes()),
            end_key: Bytes::copy_from_slice(end.as_bytes()),
            region_epoch: Some(metapb::RegionEpoch { conf_ver, version }),
            peers: vec![peer],
            ..Default::default()
        },
        leader: Some(peer),
        term,
        ..Default::default()
    }
}

/// R32: an older epoch never overwrites a newer, and between regions the higher version is newer.
#[test]
fn older_reports_are_refused() {
    let mut regions = Regions::default();
    assert_eq!(regions.report(info(1, "", "", 1, 1, 5)), Ok(vec![]));
    assert_eq!(regions.report(info(1, "", "m", 1, 2, 5)), Ok(vec![]));
    assert_eq!(regions.report(info(1, "", "", 1, 1, 6)), Err(Stale::Older));
    assert_eq!(regions.report(info(1, "", "m", 1, 2, 4)), Err(Stale::Older));
    assert!(regions.by_key(b"m").is_none());
    assert_eq!(regions.report(info(2, "m", "", 1, 2, 1)), Ok(vec![]));
    assert_eq!(
        regions.report(info(3, "a", "z", 1, 2, 9)),
        Err(Stale::Overlapped(RegionId(1)))
    );
    assert_eq!(
        regions.report(info(2, "", "", 1, 3, 2)),
        Ok(vec![RegionId(1)])
    );
    assert_eq!(regions.len(), 1);
    assert_eq!(regions.counts(StoreId(3)), (1, 1));
    assert_eq!(regions.counts(StoreId(2)), (0, 0));
}

/// R34: sums over regions stay numbers, whatever leaders tell.
#[test]
fn figures_that_cannot_be_are_bounded() {
    let mut regions = Regions::default();
    let told = |id, start, end| RegionInfo {
        bytes: u64::MAX,
        keys: u64::MAX,
        written_bytes: u64::MAX,
        written_keys: u64::MAX,
        read_bytes: u64::MAX,
        read_keys: u64::MAX,
        write_requests: u64::MAX,
        read_requests: u64::MAX,
        interval: std::time::Duration::from_secs(60),
        ..info(id, start, end, 1, 1, 1)
    };
    for (id, start, end) in [(3, "", "m"), (6, "m", "")] {
        assert_eq!(regions.report(told(id, start, end)), Ok(vec![]));
        let known = regions.get(RegionId(id)).expect("it was just told");
        let rates = [known.written_keys, known.read_keys, known.write_requests];
        assert_eq!((known.bytes, known.keys), (1 << 40, 1 << 40));
        assert_eq!((rates, known.read_requests), ([1 << 40; 3], 1 << 40));
        assert_eq!((known.written_bytes, known.read_bytes), (1 << 40, 1 << 40));
    }
}

#[test]
fn neighbours_and_ranges_are_found() {
    let mut regions = Regions::default();
    for (id, start, end) in [(1, "", "f"), (2, "f", "m"), (4, "t", "")] {
        assert_eq!(regions.report(info(id, start, end, 1, 1, 1)), Ok(vec![]));
    }
    assert_eq!(
        regions.previous(b"g").map(RegionInfo::id),
        Some(RegionId(1))
    );
    assert!(regions.previous(b"a").is_none());
    // The region before t is not known.
    assert!(regions.previous(b"z").is_none());
    let ids = |start: &[u8], end: &[u8]| {
        regions
            .scan(start, end)
            .map(|region| region.region.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(b"g", b""), [2, 4]);
    assert_eq!(ids(b"", b"f"), [1]);
    assert_eq!(ids(b"n", b"t"), [0u64; 0]);
    assert_eq!(ids(b"n", b"u"), [4]);
}

#[test]
fn malformed_reports_are_refused() {
    let mut regions = Regions::default();
    let good = info(1, "a", "b", 1, 1, 1);
    let mut empty = good.clone();
    empty.region.end_key = empty.region.start_key.clone();
    let mut nobody = good.clone();
    nobody.region.peers.clear();
    let mut foreign = good.clone();
    foreign.leader = Some(metapb::Peer {
        id: 99,
        ..Default::default()
    });
    let mut unversioned = good;
    unversioned.region.region_epoch = None;
    for bad in [empty, nobody, foreign, unversioned] {
        assert_eq!(regions.report(bad), Err(Stale::Malformed));
    }
}

proptest! {
    /// The view and a list that is searched from end to end agree after every report.
    #[test]
    fn the_view_agrees_with_a_list(
        reports in prop::collection::vec((1u64..6, 0u8..8, 0u8..9, 1u64..4, 1u64..6, 1u64..4), 1..60),
    ) {
        let mut regions = Regions::default();
        let mut list: Vec<RegionInfo> = Vec::new();
        for (id, start, length, conf_ver, version, term) in reports {
            let key = |at: u8| if at == 0 || at > 9 { String::new() } else { at.to_string() };
            let end = start + length;
            let report = info(id, &key(start), &key(if end >= 9 { 0 } else { end }), conf_ver, version, term);
            let report = loaded(report, u64::from(start) << 18, term);
            let taken = regions.report(report.clone()).is_ok();
            prop_assert_eq!(taken, naive(&mut list, report));
            prop_assert_eq!(regions.len(), list.len());
            for key in 0..10u8 {
                let key = key.to_string();
                let expected = list.iter().find(|region| region.contains(key.as_bytes()));
                prop_assert_eq!(regions.by_key(key.as_bytes()), expected);
            }
            for store in 1..4 {
                let leaders = list.iter().filter(|region| region.region.peers[0].store_id == store).count() as u32;
                prop_assert_eq!(regions.counts(StoreId(store)).1, leaders);
            }
            prop_assert_eq!(&regions.by_store, &indexed(&regions));
        }
    }
}

/// With load, and on some terms another peer.
fn loaded(mut report: RegionInfo, load: u64, term: u64) -> RegionInfo {
    if term.is_multiple_of(2) {
        report.region.peers.push(metapb::Peer {
            id: report.region.id * 10 + term,
            store_id: report.region.id % 3 + 4,
            ..Default::default()
        });
    }
    RegionInfo {
        bytes: load + term,
        written_bytes: load,
        written_keys: term,
        read_bytes: load / 2,
        read_keys: load / 1000,
        ..report
    }
}

/// What the stores have, from nothing.
fn indexed(regions: &Regions) -> BTreeMap<StoreId, StoreIndex> {
    let mut stores: BTreeMap<StoreId, StoreIndex> = BTreeMap::new();
    for region in regions.after(RegionId(0)) {
        for peer in &region.region.peers {
            let leads = region.leader.is_some_and(|leader| leader.id == peer.id);
            let index = stores.entry(StoreId(peer.store_id)).or_default();
            index.change(region, leads, true);
        }
    }
    stores
}

/// The rule of REGIONS §8, word by word.
fn naive(list: &mut Vec<RegionInfo>, report: RegionInfo) -> bool {
    let end = |region: &RegionInfo| match &region.region.end_key {
        end if end.is_empty() => vec![0xFF],
        end => end.to_vec(),
    };
    if report.region.start_key >= end(&report) {
        return false;
    }
    for known in list.iter() {
        let (new, old) = (report.epoch(), known.epoch());
        if known.region.id == report.region.id {
            if new.version < old.version
                || new.conf_ver < old.conf_ver
                || (new == old && report.term < known.term)
            {
                return false;
            }
        } else if known.region.start_key < end(&report)
            && report.region.start_key < end(known)
            && old.version >= new.version
        {
            return false;
        }
    }
    list.retain(|known| {
        known.region.id != report.region.id
            && (known.region.start_key >= end(&report) || report.region.start_key >= end(known))
    });
    list.push(report);
    true
}
