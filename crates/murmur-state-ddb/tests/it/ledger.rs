//! The ledger: what it costs, and what becomes of it when requests fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use fastrand::Rng;
use murmur_state::conformance::bound;
use murmur_state::{
    Add, Binding, Bound, Clock, Deadline, EVENT_LIFE, EventId, ExactlyOnce, Fault, ItemChange,
    ItemId, Key, LEDGER_MODE, Ledger, LedgerEntry, ListSegment, MemoryStore, Mend, Outcome,
    PipelineName, Position, Read, ReadExt, Replace, SequenceNumber, StateRow, Store, StoreError,
    SystemClock,
};
use murmur_state_ddb::{Int64SumStore, Marked, TableOptions};
use murmur_testkit::Dynamo;
use murmur_testkit::wire::{Action, Request, Wire};
use serde_json::{Value, json};

use crate::support::{
    Total, add, key, marker_table, n, put_row, row, state_table, virtual_time, wire_on,
};

pub(crate) const TRANSACT: &str = "TransactWriteItems";

pub(crate) fn pipeline() -> PipelineName {
    PipelineName::new("totals").unwrap()
}

pub(crate) fn scanned(item: &str, now: Vec<Add<i64>>) -> Replace<i64> {
    Replace {
        item: ItemId::from_parts([item]),
        at: Position::Scan,
        created: None,
        now,
        keep: Vec::new(),
        change: None,
    }
}

pub(crate) fn streamed(item: &str, at: u64, now: Vec<Add<i64>>) -> Replace<i64> {
    Replace {
        at: Position::Stream(SequenceNumber::new(at.to_string()).unwrap()),
        ..scanned(item, now)
    }
}

/// A store with its markers, and the tables they are on.
pub(crate) struct Books {
    pub(crate) dynamo: Dynamo,
    pub(crate) store: Marked<Int64SumStore>,
    pub(crate) state: String,
    pub(crate) marker_table: String,
}

impl Books {
    pub(crate) async fn over(wire: &Wire) -> Self {
        Self::with(wire, TableOptions::default()).await
    }

    pub(crate) async fn with(wire: &Wire, options: TableOptions) -> Self {
        let dynamo = Dynamo::connect().await;
        let (state, marker_table) = (state_table(&dynamo).await, marker_table(&dynamo).await);
        let client = wire.client(&dynamo);
        let store = Int64SumStore::with_options(client, &*state, options);
        Self {
            store: store.unwrap().markers(&*marker_table),
            dynamo,
            state,
            marker_table,
        }
    }

    /// Another process on the same tables.
    pub(crate) fn elsewhere(&self, wire: &Wire) -> Self {
        let dynamo = Dynamo::at(self.dynamo.endpoint());
        let client = wire.client(&dynamo);
        Self {
            store: Int64SumStore::new(client, &*self.state).markers(&*self.marker_table),
            state: self.state.clone(),
            marker_table: self.marker_table.clone(),
            dynamo,
        }
    }

    pub(crate) async fn replace(&self, items: &[Replace<i64>]) -> Vec<Outcome> {
        let bound = bound("totals");
        Ledger::<Total>::replace(&self.store, &bound, items, Deadline::NONE).await
    }

    /// Sends retryable failures again until all entries are settled.
    pub(crate) async fn settle(&self, items: &[Replace<i64>]) {
        let mut pending = items.to_vec();
        for _ in 0..100 {
            let outcomes = self.replace(&pending).await;
            let mut outcomes = outcomes.into_iter();
            pending.retain(|_| !is_done(&outcomes.next().unwrap()));
            if pending.is_empty() {
                return;
            }
        }
        panic!("{} items are never settled", pending.len());
    }

    pub(crate) async fn total(&self, entity: &str) -> Option<i64> {
        self.store.get(&key(entity)).await.unwrap()
    }

    pub(crate) async fn known(&self, item: &str) -> Option<LedgerEntry<i64>> {
        let items = [ItemId::from_parts([item])];
        let bound = bound("totals");
        let known = Ledger::<Total>::known(&self.store, &bound, &items, Deadline::NONE);
        known.await.unwrap().remove(0)
    }

    /// The key of an item's row in the ledger.
    pub(crate) fn name(&self, item: &str) -> String {
        pipeline().marker("item", &[&self.state, ItemId::from_parts([item]).as_str()])
    }

    /// Does what Time to Live does when a row's time has come.
    pub(crate) async fn forget(&self, item: &str) {
        let client = self.dynamo.client();
        let delete = client.delete_item().table_name(&self.marker_table);
        let delete = delete.key("pk", crate::support::s(&self.name(item)));
        delete.send().await.unwrap();
    }

    pub(crate) async fn list(&self) -> Vec<LedgerEntry<i64>> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let bound = bound("totals");
            let part = Ledger::<Total>::list_known(
                &self.store,
                &bound,
                ListSegment::WHOLE,
                after.as_deref(),
            );
            let part = part.await.unwrap();
            all.extend(part.entries);
            after = part.next;
            if after.is_none() {
                return all;
            }
        }
    }

    /// Checks that every state row is the sum of the contributions to it.
    pub(crate) async fn audit(&self) {
        let mut sums: BTreeMap<Key, i64> = BTreeMap::new();
        for known in self.list().await {
            for add in known.now.into_iter().chain(known.kept) {
                *sums.entry(add.key).or_default() += add.value;
            }
        }
        let rows: Vec<StateRow<i64>> = self.store.list(None).await.unwrap().entries;
        let mut found: BTreeMap<Key, i64> = BTreeMap::new();
        found.extend(rows.into_iter().map(|row| (row.key, row.value)));
        sums.retain(|_, sum| *sum != 0);
        found.retain(|_, sum| *sum != 0);
        assert_eq!(found, sums);
    }
}

