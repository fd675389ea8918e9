//! One stream: the shard of each key, and the next numbers.

use std::collections::BTreeMap;
use std::ops::Bound;

use aws_lambda_events::event::dynamodb::StreamViewType;
use murmur_state::{IdError, SequenceNumber, Timestamp};

use super::range::HashRange;
use super::shard::Shard;
use crate::description::{ShardInfo, StreamDescription, StreamInfo};
use crate::error::StreamError;
use crate::item::key_hash;
use crate::record::StreamRecord;

/// The first number assigned in a stream: 21 digits, DynamoDB's shortest.
const FIRST_NUMBER: &str = "100000000000000000001";

pub(super) struct Stream {
    info: StreamInfo,
    /// By id, which is the order in which they were opened.
    shards: BTreeMap<String, Shard>,
    /// The newest shard of every range, by the range's first hash. All are open while the stream
    /// takes records. Otherwise all are closed, and may have left `shards`.
    owners: BTreeMap<u64, Owner>,
    opened: u64,
    /// The greatest number so far, over all shards, because numbers also rise from parent to child.
    last: Option<SequenceNumber>,
}

struct Owner {
    range: HashRange,
    shard: String,
}

impl Stream {
    /// A stream that was never registered.
    pub(super) fn new(info: StreamInfo) -> Self {
        Self {
            info,
            shards: BTreeMap::new(),
            owners: BTreeMap::new(),
            opened: 0,
            last: None,
        }
    }

    /// Takes over the description of the stream, and opens or closes its shards accordingly.
    /// `shards` is the number of its first shards.
    pub(super) fn register(&mut self, info: StreamInfo, shards: usize, now: Timestamp) {
        let known_since = self.info.creation_time;
        let was_enabled = std::mem::replace(&mut self.info, info).is_enabled();
        self.info.creation_time = self.info.creation_time.or(known_since).or(Some(now));
        if !self.info.is_enabled() {
            self.close_all(now);
        } else if self.owners.is_empty() {
            for range in HashRange::cut(shards) {
                self.open(range, None);
            }
        } else if !was_enabled {
            self.succeed_all();
        }
    }

    pub(super) fn put(
        &mut self,
        mut record: StreamRecord,
        now: Timestamp,
    ) -> Result<SequenceNumber, StreamError> {
        let owner = self.owners.range(..=key_hash(&record.keys)).next_back();
        let shard = owner
            .and_then(|(_, owner)| self.shards.get_mut(&owner.shard))
            .filter(|shard| shard.is_open());
        let Some(shard) = shard else {
            return Err(StreamError::disabled(&self.info.stream_arn));
        };
        let number = match (record.sequence_number.take(), &self.last) {
            (Some(given), Some(last)) if given <= *last => {
                return Err(StreamError::NotRising {
                    arn: self.info.stream_arn.clone(),
                    given,
                    last: last.clone(),
                });
            }
            (Some(given), _) => given,
            (None, last) => next_number(last.as_ref())?,
        };
        complete(&mut record, &self.info, &number, now);
        self.last = Some(number.clone());
        shard.push(record, number.clone());
        Ok(number)
    }

    /// Closes an open shard and opens a child for each half of its range, the lower half first.
    pub(super) fn split(&mut self, id: &str, now: Timestamp) -> Result<[String; 2], StreamError> {
        let range = self.open_range(id)?;
        let halves = range.halves().ok_or_else(|| StreamError::ShardTooNarrow {
            arn: self.info.stream_arn.clone(),
            shard: id.to_owned(),
        })?;
        self.close(id, now);
        Ok(halves.map(|half| self.open(half, Some(id.to_owned()))))
    }

    /// Closes an open shard and opens its only child.
    pub(super) fn roll_over_shard(
        &mut self,
        id: &str,
        now: Timestamp,
    ) -> Result<String, StreamError> {
        let range = self.open_range(id)?;
        self.close(id, now);
        Ok(self.open(range, Some(id.to_owned())))
    }

    /// Closes every open shard and opens its only child.
    pub(super) fn roll_over(&mut self, now: Timestamp) -> Result<Vec<String>, StreamError> {
        self.ensure_enabled()?;
        self.close_all(now);
        Ok(self.succeed_all())
    }

    /// Drops records that were created, and shards that were closed, at `horizon` or before.
    pub(super) fn trim(&mut self, horizon: Timestamp) {
        self.shards.retain(|_, shard| {
            shard.trim(horizon);
            !shard.is_gone(horizon)
        });
    }

    pub(super) fn shard(&self, id: &str) -> Result<&Shard, StreamError> {
        let shard = self.shards.get(id);
        shard.ok_or_else(|| StreamError::unknown_shard(&self.info.stream_arn, id))
    }

    pub(super) fn describe(&self) -> StreamDescription {
        self.description(self.shards.values())
    }

