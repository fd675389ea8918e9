//! Sums, maxima and minima: the range, the shape of rows, order, and lost answers.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use murmur_state::{Add, Clock, Deadline, Fault, Outcome, ReadExt, Store, StoreError, SystemClock};
use murmur_state_ddb::{Int64MaxStore, Int64MinStore, Int64SumStore, TableOptions};
use murmur_testkit::Dynamo;
use murmur_testkit::wire::{Action, Wire};

use crate::support::{
    Highest, Lowest, Total, add, b, key, n, put_row, row, s, state_table, virtual_time, wire_on,
};

async fn sum(store: &Int64SumStore, adds: &[Add<i64>]) -> Vec<Outcome> {
    Store::<Total>::merge(store, adds, Deadline::NONE).await
}

#[tokio::test]
async fn a_total_reaches_both_ends_of_i64_and_never_leaves_it() {
    let dynamo = Dynamo::connect().await;
    let store = Int64SumStore::new(dynamo.client(), state_table(&dynamo).await);
    // (first, second, total): the second is refused if the total stays the first.
    let cases = [
        (i64::MAX, 1, i64::MAX),
        (i64::MAX, i64::MAX, i64::MAX),
        (i64::MAX - 1, 1, i64::MAX),
        (i64::MIN, -1, i64::MIN),
        (i64::MIN, i64::MIN, i64::MIN),
        (i64::MIN + 1, -1, i64::MIN),
        (-1, i64::MIN, -1),
        (0, i64::MIN, i64::MIN),
        (i64::MAX, i64::MIN, -1),
        (i64::MIN, i64::MAX, -1),
    ];
    for (case, (first, second, total)) in cases.into_iter().enumerate() {
        let entity = format!("case-{case}");
        let outcomes = sum(&store, &[add(&entity, first), add(&entity, second)]).await;
        let fits = first.checked_add(second) == Some(total);
        assert!(matches!(outcomes[0], Outcome::Applied), "{outcomes:?}");
        match &outcomes[1] {
            Outcome::Applied => assert!(fits, "{first} + {second}"),
            Outcome::Failed(StoreError::Overflow { place }) => {
                assert!(!fits, "{first} + {second}");
                assert_eq!(place.key.as_deref(), Some(&key(&entity)));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(
            store.get(&key(&entity)).await.unwrap(),
            Some(total),
            "{first} + {second}"
        );
    }
}

#[tokio::test]
async fn an_overflow_does_not_stop_its_key() {
    let dynamo = Dynamo::connect().await;
    let store = Int64SumStore::new(dynamo.client(), state_table(&dynamo).await);
    let outcomes = sum(&store, &[add("k", i64::MAX), add("k", 1), add("k", -5)]).await;
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
    assert_eq!(store.get(&key("k")).await.unwrap(), Some(i64::MAX - 5));
}

#[tokio::test]
async fn lower_and_equal_values_succeed_and_change_nothing() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    let highest = Int64MaxStore::new(dynamo.client(), &*table);
    let lowest = Int64MinStore::new(dynamo.client(), &*table);
    let ends = [i64::MIN, 3, 2, 3, -9, i64::MAX, 0, i64::MIN, i64::MAX];
    for (end, value) in ends.into_iter().enumerate() {
        let adds = [add("high", value)];
        let outcomes = Store::<Highest>::merge(&highest, &adds, Deadline::NONE).await;
        assert!(matches!(outcomes[..], [Outcome::Applied]), "{outcomes:?}");
        let adds = [add("low", -1 - value)];
        let outcomes = Store::<Lowest>::merge(&lowest, &adds, Deadline::NONE).await;
        assert!(matches!(outcomes[..], [Outcome::Applied]), "{outcomes:?}");
        let wanted = ends[..=end].iter().copied().max();
        assert_eq!(highest.get(&key("high")).await.unwrap(), wanted);
        assert_eq!(
            lowest.get(&key("low")).await.unwrap(),
            wanted.map(|high| -1 - high)
        );
    }
}

#[tokio::test]
async fn rows_carry_the_shared_layout() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    let client = dynamo.client();
    let store = Int64SumStore::new(client.clone(), &*table);
    // A row as the Go original leaves it.
    put_row(&client, &table, "shared", &[("v", n(40)), ("ttl", n(5))]).await;
    let kept = Add {
        ttl: Some(1_900_000_000),
        ..add("shared", 2)
    };
    sum(
        &store,
        &[
            kept,
            Add {
                ttl: Some(7),
                ..add("never", 1)
            },
            add("never", 1),
        ],
    )
    .await;
    let shared = row(&client, &table, "shared").await.unwrap();
    assert_eq!(shared.len(), 4, "{shared:?}");
    assert_eq!((&shared["v"], &shared["ttl"]), (&n(42), &n(1_900_000_000)));
    let never = row(&client, &table, "never").await.unwrap();
    assert_eq!(
        never.get("ttl"),
        None,
        "no ttl means never, whatever was there"
    );
}

