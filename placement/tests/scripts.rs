//! Scenarios as scripts: `tests/scripts/*.txt` hold commands and what the machine did in answer.
//!
//! A line that starts with `#` is a comment, one that starts with `>` is recorded output, any other is a command.
//! `RECORD=1 cargo test -p placement --test scripts` writes the output anew; read the difference as carefully as code.
//!
//! Commands: `lead TERM`, `lose`, `hold` and `release` (writes are applied at once unless held), `stale` (leadership is
//! lost with the held write on its way) and `late` (it arrives), `bootstrap STORE`,
//! `store ID ADDRESS [boot=N]`, `beat ID...`, `wait MS` (ticks every 100 ms, all beating stores beat), `silence ID`,
//! `damage STORE REGION...` (what the store tells from now on to be damaged there), `stop ID` (its process tells from now on
//! that it stops, until `store` starts another), `clock MS` (the wall clock jumps), `space ID BYTES` (free from its next beat on),
//! `report REGION [START,END) CONF:VERSION term=N leader=PEER PEERS... [pending=IDS] [bytes=N] [keys=N]
//! [reads=REQUESTS:BYTES] [writes=REQUESTS:BYTES] (per second) [interval=SECONDS] [down=ID:SECONDS,...]` with peers as `ID@STORE` and a suffix `L` learner, `I` incoming, `D` demoting, `split-report`, `own-split REGION STORE CAUSE CONF:VERSION at|not TEXT... NAME=NUMBER...` (a leader tells that it splits, or why not), `differ REGION STORE PEER OTHER INDEX` (a store tells of replicas that differ), `split REGION KEY...`,
//! `merge REGION [TARGET]`, `move REGION FROM TO`, `transfer REGION STORE`, `refuse OPERATOR STEP KIND region=N at=CONF:VERSION term=N`, `get KEY`, `previous KEY`, `scan START END`
//! (a key may be `k*N`: k, N times), `drain ID`, `undrain ID`, `remove ID`, `cancel OPERATOR`,
//! `scatter REGION...`, `rules`, `rule VERSION [GROUP INDEX RULE;...]` (see `rule`), `pause WHO MS`, `schedulers`, `journal [region=ID] [store=ID] [operator=ID]` (newest first), `label ID KEY=VALUE...`, `ids N`, `tso N`, `operators`, `stores`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use placement::rules::{Constraint, Group, Role, Rule, Test};
use placement::{
    Answer, BalanceSettings, Change, Effects, Event, JournalQuery, Now, Order, OrderKind,
    Placement, RegionInfo, Request, RequestId, Settings, Space, Write, decision::Who,
};
use proto::pontoon::v1::{
    Divergence, JournalEntry, JournalNumber, OwnSplit, StepId, StepRefusal, own_split, step_refusal,
};
use proto::{RegionId, StoreId, metapb, pdpb};

#[test]
fn scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .expect("the folder of scripts is there")
        .map(|entry| entry.expect("a folder entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let recorded = std::fs::read_to_string(&path).expect("a script is text");
        let actual = run(&recorded);
        if std::env::var_os("RECORD").is_some() {
            std::fs::write(&path, actual).expect("a script can be written");
        } else if actual != recorded {
            let (line, (want, got)) = recorded
                .lines()
                .zip(actual.lines())
                .enumerate()
                .find(|(_, (want, got))| want != got)
                .unwrap_or((0, ("the recorded length", "another length")));
            panic!(
                "{}:{}\n want {want}\n  got {got}\nall of it:\n{actual}",
                path.display(),
                line + 1
            );
        }
    }
}

fn run(script: &str) -> String {
    let mut world = World::new();
    let mut text = String::new();
    for line in script.lines() {
        if line.starts_with('>') {
            continue;
        }
        writeln!(text, "{line}").expect("a string grows");
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        for output in world.command(line) {
            writeln!(text, "> {output}").expect("a string grows");
        }
    }
    text
}

/// What every store has.
const SPACE: Space = Space {
    capacity_bytes: 1 << 40,
    available_bytes: 1 << 39,
    used_bytes: 0,
    regions: 0,
};

