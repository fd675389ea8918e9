//! The in-process stream store.

mod range;
mod shard;
mod stream;

use std::collections::HashMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use murmur_state::time::SystemClock;
use murmur_state::{Clock, OptionError, SequenceNumber, Timestamp};

use crate::description::{StreamDescription, StreamInfo};
use crate::error::StreamError;
use crate::record::StreamRecord;
use crate::source::{Cursor, ITERATOR_LIFE, MAX_READ, ReadBatch, Start, StreamSource};

use self::shard::Shard;
use self::stream::Stream;

/// DynamoDB Streams keeps records for 24 hours.
const RETENTION: Duration = Duration::from_secs(24 * 60 * 60);

/// The most shards on a page, as in DynamoDB's `DescribeStream`.
const MAX_PAGE: usize = 100;

/// The most shards a stream may start with.
const MAX_SHARDS: usize = 10_000;

/// Streams kept in this process. A writer of items puts records here, and a stream reader gets
/// them.
///
/// # Shards
///
/// The open shards of a stream divide its items among them. Each shard has a range of the hash of
/// the item's key ([`StreamRecord::keys`]). The order of the key's attributes does not matter; a
/// number counts as it is written, so write it in one form, as DynamoDB does. [`split`] and
/// [`roll_over`] close shards and open their children, which continue the parent's range. So all
/// changes of an item are in one shard or its descendants, in the order in which they were put,
/// with rising sequence numbers. A reader that reads parents before children reads them in order.
///
/// # Retention
///
/// A record is kept for 24 hours, or for the set [`retention`], by the store's clock. The next call
/// that puts, reads or describes drops older records, always from the front of a shard: a record is
/// never dropped before the records put earlier into its shard. A closed shard leaves the list once
/// all its records are gone and it was closed that long ago. Its children still name it as their
/// parent. A dropped record stays dropped, even if the clock is set back.
///
/// # Concurrency
///
/// Clones share one store. Any number of threads may put, read, describe, split and roll over at
/// the same time. Each call takes effect as a whole, and no code of the caller, including the
/// clock, runs while the store is locked. Every call visits each shard of its stream, so its cost
/// rises with the number of shards. Reading shares records instead of copying them.
///
/// [`split`]: StreamStore::split
/// [`roll_over`]: StreamStore::roll_over
/// [`retention`]: StreamStore::retention
#[derive(Clone)]
pub struct StreamStore {
    streams: Arc<Mutex<Streams>>,
    clock: Arc<dyn Clock>,
}

struct Streams {
    by_arn: HashMap<String, Stream>,
    retention: Duration,
}

/// One page of a stream's shards, from [`StreamStore::describe_stream_page`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DescribePage {
    /// The stream, and the shards of this page. Combine the pages before calling
    /// [`StreamDescription::is_closed`], which looks for children.
    pub description: StreamDescription,
    /// The last shard of this page, where the next page starts, or `None` if there are no more.
    pub last_evaluated_shard_id: Option<String>,
}

impl StreamStore {
    /// Creates an empty store on the machine's clock.
    pub fn new() -> Self {
        Self::with_clock(SystemClock::shared())
    }

