//! One process: its clock, its connection, its random generator and its death; and the log that all
//! processes share.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use futures::future::BoxFuture;
use murmur_core::{RecordError, Rejected};
use murmur_state::store::{Outcome, Position, Replace};
use murmur_state::time::Random;
use murmur_state::{Causes, Clock, HandoffToken, SequenceNumber, StoreError, Timestamp};

use super::history::{Contribution, History};
use super::report::{KINDS, Wrong};
use super::rule::{Forgotten, Rule};
use super::scenario::{Keeping, Life, Scenario};
use super::settling::Settled;
use crate::cloud::{Cloud, Fault, Process, Weather};
use crate::runs::{Met, lock, within};
use crate::time::Time;

/// What all processes of a run share.
pub(super) struct Shared {
    pub(super) scenario: Scenario,
    pub(super) time: Time,
    pub(super) history: History,
    /// The contents of each record, by its number.
    pub(super) told: HashMap<SequenceNumber, Told>,
    pub(super) log: Mutex<Log>,
}

/// The contents of a record.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    /// The contribution of its old image.
    pub(super) old: Contribution,
    pub(super) has_new: bool,
    pub(super) kind: &'static str,
}

#[derive(Debug)]
pub(super) struct Log {
    pub(super) met: Met,
    pub(super) wrong: Vec<Wrong>,
    /// The most recent bootstrap of each worker.
    pub(super) newest: HashMap<u64, u64>,
    /// The number of running bootstraps.
    pub(super) bootstrapping: u64,
    /// Whether a bootstrap has completed.
    pub(super) finished: bool,
    /// Whether the state was bound.
    pub(super) bound: bool,
    /// The pages that were returned, by segment and start cursor.
    pub(super) pages: HashSet<(u32, Option<String>)>,
    /// The last error of a bootstrap.
    pub(super) last_error: Option<String>,
    /// When a token was captured last, since the start.
    pub(super) captured: Duration,
    /// A token that was captured too late.
    pub(super) late_token: Option<Option<HandoffToken>>,
    pub(super) settled: Settled,
    /// The memory of left-out rules that need one.
    pub(super) forgotten: Forgotten,
    /// Whether faults still occur.
    pub(super) stormy: bool,
}

impl Shared {
    pub(super) fn new(scenario: Scenario, time: Time, history: History) -> Arc<Self> {
        let old = |version: Option<&super::history::Version>| {
            version.map_or_else(Contribution::new, |version| version.contribution(&scenario))
        };
        let changes = history.changes.iter();
        let told = changes.map(|change| {
            let told = Told {
                old: old(change.before.as_ref()),
                has_new: change.after.is_some(),
                kind: change.kind,
            };
            (change.number.clone(), told)
        });
        Arc::new(Self {
            told: told.collect(),
            log: Mutex::new(Log {
                met: Met::of(&KINDS),
                wrong: Vec::new(),
                newest: HashMap::new(),
                bootstrapping: 0,
                finished: false,
                bound: false,
                pages: HashSet::new(),
                last_error: None,
                captured: Duration::ZERO,
                late_token: None,
                settled: Settled::new(),
                forgotten: Forgotten::default(),
                stormy: true,
            }),
            scenario,
            time,
            history,
        })
    }

    pub(super) fn met(&self, kind: &'static str) {
        lock(&self.log).met.add(kind, 1);
    }

    /// Only items that the decoder cannot read and items with an unusable key may be rejected,
    /// never an item because of a fault around it.
    pub(super) fn rejected(&self, rejected: &Rejected) {
        let to_be = match &rejected.error {
            RecordError::Undecodable { .. } => true,
            RecordError::Store { source, .. } => {
                self.scenario.settling.is_some() && matches!(source, StoreError::InvalidId(_))
            }
            _ => false,
        };
        if !to_be {
            let (id, error) = (rejected.record.event_id(), Causes(&rejected.error));
            self.wrong(format!("`{id}` was rejected: {error}"));
        }
    }

    pub(super) fn wrong(&self, what: impl Into<String>) {
        lock(&self.log).wrong.push(Wrong::Other(what.into()));
    }
}

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// Nothing that a kill could interrupt halfway.
    Other,
    /// Waiting for a page.
    Reading,
    /// Processing a page.
    Page,
    /// Waiting for a write to the state.
    Writing,
    /// Saving a checkpoint.
    Saving,
}