/// A machine, the region it writes to, and the clocks.
struct World {
    machine: Placement,
    region: BTreeMap<Bytes, Bytes>,
    now: Now,
    request: u64,
    hold: bool,
    held: Option<Write>,
    /// A write of a leadership that is over, still on its way.
    stale: Option<Write>,
    beating: BTreeSet<u64>,
    /// Regions that stores tell to be damaged there.
    damaged: BTreeMap<u64, Vec<RegionId>>,
    /// Stores whose processes tell that they stop.
    stopping: BTreeSet<u64>,
    /// Free bytes of stores that have other than all have.
    space: BTreeMap<u64, u64>,
    output: Vec<String>,
}

impl World {
    fn new() -> Self {
        Self::with(false)
    }

    /// Scripts about anything else hold still.
    fn with(balance: bool) -> Self {
        let settings = Settings {
            balance: BalanceSettings {
                enabled: balance,
                ..BalanceSettings::default()
            },
            operators_kept_max: 3,
            ..Settings::default()
        };
        Self {
            machine: Placement::new(settings),
            region: BTreeMap::new(),
            now: Now {
                wall_ms: 1_000_000,
                monotonic: Duration::from_secs(100),
            },
            request: 0,
            hold: false,
            held: None,
            stale: None,
            beating: BTreeSet::new(),
            damaged: BTreeMap::new(),
            stopping: BTreeSet::new(),
            space: BTreeMap::new(),
            output: Vec::new(),
        }
    }

