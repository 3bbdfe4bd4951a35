//! How uneven a cluster is, as numbers that moves lower (REGIONS §9).
//!
//! A store carries loads of several [`Dimension`]s. In each, `u = load / capacity` is how much of itself a store uses, and
//! `Φ = Σ capacity · g(u)` with a convex `g` is smallest when every `u` is the same. [`Scores`] holds all of them for the
//! stores that may take part, with moves in flight counted as done, and judges moves:
//!
//! - a move for balance lowers the Φ of its own dimension by at least `amount · h`, where `h` is the hysteresis, and the
//!   weighted sum of all dimensions by at least half of that;
//! - a hot move lowers the weighted sum by at least `amount · h` of what makes it hot, and raises no dimension's maximum
//!   above what balance would leave alone.
//!
//! So every accepted move lowers one number, the weighted sum, by an amount that does not shrink; without new load there
//! are finitely many, and then silence. That number is also why schedulers cannot undo each other's moves in turns.

use proto::StoreId;

use crate::regions::RegionInfo;

/// What a region costs its stores beside its bytes: log, heartbeats, memory. Evens out counts where regions are empty.
pub(crate) const REGION_BYTES: u64 = 1 << 20;

/// Bytes that are as much work as one key.
pub(crate) const KEY_BYTES: u64 = 256;

/// Use of a store above which it is to be relieved first.
const FULL: f64 = 0.8;
/// How much steeper `g` is above.
const STEEPNESS: f64 = 20.0;

/// Sums of loads are not exact.
const ROUNDING: f64 = 1e-9;

/// What is evened out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dimension {
    /// Bytes of peers, and a fixed amount for each.
    Size,
    /// Peers that lead.
    Leaders,
    /// Bytes written per second, at every peer.
    WrittenBytes,
    /// Keys written per second, at every peer.
    WrittenKeys,
    /// Work of leaders with writes.
    Proposals,
    /// Work of leaders with reads.
    Reads,
}

impl Dimension {
    /// All of them; the position is the index of its column.
    pub const ALL: [Self; 6] = [
        Self::Size,
        Self::Leaders,
        Self::WrittenBytes,
        Self::WrittenKeys,
        Self::Proposals,
        Self::Reads,
    ];

    /// The name in decisions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Leaders => "leaders",
            Self::WrittenBytes => "written bytes",
            Self::WrittenKeys => "written keys",
            Self::Proposals => "proposals",
            Self::Reads => "reads",
        }
    }
}

/// What a region burdens a store with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Burden {
    pub size: u64,
    pub written_bytes: u64,
    pub written_keys: u64,
    /// Of the leader.
    pub proposals: u64,
    /// Of the leader.
    pub reads: u64,
}

impl Burden {
    pub fn of(region: &RegionInfo) -> Self {
        Self {
            size: region.bytes.saturating_add(REGION_BYTES),
            written_bytes: region.written_bytes,
            written_keys: region.written_keys,
            proposals: work(region.written_bytes, region.written_keys),
            reads: work(region.read_bytes, region.read_keys),
        }
    }

    /// In one dimension.
    pub fn amount(&self, dimension: Dimension) -> f64 {
        match dimension {
            Dimension::Size => self.size as f64,
            Dimension::Leaders => 1.0,
            Dimension::WrittenBytes => self.written_bytes as f64,
            Dimension::WrittenKeys => self.written_keys as f64,
            Dimension::Proposals => self.proposals as f64,
            Dimension::Reads => self.reads as f64,
        }
    }
}

fn work(bytes: u64, keys: u64) -> u64 {
    bytes.saturating_add(keys.saturating_mul(KEY_BYTES))
}

/// Load of one store in one dimension.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    pub amount: f64,
    /// Above zero.
    pub capacity: f64,
}

impl Load {
    pub fn used(self) -> f64 {
        self.amount / self.capacity
    }

    fn with(self, more: f64) -> Self {
        Self {
            amount: self.amount + more,
            ..self
        }
    }

    fn potential(self, steep: bool) -> f64 {
        let used = self.used();
        let over = if steep { (used - FULL).max(0.0) } else { 0.0 };
        self.capacity * (used * used + STEEPNESS * over * over) / 2.0
    }
}

