//! `pontoon verify replicas`: whether all replicas of each region store the same.
//!
//! Who asks walks along the keys and has the leader of each region verify it, so that nothing is left out however regions split,
//! merge and move meanwhile. A few walk at a time, each through a part of the keys.

use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Args;
use client::{Cause, Options, Replicas};
use futures::future::try_join_all;
use indicatif::ProgressBar;
use proto::{
    RegionId, StoreId,
    pontoon::v1::{VerifiedPeer, VerifyRegionResponse, verified_peer::Outcome},
};
use serde::Serialize;

use crate::{
    cli::{Shown, Target, escape_boundary},
    dev::Interrupts,
    exit::{Failure, Kind, Result, chain},
    output::{self, thousands},
    remote::{Region, Remote},
};

/// Regions that are verified at a time. Each store reads one of them at a time.
const WALKERS: usize = 4;
/// Before a region is asked for again.
const PAUSE: Duration = Duration::from_millis(500);

/// Check that all replicas of a region store the same.
///
/// Each region's leader has all members digest what they store, as of one entry of its log, and compares: bytes that rotted are
/// found, also where no read would meet them. Stores read no faster than `verify.bytes_per_second`. Exits with 1 if replicas
/// differ, cannot be read, or could not be compared.
#[derive(Debug, Args)]
pub struct ReplicasArgs {
    /// This region and no other
    #[arg(long, value_name = "ID")]
    region: Option<u64>,
    /// How long a region may take, with finding its leader and waiting for busy stores
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    region_timeout: Duration,
    #[command(flatten)]
    cluster: Target,
    #[command(flatten)]
    shown: Shown,
}

/// What is printed.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Report {
    regions: u64,
    /// Regions whose members all store the same.
    same: u64,
    /// Regions of which members differ.
    differing: u64,
    /// Regions of which members could not read what they store.
    unreadable: u64,
    /// Regions of which not every member was heard, and nothing else is known to be wrong.
    not_compared: u64,
    peers: u64,
    /// Of one replica of each region.
    keys: u64,
    bytes: u64,
    /// All but the same.
    found: Vec<Found>,
}

/// A region whose members are not known to store the same.
#[derive(Debug, PartialEq, Serialize)]
struct Found {
    /// 0 when nobody knows which it is.
    region: u64,
    start: String,
    end: String,
    peers: Vec<Member>,
    /// Why nothing was compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Member {
    store: u64,
    peer: u64,
    /// `same`, `differs`, `unreadable`, `busy` or `silent`.
    outcome: &'static str,
    keys: u64,
    bytes: u64,
    digest: String,
}

impl From<&VerifiedPeer> for Member {
    fn from(verified: &VerifiedPeer) -> Self {
        let peer = verified.peer.unwrap_or_default();
        Self {
            store: peer.store_id,
            peer: peer.id,
            outcome: match verified.outcome() {
                Outcome::Read if verified.differs => "differs",
                Outcome::Read => "same",
                Outcome::Unreadable => "unreadable",
                Outcome::Busy => "busy",
                Outcome::Silent => "silent",
            },
            keys: verified.keys,
            bytes: verified.bytes,
            digest: format!("{:016x}", verified.value),
        }
    }
}

impl Report {
    /// Takes in what came of a region.
    fn add(&mut self, response: &VerifyRegionResponse) {
        let peers: Vec<Member> = response.peers.iter().map(Member::from).collect();
        let any = |outcome: &str| peers.iter().any(|peer| peer.outcome == outcome);
        let largest = peers.iter().max_by_key(|peer| peer.bytes);
        self.regions += 1;
        self.peers += peers.len() as u64;
        self.keys += largest.map_or(0, |peer| peer.keys);
        self.bytes += largest.map_or(0, |peer| peer.bytes);
        let count = if any("differs") {
            &mut self.differing
        } else if any("unreadable") {
            &mut self.unreadable
        } else if any("busy") || any("silent") {
            &mut self.not_compared
        } else {
            self.same += 1;
            return;
        };
        *count += 1;
        let region = response.region.clone().unwrap_or_default();
        self.found.push(Found {
            region: region.id,
            start: escape_boundary(&region.start_key, "-inf"),
            end: escape_boundary(&region.end_key, "+inf"),
            peers,
            why: None,
        });
    }

    /// Nothing came of what begins at a key.
    fn add_unknown(&mut self, region: Option<&Region>, at: &[u8], why: String) {
        self.regions += 1;
        self.not_compared += 1;
        self.found.push(Found {
            region: region.map_or(0, |region| region.id),
            start: escape_boundary(at, "-inf"),
            end: region.map_or_else(String::new, |region| {
                escape_boundary(&region.end_key, "+inf")
            }),
            peers: Vec::new(),
            why: Some(why),
        });
    }

