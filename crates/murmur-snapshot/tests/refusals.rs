//! What cannot end well is refused, by name, before anything is read or written.

#![allow(clippy::unwrap_used, reason = "a panic is a test's failure message")]

mod support;

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use murmur_core::{Pipeline, Processor, Sum};
use murmur_snapshot::bootstrap::BootstrapBuilder;
use murmur_snapshot::run_record::RunRecord;
use murmur_snapshot::source::Description;
use murmur_snapshot::{Bootstrap, BootstrapError, Ended, Progress, ReadBudget, SourceError};
use murmur_state::store::SURE_LIFE;
use murmur_state::time::ManualClock;
use murmur_state::{Causes, MemoryDeduper, MemoryStore};
use support::*;

/// The error of a bootstrap that must not have read, captured or written anything.
async fn refused(
    pipelines: impl IntoIterator<Item = Pipeline<Order>>,
    markers: &MemoryDeduper,
    store: &MemoryStore<Sum>,
    table: Table,
    options: impl FnOnce(BootstrapBuilder<Order, Table>) -> BootstrapBuilder<Order, Table>,
) -> BootstrapError {
    let pipelines: Vec<_> = pipelines.into_iter().collect();
    let (pages, before) = (Arc::clone(&table.pages), totals(store));
    let run = options(Bootstrap::builder(
        Processor::new(pipelines.clone()).unwrap(),
        table,
    ));
    let error = run.run().await.unwrap_err();
    assert_eq!(pages.load(Ordering::SeqCst), 0, "{error}");
    assert_eq!(totals(store), before);
    for pipeline in &pipelines {
        let record = RunRecord::load(markers, pipeline.name(), "orders").await;
        assert_eq!(record.unwrap(), None, "{error}");
    }
    error
}

fn table(change: impl FnOnce(&mut Description)) -> Table {
    let mut table = Table::new(&rows(6, 2), 2, 2);
    change(&mut table.described);
    table
}

fn says(error: &BootstrapError, words: &[&str]) {
    let said = Causes(error).to_string();
    for word in words {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
}

#[tokio::test]
async fn a_ledger_takes_no_rows_left_out_by_what_can_change() {
    let leaves_out = |described: &mut Description| {
        described.leaves_out_by = vec!["color".into(), "status".into()];
    };
    let (store, markers) = (store(), MemoryDeduper::new());
    let pipelines = [
        exactly_once("counts", &support::store(), &markers),
        ledger("totals", &store, &markers),
    ];
    let error = refused(pipelines, &markers, &store, table(leaves_out), |run| run).await;
    assert!(
        matches!(error, BootstrapError::LedgerOfSome { .. }),
        "{error}"
    );
    says(
        &error,
        &["`totals`", "`orders`", "color, status", "`Decoded::Skip`"],
    );
    // Nobody else minds.
    let run = Bootstrap::builder(
        Processor::new([exactly_once("counts", &store, &markers)]).unwrap(),
        table(leaves_out),
    );
    assert_eq!(run.run().await.unwrap().counts.applied, 6);
}

#[tokio::test]
async fn a_ledger_reads_consistently() {
    let eventually = |described: &mut Description| described.consistent = false;
    let (store, markers) = (store(), MemoryDeduper::new());
    let pipeline = ledger("totals", &store, &markers);
    let error = refused([pipeline], &markers, &store, table(eventually), |run| run).await;
    assert!(
        matches!(error, BootstrapError::LedgerOfThePast { .. }),
        "{error}"
    );
    says(&error, &["`totals`", "`orders`", "`eventually_consistent`"]);
    let run = Bootstrap::builder(
        Processor::new([exactly_once("counts", &store, &markers)]).unwrap(),
        table(eventually),
    );
    assert_eq!(run.run().await.unwrap().counts.applied, 6);
}

#[tokio::test]
async fn a_stream_carries_the_images_that_are_needed() {
    let markers = MemoryDeduper::new();
    let retracting = |store: &MemoryStore<Sum>| {
        Pipeline::builder("retracting")
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new())
            .retract()
            .store(store.clone().markers(markers.clone()))
            .exactly_once()
            .unwrap()
    };
    let view = |new: bool, old: bool| {
        move |described: &mut Description| {
            let view = described.stream.as_mut().unwrap();
            (view.new_images, view.old_images) = (new, old);
        }
    };
    for (new, old) in [(false, false), (false, true), (true, false)] {
        let store = store();
        let pipeline = retracting(&store);
        let error = refused([pipeline], &markers, &store, table(view(new, old)), |run| {
            run
        })
        .await;
        assert!(
            matches!(error, BootstrapError::MissingImages { .. }),
            "{error}"
        );
        says(
            &error,
            &[
                "`retracting`",
                "old and new images",
                STREAM,
                "NEW_AND_OLD_IMAGES",
            ],
        );
    }
    for old in [false, true] {
        for mode in [ledger, exactly_once, claim_first] {
            let store = store();
            let pipeline = mode("totals", &store, &markers);
            let table = table(view(false, old));
            let error = refused([pipeline], &markers, &store, table, |run| run).await;
            says(&error, &["`totals`", "needs new images"]);
        }
    }
    let store = store();
    let run = Bootstrap::builder(
        Processor::new([ledger("fits", &store, &markers)]).unwrap(),
        table(view(true, false)),
    );
    assert_eq!(run.run().await.unwrap().counts.applied, 6);
}

