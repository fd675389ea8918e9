//! A table of orders that is written all the while, its stream, its totals, and whoever works on
//! them, in virtual time.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::future::ready;
use std::num::NonZeroU32;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::{Event, EventRecord};
use aws_lambda_events::streams::DynamoDbEventResponse;
use futures::future::{LocalBoxFuture, join_all, join3};
use murmur_core::audit::{AuditError, AuditOptions, Difference, KeyDifference, LedgerStatus};
use murmur_core::{AttributeValue, BoxError, Item, Pipeline, Processor, Row, Sum};
use murmur_lambda_ddbstreams::{Handler, Mapping};
use murmur_snapshot::bootstrap::BootstrapBuilder;
use murmur_snapshot::lookup::{Look, LookedUp};
use murmur_snapshot::reconcile::{Inspected, ReconcileBuilder};
use murmur_snapshot::settle::{SettleBuilder, SettleError, SettleReport};
use murmur_snapshot::source::{Cursor, Description, Page};
use murmur_snapshot::{
    Bootstrap, BootstrapError, Lookup, Reconcile, ReconcileError, Reconciled, Report, Settle,
    Source, SourceError,
};
use murmur_snapshot_ddb::ParallelScan;
use murmur_state::time::Random;
use murmur_state::tokens::Tokens;
use murmur_state::{Clock, Deadline, HandoffToken, ItemId, Read, SequenceNumber, Timestamp};
use murmur_state_ddb::{Int64SumStore, Marked, TableOptions, create_tables};
use murmur_streams::{
    OperationType, StoreSource, StreamInfo, StreamRecord, StreamStore, StreamViewType, Trigger,
    TriggerBuilder,
};
use murmur_testkit::cloud::{Cloud, Process, Weather};
use murmur_testkit::esm::{self, Delivery, Environment, Incoming, Simulation, Trouble};
use murmur_testkit::streams::describing;
use murmur_testkit::time::Time;
use serde_json::{Value, json};

use crate::writes::{Change, Writes};

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);

pub(crate) const TABLE: &str = "orders";
const START: Timestamp = Timestamp::from_secs(1_800_000_000);
const FIRST_NUMBER: u128 = 100_000_000_000_000_000_000;

/// Runs what a builder makes, whose options can be used.
pub(crate) trait BuildAndRun {
    type Answer;

    fn run(self) -> impl Future<Output = Self::Answer> + Send;
}

impl<T: Send + Sync + 'static, S: Source> BuildAndRun for BootstrapBuilder<T, S> {
    type Answer = Result<Report, BootstrapError>;

    async fn run(self) -> Self::Answer {
        self.build()?.run().await
    }
}

impl<T: Send + Sync + 'static, S: Lookup> BuildAndRun for ReconcileBuilder<T, S> {
    type Answer = Result<Reconciled, ReconcileError>;

    async fn run(self) -> Self::Answer {
        self.build()?.run().await
    }
}

impl<T: Send + Sync + 'static, S: Source> BuildAndRun for SettleBuilder<T, S> {
    type Answer = Result<SettleReport, SettleError>;

    async fn run(self) -> Self::Answer {
        self.build()?.run().await
    }
}

/// How far a reconcile lets live be behind.
const LAG: Duration = Duration::from_secs(60);

/// A process of whatever kind may use its connection for so long.
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(serde::Deserialize)]
pub(crate) struct Order {
    customer: String,
    cents: i64,
}

/// How far each customer's total is off: the state less what the table holds.
pub(crate) type Off = BTreeMap<String, i64>;

pub(crate) struct World {
    pub(crate) time: Time,
    pub(crate) cloud: Cloud,
    streams: StreamStore,
    pub(crate) arn: String,
    writes: Writes,
    seed: u64,
    processes: Cell<u64>,
}

/// The tables of the state.
#[derive(Clone, Copy)]
pub(crate) struct Tables {
    pub(crate) state: &'static str,
    pub(crate) markers: &'static str,
    pub(crate) version: u32,
    /// Whether the definition lets orders settle.
    pub(crate) settles: bool,
    /// Whether the function passes over what can never count.
    pub(crate) passes_over: bool,
}

