//! The streams that the bench reads.

use anyhow::{Result, bail};
use aws_lambda_events::event::dynamodb::{Event, EventRecord, OperationType, StreamViewType};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodbstreams::types::ShardIteratorType;
use murmur_state::Clock;
use murmur_state::time::SystemClock;
use murmur_streams::{StoreSource, StreamInfo, StreamRecord, StreamStore};

use super::READ;
use crate::bench::orders::OrderTable;
use crate::bench::workload::{Keys, Workload};

const ARN: &str = "arn:aws:dynamodb:eu-west-1:123456789012:table/orders/stream/bench";

/// A stream filled with orders, and the sum of their amounts.
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

/// Creates a stream in this process.
pub(super) fn store(records: usize) -> Result<Filled<StoreSource>> {
    let store = StreamStore::new();
    store.register_stream(StreamInfo::new(ARN, StreamViewType::NewAndOldImages));
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

/// Creates a table on the server, puts orders into it, and returns the ARN of its stream.
pub(super) async fn table(client: &Client, records: usize) -> Result<(OrderTable, Filled<String>)> {
    let table = OrderTable::create(client, true).await?;
    let source = table.stream_arn()?.to_owned();
    let (event, total) = orders(records);
    let items = event.records.into_iter();
    let items = items.map(|record| record.change.new_image.into());
    // One at a time, in the order in which they were generated.
    table.put(client, items, 1).await?;
    let filled = Filled {
        source,
        records,
        total,
    };
    Ok((table, filled))
}

/// Reads a stream with the bare SDK and only counts its records.
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