fn is_done(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Applied | Outcome::Duplicate | Outcome::Superseded
    )
}

pub(crate) fn kind(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Failed(error) => format!("{:?}", error.fault()),
        other => format!("{other:?}"),
    }
}

/// The number of actions of each transaction sent.
pub(crate) fn sizes(wire: &Wire) -> Vec<usize> {
    let requests = wire.requests().into_iter();
    let transactions = requests.filter(|request| request.operation == TRANSACT);
    transactions
        .map(|request| actions(&request).len())
        .collect()
}

pub(crate) fn actions(request: &Request) -> Vec<Value> {
    request.body["TransactItems"].as_array().unwrap().clone()
}

/// The place of the action on the state row of `entity`.
fn action_on(request: &Request, entity: &str) -> Option<usize> {
    let of = |action: &Value| action["Update"]["Key"]["pk"]["S"] == json!(entity);
    actions(request).iter().position(of)
}

fn cancelled(request: &Request, at: usize, code: &str) -> Action {
    cancelled_saying(request, at, code, "")
}

fn cancelled_saying(request: &Request, at: usize, code: &str, message: &str) -> Action {
    let reasons: Vec<Value> = (0..actions(request).len())
        .map(|n| match n == at {
            true => json!({ "Code": code, "Message": message }),
            false => json!({ "Code": "None" }),
        })
        .collect();
    let kind = "com.amazonaws.dynamodb.v20120810#TransactionCanceledException";
    Action::Answer {
        status: 400,
        body: json!({ "__type": kind, "message": "cancelled", "CancellationReasons": reasons })
            .to_string(),
    }
}

#[tokio::test]
async fn it_does_what_the_reference_does() {
    for seed in 0..20 {
        let settles = seed % 2 == 1;
        let books = Books::over(&Wire::calm()).await;
        let memory = MemoryStore::new(Total);
        let bound = bound("totals");
        let dice = &mut Rng::with_seed(seed);
        for _ in 0..25 {
            let adds = |dice: &mut Rng| {
                // Exactly-once adds to no row that is about to expire.
                let mut buckets: Vec<i64> = (0..if settles { 3 } else { 4 }).collect();
                dice.shuffle(&mut buckets);
                buckets.truncate(dice.usize(0..3));
                let add = |bucket| Add {
                    key: Key::new("k", bucket).unwrap(),
                    value: dice.i64(-5..10),
                    // 1970 is past on every clock.
                    ttl: (bucket == 3).then_some(1),
                };
                buckets.into_iter().map(add).collect::<Vec<_>>()
            };
            let item = |dice: &mut Rng| format!("item-{}", dice.u8(..6));
            let (ours, theirs) = if dice.u8(..4) == 0 {
                // The version of each item, or one beside it.
                let drawn: Vec<_> = (0..dice.usize(1..4))
                    .map(|_| (item(dice), dice.i64(-1..3), adds(dice)))
                    .collect();
                let theirs = memory
                    .list_known(&bound, ListSegment::WHOLE, None)
                    .await
                    .unwrap();
                let mends = |known: &[LedgerEntry<i64>]| {
                    let mend = |(item, beside, now): &(String, i64, Vec<Add<i64>>)| {
                        let item = ItemId::from_parts([item.as_str()]);
                        let known = known.iter().find(|known| known.item == item);
                        let version = known.map(|known| known.version);
                        Mend {
                            over: version.map(|version| version.wrapping_add_signed(*beside)),
                            item,
                            now: now.clone(),
                        }
                    };
                    drawn.iter().map(mend).collect::<Vec<_>>()
                };
                let (ours, theirs) = (mends(&books.list().await), mends(&theirs.entries));
                let store = &books.store;
                let ours = Ledger::<Total>::mend(store, &bound, &ours, Deadline::NONE);
                let theirs = memory.mend(&bound, &theirs, Deadline::NONE);
                (ours.await, theirs.await)
            } else {
                let entries = dice.usize(1..12);
                let mut batch = Vec::new();
                for _ in 0..entries {
                    let (item, now) = (item(dice), adds(dice));
                    batch.push(match dice.u8(..4) {
                        0 => scanned(&item, now),
                        more => {
                            let at = dice.u64(1..20);
                            let change = ItemChange {
                                id: EventId::new(format!("{item}-{at}")).unwrap(),
                                handed_over: SystemClock::shared().now(),
                                before: adds(dice),
                                settles: dice.bool(),
                            };
                            Replace {
                                keep: if more == 1 { adds(dice) } else { Vec::new() },
                                change: (settles && dice.u8(..8) > 0).then_some(change),
                                ..streamed(&item, at, now)
                            }
                        }
                    });
                }
                // One call may make one of several changes of an item.
                let mut items = BTreeSet::new();
                batch.retain(|entry| !settles || items.insert(entry.item.clone()));
                let ours = books.replace(&batch);
                let theirs = memory.replace(&bound, &batch, Deadline::NONE);
                (ours.await, theirs.await)
            };
            let kinds = |outcomes: Vec<Outcome>| outcomes.iter().map(kind).collect::<Vec<_>>();
            assert_eq!(kinds(ours), kinds(theirs), "seed {seed}");
        }
        // Bucket 3 may be gone. A contribution that was added to it and taken back at once may be
        // there or not.
        for bucket in 0..3 {
            let key = Key::new("k", bucket).unwrap();
            let (ours, theirs) = (books.store.get(&key).await, memory.get(&key).await);
            assert_eq!(ours.unwrap(), theirs.unwrap(), "seed {seed}: {key}");
        }
        let by_item = |known: Vec<LedgerEntry<i64>>| -> BTreeMap<ItemId, LedgerEntry<i64>> {
            // Each store counts versions in its own way.
            let known = known.into_iter().map(|known| LedgerEntry {
                version: 0,
                ..known
            });
            known.map(|known| (known.item.clone(), known)).collect()
        };
        let theirs = memory
            .list_known(&bound, ListSegment::WHOLE, None)
            .await
            .unwrap();
        assert_eq!(by_item(books.list().await), by_item(theirs.entries));
    }
}

