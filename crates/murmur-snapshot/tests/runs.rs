//! Which runs may begin, and what is kept of them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is a test's failure message"
)]

mod support;

use std::future::ready;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use murmur_core::{Max, Pipeline, Processor, Window};
use murmur_snapshot::bootstrap::Counts;
use murmur_snapshot::run_record::RunRecord;
use murmur_snapshot::{Bootstrap, BootstrapError, Ended, Progress, Report, SourceError};
use murmur_state::store::SURE_LIFE;
use murmur_state::time::{ManualClock, Random};
use murmur_state::tokens::Tokens;
use murmur_state::{Checkpoints, Clock, MemoryDeduper, MemoryStore, Timestamp};
use support::*;
use tokio::sync::Notify;

fn broken() -> SourceError {
    SourceError::Setup {
        place: "table `orders`".into(),
        advice: "mend it".into(),
        source: None,
    }
}

/// A table whose page number `n` fails for good.
fn failing_at(rows: &[murmur_core::Row], n: usize) -> Table {
    Table::new(rows, 2, 3)
        .before_page(move |page| ready(if page == n { Err(broken()) } else { Ok(()) }))
}

async fn record(place: &dyn Checkpoints, pipeline: &Pipeline<Order>) -> RunRecord {
    let record = RunRecord::load(place, pipeline.name(), "orders")
        .await
        .unwrap();
    record.expect("there is a record")
}

async fn unfinished(pipelines: impl IntoIterator<Item = Pipeline<Order>>, clock: &ManualClock) {
    let rows = rows(20, 3);
    let run = Bootstrap::builder(
        Processor::builder(pipelines)
            .clock(Arc::new(clock.clone()))
            .build()
            .unwrap(),
        failing_at(&rows, 3),
    );
    let error = run.run().await.unwrap_err();
    assert!(matches!(error, BootstrapError::Source { .. }), "{error}");
}

#[tokio::test]
async fn a_claim_first_run_that_failed_is_run_again_and_counts_once() {
    let (rows, store, markers) = (rows(40, 5), store(), MemoryDeduper::new());
    let totals_of = || claim_first("totals", &store, &markers);
    let first = failing_at(&rows, 4);
    let captures = Arc::clone(&first.captures);
    let error = Bootstrap::builder(Processor::new([totals_of()]).unwrap(), first)
        .run()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("`orders`"), "{error}");
    assert_eq!(captures.load(Ordering::SeqCst), 1);
    let kept = record(&markers, &totals_of()).await;
    assert_eq!((kept.finished_at, kept.token), (None, Some(token(0))));
    assert!(!totals(&store).is_empty() && totals(&store) != recount(&rows));

    let second = Table::new(&rows, 2, 4);
    let captures = Arc::clone(&second.captures);
    let report = Bootstrap::builder(Processor::new([totals_of()]).unwrap(), second)
        .run()
        .await
        .unwrap();
    assert_eq!(
        captures.load(Ordering::SeqCst),
        0,
        "the first token is kept"
    );
    assert_eq!((report.rerun, report.run), (true, kept.run));
    assert_eq!(report.token, Some(token(0)));
    assert!(report.earlier.counts.applied > 0 && report.counts.applied > 0);
    assert_eq!(report.earlier.counts.rows + report.counts.rows, 40);
    assert_eq!(totals(&store), recount(&rows));
    assert!(record(&markers, &totals_of()).await.finished_at.is_some());
}

