//! Files made by hand: a sound one, and for each rule one that breaks it and nothing else.

use std::io::Write;

use super::*;

/// An entry of a block: bytes of its key that are those of the one before, the others, the value.
type Entry<'a> = (u64, &'a [u8], &'a [u8]);

fn varint_of(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

fn place_of((offset, bytes): Place) -> Vec<u8> {
    [varint_of(offset), varint_of(bytes)].concat()
}

/// What follows the entries of a block.
fn ended(mut entries: Vec<u8>, restarts: &[u32]) -> Vec<u8> {
    for restart in restarts {
        entries.extend_from_slice(&restart.to_le_bytes());
    }
    entries.extend_from_slice(&(restarts.len() as u32).to_le_bytes());
    entries
}

fn block_of(entries: &[Entry<'_>], restarts: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (shared, key, value) in entries {
        for length in [*shared, key.len() as u64, value.len() as u64] {
            bytes.extend(varint_of(length));
        }
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value);
    }
    ended(bytes, restarts)
}

/// A key as it stands in a data block.
fn stored(key: &str) -> Vec<u8> {
    [key.as_bytes(), &KEY_TRAILER].concat()
}

/// Of what a file is made.
struct Sketch {
    /// Data blocks with their compression.
    data: Vec<(Vec<u8>, u8)>,
    index: Option<Vec<u8>>,
    properties: Vec<(&'static str, u64)>,
    names_properties: bool,
    checksum_type: u8,
    version: u32,
    magic: u64,
}

impl Sketch {
    /// A file with keys, each in a block of its own.
    fn of(keys: &[&str]) -> Sketch {
        let keys = keys.iter().map(|key| stored(key));
        let data = keys.map(|key| (block_of(&[(0, &key, b"v")], &[0]), 0));
        let data: Vec<_> = data.collect();
        Sketch {
            properties: vec![("rocksdb.num.entries", data.len() as u64)],
            data,
            index: None,
            names_properties: true,
            checksum_type: CHECKSUM_CRC32C,
            version: FORMAT_VERSION.unsigned_abs(),
            magic: MAGIC,
        }
    }

    fn file(&self) -> Vec<u8> {
        let mut file = Vec::new();
        let mut put = |block: &[u8], compression: u8| -> Place {
            let place = (file.len() as u64, block.len() as u64);
            let covered = [block, &[compression]].concat();
            file.extend_from_slice(&covered);
            file.extend_from_slice(&mask(crc32c::crc32c(&covered)).to_le_bytes());
            place
        };
        let data: Vec<Place> = self
            .data
            .iter()
            .map(|(block, compression)| put(block, *compression))
            .collect();
        let mut index = Vec::new();
        let mut restarts = Vec::new();
        for place in data {
            restarts.push(index.len() as u32);
            index.extend([0, 1, b'z']);
            index.extend(place_of(place));
        }
        let index = self
            .index
            .clone()
            .unwrap_or_else(|| ended(index, &restarts));
        let index = put(&index, 0);
        let properties: Vec<_> = self
            .properties
            .iter()
            .map(|(name, value)| (name.as_bytes(), varint_of(*value)))
            .collect();
        let properties: Vec<Entry<'_>> = properties
            .iter()
            .map(|(name, value)| (0, *name, &value[..]))
            .collect();
        let properties = put(&block_of(&properties, &[0]), 0);
        let name: &[u8] = match self.names_properties {
            true => b"rocksdb.properties",
            false => b"rocksdb.filter",
        };
        let metaindex = put(&block_of(&[(0, name, &place_of(properties))], &[0]), 0);
        let mut handles = [place_of(metaindex), place_of(index)].concat();
        handles.resize(40, 0);
        file.push(self.checksum_type);
        file.extend_from_slice(&handles);
        file.extend_from_slice(&self.version.to_le_bytes());
        file.extend_from_slice(&self.magic.to_le_bytes());
        file
    }
}

/// The keys of a file, or why it is none.
fn read(content: &[u8]) -> Result<Keys, String> {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(content).expect("the disk works");
    read_keys("it", &file, content.len() as u64).map_err(|error| match error {
        Error::Corrupt {
            source: Some(why), ..
        } => why.to_string(),
        other => panic!("not damage: {other:?}"),
    })
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Sketch), why: &str) {
    let mut sketch = Sketch::of(&["a", "b"]);
    change(&mut sketch);
    assert_eq!(read(&sketch.file()), Err(why.to_owned()));
}

