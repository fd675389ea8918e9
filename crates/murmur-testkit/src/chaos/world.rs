//! The processes of a function over a cloud, and the outcome of the events they were given.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lambda_events::event::dynamodb::Event;
use aws_lambda_events::streams::DynamoDbEventResponse;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::types::AttributeValue;
use fastrand::Rng;
use futures::future::{BoxFuture, LocalBoxFuture};
use murmur_core::{Processor, RecordError};
use murmur_lambda_ddbstreams::Handler;
use murmur_state::time::Random;
use murmur_state::tokens::Tokens;
use murmur_state::{Causes, Clock, Deadline, Recorder, StoreError, Timestamp};
use murmur_state_ddb::{create_dedup_table, create_int64_table};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::history::Contribution;
use super::pipeline::{self, Means, Row};
use super::report::{KINDS, Wrong};
use super::rule::{Interference, Rule};
use super::scenario::Scenario;
use super::totals::{self, Attributes, Fates};
use super::wire::{InHand, Wire, id_bytes};
use crate::cloud::{Cloud, Fault, Weather};
use crate::esm::{BoxError, Environment};
use crate::runs::{Met, lock, must, pick, within};
use crate::time::{Suspensions, Time};

/// A cloud with the two tables of a pipeline, and the processes that use them.
pub(super) struct World {
    pub(super) scenario: Scenario,
    pub(super) time: Time,
    pub(super) cloud: Cloud,
    state: String,
    markers: String,
    log: Rc<RefCell<Log>>,
    counts: Arc<Counts>,
    wire: Arc<Mutex<Wire>>,
    in_hand: InHand,
    processes: Cell<u64>,
    dice: RefCell<Rng>,
    removed: Cell<u64>,
    /// Invocations on suspended machines. They continue although no caller waits for them.
    waking: Waking,
    /// The number of suspensions.
    suspended: Rc<Cell<u64>>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("scenario", &self.scenario)
            .field("time", &self.time)
            .finish_non_exhaustive()
    }
}

/// The outcome of the events.
#[derive(Default)]
struct Log {
    fates: Fates,
    wrong: Vec<Wrong>,
}

type Waking = Rc<RefCell<Vec<JoinHandle<()>>>>;

impl World {
    /// Creates the tables. The weather is still calm.
    pub(super) async fn new(scenario: Scenario, time: Time, cloud: Cloud, name: &str) -> Self {
        let (state, markers) = (format!("{name}-state"), format!("{name}-markers"));
        let admin = cloud.admin();
        for made in [
            create_int64_table(&admin, &state).await,
            create_dedup_table(&admin, &markers).await,
        ] {
            made.unwrap_or_else(|error| panic!("a table of the run: {}", Causes(&error)));
        }
        let in_hand = InHand::default();
        let wire = Arc::new(Mutex::new(Wire::new(Arc::clone(&in_hand))));
        let leaves = Arc::clone(&wire);
        cloud.rewrite(move |request| lock(&leaves).leaves(request));
        let (answered, now) = (Arc::clone(&wire), time.clone());
        cloud.observe(move |seen| lock(&answered).answered(seen, now.elapsed()));
        Self {
            dice: RefCell::new(Rng::with_seed(scenario.seed ^ 0x534b_4557)),
            scenario,
            time,
            cloud,
            state,
            markers,
            log: Rc::default(),
            counts: Arc::default(),
            wire,
            in_hand,
            processes: Cell::new(0),
            removed: Cell::new(0),
            waking: Waking::default(),
            suspended: Rc::default(),
        }
    }

