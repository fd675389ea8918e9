//! Shared by the tests of pipelines and processor: records, and stores that fail by script.

#![allow(unreachable_pub, reason = "a module of the test that uses it")]

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use murmur_core::{
    AttributeValue, Change, EventName, Inspected, InspectionOptions, Item, ItemNow, Pass,
    Processor, Record, Row, Sum, item_id,
};
use murmur_state::intercept::{Intercept, Intercepted};
use murmur_state::{
    Add, Bound, Cause, Claim, Deadline, Deduper, ExactlyOnce, Fault, ItemId, Key, Ledger,
    ManualClock, MemoryDeduper, MemoryStore, Once, Outcome, Owner, Place, Read, ReadExt, Recorder,
    Replace, SequenceNumber, Store, StoreError, Timestamp,
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

/// The change that `event` describes, with the state before and after it.
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

/// A store of sums that answers each write by a script.
pub type Scripted = Intercepted<Scripting>;

/// The script of a store.
#[derive(Clone)]
pub struct Scripting {
    pub inner: MemoryStore<Sum>,
    script: Arc<Mutex<Box<Script>>>,
    pub writes: Arc<AtomicUsize>,
    /// By how many its outcomes exceed the entries.
    pub miscounts: isize,
}

/// A store that answers by `script`.
pub fn scripted(script: impl FnMut(&Add<i64>) -> Answer + Send + 'static) -> Scripted {
    Intercepted(Scripting {
        inner: MemoryStore::new(Sum::new()),
        script: Arc::new(Mutex::new(Box::new(script))),
        writes: Arc::default(),
        miscounts: 0,
    })
}

impl Scripting {
    pub fn writes(&self) -> usize {
        self.writes.load(Ordering::Relaxed)
    }

    fn counted(&self, mut outcomes: Vec<Outcome>) -> Vec<Outcome> {
        let count = outcomes.len().saturating_add_signed(self.miscounts);
        outcomes.resize(count, Outcome::Applied);
        outcomes
    }

    fn answer(&self, add: &Add<i64>) -> Answer {
        self.writes.fetch_add(1, Ordering::Relaxed);
        (self.script.lock().unwrap())(add)
    }
}

/// Keys at which an entry failed by a fault that is not the record's own.
#[derive(Default)]
struct Stopped(Vec<Key>);

impl Stopped {
    fn note(&mut self, key: &Key, outcome: &Outcome) {
        if matches!(outcome, Outcome::Failed(error) if error.fault() != Fault::Record) {
            self.0.push(key.clone());
        }
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

impl Intercept for Scripting {
    type Monoid = Sum;
    type Inner = MemoryStore<Sum>;

    fn inner(&self) -> &MemoryStore<Sum> {
        &self.inner
    }

    async fn merge(&self, adds: &[Add<i64>], deadline: Deadline) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let mut stopped = Stopped::default();
        for add in adds {
            if stopped.0.contains(&add.key) {
                outcomes.push(Outcome::Blocked);
                continue;
            }
            let outcome = match self.answer(add) {
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
            stopped.note(&add.key, &outcome);
            outcomes.push(outcome);
        }
        self.counted(outcomes)
    }

    /// Each key by itself, as the script answers for it.
    async fn apply(&self, bound: &Bound, events: &[Once<i64>], by: Deadline) -> Vec<Outcome> {
        let mut stopped = Stopped::default();
        let mut outcomes = Vec::new();
        for event in events {
            let mut worst = Outcome::Duplicate;
            for add in &event.adds {
                if stopped.0.contains(&add.key) {
                    worst.worsen(&Outcome::Blocked);
                    continue;
                }
                let part = Once {
                    adds: vec![add.clone()],
                    ..event.clone()
                };
                let outcome = match self.answer(add) {
                    Answer::Refuse(error) => Outcome::Failed(error),
                    Answer::Apply => self.inner.apply(bound, &[part], by).await.remove(0),
                    Answer::Lose => {
                        self.inner.apply(bound, &[part], by).await;
                        Outcome::Failed(unavailable(true))
                    }
                };
                stopped.note(&add.key, &outcome);
                worst.worsen(&outcome);
            }
            outcomes.push(worst);
        }
        self.counted(outcomes)
    }

    /// All keys of an item or none, as the script answers for the worst of them. An entry that is
    /// not done blocks later ones of the same item.
    async fn replace(&self, bound: &Bound, items: &[Replace<i64>], by: Deadline) -> Vec<Outcome> {
        let mut stopped = Stopped::default();
        let mut outcomes = Vec::new();
        let mut held = Vec::new();
        for item in items {
            let (mut worst, mut lost) = (Outcome::Applied, false);
            if held.contains(&item.item) {
                worst = Outcome::Blocked;
            }
            for add in &item.now {
                let outcome = if stopped.0.contains(&add.key) {
                    Outcome::Blocked
                } else {
                    match self.answer(add) {
                        Answer::Apply => Outcome::Applied,
                        Answer::Refuse(error) => Outcome::Failed(error),
                        Answer::Lose => {
                            lost = true;
                            Outcome::Applied
                        }
                    }
                };
                stopped.note(&add.key, &outcome);
                worst.worsen(&outcome);
            }
            if matches!(worst, Outcome::Applied) {
                let one = std::slice::from_ref(item);
                let applied = self.inner.replace(bound, one, by).await;
                worst = match lost {
                    false => applied[0].clone(),
                    true => Outcome::Failed(unavailable(true)),
                };
            }
            if matches!(worst, Outcome::Failed(_) | Outcome::Blocked) {
                held.push(item.item.clone());
            }
            outcomes.push(worst);
        }
        self.counted(outcomes)
    }
}

/// A deduper whose claims and releases fail a given number of times.
#[derive(Clone, Default)]
pub struct FlakyDeduper {
    pub inner: MemoryDeduper,
    pub lose_claims: Arc<AtomicUsize>,
    pub refuse_claims: Arc<AtomicUsize>,
    pub releases: Arc<AtomicUsize>,
    pub refuse_releases: Arc<AtomicUsize>,
    /// The deadline of each claim.
    pub claims: Arc<Mutex<Vec<Deadline>>>,
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
        self.claims.lock().unwrap().push(by);
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
        if take(&self.refuse_releases) {
            return Err(unavailable(false));
        }
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

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> futures::future::BoxFuture<'a, Result<murmur_state::Removed, StoreError>> {
        self.inner.remove(name, over)
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

    fn gauge(&self, _name: &str, _value: u64) {}

    fn error(&self, _name: &str, _error: &(dyn std::error::Error + 'static)) {}
}

/// The findings of an inspection of a table that has these rows in its first scan, its second and
/// so on, and no others to look up; and the number of rows that can never count.
pub(crate) async fn inspected(
    processor: &Processor<Order>,
    table: impl Fn(usize) -> Vec<Row>,
) -> (Vec<Inspected>, usize) {
    let mut options = InspectionOptions::default();
    options.lag = Duration::ZERO;
    let mut inspection = processor.inspect(options, None).await.unwrap();
    let (mut scans, mut rejected) = (0, 0);
    loop {
        match inspection.next().await.unwrap() {
            Pass::Table | Pass::TableAgain => {
                rejected += inspection.rows(table(scans)).await.unwrap().len();
                scans += 1;
            }
            Pass::Ledgers => {
                let mut parts = inspection.ledger_parts(NonZeroU32::MIN);
                while let Some(part) = parts.pop_front() {
                    parts.extend(inspection.ledger(part).await.unwrap().1);
                }
                let rows = table(scans);
                let look_up = |items: Vec<ItemId>| -> BoxFuture<'_, Result<Vec<ItemNow>, Cause>> {
                    let now = items.iter().map(|item| {
                        let row = rows.iter().find(|row| row.item_id == *item).cloned();
                        row.map_or(ItemNow::Gone, ItemNow::Row)
                    });
                    let now = now.collect();
                    Box::pin(async { Ok(now) })
                };
                inspection.look(&look_up).await.unwrap();
            }
            Pass::Done => return (inspection.findings(), rejected),
        }
    }
}