#[tokio::test]
async fn a_row_of_the_wrong_shape_is_named_and_left_alone() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    let client = dynamo.client();
    let wrong = [
        ("text", vec![("v", s("12"))], "of type S"),
        ("bytes", vec![("v", b(&[1]))], "of type B"),
        (
            "huge",
            vec![("v", n("9223372036854775808"))],
            "the number 9223372036854775808",
        ),
        ("fraction", vec![("v", n("1.5"))], "the number 1.5"),
        ("empty", vec![("other", n(1))], "missing"),
    ];
    for (entity, attributes, found) in &wrong {
        put_row(&client, &table, entity, attributes).await;
        let before = row(&client, &table, entity).await;
        let sums = Int64SumStore::new(client.clone(), &*table);
        let highest = Int64MaxStore::new(client.clone(), &*table);
        let mut errors = vec![sums.get(&key(entity)).await.unwrap_err()];
        // A fraction is a number in range. DynamoDB has no integers, so only a read detects it.
        if *entity != "fraction" {
            let adds = [add(entity, 1)];
            for outcomes in [
                sum(&sums, &adds).await,
                Store::<Highest>::merge(&highest, &adds, Deadline::NONE).await,
            ] {
                let [Outcome::Failed(error)] = &outcomes[..] else {
                    panic!("{outcomes:?}")
                };
                errors.push(error.clone());
            }
            assert_eq!(row(&client, &table, entity).await, before, "{entity}");
        }
        for error in errors {
            let StoreError::WrongShape {
                place, found: is, ..
            } = &error
            else {
                panic!("{error:?}")
            };
            assert_eq!(
                (&*place.table, place.key.as_deref()),
                (&*table, Some(&key(entity)))
            );
            assert_eq!(is, found);
            assert_eq!(error.fault(), Fault::Setup);
        }
    }
}

#[tokio::test]
async fn rows_of_the_exact_modes_are_refused() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    let client = dynamo.client();
    for trace in ["cur", "prev", "per", "led"] {
        put_row(&client, &table, trace, &[("v", n(5)), (trace, n(1))]).await;
        let adds = [add(trace, 9)];
        let sums = Int64SumStore::new(client.clone(), &*table);
        let highest = Int64MaxStore::new(client.clone(), &*table);
        let lowest = Int64MinStore::new(client.clone(), &*table);
        for outcomes in [
            sum(&sums, &adds).await,
            Store::<Highest>::merge(&highest, &adds, Deadline::NONE).await,
            Store::<Lowest>::merge(&lowest, &adds, Deadline::NONE).await,
        ] {
            let [Outcome::Failed(StoreError::OtherMode { found, .. })] = &outcomes[..] else {
                panic!("{trace}: {outcomes:?}")
            };
            assert_eq!(
                *found,
                if trace == "led" {
                    "ledger"
                } else {
                    "exactly-once"
                }
            );
        }
        assert_eq!(row(&client, &table, trace).await.unwrap()["v"], n(5));
    }
}

