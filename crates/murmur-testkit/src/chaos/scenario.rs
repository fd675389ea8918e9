//! The scenario of a run, derived from one number.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use murmur_state_ddb::Rules;

use super::Rule;
use crate::cloud::Weather;
use crate::esm::{Mapping, RETENTION, Trouble};
use crate::runs::{pick, within};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// How far, in seconds, the clock of a process may differ from true time for Murmur's promises to
/// hold.
pub const SKEW: i64 = 45 * 60;

/// The delivery mode of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// `.exactly_once()`.
    ExactlyOnce,
    /// `.claim_first(..)`.
    ClaimFirst,
    /// `.at_least_once()`.
    AtLeastOnce,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 3] = [Self::ExactlyOnce, Self::ClaimFirst, Self::AtLeastOnce];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::ExactlyOnce => "exactly-once",
            Self::ClaimFirst => "claim-first",
            Self::AtLeastOnce => "at-least-once",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The aggregate that a run computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Aggregate {
    /// Totals, in an `Int64SumStore`.
    Sum,
    /// Numbers of records, in an `Int64SumStore`.
    Count,
    /// The greatest value, in an `Int64MaxStore`.
    Max,
    /// The set of values, in a `BytesStore`.
    Set,
    /// Totals as bytes, in a `BytesStore`: compare-and-swap with a monoid that is not idempotent.
    Bytes,
}

impl Aggregate {
    /// Whether a contribution can be retracted.
    pub fn has_inverse(self) -> bool {
        matches!(self, Self::Sum | Self::Count | Self::Bytes)
    }
}

/// The form of event ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// 32 hex digits, as in DynamoDB.
    Hex,
    /// 32 hex digits with dashes.
    Dashed,
    /// Any text.
    Text,
}

/// A part of the history: a pause, then changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// How long the pause before the changes is.
    pub pause: Duration,
    /// How long the changes take.
    pub span: Duration,
    /// The number of changes.
    pub events: usize,
    /// How long after the part's start the mapping sees its first change.
    pub outage: Duration,
}

/// One run: its history, its pipeline, its mapping and its faults.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// The seed that the run is derived from.
    pub seed: u64,
    /// The delivery mode.
    pub mode: Mode,
    /// The aggregate.
    pub aggregate: Aggregate,
    /// The number of keys. One of them is hot from the start.
    pub entities: usize,
    /// Whether a record counts for several keys.
    pub several_keys: bool,
    /// The length of the windows by item time; `None` for no windows.
    pub window: Option<Duration>,
    /// Whether old images are retracted.
    pub retract: bool,
    /// The history.
    pub parts: Vec<Part>,
    /// The number of shards that the items are spread over.
    pub shards: usize,
    /// Whether records carry their creation time.
    pub dated: bool,
    /// The form of event ids.
    pub ids: Ids,
    /// The event source mapping.
    pub mapping: Mapping,
    /// What goes wrong around the mapping.
    pub trouble: Trouble,
    /// What goes wrong between the processes and DynamoDB.
    pub weather: Weather,
    /// The probability that a machine is suspended during an invocation.
    pub suspended: f64,
    /// The longest suspension.
    pub suspended_for: Duration,
    /// Whether invocations end at a deadline, as in Lambda. Those of a standalone reader do not:
    /// they continue after a suspension of its machine.
    pub deadlines: bool,
    /// The largest difference between a process's clock and true time, in seconds.
    pub skew: i64,
    /// Whether some records arrive at the end of their retention, where a fast clock makes them too
    /// old.
    pub late: bool,
    /// How often Time to Live removes expired rows; `None` for never.
    pub sweep: Option<Duration>,
    /// The most bytes of a row, ids included.
    pub row_budget: usize,
    /// Whether every second process uses eight times that budget, as during the deployment of a new
    /// setting: some processes then move ids that others only add to.
    pub mixed_budgets: bool,
    /// The numbers of the exactly-once protocol.
    pub rules: Rules,
    /// The protocol rule that is left out, if any.
    pub without: Option<Rule>,
}

impl Scenario {
    /// The scenario of a seed. It is the same in all modes.
    pub fn new(seed: u64, mode: Mode) -> Self {
        // Makes neighbouring seeds unrelated.
        let rng = &mut Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // A separate generator, so that its draws do not shift the others.
        let spelling = &mut Rng::with_seed(rng.get_seed() ^ 0x5350_454c);
        let aggregate = pick(
            rng,
            &[
                (4, Aggregate::Sum),
                (3, Aggregate::Bytes),
                (2, Aggregate::Count),
                (1, Aggregate::Max),
                (1, Aggregate::Set),
            ],
        );
        let late = rng.f64() < 0.1;
        let skew = pick(rng, &[(1, 0), (1, 60), (3, SKEW)]);
        // So many events on one row that its ids move even with the default budget.
        let large = rng.f64() < 0.02;
        let row_budget = match large || rng.f64() < 0.1 {
            true => 1024,
            // From rows without room for an id to rows with room for about ten, and as many again.
            false => {
                let bytes = pick(rng, &[(1, 21..=200), (3, 200..=800)]);
                rng.usize(bytes)
            }
        };
        let rules = Rules {
            page_ids: rng.usize(1..=12),
            ..Rules::default()
        };
        let trouble = Trouble::all(pick(rng, &[(1, 0.0), (2, 0.05), (2, 0.15), (1, 0.3)]));
        let window = pick(rng, &[(5, None), (2, Some(HOUR)), (2, Some(24 * HOUR))]);
        let lull = rng.bool();
        let least = match large {
            true => rng.usize(400..=600),
            false => rng.usize(20..=60),
        };
        Self {
            seed,
            mode,
            aggregate,
            entities: match large {
                true => 1,
                false => pick(rng, &[(3, 1), (3, 2), (3, 6), (1, 30)]),
            },
            several_keys: rng.f64() < 0.4,
            window,
            retract: aggregate.has_inverse() && rng.bool(),
            parts: parts(rng, late, least, lull),
            shards: rng.usize(1..=3),
            // If a record has its own time, that time decides whether its window is over.
            dated: rng.f64() < 0.9 || window.is_some(),
            ids: pick(rng, &[(4, Ids::Hex), (1, Ids::Dashed), (1, Ids::Text)]),
            mapping: Mapping {
                batch_size: pick(rng, &[(1, 1..=10), (2, 11..=100)])
                    .nth(rng.usize(..10))
                    .unwrap_or(10),
                parallelization_factor: rng.usize(1..=4),
                bisect_batch_on_function_error: rng.bool(),
                timeout: pick(
                    rng,
                    &[(1, Duration::from_secs(3)), (3, MINUTE), (1, 15 * MINUTE)],
                ),
                ..Mapping::default()
            },
            trouble,
            weather: {
                let weather = spells(spelling, weather(rng));
                days_late(spelling, window.is_some(), weather)
            },
            suspended: pick(spelling, &[(1, 0.0), (1, 0.05)]),
            suspended_for: longest(spelling, window.is_some()),
            deadlines: spelling.f64() < 0.6,
            skew,
            late,
            sweep: pick(rng, &[(1, None), (2, Some(6 * HOUR)), (1, Some(20 * HOUR))]),
            row_budget,
            mixed_budgets: spelling.bool(),
            rules,
            without: None,
        }
    }

