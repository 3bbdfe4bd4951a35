//! Finds out who calls.

use bytes::Bytes;
use prost::Message;
use proto::{
    checked,
    pontoon::v1::{RaftStream, raft_stream},
};

use super::Caller;

/// What a connection of HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Head of a frame of HTTP/2: length (3 bytes), type, flags, stream.
const FRAME_HEAD: usize = 9;
/// Head of a message of gRPC: whether it is compressed, length.
const MESSAGE_HEAD: usize = 5;
/// The type of frames with data.
const DATA: u8 = 0;
/// Whoever says nothing within so many bytes is no peer.
const BYTES_MAX: usize = 64 << 10;

/// Reads the beginning of a connection.
#[derive(Default)]
pub(super) struct Sniffer {
    seen: Vec<u8>,
    /// Up to where it was understood.
    at: usize,
}

impl Sniffer {
    /// Reads on. [`Caller::Unknown`] while nothing was said.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Caller {
        self.seen.extend_from_slice(bytes);
        if self.at == 0 {
            let common = self.seen.len().min(PREFACE.len());
            if self.seen[..common] != PREFACE[..common] {
                return Caller::Other;
            }
            if common < PREFACE.len() {
                return Caller::Unknown;
            }
            self.at = PREFACE.len();
        }
        while let Some(head) = self.seen.get(self.at..self.at + FRAME_HEAD) {
            let length =
                usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let kind = head[3];
            let begin = self.at + FRAME_HEAD;
            let Some(content) = self.seen.get(begin..begin + length) else {
                break;
            };
            if kind == DATA {
                return caller(content);
            }
            self.at = begin + length;
        }
        if self.seen.len() > BYTES_MAX {
            Caller::Other
        } else {
            Caller::Unknown
        }
    }
}

/// Who says hello in the first data of a stream. The first message of a stream of snapshots has the same form.
fn caller(data: &[u8]) -> Caller {
    let message = data.get(MESSAGE_HEAD..).map(Bytes::copy_from_slice);
    // Only messages between peers are sealed.
    let hello = message
        .and_then(|message| checked::open(message).ok())
        .and_then(|message| RaftStream::decode(message).ok());
    match hello.and_then(|hello| hello.kind) {
        Some(raft_stream::Kind::Hello(hello)) => Caller::Peer(hello.from_store),
        _ => Caller::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::pontoon::v1::Hello;

    fn frame(kind: u8, content: &[u8]) -> Vec<u8> {
        let length = (content.len() as u32).to_be_bytes();
        [&length[1..], &[kind, 0, 0, 0, 0, 1], content].concat()
    }

    fn message(bytes: &[u8]) -> Vec<u8> {
        let length = (bytes.len() as u32).to_be_bytes();
        [&[0], &length[..], bytes].concat()
    }

    fn hello() -> RaftStream {
        let hello = Hello {
            cluster_id: 3,
            from_store: 17,
            to_store: 18,
            boot: 1,
            format: 2,
        };
        RaftStream {
            kind: Some(raft_stream::Kind::Hello(hello)),
        }
    }

    #[test]
    fn peers_are_told_by_their_sealed_hello_however_it_arrives() {
        let opening = [
            PREFACE.to_vec(),
            frame(4, &[0; 12]),
            frame(1, b"headers"),
            frame(DATA, &message(&checked::seal(&hello()))),
        ]
        .concat();
        assert_eq!(Sniffer::default().read(&opening), Caller::Peer(17));
        let mut sniffer = Sniffer::default();
        for byte in &opening[..opening.len() - 1] {
            assert_eq!(sniffer.read(&[*byte]), Caller::Unknown);
        }
        assert_eq!(
            sniffer.read(&opening[opening.len() - 1..]),
            Caller::Peer(17)
        );
    }

    #[test]
    fn all_others_are_others() {
        let unsealed = frame(DATA, &message(&hello().encode_to_vec()));
        let opening = [PREFACE.to_vec(), unsealed].concat();
        assert_eq!(Sniffer::default().read(&opening), Caller::Other);
        assert_eq!(Sniffer::default().read(b"GET / HTTP/1.1"), Caller::Other);
        let empty = [PREFACE.to_vec(), frame(DATA, &[])].concat();
        assert_eq!(Sniffer::default().read(&empty), Caller::Other);
        let settings = [PREFACE.to_vec(), frame(4, &vec![0; BYTES_MAX])].concat();
        assert_eq!(Sniffer::default().read(&settings), Caller::Other);
    }
}
