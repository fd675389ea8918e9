//! The contracts of stores, dedupers and checkpoint stores as test code: run your implementation
//! through it.
//!
//! Unstable by design: a new release may check more. Every function panics with the broken promise
//! as its message, and uses its own names, so one table serves a whole suite. The suite contains
//! real races: call it on a runtime with several threads.
//!
//! ```
//! # use murmur_state::{conformance, MemoryDeduper};
//! # tokio::runtime::Builder::new_multi_thread().build().unwrap().block_on(async {
//! conformance::deduper(MemoryDeduper::new()).await;
//! conformance::checkpoints(MemoryDeduper::new()).await;
//! # });
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a broken promise is a panic here"
)]

use std::num::NonZeroU32;
use std::sync::Arc;

use futures::future::join_all;

use crate::checkpoint::{Removed, Saved};
use crate::dedup::{Claim, Owner};
use crate::store::{
    Add, Binding, Bound, ItemChange, LedgerEntry, ListSegment, MAX_KEYS, Mend, Once, Outcome,
    Position, Replace,
};
use crate::time::SystemClock;
use crate::tokens::Tokens;
use crate::{
    Checkpoints, Clock, Deadline, Deduper, EventId, ExactlyOnce, Fault, Group, ItemId, Key, Ledger,
    Monoid, PipelineName, Read, ReadExt, SequenceNumber, Store, StoreError,
};

const TASKS: u64 = 8;
const ROUNDS: u64 = 10;
const MODE_EVENTS: u64 = 100;

/// A store under test, with its monoid and a supply of values.
#[derive(Debug)]
pub struct Subject<M, S, F> {
    store: Arc<S>,
    monoid: M,
    value: F,
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

    fn add(&self, entity: &str, bucket: i64, n: u64) -> Add<M::Value> {
        Add {
            key: key(entity, bucket),
            value: (self.value)(n),
            ttl: None,
        }
    }

    fn once(&self, id: &str, adds: Vec<Add<M::Value>>) -> Once<M::Value> {
        Once {
            id: EventId::new(id).unwrap(),
            created: None,
            handed_over: SystemClock::new().now(),
            adds,
        }
    }

    fn fold(&self, values: impl IntoIterator<Item = u64>) -> M::Value {
        values
            .into_iter()
            .fold(self.monoid.identity(), |mut all, n| {
                self.monoid
                    .combine(&mut all, &(self.value)(n))
                    .expect("the values overflow");
                all
            })
    }

    async fn expect(&self, entity: &str, bucket: i64, values: impl IntoIterator<Item = u64>) {
        let key = key(entity, bucket);
        let found = self.store.get(&key).await.unwrap();
        assert_eq!(found, Some(self.fold(values)), "the value of {key}");
    }

    /// Checks every promise of [`Store`] and [`Read`].
    pub async fn store(&self) {
        self.missing_keys_are_none().await;
        self.many_keys_are_answered_in_order().await;
        self.merges_combine_in_a_batch_and_across_batches().await;
        self.buckets_and_entities_are_kept_apart().await;
        self.concurrent_merges_are_all_counted().await;
    }

    async fn missing_keys_are_none(&self) {
        assert_eq!(
            self.store.get(&key("store/missing", 0)).await.unwrap(),
            None
        );
        assert_eq!(self.store.get_many(&[]).await.unwrap(), Vec::new());
        assert!(self.store.merge(&[], Deadline::NONE).await.is_empty());
    }

