//! Keys that are kept in several rows.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

mod total;

use std::collections::BTreeSet;

use murmur_state::conformance::bound;
use murmur_state::{
    Add, Binding, Deadline, EventId, ExactlyOnce, Fault, ItemId, Key, Ledger, ListSegment,
    MemoryStore, Mend, Once, Outcome, PipelineName, Position, Read, ReadExt, Replace,
    SequenceNumber, Spread, Store, StoreError, Timestamp,
};
use total::Total;

const ROWS: u32 = 8;

type Table = MemoryStore<Total>;

fn spread(table: &Table) -> Spread<Total, Table> {
    Spread::new(Total, table.clone(), ROWS).unwrap()
}

fn only(table: &Table, entities: &[&str]) -> Spread<Total, Table> {
    spread(table).only(entities.iter().copied()).unwrap()
}

fn key(entity: &str) -> Key {
    Key::new(entity, 0).unwrap()
}

fn add(entity: &str, value: i64) -> Add<i64> {
    Add {
        key: key(entity),
        value,
        ttl: None,
    }
}

fn event(id: &str, adds: Vec<Add<i64>>) -> Once<i64> {
    Once {
        id: EventId::new(id).unwrap(),
        created: None,
        handed_over: Timestamp::from_secs(0),
        adds,
    }
}

fn item(id: &str, at: u64, now: Vec<Add<i64>>) -> Replace<i64> {
    Replace {
        item: ItemId::from_parts([id]),
        at: Position::Stream(SequenceNumber::new(at.to_string()).unwrap()),
        created: None,
        now,
        keep: Vec::new(),
        change: None,
    }
}

fn rows(table: &Table) -> Vec<(String, i64)> {
    let rows = table.rows().into_iter();
    rows.map(|row| (row.key.entity().to_owned(), row.value))
        .collect()
}

