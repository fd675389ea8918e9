//! What a request through the SDK costs. Prints figures, and asserts none.
#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]
#![allow(clippy::print_stdout, reason = "figures are what it is for")]

use std::time::Instant;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
    ReturnValuesOnConditionCheckFailure, ScalarAttributeType, TransactWriteItem, Update,
};
use murmur_testkit::cloud::{Cloud, Weather};

async fn create(client: &Client) {
    let key = |name: &str, kind| {
        KeySchemaElement::builder()
            .attribute_name(name)
            .key_type(kind)
            .build()
            .unwrap()
    };
    let attribute = |name: &str, kind| {
        AttributeDefinition::builder()
            .attribute_name(name)
            .attribute_type(kind)
            .build()
            .unwrap()
    };
    let request = client
        .create_table()
        .table_name("table")
        .billing_mode(BillingMode::PayPerRequest);
    let request = request
        .key_schema(key("pk", KeyType::Hash))
        .key_schema(key("sk", KeyType::Range))
        .attribute_definitions(attribute("pk", ScalarAttributeType::S))
        .attribute_definitions(attribute("sk", ScalarAttributeType::N));
    request.send().await.unwrap();
}

#[tokio::test(start_paused = true)]
#[ignore = "figures; run it alone"]
async fn speed() {
    let started = Instant::now();
    for seed in 0..20 {
        let cloud = Cloud::in_process(seed, Weather::calm());
        create(&cloud.admin()).await;
    }
    println!("a cloud with a table: {:?}", started.elapsed() / 20);
    let cloud = Cloud::in_process(1, Weather::calm());
    create(&cloud.admin()).await;
    let process = cloud.process();
    let started = Instant::now();
    for _ in 0..20 {
        drop(process.client());
    }
    println!("a client: {:?}", started.elapsed() / 20);
    let client = process.client();
    let n: u32 = 2000;
    let started = Instant::now();
    for i in 0..n {
        let request = client.update_item().table_name("table");
        let request = request
            .key("pk", AttributeValue::S(format!("k{}", i % 100)))
            .key("sk", AttributeValue::N("0".into()));
        let request = request
            .update_expression("ADD v :s SET cur = :c")
            .condition_expression("attribute_not_exists(hot) AND NOT contains(cur, :i)");
        let request = request
            .expression_attribute_values(":s", AttributeValue::N("5".into()))
            .expression_attribute_values(":c", AttributeValue::Bs(vec![Blob::new(vec![0; 16])]))
            .expression_attribute_values(":i", AttributeValue::B(Blob::new(i.to_be_bytes())));
        let request = request
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        request.send().await.unwrap();
    }
    println!("UpdateItem: {:?}", started.elapsed() / n);
    let started = Instant::now();
    for i in 0..n {
        let action = |j: u32| {
            let update = Update::builder()
                .table_name("table")
                .key("pk", AttributeValue::S(format!("t{j}")))
                .key("sk", AttributeValue::N("0".into()));
            let update = update
                .update_expression("ADD v :s")
                .condition_expression("attribute_not_exists(hot)")
                .expression_attribute_values(":s", AttributeValue::N("5".into()));
            TransactWriteItem::builder()
                .update(update.build().unwrap())
                .build()
        };
        let request = client.transact_write_items();
        let first = i % 100 * 3;
        let request = request
            .transact_items(action(first))
            .transact_items(action(first + 1))
            .transact_items(action(first + 2));
        request.send().await.unwrap();
    }
    println!("TransactWriteItems of 3: {:?}", started.elapsed() / n);
    println!("{:?}", cloud.usage());
}