    async fn many_keys_are_answered_in_order(&self) {
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

    async fn merges_combine_in_a_batch_and_across_batches(&self) {
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

    async fn buckets_and_entities_are_kept_apart(&self) {
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

    async fn concurrent_merges_are_all_counted(&self) {
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

impl<M, S, F> Subject<M, S, F>
where
    M: Group,
    S: Ledger<M>,
    F: Fn(u64) -> M::Value + Send + Sync,
{
    /// Checks every promise of [`Ledger`].
    pub async fn ledger(&self) {
        self.every_cell_of_the_rule_table().await;
        self.items_move_between_keys().await;
        self.rows_that_may_be_gone_are_left_alone().await;
        self.what_is_kept_goes_on_contributing().await;
        self.an_item_has_so_many_keys_at_most().await;
        self.what_is_known_is_told_and_listed().await;
        self.items_are_mended_as_they_were_known().await;
        self.items_settle_and_count_by_their_events().await;
        self.any_interleaving_converges("race", |_| false).await;
        self.any_interleaving_converges("race-settled", |task| task % 2 == 0)
            .await;
    }

    fn replace(&self, item: &str, at: Option<u64>, now: Vec<Add<M::Value>>) -> Replace<M::Value> {
        let at = match at {
            None => Position::Scan,
            Some(n) => Position::Stream(SequenceNumber::new(n.to_string()).unwrap()),
        };
        Replace {
            item: ItemId::from_parts([item]),
            at,
            created: None,
            now,
            keep: Vec::new(),
            change: None,
        }
    }

    /// The change of `item` at `at` from `before` to `now`.
    fn change(
        &self,
        item: &str,
        at: u64,
        before: &[u64],
        now: &[u64],
        settles: bool,
    ) -> Replace<M::Value> {
        let entity = format!("ledger/{item}");
        let adds = |values: &[u64]| -> Vec<Add<M::Value>> {
            values.iter().map(|n| self.add(&entity, 0, *n)).collect()
        };
        Replace {
            change: Some(ItemChange {
                id: EventId::new(format!("{item}-{at}")).unwrap(),
                handed_over: SystemClock::shared().now(),
                before: adds(before),
                settles,
            }),
            created: Some(SystemClock::shared().now()),
            ..self.replace(item, Some(at), adds(now))
        }
    }

    async fn items_settle_and_count_by_their_events(&self) {
        let change = |item: &str, at, before: &[u64], now: &[u64], settles| {
            self.change(item, at, before, now, settles)
        };
        let settled_at = async |item: &str| {
            let known = self.known(item).await.filter(|known| known.settled);
            known.map(|known| {
                assert!(
                    known.now.is_empty() && known.kept.is_empty(),
                    "{item}: a settled item says nothing"
                );
                known.at
            })
        };
        let at = |n: u64| {
            Some(Position::Stream(
                SequenceNumber::new(n.to_string()).unwrap(),
            ))
        };
        let sent = async |entries: &[Replace<M::Value>]| replace(&*self.store, entries).await;

        // A change from what the ledger has: the item settles just below it, and the change counts
        // by its id.
        for (item, known) in [
            ("settled-new", None),
            ("settled-scanned", Some(None)),
            ("settled-seen", Some(Some(3))),
        ] {
            let entity = format!("ledger/{item}");
            let before: &[u64] = if known.is_some() { &[1] } else { &[] };
            if let Some(seen) = known {
                sent(&[self.replace(item, seen, vec![self.add(&entity, 0, 1)])]).await;
            }
            let first = change(item, 5, before, &[2], true);
            sent(std::slice::from_ref(&first)).await;
            assert_eq!(settled_at(item).await, at(4), "{item}");
            self.expect(&entity, 0, [2]).await;
            // Later changes, with and without the hint; repeated ones; older ones; a scanned row.
            let stale = self.replace(item, None, vec![self.add(&entity, 0, 7)]);
            let second = change(item, 6, &[2], &[3], false);
            for entry in [
                &second,
                &first,
                &stale,
                &second,
                &change(item, 4, &[9], &[8], true),
            ] {
                sent(std::slice::from_ref(entry)).await;
                self.expect(&entity, 0, [3]).await;
            }
            assert_eq!(
                settled_at(item).await,
                at(4),
                "{item}: it stays where it settled"
            );
        }

        // A change from something else than the ledger has: the item settles at the change.
        let item = "settled-apart";
        let entity = format!("ledger/{item}");
        sent(&[self.replace(item, None, vec![self.add(&entity, 0, 9)])]).await;
        sent(&[change(item, 5, &[1], &[2], true)]).await;
        assert_eq!(settled_at(item).await, at(5));
        self.expect(&entity, 0, [2]).await;
        sent(&[
            change(item, 5, &[1], &[2], true),
            change(item, 6, &[2], &[], true),
        ])
        .await;
        self.expect(&entity, 0, []).await;

        // Kept contributions keep counting, those of this change and earlier ones.
        let item = "settled-kept";
        let entity = format!("ledger/{item}");
        let gone = |at, before: u64, settles| Replace {
            keep: vec![self.add(&entity, 0, before)],
            ..change(item, at, &[before], &[], settles)
        };
        for (entry, wanted) in [
            (change(item, 1, &[], &[1], false), &[1][..]),
            (gone(2, 1, false), &[1]),
            (change(item, 3, &[], &[2], true), &[1, 2]),
            (gone(4, 2, true), &[1, 2]),
            (change(item, 5, &[], &[3], true), &[1, 2, 3]),
            (change(item, 6, &[3], &[], true), &[1, 2]),
        ] {
            sent(&[entry]).await;
            self.expect(&entity, 0, wanted.iter().copied()).await;
        }

        // A change without the state before it is refused.
        let bare = self.replace("settled-new", Some(9), Vec::new());
        let outcomes = self
            .store
            .replace(&bound("conformance"), &[bare], Deadline::NONE)
            .await;
        assert!(
            matches!(&outcomes[..], [Outcome::Failed(error)] if error.fault() == Fault::Setup),
            "{outcomes:?}"
        );
        // A settled item is not repaired.
        let mend = Mend {
            item: ItemId::from_parts(["settled-new"]),
            over: self.known("settled-new").await.map(|known| known.version),
            now: Vec::new(),
        };
        let outcomes = self
            .store
            .mend(&bound("conformance"), &[mend], Deadline::NONE)
            .await;
        assert!(
            matches!(&outcomes[..], [Outcome::Superseded]),
            "{outcomes:?}"
        );
        self.expect("ledger/settled-new", 0, [3]).await;
    }

    async fn every_cell_of_the_rule_table(&self) {
        // (entries before, the entry, what counts in the end); an entry is its position and value
        type Seen = (Option<u64>, u64);
        let cells: [(&[Seen], Seen, u64); 7] = [
            (&[], (None, 2), 2),
            (&[], (Some(5), 2), 2),
            (&[(None, 1)], (None, 2), 1),
            (&[(None, 1)], (Some(5), 2), 2),
            (&[(Some(5), 1)], (None, 2), 1),
            (&[(Some(5), 1)], (Some(6), 2), 2),
            (&[(Some(5), 1)], (Some(5), 2), 1),
        ];
        for (n, (known, then, wanted)) in cells.iter().enumerate() {
            let (item, entity) = (format!("cell-{n}"), format!("ledger/cell-{n}"));
            for (at, value) in known.iter().chain([then]) {
                let entry = self.replace(&item, *at, vec![self.add(&entity, 0, *value)]);
                replace(&*self.store, &[entry]).await;
            }
            self.expect(&entity, 0, [*wanted]).await;
        }
        let entry = |at| self.replace("older", Some(at), vec![self.add("ledger/older", 0, at)]);
        let outcomes = replace(&*self.store, &[entry(9), entry(8), entry(9)]).await;
        assert!(
            matches!(
                outcomes[..],
                [Outcome::Applied, Outcome::Superseded, Outcome::Duplicate]
            ),
            "{outcomes:?}"
        );
        self.expect("ledger/older", 0, [9]).await;
    }

    async fn items_move_between_keys(&self) {
        let at = |at, entity: &[&str]| {
            let now = entity.iter().map(|entity| self.add(entity, 0, 4)).collect();
            self.replace("mover", Some(at), now)
        };
        let (a, b) = ("ledger/from", "ledger/to");
        replace(&*self.store, &[at(1, &[a])]).await;
        replace(&*self.store, &[at(2, &[b])]).await;
        self.expect(a, 0, []).await;
        self.expect(b, 0, [4]).await;
        replace(&*self.store, &[at(3, &[])]).await;
        self.expect(b, 0, []).await;
        // A scanned row that was read before the removal must not bring the item back.
        let stale = self.replace("mover", None, vec![self.add(a, 0, 4)]);
        replace(&*self.store, &[stale]).await;
        self.expect(a, 0, []).await;
    }

    async fn rows_that_may_be_gone_are_left_alone(&self) {
        let (over, live) = ("ledger/over", "ledger/live");
        let at = |at, entity: &str, ttl| {
            let add = self.add(entity, 0, 4);
            self.replace("late", Some(at), vec![Add { ttl, ..add }])
        };
        // A ttl of 1970 has passed on every clock.
        replace(&*self.store, &[at(1, over, Some(1))]).await;
        replace(&*self.store, &[at(2, live, None)]).await;
        replace(&*self.store, &[at(3, over, Some(1))]).await;
        self.expect(over, 0, [4, 4]).await;
        self.expect(live, 0, []).await;
    }

    async fn what_is_kept_goes_on_contributing(&self) {
        let at = |at, n: &[u64]| {
            let now = n.iter().map(|n| self.add("ledger/kept", 0, *n)).collect();
            self.replace("expiring", Some(at), now)
        };
        let gone = |n, keep: &[u64]| Replace {
            keep: at(n, keep).now,
            ..at(n, &[])
        };
        let entries = [
            at(1, &[1]),
            gone(2, &[1]),
            at(3, &[2]),
            at(4, &[3]),
            gone(5, &[3]),
            // Again: nothing is kept twice.
            gone(5, &[3]),
            gone(2, &[1]),
            at(6, &[4]),
            at(7, &[]),
        ];
        for entry in entries {
            replace(&*self.store, &[entry]).await;
        }
        self.expect("ledger/kept", 0, [1, 3]).await;
        let known = self.known("expiring").await.unwrap();
        let kept: Vec<_> = known.kept.into_iter().map(|add| add.value).collect();
        assert_eq!((kept, known.now), (vec![self.fold([1, 3])], Vec::new()));

        // A scan found the item that was put later: the kept contribution stays as it was.
        let of = |entry| Replace {
            item: ItemId::from_parts(["expired-before"]),
            ..entry
        };
        let entity = "ledger/kept-before";
        let now = |n| vec![self.add(entity, 0, n)];
        let scanned = self.replace("", None, now(5));
        let removed = Replace {
            keep: now(2),
            ..self.replace("", Some(8), Vec::new())
        };
        let put = self.replace("", Some(9), now(5));
        for (entry, wanted) in [(scanned, &[5][..]), (removed, &[2]), (put, &[2, 5])] {
            replace(&*self.store, &[of(entry)]).await;
            self.expect(entity, 0, wanted.iter().copied()).await;
        }
    }

    async fn an_item_has_so_many_keys_at_most(&self) {
        let of = |at, from: usize, keys: usize| {
            let add = |n| self.add(&format!("ledger/wide-{n}"), 0, 1);
            self.replace("wide", Some(at), (from..from + keys).map(add).collect())
        };
        // From 49 keys to 49 others.
        for entry in [of(1, 0, MAX_KEYS), of(2, MAX_KEYS, MAX_KEYS)] {
            let outcomes = replace(&*self.store, &[entry]).await;
            assert!(matches!(outcomes[..], [Outcome::Applied]), "{outcomes:?}");
        }
        let entry = of(3, 0, MAX_KEYS + 1);
        let outcomes = self
            .store
            .replace(&bound("conformance"), &[entry], Deadline::NONE)
            .await;
        assert!(
            matches!(&outcomes[..], [Outcome::Failed(error)] if error.fault() == Fault::Record),
            "{outcomes:?}"
        );
        self.expect("ledger/wide-0", 0, []).await;
        self.expect(&format!("ledger/wide-{MAX_KEYS}"), 0, [1])
            .await;
        // Too many keys in `before`: neither for settling, nor after it.
        for (at, before, settles) in [(1, &[][..], true), (3, &[1], false)] {
            let entry = Replace {
                now: of(at, 0, MAX_KEYS + 1).now,
                ..self.change("wide-settled", at, before, &[], settles)
            };
            let outcomes = self
                .store
                .replace(&bound("conformance"), &[entry], Deadline::NONE)
                .await;
            assert!(
                matches!(&outcomes[..], [Outcome::Failed(error)] if error.fault() == Fault::Record),
                "{outcomes:?}"
            );
            if at == 1 {
                let fits = self.change("wide-settled", 2, &[], &[1], true);
                replace(&*self.store, &[fits]).await;
            }
        }
        self.expect("ledger/wide-settled", 0, [1]).await;
    }

    async fn known(&self, item: &str) -> Option<LedgerEntry<M::Value>> {
        let items = [ItemId::from_parts([item])];
        let known = self
            .store
            .known(&bound("conformance"), &items, Deadline::NONE)
            .await;
        let [known] = <[_; 1]>::try_from(known.unwrap()).unwrap();
        known
    }

    async fn what_is_known_is_told_and_listed(&self) {
        let names: Vec<String> = (0..230).map(|n| format!("listed-{n}")).collect();
        let entry = |(n, name): (usize, &String)| {
            let at = n.is_multiple_of(2).then_some(n as u64);
            self.replace(
                name,
                at,
                vec![self.add("ledger/listed", n as i64, n as u64)],
            )
        };
        let entries: Vec<_> = names.iter().enumerate().map(entry).collect();
        replace(&*self.store, &entries).await;

        // More items than one service request takes, including unknown and repeated ones.
        let mut asked: Vec<ItemId> = entries.iter().rev().map(|e| e.item.clone()).collect();
        asked.push(ItemId::from_parts(["listed-none"]));
        asked.extend_from_within(..3);
        let known = self
            .store
            .known(&bound("conformance"), &asked, Deadline::NONE)
            .await
            .unwrap();
        assert_eq!(known.len(), asked.len(), "one answer per item");
        for (item, known) in asked.iter().zip(&known) {
            let wanted = entries.iter().find(|entry| entry.item == *item);
            let found = known.as_ref().map(|known| (&known.at, &known.now));
            assert_eq!(found, wanted.map(|entry| (&entry.at, &entry.now)), "{item}");
        }

        for segments in [1, 3] {
            let listed = self.listed_in(segments).await;
            for (item, known) in asked.iter().zip(&known).take(entries.len()) {
                let found: Vec<_> = listed.iter().filter(|known| known.item == *item).collect();
                assert_eq!(
                    found.len(),
                    1,
                    "{item} is listed once in {segments} segments"
                );
                assert_eq!(
                    found.first().copied(),
                    known.as_ref(),
                    "{item} as it is listed"
                );
            }
        }

        let mut rows = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let part = self.store.list(after.as_deref()).await.unwrap();
            rows.extend(part.entries);
            after = part.next;
            if after.is_none() {
                break;
            }
        }
        for add in entries.iter().flat_map(|entry| &entry.now) {
            let found: Vec<_> = rows.iter().filter(|row| row.key == add.key).collect();
            assert_eq!(found.len(), 1, "{} is listed once", add.key);
            assert_eq!((&found[0].value, found[0].ttl), (&add.value, add.ttl));
        }
    }

    /// All items of the ledger, listed segment by segment.
    async fn listed_in(&self, segments: u32) -> Vec<LedgerEntry<M::Value>> {
        let of = NonZeroU32::new(segments).unwrap();
        let mut listed = Vec::new();
        for segment in ListSegment::all(of) {
            let mut after: Option<String> = None;
            loop {
                let part = self
                    .store
                    .list_known(&bound("conformance"), segment, after.as_deref())
                    .await
                    .unwrap();
                listed.extend(part.entries);
                after = part.next;
                if after.is_none() {
                    break;
                }
            }
        }
        listed
    }

    async fn items_are_mended_as_they_were_known(&self) {
        let entity = "ledger/mended";
        let mend = |item: &str, over, values: &[u64]| Mend {
            item: ItemId::from_parts([item]),
            over,
            now: values.iter().map(|n| self.add(entity, 0, *n)).collect(),
        };
        let mended = async |entry: Mend<M::Value>| {
            let entries = [entry];
            loop {
                let outcomes = self
                    .store
                    .mend(&bound("conformance"), &entries, Deadline::NONE)
                    .await;
                if unfinished(entries.to_vec(), &outcomes).is_empty() {
                    break outcomes;
                }
            }
        };
        let version = async |item: &str| {
            let known = self.known(item).await;
            known.map(|known| known.version)
        };
        let at = |at, n| self.replace("mended", at, vec![self.add(entity, 0, n)]);

        replace(&*self.store, &[at(Some(5), 1)]).await;
        let first = version("mended").await;
        assert!(first.is_some());
        let outcomes = mended(mend("mended", None, &[7])).await;
        assert!(
            matches!(outcomes[..], [Outcome::Superseded]),
            "it is known by now: {outcomes:?}"
        );
        let outcomes = mended(mend("mended", first, &[2])).await;
        assert!(matches!(outcomes[..], [Outcome::Applied]), "{outcomes:?}");
        let second = version("mended").await;
        assert_ne!(second, first, "every change has its version");
        let outcomes = mended(mend("mended", first, &[7])).await;
        assert!(
            matches!(outcomes[..], [Outcome::Superseded]),
            "it has changed: {outcomes:?}"
        );
        self.expect(entity, 0, [2]).await;

        // A repair keeps the position at which the item was seen.
        replace(&*self.store, &[at(Some(5), 7), at(None, 7)]).await;
        self.expect(entity, 0, [2]).await;
        replace(&*self.store, &[at(Some(6), 3)]).await;
        self.expect(entity, 0, [3]).await;

        // Deleted without a record of it, and never seen at all.
        mended(mend("mended", version("mended").await, &[])).await;
        self.expect(entity, 0, []).await;
        replace(&*self.store, &[at(None, 7)]).await;
        self.expect(entity, 0, []).await;
        mended(mend("mended-new", None, &[4])).await;
        let scanned = Replace {
            item: ItemId::from_parts(["mended-new"]),
            ..at(None, 7)
        };
        replace(&*self.store, &[scanned]).await;
        self.expect(entity, 0, [4]).await;
    }

    /// Each item has versions 1..=ROUNDS, and the last one must count in the end. Tasks deliver all
    /// versions in stream order, with scanned rows of arbitrary age in between. `settles` selects
    /// the versions by which items settle.
    async fn any_interleaving_converges(&self, name: &str, settles: impl Fn(u64) -> bool) {
        let items = 5;
        let entity = format!("ledger/{name}");
        let contribution = |item: u64, version: u64| -> Vec<Add<M::Value>> {
            let add = self.add(&entity, ((item + version) % 3) as i64, item + version);
            (version > 0).then_some(add).into_iter().collect()
        };
        let task = |task: u64| {
            let store = Arc::clone(&self.store);
            let mut random = fastrand::Rng::with_seed(task);
            let mut entries = Vec::new();
            for version in 1..=ROUNDS {
                for item in 0..items {
                    let name = format!("{name}-{item}");
                    if random.u8(..) < 80 {
                        let stale = contribution(item, random.u64(1..=ROUNDS));
                        entries.push(self.replace(&name, None, stale));
                    }
                    let change = self.change(&name, version, &[], &[], settles(task));
                    let change = change.change.map(|change| ItemChange {
                        before: contribution(item, version - 1),
                        ..change
                    });
                    entries.push(Replace {
                        change,
                        created: Some(SystemClock::shared().now()),
                        ..self.replace(&name, Some(version), contribution(item, version))
                    });
                }
            }
            tokio::spawn(async move {
                for batch in entries.chunks(3 + task as usize) {
                    replace(&*store, batch).await;
                }
            })
        };
        join_all((0..TASKS / 2).map(task))
            .await
            .into_iter()
            .for_each(|done| done.unwrap());
        for bucket in 0..3 {
            let last = (0..items).filter(|item| (item + ROUNDS) % 3 == bucket);
            self.expect(&entity, bucket as i64, last.map(|item| item + ROUNDS))
                .await;
        }
    }
}

/// Checks every promise of [`Deduper`].
pub async fn deduper<D: Deduper>(deduper: D) {
    let deduper = Arc::new(deduper);
    let tokens = Tokens::new();
    let (a, b) = (Owner::new(&tokens).unwrap(), Owner::new(&tokens).unwrap());
    let claim =
        async |id: &str, owner: &Owner| deduper.claim(id, owner, Deadline::NONE).await.unwrap();
    let release =
        async |id: &str, owner: &Owner| deduper.release(id, owner, Deadline::NONE).await.unwrap();

    assert_eq!(claim("id-1", &a).await, Claim::First);
    assert_eq!(
        claim("id-1", &b).await,
        Claim::Duplicate,
        "another owner's id"
    );
    assert_eq!(
        claim("id-1", &a).await,
        Claim::First,
        "a repeated claim of one's own"
    );
    assert_eq!(claim("id-2", &b).await, Claim::First, "another id");

    release("id-1", &b).await;
    assert_eq!(
        claim("id-1", &b).await,
        Claim::Duplicate,
        "a claim is only released by its owner"
    );
    release("id-1", &a).await;
    release("id-1", &a).await;
    assert_eq!(
        claim("id-1", &b).await,
        Claim::First,
        "a released id is free"
    );
    release("never-claimed", &a).await;

    for id in ["with spaces", "ä/🦀", &"long".repeat(200)] {
        assert_eq!(claim(id, &a).await, Claim::First);
        assert_eq!(claim(id, &b).await, Claim::Duplicate);
    }

    for round in 0..ROUNDS {
        let task = |_| {
            let (deduper, owner) = (Arc::clone(&deduper), Owner::new(&tokens).unwrap());
            tokio::spawn(async move {
                deduper
                    .claim(&format!("race-{round}"), &owner, Deadline::NONE)
                    .await
                    .unwrap()
            })
        };
        let answers = join_all((0..TASKS).map(task)).await;
        let first = answers
            .into_iter()
            .filter(|answer| *answer.as_ref().unwrap() == Claim::First);
        assert_eq!(
            first.count(),
            1,
            "exactly one of {TASKS} claims is the first"
        );
    }
}

/// Checks every promise of [`Checkpoints`].
pub async fn checkpoints<C: Checkpoints>(checkpoints: C) {
    let checkpoints = Arc::new(checkpoints);
    let save =
        async |name: &str, data: &str, over| checkpoints.save(name, data, over).await.unwrap();
    let remove = async |name: &str, over| checkpoints.remove(name, over).await.unwrap();
    let load = async |name: &str| checkpoints.load(name).await.unwrap();

    assert_eq!(load("c").await, None);
    assert_eq!(
        save("c", "one", Some(1)).await,
        Saved::Conflict,
        "nothing to save over yet"
    );
    assert_eq!(save("c", "one", None).await, Saved::Version(1));
    assert_eq!(
        save("c", "one", None).await,
        Saved::Version(1),
        "one's own save, repeated"
    );
    assert_eq!(
        save("c", "other", None).await,
        Saved::Conflict,
        "there is one already"
    );
    assert_eq!(save("c", "two", Some(1)).await, Saved::Version(2));
    assert_eq!(
        save("c", "three", Some(1)).await,
        Saved::Conflict,
        "an old version"
    );
    let found = load("c").await.unwrap();
    assert_eq!((found.data.as_str(), found.version), ("two", 2));
    assert_eq!(load("d").await, None, "names are kept apart");

    for round in 0..ROUNDS {
        let version = load("c").await.unwrap().version;
        let task = |task: u64| {
            let checkpoints = Arc::clone(&checkpoints);
            tokio::spawn(async move {
                let data = format!("{round}-{task}");
                (
                    checkpoints.save("c", &data, Some(version)).await.unwrap(),
                    data,
                )
            })
        };
        let answers = join_all((0..TASKS).map(task)).await;
        let mut winners = answers
            .into_iter()
            .map(|answer| answer.unwrap())
            .filter(|(saved, _)| *saved == Saved::Version(version + 1));
        let (_, data) = winners
            .next()
            .expect("one of the concurrent saves succeeds");
        assert!(
            winners.next().is_none(),
            "only one of the concurrent saves succeeds"
        );
        assert_eq!(load("c").await.unwrap().data, data);
    }

    assert_eq!(
        remove("r", 1).await,
        Removed::Gone,
        "there was nothing to remove"
    );
    save("r", "one", None).await;
    save("r", "two", Some(1)).await;
    for other in [1, 3] {
        assert_eq!(
            remove("r", other).await,
            Removed::Conflict,
            "another version"
        );
    }
    let found = load("r").await.unwrap();
    assert_eq!(
        (found.data.as_str(), found.version),
        ("two", 2),
        "a removal that conflicts changes nothing"
    );
    assert_eq!(remove("r", 2).await, Removed::Gone);
    assert_eq!(load("r").await, None);
    assert_eq!(
        remove("r", 2).await,
        Removed::Gone,
        "one's own removal, repeated"
    );
    assert_eq!(
        save("r", "three", Some(2)).await,
        Saved::Conflict,
        "over a version that was removed"
    );
    assert_eq!(load("r").await, None, "nothing was saved");
    assert_eq!(
        save("r", "anew", None).await,
        Saved::Version(1),
        "a removed name can be used again"
    );
    assert!(load("c").await.is_some(), "other names are left alone");

    for round in 0..ROUNDS {
        let name = format!("race/{round}");
        save(&name, "start", None).await;
        let task = |task: u64| {
            let (checkpoints, name) = (Arc::clone(&checkpoints), name.clone());
            tokio::spawn(async move {
                let saves = (task + round).is_multiple_of(2);
                let won = if saves {
                    let saved = checkpoints.save(&name, &task.to_string(), Some(1)).await;
                    saved.unwrap() == Saved::Version(2)
                } else {
                    checkpoints.remove(&name, 1).await.unwrap() == Removed::Gone
                };
                (saves, won)
            })
        };
        let (mut saved, mut removed) = (0, 0);
        for answer in join_all((0..TASKS).map(task)).await {
            match answer.unwrap() {
                (true, won) => saved += u64::from(won),
                (false, won) => removed += u64::from(won),
            }
        }
        let left = load(&name).await.map(|left| left.version);
        let expected = match left {
            Some(_) => (1, 0, Some(2)),
            None => (0, TASKS / 2, None),
        };
        assert_eq!(
            (saved, removed, left),
            expected,
            "either one of the concurrent saves succeeds or the removals do"
        );
    }

    large_checkpoints(&checkpoints).await;
}

/// Checks a checkpoint that is larger than the largest piece that its store keeps.
async fn large_checkpoints<C: Checkpoints>(checkpoints: &Arc<C>) {
    let text = |name: &str, bytes: usize| name.repeat(bytes / name.len());
    let save = async |data: &str, over| checkpoints.save("large", data, over).await.unwrap();
    let load = async || checkpoints.load("large").await.unwrap();
    let found = async |data: &str, version| {
        let found = load().await.expect("it was saved");
        // Not by `assert_eq`, which would print both.
        assert!(
            found.data == data,
            "a large checkpoint is loaded as it was saved"
        );
        assert_eq!(found.version, version);
    };

    let (one, two) = (text("first €, ", 3_000_000), text("second 🦀, ", 1_000_000));
    assert_eq!(save(&one, Some(1)).await, Saved::Conflict);
    assert_eq!(load().await, None, "nothing was saved");
    assert_eq!(save(&one, None).await, Saved::Version(1));
    found(&one, 1).await;
    assert_eq!(
        save(&one, None).await,
        Saved::Version(1),
        "one's own save, repeated"
    );
    found(&one, 1).await;
    assert_eq!(
        save(&two, None).await,
        Saved::Conflict,
        "there is one already"
    );
    found(&one, 1).await;
    let other = text("other, ", 500_000);
    // The same text again, smaller, small, and large once more.
    for (over, data) in [(1, &one), (2, &two), (3, &"small".to_owned()), (4, &one)] {
        assert_eq!(save(data, Some(over)).await, Saved::Version(over + 1));
        found(data, over + 1).await;
        assert_eq!(
            save(&other, Some(over)).await,
            Saved::Conflict,
            "an old version"
        );
        found(data, over + 1).await;
    }
    assert_eq!(
        checkpoints.remove("large", 4).await.unwrap(),
        Removed::Conflict
    );
    found(&one, 5).await;
    assert_eq!(checkpoints.remove("large", 5).await.unwrap(), Removed::Gone);
    assert_eq!(load().await, None);
    assert_eq!(
        save(&one, None).await,
        Saved::Version(1),
        "a name can be used again"
    );
    found(&one, 1).await;

    for version in 1..=3 {
        let task = |task: usize| {
            let checkpoints = Arc::clone(checkpoints);
            tokio::spawn(async move {
                // Two tasks for each text, so that some take each other's saves for their own.
                let data = text(&format!("{version}-{}, ", task / 2), 500_000);
                let saved = checkpoints.save("large", &data, Some(version)).await;
                (saved.unwrap() == Saved::Version(version + 1), data)
            })
        };
        let saves = join_all((0..6).map(task));
        let loads = async {
            for _ in 0..6 {
                let found = load().await.expect("it is never gone");
                let first = found.data.split_inclusive(", ").next().unwrap();
                assert!(
                    found.data == text(first, found.data.len()),
                    "a load sees one save, whole"
                );
            }
        };
        let (answers, ()) = futures::future::join(saves, loads).await;
        let won: Vec<String> = answers
            .into_iter()
            .map(|answer| answer.unwrap())
            .filter_map(|(won, data)| won.then_some(data))
            .collect();
        let found = load().await.unwrap();
        assert_eq!(found.version, version + 1);
        assert!(
            !won.is_empty() && won.iter().all(|data| *data == found.data),
            "one text is saved, and its writer is told so"
        );
    }
}

fn key(entity: &str, bucket: i64) -> Key {
    Key::new(entity, bucket).unwrap()
}

/// A proof for tests that use rows of `pipeline` without binding them; a store's own rows are then
/// not bound.
pub fn bound(pipeline: &str) -> Bound {
    Bound::new(Binding {
        pipeline: PipelineName::new(pipeline).unwrap(),
        version: 1,
        mode: "exactly-once".into(),
        definition: "no window".into(),
        stream: None,
    })
}

/// Merges, and sends again the entries that lost to contention, since they were not applied.
async fn merge<M: Monoid, S: Store<M>>(store: &S, adds: &[Add<M::Value>]) {
    let mut pending = adds.to_vec();
    while !pending.is_empty() {
        let outcomes = store.merge(&pending, Deadline::NONE).await;
        pending = unfinished(pending, &outcomes);
    }
}

async fn apply<M: Monoid, S: ExactlyOnce<M>>(store: &S, events: &[Once<M::Value>]) -> Vec<Outcome> {
    let first = store
        .apply(&bound("conformance"), events, Deadline::NONE)
        .await;
    let mut pending = unfinished(events.to_vec(), &first);
    while !pending.is_empty() {
        let outcomes = store
            .apply(&bound("conformance"), &pending, Deadline::NONE)
            .await;
        pending = unfinished(pending, &outcomes);
    }
    first
}

async fn replace<M: Group, S: Ledger<M>>(store: &S, items: &[Replace<M::Value>]) -> Vec<Outcome> {
    let first = store
        .replace(&bound("conformance"), items, Deadline::NONE)
        .await;
    let mut pending = unfinished(items.to_vec(), &first);
    while !pending.is_empty() {
        let outcomes = store
            .replace(&bound("conformance"), &pending, Deadline::NONE)
            .await;
        pending = unfinished(pending, &outcomes);
    }
    first
}

fn unfinished<E>(entries: Vec<E>, outcomes: &[Outcome]) -> Vec<E> {
    assert_eq!(entries.len(), outcomes.len(), "one outcome per entry");
    entries
        .into_iter()
        .zip(outcomes)
        .filter(|(_, outcome)| match outcome {
            Outcome::Applied | Outcome::Duplicate | Outcome::Superseded => false,
            Outcome::Blocked => true,
            Outcome::Failed(error) => {
                assert_eq!(
                    error.fault(),
                    Fault::Contention,
                    "unexpected failure: {error:?}"
                );
                true
            }
        })
        .map(|(entry, _)| entry)
        .collect()
}
