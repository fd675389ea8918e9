//! Items settle from the end of a bootstrap on, or by a command; what cannot settle is refused.

#![allow(clippy::unwrap_used, reason = "a panic is a test's failure message")]

mod support;

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use murmur_core::audit::AuditOptions;
use murmur_core::{Change, EventName, Pipeline, Processor, Record, Row, Sum, item_key};
use murmur_snapshot::run_record::RunRecord;
use murmur_snapshot::settle::SettleError;
use murmur_snapshot::source::Description;
use murmur_snapshot::{Bootstrap, BootstrapError, Ended, Settle, SourceError};
use murmur_state::conformance::bound;
use murmur_state::intercept::{Intercept, Intercepted};
use murmur_state::store::Bound;
use murmur_state::time::ManualClock;
use murmur_state::{
    Causes, Deadline, Ledger, MemoryDeduper, MemoryStore, Read, SequenceNumber, StoreError,
};
use support::*;

/// Tables of a pipeline.
struct Setup {
    store: MemoryStore<Sum>,
    markers: MemoryDeduper,
    rows: Vec<Row>,
}

impl Setup {
    fn new() -> Self {
        Self {
            store: store(),
            markers: MemoryDeduper::new(),
            rows: rows(6, 2),
        }
    }

    fn table(&self) -> Table {
        Table::new(&self.rows, 2, 2)
    }

    /// With and without `settle`, which are one definition otherwise.
    fn settling(&self) -> Pipeline<Order> {
        settling("totals", &self.store, &self.markers)
    }

    fn staying(&self) -> Pipeline<Order> {
        ledger("totals", &self.store, &self.markers)
    }

    fn processor(&self) -> Processor<Order> {
        let processor = Processor::builder([self.settling()]);
        processor
            .clock(Arc::new(ManualClock::new(NOW)))
            .build()
            .unwrap()
    }

    async fn is_settling(&self) -> bool {
        // Of the store itself, whomever it belongs to, if to any.
        let bound = bound("any");
        let asked = self.store.is_settling(&bound, Deadline::NONE).await;
        asked.unwrap()
    }

    async fn record(&self) -> Option<RunRecord> {
        let name = self.settling().name().clone();
        RunRecord::load(&self.markers, &name, "orders")
            .await
            .unwrap()
    }

    async fn is_finished(&self) -> bool {
        let record = self.record().await;
        record.is_some_and(|record| record.finished_at.is_some())
    }

    /// Bootstraps by a definition that lets nothing settle.
    async fn bootstrapped(self) -> Self {
        let run = Bootstrap::builder(Processor::new([self.staying()]).unwrap(), self.table());
        assert_eq!(run.run().await.unwrap().ended, Ended::Finished);
        assert!(!self.is_settling().await);
        self
    }
}

fn views(new: bool, old: bool) -> impl Fn(&mut Description) {
    move |described| {
        let view = described.stream.as_mut().unwrap();
        (view.new_images, view.old_images) = (new, old);
    }
}