#[test]
fn sound_files_are_read() {
    let keys = |count, content_bytes, first: &str, last: &str| Keys {
        count,
        content_bytes,
        first: first.into(),
        last: last.into(),
    };
    let found = read(&Sketch::of(&["a", "b", "c"]).file());
    assert_eq!(found, Ok(keys(3, 6, "a", "c")));
    // Keys of one block that share bytes, and a place in the index that is told by how much it differs.
    let (first, second) = (stored("aaa"), stored("b"));
    let blocks = [
        block_of(&[(0, &first, b"v"), (2, &stored("b"), b"")], &[0]),
        block_of(&[(0, &second, b"value")], &[0]),
    ];
    let mut sketch = Sketch::of(&["a", "b", "c"]);
    sketch.data = blocks.iter().map(|block| (block.clone(), 0)).collect();
    assert_eq!(read(&sketch.file()), Ok(keys(3, 13, "aaa", "b")));
    let mut index = [&[0, 1, b'z'][..], &place_of((0, blocks[0].len() as u64))].concat();
    let shorter = (blocks[0].len() - blocks[1].len()) as u64;
    index.extend([&[1, 1, b'z'][..], &varint_of(2 * shorter - 1)].concat());
    sketch.index = Some(ended(index, &[0]));
    assert_eq!(read(&sketch.file()), Ok(keys(3, 13, "aaa", "b")));
}

#[test]
fn files_of_another_format_are_refused() {
    let why = "it has no footer of ours";
    refused(|sketch| sketch.checksum_type = 4, why);
    refused(|sketch| sketch.version = 6, why);
    refused(|sketch| sketch.magic ^= 1, why);
    assert_eq!(read(b"short"), Err("it is too short".to_owned()));
    refused(
        |sketch| sketch.names_properties = false,
        "it names no properties",
    );
    let why = "a block is compressed in a way that staged files are not";
    refused(|sketch| sketch.data[0].1 = 7, why);
    // Bits of each block, and of the footer.
    let sound = Sketch::of(&["a", "b"]).file();
    let unused = |at: usize| (sound.len() - 48..sound.len() - 12).contains(&at);
    for at in (0..sound.len()).filter(|at| !unused(*at)) {
        let mut bad = sound.clone();
        bad[at] ^= 1;
        assert!(read(&bad).is_err(), "byte {at} of {}", sound.len());
    }
}

#[test]
fn what_properties_tell_must_be_so() {
    let why = "it does not say how many keys it holds";
    refused(|sketch| sketch.properties[0].0 = "rocksdb.other", why);
    let why = "it does not hold as many keys as it says";
    refused(|sketch| sketch.properties[0].1 = 3, why);
    refused(|sketch| sketch.properties[0].1 = 1, why);
    let why = "it holds something other than plain keys";
    refused(|sketch| sketch.properties[0].1 = 0, why);
    for other in [
        "rocksdb.deleted.keys",
        "rocksdb.merge.operands",
        "rocksdb.num.range-deletions",
    ] {
        refused(|sketch| sketch.properties.push((other, 1)), why);
        let mut sketch = Sketch::of(&["a"]);
        sketch.properties.push((other, 0));
        read(&sketch.file()).expect("there are none");
    }
}

