//! A table, its stream and a live side in memory, all of which move whenever somebody looks.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use murmur_core::audit::AuditOptions;
use murmur_core::{
    AttributeValue, Change, Definition, EventName, Item, Pipeline, Processor, ProcessorBuilder,
    Record, Row, Sum, item_id, item_key,
};
use murmur_snapshot::lookup::{Look, LookedUp};
use murmur_snapshot::reconcile::ReconcileBuilder;
use murmur_snapshot::source::{Cursor, Description, Page};
use murmur_snapshot::{Lookup, Reconcile, ReconcileError, Reconciled, Source, SourceError};
use murmur_state::intercept::{Intercept, Intercepted};
use murmur_state::store::{
    Binding, Bound, LedgerEntry, ListSegment, Listed, Mend, Outcome, StateRow,
};
use murmur_state::time::{ManualClock, Random};
use murmur_state::{
    Clock, Deadline, ExactlyOnce, HandoffToken, ItemId, Key, Ledger, MemoryDeduper, MemoryStore,
    Read, SequenceNumber, StoreError, Timestamp,
};

pub(crate) const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

/// Runs what a builder makes, whose options can be used.
pub(crate) trait BuildAndRun {
    fn run(self) -> impl Future<Output = Result<Reconciled, ReconcileError>> + Send;
}

impl<T: Send + Sync + 'static, S: Lookup> BuildAndRun for ReconcileBuilder<T, S> {
    async fn run(self) -> Result<Reconciled, ReconcileError> {
        self.build()?.run().await
    }
}

/// How far live is behind at most.
pub(crate) const LIVE_LAG: Duration = Duration::from_secs(20);

/// How long a reconcile waits.
pub(crate) const LAG: Duration = Duration::from_secs(30);

const ITEMS: u64 = 30;
const SHARDS: usize = 2;
const PAGE: usize = 3;

#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
pub(crate) struct Order {
    pub(crate) customer: String,
    /// What cannot be decoded is no number.
    pub(crate) cents: i64,
    pub(crate) placed_at: i64,
}

/// What the table holds of an order: amounts are texts, so that one can be no number.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Put {
    pub(crate) customer: &'static str,
    pub(crate) cents: String,
    pub(crate) placed_at: i64,
}

pub(crate) fn put(customer: &'static str, cents: i64) -> Put {
    Put {
        customer,
        cents: cents.to_string(),
        placed_at: NOW.as_secs(),
    }
}

/// A rule that is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Items are looked up as they were before the ledger row was read.
    ItemBeforeLedger,
    /// Mending goes by no version.
    MendOverAnything,
}

pub(crate) struct World {
    pub(crate) clock: ManualClock,
    pub(crate) store: MemoryStore<Sum>,
    pub(crate) flaw: Option<Flaw>,
    live: OnceLock<Processor<Order>>,
    tables: Mutex<Tables>,
}

type Event = Box<dyn FnOnce(&World) + Send>;

pub(crate) struct Tables {
    pub(crate) random: Random,
    pub(crate) items: BTreeMap<String, Put>,
    /// What the table was before the ledger was read the last time.
    before: BTreeMap<String, Put>,
    /// Changes that live has not seen, with when they were made.
    pub(crate) shards: Vec<VecDeque<(Timestamp, Change)>>,
    number: u64,
    /// Whether writer and live move by themselves.
    pub(crate) busy: bool,
    /// The items that somebody looks at: the writer likes them most.
    watched: Vec<ItemId>,
    /// What happens when an item is looked up, once each.
    pub(crate) on_look_up: VecDeque<Event>,
    /// What happens while a reconcile waits, once each.
    pub(crate) on_wait: VecDeque<Event>,
    /// What the state says too much of a key.
    pub(crate) forged: Option<(Key, i64)>,
    pub(crate) fail_mends: Option<StoreError>,
    pub(crate) pages: usize,
    pub(crate) look_ups: usize,
    pub(crate) mends: usize,
    pub(crate) superseded: usize,
    pub(crate) fail_look_ups: usize,
    /// How long each look at the ledger had.
    pub(crate) looks_had: Vec<Option<Duration>>,
    /// Requests of all kinds so far.
    pub(crate) requests: usize,
    /// From which request on all fail, and for how long.
    pub(crate) outage: Option<(usize, Duration)>,
    /// Until when they do.
    outage_ends: Option<Timestamp>,
}