    /// Starts a process with a clock error from the scenario.
    pub(super) fn start(&self) -> Lambda {
        let most = self.scenario.skew;
        let mut dice = self.dice.borrow_mut();
        // Faults are most likely at the extremes.
        let skew = match dice.u8(..4) {
            0 => most,
            1 => -most,
            _ => dice.i64(-most..=most),
        };
        drop(dice);
        let Scenario {
            row_budget,
            mixed_budgets,
            ..
        } = self.scenario;
        let is_larger = mixed_budgets && self.processes.get() % 2 == 1;
        self.start_with(
            skew,
            if is_larger {
                8 * row_budget
            } else {
                row_budget
            },
        )
    }

    /// Starts a process whose clock is `skew` seconds fast and whose rows may have `row_budget`
    /// bytes.
    pub(super) fn start_with(&self, skew: i64, row_budget: usize) -> Lambda {
        let scenario = Scenario {
            row_budget,
            ..self.scenario.clone()
        };
        let suspended = Suspensions::default();
        let clock = self.time.clock_of_machine(skew, &suspended);
        let begun = Arc::new(Mutex::new(None));
        let tables: Arc<dyn Clock> = match scenario.without {
            Some(Rule::TooOldAfterLookUp) => Arc::new(AsBegun {
                clock: Arc::clone(&clock),
                begun: Arc::clone(&begun),
            }),
            _ => Arc::clone(&clock),
        };
        let turn = Arc::new(AtomicU64::new(0));
        let number = self.processes.get();
        self.processes.set(number + 1);
        let process = self.cloud.process();
        if let Some(rule) = scenario.without {
            let own = Interference {
                time: self.time.clone(),
                state: self.state.clone(),
                in_hand: Arc::clone(&self.in_hand),
                turn: Arc::clone(&turn),
            };
            rule.interfere(&process, own);
        }
        let random = Random::seeded(self.scenario.seed.wrapping_add(number << 32));
        // The SDK retries reads by itself, and waits in real time.
        let client = match self.time.is_stepped() {
            true => {
                let at_once =
                    RetryConfig::standard().with_initial_backoff(Duration::from_millis(1));
                let config = process.client_config().retry_config(at_once);
                aws_sdk_dynamodb::Client::from_conf(config.build())
            }
            false => process.client(),
        };
        let means = Means {
            client,
            clock: tables,
            random: random.clone(),
            state: self.state.clone(),
            markers: self.markers.clone(),
        };
        let pipeline = pipeline::pipeline(&scenario, &means)
            .unwrap_or_else(|error| panic!("the pipeline: {}", Causes(&error)));
        let rejected: Rejections = Arc::default();
        let callback = Arc::clone(&rejected);
        let processor = Processor::builder([pipeline])
            .clock(Arc::clone(&clock))
            .random(random.clone())
            .tokens(Tokens::repeatable(random))
            .recorder(Recording(Arc::clone(&self.counts)))
            .on_rejected(move |rejection| {
                let event = rejection.record.event_id().to_owned();
                lock(&callback).push((event, rejection.error));
                async { Ok(()) }
            })
            .build()
            .unwrap_or_else(|error| panic!("the processor: {error}"));
        Lambda {
            hands: Hands {
                in_hand: Arc::clone(&self.in_hand),
                process: process.number(),
            },
            // Every second process rounds seconds up, as another implementation could.
            rounds_up: scenario.without == Some(Rule::SameSecond) && number % 2 == 1,
            deadlines: scenario.deadlines,
            process,
            handler: Handler::new(processor),
            clock,
            begun,
            turn,
            rejected,
            log: Rc::clone(&self.log),
            machine: Machine {
                time: self.time.clone(),
                chance: match self.time.is_stepped() {
                    true => 0.0,
                    false => scenario.suspended,
                },
                longest: scenario.suspended_for,
                planned: Cell::new(None),
                waking: Rc::clone(&self.waking),
                dice: RefCell::new(Rng::with_seed(
                    self.scenario.seed ^ (number << 32) ^ 0x4d41_4348,
                )),
                suspended,
                met: Rc::clone(&self.suspended),
            },
        }
    }