#[tokio::test]
async fn a_page_takes_as_few_writes_as_can_be() {
    let wire = Wire::calm();
    let books = Books::over(&wire).await;
    let page: Vec<_> = (0..1000)
        .map(|n| scanned(&format!("item-{n}"), vec![add(&format!("k{}", n % 7), 1)]))
        .collect();
    let outcomes = books.replace(&page).await;
    assert!(outcomes.iter().all(|one| matches!(one, Outcome::Applied)));
    // A ledger row for each item, and a state row wherever one of 7 keys begins or a transaction of
    // 100 ends. Nothing is read.
    let sizes = sizes(&wire);
    assert_eq!(sizes.len(), 11, "{sizes:?}");
    assert!(sizes.iter().sum::<usize>() <= 1000 + 7 + 11, "{sizes:?}");
    assert_eq!(wire.count("BatchGetItem"), 0);
    assert_eq!(books.total("k0").await, Some(143));
    books.audit().await;

    // Again, as after a crash. Each transaction is refused once, and nothing is written.
    let outcomes = books.replace(&page).await;
    assert!(outcomes.iter().all(|one| matches!(one, Outcome::Duplicate)));
    assert_eq!(wire.count(TRANSACT), 22);
    books.audit().await;
}

#[tokio::test]
async fn a_batch_of_changes_reads_first_and_an_items_changes_become_one() {
    let wire = Wire::calm();
    let books = Books::over(&wire).await;
    let batch: Vec<_> = (1..=30)
        .map(|at| streamed("busy", at, vec![add("a", at as i64)]))
        .chain((0..60).map(|n| streamed(&format!("other-{n}"), 1, vec![add("a", 1)])))
        .collect();
    let outcomes = books.replace(&batch).await;
    assert!(outcomes.iter().all(|one| matches!(one, Outcome::Applied)));
    assert_eq!(sizes(&wire), [61 + 1]);
    assert_eq!(wire.count("BatchGetItem"), 1);
    assert_eq!(books.total("a").await, Some(90));

    let outcomes = books.replace(&batch[28..31]).await;
    assert!(
        matches!(
            outcomes[..],
            [Outcome::Superseded, Outcome::Duplicate, Outcome::Duplicate]
        ),
        "{outcomes:?}"
    );
    assert_eq!(
        wire.count(TRANSACT),
        1,
        "what changes nothing is not written"
    );
}

#[tokio::test]
async fn what_is_taken_back_and_put_back_writes_no_row_of_state() {
    let wire = Wire::calm();
    let books = Books::over(&wire).await;
    books.settle(&[streamed("x", 1, vec![add("a", 5)])]).await;
    books.settle(&[streamed("x", 2, vec![add("a", 5)])]).await;
    // A put of one row, at half the price of a transaction.
    assert_eq!((sizes(&wire), wire.count("PutItem")), (vec![2], 1));
    let versions = books.known("x").await.unwrap().version;
    books.settle(&[streamed("x", 3, vec![add("a", 5)])]).await;
    assert_eq!(books.known("x").await.unwrap().version, versions + 1);
}

#[tokio::test]
async fn lost_answers_count_once() {
    let lost = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&lost);
    let wire = wire_on(TRANSACT, move |request| match request.nth % 3 {
        0 => {
            seen.fetch_add(1, Ordering::Relaxed);
            match request.nth % 2 {
                0 => Action::lose_answer(),
                _ => Action::DropAfter,
            }
        }
        _ => Action::Pass,
    });
    let books = Books::over(&wire).await;
    let dice = &mut Rng::with_seed(7);
    let mut last = BTreeMap::new();
    for at in 1..60 {
        let batch: Vec<_> = (0..dice.usize(1..5))
            .map(|n| {
                let (item, value) = (format!("item-{}", dice.u8(..8)), dice.i64(1..100));
                let at = at * 10 + n as u64;
                let entity = format!("k{}", dice.u8(..3));
                last.insert(item.clone(), (entity.clone(), value));
                streamed(&item, at, vec![add(&entity, value)])
            })
            .collect();
        books.settle(&batch).await;
    }
    assert!(lost.load(Ordering::Relaxed) > 10);
    for entity in ["k0", "k1", "k2"] {
        let wanted = last.values().filter(|(of, _)| of == entity);
        let wanted: i64 = wanted.map(|(_, value)| value).sum();
        assert_eq!(books.total(entity).await, Some(wanted));
    }
    books.audit().await;
}

