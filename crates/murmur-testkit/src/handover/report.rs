//! The report of one run, and the summary of many.

use std::fmt;

use super::scenario::{Mode, Scenario};
use crate::runs::{Met, show};

/// Every kind of situation, in the order of the table.
pub(super) const KINDS: [&str; 74] = [
    "writes before the scan",
    "writes during the scan",
    "writes after the scan",
    "inserts",
    "re-inserts",
    "changes of amounts",
    "moves between keys",
    "moves between windows",
    "deletes",
    "removals by TTL kept",
    "removals by TTL taken back",
    "rows to be skipped",
    "rows to be rejected",
    "rows with an unusable key",
    "shards split or rolled over",
    "bootstraps",
    "bootstraps beside another",
    "bootstraps of a part",
    "bootstraps killed reading",
    "bootstraps killed within a page",
    "bootstraps killed in a write",
    "bootstraps killed at a checkpoint",
    "bootstraps that failed",
    "processes suspended",
    "pages",
    "pages read again",
    "scanned rows counted",
    "scanned rows again",
    "scanned rows overtaken",
    "zombies counted a row",
    "records counted",
    "records again",
    "records overtaken",
    "redelivered records",
    "batches again",
    "regroupings",
    "races",
    "bisections",
    "functions killed",
    "function timeouts",
    "triggers at the horizon",
    "triggers at the token",
    "readers killed",
    "throttles",
    "conflicts",
    "lost answers",
    "requests that came late",
    "requests that could not be signed",
    "credentials refused",
    "refusals for the set-up",
    "bootstraps stopped by a spell",
    "readers stopped by a spell",
    "repairs stopped by a spell",
    "expired rows removed",
    "records lost in a gap",
    "repairs",
    "repairs that came too early",
    "repairs killed",
    "items mended",
    "told that items settle",
    "told so before the bootstrap's end",
    "items settled by a mark",
    "items settled by a transaction",
    "records seen by settled items",
    "records seen by unsettled items",
    "records counted by id",
    "records by id again",
    "scanned rows over settled items",
    "settled items and who had not heard",
    "re-inserts of settled items",
    "deletes of settled items",
    "settled items kept after TTL",
    "settled items taken back after TTL",
    "settled items that a repair met",
];

/// A fault that a run has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// A total differs from the recount.
    Total {
        /// The row: entity and bucket.
        row: String,
        /// The value in the table.
        found: i64,
        /// The value that the recount gives.
        wanted: i64,
    },
    /// Another fault, described in words.
    Other(String),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Total { row, found, wanted } => {
                write!(f, "{row}: found {found}, wanted {wanted}")
            }
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// The result of one run.
#[derive(Debug, Clone)]
pub struct Report {
    /// The scenario of the run.
    pub scenario: Scenario,
    /// The faults found; empty if the run passed.
    pub wrong: Vec<Wrong>,
    /// The situations that occurred.
    pub met: Met,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scenario { seed, mode, .. } = &self.scenario;
        let again = format!("HANDOVER_SEED={seed} cargo test -p murmur-testkit --test handover");
        let name = format_args!("seed {seed}, {mode}");
        show(f, name, &self.wrong, &self.scenario, &again)
    }
}

/// The result of many runs.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// The number of runs.
    pub runs: u64,
    /// The number of runs with a fault.
    pub wrong_runs: u64,
    /// The number of totals that were too high, in all runs.
    pub too_high: u64,
    /// The number of totals that were too low, in all runs.
    pub too_low: u64,
    /// The number of other faults.
    pub otherwise: u64,
    /// The situations that occurred.
    pub met: Met,
    /// The first runs with a fault, ordered by seed.
    pub failed: Vec<Report>,
}

/// How many failed runs are kept.
const KEPT: usize = 10;

impl Summary {
    pub(super) fn add(&mut self, report: Report) {
        self.runs += 1;
        self.met.merge(&report.met);
        for wrong in &report.wrong {
            match wrong {
                Wrong::Total { found, wanted, .. } if found > wanted => self.too_high += 1,
                Wrong::Total { .. } => self.too_low += 1,
                Wrong::Other(_) => self.otherwise += 1,
            }
        }
        if !report.wrong.is_empty() {
            self.wrong_runs += 1;
            self.failed.push(report);
            self.failed.sort_by_key(|report| report.scenario.seed);
            self.failed.truncate(KEPT);
        }
    }
}

/// The head of the table whose rows [`row`] returns.
pub fn head() -> String {
    format!(
        "{:<16}{:>8}{:>12}{:>10}{:>10}{:>12}",
        "mode", "runs", "wrong runs", "too high", "too low", "otherwise"
    )
}

/// The table row of one mode.
pub fn row(mode: Mode, summary: &Summary) -> String {
    let Summary {
        runs,
        wrong_runs,
        too_high,
        too_low,
        otherwise,
        ..
    } = summary;
    format!("{mode:<16}{runs:>8}{wrong_runs:>12}{too_high:>10}{too_low:>10}{otherwise:>12}")
}