pub(crate) const TABLES: Tables = Tables {
    state: "totals",
    markers: "markers",
    version: 1,
    settles: false,
    passes_over: false,
};

/// The same tables, of a definition by which orders leave the ledger.
pub(crate) const SETTLING: Tables = Tables {
    settles: true,
    ..TABLES
};

impl World {
    /// With the table and its stream, what is older than it, and empty tables for the state.
    pub(crate) async fn new(seed: u64, writes: Writes) -> Self {
        // What the SDK draws its own jitter from.
        fastrand::seed(seed);
        let time = Time::paused(START);
        let cloud = Cloud::in_process_at(&time, seed, Weather::lossy());
        let made = cloud.at_once(
            "CreateTable",
            json!({
                "TableName": TABLE,
                "KeySchema": [{ "AttributeName": "id", "KeyType": "HASH" }],
                "AttributeDefinitions": [{ "AttributeName": "id", "AttributeType": "S" }],
                "BillingMode": "PAY_PER_REQUEST",
                "StreamSpecification": {
                    "StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"
                },
            }),
        );
        let arn = made["TableDescription"]["LatestStreamArn"].as_str();
        let world = Self {
            streams: StreamStore::with_clock(time.clock(0)),
            arn: arn.unwrap().to_owned(),
            time,
            cloud,
            writes,
            seed,
            processes: Cell::new(0),
        };
        world.register(&world.arn);
        world.make(TABLES).await;
        for item in world.writes.older.values() {
            world.put(item);
        }
        world
    }

    /// Lets the stream of this ARN be described.
    pub(crate) fn register(&self, arn: &str) {
        let info = StreamInfo::new(arn, StreamViewType::NewAndOldImages);
        self.streams.register_stream_with_shards(info, 2).unwrap();
    }

    pub(crate) async fn make(&self, tables: Tables) {
        let admin = self.cloud.admin();
        let made = create_tables(&admin, [tables.state], tables.markers);
        made.await.unwrap();
    }

    fn put(&self, item: &Item) {
        let item = serde_json::to_value(item).unwrap();
        let request = json!({ "TableName": TABLE, "Item": item });
        self.cloud.at_once("PutItem", request);
    }

    /// Writes this from now on, to a table as it is.
    pub(crate) fn go_on(self, writes: impl FnOnce(Writes) -> Writes) -> Self {
        Self {
            writes: writes(self.writes.written()),
            ..self
        }
    }

    /// Everything at once: the writer, the mappings that bring its changes, and `script`.
    pub(crate) async fn play<T>(
        &self,
        mappings: &[&Lambda],
        script: impl Future<Output = T>,
    ) -> (Vec<Delivery>, T) {
        let mappings = mappings.iter().map(|lambda| self.deliver(lambda));
        let (deliveries, (), said) = join3(join_all(mappings), self.write(), script).await;
        (deliveries, said)
    }

    async fn write(&self) {
        for (nth, change) in self.writes.changes.iter().enumerate() {
            self.time.reached(change.at).await;
            match &change.after {
                Some(item) => self.put(item),
                None => {
                    let key = json!({ "id": { "S": change.id } });
                    let request = json!({ "TableName": TABLE, "Key": key });
                    self.cloud.at_once("DeleteItem", request);
                }
            }
            self.streams.put_record(self.record(nth, change)).unwrap();
        }
    }

    fn record(&self, nth: usize, change: &Change) -> StreamRecord {
        let image = |item: &Option<Item>| item.clone().unwrap_or_default();
        let nth = self.writes.first + nth;
        let number = FIRST_NUMBER + 1000 * (nth as u128 + 1);
        let id = AttributeValue::S(change.id.clone());
        StreamRecord {
            stream_arn: self.arn.clone(),
            event_id: format!("{nth:032x}"),
            event_name: match (&change.before, &change.after) {
                (None, _) => OperationType::Insert,
                (_, Some(_)) => OperationType::Modify,
                (_, None) => OperationType::Remove,
            },
            keys: HashMap::from([("id".to_owned(), id)]).into(),
            old_image: image(&change.before),
            new_image: image(&change.after),
            sequence_number: Some(SequenceNumber::new(number.to_string()).unwrap()),
            created_at: Some(START.plus(change.at)),
            ..StreamRecord::default()
        }
    }

