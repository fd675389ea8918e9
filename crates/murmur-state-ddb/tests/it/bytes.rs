//! Compare-and-swap: lost races, lost answers, sizes, shapes.

use futures::future::join;
use murmur_state::{
    Add, Clock, Deadline, Fault, ManualClock, NoRandomness, Outcome, Random, ReadExt, Store,
    StoreError, Tokens,
};
use murmur_state_ddb::{BytesStore, TableOptions};
use murmur_testkit::Dynamo;
use murmur_testkit::wire::{Action, Wire};
use serde_json::{Value, json};

use crate::support::{
    Total, Words, add, b, key, n, put_row, row, s, state_table, virtual_time, wire_on, words,
};

/// A store of totals over `wire`, with waits in virtual time.
fn totals(dynamo: &Dynamo, wire: &Wire, table: &str) -> (BytesStore<Total>, ManualClock) {
    let (clock, options) = virtual_time();
    let store = BytesStore::with_options(wire.client(dynamo), table, Total, options);
    (store.unwrap(), clock)
}

async fn merge_one(store: &BytesStore<Total>, value: i64) -> Result<(), StoreError> {
    match store.merge(&[add("k", value)], Deadline::NONE).await.pop() {
        Some(Outcome::Applied) => Ok(()),
        Some(Outcome::Failed(error)) => Err(error),
        other => panic!("{other:?}"),
    }
}

/// A row of another writer, as JSON on the wire. `AQ…` is the total 3, `dG9r` a token.
fn strange_row(ver: u64) -> Value {
    json!({
        "pk": {"S": "k"}, "sk": {"N": "0"},
        "v": {"B": "AQAAAAAAAAAD"}, "ver": {"N": ver.to_string()}, "tok": {"B": "dG9r"},
    })
}

fn lost_race(ver: u64) -> Action {
    let body = json!({
        "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
        "message": "The conditional request failed",
        "Item": strange_row(ver),
    });
    Action::Answer {
        status: 400,
        body: body.to_string(),
    }
}

fn read_answer(table: &str, rows: &[Value]) -> Action {
    let body = json!({ "Responses": { table: rows }, "UnprocessedKeys": {} });
    Action::Answer {
        status: 200,
        body: body.to_string(),
    }
}

#[tokio::test]
async fn rows_carry_the_shared_layout_and_the_original_s_rows_go_on() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    let client = dynamo.client();
    let store = BytesStore::new(client.clone(), &*table, Words);
    put_row(&client, &table, "k", &[("v", b(b"1apple")), ("ver", n(41))]).await;
    let adds = [Add {
        ttl: Some(1_900_000_000),
        ..add("k", words(&["pear"]))
    }];
    store.merge(&adds, Deadline::NONE).await;
    let row = row(&client, &table, "k").await.unwrap();
    assert_eq!((&row["v"], &row["ver"]), (&b(b"1apple\npear"), &n(42)));
    assert_eq!((&row["ttl"], row.len()), (&n(1_900_000_000), 6), "{row:?}");
    assert_eq!(
        store.get(&key("k")).await.unwrap(),
        Some(words(&["apple", "pear"]))
    );
}

#[tokio::test]
async fn an_entry_that_changes_nothing_is_not_written() {
    let dynamo = Dynamo::connect().await;
    let wire = Wire::calm();
    let store = BytesStore::new(wire.client(&dynamo), state_table(&dynamo).await, Words);
    let adds = [
        add("k", words(&["a"])),
        add("k", words(&["a"])),
        add("k", words(&["b"])),
    ];
    let outcomes = store.merge(&adds, Deadline::NONE).await;
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, Outcome::Applied))
    );
    assert_eq!(wire.count("UpdateItem"), 2);
    let later = Add {
        ttl: Some(9),
        ..add("k", words(&["a"]))
    };
    store.merge(&[later], Deadline::NONE).await;
    assert_eq!(wire.count("UpdateItem"), 3, "another ttl is a change");
}

#[tokio::test]
async fn a_lost_race_goes_on_from_the_row_that_won_without_reading_it() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    let token = b(b"tok");
    let attributes = [
        ("v", b(&[1, 0, 0, 0, 0, 0, 0, 0, 3])),
        ("ver", n(8)),
        ("tok", token),
    ];
    put_row(&dynamo.client(), &table, "k", &attributes).await;
    // The first read is from before that row existed.
    let name = table.clone();
    let wire = wire_on("BatchGetItem", move |_| read_answer(&name, &[]));
    let (store, clock) = totals(&dynamo, &wire, &table);
    let start = clock.monotonic();
    merge_one(&store, 4).await.unwrap();
    assert_eq!(
        (wire.count("BatchGetItem"), wire.count("UpdateItem")),
        (1, 2)
    );
    assert!(clock.monotonic() > start, "it waits between swaps");
    let row = row(&dynamo.client(), &table, "k").await.unwrap();
    assert_eq!(
        (&row["v"], &row["ver"]),
        (&b(&[1, 0, 0, 0, 0, 0, 0, 0, 7]), &n(9))
    );
}