#[tokio::test]
async fn state_that_is_somebody_elses_or_of_another_stream_is_refused() {
    let (store, markers) = (store(), MemoryDeduper::new());
    let other = exactly_once("other", &store, &markers);
    Bootstrap::builder(Processor::new([other]).unwrap(), table(|_| ()))
        .run()
        .await
        .unwrap();
    for mode in [ledger, exactly_once] {
        let pipeline = mode("totals", &store, &markers);
        let error = refused([pipeline], &markers, &store, table(|_| ()), |run| run).await;
        assert!(matches!(error, BootstrapError::State { .. }), "{error}");
        says(
            &error,
            &["`orders`", "pipeline `other`", "pipeline `totals`"],
        );
    }

    // A record that was lost does not hide which stream the state follows from.
    let (store, markers) = (support::store(), MemoryDeduper::new());
    let pipeline = ledger("totals", &store, &markers);
    Bootstrap::builder(Processor::new([pipeline.clone()]).unwrap(), table(|_| ()))
        .run()
        .await
        .unwrap();
    let markers = MemoryDeduper::new();
    let table = table(|described| described.stream.as_mut().unwrap().arn = "arn:new".into());
    let table = Table {
        token_arn: "arn:new",
        ..table
    };
    let error = refused(
        [ledger("totals", &store, &markers)],
        &markers,
        &store,
        table,
        |run| run,
    );
    says(&error.await, &[STREAM, "arn:new"]);
}

#[tokio::test]
async fn a_stream_that_was_switched_on_anew_is_not_the_runs() {
    let (store, markers) = (store(), MemoryDeduper::new());
    let pipeline = || ledger("totals", &store, &markers);
    let first = table(|_| ()).before_page(|_| ready(Err(broken())));
    Bootstrap::builder(Processor::new([pipeline()]).unwrap(), first)
        .run()
        .await
        .unwrap_err();
    // Neither an unfinished run nor a finished one, after which whoever asks goes on to live.
    for finish in [true, false] {
        let second = table(|described| described.stream.as_mut().unwrap().arn = "arn:new".into());
        let pages = Arc::clone(&second.pages);
        let error = Bootstrap::builder(Processor::new([pipeline()]).unwrap(), second)
            .run()
            .await;
        let error = error.unwrap_err();
        assert!(
            matches!(error, BootstrapError::OtherStream { .. }),
            "{error}"
        );
        says(&error, &["`orders`", STREAM, "arn:new", "`restart`"]);
        assert_eq!(pages.load(Ordering::SeqCst), 0);
        if finish {
            let rest = Bootstrap::builder(Processor::new([pipeline()]).unwrap(), table(|_| ()));
            rest.run().await.unwrap();
        }
    }
}

fn broken() -> SourceError {
    SourceError::Setup {
        place: "table `orders`".into(),
        advice: "mend it".into(),
        source: None,
    }
}

#[tokio::test]
async fn a_source_that_cannot_be_described_is_not_read() {
    let (store, markers) = (store(), MemoryDeduper::new());
    let pipeline = ledger("totals", &store, &markers);
    let table = Table {
        undescribed: Some(broken()),
        ..table(|_| ())
    };
    let error = refused([pipeline], &markers, &store, table, |run| run).await;
    assert!(matches!(error, BootstrapError::Source { .. }), "{error}");
    says(&error, &["mend it"]);
}

