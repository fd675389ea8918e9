//! What a store does that takes events exactly once.

use std::sync::Arc;

use futures::future::join_all;

use super::store::Subject;
use super::support::{apply, bound};
use super::{MODE_EVENTS, ROUNDS, TASKS};
use crate::checkpoint::Saved;
use crate::store::{Binding, Once, Outcome};
use crate::{Deadline, ExactlyOnce, Fault, Monoid, PipelineName, StoreError};

impl<M, S, F> Subject<M, S, F>
where
    M: Monoid,
    S: ExactlyOnce<M>,
    F: Fn(u64) -> M::Value + Send + Sync,
{
    /// Checks every promise of [`ExactlyOnce`]. The store of an idempotent monoid need not remember
    /// ids, so only its state is checked.
    pub async fn exactly_once(&self) {
        self.redelivery_changes_nothing().await;
        self.repeats_within_a_batch_count_once().await;
        self.an_event_is_finished_key_by_key().await;
        self.concurrent_deliveries_count_once().await;
        if !M::IDEMPOTENT {
            self.pipelines_have_markers_of_their_own().await;
            self.modes_do_not_mix().await;
        }
        self.rows_belong_to_one_pipeline().await;
        self.the_marker_table_keeps_checkpoints().await;
    }

    async fn the_marker_table_keeps_checkpoints(&self) {
        let name = "conformance/the-stores-own";
        let saved = self.store.checkpoints().save(name, "here", None).await;
        assert_eq!(saved.unwrap(), Saved::Version(1));
        let loaded = self.store.checkpoints().load(name).await.unwrap();
        assert_eq!(loaded.unwrap().data, "here", "what was saved is found");
    }

    async fn rows_belong_to_one_pipeline(&self) {
        let bind_as =
            async |pipeline: &str, version, mode: &str, stream: Option<&str>, definition: &str| {
                let binding = Binding {
                    pipeline: PipelineName::new(pipeline).unwrap(),
                    version,
                    mode: mode.into(),
                    definition: definition.into(),
                    stream: stream.map(Into::into),
                };
                let bound = self.store.bind(&binding, Deadline::NONE).await;
                let checked = self.store.check_binding(&binding, Deadline::NONE).await;
                assert_eq!(
                    checked.is_ok(),
                    bound.is_ok(),
                    "what was bound must be found so, and what was refused refused: {checked:?}"
                );
                for proof in [&bound, &checked].into_iter().flatten() {
                    assert_eq!(
                        proof.pipeline(),
                        &binding.pipeline,
                        "the proof is the pipeline's"
                    );
                    if binding.stream.is_some() {
                        let (told, named) = (proof.stream(), binding.stream.as_ref());
                        assert_eq!(told, named, "the stream that was named is told");
                    }
                }
                bound
            };
        let owner = Binding {
            pipeline: PipelineName::new("owner").unwrap(),
            version: 3,
            mode: "exactly-once".into(),
            definition: "days".into(),
            stream: None,
        };
        for _ in 0..2 {
            let checked = self.store.check_binding(&owner, Deadline::NONE);
            let checked = checked.await;
            assert!(
                matches!(checked, Err(StoreError::Setup { .. })),
                "rows that were never bound must be refused, and stay so: {checked:?}"
            );
        }
        let bind = async |pipeline: &str, version, mode: &str, stream: Option<&str>| {
            bind_as(pipeline, version, mode, stream, "days").await
        };
        bind("owner", 3, "exactly-once", None).await.unwrap();
        bind("owner", 3, "exactly-once", Some("arn/1"))
            .await
            .unwrap();
        // A binding without a stream, or with the same one, is accepted.
        bind("owner", 3, "exactly-once", None).await.unwrap();
        bind("owner", 3, "exactly-once", Some("arn/1"))
            .await
            .unwrap();
        for (pipeline, version, mode, stream) in [
            ("another", 3, "exactly-once", Some("arn/1")),
            ("owner", 4, "exactly-once", Some("arn/1")),
            ("owner", 2, "exactly-once", None),
            ("owner", 3, "ledger", Some("arn/1")),
            ("owner", 3, "exactly-once", Some("arn/2")),
        ] {
            let bound = bind(pipeline, version, mode, stream).await;
            assert!(
                matches!(bound, Err(StoreError::OtherOwner { .. })),
                "rows of another owner must be refused to {pipeline} {version} {mode} {stream:?}: {bound:?}"
            );
        }
        let bound = bind_as("owner", 3, "exactly-once", Some("arn/1"), "hours").await;
        assert!(
            matches!(bound, Err(StoreError::OtherOwner { .. })),
            "rows of another definition must be refused: {bound:?}"
        );
    }

    async fn redelivery_changes_nothing(&self) {
        let events: Vec<_> = (0..20)
            .map(|n| {
                self.once(
                    &format!("again-{n}"),
                    vec![self.add("once/again", n % 3, n as u64)],
                )
            })
            .collect();
        apply(&*self.store, &events).await;
        // The same batch, a part of it, and regrouped with something new.
        let repeated = apply(&*self.store, &events).await;
        if !M::IDEMPOTENT {
            assert!(
                repeated
                    .iter()
                    .all(|outcome| matches!(outcome, Outcome::Duplicate))
            );
        }
        apply(&*self.store, &events[7..]).await;
        let mut regrouped = events[15..].to_vec();
        regrouped.push(self.once("again-20", vec![self.add("once/again", 2, 20)]));
        apply(&*self.store, &regrouped).await;
        for bucket in 0..3 {
            self.expect("once/again", bucket, (bucket as u64..=20).step_by(3))
                .await;
        }
    }

    async fn repeats_within_a_batch_count_once(&self) {
        let event = self.once("twice", vec![self.add("once/twice", 0, 3)]);
        apply(&*self.store, &[event.clone(), event]).await;
        self.expect("once/twice", 0, [3]).await;
        let entry = self.add("once/key-twice", 0, 5);
        apply(
            &*self.store,
            &[self.once("key-twice", vec![entry.clone(), entry])],
        )
        .await;
        self.expect("once/key-twice", 0, [5]).await;
    }

    async fn an_event_is_finished_key_by_key(&self) {
        let (a, b) = (self.add("once/part", 1, 1), self.add("once/part", 2, 2));
        apply(&*self.store, &[self.once("part", vec![a.clone()])]).await;
        let outcomes = apply(&*self.store, &[self.once("part", vec![a, b])]).await;
        assert!(matches!(outcomes[0], Outcome::Applied), "{outcomes:?}");
        self.expect("once/part", 1, [1]).await;
        self.expect("once/part", 2, [2]).await;
    }

    async fn concurrent_deliveries_count_once(&self) {
        let events: Vec<_> = (0..ROUNDS * 3)
            .map(|n| {
                let adds = vec![self.add("once/race", 0, n), self.add("once/race", 1, n)];
                self.once(&format!("race-{n}"), adds)
            })
            .collect();
        let task = |task: u64| {
            let store = Arc::clone(&self.store);
            // Every task sends all events, in batches that are cut at other places.
            let batches: Vec<Vec<_>> = events
                .chunks(task as usize + 1)
                .map(<[Once<M::Value>]>::to_vec)
                .collect();
            tokio::spawn(async move {
                for batch in &batches {
                    apply(&*store, batch).await;
                }
            })
        };
        join_all((0..TASKS).map(task))
            .await
            .into_iter()
            .for_each(|done| done.unwrap());
        for bucket in 0..2 {
            self.expect("once/race", bucket, 0..ROUNDS * 3).await;
        }
    }

    async fn pipelines_have_markers_of_their_own(&self) {
        let event = self.once("shared", vec![self.add("once/shared-a", 0, 1)]);
        apply(&*self.store, std::slice::from_ref(&event)).await;
        let other = bound("another");
        let event = Once {
            adds: vec![self.add("once/shared-b", 0, 1)],
            ..event
        };
        self.store.apply(&other, &[event], Deadline::NONE).await;
        self.expect("once/shared-b", 0, [1]).await;
    }

    async fn modes_do_not_mix(&self) {
        // Many events, so that a store that keeps a key in several rows has all of them.
        let add = |n| self.add("once/mode", 0, n);
        let events: Vec<_> = (0..MODE_EVENTS)
            .map(|n| self.once(&format!("mode-{n}"), vec![add(n)]))
            .collect();
        apply(&*self.store, &events).await;
        let outcomes = self.store.merge(&[add(1)], Deadline::NONE).await;
        assert!(
            matches!(&outcomes[0], Outcome::Failed(error @ StoreError::OtherMode { .. }) if error.fault() == Fault::Setup),
            "a plain merge into an exactly-once row must be refused: {outcomes:?}"
        );
        self.expect("once/mode", 0, 0..MODE_EVENTS).await;
    }
}