    fn table(&self) -> String {
        let mut text = output::facts([
            ("regions", thousands(self.regions)),
            ("replicas", thousands(self.peers)),
            ("keys", thousands(self.keys)),
            ("bytes", thousands(self.bytes)),
            ("same", thousands(self.same)),
            ("differing", thousands(self.differing)),
            ("unreadable", thousands(self.unreadable)),
            ("not compared", thousands(self.not_compared)),
        ]);
        if self.found.is_empty() {
            return text;
        }
        let rows = self.found.iter().flat_map(|found| {
            let range = format!("[{}, {})", found.start, found.end);
            let of_peer = |peer: &Member| {
                let digest = match peer.outcome {
                    "same" | "differs" => peer.digest.clone(),
                    _ => String::new(),
                };
                [
                    found.region.to_string(),
                    range.clone(),
                    peer.store.to_string(),
                    peer.peer.to_string(),
                    peer.outcome.to_owned(),
                    thousands(peer.keys),
                    thousands(peer.bytes),
                    digest,
                ]
            };
            let mut rows: Vec<_> = found.peers.iter().map(of_peer).collect();
            if let Some(why) = &found.why {
                let mut row = [const { String::new() }; 8];
                row[0] = found.region.to_string();
                row[1] = range.clone();
                row[4] = why.clone();
                rows.push(row);
            }
            rows
        });
        text.push('\n');
        text.push_str(&output::rows(
            [
                "REGION", "RANGE", "STORE", "PEER", "OUTCOME", "KEYS", "BYTES", "DIGEST",
            ],
            rows,
        ));
        text
    }

    /// What the command ends with.
    fn judge(&self) -> Result<()> {
        if self.same == self.regions {
            return Ok(());
        }
        Err(Failure::new(
            Kind::Lost,
            format!(
                "of {} regions {} differ, {} have replicas that cannot be read, {} could not be compared",
                self.regions, self.differing, self.unreadable, self.not_compared
            ),
        ))
    }
}

/// Runs the command.
///
/// # Errors
/// [`Kind::Lost`] unless all replicas store the same; otherwise what kept it from going on.
pub async fn run(args: ReplicasArgs) -> Result<()> {
    let mut interrupts = Interrupts::new()?;
    let bar = ProgressBar::new_spinner();
    bar.enable_steady_tick(Duration::from_millis(200));
    let walk = Walk {
        remote: args.cluster.remote(),
        replicas: Replicas::new(Options::default().connect_timeout),
        addresses: Mutex::default(),
        limit: args.region_timeout,
        report: Mutex::default(),
        bar: &bar,
    };
    let walked = tokio::select! {
        walked = walk.all(args.region) => walked,
        () = interrupts.next() => Err(Failure::new(Kind::Interrupted, "interrupted")),
    };
    bar.finish_and_clear();
    walked?;
    let report = walk.report.into_inner().expect("nobody panicked with it");
    output::print(args.shown.output, &report, Report::table)?;
    report.judge()
}

/// Where the next region is.
#[derive(Clone, Copy, Debug)]
enum Next<'a> {
    /// It holds this key.
    At(&'a Bytes),
    /// It has this id.
    Named(u64),
}

struct Walk<'a> {
    remote: Remote,
    replicas: Replicas,
    addresses: Mutex<BTreeMap<u64, String>>,
    limit: Duration,
    report: Mutex<Report>,
    bar: &'a ProgressBar,
}