/// A wire on which another process does `work` just before the first of these requests arrives.
pub(crate) fn meanwhile<W>(
    operation: &'static str,
    work: impl Fn() -> W + Send + Sync + 'static,
) -> Wire
where
    W: Future<Output = ()> + Send + 'static,
{
    wire_on(operation, move |request| {
        if request.nth == 0 {
            let work = work();
            let other = std::thread::spawn(move || {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                runtime.enable_all().build().unwrap().block_on(work);
            });
            other.join().unwrap();
        }
        Action::Pass
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_an_item_meanwhile_is_noticed() {
    let first = Arc::new(Books::over(&Wire::calm()).await);
    first.settle(&[streamed("x", 1, vec![add("a", 5)])]).await;
    for (at, wanted, totals) in [
        (2, Outcome::Superseded, (0, 9)),
        (4, Outcome::Applied, (7, 0)),
    ] {
        let other = Arc::clone(&first);
        let wire = meanwhile(TRANSACT, move || {
            let other = Arc::clone(&other);
            async move { other.settle(&[streamed("x", 3, vec![add("b", 9)])]).await }
        });
        let books = first.elsewhere(&wire);
        let outcomes = books.replace(&[streamed("x", at, vec![add("a", 7)])]).await;
        assert_eq!(kind(&outcomes[0]), kind(&wanted));
        let found = (books.total("a").await, books.total("b").await);
        assert_eq!(found, (Some(totals.0), Some(totals.1)));
        books.audit().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_was_forgotten_and_made_anew_is_not_taken_for_the_one_that_was_read() {
    let (clock, options) = virtual_time();
    let first = Arc::new(Books::with(&Wire::calm(), options).await);
    first.settle(&[streamed("x", 1, Vec::new())]).await;
    let change = || streamed("x", 2, vec![add("a", 5)]);
    let other = Arc::clone(&first);
    let wire = meanwhile(TRANSACT, move || {
        let (other, clock) = (Arc::clone(&other), clock.clone());
        async move {
            clock.advance(Duration::from_secs(48 * 3600));
            other.forget("x").await;
            other.settle(&[change()]).await;
        }
    });
    let books = first.elsewhere(&wire);
    let outcomes = books.replace(&[change()]).await;
    assert!(matches!(outcomes[..], [Outcome::Duplicate]), "{outcomes:?}");
    assert_eq!(books.total("a").await, Some(5));
    books.audit().await;
}

#[tokio::test]
async fn what_is_kept_is_forgotten_with_its_row() {
    let (clock, options) = virtual_time();
    let books = Books::with(&Wire::calm(), options).await;
    let day = Duration::from_secs(24 * 3600);
    let until = |days: u32| Add {
        ttl: Some(clock.now().plus(day * days).as_secs()),
        key: key(&format!("until {days}")),
        value: 1,
    };
    let expired = Replace {
        keep: vec![until(1), until(9)],
        ..streamed("x", 1, Vec::new())
    };
    books.settle(&[expired]).await;
    clock.advance(day * 2);
    books.settle(&[streamed("x", 2, vec![add("a", 1)])]).await;
    let kept = books.known("x").await.unwrap().kept;
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].key, key("until 9"));
    // Time to Live has not removed it yet.
    assert_eq!(books.total("until 1").await, Some(1));
    assert_eq!(books.total("until 9").await, Some(1));
}

#[tokio::test]
async fn what_follows_a_change_that_does_not_fit_waits_for_it() {
    let wire = wire_on(TRANSACT, |request| {
        let message = "Item size to update has exceeded the maximum allowed size";
        cancelled_saying(request, 0, "ValidationError", message)
    });
    let books = Books::over(&wire).await;
    let expired = Replace {
        keep: vec![add("a", 1)],
        ..streamed("x", 1, Vec::new())
    };
    let outcomes = books
        .replace(&[expired, streamed("x", 2, vec![add("a", 7)])])
        .await;
    assert_eq!(
        outcomes.iter().map(kind).collect::<Vec<_>>(),
        ["Setup", "Blocked"]
    );
}

#[tokio::test]
async fn a_row_of_the_ledger_that_is_broken_is_named_and_fails_nobody_else() {
    let books = Books::over(&Wire::calm()).await;
    let client = books.dynamo.client();
    let broken = client.put_item().table_name(&books.marker_table);
    let broken = broken
        .item("pk", crate::support::s(&books.name("broken")))
        .item("ver", n(1))
        .item(
            "item",
            crate::support::s(ItemId::from_parts(["broken"]).as_str()),
        )
        .item("now", crate::support::s("much"));
    broken.send().await.unwrap();
    let batch = [
        streamed("broken", 2, vec![add("a", 1)]),
        streamed("sound", 2, vec![add("a", 10)]),
        // The item is assumed to be unknown.
        scanned("broken", vec![add("a", 100)]),
    ];
    for batch in [&batch[..2], &batch[1..]] {
        let outcomes = books.replace(batch).await;
        let failed = outcomes.iter().find_map(|outcome| match outcome {
            Outcome::Failed(error) => Some(error.to_string()),
            _ => None,
        });
        let failed = failed.expect("the broken one");
        assert!(
            failed.contains(&books.name("broken")) && failed.contains(&books.marker_table),
            "{failed}"
        );
        assert_eq!(
            outcomes.iter().filter(|outcome| is_done(outcome)).count(),
            1
        );
    }
    assert_eq!(books.total("a").await, Some(10));
    let bound = bound("totals");
    let listed = Ledger::<Total>::list_known(&books.store, &bound, ListSegment::WHOLE, None).await;
    let error = listed.unwrap_err().to_string();
    assert!(error.contains(&books.name("broken")), "{error}");
}

#[tokio::test]
async fn what_fails_is_named_by_its_own_table() {
    for (at, code, wanted) in [
        (0, "ThrottlingError", "Contention"),
        (1, "ThrottlingError", "Contention"),
        (0, "SomethingNew", "Setup"),
    ] {
        let wire = wire_on(TRANSACT, move |request| cancelled(request, at, code));
        let books = Books::over(&wire).await;
        let outcomes = books.replace(&[streamed("x", 1, vec![add("a", 1)])]).await;
        assert_eq!(kind(&outcomes[0]), wanted);
        let Outcome::Failed(error) = &outcomes[0] else {
            panic!("{outcomes:?}")
        };
        let table = [&books.marker_table, &books.state][at];
        assert!(error.to_string().contains(table.as_str()), "{error}");
        assert_eq!(
            error.to_string().contains(code),
            wanted == "Setup",
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sum_composed_from_an_outdated_item_proves_no_overflow() {
    let first = Arc::new(Books::over(&Wire::calm()).await);
    first.settle(&[streamed("x", 1, vec![add("a", 5)])]).await;
    let other = Arc::clone(&first);
    let wire = meanwhile(TRANSACT, move || {
        let other = Arc::clone(&other);
        async move {
            let most = vec![add("a", i64::MAX)];
            other.settle(&[streamed("x", 2, most)]).await;
        }
    });
    // From the value read it is two more than that, which fits in no row.
    let books = first.elsewhere(&wire);
    let outcomes = books.replace(&[streamed("x", 3, vec![add("a", 7)])]).await;
    assert!(matches!(outcomes[..], [Outcome::Applied]), "{outcomes:?}");
    assert_eq!(books.total("a").await, Some(7));
}

#[tokio::test]
async fn a_row_that_conflicts_fails_nobody_else() {
    let (_, options) = virtual_time();
    let wire = wire_on(TRANSACT, |request| match action_on(request, "hot") {
        Some(at) if request.nth < 4 => cancelled(request, at, "TransactionConflict"),
        _ => Action::Pass,
    });
    let books = Books::with(&wire, options).await;
    let page: Vec<_> = (0..60)
        .map(|n| {
            let entity = if n % 3 == 0 { "hot" } else { "cold" };
            scanned(&format!("item-{n}"), vec![add(entity, 1)])
        })
        .collect();
    let outcomes = books.replace(&page).await;
    assert!(outcomes.iter().all(|one| matches!(one, Outcome::Applied)));
    let sizes = sizes(&wire);
    assert_eq!(sizes[0], 62, "at first all are together: {sizes:?}");
    let mut apart = sizes[1..].to_vec();
    apart.sort_unstable();
    assert_eq!(
        apart.last(),
        Some(&41),
        "then the others go by themselves: {sizes:?}"
    );
    assert!(
        apart[..apart.len() - 1].iter().all(|size| *size == 21),
        "{sizes:?}"
    );
    assert_eq!(books.total("hot").await, Some(20));
    books.audit().await;
}

#[tokio::test]
async fn conflicts_without_end_are_told_and_nothing_is_written() {
    let (_, options) = virtual_time();
    let wire = wire_on(TRANSACT, |request| {
        cancelled(request, 0, "TransactionConflict")
    });
    let books = Books::with(&wire, options).await;
    let outcomes = books.replace(&[scanned("x", vec![add("a", 1)])]).await;
    assert!(
        matches!(
            &outcomes[..],
            [Outcome::Failed(StoreError::Conflict { .. })]
        ),
        "{outcomes:?}"
    );
    assert_eq!((wire.count(TRANSACT), books.total("a").await), (11, None));
}

#[tokio::test]
async fn a_failure_that_is_nobodys_fault_stops_its_rows_only() {
    let options = TableOptions::default().concurrency(1);
    let wire = wire_on(TRANSACT, |request| match action_on(request, "down") {
        Some(_) => Action::error(500, "InternalServerError", "down"),
        None => Action::Pass,
    });
    let books = Books::with(&wire, options).await;
    let page: Vec<_> = (0..250)
        .map(|n| {
            let entity = if n < 150 { "down" } else { "up" };
            scanned(&format!("item-{n:03}"), vec![add(entity, 1)])
        })
        .collect();
    let outcomes = books.replace(&page).await;
    let count = |wanted: &str| outcomes.iter().filter(|one| kind(one) == wanted).count();
    // Items that share a transaction with the row fail with it, and are done when sent again.
    assert_eq!(
        count("Transient") + count("Blocked") + count("Applied"),
        250
    );
    assert!(
        count("Applied") >= 50 && count("Blocked") > 0,
        "{}",
        count("Applied")
    );
    let sent: Vec<_> = wire.requests();
    let down = sent.iter().filter(|sent| sent.operation == TRANSACT);
    let down = down
        .filter(|sent| action_on(sent, "down").is_some())
        .count();
    assert_eq!(down, 1, "after one failure the row is left alone");
    books.audit().await;
}

#[tokio::test]
async fn an_overflow_is_blamed_on_the_one_entry_that_overflows() {
    let books = Books::over(&Wire::calm()).await;
    books
        .settle(&[scanned("base", vec![add("a", i64::MAX - 10)])])
        .await;
    let batch = [
        streamed("one", 1, vec![add("a", 4)]),
        streamed("two", 1, vec![add("b", 3)]),
        // Only the middle one of the item's changes does not fit, and the last one counts.
        streamed("three", 1, vec![add("a", 1)]),
        streamed("three", 2, vec![add("a", i64::MAX), add("b", 7)]),
        streamed("four", 1, vec![add("a", 100), add("b", 100)]),
    ];
    let outcomes = books.replace(&batch).await;
    let kinds: Vec<_> = outcomes.iter().map(kind).collect();
    assert_eq!(kinds, ["Applied", "Applied", "Applied", "Record", "Record"]);
    assert_eq!(books.total("a").await, Some(i64::MAX - 5));
    assert_eq!(books.total("b").await, Some(3));
    books.audit().await;
    let outcomes = books
        .replace(&[streamed("three", 3, vec![add("b", 2)])])
        .await;
    assert!(matches!(outcomes[..], [Outcome::Applied]), "{outcomes:?}");
    assert_eq!(books.total("b").await, Some(5));
    books.audit().await;
}

#[tokio::test]
async fn a_number_that_makes_a_whole_request_invalid_is_found() {
    let wire = wire_on(TRANSACT, |request| match action_on(request, "bad") {
        Some(_) => Action::error(
            400,
            "ValidationException",
            "Number overflow. Attempting to store a number with magnitude larger than supported \
             range",
        ),
        None => Action::Pass,
    });
    let books = Books::over(&wire).await;
    let batch: Vec<_> = (0..40)
        .map(|n| {
            scanned(
                &format!("item-{n}"),
                vec![add(if n == 17 { "bad" } else { "a" }, 1)],
            )
        })
        .collect();
    let outcomes = books.replace(&batch).await;
    for (n, outcome) in outcomes.iter().enumerate() {
        let wanted = if n == 17 { "Record" } else { "Applied" };
        assert_eq!(kind(outcome), wanted, "item {n}");
    }
    assert_eq!(books.total("a").await, Some(39));
    books.audit().await;
}

#[tokio::test]
async fn a_transaction_cancelled_for_the_set_up_blames_no_item() {
    for message in [
        "One or more parameter values were invalid.",
        "The update expression attempted to update the secondary index key beyond allowed size \
         limits.",
        "Nesting Levels have exceeded supported limits.",
    ] {
        let wire = wire_on(TRANSACT, move |request| {
            let last = actions(request).len() - 1;
            cancelled_saying(request, last, "ValidationError", message)
        });
        let books = Books::over(&wire).await;
        let batch: Vec<_> = (0..9)
            .map(|n| scanned(&format!("item-{n}"), vec![add("a", 1)]))
            .collect();
        let outcomes = books.replace(&batch).await;
        let kinds: Vec<_> = outcomes.iter().map(kind).collect();
        assert_eq!(kinds, ["Setup"; 9], "{message}");
        assert_eq!(wire.count(TRANSACT), 1, "{message}");
    }
}

#[tokio::test]
async fn rows_of_another_mode_are_refused_and_their_neighbours_count() {
    let books = Books::over(&Wire::calm()).await;
    let client = books.dynamo.client();
    put_row(&client, &books.state, "plain", &[("v", n(3))]).await;
    let batch = [
        streamed("x", 1, vec![add("plain", 1)]),
        streamed("y", 1, vec![add("a", 1)]),
        streamed("z", 1, vec![add("a", 1), add("plain", 1)]),
    ];
    let outcomes = books.replace(&batch).await;
    assert!(
        matches!(
            &outcomes[..],
            [
                Outcome::Failed(StoreError::OtherMode { .. }),
                Outcome::Applied,
                Outcome::Failed(StoreError::OtherMode { .. })
            ]
        ),
        "{outcomes:?}"
    );
    assert_eq!(books.total("plain").await, Some(3));
    // And the other way round.
    let merged = Store::<Total>::merge(&books.store, &[add("a", 1)], Deadline::NONE).await;
    assert!(
        matches!(&merged[..], [Outcome::Failed(StoreError::OtherMode { .. })]),
        "{merged:?}"
    );
}

pub(crate) fn binding(stream: Option<&str>) -> Binding {
    Binding {
        pipeline: pipeline(),
        version: 1,
        mode: LEDGER_MODE.into(),
        definition: "days".into(),
        stream: stream.map(Into::into),
    }
}

pub(crate) async fn bind(books: &Books, binding: &Binding) -> Result<Bound, StoreError> {
    ExactlyOnce::<Total>::bind(&books.store, binding, Deadline::NONE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_somebody_else_begins_at_the_same_time_is_ones_own() {
    let other = Arc::new(Books::over(&Wire::calm()).await);
    let first = Arc::clone(&other);
    // Between the read of the control rows and the one for any rows.
    let wire = meanwhile("Scan", move || {
        let first = Arc::clone(&first);
        async move {
            bind(&first, &binding(Some("arn/1"))).await.unwrap();
            first.settle(&[scanned("x", vec![add("a", 1)])]).await;
        }
    });
    let books = other.elsewhere(&wire);
    bind(&books, &binding(Some("arn/1"))).await.unwrap();
    assert_eq!(wire.count("Scan"), 1);
}

#[tokio::test]
async fn a_ledger_begins_in_an_empty_table_and_stays_with_its_stream() {
    let books = Books::over(&Wire::calm()).await;
    let client = books.dynamo.client();
    put_row(&client, &books.state, "old", &[("v", n(3))]).await;
    let error = bind(&books, &binding(None)).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Setup);
    assert!(error.to_string().contains("empty state table"), "{error}");
    let rows = async |table: &str| {
        let rows = client.scan().table_name(table).send().await;
        rows.unwrap().items().len()
    };
    assert_eq!(
        (rows(&books.state).await, rows(&books.marker_table).await),
        (1, 0)
    );

    let books = Books::over(&Wire::calm()).await;
    bind(&books, &binding(Some("arn/1"))).await.unwrap();
    books.settle(&[scanned("x", vec![add("a", 1)])]).await;
    bind(&books, &binding(None)).await.unwrap();
    let error = bind(&books, &binding(Some("arn/2"))).await.unwrap_err();
    assert!(matches!(error, StoreError::OtherOwner { .. }), "{error}");
    let live = Binding {
        mode: "exactly-once".into(),
        ..binding(Some("arn/1"))
    };
    let error = bind(&books, &live).await.unwrap_err();
    assert!(matches!(error, StoreError::OtherOwner { .. }), "{error}");
}

#[tokio::test]
async fn what_may_be_forgotten_is_not_counted_anew() {
    let (clock, options) = virtual_time();
    let books = Books::with(&Wire::calm(), options).await;
    let aged = |item: &str, at, age: Duration| Replace {
        created: Some(clock.now().minus(age)),
        ..streamed(item, at, vec![add("a", 1)])
    };
    let old = EVENT_LIFE + Duration::from_secs(1);
    let batch = [
        aged("unknown", 5, old),
        aged("young", 5, EVENT_LIFE),
        // A known item cannot have been removed from the ledger.
        streamed("known", 1, vec![add("a", 10)]),
        aged("known", 5, old),
    ];
    let outcomes = books.replace(&batch).await;
    assert!(
        matches!(
            &outcomes[..],
            [
                Outcome::Failed(StoreError::TooOld { .. }),
                Outcome::Applied,
                Outcome::Applied,
                Outcome::Applied
            ]
        ),
        "{outcomes:?}"
    );
    assert_eq!(books.total("a").await, Some(2));
}

#[tokio::test]
async fn only_what_contributes_nothing_that_lasts_is_forgotten() {
    let (clock, options) = virtual_time();
    let books = Books::with(&Wire::calm(), options).await;
    let (now, day) = (clock.now().as_secs(), 24 * 3600);
    let ends = |days: i64| Add {
        ttl: Some(now + days * day),
        ..add("daily", 1)
    };
    let batch = [
        streamed("gone", 1, Vec::new()),
        streamed("there", 1, vec![add("a", 1)]),
        streamed("kept", 1, vec![add("a", 1)]),
        Replace {
            keep: vec![add("a", 1)],
            ..streamed("kept", 2, Vec::new())
        },
        streamed("daily", 1, vec![ends(30)]),
        streamed(
            "ending",
            1,
            vec![Add {
                key: key("ending"),
                ..ends(1)
            }],
        ),
        streamed("both", 1, vec![ends(30), add("a", 1)]),
    ];
    books.settle(&batch).await;
    let life = now + 2 * day;
    for (item, wanted) in [
        ("gone", Some(life)),
        ("there", None),
        ("kept", None),
        ("daily", Some(now + 30 * day)),
        ("ending", Some(life)),
        ("both", None),
    ] {
        let found = books.dynamo.client().get_item();
        let found = found.table_name(&books.marker_table);
        let name = crate::support::s(&books.name(item));
        let found = found.key("pk", name).send().await.unwrap().item.unwrap();
        assert_eq!(found.get("ttl").cloned(), wanted.map(n), "{item}");
    }
}

#[tokio::test]
async fn a_row_that_time_to_live_removed_is_left_alone_and_one_that_is_lost_is_told() {
    let (clock, options) = virtual_time();
    let books = Books::with(&Wire::calm(), options).await;
    let client = books.dynamo.client();
    let soon = Add {
        // The time has passed on the clock of Time to Live, which may be ahead.
        ttl: Some(clock.now().plus(Duration::from_secs(3600)).as_secs()),
        ..add("over", 5)
    };
    let first = [
        streamed("x", 1, vec![soon, add("a", 5)]),
        streamed("y", 1, vec![add("lost", 5)]),
        streamed("z", 1, vec![add("a", 7)]),
    ];
    books.settle(&first).await;
    for entity in ["over", "lost"] {
        let delete = client.delete_item().table_name(&books.state);
        let delete = delete.key("pk", crate::support::s(entity)).key("sk", n(0));
        delete.send().await.unwrap();
    }
    let gone = |item: &str| streamed(item, 2, Vec::new());
    let outcomes = books.replace(&[gone("x"), gone("y"), gone("z")]).await;
    assert_eq!(
        outcomes.iter().map(kind).collect::<Vec<_>>(),
        ["Applied", "Setup", "Applied"]
    );
    assert!(row(&client, &books.state, "over").await.is_none());
    assert!(row(&client, &books.state, "lost").await.is_none());
    assert_eq!(books.total("a").await, Some(0));
    let Outcome::Failed(error) = &outcomes[1] else {
        panic!("{outcomes:?}")
    };
    let error = error.to_string();
    assert!(
        error.contains("lost") && error.contains(&books.state),
        "{error}"
    );
}

#[tokio::test]
async fn what_was_composed_long_ago_is_composed_anew() {
    let (clock, options) = virtual_time();
    let held = Arc::new(AtomicBool::new(true));
    let (time, once) = (clock.clone(), Arc::clone(&held));
    // The process is suspended after the read.
    let wire = wire_on("BatchGetItem", move |_| {
        if once.swap(false, Ordering::Relaxed) {
            time.advance(Duration::from_secs(3600));
        }
        Action::Pass
    });
    let books = Books::with(&wire, options).await;
    books.settle(&[streamed("x", 1, vec![add("a", 5)])]).await;
    assert_eq!((wire.count("BatchGetItem"), wire.count(TRANSACT)), (2, 1));
    books.audit().await;
}

#[tokio::test]
async fn after_the_deadline_nothing_is_sent() {
    let (clock, options) = virtual_time();
    let wire = Wire::calm();
    let books = Books::with(&wire, options).await;
    let deadline = Deadline::within(&clock, Duration::from_secs(3600));
    clock.advance(Duration::from_secs(3601));
    let bound = bound("totals");
    for item in [
        scanned("x", vec![add("a", 1)]),
        streamed("x", 1, vec![add("a", 1)]),
    ] {
        let items = [item];
        let outcomes = Ledger::<Total>::replace(&books.store, &bound, &items, deadline);
        let outcomes = outcomes.await;
        assert!(
            matches!(
                &outcomes[..],
                [Outcome::Failed(StoreError::DeadlinePassed { .. })]
            ),
            "{outcomes:?}"
        );
    }
    assert_eq!((wire.count(TRANSACT), wire.count("BatchGetItem")), (0, 0));
}

#[tokio::test]
async fn items_of_long_names_are_listed_under_them_and_other_ledgers_are_not() {
    let books = Books::over(&Wire::calm()).await;
    let long = "x".repeat(2000);
    books
        .settle(&[
            scanned(&long, vec![add("a", 1)]),
            scanned("short", vec![add("a", 1)]),
        ])
        .await;
    // The ledger of another state table of the same pipeline, in the same marker table.
    let other = Int64SumStore::new(books.dynamo.client(), state_table(&books.dynamo).await);
    let other = other.markers(&*books.marker_table);
    let items = [scanned("elsewhere", vec![add("a", 1)])];
    let bound = bound("totals");
    Ledger::<Total>::replace(&other, &bound, &items, Deadline::NONE).await;
    let listed: BTreeSet<_> = books
        .list()
        .await
        .into_iter()
        .map(|known| known.item)
        .collect();
    let wanted = [long.as_str(), "short"].map(|item| ItemId::from_parts([item]));
    assert_eq!(listed, BTreeSet::from(wanted));
}

#[tokio::test]
async fn the_wait_for_a_row_of_another_batch_ends_at_the_deadline() {
    let (clock, options) = virtual_time();
    let wire = wire_on("TransactWriteItems", |_| Action::Hang);
    let books = Books::with(&wire, options).await;
    let bound = bound("totals");
    let replace = |items, deadline| Ledger::<Total>::replace(&books.store, &bound, items, deadline);
    let one = [scanned("x", vec![add("a", 1)])];
    let other = [scanned("y", vec![add("a", 1)])];
    let mut holds = Box::pin(replace(&one[..], Deadline::NONE));
    assert!(futures::poll!(holds.as_mut()).is_pending());
    let minute = Duration::from_secs(60);
    let mut waits = Box::pin(replace(&other[..], Deadline::within(&clock, minute)));
    assert!(futures::poll!(waits.as_mut()).is_pending());
    clock.advance(minute);
    let outcomes = futures::poll!(waits.as_mut());
    assert!(
        matches!(
            &outcomes,
            std::task::Poll::Ready(outcomes)
                if matches!(&outcomes[..], [Outcome::Failed(StoreError::DeadlinePassed { .. })])
        ),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn conflicts_are_waited_for_until_the_deadline_and_no_longer() {
    let (clock, options) = virtual_time();
    let body = r#"{"__type":"com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "CancellationReasons":[{"Code":"TransactionConflict"},{"Code":"TransactionConflict"}]}"#;
    let wire = wire_on("TransactWriteItems", move |_| Action::Answer {
        status: 400,
        body: body.to_owned(),
    });
    let books = Books::with(&wire, options.random(murmur_state::Random::seeded(4))).await;
    let (bound, item) = (bound("totals"), [scanned("x", vec![add("a", 1)])]);
    let deadline = Deadline::within(&clock, Duration::from_millis(30));
    let replaced = Ledger::<Total>::replace(&books.store, &bound, &item, deadline);
    let outcomes = replaced.await;
    assert!(
        matches!(
            &outcomes[..],
            [Outcome::Failed(StoreError::DeadlinePassed { .. })]
        ),
        "{outcomes:?}"
    );
    assert!(!deadline.passed(&clock), "it ends before, not after");
}

#[tokio::test]
async fn a_page_as_late_as_may_be_finds_the_item_s_end_remembered_however_short_the_horizon() {
    let (clock, options) = virtual_time();
    let books = Books::with(&Wire::calm(), options).await;
    let horizon = Duration::from_secs(1);
    let markers = books.store.deduper().clone();
    let markers = markers.horizon_below_a_streams(horizon).unwrap();
    let books = Books {
        store: books.store.store().clone().markers(markers),
        ..books
    };
    books.settle(&[streamed("x", 1, Vec::new())]).await;
    let rows = books.dynamo.client().scan().table_name(&books.marker_table);
    let rows = rows.send().await.unwrap();
    let ttl: i64 = rows.items()[0]["ttl"].as_n().unwrap().parse().unwrap();
    let page = Duration::from_secs((60 + 15) * 60);
    let clocks = Duration::from_secs(2 * 45 * 60);
    assert!(ttl >= clock.now().plus(page + clocks).as_secs(), "{ttl}");
}

#[tokio::test]
async fn what_earlier_items_left_is_bounded_and_the_record_past_it_is_to_blame() {
    let books = Books::over(&Wire::calm()).await;
    let long = "k".repeat(1800);
    let mut refused = None;
    for round in 0..200_u64 {
        let keys = (0..4).map(|n| add(&format!("{long}{round}-{n}"), 1));
        let entry = Replace {
            keep: keys.collect(),
            ..streamed("x", round + 1, Vec::new())
        };
        if let [Outcome::Failed(error)] = &books.replace(&[entry]).await[..] {
            refused = Some((round, error.clone()));
            break;
        }
    }
    let (round, error) = refused.expect("a row must not grow without bound");
    assert!(round > 20, "{round}");
    assert_eq!(error.fault(), Fault::Record, "{error}");
    assert!(error.to_string().contains("retention"), "{error}");
    // The item itself goes on.
    books
        .settle(&[streamed("x", 1000, vec![add("a", 5)])])
        .await;
    assert_eq!(books.total("a").await, Some(5));
}
