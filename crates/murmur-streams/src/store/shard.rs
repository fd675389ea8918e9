//! One shard and its records, of which the oldest may be trimmed.

use std::collections::VecDeque;
use std::sync::Arc;

use murmur_state::{SequenceNumber, Timestamp};

use crate::description::ShardInfo;
use crate::record::StreamRecord;
use crate::source::Start;

/// Records and the position after them.
pub(super) type Read = (Vec<Arc<StreamRecord>>, usize);

pub(super) struct Shard {
    pub(super) info: ShardInfo,
    records: VecDeque<Arc<StreamRecord>>,
    /// How many records were trimmed, which is the position of the first one left.
    trimmed: usize,
    last_trimmed: Option<SequenceNumber>,
    /// The number of the last record put, which may be trimmed.
    last: Option<SequenceNumber>,
    closed_at: Option<Timestamp>,
}

impl Shard {
    /// An open shard without records.
    pub(super) fn new(info: ShardInfo) -> Self {
        Self {
            info,
            records: VecDeque::new(),
            trimmed: 0,
            last_trimmed: None,
            last: None,
            closed_at: None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.closed_at.is_none()
    }

    /// How many records it ever had, which is the position of the next one.
    pub(super) fn count(&self) -> usize {
        self.trimmed + self.records.len()
    }

    /// Whether no record will ever be at `position` or after it.
    pub(super) fn ends_at(&self, position: usize) -> bool {
        !self.is_open() && position >= self.count()
    }

    pub(super) fn push(&mut self, record: StreamRecord, number: SequenceNumber) {
        // A number that the caller chose may be below the one for which the shard was opened.
        if self.info.first.as_ref() > Some(&number) {
            self.info.first = Some(number.clone());
        }
        self.last = Some(number);
        self.records.push_back(Arc::new(record));
    }

    /// Closes an open shard and returns its ending number.
    pub(super) fn close(&mut self, now: Timestamp) -> Option<SequenceNumber> {
        self.closed_at = Some(now);
        // An empty shard ends where it began.
        self.info.ending = self.last.clone().or_else(|| self.info.first.clone());
        self.info.ending.clone()
    }

    /// Drops records created at `horizon` or before, up to the first that was not.
    pub(super) fn trim(&mut self, horizon: Timestamp) {
        while let Some(record) = self.records.pop_front_if(|record| {
            record
                .created_at
                .is_some_and(|created_at| created_at <= horizon)
        }) {
            self.trimmed += 1;
            self.last_trimmed.clone_from(&record.sequence_number);
        }
    }

    /// Whether it has no records left, and was closed at `horizon` or before.
    pub(super) fn is_gone(&self, horizon: Timestamp) -> bool {
        self.records.is_empty() && self.closed_at.is_some_and(|closed_at| closed_at <= horizon)
    }

    /// Up to `limit` records from `position` on, or `None` if the first of them is trimmed.
    pub(super) fn read(&self, position: usize, limit: usize) -> Option<Read> {
        let skipped = position.checked_sub(self.trimmed)?;
        let records = self.records.iter().skip(skipped).take(limit);
        let records: Vec<_> = records.cloned().collect();
        let next = position.saturating_add(records.len());
        Some((records, next))
    }

    /// Where reading starts, or `None` if a record from there on, or the one before it, is trimmed.
    pub(super) fn position(&self, start: &Start) -> Option<usize> {
        let trimmed = self.last_trimmed.as_ref();
        match start {
            Start::TrimHorizon => Some(self.trimmed),
            Start::Latest => Some(self.count()),
            Start::At(number) | Start::After(number) if trimmed >= Some(number) => None,
            Start::At(number) => Some(self.first_not(|other| other < number)),
            Start::After(number) => Some(self.first_not(|other| other <= number)),
        }
    }

    /// The position of the first record whose number is not `before`.
    fn first_not(&self, before: impl Fn(&SequenceNumber) -> bool) -> usize {
        let is_before =
            |record: &Arc<StreamRecord>| record.sequence_number.as_ref().is_some_and(&before);
        self.trimmed + self.records.partition_point(is_before)
    }
}