#[tokio::test]
async fn races_lost_as_often_as_allowed_are_an_error_of_their_own() {
    let dynamo = Dynamo::connect().await;
    for (max_retries, attempts) in [(None, 11), (Some(3), 4), (Some(0), 1)] {
        let wire = wire_on("UpdateItem", |request| lost_race(request.nth as u64 + 7));
        let table = state_table(&dynamo).await;
        let (mut store, _) = totals(&dynamo, &wire, &table);
        if let Some(max_retries) = max_retries {
            store = store.max_retries(max_retries);
        }
        let error = merge_one(&store, 1).await.unwrap_err();
        let StoreError::RetriesExhausted {
            place,
            attempts: tried,
        } = &error
        else {
            panic!("{error:?}")
        };
        assert_eq!((*tried, place.key.as_deref()), (attempts, Some(&key("k"))));
        assert_eq!(wire.count("UpdateItem"), attempts as usize);
        assert_eq!(error.fault(), Fault::Contention);
    }
}

#[tokio::test]
async fn a_lost_answer_is_recognised_by_the_token_and_not_sent_again() {
    let dynamo = Dynamo::connect().await;
    for lost in [Action::lose_answer(), Action::DropAfter] {
        let table = state_table(&dynamo).await;
        let wire = wire_on("UpdateItem", move |_| lost.clone());
        let (store, _) = totals(&dynamo, &wire, &table);
        merge_one(&store, 5).await.unwrap();
        merge_one(&store, 6).await.unwrap();
        assert_eq!(wire.count("UpdateItem"), 2);
        assert_eq!(store.get(&key("k")).await.unwrap(), Some(11));
    }
}

#[tokio::test]
async fn a_swap_that_never_arrived_is_sent_again() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    let wire = wire_on("UpdateItem", |request| match request.nth {
        0 => Action::DropBefore,
        _ => Action::Pass,
    });
    let (store, _) = totals(&dynamo, &wire, &table);
    merge_one(&store, 5).await.unwrap();
    assert_eq!(wire.count("UpdateItem"), 2);
    assert_eq!(store.get(&key("k")).await.unwrap(), Some(5));
}

#[tokio::test]
async fn a_swap_that_arrives_late_is_not_applied_twice() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    // The swap is applied, but the first read after it still shows the row without it, as if the
    // swap were in progress. The second read finds it.
    let name = table.clone();
    let wire = Wire::new(
        move |request| match (request.operation.as_str(), request.nth) {
            ("UpdateItem", 0) => Action::DropAfter,
            ("BatchGetItem", 1) => read_answer(&name, &[]),
            _ => Action::Pass,
        },
    );
    let (store, _) = totals(&dynamo, &wire, &table);
    merge_one(&store, 5).await.unwrap();
    assert_eq!(wire.count("UpdateItem"), 2);
    assert_eq!(store.get(&key("k")).await.unwrap(), Some(5));
}

#[tokio::test]
async fn a_swap_beaten_by_another_writer_is_combined_anew() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    let attributes = [
        ("v", b(&[1, 0, 0, 0, 0, 0, 0, 0, 3])),
        ("ver", n(1)),
        ("tok", b(b"tok")),
    ];
    put_row(&dynamo.client(), &table, "k", &attributes).await;
    // It knew of no row and its answer was lost. Now there is version 1, of another writer.
    let name = table.clone();
    let wire = Wire::new(
        move |request| match (request.operation.as_str(), request.nth) {
            ("BatchGetItem", 0) => read_answer(&name, &[]),
            ("UpdateItem", 0) => Action::DropBefore,
            _ => Action::Pass,
        },
    );
    let (store, _) = totals(&dynamo, &wire, &table);
    merge_one(&store, 5).await.unwrap();
    assert_eq!(store.get(&key("k")).await.unwrap(), Some(8));
}

