//! Clients: one request at a time each, on keys that all of them share, with everything they saw written down.

use bytes::Bytes;
use engine::Engine;
use history::{Effect, NEVER, Operation, Value};
use proto::pontoon::v1 as wire;
use proto::pontoon::v1::operation::Kind;
use proto::{RegionId, StoreId, metapb};
use raft::Role;
use store::event::{
    Event, Keys, OperationResult, Proposal, ReadRequest, Refusal, RequestId, Target,
};
use store::{keys, read};

use super::settings::TICK;
use super::world::{Action, Answer, Reply, World};
use crate::group::settings::Fault;
use crate::rule::{Rule, Violation};

/// Keys in use. Regions are split at them, so each holds one.
pub const KEYS: u64 = 24;

/// Keys of a merging region that clients look at.
const FOCUS_KEYS: usize = 2;

/// A request that puts, among those that are drawn from ten.
const PUT: u64 = 4;

/// Keys that are inserted at the end of all at the most, and permille of other requests that ask for one of them.
const APPENDED_MAX: u64 = 250;
const APPENDED_PERMILLE: u64 = 300;

/// Permille of puts that are deletes instead, in worlds that delete.
const DELETE_PERMILLE: u64 = 450;

/// Ticks after which a client stops waiting; the outcome stays unknown.
const PATIENCE_TICKS: u64 = 100;

/// What a client waits for.
#[derive(Clone, Debug)]
struct Asked {
    request: RequestId,
    store: StoreId,
    region: RegionId,
    key: Bytes,
    operation: Operation,
}

/// A client.
#[derive(Clone, Debug, Default)]
pub struct Client {
    asked: Option<Asked>,
    history: Vec<(Bytes, Operation)>,
}

impl Client {
    /// What it did, by key; requests that were refused did nothing and are left out. A write that is on its way may have had
    /// its effect already.
    pub fn history(&self) -> impl Iterator<Item = (&Bytes, &Operation)> {
        let open = self
            .asked
            .iter()
            .map(|asked| (&asked.key, &asked.operation));
        let open = open.filter(|(_, operation)| !matches!(operation.effect, Effect::Get(_)));
        let done = self.history.iter();
        done.map(|(key, operation)| (key, operation)).chain(open)
    }
}

/// The key of a number below [`KEYS`].
pub fn key(number: u64) -> Bytes {
    Bytes::copy_from_slice(&[b'a' + number as u8])
}

/// The key that is inserted at the end as the one of this number.
fn append_key(number: u64) -> Bytes {
    format!("z{number:06}").into()
}

fn value_bytes(value: u64) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

fn value_number(bytes: Option<&Bytes>) -> Result<Value, Violation> {
    let Some(bytes) = bytes else {
        return Ok(None);
    };
    match <[u8; 8]>::try_from(&bytes[..]) {
        Ok(number) => Ok(Some(u64::from_be_bytes(number))),
        Err(_) => Err(Violation {
            rule: Rule::Linearizable,
            text: format!("a value that nobody wrote: {bytes:?}"),
        }),
    }
}

impl World {
    /// A client sends its next request.
    pub(super) fn client(&mut self, place: usize) -> Result<(), Violation> {
        if self.clients[place].asked.is_some() {
            return Ok(());
        }
        // Replicas agree at one moment only if nothing is written at it.
        if self.healing && self.all_alive() {
            self.schedule.after(TICK, Action::Client(place));
            return Ok(());
        }
        let appends = self.appends(place);
        let key = if appends {
            append_key(self.appended)
        } else {
            self.pick_key()
        };
        let Some((store, region)) = self.route(&key) else {
            self.schedule.after(TICK, Action::Client(place));
            return Ok(());
        };
        self.requests += 1;
        let request = RequestId(self.requests);
        let target = Target {
            region: RegionId(region.id),
            peer: None,
            epoch: region.region_epoch,
            keys: Keys::Points(vec![key.clone()]),
        };
        let began = self.events;
        self.appended += u64::from(appends);
        let what = if appends {
            PUT
        } else {
            self.load_random.below(10)
        };
        let (effect, event) = match what {
            0..4 => (
                Effect::Get(None),
                Event::Read(ReadRequest {
                    id: request,
                    target,
                }),
            ),
            4..8 if !appends && self.is_delete() => {
                let delete = Kind::Delete(wire::Delete { key: key.clone() });
                (Effect::Delete, propose(request, target, delete))
            }
            4..8 => {
                self.values += 1;
                let put = Kind::Put(wire::Put {
                    key: key.clone(),
                    value: value_bytes(self.values),
                    expires_at: 0,
                });
                (Effect::Put(self.values), propose(request, target, put))
            }
            _ => {
                self.values += 1;
                // Half of the swaps guess what is there, from what was last seen of the key.
                let expected = self.guess(place, &key);
                let swap = Kind::CompareAndSwap(wire::CompareAndSwap {
                    key: key.clone(),
                    value: value_bytes(self.values),
                    expires_at: 0,
                    previous: expected.map(value_bytes),
                    now: 0,
                });
                let effect = Effect::Swap {
                    expected,
                    new: self.values,
                    found: None,
                };
                (effect, propose(request, target, swap))
            }
        };
        let operation = Operation {
            began,
            ended: NEVER,
            effect,
        };
        self.clients[place].asked = Some(Asked {
            request,
            store,
            region: RegionId(region.id),
            key,
            operation,
        });
        self.waiting.insert(request, place);
        self.schedule
            .after(PATIENCE_TICKS * TICK, Action::TimeUp(place, request));
        self.step(store, event)
    }

