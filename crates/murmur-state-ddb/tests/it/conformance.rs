//! Every store and the deduper keep every promise of the suite.

use murmur_state::conformance::{self, Subject};
use murmur_state_ddb::{
    BytesStore, Deduper, Int64MaxStore, Int64MinStore, Int64SumStore, TableOptions,
};
use murmur_testkit::Dynamo;

use crate::support::{Highest, Lowest, Total, Words, marker_table, state_table};

#[tokio::test(flavor = "multi_thread")]
async fn int64_sum_store_is_a_store() {
    let dynamo = Dynamo::connect().await;
    let store = Int64SumStore::new(dynamo.client(), state_table(&dynamo).await);
    Subject::new(store, Total, |n| n as i64 * 7 - 100)
        .store()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn int64_max_store_is_a_store() {
    let dynamo = Dynamo::connect().await;
    let store = Int64MaxStore::new(dynamo.client(), state_table(&dynamo).await);
    Subject::new(store, Highest, |n| (n as i64 * 37) % 101 - 50)
        .store()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn int64_min_store_is_a_store() {
    let dynamo = Dynamo::connect().await;
    let store = Int64MinStore::new(dynamo.client(), state_table(&dynamo).await);
    Subject::new(store, Lowest, |n| (n as i64 * 37) % 101 - 50)
        .store()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_store_is_a_store_of_an_idempotent_monoid() {
    let dynamo = Dynamo::connect().await;
    let store = BytesStore::new(dynamo.client(), state_table(&dynamo).await, Words);
    Subject::new(store, Words, |n| [format!("w{n}")].into())
        .store()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_store_is_a_store_of_a_monoid_that_is_not_idempotent() {
    let dynamo = Dynamo::connect().await;
    let store = BytesStore::new(dynamo.client(), state_table(&dynamo).await, Total);
    Subject::new(store, Total, |n| n as i64).store().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_one_request_at_a_time_is_a_store() {
    let dynamo = Dynamo::connect().await;
    let options = TableOptions::default().concurrency(1);
    let table = state_table(&dynamo).await;
    let store = Int64SumStore::with_options(dynamo.client(), table, options).unwrap();
    Subject::new(store.clone(), Total, |n| n as i64)
        .store()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deduper_is_a_deduper_and_keeps_checkpoints() {
    let dynamo = Dynamo::connect().await;
    let deduper = Deduper::new(dynamo.client(), marker_table(&dynamo).await);
    conformance::deduper(deduper.clone()).await;
    conformance::checkpoints(deduper).await;
}

/// Row budgets: the default, one that holds a few ids, the least.
const BUDGETS: [usize; 3] = [1024, 300, 21];

#[tokio::test(flavor = "multi_thread")]
async fn int64_sum_store_takes_events_exactly_once() {
    let dynamo = Dynamo::connect().await;
    for bytes in BUDGETS {
        let options = TableOptions::default().row_budget(bytes);
        let table = state_table(&dynamo).await;
        let store = Int64SumStore::with_options(dynamo.client(), table, options).unwrap();
        let store = store.markers(marker_table(&dynamo).await);
        Subject::new(store, Total, |n| n as i64 * 7 - 100)
            .exactly_once()
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_store_takes_events_exactly_once() {
    let dynamo = Dynamo::connect().await;
    for bytes in BUDGETS {
        let options = TableOptions::default().row_budget(bytes);
        let table = state_table(&dynamo).await;
        let store = BytesStore::with_options(dynamo.client(), table, Total, options).unwrap();
        let store = store.max_retries(100).markers(marker_table(&dynamo).await);
        Subject::new(store, Total, |n| n as i64)
            .exactly_once()
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_of_idempotent_monoids_take_events_exactly_once() {
    let dynamo = Dynamo::connect().await;
    let state = || state_table(&dynamo);
    let markers = Deduper::new(dynamo.client(), marker_table(&dynamo).await);
    let store = Int64MaxStore::new(dynamo.client(), state().await);
    Subject::new(store.markers(&markers), Highest, |n| n as i64 - 5)
        .exactly_once()
        .await;
    let store = Int64MinStore::new(dynamo.client(), state().await);
    Subject::new(store.markers(&markers), Lowest, |n| n as i64 - 5)
        .exactly_once()
        .await;
    let store = BytesStore::new(dynamo.client(), state().await, Words).max_retries(100);
    Subject::new(store.markers(markers), Words, |n| [format!("w{n}")].into())
        .exactly_once()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn int64_sum_store_keeps_a_ledger() {
    let dynamo = Dynamo::connect().await;
    let store = Int64SumStore::new(dynamo.client(), state_table(&dynamo).await);
    let store = store.markers(marker_table(&dynamo).await);
    Subject::new(store, Total, |n| n as i64 * 7 - 100)
        .ledger()
        .await;
}
