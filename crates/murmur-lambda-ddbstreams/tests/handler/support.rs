//! A store and a deduper that fail by script, and events in DynamoDB's shape.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use murmur_core::{Count, Decoded, Decoder, Pipeline, Sum};
use murmur_lambda_ddbstreams::{DynamoDbEventResponse, Event};
use murmur_state::{
    Add, Causes, Checkpoint, Checkpoints, Claim, Clock, Deadline, Deduper, Key, Listed,
    ManualClock, MemoryDeduper, MemoryStore, Monoid, Outcome, Owner, Place, Read, Recorder,
    Removed, Saved, StateRow, Store, StoreError, Timestamp,
};
use serde_json::{Value, json};

#[derive(Debug, Clone, serde::Deserialize)]
pub(crate) struct Order {
    pub(crate) customer: String,
    pub(crate) amount_cents: i64,
}

/// A fault in place of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Throttle,
    /// The service fails; nothing is applied.
    Fail,
    /// It is applied, and its answer is lost.
    Lose,
    /// The set-up is wrong.
    Refuse,
}

impl Step {
    fn error(self) -> StoreError {
        let place = Place::table("Scripted", "script");
        match self {
            Self::Throttle => StoreError::Throttled {
                place,
                source: None,
            },
            Self::Fail | Self::Lose => StoreError::Unavailable {
                place,
                may_have_applied: matches!(self, Self::Lose),
                source: None,
            },
            Self::Refuse => StoreError::Setup {
                place,
                advice: "create the table".into(),
                source: None,
            },
        }
    }
}

/// Steps for each entity or id, used up in order.
#[derive(Debug, Clone, Default)]
struct Script(Arc<Mutex<HashMap<String, VecDeque<Step>>>>);

impl Script {
    fn push(&self, at: &str, steps: impl IntoIterator<Item = Step>) {
        let mut script = self.0.lock().unwrap();
        script.entry(at.to_owned()).or_default().extend(steps);
    }

    fn next(&self, at: &str) -> Option<Step> {
        self.0.lock().unwrap().get_mut(at)?.pop_front()
    }
}

/// A memory store whose writes fail by script and take virtual time.
#[derive(Debug, Clone)]
pub(crate) struct Scripted<M: Monoid> {
    pub(crate) rows: MemoryStore<M>,
    script: Script,
    clock: ManualClock,
    each: Duration,
    /// When each write was begun, on the clock.
    writes: Arc<Mutex<Vec<Duration>>>,
}

impl<M: Monoid> Scripted<M> {
    pub(crate) fn new(monoid: M) -> Self {
        Self::taking(Duration::ZERO, &clock(), monoid)
    }

    /// Each write takes `each` on `clock`.
    pub(crate) fn taking(each: Duration, clock: &ManualClock, monoid: M) -> Self {
        Self {
            rows: MemoryStore::new(monoid),
            script: Script::default(),
            clock: clock.clone(),
            each,
            writes: Arc::default(),
        }
    }

    /// The next writes to `entity`.
    pub(crate) fn script(self, entity: &str, steps: impl IntoIterator<Item = Step>) -> Self {
        self.script.push(entity, steps);
        self
    }

    pub(crate) fn writes(&self) -> Vec<Duration> {
        self.writes.lock().unwrap().clone()
    }
}

impl Scripted<Sum> {
    /// The total of `entity` without a window.
    pub(crate) fn total(&self, entity: &str) -> Option<i64> {
        total(&self.rows, entity)
    }
}

pub(crate) fn total<M: Monoid<Value = i64>>(rows: &MemoryStore<M>, entity: &str) -> Option<i64> {
    let key = Key::new(entity, 0).unwrap();
    rows.rows()
        .into_iter()
        .find_map(|row| (row.key == key).then_some(row.value))
}

