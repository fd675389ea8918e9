//! What was met, over all runs.

use std::collections::BTreeMap;
use std::fmt;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Met(BTreeMap<&'static str, u64>);

/// Every kind, in the order of the table.
const KINDS: [&str; 49] = [
    "changes",
    "splits",
    "roll-overs",
    "records trimmed unread",
    "processes",
    "crashes",
    "stops",
    "drains",
    "freezes",
    "machines suspended",
    "begun from a handoff",
    "takeovers",
    "leases lost",
    "shards given up to others",
    "shards taken that others gave up",
    "zombie deliveries",
    "zombie saves refused",
    "batches",
    "redelivered records",
    "duplicates recognised",
    "handler failed before",
    "handler failed after",
    "partial answers",
    "partial after applying",
    "unknown identifiers",
    "slow calls",
    "retries",
    "bisections",
    "given up",
    "given up and applied",
    "given up for age",
    "callback failed",
    "stopped: retries",
    "stopped: age",
    "stopped: gap",
    "stopped: position",
    "stopped: stream",
    "gaps continued",
    "calls without credentials",
    "calls with refused credentials",
    "reads failed",
    "throttles",
    "short reads",
    "empty reads",
    "iterators expired",
    "loads failed",
    "saves failed",
    "saves with the answer lost",
    "saves that came late",
];

impl Met {
    pub(crate) fn add(&mut self, kind: &'static str, by: u64) {
        assert!(KINDS.contains(&kind), "{kind} is no kind");
        *self.0.entry(kind).or_default() += by;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (kind, count) in &other.0 {
            *self.0.entry(kind).or_default() += count;
        }
    }

    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let count = |kind: &&str| self.0.get(*kind).copied().unwrap_or(0);
        KINDS.into_iter().filter(|kind| count(kind) == 0).collect()
    }
}

/// A table, one kind to a line.
impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for kind in KINDS {
            let count = self.0.get(kind).copied().unwrap_or(0);
            writeln!(f, "  {kind:<28}{count:>10}")?;
        }
        Ok(())
    }
}
