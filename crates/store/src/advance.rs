//! Taking what one peer's Raft wants done, and turning it into effects of the store.

use std::ops::{Bound, Range};

use bytes::Bytes;
use engine::{Direction, Engine, Family, View as _};
use proto::pontoon::v1 as wire;
use proto::{RegionId, metapb};
use raft::{Entry, Event as RaftEvent, Index, LogWrite};

use crate::context::{Context, Followup, PeerWrite};
use crate::event::{ApplyTask, Fetch, Task};
use crate::peer::{Installing, Peer, Stage};
use crate::planted::Bug;
use crate::ranges;
use crate::snapshot::file_names;
use crate::store::{Store, step_quietly};
use crate::{Error, codec, identity, keys};

impl<E: Engine> Store<E> {
    /// Takes everything a touched peer has to give.
    pub(crate) fn advance(&mut self, region: RegionId) {
        let Some(peer) = self.peers.get_mut(&region) else {
            return;
        };
        let cx = &mut self.cx;
        peer.dirty = false;
        peer.flush_writes(cx);
        peer.flush_reads(cx);
        peer.tell_support(cx);
        while let Some(raft) = peer.raft.as_mut().filter(|raft| raft.has_effects()) {
            let led = peer
                .published
                .as_ref()
                .is_some_and(|view| view.role == raft::Role::Leader);
            let effects = raft.take_effects();
            if effects.view.is_some() {
                peer.publish(cx);
                peer.on_role(led, cx);
            }
            for message in effects.messages {
                cx.send(peer, message, false);
            }
            if let Some(write) = effects.write {
                peer.write(write, cx);
            }
            peer.hand_out_or_hold(effects.committed, cx);
            peer.on_reads_confirmed(effects.reads, cx);
            peer.on_reads_dropped(&effects.reads_dropped, cx);
            let leader_term = peer.term();
            for raft::Fetch {
                peer: to_peer,
                range,
                bytes_max,
            } in effects.fetches
            {
                cx.out.tasks.push(Task::FetchEntries(Fetch {
                    region,
                    from_peer: peer.id,
                    leader_term,
                    to_peer,
                    range,
                    bytes_max,
                }));
            }
            for member in effects.snapshots {
                peer.begin_sending(member, cx);
            }
            peer.tell_support(cx);
        }
        peer.tell_caught_up(cx);
        self.unpark(region);
        self.hasten_source(region);
    }

    /// Entries came back from the log. Those that an earlier leadership asked for are dropped: this one counts its own.
    pub(crate) fn on_entries_fetched(&mut self, fetch: &Fetch, entries: Vec<Entry>) {
        let Some(peer) = self.peers.get_mut(&fetch.region) else {
            return;
        };
        if peer.id != fetch.from_peer || peer.term() != fetch.leader_term {
            return;
        }
        if let Some(raft) = peer.raft.as_mut() {
            let to = fetch.to_peer;
            step_quietly(raft, RaftEvent::Fetched { peer: to, entries });
            self.cx.touch(peer);
        }
    }
}

impl Peer {
    /// Gives committed entries to the applier, with the requests that wait for them.
    pub(crate) fn hand_out<E: Engine>(&mut self, entries: Vec<Entry>, cx: &mut Context<E>) {
        let Some(last) = entries.last() else { return };
        self.handed_out = last.index;
        let waiting = self.take_waiting(&entries, cx);
        let region = self.region_id();
        cx.out.apply.push(ApplyTask::Entries {
            region,
            peer: self.id,
            entries,
            waiting,
        });
    }

    /// Adds a write of Raft's to the log batch.
    fn write<E: Engine>(&mut self, write: LogWrite, cx: &mut Context<E>) {
        let region = self.region_id();
        let LogWrite {
            id,
            hard_state,
            install,
            truncate_from,
            entries,
            after,
        } = write;
        let unsynced = cx.options.bug == Some(Bug::SpeaksUnsynced)
            && entries.is_empty()
            && hard_state.is_some_and(|state| state.commit == identity::BASE.index)
            && self.applied == identity::BASE
            && (self.state.term, self.state.vote) == (identity::BASE.term, self.id.0);
        if let Some(position) = install {
            cx.log.delete_entries(region, 0, None);
            self.state.compacted_term = position.term;
            self.state.compacted_index = position.index;
            self.log_bytes = 0;
            self.begin_installing(cx);
        }
        if let Some(from) = truncate_from {
            cx.log.delete_entries(region, from, None);
        }
        for entry in &entries {
            self.log_bytes += entry.payload.size_bytes() as u64;
            cx.log.put(
                &keys::entry(region, entry.index),
                &codec::entry_to_wire(entry),
            );
        }
        if let Some(hard_state) = hard_state {
            assert!(
                hard_state.term >= self.state.term && hard_state.commit >= self.state.commit,
                "region {region}: hard state goes back from {:?} to {hard_state:?}",
                self.state
            );
            codec::set_hard_state(&mut self.state, hard_state);
        }
        if hard_state.is_some() || install.is_some() {
            cx.log.put(&keys::raft_state(region), &self.state);
        }
        cx.log.add_write(PeerWrite {
            region,
            generation: self.generation,
            id,
        });
        for message in after {
            cx.send(self, message, true);
        }
        if unsynced && let Some(raft) = self.raft.as_mut() {
            step_quietly(raft, RaftEvent::Written(id));
        }
    }