    fn command(&mut self, line: &str) -> Vec<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| -> u64 {
            words[at]
                .parse()
                .unwrap_or_else(|_| panic!("a number: {line}"))
        };
        match words[0] {
            "balance" => *self = Self::with(true),
            "lead" => {
                let effects = self
                    .machine
                    .lead(number(1), self.region.clone(), 4711, self.now)
                    .expect("the region is sound");
                self.carry_out(effects);
            }
            "lose" => {
                self.held = None;
                self.step(Event::Lost);
            }
            "stale" => {
                self.stale = self.held.take();
                self.hold = false;
                self.step(Event::Lost);
            }
            "late" => {
                let write = self.stale.take().expect("a write was kept back");
                self.apply(write);
            }
            "hold" => self.hold = true,
            "release" => {
                self.hold = false;
                if let Some(write) = self.held.take() {
                    self.apply(write);
                }
            }
            "bootstrap" => {
                let store = number(1);
                let region = region(&["1", "[,)", "1:1", &format!("11@{store}")]).region;
                self.beating.insert(store);
                self.request(Request::Bootstrap {
                    store: metadata(store, "a", 0),
                    boot: Some(1),
                    region,
                });
            }
            "store" => {
                let boot = words.iter().find_map(|word| word.strip_prefix("boot="));
                let boot = boot.map(|boot| boot.parse().expect("a boot counter"));
                self.request(Request::PutStore {
                    store: metadata(number(1), words[2], boot.unwrap_or(0)),
                    boot,
                });
                if self.output.last().is_some_and(|output| output == "done") {
                    self.beating.insert(number(1));
                    self.stopping.remove(&number(1));
                }
            }
            "beat" => {
                for at in 1..words.len() {
                    self.beating.insert(number(at));
                    self.beat(number(at));
                }
            }
            "damage" => {
                let regions = (2..words.len()).map(|at| RegionId(number(at)));
                let damaged: Vec<_> = regions.collect();
                self.damaged.insert(number(1), damaged.clone());
                self.request(Request::StoreHeartbeat {
                    store: StoreId(number(1)),
                    boot: None,
                    space: SPACE,
                    damaged,
                    stopping: self.stopping.contains(&number(1)),
                });
            }
            "stop" => {
                self.stopping.insert(number(1));
                self.request(Request::StoreHeartbeat {
                    store: StoreId(number(1)),
                    boot: None,
                    space: SPACE,
                    damaged: self.damaged.get(&number(1)).cloned().unwrap_or_default(),
                    stopping: true,
                });
            }
            "space" => {
                self.space.insert(number(1), number(2));
            }
            "silence" => {
                self.beating.remove(&number(1));
            }
            "wait" => {
                for _ in 0..number(1) / 100 {
                    self.now.wall_ms += 100;
                    self.now.monotonic += Duration::from_millis(100);
                    for store in self.beating.clone() {
                        self.beat(store);
                    }
                    self.step(Event::Tick);
                }
            }
            "clock" => self.now.wall_ms = number(1),
            "report" => self.step(Event::Report(Box::new(region(&words[1..])))),
            "refuse" => {
                let word = |name: &str| {
                    let found = words.iter().find_map(|word| word.strip_prefix(name));
                    found.unwrap_or_else(|| panic!("{name} is missing: {line}"))
                };
                let (conf_ver, version) = word("at=").split_once(':').expect("an epoch");
                let kind = words[3].to_uppercase().replace('-', "_");
                self.step(Event::Refused(Box::new(StepRefusal {
                    header: None,
                    id: Some(StepId {
                        operator_id: number(1),
                        position: number(2) as u32,
                    }),
                    region_id: word("region=").parse().expect("a region"),
                    epoch: Some(metapb::RegionEpoch {
                        conf_ver: conf_ver.parse().expect("a number"),
                        version: version.parse().expect("a number"),
                    }),
                    term: word("term=").parse().expect("a term"),
                    kind: step_refusal::Kind::from_str_name(&kind)
                        .unwrap_or_else(|| panic!("a kind: {line}"))
                        .into(),
                    text: format!("it said {}", words[3]),
                })));
            }
            "own-split" => {
                let cause = own_split::Cause::from_str_name(&words[3].to_uppercase());
                let (conf_ver, version) = words[4].split_once(':').expect("an epoch");
                let numbers = words[5..].iter().filter_map(|word| word.split_once('='));
                let texts = words[5..].iter().filter(|word| !word.contains('='));
                let texts: Vec<_> = texts.copied().collect();
                self.step(Event::OwnSplit(Box::new(OwnSplit {
                    header: Some(pdpb::RequestHeader {
                        sender_id: number(2),
                        ..Default::default()
                    }),
                    region_id: number(1),
                    epoch: Some(metapb::RegionEpoch {
                        conf_ver: conf_ver.parse().expect("a number"),
                        version: version.parse().expect("a number"),
                    }),
                    cause: cause.expect("a cause").into(),
                    refused: texts[0] == "not",
                    text: texts[1..].join(" "),
                    inputs: numbers
                        .map(|(name, value)| JournalNumber {
                            name: name.replace('_', " "),
                            value: value.parse().expect("a number"),
                        })
                        .collect(),
                })));
            }
            "differ" => {
                self.step(Event::Divergence(Divergence {
                    header: Some(pdpb::RequestHeader {
                        sender_id: number(2),
                        ..Default::default()
                    }),
                    region_id: number(1),
                    peer_id: number(3),
                    other_id: number(4),
                    index: number(5),
                }));
            }
            "split-report" => {
                let pieces = line["split-report".len()..].split(';');
                let pieces = pieces
                    .map(|piece| region(&piece.split_whitespace().collect::<Vec<_>>()).region);
                self.request(Request::ReportSplit(pieces.collect()));
            }
            "split" => {
                let keys = words[2..].iter().map(|text| key(text)).collect();
                self.request(Request::Split {
                    region: RegionId(number(1)),
                    keys,
                });
            }
            "merge" => self.request(Request::Merge {
                region: RegionId(number(1)),
                target: (words.len() > 2).then(|| RegionId(number(2))),
            }),
            "move" => self.request(Request::MoveReplica {
                region: RegionId(number(1)),
                from: StoreId(number(2)),
                to: StoreId(number(3)),
            }),
            "transfer" => {
                self.request(Request::TransferLeader {
                    region: RegionId(number(1)),
                    to: StoreId(number(2)),
                });
            }
            "get" => self.request(Request::RegionByKey(key(words[1]))),
            "previous" => self.request(Request::PreviousRegion(key(words[1]))),
            "scan" => self.request(Request::Regions {
                start: key(words[1]),
                end: key(words[2]),
                limit: 10,
            }),
            "ids" => self.request(Request::AllocateIds(number(1) as u32)),
            "tso" => self.request(Request::Timestamps(number(1) as u32)),
            "drain" => self.request(Request::DrainStore(StoreId(number(1)))),
            "undrain" => self.request(Request::UndrainStore(StoreId(number(1)))),
            "remove" => self.request(Request::RemoveStore(StoreId(number(1)))),
            "label" => self.request(Request::LabelStore {
                store: StoreId(number(1)),
                labels: words[2..].iter().map(|text| label(text)).collect(),
            }),
            "cancel" => self.request(Request::CancelOperator(number(1))),
            "pause" => self.request(Request::PauseScheduler {
                who: Who::from_name(words[1]).expect("somebody who decides"),
                duration: Duration::from_millis(number(2)),
            }),
            "schedulers" => self.request(Request::Schedulers),
            "journal" => {
                let told = |name: &str| {
                    let mut words = words.iter();
                    let word = words.find_map(|word| word.strip_prefix(name));
                    word.map(|id| id.parse::<u64>().expect("an id"))
                };
                self.request(Request::Journal(JournalQuery {
                    region: told("region=").map(RegionId),
                    store: told("store=").map(StoreId),
                    operator: told("operator="),
                    limit: 20,
                }));
            }
            "scatter" => {
                let regions = (1..words.len()).map(|at| RegionId(number(at)));
                self.request(Request::Scatter(regions.collect()));
            }
            "rules" => self.request(Request::Rules),
            "rule" => {
                let rules = line.splitn(5, ' ').nth(4).unwrap_or_default();
                let rules = rules.split(';').filter(|text| !text.is_empty());
                let rules = rules.map(rule).collect();
                let groups = words.get(2).map(|name| Group {
                    name: (*name).into(),
                    index: number(3) as u32,
                    rules,
                });
                self.request(Request::ReplaceRules {
                    read: number(1),
                    groups: groups.into_iter().collect(),
                });
            }
            "operators" => self.request(Request::Operators {
                operator: None,
                region: None,
            }),
            "stores" => self.request(Request::Stores),
            other => panic!("unknown command {other}"),
        }
        std::mem::take(&mut self.output)
    }

    fn beat(&mut self, store: u64) {
        self.request += 1;
        let request = Request::StoreHeartbeat {
            store: StoreId(store),
            boot: None,
            space: Space {
                available_bytes: self.space.get(&store).copied().unwrap_or(1 << 39),
                ..SPACE
            },
            damaged: self.damaged.get(&store).cloned().unwrap_or_default(),
            stopping: self.stopping.contains(&store),
        };
        let effects = self.machine.step(
            Event::Request(RequestId(self.request), Box::new(request)),
            self.now,
        );
        for (_, answer) in &effects.answers {
            if let Err(refusal) = answer {
                self.output
                    .push(format!("beat of store {store} refused: {refusal}"));
            }
        }
        assert!(effects.write.is_none(), "a heartbeat writes nothing");
    }

    fn request(&mut self, request: Request) {
        self.request += 1;
        self.step(Event::Request(RequestId(self.request), Box::new(request)));
    }

    fn step(&mut self, event: Event) {
        let effects = self.machine.step(event, self.now);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Effects) {
        for note in &effects.notes {
            let region = note
                .region
                .map_or(String::new(), |region| format!("region {region} "));
            let operator = note
                .operator
                .map_or(String::new(), |operator| format!("operator {operator} "));
            self.output
                .push(format!("note {region}{operator}| {}", note.text));
        }
        if let Some(cluster) = effects.serving {
            self.output.push(format!("serving cluster {cluster}"));
        }
        for (_, answer) in &effects.answers {
            match answer {
                // Beats are many, and tell nothing here.
                Ok(Answer::Done) => self.output.push("done".into()),
                Ok(answer) => self.answer(answer),
                Err(refusal) => self.output.push(format!("refused: {refusal}")),
            }
        }
        for _ in &effects.abandoned {
            self.output.push("abandoned".into());
        }
        for order in &effects.orders {
            self.output.push(format!("order {}", show(order)));
        }
        if let Some(round) = effects.confirm {
            self.output.push(format!("confirm round {round}"));
            self.step(Event::Confirmed(round));
        }
        if let Some(write) = effects.write {
            if self.hold {
                let keys: Vec<_> = write
                    .changes
                    .iter()
                    .map(|change| name(&change.key))
                    .collect();
                self.output
                    .push(format!("held write of {}", keys.join(", ")));
                assert!(self.held.replace(write).is_none(), "one write at a time");
            } else {
                self.apply(write);
            }
        }
    }

    fn apply(&mut self, write: Write) {
        for Change {
            key,
            previous,
            value,
        } in write.changes
        {
            if value.is_some() && self.region.get(&key) != previous.as_ref() {
                self.output.push(format!("write of {} refused", name(&key)));
                return self.step(Event::Lost);
            }
            match value {
                Some(value) => self.region.insert(key, value),
                None => self.region.remove(&key),
            };
        }
        self.step(Event::Written(write.token));
    }

    fn answer(&mut self, answer: &Answer) {
        let text = match answer {
            Answer::Ids { last, count } => {
                format!("ids {} to {last}", last - u64::from(*count) + 1)
            }
            Answer::Timestamp {
                physical_ms,
                logical,
                count,
            } => {
                format!("timestamps up to {physical_ms}+{logical}, {count}")
            }
            Answer::Region(region) => format!("region {}", show_region(region)),
            Answer::Regions(regions) => {
                for region in regions {
                    self.output.push(format!("region {}", show_region(region)));
                }
                return;
            }
            Answer::Operator(id) => format!("operator {id}"),
            Answer::Operators(operators) => {
                for operator in operators {
                    let (id, kind, state) = (operator.id, operator.kind.name(), operator.state);
                    let (step, steps) = (operator.step, operator.steps.len());
                    let reason = &operator.reason;
                    self.output.push(format!(
                        "operator {id} {kind} {state:?} {step}/{steps} {reason}"
                    ));
                }
                return;
            }
            Answer::Stores(stores) => {
                for store in stores {
                    let (id, state) = (store.store.id, store.store.state().as_str_name());
                    let (peers, leaders) = (store.peers, store.leaders);
                    let drain = store.drain.map_or(String::new(), |drain| {
                        let left = drain.left.map_or("?".into(), |left| format!("{left:?}"));
                        format!(" drained of {}, {left} left", drain.peers_at_start)
                    });
                    self.output.push(format!(
                        "store {id} {state} peers {peers} leaders {leaders}{drain}"
                    ));
                }
                return;
            }
            Answer::Rules { set, default } => {
                self.output.push(format!("version {}", set.version));
                for group in &set.groups {
                    for rule in &group.rules {
                        let (name, index) = (&group.name, group.index);
                        self.output
                            .push(format!("{name} {index} {}", show_rule(rule)));
                    }
                }
                self.output.push(format!("else {}", show_rule(default)));
                return;
            }
            Answer::Journal(entries) => {
                self.output.extend(entries.iter().map(show_entry));
                return;
            }
            Answer::Schedulers(schedulers) => {
                let paused = schedulers.iter().filter(|found| !found.paused.is_zero());
                let paused =
                    paused.map(|found| format!("{} paused for {:?}", found.who, found.paused));
                self.output.extend(paused);
                return;
            }
            other => format!("{other:?}"),
        };
        self.output.push(text);
    }
}

