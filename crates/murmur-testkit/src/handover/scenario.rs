//! The scenario of a run, derived from one number.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

use super::Rule;
use super::settling::Settling;
use crate::chaos::SKEW;
use crate::cloud::Weather;
use crate::esm::{Mapping, Trouble};
use crate::runs::{pick, within};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// The delivery mode of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `.ledger()`.
    Ledger,
    /// `.exactly_once()`.
    ExactlyOnce,
    /// `.claim_first(..)`.
    ClaimFirst,
}

impl Mode {
    /// All modes.
    pub const ALL: [Self; 3] = [Self::Ledger, Self::ExactlyOnce, Self::ClaimFirst];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ledger => "ledger",
            Self::ExactlyOnce => "exactly-once",
            Self::ClaimFirst => "claim-first",
        })
    }
}

/// Where the state of a run is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// In a `MemoryStore` and a `MemoryDeduper`, reached through weather. This is cheap.
    Memory,
    /// In an `Int64SumStore` and a `Deduper`, on tables of the same cloud as the source table.
    Tables,
}

/// How the stream reaches the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Live {
    /// Lambda's event source mapping, from `TRIM_HORIZON`, enabled before the scan.
    Mapping,
    /// A trigger that starts at `TRIM_HORIZON`, before, during or after the scan.
    AtHorizon,
    /// A trigger that starts at the bootstrap's token, during or after the scan.
    AtToken,
}

/// The aggregate that a run computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregate {
    /// Totals.
    Sum,
    /// Numbers of items.
    Count,
}

/// The life of a process: its start, its end and its faults. Times are since the start of the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// When it starts.
    pub begin: Duration,
    /// When it is killed, if it still runs then.
    pub end: Duration,
    /// The request at which it is killed, if it makes that many.
    pub killed_at: Option<u64>,
    /// When it is suspended, and until when.
    pub frozen: Option<(Duration, Duration)>,
    /// How far its clock differs from true time, in seconds.
    pub skew: i64,
}

impl Life {
    /// A life without an end and without faults.
    pub(super) const EASY: Self = Self {
        begin: Duration::ZERO,
        end: Duration::MAX,
        killed_at: None,
        frozen: None,
        skew: 0,
    };
}

/// One run: its table, its writer, its pipeline, its processes and its faults.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// The seed that the run is derived from.
    pub seed: u64,
    /// The delivery mode.
    pub mode: Mode,
    /// Where the state is kept.
    pub keeping: Keeping,
    /// How the stream reaches the pipeline.
    pub live: Live,
    /// The aggregate.
    pub aggregate: Aggregate,
    /// The number of keys.
    pub entities: usize,
    /// The length of the windows, by item time; `None` for no windows.
    pub window: Option<Duration>,
    /// Whether items that Time to Live removes continue to count.
    pub keeps_expired: bool,
    /// The most items at once.
    pub items: usize,
    /// How many of them were written before the stream was enabled.
    pub older: usize,
    /// How many of them are not written after the start of the scan, so that only the scan reports
    /// them.
    pub quiet: usize,
    /// The times of the writes to the table, since the start.
    pub writes: Vec<Duration>,
    /// When shards of the stream split or roll over.
    pub cuts: Vec<Duration>,
    /// The number of shards that the items are spread over at first.
    pub shards: usize,
    /// The number of segments of the scan.
    pub segments: u32,
    /// Items evaluated per page.
    pub page: u32,
    /// How many segments are read at once.
    pub concurrency: usize,
    /// The average time from the request for a page until it is passed on.
    pub pace: Duration,
    /// The number of workers that share the segments. With 1, bootstraps are not divided.
    pub workers: u32,
    /// The processes that bootstrap, assigned to the workers in turn. The last one exists once per
    /// worker and completes the run.
    pub bootstraps: Vec<Life>,
    /// The processes that repair. Where changes are lost, one more runs at the end.
    pub repairs: Vec<Life>,
    /// The changes that the stream consumer never sees, by their positions in the history.
    pub lost: Range<usize>,
    /// The processes of the trigger. One more runs at the end.
    pub readers: Vec<Life>,
    /// Whether a process that bootstraps is suspended for days, while Time to Live removes what the
    /// ledger may forget.
    pub forgets: bool,
    /// How often the trigger polls for records.
    pub poll: Duration,
    /// The mapping.
    pub mapping: Mapping,
    /// Until when the mapping sees no record.
    pub outage: Duration,
    /// What goes wrong around the mapping.
    pub trouble: Trouble,
    /// What goes wrong between the processes and their tables.
    pub weather: Weather,
    /// When that ends, since the start.
    pub calm_at: Duration,
    /// The largest difference between a process's clock and true time, in seconds.
    pub skew: i64,
    /// How items settle, if they do.
    pub settling: Option<Settling>,
    /// The rule of the cut-over that is left out, if any.
    pub without: Option<Rule>,
}