    /// Past the point of no return of a snapshot: the mark goes into the batch that cuts the log.
    fn begin_installing<E: Engine>(&mut self, cx: &mut Context<E>) {
        let region = self.region_id();
        cx.verifier.forget(region);
        let Some(head) = self.staged.take() else {
            panic!("region {region}: raft installs a snapshot that was not offered");
        };
        let new = head.region.as_ref().expect("a head is checked on arrival");
        let new = (new.start_key.clone(), new.end_key.clone());
        let mut replaces = std::mem::take(&mut self.merging.replaces);
        let (held, clear) = match &self.stage {
            Stage::Normal => (vec![self.range()], ranges::union(self.range(), new)),
            // It takes the place of one whose files were lost.
            Stage::Installing(lost) => {
                let kept = |name: &String| head.files.iter().any(|file| file.name == *name);
                let mut useless = file_names(&lost.head);
                useless.retain(|name| !kept(name));
                cx.after_sync(Followup::RemoveFiles(useless));
                replaces.extend(lost.replaces.iter().copied());
                (lost.clear.clone(), ranges::with(&lost.clear, new))
            }
            Stage::Uninitialized { .. }
            | Stage::Dormant
            | Stage::Absorbed { .. }
            | Stage::Stopping { .. } => (Vec::new(), vec![new]),
        };
        if let Err(other) = cx.ranges.set(region, &held, &clear) {
            cx.fail(Error::Overlap { region, other });
        }
        if cx.options.bug != Some(Bug::InstallWithoutMark) {
            self.put_install_mark((*head).clone(), &replaces, cx);
        }
        self.stage = Stage::Installing(Box::new(Installing {
            head: *head,
            clear,
            replaces,
            has_files: true,
        }));
        self.publish(cx);
        cx.after_sync(Followup::PutInPlace {
            region,
            peer: self.id,
        });
    }

    /// Writes the peer mark.
    pub(crate) fn put_mark<E: Engine>(&mut self, cx: &mut Context<E>) {
        let (conf_ver, contacts) = match self.stage {
            Stage::Uninitialized { .. } if cx.options.bug == Some(Bug::MarkNotWritten) => return,
            Stage::Uninitialized { conf_ver } => (conf_ver, &self.contacts[..]),
            Stage::Normal
            | Stage::Installing(_)
            | Stage::Dormant
            | Stage::Absorbed { .. }
            | Stage::Stopping { .. } => (Some(self.epoch().conf_ver), &[][..]),
        };
        let mark = wire::PeerMark {
            peer_id: self.id.0,
            conf_ver,
            contacts: contacts
                .iter()
                .map(|(peer, store)| metapb::Peer {
                    id: peer.0,
                    store_id: store.0,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        cx.log.put(&keys::peer_mark(self.region_id()), &mark);
    }

    /// Writes the peer mark of a snapshot past its point of no return.
    pub(crate) fn put_install_mark<E: Engine>(
        &mut self,
        head: wire::SnapshotHead,
        replaces: &[wire::ReplacedPeer],
        cx: &mut Context<E>,
    ) {
        let mark = wire::PeerMark {
            peer_id: self.id.0,
            installing: Some(head),
            replaces: replaces.to_vec(),
            ..Default::default()
        };
        cx.log.put(&keys::peer_mark(self.region_id()), &mark);
    }
}

/// Reads entries of a log: the contiguous ones from the start of the range on, up to the first missing one or until
/// `bytes_max` is passed.
pub(crate) fn read_entries<E: Engine>(
    engine: &E,
    region: RegionId,
    range: Range<Index>,
    bytes_max: usize,
) -> Result<Vec<Entry>, engine::Error> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    let mut damaged = false;
    let (lower, upper) = (
        keys::entry(region, range.start),
        keys::entry(region, range.end),
    );
    let mut each = |key: &[u8], value: &[u8]| {
        let next = range.start + entries.len() as Index;
        match keys::LogKey::parse(key) {
            Some(keys::LogKey::Entry(_, index)) if index == next => {}
            _ => return false,
        }
        let Ok(entry) = codec::entry_from_disk(next, &Bytes::copy_from_slice(value)) else {
            damaged = true;
            return false;
        };
        bytes += entry.payload.size_bytes();
        if bytes > bytes_max && !entries.is_empty() {
            return false;
        }
        entries.push(entry);
        true
    };
    let (lower, upper) = (Bound::Included(&lower[..]), Bound::Excluded(&upper[..]));
    engine
        .view()
        .scan(Family::Log, lower, upper, Direction::Forward, &mut each)?;
    if damaged {
        return Err(engine::Error::Corrupt {
            what: format!("a log entry of region {region}"),
            source: None,
        });
    }
    Ok(entries)
}
