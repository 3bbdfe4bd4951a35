//! What can be violated, and how a violation is told.

use std::fmt;

/// A rule of RELIABILITY §1, as far as one group shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// R1 Election safety.
    Election,
    /// R2 Leader append-only.
    AppendOnly,
    /// R3 Log matching.
    Matching,
    /// R4 Leader completeness.
    Completeness,
    /// R5 State machine safety.
    StateMachine,
    /// R6 Commit rule.
    Commit,
    /// R7 Durable before said.
    Durable,
    /// R8 Order.
    Order,
    /// R9 Membership.
    Membership,
    /// R10 Calm.
    Calm,
    /// REGIONS §1, commit before apply.
    CommitFirst,
    /// R12 Determinism.
    Determinism,
    /// R16 Snapshots never move a peer back.
    Snapshot,
    /// R17 Tiling.
    Tiling,
    /// R18 Epoch.
    Epoch,
    /// R21 Merge.
    Merge,
    /// R22 Placement moves.
    Moves,
    /// R23 Linearizable keys.
    Linearizable,
    /// R24 Read index (and R25, where leases serve).
    ReadIndex,
    /// R26 At most once.
    AtMostOnce,
    /// R28 Timestamps.
    Timestamps,
    /// R30 Identity.
    Identity,
    /// R31 Ids.
    Ids,
    /// R37 Healing.
    Healing,
    /// STORAGE §7, sizes.
    Sizes,
    /// LIVENESS L3, S1, P2.
    Pledge,
    /// An assertion of the code itself.
    Assertion,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::Election => "R1 election safety",
            Rule::AppendOnly => "R2 leader append-only",
            Rule::Matching => "R3 log matching",
            Rule::Completeness => "R4 leader completeness",
            Rule::StateMachine => "R5 state machine safety",
            Rule::Commit => "R6 commit rule",
            Rule::Durable => "R7 durable before said",
            Rule::Order => "R8 order",
            Rule::Membership => "R9 membership",
            Rule::Calm => "R10 calm",
            Rule::CommitFirst => "commit before apply",
            Rule::Determinism => "R12 determinism",
            Rule::Snapshot => "R16 snapshots",
            Rule::Tiling => "R17 tiling",
            Rule::Epoch => "R18 epoch",
            Rule::Merge => "R21 merge",
            Rule::Moves => "R22 placement moves",
            Rule::Linearizable => "R23 linearizable keys",
            Rule::ReadIndex => "R24 read index",
            Rule::AtMostOnce => "R26 at most once",
            Rule::Timestamps => "R28 timestamps",
            Rule::Identity => "R30 identity",
            Rule::Ids => "R31 ids",
            Rule::Healing => "R37 healing",
            Rule::Sizes => "sizes",
            Rule::Pledge => "LIVENESS L3 pledges",
            Rule::Assertion => "assertion in the code",
        })
    }
}

/// A rule that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// What was seen.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.text)
    }
}

impl std::error::Error for Violation {}

/// Fails with a [`Violation`] of `$rule` unless `$condition` holds.
macro_rules! ensure {
    ($rule:ident, $condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::rule::Violation {
                rule: $crate::rule::Rule::$rule,
                text: format!($($text)+),
            });
        }
    };
}
pub(crate) use ensure;
