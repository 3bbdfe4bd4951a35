//! Files of snapshots: names, chunks, and what is read of a sorted file before it is taken in (R16, R34).
//!
//! A sound file is read to the keys that it was made of. Whatever else comes is one or is refused as damaged: nothing but keys in
//! ascending order gets in, and of a refused file nothing.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Bound;

use ::store::{FileRefusal, check_file, keys};
use bytes::Bytes;
use engine::{Direction, Engine, Family, MemoryEngine, StagedFile, View};
use proto::metapb;
use proto::pontoon::v1::{SnapshotFile, SnapshotHead};

use crate::Error as EngineError;
use crate::parsers::engine::rocks::{mask, read_keys};
use crate::{Input, Seeds};

/// What the footer of a sorted file ends with: version 5 and the number by which the format is known.
const FOOTER_END: [u8; 12] = [5, 0, 0, 0, 0xF7, 0xCF, 0xF4, 0x85, 0xB7, 0x41, 0xE2, 0x88];
/// Type of checksum, then two places, padded.
const FOOTER_PLACES: usize = 40;
/// What follows each key.
const KEY_TRAILER: [u8; 8] = 1_u64.to_le_bytes();
const PLAIN: u8 = 0;
const LZ4: u8 = 4;

thread_local! {
    static FILE: RefCell<File> = RefCell::new(tempfile::tempfile().expect("a temporary file"));
}

/// One run.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.pick(5) {
        0 => {
            let _any = read(input.rest());
        }
        1 => sound(&mut input),
        2 => sketched(&mut input),
        3 => staged(&mut input),
        _ => announced(&mut input),
    }
}

/// Examples of each kind.
pub fn seeds() -> Seeds {
    let mut table = Table::default();
    table.data(
        &block(&[(0, &stored(b"a"), b"1"), (0, &stored(b"b"), b"2")], &[0]),
        PLAIN,
    );
    let foreign = [&[0], &table.finish(2, None)[..]].concat();
    let entries = block(
        &[(0, &stored(b"key1"), b"v"), (3, &stored(b"2"), b"v")],
        &[0],
    );
    let mut sketched = vec![2, 2, 1, entries.len() as u8];
    sketched.extend(&entries);
    // "ab", five bytes from two before, then "x".
    sketched.extend([2, 9, 8, 0x21, b'a', b'b', 2, 0, 0x10, b'x', 0, 0, 0]);
    let mut memory = Vec::new();
    for (key, value) in [(&b"\x10a"[..], &b"one"[..]), (b"\x10b", b"two")] {
        memory.extend((key.len() as u32).to_le_bytes());
        memory.extend((value.len() as u32).to_le_bytes());
        memory.extend([key, value].concat());
    }
    memory.extend(2_u64.to_le_bytes());
    let mut staged = b"\x03\x09snap-1.ss\x01\x08".to_vec();
    staged.extend(&memory);
    vec![
        ("foreign", foreign),
        (
            "sound",
            b"\x01\x03\x02\x01a\x03one\x00\x01b\x03two\x01\x02cc\x05three".to_vec(),
        ),
        ("sketched", sketched),
        ("staged", staged),
        (
            "announced",
            b"\x04\x01a\x01m\x02\x10a\x02\x10b\x01\x00".to_vec(),
        ),
    ]
}

/// Reads a sorted file. It is one, or it is damaged; a disk that fails is none of both.
fn read(content: &[u8]) -> Option<(u64, u64, Vec<u8>, Vec<u8>)> {
    FILE.with_borrow_mut(|file| {
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(content))
            .expect("it can be written");
        match read_keys(file, content.len() as u64) {
            Ok(keys) => {
                let (count, bytes, first, last) = &keys;
                assert!(*count > 0 && first <= last && (first == last) == (*count == 1));
                assert!(*bytes >= (first.len() + last.len()) as u64 || *count == 1);
                Some(keys)
            }
            Err(EngineError::Corrupt { .. }) => None,
            Err(error) => panic!("not damage: {error:?}"),
        }
    })
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// Entries of a block: bytes shared with the key before, the others, the value.
fn block(entries: &[(usize, &[u8], &[u8])], restarts: &[u32]) -> Vec<u8> {
    let mut block = Vec::new();
    for (shared, key, value) in entries {
        for length in [*shared, key.len(), value.len()] {
            block.extend(varint(length as u64));
        }
        block.extend([*key, *value].concat());
    }
    for restart in restarts {
        block.extend(restart.to_le_bytes());
    }
    block.extend((restarts.len() as u32).to_le_bytes());
    block
}

