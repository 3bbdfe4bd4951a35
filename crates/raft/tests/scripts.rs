//! Golden scripts: scenarios as text, with recorded output (`tests/scripts/*.txt`).
//!
//! A script opens with what it shows, in lines that begin with `#`. Commands begin with `> `; what follows a command is its
//! output. `RECORD=1 cargo test -p raft --test scripts` writes the output anew: read the difference as carefully as code.
//! `SCRIPT=name` runs one script and prints it. The commands are listed in [`execute`]; `settle` and `run` print state only,
//! unless `all` follows.

mod common;

use std::fmt::Write;
use std::path::PathBuf;

use common::{Cluster, Disk, change, command, peer, print, structural};
use raft::{
    Bug, CampaignReason, Error, Event, LogPosition, MembershipChange, Message, Options, Payload,
    ReadId, StepDownReason,
};

#[test]
fn scripts_run_as_recorded() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let record = std::env::var_os("RECORD").is_some();
    let only = std::env::var("SCRIPT").ok();
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the scripts are there")
        .map(|item| item.expect("a folder can be read").path())
        .collect();
    paths.sort();
    assert!(
        only.is_some() || record || paths.len() >= 40,
        "only {} scripts",
        paths.len()
    );
    let mut failed = Vec::new();
    for path in paths {
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .unwrap_or_default()
            .to_owned();
        if only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        let script = std::fs::read_to_string(&path).expect("a script can be read");
        assert!(
            script.starts_with("# "),
            "{name} does not open with what it shows"
        );
        let ran = std::panic::catch_unwind(|| run(&name, &script));
        let Ok(ran) = ran else {
            failed.push(format!("{name}: panicked"));
            continue;
        };
        if only.is_some() {
            println!("{ran}");
        }
        if ran == script {
            continue;
        }
        if record {
            std::fs::write(&path, ran).expect("a script can be written");
        } else {
            failed.push(format!("{name}: {}", first_difference(&script, &ran)));
        }
    }
    assert!(failed.is_empty(), "scripts differ:\n{}", failed.join("\n"));
}

fn first_difference(recorded: &str, ran: &str) -> String {
    for (number, (old, new)) in recorded.lines().zip(ran.lines()).enumerate() {
        if old != new {
            return format!("line {}: recorded {old:?}, now {new:?}", number + 1);
        }
    }
    "one is longer than the other".to_owned()
}

/// Runs a script and returns it with the output of this run.
fn run(name: &str, script: &str) -> String {
    let mut cluster = Cluster::new(0);
    let mut out = String::new();
    for line in script.lines() {
        if line.starts_with('#') || line.is_empty() {
            out.push_str(line);
            out.push('\n');
        }
        let Some(text) = line.strip_prefix("> ") else {
            continue;
        };
        writeln!(out, "{line}").expect("strings can be written to");
        let words: Vec<&str> = text.split_whitespace().collect();
        println!("{name}> {text}");
        match execute(&mut cluster, &words) {
            Ok(()) => {}
            Err(refusal) => cluster.trace.push(format!("refused: {refusal}")),
        }
        for line in cluster.trace.drain(..) {
            writeln!(out, "  {line}").expect("strings can be written to");
        }
        for id in cluster.ids() {
            assert!(
                !cluster.is_up(id)
                    || !cluster.raft(id).has_effects()
                    || words.first() == Some(&"step"),
                "{name}: peer {id} keeps effects back"
            );
        }
    }
    out
}

fn number(word: &str) -> u64 {
    word.trim_matches(|c: char| !c.is_ascii_digit())
        .parse()
        .unwrap_or_else(|_| panic!("{word} is no number"))
}

fn link(word: &str) -> (u64, u64) {
    let (from, to) = word
        .split_once("->")
        .unwrap_or_else(|| panic!("{word} is no link"));
    (number(from), number(to))
}

fn on_link(word: Option<&&str>) -> impl Fn(&Message) -> bool + use<> {
    let link = word.map(|word| link(word));
    move |message| link.is_none_or(|link| (message.from.0, message.to.0) == link)
}

