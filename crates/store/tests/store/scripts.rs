//! Scenarios as text: commands, each followed by what it showed, as lines that begin with `>`.
//!
//! | Command | Does |
//! |---|---|
//! | `cluster STORES` | starts stores without regions; regions follow before anything else |
//! | `region ID START END STORE…` | a first region; `-` is an empty key; peers are numbered region × 10 + store |
//! | `lead REGION STORE` | makes a store the leader |
//! | `put REGION KEY VALUE`, `get REGION KEY` | through the leader |
//! | `split REGION KEY…` | through the leader; shows the children |
//! | `learner REGION PEER STORE`, `swap REGION PROMOTE DEMOTE`, `remove REGION PEER` | the steps of a move |
//! | `order REGION add PEER STORE`, `order REGION swap PROMOTE DEMOTE` | only asks, and shows the answer |
//! | `crash STORE kill\|power`, `restart STORE`, `isolate STORE`, `heal` | faults |
//! | `hold apply\|log\|tasks STORE`, `release` | stops a stage of a store |
//! | `tick N` | lets time pass |
//! | `show` | every store with its regions: range, conf_ver.version, its peer and what that does, members |
//!
//! `STORE_SCRIPTS=record cargo test -p store scripts` writes the output anew; read the difference as carefully as code.

use std::fmt::Write as _;
use std::path::PathBuf;

use proto::metapb::{self, PeerRole};
use raft::{PeerId, Role};
use store::event::OrderKind;

use crate::harness::*;

fn number(word: Option<&str>) -> u64 {
    word.and_then(|word| word.parse().ok()).expect("a number")
}

fn key(word: Option<&str>) -> String {
    word.map(|word| if word == "-" { "" } else { word })
        .expect("a key")
        .to_owned()
}

#[derive(Default)]
struct Runner {
    stores: u64,
    regions: Vec<metapb::Region>,
    cluster: Option<Cluster>,
}

impl Runner {
    fn cluster(&mut self) -> &mut Cluster {
        let (stores, regions) = (self.stores, &self.regions);
        self.cluster
            .get_or_insert_with(|| Cluster::new(stores, regions))
    }

