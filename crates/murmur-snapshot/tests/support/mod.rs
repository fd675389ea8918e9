//! Doubles and pipelines for the tests of this crate.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test binary uses its own part; a panic is a test's failure message"
)]

use std::collections::BTreeMap;
use std::future::pending;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use murmur_core::{AttributeValue, Item, Pipeline, Row, Sum, item_id};
use murmur_snapshot::bootstrap::BootstrapBuilder;
use murmur_snapshot::source::{Cursor, Description, Page, StreamView};
use murmur_snapshot::{BootstrapError, Report, Source, SourceError};
use murmur_state::checkpoint::{Checkpoint, Removed, Saved};
use murmur_state::error::Place;
use murmur_state::intercept::{Intercept, Intercepted};
use murmur_state::store::{Add, Bound, Once, Outcome};
use murmur_state::{
    Checkpoints, Clock, Deadline, ExactlyOnce, HandoffToken, Key, MemoryDeduper, MemoryStore,
    ReadExt, Store, StoreError, Timestamp,
};

/// Builds and runs in one, for tests to which it is the same which of the two refuses.
pub trait BuildAndRun: Sized {
    type Answer;

    fn run(self) -> impl Future<Output = Self::Answer> + Send {
        self.run_until(pending())
    }

    fn run_until(
        self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> impl Future<Output = Self::Answer> + Send;
}

impl<T: Send + Sync + 'static, S: Source> BuildAndRun for BootstrapBuilder<T, S> {
    type Answer = Result<Report, BootstrapError>;

    async fn run_until(self, shutdown: impl Future<Output = ()> + Send) -> Self::Answer {
        self.build()?.run_until(shutdown).await
    }
}

#[derive(serde::Deserialize)]
pub struct Order {
    pub customer: String,
    pub cents: i64,
}

pub const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

pub fn item(id: &str, customer: &str, cents: &str) -> Item {
    let text = |text: &str| AttributeValue::S(text.to_owned());
    std::collections::HashMap::from([
        ("id".to_owned(), text(id)),
        ("customer".to_owned(), text(customer)),
        ("cents".to_owned(), AttributeValue::N(cents.to_owned())),
    ])
    .into()
}

pub fn row(id: &str, customer: &str, cents: &str) -> Row {
    let item = item(id, customer, cents);
    let keys = std::collections::HashMap::from([("id".to_owned(), item["id"].clone())]);
    let item_id = item_id(&keys.into());
    Row {
        event_id: item_id.scan_event().as_str().to_owned(),
        item_id,
        item,
    }
}

/// `n` rows over `customers` customers, the same for the same numbers.
pub fn rows(n: u64, customers: u64) -> Vec<Row> {
    let row = |i: u64| {
        let customer = format!("c{}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % customers);
        row(&format!("o{i}"), &customer, &(i * 7 % 1000).to_string())
    };
    (0..n).map(row).collect()
}

/// What each customer's total should be.
pub fn recount<'a>(rows: impl IntoIterator<Item = &'a Row>) -> BTreeMap<String, i64> {
    let mut totals = BTreeMap::new();
    for row in rows {
        let (AttributeValue::S(customer), AttributeValue::N(cents)) =
            (&row.item["customer"], &row.item["cents"])
        else {
            panic!("not an order: {row:?}");
        };
        *totals.entry(customer.clone()).or_default() += cents.parse::<i64>().unwrap();
    }
    totals
}

pub fn totals(store: &MemoryStore<Sum>) -> BTreeMap<String, i64> {
    let rows = store.rows().into_iter();
    rows.map(|row| (row.key.entity().to_owned(), row.value))
        .collect()
}

pub async fn total(store: &MemoryStore<Sum>, customer: &str) -> Option<i64> {
    store.get(&Key::new(customer, 0).unwrap()).await.unwrap()
}

macro_rules! order_totals {
    ($name:expr) => {
        Pipeline::builder($name)
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new())
    };
}

pub fn claim_first(
    name: &str,
    store: &MemoryStore<Sum>,
    markers: &MemoryDeduper,
) -> Pipeline<Order> {
    order_totals!(name)
        .every_change()
        .store(store.clone())
        .claim_first(markers.clone())
        .unwrap()
}

pub fn exactly_once(
    name: &str,
    store: &MemoryStore<Sum>,
    markers: &MemoryDeduper,
) -> Pipeline<Order> {
    order_totals!(name)
        .every_change()
        .store(store.clone().markers(markers.clone()))
        .exactly_once()
        .unwrap()
}

pub fn ledger(name: &str, store: &MemoryStore<Sum>, markers: &MemoryDeduper) -> Pipeline<Order> {
    order_totals!(name)
        .store(store.clone().markers(markers.clone()))
        .ledger()
        .unwrap()
}

/// By a ledger that its items leave.
pub fn settling(name: &str, store: &MemoryStore<Sum>, markers: &MemoryDeduper) -> Pipeline<Order> {
    Pipeline::builder(name)
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .settle()
        .store(store.clone().markers(markers.clone()))
        .ledger()
        .unwrap()
}