/// A key as it stands in a data block.
fn stored(key: &[u8]) -> Vec<u8> {
    [key, &KEY_TRAILER].concat()
}

/// A sorted file in the making.
#[derive(Default)]
struct Table {
    content: Vec<u8>,
    places: Vec<(u64, u64)>,
}

impl Table {
    fn put(&mut self, block: &[u8], compression: u8) -> (u64, u64) {
        let place = (self.content.len() as u64, block.len() as u64);
        let covered = [block, &[compression]].concat();
        self.content.extend(&covered);
        self.content
            .extend(mask(crc32c::crc32c(&covered)).to_le_bytes());
        place
    }

    fn data(&mut self, block: &[u8], compression: u8) {
        let place = self.put(block, compression);
        self.places.push(place);
    }

    /// With an index of its data blocks, or with another one.
    fn finish(mut self, keys: u64, index: Option<&[u8]>) -> Vec<u8> {
        let place = |(offset, bytes): (u64, u64)| [varint(offset), varint(bytes)].concat();
        let mut own = Vec::new();
        let mut restarts = Vec::new();
        for data in &self.places {
            restarts.extend((own.len() as u32).to_le_bytes());
            own.extend([0, 1, b'z']);
            own.extend(place(*data));
        }
        own.extend(restarts);
        own.extend((self.places.len() as u32).to_le_bytes());
        let index = self.put(index.unwrap_or(&own), PLAIN);
        let count = varint(keys);
        let properties = self.put(&block(&[(0, b"rocksdb.num.entries", &count)], &[0]), PLAIN);
        let properties = place(properties);
        let metaindex = self.put(
            &block(&[(0, b"rocksdb.properties", &properties)], &[0]),
            PLAIN,
        );
        let mut places = [place(metaindex), place(index)].concat();
        places.resize(FOOTER_PLACES, 0);
        self.content.push(1);
        self.content.extend(places);
        self.content.extend(FOOTER_END);
        self.content
    }
}

/// LZ4 without a match, which is a sound one.
fn packed(content: &[u8]) -> Vec<u8> {
    let mut packed = varint(content.len() as u64);
    let length = content.len();
    packed.push((length.min(15) as u8) << 4);
    if length >= 15 {
        let mut more = length - 15;
        while more >= 255 {
            packed.push(255);
            more -= 255;
        }
        packed.push(more as u8);
    }
    packed.extend(content);
    packed
}

/// Keys as they should be, or in another order.
fn sound(input: &mut Input) {
    let mut pairs: Vec<(Vec<u8>, &[u8])> = Vec::new();
    let mut table = Table::default();
    let mut entries: Vec<(usize, Vec<u8>, &[u8])> = Vec::new();
    let mut ascends = true;
    let count = input.pick(8);
    for number in 0..count {
        let kind = input.byte();
        let (key, value) = (input.bytes().to_vec(), input.bytes());
        ascends &= pairs.last().is_none_or(|(last, _)| *last < key);
        let before = entries.last().and(pairs.last());
        let same = |(last, _): &(Vec<u8>, &[u8])| {
            last.iter()
                .zip(&key)
                .take_while(|(one, other)| one == other)
                .count()
        };
        let shared = before.map_or(0, same);
        entries.push((shared, stored(&key[shared..]), value));
        pairs.push((key, value));
        if kind & 1 == 1 || number + 1 == count {
            let entries: Vec<_> = std::mem::take(&mut entries);
            let entries: Vec<(usize, &[u8], &[u8])> = entries
                .iter()
                .map(|(shared, key, value)| (*shared, &key[..], *value))
                .collect();
            let block = block(&entries, &[0]);
            if kind & 2 == 2 {
                table.data(&packed(&block), LZ4);
            } else {
                table.data(&block, PLAIN);
            }
        }
    }
    let found = read(&table.finish(pairs.len() as u64, None));
    let (Some((first, _)), Some((last, _))) = (pairs.first(), pairs.last()) else {
        assert_eq!(found, None, "a file without keys is none");
        return;
    };
    let bytes: usize = pairs
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    let told = (
        pairs.len() as u64,
        bytes as u64,
        first.clone(),
        last.clone(),
    );
    assert_eq!(found, ascends.then_some(told));
}