fn name(key: &[u8]) -> String {
    match key.iter().position(|byte| *byte == b'/') {
        Some(slash) => {
            let rest = &key[slash + 1..];
            let id = match rest.try_into() {
                Ok(id) => u64::from_be_bytes(id).to_string(),
                Err(_) => rest.escape_ascii().to_string(),
            };
            format!("{}/{id}", key[..slash].escape_ascii())
        }
        None => key.escape_ascii().to_string(),
    }
}

fn metadata(id: u64, address: &str, boot: u64) -> metapb::Store {
    metapb::Store {
        id,
        address: address.into(),
        start_timestamp: boot as i64,
        ..Default::default()
    }
}

fn label(text: &str) -> metapb::StoreLabel {
    let (key, value) = text.split_once('=').expect("a label");
    metapb::StoreLabel {
        key: key.into(),
        value: value.into(),
    }
}

/// A rule: `ID [START,END) ROLE COUNT LABEL=VALUE... LABEL!=VALUE... LABEL? LABEL!?`, kept apart by zone.
fn rule(text: &str) -> Rule {
    let words: Vec<_> = text.split_whitespace().collect();
    let range = words[1].trim_start_matches('[').trim_end_matches(')');
    let (start, end) = range.split_once(',').expect("a range");
    let constraint = |text: &&str| {
        let (label, test) = if let Some((label, value)) = text.split_once("!=") {
            (label, Test::NotIn(vec![value.into()]))
        } else if let Some((label, value)) = text.split_once('=') {
            let values = value.split('|').map(String::from).collect();
            (label, Test::In(values))
        } else if let Some(label) = text.strip_suffix("!?") {
            (label, Test::NotExists)
        } else {
            (text.trim_end_matches('?'), Test::Exists)
        };
        Constraint {
            label: label.into(),
            test,
        }
    };
    Rule {
        id: words[0].into(),
        start: Bytes::copy_from_slice(start.as_bytes()),
        end: Bytes::copy_from_slice(end.as_bytes()),
        role: Role::ALL
            .into_iter()
            .find(|role| role.name() == words[2])
            .expect("a role"),
        count: words[3].parse().expect("a count"),
        constraints: words[4..].iter().map(constraint).collect(),
        location_labels: vec!["zone".into(), "host".into()],
    }
}

