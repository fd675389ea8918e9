//! A store together with its marker table.

use std::time::Duration;

use murmur_state::conformance::Subject;
use murmur_state::dedup::Owner;
use murmur_state::store::Binding;
use murmur_state::tokens::Tokens;
use murmur_state::{Clock, Deadline, Deduper as _, ExactlyOnce, PipelineName, StoreError};
use murmur_state_ddb::{Deduper, Int64SumStore, Marked};
use murmur_testkit::Dynamo;
use murmur_testkit::wire::Wire;

use crate::support::{Total, marker_table, state_table, virtual_time};

const HOUR: Duration = Duration::from_secs(3600);

async fn bind(store: &Marked<Int64SumStore>) -> Result<(), StoreError> {
    let binding = Binding {
        pipeline: PipelineName::new("totals").unwrap(),
        version: 1,
        mode: "exactly-once".into(),
        definition: "days".into(),
        stream: None,
    };
    let bound = ExactlyOnce::<Total>::bind(store, &binding, Deadline::NONE).await?;
    assert_eq!(bound.binding(), &binding);
    Ok(())
}

/// Until when a claim made by `deduper` lasts, in seconds since the epoch.
async fn claimed_until(dynamo: &Dynamo, deduper: &Deduper, table: &str) -> i64 {
    let owner = Owner::new(&Tokens::new()).unwrap();
    deduper.claim("id", &owner, Deadline::NONE).await.unwrap();
    let get = dynamo.client().get_item().table_name(table);
    let row = get.key("pk", crate::support::s("id")).send().await;
    row.unwrap().item.unwrap()["ttl"]
        .as_n()
        .unwrap()
        .parse()
        .unwrap()
}

fn asks_for(wire: &Wire, table: &str) -> bool {
    let requests = wire.requests();
    requests
        .iter()
        .any(|request| request.body["TableName"] == *table)
}

#[tokio::test]
async fn a_marker_table_by_name_goes_by_the_store_s_client_and_options() {
    let dynamo = Dynamo::connect().await;
    let (state, markers) = (state_table(&dynamo).await, marker_table(&dynamo).await);
    let (clock, options) = virtual_time();
    let wire = Wire::calm();
    let store = Int64SumStore::with_options(wire.client(&dynamo), &*state, options);
    let store = store.unwrap().markers(&*markers);
    bind(&store).await.unwrap();
    assert!(asks_for(&wire, &markers));
    let until = claimed_until(&dynamo, store.deduper(), &markers).await;
    let wanted = clock.now().plus(48 * HOUR).as_secs();
    assert!((wanted..=wanted + 1).contains(&until), "{until}");
}

#[tokio::test]
async fn a_shared_deduper_keeps_its_times_and_goes_by_the_store_s_client() {
    let dynamo = Dynamo::connect().await;
    let (state, markers) = (state_table(&dynamo).await, marker_table(&dynamo).await);
    let (clock, options) = virtual_time();
    let (ours, theirs) = (Wire::calm(), Wire::calm());
    let deduper = Deduper::with_options(theirs.client(&dynamo), &*markers, options).unwrap();
    let deduper = deduper.ttl(HOUR).unwrap().horizon(50 * HOUR).unwrap();
    let store = Int64SumStore::new(ours.client(&dynamo), &*state).markers(&deduper);
    bind(&store).await.unwrap();
    assert!(asks_for(&ours, &markers));
    let until = claimed_until(&dynamo, store.deduper(), &markers).await;
    let wanted = clock.now().plus(HOUR).as_secs();
    assert!((wanted..=wanted + 1).contains(&until), "{until}");
    assert!(theirs.counts().is_empty());
    // With another horizon the rows belong to another.
    let shorter = Int64SumStore::new(dynamo.client(), &*state).markers(&*markers);
    let refused = bind(&shorter).await.unwrap_err().to_string();
    assert!(refused.contains("horizon 180000s"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_markers_a_store_is_still_a_store() {
    let dynamo = Dynamo::connect().await;
    let store = Int64SumStore::new(dynamo.client(), state_table(&dynamo).await);
    let marked = store.clone().markers(marker_table(&dynamo).await);
    assert_eq!(format!("{:?}", marked.store()), format!("{store:?}"));
    Subject::new(marked, Total, |n| n as i64 * 7 - 100)
        .store()
        .await;
}
