//! Ledgers with settled items: their status, their audit, and their comparison with the table.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use murmur_core::audit::{
    AuditError, AuditOptions, Findings, InspectionError, InspectionOptions, ItemNow, Pacing,
    SettledFindings,
};
use murmur_core::inspection::Pass;
use murmur_core::{Change, Pipeline, Processor, Record, Row, Sum};
use murmur_state::error::Cause;
use murmur_state::{Causes, Deadline, ItemId, MemoryStore, SequenceNumber};

use crate::support::{Order, change, clock, inspected, order, scanned, value};

fn settling(name: &str, store: &MemoryStore<Sum>) -> Pipeline<Order> {
    Pipeline::builder(name)
        .keys(|o: &Order, out| {
            out(&o.customer);
            // Too many for an item of a ledger.
            (0..o.cents / 1_000).for_each(|n| out(&format!("k{n}")));
        })
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .settle()
        .store(store.clone())
        .ledger()
        .unwrap()
}

fn store() -> MemoryStore<Sum> {
    MemoryStore::new(Sum::new())
}

/// The `n`th change, which takes item `id` from `old` to `new` cents.
fn changed(id: &str, n: u32, old: Option<i64>, new: Option<i64>) -> Record {
    let image = |cents: i64| order("ann", cents);
    let digits = format!("1000000000000000000{n:02}");
    Record::Changed(Change {
        sequence_number: Some(SequenceNumber::new(digits).unwrap()),
        ..change(&format!("{id}-{n}"), id, old.map(image), new.map(image))
    })
}

async fn done(processor: &Processor<Order>, records: &[Record]) {
    for outcome in processor.process(records, Deadline::NONE).await {
        assert!(outcome.is_done(), "{outcome:?}");
    }
}

/// A processor whose ledger has `staying` items that have not settled and `settled` items that
/// have, of 2 cents each.
async fn partly(pipelines: Vec<Pipeline<Order>>, staying: u32, settled: u32) -> Processor<Order> {
    let clock = clock();
    let processor = Processor::builder(pipelines)
        .clock(Arc::new(clock.clone()))
        .on_rejected(|_| async { Ok(()) })
        .build()
        .unwrap();
    processor.bind(None, Deadline::NONE).await.unwrap();
    let scan: Vec<_> = (0..staying + settled)
        .map(|n| scanned(&format!("o{n}"), order("ann", 2)))
        .collect();
    done(&processor, &scan).await;
    processor.settle(Deadline::NONE).await.unwrap();
    // The process has asked whether items settle, and asks again after a minute.
    clock.advance(Duration::from_secs(61));
    let changes: Vec<_> = (staying..staying + settled)
        .flat_map(|n| {
            let id = format!("o{n}");
            [
                changed(&id, 1, Some(2), Some(9)),
                changed(&id, 2, Some(9), Some(2)),
            ]
        })
        .collect();
    done(&processor, &changes).await;
    processor
}

/// Counts how often it is asked.
#[derive(Default)]
struct Asked(AtomicU32);

impl Pacing for Asked {
    fn before(&self) -> BoxFuture<'_, ()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async {})
    }

    fn after(&self, _read_units: Option<f64>) {}
}