fn show_rule(rule: &Rule) -> String {
    let constraints: String = rule
        .constraints
        .iter()
        .map(|constraint| match &constraint.test {
            Test::In(values) => format!(" {}={}", constraint.label, values.join("|")),
            Test::NotIn(values) => format!(" {}!={}", constraint.label, values.join("|")),
            Test::Exists => format!(" {}?", constraint.label),
            Test::NotExists => format!(" {}!?", constraint.label),
        })
        .collect();
    format!(
        "{} [{},{}) {} {}{constraints} apart by {}",
        rule.id,
        rule.start.escape_ascii(),
        rule.end.escape_ascii(),
        rule.role.name(),
        rule.count,
        rule.location_labels.join(",")
    )
}

/// A key; `k*N` is `k` N times.
fn key(text: &str) -> Bytes {
    match text.split_once('*') {
        Some((part, times)) => part.repeat(times.parse().expect("a number")).into(),
        None => Bytes::copy_from_slice(text.as_bytes()),
    }
}

fn peer(text: &str) -> metapb::Peer {
    let (text, role) = match text.as_bytes()[text.len() - 1] {
        b'L' => (&text[..text.len() - 1], metapb::PeerRole::Learner),
        b'I' => (&text[..text.len() - 1], metapb::PeerRole::IncomingVoter),
        b'D' => (&text[..text.len() - 1], metapb::PeerRole::DemotingVoter),
        _ => (text, metapb::PeerRole::Voter),
    };
    let (id, store) = text
        .split_once('@')
        .unwrap_or_else(|| panic!("a peer: {text}"));
    metapb::Peer {
        id: id.parse().expect("a peer id"),
        store_id: store.parse().expect("a store id"),
        role: role.into(),
        ..Default::default()
    }
}

