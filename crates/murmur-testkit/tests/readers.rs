//! The two readers of records, that of Lambda's payload and that of the Streams API: the same
//! record becomes the same change, and the same of it counts.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::sync::{Arc, Mutex};

use aws_sdk_dynamodbstreams::config::{BehaviorVersion, Credentials, Region};
use murmur_core::{Change, Decoded, Decoder, EventName, Pipeline, Processor, Record, Sum};
use murmur_lambda_ddbstreams::{Event, Handler, LenientEvent};
use murmur_state::{Deadline, MemoryStore};
use murmur_streams::source::Start;
use murmur_streams::{StreamSource, StreamsApi};
use murmur_testkit::wire::{Action, Wire};
use serde_json::{Value, json};

const ARN: &str = "arn:aws:dynamodb:eu-west-1:1:table/orders/stream/2026-01-01T00:00:00.000";

/// Bob's order of 7 becomes one of 5; all else is what `damage` makes of it.
fn record(damage: impl Fn(&mut Value)) -> Value {
    let image = |amount: u32| json!({ "id": { "S": "o-1" }, "customer": { "S": "bob" }, "amount": { "N": amount.to_string() } });
    let mut record = json!({
        "eventID": "e-1", "eventName": "MODIFY", "eventSourceARN": ARN,
        "dynamodb": {
            "ApproximateCreationDateTime": 1_767_225_600, "Keys": { "id": { "S": "o-1" } },
            "NewImage": image(5), "OldImage": image(7), "SequenceNumber": "100000000000000000007",
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        },
    });
    damage(&mut record);
    record
}

fn from_lambda(records: &Value) -> LenientEvent {
    serde_json::from_str(&json!({ "Records": records }).to_string()).unwrap()
}

/// As a trigger hands it over.
async fn from_streams(records: &Value) -> LenientEvent {
    let records = records.clone();
    let wire = Wire::new(move |request| Action::Answer {
        status: 200,
        body: match request.operation.as_str() {
            "GetShardIterator" => json!({ "ShardIterator": "i" }),
            _ => json!({ "Records": records }),
        }
        .to_string(),
    });
    let config = aws_sdk_dynamodbstreams::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("eu-west-1"))
        .credentials_provider(Credentials::new("key", "secret", None, None, "test"))
        .endpoint_url("http://streams.invalid")
        .http_client(wire)
        .build();
    let api = StreamsApi::new(aws_sdk_dynamodbstreams::Client::from_conf(config), ARN);
    let batch = api.read("s", &Start::TrimHorizon.into(), 10).await;
    let mut event = Event::default();
    event.records = batch.unwrap().records;
    event.into()
}

#[derive(Debug, Clone, serde::Deserialize)]
struct Order {
    customer: String,
    amount: i64,
}

/// What becomes of an event.
#[derive(Debug, PartialEq)]
struct Seen {
    /// The changes as they come out of the reader.
    changes: Vec<Change>,
    /// What is reported without a callback, and with one.
    reported: [usize; 2],
    /// What the callback is told of, one line each, without what is wrong in particular.
    rejected: Vec<String>,
    /// What counts, with one.
    total: Option<i64>,
}

/// Its reasons are each reader's own.
fn without_reasons(mut change: Change) -> Change {
    if let EventName::Unreadable(reason) = &mut change.event {
        reason.clear();
    }
    for (_, reason) in &mut change.unreadable_images {
        assert!(!reason.is_empty());
        reason.clear();
    }
    change
}

async fn seen(event: LenientEvent) -> Seen {
    let changes = Arc::new(Mutex::new(Vec::new()));
    let keep = |changes: &Arc<Mutex<Vec<Change>>>| {
        let changes = Arc::clone(changes);
        move |record: &Record| match record {
            Record::Changed(change) => {
                changes
                    .lock()
                    .unwrap()
                    .push(without_reasons(change.clone()));
            }
            Record::Scanned(_) => {}
        }
    };
    let (decoded, taken) = (keep(&changes), keep(&changes));
    let looking = Pipeline::builder("looking")
        .key(|order: &Order| order.customer.clone())
        .value(|order| order.amount)
        .aggregate(Sum::new())
        .every_change()
        .store(MemoryStore::new(Sum::new()))
        .at_least_once();
    let decoder = Decoder::record(move |view| {
        decoded(view.record);
        Ok(Decoded::Skip)
    });
    let looking = Handler::new(
        Processor::with_decoder([looking.unwrap()], decoder)
            .on_rejected(move |rejected| {
                taken(&rejected.record);
                async { Ok(()) }
            })
            .build()
            .unwrap(),
    );
    let answer = looking.handle_lenient(event.clone(), Deadline::NONE).await;
    assert!(answer.unwrap().batch_item_failures.is_empty());

    let mut reported = [0; 2];
    let rejected = Arc::new(Mutex::new(Vec::new()));
    let mut total = None;
    for (taking, reported) in [false, true].into_iter().zip(&mut reported) {
        let rows = MemoryStore::new(Sum::new());
        let totals = Pipeline::builder("totals")
            .key(|order: &Order| order.customer.clone())
            .value(|order| order.amount)
            .aggregate(Sum::new())
            .retract()
            .store(rows.clone())
            .exactly_once();
        let mut builder = Processor::builder([totals.unwrap()]);
        if taking {
            let log = Arc::clone(&rejected);
            builder = builder.on_rejected(move |rejected| {
                let error = rejected.error.to_string();
                let said = error.split(':').next().unwrap_or_default();
                log.lock().unwrap().push(said.to_owned());
                async { Ok(()) }
            });
        }
        let handler = Handler::new(builder.build().unwrap());
        let answer = handler.handle_lenient(event.clone(), Deadline::NONE).await;
        *reported = answer.unwrap().batch_item_failures.len();
        total = rows.rows().first().map(|row| row.value);
    }
    let changes = changes.lock().unwrap().clone();
    let rejected = rejected.lock().unwrap().clone();
    Seen {
        changes,
        reported,
        rejected,
        total,
    }
}

