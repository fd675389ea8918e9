//! Counts of the faults that occurred, and of their cost.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;

/// A kind of fault that a cloud causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// By chance: not applied, answered with a 500.
    FailBefore,
    /// By chance: not applied, the connection broke.
    DropBefore,
    /// By chance: processed, but answered with a 500 instead of the server's answer.
    FailAfter,
    /// By chance: processed, but the connection broke before the answer.
    DropAfter,
    /// By chance: processed, but never answered.
    HangAfter,
    /// By chance: delayed, and never answered.
    Stall,
    /// By chance: throttled, or a part of a batch left unprocessed.
    Throttle,
    /// By chance: refused because of a conflict with a transaction.
    Conflict,
    /// Not sent: the process's credentials provider timed out.
    Unsigned,
    /// Refused: the credentials of the process are invalid or expired.
    Refused,
    /// Refused with a `ValidationException` for the set-up, independent of the request.
    Misfit,
    /// Refused because a running transaction held one of its items.
    HeldConflict,
    /// Refused because a transaction with the same token was under way.
    InProgress,
    /// Throttled because an item had reached its write limit per second.
    PartitionLimit,
    /// Answered from a client request token: nothing was written a second time.
    TokenReplay,
    /// A write was applied and its answer never arrived, for any reason. A careless client counts
    /// such a write twice.
    LostAnswer,
    /// A stalled write arrived late and was applied.
    Zombie,
    /// A stalled write arrived late and was refused by its condition.
    ZombieRefused,
    /// A read returned an earlier state of an item.
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

/// How often each kind of fault occurred. `+=` adds the counts of several runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Met(BTreeMap<Fault, u64>);

impl Met {
    /// How often `fault` occurred.
    pub fn count(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or(0)
    }

    /// All kinds with their counts, including zeros.
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

/// Requests and capacity. Capacity is counted when a request reaches the server; a request that
/// never arrives costs nothing.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Usage {
    /// The number of requests that left a process, per operation, including those that never
    /// arrived.
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
    /// Read units: 1 per 4 KB for consistent reads, half of that for others, 2 in a transaction.
    pub read: f64,
}

impl Usage {
    /// The number of requests of `operation` that left a process.
    pub fn requests_of(&self, operation: &str) -> u64 {
        self.requests.get(operation).copied().unwrap_or(0)
    }

    /// The number of all requests.
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