impl Scenario {
    /// The scenario of a seed. It is the same in all modes.
    pub fn new(seed: u64, mode: Mode, keeping: Keeping) -> Self {
        // Makes neighbouring seeds unrelated.
        let rng = &mut Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x4841_4e44);
        // A separate generator, so that its draws do not shift the others.
        let spelling = &mut Rng::with_seed(rng.get_seed() ^ 0x5350_454c);
        let skew = pick(rng, &[(1, 0), (1, 60), (2, SKEW)]);
        let items = rng.usize(4..=16);
        let segments = rng.u32(1..=4);
        let page = rng.u32(1..=5);
        let live = pick(
            rng,
            &[(3, Live::Mapping), (1, Live::AtHorizon), (2, Live::AtToken)],
        );
        // Most of a run's activity falls into the scan, independent of its length.
        let pages = 1 + items as u32 / (segments * page);
        let span = pick(rng, &[(2, 10 * SECOND), (2, 10 * MINUTE), (1, 2 * HOUR)]);
        // A page must be written within an hour.
        let pace = (span / pages).min(10 * MINUTE);
        let begin = within(rng, SECOND, span);
        // A trigger would have to read all the time, and windows would be over.
        let forgets = keeping == Keeping::Tables && live == Live::Mapping && rng.f64() < 0.3;
        let mut bootstraps = bootstraps(rng, begin, span, skew);
        if forgets {
            let (from, days) = (
                within(rng, begin, begin + span),
                within(rng, 60 * HOUR, 99 * HOUR),
            );
            let sleeper = Life {
                skew: clock(rng, skew),
                frozen: Some((from, from + days)),
                ..life(begin, from + days + span)
            };
            bootstraps.insert(0, sleeper);
        }
        let scanned = bootstraps.last().map_or(begin, |last| last.begin) + span;
        let events = rng.usize(20..=90);
        let mut writes: Vec<Duration> = (0..events)
            .map(|_| match rng.u8(..10) {
                0..=1 => within(rng, Duration::ZERO, begin),
                2..=7 => within(rng, begin, scanned),
                _ => within(rng, scanned, scanned + span),
            })
            .collect();
        writes.sort_unstable();
        let cuts = match live {
            Live::Mapping => Vec::new(),
            _ => cuts(rng, begin, scanned),
        };
        let outage = match rng.u8(..4) {
            0 => within(rng, begin, scanned + span),
            1 => within(rng, HOUR, 10 * HOUR),
            _ => Duration::ZERO,
        };
        let keeps_expired = rng.f64() < 0.3;
        let window = pick(rng, &[(2, None), (1, Some(HOUR)), (1, Some(24 * HOUR))]);
        let trouble = Trouble::all(pick(rng, &[(1, 0.0), (2, 0.05), (2, 0.2)]));
        let scenario = Self {
            seed,
            mode,
            keeping,
            live,
            aggregate: pick(rng, &[(3, Aggregate::Sum), (1, Aggregate::Count)]),
            entities: rng.usize(2..=6),
            window: window.filter(|_| !forgets),
            forgets,
            keeps_expired,
            items,
            older: rng.usize(..=items),
            quiet: rng.usize(..items) / if forgets { 2 } else { 1 },
            writes,
            cuts,
            shards: rng.usize(1..=3),
            segments,
            page,
            concurrency: rng.usize(1..=3),
            pace,
            readers: readers(rng, begin, scanned, skew),
            bootstraps,
            poll: span.max(MINUTE) / 40,
            mapping: Mapping {
                batch_size: pick(rng, &[(1, 3), (2, 10), (1, 100)]),
                parallelization_factor: rng.usize(1..=3),
                bisect_batch_on_function_error: rng.bool(),
                timeout: pick(rng, &[(1, 3 * SECOND), (3, MINUTE), (1, 15 * MINUTE)]),
                ..Mapping::default()
            },
            outage,
            trouble: Trouble {
                // A second poller that starts in the middle of a running batch delivers a change
                // before the removal that it follows. The removal is outdated then and keeps
                // nothing.
                race: if keeps_expired { 0.0 } else { trouble.race },
                ..trouble
            },
            weather: spells(spelling, weather(rng, keeping), pace),
            calm_at: outage.max(scanned) + 2 * span,
            skew,
            settling: None,
            without: None,
            workers: 1,
            repairs: Vec::new(),
            lost: 0..0,
        };
        // A separate generator for these, too.
        let settling = &mut Rng::with_seed(rng.get_seed() ^ 0x5345_5454);
        scenario
            .with_workers(rng)
            .with_repairs(rng, begin, span)
            .with_settling(settling, begin..scanned, span)
    }

    fn with_workers(mut self, rng: &mut Rng) -> Self {
        if self.segments > 1 && rng.f64() < 0.3 {
            self.workers = rng.u32(2..=self.segments);
        }
        self
    }

    /// Only a ledger can be repaired. Where Time to Live may have removed an item, its contribution
    /// stays as it was, so no change is lost there.
    fn with_repairs(mut self, rng: &mut Rng, begin: Duration, span: Duration) -> Self {
        if self.mode != Mode::Ledger || rng.f64() >= 0.3 {
            return self;
        }
        for _ in 0..rng.usize(1..=3) {
            let mut life = Life {
                skew: clock(rng, self.skew),
                ..life(within(rng, begin, begin + 2 * span), Duration::MAX)
            };
            if rng.bool() {
                life.killed_at = Some(rng.u64(1..=30));
            }
            self.repairs.push(life);
        }
        if !self.keeps_expired && rng.bool() {
            // Late changes: an earlier loss is corrected by the item's next change.
            let writes = self.writes.len();
            let first = rng.usize(writes / 2..writes);
            self.lost = first..writes.min(first + rng.usize(1..=12));
        }
        self
    }

    /// What settled items lose is never corrected, so no change is lost there.
    fn with_settling(mut self, rng: &mut Rng, scan: Range<Duration>, span: Duration) -> Self {
        if self.mode != Mode::Ledger || !self.lost.is_empty() || rng.f64() >= 0.5 {
            return self;
        }
        let scanned = scan.end;
        self.settling = Some(Settling::of(rng, scan, span));
        // The table is written to until every process that may learn of it has done so.
        let after = scanned.max(self.writes.last().copied().unwrap_or_default());
        let tail = 2 * span.max(2 * MINUTE);
        let mut more: Vec<Duration> = (0..rng.usize(8..=20))
            .map(|_| within(rng, after, after + tail))
            .collect();
        if self.forgets {
            // And once more when the ledger may have forgotten.
            let days = (0..rng.usize(5..=10)).map(|_| after + within(rng, 60 * HOUR, 99 * HOUR));
            more.extend(days.collect::<Vec<_>>());
        }
        more.sort_unstable();
        self.writes.extend(more);
        self.calm_at = self.calm_at.max(after + tail);
        for _ in 0..rng.usize(1..=2) {
            let begin = within(rng, scanned, after + tail / 2);
            let mut life = Life {
                skew: clock(rng, self.skew),
                ..life(begin, begin + within(rng, tail / 8, tail / 3))
            };
            if rng.u8(..3) == 0 {
                life.killed_at = Some(rng.u64(1..=30));
            }
            self.readers.push(life);
        }
        if self.keeping == Keeping::Tables {
            self.weather.stale = pick(rng, &[(1, 0.0), (2, 0.3)]);
        }
        self
    }

    /// The same scenario with one rule left out, and without repairs that would correct the effect.
    #[must_use]
    pub fn without(mut self, rule: Rule) -> Self {
        self.without = Some(rule);
        self.repairs.clear();
        self.lost = 0..0;
        self
    }
}