#[tokio::test]
async fn options_that_do_not_fit_the_source_or_the_pipelines_are_named() {
    type Change = fn(BootstrapBuilder<Order, Table>) -> BootstrapBuilder<Order, Table>;
    let changes: [(&str, &str, Change); 8] = [
        ("read_budget", "above 0", |run| {
            run.read_budget(ReadBudget::UnitsPerSecond(0.0))
        }),
        ("read_budget", "up to 100", |run| {
            run.read_budget(ReadBudget::PercentOfProvisioned(101.0))
        }),
        ("read_budget", "UnitsPerSecond", |run| {
            run.read_budget(ReadBudget::PercentOfProvisioned(50.0))
        }),
        ("worker", "empty", |run| run.worker("", 0..1)),
        ("worker", "0..2", |run| run.worker("nightly", 1..1)),
        ("worker", "0..2", |run| run.worker("nightly", 0..3)),
        ("worker", "0..2", |run| run.worker("nightly", 2..3)),
        (
            "live_is_running",
            "`counts`",
            BootstrapBuilder::live_is_running,
        ),
    ];
    for (option, word, change) in changes {
        let (store, markers) = (store(), MemoryDeduper::new());
        let pipelines = [
            ledger("totals", &store, &markers),
            exactly_once("counts", &support::store(), &markers),
        ];
        let error = refused(pipelines, &markers, &store, table(|_| ()), change).await;
        let BootstrapError::Option(wrong) = &error else {
            panic!("{error}");
        };
        assert_eq!(wrong.option, option);
        says(&error, &[word]);
    }
}

#[tokio::test]
async fn at_least_once_has_no_workers() {
    let (store, place) = (store(), MemoryDeduper::new());
    let run = Bootstrap::builder(
        Processor::new([at_least_once("totals", &store)]).unwrap(),
        table(|_| ()),
    );
    let error = run
        .checkpoints(place)
        .worker("nightly", 0..1)
        .run()
        .await
        .unwrap_err();
    says(&error, &["`totals`", "recognises repeats"]);
}

#[tokio::test]
async fn while_live_is_running_a_run_may_be_of_any_age() {
    let (store, markers, clock) = (store(), MemoryDeduper::new(), ManualClock::new(NOW));
    let run = |table: Table| {
        let pipeline = ledger("totals", &store, &markers);
        Bootstrap::builder(
            Processor::builder([pipeline])
                .clock(Arc::new(clock.clone()))
                .build()
                .unwrap(),
            table,
        )
    };
    let fails =
        || table(|_| ()).before_page(|n| ready(if n == 2 { Err(broken()) } else { Ok(()) }));
    run(fails()).concurrency(1).run().await.unwrap_err();
    clock.advance(3 * SURE_LIFE);
    let error = run(table(|_| ())).run().await.unwrap_err();
    assert!(
        matches!(error, BootstrapError::TooOld { hours: 67, .. }),
        "{error}"
    );
    says(&error, &["`live_is_running`", "`restart`"]);

    let report = run(table(|_| ())).live_is_running().run().await.unwrap();
    assert_eq!((report.ended, report.rerun), (Ended::Finished, true));
    assert_eq!(report.token, Some(token(0)));
    assert_eq!(totals(&store), recount(&rows(6, 2)));
}

#[tokio::test]
async fn a_run_that_will_come_too_late_says_so_unless_live_is_running() {
    for (live, mode, wanted) in [
        (
            false,
            ledger as fn(&str, &MemoryStore<Sum>, &MemoryDeduper) -> _,
            Some("start the stream consumer"),
        ),
        (false, exactly_once, Some("budget")),
        (true, ledger, None),
    ] {
        let (store, markers, clock) = (store(), MemoryDeduper::new(), ManualClock::new(NOW));
        let slow = clock.clone();
        let table = Table::new(&rows(40, 2), 2, 1).before_page(move |_| {
            slow.advance(Duration::from_secs(40 * 60));
            ready(Ok(()))
        });
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        let run = Bootstrap::builder(
            Processor::builder([mode("totals", &store, &markers)])
                .clock(Arc::new(clock))
                .build()
                .unwrap(),
            table,
        )
        .concurrency(1);
        let run = run.on_progress(move |progress| {
            if let Progress::Late {
                advice, age, life, ..
            } = progress
            {
                heard
                    .lock()
                    .unwrap()
                    .push((age.as_secs() / 3600, (*advice).to_owned()));
                assert_eq!(*life, SURE_LIFE);
            }
        });
        let run = if live { run.live_is_running() } else { run };
        run.run().await.unwrap();
        let told = told.lock().unwrap();
        match wanted {
            None => assert!(told.is_empty(), "{told:?}"),
            Some(wanted) => {
                let (hours, advice) = &told[0];
                assert!(*hours < 16 && advice.contains(wanted), "{told:?}");
            }
        }
    }
}