#[tokio::test]
async fn the_token_is_saved_before_the_first_page() {
    let (stores, markers) = ([store(), store()], MemoryDeduper::new());
    let pipelines = [
        exactly_once("a", &stores[0], &markers),
        exactly_once("b", &stores[1], &markers),
    ];
    let (place, both) = (markers.clone(), pipelines.clone());
    let table = Table::new(&rows(5, 2), 1, 2).before_page(move |_| {
        let (place, both) = (place.clone(), both.clone());
        async move {
            for pipeline in &both {
                let record = record(&place, pipeline).await;
                assert_eq!((record.token, record.finished_at), (Some(token(0)), None));
                assert!(record.pipelines.keys().eq(["a", "b"]));
            }
            Err(broken())
        }
    });
    let (pages, closed) = (Arc::clone(&table.pages), Arc::clone(&table.closed));
    let error = Bootstrap::builder(Processor::new(pipelines).unwrap(), table)
        .run()
        .await
        .unwrap_err();
    assert!(matches!(error, BootstrapError::Source { .. }), "{error}");
    assert_eq!(pages.load(Ordering::SeqCst), 1);
    assert!(closed.load(Ordering::SeqCst), "closed although it failed");
}

#[tokio::test]
async fn without_a_token_nothing_is_kept_or_read() {
    let (store, markers) = (store(), MemoryDeduper::new());
    let pipeline = exactly_once("totals", &store, &markers);
    let table = Table::new(&rows(5, 2), 1, 2).before_capture(|_| ready(Err(broken())));
    let pages = Arc::clone(&table.pages);
    let error = Bootstrap::builder(Processor::new([pipeline.clone()]).unwrap(), table)
        .run()
        .await
        .unwrap_err();
    assert!(matches!(error, BootstrapError::Source { .. }), "{error}");
    assert_eq!(pages.load(Ordering::SeqCst), 0);
    let kept = RunRecord::load(&markers, pipeline.name(), "orders")
        .await
        .unwrap();
    assert_eq!(kept, None);
}