fn says(error: &(impl std::error::Error + 'static), words: &[&str]) {
    let said = Causes(error).to_string();
    for word in words {
        assert!(said.contains(word), "no `{word}` in: {said}");
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
async fn from_the_end_of_a_bootstrap_on_items_settle_by_their_first_change() {
    let setup = Setup::new();
    let run = Bootstrap::builder(Processor::new([setup.settling()]).unwrap(), setup.table());
    assert_eq!(run.run().await.unwrap().ended, Ended::Finished);
    assert!(setup.is_settling().await);

    let live = setup.processor();
    let scanned = &setup.rows[0];
    let change = |n: u32, old: &str, new: &str| {
        let customer = match &scanned.item["customer"] {
            murmur_core::AttributeValue::S(customer) => customer.clone(),
            other => panic!("{other:?}"),
        };
        Record::Changed(Change {
            event_id: format!("e{n}"),
            event: EventName::Modify,
            keys: item_key(&scanned.item_id).unwrap(),
            old_image: Some(item("o0", &customer, old)),
            new_image: Some(item("o0", &customer, new)),
            sequence_number: Some(SequenceNumber::new(format!("10{n}")).unwrap()),
            created: Some(NOW),
            stream_arn: Some(STREAM.into()),
            ..Change::default()
        })
    };
    let changes = [change(1, "0", "5"), change(2, "5", "9")];
    for outcome in live.process(&changes, Deadline::NONE).await {
        assert!(outcome.is_done(), "{outcome:?}");
    }
    let status = live
        .ledgers(&AuditOptions::default())
        .await
        .unwrap()
        .remove(0);
    assert_eq!(
        (status.settling, status.items, status.settled),
        (true, 6, 1)
    );
    let total: i64 = totals(&setup.store).values().sum();
    let scanned: i64 = recount(&setup.rows).values().sum();
    assert_eq!(total, scanned + 9, "the first item was of nothing");
}

#[tokio::test]
async fn a_run_that_is_not_finished_lets_nothing_settle() {
    let setup = Setup::new();
    let table = setup.table();
    let table = table.before_page(|n| ready(if n == 2 { Err(broken()) } else { Ok(()) }));
    let run = Bootstrap::builder(Processor::new([setup.settling()]).unwrap(), table).concurrency(1);
    run.run().await.unwrap_err();
    assert!(!setup.is_settling().await);
}

#[tokio::test]
async fn no_run_is_finished_before_its_items_settle() {
    // Cut short at each of its saves, the last of which finishes it.
    let (mut cut, mut said) = (0, false);
    let said_last = loop {
        let fresh = Setup::new();
        let place = FailingSave::new(&fresh.markers, cut);
        let run = Bootstrap::builder(Processor::new([fresh.settling()]).unwrap(), fresh.table())
            .concurrency(1);
        let ended = run.checkpoints(place).run().await;
        if fresh.is_finished().await {
            assert!(fresh.is_settling().await && ended.is_ok());
            break said;
        }
        said = fresh.is_settling().await;
        cut += 1;
        // Run again, it goes on to the same end.
        let run = Bootstrap::builder(Processor::new([fresh.settling()]).unwrap(), fresh.table());
        let ended = run.checkpoints(fresh.markers.clone()).run().await;
        assert_eq!(ended.unwrap().ended, Ended::Finished);
        assert!(fresh.is_settling().await && fresh.is_finished().await);
    };
    assert!(cut > 3 && said_last, "{cut}");
}

#[tokio::test]
async fn where_it_cannot_be_said_the_run_is_not_finished() {
    let setup = Setup::new();
    let fails = Arc::new(AtomicBool::new(true));
    let pipeline = || {
        Pipeline::builder("totals")
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new())
            .settle()
            .store(Intercepted(Unsaid(
                setup.store.clone().markers(setup.markers.clone()),
                Arc::clone(&fails),
            )))
            .ledger()
            .unwrap()
    };
    let error = Bootstrap::builder(Processor::new([pipeline()]).unwrap(), setup.table())
        .run()
        .await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, BootstrapError::NotSettling { .. }),
        "{error}"
    );
    says(&error, &["`orders`", "run it again", "allow it"]);
    assert!(!error.is_retryable());
    assert!(!setup.is_finished().await);
    // All rows are done.
    fails.store(false, Ordering::SeqCst);
    let again = setup.table();
    let pages = Arc::clone(&again.pages);
    let report = Bootstrap::builder(Processor::new([pipeline()]).unwrap(), again)
        .run()
        .await
        .unwrap();
    assert_eq!(report.ended, Ended::Finished);
    assert_eq!(pages.load(Ordering::SeqCst), 0);
    assert!(setup.is_settling().await && setup.is_finished().await);
}

#[tokio::test]
async fn the_last_worker_lets_items_settle() {
    let setup = Setup::new();
    let worker = |segments| {
        let run = Bootstrap::builder(Processor::new([setup.settling()]).unwrap(), setup.table());
        run.worker("nightly", segments).run()
    };
    assert_eq!(worker(0..1).await.unwrap().ended, Ended::OwnPart);
    assert!(!setup.is_settling().await);
    assert_eq!(worker(1..2).await.unwrap().ended, Ended::Finished);
    assert!(setup.is_settling().await);
}

#[tokio::test]
async fn only_definitions_that_say_so_settle() {
    let (staying, leaving) = (Setup::new(), Setup::new());
    let pipelines = [
        ledger("staying", &staying.store, &staying.markers),
        settling("leaving", &leaving.store, &leaving.markers),
        exactly_once("counts", &store(), &MemoryDeduper::new()),
    ];
    let run = Bootstrap::builder(Processor::new(pipelines).unwrap(), staying.table());
    let place = MemoryDeduper::new();
    run.checkpoints(place).run().await.unwrap();
    assert!(!staying.is_settling().await && leaving.is_settling().await);
}

