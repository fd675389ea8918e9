//! A fault of the set-up is nobody's record's: it is reported, and stops a bootstrap.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use murmur_core::{BoxError, BuildError, Pipeline, Processor, Rejected, Sum};
use murmur_lambda_ddbstreams::{Event, Handler};
use murmur_snapshot::run_record::RunRecord;
use murmur_snapshot::{Bootstrap, BootstrapError};
use murmur_snapshot_ddb::ParallelScan;
use murmur_state::{Causes, Deadline, PipelineName};
use murmur_state_ddb::{Deduper, Int64SumStore, create_dedup_table, create_int64_table};
use murmur_testkit::Dynamo;
use murmur_testkit::wire::{Action, Wire};
use serde_json::json;

#[derive(Clone, serde::Deserialize)]
struct Order {
    customer: String,
    cents: i64,
}

/// A name that no table can have, as a template leaves it that was not filled in.
const BAD_NAME: &str = "bad table ${Totals}";

/// Where a pipeline keeps what.
#[derive(Clone)]
struct Tables {
    client: Client,
    state: String,
    markers: String,
}

impl Tables {
    async fn good(dynamo: &Dynamo, client: Client) -> Self {
        let (state, markers) = (dynamo.table("state"), dynamo.table("markers"));
        create_int64_table(&dynamo.client(), &state).await.unwrap();
        create_dedup_table(&dynamo.client(), &markers)
            .await
            .unwrap();
        Self {
            client,
            state,
            markers,
        }
    }

    fn deduper(&self) -> Deduper {
        Deduper::new(self.client.clone(), &*self.markers)
    }

    fn pipeline(&self, mode: &str) -> Pipeline<Order> {
        let store = Int64SumStore::new(self.client.clone(), &*self.state).markers(&*self.markers);
        let totals = Pipeline::builder("totals")
            .key(|order: &Order| order.customer.clone())
            .value(|order| order.cents)
            .aggregate(Sum::new());
        let built: Result<_, BuildError> = match mode {
            "at least once" => totals.every_change().store(store).at_least_once(),
            "claim first" => totals
                .every_change()
                .store(store)
                .claim_first(self.deduper()),
            "exactly once" => totals.every_change().store(store).exactly_once(),
            _ => totals.store(store).ledger(),
        };
        built.unwrap()
    }
}

const MODES: [&str; 4] = ["at least once", "claim first", "exactly once", "ledger"];

fn event(records: u64) -> Event {
    let record = |number: u64| {
        json!({
            "eventID": format!("e{number}"), "eventName": "INSERT", "awsRegion": "eu-west-1",
            "dynamodb": {
                "Keys": { "id": { "S": format!("o{number}") } },
                "NewImage": {
                    "id": { "S": format!("o{number}") },
                    "customer": { "S": format!("c{}", number % 3) },
                    "cents": { "N": "5" },
                },
                "SequenceNumber": format!("10000000000000000000{number}"), "SizeBytes": 60,
            },
        })
    };
    let records: Vec<_> = (0..records).map(record).collect();
    serde_json::from_value(json!({ "Records": records })).unwrap()
}

/// How many of seven records are reported, and how many the callback takes.
async fn reported_and_handed_over(tables: &Tables, mode: &str) -> (usize, usize) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&taken);
    let handler = Handler::new(
        Processor::builder([tables.pipeline(mode)])
            .on_rejected(move |_: Rejected| {
                counts.fetch_add(1, Ordering::Relaxed);
                std::future::ready(Ok::<(), BoxError>(()))
            })
            .build()
            .unwrap(),
    );
    // The whole batch is reported either way: record by record, or as a failed invocation.
    let reported = match handler.handle(event(7), Deadline::NONE).await {
        Ok(answer) => answer.batch_item_failures.len(),
        Err(_) => 7,
    };
    (reported, taken.load(Ordering::Relaxed))
}

#[tokio::test]
async fn a_badly_named_table_reports_every_record_and_hands_over_none() {
    let dynamo = Dynamo::connect().await;
    for mode in MODES {
        let wire = Wire::calm();
        let good = Tables::good(&dynamo, wire.client(&dynamo)).await;
        let bad_state = Tables {
            state: BAD_NAME.into(),
            ..good.clone()
        };
        let bad_markers = Tables {
            markers: BAD_NAME.into(),
            ..good
        };
        assert_eq!(reported_and_handed_over(&bad_state, mode).await, (7, 0));
        // What is wrong with the set-up is not looked for record by record.
        let sent: usize = wire.counts().values().sum();
        assert!(sent <= 7 + 14, "{mode}: {:?}", wire.counts());
        if mode != "at least once" {
            assert_eq!(
                reported_and_handed_over(&bad_markers, mode).await,
                (7, 0),
                "{mode}"
            );
        }
    }
}

