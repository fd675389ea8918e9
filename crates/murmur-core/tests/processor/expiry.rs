//! Removals by Time to Live, distinguished from a user's.

use murmur_core::{
    AttributeValue, BuildError, Change, Count, Decoded, Decoder, Definition, Pipeline, Processor,
    Record, RecordError, RecordOutcome, Side, Sum,
};
use murmur_state::{Deadline, MemoryDeduper, MemoryStore, SequenceNumber, Timestamp};

use crate::support::{NOW, Order, change, insert, item, order, order_at, scanned, value};
use crate::{error, outcomes, processor};

fn definition() -> Definition<Order, Sum> {
    Pipeline::builder("totals")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
}

/// The change that removes the item's last version, `old`.
fn removal(n: u32, old: murmur_core::Item, by_ttl: bool) -> Record {
    Record::Changed(Change {
        expired: by_ttl,
        sequence_number: SequenceNumber::new(format!("{n}")).ok(),
        ..change(&n.to_string(), "1", Some(old), None)
    })
}

fn put(n: u32, old: Option<murmur_core::Item>, new: murmur_core::Item) -> Record {
    Record::Changed(Change {
        sequence_number: SequenceNumber::new(format!("{n}")).ok(),
        ..change(&n.to_string(), "1", old, Some(new))
    })
}

type Mode = fn(Definition<Order, Sum>, MemoryStore<Sum>) -> Result<Pipeline<Order>, BuildError>;

const MODES: [Mode; 4] = [
    |definition, store| definition.retract().store(store).at_least_once(),
    |definition, store| {
        let markers = MemoryDeduper::new();
        definition.retract().store(store).claim_first(markers)
    },
    |definition, store| definition.retract().store(store).exactly_once(),
    |definition, store| definition.store(store).ledger(),
];

#[tokio::test]
async fn a_removal_by_ttl_is_taken_back_unless_the_definition_keeps_it() {
    for mode in MODES {
        for keeps in [false, true] {
            for by_ttl in [false, true] {
                let store = MemoryStore::new(Sum::new());
                let definition = match keeps {
                    true => definition().keep_expired_items(),
                    false => definition(),
                };
                let (processor, counts) = processor(mode(definition, store.clone()).unwrap());
                outcomes(&processor, &[put(1, None, order("a", 5))]).await;
                let gone = removal(2, order("a", 5), by_ttl);
                let kept = keeps && by_ttl;
                let outcome = outcomes(&processor, &[gone]).await.remove(0);
                assert!(outcome.is_done());
                assert!(!kept || matches!(outcome, RecordOutcome::Skipped));
                assert_eq!(value(&store, "a").await, Some(if kept { 5 } else { 0 }));
                assert_eq!(counts.of("totals:ttl_kept"), u64::from(kept));
                assert!(!kept || counts.of("totals:skip") == 0);
            }
        }
    }
}

#[tokio::test]
async fn an_item_put_anew_counts_beside_what_is_kept() {
    for mode in MODES {
        let store = MemoryStore::new(Sum::new());
        let definition = definition().keep_expired_items();
        let (processor, _) = processor(mode(definition, store.clone()).unwrap());
        let batch = [
            put(1, None, order("a", 5)),
            removal(2, order("a", 5), true),
            put(3, None, order("a", 9)),
            put(4, Some(order("a", 9)), order("a", 7)),
        ];
        outcomes(&processor, &batch).await;
        assert_eq!(value(&store, "a").await, Some(12));
    }
}

#[tokio::test]
async fn what_nobody_takes_back_need_not_be_decodable_or_there() {
    let store = MemoryStore::new(Sum::new());
    let definition = definition().keep_expired_items().retract();
    let pipeline = definition.store(store).exactly_once();
    let (processor, counts) = processor(pipeline.unwrap());
    let broken = item(&[("customer", AttributeValue::Bool(true))]);
    let mut without_image = change("2", "1", Some(broken.clone()), None);
    without_image.old_image = None;
    without_image.expired = true;
    let batch = [removal(1, broken, true), Record::Changed(without_image)];
    assert_outcomes!(
        outcomes(&processor, &batch).await,
        RecordOutcome::Skipped,
        RecordOutcome::Skipped
    );
    assert_eq!(counts.of("totals:ttl_kept"), 2);
    assert_eq!(counts.of("totals:failed"), 0);
}

#[tokio::test]
async fn each_pipeline_keeps_or_takes_back_by_itself() {
    let [kept, gone] = [(); 2].map(|()| MemoryStore::new(Sum::new()));
    let keeping = Pipeline::builder("keeping")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
        .retract()
        .keep_expired_items()
        .store(kept.clone())
        .exactly_once()
        .unwrap();
    let taking = definition()
        .retract()
        .store(gone.clone())
        .exactly_once()
        .unwrap();
    let processor = Processor::new([keeping, taking]).unwrap();
    let batch = [insert("1", order("a", 5)), removal(2, order("a", 5), true)];
    assert_outcomes!(
        outcomes(&processor, &batch).await,
        RecordOutcome::Applied,
        RecordOutcome::Applied
    );
    let totals = (value(&kept, "a").await, value(&gone, "a").await);
    assert_eq!(totals, (Some(5), Some(0)));
}