fn region(words: &[&str]) -> RegionInfo {
    let mut info = RegionInfo {
        term: 1,
        ..RegionInfo::default()
    };
    let mut leader = None;
    let mut pending = Vec::new();
    let mut down = Vec::new();
    for word in words {
        if let Some(range) = word.strip_prefix('[') {
            let (start, end) = range
                .trim_end_matches(')')
                .split_once(',')
                .expect("a range");
            info.region.start_key = Bytes::copy_from_slice(start.as_bytes());
            info.region.end_key = Bytes::copy_from_slice(end.as_bytes());
        } else if let Some(term) = word.strip_prefix("term=") {
            info.term = term.parse().expect("a term");
        } else if let Some(bytes) = word.strip_prefix("bytes=") {
            info.bytes = bytes.parse().expect("a size");
        } else if let Some(keys) = word.strip_prefix("keys=") {
            info.keys = keys.parse().expect("a number");
        } else if let Some(told) = word.strip_prefix("reads=") {
            (info.read_requests, info.read_bytes) = rates(told);
        } else if let Some(told) = word.strip_prefix("writes=") {
            (info.write_requests, info.written_bytes) = rates(told);
        } else if let Some(seconds) = word.strip_prefix("interval=") {
            info.interval = Duration::from_secs(seconds.parse().expect("seconds"));
        } else if let Some(id) = word.strip_prefix("leader=") {
            leader = Some(id.parse::<u64>().expect("a peer id"));
        } else if let Some(ids) = word.strip_prefix("pending=") {
            pending = ids
                .split(',')
                .map(|id| id.parse::<u64>().expect("a peer id"))
                .collect();
        } else if let Some(list) = word.strip_prefix("down=") {
            let one = |text: &str| {
                let (id, seconds) = text.split_once(':').expect("a peer and seconds");
                let number = |text: &str| text.parse::<u64>().expect("a number");
                (number(id), number(seconds))
            };
            down = list.split(',').map(one).collect();
        } else if word.contains('@') {
            info.region.peers.push(peer(word));
        } else if let Some((conf_ver, version)) = word.split_once(':') {
            let part = |text: &str| text.parse().expect("an epoch");
            let epoch = metapb::RegionEpoch {
                conf_ver: part(conf_ver),
                version: part(version),
            };
            info.region.region_epoch = Some(epoch);
        } else {
            info.region.id = word
                .parse()
                .unwrap_or_else(|_| panic!("a region id: {word}"));
        }
    }
    let leader = leader.unwrap_or(info.region.peers[0].id);
    info.leader = info.peer(leader).cloned();
    let silent = |(id, seconds): &(u64, u64)| Some((info.peer(*id).copied()?, *seconds));
    info.down = down.iter().filter_map(silent).collect();
    info.pending = info
        .region
        .peers
        .iter()
        .filter(|peer| pending.contains(&peer.id))
        .cloned()
        .collect();
    info
}