impl<M: Monoid> Read<M::Value> for Scripted<M> {
    fn place(&self) -> Place {
        self.rows.place()
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<M::Value>>, StoreError> {
        self.rows.get_many(keys).await
    }

    async fn list(&self, after: Option<&str>) -> Result<Listed<StateRow<M::Value>>, StoreError> {
        self.rows.list(after).await
    }
}

impl<M: Monoid> Store<M> for Scripted<M> {
    async fn merge(&self, adds: &[Add<M::Value>], deadline: Deadline) -> Vec<Outcome> {
        let mut stopped = HashSet::new();
        let mut outcomes = Vec::new();
        for add in adds {
            if stopped.contains(&add.key) {
                outcomes.push(Outcome::Blocked);
                continue;
            }
            let error = if deadline.passed(&self.clock) {
                let place = Place::table("Scripted", "script");
                Some(StoreError::DeadlinePassed { place })
            } else {
                self.writes.lock().unwrap().push(self.clock.monotonic());
                self.clock.advance(self.each);
                let step = self.script.next(add.key.entity());
                if matches!(step, None | Some(Step::Lose)) {
                    self.rows.merge(std::slice::from_ref(add), deadline).await;
                }
                step.map(Step::error)
            };
            outcomes.push(match error {
                None => Outcome::Applied,
                Some(error) => {
                    stopped.insert(add.key.clone());
                    Outcome::Failed(error)
                }
            });
        }
        outcomes
    }
}

/// A memory deduper whose claims fail by script.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claims {
    memory: MemoryDeduper,
    script: Script,
}

impl Claims {
    /// The next claims of the event `id` by the pipeline `order_totals`.
    pub(crate) fn script(self, id: &str, steps: impl IntoIterator<Item = Step>) -> Self {
        self.script
            .push(&format!("order_totals/claim/{}:{id}", id.len()), steps);
        self
    }
}

impl Deduper for Claims {
    async fn claim(&self, id: &str, owner: &Owner, until: Deadline) -> Result<Claim, StoreError> {
        let step = self.script.next(id);
        let claim = match step {
            None | Some(Step::Lose) => self.memory.claim(id, owner, until).await?,
            _ => Claim::First,
        };
        step.map_or(Ok(claim), |step| Err(step.error()))
    }

    async fn release(&self, id: &str, owner: &Owner, until: Deadline) -> Result<(), StoreError> {
        self.memory.release(id, owner, until).await
    }
}

impl Checkpoints for Claims {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        self.memory.load(name)
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        self.memory.save(name, data, over)
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        self.memory.remove(name, over)
    }
}

/// Counts and the texts of errors, with their causes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
    errors: Arc<Mutex<Vec<String>>>,
}

impl Seen {
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.counts.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    pub(crate) fn errors(&self) -> Vec<String> {
        self.errors.lock().unwrap().clone()
    }
}

impl Recorder for Seen {
    fn count(&self, name: &str, by: u64) {
        *self.counts.lock().unwrap().entry(name.into()).or_default() += by;
    }

    fn gauge(&self, _name: &str, _value: u64) {}