#[tokio::test]
async fn a_write_refused_for_the_set_up_blames_no_record_even_if_it_is_alone() {
    let dynamo = Dynamo::connect().await;
    let refusals = [
        (
            "ValidationException",
            "1 validation error detected: Value 'a b' at 'tableName' failed to satisfy constraint",
        ),
        (
            "ValidationException",
            "One or more parameter values were invalid: Type mismatch for Index Key v Expected: S \
             Actual: N IndexName: by_value",
        ),
        (
            "ValidationException",
            "One or more parameter values are not valid. A value specified for a secondary index \
             key is not supported. The AttributeValue for a key attribute cannot contain an empty \
             string value. IndexName: by_value, IndexKey: v",
        ),
        (
            "ValidationException",
            "Cannot do operations on a non-existent table",
        ),
        (
            "ValidationException",
            "Transactions are not supported on this table",
        ),
        ("SerializationException", "NUMBER_VALUE cannot be converted"),
        ("SomethingNew", "nobody knows"),
    ];
    for mode in MODES {
        for (code, message) in refusals {
            let refused = Wire::new(move |request| match request.operation.as_str() {
                "UpdateItem" | "TransactWriteItems" => Action::error(400, code, message),
                _ => Action::Pass,
            });
            let tables = Tables::good(&dynamo, refused.client(&dynamo)).await;
            let found = reported_and_handed_over(&tables, mode).await;
            assert_eq!(found, (7, 0), "{mode}: {message}");
            // Each of three keys at most once: no bisection, no record by record.
            let writes = refused.count("UpdateItem") + refused.count("TransactWriteItems");
            assert!(writes <= 3, "{mode}: {writes} writes for {message}");
        }
    }
}

#[tokio::test]
async fn a_bootstrap_into_a_badly_named_table_stops_and_stays_unfinished() {
    let dynamo = Dynamo::connect().await;
    let orders = dynamo.table("orders");
    create_dedup_table(&dynamo.client(), &orders).await.unwrap();
    for n in 0..9 {
        let put = dynamo.client().put_item().table_name(&orders);
        let put = put.item("pk", AttributeValue::S(format!("o{n}")));
        let put = put.item("customer", AttributeValue::S("c".into()));
        let put = put.item("cents", AttributeValue::N("5".into()));
        put.send().await.unwrap();
    }
    for mode in MODES {
        for callback in [false, true] {
            let good = Tables::good(&dynamo, dynamo.client()).await;
            let records = good.deduper();
            let tables = Tables {
                state: BAD_NAME.into(),
                ..good
            };
            let source = ParallelScan::builder(dynamo.client(), &orders);
            let source = source.build().unwrap();
            let mut processor = Processor::builder([tables.pipeline(mode)]);
            let taken = Arc::new(Mutex::new(Vec::new()));
            if callback {
                let list = Arc::clone(&taken);
                processor = processor.on_rejected(move |rejected: Rejected| {
                    list.lock().unwrap().push(rejected);
                    std::future::ready(Ok::<(), BoxError>(()))
                });
            }
            let mut run = Bootstrap::builder(processor.build().unwrap(), source);
            if mode == "at least once" {
                run = run.checkpoints(records.clone());
            }
            let error = run.build().unwrap().run().await.unwrap_err();
            let said = Causes(&error).to_string();
            assert!(said.contains(BAD_NAME), "{mode}: {said}");
            assert!(!error.is_retryable(), "{mode}: {said}");
            assert!(taken.lock().unwrap().is_empty(), "{mode}");
            match error {
                // Seen when the pipelines are bound, before anything is kept of the run.
                BootstrapError::State { .. } => assert!(mode != "at least once", "{mode}"),
                _ => {
                    let name = PipelineName::new("totals").unwrap();
                    let record = RunRecord::load(&records, &name, &orders).await.unwrap();
                    assert!(record.unwrap().finished_at.is_none(), "{mode}");
                }
            }
        }
    }
}
