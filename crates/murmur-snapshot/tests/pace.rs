//! How fast pages are read and written, in virtual time.

#![allow(clippy::unwrap_used, reason = "a panic is a test's failure message")]

mod support;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use murmur_core::{Processor, Row, Sum};
use murmur_snapshot::source::{Cursor, Description, Page};
use murmur_snapshot::{
    Bootstrap, BootstrapError, Ended, JsonLines, Progress, ReadBudget, Source, SourceError,
};
use murmur_state::{HandoffToken, MemoryDeduper, MemoryStore, Recorder};
use support::*;

const MINUTE: Duration = Duration::from_secs(60);

/// When each page was asked for.
type Asked = Arc<Mutex<Vec<Duration>>>;

/// A table that answers after 20 ms, and of which each row costs `cost`.
fn table(rows: &[Row], segments: usize, page_size: usize, cost: f64) -> (Table, Asked) {
    let (clock, asked) = (Virtual::new(), Asked::default());
    let log = Arc::clone(&asked);
    let table = Table::new(rows, segments, page_size).before_page(move |_| {
        log.lock().unwrap().push(clock.elapsed());
        async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(())
        }
    });
    (
        Table {
            row_cost: Some(cost),
            ..table
        },
        asked,
    )
}

/// Runs it within a budget: when each page was done and what it cost, and how long it all took.
async fn within(budget: ReadBudget, table: Table) -> (Vec<(Duration, f64)>, Duration) {
    let (clock, pages) = (Virtual::new(), Arc::new(Mutex::new(Vec::new())));
    let (log, at) = (Arc::clone(&pages), clock.clone());
    let run = Bootstrap::builder(
        Processor::builder([exactly_once("totals", &store(), &MemoryDeduper::new())])
            .clock(Arc::new(clock.clone()))
            .build()
            .unwrap(),
        table,
    );
    let run = run.read_budget(budget);
    let run = run.on_progress(move |progress| {
        if let Progress::Page { page, .. } = progress {
            log.lock().unwrap().push((at.elapsed(), page.read_units));
        }
    });
    assert_eq!(run.run().await.unwrap().ended, Ended::Finished);
    let pages = pages.lock().unwrap().clone();
    (pages, clock.elapsed())
}