/// One dimension of all stores.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    loads: Vec<Load>,
    /// `Σ amount / Σ capacity`, at least a floor below which differences do not matter.
    pub mean: f64,
    /// By how much of `u` stores may differ without being evened out.
    pub hysteresis: f64,
    /// Brings Φ of all dimensions to one scale: 1 is a store of mean capacity at the mean.
    scale: f64,
    steep: bool,
}

/// What a column is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Least mean.
    pub floor: f64,
    /// Share of the mean that is left alone.
    pub tolerance: f64,
    /// Amount on a store of mean capacity that is left alone: an average region, a leader.
    pub grain: f64,
    /// Whether capacity is space, which runs out.
    pub steep: bool,
}

impl Column {
    pub fn new(loads: Vec<Load>, shape: Shape) -> Self {
        let capacity: f64 = loads.iter().map(|load| load.capacity).sum();
        let amount: f64 = loads.iter().map(|load| load.amount).sum();
        let (mean, mean_capacity) = if loads.is_empty() {
            (shape.floor, 1.0)
        } else {
            let mean_capacity = capacity / loads.len() as f64;
            (
                (amount / capacity).max(shape.floor / mean_capacity),
                mean_capacity,
            )
        };
        Self {
            loads,
            mean,
            hysteresis: (mean * shape.tolerance).max(shape.grain / mean_capacity),
            scale: 1.0 / (mean_capacity * mean * mean),
            steep: shape.steep,
        }
    }

    /// Use of a store.
    pub fn used(&self, store: usize) -> f64 {
        self.loads[store].used()
    }

    /// Use of a store with so much more.
    pub fn used_with(&self, store: usize, more: f64) -> f64 {
        self.loads[store].with(more).used()
    }

    /// Φ, on the common scale.
    pub fn potential(&self) -> f64 {
        let sum: f64 = self
            .loads
            .iter()
            .map(|load| load.potential(self.steep))
            .sum();
        sum * self.scale
    }

    /// By how much Φ falls when an amount goes from one store to another, on the common scale.
    fn fall(&self, from: usize, to: usize, amount: f64) -> f64 {
        if from == to {
            return 0.0;
        }
        let potential = |store: usize, more| self.loads[store].with(more).potential(self.steep);
        let before = potential(from, 0.0) + potential(to, 0.0);
        (before - potential(from, -amount) - potential(to, amount)) * self.scale
    }

    /// What a move of this amount must at least bring, on the common scale.
    fn least(&self, amount: f64) -> f64 {
        amount * self.hysteresis * self.scale
    }

    /// Whether such an amount is not worth moving from one store to another.
    pub fn even(&self, low: usize, high: usize, amount: f64) -> bool {
        self.fall(high, low, amount) < self.least(amount)
    }

    fn max(&self) -> f64 {
        self.loads
            .iter()
            .map(|load| load.used())
            .fold(0.0, f64::max)
    }
}

/// One load that goes from one store to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shift {
    pub dimension: Dimension,
    /// Positions in [`Scores::stores`].
    pub from: usize,
    pub to: usize,
    pub amount: f64,
}

/// What a move shifts: the peer's loads, the leader's, or both.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Shifts(Vec<Shift>);

impl Shifts {
    /// A peer goes from one store to another, without leadership.
    pub fn peer(mut self, burden: &Burden, from: usize, to: usize) -> Self {
        let of_peers = [
            Dimension::Size,
            Dimension::WrittenBytes,
            Dimension::WrittenKeys,
        ];
        self.add(burden, &of_peers, from, to);
        self
    }

    /// Leadership goes from one store to another.
    pub fn leader(mut self, burden: &Burden, from: usize, to: usize) -> Self {
        let of_leaders = [Dimension::Leaders, Dimension::Proposals, Dimension::Reads];
        self.add(burden, &of_leaders, from, to);
        self
    }

    fn add(&mut self, burden: &Burden, dimensions: &[Dimension], from: usize, to: usize) {
        self.0.extend(dimensions.iter().map(|&dimension| Shift {
            dimension,
            from,
            to,
            amount: burden.amount(dimension),
        }));
    }

