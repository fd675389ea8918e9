//! Items that leave the ledger: what their changes cost, and what becomes of them when requests fail.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;
use murmur_state::conformance::bound;
use murmur_state::{
    Add, Bound, Clock, Deadline, EventId, ExactlyOnce, Fault, ItemChange, Ledger, Outcome,
    Position, Replace, SequenceNumber, StoreError, SystemClock, Timestamp,
};
use murmur_testkit::wire::{Action, Wire};
use serde_json::Value;

use crate::ledger::{Books, TRANSACT, bind, binding, kind, meanwhile, scanned, sizes, streamed};
use crate::support::{Total, add, virtual_time};

/// The change of `item` at `at` between two contributions, by which the item is to settle.
fn change(item: &str, at: u64, before: Vec<Add<i64>>, now: Vec<Add<i64>>) -> Replace<i64> {
    changed_at(SystemClock::shared().now(), item, at, before, now)
}

fn changed_at(
    created: Timestamp,
    item: &str,
    at: u64,
    before: Vec<Add<i64>>,
    now: Vec<Add<i64>>,
) -> Replace<i64> {
    Replace {
        created: Some(created),
        change: Some(ItemChange {
            id: EventId::new(format!("{item}-{at}")).unwrap(),
            handed_over: created,
            before,
            settles: true,
        }),
        ..streamed(item, at, now)
    }
}

fn unheard(entry: Replace<i64>) -> Replace<i64> {
    Replace {
        change: entry.change.map(|change| ItemChange {
            settles: false,
            ..change
        }),
        ..entry
    }
}

async fn settled_at(books: &Books, item: &str) -> Option<u64> {
    let known = books.known(item).await.filter(|known| known.settled)?;
    match known.at {
        Position::Stream(at) => at.as_str().parse().ok(),
        Position::Scan => None,
    }
}

fn counts(wire: &Wire) -> BTreeMap<String, usize> {
    wire.counts()
}

/// The requests that `books` sent on `wire` for `entries`: operations and their number.
async fn sent(wire: &Wire, books: &Books, entries: &[Replace<i64>]) -> Vec<(String, usize)> {
    let before = counts(wire);
    let outcomes = books.replace(entries).await;
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, Outcome::Applied)),
        "{outcomes:?}"
    );
    let sent = counts(wire).into_iter();
    let sent = sent.map(|(operation, count)| {
        let less = before.get(&operation).copied().unwrap_or(0);
        (operation, count - less)
    });
    sent.filter(|(_, count)| *count > 0).collect()
}

