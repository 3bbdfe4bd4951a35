//! Placement members whose disks are emptied (R7, R30): they are nobody's voters until the group took them in as new ones.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use proto::pdpb;
use proto::pdpb::pd_client::PdClient;
use tests::{Cluster, Wanted, wait_for};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

use super::ONE_AT_A_TIME;

/// More ids than a leader takes from the replicated state at once, so that each such step is a write.
const IDS: u32 = 10_000;
/// Time in which a majority would have elected a leader several times over.
const ELECTIONS: Duration = Duration::from_secs(5);

/// A client that asks whoever leads for ids and timestamps, and sees to it that neither goes back.
struct Oracle {
    addresses: Vec<String>,
    id: u64,
    timestamp: (i64, i64),
}

impl Oracle {
    fn new(cluster: &Cluster) -> Self {
        Self {
            addresses: cluster.placement(),
            id: 0,
            timestamp: (0, 0),
        }
    }

    /// Takes ids and a timestamp.
    ///
    /// # Panics
    /// Either is not above all before.
    async fn advance(&mut self) -> Result<()> {
        let (mut leader, members) = find(&self.addresses).await?;
        let header = Some(pdpb::RequestHeader {
            cluster_id: members.header.unwrap_or_default().cluster_id,
            ..Default::default()
        });
        let request = pdpb::AllocIdRequest {
            header: header.clone(),
            count: IDS,
        };
        let answer = leader.alloc_id(request).await?.into_inner();
        let error = answer.header.and_then(|header| header.error);
        ensure!(error.is_none(), "{error:?}");
        // The answer names the last of them.
        let first = answer.id + 1 - u64::from(answer.count);
        assert!(first > self.id, "id {first} after {}", self.id);
        self.id = answer.id;

        let request = pdpb::TsoRequest {
            header,
            count: 1,
            ..Default::default()
        };
        let requests = futures::stream::iter([request]);
        let mut answers = leader.tso(requests).await?.into_inner();
        let answer = answers.message().await?.context("a timestamp")?;
        let timestamp = answer.timestamp.context("a timestamp")?;
        let timestamp = (timestamp.physical, timestamp.logical);
        assert!(
            timestamp > self.timestamp,
            "timestamp {timestamp:?} after {:?}",
            self.timestamp
        );
        self.timestamp = timestamp;
        Ok(())
    }

    async fn wait(&mut self) -> Result<()> {
        wait_for("placement gives ids and timestamps", async || {
            self.advance().await.map(|()| true)
        })
        .await
    }
}

/// The leader, and what some member says of all.
async fn find(addresses: &[String]) -> Result<(PdClient<Channel>, pdpb::GetMembersResponse)> {
    let connect = async |address: &str| -> Result<PdClient<Channel>> {
        let url = format!("http://{}", address.trim_start_matches("http://"));
        let endpoint = Endpoint::from_shared(url)?
            .connect_timeout(Duration::from_secs(1))
            .timeout(Duration::from_secs(3));
        Ok(PdClient::new(endpoint.connect().await?))
    };
    for address in addresses {
        let Ok(mut client) = connect(address).await else {
            continue;
        };
        let request = pdpb::GetMembersRequest::default();
        let Ok(members) = client.get_members(request).await else {
            continue;
        };
        let members = members.into_inner();
        if let Some(leader) = &members.leader {
            let url = leader.client_urls.first().context("a URL")?;
            return Ok((connect(url).await?, members));
        }
    }
    bail!("no member knows a leader")
}

/// An oracle that is asked all the time.
struct Asking {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    task: JoinHandle<Oracle>,
}

impl Asking {
    fn start(cluster: &Cluster) -> Self {
        let (stop, answered) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let mut oracle = Oracle::new(cluster);
        let (stopped, count) = (stop.clone(), answered.clone());
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                if oracle.advance().await.is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            oracle
        });
        Self {
            stop,
            answered,
            task,
        }
    }

    /// Waits until it was answered some more times.
    async fn make_progress(&self) -> Result<()> {
        let goal = self.answered.load(Ordering::Relaxed) + 5;
        wait_for("placement answers", async || {
            ensure!(!self.task.is_finished(), "something went back");
            Ok(self.answered.load(Ordering::Relaxed) >= goal)
        })
        .await
    }

    async fn stop(self) -> Result<Oracle> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.task.await?)
    }
}