/// Requests and bytes per second.
fn rates(text: &str) -> (u64, u64) {
    let (requests, bytes) = text.split_once(':').expect("requests and bytes");
    let number = |text: &str| text.parse().expect("a number");
    (number(requests), number(bytes))
}

fn show_entry(entry: &JournalEntry) -> String {
    let mut text = format!("{} {} {}", entry.seq, entry.kind().as_str_name(), entry.who);
    for (name, id) in [
        ("region", entry.region_id),
        ("operator", entry.operator_id),
        ("from", entry.from_store),
        ("to", entry.to_store),
        ("times", entry.count),
    ] {
        if id != 0 {
            write!(text, " {name} {id}").expect("a string grows");
        }
    }
    write!(text, ": {}", entry.text).expect("a string grows");
    for (name, numbers) in [
        ("from", &entry.inputs),
        ("expects", &entry.expected),
        ("measured", &entry.measured),
    ] {
        if numbers.is_empty() {
            continue;
        }
        let numbers = numbers
            .iter()
            .map(|number| format!("{} {}", number.name, number.value));
        let numbers = numbers.collect::<Vec<_>>().join(", ");
        write!(text, " | {name} {numbers}").expect("a string grows");
    }
    for candidate in &entry.candidates {
        let of = match candidate.region_id {
            0 => format!("store {}", candidate.store_id),
            region => format!("region {region}"),
        };
        write!(text, " | {of} {}: {}", candidate.score, candidate.verdict).expect("a string grows");
    }
    text
}

fn show_region(region: &RegionInfo) -> String {
    let leader = region.leader.as_ref().map_or("nobody".into(), |leader| {
        format!("{}@{}", leader.id, leader.store_id)
    });
    let mut rest = String::new();
    if region.bytes > 0 {
        write!(rest, ", {} bytes", region.bytes).expect("a string grows");
    }
    for peer in &region.pending {
        write!(rest, ", {} pending", peer.id).expect("a string grows");
    }
    format!(
        "{} [{},{}) {} led by {leader}{rest}",
        region.id(),
        region.region.start_key.escape_ascii(),
        region.region.end_key.escape_ascii(),
        region.epoch()
    )
}

fn show(order: &Order) -> String {
    let list = |peers: &[metapb::Peer]| {
        peers
            .iter()
            .map(|peer| format!("{}@{}", peer.id, peer.store_id))
            .collect::<Vec<_>>()
            .join(",")
    };
    let one = |peer: &metapb::Peer| list(std::slice::from_ref(peer));
    let kind = match &order.kind {
        OrderKind::AddLearner(peer) => format!("add learner {}", one(peer)),
        OrderKind::RemoveLearner(peer) => format!("remove learner {}", one(peer)),
        OrderKind::Swap { promote, demote } => {
            format!("promote [{}] demote [{}]", list(promote), list(demote))
        }
        OrderKind::TransferLeader(peer) => format!("transfer leader to {}", one(peer)),
        OrderKind::Merge(target) => {
            let epoch = target.region_epoch.unwrap_or_default();
            format!(
                "merge into region {} at {}:{}",
                target.id, epoch.conf_ver, epoch.version
            )
        }
        OrderKind::Split(keys) => {
            format!(
                "split at {}",
                keys.iter()
                    .map(|key| key.escape_ascii().to_string())
                    .collect::<Vec<_>>()
                    .join(",")
            )
        }
    };
    let (conf_ver, version) = (order.epoch.conf_ver, order.epoch.version);
    format!(
        "to store {} region {} at {conf_ver}:{version}: {kind}",
        order.store, order.region
    )
}
