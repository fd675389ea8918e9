//! Records that cannot be read, from the invocation's payload to the answer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lambda_runtime::{Context, LambdaEvent};
use murmur_core::{
    Definition, EventName, Pipeline, Processor, ProcessorBuilder, Record, RecordError, Rejected,
    Sum, Window,
};
use murmur_lambda_ddbstreams::{DynamoDbEventResponse, Handler, InvocationError, LenientEvent};
use murmur_state::{MemoryStore, Timestamp};
use serde_json::{Value, json};

use crate::support::{Order, Scripted, Seen, clock, insert, number, reported, totals};

/// As `lambda_runtime` does it: deserializes with the path of the error.
async fn invoke(
    handler: &Handler<Order>,
    records: impl Into<Value>,
) -> Result<DynamoDbEventResponse, InvocationError> {
    let payload = json!({ "Records": records.into() }).to_string();
    let mut json = serde_json::Deserializer::from_slice(payload.as_bytes());
    let event: LenientEvent = serde_path_to_error::deserialize(&mut json).unwrap();
    let event = LambdaEvent::new(event, Context::default());
    handler.invoke(event).await
}

/// Takes the rejected records.
fn taking(builder: ProcessorBuilder<Order>) -> (Handler<Order>, Arc<Mutex<Vec<Rejected>>>) {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&taken);
    let builder = builder.on_rejected(move |rejected| {
        kept.lock().unwrap().push(rejected);
        async { Ok(()) }
    });
    (Handler::new(builder.build().unwrap()), taken)
}

/// Three records, of which `odd` changes the second.
fn batch(odd: impl Fn(&mut Value)) -> [Value; 3] {
    let [one, mut two, three] = [
        insert(1, "alice", 5),
        insert(2, "bob", 7),
        insert(3, "alice", 1),
    ];
    odd(&mut two);
    [one, two, three]
}

type Odd = fn(&mut Value);

const ODD: [(&str, Odd); 7] = [
    ("eventID", |record| record["eventID"] = json!(null)),
    ("eventName", |record| record["eventName"] = json!(null)),
    ("ApproximateCreationDateTime", |record| {
        record["dynamodb"]["ApproximateCreationDateTime"] = json!("2026-01-01T00:00:00.000Z");
    }),
    ("meta", |record| {
        record["dynamodb"]["NewImage"]["meta"] = json!({});
    }),
    ("amount_cents", |record| {
        record["dynamodb"]["NewImage"]["amount_cents"] = json!({ "N": 7 });
    }),
    ("no item", |record| record["dynamodb"]["Keys"] = json!(null)),
    ("no item", |record| record["dynamodb"]["Keys"] = json!({})),
];

#[tokio::test]
async fn a_record_that_cannot_be_read_is_rejected_alone() {
    for (name, odd) in ODD {
        let (store, seen) = (Scripted::new(Sum::new()), Seen::default());
        let builder = Processor::builder([totals(&store)]).recorder(seen.clone());
        let handler = Handler::new(builder.build().unwrap());
        let answer = invoke(&handler, batch(odd)).await;
        assert_eq!(reported(&answer.unwrap()), [number(2)], "{name}");
        let said = seen.errors().join("\n");
        assert!(said.contains(name), "{name}: {said}");
        let found = (store.total("alice"), store.total("bob"));
        assert_eq!(found, (Some(6), None), "{name}");

        let store = Scripted::new(Sum::new());
        let (handler, taken) = taking(Processor::builder([totals(&store)]));
        let answer = invoke(&handler, batch(odd)).await.unwrap();
        assert_eq!(reported(&answer), [""; 0], "{name}");
        let taken = taken.lock().unwrap();
        assert_eq!(taken.len(), 1, "{name}");
        let sequence = taken[0].record.sequence_number().unwrap();
        assert_eq!(sequence.as_str(), number(2));
    }
}