    async fn deliver(&self, lambda: &Lambda) -> Delivery {
        let mut shards = vec![Vec::new(); 2];
        for (nth, change) in self.writes.changes.iter().enumerate() {
            let Some(seen) = lambda.sees(nth, change.at) else {
                continue;
            };
            let own: usize = change.id.bytes().map(usize::from).sum();
            shards[own % 2].push(Incoming {
                created: START.plus(change.at),
                seen: START.plus(seen),
                record: EventRecord::from(&self.record(nth, change)),
            });
        }
        let simulation = Simulation {
            mapping: lambda.settings.clone(),
            trouble: lambda.trouble,
            seed: self.seed,
            time: self.time.clone(),
        };
        let start = || {
            let process = self.process();
            Function {
                handler: self.handler(&process, lambda.tables_at(self.time.elapsed())),
                process,
                failing: lambda.failing.clone(),
                time: self.time.clone(),
            }
        };
        simulation.deliver(shards, start).await
    }

    fn process(&self) -> Process {
        self.cloud.process()
    }

    fn clock(&self) -> Arc<dyn Clock> {
        self.time.clock(0)
    }

    fn random(&self) -> Random {
        self.processes.set(self.processes.get() + 1);
        Random::seeded(self.seed.wrapping_mul(1000) + self.processes.get())
    }

    fn tokens(&self) -> Tokens {
        Tokens::repeatable(self.random())
    }

    fn store(&self, client: aws_sdk_dynamodb::Client, tables: Tables) -> Marked<Int64SumStore> {
        let options = TableOptions::default()
            .clock(self.clock())
            .random(self.random())
            .tokens(self.tokens());
        let store = Int64SumStore::with_options(client, tables.state, options);
        store.unwrap().markers(tables.markers)
    }

    pub(crate) fn pipeline(&self, process: &Process, tables: Tables) -> Pipeline<Order> {
        let totals = Pipeline::builder("order_totals")
            .key(|order: &Order| order.customer.clone())
            .value(|order| order.cents)
            .aggregate(Sum::new())
            .version(tables.version);
        let totals = match tables.settles {
            true => totals.settle(),
            false => totals,
        };
        let store = self.store(process.client(), tables);
        totals.store(store).ledger().unwrap()
    }

    /// The same totals in a mode without a ledger.
    pub(crate) fn exactly_once(&self, process: &Process) -> Pipeline<Order> {
        Pipeline::builder("order_totals")
            .key(|order: &Order| order.customer.clone())
            .value(|order| order.cents)
            .aggregate(Sum::new())
            .retract()
            .store(self.store(process.client(), TABLES))
            .exactly_once()
            .unwrap()
    }

    /// A bootstrap in that mode.
    pub(crate) fn bootstrap_exactly_once(&self) -> BootstrapBuilder<Order, Paced> {
        let process = self.process();
        let source = self.scan(&process, MINUTE);
        Bootstrap::builder(
            Processor::builder([self.exactly_once(&process)])
                .clock(self.clock())
                .random(self.random())
                .tokens(self.tokens())
                .build()
                .unwrap(),
            source,
        )
    }

    /// The function's, or the trigger's.
    fn handler(&self, process: &Process, tables: Tables) -> Handler<Order> {
        let processor = Processor::builder([self.pipeline(process, tables)])
            .clock(self.clock())
            .random(self.random());
        let processor = match tables.passes_over {
            true => processor.on_rejected(|_| async { Ok(()) }),
            false => processor,
        };
        Handler::new(processor.build().unwrap())
    }

    /// A trigger over the stream as it stands.
    pub(crate) fn trigger(&self) -> TriggerBuilder<StoreSource, Handler<Order>> {
        let process = self.process();
        let markers = self.store(process.client(), TABLES).deduper().clone();
        let source = self.streams.source(self.arn.as_str());
        Trigger::builder(source, self.handler(&process, TABLES))
            .positions(markers, "orders_live")
            .clock(self.clock())
            .random(self.random())
    }

    fn scan(&self, process: &Process, pace: Duration) -> Paced {
        let scan = ParallelScan::builder(process.client(), TABLE)
            .streams(describing(&self.streams))
            .segments(4)
            .page_size(4)
            .clock(self.clock())
            .build();
        Paced {
            scan: scan.unwrap(),
            pace,
            time: self.time.clone(),
            cloud: self.cloud.clone(),
        }
    }

