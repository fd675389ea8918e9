use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use murmur_state::{Clock, IdError, OptionError, SequenceNumber, SystemClock, Timestamp};

use crate::description::{ShardInfo, StreamDescription, StreamInfo};
use crate::error::StreamError;
use crate::record::StreamRecord;
use crate::source::{Batch, Cursor, MAX_READ, Start, StreamSource};

/// The first number assigned in a stream: 21 digits, DynamoDB's shortest.
const FIRST_NUMBER: &str = "100000000000000000001";

/// Streams kept in this process: what writes items puts records here, what reads streams gets
/// them.
///
/// Clones share one store. Safe to use from any number of threads; nothing is ever trimmed, so
/// it grows with what is put. A stream has one open shard at a time; [`roll_over`] closes it and
/// opens its child.
///
/// [`roll_over`]: StreamStore::roll_over
#[derive(Clone)]
pub struct StreamStore {
    streams: Arc<Mutex<HashMap<String, Stream>>>,
    clock: Arc<dyn Clock>,
}

impl StreamStore {
    /// An empty store on the machine's clock.
    pub fn new() -> Self {
        Self::with_clock(SystemClock::shared())
    }

    /// An empty store that takes the creation time of records from `clock`.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self {
            streams: Arc::default(),
            clock,
        }
    }

    /// The store of this process, for a producer and a reader that do not know each other.
    pub fn global() -> &'static Self {
        static GLOBAL: OnceLock<StreamStore> = OnceLock::new();
        GLOBAL.get_or_init(Self::new)
    }

    /// Makes a stream known under its ARN, with one open shard.
    ///
    /// Registering an ARN again replaces what is said of the stream and keeps its records. With
    /// a status that takes no records (DISABLED, DISABLING) its open shard is closed.
    pub fn register_stream(&self, info: StreamInfo) {
        let now = self.clock.now();
        let mut streams = self.lock();
        let stream = streams
            .entry(info.stream_arn.clone())
            .or_insert_with(|| Stream {
                info: info.clone(),
                shards: Vec::new(),
                last: None,
            });
        let known_since = stream.info.creation_time;
        stream.info = info;
        stream.info.creation_time = stream.info.creation_time.or(known_since).or(Some(now));
        if !stream.info.is_enabled() {
            stream.close();
        } else if stream.open_shard().is_none() {
            stream.open();
        }
    }

    /// Appends a record to its stream, filling in what it leaves empty; answers its sequence
    /// number.
    ///
    /// # Errors
    ///
    /// [`StreamError::UnknownStream`] if its stream was not registered,
    /// [`StreamError::Disabled`] if that takes no records, [`StreamError::NotRising`] if its own
    /// sequence number is not above all before it. Then nothing was stored.
    pub fn put_record(&self, record: StreamRecord) -> Result<SequenceNumber, StreamError> {
        let now = self.clock.now();
        let mut streams = self.lock();
        match streams.get_mut(&record.stream_arn) {
            Some(stream) => stream.put(record, now),
            None => Err(StreamError::unknown_stream(&record.stream_arn)),
        }
    }

    /// The stream and its shards, oldest first.
    ///
    /// # Errors
    ///
    /// [`StreamError::UnknownStream`].
    pub fn describe_stream(&self, stream_arn: &str) -> Result<StreamDescription, StreamError> {
        self.with_stream(stream_arn, |stream| StreamDescription {
            info: stream.info.clone(),
            shards: stream
                .shards
                .iter()
                .map(|shard| shard.info.clone())
                .collect(),
        })
    }

    /// Up to `limit` records of a shard from `position` on, and the position after them.
    ///
    /// Position 0 is the shard's first record; a position past the end gives no records and
    /// itself.
    ///
    /// # Errors
    ///
    /// [`StreamError::UnknownStream`], [`StreamError::UnknownShard`], and
    /// [`StreamError::Option`] for a `limit` outside 1..=1000, as DynamoDB refuses it.
    pub fn get_records(
        &self,
        stream_arn: &str,
        shard_id: &str,
        position: usize,
        limit: usize,
    ) -> Result<(Vec<Arc<StreamRecord>>, usize), StreamError> {
        check_limit(limit)?;
        self.with_shard(stream_arn, shard_id, |shard| shard.read(position, limit))
    }

    /// How many records a shard has: the position of the record that will be put next.
    ///
    /// # Errors
    ///
    /// [`StreamError::UnknownStream`], [`StreamError::UnknownShard`].
    pub fn shard_record_count(
        &self,
        stream_arn: &str,
        shard_id: &str,
    ) -> Result<usize, StreamError> {
        self.with_shard(stream_arn, shard_id, |shard| shard.records.len())
    }

    /// Closes the open shard and opens its child, as DynamoDB does every few hours; answers the
    /// child's id.
    ///
    /// # Errors
    ///
    /// [`StreamError::UnknownStream`], [`StreamError::Disabled`].
    pub fn roll_over(&self, stream_arn: &str) -> Result<String, StreamError> {
        let mut streams = self.lock();
        let stream = streams
            .get_mut(stream_arn)
            .ok_or_else(|| StreamError::unknown_stream(stream_arn))?;
        if !stream.info.is_enabled() {
            return Err(StreamError::Disabled {
                arn: stream_arn.to_owned(),
            });
        }
        stream.close();
        Ok(stream.open())
    }

    /// One of its streams, to be read through the interface all sources share.
    pub fn source(&self, stream_arn: impl Into<String>) -> StoreSource {
        StoreSource {
            store: self.clone(),
            arn: stream_arn.into(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Stream>> {
        // A panic cannot leave a stream half changed: every change ends with a single push.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_stream<T>(&self, arn: &str, read: impl FnOnce(&Stream) -> T) -> Result<T, StreamError> {
        self.lock()
            .get(arn)
            .map(read)
            .ok_or_else(|| StreamError::unknown_stream(arn))
    }

    fn with_shard<T>(
        &self,
        arn: &str,
        id: &str,
        read: impl FnOnce(&Shard) -> T,
    ) -> Result<T, StreamError> {
        self.with_stream(arn, |stream| {
            stream.shards.iter().find(|s| s.info.id == id).map(read)
        })?
        .ok_or_else(|| StreamError::unknown_shard(arn, id))
    }
}

impl Default for StreamStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for StreamStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let streams = self.lock();
        let mut arns: Vec<&String> = streams.keys().collect();
        arns.sort_unstable();
        f.debug_struct("StreamStore")
            .field("streams", &arns)
            .finish_non_exhaustive()
    }
}

