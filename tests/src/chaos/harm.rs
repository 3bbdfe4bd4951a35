//! The hand that harms network and processes.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::sync::{Mutex, watch};

use super::{
    Choice, Deck, Events, Wanted, pause,
    processes::{Processes, Role},
};
use crate::proxy::{Cut, From, Harm, Way, Which};

/// What may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Delay,
    Throttle,
    /// No bytes between two stores.
    BlackHole,
    /// Nothing reaches a process, or nothing leaves a store.
    OneWay,
    /// A process is cut off from everybody.
    Isolate,
    Reset,
    HalfClose,
    Flip,
    KillStore,
    KillMember,
    KillAllStores,
    PauseStore,
    PauseMember,
    /// The disk of a store takes nothing.
    DiskFull,
    /// Syncs of a store's disk fail.
    DiskFails,
    /// Syncs of a store's disk do not return.
    DiskHangs,
}

const KINDS: [(Kind, &str); 13] = [
    (Kind::Delay, "delay"),
    (Kind::Throttle, "throttle"),
    (Kind::BlackHole, "black hole"),
    (Kind::OneWay, "one way"),
    (Kind::Isolate, "isolate"),
    (Kind::Reset, "reset"),
    (Kind::HalfClose, "half close"),
    (Kind::Flip, "flip"),
    (Kind::KillStore, "kill store"),
    (Kind::KillMember, "kill member"),
    (Kind::KillAllStores, "kill all stores"),
    (Kind::PauseStore, "pause store"),
    (Kind::PauseMember, "pause member"),
];

/// What may be done to a disk that is made for it.
const DISK_KINDS: [(Kind, &str); 3] = [
    (Kind::DiskFull, "disk full"),
    (Kind::DiskFails, "disk fails"),
    (Kind::DiskHangs, "disk hangs"),
];

/// Time that one kind takes with what comes after it, about: shorter runs have fewer kinds.
const STEP: Duration = Duration::from_secs(3);

/// What is planned.
pub struct Harms {
    choice: Choice,
    deck: Deck<Kind>,
}

impl Harms {
    /// By the seed, and as many kinds as there is time for.
    pub(super) fn plan(wanted: &Wanted) -> Self {
        let mut choice = Choice::new(wanted.seed, 1);
        let disk_kinds: &[_] = if wanted.disks { &DISK_KINDS } else { &[] };
        let kinds = [&KINDS, disk_kinds].concat();
        let deck = Deck::new(kinds, 0, &mut choice, wanted.length, STEP);
        Self { choice, deck }
    }

