//! The DynamoDB of the demo, and its tables there.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::client::Waiters;
use aws_sdk_dynamodb::config::BehaviorVersion;
use aws_sdk_dynamodb::operation::delete_table::DeleteTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, PutRequest,
    ScalarAttributeType, StreamSpecification, StreamViewType, WriteRequest,
};
use futures::stream::{self, StreamExt, TryStreamExt};
use murmur_state_ddb::{create_dedup_table, create_int64_table};
use murmur_testkit::{Dynamo, Embedded};

use super::progress::Bar;
use super::rows::Row;
use crate::interrupt::Started;

/// The longest wait for a table to be created or a stream to be enabled.
const PATIENCE: Duration = Duration::from_secs(120);
const LOADERS: usize = 8;

/// The location of a DynamoDB.
#[derive(Clone)]
enum Place {
    Embedded(Dynamo),
    Url(Dynamo),
    Aws(String),
}

impl Place {
    /// Creates clients with new connections. Connections of another runtime stop when that runtime
    /// does.
    async fn connect(&self) -> (Client, aws_sdk_dynamodbstreams::Client) {
        match self {
            Self::Embedded(dynamo) | Self::Url(dynamo) => (dynamo.client(), dynamo.streams()),
            Self::Aws(url) => {
                let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
                let table = aws_sdk_dynamodb::config::Builder::from(&config).endpoint_url(url);
                // On AWS the streams have a separate endpoint, derived from the region.
                let streams = aws_sdk_dynamodbstreams::Client::new(&config);
                (Client::from_conf(table.build()), streams)
            }
        }
    }
}

/// A DynamoDB, with clients for it.
pub(super) struct Server {
    pub(super) client: Client,
    pub(super) streams: aws_sdk_dynamodbstreams::Client,
    place: Place,
}

impl Server {
    pub(super) async fn start(endpoint: Option<&str>) -> Result<Self> {
        let place = match endpoint {
            None => Place::Embedded(Dynamo::embedded(Embedded::start()?)),
            Some(url) if url.starts_with("http://") => Place::Url(Dynamo::at(url)),
            Some(url) if url.starts_with("https://") => Place::Aws(url.to_owned()),
            Some(url) => bail!("--endpoint {url}: give a URL that begins with http:// or https://"),
        };
        let (client, streams) = place.connect().await;
        Ok(Self {
            client,
            streams,
            place,
        })
    }

    /// How often an idle stream is polled. AWS allows five reads per second and shard.
    pub(super) fn poll_interval(&self) -> Duration {
        let embedded = matches!(self.place, Place::Embedded(_));
        Duration::from_millis(if embedded { 20 } else { 250 })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Embedded(_) => f.write_str("DynamoDB: embedded, in this process"),
            Place::Url(dynamo) => write!(f, "DynamoDB: {}", dynamo.endpoint()),
            Place::Aws(url) => write!(f, "DynamoDB: {url}"),
        }
    }
}

/// The three tables of a run. They are removed when it ends, also after Ctrl-C.
pub(super) struct Tables {
    client: Client,
    place: Place,
    primary_key: String,
    pub(super) source: String,
    pub(super) state: String,
    pub(super) markers: String,
    removed: AtomicBool,
    _started: Started,
}

impl Tables {
    pub(super) async fn create(server: &Server, primary_key: &str) -> Result<Self> {
        let client = server.client.clone();
        let run = format!("murmur-demo-{:016x}", fastrand::u64(..));
        let tables = Self {
            client: client.clone(),
            place: server.place.clone(),
            primary_key: primary_key.to_owned(),
            source: format!("{run}-source"),
            state: format!("{run}-state"),
            markers: format!("{run}-markers"),
            removed: AtomicBool::new(false),
            _started: Started::note(format!("the tables {run}-…"), None),
        };
        let attribute = AttributeDefinition::builder()
            .attribute_name(primary_key)
            .attribute_type(ScalarAttributeType::S)
            .build()?;
        let key = KeySchemaElement::builder()
            .attribute_name(primary_key)
            .key_type(KeyType::Hash)
            .build()?;
        client
            .create_table()
            .table_name(&tables.source)
            .attribute_definitions(attribute)
            .key_schema(key)
            .billing_mode(BillingMode::PayPerRequest)
            .send()
            .await
            .with_context(|| format!("cannot make the table {}", tables.source))?;
        client
            .wait_until_table_exists()
            .table_name(&tables.source)
            .wait(PATIENCE)
            .await?;
        create_int64_table(&client, &tables.state).await?;
        create_dedup_table(&client, &tables.markers).await?;
        Ok(tables)
    }