fn is(operations: &[(&str, usize)]) -> Vec<(String, usize)> {
    let operations = operations.iter();
    operations
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

#[tokio::test]
async fn a_first_change_costs_a_put_and_later_ones_a_read_at_the_most() {
    let wire = Wire::calm();
    let books = Books::over(&wire).await;
    books.settle(&[scanned("x", vec![add("a", 5)])]).await;

    // A read of the ledger row, the mark, a read of the state row, the update.
    let first = change("x", 7, vec![add("a", 5)], vec![add("a", 6)]);
    let cost = sent(&wire, &books, &[first]).await;
    assert_eq!(
        cost,
        is(&[("BatchGetItem", 2), ("PutItem", 1), ("UpdateItem", 1)])
    );
    assert_eq!(
        (settled_at(&books, "x").await, books.total("a").await),
        (Some(6), Some(6))
    );

    let second = change("x", 8, vec![add("a", 6)], vec![add("a", 7)]);
    let cost = sent(&wire, &books, &[second]).await;
    assert_eq!(
        cost,
        is(&[("UpdateItem", 1)]),
        "what has settled is remembered"
    );

    let other = Wire::calm();
    let elsewhere = books.elsewhere(&other);
    let third = change("x", 9, vec![add("a", 7)], vec![add("a", 8)]);
    let cost = sent(&other, &elsewhere, &[third]).await;
    assert_eq!(cost, is(&[("BatchGetItem", 2), ("UpdateItem", 1)]));
    let weak = |body: &Value| {
        body["RequestItems"]
            .as_object()
            .unwrap()
            .values()
            .all(|of| of["ConsistentRead"] == false)
    };
    let reads = other
        .requests()
        .into_iter()
        .filter(|sent| sent.operation == "BatchGetItem");
    assert!(
        reads.into_iter().all(|sent| weak(&sent.body)),
        "reads at half the price"
    );
    assert_eq!(books.total("a").await, Some(8));
}

#[tokio::test]
async fn what_the_ledger_has_otherwise_is_replaced_by_one_transaction() {
    let wire = Wire::calm();
    let books = Books::over(&wire).await;
    books.settle(&[scanned("x", vec![add("a", 9)])]).await;
    let batch = [
        change("x", 5, vec![add("a", 1)], vec![add("a", 2)]),
        change("x", 6, vec![add("a", 2)], vec![add("b", 3)]),
    ];
    let cost = sent(&wire, &books, &batch).await;
    assert_eq!(
        cost,
        is(&[("BatchGetItem", 1), (TRANSACT, 1)]),
        "an item's changes become one"
    );
    assert_eq!(sizes(&wire), [2, 3]);
    assert_eq!(settled_at(&books, "x").await, Some(6));
    assert_eq!(
        (books.total("a").await, books.total("b").await),
        (Some(0), Some(3))
    );

    // Each of them has counted.
    let outcomes = books.replace(&batch).await;
    assert_eq!(
        outcomes.iter().map(kind).collect::<Vec<_>>(),
        ["Superseded", "Duplicate"]
    );
    assert_eq!(
        (books.total("a").await, books.total("b").await),
        (Some(0), Some(3))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_is_made_over_what_was_read_and_nothing_else() {
    // Another process changes the item, or settles it, between the read and the mark.
    for settles in [false, true] {
        let first = Arc::new(Books::over(&Wire::calm()).await);
        first.settle(&[scanned("x", vec![add("a", 5)])]).await;
        let other = Arc::clone(&first);
        let wire = meanwhile("PutItem", move || {
            let other = Arc::clone(&other);
            async move {
                let entry = change("x", 7, vec![add("a", 5)], vec![add("a", 6)]);
                let entry = if settles { entry } else { unheard(entry) };
                other.settle(&[entry]).await;
            }
        });
        let books = first.elsewhere(&wire);
        let again = change("x", 7, vec![add("a", 5)], vec![add("a", 6)]);
        let later = change("x", 8, vec![add("a", 6)], vec![add("a", 9)]);
        let outcomes = books.replace(&[again, later]).await;
        assert_eq!(
            outcomes.iter().map(kind).collect::<Vec<_>>(),
            ["Duplicate", "Applied"]
        );
        assert_eq!(
            books.total("a").await,
            Some(9),
            "settled by the other: {settles}"
        );
        let wanted = if settles { 6 } else { 7 };
        assert_eq!(settled_at(&books, "x").await, Some(wanted));
    }
}

#[tokio::test]
async fn lost_answers_count_once() {
    let (lost, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (losing, count) = (Arc::clone(&lost), Arc::clone(&seen));
    let wire = Wire::new(move |request| {
        let is_write = ["PutItem", "UpdateItem", TRANSACT].contains(&&*request.operation);
        match is_write && count.fetch_add(1, Ordering::Relaxed) % 3 == 0 {
            true => {
                losing.fetch_add(1, Ordering::Relaxed);
                Action::lose_answer()
            }
            false => Action::Pass,
        }
    });
    let books = Books::over(&wire).await;
    let dice = &mut Rng::with_seed(7);
    let mut last: BTreeMap<String, (String, i64)> = BTreeMap::new();
    for at in 1..80 {
        let batch: Vec<_> = (0..dice.u64(1..5))
            .map(|n| {
                let item = format!("item-{}", dice.u8(..8));
                let (entity, value) = (format!("k{}", dice.u8(..3)), dice.i64(1..100));
                let before = last.insert(item.clone(), (entity.clone(), value));
                let before = before.map(|(entity, value)| add(&entity, value));
                let before = before.into_iter().collect();
                let entry = change(&item, at * 10 + n, before, vec![add(&entity, value)]);
                // Half of the processes do not know that it settles.
                if at > 20 && dice.bool() {
                    entry
                } else {
                    unheard(entry)
                }
            })
            .collect();
        books.settle(&batch).await;
        books.settle(&batch).await;
    }
    assert!(lost.load(Ordering::Relaxed) > 20);
    for entity in ["k0", "k1", "k2"] {
        let wanted = last.values().filter(|(of, _)| of == entity);
        let wanted: i64 = wanted.map(|(_, value)| value).sum();
        assert_eq!(books.total(entity).await, Some(wanted), "{entity}");
    }
    for item in last.keys() {
        assert!(settled_at(&books, item).await.is_some(), "{item}");
    }
}

#[tokio::test]
async fn what_cannot_count_for_a_settled_item_is_never_the_records_fault() {
    let books = Books::over(&Wire::calm()).await;
    books
        .settle(&[change("x", 5, vec![], vec![add("a", 1)])])
        .await;
    books
        .settle(&[change("full", 5, vec![], vec![add("full", i64::MAX)])])
        .await;
    let cases = [
        (streamed("x", 6, vec![add("a", 2)]), "what it was before"),
        (
            change("x", 6, vec![add("a", 1)], vec![add("full", 1)]),
            "has settled",
        ),
        (
            change("x", 6, vec![add("a", -3)], vec![add("a", i64::MAX)]),
            "has settled",
        ),
    ];
    for (entry, says) in cases {
        let outcomes = books.replace(&[entry]).await;
        let [Outcome::Failed(error)] = &outcomes[..] else {
            panic!("{outcomes:?}")
        };
        assert_eq!(error.fault(), Fault::Setup, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    assert_eq!(books.total("full").await, Some(i64::MAX));
}

#[tokio::test]
async fn an_unknown_item_is_too_old_only_by_a_read_that_is_not_behind() {
    let (clock, options) = virtual_time();
    let wire = Wire::calm();
    let books = Books::with(&wire, options.clone()).await;
    let created = clock.now();
    clock.advance(Duration::from_secs(25 * 3600));
    let old = changed_at(created, "x", 5, vec![], vec![add("a", 1)]);
    let outcomes = books.replace(&[old]).await;
    assert!(
        matches!(&outcomes[..], [Outcome::Failed(StoreError::TooOld { .. })]),
        "{outcomes:?}"
    );
    let consistent: Vec<bool> = wire
        .requests()
        .iter()
        .filter(|sent| sent.operation == "BatchGetItem")
        .flat_map(|sent| {
            sent.body["RequestItems"]
                .as_object()
                .unwrap()
                .values()
                .cloned()
                .collect::<Vec<_>>()
        })
        .map(|of| of["ConsistentRead"] == true)
        .collect();
    assert_eq!(consistent, [false, true]);
}

/// It would be too old by the time it counts by its id, and its addition would be lost.
#[tokio::test]
async fn no_item_is_marked_by_a_change_that_may_soon_be_too_old() {
    let (clock, options) = virtual_time();
    let wire = Wire::calm();
    let books = Books::with(&wire, options).await;
    books.settle(&[scanned("x", vec![add("a", 5)])]).await;
    let created = clock.now();
    clock.advance(Duration::from_secs(25 * 3600));
    let old = changed_at(created, "x", 5, vec![add("a", 5)], vec![add("a", 7)]);
    books.settle(&[old]).await;
    assert_eq!(settled_at(&books, "x").await, Some(5), "by a transaction");
    assert_eq!(
        (wire.count("PutItem"), books.total("a").await),
        (0, Some(7))
    );
}

#[tokio::test]
async fn a_row_that_has_ended_has_no_part_in_it() {
    let (clock, options) = virtual_time();
    let books = Books::with(&Wire::calm(), options).await;
    let ends = |key: &str, value, hours: u64| Add {
        ttl: Some(
            clock
                .now()
                .plus(Duration::from_secs(hours * 3600))
                .as_secs(),
        ),
        ..add(key, value)
    };
    let counted = vec![ends("old", 5, 30), ends("new", 5, 300)];
    books.settle(&[streamed("x", 1, counted)]).await;
    clock.advance(Duration::from_secs(48 * 3600));
    // The window of one contribution is over, so the images no longer include it.
    let (before, now) = (vec![ends("new", 5, 252)], vec![ends("new", 7, 252)]);
    let entry = changed_at(clock.now(), "x", 2, before, now);
    books.settle(&[entry]).await;
    assert_eq!(settled_at(&books, "x").await, Some(1), "it was marked");
    assert_eq!(books.total("new").await, Some(7));
}

#[tokio::test]
async fn that_items_settle_is_said_beside_the_rows_of_their_pipeline() {
    let books = Books::over(&Wire::calm()).await;
    let binding = binding(None);
    let say = async || {
        let bound = ExactlyOnce::<Total>::check_binding(&books.store, &binding, Deadline::NONE);
        Ledger::<Total>::settle(&books.store, &bound.await?, Deadline::NONE).await
    };
    let heard = async || {
        let bound = bound("totals");
        let heard = Ledger::<Total>::is_settling(&books.store, &bound, Deadline::NONE);
        heard.await.unwrap()
    };
    assert!(!heard().await);
    let error = say().await.unwrap_err().to_string();
    assert!(error.contains("belongs to no pipeline yet"), "{error}");
    bind(&books, &binding).await.unwrap();
    assert!(!heard().await);
    say().await.unwrap();
    say().await.unwrap();
    assert!(heard().await);
    bind(&books, &binding).await.unwrap();
    assert!(heard().await, "who binds leaves it there");
    let other = murmur_state::Binding {
        version: 9,
        ..binding.clone()
    };
    // The tables were made again since, and belong to another pipeline.
    let other = Bound::new(other);
    let refused = Ledger::<Total>::settle(&books.store, &other, Deadline::NONE).await;
    assert!(
        matches!(refused, Err(StoreError::OtherOwner { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_settled_item_is_kept_for_good_and_refused_by_who_does_not_know_of_it() {
    let books = Books::over(&Wire::calm()).await;
    books
        .settle(&[change("x", 5, vec![], vec![add("a", 1)])])
        .await;
    books
        .settle(&[change("x", 6, vec![add("a", 1)], vec![])])
        .await;
    let client = books.dynamo.client();
    let row = client.get_item().table_name(&books.marker_table);
    let row = row
        .key("pk", crate::support::s(&books.name("x")))
        .send()
        .await
        .unwrap();
    let row = row.item.unwrap();
    assert!(
        !row.contains_key("ttl") && !row.contains_key("now"),
        "{row:?}"
    );
    // Earlier releases accept only a sequence number there.
    let at = row["at"].as_s().unwrap();
    assert!(SequenceNumber::new(at.as_str()).is_err(), "{at}");
}
