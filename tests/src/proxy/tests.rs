//! Each fault of the proxy, between a caller and a process that sends back what it gets.

use std::{io::ErrorKind, time::Duration};

use proto::{
    checked,
    pontoon::v1::{Hello, RaftStream, raft_stream},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};

use super::*;

/// How long nothing may come before it counts as held back.
const SILENCE: Duration = Duration::from_millis(100);

/// Sends back what it gets; at the end of that it says "bye".
async fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read) = stream.read(&mut buffer).await {
                    let said = if read == 0 { b"bye" } else { &buffer[..read] };
                    if stream.write_all(said).await.is_err() || read == 0 {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// A caller whose connection is up: it has sent its opening and got it back.
struct Call(TcpStream);

impl Call {
    async fn open(proxy: &Proxy, opening: &[u8]) -> Self {
        let mut call = Self(TcpStream::connect(&proxy.address).await.unwrap());
        assert_eq!(call.ask(opening).await, opening);
        call
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn receive(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    async fn ask(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.send(bytes).await;
        self.receive(bytes.len()).await
    }

    async fn hears_nothing(&mut self) {
        let mut byte = [0];
        let heard = timeout(SILENCE, self.0.read(&mut byte)).await;
        assert!(heard.is_err(), "{heard:?} was heard");
    }
}

/// What a store says first, as far as the proxy looks at it.
fn hello(store: u64) -> Vec<u8> {
    let hello = Hello {
        cluster_id: 1,
        from_store: store,
        to_store: 99,
        boot: 1,
        format: 2,
    };
    let sealed = checked::seal(&RaftStream {
        kind: Some(raft_stream::Kind::Hello(hello)),
    });
    let message = [&[0], &(sealed.len() as u32).to_be_bytes()[..], &sealed].concat();
    let length = (message.len() as u32).to_be_bytes();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    [preface, &length[1..], &[0, 0, 0, 0, 0, 1], &message].concat()
}

fn from(from: From) -> Which {
    Which { from, ..Which::ALL }
}

fn one_way(way: Way) -> Which {
    Which {
        way: Some(way),
        ..Which::ALL
    }
}

#[tokio::test]
async fn bytes_pass_and_so_does_the_end() {
    let net = Net::new(1);
    let proxy = net.proxy(0, echo().await, 0).await.unwrap();
    let mut call = Call::open(&proxy, b"hello").await;
    let large: Vec<u8> = (0..3_000_000_u32).map(|number| number as u8).collect();
    let (mut read, mut write) = call.0.split();
    let mut back = vec![0; large.len()];
    let (sent, received) = tokio::join!(write.write_all(&large), read.read_exact(&mut back));
    sent.unwrap();
    received.unwrap();
    assert!(back == large);
    write.shutdown().await.unwrap();
    assert_eq!(call.receive(3).await, b"bye");
    assert_eq!(call.0.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_process_that_does_not_listen_is_a_reset() {
    let net = Net::new(1);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap().to_string();
    drop(closed);
    let proxy = net.proxy(0, address, 0).await.unwrap();
    let mut call = TcpStream::connect(&proxy.address).await.unwrap();
    let read = call.read(&mut [0]).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn delayed_bytes_come_later_and_in_order() {
    let net = Net::new(1);
    let proxy = net.proxy(0, echo().await, 0).await.unwrap();
    let mut call = Call::open(&proxy, b"hello").await;
    let delay = Duration::from_millis(60);
    let rule = net.harm(one_way(Way::There), Harm::Delay(delay));
    let began = Instant::now();
    for part in [b"one".as_slice(), b"two", b"three"] {
        call.send(part).await;
    }
    assert_eq!(call.receive(11).await, b"onetwothree");
    assert!(began.elapsed() >= delay, "{:?}", began.elapsed());
    net.mend(rule);
    assert_eq!(call.ask(b"again").await, b"again");
    assert!(net.counts().delayed.load(Relaxed) > 0);
}

#[tokio::test]
async fn throttled_bytes_trickle() {
    let net = Net::new(1);
    let proxy = net.proxy(0, echo().await, 0).await.unwrap();
    let mut call = Call::open(&proxy, b"hello").await;
    net.harm(one_way(Way::Back), Harm::Throttle(100_000));
    let began = Instant::now();
    assert_eq!(call.ask(&[7; 20_000]).await, [7; 20_000]);
    assert!(
        began.elapsed() >= Duration::from_millis(180),
        "{:?}",
        began.elapsed()
    );
    assert!(net.counts().throttled.load(Relaxed) > 0);
}

#[tokio::test]
async fn a_black_hole_keeps_bytes_and_connection() {
    let net = Net::new(1);
    let proxy = net.proxy(0, echo().await, 0).await.unwrap();
    let mut call = Call::open(&proxy, b"hello").await;
    net.harm(Which::ALL, Harm::Hold);
    call.send(b"kept").await;
    call.hears_nothing().await;
    // New connections are taken, and silent.
    let mut other = TcpStream::connect(&proxy.address).await.unwrap();
    other.write_all(b"new").await.unwrap();
    assert!(timeout(SILENCE, other.read(&mut [0])).await.is_err());
    net.mend_all();
    assert_eq!(call.receive(4).await, b"kept");
    let mut bytes = [0; 3];
    other.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"new");
    assert!(net.counts().held.load(Relaxed) >= 2);
}

#[tokio::test]
async fn one_direction_is_held_alone() {
    let net = Net::new(1);
    let proxy = net.proxy(0, echo().await, 0).await.unwrap();
    let mut call = Call::open(&proxy, b"hello").await;
    net.harm(one_way(Way::Back), Harm::Hold);
    // It reaches the process, whose answer does not come back.
    call.send(b"there").await;
    call.hears_nothing().await;
    net.mend_all();
    assert_eq!(call.receive(5).await, b"there");
}

#[tokio::test]
async fn a_reset_ends_both_sides() {
    let net = Net::new(1);
    let proxy = net.proxy(0, echo().await, 0).await.unwrap();
    let mut call = Call::open(&proxy, b"hello").await;
    net.cut(Which::ALL, Cut::Reset);
    let read = call.0.read(&mut [0]).await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    Call::open(&proxy, b"others are served").await;
    assert_eq!(net.counts().resets.load(Relaxed), 1);
}

#[tokio::test]
async fn a_half_close_ends_one_direction_only() {
    let net = Net::new(1);
    let process = |to| Which {
        to: Some(to),
        ..Which::ALL
    };
    let proxy = net.proxy(0, echo().await, 0).await.unwrap();
    let mut call = Call::open(&proxy, b"hello").await;
    net.cut(process(0), Cut::HalfClose(Way::There));
    // The process saw the end and says so; who called may go on speaking, and nobody hears it.
    assert_eq!(call.receive(3).await, b"bye");
    let proxy = net.proxy(1, echo().await, 0).await.unwrap();
    let mut call = Call::open(&proxy, b"hello").await;
    net.cut(process(1), Cut::HalfClose(Way::Back));
    assert_eq!(call.0.read(&mut [0]).await.unwrap(), 0);
    call.send(b"unheard").await;
    assert_eq!(net.counts().half_closes.load(Relaxed), 2);
}

#[tokio::test]
async fn rules_meet_whom_they_name() {
    let net = Net::new(1);
    let first = net.proxy(0, echo().await, 0).await.unwrap();
    let second = net.proxy(1, echo().await, 0).await.unwrap();
    let mut peer = Call::open(&first, &hello(7)).await;
    let mut other_peer = Call::open(&first, &hello(8)).await;
    let mut client = Call::open(&first, b"GET / HTTP/1.1").await;
    let mut elsewhere = Call::open(&second, &hello(7)).await;
    net.harm(
        Which {
            from: From::Peer(7),
            to: Some(0),
            way: Some(Way::There),
        },
        Harm::Hold,
    );
    peer.send(b"held").await;
    peer.hears_nothing().await;
    for free in [&mut other_peer, &mut client, &mut elsewhere] {
        assert_eq!(free.ask(b"free").await, b"free");
    }
    net.harm(from(From::AnyPeer), Harm::Hold);
    for held in [&mut other_peer, &mut elsewhere] {
        held.send(b"held").await;
        held.hears_nothing().await;
    }
    assert_eq!(client.ask(b"free").await, b"free");
    assert_eq!(net.counts().peers.load(Relaxed), 3);
    net.mend_all();
    assert_eq!(peer.receive(4).await, b"held");
}

/// Bits that differ between what was sent and what came back.
fn flipped(sent: &[u8], received: &[u8]) -> Vec<(usize, u8)> {
    sent.iter()
        .zip(received)
        .enumerate()
        .filter(|(_, (sent, received))| sent != received)
        .map(|(at, (sent, received))| (at, sent ^ received))
        .collect()
}

#[tokio::test]
async fn bits_are_flipped_between_peers_only_and_by_the_seed() {
    let sent = vec![0; 200_000];
    let mut all = Vec::new();
    for seed in [1, 1, 2] {
        let net = Net::new(seed);
        let proxy = net.proxy(0, echo().await, 0).await.unwrap();
        let mut peer = Call::open(&proxy, &hello(7)).await;
        let mut client = Call::open(&proxy, b"GET / HTTP/1.1").await;
        net.harm(one_way(Way::There), Harm::Flip(2_000));
        let (mut read, mut write) = peer.0.split();
        let mut received = vec![0; sent.len()];
        let (wrote, got) = tokio::join!(write.write_all(&sent), read.read_exact(&mut received));
        wrote.unwrap();
        got.unwrap();
        let flips = flipped(&sent, &received);
        assert!((50..200).contains(&flips.len()), "{} flips", flips.len());
        assert!(flips.iter().all(|(_, bits)| bits.count_ones() == 1));
        assert_eq!(net.counts().flips.load(Relaxed), flips.len() as u64);
        let (mut read, mut write) = client.0.split();
        let (wrote, got) = tokio::join!(write.write_all(&sent), read.read_exact(&mut received));
        wrote.unwrap();
        got.unwrap();
        assert!(received == sent, "clients' bytes are left alone");
        all.push(flips);
    }
    assert_eq!(all[0], all[1], "the same seed, the same bits");
    assert_ne!(all[0], all[2]);
}
