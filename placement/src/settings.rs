//! What can be set.

use std::time::Duration;

use crate::dial::{Purpose, Setting};
use crate::journal::JournalSettings;

/// Limits and times of the machine. [`Settings::default`] are the values for production.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// API version of a cluster created by this member: 1 or 2. An existing cluster keeps its own.
    pub api_version: u32,
    /// Voters a region should have, in a cluster created by this member. An existing cluster keeps its own.
    pub replicas: u32,
    /// A store not heard for so long is down: it is not chosen, and operators that need it are cancelled.
    pub store_down_after: Duration,
    /// The voters of a store that was not heard for so long are replaced. Longer than a restart or a repair of the machine
    /// takes, since a copy costs more than waiting.
    pub store_lost_after: Duration,
    /// A joint configuration that is not left within this is told in the journal.
    pub joint_patience: Duration,
    /// Leaders of a store that is drained go first, as long as at least one goes within this.
    pub hand_over_patience: Duration,
    /// How long a lookup waits for a report that covers its key.
    pub lookup_wait: Duration,
    /// Lookups that wait at once; more are answered at once with "not found".
    pub lookups_waiting_max: usize,
    /// Timestamp requests that wait at once; more are refused as busy.
    pub timestamps_waiting_max: usize,
    /// An order whose effect does not show is sent again after this, and whenever its region reports.
    pub resend_after: Duration,
    /// Operators under way at once, administrators' included.
    pub operators_max: usize,
    /// Operators made by checkers that involve one store at once.
    pub store_operators_max: usize,
    /// Finished operators that are kept for inspection.
    pub operators_kept_max: usize,
    /// Finished operators that are kept at the most while their regions rest, so that the next placement leader lets them.
    pub operators_resting_max: usize,
    /// Identities reserved per durable write.
    pub id_step: u64,
    /// How far ahead of use the timestamp bound is saved.
    pub timestamp_window: Duration,
    /// Regions that the sweep looks at per tick at the least.
    pub sweep_regions_min: usize,
    /// Ticks within which the sweep has looked at every region, however many there are.
    pub sweep_ticks: usize,
    /// A transfer of leadership must show within this.
    pub transfer_deadline: Duration,
    /// A split, the adding or the removing of a learner must show within this.
    pub step_deadline: Duration,
    /// A joint change must be entered and left within this.
    pub swap_deadline: Duration,
    /// A learner must be caught up within this, and what its region's bytes take at a quarter of the rate that the dial
    /// grants.
    pub catch_up_deadline: Duration,
    /// An operator that was taken over from an earlier leader, or whose region left the view, is given up when the region
    /// does not report within this.
    pub resume_deadline: Duration,
    /// First pause of the checkers for a region whose operator was cancelled; doubles up to
    /// [`Settings::back_off_max`].
    pub back_off: Duration,
    /// Longest pause.
    pub back_off_max: Duration,
    /// What the journal keeps.
    pub journal: JournalSettings,
    /// How the cluster is kept even.
    pub balance: BalanceSettings,
    /// When neighbours become one.
    pub merge: MergeSettings,
}

impl Settings {
    /// Regions that the sweep looks at per tick when there are so many.
    pub(crate) fn sweep_regions(&self, regions: usize) -> usize {
        let share = regions.div_ceil(self.sweep_ticks.max(1));
        self.sweep_regions_min.max(share).max(1)
    }
}

/// When neighbours become one. What the two may have together lies far below what a region is split at (REGIONS §4, §5):
/// 40 % of its size, 25 % of its load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeSettings {
    /// Whether regions are merged by themselves.
    pub enabled: bool,
    /// A region is left alone until it has been small for so long.
    pub after: Duration,
    /// Bytes up to which a region is small.
    pub small_bytes: u64,
    /// Keys up to which it is.
    pub small_keys: u64,
    /// Bytes of both at the most; more where one of them is hardly anything (`together`).
    pub bytes_max: u64,
    /// Keys of both at the most.
    pub keys_max: u64,
    /// Requests per second of both at the most.
    pub requests_max: u64,
    /// Bytes read and written per second of both at the most.
    pub load_bytes_max: u64,
    /// Merges under way at once.
    pub operators_max: usize,
}

impl MergeSettings {
    /// Bytes and keys that two regions may have together, of which the smaller has so many. What is hardly anything brings a region
    /// that is not small no nearer to a split.
    pub(crate) fn together(&self, bytes: u64, keys: u64) -> (u64, u64) {
        let is_tiny = bytes <= self.bytes_max / 16 && keys <= self.keys_max / 16;
        let times = if is_tiny { 2 } else { 1 };
        (
            self.bytes_max.saturating_mul(times),
            self.keys_max.saturating_mul(times),
        )
    }