fn membership_change(words: &[&str]) -> MembershipChange {
    match words {
        ["add", id] => MembershipChange::AddLearner(peer(number(id))),
        ["remove", id] => MembershipChange::RemoveLearner(peer(number(id))),
        ["leave"] => MembershipChange::LeaveJoint,
        ["enter", names @ ..] => {
            let of = |sign: char| {
                names
                    .iter()
                    .filter(|name| name.starts_with(sign))
                    .map(|name| peer(number(name)))
                    .collect()
            };
            MembershipChange::EnterJoint {
                promote: of('+'),
                demote: of('-'),
            }
        }
        _ => panic!("unknown change {words:?}"),
    }
}

fn options(words: &[&str]) -> Options {
    let mut options = common::small_options();
    for word in words {
        let (name, value) = word
            .split_once('=')
            .unwrap_or_else(|| panic!("{word} is no setting"));
        match name {
            "lease" => options.lease_ticks = Some(number(value) as u32),
            "cache" => options.cache_bytes_max = number(value) as usize,
            "window" => options.inflight_messages_max = number(value) as usize,
            "entries" => options.append_entries_max = number(value) as usize,
            "uncommitted" => options.uncommitted_bytes_max = number(value) as usize,
            "bug" => options.bug = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == value),
            _ => panic!("unknown setting {name}"),
        }
    }
    options
}

