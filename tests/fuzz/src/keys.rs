//! Keys and values: the order-preserving encoding of the interface, the layout on disk, what stores check of clients' keys.
//!
//! An encoding keeps the order, what it makes decodes to what went in, and whatever decodes is what encoding makes: two keys
//! on disk for one key, or a boundary that two readers read differently, would be two owners.

use ::store::keys::{self, LogKey};
use ::store::{read, value};
use bytes::Bytes;
use proto::{RegionId, kvrpcpb, memcomparable};

use crate::parsers::server::services::tikv::check::{ApiVersion, KEY_BYTES_MAX, Rules};
use crate::{Input, Seeds};

/// One run.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.pick(6) {
        0 => encoded(&mut input),
        1 => numbers(&mut input),
        2 => parsed(&mut input),
        3 => ranges(&mut input),
        4 => values(&mut input),
        _ => clients(&mut input),
    }
}

/// Examples of each kind.
pub fn seeds() -> Seeds {
    let entry = keys::entry(RegionId(7), 300);
    let raft_state = keys::raft_state(RegionId(7));
    vec![
        ("encoded", b"\0\x09user/1234user/123".to_vec()),
        (
            "decoded",
            [b"\0\0", &memcomparable::encode(b"user/1234")[..]].concat(),
        ),
        (
            "numbers",
            b"\x01\x07\xf0\x2c\x01\0\0\0\0\0\0\x08\x05".to_vec(),
        ),
        ("parsed-entry", [b"\x02", &entry[..]].concat()),
        ("parsed-state", [b"\x02", &raft_state[..]].concat()),
        ("ranges", b"\x03\x01a\x01m\x01m\0\x03key\x01b\x01c".to_vec()),
        (
            "value",
            [b"\x04\x00", &value::encode(b"value", 1_700_000_000)[..]].concat(),
        ),
        ("plain-value", b"\x04\x00\x00value".to_vec()),
        ("client", b"\x05\x02\x08r\0\0\0key1\x08r\0\0\0key2".to_vec()),
    ]
}

fn encoded(input: &mut Input) {
    let (one, other) = (input.bytes(), input.rest());
    let pair = [one, other].map(memcomparable::encode);
    assert_eq!(one.cmp(other), pair[0].cmp(&pair[1]), "the order is kept");
    assert_eq!(one == other, pair[0] == pair[1]);
    for (plain, encoded) in [one, other].into_iter().zip(&pair) {
        assert_eq!(memcomparable::decode(encoded).as_deref(), Ok(plain));
    }
    // Or a region that ends at one would cut through what the other begins.
    assert!(one == other || !pair[1].starts_with(&pair[0]));
    if let Ok(plain) = memcomparable::decode(other) {
        assert_eq!(memcomparable::encode(&plain), other, "one form for one key");
    }
}

fn numbers(input: &mut Input) {
    let (region, other) = (RegionId(input.number()), RegionId(input.number()));
    let (index, behind) = (input.number(), input.number());
    let (one, two) = (keys::entry(region, index), keys::entry(other, behind));
    assert_eq!((region, index).cmp(&(other, behind)), one.cmp(&two));
    assert_eq!(LogKey::parse(&one), Some(LogKey::Entry(region, index)));
    let (raft, mark) = (keys::raft_state(region), keys::peer_mark(region));
    assert!(one[..] < raft[..] && raft < mark, "a log ends at its state");
    assert_eq!(LogKey::parse(&raft), Some(LogKey::RaftState(region)));
    assert_eq!(LogKey::parse(&mark), Some(LogKey::PeerMark(region)));
    if region < other {
        assert!(mark[..] < two[..], "regions lie apart");
    }
    assert!(mark[..] < *keys::IDENTITY || region.0 == u64::MAX);
    let (state, applied) = (keys::region_state(region), keys::applied_state(region));
    let (from, to) = keys::region_states();
    assert!(from[..] <= state[..] && state[..] < to[..] && applied[..] >= to[..]);
    assert!(state[..] < *keys::FIRST_DATA && applied[..] < *keys::FIRST_DATA);
    assert_eq!(keys::parse_region_state(&state), Some(region));
    assert_eq!(keys::parse_region_state(&applied), None);
}

