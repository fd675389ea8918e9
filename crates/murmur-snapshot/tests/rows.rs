//! What becomes of rows, and of failures on the way.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is a test's failure message"
)]

mod support;

use std::collections::BTreeMap;
use std::future::ready;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use murmur_core::{
    AttributeValue, Decoded, Decoder, Pipeline, Processor, ProcessorBuilder, RecordError, Row, Sum,
    Window,
};
use murmur_snapshot::bootstrap::Counts;
use murmur_snapshot::source::{Cursor, Description, Page};
use murmur_snapshot::{Bootstrap, BootstrapError, Source, SourceError};
use murmur_state::error::Place;
use murmur_state::intercept::{Intercept, Intercepted};
use murmur_state::store::{Add, Outcome};
use murmur_state::time::{ManualClock, Random};
use murmur_state::{
    Clock, Deadline, HandoffToken, MemoryDeduper, MemoryStore, Recorder, RetryPolicy, Store,
    StoreError, Timestamp,
};
use support::*;

#[tokio::test]
async fn every_row_counts_once_whatever_the_segments() {
    for (seed, (segments, page_size)) in [(1, 1), (1, 7), (4, 3), (7, 1), (7, 100)]
        .into_iter()
        .enumerate()
    {
        let (rows, store, markers) = (rows(200 + seed as u64, 17), store(), MemoryDeduper::new());
        for pipeline in [claim_first("claims", &store, &markers)] {
            let run = Bootstrap::builder(
                Processor::new([pipeline]).unwrap(),
                Table::new(&rows, segments, page_size),
            );
            let report = run.run().await.unwrap();
            assert_eq!(report.counts.applied, rows.len() as u64);
            assert_eq!(totals(&store), recount(&rows));
        }
    }
}

#[tokio::test]
async fn several_pipelines_share_one_scan() {
    let (rows, stores, markers) = (
        rows(50, 4),
        [store(), store(), store()],
        MemoryDeduper::new(),
    );
    let pipelines = [
        claim_first("a", &stores[0], &markers),
        exactly_once("b", &stores[1], &markers),
        at_least_once("c", &stores[2]),
    ];
    let table = Table::new(&rows, 2, 5);
    let pages = Arc::clone(&table.pages);
    let run = Bootstrap::builder(Processor::new(pipelines).unwrap(), table)
        .checkpoints(MemoryDeduper::new());
    let report = run.run().await.unwrap();
    assert_eq!(pages.load(Ordering::SeqCst), 10);
    assert_eq!(report.counts.rows, 50);
    for store in &stores {
        assert_eq!(totals(store), recount(&rows));
    }
}

fn bad_rows() -> Vec<Row> {
    vec![
        row("good", "alice", "5"),
        row("not-a-number", "alice", "many"),
        row("no-key", "", "5"),
        row("most", "alice", &(i64::MAX - 5).to_string()),
        row("too-much", "alice", "1"),
        row("too-long", &"x".repeat(3000), "5"),
    ]
}

#[tokio::test]
async fn rejected_rows_are_counted_listed_and_passed_over() {
    let (store, markers, recorder) = (store(), MemoryDeduper::new(), Counting::default());
    let table = Table::new(&bad_rows(), 1, 2);
    let run = Bootstrap::builder(
        Processor::builder([exactly_once("totals", &store, &markers)])
            .recorder(recorder.clone())
            .build()
            .unwrap(),
        table,
    );
    let report = run.run().await.unwrap();
    let Counts {
        rows,
        applied,
        rejected,
        ..
    } = report.counts;
    assert_eq!((rows, applied, rejected), (6, 2, 4));
    assert_eq!(total(&store, "alice").await, Some(i64::MAX));
    let listed: Vec<_> = report
        .rejected
        .iter()
        .map(|row| (row.id.as_str(), row.reason.as_str()))
        .collect();
    for (n, (id, reason)) in [
        ("not-a-number", "cannot be decoded: "),
        ("no-key", "entity is empty"),
        ("too-much", "total is unchanged"),
        ("too-long", "2048"),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(
            listed[n].0.contains(id) && listed[n].1.contains(reason),
            "{listed:?}"
        );
    }
    assert_eq!(report.rejected[0].pipeline, None);
    assert_eq!(
        report.rejected[1].pipeline.as_ref().unwrap().as_str(),
        "totals"
    );
    assert_eq!(recorder.get("totals:dead_letter"), 4);
    assert_eq!(recorder.get("totals"), 2);
}