    /// Puts all rows, 25 to a request.
    pub(super) async fn load(&self, rows: &[Row], bar: &Bar) -> Result<()> {
        let batches: Vec<_> = rows
            .chunks(25)
            .map(|rows| self.put_batch(rows, bar))
            .collect();
        stream::iter(batches)
            .buffer_unordered(LOADERS)
            .try_collect::<()>()
            .await
    }

    async fn put_batch(&self, rows: &[Row], bar: &Bar) -> Result<()> {
        let mut requests = Vec::with_capacity(rows.len());
        for item in rows.iter().filter_map(|row| row.item.clone()) {
            let put = PutRequest::builder().set_item(Some(item.into())).build()?;
            requests.push(WriteRequest::builder().put_request(put).build());
        }
        let mut left = HashMap::from([(self.source.clone(), requests)]);
        let mut wait = Duration::from_millis(50);
        while !left.is_empty() {
            let answer = self
                .client
                .batch_write_item()
                .set_request_items(Some(left))
                .send()
                .await?;
            left = answer.unprocessed_items.unwrap_or_default();
            if !left.is_empty() {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(5));
            }
        }
        bar.add(rows.len());
        Ok(())
    }

    /// Puts one row, or removes it.
    pub(super) async fn write(&self, row: &Row) -> Result<()> {
        match row.item.clone() {
            Some(item) => {
                let put = self.client.put_item().table_name(&self.source);
                put.set_item(Some(item.into())).send().await?;
            }
            None => {
                let key = AttributeValue::S(row.id.clone());
                let delete = self.client.delete_item().table_name(&self.source);
                delete.key(&self.primary_key, key).send().await?;
            }
        }
        Ok(())
    }

    /// Enables the source table's stream and returns its ARN.
    pub(super) async fn enable_stream(&self) -> Result<String> {
        let stream = StreamSpecification::builder()
            .stream_enabled(true)
            .stream_view_type(StreamViewType::NewAndOldImages)
            .build()?;
        let update = self.client.update_table().table_name(&self.source);
        update.stream_specification(stream).send().await?;
        self.client
            .wait_until_table_exists()
            .table_name(&self.source)
            .wait(PATIENCE)
            .await?;
        let table = self
            .client
            .describe_table()
            .table_name(&self.source)
            .send()
            .await?
            .table;
        table
            .and_then(|table| table.latest_stream_arn)
            .context("the table has no stream")
    }

    /// Every row of the state table, read without Murmur's code.
    pub(super) async fn read_state(&self) -> Result<BTreeMap<String, i128>> {
        let scan = self
            .client
            .scan()
            .table_name(&self.state)
            .consistent_read(true);
        let rows: Vec<_> = scan
            .into_paginator()
            .items()
            .send()
            .collect::<Result<_, _>>()
            .await?;
        let mut totals = BTreeMap::new();
        // The row that names the owner of the table. No window has this bucket.
        let control = AttributeValue::N(i64::MIN.to_string());
        for row in rows {
            if row.get("sk") == Some(&control) {
                continue;
            }
            let (Some(AttributeValue::S(key)), Some(AttributeValue::N(value))) =
                (row.get("pk"), row.get("v"))
            else {
                bail!(
                    "the state table has a row of the wrong shape: its key `pk` is no string, or \
                     its value `v` no number"
                );
            };
            totals.insert(key.clone(), value.parse()?);
        }
        Ok(totals)
    }

    /// Removes the tables of this run.
    pub(super) async fn remove(&self) -> Result<()> {
        self.remove_by(&self.client).await?;
        self.removed.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn remove_by(&self, client: &Client) -> Result<()> {
        for table in [&self.source, &self.state, &self.markers] {
            let removed = client.delete_table().table_name(table).send().await;
            if let Err(error) = removed
                && !error
                    .as_service_error()
                    .is_some_and(DeleteTableError::is_resource_not_found_exception)
            {
                return Err(error).with_context(|| format!("cannot remove the table {table}"));
            }
        }
        Ok(())
    }
}

impl Drop for Tables {
    /// Runs if the run was stopped by an error or by Ctrl-C.
    fn drop(&mut self) {
        if self.removed.load(Ordering::Relaxed) {
            return;
        }
        let remove = || -> Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async { self.remove_by(&self.place.connect().await.0).await })
        };
        // On a separate thread, because this one is inside the interrupted runtime.
        let removed = std::thread::scope(|scope| scope.spawn(remove).join());
        if let Ok(Err(error)) = removed {
            eprintln!("tables may be left behind: {error:#}");
        }
    }
}
