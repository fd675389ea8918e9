//! What the tests of pipelines and processor share: records, and stores that fail by script.

#![allow(unreachable_pub, reason = "a module of the test that uses it")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use murmur_core::{AttributeValue, Change, EventName, Item, Record, Row, Sum, item_id};
use murmur_state::{
    Add, Claim, Deadline, Deduper, Key, ManualClock, MemoryDeduper, MemoryStore, Outcome, Owner,
    Place, Read, ReadExt, Recorder, SequenceNumber, Store, StoreError, Timestamp,
};

/// An order as the tests' tables hold it.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Order {
    pub customer: String,
    pub cents: i64,
    #[serde(default)]
    pub placed_at: i64,
}

pub const NOW: i64 = 1_700_000_000;

pub fn clock() -> ManualClock {
    ManualClock::new(Timestamp::from_secs(NOW))
}

pub fn key(entity: &str) -> Key {
    Key::new(entity, 0).unwrap()
}

pub fn item(pairs: &[(&str, AttributeValue)]) -> Item {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), v.clone()))
        .collect::<HashMap<_, _>>()
        .into()
}

pub fn order(customer: &str, cents: i64) -> Item {
    order_at(customer, cents, NOW)
}

pub fn order_at(customer: &str, cents: i64, placed_at: i64) -> Item {
    item(&[
        ("customer", AttributeValue::S(customer.into())),
        ("cents", AttributeValue::N(cents.to_string())),
        ("placed_at", AttributeValue::N(placed_at.to_string())),
    ])
}

fn keys(id: &str) -> Item {
    item(&[("order_id", AttributeValue::S(id.into()))])
}

/// The change that `event` describes: what was, what is.
pub fn change(event: &str, id: &str, old: Option<Item>, new: Option<Item>) -> Change {
    let name = match (&old, &new) {
        (None, _) => EventName::Insert,
        (Some(_), Some(_)) => EventName::Modify,
        (Some(_), None) => EventName::Remove,
    };
    Change {
        event_id: event.into(),
        event: name,
        keys: keys(id),
        new_image: new,
        old_image: old,
        sequence_number: Some(SequenceNumber::new("100000000000000000001").unwrap()),
        created: Some(Timestamp::from_secs(NOW)),
        ..Change::default()
    }
}

pub fn insert(event: &str, new: Item) -> Record {
    Record::Changed(change(event, event, None, Some(new)))
}

pub fn scanned(id: &str, row: Item) -> Record {
    let item_id = item_id(&keys(id));
    Record::Scanned(Row {
        event_id: item_id.scan_event().as_str().into(),
        item_id,
        item: row,
    })
}

pub async fn value(store: &impl Read<i64>, entity: &str) -> Option<i64> {
    store.get(&key(entity)).await.unwrap()
}

/// How a scripted store answers one write.
pub enum Answer {
    Apply,
    Refuse(StoreError),
    /// It is applied, and the answer is lost.
    Lose,
}

type Script = dyn FnMut(&Add<i64>) -> Answer + Send;

/// A store of sums that answers each write as a script says.
#[derive(Clone)]
pub struct Scripted {
    pub inner: MemoryStore<Sum>,
    script: Arc<Mutex<Box<Script>>>,
    pub writes: Arc<AtomicUsize>,
}

impl Scripted {
    pub fn new(script: impl FnMut(&Add<i64>) -> Answer + Send + 'static) -> Self {
        Self {
            inner: MemoryStore::new(Sum::new()),
            script: Arc::new(Mutex::new(Box::new(script))),
            writes: Arc::default(),
        }
    }

    pub fn writes(&self) -> usize {
        self.writes.load(Ordering::Relaxed)
    }
}

pub fn place() -> Place {
    Place::table("Scripted", "memory")
}

pub fn throttled() -> StoreError {
    StoreError::Throttled {
        place: place(),
        source: None,
    }
}

pub fn unavailable(may_have_applied: bool) -> StoreError {
    StoreError::Unavailable {
        place: place(),
        may_have_applied,
        source: None,
    }
}

pub fn missing_table() -> StoreError {
    StoreError::Setup {
        place: place(),
        advice: "create the table".into(),
        source: None,
    }
}

impl Read<i64> for Scripted {
    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<i64>>, StoreError> {
        self.inner.get_many(keys).await
    }
}

impl Store<Sum> for Scripted {
    async fn merge(&self, adds: &[Add<i64>], deadline: Deadline) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let mut stopped: Vec<Key> = Vec::new();
        for add in adds {
            if stopped.contains(&add.key) {
                outcomes.push(Outcome::Blocked);
                continue;
            }
            self.writes.fetch_add(1, Ordering::Relaxed);
            let answer = (self.script.lock().unwrap())(add);
            let outcome = match answer {
                Answer::Apply => self
                    .inner
                    .merge(std::slice::from_ref(add), deadline)
                    .await
                    .remove(0),
                Answer::Refuse(error) => Outcome::Failed(error),
                Answer::Lose => {
                    self.inner.merge(std::slice::from_ref(add), deadline).await;
                    Outcome::Failed(unavailable(true))
                }
            };
            if let Outcome::Failed(error) = &outcome
                && error.fault() != murmur_state::Fault::Record
            {
                stopped.push(add.key.clone());
            }
            outcomes.push(outcome);
        }
        outcomes
    }
}

/// A deduper whose claims and releases fail as often as told.
#[derive(Clone, Default)]
pub struct FlakyDeduper {
    pub inner: MemoryDeduper,
    pub lose_claims: Arc<AtomicUsize>,
    pub refuse_claims: Arc<AtomicUsize>,
    pub releases: Arc<AtomicUsize>,
}

fn take(counter: &AtomicUsize) -> bool {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        })
        .is_ok()
}

impl Deduper for FlakyDeduper {
    async fn claim(&self, id: &str, owner: &Owner, by: Deadline) -> Result<Claim, StoreError> {
        if take(&self.refuse_claims) {
            return Err(unavailable(false));
        }
        let claim = self.inner.claim(id, owner, by).await;
        if take(&self.lose_claims) {
            Err(unavailable(true))
        } else {
            claim
        }
    }

    async fn release(&self, id: &str, owner: &Owner, by: Deadline) -> Result<(), StoreError> {
        self.releases.fetch_add(1, Ordering::Relaxed);
        self.inner.release(id, owner, by).await
    }
}

impl murmur_state::Checkpoints for FlakyDeduper {
    fn load<'a>(
        &'a self,
        name: &'a str,
    ) -> futures::future::BoxFuture<'a, Result<Option<murmur_state::Checkpoint>, StoreError>> {
        self.inner.load(name)
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> futures::future::BoxFuture<'a, Result<murmur_state::Saved, StoreError>> {
        self.inner.save(name, data, over)
    }
}

/// Counts by name.
#[derive(Debug, Clone, Default)]
pub struct Counts(Arc<Mutex<HashMap<String, u64>>>);

impl Counts {
    pub fn of(&self, name: &str) -> u64 {
        self.0.lock().unwrap().get(name).copied().unwrap_or(0)
    }
}

impl Recorder for Counts {
    fn count(&self, name: &str, by: u64) {
        *self.0.lock().unwrap().entry(name.to_owned()).or_default() += by;
    }

    fn error(&self, _name: &str, _error: &(dyn std::error::Error + 'static)) {}
}
