//! Messages with a checksum, for what stores say to each other (RELIABILITY F8).
//!
//! The checksum of TCP has 16 bits and is made anew by whatever stands between two machines, so a flipped bit gets through
//! now and then; in a term, a vote or a commit index it would count. A *sealed* message ends with one more field, the number
//! [`FIELD`] of type `fixed32`: the CRC-32C of all bytes before it. It is the last one whatever the message holds, and a
//! reader that does not know it skips it: that is how a version without checksums finds out that it is refused.
//!
//! [`Codec`] seals and opens the messages of a whole service; `build.rs` names the services that use it. CRC-32C finds every
//! flip of up to three bits in messages of the sizes that are sent, and all but one of 2^32 of other damage.

use std::{error, fmt, marker::PhantomData, sync::Arc};

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// Number of the field with the checksum; definitions keep it reserved.
pub const FIELD: u32 = 15;
/// The field's key: its number and the wire type of `fixed32`.
const KEY: u8 = (FIELD << 3 | 5) as u8;
/// Bytes of the whole field.
const TRAILER: usize = 5;
/// A larger buffer is not kept for the next message.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Why the bytes of a message are not those that were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damaged {
    /// There is no checksum at the end.
    Unsealed,
    /// The checksum is that of other bytes.
    Mismatch {
        /// What the message says.
        announced: u32,
        /// What its bytes give.
        found: u32,
    },
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsealed => f.write_str(
                "a message has no checksum: it was damaged on the way, or comes from a version that sends none",
            ),
            Self::Mismatch { announced, found } => write!(
                f,
                "a message was damaged on the way: its checksum is {found:08x} and should be {announced:08x}"
            ),
        }
    }
}

impl error::Error for Damaged {}

impl From<Damaged> for Status {
    fn from(damaged: Damaged) -> Self {
        let mut status = Self::data_loss(damaged.to_string());
        status.set_source(Arc::new(damaged));
        status
    }
}

impl Damaged {
    /// What this process found wrong with a message, if that is why the call failed. A status that the other side sent has
    /// none.
    pub fn found(status: &Status) -> Option<Self> {
        let source = error::Error::source(status)?;
        source.downcast_ref::<Self>().copied()
    }
}

/// The checksum of a message's bytes as the field at its end.
fn trailer(message: &[u8]) -> [u8; TRAILER] {
    let [a, b, c, d] = crc32c::crc32c(message).to_le_bytes();
    [KEY, a, b, c, d]
}

/// The bytes of a message with its checksum.
pub fn seal<M: Message>(message: &M) -> Vec<u8> {
    let mut bytes = message.encode_to_vec();
    let trailer = trailer(&bytes);
    bytes.extend_from_slice(&trailer);
    bytes
}

/// The bytes of a message without its checksum, which fits.
///
/// # Errors
/// See [`Damaged`].
pub fn open(mut sealed: Bytes) -> Result<Bytes, Damaged> {
    let Some(end) = sealed.len().checked_sub(TRAILER) else {
        return Err(Damaged::Unsealed);
    };
    let trailer = sealed.split_off(end);
    let announced = u32::from_le_bytes([trailer[1], trailer[2], trailer[3], trailer[4]]);
    let found = crc32c::crc32c(&sealed);
    match trailer[0] {
        KEY if found == announced => Ok(sealed),
        KEY => Err(Damaged::Mismatch { announced, found }),
        _ => Err(Damaged::Unsealed),
    }
}

/// Seals what is sent and opens what is received; nothing of a damaged message is decoded.
#[derive(Clone, Debug)]
pub struct Codec<T, U> {
    messages: PhantomData<(T, U)>,
}

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self {
            messages: PhantomData,
        }
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Sealer<T>;
    type Decoder = Opener<U>;

    fn encoder(&mut self) -> Sealer<T> {
        Sealer {
            encoded: Vec::new(),
            messages: PhantomData,
        }
    }

    fn decoder(&mut self) -> Opener<U> {
        Opener {
            messages: PhantomData,
        }
    }
}

