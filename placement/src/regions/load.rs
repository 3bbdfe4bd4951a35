//! Averages of the load of a region, over the reports of its leaders.
//!
//! A leader tells sums over a window of about a minute. Right after an election or a split that window is short, and what
//! happens in a moment says little. So a rate over a short time is weighed with what is known of the same range; where
//! nothing is known, it counts as spread over a least time.

use std::time::Duration;

use super::RegionInfo;

/// Time over which the averages are meant.
const WINDOW: Duration = Duration::from_secs(60);

/// A first report over less than this says little.
const LEAST: Duration = Duration::from_secs(10);

/// More than any region has of anything, and little enough that sums over all regions and stores are numbers.
const FIGURE_MAX: u64 = 1 << 40;

/// Takes figures that cannot be for the largest that can: what a leader tells is outside data (R34).
pub(super) fn bound(report: &mut RegionInfo) {
    for figure in [
        &mut report.bytes,
        &mut report.keys,
        &mut report.written_bytes,
        &mut report.written_keys,
        &mut report.read_bytes,
        &mut report.read_keys,
        &mut report.write_requests,
        &mut report.read_requests,
    ] {
        *figure = (*figure).min(FIGURE_MAX);
    }
}

/// Turns the rates of a report into averages over [`WINDOW`]; `known` is what was known of the region before.
pub(super) fn average(report: &mut RegionInfo, known: Option<&RegionInfo>) {
    if report.interval >= WINDOW || report.interval.is_zero() {
        return;
    }
    let version = report.epoch().version;
    let told = report.interval.as_millis() as u64;
    let known = known.filter(|known| known.epoch().version == version);
    let rates = |info: &RegionInfo| {
        [
            info.written_bytes,
            info.written_keys,
            info.read_bytes,
            info.read_keys,
            info.write_requests,
            info.read_requests,
        ]
    };
    let mut averages = rates(report);
    match known.map(rates) {
        Some(known) => {
            let window = WINDOW.as_millis() as u64;
            for (rate, known) in averages.iter_mut().zip(known) {
                *rate = weigh(*rate, told, known, window - told);
            }
        }
        None => {
            let least = LEAST.as_millis() as u64;
            for rate in &mut averages {
                *rate = weigh(*rate, told, 0, least.saturating_sub(told));
            }
        }
    }
    [
        report.written_bytes,
        report.written_keys,
        report.read_bytes,
        report.read_keys,
        report.write_requests,
        report.read_requests,
    ] = averages;
}

/// The mean of two rates by the times they stand for, rounded to the nearest.
fn weigh(rate: u64, time: u64, other: u64, other_time: u64) -> u64 {
    let sum = u128::from(rate) * u128::from(time) + u128::from(other) * u128::from(other_time);
    let whole = u128::from(time + other_time);
    u64::try_from((sum + whole / 2) / whole).expect("a mean is not above both")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::metapb;

    use super::*;

    fn told(version: u64, seconds: u64, rate: u64) -> RegionInfo {
        RegionInfo {
            region: metapb::Region {
                region_epoch: Some(metapb::RegionEpoch {
                    conf_ver: 1,
                    version,
                }),
                ..Default::default()
            },
            written_bytes: rate,
            read_requests: 2 * rate,
            interval: Duration::from_secs(seconds),
            ..RegionInfo::default()
        }
    }

    fn averaged(mut report: RegionInfo, known: Option<&RegionInfo>) -> (u64, u64) {
        average(&mut report, known);
        (report.written_bytes, report.read_requests)
    }

    #[test]
    fn short_reports_weigh_little() {
        let known = told(3, 60, 600);
        assert_eq!(
            averaged(told(3, 60, 0), Some(&known)),
            (0, 0),
            "a whole window stands for itself"
        );
        assert_eq!(
            averaged(told(3, 6, 0), Some(&known)),
            (540, 1080),
            "a tenth weighs a tenth"
        );
        assert_eq!(
            averaged(told(4, 20, 90), Some(&known)),
            (90, 180),
            "another range is no measure"
        );
        assert_eq!(
            averaged(told(1, 1, 100), None),
            (10, 20),
            "a second counts as spread over ten"
        );
        assert_eq!(
            averaged(told(1, 0, 7), None),
            (7, 14),
            "an estimate is taken as it is"
        );
    }

    proptest! {
        /// Reports that repeat one rate lead to that rate, whatever was there and however short they are.
        #[test]
        fn a_steady_rate_is_reached(first in 0u64..1_000_000, rate in 0u64..1_000_000, seconds in 1u64..90) {
            let mut known = told(1, 60, first);
            for _ in 0..4_000 {
                let mut report = told(1, seconds, rate);
                average(&mut report, Some(&known));
                let (low, high) = (known.written_bytes.min(rate), known.written_bytes.max(rate));
                prop_assert!((low..=high).contains(&report.written_bytes));
                known = report;
            }
            let off = known.written_bytes.abs_diff(rate);
            prop_assert!(off * seconds <= 60, "{off} off after reports of {seconds} s");
        }
    }
}