#[tokio::test]
async fn a_bootstrap_that_is_finished_already_lets_items_settle_too() {
    let setup = Setup::new().bootstrapped().await;
    // A stream that does not carry what they settle by is worse than being done already.
    let mut table = setup.table();
    views(true, false)(&mut table.described);
    let error = Bootstrap::builder(Processor::new([setup.settling()]).unwrap(), table)
        .run()
        .await;
    let error = error.unwrap_err();
    assert!(
        matches!(error, BootstrapError::MissingImages { .. }),
        "{error}"
    );
    assert!(!setup.is_settling().await);
    for _ in 0..2 {
        let run = Bootstrap::builder(Processor::new([setup.settling()]).unwrap(), setup.table());
        let report = run.run().await.unwrap();
        assert!(matches!(report.ended, Ended::FinishedBefore { .. }));
        assert!(setup.is_settling().await);
    }
}

#[tokio::test]
async fn a_bootstrap_of_what_settles_needs_old_images() {
    let setup = Setup::new();
    for (new, old) in [(true, false), (false, true), (false, false)] {
        let mut table = setup.table();
        views(new, old)(&mut table.described);
        let error = Bootstrap::builder(Processor::new([setup.settling()]).unwrap(), table)
            .run()
            .await;
        let error = error.unwrap_err();
        says(
            &error,
            &["`totals`", "`.settle()`", STREAM, "NEW_AND_OLD_IMAGES"],
        );
        assert_eq!(setup.record().await, None);
    }
}

#[tokio::test]
async fn the_command_lets_items_settle_once_and_again() {
    let setup = Setup::new().bootstrapped().await;
    let run = setup.record().await.unwrap().run;
    for already in [false, true] {
        let settle = Settle::builder(Processor::new([setup.settling()]).unwrap(), setup.table());
        let report = settle.build().unwrap().run().await.unwrap();
        let [of] = &report.pipelines[..] else {
            panic!("{report:?}");
        };
        assert_eq!(of.pipeline.as_str(), "totals");
        assert_eq!((of.already, &of.run), (already, &run));
        assert!(setup.is_settling().await);
    }
}

#[tokio::test]
async fn the_command_looks_where_the_bootstrap_keeps_its_record() {
    let (setup, place) = (Setup::new(), MemoryDeduper::new());
    let run = Bootstrap::builder(Processor::new([setup.staying()]).unwrap(), setup.table());
    run.checkpoints(place.clone()).run().await.unwrap();
    let settle = || Settle::builder(Processor::new([setup.settling()]).unwrap(), setup.table());
    let error = settle().build().unwrap().run().await.unwrap_err();
    assert!(
        matches!(error, SettleError::NeverBootstrapped { .. }),
        "{error}"
    );
    says(&error, &["`totals`", "`orders`", "`checkpoints`"]);
    assert!(!setup.is_settling().await);
    let settle = settle().checkpoints(place).build().unwrap();
    settle.run().await.unwrap();
    assert!(setup.is_settling().await);
}

/// The error of a command that must not have let anything settle.
async fn refused(
    setup: &Setup,
    pipelines: impl IntoIterator<Item = Pipeline<Order>>,
    table: Table,
) -> SettleError {
    let closed = Arc::clone(&table.closed);
    let settle = Settle::builder(Processor::new(pipelines).unwrap(), table);
    let error = settle.build().unwrap().run().await.unwrap_err();
    assert!(!setup.is_settling().await, "{error}");
    assert!(!error.is_retryable(), "{error}");
    assert!(closed.load(Ordering::SeqCst), "{error}");
    error
}

#[tokio::test]
async fn what_cannot_settle_by_its_definition_is_refused() {
    let setup = Setup::new().bootstrapped().await;
    let refused = |pipelines: Vec<Pipeline<Order>>| {
        let processor = Processor::new(pipelines).unwrap();
        let error = Settle::builder(processor, setup.table())
            .build()
            .unwrap_err();
        assert!(!error.is_retryable(), "{error}");
        error
    };
    let other = (store(), MemoryDeduper::new());
    for mode in [exactly_once, claim_first] {
        let without = mode("counts", &other.0, &other.1);
        let error = refused(vec![setup.settling(), without]);
        assert!(matches!(error, SettleError::NoLedger { .. }), "{error}");
        says(&error, &["`counts`", "leave it out"]);
    }
    let error = refused(vec![setup.staying()]);
    assert!(matches!(error, SettleError::NotDefined { .. }), "{error}");
    says(&error, &["`totals`", "`.settle()`", "every process"]);
}