fn invalid<'a>(outcome: &'a Outcome, entity: &str) -> &'a str {
    match outcome {
        Outcome::Failed(error @ StoreError::InvalidValue { place, reason, .. }) => {
            assert_eq!(error.fault(), Fault::Record);
            assert_eq!(place.key.as_deref(), Some(&key(entity)));
            reason
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_spread_over_is_refused_by_name() {
    for rows in [0, 1, 1_001] {
        let refused = Spread::new(Total, (), rows).unwrap_err();
        assert_eq!(refused.option, "rows");
        assert!(refused.reason.contains(&rows.to_string()), "{refused}");
    }
    let only = |names: &[&str]| {
        let spread = Spread::new(Total, (), 1_000).unwrap();
        let refused = spread.only(names.iter().copied()).unwrap_err();
        assert_eq!(refused.option, "only");
        refused.reason
    };
    assert!(only(&[]).contains("no entity"));
    assert!(only(&["a", ""]).contains("empty"));
    assert!(only(&[&"x".repeat(2_045)]).contains("can have at most 2044"));
    assert!(only(&["all", "all#12345"]).contains("looks like a sub-row of `all`"));
    for names in [&["all", "all#x", "all#"][..], &[&"x".repeat(2_044)]] {
        let spread = Spread::new(Total, (), 1_000).unwrap();
        assert!(spread.only(names.iter().copied()).is_ok());
    }
}

#[tokio::test]
async fn merges_go_from_row_to_row_and_are_read_as_one() {
    let table = Table::new(Total);
    let store = spread(&table);
    for n in 0..i64::from(ROWS) {
        let outcomes = store
            .merge(&[add("all", n), add("all", 100)], Deadline::NONE)
            .await;
        assert!(matches!(outcomes[..], [Outcome::Applied, Outcome::Applied]));
        assert_eq!(table.rows().len() as i64, n + 1, "the next row");
    }
    let asked = [
        key("all"),
        key("none"),
        key("all"),
        Key::new("all", 1).unwrap(),
    ];
    let found = store.get_many(&asked).await.unwrap();
    assert_eq!(found, [Some(828), None, Some(828), None]);
    let entities: Vec<_> = rows(&table).into_iter().map(|(entity, _)| entity).collect();
    let wanted: Vec<_> = (0..ROWS).map(|n| format!("all#{n}")).collect();
    assert_eq!(entities, wanted);
}

#[tokio::test]
async fn more_keys_than_one_request_asks_for_are_read() {
    let table = Table::new(Total);
    let store = spread(&table);
    let adds: Vec<_> = (0..700).map(|n| add(&format!("k{n}"), n)).collect();
    store.merge(&adds, Deadline::NONE).await;
    store.merge(&adds, Deadline::NONE).await;
    let asked: Vec<_> = adds.iter().rev().map(|add| add.key.clone()).collect();
    let found = store.get_many(&asked).await.unwrap();
    let wanted: Vec<_> = (0..700).rev().map(|n| Some(2 * n)).collect();
    assert_eq!(found, wanted);
}

#[tokio::test]
async fn only_named_entities_are_spread_and_never_mixed_up() {
    let table = Table::new(Total);
    let store = only(&table, &["all"]);
    let events: Vec<_> = (0..50)
        .map(|n| {
            event(
                &format!("e{n}"),
                vec![add("all", 1), add("de", 1), add("de#3", 1)],
            )
        })
        .collect();
    let applied = store.apply(&bound("p"), &events, Deadline::NONE).await;
    assert!(
        applied
            .iter()
            .all(|outcome| matches!(outcome, Outcome::Applied))
    );
    for (entity, of) in rows(&table) {
        let spread = entity.starts_with("all#");
        assert!(
            spread || (["de", "de#3"].contains(&&*entity) && of == 50),
            "{entity}"
        );
    }
    assert_eq!(table.rows().len() as u32, ROWS + 2);

    // What looks like a sub-row of a spread entity is refused alone, in every level.
    let mixed = ["all#3", "de", "all#99", "all#x", "all#007"];
    let refused = |outcomes: Vec<Outcome>| {
        for (outcome, entity) in outcomes.iter().zip(mixed) {
            match entity {
                "de" | "all#x" => assert!(matches!(outcome, Outcome::Applied), "{outcome:?}"),
                _ => assert!(invalid(outcome, entity).contains("sub-row of `all`")),
            }
        }
        assert_eq!(outcomes.len(), mixed.len());
    };
    let events: Vec<_> = mixed
        .map(|entity| event(entity, vec![add(entity, 1)]))
        .into();
    refused(store.apply(&bound("p"), &events, Deadline::NONE).await);
    let fresh = Table::new(Total);
    let adds = mixed.map(|entity| add(entity, 1));
    refused(only(&fresh, &["all"]).merge(&adds, Deadline::NONE).await);
    let fresh = Table::new(Total);
    let items = mixed.map(|entity| item(entity, 1, vec![add(entity, 1)]));
    let ledger = only(&fresh, &["all"]);
    refused(ledger.replace(&bound("p"), &items, Deadline::NONE).await);
    let mends = mixed.map(|entity| Mend {
        item: ItemId::from_parts([entity, "mended"]),
        over: None,
        now: vec![add(entity, 1)],
    });
    refused(ledger.mend(&bound("p"), &mends, Deadline::NONE).await);

    // Nor are they read.
    let asked = mixed.map(key);
    let found = store.get_many(&asked).await.unwrap();
    assert_eq!(found, [None, Some(51), None, Some(1), None]);
    assert_eq!(store.get(&key("all")).await.unwrap(), Some(50));
}

#[tokio::test]
async fn where_all_are_spread_any_name_will_do() {
    let table = Table::new(Total);
    let store = spread(&table);
    let names = ["all", "all#3", "#", "#1", "a#b#2"];
    store
        .merge(&names.map(|name| add(name, 1)), Deadline::NONE)
        .await;
    store
        .merge(&names.map(|name| add(name, 2)), Deadline::NONE)
        .await;
    let found = store.get_many(&names.map(key)).await.unwrap();
    assert_eq!(found, [Some(3); 5]);
    let listed = store.list(None).await.unwrap().entries;
    assert_eq!(listed.len(), 10);
    for name in names {
        let of_name = listed.iter().filter(|row| row.key == key(name));
        assert_eq!(of_name.map(|row| row.value).sum::<i64>(), 3, "{name}");
    }
}

#[tokio::test]
async fn an_entity_without_room_for_a_number_is_refused() {
    let table = Table::new(Total);
    let store = Spread::new(Total, table.clone(), 11).unwrap();
    let (fits, long) = ("x".repeat(2_045), "x".repeat(2_046));
    for _ in 0..11 {
        let adds = [add(&fits, 1), add(&long, 1)];
        let outcomes = store.merge(&adds, Deadline::NONE).await;
        assert!(matches!(outcomes[0], Outcome::Applied));
        let reason = invalid(&outcomes[1], &long);
        assert!(reason.contains("2046 bytes") && reason.contains("can have at most 2045"));
    }
    let found = store.get_many(&[key(&fits), key(&long)]).await.unwrap();
    assert_eq!(found, [Some(11), None]);
}

#[tokio::test]
async fn a_repeated_event_meets_its_own_id() {
    let table = Table::new(Total);
    let events: Vec<_> = (0..100)
        .map(|n| event(&format!("e{n}"), vec![add("all", n), add("all", n)]))
        .collect();
    for round in 0..3 {
        // As another process would.
        let store = spread(&table);
        let outcomes = store
            .apply(&bound("p"), &events[round..], Deadline::NONE)
            .await;
        for outcome in &outcomes {
            match round {
                0 => assert!(matches!(outcome, Outcome::Applied), "{outcome:?}"),
                _ => assert!(matches!(outcome, Outcome::Duplicate), "{outcome:?}"),
            }
        }
        assert_eq!(store.get(&key("all")).await.unwrap(), Some(4_950));
    }
    assert_eq!(table.rows().len() as u32, ROWS);
    // In the row that the documentation says: the SHA-256 of `e1` begins with 8b5cc4df7eec7d32.
    let table = Table::new(Total);
    let one = [event("e1", vec![add("all", 7)])];
    let store = spread(&table);
    store.apply(&bound("p"), &one, Deadline::NONE).await;
    assert_eq!(rows(&table), [("all#2".to_owned(), 7)]);
}

#[tokio::test]
async fn what_an_item_contributed_is_taken_back_from_the_row_that_has_it() {
    let table = Table::new(Total);
    let name = bound("p");
    let names: Vec<String> = (0..40).map(|n| format!("o{n}")).collect();
    let store = only(&table, &["all", "de"]);
    let replace = async |at, now: &dyn Fn(i64) -> Vec<Add<i64>>| {
        let entries: Vec<_> = (0..40)
            .map(|n| item(&names[n as usize], at, now(n)))
            .collect();
        let outcomes = store.replace(&name, &entries, Deadline::NONE).await;
        assert!(
            outcomes
                .iter()
                .all(|outcome| matches!(outcome, Outcome::Applied))
        );
    };
    let values = async || {
        let asked = [key("all"), key("de"), key("fr")];
        store.get_many(&asked).await.unwrap()
    };
    replace(1, &|n| vec![add("all", n), add("de", n)]).await;
    assert_eq!(values().await, [Some(780), Some(780), None]);
    replace(2, &|n| vec![add("all", 2 * n), add("fr", n)]).await;
    assert_eq!(values().await, [Some(1_560), Some(0), Some(780)]);
    for (entity, value) in rows(&table) {
        assert!(
            !entity.starts_with("de#") || value == 0,
            "{entity}: {value}"
        );
    }

    // What is known is told by the keys, and listed so.
    let items: Vec<_> = names
        .iter()
        .map(|name| ItemId::from_parts([&**name]))
        .collect();
    let known = store.known(&name, &items, Deadline::NONE).await;
    for (n, known) in known.unwrap().into_iter().enumerate() {
        let n = n as i64;
        assert_eq!(known.unwrap().now, [add("all", 2 * n), add("fr", n)]);
    }
    let listed = store.list_known(&name, ListSegment::WHOLE, None).await;
    let keys: BTreeSet<_> = listed
        .unwrap()
        .entries
        .into_iter()
        .flat_map(|known| known.now)
        .map(|add| add.key)
        .collect();
    assert_eq!(keys, BTreeSet::from([key("all"), key("fr")]));

    // What is kept goes to the item's row as well, and is told by its key.
    let kept = Replace {
        keep: vec![add("all", 6)],
        ..item("o3", 3, Vec::new())
    };
    store.replace(&name, &[kept], Deadline::NONE).await;
    assert_eq!(values().await[0], Some(1_560));
    let known = store.known(&name, &items[3..4], Deadline::NONE).await;
    assert_eq!(known.unwrap()[0].as_ref().unwrap().kept, [add("all", 6)]);
    replace(4, &|_| Vec::new()).await;
    assert_eq!(values().await, [Some(6), Some(0), Some(0)]);
}

#[tokio::test]
async fn a_sum_beyond_its_type_is_refused_by_its_key() {
    let table = Table::new(Total);
    let store = spread(&table);
    for value in [i64::MAX, 5, -9] {
        store.merge(&[add("all", value)], Deadline::NONE).await;
    }
    // Whatever order the rows come in, only the sum counts.
    assert_eq!(store.get(&key("all")).await.unwrap(), Some(i64::MAX - 4));
    store.merge(&[add("all", 5)], Deadline::NONE).await;
    let error = store.get(&key("all")).await.unwrap_err();
    let StoreError::Overflow { place } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(place.key.as_deref(), Some(&key("all")));
}

fn binding(definition: &str) -> Binding {
    Binding {
        pipeline: PipelineName::new("p").unwrap(),
        version: 1,
        mode: "exactly-once".into(),
        definition: definition.into(),
        stream: None,
    }
}

#[tokio::test]
async fn another_number_of_rows_needs_another_version() {
    let table = Table::new(Total);
    let binding = binding("no window");
    let of = |rows, names: &[&str]| {
        let store = Spread::new(Total, table.clone(), rows).unwrap();
        match names.is_empty() {
            true => store,
            false => store.only(names.iter().copied()).unwrap(),
        }
    };
    let bind = async |store: Spread<Total, Table>| {
        let bound = store.bind(&binding, Deadline::NONE).await;
        let checked = store.check_binding(&binding, Deadline::NONE).await;
        assert_eq!(bound.is_ok(), checked.is_ok());
        bound
    };
    bind(of(8, &["de", "all"])).await.unwrap();
    bind(of(8, &["all", "de"])).await.unwrap();
    for (store, wanted) in [
        (of(9, &["all", "de"]), "spread over 9 rows: all, de"),
        (of(8, &["all"]), "spread over 8 rows: all"),
        (of(8, &["all, de"]), "spread over 8 rows: \"all, de\""),
        (of(8, &[]), "spread over 8 rows"),
    ] {
        let error = bind(store).await.unwrap_err();
        assert!(matches!(error, StoreError::OtherOwner { .. }), "{error:?}");
        let error = error.to_string();
        for named in [
            "no window, spread over 8 rows: all, de, and this is",
            wanted,
        ] {
            assert!(error.contains(named), "{error}");
        }
    }
    let plain = table.bind(&binding, Deadline::NONE).await;
    assert!(
        matches!(plain, Err(StoreError::OtherOwner { .. })),
        "{plain:?}"
    );
}

#[tokio::test]
async fn rows_that_were_not_written_by_it_are_no_part_of_a_listing() {
    for (row, listed_by_named, listed_by_all) in [
        ("all#7", true, true),
        ("all#8", false, false),
        ("all#07", false, false),
        ("all", false, false),
        ("de#x", true, false),
        ("#1", true, false),
    ] {
        let table = Table::new(Total);
        table.merge(&[add(row, 1)], Deadline::NONE).await;
        for (store, lists) in [
            (only(&table, &["all"]), listed_by_named),
            (spread(&table), listed_by_all),
        ] {
            let listed = store.list(None).await;
            assert_eq!(listed.is_ok(), lists, "{row}: {listed:?}");
            if let Err(error) = listed {
                assert_eq!(error.fault(), Fault::Setup);
                assert!(
                    error.to_string().contains(&format!("({row:?}, 0)")),
                    "{error}"
                );
            }
        }
    }
}
