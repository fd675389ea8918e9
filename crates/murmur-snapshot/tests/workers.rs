//! Several processes at one run, which share the marker table and nothing else.

#![allow(clippy::unwrap_used, reason = "a panic is a test's failure message")]

mod support;

use std::future::ready;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::{BoxFuture, join_all};
use murmur_core::{Pipeline, Processor, Row, Sum};
use murmur_snapshot::bootstrap::BootstrapBuilder;
use murmur_snapshot::run_record::RunRecord;
use murmur_snapshot::{Bootstrap, BootstrapError, Ended, SourceError};
use murmur_state::checkpoint::{Checkpoint, Removed, Saved};
use murmur_state::{Checkpoints, MemoryDeduper, MemoryStore, StoreError};
use support::*;

const SEGMENTS: usize = 6;

struct Setup {
    rows: Vec<Row>,
    stores: [MemoryStore<Sum>; 2],
    markers: MemoryDeduper,
}

impl Setup {
    fn new() -> Self {
        Self {
            rows: rows(120, 7),
            stores: [store(), store()],
            markers: MemoryDeduper::new(),
        }
    }

    fn pipelines(&self) -> [Pipeline<Order>; 2] {
        [
            exactly_once("b", &self.stores[1], &self.markers),
            ledger("a", &self.stores[0], &self.markers),
        ]
    }

    fn table(&self) -> Table {
        Table::new(&self.rows, SEGMENTS, 3)
    }

    /// A table whose token, the second it gives, is unlike that of the others.
    fn slower(&self) -> Table {
        let first_fails = |n| ready(if n == 0 { Err(unavailable()) } else { Ok(()) });
        self.table().before_capture(first_fails)
    }

    fn worker(&self, part: Range<u32>) -> BootstrapBuilder<Order, Table> {
        self.worker_over(self.table(), part)
    }

    fn worker_over(&self, table: Table, part: Range<u32>) -> BootstrapBuilder<Order, Table> {
        Bootstrap::builder(Processor::new(self.pipelines()).unwrap(), table).worker("nightly", part)
    }

    async fn record(&self) -> RunRecord {
        let first = self.pipelines()[1].name().clone();
        let record = RunRecord::load(&self.markers, &first, "orders").await;
        record.unwrap().unwrap()
    }

    async fn is_whole(&self) {
        for store in &self.stores {
            assert_eq!(totals(store), recount(&self.rows));
        }
        for pipeline in self.pipelines() {
            let record = RunRecord::load(&self.markers, pipeline.name(), "orders").await;
            let record = record.unwrap().unwrap();
            assert_eq!(record.run, "nightly");
            assert!(record.finished_at.is_some());
            let left = segment_rows(&self.markers, &pipeline, "nightly", SEGMENTS as u32).await;
            assert_eq!(left, [0u32; 0]);
        }
    }
}

#[tokio::test]
async fn the_last_to_finish_finishes_the_run_in_whatever_order() {
    for order in [[0..2, 2..5, 5..6], [5..6, 0..2, 2..5], [2..5, 5..6, 0..2]] {
        let setup = Setup::new();
        let (mut ended, mut tokens, mut rows) = (Vec::new(), Vec::new(), 0);
        for part in order {
            let report = setup.worker(part).run().await.unwrap();
            assert_eq!(report.run, "nightly");
            ended.push(report.ended);
            rows += report.counts.applied;
            tokens.push(report.token);
        }
        assert_eq!(ended, [Ended::OwnPart, Ended::OwnPart, Ended::Finished]);
        assert_eq!(rows, 120);
        assert!(
            tokens.iter().all(|one| *one == Some(token(0))),
            "one token for all"
        );
        setup.is_whole().await;
        let report = setup.worker(0..2).run().await.unwrap();
        assert!(matches!(report.ended, Ended::FinishedBefore { .. }));
        assert_eq!(report.token, Some(token(0)));
    }
}