    /// A bootstrap by a process of its own, which takes `pace` for a page.
    pub(crate) fn bootstrap(&self, pace: Duration) -> BootstrapBuilder<Order, Paced> {
        self.bootstrap_into(TABLES, pace)
    }

    pub(crate) fn bootstrap_into(
        &self,
        to: Tables,
        pace: Duration,
    ) -> BootstrapBuilder<Order, Paced> {
        let process = self.process();
        let source = self.scan(&process, pace);
        Bootstrap::builder(
            Processor::builder([self.pipeline(&process, to)])
                .clock(self.clock())
                .random(self.random())
                .tokens(self.tokens())
                .build()
                .unwrap(),
            source,
        )
        .concurrency(4)
    }

    /// A bootstrap that checks the mapping as it is described when it is asked.
    pub(crate) fn checking(
        &self,
        lambda: &Lambda,
        pace: Duration,
    ) -> BootstrapBuilder<Order, Paced> {
        let (lambda, arn, time) = (lambda.clone(), self.arn.clone(), self.time.clone());
        self.bootstrap_into(lambda.tables, pace)
            .on_token(move |token: HandoffToken| {
                let mapping = lambda.described(&arn, time.elapsed());
                ready(mapping.check(&token).map_err(BoxError::from))
            })
    }

    /// Runs a bootstrap until it ends, or is killed after `life`: then `None`.
    pub(crate) async fn killed_after(
        &self,
        life: Duration,
        bootstrap: BootstrapBuilder<Order, Paced>,
    ) -> Option<Result<Report, BootstrapError>> {
        let bootstrap = bootstrap.build().unwrap();
        self.time.within(life, bootstrap.run()).await
    }

    /// A reconcile by a process of its own.
    pub(crate) fn reconcile(&self) -> ReconcileBuilder<Order, Paced> {
        self.reconcile_of(TABLES)
    }

    pub(crate) fn reconcile_of(&self, tables: Tables) -> ReconcileBuilder<Order, Paced> {
        let process = self.process();
        let source = self.scan(&process, Duration::from_secs(1));
        Reconcile::builder(
            Processor::builder([self.pipeline(&process, tables)])
                .clock(self.clock())
                .random(self.random())
                .build()
                .unwrap(),
            source,
        )
        .lag(LAG)
    }

    /// The command that lets orders settle, of this definition.
    pub(crate) fn settle(&self, tables: Tables) -> SettleBuilder<Order, Paced> {
        let process = self.process();
        let source = self.scan(&process, MINUTE);
        Settle::builder(
            Processor::builder([self.pipeline(&process, tables)])
                .clock(self.clock())
                .random(self.random())
                .build()
                .unwrap(),
            source,
        )
    }

    /// How many orders the ledger has, and how many have left it.
    pub(crate) async fn ledger(&self, tables: Tables) -> LedgerStatus {
        let processor = self.processor(tables);
        let ledgers = processor.ledgers(&AuditOptions::default()).await.unwrap();
        let [ledger] = <[_; 1]>::try_from(ledgers).unwrap();
        ledger
    }

    fn processor(&self, tables: Tables) -> Processor<Order> {
        Processor::builder([self.pipeline(&self.process(), tables)])
            .clock(self.clock())
            .build()
            .unwrap()
    }

    pub(crate) async fn totals(&self, tables: Tables) -> BTreeMap<String, i64> {
        let store = self.store(self.cloud.admin(), tables);
        let mut totals = BTreeMap::new();
        let mut after = None;
        loop {
            let listed = Read::<i64>::list(&store, after.as_deref()).await.unwrap();
            let rows = listed.entries.into_iter();
            totals.extend(rows.map(|row| (row.key.entity().to_owned(), row.value)));
            after = listed.next;
            if after.is_none() {
                return totals;
            }
        }
    }

