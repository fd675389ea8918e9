//! One of the concurrent batches of a shard: its records in order, and those to be delivered again.

use std::collections::VecDeque;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::{Event, EventRecord};

use crate::trigger::room::Taken;

/// What is known about a record that was read and is not done.
#[derive(Debug)]
pub(crate) struct Mark {
    /// Identifies the record to the tracker.
    pub(crate) ordinal: u64,
    /// When it was read, in monotonic time.
    pub(crate) read_at: Duration,
    /// The room it takes, which is returned when the record is done or dropped.
    pub(crate) _room: Option<Taken>,
}

/// Records that were read and are not done, in order.
#[derive(Debug, Default)]
pub(crate) struct Undone {
    /// As the handler gets them.
    pub(crate) event: Event,
    /// One for each record, even while the handler has them.
    pub(crate) marks: Vec<Mark>,
}

impl Undone {
    fn with_capacity(capacity: usize) -> Self {
        let mut undone = Self::default();
        undone.event.records.reserve_exact(capacity);
        undone.marks.reserve_exact(capacity);
        undone
    }

    pub(crate) fn len(&self) -> usize {
        self.marks.len()
    }

    /// Whether every record is there. A handler may have kept some.
    pub(crate) fn is_whole(&self) -> bool {
        self.event.records.len() == self.marks.len()
    }

    fn push(&mut self, (record, mark): (EventRecord, Mark)) {
        self.event.records.push(record);
        self.marks.push(mark);
    }

    /// Splits it in two at `at`, which must be at most its length, and returns the second part.
    pub(crate) fn split_off(&mut self, at: usize) -> Self {
        let mut rest = Self::default();
        rest.event.records = self.event.records.split_off(at);
        rest.marks = self.marks.split_off(at);
        rest
    }

    /// The records that are `wanted`, and the others.
    pub(crate) fn partition(self, wanted: impl Fn(&EventRecord) -> bool) -> (Self, Self) {
        let (mut one, mut other) = (Self::default(), Self::default());
        for (record, mark) in self.event.records.into_iter().zip(self.marks) {
            match wanted(&record) {
                true => one.push((record, mark)),
                false => other.push((record, mark)),
            }
        }
        (one, other)
    }
}

/// Records that are delivered together.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) undone: Undone,
    /// How many consecutive deliveries of the first record failed.
    pub(crate) failures: u32,
    /// Whether it was delivered before, alone or as part of another.
    pub(crate) again: bool,
}

impl Part {
    /// Records that were delivered, and are to be delivered again.
    pub(crate) fn again(undone: Undone, failures: u32) -> Self {
        Self {
            undone,
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
    /// Whether to stop waiting for more records: the last read returned all there were, or the
    /// shard has ended.
    pub(crate) short: bool,
    pub(crate) ended: bool,
}

#[derive(Debug, Default)]
pub(crate) struct DeliveryLane {
    queue: VecDeque<(EventRecord, Mark)>,
    /// What precedes the queue: a batch to be retried, perhaps in halves.
    again: VecDeque<Part>,
    busy: bool,
    not_before: Duration,
}

impl DeliveryLane {
    pub(crate) fn push(&mut self, record: EventRecord, mark: Mark) {
        self.queue.push_back((record, mark));
    }

    /// The next batch to deliver now. The lane is busy until it is given back.
    pub(crate) fn next(&mut self, now: Duration, cut: Cut) -> Option<Part> {
        if self.wakes(cut)? > now {
            return None;
        }
        self.busy = true;
        Some(self.again.pop_front().unwrap_or_else(|| {
            let size = self.queue.len().min(cut.batch_size);
            let mut undone = Undone::with_capacity(size);
            self.queue.drain(..size).for_each(|read| undone.push(read));
            Part {
                undone,
                failures: 0,
                again: false,
            }
        }))
    }

    /// When there will be a batch to deliver if nothing more is read, or `None` for never.
    pub(crate) fn wakes(&self, cut: Cut) -> Option<Duration> {
        if self.busy {
            return None;
        }
        if !self.again.is_empty() {
            return Some(self.not_before);
        }
        let (_, first) = self.queue.front()?;
        if self.queue.len() >= cut.batch_size || cut.ended {
            return Some(Duration::ZERO);
        }
        match cut.window.is_zero() {
            true => cut.short.then_some(Duration::ZERO),
            false => Some(first.read_at.saturating_add(cut.window)),
        }
    }

    /// Whether a batch of the lane is in progress.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Whether it could deliver more than it has.
    pub(crate) fn is_hungry(&self, batch_size: usize) -> bool {
        !self.busy && self.again.is_empty() && self.queue.len() < batch_size
    }

    /// Takes back the rest of the batch in progress, to be retried at `not_before`.
    pub(crate) fn give_back(&mut self, left: Vec<Part>, not_before: Duration) {
        self.busy = false;
        self.not_before = not_before;
        for part in left.into_iter().rev() {
            self.again.push_front(part);
        }
    }

    /// How often in succession the batch to be retried has failed.
    pub(crate) fn failures(&self) -> u32 {
        self.again.front().map_or(0, |part| part.failures)
    }
}