#[tokio::test]
async fn workers_that_begin_at_once_go_on_under_one_record() {
    let setup = Arc::new(Setup::new());
    // While this one captures its token, another begins the run and does its part.
    let theirs = Arc::clone(&setup);
    let table = setup.table().before_capture(move |_| {
        let theirs = Arc::clone(&theirs);
        async move {
            let slower = theirs.slower();
            let run = theirs.worker_over(slower, 3..6).run().await.unwrap();
            assert_eq!(
                (run.ended, run.rerun, run.token),
                (Ended::OwnPart, false, Some(token(1)))
            );
            Ok(())
        }
    });
    let report = setup.worker_over(table, 0..3).run().await.unwrap();
    assert_eq!((report.ended, report.rerun), (Ended::Finished, true));
    assert_eq!(
        report.token,
        Some(token(1)),
        "that of the other, which is the run's"
    );
    setup.is_whole().await;
}

#[tokio::test]
async fn a_worker_that_comes_between_two_records_goes_on_under_the_first() {
    let setup = Arc::new(Setup::new());
    // The first worker dies between its two records, while this one captures its token.
    let theirs = Arc::clone(&setup);
    let table = setup.table().before_capture(move |_| {
        let theirs = Arc::clone(&theirs);
        async move {
            let failing = FailingSave::new(&theirs.markers, 1);
            let slower = theirs.slower();
            let run = theirs
                .worker_over(slower, 3..6)
                .checkpoints(failing)
                .run()
                .await;
            assert!(matches!(run, Err(BootstrapError::RecordNotSaved { .. })));
            Ok(())
        }
    });
    let report = setup.worker_over(table, 0..3).run().await.unwrap();
    assert_eq!((report.ended, report.rerun), (Ended::OwnPart, true));
    let report = setup.worker(3..6).run().await.unwrap();
    assert_eq!(report.ended, Ended::Finished);
    setup.is_whole().await;
}

#[tokio::test]
async fn all_at_once_they_finish_the_run_and_each_knows_its_end() {
    for _ in 0..20 {
        let setup = Setup::new();
        let runs = (0..6).map(|n| setup.worker(n..n + 1).concurrency(2).run());
        let reports = join_all(runs).await;
        let ended: Vec<_> = reports
            .into_iter()
            .map(|report| report.unwrap().ended)
            .collect();
        assert!(ended.contains(&Ended::Finished), "{ended:?}");
        setup.is_whole().await;
    }
}

/// Checkpoints through which, at the first look at the row of segment 5, another worker does its
/// part and finishes the run.
#[derive(Clone)]
struct Overtaken {
    setup: Arc<Setup>,
    done: Arc<AtomicBool>,
}

impl Checkpoints for Overtaken {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        Box::pin(async move {
            if name == segment_row(&self.setup.pipelines()[1], "nightly", 5)
                && !self.done.swap(true, Ordering::SeqCst)
            {
                let other = self.setup.worker(5..6).run().await.unwrap();
                assert_eq!(other.ended, Ended::Finished);
            }
            self.setup.markers.load(name).await
        })
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        self.setup.markers.save(name, data, over)
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        self.setup.markers.remove(name, over)
    }
}

#[tokio::test]
async fn one_that_is_overtaken_at_the_end_still_knows_that_the_run_is_finished() {
    let setup = Arc::new(Setup::new());
    let (place, done) = (Arc::clone(&setup), Arc::new(AtomicBool::new(false)));
    let overtaken = Overtaken {
        setup: place,
        done: Arc::clone(&done),
    };
    let report = setup
        .worker(0..5)
        .checkpoints(overtaken)
        .run()
        .await
        .unwrap();
    assert!(done.load(Ordering::SeqCst));
    assert_eq!(report.ended, Ended::Finished);
    setup.is_whole().await;
}

fn broken() -> SourceError {
    SourceError::Setup {
        place: "table `orders`".into(),
        advice: "mend it".into(),
        source: None,
    }
}

