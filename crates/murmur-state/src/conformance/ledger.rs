//! What a store does that keeps a ledger.

use std::num::NonZeroU32;
use std::sync::Arc;

use futures::future::join_all;

use super::store::Subject;
use super::support::{bound, replace, unfinished};
use super::{ROUNDS, TASKS};
use crate::store::{
    Add, ItemChange, LedgerEntry, ListSegment, MAX_KEYS, Mend, Outcome, Position, Replace,
};
use crate::time::SystemClock;
use crate::{Deadline, EventId, Fault, Group, ItemId, Ledger, SequenceNumber};

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
