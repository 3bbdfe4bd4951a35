//! Failures of a stream.

use prost::Message;
use proto::pontoon::v1::{Refusal, refusal::Reason};
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
    #[error("the stream failed")]
    Stream(#[source] Box<Status>),
    #[error("the store closed the stream")]
    Closed,
}

impl From<Status> for LinkError {
    fn from(status: Status) -> Self {
        match refusal(&status) {
            Some(refusal) => Self::Refused(refusal),
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
        refusal.encode_to_vec().into(),
    )
}

/// The refusal in a status, when there is one.
fn refusal(status: &Status) -> Option<Refusal> {
    if status.code() != Code::FailedPrecondition {
        return None;
    }
    Refusal::decode(status.details())
        .ok()
        .filter(|refusal| refusal.mine.is_some())
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
        let garbage = Status::with_details(Code::FailedPrecondition, "", vec![0xFF; 9].into());
        assert_eq!(refusal(&garbage), None);
    }
}