    /// Whether the next request of a client inserts at the end of all keys. In worlds where that happens half of them do
    /// nothing else.
    fn appends(&self, place: usize) -> bool {
        self.settings.faults.has(Fault::Appends)
            && place.is_multiple_of(2)
            && self.appended < APPENDED_MAX
    }

    /// Whether a put is a delete instead.
    fn is_delete(&mut self) -> bool {
        self.settings.faults.has(Fault::Deletes) && self.writes_random.chance(DELETE_PERMILLE)
    }

    /// A key beyond those of [`KEYS`]: one that was inserted at the end, or where a region begins that nobody wrote to since
    /// faults ended.
    fn pick_appended(&mut self) -> Option<Bytes> {
        if self.appended == 0 || !self.writes_random.chance(APPENDED_PERMILLE) {
            return None;
        }
        let silent = self.descriptors.newest().find(|region| {
            self.healing
                && !region.start_key.is_empty()
                && !self.alive.contains(&RegionId(region.id))
        });
        match silent {
            Some(region) => Some(region.start_key.clone()),
            None => Some(append_key(self.writes_random.below(self.appended))),
        }
    }

    /// Any key; in worlds where clients focus, mostly one of a region that is merging, or was merged last.
    fn pick_key(&mut self) -> Bytes {
        if let Some(key) = self.pick_appended() {
            return key;
        }
        let key_of = key;
        let any = key_of(self.load_random.below(KEYS));
        if !self.settings.faults.has(Fault::Focus) || self.moment_random.chance(300) {
            return any;
        }
        let Some((start, end)) = &self.focus else {
            return any;
        };
        // The first keys only, so that what is written is read as well.
        let inside = (0..KEYS).map(key_of);
        let inside = inside.filter(|key| keys::contains(start, end, key));
        let inside: Vec<Bytes> = inside.take(FOCUS_KEYS).collect();
        match inside.len() as u64 {
            0 => any,
            count => inside[self.moment_random.below(count) as usize].clone(),
        }
    }

    fn guess(&mut self, place: usize, key: &Bytes) -> Value {
        let newest = |client: &Client| {
            client
                .history
                .iter()
                .rev()
                .find(|(known, _)| known == key)
                .and_then(|(_, operation)| match operation.effect {
                    Effect::Put(value) => Some(value),
                    Effect::Get(value) => value,
                    Effect::Swap { new, found, .. } => found
                        .and_then(|(value, succeeded)| if succeeded { Some(new) } else { value }),
                    Effect::Delete => None,
                })
        };
        let other = self.load_random.below(self.clients.len() as u64) as usize;
        newest(&self.clients[other]).or_else(|| newest(&self.clients[place]))
    }

    /// Where a client sends a request for `key`: to a store that shows a leader of the region, rarely to another member.
    fn route(&mut self, key: &Bytes) -> Option<(StoreId, metapb::Region)> {
        let mut places: Vec<(StoreId, metapb::Region, bool)> = Vec::new();
        for (store, node) in &self.nodes {
            for view in node.views.values() {
                if view.owns_range
                    && keys::contains(&view.region.start_key, &view.region.end_key, key)
                {
                    places.push((*store, view.region.clone(), view.role == Role::Leader));
                }
            }
        }
        if places.iter().any(|place| place.2) && self.load_random.chance(900) {
            places.retain(|place| place.2);
        }
        if places.is_empty() {
            return None;
        }
        let place = self.load_random.below(places.len() as u64) as usize;
        let (store, region, _) = places.swap_remove(place);
        Some((store, region))
    }