/// Blocks of any content, with checksums that fit.
fn sketched(input: &mut Input) {
    let mut table = Table::default();
    for _ in 0..input.pick(4) {
        let kind = input.pick(4);
        let content = input.bytes();
        match kind {
            0 => table.data(content, input.byte()),
            1 => table.data(content, PLAIN),
            2 => {
                let length = input.byte();
                table.data(&[&varint(length.into()), content].concat(), LZ4);
            }
            _ => table.data(&packed(content), LZ4),
        }
    }
    let keys = input.number();
    let index = input.flag().then(|| input.bytes());
    let mut content = table.finish(keys, index);
    // Here or there something else than was said.
    for _ in 0..input.pick(3) {
        let at = usize::from(u16::from_le_bytes(input.array())) % content.len();
        content[at] = input.byte();
    }
    let _any = read(&content);
}

/// A file of the memory engine, in chunks as it comes.
fn staged(input: &mut Input) {
    let engine = MemoryEngine::new();
    let name = String::from_utf8_lossy(input.bytes()).into_owned();
    let other = input.flag();
    let chunk = usize::from(input.byte()).max(1);
    let mut content = input.rest().to_vec();
    if !other {
        let checksum = crc32c::crc32c(&content);
        content.extend(checksum.to_le_bytes());
    }
    if content.is_empty() {
        return;
    }
    for chunk in content.chunks(chunk) {
        if engine.stage_append(&name, chunk).is_err() {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            let is_name = !name.is_empty() && name.len() <= 200 && !name.starts_with('.');
            assert!(!(is_name && name.bytes().all(plain)), "{name:?} is a name");
            return;
        }
    }
    assert!(!name.contains('/') && !name.starts_with('.'));
    let Ok(described) = engine.stage_finish(&name) else {
        assert!(
            engine
                .ingest(Family::State, std::slice::from_ref(&name))
                .is_err()
        );
        assert_eq!(engine.keys(Family::State), 0);
        return;
    };
    let whole = engine.stage_read(&name, 0, usize::MAX);
    assert!(whole.is_ok_and(|whole| whole == content));
    engine
        .ingest(Family::State, std::slice::from_ref(&name))
        .expect("it was found to be one");
    assert_eq!(engine.keys(Family::State) as u64, described.keys);
    let mut found: Vec<Bytes> = Vec::new();
    let unbounded = (Bound::Unbounded, Bound::Unbounded);
    engine
        .view()
        .scan(
            Family::State,
            unbounded.0,
            unbounded.1,
            Direction::Forward,
            &mut |key, _| {
                found.push(Bytes::copy_from_slice(key));
                true
            },
        )
        .expect("memory reads");
    assert_eq!(found.first(), Some(&described.first));
    assert_eq!(found.last(), Some(&described.last));
}

/// What a file is found to be, against what was said of it and of its region.
fn announced(input: &mut Input) {
    let mut bytes = || Bytes::copy_from_slice(input.bytes());
    let (start_key, end_key, first, last) = (bytes(), bytes(), bytes(), bytes());
    let (differs, absent) = (input.byte(), input.flag());
    let region = metapb::Region {
        id: 7,
        start_key: start_key.clone(),
        end_key: end_key.clone(),
        ..Default::default()
    };
    let head = SnapshotHead {
        region: (!absent).then_some(region),
        ..Default::default()
    };
    let said = SnapshotFile {
        name: "it".to_owned(),
        bytes: 100,
        keys: 2,
        crc32c: 9,
    };
    let found = StagedFile {
        name: "it".to_owned(),
        bytes: 100 + u64::from(differs & 1),
        keys: 2 + u64::from(differs >> 1 & 1),
        content_bytes: 50,
        crc32c: 9 ^ u32::from(differs >> 2 & 1),
        first: first.clone(),
        last: last.clone(),
    };
    let inside = |key: &[u8]| {
        keys::user_key(key).is_some_and(|key| keys::contains(&start_key, &end_key, key))
    };
    match check_file(&head, &said, &found) {
        // Files ascend, and what is between two keys of a range is in it.
        Ok(()) => assert!(!absent && (first > last || inside(&first) && inside(&last))),
        Err(FileRefusal::Different { .. }) => assert!(differs & 7 != 0),
        Err(FileRefusal::OutsideRegion { .. }) => {
            assert!(absent || !inside(&first) || !inside(&last));
        }
    }
}
