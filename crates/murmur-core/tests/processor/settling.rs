//! Pipelines whose items leave the ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use murmur_core::{
    AttributeValue, BuildError, Change, Decoded, Decoder, EventName, Item, Pipeline, Processor,
    ProcessorBuilder, Record, RecordError, RecordOutcome, Side, Sum,
};
use murmur_state::conformance::bound;
use murmur_state::{
    Deadline, ItemId, Ledger, LedgerEntry, ManualClock, MemoryStore, SequenceNumber,
};

use crate::support::{Order, change, clock, item, order, scanned, value};
use crate::{error, outcomes};

/// A pipeline that settles, and the state that its processes share.
struct World {
    store: MemoryStore<Sum>,
    clock: ManualClock,
    rejected: Arc<AtomicUsize>,
}

impl World {
    fn new() -> Self {
        Self {
            store: MemoryStore::new(Sum::new()),
            clock: clock(),
            rejected: Arc::default(),
        }
    }

    fn pipeline(&self, keeps_expired: bool) -> Pipeline<Order> {
        let definition = Pipeline::builder("totals")
            // Several customers, separated by commas.
            .keys(|o: &Order, out| o.customer.split(',').for_each(out))
            .value(|o| o.cents)
            .aggregate(Sum::new())
            .settle();
        let definition = match keeps_expired {
            true => definition.keep_expired_items(),
            false => definition,
        };
        let stored = definition.store(self.store.clone());
        stored.ledger().unwrap()
    }

    fn builder(&self) -> ProcessorBuilder<Order> {
        Processor::builder([self.pipeline(false)]).clock(Arc::new(self.clock.clone()))
    }

    /// A process that passes over records that can never count.
    fn process(&self) -> Processor<Order> {
        let rejected = Arc::clone(&self.rejected);
        let builder = self.builder().on_rejected(move |_| {
            rejected.fetch_add(1, Ordering::Relaxed);
            async { Ok(()) }
        });
        builder.build().unwrap()
    }

    /// A process that knows that items settle.
    async fn settling(&self) -> Processor<Order> {
        let processor = self.process();
        processor.bind(None, Deadline::NONE).await.unwrap();
        processor.settle(Deadline::NONE).await.unwrap();
        processor
    }

    fn rejections(&self) -> usize {
        self.rejected.swap(0, Ordering::Relaxed)
    }

    async fn known(&self, id: &str) -> Option<LedgerEntry<i64>> {
        let (bound, items) = (bound("totals"), [item_id(id)]);
        let known = self.store.known(&bound, &items, Deadline::NONE);
        known.await.unwrap().remove(0)
    }

    async fn is_settled(&self, id: &str) -> bool {
        self.known(id).await.is_some_and(|known| known.settled)
    }
}

fn item_id(id: &str) -> ItemId {
    scanned(id, order("a", 1)).item_id()
}

/// The `n`-th change of the stream.
fn at(n: u32, id: &str, old: Option<Item>, new: Option<Item>) -> Record {
    Record::Changed(Change {
        sequence_number: SequenceNumber::new(n.to_string()).ok(),
        ..change(&n.to_string(), id, old, new)
    })
}

fn broken() -> Item {
    item(&[("customer", AttributeValue::Bool(true))])
}

#[tokio::test]
async fn only_a_ledger_settles_and_it_asks_for_old_images() {
    let world = World::new();
    assert!(world.pipeline(false).settles() && world.pipeline(false).needs_old_images());
    let definition = Pipeline::builder("totals")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .settle();
    let built = definition.store(world.store.clone()).exactly_once();
    let Err(BuildError::Option { source, .. }) = built else {
        panic!("{built:?}")
    };
    assert!(source.to_string().contains("settle"), "{source}");

    // A change without its old image is not the record's fault.
    let processor = world.settling().await;
    let bare = Change {
        old_image: None,
        ..change("1", "1", Some(order("a", 1)), Some(order("a", 2)))
    };
    let outcome = outcomes(&processor, &[Record::Changed(bare)])
        .await
        .remove(0);
    assert!(matches!(
        error(&outcome),
        RecordError::MissingImage { side: Side::Old }
    ));
}

