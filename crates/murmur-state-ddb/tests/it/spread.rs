//! Hot keys in several rows of DynamoDB tables.

use std::collections::{BTreeMap, HashMap};

use futures::future::join_all;
use murmur_core::audit::{AuditOptions, Findings, InspectionOptions};
use murmur_core::inspection::Pass;
use murmur_core::{
    AttributeValue, Change, Definition, EventName, Item, Pipeline, Processor, Record,
    RecordOutcome, Row, Sum, item_id,
};
use murmur_state::conformance::{Subject, bound};
use murmur_state::store::{Add, Binding, Once, Outcome};
use murmur_state::{
    Deadline, EventId, ExactlyOnce, Fault, Key, PipelineName, Read, ReadExt, SequenceNumber,
    Spread, Store, StoreError,
};
use murmur_state_ddb::{Int64SumStore, Marked, TableOptions};
use murmur_testkit::Dynamo;

use crate::support::{Total, add, key, marker_table, now, state_table};

const ROWS: u32 = 8;

/// A state table and a marker table.
struct Tables {
    dynamo: Dynamo,
    state: String,
    markers: String,
}

impl Tables {
    async fn new() -> Self {
        let dynamo = Dynamo::connect().await;
        Self {
            state: state_table(&dynamo).await,
            markers: marker_table(&dynamo).await,
            dynamo,
        }
    }

    /// The store as another process has it.
    fn store<M>(&self, monoid: M, rows: u32) -> Spread<M, Marked<Int64SumStore>> {
        let store = Int64SumStore::new(self.dynamo.client(), &*self.state);
        let store = store.markers(&*self.markers);
        let spread = Spread::new(monoid, store, rows).unwrap();
        spread.only(["all", "de"]).unwrap()
    }

