//! Positions at a place whose answers get lost.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use murmur_state::{
    Checkpoint, Checkpoints, MemoryDeduper, Place, Random, Removed, Saved, StoreError, Timestamp,
};
use murmur_streams::{
    DynamoDbEventResponse, Event, StreamInfo, StreamRecord, StreamStore, StreamViewType, Trigger,
};
use murmur_testkit::time::Time;

const ARN: &str = "arn:aws:dynamodb:eu-west-1:1:table/orders/stream/2026-01-01T00:00:00.000";

/// Makes every save, and answers every other one.
#[derive(Default)]
struct Lossy {
    inner: MemoryDeduper,
    saves: AtomicUsize,
}

impl Checkpoints for Lossy {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        self.inner.load(name)
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        async move {
            let saved = self.inner.save(name, data, over).await?;
            match self.saves.fetch_add(1, Ordering::Relaxed) % 2 {
                1 => Ok(saved),
                _ => Err(StoreError::Unavailable {
                    place: Place::table("Lossy", "memory"),
                    may_have_applied: true,
                    source: None,
                }),
            }
        }
        .boxed()
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        self.inner.remove(name, over)
    }
}

#[tokio::test(start_paused = true)]
async fn a_save_whose_answer_was_lost_is_not_taken_for_another_readers() {
    let time = Time::paused(Timestamp::from_secs(1_767_225_600));
    let store = StreamStore::new();
    store.register_stream(StreamInfo::new(ARN, StreamViewType::KeysOnly));
    for id in ["a", "b", "c", "d", "e"] {
        let record = StreamRecord {
            stream_arn: ARN.into(),
            event_id: id.into(),
            ..StreamRecord::default()
        };
        store.put_record(record).unwrap();
    }
    let batches = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&batches);
    let handler = move |event: Event| {
        let ids = event.records.into_iter().map(|record| record.event_id);
        seen.lock().unwrap().push(ids.collect::<Vec<_>>());
        async { Ok::<_, std::io::Error>(DynamoDbEventResponse::default()) }
    };
    let mut trigger = Trigger::builder(store.source(ARN), handler)
        .positions(Lossy::default(), "lossy")
        .batch_size(2)
        .clock(time.clock(0))
        .random(Random::seeded(1))
        .build()
        .unwrap();
    let summary = trigger.drain().await.unwrap();
    assert_eq!(summary.leases_lost, 0);
    assert_eq!(
        *batches.lock().unwrap(),
        [vec!["a", "b"], vec!["c", "d"], vec!["e"]]
    );
    assert_eq!(trigger.drain().await.unwrap().records, 0);
}
