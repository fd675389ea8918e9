//! A source that is not what the pipelines read does not become a finished run.

#![allow(clippy::unwrap_used, reason = "a panic is a test's failure message")]

mod support;

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use murmur_core::Sum;
use murmur_core::{Decoded, Decoder, Processor, ProcessorBuilder, Row};
use murmur_snapshot::bootstrap::BootstrapBuilder;
use murmur_snapshot::{Bootstrap, BootstrapError, Ended};
use murmur_state::{MemoryDeduper, MemoryStore};
use support::*;

/// Rows of another type: what should be a number is text.
fn others(from: u64, to: u64) -> Vec<Row> {
    (from..to)
        .map(|n| row(&format!("x{n}"), "eve", "many"))
        .collect()
}

struct Setup {
    store: MemoryStore<Sum>,
    markers: MemoryDeduper,
}

impl Setup {
    fn new() -> Self {
        Self {
            store: store(),
            markers: MemoryDeduper::new(),
        }
    }

    fn over(&self, table: Table) -> BootstrapBuilder<Order, Table> {
        Bootstrap::builder(self.processor().build().unwrap(), table)
    }

    fn processor(&self) -> ProcessorBuilder<Order> {
        Processor::builder([exactly_once("totals", &self.store, &self.markers)])
    }
}

#[tokio::test]
async fn a_table_of_another_type_fails_the_run_by_what_was_found() {
    for (many, segments, read) in [(1, 1, 1), (7, 3, 7), (5000, 4, 1000)] {
        let setup = Setup::new();
        let table = Table::new(&others(0, many), segments, 100);
        let error = setup.over(table).concurrency(1).run().await.unwrap_err();
        let BootstrapError::AllRejected { rows, first, .. } = &error else {
            panic!("{error}");
        };
        let (row, found, reason) = (&first.row.id, &first.found, &first.row.reason);
        assert_eq!(*rows, read);
        assert_eq!(*row, others(0, 1)[0].event_id);
        assert_eq!(found, "with `cents` (N), `customer` (S), `id` (S)");
        assert!(reason.contains("cannot be decoded: "), "{reason}");
        let said = error.to_string();
        for word in ["`orders`", "segments", "accept_all_rejected", reason] {
            assert!(said.contains(word), "{said}");
        }
        assert!(!error.is_retryable());

        // The right decoder counts all of them, in the same run.
        let pipeline = exactly_once("totals", &setup.store, &setup.markers);
        let right = Decoder::item(|item| {
            let murmur_core::AttributeValue::S(customer) = &item["customer"] else {
                return Err("no customer".into());
            };
            let customer = customer.clone();
            Ok(Decoded::Record(Order { customer, cents: 1 }))
        });
        let table = Table::new(&others(0, many), segments, 100);
        let run = Bootstrap::builder(
            Processor::with_decoder([pipeline], right).build().unwrap(),
            table,
        );
        let report = run.run().await.unwrap();
        assert_eq!((report.rerun, report.counts.applied), (true, many));
        assert_eq!(report.earlier.counts.rows, 0);
    }
}

#[tokio::test]
async fn told_by_name_it_is_taken_as_it_is() {
    let setup = Setup::new();
    let table = Table::new(&others(0, 2000), 3, 100);
    let report = setup.over(table).accept_all_rejected().run().await.unwrap();
    assert_eq!(report.ended, Ended::Finished);
    assert_eq!((report.counts.rows, report.counts.rejected), (2000, 2000));
}

#[tokio::test]
async fn one_row_that_is_accepted_is_enough_wherever_it_comes() {
    for place in [0, 400, 899] {
        let setup = Setup::new();
        let mut rows = others(0, 900);
        rows[place] = row("good", "alice", "5");
        let table = Table::new(&rows, 3, 50);
        let report = setup.over(table).run().await.unwrap();
        assert_eq!(report.ended, Ended::Finished);
        assert_eq!((report.counts.applied, report.counts.rejected), (1, 899));
    }
}

#[tokio::test]
async fn rows_that_are_skipped_and_tables_that_are_empty_are_no_wrong_source() {
    let setup = Setup::new();
    let pipeline = exactly_once("totals", &setup.store, &setup.markers);
    let skips = Decoder::item(|_| Ok(Decoded::Skip));
    let table = Table::new(&others(0, 3000), 2, 100);
    let report = Bootstrap::builder(
        Processor::with_decoder([pipeline], skips).build().unwrap(),
        table,
    )
    .run()
    .await
    .unwrap();
    assert_eq!(
        (report.ended, report.counts.skipped),
        (Ended::Finished, 3000)
    );

    let setup = Setup::new();
    let report = setup.over(Table::new(&[], 4, 10)).run().await.unwrap();
    assert_eq!((report.ended, report.counts.rows), (Ended::Finished, 0));
}

#[tokio::test]
async fn a_run_that_goes_on_knows_what_was_accepted_before() {
    let setup = Setup::new();
    let mut rows = vec![row("good", "alice", "5")];
    rows.extend(others(0, 1500));
    let stopped = Table::new(&rows, 1, 1).before_page(|n| {
        let broken = murmur_snapshot::SourceError::Setup {
            place: "table `orders`".into(),
            advice: "mend it".into(),
            source: None,
        };
        ready(if n == 1 { Err(broken) } else { Ok(()) })
    });
    setup.over(stopped).concurrency(1).run().await.unwrap_err();
    let report = setup.over(Table::new(&rows, 1, 100)).run().await.unwrap();
    assert_eq!(report.earlier.counts.applied, 1);
    assert_eq!(
        (report.ended, report.counts.rejected),
        (Ended::Finished, 1500)
    );
}

#[tokio::test]
async fn a_worker_whose_part_is_all_rejected_goes_by_what_others_have_met() {
    let setup = Setup::new();
    let mut table = Table::new(&[], 2, 10);
    table.segments = vec![others(0, 5), rows(5, 2)];
    let table = Arc::new(table);
    let worker = |part| {
        let pipeline = exactly_once("totals", &setup.store, &setup.markers);
        Bootstrap::builder(Processor::new([pipeline]).unwrap(), Arc::clone(&table))
            .worker("nightly", part)
    };
    let error = worker(0..1).run().await.unwrap_err();
    assert!(
        matches!(error, BootstrapError::AllRejected { .. }),
        "{error}"
    );
    assert_eq!(worker(1..2).run().await.unwrap().ended, Ended::OwnPart);
    let report = worker(0..1).run().await.unwrap();
    assert_eq!((report.ended, report.counts.rejected), (Ended::Finished, 5));
}

#[tokio::test]
async fn the_callback_still_gets_each_row() {
    let (setup, taken) = (Setup::new(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&taken);
    let table = Table::new(&others(0, 30), 1, 10);
    let processor = setup.processor().on_rejected(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        ready(Ok(()))
    });
    let run = Bootstrap::builder(processor.build().unwrap(), table);
    run.run().await.unwrap_err();
    assert_eq!(taken.load(Ordering::SeqCst), 30);
}
