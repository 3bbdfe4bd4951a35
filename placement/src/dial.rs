//! The one dial: which share of disk and network moves may take (REGIONS §9).
//!
//! Every store has byte tokens for what it sends and for what it receives. They come in at the share of the store's rate,
//! ten seconds' worth at the most, and a move needs a token on both sides to begin. What is under way counts as well: at
//! most ten seconds' worth of bytes per side, so a store that is slower than its rate is not swamped. A region larger than
//! that may still move, alone, and its store pays it off afterwards.
//!
//! Tokens are not replicated. A new placement leader begins with none, since the one before may have spent them all: a first
//! move of each store begins on credit, and what is more waits for what comes in.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::StoreId;
use proto::pontoon::v1 as wire;

/// Tokens that can pile up, and bytes that may be under way, in time at the granted rate.
const BURST: Duration = Duration::from_secs(10);

/// What a transfer of leadership costs.
pub(crate) const TRANSFER_BYTES: u64 = 64 << 10;

/// For whom tokens are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    /// Balance, hot regions, scattering.
    Balance,
    /// Lost replicas, and stores that are to be emptied.
    Repair,
}

impl Purpose {
    /// As stores are told.
    pub fn to_wire(self) -> wire::Purpose {
        match self {
            Self::Balance => wire::Purpose::Balance,
            Self::Repair => wire::Purpose::Restore,
        }
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Sends,
    Receives,
}

/// What a move asks of one side of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub store: StoreId,
    pub side: Side,
    pub purpose: Purpose,
    pub bytes: u64,
}

/// How the dial is set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Setting {
    /// Bytes per second that a store can take in or give out.
    pub rate_bytes: u64,
    /// Share of it for balance, of 1.
    pub share: f64,
}

impl Setting {
    /// Repair gets half at the least.
    fn granted(self, purpose: Purpose) -> f64 {
        let share = match purpose {
            Purpose::Balance => self.share,
            Purpose::Repair => self.share.max(0.5),
        };
        self.rate_bytes as f64 * share.clamp(0.0, 1.0)
    }

    /// Bytes per second.
    pub fn granted_bytes(self, purpose: Purpose) -> u64 {
        self.granted(purpose) as u64
    }

    fn burst(self, purpose: Purpose) -> f64 {
        self.granted(purpose) * BURST.as_secs_f64()
    }
}

/// Tokens of one side of a store.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// May be negative: a debt.
    tokens: f64,
    at: Duration,
}

impl Claim {
    /// Whose tokens it takes: balance may not use what repair has left to pay off.
    fn pays(&self) -> &'static [Purpose] {
        match self.purpose {
            Purpose::Balance => &[Purpose::Balance, Purpose::Repair],
            Purpose::Repair => &[Purpose::Repair],
        }
    }
}

/// All tokens.
#[derive(Clone, Debug)]
pub(crate) struct Dial {
    /// Since when tokens come in for those that spent none.
    since: Duration,
    buckets: BTreeMap<(StoreId, Side, Purpose), Bucket>,
}

impl Dial {
    /// Without tokens.
    pub fn new(now: Duration) -> Self {
        Self {
            since: now,
            buckets: BTreeMap::new(),
        }
    }

    /// Whether a move may begin, with so many bytes under way on this side.
    pub fn allows(&self, claim: Claim, under_way: u64, setting: Setting, now: Duration) -> bool {
        let room = setting.burst(claim.purpose);
        let tokens = claim
            .pays()
            .iter()
            .all(|purpose| self.tokens(claim, *purpose, setting, now) >= 0.0);
        room > 0.0 && tokens && (under_way == 0 || (under_way + claim.bytes) as f64 <= room)
    }

    /// A move begins.
    pub fn take(&mut self, claim: Claim, setting: Setting, now: Duration) {
        for &purpose in claim.pays() {
            let tokens = self.tokens(claim, purpose, setting, now) - claim.bytes as f64;
            let bucket = Bucket { tokens, at: now };
            self.buckets
                .insert((claim.store, claim.side, purpose), bucket);
        }
    }

