//! `ScatterRegion` and `SplitAndScatterRegions`: regions go apart, and those that could not at once are asked for again.

use std::time::Duration;

use placement::{Answer, Refusal, Request as Ask};
use proto::{RegionId, pdpb};

use super::split::{self, Found};
use crate::placement_process::Placement;

/// The most tries a caller gets.
const TRIES_MAX: u64 = 10;
/// Between two tries. What is in the way is an operator, or a leader that has not reported yet.
const AGAIN: Duration = Duration::from_secs(1);

/// What came of scattering.
pub(super) struct Scattered {
    asked: usize,
    /// Regions that nothing was begun with.
    pub failed: Vec<RegionId>,
}

impl Scattered {
    /// Of 100 regions, how many go where they should be, or are there.
    pub fn percentage(&self) -> u64 {
        let done = self.asked.saturating_sub(self.failed.len());
        (done * 100).checked_div(self.asked).unwrap_or(100) as u64
    }
}

/// Begins to spread regions, in one try and `retry_limit` more for those that have something else under way.
///
/// # Errors
/// The machine's refusal of the first try.
pub(super) async fn scatter(
    placement: &Placement,
    regions: Vec<RegionId>,
    retry_limit: u64,
) -> Result<Scattered, Refusal> {
    let asked = regions.len();
    let mut failed = ask(placement, regions).await?;
    for _ in 0..retry_limit.min(TRIES_MAX) {
        if failed.is_empty() {
            break;
        }
        // What is asked for changes with reports of regions, which nobody is told of here.
        tokio::time::sleep(AGAIN).await;
        match ask(placement, failed.clone()).await {
            Ok(left) => failed = left,
            // What was begun stays begun, and the caller learns of the rest.
            Err(_) => break,
        }
    }
    Ok(Scattered { asked, failed })
}

async fn ask(placement: &Placement, regions: Vec<RegionId>) -> Result<Vec<RegionId>, Refusal> {
    match placement.ask(Ask::Scatter(regions)).await? {
        Answer::Scattered { failed } => Ok(failed),
        other => unreachable!("scattering is answered with what failed, not {other:?}"),
    }
}

/// The regions of a request; the older form names one.
pub(super) fn named(request: pdpb::ScatterRegionRequest) -> Vec<RegionId> {
    let mut regions = request.regions_id;
    if regions.is_empty() {
        let told = request.region.map(|region| region.id);
        let told = told.into_iter().chain([request.region_id]);
        regions.extend(told.filter(|id| *id != 0).take(1));
    }
    regions.into_iter().map(RegionId).collect()
}

/// Splits at keys, and then spreads the pieces that begin there.
///
/// # Errors
/// A refusal of splitting that asking again does not change, or of the first try to scatter.
pub(super) async fn split_and_scatter(
    placement: &Placement,
    request: pdpb::SplitAndScatterRegionsRequest,
) -> Result<(Found, Scattered), Refusal> {
    let found = split::split_at(placement, request.split_keys, request.retry_limit).await?;
    let scattered = match found.done.is_empty() {
        true => Scattered {
            asked: 0,
            failed: Vec::new(),
        },
        false => scatter(placement, found.done.clone(), request.retry_limit).await?,
    };
    Ok((found, scattered))
}
