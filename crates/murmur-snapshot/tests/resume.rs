//! A run that was cut short goes on where it was, and nobody goes on beside it.

#![allow(clippy::unwrap_used, reason = "a panic is a test's failure message")]

mod support;

use std::future::ready;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use murmur_core::{Pipeline, Processor, Row, Sum};
use murmur_snapshot::run_record::RunRecord;
use murmur_snapshot::{Bootstrap, BootstrapError, Ended, Progress, SourceError};
use murmur_state::checkpoint::{Checkpoint, Removed, Saved};
use murmur_state::dedup::{Claim, Owner};
use murmur_state::error::Place;
use murmur_state::intercept::Intercepted;
use murmur_state::time::ManualClock;
use murmur_state::{
    Causes, Checkpoints, Clock, Deadline, Deduper, MemoryDeduper, MemoryStore, RetryPolicy,
    StoreError,
};
use support::*;
use tokio::sync::Notify;

fn broken() -> SourceError {
    SourceError::Setup {
        place: "table `orders`".into(),
        advice: "mend it".into(),
        source: None,
    }
}

/// A table of three segments with pages of four, of which page number `n` fails for good.
fn failing_at(rows: &[Row], n: usize) -> Table {
    table(rows).before_page(move |page| ready(if page == n { Err(broken()) } else { Ok(()) }))
}

fn table(rows: &[Row]) -> Table {
    Table::new(rows, 3, 4)
}

/// Both exact modes, each with a store and a marker table of its own.
fn exact() -> [(Pipeline<Order>, MemoryStore<Sum>, MemoryDeduper); 2] {
    [ledger, exactly_once].map(|mode| {
        let (store, markers) = (store(), MemoryDeduper::new());
        (mode("totals", &store, &markers), store, markers)
    })
}

async fn run_id(markers: &MemoryDeduper, pipeline: &Pipeline<Order>) -> String {
    let record = RunRecord::load(markers, pipeline.name(), "orders").await;
    record.unwrap().unwrap().run
}

