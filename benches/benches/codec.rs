//! What a write costs in encoding: a sealed command, an entry on the wire, a frame of 64 appends, the keys of keyspaces.

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use proto::pontoon::v1::{Command, Frame, Operation, Put, RaftMessage, operation, raft_message};
use proto::{checked, memcomparable};
use raft::{Entry, Payload};
use store::codec;

fn command() -> Command {
    let put = Put {
        key: Bytes::from_static(b"user/0000012345"),
        value: Bytes::from(vec![7; 128]),
        expires_at: 0,
    };
    Command {
        region_id: 1,
        operations: vec![Operation {
            kind: Some(operation::Kind::Put(put)),
        }],
        ..Command::default()
    }
}

fn entry() -> Entry {
    Entry {
        term: 3,
        index: 4711,
        payload: Payload::Command(codec::seal(&command())),
    }
}

fn frame() -> Frame {
    let append = proto::pontoon::v1::Append {
        previous_term: 3,
        previous_index: 4710,
        commit: 4700,
        entries: vec![codec::entry_to_wire(&entry())],
    };
    let message = RaftMessage {
        region_id: 1,
        from_peer: 2,
        to_peer: 3,
        term: 3,
        body: Some(raft_message::Body::Append(append)),
        ..RaftMessage::default()
    };
    Frame {
        messages: vec![message; 64],
        ..Frame::default()
    }
}

fn codecs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    let command = command();
    group.bench_function("seal_put_of_128", |bench| {
        bench.iter(|| codec::seal(black_box(&command)))
    });
    let sealed = codec::seal(&command);
    group.bench_function("unseal_put_of_128", |bench| {
        bench.iter(|| codec::unseal(black_box(&sealed)).expect("our own bytes"));
    });
    let entry = entry();
    group.bench_function("entry_to_wire_and_back", |bench| {
        bench.iter(|| {
            codec::entry_from_wire(codec::entry_to_wire(black_box(&entry))).expect("our own bytes")
        });
    });
    let frame = frame();
    group.throughput(Throughput::Elements(64));
    group.bench_function("encode_frame_of_64", |bench| {
        bench.iter(|| black_box(&frame).encode_to_vec())
    });
    let encoded = Bytes::from(frame.encode_to_vec());
    group.bench_function("decode_frame_of_64", |bench| {
        bench.iter(|| Frame::decode(black_box(encoded.clone())).expect("our own bytes"));
    });
    // The same as it travels: with its checksum.
    group.bench_function("seal_frame_of_64", |bench| {
        bench.iter(|| checked::seal(black_box(&frame)))
    });
    let sealed = Bytes::from(checked::seal(&frame));
    group.bench_function("open_and_decode_frame_of_64", |bench| {
        bench.iter(|| {
            let opened = checked::open(black_box(sealed.clone())).expect("our own bytes");
            Frame::decode(opened).expect("our own bytes")
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("memcomparable_of_32", |bench| {
        bench.iter(|| memcomparable::encode(black_box(&[7; 32])));
    });
    group.finish();
}

criterion_group!(benches, codecs);
criterion_main!(benches);