#[tokio::test]
async fn the_list_of_rejected_rows_has_a_limit() {
    let (store, markers) = (store(), MemoryDeduper::new());
    let table = Table::new(&bad_rows(), 1, 2);
    let run = Bootstrap::builder(
        Processor::new([exactly_once("totals", &store, &markers)]).unwrap(),
        table,
    );
    let report = run.max_listed(1).run().await.unwrap();
    assert_eq!((report.rejected.len(), report.counts.rejected), (1, 4));
}

#[tokio::test]
async fn the_callback_gets_rejected_rows_and_its_error_fails_the_run() {
    let (store, markers) = (store(), MemoryDeduper::new());
    let processor = || Processor::builder([exactly_once("totals", &store, &markers)]);
    let run = |processor: ProcessorBuilder<Order>| {
        Bootstrap::builder(processor.build().unwrap(), Table::new(&bad_rows(), 1, 2)).run()
    };
    let refusing = processor().on_rejected(|_| ready(Err("queue full".into())));
    let error = run(refusing).await.unwrap_err();
    match &error {
        BootstrapError::Row { row, source, .. }
            if matches!(**source, RecordError::Callback { .. }) =>
        {
            assert!(row.contains("not-a-number"), "{row}");
        }
        error => panic!("{error}"),
    }
    let taken = Arc::new(Mutex::new(Vec::new()));
    let take = Arc::clone(&taken);
    let taking = processor().on_rejected(move |rejected| {
        let id = rejected.record.event_id().to_owned();
        take.lock().unwrap().push(id);
        ready(Ok(()))
    });
    let report = run(taking).await.unwrap();
    assert!(report.rerun, "the failed run stayed unfinished");
    assert_eq!(taken.lock().unwrap().len(), 4);
}

#[tokio::test]
async fn skipped_and_expired_rows_are_counted_as_such() {
    let clock = ManualClock::new(NOW);
    let now = NOW.as_secs();
    let decoder = Decoder::item(move |item| match &item["customer"] {
        AttributeValue::S(text) if text == "skip" => Ok(Decoded::Skip),
        AttributeValue::S(text) => Ok(Decoded::Record(
            now - if text == "old" { 9 * 86_400 } else { 0 },
        )),
        _ => Err("no customer".into()),
    });
    let pipeline = Pipeline::builder("days")
        .key(|_: &i64| "all")
        .count()
        .window(Window::daily().retention_days(7), |at| {
            Timestamp::from_secs(*at)
        })
        .every_change()
        .store(MemoryStore::new(murmur_core::Count::new()))
        .exactly_once()
        .unwrap();
    let rows = [
        row("1", "skip", "0"),
        row("2", "old", "0"),
        row("3", "new", "0"),
        row("4", "new", "0"),
    ];
    let run = Bootstrap::builder(
        Processor::with_decoder([pipeline], decoder)
            .clock(Arc::new(clock))
            .build()
            .unwrap(),
        Table::new(&rows, 1, 10),
    );
    let counts = run.run().await.unwrap().counts;
    assert_eq!(
        (counts.skipped, counts.expired, counts.applied, counts.rows),
        (1, 1, 2, 4)
    );
}

/// A store of which every merge fails twice before it is done.
struct Shaky {
    calls: AtomicUsize,
    inner: MemoryStore<Sum>,
}

impl Intercept for Shaky {
    type Monoid = Sum;
    type Inner = MemoryStore<Sum>;

    fn inner(&self) -> &MemoryStore<Sum> {
        &self.inner
    }

    async fn merge(&self, adds: &[Add<i64>], deadline: Deadline) -> Vec<Outcome> {
        if self.calls.fetch_add(1, Ordering::SeqCst) % 3 == 2 {
            return self.inner.merge(adds, deadline).await;
        }
        let failed = |_| {
            Outcome::Failed(StoreError::Unavailable {
                place: Place::table("Shaky", "totals"),
                may_have_applied: false,
                source: None,
            })
        };
        adds.iter().map(failed).collect()
    }
}