    /// Removes what Time to Live would have removed by now.
    pub(super) async fn sweep(&self) {
        let removed = self.cloud.expire(&self.state, &["pk", "sk"]).await;
        self.removed.set(self.removed.get() + removed.len() as u64);
        let removed = self.cloud.expire(&self.markers, &["pk"]).await.into_iter();
        let names = removed.filter_map(|mut key| match key.remove("pk") {
            Some(AttributeValue::S(name)) => Some(name),
            _ => None,
        });
        lock(&self.wire).expire(names.collect());
    }

    /// Completes when no suspended machine has work left.
    pub(super) async fn wake(&self) {
        loop {
            let waking = self.waking.borrow_mut().pop();
            let Some(waking) = waking else { return };
            must("a suspended machine", waking.await);
        }
    }

    /// The rows of the state table.
    pub(super) async fn rows(&self) -> Vec<Attributes> {
        self.cloud.rows(&self.state).await
    }

    /// Waits until nothing is under way any more and returns the faults. `forgotten` are the events
    /// that the stream dropped while they failed; that is no fault if `forgivable`.
    pub(super) async fn judge(
        &self,
        contributions: &[Contribution],
        forgotten: &HashSet<String>,
        forgivable: bool,
    ) -> Vec<Wrong> {
        self.cloud.set_weather(Weather::calm());
        self.cloud.flush().await;
        let rows = self.rows().await;
        let log = self.log.borrow();
        let mut wrong = log.wrong.clone();
        if let Some(request) = lock(&self.wire).oversized.clone() {
            wrong.push(Wrong::Oversized(request));
        }
        let fates = &log.fates;
        let lost = contributions.iter().filter(|contribution| {
            let event = &contribution.event;
            let known = fates.counted.contains(event) || fates.too_old.contains(event);
            let forgiven = forgivable && forgotten.contains(event);
            !known && !forgiven
        });
        let events = lost.count();
        if events > 0 {
            let error = lock(&self.counts.0).last_error.clone();
            wrong.push(Wrong::Lost { events, error });
        }
        let now = self.time.now();
        wrong.extend(totals::compare(
            &self.scenario,
            contributions,
            fates,
            &rows,
            now,
        ));
        wrong
    }

    /// The situations that occurred, as far as the world can tell.
    pub(super) fn met(&self) -> Met {
        let mut met = Met::of(&KINDS);
        let cloud = self.cloud.met();
        for (kind, fault) in [
            ("failed before", Fault::FailBefore),
            ("dropped before", Fault::DropBefore),
            ("failed after", Fault::FailAfter),
            ("dropped after", Fault::DropAfter),
            ("hung after", Fault::HangAfter),
            ("lost answers", Fault::LostAnswer),
            ("stalls", Fault::Stall),
            ("zombies applied", Fault::Zombie),
            ("zombies refused", Fault::ZombieRefused),
            ("throttles", Fault::Throttle),
            ("conflicts by chance", Fault::Conflict),
            ("requests that could not be signed", Fault::Unsigned),
            ("credentials refused", Fault::Refused),
            ("refusals for the set-up", Fault::Misfit),
            ("reads of older items", Fault::Stale),
            ("conflicts", Fault::HeldConflict),
            ("partition limits", Fault::PartitionLimit),
        ] {
            met.add(kind, cloud.count(fault));
        }
        let counts = lock(&self.counts.0);
        met.add("retries", counts.retries);
        met.add("duplicates recognised", counts.duplicates);
        met.add("too old", self.log.borrow().fates.too_old.len() as u64);
        drop(counts);
        for (kind, count) in lock(&self.wire).counts() {
            met.add(kind, count);
        }
        met.add("rows of windows expired", self.removed.get());
        met.add("machines suspended", self.suspended.get());
        met
    }
}

/// Counts of the handlers' metrics.
#[derive(Debug, Default)]
struct Counts(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    retries: u64,
    duplicates: u64,
    last_error: String,
}

