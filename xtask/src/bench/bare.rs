//! The same requests without Murmur: a loop that uses the SDK.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use aws_lambda_events::event::dynamodb::Event;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::delete_item::builders::DeleteItemInputBuilder;
use aws_sdk_dynamodb::operation::describe_table::builders::DescribeTableInputBuilder;
use aws_sdk_dynamodb::operation::get_item::builders::GetItemInputBuilder;
use aws_sdk_dynamodb::operation::put_item::builders::PutItemInputBuilder;
use aws_sdk_dynamodb::operation::scan::builders::ScanInputBuilder;
use aws_sdk_dynamodb::operation::transact_write_items::builders::TransactWriteItemsInputBuilder;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemInputBuilder;
use aws_sdk_dynamodb::types::{
    AttributeValue, KeysAndAttributes, Put, ReturnConsumedCapacity, ReturnValue,
    ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use futures::StreamExt;
use futures::stream;
use murmur_testkit::cloud::{Cloud, Request, Usage, Weather};
use serde_json::Value;

use super::bootstrap;
use super::pipeline::{self, Means, Mode, Tables};

/// How many requests run at once, as in a Murmur store by default.
const CONCURRENCY: usize = 16;

/// The requests of a handler or of a bootstrap, batch by batch, and their cost.
pub(super) struct Script {
    batches: Vec<Vec<Request>>,
    tables: Tables,
    pub(super) usage: Usage,
}

impl Script {
    /// Lets a handler count `events` on a DynamoDB inside this process, and records the requests
    /// that it sends.
    pub(super) async fn of(mode: Mode, events: &[Event]) -> Result<Self> {
        let cloud = Cloud::in_process(1, Weather::calm());
        let tables = Tables::create(&cloud.admin()).await?;
        let log = Log::of(&cloud);
        let handler =
            pipeline::handler(mode, &cloud.process().client(), &tables, Means::default())?;
        let mut batches = Vec::with_capacity(events.len());
        for event in events {
            pipeline::count(&handler, event.clone()).await?;
            batches.push(log.take());
        }
        Ok(Self {
            batches,
            tables,
            usage: cloud.usage(),
        })
    }

    /// Lets a bootstrap count the rows of `source`, a table behind `cloud`, and records its
    /// requests as one batch. The bootstrap reads one page after another, so that each request
    /// follows those that it depends on.
    pub(super) async fn of_bootstrap(mode: Mode, cloud: &Cloud, source: &str) -> Result<Self> {
        let tables = Tables::create(&cloud.admin()).await?;
        let log = Log::of(cloud);
        bootstrap::fill(mode, &cloud.process().client(), &tables, source, 1).await?;
        tables.remove(&cloud.admin()).await?;
        Ok(Self {
            batches: vec![log.take()],
            tables,
            usage: cloud.usage(),
        })
    }

    /// The same requests for other tables of a pipeline, ready to be sent.
    pub(super) fn for_tables(&self, tables: &Tables) -> Result<Vec<Vec<Call>>> {
        let table = |name: &str| match name {
            name if name == self.tables.state => tables.state.clone(),
            name if name == self.tables.markers => tables.markers.clone(),
            source => source.to_owned(),
        };
        let batch = |batch: &Vec<Request>| batch.iter().map(|one| Call::of(one, &table)).collect();
        self.batches.iter().map(batch).collect()
    }
}

/// Records the requests that pass a cloud.
struct Log(Arc<Mutex<Vec<Request>>>);

impl Log {
    fn of(cloud: &Cloud) -> Self {
        let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
        let log = Arc::clone(&seen);
        cloud.rewrite(move |request| {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            log.push(request.clone());
        });
        Self(seen)
    }

    /// The requests since the last call.
    fn take(&self) -> Vec<Request> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A request that is ready to be sent.
pub(super) enum Call {
    Update(UpdateItemInputBuilder),
    Put(PutItemInputBuilder),
    Delete(DeleteItemInputBuilder),
    Describe(DescribeTableInputBuilder),
    Get(GetItemInputBuilder),
    Read(HashMap<String, KeysAndAttributes>),
    Scan(ScanInputBuilder),
    Transact(TransactWriteItemsInputBuilder),
}

impl Call {
    fn of(
        Request {
            operation, body, ..
        }: &Request,
        table: &dyn Fn(&str) -> String,
    ) -> Result<Self> {
        let fields = Fields { body, table };
        Ok(match operation.as_str() {
            "UpdateItem" => Self::Update(
                UpdateItemInputBuilder::default()
                    .set_table_name(fields.table())
                    .set_key(fields.attributes("Key")?)
                    .set_update_expression(fields.text("UpdateExpression"))
                    .set_condition_expression(fields.text("ConditionExpression"))
                    .set_expression_attribute_names(fields.names())
                    .set_expression_attribute_values(fields.values()?)
                    .set_return_values(fields.returned())
                    .set_return_values_on_condition_check_failure(fields.on_failure()),
            ),
            "PutItem" => Self::Put(
                PutItemInputBuilder::default()
                    .set_table_name(fields.table())
                    .set_item(fields.attributes("Item")?)
                    .set_condition_expression(fields.text("ConditionExpression"))
                    .set_expression_attribute_names(fields.names())
                    .set_expression_attribute_values(fields.values()?)
                    .set_return_values(fields.returned())
                    .set_return_values_on_condition_check_failure(fields.on_failure()),
            ),
            "DeleteItem" => Self::Delete(
                DeleteItemInputBuilder::default()
                    .set_table_name(fields.table())
                    .set_key(fields.attributes("Key")?)
                    .set_condition_expression(fields.text("ConditionExpression"))
                    .set_expression_attribute_names(fields.names())
                    .set_expression_attribute_values(fields.values()?)
                    .set_return_values(fields.returned())
                    .set_return_values_on_condition_check_failure(fields.on_failure()),
            ),
            "DescribeTable" => {
                Self::Describe(DescribeTableInputBuilder::default().set_table_name(fields.table()))
            }
            "GetItem" => Self::Get(
                GetItemInputBuilder::default()
                    .set_table_name(fields.table())
                    .set_key(fields.attributes("Key")?)
                    .set_consistent_read(body["ConsistentRead"].as_bool()),
            ),
            "BatchGetItem" => Self::Read(fields.reads()?),
            "Scan" => Self::Scan(
                ScanInputBuilder::default()
                    .set_table_name(fields.table())
                    .set_segment(fields.number("Segment"))
                    .set_total_segments(fields.number("TotalSegments"))
                    .set_limit(fields.number("Limit"))
                    .set_exclusive_start_key(fields.attributes("ExclusiveStartKey")?)
                    .set_consistent_read(body["ConsistentRead"].as_bool())
                    .set_return_consumed_capacity(
                        fields
                            .text("ReturnConsumedCapacity")
                            .as_deref()
                            .map(ReturnConsumedCapacity::from),
                    ),
            ),
            "TransactWriteItems" => {
                let actions = body["TransactItems"].as_array().into_iter().flatten();
                let actions: Result<Vec<_>> = actions.map(|one| action(one, table)).collect();
                Self::Transact(
                    TransactWriteItemsInputBuilder::default().set_transact_items(Some(actions?)),
                )
            }
            other => bail!("the bare loop does not know how to send {other}"),
        })
    }

    /// Sends the request once. A failed condition is an answer like any other.
    async fn send(&self, client: &Client) -> Result<()> {
        let refused = match self {
            Self::Update(input) => {
                let sent = input.clone().send_with(client).await.err();
                sent.filter(|error| !is(error, |e| e.is_conditional_check_failed_exception()))
                    .map(anyhow::Error::from)
            }
            Self::Put(input) => {
                let sent = input.clone().send_with(client).await.err();
                sent.filter(|error| !is(error, |e| e.is_conditional_check_failed_exception()))
                    .map(anyhow::Error::from)
            }
            Self::Delete(input) => {
                let sent = input.clone().send_with(client).await.err();
                sent.filter(|error| !is(error, |e| e.is_conditional_check_failed_exception()))
                    .map(anyhow::Error::from)
            }
            Self::Describe(input) => input.clone().send_with(client).await.err().map(Into::into),
            Self::Get(input) => input.clone().send_with(client).await.err().map(Into::into),
            Self::Scan(input) => input.clone().send_with(client).await.err().map(Into::into),
            Self::Read(keys) => {
                let read = client
                    .batch_get_item()
                    .set_request_items(Some(keys.clone()));
                read.send().await.err().map(Into::into)
            }
            Self::Transact(input) => {
                let sent = input.clone().send_with(client).await.err();
                sent.filter(|error| !is(error, |e| e.is_transaction_canceled_exception()))
                    .map(anyhow::Error::from)
            }
        };
        refused.map_or(Ok(()), Err)
    }
}

type SdkError<E> =
    aws_sdk_dynamodb::error::SdkError<E, aws_sdk_dynamodb::config::http::HttpResponse>;

fn is<E>(error: &SdkError<E>, kind: impl Fn(&E) -> bool) -> bool {
    error.as_service_error().is_some_and(kind)
}

/// Sends the batches one after another, with up to 16 requests of a batch at once.
pub(super) async fn send(client: &Client, batches: &[Vec<Call>]) -> Result<()> {
    for batch in batches {
        let answers = stream::iter(batch).map(|call| call.send(client));
        let mut answers = answers.buffer_unordered(CONCURRENCY);
        while let Some(answer) = answers.next().await {
            answer.context("the bare loop")?;
        }
    }
    Ok(())
}

/// The fields of a request, or of an action in a transaction.
struct Fields<'a> {
    body: &'a Value,
    table: &'a dyn Fn(&str) -> String,
}

impl Fields<'_> {
    fn returned(&self) -> Option<ReturnValue> {
        self.text("ReturnValues").as_deref().map(ReturnValue::from)
    }

    fn text(&self, field: &str) -> Option<String> {
        self.body[field].as_str().map(str::to_owned)
    }

    fn number(&self, field: &str) -> Option<i32> {
        self.body[field].as_i64()?.try_into().ok()
    }

    fn table(&self) -> Option<String> {
        self.body["TableName"].as_str().map(self.table)
    }

    fn attributes(&self, field: &str) -> Result<Option<HashMap<String, AttributeValue>>> {
        attributes(&self.body[field])
    }

    fn values(&self) -> Result<Option<HashMap<String, AttributeValue>>> {
        self.attributes("ExpressionAttributeValues")
    }

    fn names(&self) -> Option<HashMap<String, String>> {
        let names = self.body["ExpressionAttributeNames"].as_object()?;
        let name = |(alias, name): (&String, &Value)| Some((alias.clone(), name.as_str()?.into()));
        names.iter().map(name).collect()
    }

    fn on_failure(&self) -> Option<ReturnValuesOnConditionCheckFailure> {
        let text = self.text("ReturnValuesOnConditionCheckFailure");
        text.as_deref().map(Into::into)
    }

    fn reads(&self) -> Result<HashMap<String, KeysAndAttributes>> {
        let tables = self.body["RequestItems"].as_object().into_iter().flatten();
        let read = |(name, read): (&String, &Value)| {
            let keys = read["Keys"].as_array().into_iter().flatten();
            let keys: Result<Option<Vec<_>>> = keys.map(attributes).collect();
            let read = KeysAndAttributes::builder()
                .set_keys(keys?)
                .set_consistent_read(read["ConsistentRead"].as_bool());
            Ok(((self.table)(name), read.build()?))
        };
        tables.map(read).collect()
    }
}

