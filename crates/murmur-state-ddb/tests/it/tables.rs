//! Creating tables: schema, TTL, and obstacles.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    BillingMode, ScalarAttributeType, TimeToLiveSpecification, TimeToLiveStatus,
};
use murmur_state::{Fault, StoreError};
use murmur_state_ddb::{create_bytes_table, create_dedup_table, create_int64_table, create_tables};
use murmur_testkit::Dynamo;
use murmur_testkit::wire::{Action, Wire};

async fn keys(client: &Client, table: &str) -> Vec<(String, ScalarAttributeType)> {
    let made = client
        .describe_table()
        .table_name(table)
        .send()
        .await
        .unwrap()
        .table
        .unwrap();
    let billing = made
        .billing_mode_summary()
        .and_then(|summary| summary.billing_mode());
    assert_eq!(billing, Some(&BillingMode::PayPerRequest));
    made.key_schema()
        .iter()
        .map(|key| {
            let name = key.attribute_name();
            let mut types = made.attribute_definitions().iter();
            let found = types
                .find(|definition| definition.attribute_name() == name)
                .unwrap();
            (name.to_owned(), found.attribute_type().clone())
        })
        .collect()
}

async fn ttl(client: &Client, table: &str) -> (Option<TimeToLiveStatus>, Option<String>) {
    let answer = client
        .describe_time_to_live()
        .table_name(table)
        .send()
        .await
        .unwrap();
    let found = answer.time_to_live_description.unwrap();
    (found.time_to_live_status, found.attribute_name)
}

#[tokio::test]
async fn tables_are_made_with_their_keys_and_ttl_and_may_be_asked_for_again() {
    let dynamo = Dynamo::connect().await;
    let client = dynamo.client();
    let (sums, bytes) = (dynamo.table("sums"), dynamo.table("bytes"));
    let markers = dynamo.table("markers");
    for _ in 0..2 {
        create_int64_table(&client, &sums).await.unwrap();
        create_bytes_table(&client, &bytes).await.unwrap();
        create_dedup_table(&client, &markers).await.unwrap();
    }
    let pk = ("pk".to_owned(), ScalarAttributeType::S);
    let sk = ("sk".to_owned(), ScalarAttributeType::N);
    assert_eq!(keys(&client, &sums).await, [pk.clone(), sk.clone()]);
    assert_eq!(keys(&client, &bytes).await, [pk.clone(), sk]);
    assert_eq!(keys(&client, &markers).await, [pk]);
    for table in [sums, bytes, markers] {
        let on = (Some(TimeToLiveStatus::Enabled), Some("ttl".to_owned()));
        assert_eq!(ttl(&client, &table).await, on);
    }
}

#[tokio::test]
async fn all_tables_of_some_pipelines_are_made_by_one_call_whatever_stands_in_the_way_of_one() {
    let dynamo = Dynamo::connect().await;
    let client = dynamo.client();
    let (totals, counts) = (dynamo.table("totals"), dynamo.table("counts"));
    let markers = dynamo.table("markers");
    // Its keys are those of a marker table.
    create_dedup_table(&client, &totals).await.unwrap();
    let made = create_tables(&client, [&totals, &counts], &markers).await;
    let shown = made.unwrap_err().to_string();
    assert!(
        shown.contains(&*totals) && !shown.contains(&*counts),
        "{shown}"
    );
    let others = create_tables(&client, [&counts], &markers).await;
    others.unwrap();
    assert_eq!(keys(&client, &counts).await.len(), 2);
    assert_eq!(keys(&client, &markers).await.len(), 1);
}

#[tokio::test]
async fn many_may_make_the_same_table_at_once() {
    let dynamo = Dynamo::connect().await;
    let (client, table) = (dynamo.client(), dynamo.table("together"));
    let made = (0..4).map(|_| create_int64_table(&client, &table));
    for result in futures::future::join_all(made).await {
        result.unwrap();
    }
}

#[tokio::test]
async fn a_table_with_other_keys_is_refused_with_advice() {
    let dynamo = Dynamo::connect().await;
    let (client, table) = (dynamo.client(), dynamo.table("taken"));
    create_dedup_table(&client, &table).await.unwrap();
    let error = create_int64_table(&client, &table).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Setup);
    let shown = error.to_string();
    for part in [&*table, "pk S HASH", "sk N RANGE", "another name"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[tokio::test]
async fn a_table_with_ttl_on_another_attribute_is_refused_with_advice() {
    let dynamo = Dynamo::connect().await;
    let (client, table) = (dynamo.client(), dynamo.table("elsewhere"));
    // Made without TTL: the switch is held back once.
    let wire = Wire::new(|request| match request.operation.as_str() {
        "UpdateTimeToLive" => Action::error(400, "AccessDeniedException", "no"),
        _ => Action::Pass,
    });
    let error = create_dedup_table(&wire.client(&dynamo), &table)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("access denied"), "{error}");
    let other = TimeToLiveSpecification::builder()
        .enabled(true)
        .attribute_name("expires");
    let switch = client.update_time_to_live().table_name(&table);
    switch
        .time_to_live_specification(other.build().unwrap())
        .send()
        .await
        .unwrap();
    let error = create_dedup_table(&client, &table).await.unwrap_err();
    assert!(matches!(error, StoreError::Setup { .. }), "{error:?}");
    assert!(error.to_string().contains("`expires`"), "{error}");
}

#[tokio::test]
async fn what_was_left_unfinished_is_finished_when_asked_again() {
    let dynamo = Dynamo::connect().await;
    let (client, table) = (dynamo.client(), dynamo.table("unfinished"));
    let wire = Wire::new(|request| match request.operation.as_str() {
        "UpdateTimeToLive" => Action::error(400, "AccessDeniedException", "no"),
        _ => Action::Pass,
    });
    create_int64_table(&wire.client(&dynamo), &table)
        .await
        .unwrap_err();
    create_int64_table(&client, &table).await.unwrap();
    assert_eq!(
        ttl(&client, &table).await.0,
        Some(TimeToLiveStatus::Enabled)
    );
}

#[tokio::test]
async fn ttl_switched_on_by_somebody_else_in_between_is_as_good() {
    let dynamo = Dynamo::connect().await;
    let (client, table) = (dynamo.client(), dynamo.table("raced"));
    let wire = Wire::new(|request| match (request.operation.as_str(), request.nth) {
        // Off at the first read, and on by the time it is to be switched on.
        ("UpdateTimeToLive", _) => Action::Then {
            status: 400,
            body: r#"{"__type":"ValidationException","message":"TimeToLive is already enabled"}"#
                .to_owned(),
        },
        _ => Action::Pass,
    });
    create_dedup_table(&wire.client(&dynamo), &table)
        .await
        .unwrap();
    assert_eq!(
        (
            wire.count("UpdateTimeToLive"),
            wire.count("DescribeTimeToLive")
        ),
        (1, 2)
    );
    assert_eq!(
        ttl(&client, &table).await.0,
        Some(TimeToLiveStatus::Enabled)
    );
}