    /// Creates an empty store that takes the creation time and the age of records from `clock`.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self {
            streams: Arc::new(Mutex::new(Streams {
                by_arn: HashMap::new(),
                retention: RETENTION,
            })),
            clock,
        }
    }

    /// Keeps records for `retention`, counted in whole milliseconds. Default 24 hours.
    ///
    /// It applies to every clone and to records that are already in the store. A record is dropped
    /// once it is `retention` old: with zero at once, with [`Duration::MAX`] never.
    #[must_use]
    pub fn retention(self, retention: Duration) -> Self {
        self.lock().retention = retention;
        self
    }

    /// The store shared by this process, for a producer and a reader that do not know each other.
    pub fn global() -> &'static Self {
        static GLOBAL: OnceLock<StreamStore> = OnceLock::new();
        GLOBAL.get_or_init(Self::new)
    }

    /// Registers a stream under its ARN, with one open shard.
    ///
    /// Registering an ARN again replaces the description of the stream and keeps its shards and
    /// records. A status that takes no records (DISABLED, DISABLING) closes its open shards. Once
    /// the stream takes records again, each of them has a child that continues it.
    pub fn register_stream(&self, info: StreamInfo) {
        self.register(info, 1);
    }

    /// Registers a stream under its ARN, with `shards` open shards of equal ranges.
    ///
    /// Otherwise as [`register_stream`](StreamStore::register_stream): a stream that already had
    /// shards keeps those it has.
    ///
    /// # Errors
    ///
    /// [`OptionError`] for `shards` outside 1..=10,000. Then nothing is changed.
    pub fn register_stream_with_shards(
        &self,
        info: StreamInfo,
        shards: usize,
    ) -> Result<(), OptionError> {
        check("shards", shards, 1..=MAX_SHARDS)?;
        self.register(info, shards);
        Ok(())
    }

    /// Appends a record to the open shard that has its key, fills in fields that it leaves empty,
    /// and returns its sequence number.
    ///
    /// The record gets the stream's view type, and images outside that type are not kept: KEYS_ONLY
    /// has none, NEW_IMAGE no old one, OLD_IMAGE no new one. A sequence number of the record's own
    /// must be above all in the stream, and above those at which empty shards were closed.
    ///
    /// # Errors
    ///
    /// - [`StreamError::UnknownStream`] if its stream was not registered.
    /// - [`StreamError::Disabled`] if the stream takes no records.
    /// - [`StreamError::NotRising`] if its own sequence number is not above all before it.
    ///
    /// In each case nothing is stored.
    pub fn put_record(&self, record: StreamRecord) -> Result<SequenceNumber, StreamError> {
        let arn = record.stream_arn.clone();
        self.with_stream(&arn, |stream, now| stream.put(record, now))
    }

    /// Describes the stream and all its shards, oldest first.
    ///
    /// # Errors
    ///
    /// [`StreamError::UnknownStream`].
    pub fn describe_stream(&self, stream_arn: &str) -> Result<StreamDescription, StreamError> {
        self.with_stream(stream_arn, |stream, _| Ok(stream.describe()))
    }

    /// Describes the stream and up to `limit` of its shards, oldest first: those after
    /// `exclusive_start_shard_id`, or the first ones.
    ///
    /// Pages requested one after the other, each from the previous page's
    /// [`last_evaluated_shard_id`](DescribePage::last_evaluated_shard_id), list every shard once
    /// that existed throughout, even if other shards come or go meanwhile. The start shard may have
    /// left the list.
    ///
    /// # Errors
    ///
    /// - [`StreamError::UnknownStream`].
    /// - [`StreamError::UnknownShard`] for a start shard that the stream never had.
    /// - [`StreamError::Option`] for a `limit` outside 1..=100, which DynamoDB refuses as well.
    pub fn describe_stream_page(
        &self,
        stream_arn: &str,
        exclusive_start_shard_id: Option<&str>,
        limit: usize,
    ) -> Result<DescribePage, StreamError> {
        check("limit", limit, 1..=MAX_PAGE)?;
        let (description, more) = self.with_stream(stream_arn, |stream, _| {
            stream.describe_page(exclusive_start_shard_id, limit)
        })?;
        let last = description.shards.last().filter(|_| more);
        Ok(DescribePage {
            last_evaluated_shard_id: last.map(|shard| shard.id.clone()),
            description,
        })
    }

    /// Returns up to `limit` records of a shard from `position` on, and the position after them.
    ///
    /// Positions count from the first record that the shard ever had, which is at 0. They do not
    /// change when records are dropped. A position past the end gives no records and the same
    /// position.
    ///
    /// # Errors
    ///
    /// - [`StreamError::UnknownStream`].
    /// - [`StreamError::UnknownShard`], also for a shard that has left the list.
    /// - [`StreamError::Trimmed`] if the record at `position` is past retention.
    /// - [`StreamError::Option`] for a `limit` outside 1..=1000, which DynamoDB refuses as well.
    pub fn get_records(
        &self,
        stream_arn: &str,
        shard_id: &str,
        position: usize,
        limit: usize,
    ) -> Result<(Vec<Arc<StreamRecord>>, usize), StreamError> {
        check("limit", limit, 1..=MAX_READ)?;
        self.with_shard(stream_arn, shard_id, |shard| shard.read(position, limit))
    }

    /// How many records were ever put into a shard, including dropped ones. This is the position of
    /// the record that is put next.
    ///
    /// # Errors
    ///
    /// [`StreamError::UnknownStream`], [`StreamError::UnknownShard`].
    pub fn shard_record_count(
        &self,
        stream_arn: &str,
        shard_id: &str,
    ) -> Result<usize, StreamError> {
        self.with_shard(stream_arn, shard_id, |shard| Some(shard.count()))
    }

    /// Closes an open shard and opens two children with half its range each, like DynamoDB for a
    /// partition that has grown. Returns their ids, the lower half's first.
    ///
    /// # Errors
    ///
    /// [`StreamError::UnknownStream`], [`StreamError::Disabled`], [`StreamError::UnknownShard`],
    /// [`StreamError::ShardClosed`], and [`StreamError::ShardTooNarrow`] for a shard whose range is
    /// a single hash. Then nothing is changed.
    pub fn split(&self, stream_arn: &str, shard_id: &str) -> Result<[String; 2], StreamError> {
        self.with_stream(stream_arn, |stream, now| stream.split(shard_id, now))
    }

    /// Closes an open shard and opens one child with its range. Returns the child's id.
    ///
    /// # Errors
    ///
    /// [`StreamError::UnknownStream`], [`StreamError::Disabled`], [`StreamError::UnknownShard`],
    /// [`StreamError::ShardClosed`]. Then nothing is changed.
    pub fn roll_over_shard(&self, stream_arn: &str, shard_id: &str) -> Result<String, StreamError> {
        self.with_stream(stream_arn, |stream, now| {
            stream.roll_over_shard(shard_id, now)
        })
    }

    /// Closes every open shard and opens its child, as DynamoDB does every few hours. Returns the
    /// children's ids, oldest first.
    ///
    /// # Errors
    ///
    /// [`StreamError::UnknownStream`], [`StreamError::Disabled`]. Then nothing is changed.
    pub fn roll_over(&self, stream_arn: &str) -> Result<Vec<String>, StreamError> {
        self.with_stream(stream_arn, |stream, now| stream.roll_over(now))
    }

    /// One of the store's streams, to be read through the interface that all sources share.
    pub fn source(&self, stream_arn: impl Into<String>) -> StoreSource {
        StoreSource {
            store: self.clone(),
            arn: stream_arn.into(),
        }
    }

    fn register(&self, info: StreamInfo, shards: usize) {
        let now = self.clock.now();
        let mut streams = self.lock();
        let stream = streams.by_arn.entry(info.stream_arn.clone());
        let stream = stream.or_insert_with(|| Stream::new(info.clone()));
        stream.register(info, shards, now);
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        // Nothing that runs under the lock panics, so no stream is ever found half changed.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a function on a stream, after dropping records past retention.
    fn with_stream<T>(
        &self,
        arn: &str,
        act: impl FnOnce(&mut Stream, Timestamp) -> Result<T, StreamError>,
    ) -> Result<T, StreamError> {
        // Before the lock: the clock may run code of the caller.
        let now = self.clock.now();
        let mut streams = self.lock();
        let horizon = now.minus(streams.retention);
        let stream = streams.by_arn.get_mut(arn);
        let stream = stream.ok_or_else(|| StreamError::unknown_stream(arn))?;
        stream.trim(horizon);
        act(stream, now)
    }

    /// Reads a shard. `None` means that the requested record is trimmed.
    fn with_shard<T>(
        &self,
        arn: &str,
        id: &str,
        read: impl FnOnce(&Shard) -> Option<T>,
    ) -> Result<T, StreamError> {
        self.with_stream(arn, |stream, _| {
            read(stream.shard(id)?).ok_or_else(|| StreamError::trimmed(arn, id))
        })
    }
}