#[tokio::test]
async fn a_worker_that_failed_is_run_again_or_its_part_divided_anew() {
    let setup = Setup::new();
    let fails = || {
        setup
            .table()
            .before_page(|n| ready(if n == 9 { Err(broken()) } else { Ok(()) }))
    };
    let first = setup.worker_over(fails(), 0..4).concurrency(1);
    first.run().await.unwrap_err();
    let parts = [0..1, 1..2, 2..6].map(|part| setup.worker(part).run());
    let mut earlier = 0;
    for part in parts {
        earlier += part.await.unwrap().earlier.counts.rows;
    }
    assert_eq!(
        earlier, 26,
        "eight pages of the first segment and the second"
    );
    setup.is_whole().await;
}

#[tokio::test]
async fn another_unfinished_run_is_refused_by_both_ids_and_restart_begins_anew_once() {
    let setup = Setup::new();
    let report = setup.worker(0..3).run().await.unwrap();
    assert_eq!(report.ended, Ended::OwnPart);
    let other = |part| {
        Bootstrap::builder(Processor::new(setup.pipelines()).unwrap(), setup.table())
            .worker("weekly", part)
    };
    let error = other(3..6).run().await.unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, BootstrapError::OtherRun { .. }), "{said}");
    assert!(
        said.contains("`nightly`") && said.contains("`weekly`"),
        "{said}"
    );
    assert_eq!(setup.record().await.run, "nightly");

    for (part, ended) in [(0..3, Ended::OwnPart), (3..6, Ended::Finished)] {
        let report = other(part).restart().run().await.unwrap();
        assert_eq!((report.run.as_str(), report.ended), ("weekly", ended));
    }
    let report = other(3..6).restart().run().await.unwrap();
    assert!(matches!(report.ended, Ended::FinishedBefore { .. }));
    assert_eq!(report.run, "weekly");
}

