//! Limits how much is read ahead, over all shards of a trigger.
//!
//! A read takes room for the most that it may return, and waits in line for it. The records it
//! returned keep the room that they need, and give it back when they are done or dropped. A read
//! that failed gives all its room back until it is repeated.
//!
//! Every shard gets its turn. Room is given in the order of the requests, so it is enough that all
//! room in use is given back in the end. A shard that has to wait for room waits for nothing else
//! with the records it holds: it delivers them without waiting for a fuller batch. So all records
//! held are with the handler, or wait behind such records, or failed and are to be delivered again.
//! Where retries are limited, failures end by themselves. Where they are not, a shard that keeps
//! failing while others wait is put aside: it drops its records, and starts again from its
//! position, at the end of the line.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lambda_events::event::dynamodb::EventRecord;
use serde_dynamo::AttributeValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The room of one read. A megabyte of small attributes takes several in memory.
pub(crate) const READ_BYTES: usize = 4 * 1024 * 1024;

/// The unit of room.
const UNIT: usize = 1024;

pub(crate) struct Room {
    units: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// A part of the room, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Taken(OwnedSemaphorePermit);

impl Room {
    pub(crate) fn of(bytes: usize) -> Self {
        let units = (bytes / UNIT).clamp(READ_BYTES / UNIT, Semaphore::MAX_PERMITS);
        Self {
            units: Arc::new(Semaphore::new(units)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Room for a read, if there is some and no other read waits for it.
    pub(crate) fn try_take(&self) -> Option<Taken> {
        if self.is_wanted() {
            return None;
        }
        let units = (READ_BYTES / UNIT) as u32;
        let taken = Arc::clone(&self.units).try_acquire_many_owned(units);
        taken.ok().map(Taken)
    }

    /// Room for a read, once it is its turn. `None` never happens.
    pub(crate) async fn take(&self) -> Option<Taken> {
        let _waits = Waits::among(&self.waiting);
        let units = (READ_BYTES / UNIT) as u32;
        let taken = Arc::clone(&self.units).acquire_many_owned(units).await;
        taken.ok().map(Taken)
    }

    /// Whether reads wait for room.
    pub(crate) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

impl Taken {
    /// The part that a record needs, or what is left.
    pub(crate) fn part(&mut self, record: &EventRecord) -> Option<Taken> {
        let units = size(record).div_ceil(UNIT).min(self.0.num_permits());
        self.0.split(units).map(Taken)
    }
}

/// A waiting read, until it is dropped.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn among(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// About how many bytes of memory a record takes.
pub(crate) fn size(record: &EventRecord) -> usize {
    let change = &record.change;
    let images = [&change.keys, &change.old_image, &change.new_image];
    let images = images.map(|item| map(item.inner()));
    size_of::<EventRecord>() + images.iter().sum::<usize>()
}

fn map(attributes: &HashMap<String, AttributeValue>) -> usize {
    let slot = size_of::<(String, AttributeValue)>();
    let one = |(name, value): (&String, &AttributeValue)| slot + name.len() + content(value);
    attributes.iter().map(one).sum()
}

fn content(value: &AttributeValue) -> usize {
    let texts = |all: &[String]| {
        all.iter()
            .map(|text| size_of::<String>() + text.len())
            .sum()
    };
    match value {
        AttributeValue::S(text) | AttributeValue::N(text) => text.len(),
        AttributeValue::B(bytes) => bytes.len(),
        AttributeValue::Ss(all) | AttributeValue::Ns(all) => texts(all),
        AttributeValue::Bs(all) => all
            .iter()
            .map(|bytes| size_of::<Vec<u8>>() + bytes.len())
            .sum(),
        AttributeValue::L(all) => {
            let one = |value| size_of::<AttributeValue>() + content(value);
            all.iter().map(one).sum()
        }
        AttributeValue::M(attributes) => map(attributes),
        AttributeValue::Bool(_) | AttributeValue::Null(_) => 0,
    }
}