impl Tables {
    pub(crate) fn up_to(&self, n: u64) -> u64 {
        u64::try_from(self.random.bits() % u128::from(n)).unwrap()
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

/// What every pipeline of these tests sums: per customer, and all together.
pub(crate) fn definition() -> Definition<Order, Sum> {
    Pipeline::builder("totals")
        .keys(|order: &Order, out| {
            out(&order.customer);
            out("all");
        })
        .value(|order| order.cents)
        .aggregate(Sum::new())
}

impl World {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Self::with(seed, None, definition())
    }

    /// With a live side that counts by `definition` in a ledger.
    pub(crate) fn with(
        seed: u64,
        flaw: Option<Flaw>,
        definition: Definition<Order, Sum>,
    ) -> Arc<Self> {
        let clock = ManualClock::new(NOW);
        let world = Arc::new(Self {
            store: MemoryStore::new(Sum::new()).markers(MemoryDeduper::with_ttl(
                Duration::from_secs(3600),
                Arc::new(clock.clone()),
            )),
            clock,
            flaw,
            live: OnceLock::new(),
            tables: Mutex::new(Tables {
                random: Random::seeded(seed),
                items: BTreeMap::new(),
                before: BTreeMap::new(),
                shards: vec![VecDeque::new(); SHARDS],
                number: 0,
                busy: false,
                watched: Vec::new(),
                on_look_up: VecDeque::new(),
                on_wait: VecDeque::new(),
                forged: None,
                fail_mends: None,
                pages: 0,
                look_ups: 0,
                mends: 0,
                superseded: 0,
                fail_look_ups: 0,
                looks_had: Vec::new(),
                requests: 0,
                outage: None,
                outage_ends: None,
            }),
        });
        let stored = definition.store(world.store.clone());
        world.lives_by(stored.ledger().unwrap());
        world
    }

    /// Makes `pipeline` the one that live counts by.
    pub(crate) fn lives_by(&self, pipeline: Pipeline<Order>) {
        let live = Processor::builder([pipeline])
            .clock(Arc::new(self.clock.clone()))
            .random(Random::seeded(1))
            .on_rejected(|_| async { Ok(()) })
            .build();
        self.live.set(live.unwrap()).ok().unwrap();
    }

    /// Lets items settle; live has heard of it.
    pub(crate) fn let_settle(&self) {
        let live = self.live.get().unwrap();
        let settled = async {
            live.bind(None, Deadline::NONE).await.unwrap();
            live.settle(Deadline::NONE).await.unwrap();
        };
        settled.now_or_never().unwrap();
        self.clock.advance(Duration::from_secs(61));
    }

    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap()
    }

    /// A request of a reconcile or an audit: fails while there is an outage.
    fn request(&self) -> Result<(), StoreError> {
        let now = self.clock.now();
        let mut tables = self.tables();
        let number = tables.requests;
        tables.requests += 1;
        let Some((_, lasts)) = tables.outage.filter(|(from, _)| number >= *from) else {
            return Ok(());
        };
        let ends = *tables.outage_ends.get_or_insert(now.plus(lasts));
        match now < ends {
            true => Err(StoreError::Unavailable {
                place: self.store.place(),
                may_have_applied: false,
                source: None,
            }),
            false => Ok(()),
        }
    }

    /// The same of a request to the table.
    fn source_request(&self) -> Result<(), SourceError> {
        self.request().map_err(|_| SourceError::Unavailable {
            place: "table `orders`".into(),
            source: None,
        })
    }

    /// Writes the item, or removes it; the stream gets a record if that changes anything.
    pub(crate) fn write(&self, id: &str, new: Option<Put>) {
        self.change(id, new, false);
    }