#[derive(Debug)]
struct Recording(Arc<Counts>);

impl Recorder for Recording {
    fn count(&self, name: &str, by: u64) {
        let mut counts = lock(&self.0.0);
        if name.ends_with(":retry") {
            counts.retries += by;
        } else if name.ends_with(":dedup_skip") {
            counts.duplicates += by;
        }
    }

    fn gauge(&self, _name: &str, _value: u64) {}

    fn error(&self, name: &str, error: &(dyn std::error::Error + 'static)) {
        lock(&self.0.0).last_error = format!("{name}: {}", Causes(error));
    }
}

type Rejections = Arc<Mutex<Vec<(String, RecordError)>>>;

/// A process of the function.
pub(super) struct Lambda {
    pub(super) process: crate::cloud::Process,
    handler: Handler<Row>,
    clock: Arc<dyn Clock>,
    /// When its current invocation started, by its clock.
    begun: Arc<Mutex<Option<Timestamp>>>,
    /// The number of invocations that it has started.
    turn: Arc<AtomicU64>,
    hands: Hands,
    rounds_up: bool,
    deadlines: bool,
    rejected: Rejections,
    log: Rc<RefCell<Log>>,
    machine: Machine,
}

/// Notes the events that a process is working on.
#[derive(Clone)]
struct Hands {
    in_hand: InHand,
    process: u64,
}

impl Hands {
    fn hold(&self, records: &[(String, Option<String>)]) {
        let events = records.iter().filter_map(|(event, _)| id_bytes(event));
        lock(&self.in_hand).insert(self.process, events.collect());
    }
}

/// A clock whose wall time stops when an invocation starts, so that everything in the invocation is
/// judged by that time.
#[derive(Debug)]
struct AsBegun {
    clock: Arc<dyn Clock>,
    begun: Arc<Mutex<Option<Timestamp>>>,
}

impl Clock for AsBegun {
    fn now(&self) -> Timestamp {
        let begun = *lock(&self.begun);
        begun.unwrap_or_else(|| self.clock.now())
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.clock.sleep(duration)
    }

    fn passes(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.clock.passes(duration)
    }
}

impl Lambda {
    /// Suspends the machine for `length` during the next invocation, `from` after it starts.
    pub(super) fn suspend(&self, from: Duration, length: Duration) {
        self.machine.planned.set(Some((from, length)));
    }
}

/// The machine that a process runs on.
struct Machine {
    time: Time,
    /// The probability of a suspension during an invocation.
    chance: f64,
    /// The longest suspension.
    longest: Duration,
    /// The planned suspension in the next invocation: its start after the invocation's start, and
    /// its length.
    planned: Cell<Option<(Duration, Duration)>>,
    dice: RefCell<Rng>,
    suspended: Suspensions,
    waking: Waking,
    met: Rc<Cell<u64>>,
}

impl Machine {
    /// The suspension of an invocation that starts now, if there is one.
    fn plan(&self) -> Option<(Duration, Duration)> {
        let dice = &mut *self.dice.borrow_mut();
        // Answers take milliseconds, so most requests are under way at the beginning.
        let from = within(dice, Duration::ZERO, Duration::from_millis(200));
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        let most = pick(
            dice,
            &[(2, minutes(1)), (2, minutes(10)), (2, self.longest)],
        );
        let length = within(dice, Duration::from_secs(1), most.min(self.longest));
        let by_chance = (dice.f64() < self.chance).then_some((from, length));
        self.planned.take().or(by_chance)
    }

