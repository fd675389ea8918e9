//! Pipelines whose hot keys are kept in several rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use murmur_core::{
    AuditOptions, Change, Definition, Findings, Pipeline, Processor, Record, RecordError,
    RecordOutcome, Row, Sum, Window, read_range,
};
use murmur_state::{Add, Deadline, Fault, MemoryStore, SequenceNumber, Spread, Store, Timestamp};

use crate::support::{
    Answer, NOW, Order, Scripted, change, insert, inspected, key, order, order_at, scanned,
    scripted, throttled, value,
};
use crate::{error, outcomes, processor};

const ROWS: u32 = 64;
const ORDERS: i64 = 200;

type Table = MemoryStore<Sum>;

fn spread(table: &Table, rows: u32) -> Spread<Sum, Table> {
    let store = Spread::new(Sum::new(), table.clone(), rows).unwrap();
    store.only(["all"]).unwrap()
}

/// The total of each customer, and of all of them.
fn totals() -> Definition<Order, Sum> {
    Pipeline::builder("totals")
        .keys(|o: &Order, out| {
            out(&o.customer);
            out("all");
        })
        .value(|o| o.cents)
        .aggregate(Sum::new())
}

fn exactly_once(table: &Table, rows: u32) -> Pipeline<Order> {
    let adding = totals().every_change().store(spread(table, rows));
    adding.exactly_once().unwrap()
}

fn customer(n: i64) -> &'static str {
    ["ann", "bob", "cid"][n as usize % 3]
}

/// The change of order `n` at `sequence`.
fn changed(n: i64, sequence: u64, old: Option<i64>, new: Option<i64>) -> Record {
    let image = |cents: Option<i64>| cents.map(|cents| order(customer(n), cents));
    Record::Changed(Change {
        sequence_number: Some(SequenceNumber::new(sequence.to_string()).unwrap()),
        ..change(
            &format!("e{n}-{sequence}"),
            &format!("o{n}"),
            image(old),
            image(new),
        )
    })
}

fn inserts() -> Vec<Record> {
    (0..ORDERS).map(|n| changed(n, 1, None, Some(n))).collect()
}

async fn counted(processor: &Processor<Order>, records: &[Record]) {
    let outcomes = outcomes(processor, records).await;
    assert!(outcomes.iter().all(RecordOutcome::is_done), "{outcomes:?}");
}

fn rows_of_all(table: &Table) -> usize {
    let rows = table.rows();
    let of_all = rows
        .iter()
        .filter(|row| row.key.entity().starts_with("all#"));
    of_all.count()
}

#[tokio::test]
async fn exactly_once_counts_every_order_once_in_whatever_row() {
    let table = Table::new(Sum::new());
    let pipeline = || exactly_once(&table, 8);
    let records = inserts();
    for batch in [13, 50, 200] {
        // Another process each time, and other batches.
        let (processor, _) = processor(pipeline());
        for batch in records.chunks(batch) {
            counted(&processor, batch).await;
        }
        let store = spread(&table, 8);
        assert_eq!(value(&store, "all").await, Some(ORDERS * (ORDERS - 1) / 2));
        let ann: i64 = (0..ORDERS).step_by(3).sum();
        assert_eq!(value(&store, "ann").await, Some(ann));
    }
    assert_eq!(rows_of_all(&table), 8);
    assert_eq!(table.rows().len(), 8 + 3);

    // Only the customer with the name of a sub-row is rejected.
    let (eight, _) = processor(pipeline());
    let batch = [insert("x", order("all#3", 9)), insert("y", order("ann", 1))];
    let answers = outcomes(&eight, &batch).await;
    assert!(matches!(answers[1], RecordOutcome::Applied), "{answers:?}");
    let RecordError::Store { source, .. } = error(&answers[0]) else {
        panic!("{answers:?}");
    };
    assert_eq!(source.fault(), Fault::Record);
    assert!(source.to_string().contains("all#3"), "{source}");

    // With another number of rows nothing counts, and nothing is written.
    let rows = table.rows();
    let (nine, _) = processor(exactly_once(&table, 9));
    let answers = outcomes(&nine, &records[..1]).await;
    let RecordError::Store { source, .. } = error(&answers[0]) else {
        panic!("{answers:?}");
    };
    let told = source.to_string();
    assert!(told.contains("spread over 8 rows: all") && told.contains("spread over 9 rows: all"));
    assert_eq!(table.rows(), rows);
}

#[tokio::test]
async fn answers_that_are_lost_or_too_many_are_what_they_are_in_one_row() {
    let mut writes = 0;
    let mut inner = scripted(move |_| {
        writes += 1;
        match writes % 5 {
            1 => Answer::Lose,
            3 => Answer::Refuse(throttled()),
            _ => Answer::Apply,
        }
    });
    let pipeline = |inner: &Scripted| {
        Pipeline::builder("totals")
            .key(|_: &Order| "all")
            .value(|o| o.cents)
            .aggregate(Sum::new())
            .every_change()
            .store(Spread::new(Sum::new(), inner.clone(), 4).unwrap())
            .exactly_once()
            .unwrap()
    };
    let (processor, _) = processor(pipeline(&inner));
    for batch in inserts().chunks(40) {
        counted(&processor, batch).await;
    }
    let store = Spread::new(Sum::new(), inner.clone(), 4).unwrap();
    assert_eq!(value(&store, "all").await, Some(ORDERS * (ORDERS - 1) / 2));

    inner.0.miscounts = 1;
    let (processor, _) = crate::processor(pipeline(&inner));
    let answers = outcomes(&processor, &inserts()[..2]).await;
    for answer in &answers {
        let told = murmur_state::Causes(error(answer)).to_string();
        assert!(told.contains("3 answers to 2 entries"), "{told}");
    }
}