/// A cluster with one store, whose placement has given ids.
struct Group {
    cluster: Cluster,
    oracle: Oracle,
    /// Who leads.
    leader: String,
    others: [String; 2],
}

impl Group {
    async fn start() -> Result<Self> {
        let cluster = Cluster::start(Wanted::of(1, 3))?;
        let mut oracle = Oracle::new(&cluster);
        oracle.wait().await?;
        let leader = cluster.placement_leader()?;
        let mut others = cluster.names("placement")?;
        others.retain(|name| *name != leader);
        let others = <[String; 2]>::try_from(others);
        Ok(Self {
            cluster,
            oracle,
            leader,
            others: others.map_err(|others| anyhow!("three members, not {others:?}"))?,
        })
    }
}

/// Kills a placement member and takes its disk away.
fn empty(cluster: &Cluster, name: &str, shelf: Option<&Path>) -> Result<()> {
    cluster.dev(&["kill", name])?;
    let directory = cluster.dir().join(name);
    match shelf {
        Some(shelf) => std::fs::rename(&directory, shelf)?,
        None => std::fs::remove_dir_all(&directory)?,
    }
    Ok(())
}

/// The ids of the members by address, as a member knows them, if all vote, this one among them.
fn voters(cluster: &Cluster, name: &str) -> Result<BTreeMap<String, u64>> {
    let health = cluster.health(name)?;
    let members = health["members"].as_array().context("members")?;
    let voter = |member: &serde_json::Value| {
        ensure!(member["votes"] == true, "{name} tells of {member}");
        let address = member["address"].as_str().context("an address")?;
        Ok((address.to_owned(), member["id"].as_u64().context("an id")?))
    };
    let voters: BTreeMap<String, u64> = members.iter().map(voter).collect::<Result<_>>()?;
    // One that is about to be taken in knows the group of before.
    let log = cluster.log(name)?;
    let (_, started) = log.rsplit_once("starting member=").context("its start")?;
    let me = started.split(' ').next().unwrap_or_default();
    ensure!(
        voters.values().any(|id| id.to_string() == me),
        "{name} is {me}, and not one of {voters:?}"
    );
    ensure!(
        !started.contains("asking to be taken in")
            || started.contains("taken in: this member votes"),
        "{name} is being taken in"
    );
    Ok(voters)
}

/// Waits until every member says that the same three vote, and placement tells clients of these.
async fn whole(cluster: &Cluster) -> Result<BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    wait_for("three members vote", async || {
        let told: Vec<_> = cluster
            .names("placement")?
            .iter()
            .map(|name| voters(cluster, name))
            .collect::<Result<_>>()?;
        ensure!(
            told.len() == 3 && told.iter().all(|one| one.len() == 3 && *one == told[0]),
            "{told:?}"
        );
        let (_, members) = find(&cluster.placement()).await?;
        let mut ids: Vec<u64> = members.members.iter().map(|one| one.member_id).collect();
        let mut expected: Vec<u64> = told[0].values().copied().collect();
        ids.sort_unstable();
        expected.sort_unstable();
        ensure!(ids == expected, "clients are told of {ids:?}");
        all = told[0].clone();
        Ok(true)
    })
    .await?;
    Ok(all)
}

