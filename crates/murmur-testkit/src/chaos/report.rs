//! The report of one run, and the summary of many.

use std::fmt;

use super::fleet::Place;
use super::scenario::{Mode, Scenario};
use crate::runs::{Met, show};

/// Every kind of situation, in the order of the table.
pub(super) const KINDS: [&str; 42] = [
    "redelivered records",
    "batches again",
    "regroupings",
    "races",
    "kills",
    "timeouts",
    "lost responses",
    "partial failures",
    "bisections",
    "failed before",
    "dropped before",
    "failed after",
    "dropped after",
    "hung after",
    "lost answers",
    "stalls",
    "zombies applied",
    "zombies refused",
    "throttles",
    "conflicts by chance",
    "requests that could not be signed",
    "credentials refused",
    "refusals for the set-up",
    "machines suspended",
    "conflicts",
    "partition limits",
    "retries",
    "duplicates recognised",
    "too old",
    "reads of older items",
    "moves of ids",
    "changes of a row's level",
    "refusals after one move",
    "refusals after several moves",
    "pages written",
    "pages of undated events",
    "pages written after the move they were for",
    "look-ups in pages",
    "duplicates found in pages",
    "pages expired",
    "pages made anew after they expired",
    "rows of windows expired",
];

/// A server answers at once: it holds no item, it limits no writes per second, and no machine can
/// be suspended while it waits for an answer.
const NOT_SHOWN_BY_A_SERVER: [&str; 3] = ["conflicts", "partition limits", "machines suspended"];

/// A fault that a run has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// A total differs from the recount.
    Total {
        /// The row: entity and bucket.
        row: String,
        /// The value in the table.
        found: String,
        /// The value that the recount gives.
        wanted: String,
        /// Whether the total is too high: an event counted that should not, or counted more than
        /// once.
        too_high: bool,
    },
    /// A row that nothing in the history explains.
    Unexpected(String),
    /// Events were neither counted nor passed to the callback: they failed until the stream dropped
    /// them.
    Lost {
        /// The number of events.
        events: usize,
        /// The last error that was reported for them.
        error: String,
    },
    /// The callback received an event for a reason other than its age.
    Rejected(String),
    /// DynamoDB would refuse the form of a request.
    Oversized(String),
    /// The code panicked.
    Panicked(String),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Total {
                row, found, wanted, ..
            } => write!(f, "{row}: found {found}, wanted {wanted}"),
            Self::Unexpected(row) => write!(f, "nothing explains the row {row}"),
            Self::Lost { events, error } => {
                write!(f, "{events} events never got through; last error: {error}")
            }
            Self::Rejected(why) => write!(f, "an event was rejected: {why}"),
            Self::Oversized(request) => write!(f, "DynamoDB refuses this form: {request}"),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
        }
    }
}

/// The result of one run.
#[derive(Debug, Clone)]
pub struct Report {
    /// The scenario of the run.
    pub scenario: Scenario,
    /// The endpoint, if the run was not inside this process.
    pub endpoint: Option<String>,
    /// The number of events in the history.
    pub events: u64,
    /// The faults found; empty if the run passed.
    pub wrong: Vec<Wrong>,
    /// The situations that occurred.
    pub met: Met,
}

impl Report {
    /// The command that repeats this run.
    pub fn again(&self) -> String {
        let Scenario { seed, mode, .. } = &self.scenario;
        let without = match self.scenario.without {
            Some(rule) => format!(" --without {}", rule.name()),
            None => String::new(),
        };
        let endpoint = match &self.endpoint {
            Some(endpoint) => format!(" --endpoint {endpoint}"),
            None => String::new(),
        };
        format!("cargo xtask chaos --seed {seed} --mode {mode}{without}{endpoint}")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scenario { seed, mode, .. } = &self.scenario;
        let name = format_args!("seed {seed}, {mode}");
        show(f, name, &self.wrong, &self.scenario, &self.again())
    }
}

/// The result of many runs.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// The number of runs.
    pub runs: u64,
    /// The number of events in all histories.
    pub events: u64,
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
    /// The kinds of situation that are possible at `place` but did not occur.
    pub fn missing(&self, place: &Place) -> Vec<&'static str> {
        let hidden = match place {
            Place::Here => &[][..],
            Place::Over(_) => &NOT_SHOWN_BY_A_SERVER,
        };
        let mut kinds = self.met.missing();
        kinds.retain(|kind| !hidden.contains(kind));
        kinds
    }

    /// Adds the report of one run.
    pub fn add(&mut self, report: Report) {
        self.runs += 1;
        self.events += report.events;
        self.met.merge(&report.met);
        for wrong in &report.wrong {
            match wrong {
                Wrong::Total { too_high: true, .. } => self.too_high += 1,
                Wrong::Total {
                    too_high: false, ..
                } => self.too_low += 1,
                _ => self.otherwise += 1,
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
        "{:<16}{:>8}{:>10}{:>12}{:>10}{:>10}{:>12}",
        "mode", "runs", "events", "wrong runs", "too high", "too low", "otherwise"
    )
}

/// The table row of one mode.
pub fn row(mode: Mode, summary: &Summary) -> String {
    let Summary {
        runs,
        events,
        wrong_runs,
        too_high,
        too_low,
        otherwise,
        ..
    } = summary;
    format!(
        "{mode:<16}{runs:>8}{events:>10}{wrong_runs:>12}{too_high:>10}{too_low:>10}{otherwise:>12}"
    )
}