#[tokio::test]
async fn a_ledger_takes_back_from_the_rows_and_its_audit_adds_them_up() {
    let table = Table::new(Sum::new());
    let pipeline = totals().store(spread(&table, ROWS)).ledger().unwrap();
    let (processor, _) = processor(pipeline);
    let scan: Vec<_> = (0..ORDERS)
        .map(|n| scanned(&format!("o{n}"), order(customer(n), n)))
        .collect();
    // The scan meets the stream, in either order.
    counted(&processor, &inserts()[..100]).await;
    counted(&processor, &scan).await;
    counted(&processor, &inserts()).await;
    let store = spread(&table, ROWS);
    assert_eq!(value(&store, "all").await, Some(ORDERS * (ORDERS - 1) / 2));
    assert!(
        rows_of_all(&table) > 32,
        "a part of them is in several rows"
    );

    let changes: Vec<_> = (0..ORDERS)
        .map(|n| match n % 2 {
            0 => changed(n, 2, Some(n), None),
            _ => changed(n, 2, Some(n), Some(1)),
        })
        .collect();
    counted(&processor, &changes).await;
    counted(&processor, &changes).await;
    assert_eq!(value(&store, "all").await, Some(ORDERS / 2));

    for max_keys in [1_000, 2] {
        let passes = Arc::new(AtomicU32::new(0));
        let heard = Arc::clone(&passes);
        let options = AuditOptions::default().max_keys(max_keys).concurrency(3);
        let options = options.on_progress(move |progress| {
            heard.fetch_max(progress.pass, Ordering::Relaxed);
        });
        let audited = processor.audit(&options).await.unwrap().remove(0);
        assert_eq!(
            (audited.differing, audited.unsettled),
            (0, 0),
            "{audited:?}"
        );
        assert_eq!(audited.ledger_rows, ORDERS as u64);
        assert_eq!(audited.state_rows, table.rows().len() as u64);
        // No key seems to differ, so the ledger is not listed again.
        assert_eq!(passes.load(Ordering::Relaxed), 1);
    }

    // A row without a contribution is found, at the key that it belongs to.
    let rows = table.rows();
    let there = |n: &u32| rows.iter().any(|row| row.key == key(&format!("all#{n}")));
    let free = (0..ROWS).find(|n| !there(n)).unwrap();
    let forged = Add {
        key: key(&format!("all#{free}")),
        value: 7,
        ttl: None,
    };
    table.merge(&[forged], Deadline::NONE).await;
    let audited = processor.audit(&AuditOptions::default()).await.unwrap();
    assert_eq!(audited[0].differing, 1);
    let found = audited[0].keys[0].to_string();
    assert_eq!(found, "(\"all\", 0): off by 7");
}

#[tokio::test]
async fn a_recount_adds_the_rows_up() {
    let table = Table::new(Sum::new());
    let modes = [
        exactly_once(&table, ROWS),
        totals()
            .every_change()
            .store(spread(&Table::new(Sum::new()), ROWS))
            .at_least_once()
            .unwrap(),
    ];
    for pipeline in modes {
        let (processor, _) = processor(pipeline);
        for batch in inserts().chunks(20) {
            counted(&processor, batch).await;
        }
        let rows: Vec<Row> = (0..ORDERS)
            .map(|n| match scanned(&format!("o{n}"), order(customer(n), n)) {
                Record::Scanned(row) => row,
                Record::Changed(_) => unreachable!("it is scanned"),
            })
            .collect();
        let recount = async |rows: &[Row]| {
            let (mut inspected, rejected) = inspected(&processor, |_| rows.to_vec()).await;
            assert_eq!(rejected, 0);
            match inspected.remove(0).findings {
                Findings::Recount(found) => found,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(recount(&rows).await.suspects, 0);

        // One row of the table is not counted in state: both of its keys are off.
        let findings = recount(&rows[..ORDERS as usize - 1]).await;
        let keys: Vec<_> = findings.keys.iter().map(|key| key.key.clone()).collect();
        assert_eq!(keys, [key("all"), key(customer(ORDERS - 1))]);
    }
}

#[tokio::test]
async fn a_range_of_windows_is_read_over_all_rows() {
    let table = Table::new(Sum::new());
    let store = Spread::new(Sum::new(), table.clone(), 8).unwrap();
    let window = Window::daily().retention_days(90);
    let pipeline = Pipeline::builder("daily")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .window(window, |o| Timestamp::from_secs(o.placed_at))
        .every_change()
        .store(store.clone())
        .exactly_once()
        .unwrap();
    let (processor, _) = processor(pipeline);
    let batch: Vec<_> = (0..100)
        .map(|n| insert(&format!("{n}"), order_at("ann", 1, NOW - n % 10 * 86_400)))
        .collect();
    counted(&processor, &batch).await;
    let rows = table.rows();
    assert!(rows.len() > 50, "{}", rows.len());
    assert!(
        rows.iter()
            .all(|row| row.ttl == window.ttl(row.key.bucket()))
    );
    let now = Timestamp::from_secs(NOW);
    let week = window.last(Duration::from_secs(7 * 86_400), now);
    let total = read_range(&store, &Sum::new(), "ann", week).await.unwrap();
    assert_eq!(total, Some(70));
}
