//! The DynamoDB of the tests, and that it outlives the runtime it was asked for in.

// Clippy takes only `#[test]` functions for tests, not the helpers beside them.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
    ScalarAttributeType, StreamSpecification, StreamViewType, TimeToLiveSpecification,
};
use murmur_testkit::{Dynamo, Embedded};

async fn create_table(client: &aws_sdk_dynamodb::Client, table: &str) {
    client
        .create_table()
        .table_name(table)
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(
            AttributeDefinition::builder()
                .attribute_name("pk")
                .attribute_type(ScalarAttributeType::S)
                .build()
                .unwrap(),
        )
        .key_schema(
            KeySchemaElement::builder()
                .attribute_name("pk")
                .key_type(KeyType::Hash)
                .build()
                .unwrap(),
        )
        .stream_specification(
            StreamSpecification::builder()
                .stream_enabled(true)
                .stream_view_type(StreamViewType::NewAndOldImages)
                .build()
                .unwrap(),
        )
        .send()
        .await
        .unwrap();
}

async fn put(client: &aws_sdk_dynamodb::Client, table: &str, pk: &str, ttl: &str) {
    client
        .put_item()
        .table_name(table)
        .item("pk", AttributeValue::S(pk.into()))
        .item("ttl", AttributeValue::N(ttl.into()))
        .send()
        .await
        .unwrap();
}

fn in_a_runtime_of_its_own<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

#[test]
fn a_server_serves_many_runtimes_one_after_the_other() {
    let dynamo = in_a_runtime_of_its_own(Dynamo::connect());
    let table = dynamo.table("runtimes");
    in_a_runtime_of_its_own(create_table(&dynamo.client(), &table));
    for pk in ["a", "b"] {
        in_a_runtime_of_its_own(put(&dynamo.client(), &table, pk, "0"));
    }
    let count = in_a_runtime_of_its_own(async {
        dynamo
            .client()
            .scan()
            .table_name(&table)
            .send()
            .await
            .unwrap()
            .count()
    });
    assert_eq!(count, 2);
}

#[tokio::test]
async fn tables_have_streams() {
    let dynamo = Dynamo::connect().await;
    let table = dynamo.table("streamed");
    create_table(&dynamo.client(), &table).await;
    let streams = dynamo
        .streams()
        .list_streams()
        .table_name(&table)
        .send()
        .await
        .unwrap();
    assert_eq!(streams.streams().len(), 1);
}

#[tokio::test]
async fn a_clone_keeps_the_server_and_the_last_drop_stops_it() {
    let server = Embedded::start().unwrap();
    let address = server.endpoint().replace("http://", "");
    let first = Dynamo::embedded(server);
    assert!(first.is_embedded());
    let second = first.clone();
    drop(first);
    second.client().list_tables().send().await.unwrap();
    drop(second);
    // The thread ends on its own time: wait for the port to close, not for a duration.
    while tokio::net::TcpStream::connect(&address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn two_servers_share_nothing() {
    let [one, other] = [(); 2].map(|()| Dynamo::embedded(Embedded::start().unwrap()));
    let table = one.table("alone");
    create_table(&one.client(), &table).await;
    assert!(
        other
            .client()
            .list_tables()
            .send()
            .await
            .unwrap()
            .table_names()
            .is_empty()
    );
}

#[tokio::test]
async fn the_database_behind_the_server_sweeps_expired_rows() {
    let server = Embedded::start().unwrap();
    let dynamo = Dynamo::embedded(server.clone());
    let (client, table) = (dynamo.client(), dynamo.table("expiring"));
    create_table(&client, &table).await;
    let ttl = TimeToLiveSpecification::builder()
        .attribute_name("ttl")
        .enabled(true);
    client
        .update_time_to_live()
        .table_name(&table)
        .time_to_live_specification(ttl.build().unwrap())
        .send()
        .await
        .unwrap();
    // An hour ago: DynamoDB ignores a TTL that expired more than five years ago.
    let expired = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let expired = expired
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    put(&client, &table, "old", &expired.to_string()).await;
    put(&client, &table, "new", &(expired + 7200).to_string()).await;
    assert_eq!(server.database().sweep_ttl().unwrap(), 1);
}

#[tokio::test]
async fn table_names_are_new_at_every_call_and_keep_the_stem() {
    let dynamo = Dynamo::embedded(Embedded::start().unwrap());
    let names: HashSet<_> = (0..1000).map(|_| dynamo.table("orders")).collect();
    assert_eq!(names.len(), 1000);
    assert!(
        names
            .iter()
            .all(|name| name.starts_with("orders-") && name.len() < 255)
    );
}