#[tokio::test]
async fn a_kept_removal_adds_nothing_whatever_its_new_side_decodes_to() {
    let store = MemoryStore::new(Count::new());
    let items = Pipeline::builder("items")
        .key(|key: &String| key.clone())
        .count()
        .keep_expired_items()
        .store(store.clone())
        .ledger()
        .unwrap();
    let decoder = Decoder::record(|_| Ok(Decoded::Record("all".to_owned())));
    let processor = Processor::with_decoder([items], decoder).build().unwrap();
    let batch = [put(1, None, order("a", 5)), removal(2, order("a", 5), true)];
    processor.process(&batch, Deadline::NONE).await;
    assert_eq!(value(&store, "all").await, Some(1));
}

#[tokio::test]
async fn a_ledger_keeps_what_was_removed_and_not_what_a_scan_found_later_under_its_name() {
    let store = MemoryStore::new(Sum::new());
    let pipeline = definition().keep_expired_items().store(store.clone());
    let pipeline = pipeline.ledger().unwrap();
    assert!(pipeline.needs_old_images() && !pipeline.retracts());
    let (processor, _) = processor(pipeline);
    // The removal and the new item are still in the stream when the scan finds the new item.
    let batch = [
        scanned("1", order("a", 9)),
        removal(2, order("a", 5), true),
        put(3, None, order("a", 9)),
    ];
    for record in batch {
        outcomes(&processor, &[record]).await;
    }
    assert_eq!(value(&store, "a").await, Some(14));
}

#[tokio::test]
async fn a_removal_after_the_items_own_time_is_one_by_ttl() {
    let expiring = || {
        let definition = definition().keep_expired_items();
        definition.expires_at(|o| (o.placed_at > 0).then(|| Timestamp::from_secs(o.placed_at)))
    };
    for mode in MODES {
        for (expires, created, is_kept) in [
            (NOW, Some(NOW), true),
            (NOW - 86_400, Some(NOW), true),
            (NOW + 1, Some(NOW), false),
            (0, Some(NOW), false),
            // Without a time, or with an impossible one, the removal has the clock's time.
            (NOW, None, true),
            (NOW + 1, None, false),
            (NOW + 1, Some(NOW * 1000), false),
            (NOW + 7200, Some(NOW + 7200), false),
        ] {
            let store = MemoryStore::new(Sum::new());
            let pipeline = mode(expiring(), store.clone()).unwrap();
            assert!(pipeline.needs_old_images());
            let (processor, counts) = processor(pipeline);
            let item = || order_at("a", 5, expires);
            let Record::Changed(gone) = removal(2, item(), false) else {
                panic!("a change")
            };
            let gone = Record::Changed(Change {
                created: created.map(Timestamp::from_secs),
                ..gone
            });
            outcomes(&processor, &[put(1, None, item())]).await;
            outcomes(&processor, &[gone]).await;
            let left = if is_kept { 5 } else { 0 };
            let case = format!("{expires} {created:?}");
            assert_eq!(value(&store, "a").await, Some(left), "{case}");
            assert_eq!(counts.of("totals:ttl_kept"), u64::from(is_kept), "{case}");
        }
    }
}

#[tokio::test]
async fn a_ledger_that_knows_expiry_by_the_item_says_that_it_needs_the_old_image() {
    let store = MemoryStore::new(Sum::new());
    let expiring = definition().keep_expired_items();
    let expiring = expiring.expires_at(|o| Some(Timestamp::from_secs(o.placed_at)));
    let pipeline = expiring.store(store).ledger();
    let (processor, _) = processor(pipeline.unwrap());
    let Record::Changed(gone) = removal(2, order("a", 5), false) else {
        panic!("a change")
    };
    let without = Change {
        old_image: None,
        ..gone
    };
    let outcome = outcomes(&processor, &[Record::Changed(without)]).await;
    let RecordError::MissingImage { side: Side::Old } = error(&outcome[0]) else {
        panic!("{outcome:?}")
    };
}

#[test]
fn an_expiry_is_refused_where_nothing_is_kept() {
    let expiring = definition().expires_at(|o| Some(Timestamp::from_secs(o.placed_at)));
    let expiring = expiring.retract().store(MemoryStore::new(Sum::new()));
    let Err(BuildError::Option { source, .. }) = expiring.at_least_once() else {
        panic!("it was built")
    };
    assert_eq!(source.option, "expires_at");
    assert!(source.to_string().contains("keep_expired_items"));
}

#[test]
fn keeping_is_refused_where_removals_change_nothing() {
    let store = || MemoryStore::new(Sum::new());
    let keeping = || definition().keep_expired_items().store(store());
    let built = [
        keeping().at_least_once(),
        keeping().claim_first(MemoryDeduper::new()),
        keeping().exactly_once(),
    ];
    for pipeline in built {
        let Err(BuildError::Option { source, .. }) = pipeline else {
            panic!("{pipeline:?}")
        };
        assert_eq!(source.option, "keep_expired_items");
        assert!(source.to_string().contains("retract"), "{source}");
    }
    assert!(keeping().ledger().is_ok());
}
