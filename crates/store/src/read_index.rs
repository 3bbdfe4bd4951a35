//! Reads of clients, from arrival to the right to read (R24; Thesis §6.4).
//!
//! All reads of a region that arrive in one turn share one question to Raft. Raft answers with an index once a quorum
//! confirmed the leadership in a round begun later; the read may be served when that much is applied.

use engine::Engine;
use raft::{Event as RaftEvent, ReadId, ReadReady};

use crate::context::Context;
use crate::event::{ReadRequest, Refusal, RequestId};
use crate::park::{self, Request};
use crate::peer::Peer;
use crate::planted::Bug;
use crate::route::Misroute;
use crate::store::Store;

impl<E: Engine> Store<E> {
    pub(crate) fn on_read(&mut self, read: ReadRequest) {
        let region = read.target.region;
        let Some(peer) = self.peers.get_mut(&region) else {
            let refusal = self.refusal(Misroute::Gone, &read.target);
            self.cx.refuse(read.id, refusal);
            return;
        };
        let served_frozen = self.cx.options.bug == Some(Bug::ReadOverFreeze);
        if let Err(misroute) = peer.check_target(&read.target)
            && !(served_frozen && matches!(misroute, Misroute::Frozen))
        {
            let (id, mut read) = (read.id, read);
            if park::may_pass(&misroute) {
                match peer.park(Request::Read(read), &mut self.cx) {
                    Some(Request::Read(back)) => read = back,
                    Some(Request::Write(_)) | None => return,
                }
            }
            let refusal = self.refusal(misroute, &read.target);
            self.cx.refuse(id, refusal);
            return;
        }
        if peer.reads.count >= self.cx.options.region_reads_max {
            self.cx.refuse(
                read.id,
                Refusal::Busy {
                    reason: "too many reads wait in this region",
                },
            );
            return;
        }
        peer.count_read(&read, &self.cx);
        peer.reads.count += 1;
        peer.reads.queue.push(read.id);
        self.cx.touch(peer);
    }
}

impl Peer {
    /// Asks Raft once for all reads that gathered.
    pub fn flush_reads<E: Engine>(&mut self, cx: &mut Context<E>) {
        if self.reads.queue.is_empty() {
            return;
        }
        let requests = std::mem::take(&mut self.reads.queue);
        let id = ReadId(self.reads.next_id);
        self.reads.next_id += 1;
        let leads = self.is_leader();
        match self
            .raft
            .as_mut()
            .filter(|_| leads)
            .map(|raft| raft.step(RaftEvent::Read(id)))
        {
            Some(Ok(_)) => self.reads.asked.push_back((id, requests)),
            Some(Err(_)) | None => self.refuse_reads(requests, cx),
        }
    }

    /// Serves confirmed reads, or keeps them until enough is applied.
    pub fn on_reads_confirmed<E: Engine>(&mut self, ready: Vec<ReadReady>, cx: &mut Context<E>) {
        for ReadReady { id, index } in ready {
            let Some(requests) = self.take_asked(id) else {
                continue;
            };
            if index <= self.applied.index {
                self.reads.count -= requests.len();
                cx.out.reads.extend(requests);
            } else {
                self.reads.confirmed.push((index, requests));
            }
        }
    }

    /// Answers reads that Raft cannot confirm any more.
    pub fn on_reads_dropped<E: Engine>(&mut self, dropped: &[ReadId], cx: &mut Context<E>) {
        for id in dropped {
            if let Some(requests) = self.take_asked(*id) {
                self.refuse_reads(requests, cx);
            }
        }
    }

    /// Serves the reads whose index is applied now.
    pub fn serve_confirmed<E: Engine>(&mut self, cx: &mut Context<E>) {
        if self.reads.confirmed.is_empty() {
            return;
        }
        let applied = self.applied.index;
        for (_, requests) in self
            .reads
            .confirmed
            .extract_if(.., |(index, _)| *index <= applied)
        {
            self.reads.count -= requests.len();
            cx.out.reads.extend(requests);
        }
    }

    /// Answers all reads, because this peer goes away.
    pub fn abandon_reads<E: Engine>(&mut self, cx: &mut Context<E>) {
        let requests = self.take_reads();
        let refusal = self.not_leader();
        for request in requests {
            cx.refuse(request, refusal.clone());
        }
    }

    /// All reads that are not served yet.
    pub fn take_reads(&mut self) -> Vec<RequestId> {
        let mut requests = std::mem::take(&mut self.reads.queue);
        requests.extend(
            self.reads
                .asked
                .drain(..)
                .flat_map(|(_, requests)| requests),
        );
        requests.extend(
            self.reads
                .confirmed
                .drain(..)
                .flat_map(|(_, requests)| requests),
        );
        self.reads.count -= requests.len();
        requests
    }

    fn take_asked(&mut self, id: ReadId) -> Option<Vec<RequestId>> {
        let at = self
            .reads
            .asked
            .iter()
            .position(|(asked, _)| *asked == id)?;
        self.reads.asked.remove(at).map(|(_, requests)| requests)
    }

    fn refuse_reads<E: Engine>(&mut self, requests: Vec<RequestId>, cx: &mut Context<E>) {
        self.reads.count -= requests.len();
        let refusal = self.not_leader();
        for request in requests {
            cx.refuse(request, refusal.clone());
        }
    }
}