pub fn at_least_once(name: &str, store: &MemoryStore<Sum>) -> Pipeline<Order> {
    order_totals!(name)
        .every_change()
        .store(store.clone())
        .at_least_once()
        .unwrap()
}

pub fn store() -> MemoryStore<Sum> {
    MemoryStore::new(Sum::new())
}

pub fn token(n: i64) -> HandoffToken {
    HandoffToken::new(STREAM, Timestamp::from_secs(n), Vec::new())
}

pub const STREAM: &str = "arn:stream";

/// What a table of so many segments says of itself.
pub fn described(segments: usize) -> Description {
    let mut described = Description::new(format!("table `orders`, {segments} segments"));
    described.consistent = true;
    described.stream = Some(StreamView::new(STREAM, true, true));
    described
}

type PageHook = dyn Fn(usize) -> BoxFuture<'static, Result<(), SourceError>> + Send + Sync;

/// A source of rows in memory, with hooks and counters.
pub struct Table {
    pub segments: Vec<Vec<Row>>,
    pub page_size: usize,
    pub described: Description,
    /// Whether there is a token.
    pub has_stream: bool,
    /// What an examined row costs in read units; a page costs half a unit where there is none.
    pub row_cost: Option<f64>,
    /// Of which stream the token is.
    pub token_arn: &'static str,
    /// Why it cannot be described, if it cannot.
    pub undescribed: Option<SourceError>,
    pub captures: Arc<AtomicUsize>,
    pub pages: Arc<AtomicUsize>,
    pub closed: Arc<AtomicBool>,
    /// Asked before every page with its number, over all segments.
    pub before_page: Box<PageHook>,
    /// Asked before every capture with its number.
    pub before_capture: Box<PageHook>,
}

impl Table {
    pub fn new(rows: &[Row], segments: usize, page_size: usize) -> Self {
        let mut parts = vec![Vec::new(); segments];
        for (n, row) in rows.iter().enumerate() {
            parts[n % segments].push(row.clone());
        }
        Self {
            segments: parts,
            page_size,
            described: described(segments),
            has_stream: true,
            row_cost: None,
            token_arn: STREAM,
            undescribed: None,
            captures: Arc::default(),
            pages: Arc::default(),
            closed: Arc::default(),
            before_page: Box::new(|_| Box::pin(async { Ok(()) })),
            before_capture: Box::new(|_| Box::pin(async { Ok(()) })),
        }
    }

    pub fn before_page<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(usize) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), SourceError>> + Send + 'static,
    {
        self.before_page = Box::new(move |n| Box::pin(hook(n)));
        self
    }

    pub fn before_capture<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(usize) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), SourceError>> + Send + 'static,
    {
        self.before_capture = Box::new(move |n| Box::pin(hook(n)));
        self
    }
}

impl Source for Table {
    fn name(&self) -> &str {
        "orders"
    }

    fn segments(&self) -> u32 {
        self.segments.len() as u32
    }

    async fn describe(&self) -> Result<Description, SourceError> {
        match &self.undescribed {
            Some(error) => Err(error.clone()),
            None => Ok(self.described.clone()),
        }
    }

    async fn capture_handoff(&self) -> Result<Option<HandoffToken>, SourceError> {
        let n = self.captures.fetch_add(1, Ordering::SeqCst);
        (self.before_capture)(n).await?;
        let mut token = token(n as i64);
        token.stream_arn = self.token_arn.to_owned();
        Ok(self.has_stream.then_some(token))
    }

    async fn page(
        &self,
        segment: u32,
        after: Option<&Cursor>,
        limit: Option<NonZeroU32>,
    ) -> Result<Page, SourceError> {
        let n = self.pages.fetch_add(1, Ordering::SeqCst);
        (self.before_page)(n).await?;
        let rows = &self.segments[segment as usize];
        let from: usize = after.map_or(0, |cursor| cursor.as_str().parse().unwrap());
        let limit = limit.map_or(usize::MAX, |limit| limit.get() as usize);
        let to = (from + self.page_size.min(limit)).min(rows.len());
        let next = (to < rows.len()).then(|| Cursor::new(to.to_string()));
        let mut page = Page::new(rows[from..to].to_vec(), next);
        page.read_units = Some(self.row_cost.map_or(0.5, |cost| cost * (to - from) as f64));
        Ok(page)
    }

    async fn close(&self) -> Result<(), SourceError> {
        self.closed.store(true, Ordering::SeqCst);
        Ok(())
    }
}

pub fn unavailable() -> SourceError {
    SourceError::Unavailable {
        place: "table `orders`".into(),
        source: None,
    }
}

/// Checkpoints of which the `n`-th save fails for good.
#[derive(Clone)]
pub struct FailingSave {
    pub inner: MemoryDeduper,
    pub n: usize,
    pub saves: Arc<AtomicUsize>,
}