    /// As Time to Live does it.
    pub(crate) fn expire(&self, id: &str) {
        self.change(id, None, true);
    }

    fn change(&self, id: &str, new: Option<Put>, expired: bool) {
        let now = self.clock.now();
        let mut tables = self.tables();
        let old = match &new {
            Some(new) => tables.items.insert(id.to_owned(), new.clone()),
            None => tables.items.remove(id),
        };
        if old == new {
            return;
        }
        tables.number += 1;
        let number = tables.number;
        let change = Change {
            event_id: format!("{number:032x}"),
            event: match (&old, &new) {
                (None, _) => EventName::Insert,
                (Some(_), Some(_)) => EventName::Modify,
                (Some(_), None) => EventName::Remove,
            },
            keys: keys(id),
            new_image: new.map(|new| item(id, &new)),
            old_image: old.map(|old| item(id, &old)),
            unreadable_images: Vec::new(),
            sequence_number: Some(SequenceNumber::new(format!("{number:021}")).unwrap()),
            created: Some(Timestamp::from_secs(now.as_secs())),
            expired,
            stream_arn: Some("arn:stream".into()),
        };
        let shard = id.bytes().map(usize::from).sum::<usize>() % SHARDS;
        tables.shards[shard].push_back((now, change));
    }

    /// Writes something at random.
    pub(crate) fn write_at_random(&self) {
        let id = format!("o{}", self.tables().up_to(ITEMS));
        self.write_some(&id);
    }

    fn write_some(&self, id: &str) {
        let new = {
            let tables = self.tables();
            let customer = ["alice", "bob", "carol"][tables.up_to(3) as usize];
            let cents = match tables.up_to(8) {
                0 => "a lot".to_owned(),
                // Few values, so that items come back to what they were.
                _ => (tables.up_to(3) * 100).to_string(),
            };
            let order = Put {
                cents,
                ..put(customer, 0)
            };
            (tables.up_to(3) > 0).then_some(order)
        };
        self.write(id, new);
    }

    /// Somebody writes an item that is just being looked at, and live may be quick.
    fn interfere(&self) {
        let (item, quick) = {
            let tables = self.tables();
            if !tables.busy || tables.watched.is_empty() || tables.up_to(6) > 0 {
                return;
            }
            let item = tables.up_to(tables.watched.len() as u64) as usize;
            (tables.watched[item].clone(), tables.up_to(3) > 0)
        };
        self.write_some(&id_of(&item));
        if quick {
            self.deliver_all();
        }
    }

    /// Live does the oldest record of `shard`.
    fn deliver(&self, shard: usize) {
        let Some((_, change)) = self.tables().shards[shard].pop_front() else {
            return;
        };
        let record = Record::Changed(change);
        let live = self.live.get().unwrap();
        let outcomes = live.process(std::slice::from_ref(&record), Deadline::NONE);
        let outcomes = outcomes.now_or_never().unwrap();
        assert!(outcomes[0].is_done(), "{outcomes:?}");
    }

    pub(crate) fn deliver_all(&self) {
        for shard in 0..SHARDS {
            while !self.tables().shards[shard].is_empty() {
                self.deliver(shard);
            }
        }
    }

    /// Loses the oldest records of every shard, as many as it pleases; how many.
    pub(crate) fn lose_at_random(&self) -> usize {
        let mut tables = self.tables();
        let mut lost = 0;
        for shard in 0..SHARDS {
            let some = tables.up_to(tables.shards[shard].len() as u64 + 1) as usize;
            lost += tables.shards[shard].drain(..some).count();
        }
        lost
    }

    pub(crate) fn lose_all(&self) {
        self.tables().shards.iter_mut().for_each(VecDeque::clear);
    }

