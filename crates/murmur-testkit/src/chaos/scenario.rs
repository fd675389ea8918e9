//! What a run does, derived from one number.

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

/// How far off the clocks of processes may be for Murmur's promises to hold, in seconds.
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
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ExactlyOnce, Self::ClaimFirst, Self::AtLeastOnce];

    /// As it is written on a command line.
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

/// What is computed.
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
    /// Totals as bytes, in a `BytesStore`: compare-and-swap of a monoid that is not idempotent.
    Bytes,
}

impl Aggregate {
    /// Whether what was added can be taken back.
    pub fn has_inverse(self) -> bool {
        matches!(self, Self::Sum | Self::Count | Self::Bytes)
    }
}

/// What the ids of events look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// 32 hex digits, as DynamoDB's.
    Hex,
    /// The same with dashes.
    Dashed,
    /// Any text.
    Text,
}

/// A piece of history: nothing, then changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// How long nothing changes before.
    pub pause: Duration,
    /// How long the changes take.
    pub span: Duration,
    /// How many there are.
    pub events: usize,
    /// How long after its beginning the mapping sees the first of them.
    pub outage: Duration,
}

/// One run: history, pipeline, mapping and all that goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// What the run is derived from.
    pub seed: u64,
    /// The delivery mode.
    pub mode: Mode,
    /// What is computed.
    pub aggregate: Aggregate,
    /// How many keys there are: one is hot from the start.
    pub entities: usize,
    /// Whether a record counts for several keys.
    pub several_keys: bool,
    /// The length of the windows, by item time; `None` for no windows.
    pub window: Option<Duration>,
    /// Whether old images are taken back.
    pub retract: bool,
    /// The history.
    pub parts: Vec<Part>,
    /// Among how many shards the items are spread.
    pub shards: usize,
    /// Whether records tell when they were created.
    pub dated: bool,
    /// What event ids look like.
    pub ids: Ids,
    /// The mapping.
    pub mapping: Mapping,
    /// What goes wrong around it.
    pub trouble: Trouble,
    /// What goes wrong between the processes and DynamoDB.
    pub weather: Weather,
    /// How likely a machine is suspended during an invocation.
    pub suspended: f64,
    /// For how long at most.
    pub suspended_for: Duration,
    /// Whether invocations end by a deadline, as in Lambda; those of a reader in a process of its own
    /// do not, so that they go on when its machine was suspended.
    pub deadlines: bool,
    /// How far off the clocks of processes are at most, in seconds.
    pub skew: i64,
    /// Whether some records come at the end of their retention, so that clocks that are fast
    /// make them too old.
    pub late: bool,
    /// How often Time to Live removes what has expired; `None` for never.
    pub sweep: Option<Duration>,
    /// How many bytes a row may have with its ids.
    pub row_budget: usize,
    /// Whether every other process gives rows eight times as many, as while a setting is deployed:
    /// some move ids on that others only add to.
    pub mixed_budgets: bool,
    /// The numbers of the exactly-once protocol.
    pub rules: Rules,
    /// The rule that is left out.
    pub without: Option<Rule>,
}

impl Scenario {
    /// The scenario of a seed. All modes have the same one.
    pub fn new(seed: u64, mode: Mode) -> Self {
        // Neighbouring seeds have nothing in common.
        let rng = &mut Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // Dice of their own, which leave all others as they fall.
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
        // So many events on one row that its ids move on with the default budget.
        let large = rng.f64() < 0.02;
        let row_budget = match large || rng.f64() < 0.1 {
            true => 1024,
            // From rows that have room for no id to those that have for some ten and as many again.
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
            // Whether a window is over is judged by the record's own time, if it has one.
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

    /// The same with a rule left out.
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
            // After a lull few events, so that what is in rows is long ago.
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

/// How long a machine may be suspended, or a request be under way: the ids of rows do not go by time.
/// That a row is not made anew which Time to Live has removed does, for rows that it removes: they
/// allow for less than two hours, one of which is for requests.
fn longest(rng: &mut Rng, expires: bool) -> Duration {
    match expires {
        true => 20 * MINUTE,
        false => pick(rng, &[(1, 20 * MINUTE), (1, 5 * HOUR), (1, 30 * HOUR)]),
    }
}

/// Adds requests that are under way for long, and reads of what was.
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

/// Adds what goes wrong for a while: credentials, and the set-up.
fn spells(rng: &mut Rng, weather: Weather) -> Weather {
    let base = pick(rng, &[(2, 0.0), (1, 0.003)]);
    Weather {
        unsigned: base * rng.f64(),
        refused: base * rng.f64(),
        misfit: base * rng.f64(),
        ..weather
    }
}