#[tokio::test]
async fn where_nobody_can_tell_only_an_idempotent_value_goes_again() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    // Its answer was lost, and by the time of the read the row is many versions ahead.
    let name = table.clone();
    let wire = Wire::new(
        move |request| match (request.operation.as_str(), request.nth) {
            ("UpdateItem", 0) => Action::DropAfter,
            ("BatchGetItem", 1) => read_answer(&name, &[strange_row(30)]),
            _ => Action::Pass,
        },
    );
    let (store, _) = totals(&dynamo, &wire, &table);
    let error = merge_one(&store, 5).await.unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Unavailable {
                may_have_applied: true,
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(
        (
            wire.count("UpdateItem"),
            store.get(&key("k")).await.unwrap()
        ),
        (1, Some(5))
    );

    let table = state_table(&dynamo).await;
    let name = table.clone();
    let wire = Wire::new(
        move |request| match (request.operation.as_str(), request.nth) {
            ("UpdateItem", 0) => Action::DropAfter,
            ("BatchGetItem", 1) => {
                let mut row = strange_row(30);
                row["v"] = json!({ "B": "MWE=" });
                read_answer(&name, &[row])
            }
            _ => Action::Pass,
        },
    );
    let (_, options) = virtual_time();
    let store = BytesStore::with_options(wire.client(&dynamo), &*table, Words, options).unwrap();
    let outcomes = store
        .merge(&[add("k", words(&["b"]))], Deadline::NONE)
        .await;
    assert!(matches!(outcomes[..], [Outcome::Applied]), "{outcomes:?}");
}

#[tokio::test]
async fn a_doubt_is_not_hidden_by_a_later_failure() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    let throttle = || Action::error(400, "ThrottlingException", "");
    // Either the read of the row fails, or the second swap.
    let look = Wire::new(
        move |request| match (request.operation.as_str(), request.nth) {
            ("UpdateItem", 0) => Action::DropBefore,
            ("BatchGetItem", 1..) => throttle(),
            _ => Action::Pass,
        },
    );
    let swap = wire_on("UpdateItem", move |request| match request.nth {
        0 => Action::DropBefore,
        _ => throttle(),
    });
    for wire in [look, swap] {
        let (store, _) = totals(&dynamo, &wire, &table);
        let error = merge_one(&store, 5).await.unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::Unavailable {
                    may_have_applied: true,
                    ..
                }
            ),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_row_removed_and_made_anew_is_not_taken_for_the_one_read() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    let made_anew = [
        ("v", b(&[1, 0, 0, 0, 0, 0, 0, 0, 1])),
        ("ver", n(1)),
        ("tok", b(b"new")),
    ];
    put_row(&dynamo.client(), &table, "k", &made_anew).await;
    let name = table.clone();
    let wire = wire_on("BatchGetItem", move |request| match request.nth {
        0 => read_answer(&name, &[strange_row(1)]),
        _ => Action::Pass,
    });
    let (store, _) = totals(&dynamo, &wire, &table);
    merge_one(&store, 5).await.unwrap();
    assert_eq!(store.get(&key("k")).await.unwrap(), Some(6));
}

#[tokio::test]
async fn a_value_too_large_by_itself_is_the_record_s_fault_a_full_row_is_not() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    let store = BytesStore::new(dynamo.client(), table, Words);
    let sized = |letter: &str, kb: usize| words(&[&letter.repeat(kb * 1024)]);
    let adds = [
        add("k", sized("a", 500)),
        add("k", sized("b", 300)),
        add("k", sized("c", 450)),
        add("k", sized("d", 200)),
        add("k", sized("e", 1)),
        add("other", sized("f", 1)),
    ];
    let outcomes = store.merge(&adds, Deadline::NONE).await;
    assert!(
        matches!(
            outcomes[..],
            [
                Outcome::Failed(StoreError::InvalidValue { .. }),
                Outcome::Applied,
                Outcome::Failed(StoreError::InvalidValue { .. }),
                Outcome::Failed(StoreError::RowTooLarge { .. }),
                Outcome::Blocked,
                Outcome::Applied,
            ]
        ),
        "{outcomes:?}"
    );
    assert_eq!(store.get(&key("k")).await.unwrap(), Some(sized("b", 300)));
}

#[tokio::test]
async fn an_overflow_changes_nothing() {
    let dynamo = Dynamo::connect().await;
    let store = BytesStore::new(dynamo.client(), state_table(&dynamo).await, Total);
    let adds = [add("k", i64::MAX), add("k", 1), add("k", -1)];
    let outcomes = store.merge(&adds, Deadline::NONE).await;
    assert!(
        matches!(
            outcomes[..],
            [
                Outcome::Applied,
                Outcome::Failed(StoreError::Overflow { .. }),
                Outcome::Applied
            ]
        ),
        "{outcomes:?}"
    );
    assert_eq!(store.get(&key("k")).await.unwrap(), Some(i64::MAX - 1));
}