    /// What the table holds now, counted by nobody of ours.
    fn recount(&self) -> BTreeMap<String, i64> {
        let found = self.cloud.at_once("Scan", json!({ "TableName": TABLE }));
        assert!(found.get("LastEvaluatedKey").is_none());
        let mut totals = BTreeMap::new();
        for item in found["Items"].as_array().unwrap() {
            let cents = item["cents"]["N"]
                .as_str()
                .map(|cents| cents.parse::<i64>());
            if let Some(cents) = cents {
                let customer = item["customer"]["S"].as_str().unwrap().to_owned();
                *totals.entry(customer).or_default() += cents.unwrap();
            }
        }
        totals
    }

    /// By how much the totals of `tables` differ from a recount.
    pub(crate) async fn off_in(&self, tables: Tables) -> Off {
        let mut off = self.totals(tables).await;
        for (customer, cents) in self.recount() {
            *off.entry(customer).or_default() -= cents;
        }
        off.retain(|_, by| *by != 0);
        off
    }

    pub(crate) async fn off(&self) -> Off {
        self.off_in(TABLES).await
    }

    /// Sees that every total equals a recount, and the sum of what the ledger says, unless orders have
    /// left it, and that the table was such that this says something.
    pub(crate) async fn assert_right_in(&self, tables: Tables) {
        assert!(self.recount().len() > 5, "{:?}", self.recount());
        assert_eq!(self.off_in(tables).await, Off::new());
        let options = AuditOptions::default().max_listed(100);
        let audited = self.processor(tables).audit(&options).await;
        if tables.settles {
            let refused = matches!(audited, Err(AuditError::Settled { .. }));
            assert!(refused, "{audited:?}");
            return;
        }
        let audited = audited.unwrap();
        let differing: Vec<u64> = audited.iter().map(|of| of.differing).collect();
        assert_eq!(differing, [0], "the audit");
    }

    pub(crate) async fn assert_right(&self) {
        self.assert_right_in(TABLES).await;
    }
}

/// By how much the keys are off that a reconcile names.
pub(crate) fn named(reconciled: &Reconciled) -> Off {
    off_by(only(reconciled).keys())
}

/// What was found of the one pipeline.
pub(crate) fn only(reconciled: &Reconciled) -> &Inspected {
    let [pipeline] = reconciled.pipelines.as_slice() else {
        panic!("{reconciled:?}");
    };
    pipeline
}

pub(crate) fn off_by(keys: &[KeyDifference]) -> Off {
    let keys = keys.iter().map(|of| match &of.difference {
        Difference::By(by) => (of.key.entity().to_owned(), by.parse().unwrap()),
        other => panic!("{other:?}"),
    });
    keys.collect()
}

/// A function with its mapping.
#[derive(Clone)]
pub(crate) struct Lambda {
    /// When the mapping says `Enabled` first.
    pub(crate) enabled: Duration,
    pub(crate) starting_position: &'static str,
    /// How long it takes to work off each change that waits for it at first.
    pub(crate) backlog: Duration,
    /// When it is disabled.
    pub(crate) off: Vec<Range<Duration>>,
    /// When it is edited.
    pub(crate) edited: Vec<Duration>,
    /// When whatever reaches the function fails.
    pub(crate) failing: Vec<Range<Duration>>,
    pub(crate) settings: esm::Mapping,
    pub(crate) trouble: Trouble,
    pub(crate) tables: Tables,
    /// When the function is deployed anew, and by which definition.
    pub(crate) redeployed: Option<(Duration, Tables)>,
}

impl Lambda {
    /// As the example's template sets it up.
    pub(crate) fn enabled(enabled: Duration) -> Self {
        Self {
            enabled,
            starting_position: "TRIM_HORIZON",
            backlog: Duration::ZERO,
            off: Vec::new(),
            edited: Vec::new(),
            failing: Vec::new(),
            settings: esm::Mapping {
                batch_size: 1000,
                bisect_batch_on_function_error: true,
                maximum_retry_attempts: Some(100),
                maximum_record_age: Some(12 * HOUR),
                timeout: TIMEOUT,
                ..esm::Mapping::default()
            },
            trouble: Trouble::all(0.03),
            tables: TABLES,
            redeployed: None,
        }
    }

    /// The tables as the function that starts at `now` knows them.
    fn tables_at(&self, now: Duration) -> Tables {
        let newer = self.redeployed.filter(|(at, _)| *at <= now);
        newer.map_or(self.tables, |(_, tables)| tables)
    }