#[tokio::test]
async fn writes_are_retried_by_the_policy() {
    let run = |policy: Option<RetryPolicy>| {
        let (calls, inner) = (AtomicUsize::new(0), store());
        let pipeline = Pipeline::builder("totals")
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new())
            .every_change()
            .store(Intercepted(Shaky { calls, inner }))
            .claim_first(MemoryDeduper::new())
            .unwrap();
        let processor = Processor::builder([pipeline]).clock(Arc::new(ManualClock::new(NOW)));
        let processor = match policy {
            Some(policy) => processor.retry(policy),
            None => processor,
        };
        let table = Table::new(&rows(4, 1), 1, 10);
        Bootstrap::builder(processor.build().unwrap(), table).run()
    };
    assert_eq!(run(None).await.unwrap().counts.applied, 4);
    let error = run(Some(RetryPolicy::default().max_attempts(2))).await;
    assert!(matches!(error, Err(BootstrapError::Row { .. })));
}

/// A store that answers every entry for one customer in its own way.
struct Answers {
    customer: &'static str,
    answer: Outcome,
    inner: MemoryStore<Sum>,
}

impl Intercept for Answers {
    type Monoid = Sum;
    type Inner = MemoryStore<Sum>;

    fn inner(&self) -> &MemoryStore<Sum> {
        &self.inner
    }

    async fn merge(&self, adds: &[Add<i64>], deadline: Deadline) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for add in adds {
            if add.key.entity() == self.customer {
                outcomes.push(self.answer.clone());
            } else {
                outcomes.extend(self.inner.merge(std::slice::from_ref(add), deadline).await);
            }
        }
        outcomes
    }
}

async fn run_against(answer: Outcome) -> (BootstrapError, MemoryStore<Sum>) {
    let (store, markers) = (store(), MemoryDeduper::new());
    let pipeline = Pipeline::builder("totals")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .every_change()
        .store(Intercepted(Answers {
            customer: "bob",
            answer,
            inner: store.clone(),
        }))
        .claim_first(markers.clone())
        .unwrap();
    let rows = [
        row("1", "alice", "1"),
        row("2", "bob", "2"),
        row("3", "alice", "3"),
    ];
    let run = Bootstrap::builder(
        Processor::builder([pipeline])
            .clock(Arc::new(ManualClock::new(NOW)))
            .build()
            .unwrap(),
        Table::new(&rows, 1, 10),
    );
    let error = run.run().await.unwrap_err();

    // Mended, the run is run again: what counted is recognised, what failed counts.
    let run = Bootstrap::builder(
        Processor::builder([claim_first("totals", &store, &markers)])
            .clock(Arc::new(ManualClock::new(NOW)))
            .build()
            .unwrap(),
        Table::new(&rows, 1, 10),
    );
    let report = run.run().await.unwrap();
    assert_eq!(
        (
            report.rerun,
            report.counts.duplicates,
            report.counts.applied
        ),
        (true, 2, 1)
    );
    assert_eq!(totals(&store), recount(&rows));
    (error, store)
}

#[tokio::test]
async fn a_row_that_fails_names_itself_and_leaves_the_run_unfinished() {
    let place = Place::table("Int64SumStore", "totals-table");
    let advice = "create the table".to_owned();
    let setup = StoreError::Setup {
        place,
        advice,
        source: None,
    };
    let (error, _) = run_against(Outcome::Failed(setup)).await;
    match &error {
        BootstrapError::Row {
            row,
            segment: 0,
            source_name,
            source,
        } => {
            assert!(row.contains('2') && source_name == "orders", "{row}");
            let cause = murmur_state::Causes(source).to_string();
            assert!(
                cause.contains("totals-table") && cause.contains("create the table"),
                "{cause}"
            );
        }
        error => panic!("{error}"),
    }
    assert!(!error.is_retryable());
}

#[tokio::test]
async fn a_row_that_is_held_back_fails_the_run_too() {
    let (error, _) = run_against(Outcome::Blocked).await;
    assert!(error.is_retryable());
    let BootstrapError::GaveUp { source, .. } = error else {
        panic!("{error}");
    };
    assert!(
        matches!(&*source, BootstrapError::RowBlocked { row, .. } if row.contains('2')),
        "{source}"
    );
}