    /// Runs `work`, which makes no progress while the machine is suspended. It continues afterwards
    /// even if no caller waits for it any more, unless the process was killed.
    fn run<T: 'static>(
        &self,
        process: &crate::cloud::Process,
        work: impl Future<Output = T> + 'static,
    ) -> LocalBoxFuture<'static, T> {
        let Some((from, length)) = self.plan() else {
            return Box::pin(work);
        };
        let (time, suspended, met) = (
            self.time.clone(),
            self.suspended.clone(),
            Rc::clone(&self.met),
        );
        let from = time.elapsed() + from;
        let process = process.clone();
        let (answer, answered) = oneshot::channel();
        let work = async move {
            let mut work = pin!(work);
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                () = time.reached(from) => {}
            }
            // Time advances in steps of milliseconds.
            let from = time.elapsed();
            suspended.add(from, from + length);
            met.set(met.get() + 1);
            time.reached(from + length).await;
            tokio::select! {
                biased;
                () = process.killed() => None,
                done = work => Some(done),
            }
        };
        let work = tokio::task::spawn_local(async move {
            if let Some(done) = work.await {
                // The caller may have stopped waiting.
                let _ = answer.send(done);
            }
        });
        self.waking.borrow_mut().push(work);
        Box::pin(async move {
            match answered.await {
                Ok(done) => done,
                // The process was killed.
                Err(_) => std::future::pending().await,
            }
        })
    }
}

impl fmt::Debug for Lambda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lambda")
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

impl Environment for Lambda {
    fn invoke(
        &self,
        mut event: Event,
        timeout: Duration,
    ) -> LocalBoxFuture<'static, Result<DynamoDbEventResponse, BoxError>> {
        if self.rounds_up {
            for record in &mut event.records {
                let created = &mut record.change.approximate_creation_date_time;
                if created.timestamp() != 0 {
                    *created += Duration::from_secs(1);
                }
            }
        }
        let (handler, log) = (self.handler.clone(), Rc::clone(&self.log));
        let rejected = Arc::clone(&self.rejected);
        lock(&rejected).clear();
        let deadline = match self.deadlines {
            true => Deadline::within(&*self.clock, timeout),
            false => Deadline::NONE,
        };
        let records: Vec<(String, Option<String>)> = event
            .records
            .iter()
            .map(|record| {
                (
                    record.event_id.clone(),
                    record.change.sequence_number.clone(),
                )
            })
            .collect();
        *lock(&self.begun) = Some(self.clock.now());
        self.turn.fetch_add(1, Ordering::Relaxed);
        self.hands.hold(&records);
        let hands = self.hands.clone();
        self.machine.run(&self.process, async move {
            let response = handler.handle(event, deadline).await?;
            hands.hold(&[]);
            let failed: HashSet<&String> = response
                .batch_item_failures
                .iter()
                .filter_map(|failure| failure.item_identifier.as_ref())
                .collect();
            let rejected = std::mem::take(&mut *lock(&rejected));
            log.borrow_mut().note(&records, &failed, rejected);
            Ok(response)
        })
    }

    fn kill_after(&self, requests: usize) {
        self.process.kill_after(requests as u64);
    }

    fn killed(&self) -> LocalBoxFuture<'static, ()> {
        let process = self.process.clone();
        Box::pin(async move { process.killed().await })
    }
}

impl Log {
    /// Records the answer of an invocation.
    fn note(
        &mut self,
        records: &[(String, Option<String>)],
        failed: &HashSet<&String>,
        rejected: Vec<(String, RecordError)>,
    ) {
        let mut passed_over = HashSet::new();
        for (event, error) in rejected {
            let too_old = matches!(
                &error,
                RecordError::Store {
                    source: StoreError::TooOld { .. } | StoreError::RowEnds { .. },
                    ..
                }
            );
            if !too_old {
                let why = format!("{event}: {}", Causes(&error));
                self.wrong.push(Wrong::Rejected(why));
            }
            passed_over.insert(event);
        }
        for (event, number) in records {
            let reported = number
                .as_ref()
                .is_some_and(|number| failed.contains(number));
            if passed_over.contains(event) {
                self.fates.too_old.insert(event.clone());
            } else if !reported {
                self.fates.counted.insert(event.clone());
            }
        }
    }
}