fn attributes(value: &Value) -> Result<Option<HashMap<String, AttributeValue>>> {
    if value.is_null() {
        return Ok(None);
    }
    let item: serde_dynamo::Item = serde_json::from_value(value.clone())?;
    Ok(Some(item.into()))
}

fn action(action: &Value, table: &dyn Fn(&str) -> String) -> Result<TransactWriteItem> {
    let fields = |body| Fields { body, table };
    let built = TransactWriteItem::builder();
    if let Some(body) = action.get("Put") {
        let fields = fields(body);
        let put = Put::builder()
            .set_table_name(fields.table())
            .set_item(fields.attributes("Item")?)
            .set_condition_expression(fields.text("ConditionExpression"))
            .set_expression_attribute_names(fields.names())
            .set_expression_attribute_values(fields.values()?)
            .set_return_values_on_condition_check_failure(fields.on_failure());
        return Ok(built.put(put.build()?).build());
    }
    let body = action.get("Update");
    let fields = fields(body.context("the bare loop knows puts and updates in a transaction")?);
    let update = Update::builder()
        .set_table_name(fields.table())
        .set_key(fields.attributes("Key")?)
        .set_update_expression(fields.text("UpdateExpression"))
        .set_condition_expression(fields.text("ConditionExpression"))
        .set_expression_attribute_names(fields.names())
        .set_expression_attribute_values(fields.values()?)
        .set_return_values_on_condition_check_failure(fields.on_failure());
    Ok(built.update(update.build()?).build())
}

