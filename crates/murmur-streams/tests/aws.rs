//! The Streams API as a source: against a server, and against canned answers on the wire.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
    ScalarAttributeType, StreamSpecification, StreamViewType as ViewType,
};
use aws_sdk_dynamodbstreams::config::retry::RetryConfig;
use aws_sdk_dynamodbstreams::config::{BehaviorVersion, Credentials, Region};
use futures::future::join_all;
use murmur_state::{HandlerError, ManualClock, Random, SequenceNumber, Timestamp, UNREADABLE};
use murmur_streams::source::{Cursor, ReadBatch, Start};
use murmur_streams::{
    DynamoDbEventResponse, Event, EventRecord, OperationType, StreamError, StreamSource,
    StreamStatus, StreamViewType, StreamsApi, Trigger, describe_stream, describe_stream_info,
    report_failures,
};
use murmur_testkit::Dynamo;
use murmur_testkit::time::Time;
use murmur_testkit::wire::{Action, Request, Wire};
use proptest::prelude::*;
use serde_json::{Value, json};

// ---- Against a server: embedded, or DynamoDB Local ----

/// Creates a table with a stream. Returns its name and the stream's ARN.
async fn table(dynamo: &Dynamo) -> (String, String) {
    let name = dynamo.table("streams");
    let client = dynamo.client();
    let id = AttributeDefinition::builder().attribute_name("id");
    let key = KeySchemaElement::builder()
        .attribute_name("id")
        .key_type(KeyType::Hash);
    let stream = StreamSpecification::builder()
        .stream_enabled(true)
        .stream_view_type(ViewType::NewAndOldImages);
    let created = client
        .create_table()
        .table_name(&name)
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(id.attribute_type(ScalarAttributeType::S).build().unwrap())
        .key_schema(key.build().unwrap())
        .stream_specification(stream.build().unwrap())
        .send()
        .await
        .unwrap();
    (
        name,
        created
            .table_description
            .unwrap()
            .latest_stream_arn
            .unwrap(),
    )
}

async fn put(dynamo: &Dynamo, table: &str, id: &str, count: usize) {
    let s = |text: &str| AttributeValue::S(text.to_owned());
    let client = dynamo.client();
    let request = client.put_item().table_name(table).item("id", s(id));
    request
        .item("n", AttributeValue::N(count.to_string()))
        .send()
        .await
        .unwrap();
}