#[tokio::test]
async fn pages_under_way_are_finished_when_another_segment_fails() {
    let (store, markers) = (store(), MemoryDeduper::new());
    let rows = rows(40, 40);
    // Page 1 fails while page 0 is being counted by a slow store.
    let table = Table::new(&rows, 2, 10).before_page(|n| async move {
        match n {
            1 => Err(SourceError::Setup {
                place: "orders".into(),
                advice: "mend".into(),
                source: None,
            }),
            _ => Ok(()),
        }
    });
    let slow = Intercepted(SlowStore {
        inner: store.clone(),
    });
    let pipeline = Pipeline::builder("totals")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .every_change()
        .store(slow)
        .claim_first(markers.clone())
        .unwrap();
    Bootstrap::builder(Processor::new([pipeline]).unwrap(), table)
        .run()
        .await
        .unwrap_err();
    let page = rows.iter().step_by(2).take(10);
    assert_eq!(
        totals(&store),
        recount(page),
        "the page under way is counted whole, and no other"
    );
    let report = Bootstrap::builder(
        Processor::new([claim_first("totals", &store, &markers)]).unwrap(),
        Table::new(&rows, 2, 10),
    );
    let report = report.run().await.unwrap();
    assert_eq!(
        report.earlier.counts.applied, 10,
        "and how far it brought is saved"
    );
    assert_eq!(report.counts.applied, 30);
    assert_eq!(totals(&store), recount(&rows));
}

struct SlowStore {
    inner: MemoryStore<Sum>,
}

impl Intercept for SlowStore {
    type Monoid = Sum;
    type Inner = MemoryStore<Sum>;

    fn inner(&self) -> &MemoryStore<Sum> {
        &self.inner
    }

    async fn merge(&self, adds: &[Add<i64>], deadline: Deadline) -> Vec<Outcome> {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        self.inner.merge(adds, deadline).await
    }
}

#[derive(Debug, Clone, Default)]
struct Counting(Arc<Mutex<BTreeMap<String, u64>>>);

impl Counting {
    fn get(&self, name: &str) -> u64 {
        self.0.lock().unwrap().get(name).copied().unwrap_or(0)
    }
}