/// The fate of a request to a store in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Done,
    /// It is not applied.
    Failed,
    Throttled,
    Conflict,
    /// A spell strikes it: it is not applied.
    Spell(Fault),
    /// It is applied, but not answered.
    Unanswered,
    /// It is applied later, and not answered.
    Late(Duration),
}

/// One process.
pub(super) struct Body {
    pub(super) shared: Arc<Shared>,
    /// The number of the bootstrap, from 1; 0 if the process is none.
    pub(super) bootstrap: u64,
    pub(super) connection: Process,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Random,
    /// Whether the process never learns that items settle.
    pub(super) is_deaf: bool,
    state: Mutex<State>,
}

struct State {
    dice: Rng,
    /// How many requests to a store in memory the process has left.
    left: Option<u64>,
    doing: Doing,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("bootstrap", &self.bootstrap)
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

impl Body {
    /// Creates a process; `number` identifies it.
    pub(super) fn new(
        shared: &Arc<Shared>,
        cloud: &Cloud,
        (number, bootstrap): (u64, u64),
        life: &Life,
    ) -> Arc<Self> {
        let clock = shared.time.clock(life.skew);
        let in_time = shared.scenario.without != Some(Rule::WrittenInTime);
        let clock = match life.frozen {
            // The monotonic clock of some sleeping machines counts the sleep and that of others
            // does not. The wall clock makes up for that, unless it stood still as well.
            Some(frozen) if !in_time || number.is_multiple_of(2) => Arc::new(Stopping {
                clock,
                frozen,
                wall_too: !in_time,
            }),
            _ => clock,
        };
        let seed = shared.scenario.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let settling = shared.scenario.settling.as_ref();
        let body = Arc::new(Self {
            shared: Arc::clone(shared),
            bootstrap,
            connection: cloud.process(),
            clock,
            random: Random::seeded(seed),
            is_deaf: settling.is_some_and(|settling| settling.is_deaf(seed)),
            state: Mutex::new(State {
                dice: Rng::with_seed(seed ^ 0x424f_4459),
                left: None,
                doing: Doing::Other,
            }),
        });
        if let Some(rule) = shared.scenario.without {
            rule.leave_out(&body);
        }
        body
    }

    /// The worker whose part a bootstrap reads.
    pub(super) fn worker(&self) -> u64 {
        self.bootstrap % u64::from(self.shared.scenario.workers)
    }

    pub(super) fn dice<T>(&self, roll: impl FnOnce(&mut Rng) -> T) -> T {
        roll(&mut lock(&self.state).dice)
    }

    /// Marks the process as doing `doing` from now on.
    pub(super) fn does(&self, doing: Doing) {
        lock(&self.state).doing = doing;
    }

    pub(super) fn doing(&self) -> Doing {
        lock(&self.state).doing
    }

    /// Kills the process at its `requests`-th request from now.
    pub(super) fn kill_after(&self, requests: u64) {
        match self.shared.scenario.keeping {
            Keeping::Memory => lock(&self.state).left = Some(requests),
            Keeping::Tables => self.connection.kill_after(requests),
        }
    }

    /// Records the outcome of a ledger entry.
    pub(super) fn entered(&self, entry: &Replace<i64>, outcome: &Outcome) {
        self.met_settled(entry, outcome);
        let kind = match (outcome, entry.at == Position::Scan) {
            (Outcome::Applied, true) => "scanned rows counted",
            (Outcome::Applied, false) => "records counted",
            (Outcome::Duplicate, true) => "scanned rows again",
            (Outcome::Duplicate, false) => "records again",
            (Outcome::Superseded, true) => "scanned rows overtaken",
            (Outcome::Superseded, false) => "records overtaken",
            (Outcome::Blocked | Outcome::Failed(_), _) => return,
        };
        let mut log = lock(&self.shared.log);
        log.met.add(kind, 1);
        let newest = log.newest.get(&self.worker());
        let overtaken = self.bootstrap > 0 && newest.is_some_and(|newest| *newest > self.bootstrap);
        if overtaken && matches!(outcome, Outcome::Applied) {
            log.met.add("zombies counted a row", 1);
        }
    }

    pub(super) async fn sleep(&self, duration: Duration) {
        if !duration.is_zero() {
            self.shared.time.sleep(duration).await;
        }
    }