#[tokio::test]
async fn a_row_of_the_wrong_shape_is_named_and_left_alone() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    let client = dynamo.client();
    let store = BytesStore::new(client.clone(), &*table, Words);
    let good = b(b"1a");
    let cases = [
        ("number", vec![("v", n(1)), ("ver", n(1))], "v"),
        ("missing", vec![("ver", n(1))], "v"),
        ("undecodable", vec![("v", b(&[9, 9])), ("ver", n(1))], "v"),
        ("no-version", vec![("v", good.clone())], "ver"),
        ("bad-version", vec![("v", good), ("ver", s("1"))], "ver"),
    ];
    for (entity, attributes, wrong) in cases {
        put_row(&client, &table, entity, &attributes).await;
        let before = row(&client, &table, entity).await;
        let outcomes = store
            .merge(&[add(entity, words(&["b"]))], Deadline::NONE)
            .await;
        let [
            Outcome::Failed(StoreError::WrongShape {
                place,
                attribute,
                source,
                ..
            }),
        ] = &outcomes[..]
        else {
            panic!("{entity}: {outcomes:?}")
        };
        assert_eq!(
            (*attribute, place.key.as_deref()),
            (wrong, Some(&key(entity)))
        );
        assert_eq!(
            source.is_some(),
            entity == "undecodable",
            "the decoding error is kept"
        );
        assert_eq!(row(&client, &table, entity).await, before);
        // A reader needs no version.
        assert_eq!(
            store.get(&key(entity)).await.is_err(),
            wrong == "v",
            "{entity}"
        );
    }
}

#[tokio::test]
async fn rows_of_the_exact_modes_are_refused() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    let client = dynamo.client();
    for trace in ["cur", "prev", "per", "led"] {
        let attributes = [("v", b(b"1a")), ("ver", n(1)), (trace, n(1))];
        put_row(&client, &table, trace, &attributes).await;
        // Found when the row is read, or by the condition if it changed after that.
        let name = table.clone();
        let late = wire_on("BatchGetItem", move |_| read_answer(&name, &[]));
        for wire in [Wire::calm(), late] {
            let store = BytesStore::new(wire.client(&dynamo), &*table, Words);
            for value in [words(&["a"]), words(&["b"])] {
                let outcomes = store.merge(&[add(trace, value)], Deadline::NONE).await;
                assert!(
                    matches!(
                        outcomes[..],
                        [Outcome::Failed(StoreError::OtherMode { .. })]
                    ),
                    "{trace}: {outcomes:?}"
                );
            }
        }
        assert_eq!(row(&client, &table, trace).await.unwrap()["v"], b(b"1a"));
    }
}

#[tokio::test]
async fn what_a_merge_reads_for_itself_is_consistent_whatever_readers_were_promised() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    let wire = Wire::calm();
    let options = TableOptions::default().eventually_consistent_reads();
    let store = BytesStore::with_options(wire.client(&dynamo), &*table, Words, options).unwrap();
    store
        .merge(&[add("k", words(&["a"]))], Deadline::NONE)
        .await;
    let read = &wire.requests()[0];
    assert_eq!(read.operation, "BatchGetItem");
    assert_eq!(read.body["RequestItems"][&table]["ConsistentRead"], true);
}

#[tokio::test]
async fn two_processes_restored_from_one_snapshot_lose_nothing_to_each_other() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    // Each holds the generator that was in the snapshot.
    let [one, other] = [7, 7].map(|seed| {
        let (_, options) = virtual_time();
        let options = options.random(Random::seeded(seed));
        BytesStore::with_options(dynamo.client(), &*table, Total, options).unwrap()
    });
    for round in 1..=10 {
        let (first, second) = join(merge_one(&one, 1), merge_one(&other, 100)).await;
        first.unwrap();
        second.unwrap();
        assert_eq!(one.get(&key("k")).await.unwrap(), Some(101 * round));
    }
}

#[tokio::test]
async fn without_randomness_nothing_is_written_and_the_set_up_is_to_blame() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    let (_, options) = virtual_time();
    let options = options.tokens(Tokens::drawn_by(|| {
        Err(NoRandomness::because(std::io::Error::other("no entropy")))
    }));
    let store = BytesStore::with_options(dynamo.client(), &*table, Total, options).unwrap();
    let error = merge_one(&store, 1).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Setup);
    assert!(error.to_string().contains("random"), "{error}");
    assert_eq!(store.get(&key("k")).await.unwrap(), None);
}