/// What two of three members acknowledged is on the disks of those two. One of them is emptied, the other is down, and the
/// third, which was down before, starts beside the emptied one: together they are no majority, and serve nothing until the
/// one that knows is back.
#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_member_does_not_bring_the_past_back() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Group {
        cluster,
        mut oracle,
        leader: knows,
        others: [emptied, late],
    } = Group::start().await?;
    let (emptied, late) = (&emptied, &late);

    cluster.dev(&["kill", late])?;
    oracle.wait().await?;
    cluster.dev(&["add-store"])?;
    let registered = cluster.store_id("store-2")?;
    oracle.wait().await?;
    // It does not register again.
    cluster.dev(&["kill", "store-2"])?;
    empty(&cluster, emptied, None)?;
    cluster.dev(&["kill", &knows])?;
    cluster.dev(&["restart", late])?;
    cluster.dev(&["restart", emptied])?;

    // That nothing happens can only be seen by looking for a while.
    let end = tokio::time::Instant::now() + ELECTIONS;
    while tokio::time::Instant::now() < end {
        if let Ok(leader) = cluster.placement_leader() {
            let stores = cluster.stores()?;
            oracle.wait().await?;
            bail!("{leader} serves and knows the stores {stores:?}; {registered} was registered");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let log = cluster.log(emptied)?;
    ensure!(log.contains("asking to be taken in"), "{log}");

    cluster.dev(&["restart", &knows])?;
    whole(&cluster).await?;
    oracle.wait().await?;
    ensure!(
        cluster.stores()?.contains(&registered),
        "store {registered} is forgotten"
    );
    // The one that was taken in is a voter like any other.
    cluster.dev(&["kill", &knows])?;
    oracle.wait().await?;
    ensure!(
        cluster.stores()?.contains(&registered),
        "store {registered} is forgotten"
    );
    cluster.dev(&["restart", "store-2"])?;
    ensure!(cluster.store_id("store-2")? == registered);
    cluster.dev(&["restart", &knows])?;
    whole(&cluster).await?;
    cluster.passed();
    Ok(())
}

/// The disk of each member in turn, the leader's as well, is replaced by an empty one while ids and timestamps are asked for
/// and a store joins. Each comes back by itself, as another member; in the end nothing is left of the first disks, and nothing
/// was forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn emptied_members_are_taken_in_one_after_the_other() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let cluster = Cluster::start(Wanted::of(1, 3))?;
    let asking = Asking::start(&cluster);
    let first = whole(&cluster).await?;
    let mut before = first.clone();
    for (number, name) in cluster.names("placement")?.iter().enumerate() {
        asking.make_progress().await?;
        empty(&cluster, name, None)?;
        asking.make_progress().await?;
        if number == 0 {
            cluster.dev(&["add-store"])?;
        }
        cluster.dev(&["restart", name])?;
        let now = whole(&cluster).await?;
        let changed = now.iter().filter(|(address, id)| before[*address] != **id);
        ensure!(changed.count() == 1, "{before:?} became {now:?}");
        before = now;
    }
    ensure!(before.iter().all(|(address, id)| first[address] != *id));
    let registered = cluster.store_id("store-2")?;

    // A majority of the new ones is enough.
    let leader = cluster.placement_leader()?;
    cluster.dev(&["kill", &leader])?;
    asking.make_progress().await?;
    cluster.dev(&["restart", &leader])?;
    whole(&cluster).await?;
    // All stop, and what they find when they start again is on the new disks only.
    let mut oracle = asking.stop().await?;
    cluster.dev(&["stop"])?;
    cluster.start_again()?;
    oracle.wait().await?;
    ensure!(cluster.store_id("store-2")? == registered);
    cluster.passed();
    Ok(())
}

/// R19: the disk that was replaced comes back. Its process ends, and says why and what to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_disk_is_refused_for_good() -> Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Group {
        cluster,
        mut oracle,
        others: [name, _],
        ..
    } = Group::start().await?;
    let name = &name;
    let shelf = cluster.dir().join("shelf");
    empty(&cluster, name, Some(&shelf))?;
    cluster.dev(&["restart", name])?;
    whole(&cluster).await?;
    empty(&cluster, name, None)?;
    std::fs::rename(&shelf, cluster.dir().join(name))?;
    // The first start learns it from the others, the second one from the disk.
    for start in 1..=2 {
        let status = cluster.serve_placement(name)?.ended().await?;
        let log = cluster.log(name)?;
        ensure!(
            status.code() == Some(8) && log.matches("took the place of this one").count() >= start,
            "start {start} ended with {status}: {log}"
        );
    }
    std::fs::remove_dir_all(cluster.dir().join(name))?;
    cluster.dev(&["restart", name])?;
    whole(&cluster).await?;
    oracle.wait().await?;
    cluster.passed();
    Ok(())
}