fn text(record: &EventRecord, image: &str, name: &str) -> Option<String> {
    let image = if image == "new" {
        &record.change.new_image
    } else {
        &record.change.old_image
    };
    match image.get(name)? {
        murmur_streams::AttributeValue::N(text) | murmur_streams::AttributeValue::S(text) => {
            Some(text.clone())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_table_is_rebuilt_from_its_stream_while_the_handler_fails_now_and_then() {
    let dynamo = Dynamo::connect().await;
    let (name, arn) = table(&dynamo).await;
    let mut expected = BTreeMap::new();
    for write in 0..60 {
        let id = format!("item-{}", write % 13);
        if write % 7 == 3 {
            let s = AttributeValue::S(id.clone());
            dynamo
                .client()
                .delete_item()
                .table_name(&name)
                .key("id", s)
                .send()
                .await
                .unwrap();
            expected.remove(&id);
        } else {
            put(&dynamo, &name, &id, write).await;
            expected.insert(id, write.to_string());
        }
    }
    let rebuilt: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
    let (table, calls) = (Arc::clone(&rebuilt), Arc::new(Mutex::new(0)));
    let handler = move |event: Event| {
        let mut calls = calls.lock().unwrap();
        *calls += 1;
        let done = if *calls % 3 == 1 {
            event.records.len() / 2
        } else {
            event.records.len()
        };
        let mut table = table.lock().unwrap();
        for record in &event.records[..done] {
            let murmur_streams::AttributeValue::S(id) = &record.change.keys["id"] else {
                panic!()
            };
            assert_eq!(text(record, "old", "n"), table.get(id).cloned());
            match text(record, "new", "n") {
                Some(count) => table.insert(id.clone(), count),
                None => table.remove(id),
            };
        }
        let failed = event
            .records
            .get(done)
            .map(|r| r.change.sequence_number.clone().unwrap());
        async move { Ok::<_, HandlerError>(report_failures(failed)) }
    };
    let source = StreamsApi::new(dynamo.streams(), &arn);
    let mut trigger = Trigger::builder(source, handler)
        .batch_size(8)
        .clock(Arc::new(ManualClock::new(Timestamp::from_secs(1))))
        .build()
        .unwrap();
    let summary = trigger.drain().await.unwrap();
    assert!(summary.retries > 0 && summary.records >= 55, "{summary:?}");
    assert_eq!(*rebuilt.lock().unwrap(), expected);

    put(&dynamo, &name, "later", 1).await;
    assert_eq!(trigger.drain().await.unwrap().records, 1);
    assert_eq!(rebuilt.lock().unwrap()["later"], "1");
}

#[tokio::test]
async fn records_of_a_server_look_as_lambdas_do() {
    let dynamo = Dynamo::connect().await;
    let (name, arn) = table(&dynamo).await;
    put(&dynamo, &name, "a", 1).await;
    put(&dynamo, &name, "a", 2).await;
    put(&dynamo, &name, "b", 3).await;
    let source = StreamsApi::new(dynamo.streams(), &arn);
    let shard = source.describe().await.unwrap().shards.remove(0);
    let read = async |from: &Cursor| source.read(&shard.id, from, 1000).await.unwrap().records;
    let all = read(&Start::TrimHorizon.into()).await;
    let names: Vec<_> = all
        .iter()
        .map(|record| record.event_name.as_str())
        .collect();
    assert_eq!(names, ["INSERT", "MODIFY", "INSERT"]);
    for record in &all {
        assert!(!record.event_id.is_empty() && !record.aws_region.is_empty());
        assert_eq!(record.event_source.as_deref(), Some("aws:dynamodb"));
        assert_eq!(record.event_source_arn.as_deref(), Some(arn.as_str()));
        assert!(record.event_version.is_some() && record.change.size_bytes > 0);
        assert_eq!(
            record.change.stream_view_type,
            Some(StreamViewType::NewAndOldImages)
        );
        assert!(record.change.approximate_creation_date_time.timestamp() > 1_600_000_000);
    }
    assert_eq!(text(&all[1], "old", "n").as_deref(), Some("1"));
    assert_eq!(text(&all[1], "new", "n").as_deref(), Some("2"));

    let second = SequenceNumber::new(all[1].change.sequence_number.clone().unwrap()).unwrap();
    assert_eq!(read(&Start::At(second.clone()).into()).await, all[1..]);
    assert_eq!(read(&Start::After(second).into()).await, all[2..]);
    let latest = source
        .read(&shard.id, &Start::Latest.into(), 10)
        .await
        .unwrap();
    assert_eq!(latest.records, []);
    put(&dynamo, &name, "c", 4).await;
    assert_eq!(read(&latest.next.unwrap()).await.len(), 1);
}

#[tokio::test]
async fn a_server_describes_its_stream() {
    let dynamo = Dynamo::connect().await;
    let (name, arn) = table(&dynamo).await;
    put(&dynamo, &name, "a", 1).await;
    let described = describe_stream(&dynamo.streams(), &arn).await.unwrap();
    assert_eq!(
        (&described.info.stream_arn, &described.info.table_name),
        (&arn, &name)
    );
    assert_eq!(
        described.info.stream_view_type,
        StreamViewType::NewAndOldImages
    );
    assert_eq!(described.info.stream_status, StreamStatus::Enabled);
    assert!(!described.info.stream_label.is_empty() && described.info.creation_time.is_some());
    let [shard] = &described.shards[..] else {
        panic!("{described:?}")
    };
    assert!(shard.first.is_some() && shard.parent.is_none());
    // Some servers show an ending sequence number for a shard that takes records.
    assert!(!described.is_closed(shard));
    described.ensure_enabled().unwrap();

    let gone = arn.replace(&name, "no-such-table");
    let error = describe_stream(&dynamo.streams(), &gone).await.unwrap_err();
    let missing = matches!(&error, StreamError::UnknownStream { arn, .. } if *arn == gone);
    assert!(missing, "{error:?}");
}

// ---- On the wire ----

const ARN: &str = "arn:aws:dynamodb:eu-west-1:1:table/orders/stream/2026-01-01T00:00:00.000";

fn client(wire: &Wire) -> aws_sdk_dynamodbstreams::Client {
    let config = aws_sdk_dynamodbstreams::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("eu-west-1"))
        .credentials_provider(Credentials::new("key", "secret", None, None, "test"))
        .endpoint_url("http://streams.invalid")
        .retry_config(RetryConfig::disabled())
        .http_client(wire.clone());
    aws_sdk_dynamodbstreams::Client::from_conf(config.build())
}

fn wire(answer: impl Fn(&Request) -> Action + Send + Sync + 'static) -> (Wire, StreamsApi) {
    let wire = Wire::new(answer);
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(0)));
    let api = StreamsApi::new(client(&wire), ARN).with_clock(clock);
    (wire, api)
}

fn ok(body: Value) -> Action {
    Action::Answer {
        status: 200,
        body: body.to_string(),
    }
}

fn refused(code: &str) -> Action {
    Action::error(400, code, "no")
}

fn page(shards: Value, last: Option<&str>) -> Action {
    let mut description = json!({
        "StreamArn": ARN, "TableName": "orders", "StreamLabel": "label",
        "StreamStatus": "ENABLED", "StreamViewType": "NEW_AND_OLD_IMAGES",
        "CreationRequestDateTime": 1700000000.5, "Shards": shards,
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
    });
    if let Some(last) = last {
        description["LastEvaluatedShardId"] = json!(last);
    }
    ok(json!({ "StreamDescription": description }))
}