impl Walk<'_> {
    async fn all(&self, region: Option<u64>) -> Result<()> {
        if let Some(id) = region {
            return self.step(Next::Named(id)).await.map(drop);
        }
        let regions = self.remote.regions(b"", b"").await?;
        let starts: Vec<Bytes> = regions
            .chunks(regions.len().div_ceil(WALKERS).max(1))
            .skip(1)
            .map(|chunk| chunk[0].start_key.clone())
            .collect();
        let first = std::iter::once(Bytes::new());
        let ends = starts.iter().cloned().chain([Bytes::new()]);
        let parts = first.chain(starts.iter().cloned()).zip(ends);
        try_join_all(parts.map(|(start, end)| self.part(start, end)))
            .await
            .map(drop)
    }

    /// Walks through `[start, end)`, of which an empty end is infinite.
    async fn part(&self, start: Bytes, end: Bytes) -> Result<()> {
        let mut at = start;
        loop {
            let next = self.step(Next::At(&at)).await?;
            if next.is_empty() || (!end.is_empty() && next >= end) {
                return Ok(());
            }
            at = next;
        }
    }

    /// Has one region verified, for as long as that takes. Returns where the next one begins.
    async fn step(&self, next: Next<'_>) -> Result<Bytes> {
        let deadline = Instant::now() + self.limit;
        let mut hint = None;
        let mut last: Option<VerifyRegionResponse> = None;
        loop {
            let region = match next {
                Next::At(key) => self.remote.region_at(key).await?,
                Next::Named(id) => Some(self.remote.region(id).await?),
            };
            let holds = |region: &Region| match next {
                Next::At(key) => region.holds(key),
                Next::Named(id) => region.id == id,
            };
            let why = match region.as_ref().filter(|region| holds(region)) {
                None => "no region is known there".to_owned(),
                Some(region) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    match self.ask(region, hint.take(), left).await {
                        Ok(response) => {
                            let of = response.region.clone().unwrap_or_default();
                            let fits = match next {
                                Next::At(key) => {
                                    of.start_key <= *key
                                        && (of.end_key.is_empty() || *key < of.end_key)
                                }
                                Next::Named(_) => true,
                            };
                            let busy = |peer: &VerifiedPeer| peer.outcome() == Outcome::Busy;
                            if !fits {
                                "the region changed".to_owned()
                            } else if response.peers.iter().any(busy) {
                                last = Some(response);
                                "its stores are busy".to_owned()
                            } else {
                                self.note(|report| report.add(&response));
                                return Ok(of.end_key);
                            }
                        }
                        Err(cause) => {
                            if let Cause::NotLeader { leader } = &cause {
                                hint = leader.map(|leader| leader.store_id);
                            }
                            chain(&cause)
                        }
                    }
                }
            };
            if Instant::now() + PAUSE > deadline {
                if let Some(response) = last {
                    self.note(|report| report.add(&response));
                    return Ok(response.region.unwrap_or_default().end_key);
                }
                let at = match (next, &region) {
                    (Next::At(key), _) => key.clone(),
                    (Next::Named(_), Some(region)) => region.start_key.clone(),
                    (Next::Named(_), None) => Bytes::new(),
                };
                let known = region.as_ref().filter(|region| holds(region));
                self.note(|report| report.add_unknown(known, &at, why));
                // Where nothing is known what follows is.
                return Ok(match (known, region.as_ref()) {
                    (Some(region), _) => region.end_key.clone(),
                    (None, Some(region)) if region.start_key > at => region.start_key.clone(),
                    (None, _) => Bytes::new(),
                });
            }
            if hint.is_none() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Asks the store that leads, as placement or another store says.
    async fn ask(
        &self,
        region: &Region,
        hint: Option<u64>,
        limit: Duration,
    ) -> Result<VerifyRegionResponse, Cause> {
        let Some(store) = hint.or(region.leader_store) else {
            return Err(Cause::NotLeader { leader: None });
        };
        let address = self.address(store).await?;
        let asked = self
            .replicas
            .verify(StoreId(store), &address, RegionId(region.id), limit)
            .await;
        if matches!(asked, Err(Cause::Unreachable { .. })) {
            self.addresses().remove(&store);
        }
        asked
    }

    async fn address(&self, store: u64) -> Result<String, Cause> {
        if let Some(known) = self.addresses().get(&store) {
            return Ok(known.clone());
        }
        let placement = |why: String| Cause::Placement { why };
        let stores = self.remote.stores().await;
        let stores = stores.map_err(|failure| placement(failure.to_string()))?;
        let mut addresses = self.addresses();
        *addresses = stores
            .into_iter()
            .map(|store| (store.id, store.address))
            .collect();
        let known = addresses.get(&store).cloned();
        known.ok_or_else(|| placement(format!("it knows no store {store}")))
    }

    fn addresses(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, String>> {
        self.addresses.lock().expect("nobody panics with it")
    }

    fn note(&self, change: impl FnOnce(&mut Report)) {
        let mut report = self.report.lock().expect("nobody panics with it");
        change(&mut report);
        self.bar.set_message(format!(
            "{} regions with {} bytes are verified, {} are not the same",
            thousands(report.regions),
            thousands(report.bytes),
            thousands(report.regions - report.same),
        ));
    }
}

#[cfg(test)]
mod tests {
    use proto::metapb;

    use super::*;

    fn peer(store: u64, outcome: Outcome, differs: bool) -> VerifiedPeer {
        VerifiedPeer {
            peer: Some(metapb::Peer {
                id: 10 + store,
                store_id: store,
                ..Default::default()
            }),
            outcome: outcome.into(),
            keys: 3,
            bytes: 30,
            value: 7,
            differs,
        }
    }

    fn response(peers: [VerifiedPeer; 3]) -> VerifyRegionResponse {
        VerifyRegionResponse {
            region: Some(metapb::Region {
                id: 1,
                ..Default::default()
            }),
            peers: peers.into(),
            ..Default::default()
        }
    }

    fn read(store: u64) -> VerifiedPeer {
        peer(store, Outcome::Read, false)
    }

    #[test]
    fn only_what_is_the_same_everywhere_passes() {
        let mut report = Report::default();
        report.add(&response([read(1), read(2), read(3)]));
        assert!(report.judge().is_ok());
        assert_eq!((report.same, report.keys, report.bytes), (1, 3, 30));
        let others = [
            peer(3, Outcome::Read, true),
            peer(3, Outcome::Unreadable, false),
            peer(3, Outcome::Busy, false),
            peer(3, Outcome::Silent, false),
        ];
        for other in others {
            report.add(&response([read(1), read(2), other]));
        }
        report.add_unknown(None, b"k", "nobody leads".to_owned());
        let counts = [
            report.regions,
            report.same,
            report.differing,
            report.unreadable,
            report.not_compared,
        ];
        assert_eq!(counts, [6, 1, 1, 1, 3]);
        assert_eq!(report.judge().expect_err("not all").kind(), Kind::Lost);
        let table = report.table();
        for word in ["differs", "unreadable", "busy", "silent", "nobody leads"] {
            assert!(table.contains(word), "{table}");
        }
    }
}