fn parsed(input: &mut Input) {
    let key = input.rest();
    let again: Option<Vec<u8>> = LogKey::parse(key).map(|parsed| match parsed {
        LogKey::Entry(region, index) => keys::entry(region, index).into(),
        LogKey::RaftState(region) => keys::raft_state(region).into(),
        LogKey::PeerMark(region) => keys::peer_mark(region).into(),
    });
    assert!(again.is_none_or(|again| again == key));
    let state = keys::parse_region_state(key).map(keys::region_state);
    assert!(state.is_none_or(|state| state == key));
    let user = keys::user_key(key).map(keys::data);
    assert!(user.is_none_or(|user| user == key));
}

fn ranges(input: &mut Input) {
    let mut range = || (input.bytes(), input.bytes());
    let (one, other) = (range(), range());
    let key = input.bytes();
    let is_in = |(start, end)| keys::contains(start, end, key);
    let on_disk = |(start, end): (&[u8], &[u8])| {
        let key = keys::data(key);
        keys::data(start) <= key && key < keys::data_end(end)
    };
    assert_eq!(is_in(one), on_disk(one));
    assert_eq!(keys::user_key(&keys::data(key)), Some(key));
    let whole = |(start, end): (&[u8], &[u8])| end.is_empty() || start < end;
    if !whole(one) || !whole(other) {
        return;
    }
    let overlap = keys::overlap(one.0, one.1, other.0, other.1);
    assert_eq!(overlap, keys::overlap(other.0, other.1, one.0, one.1));
    assert!(overlap || !(is_in(one) && is_in(other)));
    let covers = keys::covers(one.0, one.1, other.0, other.1);
    assert!(!covers || overlap);
    assert!(!covers || !is_in(other) || is_in(one));
    match read::clamp(one.0, one.1, other.0, other.1) {
        Some(both) => {
            assert!(overlap && whole(both));
            assert_eq!(is_in(both), is_in(one) && is_in(other));
        }
        None => assert!(!overlap),
    }
}

fn values(input: &mut Input) {
    let expires_at = input.number();
    let stored = Bytes::copy_from_slice(input.rest());
    let encoded = value::encode(&stored, expires_at);
    let header = value::header(&encoded).expect("it was encoded");
    assert_eq!(header, (expires_at, value::header_bytes(expires_at)));
    let decoded = value::decode(encoded).expect("it was encoded");
    assert_eq!((&decoded.value, decoded.expires_at), (&stored, expires_at));
    if let Ok(decoded) = value::decode(stored.clone()) {
        let again = value::encode(&decoded.value, decoded.expires_at);
        assert_eq!(again, stored, "one form for one value");
    }
    assert!(value::decode(value::lost()).is_err());
}

fn clients(input: &mut Input) {
    let number = input.byte().into();
    let Some(api) = ApiVersion::from_number(number) else {
        return;
    };
    assert_eq!(api.number(), number);
    let rules = Rules {
        cluster_id: 7,
        store_id: 1,
        api,
    };
    let context = kvrpcpb::Context::default();
    let mut one = Bytes::copy_from_slice(input.bytes());
    let mut other = Bytes::copy_from_slice(input.bytes());
    if input.flag() {
        one = vec![b'r'; KEY_BYTES_MAX + 1].into();
        other = one.slice(1..);
    }
    let known = [&one, &other].map(|key| rules.key(&context, key));
    for (key, known) in [&one, &other].into_iter().zip(&known) {
        assert!(known.is_err() || !key.is_empty() && key.len() <= KEY_BYTES_MAX);
        if let Ok(known) = known {
            assert_eq!(rules.client_key(known), key);
            assert_eq!(rules.bound(&context, key).as_ref(), Ok(known));
        }
        // What is in the region space came through here, but a damaged disk may show anything.
        let _any = rules.client_key(key);
    }
    if let [Ok(known), Ok(beside)] = known {
        assert_eq!(one.cmp(&other), known.cmp(&beside), "the order is kept");
    }
}