/// The sending half of a [`Codec`].
#[derive(Clone, Debug)]
pub struct Sealer<T> {
    /// tonic's buffer can only be written, so the checksum is made of this one while it is in the processor's cache.
    encoded: Vec<u8>,
    messages: PhantomData<T>,
}

impl<T: Message> Encoder for Sealer<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        self.encoded.clear();
        message
            .encode(&mut self.encoded)
            .expect("the buffer grows as needed");
        to.reserve(self.encoded.len() + TRAILER);
        to.put_slice(&self.encoded);
        to.put_slice(&trailer(&self.encoded));
        if self.encoded.capacity() > KEPT_BYTES_MAX {
            self.encoded = Vec::new();
        }
        Ok(())
    }
}

/// The receiving half of a [`Codec`].
#[derive(Clone, Debug)]
pub struct Opener<U> {
    messages: PhantomData<U>,
}

impl<U: Message + Default> Decoder for Opener<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // Shares tonic's buffer, and so do the values of the message.
        let sealed = from.copy_to_bytes(from.remaining());
        let message = U::decode(open(sealed)?);
        message
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pontoon::v1::{Append, Entry, Frame, Hello, RaftMessage, RaftStream};
    use crate::pontoon::v1::{raft_message::Body, raft_stream};

    fn frame() -> RaftStream {
        let append = Append {
            previous_term: 7,
            previous_index: 300,
            commit: 299,
            entries: vec![Entry {
                payload: vec![3; 200].into(),
                ..Default::default()
            }],
        };
        let message = RaftMessage {
            region_id: 12,
            term: 8,
            body: Some(Body::Append(append)),
            ..Default::default()
        };
        let frame = Frame {
            messages: vec![message.clone(), message],
            ..Default::default()
        };
        RaftStream {
            kind: Some(raft_stream::Kind::Frame(frame)),
        }
    }

    #[test]
    fn sealed_messages_open() {
        for message in [frame(), RaftStream::default()] {
            let opened = open(seal(&message).into()).expect("nothing is damaged");
            assert_eq!(RaftStream::decode(opened).expect("it is whole"), message);
        }
    }

    /// F8: a term, a vote or a commit index that is one bit off is not believed.
    #[test]
    fn every_flipped_bit_is_found() {
        let sealed = seal(&frame());
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(open(damaged.into()).is_err(), "bit {bit} was flipped");
        }
    }

    #[test]
    fn every_two_flipped_bits_are_found() {
        let hello = Hello {
            cluster_id: 7,
            from_store: 1,
            to_store: 2,
            boot: 3,
            format: 2,
        };
        let sealed = seal(&hello);
        let bits = sealed.len() * 8;
        for first in 0..bits {
            for second in 0..first {
                let mut damaged = sealed.clone();
                damaged[first / 8] ^= 1 << (first % 8);
                damaged[second / 8] ^= 1 << (second % 8);
                assert!(open(damaged.into()).is_err(), "bits {second} and {first}");
            }
        }
    }

    #[test]
    fn what_is_cut_or_not_sealed_is_found() {
        let sealed = seal(&frame());
        for end in 0..sealed.len() {
            assert!(open(sealed[..end].to_vec().into()).is_err(), "{end} bytes");
        }
        for unsealed in [frame(), RaftStream::default()] {
            assert_eq!(
                open(unsealed.encode_to_vec().into()),
                Err(Damaged::Unsealed)
            );
        }
    }

    #[test]
    fn whoever_knows_no_checksum_skips_it() {
        let read = RaftStream::decode(&*seal(&frame())).expect("an unknown field is skipped");
        assert_eq!(read, frame());
    }

    #[test]
    fn a_status_tells_who_found_the_damage() {
        let found = Status::from(Damaged::Unsealed);
        assert_eq!(Damaged::found(&found), Some(Damaged::Unsealed));
        assert_eq!(Damaged::found(&Status::data_loss("told by another")), None);
    }
}