/// One stream of a [`StreamStore`], from [`StreamStore::source`].
///
/// A shard is read to its end (`next` is `None`) once it is closed and its last record was
/// given.
#[derive(Debug, Clone)]
pub struct StoreSource {
    store: StreamStore,
    arn: String,
}

impl StreamSource for StoreSource {
    async fn describe(&self) -> Result<StreamDescription, StreamError> {
        self.store.describe_stream(&self.arn)
    }

    async fn read(&self, shard: &str, from: &Cursor, limit: usize) -> Result<Batch, StreamError> {
        check_limit(limit)?;
        let found = self.store.with_shard(&self.arn, shard, |shard| {
            let (position, begun) = match from {
                Cursor::Start(start) => (shard.position(start), start),
                Cursor::Iterator { token, renew } => (token.parse().ok()?, renew),
            };
            let (records, next) = shard.read(position, limit);
            let at_end = shard.info.ending.is_some() && next >= shard.records.len();
            let last = records
                .last()
                .and_then(|record| record.sequence_number.clone());
            let next = (!at_end).then(|| Cursor::Iterator {
                token: next.to_string(),
                renew: last.map_or_else(|| begun.clone(), Start::After),
            });
            Some((records, next))
        })?;
        let (records, next) = found.ok_or_else(|| {
            StreamError::unexpected(&self.arn, "the iterator is not one of this store's")
        })?;
        Ok(Batch {
            records: records.iter().map(|record| (&**record).into()).collect(),
            next,
        })
    }
}

struct Stream {
    info: StreamInfo,
    shards: Vec<Shard>,
    /// The greatest number so far, over all shards: numbers also rise from parent to child.
    last: Option<SequenceNumber>,
}

impl Stream {
    fn next_number(&self) -> Result<SequenceNumber, IdError> {
        let first = SequenceNumber::new(FIRST_NUMBER)?;
        match &self.last {
            Some(last) => Ok(SequenceNumber::new(successor(last))?.max(first)),
            None => Ok(first),
        }
    }