    fn error(&self, _name: &str, error: &(dyn std::error::Error + 'static)) {
        self.errors.lock().unwrap().push(Causes(error).to_string());
    }
}

pub(crate) fn clock() -> ManualClock {
    ManualClock::new(Timestamp::from_secs(1_767_225_600))
}

/// Totals per customer, with retraction, at least once.
pub(crate) fn totals(store: &Scripted<Sum>) -> Pipeline<Order> {
    Pipeline::builder("order_totals")
        .key(|order: &Order| order.customer.clone())
        .value(|order| order.amount_cents)
        .aggregate(Sum::new())
        .retract()
        .store(store.clone())
        .at_least_once()
        .unwrap()
}

/// Totals per customer, with retraction, each event claimed first.
pub(crate) fn claimed_totals(store: &Scripted<Sum>, claims: &Claims) -> Pipeline<Order> {
    Pipeline::builder("order_totals")
        .key(|order: &Order| order.customer.clone())
        .value(|order| order.amount_cents)
        .aggregate(Sum::new())
        .retract()
        .store(store.clone())
        .claim_first(claims.clone())
        .unwrap()
}

/// Orders per customer, each event claimed first.
pub(crate) fn claimed_counts(store: &Scripted<Count>, claims: &Claims) -> Pipeline<Order> {
    Pipeline::builder("order_counts")
        .key(|order: &Order| order.customer.clone())
        .count()
        .every_change()
        .store(store.clone())
        .claim_first(claims.clone())
        .unwrap()
}

/// Serde, and how often it was asked.
pub(crate) fn counting_decoder() -> (Decoder<Order>, Arc<AtomicUsize>) {
    let decoded = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&decoded);
    let decoder = Decoder::item(move |item| {
        count.fetch_add(1, Ordering::Relaxed);
        let value = serde_json::to_value(item)?;
        Ok(Decoded::Record(Order {
            customer: value["customer"]["S"].as_str().ok_or("no customer")?.into(),
            amount_cents: value["amount_cents"]["N"]
                .as_str()
                .ok_or("no amount")?
                .parse()?,
        }))
    });
    (decoder, decoded)
}

fn item(n: u32, (customer, amount_cents): (&str, i64)) -> Value {
    json!({
        "id": { "S": format!("o-{n}") },
        "customer": { "S": customer },
        "amount_cents": { "N": amount_cents.to_string() },
    })
}

/// The sequence number of record `n`.
pub(crate) fn number(n: u32) -> String {
    format!("1000000000000000000{n:04}")
}

/// The event id of record `n`.
pub(crate) fn id(n: u32) -> String {
    format!("{n:032x}")
}

/// Record `n`, of order `order`: what it was and what it is.
pub(crate) fn change(
    n: u32,
    order: u32,
    old: Option<(&str, i64)>,
    new: Option<(&str, i64)>,
) -> Value {
    let name = match (old, new) {
        (None, _) => "INSERT",
        (Some(_), Some(_)) => "MODIFY",
        (Some(_), None) => "REMOVE",
    };
    json!({
        "eventID": id(n),
        "eventName": name,
        "eventVersion": "1.1",
        "eventSource": "aws:dynamodb",
        "awsRegion": "eu-west-1",
        "eventSourceARN": "arn:aws:dynamodb:eu-west-1:123456789012:table/orders/stream/2026-01-01T00:00:00.000",
        "dynamodb": {
            "ApproximateCreationDateTime": 1_767_225_600,
            "Keys": { "id": { "S": format!("o-{order}") } },
            "NewImage": new.map(|new| item(order, new)),
            "OldImage": old.map(|old| item(order, old)),
            "SequenceNumber": number(n),
            "SizeBytes": 87,
            "StreamViewType": "NEW_AND_OLD_IMAGES",
        },
    })
}

pub(crate) fn insert(n: u32, customer: &str, cents: i64) -> Value {
    change(n, n, None, Some((customer, cents)))
}

/// An insert that no decoder can read.
pub(crate) fn undecodable(n: u32) -> Value {
    let mut record = insert(n, "nobody", 0);
    record["dynamodb"]["NewImage"]["amount_cents"] = json!({ "S": "a lot" });
    record
}

pub(crate) fn event(records: impl IntoIterator<Item = Value>) -> Event {
    let records: Vec<_> = records.into_iter().collect();
    serde_json::from_value(json!({ "Records": records })).unwrap()
}

/// What the answer reports.
pub(crate) fn reported(answer: &DynamoDbEventResponse) -> Vec<&str> {
    let failures = answer.batch_item_failures.iter();
    failures
        .map(|failure| failure.item_identifier.as_deref().unwrap())
        .collect()
}

pub(crate) fn numbers(records: impl IntoIterator<Item = u32>) -> Vec<String> {
    records.into_iter().map(number).collect()
}