#[test]
fn keys_must_be_plain_and_ascend() {
    let why = "it holds other than plain keys in ascending order";
    let replaced = |key: Vec<u8>| {
        move |sketch: &mut Sketch| sketch.data[1].0 = block_of(&[(0, &key, b"v")], &[0])
    };
    refused(replaced(stored("a")), why);
    refused(replaced(stored("Z")), why);
    // A deletion, and a key with a sequence.
    refused(replaced([&b"b"[..], &[0; 8]].concat()), why);
    refused(
        replaced([&b"b"[..], &[1, 9, 0, 0, 0, 0, 0, 0]].concat()),
        why,
    );
    refused(replaced(b"b".to_vec()), why);
}

#[test]
fn blocks_must_hold_together() {
    let why = "its data cannot be parsed";
    let key = stored("b");
    let with = |block: Vec<u8>| move |sketch: &mut Sketch| sketch.data[1].0 = block;
    // Restarts: behind the entries, inside one, where a key is not whole, more than fit, out of order.
    refused(with(block_of(&[(0, &key, b"v")], &[0, 4_000])), why);
    refused(with(block_of(&[(0, &key, b"v")], &[2])), why);
    let shares = [(0, &key[..], &b"v"[..]), (1, &KEY_TRAILER[..], b"v")];
    let second = (3 + key.len() + 1) as u32;
    refused(with(block_of(&shares, &[0, second])), why);
    let mut many = block_of(&[(0, &key, b"v")], &[0]);
    let end = many.len();
    many[end - 4..].copy_from_slice(&u32::MAX.to_le_bytes());
    refused(with(many), why);
    let later = stored("c");
    let two = [(0, &key[..], &b"v"[..]), (0, &later[..], &b"v"[..])];
    refused(with(block_of(&two, &[second, 0])), why);
    // A key that shares more than there is, one that is cut, a value that is cut.
    refused(with(block_of(&[(1, &key, b"v")], &[])), why);
    refused(with(ended([&[0, 40, 0][..], &key].concat(), &[0])), why);
    refused(
        with(ended([&[0, 9, 5][..], &key, b"v"].concat(), &[0])),
        why,
    );
    refused(with(ended(vec![0x80; 3], &[])), why);
}

#[test]
fn places_must_lie_in_the_file() {
    let index = |place: Place| {
        move |sketch: &mut Sketch| {
            let entry = [&[0, 1, b'z'][..], &place_of(place)].concat();
            sketch.index = Some(ended(entry, &[0]));
        }
    };
    let why = "a block lies outside the file";
    refused(index((1_000, 10)), why);
    refused(index((0, 1_000)), why);
    refused(index((u64::MAX, 10)), why);
    refused(index((0, u64::MAX)), why);
    let why = "its index cannot be parsed";
    let broken = |index: Vec<u8>| move |sketch: &mut Sketch| sketch.index = Some(index);
    // The first entry has no other that it could tell a difference from.
    refused(broken(ended(vec![1, 1, b'z', 0], &[])), why);
    refused(
        broken(ended([&[0, 1, b'z'][..], &place_of((0, 9))].concat(), &[1])),
        why,
    );
    refused(broken(ended(vec![0, 9, b'z'], &[0])), why);
    let negative = [&[0, 1, b'z'][..], &place_of((0, 9)), &[1, 1, b'z', 21]].concat();
    refused(broken(ended(negative, &[0])), why);
    // Nothing in it.
    let nothing = |sketch: &mut Sketch| sketch.index = Some(ended(Vec::new(), &[]));
    refused(nothing, "it holds no key");
}

/// Lengths are told by whoever sent the file: none is believed before memory is taken for it.
#[test]
fn what_unpacks_to_too_much_is_refused() {
    let packed = |told: u64| {
        move |sketch: &mut Sketch| {
            sketch.data[0] = ([varint_of(told), vec![0x10, b'x']].concat(), 4);
        }
    };
    let why = "a block cannot be unpacked";
    refused(packed(2), why);
    refused(packed(3 * 255), why);
    refused(packed(u64::from(u32::MAX)), why);
    refused(packed(u64::MAX), why);
    // It is not parsed as data, and no more is wrong with it.
    refused(packed(1), "its data cannot be parsed");
}