/// A disabled stream, whose shards end without children.
fn disabled(shards: Value) -> Action {
    ok(json!({ "StreamDescription": {
        "StreamArn": ARN, "TableName": "orders", "StreamStatus": "DISABLED",
        "StreamViewType": "NEW_AND_OLD_IMAGES", "Shards": shards } }))
}

fn iterator_or(records: impl Fn(&str, &Request) -> Action) -> impl Fn(&Request) -> Action {
    move |request| match request.operation.as_str() {
        "GetShardIterator" => {
            let kind = request.body["ShardIteratorType"].as_str().unwrap();
            let number = request.body["SequenceNumber"].as_str().unwrap_or_default();
            ok(json!({ "ShardIterator": format!("{kind}{number}") }))
        }
        "GetRecords" => records(request.body["ShardIterator"].as_str().unwrap(), request),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn all_pages_of_a_description_are_read_at_ten_a_second_and_shards_come_once() {
    let number = |n: u32| format!("{n:021}");
    let shard = move |id: &str, parent: Option<&str>, ending: Option<u32>| {
        json!({ "ShardId": id, "ParentShardId": parent, "SequenceNumberRange": {
            "StartingSequenceNumber": number(1), "EndingSequenceNumber": ending.map(number) } })
    };
    let (wire, _) = wire(
        move |request| match request.body["ExclusiveStartShardId"].as_str() {
            None => page(json!([shard("s1", None, Some(5))]), Some("s1")),
            Some("s1") => page(json!([]), Some("s1b")),
            Some("s1b") => {
                let shards = [shard("s1", None, Some(5)), shard("s2", Some("s1"), None)];
                page(json!(shards), Some("s2"))
            }
            Some(_) => page(json!([shard("s3", Some("gone"), Some(9))]), None),
        },
    );
    let clock = ManualClock::new(Timestamp::from_secs(0));
    let api = StreamsApi::new(client(&wire), ARN).with_clock(Arc::new(clock.clone()));
    let described = api.describe().await.unwrap();
    assert_eq!(wire.count("DescribeStream"), 4);
    assert_eq!(
        murmur_state::Clock::monotonic(&clock),
        Duration::from_millis(300)
    );

    let ids: Vec<_> = described
        .shards
        .iter()
        .map(|shard| shard.id.as_str())
        .collect();
    assert_eq!(ids, ["s1", "s2", "s3"]);
    assert_eq!(described.shards[1].parent.as_deref(), Some("s1"));
    assert_eq!(
        described.shards[0].ending.as_ref().unwrap().as_str(),
        number(5)
    );
    let closed: Vec<_> = described
        .shards
        .iter()
        .map(|shard| described.is_closed(shard))
        .collect();
    assert_eq!(closed, [true, false, false]);
    assert_eq!(described.info.key_schema[0].attribute_name, "id");
    assert_eq!(
        described.info.creation_time,
        Some(Timestamp::from_millis(1_700_000_000_500))
    );
}

#[tokio::test]
async fn a_server_that_repeats_its_pages_is_an_error() {
    for ring in [&["s1"][..], &["s1", "s2"]] {
        let ring = ring.to_vec();
        let (_, api) = wire(move |request| page(json!([]), Some(ring[request.nth % ring.len()])));
        let error = api.describe().await.unwrap_err();
        assert!(
            matches!(&error, StreamError::Unexpected { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("repeats its pages"), "{error}");
    }
}

/// DescribeStream over this many pages of 100 shards.
fn listing(request: &Request, pages: usize) -> Action {
    let after = request.body["ExclusiveStartShardId"].as_str();
    let after = after.map_or(0, |id| id.parse::<usize>().unwrap());
    let size = request.body["Limit"].as_u64().unwrap_or(100) as usize;
    let ids = (after + 1..=after + size).map(|n| json!({ "ShardId": format!("{n:06}") }));
    let last = after + size;
    let more = (last < pages * 100).then(|| format!("{last:06}"));
    page(ids.collect(), more.as_deref())
}

#[tokio::test]
async fn a_page_that_fails_in_passing_is_asked_for_again_and_those_before_it_are_not() {
    for failure in [
        refused("ThrottlingException"),
        Action::error(500, "InternalServerError", "x"),
    ] {
        let (wire, api) = wire(move |request| match request.nth {
            4..8 => failure.clone(),
            _ => listing(request, 7),
        });
        assert_eq!(api.describe().await.unwrap().shards.len(), 700);
        assert_eq!(wire.count("DescribeStream"), 7 + 4);
    }
}

#[tokio::test]
async fn what_a_stream_is_takes_one_call_whatever_its_shards() {
    let (wire, _) = wire(|request| listing(request, 70));
    let info = describe_stream_info(&client(&wire), ARN).await.unwrap();
    assert_eq!(info.stream_view_type, StreamViewType::NewAndOldImages);
    assert_eq!(wire.requests().len(), 1);
    assert_eq!(wire.requests()[0].body["Limit"], 1);
}

#[tokio::test(start_paused = true)]
async fn sixteen_workers_list_seventy_pages_at_ten_calls_a_second() {
    let time = Time::paused(Timestamp::from_secs(1_800_000_000));
    // The service's limit: 10 calls a second for the account, in whole seconds.
    let (limiter, throttled) = (Mutex::new((0, 0)), Arc::new(AtomicUsize::new(0)));
    let (clock, refusals) = (time.clone(), Arc::clone(&throttled));
    let wire = Wire::new(move |request| {
        let second = clock.elapsed().as_secs();
        let mut limiter = limiter.lock().unwrap();
        let used = if limiter.0 == second { limiter.1 } else { 0 };
        *limiter = (second, used + 1);
        if used >= 10 {
            refusals.fetch_add(1, Ordering::Relaxed);
            return refused("LimitExceededException");
        }
        listing(request, 70)
    });
    let wire = wire.counting_only();
    let workers = (0..16).map(|worker| {
        let api = StreamsApi::new(client(&wire), ARN)
            .with_clock(time.clock(0))
            .with_random(Random::seeded(worker));
        async move { api.describe().await.unwrap().shards.len() }
    });
    let listed = time.within(Duration::from_secs(3600), join_all(workers));
    assert_eq!(listed.await.expect("it ends within the hour"), [7_000; 16]);
    let (calls, throttled) = (
        wire.count("DescribeStream"),
        throttled.load(Ordering::Relaxed),
    );
    println!(
        "{calls} calls, {throttled} throttled, in {:?}",
        time.elapsed()
    );
    assert_eq!(calls - throttled, 16 * 70);
    assert!(
        time.elapsed() < Duration::from_secs(240),
        "{:?}",
        time.elapsed()
    );
    assert!(throttled > 16 * 70 / 4, "the limit is met");
}

fn full_record() -> Value {
    json!({
        "eventID": "e-1", "eventName": "UNKNOWN_TO_SDK_VERSION", "eventVersion": "1.1",
        "eventSource": "aws:dynamodb", "awsRegion": "eu-west-1",
        "userIdentity": { "Type": "Service", "PrincipalId": "dynamodb.amazonaws.com" },
        "dynamodb": {
            "ApproximateCreationDateTime": 1700000000.9,
            "Keys": { "id": { "S": "k" } },
            "NewImage": { "all": { "M": {
                "s": { "S": "a" }, "n": { "N": "1.5" }, "b": { "B": "AP8=" },
                "ss": { "SS": ["a"] }, "ns": { "NS": ["1"] }, "bs": { "BS": ["AQ=="] },
                "l": { "L": [{ "BOOL": true }, { "NULL": true }] },
            } } },
            "OldImage": { "id": { "S": "k" } },
            "SequenceNumber": "100000000000000000007", "SizeBytes": 12,
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        },
    })
}

#[tokio::test]
async fn every_field_of_a_record_is_converted() {
    let (_, api) = wire(iterator_or(|_, _| {
        ok(json!({ "Records": [full_record()] }))
    }));
    let batch = api.read("s1", &Start::TrimHorizon.into(), 7).await.unwrap();
    assert_eq!(batch.next, None);
    let [record] = &batch.records[..] else {
        panic!("{batch:?}")
    };
    assert_eq!(
        (record.event_id.as_str(), record.aws_region.as_str()),
        ("e-1", "eu-west-1")
    );
    assert_eq!(record.event_name, "UNKNOWN_TO_SDK_VERSION");
    assert_eq!(record.event_version.as_deref(), Some("1.1"));
    assert_eq!(record.event_source.as_deref(), Some("aws:dynamodb"));
    assert_eq!(record.event_source_arn.as_deref(), Some(ARN));
    let identity = record.user_identity.clone().unwrap();
    assert_eq!(
        (identity.type_.as_str(), identity.principal_id.as_str()),
        ("Service", "dynamodb.amazonaws.com")
    );
    let change = &record.change;
    assert_eq!(
        change.approximate_creation_date_time.timestamp_millis(),
        1_700_000_000_000
    );
    assert_eq!(
        change.sequence_number.as_deref(),
        Some("100000000000000000007")
    );
    assert_eq!(change.size_bytes, 12);
    assert_eq!(
        change.stream_view_type,
        Some(StreamViewType::NewAndOldImages)
    );
    let json = |item: &murmur_streams::Item| serde_json::to_value(item).unwrap();
    assert_eq!(json(&change.keys), full_record()["dynamodb"]["Keys"]);
    assert_eq!(
        json(&change.new_image),
        full_record()["dynamodb"]["NewImage"]
    );
    assert_eq!(
        json(&change.old_image),
        full_record()["dynamodb"]["OldImage"]
    );
}

/// A record whose new image has this attribute, with its own number.
fn with_attribute(number: u32, value: Value) -> Value {
    let mut record = full_record();
    record["dynamodb"]["SequenceNumber"] = json!(format!("{number:021}"));
    record["dynamodb"]["NewImage"] = json!({ "id": { "S": "k" }, "new": value });
    record
}

fn reason(record: &EventRecord) -> Option<&str> {
    record.event_name.strip_prefix(UNREADABLE)
}

#[tokio::test]
async fn a_record_that_cannot_be_read_says_so_and_its_neighbours_come_as_ever() {
    let mut bad_keys = with_attribute(9, json!({ "S": "a" }));
    bad_keys["dynamodb"]["Keys"] = json!({ "id": {} });
    let mut no_change = full_record();
    no_change.as_object_mut().unwrap().remove("dynamodb");
    let local = "as DynamoDB Local 3.1.0 writes an empty map";
    let cases = [
        (
            with_attribute(1, json!({})),
            vec!["`NewImage.new`", "`{}`", local],
        ),
        (
            with_attribute(2, json!({ "L": [{ "S": "" }, {}] })),
            vec!["`NewImage.new[1]`", local],
        ),
        (
            with_attribute(3, json!({ "M": { "x": {} } })),
            vec!["`NewImage.new.x`", local],
        ),
        // Records that the SDK parses but does not understand.
        (
            with_attribute(4, json!({ "L": [{ "VECTOR": "1" }] })),
            vec!["`NewImage.new`", "unknown"],
        ),
        (
            with_attribute(5, json!({ "S": "a", "N": "1" })),
            vec!["`NewImage.new`", "more than one"],
        ),
        (with_attribute(6, json!({ "N": 7 })), vec!["`NewImage.new`"]),
        (
            with_attribute(7, json!({ "B": "?" })),
            vec!["`NewImage.new`"],
        ),
        (
            with_attribute(8, json!("text")),
            vec!["`NewImage.new`", "not a JSON object"],
        ),
        (bad_keys, vec!["`Keys.id`", local]),
        (no_change, vec!["`dynamodb` is missing"]),
        (json!(17), vec!["the record is not a JSON object"]),
    ];
    let read = async |records: Value| {
        let (_, api) = wire(iterator_or(move |_, _| {
            ok(json!({ "Records": records, "NextShardIterator": "next" }))
        }));
        api.read("s1", &Start::TrimHorizon.into(), 7).await.unwrap()
    };
    let alone = read(json!([full_record()])).await;
    for (bad, parts) in cases {
        let ReadBatch { records, next, .. } =
            read(json!([full_record(), bad, full_record()])).await;
        let [first, unreadable, last] = &records[..] else {
            panic!("{records:?}")
        };
        assert_eq!([first, last], [&alone.records[0]; 2]);
        assert_eq!(next, alone.next);
        let reason = reason(unreadable).unwrap();
        assert!(parts.iter().all(|part| reason.contains(part)), "{reason}");
        assert_eq!(unreadable.event_source_arn.as_deref(), Some(ARN));
        let number = bad["dynamodb"]["SequenceNumber"].as_str();
        assert_eq!(unreadable.change.sequence_number.as_deref(), number);
        if bad.is_object() {
            assert_eq!(unreadable.event_id, "e-1");
        }
        let keys = bad["dynamodb"]["Keys"]["id"]["S"].as_str();
        assert_eq!(unreadable.change.keys.len(), usize::from(keys.is_some()));
    }
}

#[tokio::test]
async fn an_unreadable_record_at_the_end_is_gone_on_after() {
    let (_, api) = wire(iterator_or(|_, _| {
        let records = [full_record(), with_attribute(8, json!({}))];
        ok(json!({ "Records": records, "NextShardIterator": "next" }))
    }));
    let next = api
        .read("s1", &Start::TrimHorizon.into(), 7)
        .await
        .unwrap()
        .next;
    let renew = Start::After(SequenceNumber::new(format!("{:021}", 8)).unwrap());
    let token = "next".to_owned();
    assert_eq!(next, Some(Cursor::Iterator { token, renew }));
}

#[tokio::test]
async fn an_answer_that_is_none_is_said_to_be_unreadable() {
    let bodies = ["", "<html>", "[]", "{\"Records\": {}}", "{\"Records\": [}"];
    for body in bodies {
        let body = body.to_owned();
        let answer = move || Action::Answer {
            status: 200,
            body: body.clone(),
        };
        let (_, api) = wire(iterator_or({
            let answer = answer.clone();
            move |_, _| answer()
        }));
        let read = api.read("s1", &Start::TrimHorizon.into(), 7).await;
        // The SDK takes an empty body for an empty answer.
        let Err(error) = read else { continue };
        assert!(
            matches!(&error, StreamError::Unreadable { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("cannot be parsed"), "{error}");
    }
    let (_, api) = wire(|_| Action::Answer {
        status: 200,
        body: "<html>".to_owned(),
    });
    let described = api.describe().await.unwrap_err();
    let iterator = api.read("s1", &Start::TrimHorizon.into(), 7).await;
    for error in [described, iterator.unwrap_err()] {
        assert!(
            matches!(&error, StreamError::Unreadable { .. }),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_trigger_delivers_what_cannot_be_read_whatever_its_filter() {
    let (_, api) = wire(|request| match request.operation.as_str() {
        "DescribeStream" => disabled(json!([{ "ShardId": "s1" }])),
        _ => iterator_or(|_, _| {
            let mut modified = full_record();
            modified["eventName"] = json!("MODIFY");
            let mut unreadable = full_record();
            unreadable["dynamodb"]["Keys"] = json!({ "id": {} });
            // If only its new image cannot be read, the event name can, and the filter goes by it.
            let mut image = with_attribute(8, json!({}));
            let others = image.clone();
            image["eventName"] = json!("MODIFY");
            let records = [modified, unreadable, image, others, full_record()];
            ok(json!({ "Records": records }))
        })(request),
    });
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let names = Arc::clone(&seen);
    let handler = move |event: Event| {
        let records = event.records.into_iter();
        names
            .lock()
            .unwrap()
            .extend(records.map(|record| record.event_name));
        async { Ok::<_, HandlerError>(DynamoDbEventResponse::default()) }
    };
    let mut trigger = Trigger::builder(api, handler)
        .filter_event_names([OperationType::Modify])
        .build()
        .unwrap();
    let summary = trigger.drain().await.unwrap();
    assert_eq!((summary.records, summary.filtered), (5, 2));
    let seen = seen.lock().unwrap();
    let [whole, unreadable, image] = &seen[..] else {
        panic!("{seen:?}")
    };
    assert_eq!(whole, "MODIFY");
    assert!(unreadable.starts_with(UNREADABLE) && unreadable.contains("Keys"));
    assert!(image.starts_with(UNREADABLE) && image.contains("NewImage"));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Records are read as the SDK reads them, and no body causes a panic.
    #[test]
    fn mutated_answers_are_read_like_the_sdk_reads_them_or_refused(
        cut in any::<prop::sample::Index>(),
        put in prop::collection::vec(prop::sample::select(b"{}[],:\"1SN\\ \xff".to_vec()), 0..4),
        drop in 0..6usize,
    ) {
        let records = json!([full_record(), with_attribute(8, json!({ "S": "a" }))]);
        let mut body = json!({ "Records": records }).to_string().into_bytes();
        let at = cut.index(body.len());
        let end = (at + drop).min(body.len());
        body.splice(at..end, put);
        let body = String::from_utf8_lossy(&body).into_owned();
        let (_, api) = wire(iterator_or(move |_, _| Action::Answer { status: 200, body: body.clone() }));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        match runtime.block_on(api.read("s1", &Start::TrimHorizon.into(), 7)) {
            Ok(batch) => prop_assert!(batch.records.len() <= 4),
            Err(error) => prop_assert!(matches!(error, StreamError::Unreadable { .. } | StreamError::Unexpected { .. }), "{error:?}"),
        }
    }
}

#[tokio::test]
async fn each_start_asks_for_its_iterator_and_the_limit_is_passed_on() {
    let number = SequenceNumber::new("100000000000000000007").unwrap();
    let starts = [
        (Start::TrimHorizon, "TRIM_HORIZON", None),
        (Start::Latest, "LATEST", None),
        (
            Start::At(number.clone()),
            "AT_SEQUENCE_NUMBER",
            Some(number.as_str()),
        ),
        (
            Start::After(number.clone()),
            "AFTER_SEQUENCE_NUMBER",
            Some(number.as_str()),
        ),
    ];
    for (start, kind, asked) in starts {
        let (wire, api) = wire(iterator_or(|_, _| {
            ok(json!({ "NextShardIterator": "next" }))
        }));
        let batch = api.read("s1", &start.clone().into(), 321).await.unwrap();
        let next = Cursor::Iterator {
            token: "next".into(),
            renew: start,
        };
        assert_eq!((batch.records, batch.next), (vec![], Some(next.clone())));
        api.read("s1", &next, 1000).await.unwrap();
        let requests = wire.requests();
        let iterator = &requests[0].body;
        assert_eq!(
            (&iterator["StreamArn"], &iterator["ShardId"]),
            (&json!(ARN), &json!("s1"))
        );
        assert_eq!(iterator["ShardIteratorType"], kind);
        assert_eq!(iterator["SequenceNumber"].as_str(), asked);
        assert_eq!(requests[1].body["Limit"], 321);
        assert_eq!(
            requests[2].body,
            json!({ "ShardIterator": "next", "Limit": 1000 })
        );
        for limit in [0, 1001] {
            let error = api.read("s1", &next, limit).await.unwrap_err();
            assert!(matches!(&error, StreamError::Option(option) if option.option == "limit"));
        }
    }
}

#[tokio::test]
async fn an_expired_iterator_is_renewed_after_the_last_record_read() {
    let answers = iterator_or(|iterator, _| match iterator {
        "TRIM_HORIZON" => ok(json!({ "Records": [full_record()], "NextShardIterator": "one" })),
        "one" => ok(json!({ "Records": [], "NextShardIterator": "two" })),
        "two" => refused("ExpiredIteratorException"),
        "AFTER_SEQUENCE_NUMBER100000000000000000007" => ok(json!({ "Records": [] })),
        other => panic!("{other}"),
    });
    let (_, api) = wire(answers);
    let mut cursor = Some(Cursor::from(Start::TrimHorizon));
    let mut reads = 0;
    while let Some(from) = cursor {
        cursor = api.read("s1", &from, 10).await.unwrap().next;
        reads += 1;
    }
    assert_eq!(reads, 3);
}

#[tokio::test]
async fn an_expired_iterator_without_a_record_is_not_begun_again_in_silence() {
    let answers = || {
        iterator_or(|iterator, _| match iterator {
            "old" => refused("ExpiredIteratorException"),
            _ => ok(json!({ "Records": [full_record()] })),
        })
    };
    let old = |renew| Cursor::Iterator {
        token: "old".into(),
        renew,
    };
    // Records trimmed or put since then would be skipped.
    for begun in [Start::TrimHorizon, Start::Latest] {
        let (wire_seen, api) = wire(answers());
        let error = api.read("s1", &old(begun), 10).await.unwrap_err();
        assert!(matches!(&error, StreamError::IteratorExpired { shard, .. } if shard == "s1"));
        assert_eq!(wire_seen.count("GetShardIterator"), 0);
    }
    let (wire_seen, api) = wire(answers());
    let after = Start::After(SequenceNumber::new("7").unwrap());
    let batch = api.read("s1", &old(after), 10).await.unwrap();
    assert_eq!(batch.records.len(), 1);
    assert_eq!(wire_seen.count("GetShardIterator"), 1);
}

#[tokio::test]
async fn an_iterator_that_expires_before_it_is_used_is_replaced_at_a_number_only() {
    let number = SequenceNumber::new("7").unwrap();
    for (start, expired, asked_for) in [
        (Start::TrimHorizon, true, 1),
        (Start::Latest, true, 1),
        (Start::At(number.clone()), false, 3),
        (Start::After(number), false, 3),
    ] {
        let (wire_seen, api) = wire(iterator_or(|_, _| refused("ExpiredIteratorException")));
        let error = api.read("s1", &start.into(), 10).await.unwrap_err();
        let is_expired = matches!(error, StreamError::IteratorExpired { .. });
        assert_eq!(is_expired, expired, "{error:?}");
        assert_eq!(wire_seen.count("GetShardIterator"), asked_for);
    }
}

/// The errors of describing, of getting an iterator, and of getting records.
async fn errors(action: Action) -> [StreamError; 3] {
    let all = action.clone();
    let (_, api) = wire(move |_| all.clone());
    let described = api.describe().await.unwrap_err();
    let iterator = api
        .read("s1", &Start::TrimHorizon.into(), 1)
        .await
        .unwrap_err();
    let (_, api) = wire(iterator_or(move |_, _| action.clone()));
    let records = api
        .read("s1", &Start::TrimHorizon.into(), 1)
        .await
        .unwrap_err();
    [described, iterator, records]
}

#[tokio::test]
async fn errors_say_what_to_do_and_whether_trying_again_helps() {
    type Judge = fn(&StreamError) -> bool;
    let cases: Vec<(Action, Judge, bool, &str)> = vec![
        (
            refused("AccessDeniedException"),
            |e| matches!(e, StreamError::Denied { .. }),
            false,
            "dynamodb:GetRecords",
        ),
        (
            refused("UnrecognizedClientException"),
            |e| matches!(e, StreamError::Denied { .. }),
            false,
            "denied",
        ),
        (
            refused("ThrottlingException"),
            |e| matches!(e, StreamError::Throttled { .. }),
            true,
            "two readers",
        ),
        (
            refused("LimitExceededException"),
            |e| matches!(e, StreamError::Throttled { .. }),
            true,
            "later",
        ),
        (
            Action::error(500, "InternalServerError", "x"),
            |e| matches!(e, StreamError::Unavailable { .. }),
            true,
            "later",
        ),
        (
            Action::error(503, "Whatever", "x"),
            |e| matches!(e, StreamError::Unavailable { .. }),
            true,
            "later",
        ),
        (
            Action::DropBefore,
            |e| matches!(e, StreamError::Unavailable { .. }),
            true,
            "later",
        ),
        (
            refused("ExpiredTokenException"),
            |e| matches!(e, StreamError::Unavailable { .. }),
            true,
            "later",
        ),
        (
            Action::Answer {
                status: 200,
                body: "{ broken".to_owned(),
            },
            |e| matches!(e, StreamError::Unreadable { .. }),
            true,
            "cannot be parsed",
        ),
        (
            refused("ValidationException"),
            |e| matches!(e, StreamError::Refused { .. }),
            false,
            "ValidationException",
        ),
    ];
    for (action, judge, retryable, advice) in cases {
        for error in errors(action.clone()).await {
            assert!(judge(&error), "{action:?}: {error:?}");
            assert_eq!(error.is_retryable(), retryable, "{error:?}");
            assert!(error.to_string().contains(ARN), "{error}");
            assert!(error.to_string().contains(advice), "{error}");
            assert!(std::error::Error::source(&error).is_some(), "{error:?}");
        }
    }
}

#[tokio::test]
async fn what_is_missing_or_trimmed_is_named() {
    let [described, iterator, records] = errors(refused("ResourceNotFoundException")).await;
    assert!(matches!(described, StreamError::UnknownStream { .. }));
    for error in [iterator, records] {
        assert!(matches!(&error, StreamError::UnknownShard { shard, .. } if shard == "s1"));
    }
    let [_, iterator, records] = errors(refused("TrimmedDataAccessException")).await;
    for error in [iterator, records] {
        assert!(matches!(&error, StreamError::Trimmed { shard, .. } if shard == "s1"));
        assert!(
            !error.is_retryable() && error.to_string().contains("repair"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn without_credentials_the_error_says_what_to_check() {
    let wire = Wire::calm();
    let config = aws_sdk_dynamodbstreams::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("eu-west-1"))
        .http_client(wire.clone());
    let client = aws_sdk_dynamodbstreams::Client::from_conf(config.build());
    let error = describe_stream(&client, ARN).await.unwrap_err();
    assert!(matches!(&error, StreamError::Setup { .. }), "{error:?}");
    assert!(error.to_string().contains("credentials") && !error.is_retryable());
    assert!(wire.counts().is_empty());
}

#[tokio::test]
async fn a_disabled_stream_is_described_and_refused_by_name() {
    let (_, api) = wire(|_| {
        ok(json!({ "StreamDescription": {
            "StreamArn": ARN, "TableName": "orders", "StreamStatus": "DISABLED",
            "StreamViewType": "KEYS_ONLY" } }))
    });
    let described = api.describe().await.unwrap();
    assert_eq!(described.shards, []);
    let error = described.ensure_enabled().unwrap_err();
    assert!(matches!(error, StreamError::Disabled { arn } if arn == ARN));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_comes_is_asked_for_again() {
    // The stream is described once more when its shard has ended.
    for (silent, asked_for, within) in [
        // A list that took 10 s is requested again after the same time.
        ("DescribeStream", 3, 20..22),
        ("GetShardIterator", 2, 10..12),
        ("GetRecords", 2, 10..12),
    ] {
        let asked = AtomicUsize::new(0);
        let (wire, api) = wire(move |request| {
            if request.operation == silent && asked.fetch_add(1, Ordering::Relaxed) == 0 {
                return Action::Hang;
            }
            match request.operation.as_str() {
                "DescribeStream" => disabled(json!([{ "ShardId": "s1" }])),
                _ => iterator_or(|_, _| ok(json!({ "Records": [full_record()] })))(request),
            }
        });
        let handler = |_: Event| async { Ok::<_, HandlerError>(DynamoDbEventResponse::default()) };
        let mut trigger = Trigger::builder(api, handler).build().unwrap();
        let begun = tokio::time::Instant::now();
        assert_eq!(trigger.drain().await.unwrap().records, 1, "{silent}");
        assert_eq!(wire.count(silent), asked_for, "{silent}");
        assert!(within.contains(&begun.elapsed().as_secs()), "{silent}");
    }
}

#[tokio::test]
async fn the_trigger_survives_an_expired_iterator_and_a_throttle() {
    let expired = Mutex::new(HashMap::new());
    let (wire, api) = wire(move |request| match request.operation.as_str() {
        "DescribeStream" => disabled(json!([{ "ShardId": "s1" }])),
        _ => iterator_or(|iterator, _| {
            let mut seen = expired.lock().unwrap();
            let nth = seen.entry(iterator.to_owned()).or_insert(0);
            *nth += 1;
            match (iterator, *nth) {
                ("TRIM_HORIZON", 1) => refused("ThrottlingException"),
                ("TRIM_HORIZON", _) => {
                    ok(json!({ "Records": [full_record()], "NextShardIterator": "stale" }))
                }
                ("stale", _) => refused("ExpiredIteratorException"),
                _ => ok(json!({ "Records": [] })),
            }
        })(request),
    });
    let handler = |_: Event| async { Ok::<_, HandlerError>(DynamoDbEventResponse::default()) };
    let mut trigger = Trigger::builder(api, handler)
        .clock(Arc::new(ManualClock::new(Timestamp::from_secs(1))))
        .build()
        .unwrap();
    assert_eq!(trigger.drain().await.unwrap().records, 1);
    assert_eq!(wire.count("GetShardIterator"), 3);
}