    /// Up to `limit` shards after the shard `after`, and whether there are more.
    pub(super) fn describe_page(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(StreamDescription, bool), StreamError> {
        // Ids rise, so a shard that left the list still has its place in the order.
        let after = match after {
            Some(id) if !self.had(id) => {
                return Err(StreamError::unknown_shard(&self.info.stream_arn, id));
            }
            Some(id) => Bound::Excluded(id),
            None => Bound::Unbounded,
        };
        let mut rest = self.shards.range::<str, _>((after, Bound::Unbounded));
        let page = self.description(rest.by_ref().take(limit).map(|(_, shard)| shard));
        Ok((page, rest.next().is_some()))
    }

    fn description<'a>(&self, shards: impl Iterator<Item = &'a Shard>) -> StreamDescription {
        StreamDescription {
            info: self.info.clone(),
            shards: shards.map(|shard| shard.info.clone()).collect(),
        }
    }

    /// Whether there ever was a shard with this id.
    fn had(&self, id: &str) -> bool {
        let ordinal = id.split('-').nth(1).and_then(|digits| digits.parse().ok());
        ordinal.is_some_and(|n| (1..=self.opened).contains(&n) && shard_id(n) == id)
    }

    fn ensure_enabled(&self) -> Result<(), StreamError> {
        if self.info.is_enabled() {
            return Ok(());
        }
        Err(StreamError::disabled(&self.info.stream_arn))
    }

    /// The range of a shard that must be open.
    fn open_range(&self, id: &str) -> Result<HashRange, StreamError> {
        self.ensure_enabled()?;
        self.shard(id)?;
        let owner = self.owners.values().find(|owner| owner.shard == id);
        owner
            .map(|owner| owner.range)
            .ok_or_else(|| StreamError::ShardClosed {
                arn: self.info.stream_arn.clone(),
                shard: id.to_owned(),
            })
    }

    /// Opens a shard, which takes over its range, and returns its id.
    fn open(&mut self, range: HashRange, parent: Option<String>) -> String {
        self.opened += 1;
        let id = shard_id(self.opened);
        let shard = Shard::new(ShardInfo {
            id: id.clone(),
            parent,
            first: next_number(self.last.as_ref()).ok(),
            ending: None,
        });
        self.shards.insert(id.clone(), shard);
        let owner = Owner {
            range,
            shard: id.clone(),
        };
        self.owners.insert(range.first, owner);
        id
    }

    fn close(&mut self, id: &str, now: Timestamp) {
        let shard = self.shards.get_mut(id).filter(|shard| shard.is_open());
        let ending = shard.and_then(|shard| shard.close(now));
        // The number that an empty shard ends with is used up, so its children's numbers are above
        // it.
        self.last = self.last.take().max(ending);
    }

    fn close_all(&mut self, now: Timestamp) {
        let owners: Vec<_> = self.owners.values().map(|o| o.shard.clone()).collect();
        for id in owners {
            self.close(&id, now);
        }
    }

    /// Opens a child for the newest shard of every range, and returns their ids.
    fn succeed_all(&mut self) -> Vec<String> {
        let owners = std::mem::take(&mut self.owners);
        owners
            .into_values()
            .map(|Owner { range, shard }| self.open(range, Some(shard)))
            .collect()
    }
}

/// Fills in the empty fields of a record, and removes the images that its stream does not carry.
fn complete(record: &mut StreamRecord, info: &StreamInfo, number: &SequenceNumber, now: Timestamp) {
    fill(&mut record.event_id, || format!("{:0>32}", number.as_str()));
    fill(&mut record.event_version, || "1.1".to_owned());
    fill(&mut record.event_source, || "aws:dynamodb".to_owned());
    fill(&mut record.aws_region, || {
        let region = info.stream_arn.split(':').nth(3);
        region.unwrap_or_default().to_owned()
    });
    fill(&mut record.table_name, || info.table_name.clone());
    match info.stream_view_type {
        StreamViewType::KeysOnly => {
            record.new_image.clear();
            record.old_image.clear();
        }
        StreamViewType::NewImage => record.old_image.clear(),
        StreamViewType::OldImage => record.new_image.clear(),
        _ => {}
    }
    record.stream_view_type = Some(info.stream_view_type.clone());
    record.created_at.get_or_insert(now);
    record.sequence_number = Some(number.clone());
}

fn fill(field: &mut String, value: impl FnOnce() -> String) {
    if field.is_empty() {
        *field = value();
    }
}

/// Rises with `ordinal` as text too, because 20 digits hold every number.
fn shard_id(ordinal: u64) -> String {
    format!("shardId-{ordinal:020}-{ordinal:08x}")
}

fn next_number(last: Option<&SequenceNumber>) -> Result<SequenceNumber, IdError> {
    let first = SequenceNumber::new(FIRST_NUMBER)?;
    match last {
        Some(last) => Ok(SequenceNumber::new(successor(last))?.max(first)),
        None => Ok(first),
    }
}

/// The number plus one, in decimal digits of any length.
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