    fn tokens(&self, claim: Claim, purpose: Purpose, setting: Setting, now: Duration) -> f64 {
        let unused = Bucket {
            tokens: 0.0,
            at: self.since,
        };
        let known = self.buckets.get(&(claim.store, claim.side, purpose));
        let bucket = known.copied().unwrap_or(unused);
        let passed = now.saturating_sub(bucket.at).as_secs_f64();
        (bucket.tokens + passed * setting.granted(purpose)).min(setting.burst(purpose))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const SETTING: Setting = Setting {
        rate_bytes: 100 * MIB,
        share: 0.3,
    };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn claim(purpose: Purpose, bytes: u64) -> Claim {
        Claim {
            store: StoreId(1),
            side: Side::Receives,
            purpose,
            bytes,
        }
    }

    /// A dial whose tokens have piled up at `at(0)`.
    fn full() -> Dial {
        let mut dial = Dial::new(at(0));
        for (side, purpose) in [Side::Sends, Side::Receives]
            .into_iter()
            .flat_map(|side| [(side, Purpose::Balance), (side, Purpose::Repair)])
        {
            let bucket = Bucket {
                tokens: SETTING.burst(purpose),
                at: at(0),
            };
            dial.buckets.insert((StoreId(1), side, purpose), bucket);
        }
        dial
    }

    /// Moves `count` regions as fast as the dial lets them, each done at once; how many seconds it takes.
    fn time_of(mut dial: Dial, purpose: Purpose, bytes: u64, count: u64) -> u64 {
        let mut moved = 0;
        let claim = claim(purpose, bytes);
        for second in 0.. {
            while moved < count && dial.allows(claim, 0, SETTING, at(second)) {
                dial.take(claim, SETTING, at(second));
                moved += 1;
            }
            if moved == count {
                return second;
            }
        }
        unreachable!("tokens come in")
    }

    #[test]
    fn moves_take_their_share_of_the_rate() {
        // 9600 MiB at 30 MiB/s, but for the first ten seconds' worth and the debt at the end.
        let balance = time_of(full(), Purpose::Balance, 96 * MIB, 100);
        assert!((300..=320).contains(&balance), "{balance}");
        let repair = time_of(full(), Purpose::Repair, 96 * MIB, 100);
        assert!((175..=192).contains(&repair), "{repair}");
    }

    /// The one before may have spent all that there was.
    #[test]
    fn a_new_leader_begins_without_tokens() {
        let of = |dial, count| time_of(dial, Purpose::Balance, 96 * MIB, count);
        assert_eq!(of(full(), 4), 0, "ten seconds' worth and a debt");
        assert_eq!(of(Dial::new(at(0)), 1), 0, "on credit");
        assert_eq!(of(Dial::new(at(0)), 2), 4, "96 MiB at 30 MiB/s");
        assert!((316..=320).contains(&of(Dial::new(at(0)), 100)));
    }

    #[test]
    fn bytes_under_way_are_ten_seconds_worth() {
        let dial = full();
        let allows = |bytes: u64, under_way: u64| {
            dial.allows(claim(Purpose::Balance, bytes), under_way, SETTING, at(0))
        };
        assert!(allows(96 * MIB, 0));
        assert!(allows(96 * MIB, 2 * 96 * MIB));
        assert!(!allows(96 * MIB, 3 * 96 * MIB), "above 300 MiB");
        assert!(allows(5000 * MIB, 0), "a large one moves alone");
    }

    #[test]
    fn repair_leaves_balance_nothing_it_has_used_up() {
        let allows =
            |dial: &Dial, purpose, second| dial.allows(claim(purpose, MIB), 0, SETTING, at(second));
        let mut dial = full();
        dial.take(claim(Purpose::Repair, 600 * MIB), SETTING, at(0));
        assert!(!allows(&dial, Purpose::Balance, 1));
        assert!(!allows(&dial, Purpose::Repair, 1));
        let mut dial = full();
        dial.take(claim(Purpose::Balance, 310 * MIB), SETTING, at(0));
        assert!(!allows(&dial, Purpose::Balance, 0));
        assert!(
            allows(&dial, Purpose::Repair, 0),
            "what balance took leaves repair its half"
        );
    }

    #[test]
    fn nothing_moves_at_zero() {
        let none = Setting {
            share: 0.0,
            ..SETTING
        };
        let dial = full();
        assert!(!dial.allows(claim(Purpose::Balance, MIB), 0, none, at(1000)));
        assert!(dial.allows(claim(Purpose::Repair, MIB), 0, none, at(1000)));
    }
}