#[cfg(test)]
mod tests {
    use super::super::orders::{self, OrderTable};
    use super::super::workload::{Keys, Workload};
    use super::*;
    use murmur_state::Clock;
    use murmur_state::time::SystemClock;

    async fn total(client: &Client, tables: &Tables) -> i64 {
        let rows = client
            .scan()
            .table_name(&tables.state)
            .send()
            .await
            .unwrap();
        let value = |row: &HashMap<String, AttributeValue>| match row.get("v") {
            Some(AttributeValue::N(value)) => value.parse::<i64>().unwrap(),
            _ => 0,
        };
        rows.items().iter().map(value).sum()
    }

    /// The loop in the comparison must do the same work, pages included.
    #[tokio::test]
    async fn the_loop_sends_what_the_handler_sent() {
        for mode in Mode::ALL {
            let now = SystemClock::new().now();
            let mut workload = Workload::new(Keys::Zipf, 2);
            // Enough batches for a row to drop some ids.
            let batch = match mode {
                Mode::AtLeastOnce | Mode::ClaimFirst | Mode::Ledger => 100,
                Mode::ExactlyOnce => 1_000,
            };
            let events: Vec<Event> = (0..3).map(|_| workload.batch(batch, |_| now)).collect();
            let script = Script::of(mode, &events).await.unwrap();

            let cloud = Cloud::in_process(2, Weather::calm());
            let tables = Tables::create(&cloud.admin()).await.unwrap();
            let calls = script.for_tables(&tables).unwrap();
            send(&cloud.process().client(), &calls).await.unwrap();
            assert_eq!(
                total(&cloud.admin(), &tables).await,
                workload.total,
                "{mode}"
            );
            assert_eq!(cloud.usage().requests, script.usage.requests, "{mode}");
            let mut requests = script.batches.iter().flatten();
            let has_pages = requests.any(|request| {
                request.operation == "UpdateItem"
                    && request.body["TableName"] == script.tables.markers
            });
            assert!(has_pages || mode != Mode::ExactlyOnce);
        }
    }