/// One command. Peers are numbers, links are `1->2`.
fn execute(cluster: &mut Cluster, words: &[&str]) -> Result<(), Error> {
    match words {
        // cluster N [setting=value ...]: voters 1 to N.
        ["cluster", voters, settings @ ..] => {
            *cluster = Cluster::with_options(number(voters), options(settings));
        }
        // led N [setting=value ...]: the same, with 1 leading term 1 and everything settled.
        ["led", voters, settings @ ..] => {
            *cluster = Cluster::with_options(number(voters), options(settings));
            if cluster.options.lease_ticks.is_some() {
                for id in cluster.ids() {
                    cluster.tick(id, cluster.options.election_ticks);
                }
            }
            cluster.elect(1);
            cluster.trace.clear();
        }
        // elect 2: those who follow have not heard a leader for T, and 2 campaigns.
        ["elect", id] => {
            let before = cluster.trace.len();
            cluster.elect_after_silence(number(id))?;
            keep_state(cluster, before);
        }
        // blank 4: a peer that knows no configuration.
        ["blank", id] => cluster.add(number(id), Disk::default()),
        // child 1 of 1 2 3 vote 1: a peer just made by a split.
        ["child", id, "of", voters @ .., "vote", vote] => {
            let voters: Vec<u64> = voters.iter().map(|word| number(word)).collect();
            cluster.add_child(number(id), &voters, number(vote));
        }
        ["campaign", id] => {
            cluster.step(number(id), Event::Campaign(CampaignReason::Paced))?;
        }
        ["named", id] => {
            cluster.step(number(id), Event::Campaign(CampaignReason::Named))?;
        }
        ["tick", id] => cluster.tick(number(id), 1),
        ["tick", id, ticks] => cluster.tick(number(id), number(ticks) as u32),
        // propose 1 a b c: three entries that share their effects.
        ["propose", id, texts @ ..] => {
            let id = number(id);
            let mut last = Ok(None);
            for text in texts {
                last = cluster.step_only(id, Event::Propose(command(text)));
            }
            cluster.pump(id);
            last?;
        }
        ["structural", id, text] => {
            cluster.propose(number(id), structural(text))?;
        }
        ["change", id, words @ ..] => {
            cluster.propose(number(id), change(membership_change(words)))?;
        }
        ["read", id, read] => cluster.read(number(id), number(read))?,
        ["transfer", id] => {
            cluster.step(number(id), Event::Transfer(None))?;
        }
        ["transfer", id, to] => {
            cluster.step(number(id), Event::Transfer(Some(peer(number(to)))))?;
        }
        ["stepdown", id, why] => {
            let reason = match *why {
                "stuck" => StepDownReason::Stuck,
                "shutdown" => StepDownReason::Shutdown,
                _ => panic!("unknown reason {why}"),
            };
            cluster.step(number(id), Event::StepDown(reason))?;
        }
        // deliver [1->2]: what waits now, on one link or all.
        ["deliver", on @ ..] => {
            cluster.deliver(on_link(on.first()));
        }
        ["drop", on @ ..] => {
            let lost = on_link(on.first());
            cluster.network.retain(|message| !lost(message));
        }
        // aside 1->2: take messages off the network; copy: leave them there too; back: put all taken ones on it again.
        ["aside", on @ ..] => {
            let taken = on_link(on.first());
            cluster.aside.extend(
                cluster
                    .network
                    .iter()
                    .filter(|message| taken(message))
                    .cloned(),
            );
            cluster.network.retain(|message| !taken(message));
        }
        ["copy", on @ ..] => {
            let taken = on_link(on.first());
            cluster.aside.extend(
                cluster
                    .network
                    .iter()
                    .filter(|message| taken(message))
                    .cloned(),
            );
        }
        ["back"] => cluster.network.extend(cluster.aside.drain(..)),
        ["network"] => {
            let lines: Vec<String> = cluster.network.iter().map(print::message).collect();
            cluster.trace.extend(lines);
        }
        ["cut", link_name] => {
            cluster.cut.insert(link(link_name));
        }
        ["isolate", id] => cluster.isolate(number(id)),
        ["heal"] => cluster.heal(),
        ["persist", id] => {
            cluster.persist(number(id), usize::MAX);
        }
        ["persist", id, count] => {
            cluster.persist(number(id), number(count) as usize);
        }
        ["apply", id] => {
            cluster.apply(number(id), usize::MAX);
        }
        ["apply", id, count] => {
            cluster.apply(number(id), number(count) as usize);
        }
        // crash 2 [applied 3]: loses what is not durable; the state machine may fall back.
        ["crash", id] => cluster.crash(number(id), None),
        ["crash", id, "applied", index] => cluster.crash(number(id), Some(number(index))),
        ["restart", id] => cluster.restart(number(id)),
        ["settle"] => {
            let before = cluster.trace.len();
            cluster.settle();
            keep_state(cluster, before);
        }
        ["settle", "all"] => cluster.settle(),
        ["run", ticks] => {
            let before = cluster.trace.len();
            cluster.run(number(ticks) as u32);
            keep_state(cluster, before);
        }
        ["compact", id, index] => {
            let (id, index) = (number(id), number(index));
            cluster.step(id, Event::Compact(index))?;
            let compacted = cluster.raft(id).compacted();
            let disk = &mut cluster.node_mut(id).disk;
            disk.base = disk.membership_at(compacted.index);
            disk.entries.retain(|entry| entry.index > compacted.index);
            disk.compacted = compacted;
        }
        // snapshot: deliver the ones that were asked for; lose-snapshots: they fail.
        ["snapshot"] => {
            while let Some(snapshot) = cluster.snapshots.pop_front() {
                cluster.deliver_snapshot(snapshot)?;
            }
        }
        // snapshot-begin: the receiver accepts, and nothing is durable yet.
        ["snapshot-begin"] => {
            let snapshot = cluster
                .snapshots
                .pop_front()
                .expect("a snapshot was asked for");
            let to = snapshot.to.0;
            let event = Event::InstallSnapshot {
                from: snapshot.from,
                term: snapshot.term,
                position: snapshot.position,
                membership: snapshot.membership.clone(),
            };
            cluster.step_only(to, event)?;
            cluster.node_mut(to).staged = Some(snapshot);
            cluster.pump(to);
        }
        // lose-install 3: it crashes after its record is durable, and what it installs is gone.
        ["lose-install", id] => cluster.lose_install(number(id)),
        ["lose-snapshots"] => {
            while let Some(snapshot) = cluster.snapshots.pop_front() {
                let event = Event::SnapshotEnded {
                    peer: snapshot.to,
                    delivered: None,
                };
                cluster.step(snapshot.from.0, event)?;
            }
        }
        // old-snapshot 2 from 1 at 3@1: one that nobody asked for.
        ["old-snapshot", to, "from", from, "at", position] => {
            let (index, term) = position.split_once('@').expect("a position is index@term");
            let event = Event::InstallSnapshot {
                from: peer(number(from)),
                term: cluster.raft(number(from)).term(),
                position: LogPosition {
                    term: number(term),
                    index: number(index),
                },
                membership: cluster.raft(number(from)).membership().clone(),
            };
            cluster.step(number(to), event)?;
        }
        ["unreachable", id, other] => {
            cluster.step(number(id), Event::Unreachable(peer(number(other))))?;
        }
        // support 2->1 7: the store of 2 supports the store of 1 under id 7; support 2->1 none: it ends.
        ["support", pair, id] => {
            let (giver, taker) = link(pair);
            let id = (*id != "none").then(|| number(id));
            cluster.give_support(giver, taker, id);
        }
        ["status"] => {
            for id in cluster.ids() {
                let line = status(cluster, id);
                cluster.trace.push(line);
            }
        }
        ["status", id] => {
            let line = status(cluster, number(id));
            cluster.trace.push(line);
        }
        ["log", id] => {
            let raft = cluster.raft(number(id));
            let mut lines = vec![format!("compacted {}", print::position(raft.compacted()))];
            lines.extend(raft.cached_entries(0).map(print::entry));
            cluster.trace.extend(lines);
        }
        ["members", id] => {
            let raft = cluster.raft(number(id));
            let mut lines = vec![print::membership(raft.membership())];
            for (peer, status) in raft.member_statuses() {
                let snapshot = if status.in_snapshot {
                    ", in snapshot"
                } else {
                    ""
                };
                lines.push(format!(
                    "{peer} matched {}, knows commit {}{snapshot}",
                    status.matched, status.commit
                ));
            }
            cluster.trace.extend(lines);
        }
        ["data", id] => {
            let line = cluster.data(number(id)).join(" ");
            cluster.trace.push(line);
        }
        ["reasons", id] => {
            let line = reasons(cluster.raft(number(id)).reasons());
            cluster.trace.push(line);
        }
        // pack 1: puts a settled peer to rest and wakes it again.
        ["pack", id] => {
            let id = number(id);
            let raft = cluster.node_mut(id).raft.take().expect("the peer is up");
            let (line, raft) = match raft.try_pack() {
                Ok(packed) => ("packed".to_owned(), packed.unpack()),
                Err(raft) => (format!("awake: {}", reasons(raft.reasons())), *raft),
            };
            cluster.node_mut(id).raft = Some(raft);
            cluster.trace.push(line);
        }
        // reads-together 1 1 2 3: reads that arrive before effects are taken.
        ["reads-together", id, reads @ ..] => {
            let id = number(id);
            for read in reads {
                cluster.step_only(id, Event::Read(ReadId(number(read))))?;
            }
            cluster.pump(id);
        }
        ["noop", id] => {
            cluster.propose(number(id), Payload::Noop)?;
        }
        _ => panic!("unknown command {words:?}"),
    }
    Ok(())
}

