//! DynamoDB Streams as a source, over `aws-sdk-dynamodbstreams`.

mod body;
mod convert;
mod failure;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::EventRecord;
use aws_sdk_dynamodbstreams::config::http::HttpResponse;
use aws_sdk_dynamodbstreams::config::timeout::TimeoutConfig;
use aws_sdk_dynamodbstreams::error::SdkError;
use aws_sdk_dynamodbstreams::types::{self, ShardIteratorType};
use aws_sdk_dynamodbstreams::{Client, config};
use murmur_state::handler::UNREADABLE;
use murmur_state::retry::Retry;
use murmur_state::time::{Random, SystemClock};
use murmur_state::{Causes, Clock, Deadline, OptionError, RetryPolicy, SequenceNumber};

pub use failure::call_failure;

use self::convert::Answer;
use crate::description::{StreamDescription, StreamInfo};
use crate::error::StreamError;
use crate::source::{Cursor, MAX_READ, ReadBatch, Start, StreamSource};

/// DescribeStream allows 10 calls a second per account and region (Amazon DynamoDB API Reference,
/// "DescribeStream").
const PAGE_INTERVAL: Duration = Duration::from_millis(100);

/// How long to wait for an answer, which has at most 1 MB.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one page of DescribeStream is requested again after transient errors.
const PAGE_BUDGET: Duration = Duration::from_secs(60);

/// How many iterators at a sequence number are requested in one read. Each may expire before it is
/// used if the machine is suspended in between.
const FRESH_ITERATORS: usize = 3;

/// One stream, read through the DynamoDB Streams API. Available with the feature `aws` of this
/// crate, which is off by default.
///
/// Needs `dynamodb:DescribeStream`, `dynamodb:GetShardIterator` and `dynamodb:GetRecords` on the
/// stream. The client's own retries may stay on, because everything here only reads.
///
/// An answer is waited for 10 s; then the request is made again. The SDK by itself waits without
/// end on a dead connection. An iterator that has expired (after 15 minutes) is replaced by one
/// that starts after the last record read. If it gave no record yet, the read fails with
/// [`StreamError::IteratorExpired`].
///
/// Records are as Lambda passes them to a function, with `eventSourceARN` and without `tableName`.
/// A record that cannot be understood, such as one with the `{}` that DynamoDB Local 3.1.0 writes
/// for an empty map, keeps the parts that could be read, and has [`UNREADABLE`] and the reason as
/// its event name. Its neighbours are unaffected. If only an image cannot be understood, or an
/// image was sent empty, the record's `recordFormat` says so
/// ([`ImageNotes`](murmur_state::images::ImageNotes)).
#[derive(Debug, Clone)]
pub struct StreamsApi {
    client: Client,
    arn: String,
    clock: Arc<dyn Clock>,
    random: Random,
}

impl StreamsApi {
    /// The stream with this ARN, read through `client`. No request is sent yet.
    pub fn new(client: Client, stream_arn: impl Into<String>) -> Self {
        Self {
            client,
            arn: stream_arn.into(),
            clock: SystemClock::shared(),
            random: Random::new(),
        }
    }

    /// Uses `clock` for the pauses between pages of DescribeStream, and before a page is requested
    /// again. Default: the machine's clock.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Uses `random` for the pauses before a page of DescribeStream is requested again. Default:
    /// seeded by the system.
    #[must_use]
    pub fn with_random(mut self, random: Random) -> Self {
        self.random = random;
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
    ) -> Result<Option<Answer>, StreamError> {
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
            Ok(answer) => {
                let records = answer.records.unwrap_or_default().into_iter();
                Ok(Some(Answer {
                    records: records
                        .map(|record| convert::record(record, &self.arn))
                        .collect(),
                    next: answer.next_shard_iterator,
                }))
            }
            Err(error) if failure::is_expired_iterator(&error) => Ok(None),
            Err(error) => match unparsed(&error).and_then(|body| body::read(body, &self.arn)) {
                Some(read) => Ok(Some(read)),
                None => Err(failure::of_shard(&self.arn, shard, error)),
            },
        }
    }
}

impl StreamSource for StreamsApi {
    async fn describe(&self) -> Result<StreamDescription, StreamError> {
        Listing {
            client: &self.client,
            arn: &self.arn,
            clock: &self.clock,
            random: &self.random,
        }
        .all()
        .await
    }

    async fn read(
        &self,
        shard: &str,
        from: &Cursor,
        limit: usize,
    ) -> Result<ReadBatch, StreamError> {
        let (mut known, begun) = match from {
            Cursor::Start(start) => (None, start),
            Cursor::Iterator { token, renew } => (Some(token.clone()), renew),
        };
        let mut fresh = 0;
        let answer = loop {
            let token = match known.take() {
                Some(token) => token,
                None => {
                    fresh += 1;
                    self.iterator(shard, begun).await?
                }
            };
            if let Some(answer) = self.records(shard, &token, limit).await? {
                break answer;
            }
            let (arn, shard) = (self.arn.clone(), shard.to_owned());
            if !begun.is_exact() {
                return Err(StreamError::IteratorExpired { arn, shard });
            }
            if fresh == FRESH_ITERATORS {
                return Err(StreamError::unexpected(
                    &arn,
                    "its iterators expire as soon as they are made",
                ));
            }
        };
        let Answer { records, next } = answer;
        let unreadable = |r: &&_| is_unreadable(r);
        if let Some(first) = records.iter().find(unreadable) {
            tracing::warn!(
                shard,
                sequence_number = first.change.sequence_number,
                records = records.iter().filter(unreadable).count(),
                reason = first.event_name,
                "some records cannot be read; they are delivered as unreadable"
            );
        }
        let numbers = records
            .iter()
            .rev()
            .filter_map(|r| r.change.sequence_number.as_deref());
        // Reading cannot continue after an invalid number.
        let last = numbers
            .filter_map(|number| SequenceNumber::new(number).ok())
            .next();
        let renew = last.map_or_else(|| begun.clone(), Start::After);
        let next = next.map(|token| Cursor::Iterator { token, renew });
        Ok(ReadBatch { records, next })
    }
}

