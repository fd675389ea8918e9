//! What was met, and what it cost.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;

/// A kind of thing that a cloud does to its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// By chance: not applied, answered with a 500.
    FailBefore,
    /// By chance: not applied, the connection broke.
    DropBefore,
    /// By chance: the server acted, a 500 came instead of its answer.
    FailAfter,
    /// By chance: the server acted, the connection broke before its answer.
    DropAfter,
    /// By chance: the server acted, nothing came back.
    HangAfter,
    /// By chance: sent on a long way, nothing came back.
    Stall,
    /// By chance: throttled, or a batch left in part unprocessed.
    Throttle,
    /// By chance: refused as in conflict with a transaction.
    Conflict,
    /// Not sent: the process's credentials provider timed out.
    Unsigned,
    /// Refused: the process's credentials are not, or no longer, good.
    Refused,
    /// Refused with a `ValidationException` for the set-up, whatever the request.
    Misfit,
    /// Refused because a transaction really held an item of it.
    HeldConflict,
    /// Refused because a transaction with its token was under way.
    InProgress,
    /// Throttled because an item had taken as much as it takes in a second.
    PartitionLimit,
    /// Answered from a client request token: nothing was written again.
    TokenReplay,
    /// A write that was applied and whose answer never arrived, for whatever reason. These are what
    /// makes a careless client count twice.
    LostAnswer,
    /// A stalled write that arrived late and was applied then: a zombie.
    Zombie,
    /// A stalled write that arrived late and was refused by its condition.
    ZombieRefused,
    /// A read was answered with an item as it had been.
    Stale,
    /// A process was killed.
    Kill,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Self; 20] = [
        Self::FailBefore,
        Self::DropBefore,
        Self::FailAfter,
        Self::DropAfter,
        Self::HangAfter,
        Self::Stall,
        Self::Throttle,
        Self::Conflict,
        Self::Unsigned,
        Self::Refused,
        Self::Misfit,
        Self::HeldConflict,
        Self::InProgress,
        Self::PartitionLimit,
        Self::TokenReplay,
        Self::LostAnswer,
        Self::Zombie,
        Self::ZombieRefused,
        Self::Stale,
        Self::Kill,
    ];
}

/// How often each kind of fault was met. Add up those of several runs with `+=`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Met(BTreeMap<Fault, u64>);

impl Met {
    /// How often `fault` was met.
    pub fn count(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or(0)
    }

    /// All kinds with their counts, those at zero too.
    pub fn iter(&self) -> impl Iterator<Item = (Fault, u64)> {
        Fault::ALL
            .map(|fault| (fault, self.count(fault)))
            .into_iter()
    }

    pub(super) fn note(&mut self, fault: Fault) {
        *self.0.entry(fault).or_default() += 1;
    }
}

impl AddAssign<&Met> for Met {
    fn add_assign(&mut self, other: &Met) {
        for (fault, count) in &other.0 {
            *self.0.entry(*fault).or_default() += count;
        }
    }
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (fault, count)) in self.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{fault:?} {count}")?;
        }
        Ok(())
    }
}

/// Requests and capacity, counted where a request reaches the server; what never arrived costs
/// nothing.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Usage {
    /// Requests that left a process, per operation, those that never arrived too.
    pub requests: BTreeMap<String, u64>,
    /// Write units of plain writes that were applied: 1 per KB of the larger of the item before and
    /// after.
    pub plain: f64,
    /// Write units of plain writes that their condition refused: 1 per KB of the item, at least 1.
    pub refused: f64,
    /// Write units of transactions that were applied: 2 per KB and action.
    pub transactional: f64,
    /// Write units of transactions that were cancelled.
    pub cancelled: f64,
    /// Read units: 1 per 4 KB read consistently, half of it otherwise, 2 in a transaction.
    pub read: f64,
}

impl Usage {
    /// How many requests of `operation` left a process.
    pub fn requests_of(&self, operation: &str) -> u64 {
        self.requests.get(operation).copied().unwrap_or(0)
    }

    /// All requests.
    pub fn total_requests(&self) -> u64 {
        self.requests.values().sum()
    }

    /// All write units.
    pub fn write_units(&self) -> f64 {
        self.plain + self.refused + self.transactional + self.cancelled
    }
}

impl AddAssign<&Usage> for Usage {
    fn add_assign(&mut self, other: &Usage) {
        for (operation, count) in &other.requests {
            *self.requests.entry(operation.clone()).or_default() += count;
        }
        self.plain += other.plain;
        self.refused += other.refused;
        self.transactional += other.transactional;
        self.cancelled += other.cancelled;
        self.read += other.read;
    }
}
