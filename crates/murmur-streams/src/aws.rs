mod convert;
mod failure;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodbstreams::config::timeout::TimeoutConfig;
use aws_sdk_dynamodbstreams::operation::get_records::GetRecordsOutput;
use aws_sdk_dynamodbstreams::types::{self, ShardIteratorType};
use aws_sdk_dynamodbstreams::{Client, config};
use murmur_state::{Clock, OptionError, SequenceNumber, SystemClock};

pub use failure::call_failure;

use crate::description::StreamDescription;
use crate::error::StreamError;
use crate::source::{Batch, Cursor, MAX_READ, Start, StreamSource};

/// DescribeStream takes 10 calls a second per account and region
/// (Amazon DynamoDB API Reference, "DescribeStream").
const PAGE_INTERVAL: Duration = Duration::from_millis(100);

/// How long an answer is waited for; one brings at most 1 MB.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// One stream, read through the DynamoDB Streams API.
///
/// Needs `dynamodb:DescribeStream`, `dynamodb:GetShardIterator` and `dynamodb:GetRecords` on the
/// stream. The client's own retries may stay on: everything here only reads. An answer is waited
/// for 10 s, then the request is made again: the SDK by itself would wait without end on a
/// connection that is dead. An iterator that has expired (after 15 minutes) is replaced by one that
/// begins after the last record read.
///
/// Records are as Lambda hands them to a function, `eventSourceARN` included, `tableName` not.
#[derive(Debug, Clone)]
pub struct StreamsApi {
    client: Client,
    arn: String,
    clock: Arc<dyn Clock>,
}

impl StreamsApi {
    /// The stream with this ARN, through `client`. Nothing is sent yet.
    pub fn new(client: Client, stream_arn: impl Into<String>) -> Self {
        Self {
            client,
            arn: stream_arn.into(),
            clock: SystemClock::shared(),
        }
    }

    /// The same, pausing between the pages of DescribeStream on `clock`. Default the machine's.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    async fn iterator(&self, shard: &str, start: &Start) -> Result<String, StreamError> {
        let (kind, number) = match start {
            Start::TrimHorizon => (ShardIteratorType::TrimHorizon, None),
            Start::Latest => (ShardIteratorType::Latest, None),
            Start::At(number) => (
                ShardIteratorType::AtSequenceNumber,
                Some(number.to_string()),
            ),
            Start::After(number) => (
                ShardIteratorType::AfterSequenceNumber,
                Some(number.to_string()),
            ),
        };
        let answer = self
            .client
            .get_shard_iterator()
            .stream_arn(&self.arn)
            .shard_id(shard)
            .shard_iterator_type(kind)
            .set_sequence_number(number)
            .customize()
            .config_override(bounded())
            .send()
            .await
            .map_err(|error| failure::of_shard(&self.arn, shard, error))?;
        answer
            .shard_iterator
            .ok_or_else(|| StreamError::unexpected(&self.arn, "GetShardIterator gave no iterator"))
    }

    /// `None` if the iterator has expired.
    async fn records(
        &self,
        shard: &str,
        iterator: &str,
        limit: usize,
    ) -> Result<Option<GetRecordsOutput>, StreamError> {
        let limit = i32::try_from(limit)
            .ok()
            .filter(|limit| (1..=MAX_READ as i32).contains(limit));
        let limit =
            limit.ok_or_else(|| OptionError::new("limit", format!("outside 1..={MAX_READ}")))?;
        match self
            .client
            .get_records()
            .shard_iterator(iterator)
            .limit(limit)
            .customize()
            .config_override(bounded())
            .send()
            .await
        {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if failure::is_expired_iterator(&error) => Ok(None),
            Err(error) => Err(failure::of_shard(&self.arn, shard, error)),
        }
    }
}

impl StreamSource for StreamsApi {
    async fn describe(&self) -> Result<StreamDescription, StreamError> {
        pages(&self.client, &self.arn, &*self.clock).await
    }

    async fn read(&self, shard: &str, from: &Cursor, limit: usize) -> Result<Batch, StreamError> {
        let (known, begun) = match from {
            Cursor::Start(start) => (None, start),
            Cursor::Iterator { token, renew } => (Some(token), renew),
        };
        let mut answer = match known {
            Some(token) => self.records(shard, token, limit).await?,
            None => None,
        };
        if answer.is_none() {
            if known.is_some() && *begun == Start::Latest {
                let (arn, shard) = (self.arn.clone(), shard.to_owned());
                return Err(StreamError::LatestExpired { arn, shard });
            }
            let token = self.iterator(shard, begun).await?;
            answer = self.records(shard, &token, limit).await?;
        }
        let answer = answer.ok_or_else(|| {
            StreamError::unexpected(&self.arn, "an iterator expired as soon as it was given")
        })?;
        let records = answer.records.unwrap_or_default();
        let records = records
            .into_iter()
            .map(|record| convert::record(record, &self.arn));
        let records = records.collect::<Result<Vec<_>, _>>()?;
        let last = records
            .iter()
            .rev()
            .find_map(|r| r.change.sequence_number.as_deref());
        let renew = match last {
            Some(number) => Start::After(SequenceNumber::new(number)?),
            None => begun.clone(),
        };
        let next = answer
            .next_shard_iterator
            .map(|token| Cursor::Iterator { token, renew });
        Ok(Batch { records, next })
    }
}

/// The settings of every request: the client's own, and a bound to waiting.
fn bounded() -> config::Builder {
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_TIMEOUT);
    config::Builder::new().timeout_config(timeouts.build())
}

/// A stream and all its shards, over as many pages of DescribeStream as there are.
///
/// Pages are asked for at most 10 times a second, the service's limit for an account.
///
/// # Errors
///
/// [`StreamError`]: the stream is missing or may not be described, the service failed (see
/// [`StreamError::is_retryable`]), or it repeats its pages. A disabled stream is none, see
/// [`StreamDescription::ensure_enabled`].
///
/// # Cancel safety
///
/// Cancel safe: it only reads.
pub async fn describe_stream(
    client: &Client,
    stream_arn: &str,
) -> Result<StreamDescription, StreamError> {
    pages(client, stream_arn, &SystemClock::new()).await
}

async fn pages(
    client: &Client,
    arn: &str,
    clock: &dyn Clock,
) -> Result<StreamDescription, StreamError> {
    let page = |after: Option<String>| async move {
        let request = client
            .describe_stream()
            .stream_arn(arn)
            .set_exclusive_start_shard_id(after);
        let answer = request
            .customize()
            .config_override(bounded())
            .send()
            .await
            .map_err(|error| failure::of_stream(arn, error))?;
        answer
            .stream_description
            .ok_or_else(|| StreamError::unexpected(arn, "no description"))
    };
    let mut first = page(None).await?;
    let mut shards = first.shards.take().unwrap_or_default();
    let mut after = first.last_evaluated_shard_id.take();
    let mut seen = HashSet::new();
    while let Some(last) = after {
        if !seen.insert(last.clone()) {
            return Err(StreamError::unexpected(
                arn,
                "DescribeStream repeats its pages",
            ));
        }
        clock.sleep(PAGE_INTERVAL).await;
        let next: types::StreamDescription = page(Some(last)).await?;
        shards.extend(next.shards.unwrap_or_default());
        after = next.last_evaluated_shard_id;
    }
    convert::description(first, shards, arn)
}