async fn both(damage: impl Fn(&mut Value)) -> Seen {
    let records = json!([record(damage)]);
    let lambda = seen(from_lambda(&records)).await;
    let streams = seen(from_streams(&records).await).await;
    assert_eq!(lambda, streams, "{records}");
    lambda
}

#[tokio::test]
async fn a_whole_record_is_read_alike() {
    let Seen {
        reported,
        rejected,
        total,
        ..
    } = both(|_| {}).await;
    assert_eq!((reported, total), ([0, 0], Some(-2)));
    assert!(rejected.is_empty());
}

#[tokio::test]
async fn an_image_that_cannot_be_read_is_rejected_alone_by_both() {
    for (side, said, left) in [
        ("NewImage", "the new image cannot be read", -7),
        ("OldImage", "the old image cannot be read", 5),
    ] {
        for odd in [
            json!({ "amount": { "N": 5 } }),
            json!({ "amount": { "VECTOR": "1" } }),
            json!({ "amount": {} }),
            json!({ "amount": "5" }),
            json!({ "tags": { "L": [{ "S": "a" }, { "VECTOR": "1" }] } }),
            json!("gone"),
            json!(["gone"]),
        ] {
            let seen = both(|record| record["dynamodb"][side] = odd.clone()).await;
            assert_eq!(seen.changes[0].unreadable_images.len(), 1, "{odd}");
            assert_eq!(seen.changes[0].event, EventName::Modify);
            assert_eq!((seen.reported, seen.total), ([1, 0], Some(left)), "{odd}");
            assert_eq!(seen.rejected, [said], "{odd}");
        }
    }
    let seen = both(|record| {
        record["dynamodb"]["NewImage"] = json!({ "amount": { "N": 5 } });
        record["dynamodb"]["OldImage"] = json!({ "amount": { "N": 5 } });
    })
    .await;
    assert_eq!((seen.reported, seen.total), ([1, 0], None));
    assert_eq!(seen.rejected.len(), 2);
}

#[tokio::test]
async fn a_record_of_which_more_cannot_be_read_is_rejected_by_both() {
    type Damage = fn(&mut Value);
    let damages: [Damage; 6] = [
        |record| record["dynamodb"]["Keys"] = json!({ "id": { "N": 5 } }),
        |record| record["eventID"] = json!(null),
        |record| record["eventName"] = json!(null),
        |record| record["dynamodb"]["ApproximateCreationDateTime"] = json!("now"),
        |record| record["dynamodb"]["StreamViewType"] = json!(1),
        |record| record["userIdentity"] = json!("me"),
    ];
    for damage in damages {
        for image in [
            record(|_| {})["dynamodb"]["NewImage"].clone(),
            json!("gone"),
        ] {
            let records = json!([record(|record| {
                record["dynamodb"]["NewImage"] = image.clone();
                damage(record);
            })]);
            let [lambda, streams] = [
                seen(from_lambda(&records)).await,
                seen(from_streams(&records).await).await,
            ];
            assert_eq!(lambda.rejected, ["the record cannot be read"], "{records}");
            assert_eq!(lambda.rejected, streams.rejected, "{records}");
            assert_eq!((lambda.total, streams.total), (None, None), "{records}");
        }
    }
}

#[tokio::test]
async fn what_no_handler_needs_may_be_strange_to_both() {
    let whole = both(|_| {}).await;
    let seen = both(|record| {
        // Sends the Streams API's reader to the body of the answer.
        record["dynamodb"]["SizeBytes"] = json!("12");
        record["awsRegion"] = json!(1);
        record["eventVersion"] = json!([]);
        record["dynamodb"]["StreamViewType"] = json!("NEWEST");
    })
    .await;
    assert_eq!(seen, whole);
}

#[tokio::test]
async fn an_empty_image_is_told_from_a_missing_one_by_both() {
    for (name, side) in [
        ("INSERT", "NewImage"),
        ("INSERT", "OldImage"),
        ("MODIFY", "NewImage"),
        ("MODIFY", "OldImage"),
        ("REMOVE", "NewImage"),
        ("REMOVE", "OldImage"),
    ] {
        for view in ["NEW_AND_OLD_IMAGES", "NEW_IMAGE", "OLD_IMAGE", "KEYS_ONLY"] {
            for image in [json!({}), json!(null)] {
                // Read by the SDK, and from the answer's body.
                for odd in [json!(null), json!("12")] {
                    both(|record| {
                        record["eventName"] = json!(name);
                        record["dynamodb"][side] = image.clone();
                        record["dynamodb"]["StreamViewType"] = json!(view);
                        record["dynamodb"]["SizeBytes"] = odd.clone();
                    })
                    .await;
                }
            }
        }
    }
    let nothing_before = both(|record| record["dynamodb"]["OldImage"] = json!({})).await;
    assert_eq!(nothing_before.total, Some(5));
    assert_eq!(nothing_before.reported, [0, 0]);
    let missing = both(|record| record["dynamodb"]["OldImage"] = json!(null)).await;
    assert_eq!((missing.total, missing.reported), (None, [1, 1]));
    let no_attributes = both(|record| record["dynamodb"]["NewImage"] = json!({})).await;
    assert_eq!(no_attributes.total, Some(-7));
    assert_eq!(no_attributes.rejected, ["the new image cannot be decoded"]);
}
