//! Reading many keys: chunks, repeats, unprocessed keys, consistency.

use murmur_state::{Clock, Key, Read, ReadExt, StoreError};
use murmur_state_ddb::{Int64SumStore, TableOptions};
use murmur_testkit::Dynamo;
use murmur_testkit::wire::{Action, Request, Wire};
use serde_json::{Value, json};

use crate::support::{key, n, put_row, state_table, virtual_time, wire_on};

fn asked(request: &Request, table: &str) -> Vec<Value> {
    request.body["RequestItems"][table]["Keys"]
        .as_array()
        .unwrap()
        .clone()
}

#[tokio::test]
async fn keys_are_read_in_chunks_of_a_hundred_distinct_ones() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    put_row(&dynamo.client(), &table, "e", &[("v", n(5))]).await;
    let wire = Wire::calm();
    let store = Int64SumStore::new(wire.client(&dynamo), &*table);
    let keys: Vec<Key> = (0..250)
        .chain(0..250)
        .map(|n| Key::new("e", n).unwrap())
        .collect();
    let found = store.get_many(&keys).await.unwrap();
    assert_eq!(found.len(), 500);
    assert_eq!((found[0], found[1], found[250]), (Some(5), None, Some(5)));
    let mut sizes: Vec<_> = wire
        .requests()
        .iter()
        .map(|r| asked(r, &table).len())
        .collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [50, 100, 100]);
}

#[tokio::test]
async fn unprocessed_keys_are_asked_for_again_and_no_others() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    put_row(&dynamo.client(), &table, "left", &[("v", n(3))]).await;
    let name = table.clone();
    let wire = wire_on("BatchGetItem", move |request| {
        if request.nth > 0 {
            return Action::Pass;
        }
        let left = json!({ "pk": {"S": "left"}, "sk": {"N": "0"} });
        let body = json!({
            "Responses": { &name: [{ "pk": {"S": "done"}, "sk": {"N": "0"}, "v": {"N": "9"} }] },
            "UnprocessedKeys": { &name: { "Keys": [left], "ConsistentRead": true } },
        });
        Action::Answer {
            status: 200,
            body: body.to_string(),
        }
    });
    let (_, options) = virtual_time();
    let store = Int64SumStore::with_options(wire.client(&dynamo), &*table, options).unwrap();
    let found = store
        .get_many(&[key("left"), key("done"), key("left")])
        .await
        .unwrap();
    assert_eq!(found, [Some(3), Some(9), Some(3)]);
    let requests = wire.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(asked(&requests[1], &table).len(), 1);
    assert_eq!(
        requests[1].body["RequestItems"][&table]["ConsistentRead"],
        true
    );
}

#[tokio::test]
async fn keys_that_stay_unprocessed_end_as_throttled_after_growing_waits() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    let wire = wire_on("BatchGetItem", |request| {
        let left = json!({ "UnprocessedKeys": request.body["RequestItems"] });
        Action::Answer {
            status: 200,
            body: left.to_string(),
        }
    });
    let (clock, options) = virtual_time();
    let start = clock.monotonic();
    let store = Int64SumStore::with_options(wire.client(&dynamo), &*table, options).unwrap();
    let error = store.get(&key("k")).await.unwrap_err();
    assert!(matches!(error, StoreError::Throttled { .. }), "{error:?}");
    assert_eq!(wire.count("BatchGetItem"), 10);
    assert!(clock.monotonic() > start);
}

#[tokio::test]
async fn reads_are_consistent_unless_asked_otherwise() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    let eventual = TableOptions::default().eventually_consistent_reads();
    for (options, wanted) in [(TableOptions::default(), true), (eventual, false)] {
        let wire = Wire::calm();
        let store = Int64SumStore::with_options(wire.client(&dynamo), &*table, options).unwrap();
        store.get(&key("k")).await.unwrap();
        let consistent = &wire.requests()[0].body["RequestItems"][&table]["ConsistentRead"];
        assert_eq!(consistent, wanted);
    }
}

#[tokio::test]
async fn a_failed_read_is_never_said_to_have_been_applied() {
    let dynamo = Dynamo::connect().await;
    let wire = wire_on("BatchGetItem", |_| {
        Action::error(500, "InternalServerError", "")
    });
    let config = dynamo.client_config().http_client(wire);
    let config = config.retry_config(aws_sdk_dynamodb::config::retry::RetryConfig::disabled());
    let store = Int64SumStore::new(aws_sdk_dynamodb::Client::from_conf(config.build()), "t");
    let error = store.get(&key("k")).await.unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Unavailable {
                may_have_applied: false,
                ..
            }
        ),
        "{error:?}"
    );
}