    /// Something happens: a little time passes, somebody writes, live does a record or none, and
    /// whatever it has to have done by now.
    pub(crate) fn step(&self) {
        if !self.tables().busy {
            return;
        }
        self.interfere();
        let (pause, writes, delivers) = {
            let tables = self.tables();
            (
                tables.up_to(500),
                tables.up_to(8) == 0,
                tables.up_to(2) == 0,
            )
        };
        self.clock.advance(Duration::from_millis(pause));
        if writes {
            self.write_at_random();
        }
        if delivers {
            let shard = self.tables().up_to(SHARDS as u64) as usize;
            self.deliver(shard);
        }
        let due = self.clock.now().minus(LIVE_LAG);
        for shard in 0..SHARDS {
            let is_due = || {
                self.tables().shards[shard]
                    .front()
                    .is_some_and(|(at, _)| *at <= due)
            };
            while is_due() {
                self.deliver(shard);
            }
        }
    }

    /// The totals that the table makes, without zeros.
    pub(crate) fn recount(&self) -> BTreeMap<String, i64> {
        let mut totals = BTreeMap::new();
        for order in self.tables().items.values() {
            if let Ok(cents) = order.cents.parse::<i64>() {
                *totals.entry(order.customer.to_owned()).or_default() += cents;
                *totals.entry("all".to_owned()).or_default() += cents;
            }
        }
        totals.retain(|_, total: &mut i64| *total != 0);
        totals
    }

    /// The totals of the state, without zeros.
    pub(crate) fn totals(&self) -> BTreeMap<String, i64> {
        let rows = self.store.rows().into_iter().filter(|row| row.value != 0);
        rows.map(|row| (row.key.entity().to_owned(), row.value))
            .collect()
    }

    /// The pipeline of a reconcile: whatever it reads or writes, something happens before.
    pub(crate) fn pipeline(self: &Arc<Self>) -> Pipeline<Order> {
        self.by_ledger(definition())
    }

    pub(crate) fn by_ledger(
        self: &Arc<Self>,
        definition: Definition<Order, Sum>,
    ) -> Pipeline<Order> {
        let stored = definition.store(Intercepted(Watched(Arc::clone(self))));
        stored.ledger().unwrap()
    }

    pub(crate) fn reconcile(self: &Arc<Self>) -> ReconcileBuilder<Order, Table> {
        self.reconcile_of(self.pipeline())
    }

    pub(crate) fn reconcile_of(
        self: &Arc<Self>,
        pipeline: Pipeline<Order>,
    ) -> ReconcileBuilder<Order, Table> {
        self.reconcile_by(self.processor_of(pipeline))
    }

    /// What reconciles go by, where more is to be said of it.
    pub(crate) fn processor_of(
        self: &Arc<Self>,
        pipeline: Pipeline<Order>,
    ) -> ProcessorBuilder<Order> {
        Processor::builder([pipeline])
            .clock(Arc::new(Ticking(Arc::clone(self))))
            .random(Random::seeded(2))
    }

    pub(crate) fn reconcile_by(
        self: &Arc<Self>,
        processor: ProcessorBuilder<Order>,
    ) -> ReconcileBuilder<Order, Table> {
        Reconcile::builder(processor.build().unwrap(), Table(Arc::clone(self))).lag(LAG)
    }

    /// What an audit finds.
    pub(crate) async fn audit(self: &Arc<Self>) -> murmur_core::audit::Audited {
        self.audit_of(self.pipeline()).await
    }

    pub(crate) async fn audit_of(&self, pipeline: Pipeline<Order>) -> murmur_core::audit::Audited {
        let processor = Processor::builder([pipeline])
            .clock(Arc::new(self.clock.clone()))
            .build()
            .unwrap();
        processor
            .audit(&AuditOptions::default().max_listed(100))
            .await
            .unwrap()
            .remove(0)
    }
}

fn keys(id: &str) -> Item {
    HashMap::from([("id".to_owned(), AttributeValue::S(id.to_owned()))]).into()
}

pub(crate) fn name(id: &str) -> ItemId {
    item_id(&keys(id))
}

fn item(id: &str, order: &Put) -> Item {
    let mut item = keys(id);
    let customer = AttributeValue::S(order.customer.to_owned());
    item.insert("customer".into(), customer);
    item.insert("cents".into(), AttributeValue::N(order.cents.clone()));
    item.insert(
        "placed_at".into(),
        AttributeValue::N(order.placed_at.to_string()),
    );
    item
}