/// Processes that bootstrap one after another, some of them side by side.
fn bootstraps(rng: &mut Rng, begin: Duration, span: Duration, skew: i64) -> Vec<Life> {
    let mut lives = Vec::new();
    let mut at = begin;
    for _ in 0..rng.usize(..4) {
        let mut life = Life {
            skew: clock(rng, skew),
            ..life(at, at + within(rng, span / 20, span + span / 4))
        };
        match rng.u8(..7) {
            // Another process takes over, for a while or for hours; then this one resumes.
            0 | 1 => {
                let thaw = life.end + pick(rng, &[(1, span / 4), (2, span), (1, 4 * HOUR)]);
                life.frozen = Some((life.end, thaw));
                at = life.end;
                life.end = thaw + span;
            }
            2 | 3 => {
                life.killed_at = Some(rng.u64(1..=25));
                at = life.end;
            }
            // A second process beside it.
            4 => at += within(rng, Duration::ZERO, (life.end - at) / 2),
            _ => at = life.end,
        }
        at += within(rng, Duration::ZERO, span / 4);
        lives.push(life);
    }
    lives.push(Life {
        skew: clock(rng, skew),
        ..life(at, Duration::MAX)
    });
    lives
}

/// Processes of a trigger, from the start of the scan to its end.
fn readers(rng: &mut Rng, begin: Duration, scanned: Duration, skew: i64) -> Vec<Life> {
    let mut lives = Vec::new();
    let mut at = within(rng, begin / 2, scanned);
    for _ in 0..rng.usize(..4) {
        let mut life = Life {
            skew: clock(rng, skew),
            ..life(
                at,
                at + within(rng, (scanned - begin) / 20, scanned - begin),
            )
        };
        match rng.u8(..4) {
            0 => {
                let thaw = life.end + within(rng, SECOND, HOUR);
                life.frozen = Some((life.end, thaw));
                at = life.end;
                life.end = thaw + MINUTE;
            }
            1 => {
                life.killed_at = Some(rng.u64(1..=20));
                at = life.end;
            }
            _ => at = life.end,
        }
        lives.push(life);
    }
    lives
}