#[tokio::test]
async fn a_bootstrap_that_is_not_finished_or_was_of_something_else_is_refused() {
    let setup = Setup::new();
    let table = setup.table().before_page(|_| ready(Err(broken())));
    Bootstrap::builder(Processor::new([setup.settling()]).unwrap(), table)
        .run()
        .await
        .unwrap_err();
    let error = refused(&setup, [setup.settling()], setup.table()).await;
    let run = setup.record().await.unwrap().run;
    assert!(matches!(error, SettleError::NotFinished { .. }), "{error}");
    says(&error, &["`totals`", "`orders`", &run, "not finished"]);

    // One that was finished, and one that never was.
    let (done, new) = (Setup::new().bootstrapped().await, Setup::new());
    let pipelines = [done.settling(), settling("new", &new.store, &new.markers)];
    let error = refused(&done, pipelines, done.table()).await;
    says(&error, &["no record", "`new`"]);

    // The record is of another state table.
    let elsewhere = settling("totals", &store(), &done.markers);
    let error = refused(&done, [elsewhere], done.table()).await;
    assert!(
        matches!(error, SettleError::OtherDefinition { .. }),
        "{error}"
    );
    says(&error, &["`totals`", "now it is"]);
}

#[tokio::test]
async fn a_stream_without_both_images_is_refused() {
    let setup = Setup::new().bootstrapped().await;
    for (new, old) in [(true, false), (false, true), (false, false)] {
        let mut table = setup.table();
        views(new, old)(&mut table.described);
        let error = refused(&setup, [setup.settling()], table).await;
        assert!(
            matches!(error, SettleError::MissingImages { .. }),
            "{error}"
        );
        says(&error, &["`orders`", STREAM, "NEW_AND_OLD_IMAGES"]);
    }
    let mut table = setup.table();
    table.described.stream = None;
    let error = refused(&setup, [setup.settling()], table).await;
    assert!(matches!(error, SettleError::NoStream { .. }), "{error}");
    says(&error, &["`orders`", "NEW_AND_OLD_IMAGES"]);
    let table = Table {
        undescribed: Some(broken()),
        ..setup.table()
    };
    let error = refused(&setup, [setup.settling()], table).await;
    says(&error, &["`orders`", "mend it"]);
}

#[tokio::test]
async fn state_of_something_else_is_refused() {
    // Of another stream: the table's was switched on anew, or it is another table.
    let setup = Setup::new().bootstrapped().await;
    let mut table = setup.table();
    table.described.stream.as_mut().unwrap().arn = "arn:new".into();
    let error = refused(&setup, [setup.settling()], table).await;
    assert!(matches!(error, SettleError::OtherStream { .. }), "{error}");
    says(&error, &["`totals`", STREAM, "arn:new"]);

    // Of another version, whose record was copied.
    let place = MemoryDeduper::new();
    let pipeline = |store: &MemoryStore<Sum>, version| {
        Pipeline::builder("totals")
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new())
            .version(version)
            .settle()
            .store(store.clone())
            .ledger()
            .unwrap()
    };
    let state = store();
    let run = Bootstrap::builder(
        Processor::new([pipeline(&state, 1)]).unwrap(),
        setup.table(),
    );
    run.checkpoints(place.clone()).run().await.unwrap();
    let settle = Settle::builder(
        Processor::new([pipeline(&state, 2)]).unwrap(),
        setup.table(),
    );
    let settle = settle.checkpoints(place).build().unwrap();
    let error = settle.run().await.unwrap_err();
    says(&error, &["version 1", "version 2"]);

    // Of none.
    let unbound = Setup::new();
    let theirs = Setup::new().bootstrapped().await;
    let mut record = theirs.record().await.unwrap();
    record
        .pipelines
        .insert("totals".into(), unbound.settling().fingerprint());
    let data = serde_json::json!({
        "version": 2,
        "run": record.run,
        "pipelines": record.pipelines,
        "settings": record.settings,
        "segments": record.segments,
        "captured_at": record.captured_at,
        "token": record.token.map(|token| token.encode()),
        "finished_at": record.finished_at,
    });
    let name = unbound.settling().name().marker("bootstrap", &["orders"]);
    let place = &unbound.markers as &dyn murmur_state::Checkpoints;
    place.save(&name, &data.to_string(), None).await.unwrap();
    let error = refused(&unbound, [unbound.settling()], unbound.table()).await;
    assert!(matches!(error, SettleError::Refused(_)), "{error}");
    says(&error, &["belongs to no pipeline yet"]);
}

/// A store beside which nothing can be said while it is told to fail.
struct Unsaid(MemoryStore<Sum>, Arc<AtomicBool>);

impl Intercept for Unsaid {
    type Monoid = Sum;
    type Inner = MemoryStore<Sum>;

    fn inner(&self) -> &MemoryStore<Sum> {
        &self.0
    }

    async fn settle(&self, bound: &Bound, deadline: Deadline) -> Result<(), StoreError> {
        if self.1.load(Ordering::SeqCst) {
            return Err(StoreError::Setup {
                place: self.0.place(),
                advice: "allow it".into(),
                source: None,
            });
        }
        self.0.settle(bound, deadline).await
    }
}