fn row(id: &str, order: &Put) -> Row {
    let item_id = name(id);
    Row {
        event_id: item_id.scan_event().as_str().to_owned(),
        item_id,
        item: item(id, order),
    }
}

fn id_of(item: &ItemId) -> String {
    match &item_key(item).unwrap()["id"] {
        AttributeValue::S(id) => id.clone(),
        other => panic!("no key of this table: {other:?}"),
    }
}

/// Time of which every wait is full of events.
#[derive(Debug)]
struct Ticking(Arc<World>);

impl Clock for Ticking {
    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    fn monotonic(&self) -> Duration {
        self.0.clock.monotonic()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.0.tables().watched.clear();
        let planned = self.0.tables().on_wait.pop_front();
        if let Some(planned) = planned {
            planned(&self.0);
        }
        let until = self.monotonic() + duration;
        if self.0.tables().busy {
            let moment = Duration::from_secs(2);
            while self.monotonic() + moment < until {
                self.0.clock.advance(moment / 2);
                self.0.step();
            }
        }
        self.0.clock.sleep(until.saturating_sub(self.monotonic()))
    }
}

/// The world's table as a source: every page is read at a moment of its own.
#[derive(Debug)]
pub(crate) struct Table(pub(crate) Arc<World>);

impl Source for Table {
    fn name(&self) -> &str {
        "orders"
    }

    fn segments(&self) -> u32 {
        2
    }

    async fn describe(&self) -> Result<Description, SourceError> {
        self.0.source_request()?;
        Ok(Description::new("a table"))
    }

    async fn capture_handoff(&self) -> Result<Option<HandoffToken>, SourceError> {
        Ok(None)
    }

    async fn page(
        &self,
        segment: u32,
        after: Option<&Cursor>,
        _limit: Option<NonZeroU32>,
    ) -> Result<Page, SourceError> {
        self.0.source_request()?;
        self.0.step();
        let mut tables = self.0.tables();
        tables.pages += 1;
        let of_segment = |id: &&String| id.bytes().map(u32::from).sum::<u32>() % 2 == segment;
        let ids: Vec<&String> = tables.items.keys().filter(of_segment).collect();
        let left = ids
            .into_iter()
            .filter(|id| after.is_none_or(|after| id.as_str() > after.as_str()));
        let left: Vec<&String> = left.collect();
        let page = &left[..left.len().min(PAGE)];
        let rows = page.iter().map(|id| row(id, &tables.items[*id])).collect();
        let next = (left.len() > PAGE).then(|| Cursor::new(page[PAGE - 1].as_str()));
        let mut page = Page::new(rows, next);
        page.read_units = Some(0.5);
        Ok(page)
    }

    async fn close(&self) -> Result<(), SourceError> {
        Ok(())
    }
}

impl Lookup for Table {
    fn holds_every_item(&self) -> Result<(), SourceError> {
        Ok(())
    }

    async fn look_up(&self, item: &ItemId) -> Result<Look, SourceError> {
        self.0.source_request()?;
        let planned = {
            let mut tables = self.0.tables();
            tables.look_ups += 1;
            if tables.fail_look_ups > 0 {
                tables.fail_look_ups -= 1;
                return Err(SourceError::Unavailable {
                    place: "table `orders`".into(),
                    source: None,
                });
            }
            tables.on_look_up.pop_front()
        };
        match planned {
            Some(planned) => planned(&self.0),
            None => self.0.step(),
        }
        let id = id_of(item);
        let tables = self.0.tables();
        let items = match self.0.flaw {
            Some(Flaw::ItemBeforeLedger) => &tables.before,
            _ => &tables.items,
        };
        let found = match items.get(&id) {
            Some(order) => LookedUp::Row(row(&id, order)),
            None => LookedUp::Gone,
        };
        Ok(Look::new(found, Some(1.0)))
    }
}

