//! What the tests of the cloud share: a table of the state table's layout, and one-line requests.
#![allow(dead_code, reason = "not every test uses all of it")]

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::transact_write_items::builders::TransactWriteItemsFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType,
    ScalarAttributeType, TransactWriteItem, Update,
};
use murmur_testkit::cloud::{Cloud, Process, Weather};

pub(crate) const TABLE: &str = "table";
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MILLI: Duration = Duration::from_millis(1);

pub(crate) async fn create(client: &Client, table: &str) {
    let key = |name: &str, kind| {
        let key = KeySchemaElement::builder().attribute_name(name);
        key.key_type(kind).build().unwrap()
    };
    let attribute = |name: &str, kind| {
        let attribute = AttributeDefinition::builder().attribute_name(name);
        attribute.attribute_type(kind).build().unwrap()
    };
    let request = client.create_table().table_name(table);
    let request = request
        .billing_mode(BillingMode::PayPerRequest)
        .key_schema(key("pk", KeyType::Hash))
        .key_schema(key("sk", KeyType::Range))
        .attribute_definitions(attribute("pk", ScalarAttributeType::S))
        .attribute_definitions(attribute("sk", ScalarAttributeType::N));
    request.send().await.unwrap();
}

/// A cloud in this process with [`TABLE`] in it.
pub(crate) async fn cloud(seed: u64, weather: Weather) -> Cloud {
    let cloud = Cloud::in_process(seed, weather);
    create(&cloud.admin(), TABLE).await;
    cloud
}

/// Without the SDK's retries, giving up after five seconds.
pub(crate) fn single(process: &Process) -> Client {
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(5 * SECOND);
    let config = process
        .client_config()
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts.build());
    Client::from_conf(config.build())
}

pub(crate) fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.into())
}

pub(crate) fn number(value: i64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// `ADD v :v` to the row of `key`.
pub(crate) fn add(client: &Client, key: &str, value: i64) -> UpdateItemFluentBuilder {
    let request = client.update_item().table_name(TABLE);
    let request = request.key("pk", text(key)).key("sk", number(0));
    let request = request.update_expression("ADD v :v");
    request.expression_attribute_values(":v", number(value))
}

/// A transaction that adds 1 to each of these rows.
pub(crate) fn add_all(client: &Client, keys: &[&str]) -> TransactWriteItemsFluentBuilder {
    keys.iter()
        .fold(client.transact_write_items(), |request, key| {
            let update = Update::builder().table_name(TABLE);
            let update = update.key("pk", text(key)).key("sk", number(0));
            let update = update.update_expression("ADD v :v");
            let update = update.expression_attribute_values(":v", number(1));
            let action = TransactWriteItem::builder().update(update.build().unwrap());
            request.transact_items(action.build())
        })
}

/// `v` of the row, seen without weather.
pub(crate) async fn value(cloud: &Cloud, key: &str) -> Option<i64> {
    let request = cloud.admin().get_item().table_name(TABLE);
    let request = request.key("pk", text(key)).key("sk", number(0));
    let item = request.consistent_read(true).send().await.unwrap().item?;
    Some(item["v"].as_n().unwrap().parse().unwrap())
}

pub(crate) fn code(error: &SdkError<UpdateItemError>) -> String {
    let error = error.as_service_error().unwrap();
    error.meta().code().unwrap().to_owned()
}

/// The codes of a cancelled transaction's reasons.
pub(crate) fn reasons(error: SdkError<TransactWriteItemsError>) -> Vec<String> {
    let error = error.into_service_error();
    let TransactWriteItemsError::TransactionCanceledException(cancelled) = error else {
        panic!("not cancelled: {error:?}");
    };
    let reasons = cancelled.cancellation_reasons();
    let codes = reasons
        .iter()
        .map(|reason| reason.code().unwrap().to_owned());
    codes.collect()
}