    /// The requests, sorted. Each body is represented by its length, because the order of its
    /// fields varies.
    fn sizes(requests: &[Request]) -> Vec<(String, usize)> {
        let size = |request: &Request| {
            let mut body = request.body.clone();
            body["ClientRequestToken"] = Value::Null;
            (request.operation.clone(), body.to_string().len())
        };
        let mut sizes: Vec<_> = requests.iter().map(size).collect();
        sizes.sort();
        sizes
    }

    /// Rows in several pages per segment, so that scans continue and checkpoints replace others.
    #[tokio::test]
    async fn the_loop_sends_what_the_bootstrap_sent() {
        for mode in [Mode::ExactlyOnce, Mode::Ledger] {
            let cloud = Cloud::in_process(3, Weather::calm());
            let orders = OrderTable::create(&cloud.admin(), false).await.unwrap();
            let mut workload = Workload::new(Keys::Zipf, 4);
            let now = SystemClock::new().now();
            let records = workload.batch(10_000, |_| now).records.into_iter();
            let rows = records.map(orders::row);
            orders.put(&cloud.admin(), rows, 1).await.unwrap();
            let script = Script::of_bootstrap(mode, &cloud, &orders.name).await;
            let script = script.unwrap();
            assert!(script.usage.requests_of("Scan") > 10, "{mode}");

            let tables = Tables::create(&cloud.admin()).await.unwrap();
            let calls = script.for_tables(&tables).unwrap();
            let log = Log::of(&cloud);
            send(&cloud.process().client(), &calls).await.unwrap();
            assert_eq!(
                total(&cloud.admin(), &tables).await,
                workload.total,
                "{mode}"
            );
            let recorded: Vec<Request> = script.batches.into_iter().flatten().collect();
            assert!(sizes(&log.take()) == sizes(&recorded), "{mode}");
        }
    }
}