fn keep_state(cluster: &mut Cluster, before: usize) {
    let tail: Vec<String> = cluster
        .trace
        .drain(before..)
        .filter(|line| print::is_state(line))
        .collect();
    cluster.trace.extend(tail);
}

fn status(cluster: &Cluster, id: u64) -> String {
    if !cluster.is_up(id) {
        return format!("{id} down");
    }
    let raft = cluster.raft(id);
    format!(
        "{id} {} | last {} persisted {} applied {}{}{}",
        print::view(&raft.view()),
        print::position(raft.last()),
        raft.persisted(),
        raft.applied(),
        if raft.behind() { " behind" } else { "" },
        if raft.has_lease() { " lease" } else { "" },
    )
}

fn reasons(reasons: raft::Reasons) -> String {
    use raft::Reasons;
    let names = [
        (Reasons::UNAPPLIED, "unapplied"),
        (Reasons::UNSETTLED, "unsettled"),
        (Reasons::NO_PLEDGED_QUORUM, "no pledged quorum"),
        (Reasons::READ, "read"),
        (Reasons::TRANSFER, "transfer"),
        (Reasons::CHANGE, "change"),
        (Reasons::SNAPSHOT, "snapshot"),
        (Reasons::NO_PLEDGE, "no pledge"),
        (Reasons::EFFECTS, "effects"),
    ];
    let held: Vec<&str> = names
        .iter()
        .filter(|(reason, _)| reasons.contains(*reason))
        .map(|(_, name)| *name)
        .collect();
    if held.is_empty() {
        "none".to_owned()
    } else {
        held.join(", ")
    }
}