#[tokio::test]
async fn a_process_hears_of_it_within_a_minute_and_is_right_before() {
    let world = World::new();
    let processor = world.process();
    outcomes(&processor, &[at(1, "1", None, Some(order("a", 1)))]).await;
    world.process().settle(Deadline::NONE).await.unwrap();
    outcomes(
        &processor,
        &[at(2, "1", Some(order("a", 1)), Some(order("a", 2)))],
    )
    .await;
    assert!(!world.is_settled("1").await);
    world.clock.advance(Duration::from_secs(61));
    outcomes(
        &processor,
        &[at(3, "1", Some(order("a", 2)), Some(order("a", 3)))],
    )
    .await;
    assert!(world.is_settled("1").await);

    // A process that does not know counts changes of settled items all the same.
    let deaf = World {
        clock: world.clock.clone(),
        store: world.store.clone(),
        rejected: Arc::default(),
    };
    let change = at(4, "1", Some(order("a", 3)), Some(order("b", 9)));
    let processor = deaf.process();
    for wanted in [RecordOutcome::Applied, RecordOutcome::Duplicate] {
        let outcome = outcomes(&processor, std::slice::from_ref(&change))
            .await
            .remove(0);
        assert_eq!(format!("{outcome:?}"), format!("{wanted:?}"));
    }
    let totals = (
        value(&world.store, "a").await,
        value(&world.store, "b").await,
    );
    assert_eq!(totals, (Some(0), Some(9)));
    assert_eq!(
        processor.are_settling(Deadline::NONE).await.unwrap(),
        [true]
    );
}

#[tokio::test]
async fn what_is_refused_contributes_nothing_on_either_side() {
    let world = World::new();
    let processor = world.settling().await;
    let wide: Vec<String> = (0..60).map(|n| format!("w{n}")).collect();
    let wide = wide.join(",");
    outcomes(&processor, &[at(1, "1", None, Some(order("a", 5)))]).await;
    let mut before = order("a", 5);
    // Not decodable; a key that no row can have; more keys than an item may have.
    for (n, refused) in [(10, broken()), (20, order("", 7)), (30, order(&wide, 7))] {
        let records = [
            (at(n, "1", Some(before), Some(refused.clone())), 0),
            (
                at(n + 1, "1", Some(refused.clone()), Some(refused.clone())),
                0,
            ),
            (
                at(n + 2, "1", Some(refused), Some(order("a", i64::from(n)))),
                i64::from(n),
            ),
        ];
        for ((record, wanted), rejected) in records.into_iter().zip([1, 1, 0]) {
            for _ in 0..2 {
                let outcome = outcomes(&processor, std::slice::from_ref(&record))
                    .await
                    .remove(0);
                assert!(outcome.is_done(), "{outcome:?}");
                assert_eq!(value(&world.store, "a").await, Some(wanted), "{record:?}");
                // As a new image, but not as an old one.
                assert_eq!(world.rejections(), rejected, "{record:?}");
            }
        }
        before = order("a", i64::from(n));
    }
    assert!(world.is_settled("1").await);
    assert_eq!(value(&world.store, "w3").await, None);
}