    /// When it sees the `nth` change, written at `at`, if ever.
    fn sees(&self, nth: usize, at: Duration) -> Option<Duration> {
        if self.starting_position == "LATEST" && at < self.enabled {
            return None;
        }
        let worked_off = self.enabled + self.backlog * nth as u32;
        let seen = worked_off.max(at + Duration::from_millis(400));
        let off = self.off.iter().find(|off| off.contains(&seen));
        Some(off.map_or(seen, |off| off.end))
    }

    /// As `aws lambda get-event-source-mapping` prints it at `now`.
    pub(crate) fn described(&self, arn: &str, now: Duration) -> Mapping {
        let ends = self.off.iter().flat_map(|off| [off.start, off.end]);
        let changes = ends
            .chain(self.edited.iter().copied())
            .chain([self.enabled]);
        let last = changes.filter(|change| *change <= now).max();
        let on = now >= self.enabled && !self.off.iter().any(|off| off.contains(&now));
        let last = START.plus(last.unwrap_or_default());
        let printed: Value = json!({
            "EventSourceArn": arn,
            "StartingPosition": self.starting_position,
            "State": if on { "Enabled" } else { "Disabled" },
            "LastModified": last.as_millis() as f64 / 1000.0,
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
        });
        serde_json::from_value(printed).unwrap()
    }
}

/// A process of the function.
struct Function {
    handler: Handler<Order>,
    process: Process,
    failing: Vec<Range<Duration>>,
    time: Time,
}

impl Environment for Function {
    fn invoke(
        &self,
        event: Event,
        timeout: Duration,
    ) -> LocalBoxFuture<'static, Result<DynamoDbEventResponse, esm::BoxError>> {
        let now = self.time.elapsed();
        if self.failing.iter().any(|failing| failing.contains(&now)) {
            return Box::pin(ready(Err("the function does not start".into())));
        }
        let handler = self.handler.clone();
        let deadline = Deadline::within(&*self.time.clock(0), timeout);
        Box::pin(async move { Ok(handler.handle(event, deadline).await?) })
    }

    fn kill_after(&self, requests: usize) {
        self.process.kill_after(requests as u64);
    }

    fn killed(&self) -> LocalBoxFuture<'static, ()> {
        let process = self.process.clone();
        Box::pin(async move { process.killed().await })
    }
}

/// A scan that takes its time.
pub(crate) struct Paced {
    scan: ParallelScan,
    pace: Duration,
    time: Time,
    cloud: Cloud,
}

impl Source for Paced {
    fn name(&self) -> &str {
        self.scan.name()
    }

    fn segments(&self) -> u32 {
        self.scan.segments()
    }

    async fn describe(&self) -> Result<Description, SourceError> {
        self.scan.describe().await
    }

    async fn capture_handoff(&self) -> Result<Option<HandoffToken>, SourceError> {
        self.scan.capture_handoff().await
    }

    async fn page(
        &self,
        segment: u32,
        after: Option<&Cursor>,
        limit: Option<NonZeroU32>,
    ) -> Result<Page, SourceError> {
        self.time.sleep(self.pace / 2).await;
        let page = self.scan.page(segment, after, limit).await;
        // What is written now is written after it was read and before it is counted.
        self.time.sleep(self.pace / 2).await;
        page
    }

    async fn close(&self) -> Result<(), SourceError> {
        self.scan.close().await
    }
}

impl Lookup for Paced {
    fn holds_every_item(&self) -> Result<(), SourceError> {
        Ok(())
    }

    async fn look_up(&self, item_id: &ItemId) -> Result<Look, SourceError> {
        let key = murmur_core::item_key(item_id).unwrap();
        let key = serde_json::to_value(key).unwrap();
        let request = json!({ "TableName": TABLE, "Key": key, "ConsistentRead": true });
        let mut answer = self.cloud.at_once("GetItem", request);
        let found = match answer.get_mut("Item") {
            None => LookedUp::Gone,
            Some(item) => LookedUp::Row(Row {
                event_id: item_id.scan_event().as_str().to_owned(),
                item_id: item_id.clone(),
                item: serde_json::from_value(item.take()).unwrap(),
            }),
        };
        Ok(found.into())
    }
}