#[tokio::test]
async fn workers_over_different_segments_are_refused() {
    let setup = Setup::new();
    setup.worker(0..3).run().await.unwrap();
    let table = Table::new(&setup.rows, SEGMENTS + 1, 3);
    let error = setup.worker_over(table, 3..6).run().await.unwrap_err();
    assert!(
        matches!(error, BootstrapError::OtherSettings { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn of_two_workers_at_one_segment_one_leaves_it_to_the_other() {
    let setup = Arc::new(Setup::new());
    let theirs = Arc::clone(&setup);
    let begun = AtomicBool::new(false);
    let table = setup.table().before_page(move |_| {
        let (theirs, first) = (Arc::clone(&theirs), !begun.swap(true, Ordering::SeqCst));
        async move {
            if first {
                theirs.worker(0..2).run().await.unwrap();
            }
            Ok(())
        }
    });
    let report = setup.worker_over(table, 1..4).run().await.unwrap();
    assert_eq!(report.ended, Ended::OwnPart, "the other had done segment 1");
    // Whoever takes up all that is left, without being one of several, may do so.
    let report = Bootstrap::builder(Processor::new(setup.pipelines()).unwrap(), setup.table())
        .run()
        .await
        .unwrap();
    assert_eq!(
        (report.run.as_str(), report.ended),
        ("nightly", Ended::Finished)
    );
    setup.is_whole().await;
}

/// A source of which each segment's first page waits for that of the other process.
async fn meet(setup: &Arc<Setup>, together: &Arc<tokio::sync::Barrier>, first: u32) -> Table {
    let (together, met) = (Arc::clone(together), Arc::new(AtomicBool::new(false)));
    let mut table = setup.table().before_page(move |_| {
        let (together, first) = (Arc::clone(&together), !met.swap(true, Ordering::SeqCst));
        async move {
            if first {
                together.wait().await;
            }
            Ok(())
        }
    });
    let _ = first;
    table.page_size = 3;
    table
}

#[tokio::test]
async fn of_processes_that_take_up_one_run_together_at_least_one_comes_to_its_end() {
    for concurrency in 1..6 {
        let setup = Arc::new(Setup::new());
        let begun = setup.table().before_page(|_| ready(Err(broken())));
        setup.worker_over(begun, 0..6).run().await.unwrap_err();
        let together = Arc::new(tokio::sync::Barrier::new(2));
        let mut runs = Vec::new();
        for n in 0..2 {
            let table = meet(&setup, &together, n).await;
            let run = Bootstrap::builder(Processor::new(setup.pipelines()).unwrap(), table);
            runs.push(tokio::spawn(run.concurrency(concurrency).run()));
        }
        let mut ends = Vec::new();
        for run in runs {
            ends.push(match run.await.unwrap() {
                Ok(report) => Some(report.ended),
                Err(BootstrapError::SegmentTaken { .. }) => None,
                Err(error) => panic!("{error}"),
            });
        }
        assert!(ends.contains(&Some(Ended::Finished)), "{ends:?}");
        setup.is_whole().await;
    }
}

/// Checkpoints through which another bootstrap begins the run anew, right after the first save.
#[derive(Clone)]
struct Meanwhile {
    setup: Arc<Setup>,
    done: Arc<AtomicBool>,
}

impl Checkpoints for Meanwhile {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        self.setup.markers.load(name)
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        Box::pin(async move {
            let saved = self.setup.markers.save(name, data, over).await;
            if !self.done.swap(true, Ordering::SeqCst) {
                // The other has the first record, and meets this one's at the second.
                let stale = Stale(Arc::clone(&self.setup));
                let run = Bootstrap::builder(
                    Processor::new(self.setup.pipelines()).unwrap(),
                    self.setup.slower(),
                );
                let run = run.restart().checkpoints(stale).run().await.unwrap();
                assert_eq!(run.ended, Ended::Finished);
            }
            saved
        })
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        self.setup.markers.remove(name, over)
    }
}

/// Checkpoints through which, before the save of the second record, somebody saves one of a run
/// that began with the first record.
#[derive(Clone)]
struct Stale(Arc<Setup>);

impl Checkpoints for Stale {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        self.0.markers.load(name)
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        Box::pin(async move {
            let second = self.0.pipelines()[0]
                .name()
                .marker("bootstrap", &["orders"]);
            if name == second && over == Some(2) {
                // The loser's record, made over the old one just now.
                let found = self.0.markers.load(name).await?;
                if found.is_some_and(|found| found.version == 2) {
                    let record: serde_json::Value = serde_json::from_str(data).unwrap();
                    let mut theirs = record.clone();
                    theirs["run"] = "the loser".into();
                    theirs["finished_at"] = serde_json::Value::Null;
                    let theirs = theirs.to_string();
                    self.0.markers.save(name, &theirs, over).await?;
                }
            }
            self.0.markers.save(name, data, over).await
        })
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        self.0.markers.remove(name, over)
    }
}

#[tokio::test]
async fn of_two_that_begin_anew_together_the_one_with_the_first_record_goes_on() {
    let setup = Arc::new(Setup::new());
    // A finished run, so that both records are there.
    let run = Bootstrap::builder(Processor::new(setup.pipelines()).unwrap(), setup.table());
    run.run().await.unwrap();
    let meanwhile = Meanwhile {
        setup: Arc::clone(&setup),
        done: Arc::default(),
    };
    let run =
        Bootstrap::builder(Processor::new(setup.pipelines()).unwrap(), setup.table()).restart();
    let ended = run.checkpoints(meanwhile.clone()).run().await;
    assert!(meanwhile.done.load(Ordering::SeqCst));
    assert!(
        matches!(ended, Err(BootstrapError::BegunElsewhere { .. })),
        "{ended:?}"
    );
    for pipeline in setup.pipelines() {
        let record = RunRecord::load(&setup.markers, pipeline.name(), "orders").await;
        assert!(record.unwrap().unwrap().finished_at.is_some());
    }
}