fn is_unreadable(record: &EventRecord) -> bool {
    record.event_name.starts_with(UNREADABLE)
}

/// The body of a successful answer that the SDK cannot parse.
fn unparsed<E>(error: &SdkError<E, HttpResponse>) -> Option<&[u8]> {
    let answer = error.raw_response()?;
    answer.status().is_success().then_some(())?;
    answer.body().bytes()
}

/// The settings of every request: the client's own, with a limit on waiting.
fn bounded() -> config::Builder {
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_TIMEOUT);
    config::Builder::new().timeout_config(timeouts.build())
}

/// Describes a stream and all its shards, over all pages of DescribeStream.
///
/// Pages are requested at most 10 times a second, the service's limit for an account. A page with a
/// transient error (throttling, a server error) is requested again, with growing pauses, for up to
/// a minute. The pages before it are not requested again.
///
/// # Errors
///
/// [`StreamError`] if the stream is missing or may not be described, the service failed (see
/// [`StreamError::is_retryable`]), or the service repeats its pages. A disabled stream is not an
/// error; see [`StreamDescription::ensure_enabled`].
///
/// # Cancel safety
///
/// Cancel safe: it only reads.
pub async fn describe_stream(
    client: &Client,
    stream_arn: &str,
) -> Result<StreamDescription, StreamError> {
    let (clock, random) = (SystemClock::shared(), Random::new());
    Listing {
        client,
        arn: stream_arn,
        clock: &clock,
        random: &random,
    }
    .all()
    .await
}

/// Describes a stream without its shards, in one call of DescribeStream, independent of their
/// number.
///
/// A call with a transient error is repeated, as in [`describe_stream`].
///
/// # Errors
///
/// As [`describe_stream`].
///
/// # Cancel safety
///
/// Cancel safe: it only reads.
pub async fn describe_stream_info(
    client: &Client,
    stream_arn: &str,
) -> Result<StreamInfo, StreamError> {
    let (clock, random) = (SystemClock::shared(), Random::new());
    let listing = Listing {
        client,
        arn: stream_arn,
        clock: &clock,
        random: &random,
    };
    let page = listing.page(None, Some(1)).await?;
    Ok(convert::description(page, Vec::new(), stream_arn)?.info)
}

/// What is needed to list the pages of DescribeStream.
struct Listing<'a> {
    client: &'a Client,
    arn: &'a str,
    clock: &'a Arc<dyn Clock>,
    random: &'a Random,
}

impl Listing<'_> {
    async fn all(&self) -> Result<StreamDescription, StreamError> {
        let mut first = self.page(None, None).await?;
        let mut shards = first.shards.take().unwrap_or_default();
        let mut after = first.last_evaluated_shard_id.take();
        let mut seen = HashSet::new();
        while let Some(last) = after {
            if !seen.insert(last.clone()) {
                return Err(StreamError::unexpected(
                    self.arn,
                    "DescribeStream repeats its pages",
                ));
            }
            self.clock.sleep(PAGE_INTERVAL).await;
            let next = self.page(Some(last), None).await?;
            shards.extend(next.shards.unwrap_or_default());
            after = next.last_evaluated_shard_id;
        }
        convert::description(first, shards, self.arn)
    }

    /// Requests one page, again after transient errors. A caller that restarted the whole listing
    /// instead might never finish it while many others list.
    async fn page(
        &self,
        after: Option<String>,
        limit: Option<i32>,
    ) -> Result<types::StreamDescription, StreamError> {
        let policy = RetryPolicy::default()
            .max_attempts(u32::MAX)
            .budget(PAGE_BUDGET);
        let retry = Retry::new(policy, Arc::clone(self.clock), self.random.clone());
        let on_retry = |error: &StreamError| {
            tracing::debug!(error = %Causes(error), "a page of DescribeStream is requested again");
        };
        let ask = || self.ask(after.clone(), limit);
        retry.run(Deadline::NONE, on_retry, ask).await
    }

    async fn ask(
        &self,
        after: Option<String>,
        limit: Option<i32>,
    ) -> Result<types::StreamDescription, StreamError> {
        let answer = self
            .client
            .describe_stream()
            .stream_arn(self.arn)
            .set_exclusive_start_shard_id(after)
            .set_limit(limit)
            .customize()
            .config_override(bounded())
            .send()
            .await
            .map_err(|error| failure::of_stream(self.arn, error))?;
        answer
            .stream_description
            .ok_or_else(|| StreamError::unexpected(self.arn, "no description"))
    }
}