    /// Bytes at which regions are split, by what two may have together.
    pub(crate) fn full_bytes(&self) -> u64 {
        self.bytes_max.saturating_mul(5) / 2
    }
}

impl Default for MergeSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            after: Duration::from_secs(600),
            small_bytes: 19 << 20,
            small_keys: 192_000,
            bytes_max: 38 << 20,
            keys_max: 384_000,
            requests_max: 750,
            load_bytes_max: 7_500 << 10,
            operators_max: 16,
        }
    }
}

/// How a cluster is kept even.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalanceSettings {
    /// Whether anything is moved for balance at all.
    pub enabled: bool,
    /// The dial `rebalance_share`: percent of a store's rate that moves for balance may take, each way, 0 to 100. Repair gets
    /// 50 at the least.
    pub share_percent: u32,
    /// Bytes per second that the disk and the network of a store can take in and give out.
    pub store_rate_bytes: u64,
    /// Time after the beginning of a leadership before anything is moved: stores tell what they have first.
    pub settle: Duration,
    /// Time between two rounds.
    pub every: Duration,
    /// Moves that a round begins at the most.
    pub decisions_max: usize,
    /// A region that was moved is left alone for so long, unless its load doubles.
    pub rest: Duration,
    /// Percent of the mean by which stores may differ in use and in leaders.
    pub tolerance_percent: u32,
    /// Percent of the mean by which stores may differ in load.
    pub hot_tolerance_percent: u32,
    /// Mean bytes per second of a store below which its load matters less and less.
    pub hot_bytes_min: u64,
    /// The same for keys.
    pub hot_keys_min: u64,
    /// Labels that tell where a store is, widest first; replicas of a region are kept apart.
    pub location_labels: Vec<String>,
}

impl BalanceSettings {
    /// Bytes per second that snapshots of a store may take, each way, for balance and for repair.
    pub fn snapshot_rates(&self) -> (u64, u64) {
        let setting = self.setting();
        let rate = |purpose| setting.granted_bytes(purpose);
        (rate(Purpose::Balance), rate(Purpose::Repair))
    }

    pub(crate) fn setting(&self) -> Setting {
        Setting {
            rate_bytes: self.store_rate_bytes,
            share: f64::from(self.share_percent) / 100.0,
        }
    }
}

impl Default for BalanceSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            share_percent: 30,
            store_rate_bytes: 100 << 20,
            settle: Duration::from_secs(30),
            every: Duration::from_secs(1),
            decisions_max: 64,
            rest: Duration::from_secs(600),
            tolerance_percent: 2,
            hot_tolerance_percent: 10,
            hot_bytes_min: 1 << 20,
            hot_keys_min: 4096,
            location_labels: ["zone", "rack", "host"].map(String::from).to_vec(),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            api_version: 1,
            replicas: 3,
            store_down_after: Duration::from_secs(30),
            store_lost_after: Duration::from_secs(1800),
            joint_patience: Duration::from_secs(10),
            hand_over_patience: Duration::from_secs(30),
            lookup_wait: Duration::from_secs(1),
            lookups_waiting_max: 10_000,
            timestamps_waiting_max: 100_000,
            resend_after: Duration::from_secs(1),
            operators_max: 4096,
            store_operators_max: 8,
            operators_kept_max: 256,
            operators_resting_max: 4096,
            id_step: 1000,
            timestamp_window: Duration::from_secs(3),
            sweep_regions_min: 256,
            // Four and a half minutes of ticks of 100 ms.
            sweep_ticks: 2700,
            transfer_deadline: Duration::from_secs(5),
            step_deadline: Duration::from_secs(10),
            swap_deadline: Duration::from_secs(30),
            catch_up_deadline: Duration::from_secs(60),
            resume_deadline: Duration::from_secs(600),
            back_off: Duration::from_secs(1),
            back_off_max: Duration::from_secs(600),
            journal: JournalSettings::default(),
            balance: BalanceSettings::default(),
            merge: MergeSettings::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// REGIONS §9: all regions within five minutes, a million of them at ticks of 100 ms.
    #[test]
    fn a_million_regions_are_swept_within_five_minutes() {
        let settings = Settings::default();
        for regions in [1usize, 1000, 691_200, 1_000_000, 10_000_000] {
            let ticks = regions.div_ceil(settings.sweep_regions(regions));
            assert!(ticks <= 3000, "{regions}: {ticks} ticks");
        }
        assert_eq!(settings.sweep_regions(3), 256, "a few at once");
    }
}