#[tokio::test]
async fn without_a_sequence_number_the_callback_decides_or_the_batch_fails() {
    let nothing = || batch(|record| *record = json!({ "eventID": "e2" }));
    let store = Scripted::new(Sum::new());
    let handler = Handler::new(Processor::new([totals(&store)]).unwrap());
    let InvocationError::NoSequenceNumber {
        event_id, source, ..
    } = invoke(&handler, nothing()).await.unwrap_err()
    else {
        panic!("another error");
    };
    assert_eq!(event_id, "e2");
    assert!(matches!(
        source.as_deref(),
        Some(RecordError::Unreadable { .. })
    ));

    let store = Scripted::new(Sum::new());
    let (handler, taken) = taking(Processor::builder([totals(&store)]));
    let answer = invoke(&handler, nothing()).await.unwrap();
    assert_eq!(reported(&answer), [""; 0]);
    let taken = taken.lock().unwrap();
    let Record::Changed(change) = &taken[0].record else {
        panic!("a change");
    };
    assert!(matches!(change.event, EventName::Unreadable(_)));
    assert_eq!(store.total("alice"), Some(6), "its neighbours count");
}

#[tokio::test]
async fn in_a_ledger_an_item_whose_change_cannot_be_read_contributes_nothing() {
    let rows = MemoryStore::new(Sum::new());
    let totals = Pipeline::builder("totals")
        .key(|order: &Order| order.customer.clone())
        .value(|order| order.amount_cents)
        .aggregate(Sum::new())
        .store(rows.clone())
        .ledger()
        .unwrap();
    let (handler, _) = taking(Processor::builder([totals]));
    let mut later = insert(2, "alice", 9);
    later["eventName"] = "MODIFY".into();
    later["dynamodb"]["Keys"] = insert(1, "alice", 5)["dynamodb"]["Keys"].clone();
    later["dynamodb"]["NewImage"]["meta"] = json!({});
    invoke(&handler, [insert(1, "alice", 5), insert(3, "bob", 1)])
        .await
        .unwrap();
    invoke(&handler, [later]).await.unwrap();
    let values: Vec<_> = rows.rows().into_iter().map(|row| row.value).collect();
    assert_eq!(values.iter().sum::<i64>(), 1);
}

fn retracting(rows: &MemoryStore<Sum>) -> Pipeline<Order> {
    Pipeline::builder("totals")
        .key(|order: &Order| order.customer.clone())
        .value(|order| order.amount_cents)
        .aggregate(Sum::new())
        .retract()
        .store(rows.clone())
        .exactly_once()
        .unwrap()
}

fn total(rows: &MemoryStore<Sum>, customer: &str) -> Option<i64> {
    let rows = rows.rows().into_iter();
    let mut of_customer = rows.filter(|row| row.key.entity() == customer);
    of_customer.next().map(|row| row.value)
}

#[tokio::test]
async fn the_image_that_can_be_read_counts_once_the_callback_took_the_other() {
    let images: [Odd; 4] = [
        |image| image["amount_cents"] = json!({ "N": 7 }),
        |image| image["amount_cents"] = json!({ "VECTOR": "7" }),
        |image| *image = json!("gone"),
        // A record that a decoder refuses is handled in the same way.
        |image| *image = json!({ "customer": { "BOOL": true } }),
    ];
    for odd in images {
        for (name, side, left) in [
            ("MODIFY", "NewImage", (Some(0), None)),
            ("MODIFY", "OldImage", (Some(5), Some(7))),
            ("REMOVE", "NewImage", (Some(0), None)),
            ("REMOVE", "OldImage", (Some(5), None)),
        ] {
            let rows = MemoryStore::new(Sum::new());
            let (handler, taken) = taking(Processor::builder([retracting(&rows)]));
            let first = insert(1, "alice", 5);
            let mut second = insert(2, "bob", 7);
            second["eventName"] = name.into();
            second["dynamodb"]["OldImage"] = first["dynamodb"]["NewImage"].clone();
            odd(&mut second["dynamodb"][side]);
            // Twice, and it counts once.
            for records in [vec![first, second.clone()], vec![second.clone()]] {
                let answer = invoke(&handler, records).await.unwrap();
                assert_eq!(reported(&answer), [""; 0], "{second}");
            }
            let found = (total(&rows, "alice"), total(&rows, "bob"));
            // A removal with a new image: that image does not count.
            assert_eq!(found, left, "{second}");
            let errors: Vec<_> = {
                let taken = taken.lock().unwrap();
                taken.iter().map(|taken| taken.error.to_string()).collect()
            };
            assert_eq!(errors.len(), 2, "{second}");
            let error = &errors[0];
            let named = if side == "NewImage" { "new" } else { "old" };
            assert!(error.contains(&format!("the {named} image")), "{error}");

            let rows = MemoryStore::new(Sum::new());
            let handler = Handler::new(Processor::new([retracting(&rows)]).unwrap());
            let answer = invoke(&handler, [second.clone()]).await.unwrap();
            assert_eq!(reported(&answer), [number(2)], "{second}");
            assert!(rows.rows().is_empty(), "{second}");
        }
    }
}

