//! Tables for the tests of this crate.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test binary uses its own part; a panic is a test's failure message"
)]

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
    ScalarAttributeType, StreamSpecification, StreamViewType,
};

pub fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

pub fn number(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

pub fn stream(on: bool) -> StreamSpecification {
    let view = on.then_some(StreamViewType::NewAndOldImages);
    let stream = StreamSpecification::builder().stream_enabled(on);
    stream.set_stream_view_type(view).build().unwrap()
}

/// Makes a table of keys `order` (S) and `line` (N).
pub async fn create(client: &Client, table: &str, stream_on: bool) {
    let define = |name: &str, kind| {
        let define = AttributeDefinition::builder().attribute_name(name);
        define.attribute_type(kind).build().unwrap()
    };
    let key = |name: &str, kind| {
        let key = KeySchemaElement::builder().attribute_name(name);
        key.key_type(kind).build().unwrap()
    };
    client
        .create_table()
        .table_name(table)
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(define("order", ScalarAttributeType::S))
        .attribute_definitions(define("line", ScalarAttributeType::N))
        .key_schema(key("order", KeyType::Hash))
        .key_schema(key("line", KeyType::Range))
        .set_stream_specification(stream_on.then(|| stream(true)))
        .send()
        .await
        .unwrap();
}

/// Line `n` of the orders: its customer and cents.
pub fn line(n: u64) -> (String, i64) {
    (format!("c{}", n % 5), (n * 7 % 100) as i64)
}

pub async fn fill(client: &Client, table: &str, lines: std::ops::Range<u64>) {
    for n in lines {
        let (customer, cents) = line(n);
        let put = client.put_item().table_name(table);
        put.item("order", text(format!("o{}", n / 3)))
            .item("line", number(n % 3))
            .item("customer", text(customer))
            .item("cents", number(cents))
            .send()
            .await
            .unwrap();
    }
}
