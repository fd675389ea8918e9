//! The interface of a stream source, with its arguments and answers.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::EventRecord;
use murmur_state::SequenceNumber;

use crate::error::StreamError;

pub use crate::description::{KeySchemaElement, ShardInfo, StreamDescription, StreamInfo};

/// The most records one read may request, as in DynamoDB's `GetRecords`.
pub(crate) const MAX_READ: usize = 1000;

/// How long DynamoDB Streams keeps an iterator.
pub(crate) const ITERATOR_LIFE: Duration = Duration::from_secs(15 * 60);

/// Where reading a shard starts.
///
/// There is no start by time, because DynamoDB Streams has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// The oldest record that the shard still has.
    TrimHorizon,
    /// After the newest record at the time of the first read.
    Latest,
    /// The record with this number.
    At(SequenceNumber),
    /// The record that follows this number.
    After(SequenceNumber),
}

impl Start {
    /// Whether it is the same place at every look-up. Then the stream itself reports that records
    /// from there on are gone.
    pub(crate) fn is_exact(&self) -> bool {
        matches!(self, Self::At(_) | Self::After(_))
    }
}

/// A place in a shard: where to start, or where the last read ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cursor {
    /// A place to be looked up.
    Start(Start),
    /// The source's own token, from [`ReadBatch::next`].
    Iterator {
        /// Has a meaning only for the source that made it.
        token: String,
        /// Where to start once the source has forgotten the token (DynamoDB: after 15 minutes):
        /// after the last record read, or where reading started.
        renew: Start,
    },
}

impl From<Start> for Cursor {
    fn from(start: Start) -> Self {
        Self::Start(start)
    }
}

/// The result of one read.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ReadBatch {
    /// The records in the shard's order, in Lambda's form. May be empty before the end of the
    /// shard.
    pub records: Vec<EventRecord>,
    /// Where to continue, or `None` once a closed shard is read to its end.
    pub next: Option<Cursor>,
}

impl ReadBatch {
    /// Records in the shard's order, and where to continue.
    pub fn new(records: Vec<EventRecord>, next: Option<Cursor>) -> Self {
        Self { records, next }
    }
}

/// One stream, read shard by shard.
///
/// Both methods are required.
///
/// # Contract
///
/// `describe` lists every shard, over as many pages as it takes.
///
/// `read` returns up to `limit` records (1 to 1000) of one shard in order, with none left out.
/// Reading on from each [`ReadBatch::next`] returns every record once. An empty answer with a
/// `next` means that there is no record *yet*, or that the source has more to look through.
///
/// The source does not hold children back until their parents are read; the
/// [`Trigger`](crate::Trigger) does.
///
/// # Errors
///
/// [`StreamError::is_retryable`] tells which errors may be retried.
///
/// A source whose iterators expire looks a new one up by itself at a sequence number; if that would
/// leave records out, the stream refuses it with [`StreamError::Trimmed`]. An iterator that started
/// at TRIM_HORIZON or LATEST and gave no record yet cannot be replaced: starting there again would
/// silently skip records that were trimmed or put meanwhile. The source then fails with
/// [`StreamError::IteratorExpired`], and the caller decides whether there can be such records.
///
/// # Cancel safety
///
/// Reading changes nothing. A dropped call can be made again with the same arguments.
pub trait StreamSource: Send + Sync {
    /// Describes the stream and all its shards.
    fn describe(&self) -> impl Future<Output = Result<StreamDescription, StreamError>> + Send;

    /// Reads up to `limit` records of `shard`, starting at `from`.
    fn read(
        &self,
        shard: &str,
        from: &Cursor,
        limit: usize,
    ) -> impl Future<Output = Result<ReadBatch, StreamError>> + Send;
}

#[deny(clippy::missing_trait_methods)]
impl<S: StreamSource> StreamSource for &S {
    async fn describe(&self) -> Result<StreamDescription, StreamError> {
        S::describe(self).await
    }

    async fn read(
        &self,
        shard: &str,
        from: &Cursor,
        limit: usize,
    ) -> Result<ReadBatch, StreamError> {
        S::read(self, shard, from, limit).await
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: StreamSource> StreamSource for Arc<S> {
    async fn describe(&self) -> Result<StreamDescription, StreamError> {
        S::describe(self).await
    }

    async fn read(
        &self,
        shard: &str,
        from: &Cursor,
        limit: usize,
    ) -> Result<ReadBatch, StreamError> {
        S::read(self, shard, from, limit).await
    }
}