impl Recorder for Counting {
    fn count(&self, name: &str, by: u64) {
        *self.0.lock().unwrap().entry(name.to_owned()).or_default() += by;
    }
    fn gauge(&self, _: &str, _: u64) {}
    fn error(&self, _: &str, _: &(dyn std::error::Error + 'static)) {}
}

fn faulty(faults: usize, error: fn() -> SourceError) -> Table {
    Table::new(&rows(6, 2), 1, 2).before_page(move |n| {
        ready(if (1..=faults).contains(&n) {
            Err(error())
        } else {
            Ok(())
        })
    })
}

fn throttled() -> SourceError {
    SourceError::Throttled {
        place: "orders".into(),
        source: None,
    }
}

#[tokio::test]
async fn a_source_that_fails_for_a_moment_is_asked_again() {
    for (faults, error) in [(2, unavailable as fn() -> SourceError), (15, throttled)] {
        let (store, markers, recorder) = (store(), MemoryDeduper::new(), Counting::default());
        let table = faulty(faults, error);
        let clock = ManualClock::new(NOW);
        let policy = RetryPolicy::default().budget(Duration::from_secs(600));
        let run = Bootstrap::builder(
            Processor::builder([exactly_once("totals", &store, &markers)])
                .clock(Arc::new(clock.clone()))
                .retry(policy)
                .random(Random::seeded(3))
                .recorder(recorder.clone())
                .build()
                .unwrap(),
            table,
        );
        let report = run.run().await.unwrap();
        assert_eq!(report.counts.applied, 6);
        assert_eq!(recorder.get("orders:retry"), faults as u64);
        assert!(clock.now() > NOW, "it waited in between");
        assert!(clock.now() < NOW.plus(Duration::from_secs(600)));
    }
}

#[tokio::test]
async fn a_source_that_keeps_failing_fails_the_run() {
    let pages = |policy| async move {
        let (store, markers) = (store(), MemoryDeduper::new());
        let table = faulty(1000, unavailable);
        let pages = Arc::clone(&table.pages);
        let run = Bootstrap::builder(
            Processor::builder([exactly_once("totals", &store, &markers)])
                .clock(Arc::new(ManualClock::new(NOW)))
                .retry(policy)
                .build()
                .unwrap(),
            table,
        );
        let error = run.run().await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        pages.load(Ordering::SeqCst)
    };
    assert_eq!(pages(RetryPolicy::default()).await, 1 + 3);
    assert_eq!(pages(RetryPolicy::default().max_attempts(1)).await, 1 + 1);
}

#[tokio::test]
async fn a_token_that_cannot_be_captured_for_a_moment_is_asked_for_again() {
    let (store, markers) = (store(), MemoryDeduper::new());
    let table = Table::new(&rows(6, 2), 1, 2)
        .before_capture(|n| ready(if n < 2 { Err(unavailable()) } else { Ok(()) }));
    let run = Bootstrap::builder(
        Processor::builder([exactly_once("totals", &store, &markers)])
            .clock(Arc::new(ManualClock::new(NOW)))
            .build()
            .unwrap(),
        table,
    );
    let report = run.run().await.unwrap();
    assert_eq!(report.token, Some(token(2)));
}

#[tokio::test]
async fn throttling_spends_the_budget_and_no_more() {
    let (store, markers, clock) = (store(), MemoryDeduper::new(), ManualClock::new(NOW));
    let run = Bootstrap::builder(
        Processor::builder([exactly_once("totals", &store, &markers)])
            .clock(Arc::new(clock.clone()))
            .retry(RetryPolicy::default().budget(Duration::from_secs(30)))
            .build()
            .unwrap(),
        faulty(usize::MAX, throttled),
    );
    assert!(run.run().await.unwrap_err().is_retryable());
    assert!(clock.now() < NOW.plus(Duration::from_secs(30)));
}

/// A source of which the second page leads back to itself.
struct Circle;

impl Source for Circle {
    fn name(&self) -> &str {
        "circle"
    }
    fn segments(&self) -> u32 {
        1
    }
    async fn describe(&self) -> Result<Description, SourceError> {
        Ok(Description::new("a circle"))
    }
    async fn capture_handoff(&self) -> Result<Option<HandoffToken>, SourceError> {
        Ok(None)
    }
    async fn page(
        &self,
        _: u32,
        _: Option<&Cursor>,
        _: Option<NonZeroU32>,
    ) -> Result<Page, SourceError> {
        Ok(Page::new(Vec::new(), Some(Cursor::new("here"))))
    }
    async fn close(&self) -> Result<(), SourceError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_source_that_goes_in_circles_is_an_error() {
    let run = Bootstrap::builder(
        Processor::new([exactly_once("totals", &store(), &MemoryDeduper::new())]).unwrap(),
        Circle,
    );
    match run.run().await.unwrap_err() {
        BootstrapError::Source(SourceError::Cursor { cursor, .. }) => assert_eq!(cursor, "here"),
        error => panic!("{error}"),
    }
}

#[tokio::test]
async fn no_more_segments_are_read_at_a_time_than_asked_for() {
    for (asked, wanted) in [(Some(1), 1), (Some(3), 3), (None, 8)] {
        let (under_way, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&most);
        let table = Table::new(&rows(100, 4), 20, 2).before_page(move |_| {
            let (under_way, most) = (Arc::clone(&under_way), Arc::clone(&most));
            async move {
                most.fetch_max(
                    under_way.fetch_add(1, Ordering::SeqCst) + 1,
                    Ordering::SeqCst,
                );
                tokio::task::yield_now().await;
                under_way.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
        });
        let run = Bootstrap::builder(
            Processor::new([exactly_once("totals", &store(), &MemoryDeduper::new())]).unwrap(),
            table,
        );
        let run = match asked {
            Some(n) => run.concurrency(n),
            None => run,
        };
        assert_eq!(run.run().await.unwrap().counts.applied, 100);
        assert_eq!(seen.load(Ordering::SeqCst), wanted);
    }
}

#[tokio::test]
async fn options_that_cannot_be_used_are_named() {
    let pipeline = || exactly_once("totals", &store(), &MemoryDeduper::new());
    let table = || Table::new(&rows(3, 1), 1, 2);
    let none = Table {
        segments: Vec::new(),
        ..table()
    };
    let runs = [
        (
            "concurrency",
            Bootstrap::builder(Processor::new([pipeline()]).unwrap(), table()).concurrency(0),
        ),
        (
            "segments",
            Bootstrap::builder(Processor::new([pipeline()]).unwrap(), none),
        ),
    ];
    for (option, run) in runs {
        match run.build().unwrap_err() {
            BootstrapError::Option(error) => assert_eq!(error.option, option),
            error => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_run_can_be_spawned_and_its_source_shared() {
    let (store, markers) = (store(), MemoryDeduper::new());
    let table = Arc::new(Table::new(&rows(6, 2), 2, 2));
    let run = Bootstrap::builder(
        Processor::new([exactly_once("totals", &store, &markers)]).unwrap(),
        Arc::clone(&table),
    );
    let report = tokio::spawn(run.run()).await.unwrap().unwrap();
    assert_eq!(report.counts.applied, 6);
    assert!(table.closed.load(Ordering::SeqCst));
}
