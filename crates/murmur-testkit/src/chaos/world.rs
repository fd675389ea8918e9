//! Processes of the function over a cloud, and what became of the events they were given.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lambda_events::event::dynamodb::Event;
use aws_lambda_events::streams::DynamoDbEventResponse;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use fastrand::Rng;
use futures::future::LocalBoxFuture;
use murmur_core::RecordError;
use murmur_lambda_ddbstreams::Handler;
use murmur_state::{Causes, Clock, Deadline, Random, Recorder, StoreError, Tokens};
use murmur_state_ddb::{create_dedup_table, create_int64_table};

use super::history::Contribution;
use super::pipeline::{self, Means, Row};
use super::report::{KINDS, Wrong};
use super::rule::Interference;
use super::scenario::Scenario;
use super::totals::{self, Attributes, Fates};
use crate::cloud::{Cloud, Fault, Request, Weather};
use crate::esm::{BoxError, Environment};
use crate::runs::{Met, lock, pick, within};
use crate::time::{Suspensions, Time};

/// More requests than any run makes that comes to an end.
const ENDLESS: u64 = 500_000;

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
    processes: Cell<u64>,
    dice: RefCell<Rng>,
    removed: Cell<u64>,
    /// How often a machine was suspended.
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

/// What became of the events.
#[derive(Default)]
struct Log {
    fates: Fates,
    wrong: Vec<Wrong>,
}

/// What requests say of what the store does.
#[derive(Default)]
struct Wire {
    requests: u64,
    moves: u64,
    pages: u64,
    looked_up: u64,
    oversized: Option<String>,
}

impl World {
    /// The tables are made, the weather is not yet bad.
    pub(super) async fn new(scenario: Scenario, time: Time, cloud: Cloud, name: &str) -> Self {
        let (state, markers) = (format!("{name}-state"), format!("{name}-markers"));
        let admin = cloud.admin();
        for made in [
            create_int64_table(&admin, &state).await,
            create_dedup_table(&admin, &markers).await,
        ] {
            made.unwrap_or_else(|error| panic!("a table of the run: {}", Causes(&error)));
        }
        let wire = Arc::new(Mutex::new(Wire::default()));
        let seen = Arc::clone(&wire);
        cloud.rewrite(move |request| lock(&seen).see(request));
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
            processes: Cell::new(0),
            removed: Cell::new(0),
            suspended: Rc::default(),
        }
    }

    /// Starts a process whose clock is off as the scenario says.
    pub(super) fn start(&self) -> Lambda {
        let most = self.scenario.skew;
        let mut dice = self.dice.borrow_mut();
        // The extremes are where things break.
        let skew = match dice.u8(..4) {
            0 => most,
            1 => -most,
            _ => dice.i64(-most..=most),
        };
        drop(dice);
        let suspended = Suspensions::default();
        let tables = self.time.clock_of_machine(skew, &suspended);
        self.start_on(skew, tables, suspended)
    }

    /// Starts a process whose clock is `skew` seconds fast, and whose tables go by `tables`.
    pub(super) fn start_with(&self, skew: i64, tables: Arc<dyn Clock>) -> Lambda {
        self.start_on(skew, tables, Suspensions::default())
    }

    fn start_on(&self, skew: i64, tables: Arc<dyn Clock>, suspended: Suspensions) -> Lambda {
        let clock = self.time.clock_of_machine(skew, &suspended);
        let number = self.processes.get();
        self.processes.set(number + 1);
        let process = self.cloud.process();
        if let Some(rule) = self.scenario.without {
            let interference = Interference {
                time: self.time.clone(),
                skew,
                number,
                state: self.state.clone(),
                markers: self.markers.clone(),
            };
            if let Some(rewriter) = rule.rewriter(interference) {
                process.rewrite(rewriter);
            }
        }
        let random = Random::seeded(self.scenario.seed.wrapping_add(number << 32));
        // The SDK tries reads again by itself, and waits in real time.
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
        let pipeline = pipeline::pipeline(&self.scenario, &means)
            .unwrap_or_else(|error| panic!("the pipeline: {}", Causes(&error)));
        let rejected: Rejections = Arc::default();
        let callback = Arc::clone(&rejected);
        let handler = Handler::new([pipeline])
            .clock(Arc::clone(&clock))
            .random(random.clone())
            .tokens(Tokens::repeatable(random))
            .metrics(Recording(Arc::clone(&self.counts)))
            .on_rejected(move |rejection| {
                let event = rejection.record.event_id().to_owned();
                lock(&callback).push((event, rejection.error));
                async { Ok(()) }
            })
            .build()
            .unwrap_or_else(|error| panic!("the handler: {error}"));
        Lambda {
            process,
            handler,
            clock,
            rejected,
            log: Rc::clone(&self.log),
            machine: Machine {
                time: self.time.clone(),
                chance: match self.time.is_stepped() {
                    true => 0.0,
                    false => self.scenario.suspended,
                },
                dice: RefCell::new(Rng::with_seed(
                    self.scenario.seed ^ (number << 32) ^ 0x4d41_4348,
                )),
                suspended,
                met: Rc::clone(&self.suspended),
            },
        }
    }

    /// What Time to Live would remove by now is removed.
    pub(super) async fn sweep(&self) {
        let mut removed = self.cloud.expire(&self.state, &["pk", "sk"]).await;
        removed += self.cloud.expire(&self.markers, &["pk"]).await;
        self.removed.set(self.removed.get() + removed);
    }

    /// The rows of the state table.
    pub(super) async fn rows(&self) -> Vec<Attributes> {
        self.cloud.rows(&self.state).await
    }

    /// Waits until nothing is under way any more, and says what is wrong. `forgotten` are the
    /// events that the stream lost while they failed; that is no fault if `forgivable`.
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

    /// What was met, as far as the world knows.
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
        let wire = lock(&self.wire);
        met.add("ids moved on", wire.moves);
        met.add("pages written", wire.pages);
        met.add("pages looked up", wire.looked_up);
        met.add("expired rows removed", self.removed.get());
        met.add("machines suspended", self.suspended.get());
        met
    }
}

