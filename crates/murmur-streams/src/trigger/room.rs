//! How much is read ahead, over all shards of a trigger.
//!
//! A read takes room for the most that it may bring, waiting in line for it; what it brought keeps
//! what it needs, and gives it back when it is done or dropped. A read that failed gives it all back
//! until it comes again.
//!
//! Every shard gets its turn: room is given in the order it was asked for, so it is enough that
//! what is held comes back. A shard that has to wait for room waits for nothing else with what it
//! holds: it delivers what it has, without waiting for a fuller batch. So all that is held is with
//! the handler, or behind what is, or failed and comes again. What fails ends by itself where
//! retries are limited; where they are not, a shard that keeps failing while others wait is put
//! aside: it drops what it has, and begins again from its position, at the end of the line.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lambda_events::event::dynamodb::EventRecord;
use serde_dynamo::AttributeValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one read takes: a megabyte of small attributes is several in memory.
pub(crate) const READ_BYTES: usize = 4 * 1024 * 1024;

/// What is counted in.
const UNIT: usize = 1024;

pub(crate) struct Room {
    units: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// Part of the room; given back when it is dropped.
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

    /// Room for a read, if there is some and no other waits for it.
    pub(crate) fn try_take(&self) -> Option<Taken> {
        if self.is_wanted() {
            return None;
        }
        let units = (READ_BYTES / UNIT) as u32;
        let taken = Arc::clone(&self.units).try_acquire_many_owned(units);
        taken.ok().map(Taken)
    }

    /// Room for a read, once it is this one's turn; `None` never comes.
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
    /// What a record needs of this, or what is left of it.
    pub(crate) fn part(&mut self, record: &EventRecord) -> Option<Taken> {
        let units = size(record).div_ceil(UNIT).min(self.0.num_permits());
        self.0.split(units).map(Taken)
    }
}

/// One that waits, until it is dropped.
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

/// How many bytes of memory a record takes, about.
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