    /// Carries out a command and returns what it shows.
    fn run(&mut self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let command = words.next().expect("a command");
        match command {
            "cluster" => self.stores = number(words.next()),
            "region" => {
                let id = number(words.next());
                let (start, end) = (key(words.next()), key(words.next()));
                let stores: Vec<u64> = words.map(|word| number(Some(word))).collect();
                self.regions.push(region(id, &start, &end, &stores));
            }
            "lead" => {
                let (id, store) = (number(words.next()), number(words.next()));
                self.cluster().elect_at(r(id), store);
            }
            "put" => {
                let (id, key, value) = (number(words.next()), key(words.next()), key(words.next()));
                self.cluster().put(r(id), &key, &value);
            }
            "get" => {
                let (id, key) = (number(words.next()), key(words.next()));
                return format!("{:?}\n", self.cluster().get(r(id), &key));
            }
            "split" => {
                let id = number(words.next());
                let keys: Vec<&str> = words.collect();
                return format!("{:?}\n", self.cluster().split(r(id), &keys));
            }
            "learner" => {
                let (id, peer, store) = (
                    number(words.next()),
                    number(words.next()),
                    number(words.next()),
                );
                self.cluster().add_learner(r(id), peer, store);
            }
            "swap" => {
                let (id, promote, demote) = (
                    number(words.next()),
                    number(words.next()),
                    number(words.next()),
                );
                self.cluster().swap_peers(r(id), promote, demote);
            }
            "remove" => {
                let (id, peer) = (number(words.next()), number(words.next()));
                self.cluster().remove_learner(r(id), peer);
            }
            "order" => {
                let id = number(words.next());
                let kind = match words.next().expect("an order") {
                    "add" => {
                        let (id, store_id) = (number(words.next()), number(words.next()));
                        let role = PeerRole::Learner as i32;
                        OrderKind::AddLearner(metapb::Peer {
                            id,
                            store_id,
                            role,
                            is_witness: false,
                        })
                    }
                    "swap" => {
                        let (promote, demote) =
                            (PeerId(number(words.next())), PeerId(number(words.next())));
                        OrderKind::EnterJoint {
                            promote: vec![promote],
                            demote: vec![demote],
                        }
                    }
                    other => panic!("no order {other}"),
                };
                return match self.cluster().order(r(id), kind) {
                    Ok(()) => "proposed\n".to_owned(),
                    Err(refusal) => format!("refused: {refusal}\n"),
                };
            }
            "crash" => {
                let store = s(number(words.next()));
                let mode = match words.next().expect("kill or power") {
                    "kill" => KILL,
                    "power" => POWER,
                    other => panic!("no crash by {other}"),
                };
                self.cluster().crash(store, mode);
            }
            "restart" => {
                let store = s(number(words.next()));
                self.cluster().restart(store);
                self.cluster().settle();
            }
            "isolate" => {
                let store = s(number(words.next()));
                self.cluster().isolate(store);
            }
            "heal" => self.cluster().heal(),
            "hold" => {
                let stage = words.next().expect("a stage").to_owned();
                let store = s(number(words.next()));
                let cluster = self.cluster();
                match stage.as_str() {
                    "apply" => cluster.hold_apply.insert(store),
                    "log" => cluster.hold_log.insert(store),
                    "tasks" => cluster.hold_tasks.insert(store),
                    other => panic!("no stage {other}"),
                };
            }
            "release" => {
                let cluster = self.cluster();
                cluster.hold_apply.clear();
                cluster.hold_log.clear();
                cluster.hold_tasks.clear();
                cluster.settle();
            }
            "tick" => {
                let count = number(words.next());
                self.cluster().ticks(count as usize);
            }
            "show" => return outline(self.cluster()),
            other => panic!("no command {other}"),
        }
        String::new()
    }
}

/// What is where, without what depends on how elections went.
fn outline(cluster: &Cluster) -> String {
    let mut text = String::new();
    for (store, node) in &cluster.nodes {
        let state = if node.store.is_none() { ", down" } else { "" };
        writeln!(text, "{store}{state}").expect("strings grow");
        for view in node.views.values() {
            let region = &view.region;
            let key = |key: &[u8]| {
                if key.is_empty() {
                    "-".to_owned()
                } else {
                    String::from_utf8_lossy(key).into_owned()
                }
            };
            let epoch = region.region_epoch.unwrap_or_default();
            let does = match (view.owns_range, view.role == Role::Leader) {
                (false, _) => "has no data",
                (true, true) => "leads",
                (true, false) => "follows",
            };
            let members = region
                .peers
                .iter()
                .map(|peer| format!("{:?} {}@{}", peer.role(), peer.id, peer.store_id));
            let members: Vec<String> = members.collect();
            writeln!(
                text,
                "  region {} [{}, {}) {}.{}: {} {does}; {}",
                region.id,
                key(&region.start_key),
                key(&region.end_key),
                epoch.conf_ver,
                epoch.version,
                view.peer,
                members.join(", ")
            )
            .expect("strings grow");
        }
    }
    text
}

#[test]
fn scripts() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let record = std::env::var("STORE_SCRIPTS").is_ok_and(|mode| mode == "record");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let script = std::fs::read_to_string(&path).expect("a script");
        let mut runner = Runner::default();
        let mut output = String::new();
        for line in script.lines().filter(|line| !line.starts_with('>')) {
            output.push_str(line);
            output.push('\n');
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            for shown in runner.run(line).lines() {
                writeln!(output, "> {shown}").expect("strings grow");
            }
        }
        if record {
            std::fs::write(&path, output).expect("the script is written");
        } else {
            assert_eq!(script, output, "{} shows something else", path.display());
        }
    }
}