    pub(super) fn kinds(&self) -> Vec<&'static str> {
        self.deck.names()
    }

    /// Does one after the other until it is stopped.
    pub(super) async fn work(
        mut self,
        processes: Arc<Mutex<Processes>>,
        events: Arc<Events>,
        mut stopping: watch::Receiver<bool>,
    ) {
        loop {
            let (kind, name) = self.deck.deal(&mut self.choice);
            let happened = self.act(kind, &processes, &events, &mut stopping).await;
            if happened {
                events.happened(name);
            }
            events.doing("harm", "calm".to_owned());
            let calm = self.choice.millis(300, 1_500);
            if !pause(calm, &mut stopping).await {
                return;
            }
        }
    }

    /// Does one thing, and undoes it. Returns whether it did.
    async fn act(
        &mut self,
        kind: Kind,
        processes: &Mutex<Processes>,
        events: &Events,
        stopping: &mut watch::Receiver<bool>,
    ) -> bool {
        let choice = &mut self.choice;
        match kind {
            Kind::Delay
            | Kind::Throttle
            | Kind::BlackHole
            | Kind::OneWay
            | Kind::Isolate
            | Kind::Flip => harm_network(kind, choice, processes, events, stopping).await,
            Kind::Reset | Kind::HalfClose => {
                let cut = match kind {
                    Kind::Reset => Cut::Reset,
                    _ => Cut::HalfClose(way(choice)),
                };
                let processes = processes.lock().await;
                let Some(to) = choice.pick(&all(&processes)) else {
                    return false;
                };
                let which = Which {
                    from: match choice.below(2) {
                        0 => From::Anybody,
                        _ => From::AnyPeer,
                    },
                    to: Some(to),
                    way: None,
                };
                events.doing("harm", format!("{cut:?} at {}", processes.name(to)));
                let counts = processes.net.counts();
                let sum = || counts.resets.load(Relaxed) + counts.half_closes.load(Relaxed);
                let before = sum();
                processes.net.cut(which, cut);
                // The connections notice it by themselves.
                pause(Duration::from_millis(100), stopping).await;
                sum() > before
            }
            Kind::KillStore | Kind::KillMember | Kind::KillAllStores => {
                let away = choice.millis(0, 3_000);
                let victims = {
                    let mut processes = processes.lock().await;
                    let role = match kind {
                        Kind::KillMember => Role::Member,
                        _ => Role::Store,
                    };
                    let mut victims = processes.numbers(role);
                    if kind != Kind::KillAllStores {
                        victims = choice.pick(&victims).into_iter().collect();
                    }
                    let names: Vec<&str> = victims
                        .iter()
                        .map(|victim| processes.name(*victim))
                        .collect();
                    events.doing("harm", format!("{} killed for {away:?}", names.join(", ")));
                    for victim in &victims {
                        processes.kill(*victim);
                    }
                    victims
                };
                pause(away, stopping).await;
                let mut processes = processes.lock().await;
                for victim in victims {
                    if let Err(error) = processes.revive(victim) {
                        events.note(&format!("it cannot be started: {error:#}"));
                    }
                }
                true
            }
            Kind::DiskFull | Kind::DiskFails | Kind::DiskHangs => {
                harm_disk(kind, choice, processes, events, stopping).await
            }
            Kind::PauseStore | Kind::PauseMember => {
                // Now and then longer than a follower waits for its leader, by far.
                let away = match choice.below(3) {
                    0 => choice.millis(2_000, 8_000),
                    _ => choice.millis(100, 2_000),
                };
                let role = match kind {
                    Kind::PauseMember => Role::Member,
                    _ => Role::Store,
                };
                let victim = {
                    let mut processes = processes.lock().await;
                    let victims = processes.numbers(role);
                    let Some(victim) = choice.pick(&victims) else {
                        return false;
                    };
                    events.doing(
                        "harm",
                        format!("{} stopped for {away:?}", processes.name(victim)),
                    );
                    processes.stop(victim);
                    victim
                };
                pause(away, stopping).await;
                processes.lock().await.go_on(victim);
                true
            }
        }
    }
}

/// Lets a store's disk be at fault for a while. Where it fails or takes nothing the store may end by itself, and it loses
/// its power at the end.
async fn harm_disk(
    kind: Kind,
    choice: &mut Choice,
    processes: &Mutex<Processes>,
    events: &Events,
    stopping: &mut watch::Receiver<bool>,
) -> bool {
    let length = choice.millis(300, 4_000);
    let (fault, ends) = match kind {
        Kind::DiskFull => ("full", true),
        Kind::DiskFails => ("fail", true),
        _ => ("hang", false),
    };
    let (victim, before) = {
        let mut processes = processes.lock().await;
        let Some(victim) = choice.pick(&processes.numbers(Role::Store)) else {
            return false;
        };
        events.doing(
            "harm",
            format!("{kind:?} {} for {length:?}", processes.name(victim)),
        );
        processes.let_end(victim, ends);
        match processes.set_disk(victim, fault, true) {
            Ok(before) => (victim, before),
            Err(error) => {
                events.note(&format!("its disk cannot be harmed: {error:#}"));
                processes.let_end(victim, false);
                return false;
            }
        }
    };
    pause(length, stopping).await;
    let mut processes = processes.lock().await;
    let ended = ends && processes.has_ended(victim);
    let harmed = ended
        || processes
            .set_disk(victim, fault, false)
            .is_ok_and(|harmed| harmed > before);
    if ends {
        processes.kill(victim);
        processes.let_end(victim, false);
        if let Err(error) = processes.revive(victim) {
            events.note(&format!("it cannot be started: {error:#}"));
        }
    }
    harmed
}

fn all(processes: &Processes) -> Vec<usize> {
    [
        processes.numbers(Role::Member),
        processes.numbers(Role::Store),
    ]
    .concat()
}

