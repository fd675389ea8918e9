//! What a source of a stream has to offer, and the values it is asked with and answers.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::EventRecord;
use murmur_state::SequenceNumber;

use crate::error::StreamError;

pub use crate::description::{KeySchemaElement, ShardInfo, StreamDescription, StreamInfo};

/// The most records one read may ask for, as DynamoDB's `GetRecords`.
pub(crate) const MAX_READ: usize = 1000;

/// How long DynamoDB Streams remembers an iterator it gave.
pub(crate) const ITERATOR_LIFE: Duration = Duration::from_secs(15 * 60);

/// Where reading a shard begins.
///
/// There is no start by time: DynamoDB Streams has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// The oldest record the shard still has.
    TrimHorizon,
    /// After the newest record at the time of the first read.
    Latest,
    /// The record with this number.
    At(SequenceNumber),
    /// The record that follows this number.
    After(SequenceNumber),
}

impl Start {
    /// Whether it is the same place whenever it is looked up; then the stream itself tells where
    /// records from there on are gone.
    pub(crate) fn is_exact(&self) -> bool {
        matches!(self, Self::At(_) | Self::After(_))
    }
}

/// A place in a shard: where to begin, or where the last read ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cursor {
    /// To be looked up.
    Start(Start),
    /// The source's own token, from [`ReadBatch::next`].
    Iterator {
        /// Means something to the source that made it, and to nobody else.
        token: String,
        /// The place to begin at once the source has forgotten the token (DynamoDB: after 15
        /// minutes): after the last record read, or where reading began.
        renew: Start,
    },
}

impl From<Start> for Cursor {
    fn from(start: Start) -> Self {
        Self::Start(start)
    }
}

/// What one read gave.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ReadBatch {
    /// The records in the shard's order, in Lambda's form. May be empty without being the end.
    pub records: Vec<EventRecord>,
    /// Where to go on; `None` once a closed shard is read to its end.
    pub next: Option<Cursor>,
}

impl ReadBatch {
    /// Records in the shard's order, and where to go on.
    pub fn new(records: Vec<EventRecord>, next: Option<Cursor>) -> Self {
        Self { records, next }
    }
}

/// One stream, to be read shard by shard.
///
/// Both methods are required.
///
/// # Contract
///
/// `describe` lists every shard, over as many pages as it takes. `read` answers up to `limit`
/// records (1 to 1000) of one shard in order, none left out: reading on from each
/// [`ReadBatch::next`] meets every record once. An empty answer with a `next` says that nothing is
/// there *yet*, or that the source has more to look through. The source does not keep children
/// behind their parents; the [`Trigger`](crate::Trigger) does.
///
/// # Errors
///
/// [`StreamError::is_retryable`] tells what may be tried again. A source that forgets iterators
/// looks one up again by itself at a sequence number: there the stream refuses, as
/// [`StreamError::Trimmed`], what would leave records out. One that began at TRIM_HORIZON or LATEST
/// and gave no record yet it fails with [`StreamError::IteratorExpired`], since beginning there
/// again passes over in silence what was trimmed, or put, meanwhile; the caller knows whether
/// anything can have been.
///
/// # Cancel safety
///
/// Reading changes nothing: a dropped call can be made again with the same arguments.
pub trait StreamSource: Send + Sync {
    /// The stream and all its shards.
    fn describe(&self) -> impl Future<Output = Result<StreamDescription, StreamError>> + Send;

    /// Up to `limit` records of `shard` from `from` on.
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
