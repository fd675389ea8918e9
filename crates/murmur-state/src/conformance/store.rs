//! What every store does.

use std::sync::Arc;

use futures::future::join_all;

use super::support::{key, merge};
use super::{ROUNDS, TASKS};
use crate::store::{Add, Once};
use crate::time::SystemClock;
use crate::{Clock, Deadline, EventId, Key, Monoid, ReadExt, Store};

/// A store under test, with its monoid and a supply of values.
#[derive(Debug)]
pub struct Subject<M, S, F> {
    pub(super) store: Arc<S>,
    pub(super) monoid: M,
    pub(super) value: F,
}

impl<M, S, F> Subject<M, S, F>
where
    M: Monoid,
    S: Store<M>,
    F: Fn(u64) -> M::Value + Send + Sync,
{
    /// `value(n)` returns the n-th of any number of values, which are so small that hundreds of
    /// them combine without overflow.
    pub fn new(store: S, monoid: M, value: F) -> Self {
        Self {
            store: Arc::new(store),
            monoid,
            value,
        }
    }

    pub(super) fn add(&self, entity: &str, bucket: i64, n: u64) -> Add<M::Value> {
        Add {
            key: key(entity, bucket),
            value: (self.value)(n),
            ttl: None,
        }
    }

    pub(super) fn once(&self, id: &str, adds: Vec<Add<M::Value>>) -> Once<M::Value> {
        Once {
            id: EventId::new(id).unwrap(),
            created: None,
            handed_over: SystemClock::new().now(),
            adds,
        }
    }

    pub(super) fn fold(&self, values: impl IntoIterator<Item = u64>) -> M::Value {
        values
            .into_iter()
            .fold(self.monoid.identity(), |mut all, n| {
                self.monoid
                    .combine(&mut all, &(self.value)(n))
                    .expect("the values overflow");
                all
            })
    }

    pub(super) async fn expect(
        &self,
        entity: &str,
        bucket: i64,
        values: impl IntoIterator<Item = u64>,
    ) {
        let key = key(entity, bucket);
        let found = self.store.get(&key).await.unwrap();
        assert_eq!(found, Some(self.fold(values)), "the value of {key}");
    }

    /// Checks every promise of [`Store`] and [`Read`](crate::Read).
    pub async fn store(&self) {
        self.missing_keys_are_none().await;
        self.many_keys_are_answered_in_order().await;
        self.merges_combine_in_a_batch_and_across_batches().await;
        self.buckets_and_entities_are_kept_apart().await;
        self.concurrent_merges_are_all_counted().await;
    }

    pub(super) async fn missing_keys_are_none(&self) {
        assert_eq!(
            self.store.get(&key("store/missing", 0)).await.unwrap(),
            None
        );
        assert_eq!(self.store.get_many(&[]).await.unwrap(), Vec::new());
        assert!(self.store.merge(&[], Deadline::NONE).await.is_empty());
    }

    pub(super) async fn many_keys_are_answered_in_order(&self) {
        let adds: Vec<_> = (0..230)
            .step_by(2)
            .map(|n| self.add("store/many", n as i64, n))
            .collect();
        merge(&*self.store, &adds).await;
        // More keys than one service request takes, including missing and repeated ones.
        let asked: Vec<Key> = (0..230)
            .chain(0..230)
            .rev()
            .map(|n| key("store/many", n))
            .collect();
        let found = self.store.get_many(&asked).await.unwrap();
        assert_eq!(found.len(), asked.len(), "one answer per key");
        for (key, found) in asked.iter().zip(found) {
            let n = key.bucket() as u64;
            let wanted = n.is_multiple_of(2).then(|| self.fold([n]));
            assert_eq!(found, wanted, "the answer for {key}");
        }
    }

    pub(super) async fn merges_combine_in_a_batch_and_across_batches(&self) {
        let add = |n| self.add("store/combine", 0, n);
        merge(
            &*self.store,
            &[add(1), add(2), self.add("store/other", 0, 9), add(3)],
        )
        .await;
        merge(&*self.store, &[add(4)]).await;
        self.expect("store/combine", 0, 1..=4).await;
        self.expect("store/other", 0, [9]).await;
    }

    pub(super) async fn buckets_and_entities_are_kept_apart(&self) {
        let places = [
            ("a", -1),
            ("a", 0),
            ("a", i64::MAX),
            ("ä/\"\u{1F980}", 0),
            ("a", i64::MIN),
        ];
        let adds: Vec<_> = places
            .iter()
            .zip(1..)
            .map(|((entity, bucket), n)| self.add(entity, *bucket, n))
            .collect();
        merge(&*self.store, &adds).await;
        for ((entity, bucket), n) in places.iter().zip(1..) {
            self.expect(entity, *bucket, [n]).await;
        }
    }

    pub(super) async fn concurrent_merges_are_all_counted(&self) {
        let task = |task: u64| {
            let store = Arc::clone(&self.store);
            let adds: Vec<_> = (0..ROUNDS)
                .map(|n| self.add("store/race", 0, task * ROUNDS + n))
                .collect();
            tokio::spawn(async move {
                for add in &adds {
                    merge(&*store, std::slice::from_ref(add)).await;
                }
            })
        };
        join_all((0..TASKS).map(task))
            .await
            .into_iter()
            .for_each(|done| done.unwrap());
        self.expect("store/race", 0, 0..TASKS * ROUNDS).await;
    }
}
