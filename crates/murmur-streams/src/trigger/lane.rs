//! One of the concurrent batches of a shard: its records in order, and what comes again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::EventRecord;
use murmur_state::Timestamp;

use crate::record::created_at;
use crate::trigger::room::Taken;

/// A record read and not yet done.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    /// Names it to the tracker.
    pub(crate) ordinal: u64,
    pub(crate) record: EventRecord,
    /// When it was read, in monotonic time.
    pub(crate) read_at: Duration,
    /// The room it takes; given back with the last copy.
    pub(crate) _room: Option<Arc<Taken>>,
}

impl Pending {
    pub(crate) fn created(&self, now: Timestamp) -> Option<Timestamp> {
        created_at(&self.record, now)
    }
}

/// Records that are delivered together.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) records: Vec<Pending>,
    /// How often in a row the first record was in a delivery and not done.
    pub(crate) failures: u32,
    /// Whether it was delivered before, alone or as part of another.
    pub(crate) again: bool,
}

impl Part {
    /// Records that were delivered, and come again.
    pub(crate) fn again(records: Vec<Pending>, failures: u32) -> Self {
        Self {
            records,
            failures,
            again: true,
        }
    }
}

/// How batches are cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) batch_size: usize,
    pub(crate) window: Duration,
    /// Whether to wait for nothing more: the last read brought all there was, or the shard has
    /// ended.
    pub(crate) short: bool,
    pub(crate) ended: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Lane {
    queue: VecDeque<Pending>,
    /// What comes before the queue: a batch to be tried again, perhaps in halves.
    again: VecDeque<Part>,
    busy: bool,
    not_before: Duration,
}

impl Lane {
    pub(crate) fn push(&mut self, pending: Pending) {
        self.queue.push_back(pending);
    }

    /// The next batch to deliver now; the lane is busy until it is given back.
    pub(crate) fn next(&mut self, now: Duration, cut: Cut) -> Option<Part> {
        if self.wakes(cut)? > now {
            return None;
        }
        self.busy = true;
        Some(self.again.pop_front().unwrap_or_else(|| {
            let size = self.queue.len().min(cut.batch_size);
            Part {
                records: self.queue.drain(..size).collect(),
                failures: 0,
                again: false,
            }
        }))
    }

    /// When there will be a batch to deliver if nothing more is read; `None` for never.
    pub(crate) fn wakes(&self, cut: Cut) -> Option<Duration> {
        if self.busy {
            return None;
        }
        if !self.again.is_empty() {
            return Some(self.not_before);
        }
        let first = self.queue.front()?;
        if self.queue.len() >= cut.batch_size || cut.ended {
            return Some(Duration::ZERO);
        }
        match cut.window.is_zero() {
            true => cut.short.then_some(Duration::ZERO),
            false => Some(first.read_at.saturating_add(cut.window)),
        }
    }

    /// Whether a batch of it is under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Whether it could deliver more than it has.
    pub(crate) fn is_hungry(&self, batch_size: usize) -> bool {
        !self.busy && self.again.is_empty() && self.queue.len() < batch_size
    }

    /// Takes back what is left of the batch under way, to be tried again at `not_before`.
    pub(crate) fn give_back(&mut self, left: Vec<Part>, not_before: Duration) {
        self.busy = false;
        self.not_before = not_before;
        for part in left.into_iter().rev() {
            self.again.push_front(part);
        }
    }

    /// How often in a row the batch to be tried again has failed.
    pub(crate) fn failures(&self) -> u32 {
        self.again.front().map_or(0, |part| part.failures)
    }
}
