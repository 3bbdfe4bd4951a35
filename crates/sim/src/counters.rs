//! "It happened": proof that a batch of runs was not idle (RELIABILITY §3).

use std::collections::BTreeMap;

/// Things that must happen somewhere in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Happening {
    /// A leader was elected.
    Election,
    /// A candidate stood, and another one won or nobody did.
    LostElection,
    /// A leader ended because a higher term appeared or its quorum was gone.
    SteppedDown,
    /// A joint configuration began.
    JointEntered,
    /// A joint configuration was left.
    JointLeft,
    /// A joint configuration was left by another leader than the one that began it.
    JointLeftByOther,
    /// A learner was added.
    LearnerAdded,
    /// A member was removed.
    MemberRemoved,
    /// A removed peer was destroyed.
    Destroyed,
    /// A removed learner came back under its old id.
    Readded,
    /// A membership change was refused.
    ChangeRefused,
    /// A snapshot was sent.
    SnapshotSent,
    /// A snapshot was installed.
    SnapshotInstalled,
    /// An install was carried on after a crash.
    SnapshotResumed,
    /// A snapshot was refused.
    SnapshotRefused,
    /// A read was served by a leader after a round.
    ReadServed,
    /// A read was served by a follower.
    FollowerRead,
    /// A read was dropped.
    ReadDropped,
    /// A read was served by a leader that held a lease, without a round.
    LeaseRead,
    /// A read was served by the only voter.
    ReadAlone,
    /// A read was served in a world where another peer also believed to lead.
    ReadBesideOtherLeader,
    /// `TimeoutNow` was sent.
    Transfer,
    /// A conflicting suffix was cut.
    Truncation,
    /// A node crashed.
    Crash,
    /// A crash lost writes.
    LostTail,
    /// A crash kept some queued writes and lost others.
    TornTail,
    /// The apply tier fell back in a crash.
    ApplyFellBack,
    /// Entries were fetched from the log.
    Fetched,
    /// The log was compacted.
    Compacted,
    /// A write was acknowledged to its client.
    Acknowledged,
    /// A proposal was refused.
    ProposalRefused,
    /// A proposal was overwritten by a later leader.
    Overwritten,
    /// The group committed an entry of a joint configuration.
    CommittedJoint,
    /// The only voter committed.
    CommittedAlone,
    /// A network split began.
    Partition,
    /// The group started in the first term of a split.
    FirstTermLed,
    /// Two peers believed to lead at once.
    TwoLeaders,
}

impl Happening {
    /// All of them, for the check that nothing is missing.
    pub const ALL: [Happening; 37] = [
        Happening::Election,
        Happening::LostElection,
        Happening::SteppedDown,
        Happening::JointEntered,
        Happening::JointLeft,
        Happening::JointLeftByOther,
        Happening::LearnerAdded,
        Happening::MemberRemoved,
        Happening::Destroyed,
        Happening::Readded,
        Happening::ChangeRefused,
        Happening::SnapshotSent,
        Happening::SnapshotInstalled,
        Happening::SnapshotResumed,
        Happening::SnapshotRefused,
        Happening::ReadServed,
        Happening::FollowerRead,
        Happening::ReadDropped,
        Happening::LeaseRead,
        Happening::ReadAlone,
        Happening::ReadBesideOtherLeader,
        Happening::Transfer,
        Happening::Truncation,
        Happening::Crash,
        Happening::LostTail,
        Happening::TornTail,
        Happening::ApplyFellBack,
        Happening::Fetched,
        Happening::Compacted,
        Happening::Acknowledged,
        Happening::ProposalRefused,
        Happening::Overwritten,
        Happening::CommittedJoint,
        Happening::CommittedAlone,
        Happening::Partition,
        Happening::FirstTermLed,
        Happening::TwoLeaders,
    ];
}

impl Happening {
    /// The names of all of them.
    pub fn names() -> impl Iterator<Item = String> {
        Happening::ALL
            .into_iter()
            .map(|happening| format!("{happening:?}"))
    }
}

/// How often each thing happened.
#[derive(Clone, Debug)]
pub struct Counters([u64; Happening::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Counters([0; Happening::ALL.len()])
    }
}

impl Counters {
    /// Counts one.
    pub fn count(&mut self, happening: Happening) {
        self.0[happening as usize] += 1;
    }

    /// How often.
    pub fn of(&self, happening: Happening) -> u64 {
        self.0[happening as usize]
    }

    /// By name, for people.
    pub fn table(&self) -> BTreeMap<String, u64> {
        Happening::ALL
            .into_iter()
            .map(|happening| (format!("{happening:?}"), self.of(happening)))
            .collect()
    }
}
