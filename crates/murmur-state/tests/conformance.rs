//! The in-memory implementations keep every promise of the suite.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

mod total;

use std::sync::Arc;
use std::time::Duration;

use murmur_state::conformance::{self, Subject};
use murmur_state::{
    Add, Claim, Clock, Deadline, Deduper, EventId, ExactlyOnce, Fault, ItemId, Key, Ledger,
    ManualClock, MemoryDeduper, MemoryStore, Once, Outcome, Owner, Position, ReadExt, Replace,
    Spread, Store, StoreError, Timestamp, Tokens,
};
use total::Total;

fn subject() -> Subject<Total, MemoryStore<Total>, fn(u64) -> i64> {
    Subject::new(MemoryStore::new(Total), Total, |n| n as i64 + 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_store_is_a_store() {
    subject().store().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_arc_of_a_store_is_a_store() {
    let store = Arc::new(MemoryStore::new(Total));
    let subject = Subject::new(store, Total, |n| n as i64);
    subject.store().await;
    subject.exactly_once().await;
    subject.ledger().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_store_is_exactly_once() {
    subject().exactly_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_store_is_a_ledger() {
    subject().ledger().await;
}

type SpreadSubject = Subject<Total, Spread<Total, MemoryStore<Total>>, fn(u64) -> i64>;

/// Stores that keep keys in several rows: all keys, or those that the suite's races use.
fn spread() -> [SpreadSubject; 3] {
    let store = |rows| Spread::new(Total, MemoryStore::new(Total), rows).unwrap();
    let raced = ["store/race", "once/race", "once/mode", "ledger/race"];
    let stores = [store(2), store(7), store(8).only(raced).unwrap()];
    stores.map(|store| SpreadSubject::new(store, Total, |n| n as i64 + 1))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spread_store_is_a_store() {
    for subject in spread() {
        subject.store().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spread_store_is_exactly_once() {
    for subject in spread() {
        subject.exactly_once().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spread_store_is_a_ledger() {
    for subject in spread() {
        subject.ledger().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_deduper_is_a_deduper_and_keeps_checkpoints() {
    conformance::deduper(MemoryDeduper::new()).await;
    conformance::deduper(Arc::new(MemoryDeduper::new())).await;
    conformance::checkpoints(MemoryDeduper::new()).await;
    conformance::checkpoints(Arc::new(MemoryDeduper::new())).await;
}

#[tokio::test]
async fn a_claim_is_free_again_after_its_time() {
    let clock = ManualClock::new(Timestamp::from_secs(0));
    let deduper = MemoryDeduper::with_ttl(Duration::from_secs(60), Arc::new(clock.clone()));
    let tokens = Tokens::new();
    let (a, b) = (Owner::new(&tokens).unwrap(), Owner::new(&tokens).unwrap());
    deduper.claim("id", &a, Deadline::NONE).await.unwrap();
    clock.advance(Duration::from_secs(59));
    assert_eq!(
        deduper.claim("id", &b, Deadline::NONE).await.unwrap(),
        Claim::Duplicate
    );
    clock.advance(Duration::from_secs(1));
    assert_eq!(
        deduper.claim("id", &b, Deadline::NONE).await.unwrap(),
        Claim::First
    );
    assert_eq!(clock.now(), Timestamp::from_secs(60));
}

fn add(entity: &str, value: i64) -> Add<i64> {
    Add {
        key: Key::new(entity, 0).unwrap(),
        value,
        ttl: None,
    }
}

#[tokio::test]
async fn an_overflow_blames_its_own_entry_and_leaves_the_total_alone() {
    let store = MemoryStore::new(Total);
    let outcomes = store
        .merge(
            &[add("a", i64::MAX), add("a", 1), add("a", -1), add("b", 2)],
            Deadline::NONE,
        )
        .await;
    assert!(matches!(&outcomes[1], Outcome::Failed(error) if error.fault() == Fault::Record));
    assert!(matches!(
        (&outcomes[2], &outcomes[3]),
        (Outcome::Applied, Outcome::Applied)
    ));
    let total = store.get(&Key::new("a", 0).unwrap()).await.unwrap();
    assert_eq!(total, Some(i64::MAX - 1));
}

#[tokio::test]
async fn a_failure_that_is_not_the_records_own_blocks_its_key_only() {
    let (store, bound) = (MemoryStore::new(Total), conformance::bound("p"));
    store.merge(&[add("plain", 1)], Deadline::NONE).await;
    let event = |id: &str, entity: &str| Once {
        id: EventId::new(id).unwrap(),
        created: None,
        handed_over: Timestamp::from_secs(0),
        adds: vec![add(entity, 1)],
    };
    let events = [
        event("1", "plain"),
        event("2", "plain"),
        event("3", "fresh"),
    ];
    let outcomes = store.apply(&bound, &events, Deadline::NONE).await;
    assert!(matches!(
        &outcomes[0],
        Outcome::Failed(StoreError::OtherMode { .. })
    ));
    assert!(matches!(
        (&outcomes[1], &outcomes[2]),
        (Outcome::Blocked, Outcome::Applied)
    ));
}

#[tokio::test]
async fn a_replacement_that_cannot_be_done_changes_nothing() {
    let (store, bound) = (MemoryStore::new(Total), conformance::bound("p"));
    let item = |item: &str, at: Position, now| Replace {
        item: ItemId::from_parts([item]),
        at,
        created: None,
        now,
        keep: Vec::new(),
        change: None,
    };
    let first = [
        item("x", Position::Scan, vec![add("a", 5)]),
        item("y", Position::Scan, vec![add("b", i64::MAX)]),
    ];
    store.replace(&bound, &first, Deadline::NONE).await;
    let at = Position::Stream(murmur_state::SequenceNumber::new("1").unwrap());
    let moved = [item("x", at, vec![add("b", 5)])];
    let outcomes = store.replace(&bound, &moved, Deadline::NONE).await;
    assert!(matches!(
        &outcomes[0],
        Outcome::Failed(StoreError::Overflow { .. })
    ));
    let rows: Vec<_> = store.rows().into_iter().map(|row| row.value).collect();
    assert_eq!(rows, [5, i64::MAX]);
}