fn daily() -> Definition<Order, Sum> {
    Pipeline::builder("daily")
        .key(|order: &Order| order.customer.clone())
        .value(|order| order.amount_cents)
        .aggregate(Sum::new())
        .window(Window::daily().retention_days(3), |_| {
            Timestamp::from_secs(1_767_225_600)
        })
}

#[tokio::test]
async fn a_creation_time_in_milliseconds_drops_nothing() {
    let clock = clock();
    clock.step(Timestamp::from_secs(1_767_225_700));
    for created in [
        json!(1_767_225_600_123_i64),
        json!(1_767_225_600_123_456_i64),
        json!(1_767_225_600.838),
    ] {
        let (rows, seen) = (MemoryStore::new(Sum::new()), Seen::default());
        let pipeline = daily().every_change().store(rows.clone()).exactly_once();
        let handler = Handler::new(
            Processor::builder([pipeline.unwrap()])
                .clock(Arc::new(clock.clone()))
                .recorder(seen.clone())
                .build()
                .unwrap(),
        );
        let mut record = insert(1, "alice", 700);
        record["dynamodb"]["ApproximateCreationDateTime"] = created.clone();
        for _ in 0..2 {
            let answer = invoke(&handler, [record.clone()]).await.unwrap();
            assert_eq!(reported(&answer), [""; 0]);
            // However long it is ago by then.
            clock.advance(Duration::from_secs(60));
        }
        assert_eq!(rows.rows()[0].value, 700, "{created}");
        assert_eq!(seen.count("daily:expired"), 0);
        let impossible = if created.is_i64() { 2 } else { 0 };
        assert_eq!(seen.count("daily:impossible_time"), impossible);
    }
}

#[tokio::test]
async fn an_old_image_of_nothing_takes_nothing_back() {
    let store = Scripted::new(Sum::new());
    let retracting = Pipeline::builder("totals")
        .key(|order: &Order| order.customer.clone())
        .value(|order| order.amount_cents)
        .aggregate(Sum::new())
        .retract()
        .store(store.clone())
        .at_least_once()
        .unwrap();
    let handler = Handler::new(Processor::new([retracting]).unwrap());
    let odd = |name: &str, side: &str, view: &str| {
        let mut record = insert(1, "alice", 5);
        record["eventName"] = name.into();
        record["dynamodb"]["StreamViewType"] = view.into();
        record["dynamodb"]["OldImage"] = record["dynamodb"]["NewImage"].clone();
        record["dynamodb"][side] = json!({});
        record
    };
    let both = "NEW_AND_OLD_IMAGES";
    let answer = invoke(&handler, [odd("MODIFY", "OldImage", both)]).await;
    assert_eq!(reported(&answer.unwrap()), [""; 0]);
    assert_eq!(store.total("alice"), Some(5));

    // In any other place an item without attributes cannot be decoded, which is the record's fault.
    for (name, side) in [
        ("MODIFY", "NewImage"),
        ("INSERT", "NewImage"),
        ("REMOVE", "OldImage"),
    ] {
        let (handler, taken) = taking(Processor::builder([totals(&store)]));
        let answer = invoke(&handler, [odd(name, side, both)]).await.unwrap();
        assert_eq!(reported(&answer), [""; 0], "{name}, {side}");
        assert_eq!(taken.lock().unwrap().len(), 1, "{name}, {side}");
    }

    // A stream that does not carry it is set up wrongly, which is reported and not passed to the
    // callback.
    let (handler, taken) = taking(Processor::builder([totals(&store)]));
    let answer = invoke(&handler, [odd("MODIFY", "OldImage", "NEW_IMAGE")]).await;
    assert_eq!(reported(&answer.unwrap()), [number(1)]);
    assert!(taken.lock().unwrap().is_empty());
}