    /// Sends a request, or kills the process. In that case the future never completes, and a random
    /// draw decides whether the request continues.
    pub(super) async fn request(&self, goes_on: impl FnOnce()) {
        let dies = {
            let mut state = lock(&self.state);
            state.left.as_mut().is_some_and(|left| {
                *left = left.saturating_sub(1);
                *left == 0
            })
        };
        if dies {
            if self.dice(Rng::bool) {
                goes_on();
            }
            self.connection.kill();
        }
        if self.connection.is_killed() {
            pending::<()>().await;
        }
    }

    /// The fate of a request, and how long each direction takes.
    pub(super) fn fate(&self) -> (Fate, Duration, Duration) {
        let weather = &self.shared.scenario.weather;
        let stormy = lock(&self.shared.log).stormy;
        let (fate, there, back, begins) = self.dice(|dice| {
            let way = |dice: &mut Rng| match dice.u8(..16) {
                _ if !stormy => Duration::ZERO,
                // Sometimes a slow component is in between, for which a function has no time.
                0 if self.bootstrap > 0 => self.shared.scenario.pace.mul_f64(dice.f64()),
                _ => within(dice, *weather.latency.start(), *weather.latency.end()),
            };
            let (there, back) = (way(dice), way(dice));
            let late = within(dice, *weather.stall_for.start(), *weather.stall_for.end());
            let mut chance = dice.f64();
            let mut is = |rate: f64| {
                let is = (0.0..rate).contains(&chance);
                chance -= rate;
                is && stormy
            };
            let Weather {
                fail_before,
                drop_before,
                fail_after,
                drop_after,
                hang_after,
                stall,
                throttle,
                conflict,
                unsigned,
                refused,
                misfit,
                ref spell_for,
                ..
            } = *weather;
            let fate = if is(fail_before + drop_before) {
                Fate::Failed
            } else if is(fail_after + drop_after + hang_after) {
                Fate::Unanswered
            } else if is(stall) {
                Fate::Late(late)
            } else if is(throttle) {
                Fate::Throttled
            } else if is(conflict) {
                Fate::Conflict
            } else {
                Fate::Done
            };
            let spells = [
                (Fault::Unsigned, unsigned),
                (Fault::Refused, refused),
                (Fault::Misfit, misfit),
            ];
            let begins = spells.into_iter().find(|(_, rate)| is(*rate));
            let begins = begins
                .map(|(fault, _)| (fault, within(dice, *spell_for.start(), *spell_for.end())));
            (fate, there, back, begins)
        });
        let struck = self.connection.spell(begins);
        (struck.map_or(fate, Fate::Spell), there, back)
    }

    /// Runs `work` in the process through `life`. Returns its result, or `None` if the process was
    /// killed first. Nothing in it advances while it is suspended.
    pub(super) async fn live<T>(&self, life: &Life, work: impl Future<Output = T>) -> Option<T> {
        if let Some(requests) = life.killed_at {
            self.kill_after(requests);
        }
        let time = &self.shared.time;
        let mut work = pin!(work);
        let moving = async {
            // Unless it was started after that.
            let frozen = life.frozen.filter(|(_, until)| *until > time.elapsed());
            if let Some((from, until)) = frozen {
                tokio::select! {
                    biased;
                    answer = &mut work => return answer,
                    () = time.reached(from) => {}
                }
                self.shared.met("processes suspended");
                time.reached(until).await;
            }
            work.await
        };
        let answer = tokio::select! {
            biased;
            answer = moving => Some(answer),
            () = self.connection.killed() => None,
            () = time.reached(life.end), if life.end < Duration::MAX => None,
        };
        self.connection.kill();
        answer
    }
}

/// A clock whose monotonic time stands still while its process is suspended.
#[derive(Debug)]
struct Stopping {
    clock: Arc<dyn Clock>,
    frozen: (Duration, Duration),
    wall_too: bool,
}

impl Stopping {
    /// How long the clock has stood still until now.
    fn stood(&self) -> Duration {
        let (from, until) = self.frozen;
        let now = self.clock.monotonic();
        now.clamp(from, until).saturating_sub(from)
    }
}

impl Clock for Stopping {
    fn now(&self) -> Timestamp {
        match self.wall_too {
            true => self.clock.now().minus(self.stood()),
            false => self.clock.now(),
        }
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.stood())
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.clock.sleep(duration)
    }

    fn passes(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.clock.passes(duration)
    }
}
