//! Children that are listed some time after their parent has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use murmur_streams::source::{Cursor, ReadBatch, StreamDescription};
use murmur_streams::{StoreSource, StreamError, StreamSource, Trigger};
use tokio::time::Instant;

use crate::support::{ARN, Scripted, put, store};

/// Lists children only from this listing on.
struct Hiding {
    inner: StoreSource,
    from: usize,
    listings: Arc<AtomicUsize>,
}

impl StreamSource for Hiding {
    async fn describe(&self) -> Result<StreamDescription, StreamError> {
        let mut listed = self.inner.describe().await?;
        if self.listings.fetch_add(1, Ordering::Relaxed) < self.from {
            listed.shards.retain(|shard| shard.parent.is_none());
        }
        Ok(listed)
    }

    async fn read(
        &self,
        shard: &str,
        from: &Cursor,
        limit: usize,
    ) -> Result<ReadBatch, StreamError> {
        self.inner.read(shard, from, limit).await
    }
}

/// How many records a drain delivers if children are listed from the `from`-th listing on, how
/// often it lists, and how long it takes.
async fn drained(from: usize) -> (u64, usize, Duration) {
    let store = store();
    put(&store, &["a"]);
    store.roll_over(ARN).unwrap();
    put(&store, &["b"]);
    let listings = Arc::new(AtomicUsize::new(0));
    let source = Hiding {
        inner: store.source(ARN),
        from,
        listings: Arc::clone(&listings),
    };
    let mut trigger = Trigger::builder(source, Scripted::default())
        .build()
        .unwrap();
    let begun = Instant::now();
    let summary = trigger.drain().await.unwrap();
    let listings = listings.load(Ordering::Relaxed);
    (summary.records, listings, begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_children_of_a_shard_that_has_ended() {
    for from in [0, 1, 2, 5, 10] {
        let (records, _, _) = drained(from).await;
        assert_eq!(records, 2, "listed from {from} on");
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_ever() {
    let (records, listings, took) = drained(usize::MAX).await;
    assert_eq!((records, listings), (1, 11));
    assert!((8..=11).contains(&took.as_secs()), "{took:?}");
}
