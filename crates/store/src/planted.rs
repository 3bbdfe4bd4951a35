//! Bugs planted on purpose (REGIONS §11, by its numbers; those without one are of RELIABILITY §3).
//!
//! As with [`raft::Bug`]: each switches off one rule at run time, at the place of that rule, and some test must notice.
//! Nothing outside tests sets one.

/// One broken rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// 1: the target absorbs without waiting for the local source to reach its freeze.
    AbsorbWithoutWaiting,
    /// 2: a source thaws when its time is up, without a verdict.
    RollbackByTimer,
    /// 3: a commit is made for whatever epoch the target has.
    CommitWithoutEpoch,
    /// 4: a frozen source takes and applies writes.
    FrozenApplies,
    /// 5: an owner that is still at the epoch of the freeze gives a verdict, to who asks from elsewhere.
    VerdictAtSameEpoch,
    /// 6: log and hard state of an absorbed source go before the absorption is flushed.
    SourceLogDeletedEarly,
    /// 7: a record is dropped on deaths that may not survive a power loss.
    RecordDroppedUnflushed,
    /// 8: a snapshot takes a range whose owner here no record names.
    SnapshotOverUnnamed,
    /// 9: what is behind may be destroyed, absorbed and overwritten. A script notices (`split_gate`); a simulation cannot
    /// while data goes through the write-ahead log (the plain path of D3). Harm needs a child that has spoken and whose birth
    /// is lost. But its first log batch is written after the batch that made it, in the same log, so it survives only if
    /// that does; and a peer that is stopped applies what was handed out first. Without the log for data only the gate is
    /// left.
    NoGate,
    /// 10: a snapshot that does not name its receiver is taken.
    SnapshotNamesNobody,
    /// 11: an orphan source dies although its absorber here is not past the merge.
    OrphanDestroyedEarly,
    /// 12: freezing keeps the version.
    FreezeKeepsVersion,
    /// 13: only the target itself gives verdicts.
    VerdictOnlyFromTarget,
    /// 14: children and absorbers do not inherit records.
    RecordsNotInherited,
    /// 15: any region gives verdicts.
    VerdictFromAnyRegion,
    /// 16: structural commands take effect while frozen.
    AdminWhileFrozen,
    /// 17: the first leader of a child leads term 1 again after a restart.
    FirstTermTwice,
    /// 18: a split takes back the vote that a child's peer gave before.
    VoteForgotten,
    /// 19: a first leader speaks before its vote is synced.
    SpeaksUnsynced,
    /// 21: a first leader that comes late leads term 1 although it knows a later one.
    LaterTermIgnored,
    /// 23: reads are served over the freeze.
    ReadOverFreeze,
    /// 24: a peer that is born without data leaves no mark.
    MarkNotWritten,
    /// 25: a snapshot cuts the log without a mark that says so.
    InstallWithoutMark,
    /// A split is taken for whatever epoch the region has, when it is ordered and when it is applied.
    SplitWithoutEpoch,
    /// What is applied and up to where are written one after the other.
    AppliedApart,
    /// A value is only written if a limit of the peer's own allows it: those with even ids have a low one.
    OwnLimit,
    /// The digest of a region goes on over its split.
    DigestKeptAtSplit,
    /// With what is applied it is written where the digest began, and not what it is.
    DigestNotSaved,
    /// The digest counts entries that have no effect, so that of a frozen source does not stand still.
    DigestCountsNoops,
    /// What is stored is digested as of the end of the batch, not as of the entry that asks for it.
    SumOfLater,
    /// Peers with even ids store values with another time of expiry than they take into the digest. No read shows it.
    StoresOther,
}

impl Bug {
    /// Every bug, for tests that go through them.
    pub const ALL: [Bug; 31] = [
        Bug::AbsorbWithoutWaiting,
        Bug::RollbackByTimer,
        Bug::CommitWithoutEpoch,
        Bug::FrozenApplies,
        Bug::VerdictAtSameEpoch,
        Bug::SourceLogDeletedEarly,
        Bug::RecordDroppedUnflushed,
        Bug::SnapshotOverUnnamed,
        Bug::NoGate,
        Bug::SnapshotNamesNobody,
        Bug::OrphanDestroyedEarly,
        Bug::FreezeKeepsVersion,
        Bug::VerdictOnlyFromTarget,
        Bug::RecordsNotInherited,
        Bug::VerdictFromAnyRegion,
        Bug::AdminWhileFrozen,
        Bug::FirstTermTwice,
        Bug::VoteForgotten,
        Bug::SpeaksUnsynced,
        Bug::LaterTermIgnored,
        Bug::ReadOverFreeze,
        Bug::MarkNotWritten,
        Bug::InstallWithoutMark,
        Bug::SplitWithoutEpoch,
        Bug::AppliedApart,
        Bug::OwnLimit,
        Bug::DigestKeptAtSplit,
        Bug::DigestNotSaved,
        Bug::DigestCountsNoops,
        Bug::SumOfLater,
        Bug::StoresOther,
    ];
}