/// Clients with retries of their own, as far as the SDK allows.
fn eager_clients(dynamo: &Dynamo, wire: &Wire) -> [Client; 3] {
    [
        RetryConfig::standard(),
        RetryConfig::standard().with_max_attempts(9),
        RetryConfig::adaptive().with_max_attempts(9),
    ]
    .map(|retries| {
        let config = dynamo
            .client_config()
            .http_client(wire.clone())
            .retry_config(retries);
        Client::from_conf(config.build())
    })
}

#[tokio::test]
async fn an_addition_whose_answer_was_lost_is_sent_exactly_once() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    for lost in [Action::lose_answer(), Action::DropAfter] {
        let action = lost.clone();
        let wire = wire_on("UpdateItem", move |_| action.clone());
        for (client, entity) in eager_clients(&dynamo, &wire)
            .into_iter()
            .zip(["a", "b", "c"])
        {
            let store = Int64SumStore::new(client, &*table);
            let before = wire.count("UpdateItem");
            let stored = store.get(&key(entity)).await.unwrap().unwrap_or(0);
            let outcomes = sum(&store, &[add(entity, 7), add(entity, 7)]).await;
            let [Outcome::Failed(error), Outcome::Blocked] = &outcomes[..] else {
                panic!("{outcomes:?}")
            };
            let may_have_applied = matches!(
                error,
                StoreError::Unavailable {
                    may_have_applied: true,
                    ..
                }
            );
            assert!(may_have_applied, "{error:?}");
            assert_eq!(wire.count("UpdateItem") - before, 1, "sent once");
            assert_eq!(
                store.get(&key(entity)).await.unwrap(),
                Some(stored + 7),
                "{lost:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_addition_that_is_throttled_or_not_answered_is_sent_exactly_once() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    let throttle = Action::error(400, "ProvisionedThroughputExceededException", "slow down");
    for action in [
        throttle,
        Action::error(503, "ServiceUnavailable", ""),
        Action::DropBefore,
    ] {
        let wire = wire_on("UpdateItem", move |_| action.clone());
        let store = Int64SumStore::new(eager_clients(&dynamo, &wire)[1].clone(), &*table);
        let outcomes = sum(&store, &[add("k", 7)]).await;
        assert!(
            matches!(&outcomes[..], [Outcome::Failed(e)] if e.is_retryable()),
            "{outcomes:?}"
        );
        assert_eq!(wire.count("UpdateItem"), 1);
    }
}

#[tokio::test]
async fn an_attempt_is_given_up_after_its_timeout_or_at_the_deadline() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    tokio::time::pause();
    let wire = wire_on("UpdateItem", |_| Action::Hang);
    let clock = SystemClock::new();
    // (option, deadline, seconds until it is given up)
    for (timeout, left, wanted) in [(None, None, 5), (Some(2), None, 2), (Some(9), Some(3), 3)] {
        let mut options = TableOptions::default().clock(Arc::new(clock));
        if let Some(timeout) = timeout {
            options = options.attempt_timeout(Duration::from_secs(timeout));
        }
        let client = eager_clients(&dynamo, &wire)[1].clone();
        let store = Int64SumStore::with_options(client, &*table, options).unwrap();
        let deadline = left.map_or(Deadline::NONE, |left| {
            Deadline::within(&clock, Duration::from_secs(left))
        });
        let (start, sent) = (clock.monotonic(), wire.count("UpdateItem"));
        let outcomes = Store::<Total>::merge(&store, &[add("k", 1)], deadline).await;
        let gave_up = matches!(
            outcomes[..],
            [Outcome::Failed(StoreError::Unavailable {
                may_have_applied: true,
                ..
            })]
        );
        assert!(gave_up, "{outcomes:?}");
        // Virtual time: it moves only when everything waits.
        assert_eq!((clock.monotonic() - start).as_secs(), wanted);
        assert_eq!(wire.count("UpdateItem") - sent, 1);
    }
}

#[tokio::test]
async fn nothing_is_begun_after_the_deadline() {
    let dynamo = Dynamo::connect().await;
    let (clock, options) = virtual_time();
    let wire = Wire::calm();
    let table = state_table(&dynamo).await;
    let store = Int64SumStore::with_options(wire.client(&dynamo), table, options).unwrap();
    let deadline = Deadline::within(&clock, Duration::from_secs(1));
    clock.advance(Duration::from_secs(1));
    let adds = [add("a", 1), add("a", 1), add("b", 1)];
    let outcomes = Store::<Total>::merge(&store, &adds, deadline).await;
    assert!(
        matches!(
            outcomes[..],
            [
                Outcome::Failed(StoreError::DeadlinePassed { .. }),
                Outcome::Blocked,
                Outcome::Failed(StoreError::DeadlinePassed { .. })
            ]
        ),
        "{outcomes:?}"
    );
    assert_eq!(wire.count("UpdateItem"), 0);
}

#[tokio::test]
async fn a_failure_blocks_its_own_key_and_no_other() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    let wire = wire_on("UpdateItem", |request| {
        let bad = request.body["Key"]["pk"]["S"] == "bad";
        if bad {
            Action::error(400, "ThrottlingException", "")
        } else {
            Action::Pass
        }
    });
    let store = Int64SumStore::new(wire.client(&dynamo), table);
    let outcomes = sum(
        &store,
        &[add("good", 1), add("bad", 1), add("good", 2), add("bad", 2)],
    )
    .await;
    assert!(
        matches!(
            outcomes[..],
            [
                Outcome::Applied,
                Outcome::Failed(StoreError::Throttled { .. }),
                Outcome::Applied,
                Outcome::Blocked
            ]
        ),
        "{outcomes:?}"
    );
    assert_eq!(store.get(&key("good")).await.unwrap(), Some(3));
}