impl Default for StreamStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for StreamStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut arns: Vec<String> = self.lock().by_arn.keys().cloned().collect();
        arns.sort_unstable();
        f.debug_struct("StreamStore")
            .field("streams", &arns)
            .finish_non_exhaustive()
    }
}

/// One stream of a [`StreamStore`], from [`StreamStore::source`].
///
/// A shard is read to its end (`next` is `None`) once it is closed and its last record was returned
/// or dropped. `TrimHorizon` starts at the oldest record that the shard still has.
///
/// A read that would skip dropped records fails with [`StreamError::Trimmed`]:
///
/// - `At` or `After` a number, if a record from there on is gone;
/// - `After` the number of a record that is itself gone, as with DynamoDB, which accepts no number
///   before the oldest record it keeps;
/// - reading on from a place whose next records were dropped meanwhile.
///
/// A shard that left the list is a [`StreamError::UnknownShard`]. Iterators expire after 15 minutes
/// by the store's clock.
#[derive(Debug, Clone)]
pub struct StoreSource {
    store: StreamStore,
    arn: String,
}

impl StreamSource for StoreSource {
    async fn describe(&self) -> Result<StreamDescription, StreamError> {
        self.store.describe_stream(&self.arn)
    }

    async fn read(
        &self,
        shard: &str,
        from: &Cursor,
        limit: usize,
    ) -> Result<ReadBatch, StreamError> {
        check("limit", limit, 1..=MAX_READ)?;
        let now = self.store.clock.now();
        let (known, begun) = match from {
            Cursor::Start(start) => (None, start),
            Cursor::Iterator { token, renew } => (self.place(token, now)?, renew),
        };
        if known.is_none() && matches!(from, Cursor::Iterator { .. }) && !begun.is_exact() {
            let (arn, shard) = (self.arn.clone(), shard.to_owned());
            return Err(StreamError::IteratorExpired { arn, shard });
        }
        let (records, next, at_end) = self.store.with_shard(&self.arn, shard, |shard| {
            let position = known.or_else(|| shard.position(begun))?;
            let (records, next) = shard.read(position, limit)?;
            Some((records, next, shard.ends_at(next)))
        })?;
        let last = records.last().and_then(|last| last.sequence_number.clone());
        Ok(ReadBatch {
            records: records.iter().map(|record| (&**record).into()).collect(),
            next: (!at_end).then(|| Cursor::Iterator {
                token: format!("{next}@{}", now.as_millis()),
                renew: last.map_or_else(|| begun.clone(), Start::After),
            }),
        })
    }
}

impl StoreSource {
    /// The position of an iterator, or `None` once it has expired.
    fn place(&self, token: &str, now: Timestamp) -> Result<Option<usize>, StreamError> {
        let parts = token.split_once('@').and_then(|(position, given_at)| {
            let given_at = Timestamp::from_millis(given_at.parse().ok()?);
            Some((position.parse().ok()?, given_at))
        });
        let (position, given_at): (usize, Timestamp) = parts.ok_or_else(|| {
            StreamError::unexpected(&self.arn, "the iterator is not one of this store's")
        })?;
        Ok((now.since(given_at) < ITERATOR_LIFE).then_some(position))
    }
}

fn check(
    option: &'static str,
    value: usize,
    allowed: RangeInclusive<usize>,
) -> Result<(), OptionError> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(OptionError::new(
        option,
        format!("{value} is outside {allowed:?}"),
    ))
}