    /// The same scenario with one rule left out.
    #[must_use]
    pub fn without(mut self, rule: Rule) -> Self {
        rule.leave_out(&mut self);
        self.without = Some(rule);
        self
    }
}

fn parts(rng: &mut Rng, late: bool, least: usize, lull: bool) -> Vec<Part> {
    let count = rng.usize(1..=4);
    let mut parts = Vec::new();
    for n in 0..count {
        let pause = pick(
            rng,
            &[
                (2, MINUTE..=HOUR),
                (2, HOUR..=25 * HOUR),
                (3, 26 * HOUR..=60 * HOUR),
                (1, 60 * HOUR..=200 * HOUR),
            ],
        );
        let span = pick(
            rng,
            &[
                (1, Duration::from_secs(1)),
                (1, MINUTE),
                (1, 10 * MINUTE),
                (2, 90 * MINUTE),
            ],
        );
        let outage = match rng.f64() {
            _ if late && n == 0 => {
                let early = Duration::from_secs(rng.u64(1..=60));
                RETENTION - early
            }
            chance if chance < 0.25 => within(rng, MINUTE, 22 * HOUR),
            _ => Duration::ZERO,
        };
        parts.push(Part {
            pause: within(rng, *pause.start(), *pause.end()),
            span,
            // After a lull few events follow, so that the ids in rows are old.
            events: match lull && n > 0 {
                true => rng.usize(1..=8),
                false => least / count + rng.usize(1..=20),
            },
            outage,
        });
    }
    parts
}

fn weather(rng: &mut Rng) -> Weather {
    let millis = Duration::from_millis;
    let base = pick(rng, &[(2, 0.0), (2, 0.005), (3, 0.03), (2, 0.08)]);
    let mut rate = || base * rng.f64();
    let rates = Weather {
        fail_before: rate(),
        drop_before: rate(),
        fail_after: rate(),
        drop_after: rate(),
        hang_after: rate(),
        stall: rate(),
        throttle: rate(),
        conflict: rate(),
        ..Weather::calm()
    };
    Weather {
        latency: pick(
            rng,
            &[
                (1, Duration::ZERO..=Duration::ZERO),
                (3, millis(1)..=millis(20)),
            ],
        ),
        hold: millis(pick(rng, &[(1, 0), (2, 15), (1, 60)])),
        service: millis(pick(rng, &[(1, 0), (2, 1)])),
        partition_limit: pick(rng, &[(5, None), (1, Some(4.0))]),
        ..rates
    }
}

/// The longest suspension of a machine, or the longest time that a request is under way. The ids of
/// rows do not depend on time. The rule that a row removed by Time to Live is not created again
/// does, for rows that expire: it allows for less than two hours, one of which is for requests.
fn longest(rng: &mut Rng, expires: bool) -> Duration {
    match expires {
        true => 20 * MINUTE,
        false => pick(rng, &[(1, 20 * MINUTE), (1, 5 * HOUR), (1, 30 * HOUR)]),
    }
}

/// Adds requests that are under way for long, and stale reads.
fn days_late(rng: &mut Rng, expires: bool, weather: Weather) -> Weather {
    let most = match expires {
        true => pick(rng, &[(2, 15 * MINUTE), (1, HOUR)]),
        false => pick(rng, &[(1, 15 * MINUTE), (1, 5 * HOUR), (1, 30 * HOUR)]),
    };
    Weather {
        stall_for: Duration::from_millis(1)..=most,
        stale: pick(rng, &[(1, 0.0), (1, 0.3), (1, 1.0)]),
        stale_for: Duration::from_millis(1)..=pick(rng, &[(2, MINUTE / 60), (1, 5 * MINUTE)]),
        ..weather
    }
}

/// Adds faults that last for a while: in the credentials and in the set-up.
fn spells(rng: &mut Rng, weather: Weather) -> Weather {
    let base = pick(rng, &[(2, 0.0), (1, 0.003)]);
    Weather {
        unsigned: base * rng.f64(),
        refused: base * rng.f64(),
        misfit: base * rng.f64(),
        ..weather
    }
}