fn life(begin: Duration, end: Duration) -> Life {
    Life {
        begin,
        end,
        ..Life::EASY
    }
}

/// Faults are most likely at the extremes.
fn clock(rng: &mut Rng, most: i64) -> i64 {
    [most, -most, rng.i64(-most..=most)][rng.usize(..3)]
}

fn cuts(rng: &mut Rng, begin: Duration, scanned: Duration) -> Vec<Duration> {
    let mut cuts: Vec<Duration> = (0..rng.usize(..4))
        .map(|_| match rng.bool() {
            // Shards that are closed when the token is captured are not read.
            true => within(rng, Duration::ZERO, begin),
            false => within(rng, begin, scanned),
        })
        .collect();
    cuts.sort_unstable();
    cuts
}

fn weather(rng: &mut Rng, keeping: Keeping) -> Weather {
    let millis = Duration::from_millis;
    let base = pick(rng, &[(1, 0.0), (2, 0.02), (2, 0.06)]);
    let hold = match keeping {
        Keeping::Memory => Duration::ZERO,
        Keeping::Tables => millis(pick(rng, &[(1, 0), (2, 15)])),
    };
    let mut rate = || base * rng.f64();
    let rates = Weather {
        hold,
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
        // With slow answers more requests are under way at once.
        latency: pick(
            rng,
            &[(2, millis(1)..=millis(20)), (1, millis(50)..=millis(1500))],
        ),
        ..rates
    }
}

/// Adds faults that last for a while: in the credentials and in the set-up. No spell outlasts the
/// pause before a failed bootstrap is restarted.
fn spells(rng: &mut Rng, weather: Weather, pace: Duration) -> Weather {
    let base = pick(rng, &[(1, 0.0), (1, 0.003)]);
    Weather {
        unsigned: base * rng.f64(),
        refused: base * rng.f64(),
        misfit: base * rng.f64(),
        spell_for: pace / 4..=pace,
        ..weather
    }
}
