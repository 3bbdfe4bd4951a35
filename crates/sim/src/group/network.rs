//! A hostile network: loss, doubles, reordering, replay, one-way cuts, splits (F5 to F7).

use std::collections::VecDeque;

use raft::{Message, PeerId};

use super::model::slot;
use super::settings::{Fault, Settings};
use crate::peers::PeerSet;
use crate::random::Stream;
use crate::schedule::Time;

/// How many old messages are kept for replay.
const REPLAY_MAX: usize = 48;

/// The links of a world.
#[derive(Debug)]
pub struct Network {
    random: Stream,
    /// By sender: who does not hear it.
    cut: Vec<PeerSet>,
    /// Who hears everything late.
    lagging: PeerSet,
    /// Copies of old messages.
    old: VecDeque<Message>,
    /// Faults stopped: every message arrives once, soon.
    healed: bool,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fate {
    /// When it arrives, if it does.
    pub arrives: Option<Time>,
    /// When it arrives again, if it does.
    pub again: Option<Time>,
}

impl Network {
    /// A network without cuts.
    pub fn new(random: Stream) -> Self {
        Network {
            random,
            cut: vec![PeerSet::default(); 64],
            lagging: PeerSet::default(),
            old: VecDeque::new(),
            healed: false,
        }
    }

    /// Decides over `message`, sent now.
    pub fn send(&mut self, message: &Message, settings: &Settings) -> Fate {
        if self.healed {
            return Fate {
                arrives: Some(self.random.between(settings.delay.0, settings.delay.1)),
                again: None,
            };
        }
        let faults = settings.faults;
        if faults.has(Fault::Replay) && self.random.chance(30) {
            if self.old.len() == REPLAY_MAX {
                let forgotten = self.random.below(REPLAY_MAX as u64) as usize;
                self.old.remove(forgotten);
            }
            self.old.push_back(message.clone());
        }
        let lost = self.is_cut(message)
            || faults.has(Fault::Loss) && self.random.chance(settings.loss_permille);
        Fate {
            arrives: (!lost).then(|| self.delay_to(message.to, settings)),
            again: (!lost
                && faults.has(Fault::Duplicate)
                && self.random.chance(settings.duplicate_permille))
            .then(|| self.delay_to(message.to, settings)),
        }
    }

    /// How long a message takes, or anything else that crosses the network.
    pub fn delay(&mut self, settings: &Settings) -> Time {
        let slow =
            settings.faults.has(Fault::Reorder) && self.random.chance(settings.slow_permille);
        let (low, high) = if slow && !self.healed {
            settings.slow_delay
        } else {
            settings.delay
        };
        self.random.between(low, high)
    }

    fn delay_to(&mut self, to: PeerId, settings: &Settings) -> Time {
        if self.lagging.contains(to) {
            return self
                .random
                .between(settings.slow_delay.0, settings.slow_delay.1);
        }
        self.delay(settings)
    }

    /// Lets `peer` hear everything late from now on.
    pub fn lag(&mut self, peer: PeerId) {
        self.lagging.insert(peer);
    }

    /// An old message that arrives once more.
    pub fn replay(&mut self) -> Option<Message> {
        if self.old.is_empty() || self.healed {
            return None;
        }
        let index = self.random.below(self.old.len() as u64) as usize;
        Some(self.old[index].clone())
    }

    /// Whether the link is cut on which `message` travels.
    pub fn is_cut(&self, message: &Message) -> bool {
        self.cut[slot(message.from)].contains(message.to)
    }

    /// Cuts everything between `side` and the others.
    pub fn split(&mut self, side: PeerSet) {
        for (peer, cut) in self.cut.iter_mut().enumerate() {
            cut.0 |= if side.0 & (1 << peer) != 0 {
                !side.0
            } else {
                side.0
            };
        }
    }

    /// Cuts what goes from `from` to `to`.
    pub fn cut_link(&mut self, from: usize, to: PeerSet) {
        self.cut[from].0 |= to.0;
    }

    /// Mends every link.
    pub fn mend(&mut self) {
        self.cut.fill(PeerSet::default());
        self.lagging = PeerSet::default();
    }

    /// Ends all faults.
    pub fn heal(&mut self) {
        self.mend();
        self.healed = true;
    }

    /// The stream from which faults of the network are drawn.
    pub fn random(&mut self) -> &mut Stream {
        &mut self.random
    }
}