impl FailingSave {
    pub fn new(inner: &MemoryDeduper, n: usize) -> Self {
        let inner = inner.clone();
        Self {
            inner,
            n,
            saves: Arc::default(),
        }
    }
}

impl Checkpoints for FailingSave {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        self.inner.load(name)
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        if self.saves.fetch_add(1, Ordering::SeqCst) == self.n {
            let error = StoreError::Setup {
                place: Place::table("test", "markers"),
                advice: "this save fails".into(),
                source: None,
            };
            return Box::pin(async { Err(error) });
        }
        self.inner.save(name, data, over)
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        self.inner.remove(name, over)
    }
}

/// A clock on tokio's time, which is virtual where it is paused. It shows [`NOW`] when made.
#[derive(Debug, Clone)]
pub struct Virtual(tokio::time::Instant);

impl Virtual {
    pub fn new() -> Self {
        Self(tokio::time::Instant::now())
    }

    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

impl Clock for Virtual {
    fn now(&self) -> Timestamp {
        NOW.plus(self.elapsed())
    }

    fn monotonic(&self) -> Duration {
        self.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(duration))
    }
}

/// A store that takes its time, and remembers how long each write had left.
#[derive(Clone)]
pub struct Slow {
    pub inner: MemoryStore<Sum>,
    pub takes: Duration,
    pub clock: Virtual,
    pub left: Arc<Mutex<Vec<Option<Duration>>>>,
}

impl Slow {
    pub fn new(inner: &MemoryStore<Sum>, takes: Duration, clock: &Virtual) -> Self {
        Self {
            inner: inner.clone(),
            takes,
            clock: clock.clone(),
            left: Arc::default(),
        }
    }
}

impl Intercept for Slow {
    type Monoid = Sum;
    type Inner = MemoryStore<Sum>;

    fn inner(&self) -> &MemoryStore<Sum> {
        &self.inner
    }

    async fn merge(&self, adds: &[Add<i64>], deadline: Deadline) -> Vec<Outcome> {
        let left = deadline.remaining(&self.clock);
        self.left.lock().unwrap().push(left);
        tokio::time::sleep(self.takes).await;
        self.inner.merge(adds, deadline).await
    }
}

/// A store that fails in passing until then, at one customer if it is told of one.
#[derive(Clone)]
pub struct Failing {
    clock: Virtual,
    until: Duration,
    only: Option<&'static str>,
    inner: MemoryStore<Sum>,
}

impl Failing {
    pub fn until(clock: Virtual, until: Duration, inner: MemoryStore<Sum>) -> Self {
        Self {
            clock,
            until,
            only: None,
            inner,
        }
    }

    pub fn only(mut self, customer: &'static str) -> Self {
        self.only = Some(customer);
        self
    }

    fn fails(&self, add: &Add<i64>) -> bool {
        let meant = self.only.is_none_or(|only| add.key.entity() == only);
        meant && self.clock.elapsed() < self.until
    }
}

impl Intercept for Failing {
    type Monoid = Sum;
    type Inner = MemoryStore<Sum>;

    fn inner(&self) -> &MemoryStore<Sum> {
        &self.inner
    }

    async fn merge(&self, adds: &[Add<i64>], deadline: Deadline) -> Vec<Outcome> {
        if self.clock.elapsed() < self.until {
            return adds.iter().map(|_| Outcome::Failed(lost())).collect();
        }
        self.inner.merge(adds, deadline).await
    }

    async fn apply(&self, bound: &Bound, events: &[Once<i64>], deadline: Deadline) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for event in events {
            let event = std::slice::from_ref(event);
            outcomes.extend(match event[0].adds.iter().any(|add| self.fails(add)) {
                true => vec![Outcome::Failed(lost())],
                false => self.inner.apply(bound, event, deadline).await,
            });
        }
        outcomes
    }
}

pub fn lost() -> StoreError {
    StoreError::Unavailable {
        place: Place::table("test", "totals"),
        may_have_applied: false,
        source: None,
    }
}

pub fn slowly(name: &str, store: &Slow, markers: &MemoryDeduper) -> Pipeline<Order> {
    order_totals!(name)
        .every_change()
        .store(Intercepted(store.clone()))
        .claim_first(markers.clone())
        .unwrap()
}

/// The names of the checkpoints of segments in `place`, of a run over [`Table`] of `segments`.
pub async fn segment_rows(
    place: &MemoryDeduper,
    pipeline: &Pipeline<Order>,
    run: &str,
    segments: u32,
) -> Vec<u32> {
    let mut found = Vec::new();
    for segment in 0..segments {
        let name = segment_row(pipeline, run, segment);
        if place.load(&name).await.unwrap().is_some() {
            found.push(segment);
        }
    }
    found
}

pub fn segment_row(pipeline: &Pipeline<Order>, run: &str, segment: u32) -> String {
    let parts = ["orders", run, &segment.to_string()];
    pipeline.name().marker("segment", &parts)
}