    /// The rows of the state table, as they are named there.
    async fn rows(&self) -> BTreeMap<String, i64> {
        let store = Int64SumStore::new(self.dynamo.client(), &*self.state);
        let (mut rows, mut after) = (BTreeMap::new(), None);
        loop {
            let part = store.list(after.as_deref()).await.unwrap();
            let entries = part.entries.into_iter();
            rows.extend(entries.map(|row| (row.key.entity().to_owned(), row.value)));
            after = part.next;
            if after.is_none() {
                return rows;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spread_sum_store_keeps_every_promise() {
    let tables = async |row_budget| {
        let tables = Tables::new().await;
        let options = TableOptions::default().row_budget(row_budget);
        let client = tables.dynamo.client();
        let store = Int64SumStore::with_options(client, &*tables.state, options).unwrap();
        let store = Spread::new(Total, store.markers(&*tables.markers), 3).unwrap();
        let subject = Subject::new(store, Total, |n| n as i64 * 7 - 100);
        (subject, tables)
    };
    let (subject, _tables) = tables(1024).await;
    subject.store().await;
    for row_budget in [1024, 150] {
        let (subject, _tables) = tables(row_budget).await;
        subject.exactly_once().await;
    }
    let (subject, _tables) = tables(1024).await;
    subject.ledger().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_race_with_the_same_events_count_each_once() {
    let tables = Tables::new().await;
    let bound = bound("totals");
    let events: Vec<Once<i64>> = (0..120)
        .map(|n| Once {
            id: EventId::new(format!("e{n}")).unwrap(),
            created: None,
            handed_over: now(),
            adds: vec![add("all", n), add("fr", 1)],
        })
        .collect();
    let process = async |batch: usize| {
        let store = tables.store(Total, ROWS);
        for batch in events.chunks(batch) {
            let mut pending = batch.to_vec();
            while !pending.is_empty() {
                let outcomes = store.apply(&bound, &pending, Deadline::NONE).await;
                let outcomes = pending.into_iter().zip(outcomes);
                let undone = outcomes.filter(|(_, outcome)| match outcome {
                    Outcome::Applied | Outcome::Duplicate => false,
                    Outcome::Blocked => true,
                    Outcome::Failed(error) => {
                        assert_eq!(error.fault(), Fault::Contention, "{error:?}");
                        true
                    }
                    Outcome::Superseded => panic!("there is no ledger"),
                });
                pending = undone.map(|(event, _)| event).collect();
            }
        }
    };
    join_all([7, 20, 120].map(process)).await;

    let store = tables.store(Total, ROWS);
    let found = store.get_many(&[key("all"), key("fr"), key("de")]).await;
    assert_eq!(found.unwrap(), [Some(7_140), Some(120), None]);
    let rows = tables.rows().await;
    let wanted: Vec<_> = (0..ROWS).map(|n| format!("all#{n}")).collect();
    assert!(
        rows.keys().eq(wanted.iter().chain([&"fr".to_owned()])),
        "{rows:?}"
    );
}

#[tokio::test]
async fn a_changed_number_of_rows_is_refused_before_anything_is_written() {
    let tables = Tables::new().await;
    let binding = Binding {
        pipeline: PipelineName::new("totals").unwrap(),
        version: 1,
        mode: "exactly-once".into(),
        definition: "no window".into(),
        stream: None,
    };
    for _ in 0..2 {
        let store = tables.store(Total, ROWS);
        store.bind(&binding, Deadline::NONE).await.unwrap();
        let checked = store.check_binding(&binding, Deadline::NONE).await;
        checked.unwrap();
    }
    let other = tables.store(Total, 9);
    for refused in [
        other.bind(&binding, Deadline::NONE).await,
        other.check_binding(&binding, Deadline::NONE).await,
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, StoreError::OtherOwner { .. }), "{error:?}");
        let error = error.to_string();
        for named in [8, 9].map(|rows| format!("no window, spread over {rows} rows: all, de")) {
            assert!(error.contains(&named), "{error}");
        }
    }
}

/// An order of the pipelines below.
#[derive(serde::Deserialize)]
struct Order {
    country: String,
    cents: i64,
}

fn totals() -> Definition<Order, Sum> {
    Pipeline::builder("totals")
        .keys(|order: &Order, out| {
            out(&order.country);
            out("all");
        })
        .value(|order| order.cents)
        .aggregate(Sum::new())
}

fn processor(pipeline: Pipeline<Order>) -> Processor<Order> {
    Processor::new([pipeline]).unwrap()
}

fn text(name: &str, value: String) -> (String, AttributeValue) {
    (name.to_owned(), AttributeValue::S(value))
}

fn keys(n: i64) -> Item {
    HashMap::from([text("id", format!("o{n}"))]).into()
}

fn image(country: &str, cents: i64) -> Item {
    let cents = AttributeValue::N(cents.to_string());
    HashMap::from([
        text("country", country.to_owned()),
        ("cents".to_owned(), cents),
    ])
    .into()
}

/// The change of order `n` at `sequence`, to its state at that time.
fn change(n: i64, sequence: u64, new: Option<Item>) -> Record {
    Record::Changed(Change {
        event_id: format!("e{n}-{sequence}"),
        event: match (&new, sequence) {
            (None, _) => EventName::Remove,
            (Some(_), 1) => EventName::Insert,
            (Some(_), _) => EventName::Modify,
        },
        keys: keys(n),
        new_image: new,
        sequence_number: Some(SequenceNumber::new(sequence.to_string()).unwrap()),
        ..Change::default()
    })
}

fn row(n: i64, item: Item) -> Row {
    let item_id = item_id(&keys(n));
    Row {
        event_id: item_id.scan_event().as_str().to_owned(),
        item_id,
        item,
    }
}

async fn counted(processor: &Processor<Order>, records: &[Record]) {
    for batch in records.chunks(25) {
        let outcomes = processor.process(batch, Deadline::NONE).await;
        assert!(outcomes.iter().all(RecordOutcome::is_done), "{outcomes:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_replaces_and_takes_back_and_its_audit_finds_nothing() {
    let tables = Tables::new().await;
    let open = || {
        processor(
            totals()
                .store(tables.store(Sum::new(), ROWS))
                .ledger()
                .unwrap(),
        )
    };
    let inserts: Vec<_> = (0..60)
        .map(|n| change(n, 1, Some(image("de", n))))
        .collect();
    let scan: Vec<_> = (20..60)
        .map(|n| Record::Scanned(row(n, image("de", n))))
        .collect();
    counted(&open(), &inserts[..30]).await;
    counted(&open(), &scan).await;
    counted(&open(), &inserts).await;
    let store = tables.store(Sum::new(), ROWS);
    let values = async || {
        let keys = [key("all"), key("de"), key("fr")];
        store.get_many(&keys).await.unwrap()
    };
    assert_eq!(values().await, [Some(1_770), Some(1_770), None]);

    // A third is removed, a third moves to another country, a third stays.
    let changes: Vec<_> = (0..60)
        .filter_map(|n| match n % 3 {
            0 => Some(change(n, 2, None)),
            1 => Some(change(n, 2, Some(image("fr", 1)))),
            _ => None,
        })
        .collect();
    counted(&open(), &changes).await;
    counted(&open(), &changes).await;
    let stay: i64 = (0..60).filter(|n| n % 3 == 2).sum();
    assert_eq!(values().await, [Some(stay + 20), Some(stay), Some(20)]);

    let audited = open()
        .audit(&AuditOptions::default())
        .await
        .unwrap()
        .remove(0);
    assert_eq!(
        (audited.differing, audited.unsettled),
        (0, 0),
        "{audited:?}"
    );
    assert_eq!(audited.state_rows, tables.rows().await.len() as u64);
    assert_eq!(audited.state_rows, 2 * u64::from(ROWS) + 1);

    // By the table, item by item.
    let rows = (0..60).filter_map(|n| match n % 3 {
        0 => None,
        1 => Some(row(n, image("fr", 1))),
        _ => Some(row(n, image("de", n))),
    });
    let processor = open();
    let mut options = InspectionOptions::default();
    options.lag = std::time::Duration::ZERO;
    let mut inspection = processor.inspect(options, None).await.unwrap();
    assert_eq!(inspection.next().await.unwrap(), Pass::Table);
    assert!(inspection.rows(rows.collect()).await.unwrap().is_empty());
    assert_eq!(inspection.gathered(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_once_is_recounted_over_all_rows() {
    let tables = Tables::new().await;
    let open = || {
        let totals = totals()
            .every_change()
            .store(tables.store(Sum::new(), ROWS));
        processor(totals.exactly_once().unwrap())
    };
    let inserts: Vec<_> = (0..100)
        .map(|n| change(n, 1, Some(image("fr", n))))
        .collect();
    for _ in 0..2 {
        counted(&open(), &inserts).await;
    }
    let store = tables.store(Sum::new(), ROWS);
    assert_eq!(store.get(&key("all")).await.unwrap(), Some(4_950));
    let processor = open();
    let options = InspectionOptions::default();
    let mut inspection = processor.inspect(options, None).await.unwrap();
    assert_eq!(inspection.next().await.unwrap(), Pass::Table);
    let rows = (0..100).map(|n| row(n, image("fr", n)));
    assert!(inspection.rows(rows.collect()).await.unwrap().is_empty());
    assert_eq!(inspection.next().await.unwrap(), Pass::Done);
    let Findings::Recount(findings) = inspection.findings().remove(0).findings else {
        panic!("it keeps no ledger");
    };
    assert_eq!(
        (findings.suspects, findings.differing),
        (0, 0),
        "{findings:?}"
    );
    assert_eq!(findings.state_rows, u64::from(ROWS) + 1);
}

#[tokio::test]
async fn plain_merges_go_from_row_to_row() {
    let tables = Tables::new().await;
    let store = tables.store(Total, 2);
    for bucket in [0, 0, 7] {
        let add = Add {
            key: Key::new("all", bucket).unwrap(),
            value: 5,
            ttl: None,
        };
        let outcomes = store.merge(&[add], Deadline::NONE).await;
        assert!(matches!(outcomes[..], [Outcome::Applied]), "{outcomes:?}");
    }
    let found = [0, 7].map(|bucket| Key::new("all", bucket).unwrap());
    assert_eq!(store.get_many(&found).await.unwrap(), [Some(10), Some(5)]);
    let rows = tables.rows().await;
    assert_eq!(rows.len(), 2, "{rows:?}");
}
