//! Failures of a stream.

use bytes::Bytes;
use prost::Message;
use proto::{
    checked::{self, Damaged},
    pontoon::v1::{Refusal, refusal::Reason},
};
use tonic::{Code, Status};

/// An error of the owner's code.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a link could not be opened or ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the address of the store is not known")]
    Resolve(#[source] BoxError),
    #[error("the store did not answer in time")]
    Timeout,
    #[error("no connection to the store")]
    Connect(#[source] tonic::transport::Error),
    #[error("the store refused the handshake")]
    Refused(Refusal),
    #[error("a message was damaged on the way")]
    Damaged(#[source] Box<Status>),
    #[error("the stream failed")]
    Stream(#[source] Box<Status>),
    #[error("the store closed the stream")]
    Closed,
}

impl From<Status> for LinkError {
    fn from(status: Status) -> Self {
        match refusal(&status) {
            Some(refusal) => Self::Refused(refusal),
            None if is_damage(&status) => Self::Damaged(Box::new(status)),
            None => Self::Stream(Box::new(status)),
        }
    }
}

/// Why a snapshot was not delivered. In every case the receiver keeps nothing of it.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// No connection could be made.
    #[error("store is unreachable")]
    Unreachable(#[source] BoxError),
    /// The receiver does not accept this sender (R30).
    #[error("store refused the handshake")]
    Refused(Refusal),
    /// A message was damaged on the way (F8), of whichever side.
    #[error("a message was damaged on the way")]
    Damaged(#[source] Box<Status>),
    /// The stream broke, or the receiver failed.
    #[error("stream failed")]
    Stream(#[source] Box<Status>),
    /// The chunks could not be read.
    #[error("chunks could not be read")]
    Source(#[source] std::io::Error),
}

impl From<LinkError> for SnapshotError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Refused(refusal) => Self::Refused(refusal),
            LinkError::Damaged(status) => Self::Damaged(status),
            LinkError::Stream(status) => Self::Stream(status),
            other => Self::Unreachable(Box::new(other)),
        }
    }
}

/// The status that tells a sender why it was refused.
pub(crate) fn refused(refusal: &Refusal) -> Status {
    let here = refusal.mine.as_ref().map_or(0, |mine| mine.from_store);
    let why = match refusal.reason() {
        Reason::Cluster => "this is another cluster".to_owned(),
        Reason::Store => format!("this is store {here}: not the one wanted, or the caller's own"),
        Reason::Format => "this side has another format".to_owned(),
        Reason::Boot => "a later start of the caller is known".to_owned(),
    };
    let message = format!("handshake refused: {why}");
    Status::with_details(
        Code::FailedPrecondition,
        message,
        // Statuses have no checksum, and one wrong bit here could end the process that reads it.
        checked::seal(refusal).into(),
    )
}

/// The refusal in a status, when there is one.
fn refusal(status: &Status) -> Option<Refusal> {
    if status.code() != Code::FailedPrecondition {
        return None;
    }
    let details = checked::open(Bytes::copy_from_slice(status.details())).ok()?;
    Refusal::decode(details)
        .ok()
        .filter(|refusal| refusal.mine.is_some())
}

/// Whether a message did not arrive as it was sent: here, or at the other side.
fn is_damage(status: &Status) -> bool {
    Damaged::found(status).is_some() || status.code() == Code::DataLoss
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::pontoon::v1::Hello;

    #[test]
    fn a_refusal_survives_the_status() {
        let sent = Refusal {
            reason: Reason::Store.into(),
            mine: Some(Hello {
                cluster_id: 1,
                to_store: 2,
                ..Default::default()
            }),
        };
        assert_eq!(refusal(&refused(&sent)), Some(sent));
        assert_eq!(
            refusal(&Status::failed_precondition("something else")),
            None
        );
        let mut details = refused(&sent).details().to_vec();
        for bit in 0..details.len() * 8 {
            details[bit / 8] ^= 1 << (bit % 8);
            let damaged =
                Status::with_details(Code::FailedPrecondition, "", details.clone().into());
            assert_eq!(refusal(&damaged), None, "bit {bit} was flipped");
            details[bit / 8] ^= 1 << (bit % 8);
        }
        let garbage = Status::with_details(Code::FailedPrecondition, "", vec![0xFF; 9].into());
        assert_eq!(refusal(&garbage), None);
    }
}