fn way(choice: &mut Choice) -> Way {
    match choice.below(2) {
        0 => Way::There,
        _ => Way::Back,
    }
}

/// Lets a rule hold for a while.
async fn harm_network(
    kind: Kind,
    choice: &mut Choice,
    processes: &Mutex<Processes>,
    events: &Events,
    stopping: &mut watch::Receiver<bool>,
) -> bool {
    let length = match choice.below(4) {
        0 => choice.millis(3_000, 7_000),
        _ => choice.millis(300, 3_000),
    };
    let count = |processes: &Processes| {
        let counts = processes.net.counts();
        let counter = match kind {
            Kind::Delay => &counts.delayed,
            Kind::Throttle => &counts.throttled,
            Kind::Flip => &counts.flips,
            _ => &counts.held,
        };
        counter.load(Relaxed)
    };
    let (rules, before, what) = {
        let processes = processes.lock().await;
        let stores = processes.numbers(Role::Store);
        let everybody = all(&processes);
        let (Some(store), Some(any)) = (choice.pick(&stores), choice.pick(&everybody)) else {
            return false;
        };
        let others: Vec<usize> = stores.iter().copied().filter(|one| *one != store).collect();
        let Some(other) = choice.pick(&others) else {
            return false;
        };
        let from_store = From::Peer(processes.id(store).unwrap_or_default());
        let from_other = From::Peer(processes.id(other).unwrap_or_default());
        let to = |to: usize, from: From, way: Option<Way>| Which {
            from,
            to: Some(to),
            way,
        };
        let (wheres, harm, place) = match kind {
            Kind::Delay => {
                let delay = choice.millis(5, 400);
                let way = choice.below(3).checked_sub(1).map(|_| way(choice));
                let where_ = to(any, From::Anybody, way);
                (
                    vec![where_],
                    Harm::Delay(delay),
                    processes.name(any).to_owned(),
                )
            }
            Kind::Throttle => {
                let rate = 10_000 << choice.below(8);
                let where_ = to(any, From::Anybody, None);
                (
                    vec![where_],
                    Harm::Throttle(rate),
                    processes.name(any).to_owned(),
                )
            }
            Kind::BlackHole => (
                vec![to(other, from_store, None), to(store, from_other, None)],
                Harm::Hold,
                format!("{} and {}", processes.name(store), processes.name(other)),
            ),
            Kind::OneWay => match choice.below(3) {
                // What the store says to others, the answers to clients included, is lost.
                0 => {
                    let mut wheres = vec![to(store, From::Anybody, Some(Way::Back))];
                    wheres.extend(
                        others
                            .iter()
                            .map(|one| to(*one, from_store, Some(Way::There))),
                    );
                    (
                        wheres,
                        Harm::Hold,
                        format!("out of {}", processes.name(store)),
                    )
                }
                1 => (
                    vec![to(other, from_store, Some(Way::There))],
                    Harm::Hold,
                    format!("{} to {}", processes.name(store), processes.name(other)),
                ),
                _ => (
                    vec![to(any, From::Anybody, Some(Way::There))],
                    Harm::Hold,
                    format!("into {}", processes.name(any)),
                ),
            },
            Kind::Isolate => {
                let mut wheres = vec![to(any, From::Anybody, None)];
                if let Some(id) = processes.id(any) {
                    let from = From::Peer(id);
                    let rest = stores.iter().filter(|one| **one != any);
                    wheres.extend(rest.map(|one| to(*one, from, None)));
                }
                (wheres, Harm::Hold, processes.name(any).to_owned())
            }
            _ => {
                let distance = 1_000 << choice.below(8);
                let where_ = Which {
                    from: From::AnyPeer,
                    ..Which::ALL
                };
                (vec![where_], Harm::Flip(distance), "between all".to_owned())
            }
        };
        let rules: Vec<_> = wheres
            .into_iter()
            .map(|which| processes.net.harm(which, harm))
            .collect();
        (
            rules,
            count(&processes),
            format!("{kind:?} {harm:?} {place}"),
        )
    };
    events.doing("harm", format!("{what} for {length:?}"));
    pause(length, stopping).await;
    let processes = processes.lock().await;
    for rule in rules {
        processes.net.mend(rule);
    }
    count(&processes) > before
}