#[tokio::test]
async fn what_is_done_is_not_read_again_and_the_report_says_so() {
    for (pipeline, store, markers) in exact() {
        let rows = rows(120, 5);
        // One page after the other: the first segment is done, the second begun.
        let error = Bootstrap::builder(
            Processor::new([pipeline.clone()]).unwrap(),
            failing_at(&rows, 14),
        )
        .concurrency(1)
        .run()
        .await
        .unwrap_err();
        assert!(matches!(error, BootstrapError::Source { .. }), "{error}");
        let run = run_id(&markers, &pipeline).await;
        assert_eq!(segment_rows(&markers, &pipeline, &run, 3).await, [0, 1]);

        let second = table(&rows);
        let pages = Arc::clone(&second.pages);
        let started = Arc::new(Mutex::new(None));
        let heard = Arc::clone(&started);
        let report = Bootstrap::builder(Processor::new([pipeline.clone()]).unwrap(), second)
            .on_progress(move |progress| match progress {
                Progress::Started {
                    rerun,
                    earlier,
                    segments,
                    ..
                } => {
                    *heard.lock().unwrap() = Some((*rerun, **earlier, *segments));
                }
                Progress::Page { total, .. } => assert!(total.rows > 56, "earlier ones count"),
                _ => {}
            })
            .run()
            .await
            .unwrap();
        assert_eq!(
            (report.ended, report.rerun, report.run),
            (Ended::Finished, true, run.clone())
        );
        assert_eq!(
            (report.earlier.segments, report.earlier.counts.rows),
            (1, 56)
        );
        assert_eq!(*started.lock().unwrap(), Some((true, report.earlier, 3)));
        assert_eq!((report.counts.rows, report.counts.applied), (64, 64));
        assert_eq!(pages.load(Ordering::SeqCst), 16, "of 30");
        assert_eq!(report.token, Some(token(0)));
        assert_eq!(totals(&store), recount(&rows));
        assert_eq!(segment_rows(&markers, &pipeline, &run, 3).await, [0u32; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn killed_at_any_moment_it_goes_on_and_counts_every_row_once() {
    for (pipeline, store, markers) in exact() {
        let rows = rows(120, 5);
        let (mut kills, mut skipped) = (0, 0);
        let report = loop {
            let slow = table(&rows).before_page(|_| async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok(())
            });
            let run = Bootstrap::builder(Processor::new([pipeline.clone()]).unwrap(), slow)
                .concurrency(2)
                .run();
            // Dropped: as if the process had been killed.
            match tokio::time::timeout(Duration::from_millis(35), run).await {
                Err(_) => kills += 1,
                Ok(report) => break report.unwrap(),
            }
            let run = run_id(&markers, &pipeline).await;
            skipped += segment_rows(&markers, &pipeline, &run, 3).await.len();
        };
        assert!(
            kills >= 4 && skipped >= kills,
            "{kills} kills, {skipped} rows left"
        );
        assert_eq!(report.token, Some(token(0)));
        assert_eq!(report.earlier.counts.rows + report.counts.rows, 120);
        assert_eq!(totals(&store), recount(&rows));
    }
}

#[tokio::test]
async fn another_source_or_definition_is_refused_by_both_texts_and_nothing_is_read() {
    for (pipeline, store, markers) in exact() {
        let rows = rows(60, 5);
        let first = Bootstrap::builder(
            Processor::new([pipeline.clone()]).unwrap(),
            failing_at(&rows, 4),
        );
        first.run().await.unwrap_err();

        let other = Table::new(&rows, 4, 4);
        let pages = Arc::clone(&other.pages);
        let error = Bootstrap::builder(Processor::new([pipeline.clone()]).unwrap(), other)
            .run()
            .await
            .unwrap_err();
        let said = error.to_string();
        assert!(
            matches!(error, BootstrapError::OtherSettings { .. }),
            "{said}"
        );
        assert!(
            said.contains("3 segments") && said.contains("4 segments"),
            "{said}"
        );
        assert_eq!(pages.load(Ordering::SeqCst), 0);

        let renewed = Pipeline::builder("totals")
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new())
            .version(2)
            .store(store.clone().markers(markers.clone()))
            .ledger()
            .unwrap();
        let same = table(&rows);
        let pages = Arc::clone(&same.pages);
        let error = Bootstrap::builder(Processor::new([renewed]).unwrap(), same)
            .run()
            .await
            .unwrap_err();
        let said = error.to_string();
        assert!(
            matches!(error, BootstrapError::OtherDefinition { .. }),
            "{said}"
        );
        assert!(
            said.contains("version 1") && said.contains("version 2"),
            "{said}"
        );
        assert_eq!(pages.load(Ordering::SeqCst), 0);

        let report = Bootstrap::builder(Processor::new([pipeline]).unwrap(), table(&rows))
            .run()
            .await
            .unwrap();
        assert_eq!(report.ended, Ended::Finished);
        assert_eq!(totals(&store), recount(&rows));
    }
}

#[tokio::test]
async fn one_that_was_thought_dead_leaves_the_segment_at_its_next_checkpoint() {
    for (pipeline, store, markers) in exact() {
        let rows = rows(120, 5);
        let (hangs, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (reached, released) = (Arc::clone(&hangs), Arc::clone(&go_on));
        let old = table(&rows).before_page(move |n| {
            let (reached, released) = (Arc::clone(&reached), Arc::clone(&released));
            async move {
                if n == 5 {
                    reached.notify_one();
                    released.notified().await;
                }
                Ok(())
            }
        });
        let pages = Arc::clone(&old.pages);
        let old = tokio::spawn(
            Bootstrap::builder(Processor::new([pipeline.clone()]).unwrap(), old)
                .concurrency(1)
                .run(),
        );
        hangs.notified().await;
        // The new one gets a little farther, and is stopped.
        let error = Bootstrap::builder(
            Processor::new([pipeline.clone()]).unwrap(),
            failing_at(&rows, 3),
        )
        .concurrency(1)
        .run()
        .await
        .unwrap_err();
        assert!(matches!(error, BootstrapError::Source { .. }), "{error}");
        go_on.notify_one();
        match old.await.unwrap().unwrap_err() {
            BootstrapError::SegmentTaken {
                segment: 0, run, ..
            } => {
                assert_eq!(run, run_id(&markers, &pipeline).await);
            }
            error => panic!("{error}"),
        }
        // Of its first segment it read a page more before it learned that, of the others all.
        assert_eq!(pages.load(Ordering::SeqCst), 7 + 2 * 10);

        let report = Bootstrap::builder(Processor::new([pipeline]).unwrap(), table(&rows))
            .run()
            .await
            .unwrap();
        let earlier = report.earlier;
        assert_eq!((earlier.segments, earlier.counts.rows), (2, 32 + 80));
        assert_eq!(totals(&store), recount(&rows));
    }
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_read_or_saved_is_named() {
    let (rows, store, markers) = (rows(60, 5), store(), MemoryDeduper::new());
    let pipeline = ledger("totals", &store, &markers);
    // The record, and two pages.
    let failing = FailingSave::new(&markers, 3);
    let run = Bootstrap::builder(Processor::new([pipeline.clone()]).unwrap(), table(&rows))
        .checkpoints(failing);
    let error = run.concurrency(1).run().await.unwrap_err();
    assert!(
        matches!(error, BootstrapError::SegmentNotSaved { segment: 0, .. }),
        "{error}"
    );
    let run = run_id(&markers, &pipeline).await;
    let name = segment_row(&pipeline, &run, 2);
    assert_eq!(
        markers.save(&name, "{\"version\":1", None).await.unwrap(),
        Saved::Version(1)
    );
    let second = table(&rows);
    let pages = Arc::clone(&second.pages);
    let error = Bootstrap::builder(Processor::new([pipeline]).unwrap(), second)
        .run()
        .await
        .unwrap_err();
    assert!(
        matches!(error, BootstrapError::SegmentRow { segment: 2, .. }),
        "{error}"
    );
    assert_eq!(pages.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_save_whose_answer_is_lost_is_recognised() {
    let (rows, store, markers) = (rows(60, 5), store(), MemoryDeduper::new());
    let pipeline = ledger("totals", &store, &markers);
    let lossy = Lossy(markers.clone(), Arc::default());
    let run = Bootstrap::builder(
        Processor::builder([pipeline])
            .clock(Arc::new(ManualClock::new(NOW)))
            .build()
            .unwrap(),
        table(&rows),
    )
    .checkpoints(lossy.clone());
    let report = run.run().await.unwrap();
    assert_eq!(report.ended, Ended::Finished);
    assert!(lossy.1.load(Ordering::SeqCst) > 10);
    assert_eq!(totals(&store), recount(&rows));
}

/// Checkpoints of which every other save is made, and its answer lost.
#[derive(Clone)]
struct Lossy(MemoryDeduper, Arc<AtomicUsize>);

impl Checkpoints for Lossy {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        self.0.load(name)
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        Box::pin(async move {
            let saved = self.0.save(name, data, over).await;
            if self.1.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
                return Err(StoreError::Unavailable {
                    place: Place::table("test", "markers"),
                    may_have_applied: true,
                    source: None,
                });
            }
            saved
        })
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        self.0.remove(name, over)
    }
}

#[tokio::test]
async fn whoever_finds_a_finished_record_removes_the_checkpoints_that_are_left() {
    let (rows, store, markers) = (rows(60, 5), store(), MemoryDeduper::new());
    let pipeline = ledger("totals", &store, &markers);
    let run = Bootstrap::builder(Processor::new([pipeline.clone()]).unwrap(), table(&rows))
        .run()
        .await
        .unwrap()
        .run;
    for segment in 0..3 {
        let name = segment_row(&pipeline, &run, segment);
        markers.save(&name, "whatever", None).await.unwrap();
    }
    let report = Bootstrap::builder(Processor::new([pipeline.clone()]).unwrap(), table(&rows))
        .run()
        .await
        .unwrap();
    assert!(matches!(report.ended, Ended::FinishedBefore { .. }));
    assert_eq!(segment_rows(&markers, &pipeline, &run, 3).await, [0u32; 0]);
}

#[tokio::test]
async fn rows_rejected_by_earlier_attempts_are_listed_too() {
    for (pipeline, _, _) in exact() {
        let mut bad: Vec<Row> = (0..24)
            .map(|n| row(&format!("o{n}"), "alice", "many"))
            .collect();
        bad.extend(rows(24, 3).into_iter().map(|mut good| {
            good.event_id += "good";
            good
        }));
        let first = Table::new(&bad, 1, 4);
        let first = first.before_page(|page| ready(if page == 4 { Err(broken()) } else { Ok(()) }));
        let run =
            Bootstrap::builder(Processor::new([pipeline.clone()]).unwrap(), first).concurrency(1);
        // Else nothing would be kept before a row was accepted.
        run.accept_all_rejected().run().await.unwrap_err();
        for limit in [100, 12, 3] {
            let stopped = Bootstrap::builder(
                Processor::new([pipeline.clone()]).unwrap(),
                Table::new(&bad, 1, 4),
            );
            let stopped = stopped
                .max_listed(limit)
                .run_until(ready(()))
                .await
                .unwrap();
            assert_eq!(
                stopped.rejected.len(),
                limit.min(10),
                "ten of a segment are kept"
            );
        }
        let run = Bootstrap::builder(Processor::new([pipeline]).unwrap(), Table::new(&bad, 1, 4));
        let report = run.max_listed(15).run().await.unwrap();
        assert_eq!(report.earlier.counts.rejected, 16);
        assert_eq!(report.counts.rejected, 8);
        let listed: Vec<_> = report.rejected.iter().map(|row| row.id.clone()).collect();
        let wanted = bad[..10].iter().chain(&bad[16..21]);
        let wanted: Vec<_> = wanted.map(|row| row.event_id.clone()).collect();
        assert_eq!(listed, wanted);
        assert!(report.rejected[0].reason.contains("cannot be decoded"));
    }
}

#[tokio::test]
async fn a_page_that_took_an_hour_to_read_is_read_again() {
    for (pipeline, store, _) in exact() {
        let clock = ManualClock::new(NOW);
        let slow = clock.clone();
        let table = table(&rows(60, 5)).before_page(move |n| {
            if n == 2 {
                slow.advance(Duration::from_secs(3600));
            }
            ready(Ok(()))
        });
        let pages = Arc::clone(&table.pages);
        let run = Bootstrap::builder(
            Processor::builder([pipeline])
                .clock(Arc::new(clock))
                .build()
                .unwrap(),
            table,
        )
        .concurrency(1);
        let report = run.run().await.unwrap();
        assert_eq!((report.counts.rows, report.counts.applied), (60, 60));
        assert_eq!(pages.load(Ordering::SeqCst), 15 + 1);
        assert_eq!(totals(&store), recount(&rows(60, 5)));
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// More patient than a page lives.
fn very_patient() -> RetryPolicy {
    RetryPolicy::patient().budget(5 * HOUR)
}

fn failing(inner: &MemoryStore<Sum>, clock: &Virtual, until: Duration) -> Failing {
    Failing::until(clock.clone(), until, inner.clone())
}

#[tokio::test(start_paused = true)]
async fn a_page_that_was_not_written_within_its_hour_is_read_again_where_that_counts_once() {
    for mode in ["exactly-once", "claim-first", "at-least-once"] {
        let (clock, inner, markers) = (Virtual::new(), store(), MemoryDeduper::new());
        let pipeline = Pipeline::builder("totals")
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new())
            .every_change()
            .store(Intercepted(failing(&inner, &clock, 2 * HOUR + HOUR / 4)));
        let pipeline = match mode {
            "exactly-once" => pipeline.exactly_once(),
            "claim-first" => pipeline.claim_first(markers.clone()),
            _ => pipeline.at_least_once(),
        };
        let run = Bootstrap::builder(
            Processor::builder([pipeline.unwrap()])
                .retry(very_patient())
                .clock(Arc::new(clock.clone()))
                .build()
                .unwrap(),
            table(&rows(12, 5)),
        );
        let run = run.checkpoints(markers);
        let error = match run.run().await {
            Ok(report) => {
                assert_ne!(mode, "at-least-once");
                assert_eq!((report.counts.rows, report.counts.applied), (12, 12));
                assert_eq!(totals(&inner), recount(&rows(12, 5)));
                continue;
            }
            Err(error) => error,
        };
        assert!(clock.elapsed() < 2 * HOUR, "{mode}: it is not read again");
        assert!(mode == "at-least-once" && error.is_retryable(), "{error}");
    }
}

/// Claims that are never given back.
struct Greedy(MemoryDeduper);

impl Deduper for Greedy {
    async fn claim(&self, id: &str, owner: &Owner, by: Deadline) -> Result<Claim, StoreError> {
        self.0.claim(id, owner, by).await
    }

    async fn release(&self, _: &str, _: &Owner, _: Deadline) -> Result<(), StoreError> {
        Err(lost())
    }
}

impl Checkpoints for Greedy {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        self.0.load(name)
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        self.0.save(name, data, over)
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        self.0.remove(name, over)
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_cannot_be_released_ends_the_run_and_is_named_also_in_a_stop() {
    for (stop, releases) in [(false, false), (true, false), (true, true)] {
        let (clock, inner, markers) = (Virtual::new(), store(), MemoryDeduper::new());
        let pipeline = Pipeline::builder("totals")
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new())
            .every_change()
            .store(Intercepted(failing(&inner, &clock, HOUR / 2)));
        let pipeline = match releases {
            true => pipeline.claim_first(markers),
            false => pipeline.claim_first(Greedy(markers)),
        };
        let (pipeline, rows) = (pipeline.unwrap(), rows(12, 5));
        let run = Bootstrap::builder(
            Processor::builder([pipeline.clone()])
                .clock(Arc::new(clock.clone()))
                .retry(RetryPolicy::patient().budget(HOUR / 4))
                .build()
                .unwrap(),
            table(&rows),
        );
        let shutdown = tokio::time::sleep(match stop {
            true => HOUR / 60,
            false => HOUR,
        });
        match run.run_until(shutdown).await {
            Ok(report) => {
                assert_eq!((releases, report.ended), (true, Ended::Stopped));
                tokio::time::sleep(HOUR / 2).await;
                let run = Bootstrap::builder(
                    Processor::builder([pipeline])
                        .clock(Arc::new(clock))
                        .build()
                        .unwrap(),
                    table(&rows),
                );
                assert_eq!(run.run().await.unwrap().counts.applied, 12);
            }
            Err(error) => {
                let text = Causes(&error).to_string();
                assert!(!releases && !error.is_retryable(), "{text}");
                for word in ["claim `totals", "delete this row of the marker table"] {
                    assert!(text.contains(word), "{text}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_read_again_counts_once_in_report_and_progress() {
    let (clock, inner) = (Virtual::new(), store());
    // The first page fails for longer than its hour; those after it are written, one row rejected.
    let mut rows: Vec<_> = (0..4)
        .map(|n| row(&format!("late{n}"), "late", "1"))
        .collect();
    rows.extend((0..8).map(|n| {
        row(
            &format!("o{n}"),
            "early",
            ["1", "many"][usize::from(n == 5)],
        )
    }));
    let pipeline = Pipeline::builder("totals")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .every_change()
        .store(Intercepted(
            failing(&inner, &clock, HOUR + HOUR / 2).only("late"),
        ))
        .exactly_once()
        .unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let run = Bootstrap::builder(
        Processor::builder([pipeline])
            .retry(very_patient())
            .clock(Arc::new(clock))
            .build()
            .unwrap(),
        Table::new(&rows, 1, 4),
    )
    .concurrency(3);
    let run = run.on_progress(move |progress| {
        if let Progress::Page { total, .. } = progress {
            heard.lock().unwrap().push(total.rows);
        }
    });
    let report = run.run().await.unwrap();
    let counts = report.counts;
    assert_eq!((counts.rows, counts.examined), (12, 12));
    assert_eq!(
        (counts.applied, counts.duplicates, counts.rejected),
        (4, 7, 1)
    );
    assert_eq!(report.rejected.len(), 1);
    // Two pages were done with twice, and paid twice.
    assert_eq!(counts.read_units, 5.0 * 0.5);
    let told = told.lock().unwrap();
    assert_eq!((told[..2].to_vec(), told.last()), (vec![4, 8], Some(&12)));
    assert_eq!((told.len(), told.iter().max()), (5, Some(&12)));
    assert_eq!(totals(&inner).values().sum::<i64>(), 11);
}

#[tokio::test(start_paused = true)]
async fn a_page_is_written_within_an_hour_of_being_asked_for() {
    let (clock, inner, markers) = (Virtual::new(), store(), MemoryDeduper::new());
    let store = Slow::new(&inner, Duration::ZERO, &clock);
    let table = table(&rows(12, 5)).before_page(|_| async {
        tokio::time::sleep(Duration::from_secs(20 * 60)).await;
        Ok(())
    });
    let patient = RetryPolicy::default().budget(Duration::from_secs(3 * 3600));
    let run = Bootstrap::builder(
        Processor::builder([slowly("totals", &store, &markers)])
            .retry(patient)
            .clock(Arc::new(clock.clone()))
            .build()
            .unwrap(),
        table,
    );
    run.run().await.unwrap();
    let left = store.left.lock().unwrap();
    // Claim-first keeps a fifth of it for releasing.
    let most = Duration::from_secs(40 * 60);
    assert!(!left.is_empty());
    assert!(
        left.iter()
            .all(|left| left.is_some_and(|left| left <= most)),
        "{left:?}"
    );
    assert!(clock.now() > NOW);
}