    pub fn iter(&self) -> impl Iterator<Item = &Shift> {
        self.0.iter()
    }
}

/// What a move brings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Verdict {
    /// By how much the weighted sum falls.
    pub fall: f64,
    /// Whether it may be made.
    pub accepted: bool,
}

/// All dimensions of the stores that take part.
#[derive(Clone, Debug)]
pub(crate) struct Scores {
    /// In ascending order.
    stores: Vec<StoreId>,
    columns: [Column; 6],
}

impl Scores {
    /// Of these stores, in ascending order; every column has one load for each.
    pub fn new(stores: Vec<StoreId>, columns: [Column; 6]) -> Self {
        debug_assert!(stores.is_sorted(), "positions are found by binary search");
        for column in &columns {
            assert_eq!(column.loads.len(), stores.len(), "one load for each store");
        }
        Self { stores, columns }
    }

    pub fn stores(&self) -> &[StoreId] {
        &self.stores
    }

    /// Where a store stands; `None` when it takes no part.
    pub fn position(&self, store: StoreId) -> Option<usize> {
        self.stores.binary_search(&store).ok()
    }

    pub fn column(&self, dimension: Dimension) -> &Column {
        &self.columns[dimension as usize]
    }

    /// The weighted sum of all Φ; all weights are 1.
    #[cfg(test)]
    pub fn potential(&self) -> f64 {
        self.columns.iter().map(Column::potential).sum()
    }

    /// What a move of this amount must at least lower the Φ of its dimension by.
    #[cfg(test)]
    pub fn least(&self, dimension: Dimension, amount: f64) -> f64 {
        self.column(dimension).least(amount)
    }

    /// By how much the weighted sum falls.
    pub fn fall(&self, shifts: &Shifts) -> f64 {
        shifts.iter().map(|shift| self.part(shift)).sum()
    }

    fn part(&self, shift: &Shift) -> f64 {
        self.column(shift.dimension)
            .fall(shift.from, shift.to, shift.amount)
    }

    /// Judges a move for balance of one dimension.
    pub fn judge(&self, own: Dimension, shifts: &Shifts) -> Verdict {
        let fall = self.fall(shifts);
        let mut own_fall = 0.0;
        let mut least = 0.0;
        for shift in shifts.iter().filter(|shift| shift.dimension == own) {
            own_fall += self.part(shift);
            least += self.column(own).least(shift.amount);
        }
        Verdict {
            fall,
            accepted: own_fall > 0.0 && own_fall >= least && fall >= own_fall / 2.0,
        }
    }

    /// Judges a move of a hot region for these dimensions.
    pub fn judge_hot(&self, own: &[Dimension], shifts: &Shifts) -> Verdict {
        let fall = self.fall(shifts);
        let hot = || shifts.iter().filter(|shift| own.contains(&shift.dimension));
        let least: f64 = hot()
            .map(|shift| self.column(shift.dimension).least(shift.amount))
            .sum();
        let shifted = hot().any(|shift| shift.amount > 0.0);
        let raises = |shift: &Shift| {
            let column = self.column(shift.dimension);
            let after = column.loads[shift.to].with(shift.amount).used();
            // One that is average and takes one more may take that one: balance leaves it there too.
            let even = column.mean + 2.0 * column.hysteresis;
            shift.from != shift.to && after > column.max().max(even) * (1.0 + ROUNDING)
        };
        Verdict {
            fall,
            accepted: shifted && fall > 0.0 && fall >= least && !shifts.iter().any(raises),
        }
    }

    /// Counts a move as done. Means stay: nothing is added or lost.
    pub fn apply(&mut self, shifts: &Shifts) {
        for shift in shifts.iter() {
            let loads = &mut self.columns[shift.dimension as usize].loads;
            loads[shift.from].amount -= shift.amount;
            loads[shift.to].amount += shift.amount;
        }
    }

    /// Counts what comes to a store, or leaves it.
    pub fn add(&mut self, dimension: Dimension, store: usize, amount: f64) {
        let load = &mut self.columns[dimension as usize].loads[store];
        load.amount = (load.amount + amount).max(0.0);
    }
}

#[cfg(test)]
mod tests;