#[tokio::test]
async fn a_token_that_is_refused_leaves_nothing_behind_and_the_next_is_a_new_one() {
    let (rows, store, markers) = (rows(10, 3), store(), MemoryDeduper::new());
    let totals_of = || ledger("totals", &store, &markers);
    let first = Table::new(&rows, 1, 4);
    let pages = Arc::clone(&first.pages);
    let error = Bootstrap::builder(Processor::new([totals_of()]).unwrap(), first)
        .on_token(|seen| {
            ready(Err(
                format!("captured at {}", seen.captured_at.as_secs()).into()
            ))
        })
        .run()
        .await
        .unwrap_err();
    let BootstrapError::TokenRefused { source, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(source.to_string(), "captured at 0");
    assert!(!error.is_retryable());
    assert_eq!(pages.load(Ordering::SeqCst), 0);
    let kept = RunRecord::load(&markers, totals_of().name(), "orders").await;
    assert_eq!(kept.unwrap(), None);
    assert!(totals(&store).is_empty());

    let second = Table::new(&rows, 1, 4);
    second.captures.store(7, Ordering::SeqCst);
    let report = Bootstrap::builder(Processor::new([totals_of()]).unwrap(), second)
        .on_token(|seen| {
            ready(if seen == token(7) {
                Ok(())
            } else {
                Err("old".into())
            })
        })
        .run()
        .await
        .unwrap();
    assert!(!report.rerun);
    assert_eq!(totals(&store), recount(&rows));
}

#[tokio::test]
async fn a_run_that_goes_on_shows_the_token_of_its_first_attempt_again() {
    let (rows, store, markers) = (rows(20, 3), store(), MemoryDeduper::new());
    let totals_of = || ledger("totals", &store, &markers);
    let failed = Bootstrap::builder(Processor::new([totals_of()]).unwrap(), failing_at(&rows, 3))
        .run()
        .await;
    assert!(matches!(failed, Err(BootstrapError::Source { .. })));
    let kept = record(&markers, &totals_of()).await;
    let before = totals(&store);

    let table = Table::new(&rows, 2, 3);
    table.captures.store(7, Ordering::SeqCst);
    let pages = Arc::clone(&table.pages);
    let error = Bootstrap::builder(Processor::new([totals_of()]).unwrap(), table)
        .on_token(|seen| {
            ready(Err(
                if seen == token(0) { "changed" } else { "other" }.into()
            ))
        })
        .run()
        .await
        .unwrap_err();
    let BootstrapError::TokenRefused { run, source, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!((run, source.to_string()), (&kept.run, "changed".to_owned()));
    assert_eq!(pages.load(Ordering::SeqCst), 0);
    assert_eq!(record(&markers, &totals_of()).await, kept);
    assert_eq!(totals(&store), before);

    let report = Bootstrap::builder(
        Processor::new([totals_of()]).unwrap(),
        Table::new(&rows, 2, 3),
    )
    .on_token(|seen| {
        ready(if seen == token(0) {
            Ok(())
        } else {
            Err("other".into())
        })
    })
    .run()
    .await
    .unwrap();
    assert!(report.rerun);
    assert_eq!(totals(&store), recount(&rows));
}

#[tokio::test]
async fn a_token_that_is_to_be_looked_at_has_to_be_there() {
    let (store, markers) = (store(), MemoryDeduper::new());
    let mut table = Table::new(&rows(5, 2), 1, 2);
    table.has_stream = false;
    let pages = Arc::clone(&table.pages);
    let error = Bootstrap::builder(
        Processor::new([exactly_once("totals", &store, &markers)]).unwrap(),
        table,
    )
    .on_token(|_| ready(Ok(())))
    .run()
    .await
    .unwrap_err();
    let causes = murmur_state::Causes(&error).to_string();
    assert!(causes.contains("`orders` has no stream"), "{causes}");
    assert_eq!(pages.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_finished_run_is_an_answer_unless_it_is_asked_for_again() {
    let (rows, store, markers) = (rows(10, 3), store(), MemoryDeduper::new());
    let run =
        |pipeline| Bootstrap::builder(Processor::new([pipeline]).unwrap(), Table::new(&rows, 1, 4));
    let first = run(exactly_once("totals", &store, &markers))
        .run()
        .await
        .unwrap();
    let table = Table::new(&rows, 1, 4);
    let pages = Arc::clone(&table.pages);
    let pipeline = exactly_once("totals", &store, &markers);
    let kept = record(&markers, &pipeline).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    let again = Bootstrap::builder(Processor::new([pipeline.clone()]).unwrap(), table)
        .on_progress(move |progress| {
            if let Progress::Finished { report } = progress {
                heard.lock().unwrap().push((*report).clone());
            }
        })
        .run()
        .await
        .unwrap();
    let finished_at = kept.finished_at.unwrap();
    assert_eq!(again.ended, Ended::FinishedBefore { finished_at });
    assert_eq!((&again.run, &again.token), (&first.run, &first.token));
    assert_eq!(again.handoff_token().unwrap(), token(0));
    assert_eq!((again.rerun, again.counts), (true, Counts::default()));
    assert_eq!(*told.lock().unwrap(), [again]);
    assert_eq!(pages.load(Ordering::SeqCst), 0);
    assert_eq!(record(&markers, &pipeline).await, kept);

    // Another source is another run.
    let (new_store, new_markers) = (support::store(), MemoryDeduper::new());
    let again = run(exactly_once("totals", &store, &markers))
        .restart()
        .run()
        .await
        .unwrap();
    assert_eq!(
        (again.rerun, again.counts.duplicates),
        (false, 10),
        "its markers were left"
    );
    assert_ne!(again.run, first.run);
    let anew = run(exactly_once("totals", &new_store, &new_markers))
        .restart()
        .run()
        .await
        .unwrap();
    assert_eq!(anew.counts.applied, 10);
    assert_eq!(totals(&new_store), recount(&rows));
}

#[tokio::test]
async fn an_unfinished_run_is_refused_when_its_token_may_be_void() {
    for (age, allowed) in [
        (SURE_LIFE - Duration::from_secs(1), true),
        (SURE_LIFE, false),
    ] {
        let (rows, store, markers) = (rows(20, 3), store(), MemoryDeduper::new());
        let clock = ManualClock::new(NOW);
        let pipeline = exactly_once("totals", &store, &markers);
        unfinished([pipeline.clone()], &clock).await;
        clock.advance(age);
        let run = || {
            let processor = Processor::builder([pipeline.clone()]).clock(Arc::new(clock.clone()));
            Bootstrap::builder(processor.build().unwrap(), Table::new(&rows, 2, 3))
        };
        let result = run().run().await;
        if allowed {
            assert!(result.unwrap().rerun);
            continue;
        }
        let error = result.unwrap_err();
        assert!(
            matches!(&error, BootstrapError::TooOld { hours: 22, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("`restart`"), "{error}");
        let report = run().restart().run().await.unwrap();
        assert!(!report.rerun);
        assert_eq!(report.token, Some(token(0)), "captured anew");
        assert_eq!(record(&markers, &pipeline).await.captured_at, clock.now());
    }
}

#[tokio::test]
async fn a_run_that_would_count_twice_is_refused() {
    let (store, place, clock) = (store(), MemoryDeduper::new(), ManualClock::new(NOW));
    let pipeline = at_least_once("totals", &store);
    let run = |table| {
        let processor = Processor::builder([pipeline.clone()]).clock(Arc::new(clock.clone()));
        Bootstrap::builder(processor.build().unwrap(), table).checkpoints(place.clone())
    };
    let table = failing_at(&rows(20, 3), 3);
    run(table).run().await.unwrap_err();
    let table = || Table::new(&rows(20, 3), 2, 3);
    let error = run(table()).run().await.unwrap_err();
    assert!(
        matches!(error, BootstrapError::WouldCountTwice { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("`totals`"), "{error}");
    assert!(!error.is_retryable());
    assert!(run(table()).restart().run().await.is_ok());
}

#[tokio::test]
async fn a_maximum_may_be_counted_as_often_as_one_likes() {
    let (store, place) = (MemoryStore::new(Max::new()), MemoryDeduper::new());
    let largest = || {
        Pipeline::builder("largest")
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Max::new())
            .store(store.clone())
            .at_least_once()
            .unwrap()
    };
    let run = |table| {
        Bootstrap::builder(Processor::new([largest()]).unwrap(), table)
            .checkpoints(place.clone())
            .run()
    };
    run(failing_at(&rows(20, 3), 3)).await.unwrap_err();
    assert!(run(Table::new(&rows(20, 3), 2, 3)).await.unwrap().rerun);
}

#[tokio::test]
async fn a_pipeline_without_a_marker_table_needs_a_place_for_its_record() {
    let store = store();
    let run = Bootstrap::builder(
        Processor::new([at_least_once("totals", &store)]).unwrap(),
        Table::new(&rows(3, 1), 1, 2),
    );
    match run.run().await.unwrap_err() {
        BootstrapError::Option(error) => {
            assert_eq!(error.option, "checkpoints");
            assert!(error.reason.contains("`totals`"), "{error}");
        }
        error => panic!("{error}"),
    }
    let place = MemoryDeduper::new();
    let run = Bootstrap::builder(
        Processor::new([at_least_once("totals", &store)]).unwrap(),
        Table::new(&rows(3, 1), 1, 2),
    );
    run.checkpoints(place.clone()).run().await.unwrap();
    assert!(
        record(&place, &at_least_once("totals", &store))
            .await
            .finished_at
            .is_some()
    );
}

#[tokio::test]
async fn windows_by_arrival_are_refused() {
    let pipeline = Pipeline::builder("arrivals")
        .key(|o: &Order| o.customer.clone())
        .count()
        .window_by_arrival(Window::daily())
        .every_change()
        .store(MemoryStore::new(murmur_core::Count::new()))
        .exactly_once()
        .unwrap();
    let error = Bootstrap::builder(
        Processor::new([pipeline]).unwrap(),
        Table::new(&rows(3, 1), 1, 2),
    )
    .run()
    .await
    .unwrap_err();
    assert!(
        matches!(error, BootstrapError::WindowsByArrival { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("`arrivals`"), "{error}");
}

#[tokio::test]
async fn of_two_that_begin_at_once_one_is_refused_and_changes_nothing() {
    let (rows, store, markers) = (rows(10, 3), store(), MemoryDeduper::new());
    let pipeline = exactly_once("totals", &store, &markers);
    let (other, theirs) = (pipeline.clone(), rows.clone());
    // While this one captures its token, another begins, runs and ends.
    let table = Table::new(&rows, 1, 4).before_capture(move |_| {
        let run = Bootstrap::builder(
            Processor::builder([other.clone()])
                .tokens(Tokens::repeatable(Random::seeded(9)))
                .build()
                .unwrap(),
            Table::new(&theirs, 1, 4),
        );
        async move {
            run.run().await.unwrap();
            Ok(())
        }
    });
    let pages = Arc::clone(&table.pages);
    let error = Bootstrap::builder(Processor::new([pipeline.clone()]).unwrap(), table)
        .run()
        .await
        .unwrap_err();
    assert!(
        matches!(error, BootstrapError::BegunElsewhere { .. }),
        "{error}"
    );
    assert_eq!(pages.load(Ordering::SeqCst), 0);
    let kept = record(&markers, &pipeline).await;
    assert_eq!(kept.run, format!("{:032x}", Random::seeded(9).bits()));
    assert!(kept.finished_at.is_some());
}

#[tokio::test]
async fn of_two_attempts_at_one_run_the_one_that_comes_late_counts_nothing_twice() {
    let (rows, store, markers) = (rows(20, 3), store(), MemoryDeduper::new());
    let pipeline = exactly_once("totals", &store, &markers);
    unfinished(
        [pipeline.clone()],
        &ManualClock::new(Timestamp::from(std::time::SystemTime::now())),
    )
    .await;
    let (other, theirs) = (pipeline.clone(), rows.clone());
    let table = Table::new(&rows, 2, 50).before_page(move |_| {
        let run = Bootstrap::builder(
            Processor::new([other.clone()]).unwrap(),
            Table::new(&theirs, 2, 4),
        )
        .run();
        async move {
            run.await.unwrap();
            Ok(())
        }
    });
    let report = Bootstrap::builder(Processor::new([pipeline.clone()]).unwrap(), table).run();
    let report = report.await.unwrap();
    assert_eq!(report.ended, Ended::Finished, "the other finished it");
    assert_eq!(report.counts.applied, 0);
    assert_eq!(totals(&store), recount(&rows));
    assert!(record(&markers, &pipeline).await.finished_at.is_some());
}

#[tokio::test]
async fn a_run_that_was_begun_again_elsewhere_does_not_finish_over_it() {
    let (rows, store, markers) = (rows(10, 3), store(), MemoryDeduper::new());
    let pipeline = exactly_once("totals", &store, &markers);
    let (other, theirs) = (pipeline.clone(), rows.clone());
    let table = Table::new(&rows, 1, 50).before_page(move |_| {
        let run = Bootstrap::builder(
            Processor::new([other.clone()]).unwrap(),
            failing_at(&theirs, 0),
        )
        .restart();
        async move {
            run.run().await.unwrap_err();
            Ok(())
        }
    });
    let error = Bootstrap::builder(Processor::new([pipeline.clone()]).unwrap(), table)
        .run()
        .await
        .unwrap_err();
    assert!(
        matches!(error, BootstrapError::BegunElsewhere { .. }),
        "{error}"
    );
    assert_eq!(record(&markers, &pipeline).await.finished_at, None);
}

#[tokio::test]
async fn a_start_interrupted_between_two_records_is_completed() {
    let (rows, store_a, store_b) = (rows(20, 3), store(), store());
    let (markers, place) = (MemoryDeduper::new(), MemoryDeduper::new());
    let pipelines = || {
        [
            exactly_once("b", &store_b, &markers),
            exactly_once("a", &store_a, &markers),
        ]
    };
    let table = Table::new(&rows, 2, 3);
    let pages = Arc::clone(&table.pages);
    let failing = FailingSave::new(&place, 1);
    let error = Bootstrap::builder(Processor::new(pipelines()).unwrap(), table)
        .checkpoints(failing)
        .run()
        .await
        .unwrap_err();
    assert!(
        matches!(&error, BootstrapError::RecordNotSaved { pipeline, .. } if pipeline.as_str() == "b"),
        "{error}"
    );
    assert_eq!(pages.load(Ordering::SeqCst), 0);
    let begun = record(&place, &pipelines()[1]).await;

    let report = Bootstrap::builder(
        Processor::new(pipelines()).unwrap(),
        Table::new(&rows, 2, 3),
    )
    .checkpoints(place.clone())
    .run()
    .await;
    let report = report.unwrap();
    assert_eq!((report.rerun, &report.run), (true, &begun.run));
    for pipeline in pipelines() {
        let record = record(&place, &pipeline).await;
        assert_eq!(
            (record.run, record.token),
            (begun.run.clone(), begun.token.clone())
        );
        assert!(record.finished_at.is_some());
    }
    assert_eq!(totals(&store_a), recount(&rows));
    assert_eq!(totals(&store_b), recount(&rows));
}

#[tokio::test]
async fn an_end_interrupted_between_two_records_is_completed_without_a_scan() {
    let (rows, store, markers, place) = (
        rows(20, 3),
        store(),
        MemoryDeduper::new(),
        MemoryDeduper::new(),
    );
    let other = support::store();
    let pipelines = || {
        [
            exactly_once("a", &store, &markers),
            exactly_once("b", &other, &markers),
        ]
    };
    // Two records, four pages in each of two segments, and then the record of `a`.
    let failing = FailingSave::new(&place, 2 + 2 * 4 + 1);
    let run = Bootstrap::builder(
        Processor::new(pipelines()).unwrap(),
        Table::new(&rows, 2, 3),
    )
    .checkpoints(failing);
    run.run().await.unwrap_err();
    assert!(record(&place, &pipelines()[0]).await.finished_at.is_some());
    assert_eq!(record(&place, &pipelines()[1]).await.finished_at, None);

    let table = Table::new(&rows, 2, 3);
    let pages = Arc::clone(&table.pages);
    let report = Bootstrap::builder(Processor::new(pipelines()).unwrap(), table)
        .checkpoints(place.clone())
        .run()
        .await
        .unwrap();
    assert!(matches!(report.ended, Ended::FinishedBefore { .. }));
    assert_eq!(pages.load(Ordering::SeqCst), 0);
    assert!(record(&place, &pipelines()[1]).await.finished_at.is_some());
}

#[tokio::test]
async fn an_unfinished_run_is_run_again_with_the_same_pipelines_only() {
    let (markers, clock) = (MemoryDeduper::new(), ManualClock::new(NOW));
    let stores = ["a", "b", "c"].map(|name| (name, store()));
    let named = |name| {
        let (name, store) = stores.iter().find(|(of, _)| *of == name).unwrap();
        exactly_once(name, store, &markers)
    };
    unfinished([named("a"), named("b")], &clock).await;
    let run = |pipelines: Vec<Pipeline<Order>>| {
        Bootstrap::builder(
            Processor::builder(pipelines)
                .clock(Arc::new(clock.clone()))
                .build()
                .unwrap(),
            Table::new(&rows(20, 3), 2, 3),
        )
        .run()
    };
    for others in [
        vec![named("a")],
        vec![named("b"), named("c")],
        vec![named("a"), named("b"), named("c")],
    ] {
        let error = run(others).await.unwrap_err();
        assert!(
            matches!(error, BootstrapError::OtherPipelines { .. }),
            "{error}"
        );
        assert!(error.to_string().contains("again: a, b;"), "{error}");
    }
    assert!(run(vec![named("b"), named("a")]).await.unwrap().rerun);
    // One finished among new ones: refused by its name, and nothing is kept of the new one.
    let error = run(vec![named("c"), named("b")]).await.unwrap_err();
    assert!(
        matches!(&error, BootstrapError::SomeFinished { pipeline, missing, .. }
            if pipeline.as_str() == "b" && *missing == ["`c`"]),
        "{error}"
    );
    // One of those that were finished together.
    let report = run(vec![named("b")]).await.unwrap();
    assert!(matches!(report.ended, Ended::FinishedBefore { .. }));
    assert!(!run(vec![named("c")]).await.unwrap().rerun);
}

#[tokio::test]
async fn a_run_of_the_same_id_and_other_pipelines_is_not_the_finished_one() {
    let (markers, clock) = (MemoryDeduper::new(), ManualClock::new(NOW));
    let stores = ["a", "c"].map(|name| (name, store()));
    let named = |name| {
        let (name, store) = stores.iter().find(|(of, _)| *of == name).unwrap();
        exactly_once(name, store, &markers)
    };
    let run = |pipelines: Vec<Pipeline<Order>>| {
        let processor = Processor::builder(pipelines).clock(Arc::new(clock.clone()));
        let table = Table::new(&rows(20, 3), 2, 3);
        Bootstrap::builder(processor.build().unwrap(), table).worker("fill", 0..2)
    };
    run(vec![named("a")]).run().await.unwrap();
    // The run of `c` begins, and is stopped before its end.
    let stopped = run(vec![named("c")])
        .run_until(std::future::ready(()))
        .await;
    assert!(!matches!(
        stopped.map(|report| report.ended),
        Ok(Ended::Finished)
    ));
    let both = run(vec![named("a"), named("c")]).run().await;
    let error = both.map(|report| report.ended).unwrap_err();
    assert!(
        matches!(&error, BootstrapError::SomeFinished { pipeline, missing, .. }
            if pipeline.as_str() == "a" && *missing == ["`c`"]),
        "{error}"
    );
    let report = run(vec![named("c")]).run().await.unwrap();
    assert!(
        matches!(report.ended, Ended::Finished),
        "{:?}",
        report.ended
    );
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_named() {
    let (store, markers) = (store(), MemoryDeduper::new());
    let pipeline = exactly_once("totals", &store, &markers);
    let name = pipeline.name().marker("bootstrap", &["orders"]);
    markers.save(&name, "{\"version\":1", None).await.unwrap();
    let run = Bootstrap::builder(
        Processor::new([pipeline]).unwrap(),
        Table::new(&rows(3, 1), 1, 2),
    )
    .restart();
    let error = run.run().await.unwrap_err();
    assert!(matches!(error, BootstrapError::Record { .. }), "{error}");
}

#[tokio::test]
async fn a_stopped_run_says_so_and_is_run_again() {
    let (rows, store, markers) = (rows(60, 4), store(), MemoryDeduper::new());
    let pipeline = claim_first("totals", &store, &markers);
    let stop = Arc::new(Notify::new());
    let stopped_at = Arc::clone(&stop);
    let table = Table::new(&rows, 3, 2).before_page(move |n| {
        if n == 7 {
            stopped_at.notify_one();
        }
        ready(Ok(()))
    });
    let (pages, closed) = (Arc::clone(&table.pages), Arc::clone(&table.closed));
    let run = Bootstrap::builder(Processor::new([pipeline.clone()]).unwrap(), table).concurrency(2);
    let report = run
        .run_until(async move { stop.notified().await })
        .await
        .unwrap();
    assert_eq!((report.ended, report.rerun), (Ended::Stopped, false));
    assert!(pages.load(Ordering::SeqCst) < 12, "it stopped soon");
    assert!(closed.load(Ordering::SeqCst));
    assert_eq!(
        report.counts.applied, report.counts.rows,
        "what was begun was finished"
    );
    let counted: i64 = totals(&store).values().sum();
    assert!(counted > 0);
    assert_eq!(record(&markers, &pipeline).await.finished_at, None);

    let second = Bootstrap::builder(Processor::new([pipeline]).unwrap(), Table::new(&rows, 3, 2))
        .run()
        .await
        .unwrap();
    assert_eq!((second.rerun, second.ended), (true, Ended::Finished));
    assert_eq!(second.earlier.counts.applied, report.counts.applied);
    assert_eq!(second.counts.rows + report.counts.rows, 60);
    assert_eq!(totals(&store), recount(&rows));
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_source_that_hangs() {
    let (store, markers) = (store(), MemoryDeduper::new());
    let stop = Arc::new(Notify::new());
    let reached = Arc::clone(&stop);
    let table = Table::new(&rows(9, 2), 1, 2).before_page(move |n| {
        let reached = Arc::clone(&reached);
        async move {
            if n == 2 {
                reached.notify_one();
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    });
    let run = Bootstrap::builder(
        Processor::new([exactly_once("totals", &store, &markers)]).unwrap(),
        table,
    );
    let report = run
        .run_until(async move { stop.notified().await })
        .await
        .unwrap();
    assert_eq!((report.ended, report.counts.rows), (Ended::Stopped, 4));
}

#[tokio::test]
async fn progress_tells_the_run_from_start_to_end() {
    let (store, markers) = (store(), MemoryDeduper::new());
    let heard = Arc::new(std::sync::Mutex::new(Vec::new()));
    let said = Arc::clone(&heard);
    let run = Bootstrap::builder(
        Processor::new([exactly_once("totals", &store, &markers)]).unwrap(),
        Table::new(&rows(5, 2), 2, 2),
    );
    let run = run.concurrency(1).on_progress(move |progress| {
        let text = match progress {
            Progress::Started {
                rerun,
                token: at,
                segments,
                ..
            } => {
                assert_eq!(*at, Some(&token(0)));
                format!("started {rerun} {segments}")
            }
            Progress::Page {
                segment,
                page,
                total,
                ..
            } => format!("page {segment}: {}/{}", page.applied, total.applied),
            Progress::SegmentDone { segment, done, of } => {
                format!("segment {segment}: {done}/{of}")
            }
            Progress::Finished { report } => format!("finished {}", report.counts.rows),
            other => format!("{other:?}"),
        };
        said.lock().unwrap().push(text);
    });
    let report: Report = run.run().await.unwrap();
    assert_eq!(report.counts.read_units, 1.5);
    assert_eq!(report.counts.examined, 5);
    let heard = heard.lock().unwrap();
    let wanted = [
        "started false 2",
        "page 0: 2/2",
        "page 0: 1/3",
        "segment 0: 1/2",
        "page 1: 2/5",
        "segment 1: 2/2",
        "finished 5",
    ];
    assert_eq!(*heard, wanted);
}

#[tokio::test]
async fn a_stop_is_told_as_progress() {
    let (store, markers) = (store(), MemoryDeduper::new());
    let stopped = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let said = Arc::clone(&stopped);
    let run = Bootstrap::builder(
        Processor::new([exactly_once("totals", &store, &markers)]).unwrap(),
        Table::new(&rows(5, 2), 2, 2),
    );
    let run = run.on_progress(move |progress| {
        if let Progress::Stopped { report } = progress {
            said.store(report.ended == Ended::Stopped, Ordering::SeqCst);
        }
    });
    run.run_until(ready(())).await.unwrap();
    assert!(stopped.load(Ordering::SeqCst));
}