#[tokio::test]
async fn a_status_tells_of_every_ledger() {
    let without = Pipeline::builder("without")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .every_change()
        .store(store());
    let staying = Pipeline::builder("staying")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .store(store());
    let pipelines = vec![
        settling("settling", &store()),
        without.exactly_once().unwrap(),
        staying.ledger().unwrap(),
    ];
    let processor = partly(pipelines, 5, 3).await;
    let (pacing, told) = (Arc::new(Asked::default()), Arc::new(Mutex::new(Vec::new())));
    let heard = Arc::clone(&told);
    let options = AuditOptions::default().concurrency(4);
    let options = options
        .pacing(Arc::clone(&pacing) as Arc<dyn Pacing>)
        .on_progress(move |progress| {
            let of = progress.pipeline.to_string();
            heard
                .lock()
                .unwrap()
                .push((of, progress.ledger_rows, progress.state_rows));
        });
    let statuses = processor.ledgers(&options).await.unwrap();
    let statuses: Vec<_> = statuses
        .iter()
        .map(|of| (of.pipeline.as_str(), of.settling, of.items, of.settled))
        .collect();
    // Settled items stay known; a pipeline without a ledger has no status.
    assert_eq!(
        statuses,
        [("settling", true, 8, 3), ("staying", false, 8, 0)]
    );
    let told = std::mem::take(&mut *told.lock().unwrap());
    assert_eq!(told.len(), 8, "one for each segment of each");
    assert_eq!(told[3], ("settling".into(), 8, 0));
    assert_eq!(told[7], ("staying".into(), 8, 0));
    assert_eq!(pacing.0.load(Ordering::Relaxed), 8);

    // An item that is gone from its table is still in the ledger.
    done(&processor, &[changed("o7", 3, Some(2), None)]).await;
    let status = processor.ledgers(&options).await.unwrap().remove(0);
    assert_eq!((status.items, status.settled), (8, 3));
}

#[tokio::test]
async fn a_status_is_refused_as_an_audit_is() {
    let pipeline = settling("totals", &store());
    let processor = Processor::new([pipeline]).unwrap();
    let error = processor
        .ledgers(&AuditOptions::default())
        .await
        .unwrap_err();
    assert!(matches!(error, AuditError::Refused(_)), "{error}");
    let told = Causes(&error).to_string();
    assert!(told.contains("belongs to no pipeline yet"), "{told}");
    let none = AuditOptions::default().concurrency(0);
    let error = processor.ledgers(&none).await.unwrap_err();
    assert!(matches!(error, AuditError::Option(_)), "{error}");
}

#[tokio::test]
async fn an_audit_ends_at_the_first_settled_item_and_not_before() {
    let processor = partly(vec![settling("totals", &store())], 5, 0).await;
    let audited = processor.audit(&AuditOptions::default()).await.unwrap();
    assert_eq!((audited[0].ledger_rows, audited[0].differing), (5, 0));

    let processor = partly(vec![settling("totals", &store())], 5, 1).await;
    for segments in [1, 8] {
        let options = AuditOptions::default().concurrency(segments);
        let error = processor.audit(&options).await.unwrap_err();
        assert!(!error.is_retryable());
        let told = error.to_string();
        assert!(
            told.contains("`totals`") && told.contains("reconcile"),
            "{told}"
        );
        assert!(
            matches!(error, AuditError::Settled { items: 1, .. }),
            "{told}"
        );
    }
}

/// Item `id` of the table, of `cents` cents.
fn row(id: &str, cents: i64) -> Row {
    match scanned(id, order("ann", cents)) {
        Record::Scanned(row) => row,
        Record::Changed(_) => unreachable!("it is scanned"),
    }
}

fn options() -> InspectionOptions {
    let mut options = InspectionOptions::default();
    (options.lag, options.repair) = (Duration::ZERO, true);
    options
}

#[tokio::test]
async fn a_settled_item_never_differs_from_its_ledger() {
    let state = store();
    let processor = partly(vec![settling("totals", &state)], 1, 1).await;
    let mut inspection = processor.inspect(options(), None).await.unwrap();
    assert_eq!(inspection.next().await.unwrap(), Pass::Table);
    let rejected = inspection.rows(vec![row("o0", 3), row("o1", 3)]);
    assert!(rejected.await.unwrap().is_empty());
    assert_eq!(inspection.gathered(), 1);
    assert_eq!(inspection.next().await.unwrap(), Pass::Ledgers);
    let mut parts = inspection.ledger_parts(NonZeroU32::MIN);
    let (rows, next) = inspection.ledger(parts.pop_front().unwrap()).await.unwrap();
    assert_eq!((rows, next.is_none(), parts.len()), (2, true, 0));

    let look_up = |items: Vec<ItemId>| -> BoxFuture<'_, Result<Vec<ItemNow>, Cause>> {
        let now = items.iter().map(|item| {
            let mut rows = [row("o0", 3), row("o1", 3)].into_iter();
            ItemNow::Row(rows.find(|row| row.item_id == *item).unwrap())
        });
        let now = now.collect();
        Box::pin(async { Ok(now) })
    };
    inspection.look(&look_up).await.unwrap();
    let inspected = inspection.findings().remove(0);
    let Findings::Ledger(findings) = inspected.findings else {
        panic!("it keeps a ledger");
    };
    assert_eq!((findings.ledger_rows, findings.settled), (2, 1));
    assert_eq!((findings.differing, findings.mended), (1, 1));
    assert_eq!(value(&state, "ann").await, Some(2 + 3));
}

