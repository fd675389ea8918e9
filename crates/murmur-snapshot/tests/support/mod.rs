//! Doubles and pipelines for the tests of this crate.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part"
)]

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::future::BoxFuture;
use murmur_core::{AttributeValue, Item, Pipeline, Row, Sum, item_id};
use murmur_snapshot::{Cursor, Description, Page, Source, SourceError, StreamView};
use murmur_state::{
    Checkpoint, Checkpoints, HandoffToken, Key, MemoryDeduper, MemoryStore, Place, ReadExt,
    Removed, Saved, StoreError, Timestamp,
};

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
    ($name:expr, $store:expr) => {
        Pipeline::builder($name)
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new())
            .store($store)
    };
}

pub fn claim_first(
    name: &str,
    store: &MemoryStore<Sum>,
    markers: &MemoryDeduper,
) -> Pipeline<Order> {
    order_totals!(name, store.clone())
        .claim_first(markers.clone())
        .unwrap()
}

pub fn exactly_once(
    name: &str,
    store: &MemoryStore<Sum>,
    markers: &MemoryDeduper,
) -> Pipeline<Order> {
    order_totals!(name, store.clone())
        .exactly_once(markers.clone())
        .unwrap()
}

pub fn ledger(name: &str, store: &MemoryStore<Sum>, markers: &MemoryDeduper) -> Pipeline<Order> {
    order_totals!(name, store.clone())
        .ledger(markers.clone())
        .unwrap()
}

pub fn at_least_once(name: &str, store: &MemoryStore<Sum>) -> Pipeline<Order> {
    order_totals!(name, store.clone()).at_least_once().unwrap()
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
    described.stream = Some(StreamView {
        arn: STREAM.into(),
        new_images: true,
        old_images: true,
    });
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
        Ok(self.described.clone())
    }

    async fn capture_handoff(&self) -> Result<Option<HandoffToken>, SourceError> {
        let n = self.captures.fetch_add(1, Ordering::SeqCst);
        (self.before_capture)(n).await?;
        Ok(self.has_stream.then(|| token(n as i64)))
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
        Ok(Page {
            rows: rows[from..to].to_vec(),
            next: (to < rows.len()).then(|| Cursor::new(to.to_string())),
            examined: (to - from) as u64,
            read_units: Some(self.row_cost.map_or(0.5, |cost| cost * (to - from) as f64)),
            ..Page::default()
        })
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
