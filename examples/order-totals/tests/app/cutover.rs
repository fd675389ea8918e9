//! The bootstrap killed by SIGKILL at every kind of request, while the table is written and live
//! reads its stream through a connection that fails.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fmt;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::Client;
use murmur_core::{Pipeline, Processor};
use murmur_lambda_ddbstreams::{DynamoDbEventResponse, Event, Handler};
use murmur_snapshot::Bootstrap;
use murmur_snapshot_ddb::ParallelScan;
use murmur_state::HandlerError;
use murmur_state::time::Random;
use murmur_streams::{StreamsApi, Trigger};
use murmur_testkit::gate::{Gate, Hold};
use murmur_testkit::wire::{Action, Wire};
use order_totals::{Order, Tables};
use tokio::process::Command;
use tokio::sync::oneshot;

use crate::killed::claiming;
use crate::live::{Changes, Sums, Writer, app_with_orders, below};
use crate::support::App;

const TIMEOUT: Duration = Duration::from_secs(60);
const ORDERS: u64 = 1500;

/// Where the bootstrap dies: within a page (read or written), within the write of a checkpoint, and
/// within a transaction, before and after the server acted.
const DEATHS: [(&str, u64); 4] = [
    ("Scan", 3),
    ("TransactWriteItems", 4),
    // The first of these are the run's records.
    ("PutItem", 9),
    ("TransactWriteItems", 9),
];

/// What a run met, and what came of it.
struct Report {
    kills: BTreeMap<String, u32>,
    during: Changes,
    redelivered: u64,
    faults: BTreeMap<&'static str, u64>,
    found: Sums,
    wanted: Sums,
    took: Duration,
}

impl Report {
    fn wrong(&self) -> usize {
        let differs = |(customer, sums): &(&&str, &(i64, i64))| self.found[**customer] != **sums;
        self.wanted.iter().filter(differs).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kills,
            during,
            redelivered,
            faults,
            took,
            ..
        } = self;
        let (wrong, all) = (self.wrong(), self.wanted.len());
        write!(
            f,
            "{wrong} of {all} customers wrong; killed {kills:?}; {during:?} from before the scan \
             to after it; {redelivered} batches redelivered; faults {faults:?}; {took:?}"
        )
    }
}

/// What is given to every mode.
struct Mode {
    bootstrap: fn(&App) -> Command,
    pipelines: fn(&Tables, &Client) -> [Pipeline<Order>; 2],
}

/// A connection that loses answers, throttles, and breaks, now and then.
struct Weather {
    wire: Wire,
    met: Arc<[AtomicU64; 3]>,
}

const FAULTS: [&str; 3] = ["lost answers", "throttles", "broken connections"];

impl Weather {
    fn new() -> Self {
        let met: Arc<[AtomicU64; 3]> = Arc::default();
        let seen = Arc::clone(&met);
        let wire = Wire::new(move |request| {
            let writes = ["TransactWriteItems", "UpdateItem", "PutItem", "DeleteItem"];
            if !writes.contains(&request.operation.as_str()) {
                return Action::Pass;
            }
            let (fault, action) = match request.nth % 23 {
                5 => (0, Action::lose_answer()),
                11 => (1, Action::error(400, "ThrottlingException", "slow down")),
                17 => (2, Action::DropBefore),
                _ => return Action::Pass,
            };
            seen[fault].fetch_add(1, Ordering::Relaxed);
            action
        });
        Self { wire, met }
    }

    fn faults(&self) -> BTreeMap<&'static str, u64> {
        let met = self.met.iter().map(|met| met.load(Ordering::Relaxed));
        FAULTS.into_iter().zip(met).collect()
    }
}