    fn open_shard(&mut self) -> Option<&mut Shard> {
        self.shards
            .last_mut()
            .filter(|shard| shard.info.ending.is_none())
    }

    fn close(&mut self) {
        if let Some(open) = self.open_shard() {
            // An empty shard ends where it began.
            let last = open
                .records
                .last()
                .and_then(|record| record.sequence_number.clone());
            open.info.ending = last.or_else(|| open.info.first.clone());
        }
    }

    /// Opens a shard that continues the last one, which must be closed; answers its id.
    fn open(&mut self) -> String {
        let ordinal = self.shards.len() + 1;
        let id = format!("shardId-{ordinal:020}-{ordinal:08x}");
        let parent = self.shards.last().map(|shard| shard.info.id.clone());
        let first = self.next_number().ok();
        let info = ShardInfo {
            id: id.clone(),
            parent,
            first,
            ending: None,
        };
        self.shards.push(Shard {
            info,
            records: Vec::new(),
        });
        id
    }

    fn put(
        &mut self,
        mut record: StreamRecord,
        now: Timestamp,
    ) -> Result<SequenceNumber, StreamError> {
        let arn = &self.info.stream_arn;
        let number = match (record.sequence_number.take(), &self.last) {
            (Some(given), Some(last)) if given <= *last => {
                return Err(StreamError::NotRising {
                    arn: arn.clone(),
                    given,
                    last: last.clone(),
                });
            }
            (Some(given), _) => given,
            (None, _) => self.next_number()?,
        };
        let open = self
            .shards
            .last_mut()
            .filter(|shard| shard.info.ending.is_none());
        let Some(open) = open else {
            return Err(StreamError::Disabled { arn: arn.clone() });
        };
        fill(&mut record.event_id, || format!("{:0>32}", number.as_str()));
        fill(&mut record.event_version, || "1.1".to_owned());
        fill(&mut record.event_source, || "aws:dynamodb".to_owned());
        fill(&mut record.aws_region, || {
            arn.split(':').nth(3).unwrap_or_default().to_owned()
        });
        fill(&mut record.table_name, || self.info.table_name.clone());
        record
            .stream_view_type
            .get_or_insert_with(|| self.info.stream_view_type.clone());
        record.created_at.get_or_insert(now);
        record.sequence_number = Some(number.clone());
        if open.info.first.as_ref() > Some(&number) {
            open.info.first = Some(number.clone());
        }
        self.last = Some(number.clone());
        open.records.push(Arc::new(record));
        Ok(number)
    }
}

struct Shard {
    info: ShardInfo,
    records: Vec<Arc<StreamRecord>>,
}

impl Shard {
    fn read(&self, position: usize, limit: usize) -> (Vec<Arc<StreamRecord>>, usize) {
        let records: Vec<_> = self
            .records
            .iter()
            .skip(position)
            .take(limit)
            .cloned()
            .collect();
        let next = position.saturating_add(records.len());
        (records, next)
    }

    fn position(&self, start: &Start) -> usize {
        let before = |judge: &dyn Fn(&SequenceNumber) -> bool| {
            self.records
                .partition_point(|record| record.sequence_number.as_ref().is_some_and(judge))
        };
        match start {
            Start::TrimHorizon => 0,
            Start::Latest => self.records.len(),
            Start::At(number) => before(&|other| other < number),
            Start::After(number) => before(&|other| other <= number),
        }
    }
}

/// One more, in decimal digits of any length.
fn successor(number: &SequenceNumber) -> String {
    let mut digits = number.as_str().to_owned();
    let nines = digits.len() - digits.trim_end_matches('9').len();
    digits.truncate(digits.len() - nines);
    let raised = digits
        .pop()
        .and_then(|digit| char::from_digit(digit.to_digit(10)? + 1, 10));
    digits.push(raised.unwrap_or('1'));
    digits.push_str(&"0".repeat(nines));
    digits
}

fn fill(field: &mut String, value: impl FnOnce() -> String) {
    if field.is_empty() {
        *field = value();
    }
}

fn check_limit(limit: usize) -> Result<(), OptionError> {
    if (1..=MAX_READ).contains(&limit) {
        return Ok(());
    }
    Err(OptionError::new(
        "limit",
        format!("{limit} is outside 1..={MAX_READ}"),
    ))
}