/// The world's store, with something happening before every access, and listings in small parts.
#[derive(Debug, Clone)]
pub(crate) struct Watched(Arc<World>);

fn part<T>(all: Vec<T>, after: Option<&str>, size: usize) -> Listed<T> {
    let from: usize = after.map_or(0, |after| after.parse().unwrap());
    let left = all.len().saturating_sub(from);
    Listed {
        entries: all.into_iter().skip(from).take(size).collect(),
        next: (left > size).then(|| (from + size).to_string()),
        read_units: Some(0.5),
    }
}

impl Watched {
    fn rows(&self) -> Vec<StateRow<i64>> {
        let mut rows = self.0.store.rows();
        if let Some((key, by)) = &self.0.tables().forged {
            match rows.iter_mut().find(|row| row.key == *key) {
                Some(row) => row.value += by,
                None => rows.push(StateRow {
                    key: key.clone(),
                    value: *by,
                    ttl: None,
                }),
            }
        }
        rows
    }
}

impl Intercept for Watched {
    type Monoid = Sum;
    type Inner = MemoryStore<Sum>;

    fn inner(&self) -> &MemoryStore<Sum> {
        &self.0.store
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<i64>>, StoreError> {
        self.0.request()?;
        self.0.step();
        let rows = self.rows();
        let value = |key: &Key| rows.iter().find(|row| row.key == *key).map(|row| row.value);
        Ok(keys.iter().map(value).collect())
    }

    async fn list(&self, after: Option<&str>) -> Result<Listed<StateRow<i64>>, StoreError> {
        self.0.request()?;
        self.0.step();
        Ok(part(self.rows(), after, 2))
    }

    async fn bind(&self, binding: &Binding, deadline: Deadline) -> Result<Bound, StoreError> {
        self.0.request()?;
        self.0.store.bind(binding, deadline).await
    }

    async fn check_binding(
        &self,
        binding: &Binding,
        deadline: Deadline,
    ) -> Result<Bound, StoreError> {
        self.0.request()?;
        self.0.store.check_binding(binding, deadline).await
    }

    async fn known(
        &self,
        bound: &Bound,
        items: &[ItemId],
        deadline: Deadline,
    ) -> Result<Vec<Option<LedgerEntry<i64>>>, StoreError> {
        self.0.request()?;
        {
            let mut tables = self.0.tables();
            tables.before = tables.items.clone();
            tables.watched = items.to_vec();
            tables.looks_had.push(deadline.remaining(&self.0.clock));
        }
        self.0.step();
        self.0.store.known(bound, items, deadline).await
    }

    async fn list_known(
        &self,
        bound: &Bound,
        segment: ListSegment,
        after: Option<&str>,
    ) -> Result<Listed<LedgerEntry<i64>>, StoreError> {
        self.0.request()?;
        self.0.step();
        let all = self.0.store.list_known(bound, segment, None).await?;
        Ok(part(all.entries, after, 2))
    }

    async fn mend(&self, bound: &Bound, items: &[Mend<i64>], deadline: Deadline) -> Vec<Outcome> {
        self.0.step();
        let planned = self.0.tables().fail_mends.clone();
        if let Some(error) = self.0.request().err().or(planned) {
            return items
                .iter()
                .map(|_| Outcome::Failed(error.clone()))
                .collect();
        }
        let mut items = items.to_vec();
        if self.0.flaw == Some(Flaw::MendOverAnything) {
            let names: Vec<ItemId> = items.iter().map(|mend| mend.item.clone()).collect();
            let known = self.0.store.known(bound, &names, deadline).await;
            for (mend, known) in items.iter_mut().zip(known.unwrap()) {
                mend.over = known.map(|known| known.version);
            }
        }
        let outcomes = self.0.store.mend(bound, &items, deadline).await;
        let superseded = outcomes
            .iter()
            .filter(|outcome| matches!(outcome, Outcome::Superseded));
        let mut tables = self.0.tables();
        tables.mends += items.len();
        tables.superseded += superseded.count();
        outcomes
    }
}