impl Wire {
    fn see(&mut self, request: &Request) {
        self.requests += 1;
        assert!(self.requests < ENDLESS, "the run does not come to an end");
        let looks_up =
            request.operation == "BatchGetItem" && request.body.to_string().contains("/page/");
        self.looked_up += u64::from(looks_up);
        for part in crate::rewrite::parts(&request.body) {
            let text = |name: &str| part[name].as_str().unwrap_or_default();
            let (update, condition) = (text("UpdateExpression"), text("ConditionExpression"));
            self.moves += u64::from(update.contains("prev = cur"));
            self.pages += u64::from(update.contains("ids :ids"));
            if condition.matches("contains(").count() > 150 || condition.len() > 4096 {
                self.oversized = Some(condition.chars().take(100).collect());
            }
        }
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
    rejected: Rejections,
    log: Rc<RefCell<Log>>,
    machine: Machine,
}

/// What a process runs on.
struct Machine {
    time: Time,
    /// How likely it is suspended during an invocation.
    chance: f64,
    dice: RefCell<Rng>,
    suspended: Suspensions,
    met: Rc<Cell<u64>>,
}

impl Machine {
    /// `work`, in which nothing moves while the machine is suspended.
    fn run<T: 'static>(
        &self,
        work: impl Future<Output = T> + 'static,
    ) -> impl Future<Output = T> + 'static {
        let (time, suspended, met) = (
            self.time.clone(),
            self.suspended.clone(),
            Rc::clone(&self.met),
        );
        let planned = {
            let dice = &mut *self.dice.borrow_mut();
            // Answers take milliseconds, so that most of what is under way is at the beginning.
            let from = within(dice, Duration::ZERO, Duration::from_millis(200));
            let length = pick(dice, &[(2, 60), (2, 600), (1, 1200)]);
            let length = within(dice, Duration::from_secs(1), Duration::from_secs(length));
            (dice.f64() < self.chance).then_some((from, length))
        };
        async move {
            let mut work = pin!(work);
            if let Some((from, length)) = planned {
                let from = time.elapsed() + from;
                tokio::select! {
                    biased;
                    answer = &mut work => return answer,
                    () = time.reached(from) => {}
                }
                // Time goes by in steps of milliseconds.
                let from = time.elapsed();
                suspended.add(from, from + length);
                met.set(met.get() + 1);
                time.reached(from + length).await;
            }
            work.await
        }
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
        event: Event,
        timeout: Duration,
    ) -> LocalBoxFuture<'static, Result<DynamoDbEventResponse, BoxError>> {
        let (handler, log) = (self.handler.clone(), Rc::clone(&self.log));
        let rejected = Arc::clone(&self.rejected);
        lock(&rejected).clear();
        let deadline = Deadline::within(&*self.clock, timeout);
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
        Box::pin(self.machine.run(async move {
            let response = handler.handle(event, deadline).await?;
            let failed: HashSet<&String> = response
                .batch_item_failures
                .iter()
                .filter_map(|failure| failure.item_identifier.as_ref())
                .collect();
            let rejected = std::mem::take(&mut *lock(&rejected));
            log.borrow_mut().note(&records, &failed, rejected);
            Ok(response)
        }))
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
    /// An invocation has answered.
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
                    source: StoreError::TooOld { .. },
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