/// No minute from the second page on costs more than `units` a second, but for its last page.
fn keeps_to(pages: &[(Duration, f64)], units: f64) {
    for (n, (from, _)) in pages.iter().enumerate().skip(1) {
        let minute: Vec<_> = pages[n..]
            .iter()
            .take_while(|(at, _)| *at < *from + MINUTE)
            .collect();
        let (last, before) = minute.split_last().unwrap();
        let spent: f64 = before.iter().map(|(_, units)| units).sum();
        // The credit of a tenth of a second, and pages that were asked for together.
        assert!(
            spent <= 60.0 * units * 1.01 + 1.0,
            "{spent} in the minute from {from:?}"
        );
        assert!(last.1 <= 2.5 * units, "a page of {} units", last.1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_kept_to_and_used_up() {
    let rows = rows(20_000, 50);
    for (budget, described) in [
        (ReadBudget::UnitsPerSecond(10.0), None),
        (ReadBudget::PercentOfProvisioned(25.0), Some(40.0)),
    ] {
        // 2,000 units: 200 seconds of the budget, in pages of up to a second's worth.
        let (mut table, _) = table(&rows, 4, 1000, 0.1);
        table.described.provisioned_read_units = described;
        let (pages, took) = within(budget, table).await;
        keeps_to(&pages, 10.0);
        assert_eq!(
            pages.iter().map(|(_, units)| units).sum::<f64>().round(),
            2000.0
        );
        let secs = took.as_secs_f64();
        assert!((196.0..208.0).contains(&secs), "{secs} s");
    }
}

#[tokio::test(start_paused = true)]
async fn small_pages_use_the_budget_up_as_well() {
    // 40 pages a second, more than one reader can fetch.
    let (table, _) = table(&rows(8000, 50), 4, 5, 0.5);
    let (pages, took) = within(ReadBudget::UnitsPerSecond(100.0), table).await;
    keeps_to(&pages, 100.0);
    let secs = took.as_secs_f64();
    assert!((39.0..43.0).contains(&secs), "{secs} s");
}

#[tokio::test(start_paused = true)]
async fn items_that_grow_are_paid_for_all_the_same() {
    let rows = rows(6000, 50);
    let (table, _) = table(&rows, 3, 1000, 0.1);
    // The later half of each segment costs twenty times as much.
    let table = Grows(table);
    let (clock, pages) = (Virtual::new(), Arc::new(Mutex::new(Vec::new())));
    let (log, at) = (Arc::clone(&pages), clock.clone());
    let run = Bootstrap::builder(
        Processor::builder([exactly_once("totals", &store(), &MemoryDeduper::new())])
            .clock(Arc::new(clock.clone()))
            .build()
            .unwrap(),
        table,
    );
    let run = run
        .read_budget(ReadBudget::UnitsPerSecond(20.0))
        .on_progress(move |progress| {
            if let Progress::Page { page, .. } = progress {
                log.lock().unwrap().push((at.elapsed(), page.read_units));
            }
        });
    run.run().await.unwrap();
    let units: f64 = pages.lock().unwrap().iter().map(|(_, units)| units).sum();
    let least = units / 20.0;
    let secs = clock.elapsed().as_secs_f64();
    assert!(
        secs >= least - 20.0 && secs < least * 1.1,
        "{secs} s for {units} units"
    );
}

struct Grows(Table);

impl Source for Grows {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn segments(&self) -> u32 {
        self.0.segments()
    }
    async fn describe(&self) -> Result<Description, SourceError> {
        self.0.describe().await
    }
    async fn capture_handoff(&self) -> Result<Option<HandoffToken>, SourceError> {
        self.0.capture_handoff().await
    }
    async fn page(
        &self,
        segment: u32,
        after: Option<&Cursor>,
        limit: Option<NonZeroU32>,
    ) -> Result<Page, SourceError> {
        let mut page = self.0.page(segment, after, limit).await?;
        let from: u64 = after.map_or(0, |after| after.as_str().parse().unwrap());
        if from > 1000 {
            page.read_units = page.read_units.map(|units| 20.0 * units);
        }
        Ok(page)
    }
    async fn close(&self) -> Result<(), SourceError> {
        self.0.close().await
    }
}

#[tokio::test]
async fn a_source_that_does_not_say_what_it_costs_cannot_be_kept_to_a_budget() {
    let rows = "{\"id\":\"1\",\"customer\":\"a\",\"cents\":5}";
    let source = JsonLines::reader("orders", rows.as_bytes()).key(["id"]);
    let store = store();
    let pipeline = exactly_once("totals", &store, &MemoryDeduper::new());
    let run = Bootstrap::builder(Processor::new([pipeline]).unwrap(), source.build().unwrap());
    let error = run
        .read_budget(ReadBudget::UnitsPerSecond(5.0))
        .run()
        .await
        .unwrap_err();
    match error {
        BootstrapError::Option(error) => assert_eq!(error.option, "read_budget"),
        error => panic!("{error}"),
    }
    assert!(totals(&store).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_what_is_to_be_paid_for() {
    let (table, _) = table(&rows(100, 5), 1, 100, 1000.0);
    let clock = Virtual::new();
    let run = Bootstrap::builder(
        Processor::builder([exactly_once("totals", &store(), &MemoryDeduper::new())])
            .clock(Arc::new(clock.clone()))
            .build()
            .unwrap(),
        table,
    );
    let run = run.read_budget(ReadBudget::UnitsPerSecond(1.0));
    let report = run.run_until(tokio::time::sleep(MINUTE)).await.unwrap();
    assert_eq!((report.ended, report.counts.rows), (Ended::Stopped, 16));
    assert!(
        clock.elapsed() < MINUTE + Duration::from_secs(1),
        "{:?}",
        clock.elapsed()
    );
}

/// Segments of so many pages of one row each.
fn uneven(pages: [usize; 4]) -> Table {
    let all = rows(pages.iter().sum::<usize>() as u64, 500);
    let mut rest = all.as_slice();
    let mut table = Table::new(&[], 4, 1);
    for (segment, pages) in pages.into_iter().enumerate() {
        let (rows, others) = rest.split_at(pages);
        table.segments[segment] = rows.to_vec();
        rest = others;
    }
    table
}

#[tokio::test(start_paused = true)]
async fn all_workers_are_busy_to_the_end_of_uneven_segments() {
    let (clock, inner, markers) = (Virtual::new(), store(), MemoryDeduper::new());
    let store = Slow::new(&inner, Duration::from_millis(40), &clock);
    let (under_way, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (begun, seen) = (Arc::clone(&under_way), Arc::clone(&most));
    let table = uneven([370, 10, 10, 10]).before_page(move |_| {
        seen.fetch_max(begun.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        async {
            tokio::time::sleep(Duration::from_millis(4)).await;
            Ok(())
        }
    });
    let done = Arc::clone(&under_way);
    let run = Bootstrap::builder(
        Processor::builder([slowly("totals", &store, &markers)])
            .clock(Arc::new(clock.clone()))
            .build()
            .unwrap(),
        table,
    )
    .concurrency(8);
    let run = run.on_progress(move |progress| {
        if let Progress::Page { .. } = progress {
            done.fetch_sub(1, Ordering::SeqCst);
        }
    });
    run.run().await.unwrap();
    // 400 pages of 44 ms among 8 workers are 2.2 s; the long segment alone, page after page,
    // would be 16.3 s.
    let took = clock.elapsed();
    assert!(took < Duration::from_millis(2400), "{took:?}");
    assert_eq!(most.load(Ordering::SeqCst), 8, "pages in memory");
}

#[derive(Debug, Clone, Default)]
struct Gauges(Arc<Mutex<BTreeMap<String, Vec<u64>>>>);

impl Recorder for Gauges {
    fn count(&self, _: &str, _: u64) {}
    fn gauge(&self, name: &str, value: u64) {
        let mut gauges = self.0.lock().unwrap();
        gauges.entry(name.to_owned()).or_default().push(value);
    }
    fn error(&self, _: &str, _: &(dyn std::error::Error + 'static)) {}
}

#[tokio::test(start_paused = true)]
async fn progress_and_gauges_tell_how_far_it_is() {
    let store: MemoryStore<Sum> = store();
    let (mut table, _) = table(&rows(400, 50), 2, 10, 0.1);
    table.described.rows = Some(500);
    let clock = Virtual::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let gauges = Gauges::default();
    let run = Bootstrap::builder(
        Processor::builder([exactly_once("totals", &store, &MemoryDeduper::new())])
            .clock(Arc::new(clock.clone()))
            .recorder(gauges.clone())
            .build()
            .unwrap(),
        table,
    );
    let run = run.concurrency(1);
    let run = run.on_progress(move |progress| {
        if let Progress::Page {
            total,
            share_done,
            time_left,
            elapsed,
            ..
        } = progress
        {
            let left = time_left.map(|left| left.as_millis());
            heard
                .lock()
                .unwrap()
                .push((total.rows, *share_done, left, elapsed.as_millis()));
        }
    });
    run.run().await.unwrap();
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 40);
    let (rows, share, left, elapsed) = told[9];
    assert_eq!((rows, elapsed), (100, 200));
    assert!(
        (share - 0.2).abs() < 1e-9 && left == Some(800),
        "{:?}",
        told[9]
    );
    assert_eq!((told[39].0, told[39].1, told[39].2), (400, 1.0, Some(0)));
    let gauges = gauges.0.lock().unwrap();
    let last = |name: &str| *gauges[&format!("orders:{name}")].last().unwrap();
    assert_eq!(last("rows"), 400);
    assert_eq!(last("read_units"), 40);
    assert_eq!(last("share_done_percent"), 100);
    assert_eq!(last("seconds_left"), 0);
}