/// Bootstraps a table that is written all the while, with live beside it.
async fn play(seed: u64, mode: &Mode) -> Report {
    let begun = Instant::now();
    let random = Random::seeded(seed);
    let (app, orders) = app_with_orders(seed, ORDERS).await;
    let gate = Gate::to(&app.dynamo).await;
    let weather = Weather::new();
    let redelivered = Arc::new(AtomicU64::new(0));

    let client = weather.wire.client(&app.dynamo);
    let processor = Processor::new((mode.pipelines)(&app.tables, &client)).unwrap();
    let handler = Handler::new(processor);
    let (again, calls) = (Arc::clone(&redelivered), AtomicU64::new(0));
    let live = move |event: Event| {
        // One batch in seven is done, and nobody hears of it.
        let lost = calls.fetch_add(1, Ordering::Relaxed) % 7 == 3;
        let (handler, again) = (handler.clone(), Arc::clone(&again));
        async move {
            let answer: DynamoDbEventResponse = handler.call(event).await?;
            if lost {
                again.fetch_add(1, Ordering::Relaxed);
                return Err(HandlerError::from("the answer was lost"));
            }
            Ok(answer)
        }
    };
    let described = app
        .client
        .describe_table()
        .table_name(&app.orders)
        .send()
        .await;
    let stream = described.unwrap().table.unwrap().latest_stream_arn.unwrap();
    let mut trigger = Trigger::builder(StreamsApi::new(app.dynamo.streams(), stream), live)
        .batch_size(30)
        .poll_interval(Duration::from_millis(50))
        .build()
        .unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let live = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        trigger.run(stopped).await.unwrap();
    });

    let writer = Writer::start(&app, seed, orders);
    let start = || {
        let mut command = (mode.bootstrap)(&app);
        let command = command
            .envs(gate.env())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.kill_on_drop(true).spawn().unwrap()
    };
    let mut kills: BTreeMap<String, u32> = BTreeMap::new();
    for (operation, nth) in DEATHS {
        for side in [Hold::Before, Hold::After] {
            let mut process = start();
            tokio::select! {
                held = gate.hold(Some(operation), nth - below(&random, 2), side) => {
                    process.kill().await.unwrap();
                    *kills.entry(format!("{side:?} {held}")).or_default() += 1;
                }
                // It came to its end without such a request.
                ended = process.wait() => assert!(ended.unwrap().code().is_some()),
                () = tokio::time::sleep(TIMEOUT) => panic!("no {operation}: {:?}", gate.counts()),
            }
        }
    }
    let status = tokio::time::timeout(TIMEOUT, start().wait()).await;
    let status = status.expect("it ends").unwrap().code();
    // It is finished, or was already; a test process that says so has panicked.
    assert!(matches!(status, Some(0 | 1 | 101)), "{status:?}");
    let during = writer.stop().await;
    let wanted = app.recount().await;
    // Until nothing changes any more, or all is right.
    let (mut found, mut since) = (app.sums().await, Instant::now());
    while found != wanted && since.elapsed() < Duration::from_secs(4) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = app.sums().await;
        if now != found {
            (found, since) = (now, Instant::now());
        }
    }
    drop(stop);
    live.await.unwrap();
    Report {
        kills,
        during,
        redelivered: redelivered.load(Ordering::Relaxed),
        faults: weather.faults(),
        found,
        wanted,
        took: begun.elapsed(),
    }
}

const ARGUMENTS: [&str; 6] = ["--segments", "4", "--page-size", "60", "--concurrency", "3"];

#[tokio::test(flavor = "multi_thread")]
async fn a_bootstrap_killed_anywhere_beside_live_leaves_what_the_table_holds() {
    let ledger = Mode {
        bootstrap: |app| {
            let mut command = app.command(env!("CARGO_BIN_EXE_bootstrap"));
            command.args(["--table", &app.orders]).args(ARGUMENTS);
            command
        },
        pipelines: |tables, client| tables.pipelines(client).unwrap(),
    };
    let report = play(1, &ledger).await;
    println!("ledger: {report}");
    assert_eq!(report.found, report.wanted);
    for operation in ["Scan", "TransactWriteItems", "PutItem"] {
        for side in ["Before", "After"] {
            let at = format!("{side} {operation}");
            assert!(report.kills.contains_key(&at), "no kill {at}: {report}");
        }
    }
    let Changes {
        inserts,
        amounts,
        moves,
        deletes,
    } = report.during;
    let kinds = [inserts, amounts, moves, deletes];
    assert!(kinds.iter().all(|kind| *kind > 10), "{report}");
    assert!(report.redelivered > 0, "{report}");
    assert!(report.faults.values().all(|met| *met > 0), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_in_claim_first_counts_some_orders_twice_or_not_at_all() {
    let claim_first = Mode {
        bootstrap: |app| {
            let mut command = app.command(std::env::current_exe().unwrap().to_str().unwrap());
            command.args(["--ignored", "--exact", "cutover::claim_first_bootstrap"]);
            command.env("ORDERS_TABLE", &app.orders);
            command
        },
        pipelines: claiming,
    };
    let report = play(1, &claim_first).await;
    println!("claim first: {report}");
    assert!(report.wrong() > 0, "{report}");
}

/// Not a test: the bootstrap in the claim-first mode, as a process of the test above.
#[tokio::test]
#[ignore = "a process that the comparison starts by itself"]
async fn claim_first_bootstrap() {
    let Ok(orders) = std::env::var("ORDERS_TABLE") else {
        return;
    };
    let config = order_totals::aws_config().await;
    let client = Client::new(&config);
    let pipelines = claiming(&Tables::from_env().unwrap(), &client);
    let source = ParallelScan::builder(client, orders)
        .streams(aws_sdk_dynamodbstreams::Client::new(&config))
        .segments(4)
        .page_size(60);
    let bootstrap = Bootstrap::builder(Processor::new(pipelines).unwrap(), source.build().unwrap());
    bootstrap
        .concurrency(3)
        .build()
        .unwrap()
        .run()
        .await
        .unwrap();
}