    /// A write was answered, or a read refused.
    pub(super) fn answer(&mut self, request: RequestId, answer: Answer) {
        let Some(place) = self.waiting.remove(&request) else {
            if let Some(replies) = &mut self.replies {
                replies.push((request, Reply::Answered(answer)));
            }
            return;
        };
        let now = self.schedule.now();
        let Some(mut asked) = self.clients[place]
            .asked
            .take_if(|asked| asked.request == request)
        else {
            return;
        };
        self.trace
            .note(now, [6, request.0, u64::from(answer.is_ok()), 0], || {
                format!(
                    "client {place}: {:?} {:?}: {answer:?}",
                    asked.key, asked.operation.effect
                )
            });
        match answer {
            Ok(results) => {
                if let (
                    Effect::Swap { found, .. },
                    Some(OperationResult::Swapped {
                        succeeded,
                        previous,
                    }),
                ) = (&mut asked.operation.effect, results.first())
                {
                    *found = Some((value_number(previous.as_ref()).ok().flatten(), *succeeded));
                    self.count(if *succeeded {
                        "swap succeeded"
                    } else {
                        "swap failed"
                    });
                }
                asked.operation.ended = self.events;
                self.count("write acknowledged");
                if self.healing {
                    self.alive.insert(asked.region);
                }
                self.clients[place]
                    .history
                    .push((asked.key, asked.operation));
            }
            Err(Refusal::Unknown) => {
                self.count("outcome unknown");
                self.forget(place, asked);
            }
            Err(_) => self.count("request refused"),
        }
        self.think(place);
    }

    /// A read may be served: the engine's view first, then the published view once more (LIVENESS B5).
    pub(super) fn serve_read(&mut self, id: StoreId, request: RequestId) -> Result<(), Violation> {
        let Some(place) = self.waiting.remove(&request) else {
            if let Some(replies) = &mut self.replies {
                replies.push((request, Reply::Permitted));
            }
            return Ok(());
        };
        let Some(mut asked) = self.clients[place]
            .asked
            .take_if(|asked| asked.request == request)
        else {
            return Ok(());
        };
        debug_assert_eq!(asked.store, id, "reads are answered where they were asked");
        let node = &self.nodes[&id];
        let engine_view = node.engine.view();
        let fits = node.views.get(&asked.region).is_some_and(|view| {
            view.owns_range
                && !view.frozen
                && keys::contains(&view.region.start_key, &view.region.end_key, &asked.key)
        });
        if fits {
            let found = match read::get(&engine_view, &asked.key, 0) {
                Ok(found) => found,
                Err(error) => return self.read_fails(id, place, asked.region, error),
            };
            let value = value_number(found.as_ref())?;
            self.trace.note(
                self.schedule.now(),
                [7, request.0, value.unwrap_or(0), 0],
                || format!("client {place}: read {:?} at {id}: {value:?}", asked.key),
            );
            asked.operation.effect = Effect::Get(value);
            asked.operation.ended = self.events;
            self.count("read served");
            if self.merged_at.contains_key(&asked.region.0) {
                self.count("read served by source");
            }
            self.clients[place]
                .history
                .push((asked.key, asked.operation));
        } else {
            self.count("read refused at serve");
        }
        self.think(place);
        Ok(())
    }

    /// A client stops waiting.
    pub(super) fn time_up(&mut self, place: usize, request: RequestId) -> Result<(), Violation> {
        self.waiting.remove(&request);
        if let Some(asked) = self.clients[place]
            .asked
            .take_if(|asked| asked.request == request)
        {
            self.count("client gave up");
            self.forget(place, asked);
            self.think(place);
        }
        Ok(())
    }

    /// Whoever waits at a store that stops learns nothing more.
    pub(super) fn drop_requests(&mut self, id: StoreId) {
        for place in 0..self.clients.len() {
            if let Some(asked) = self.clients[place].asked.take_if(|asked| asked.store == id) {
                self.waiting.remove(&asked.request);
                self.forget(place, asked);
                self.think(place);
            }
        }
    }

    /// Keeps a write whose outcome nobody knows; a read without answer said nothing.
    fn forget(&mut self, place: usize, asked: Asked) {
        if !matches!(asked.operation.effect, Effect::Get(_)) {
            self.clients[place]
                .history
                .push((asked.key, asked.operation));
        }
    }

    pub(super) fn think(&mut self, place: usize) {
        let (low, high) = self.settings.think;
        let delay = self.load_random.between(low, high);
        self.schedule.after(delay, Action::Client(place));
    }
}

fn propose(id: RequestId, target: Target, kind: Kind) -> Event {
    Event::Propose(Proposal {
        id,
        target,
        operations: vec![wire::Operation { kind: Some(kind) }],
    })
}
