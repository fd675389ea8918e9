//! Removals by Time to Live, told from a user's.

use murmur_core::{
    AttributeValue, BuildError, Change, Count, Decoded, Decoder, Definition, Pipeline,
    ProcessorBuilder, Record, RecordOutcome, Sum,
};
use murmur_state::{Deadline, MemoryDeduper, MemoryStore, SequenceNumber};

use crate::support::{Order, change, insert, item, order, scanned, value};
use crate::{outcomes, processor};

fn definition() -> Definition<Order, Sum> {
    Pipeline::builder("totals")
        .key(|o: &Order| o.customer.clone())
        .value(|o| o.cents)
        .aggregate(Sum::new())
}

/// The change in which the item's last version, `old`, goes.
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
    |definition, store| {
        let markers = MemoryDeduper::new();
        definition.retract().store(store).exactly_once(markers)
    },
    |definition, store| definition.store(store).ledger(MemoryDeduper::new()),
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
    let pipeline = definition.store(store).exactly_once(MemoryDeduper::new());
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
        .exactly_once(MemoryDeduper::new())
        .unwrap();
    let taking = definition()
        .retract()
        .store(gone.clone())
        .exactly_once(MemoryDeduper::new())
        .unwrap();
    let processor = ProcessorBuilder::new([keeping, taking]).build().unwrap();
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
        .ledger(MemoryDeduper::new())
        .unwrap();
    let decoder = Decoder::record(|_| Ok(Decoded::Record("all".to_owned())));
    let processor = ProcessorBuilder::with_decoder([items], decoder)
        .build()
        .unwrap();
    let batch = [put(1, None, order("a", 5)), removal(2, order("a", 5), true)];
    processor.process(&batch, Deadline::NONE).await;
    assert_eq!(value(&store, "all").await, Some(1));
}

#[tokio::test]
async fn a_ledger_keeps_what_was_removed_and_not_what_a_scan_found_later_under_its_name() {
    let store = MemoryStore::new(Sum::new());
    let pipeline = definition().keep_expired_items().store(store.clone());
    let pipeline = pipeline.ledger(MemoryDeduper::new()).unwrap();
    assert!(pipeline.needs_old_images() && !pipeline.retracts());
    let (processor, _) = processor(pipeline);
    // The removal and the new item are in the stream still when the scan finds the latter.
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

#[test]
fn keeping_is_refused_where_removals_change_nothing() {
    let store = || MemoryStore::new(Sum::new());
    let keeping = || definition().keep_expired_items().store(store());
    let built = [
        keeping().at_least_once(),
        keeping().claim_first(MemoryDeduper::new()),
        keeping().exactly_once(MemoryDeduper::new()),
    ];
    for pipeline in built {
        let Err(BuildError::Option { source, .. }) = pipeline else {
            panic!("{pipeline:?}")
        };
        assert_eq!(source.option, "keep_expired_items");
        assert!(source.to_string().contains("retract"), "{source}");
    }
    assert!(keeping().ledger(MemoryDeduper::new()).is_ok());
}
