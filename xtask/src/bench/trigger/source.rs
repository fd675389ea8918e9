//! The streams that are read.

use anyhow::{Context, Result, bail, ensure};
use aws_lambda_events::event::dynamodb::{
    Event, EventRecord, OperationType, StreamStatus, StreamViewType,
};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, PutRequest, ScalarAttributeType,
    StreamSpecification, WriteRequest,
};
use aws_sdk_dynamodbstreams::types::ShardIteratorType;
use murmur_state::{Clock, SystemClock};
use murmur_streams::{StoreSource, StreamInfo, StreamRecord, StreamStore};

use super::READ;
use crate::bench::workload::{Keys, Workload};

const ARN: &str = "arn:aws:dynamodb:eu-west-1:123456789012:table/orders/stream/bench";

/// The most items of one BatchWriteItem.
const WRITE: usize = 25;

/// A stream full of orders, and what they amount to.
pub(super) struct Filled<S> {
    pub(super) source: S,
    pub(super) records: usize,
    pub(super) total: i64,
}

impl<S> Filled<S> {
    pub(super) fn map<T>(self, source: impl FnOnce(S) -> T) -> Filled<T> {
        Filled {
            source: source(self.source),
            records: self.records,
            total: self.total,
        }
    }
}

fn orders(records: usize) -> (Event, i64) {
    let mut workload = Workload::new(Keys::Zipf, 23);
    let now = SystemClock::new().now();
    let event = workload.batch(records, |_| now);
    (event, workload.total)
}

/// A stream in this process.
pub(super) fn store(records: usize) -> Result<Filled<StoreSource>> {
    let store = StreamStore::new();
    store.register_stream(StreamInfo {
        stream_arn: ARN.to_owned(),
        table_name: "orders".to_owned(),
        stream_view_type: StreamViewType::NewAndOldImages,
        stream_label: "bench".to_owned(),
        stream_status: StreamStatus::Enabled,
        key_schema: Vec::new(),
        creation_time: None,
    });
    let (event, total) = orders(records);
    for EventRecord {
        event_id, change, ..
    } in event.records
    {
        store.put_record(StreamRecord {
            event_id,
            event_name: OperationType::Insert,
            stream_arn: ARN.to_owned(),
            keys: change.keys,
            new_image: change.new_image,
            ..StreamRecord::default()
        })?;
    }
    Ok(Filled {
        source: store.source(ARN),
        records,
        total,
    })
}

/// A table on the server, with a stream.
pub(super) struct SourceTable {
    name: String,
    pub(super) stream_arn: String,
}

impl SourceTable {
    /// A new one into which orders were put, and the ARN of its stream.
    pub(super) async fn filled(client: &Client, records: usize) -> Result<(Self, Filled<String>)> {
        let name = format!("murmur-bench-{:016x}-orders", fastrand::u64(..));
        let id = AttributeDefinition::builder().attribute_name("id");
        let key = KeySchemaElement::builder().attribute_name("id");
        let stream = StreamSpecification::builder()
            .stream_enabled(true)
            .stream_view_type(aws_sdk_dynamodb::types::StreamViewType::NewAndOldImages);
        let created = client
            .create_table()
            .table_name(&name)
            .billing_mode(BillingMode::PayPerRequest)
            .attribute_definitions(id.attribute_type(ScalarAttributeType::S).build()?)
            .key_schema(key.key_type(KeyType::Hash).build()?)
            .stream_specification(stream.build()?)
            .send()
            .await?;
        let stream_arn = created
            .table_description
            .and_then(|table| table.latest_stream_arn)
            .context("the table has no stream")?;

        let (event, total) = orders(records);
        for part in event.records.chunks(WRITE) {
            let put = |record: &EventRecord| {
                let item = record.change.new_image.clone();
                let put = PutRequest::builder().set_item(Some(item.into())).build()?;
                Ok(WriteRequest::builder().put_request(put).build())
            };
            let puts: Vec<WriteRequest> = part.iter().map(put).collect::<Result<_>>()?;
            let write = client.batch_write_item().request_items(&name, puts);
            let left = write.send().await?.unprocessed_items.unwrap_or_default();
            ensure!(left.is_empty(), "the server did not take all puts");
        }
        let filled = Filled {
            source: stream_arn.clone(),
            records,
            total,
        };
        Ok((Self { name, stream_arn }, filled))
    }

    pub(super) async fn remove(self, client: &Client) -> Result<()> {
        client.delete_table().table_name(self.name).send().await?;
        Ok(())
    }
}

/// Reads a stream by the bare SDK and counts its records, no more.
pub(super) async fn count(client: &aws_sdk_dynamodbstreams::Client, arn: &str) -> Result<usize> {
    let described = client.describe_stream().stream_arn(arn).send().await?;
    let Some(described) = described.stream_description else {
        bail!("the stream has no description");
    };
    let mut count = 0;
    for shard in described.shards() {
        let begin = client
            .get_shard_iterator()
            .stream_arn(arn)
            .set_shard_id(shard.shard_id.clone())
            .shard_iterator_type(ShardIteratorType::TrimHorizon);
        let mut next = begin.send().await?.shard_iterator;
        while let Some(iterator) = next {
            let read = client.get_records().shard_iterator(iterator);
            let read = read.limit(READ.try_into()?).send().await?;
            let records = read.records().len();
            count += records;
            next = read.next_shard_iterator.filter(|_| records > 0);
        }
    }
    Ok(count)
}