#[tokio::test]
async fn what_fits_no_sum_is_passed_over_in_the_ledger_only() {
    let world = World::new();
    let processor = world.settling().await;
    let most = order("full", i64::MAX);
    let first = [
        at(1, "1", None, Some(most)),
        at(2, "2", None, Some(order("a", 5))),
    ];
    outcomes(&processor, &first).await;
    // Settled: never passed over.
    let over = at(3, "2", Some(order("a", 5)), Some(order("full", 6)));
    let outcome = outcomes(&processor, &[over]).await.remove(0);
    assert!(!outcome.is_done(), "{outcome:?}");
    assert_eq!(
        (world.rejections(), value(&world.store, "a").await),
        (0, Some(5))
    );

    // The ledger's contribution differs from the change's old image: it is passed over, and the
    // item stays.
    outcomes(&processor, &[scanned("3", order("a", 7))]).await;
    let over = at(4, "3", Some(order("a", 1)), Some(order("full", 6)));
    let outcome = outcomes(&processor, &[over]).await.remove(0);
    assert!(outcome.is_done(), "{outcome:?}");
    assert_eq!(
        (world.rejections(), value(&world.store, "a").await),
        (1, Some(5))
    );
    assert!(!world.is_settled("3").await);
    // The next change replaces the empty contribution by its own, and settles the item.
    outcomes(
        &processor,
        &[at(5, "3", Some(order("full", 6)), Some(order("a", 2)))],
    )
    .await;
    assert!(world.is_settled("3").await);
    assert_eq!(value(&world.store, "full").await, Some(i64::MAX));
    assert_eq!(value(&world.store, "a").await, Some(7));
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_no_change_of_a_settled_item() {
    let world = World::new();
    let processor = world.settling().await;
    outcomes(&processor, &[at(1, "1", None, Some(order("a", 5)))]).await;
    let unreadable = |n: u32, id| {
        Record::Changed(Change {
            event: EventName::Unreadable("no date".into()),
            sequence_number: SequenceNumber::new(n.to_string()).ok(),
            ..change(&n.to_string(), id, None, None)
        })
    };
    let outcome = outcomes(&processor, &[unreadable(2, "1")]).await.remove(0);
    assert!(!outcome.is_done(), "nothing tells what it was: {outcome:?}");
    assert_eq!(value(&world.store, "a").await, Some(5));
    // In the ledger it says that the item contributes nothing, as without settling.
    outcomes(
        &processor,
        &[scanned("2", order("a", 3)), unreadable(3, "2")],
    )
    .await;
    assert_eq!(value(&world.store, "a").await, Some(5));
    assert!(!world.is_settled("2").await);
}

#[tokio::test]
async fn a_change_that_no_pipeline_can_take_is_reported_where_items_settle() {
    let world = World::new();
    let processor = world.settling().await;
    let Record::Changed(change) = at(1, "1", None, Some(order("a", 5))) else {
        unreachable!("a change")
    };
    let bare = [
        Change {
            event_id: "".into(),
            ..change.clone()
        },
        Change {
            event: EventName::Other("TOUCH".into()),
            ..change.clone()
        },
        Change {
            sequence_number: None,
            ..change
        },
    ];
    for change in bare {
        let outcome = outcomes(&processor, &[Record::Changed(change)])
            .await
            .remove(0);
        assert!(!outcome.is_done(), "{outcome:?}");
    }
    assert_eq!(world.rejections(), 0);

    let records = Decoder::record(|_| Ok(Decoded::Skip));
    let built = Processor::with_decoder([world.pipeline(false)], records).build();
    let refused = built.unwrap_err().to_string();
    assert!(refused.contains("Decoder::item"), "{refused}");
}

#[tokio::test]
async fn what_expires_and_is_kept_goes_on_counting() {
    let world = World::new();
    let pipeline = world.pipeline(true);
    let processor = Processor::builder([pipeline])
        .clock(Arc::new(world.clock.clone()))
        .build()
        .unwrap();
    processor.bind(None, Deadline::NONE).await.unwrap();
    processor.settle(Deadline::NONE).await.unwrap();
    let expired = |n: u32, old| {
        let Record::Changed(removal) = at(n, "1", Some(old), None) else {
            unreachable!("a change")
        };
        Record::Changed(Change {
            expired: true,
            ..removal
        })
    };
    for (record, wanted) in [
        (at(1, "1", None, Some(order("a", 5))), 5),
        (expired(2, order("a", 5)), 5),
        (at(3, "1", None, Some(order("a", 2))), 7),
        (at(4, "1", Some(order("a", 2)), None), 5),
    ] {
        outcomes(&processor, &[record]).await;
        assert_eq!(value(&world.store, "a").await, Some(wanted));
    }
}