#[tokio::test]
async fn one_key_s_entries_are_written_in_order() {
    let dynamo = Dynamo::connect().await;
    let wire = Wire::calm();
    let store = Int64SumStore::new(wire.client(&dynamo), state_table(&dynamo).await);
    let adds: Vec<_> = (0..60)
        .map(|n| add(["a", "b", "c"][n % 3], n as i64))
        .collect();
    assert!(
        sum(&store, &adds)
            .await
            .iter()
            .all(|outcome| matches!(outcome, Outcome::Applied))
    );
    for entity in ["a", "b", "c"] {
        let sent: Vec<i64> = wire
            .requests()
            .iter()
            .filter(|request| request.body["Key"]["pk"]["S"] == entity)
            .map(|r| {
                r.body["ExpressionAttributeValues"][":value"]["N"]
                    .as_str()
                    .unwrap()
                    .parse()
            })
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(sent.len(), 20);
        assert!(sent.is_sorted(), "{sent:?}");
    }
}

#[tokio::test]
async fn no_more_keys_are_written_at_a_time_than_asked() {
    let dynamo = Dynamo::connect().await;
    let table = state_table(&dynamo).await;
    tokio::time::pause();
    let adds: Vec<_> = (0..40).map(|n| add(&format!("k{n}"), 1)).collect();
    for (options, wanted) in [
        (TableOptions::default(), 16),
        (TableOptions::default().concurrency(3), 3),
    ] {
        let wire = wire_on("UpdateItem", |_| Action::Hang);
        let store = Int64SumStore::with_options(wire.client(&dynamo), &*table, options).unwrap();
        let merge = Store::<Total>::merge(&store, &adds, Deadline::NONE);
        tokio::time::timeout(Duration::from_secs(1), merge)
            .await
            .unwrap_err();
        assert_eq!(wire.count("UpdateItem"), wanted);
    }
}

#[tokio::test]
async fn options_that_cannot_be_used_are_refused_by_name() {
    let dynamo = Dynamo::connect().await;
    let refused = |options| {
        let store = Int64SumStore::with_options(dynamo.client(), "t", options);
        store.unwrap_err().option
    };
    assert_eq!(
        refused(TableOptions::default().concurrency(0)),
        "concurrency"
    );
    let no_time = TableOptions::default().attempt_timeout(Duration::ZERO);
    assert_eq!(refused(no_time), "attempt_timeout");
}