#[tokio::test]
async fn a_recount_tells_by_how_much_keys_of_a_ledger_are_off() {
    let state = store();
    let processor = partly(vec![settling("totals", &state)], 1, 1).await;
    let recount = async |rows: &[Row]| {
        let (mut inspected, rejected) = inspected(&processor, |_| rows.to_vec()).await;
        match inspected.remove(0).settled {
            SettledFindings::Recount(found) => (found, rejected),
            other => panic!("{other:?}"),
        }
    };
    let (right, _) = recount(&[row("o0", 2), row("o1", 2)]).await;
    assert_eq!((right.suspects, right.differing), (0, 0));
    let (wrong, _) = recount(&[row("o0", 2), row("o1", 7)]).await;
    let off: Vec<_> = wrong.keys.iter().map(ToString::to_string).collect();
    assert_eq!(off, ["(\"ann\", 0): off by -5"]);
    // An item of more keys than a ledger takes counts nowhere, whether or not it has settled.
    let (refused, rejected) = recount(&[row("o0", 60_000), row("o1", 4)]).await;
    assert_eq!((refused.differing, rejected), (0, 1));
}

#[tokio::test]
async fn a_key_whose_items_change_places_between_recounts_is_not_named() {
    let processor = partly(vec![settling("totals", &store())], 0, 2).await;
    let scans = [[2, 7], [7, 2]];
    let table = |scan: usize| {
        let [one, other] = scans[scan];
        vec![row("o0", one), row("o1", other)]
    };
    let (mut inspected, _) = inspected(&processor, table).await;
    let SettledFindings::Recount(findings) = inspected.remove(0).settled else {
        panic!("its items settle");
    };
    assert_eq!((findings.differing, findings.unsettled), (0, 1));
}

#[tokio::test]
async fn an_inspection_that_was_broken_off_says_so_and_finds_nothing_to_be_right() {
    let processor = partly(vec![settling("totals", &store())], 1, 0).await;
    type Answer<'a> = BoxFuture<'a, Result<Vec<ItemNow>, Cause>>;
    let failing = |_: Vec<ItemId>| -> Answer<'_> {
        Box::pin(async { Err(std::sync::Arc::new(std::io::Error::other("gone")) as Cause) })
    };
    let too_few = |_: Vec<ItemId>| -> Answer<'_> { Box::pin(async { Ok(Vec::new()) }) };
    let look_ups: [&murmur_core::audit::LookUp<'_>; 2] = [&failing, &too_few];
    for look_up in look_ups {
        let mut inspection = processor.inspect(options(), None).await.unwrap();
        assert_eq!(inspection.next().await.unwrap(), Pass::Table);
        inspection.rows(vec![row("o0", 3)]).await.unwrap();
        assert_eq!(inspection.gathered(), 1);
        let error = inspection.look(look_up).await.unwrap_err();
        assert!(matches!(error, InspectionError::LookUp { .. }), "{error}");
        for _ in 0..2 {
            let error = inspection.next().await.unwrap_err();
            assert!(matches!(error, InspectionError::BrokenOff), "{error}");
        }
    }
}
