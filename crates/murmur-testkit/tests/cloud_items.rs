//! What no local server shows of items: held by transactions, busy with writes, throttled one by
//! one, remembered by tokens; and what each request costs.
#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

mod cloud_support;

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{
    AttributeValue, ConditionCheck, Get, KeysAndAttributes, PutRequest, ReturnConsumedCapacity,
    TransactGetItem, TransactWriteItem, WriteRequest,
};
use cloud_support::*;
use futures::future::{join, join_all};
use murmur_testkit::Dynamo;
use murmur_testkit::cloud::{Cloud, Fault, Usage, Weather};
use tokio::time::{Instant, sleep};

fn holding() -> Weather {
    Weather {
        hold: 15 * MILLI,
        ..Weather::calm()
    }
}

async fn later<T>(wait: Duration, work: impl Future<Output = T>) -> T {
    sleep(wait).await;
    work.await
}

#[tokio::test(start_paused = true)]
async fn a_transaction_holds_its_items_and_then_writes_them() {
    let cloud = cloud(1, holding()).await;
    let client = single(&cloud.process());
    let started = Instant::now();
    let transaction = add_all(&client, &["a", "b"]).send();
    let look = later(14 * MILLI, value(&cloud, "a"));
    let (answer, before) = join(transaction, look).await;
    answer.unwrap();
    assert_eq!(before, None);
    assert_eq!(started.elapsed(), 15 * MILLI);
    assert_eq!(value(&cloud, "a").await, Some(1));
    // Held no longer.
    add_all(&client, &["b", "c"]).send().await.unwrap();
    add(&client, "b", 1).send().await.unwrap();
    assert_eq!(value(&cloud, "b").await, Some(3));
    assert_eq!(cloud.met().count(Fault::HeldConflict), 0);
}

#[tokio::test(start_paused = true)]
async fn whoever_meets_a_held_item_is_refused_as_aws_does_it() {
    let cloud = cloud(1, holding()).await;
    let client = single(&cloud.process());
    let holder = add_all(&client, &["a", "b"]).send();
    let others = later(MILLI, async {
        let started = Instant::now();
        let met = add_all(&client, &["x", "b", "y", "a"])
            .send()
            .await
            .unwrap_err();
        assert_eq!(
            met.as_service_error().unwrap().meta().message().unwrap(),
            "Transaction cancelled, please refer cancellation reasons for specific reasons [None, \
             TransactionConflict, None, TransactionConflict]"
        );
        let TransactWriteItemsError::TransactionCanceledException(it) = met.into_service_error()
        else {
            panic!("not cancelled");
        };
        let reasons = it.cancellation_reasons();
        assert_eq!(
            reasons[1].message(),
            Some("Transaction is ongoing for the item")
        );
        assert_eq!(
            (reasons[0].code(), reasons[0].message()),
            (Some("None"), None)
        );

        let error = add(&client, "b", 1).send().await.unwrap_err();
        assert_eq!(code(&error), "TransactionConflictException");

        let get = |key: &str| {
            let get = Get::builder()
                .table_name(TABLE)
                .key("pk", text(key))
                .key("sk", number(0));
            TransactGetItem::builder().get(get.build().unwrap()).build()
        };
        let read = client
            .transact_get_items()
            .transact_items(get("x"))
            .transact_items(get("a"));
        let error = read.send().await.unwrap_err().into_service_error();
        assert!(error.is_transaction_canceled_exception(), "{error:?}");

        let check = ConditionCheck::builder()
            .table_name(TABLE)
            .condition_expression("attribute_not_exists(v)");
        let check = check
            .key("pk", text("a"))
            .key("sk", AttributeValue::N("0.0".into()));
        let check = TransactWriteItem::builder().condition_check(check.build().unwrap());
        let check = client.transact_write_items().transact_items(check.build());
        assert_eq!(reasons_of(check.send().await), ["TransactionConflict"]);

        // Plain reads see what was there before.
        let read = client
            .get_item()
            .table_name(TABLE)
            .key("pk", text("a"))
            .key("sk", number(0));
        assert_eq!(read.consistent_read(true).send().await.unwrap().item, None);

        let put = |key: &str| {
            let put = PutRequest::builder()
                .item("pk", text(key))
                .item("sk", number(0))
                .item("v", number(9));
            WriteRequest::builder()
                .put_request(put.build().unwrap())
                .build()
        };
        let batch = client
            .batch_write_item()
            .request_items(TABLE, vec![put("a"), put("z")]);
        let left = batch.send().await.unwrap().unprocessed_items.unwrap();
        assert_eq!(left[TABLE], [put("a")]);
        // All of it at once: nobody waited.
        assert_eq!(started.elapsed(), Duration::ZERO);
    });
    join(holder, others).await.0.unwrap();
    for (key, left) in [("a", Some(1)), ("b", Some(1)), ("x", None), ("z", Some(9))] {
        assert_eq!(value(&cloud, key).await, left, "{key}");
    }
    assert_eq!(cloud.met().count(Fault::HeldConflict), 5);
    assert_eq!(cloud.usage().transactional, 4.0);
    // Four actions and one.
    assert_eq!(cloud.usage().cancelled, 10.0);
}

fn reasons_of<T: std::fmt::Debug>(
    answer: Result<T, SdkError<TransactWriteItemsError>>,
) -> Vec<String> {
    reasons(answer.unwrap_err())
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_transaction_holds_nothing() {
    let cloud = cloud(1, holding()).await;
    let client = single(&cloud.process());
    let holder = add_all(&client, &["a"]).send();
    let others = later(MILLI, async {
        add_all(&client, &["a", "b"]).send().await.unwrap_err();
        add(&client, "b", 1).send().await.unwrap();
    });
    join(holder, others).await.0.unwrap();
    assert_eq!(value(&cloud, "b").await, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_refused_transaction_lets_its_items_go() {
    let cloud = cloud(1, holding()).await;
    let client = single(&cloud.process());
    let check = ConditionCheck::builder()
        .table_name(TABLE)
        .condition_expression("attribute_exists(v)");
    let check = check
        .key("pk", text("none"))
        .key("sk", number(0))
        .build()
        .unwrap();
    let check = TransactWriteItem::builder().condition_check(check).build();
    let refused = add_all(&client, &["a"]).transact_items(check).send().await;
    assert_eq!(reasons_of(refused), ["None", "ConditionalCheckFailed"]);
    add(&client, "a", 1).send().await.unwrap();
    assert_eq!(value(&cloud, "a").await, Some(1));
    assert_eq!(cloud.usage().cancelled, 4.0);
}

#[tokio::test(start_paused = true)]
async fn plain_writes_to_an_item_queue_up() {
    let cloud = cloud(
        1,
        Weather {
            service: 2 * MILLI,
            ..Weather::calm()
        },
    )
    .await;
    let client = single(&cloud.process());
    let started = Instant::now();
    let writes = join_all((0..10).map(|_| add(&client, "a", 1).send())).await;
    assert!(writes.iter().all(Result::is_ok));
    assert_eq!(started.elapsed(), 20 * MILLI);
    assert_eq!(value(&cloud, "a").await, Some(10));

    let started = Instant::now();
    let keys: Vec<String> = (0..10).map(|key| format!("k{key}")).collect();
    join_all(keys.iter().map(|key| add(&client, key, 1).send())).await;
    assert_eq!(started.elapsed(), 2 * MILLI);
    assert_eq!(cloud.met(), murmur_testkit::cloud::Met::default());
}

#[tokio::test(start_paused = true)]
async fn a_transaction_comes_after_the_writes_before_it() {
    let busy = Weather {
        service: 40 * MILLI,
        ..holding()
    };
    let cloud = cloud(1, busy).await;
    let client = single(&cloud.process());
    let started = Instant::now();
    let write = add(&client, "a", 1).send();
    let transaction = later(MILLI, async {
        add_all(&client, &["a"]).send().await.unwrap();
        assert_eq!(started.elapsed(), 40 * MILLI);
    });
    let read = later(2 * MILLI, async {
        let get = Get::builder()
            .table_name(TABLE)
            .key("pk", text("a"))
            .key("sk", number(0));
        let get = TransactGetItem::builder().get(get.build().unwrap()).build();
        client
            .transact_get_items()
            .transact_items(get)
            .send()
            .await
            .unwrap_err();
    });
    join(join(write, transaction), read).await.0.0.unwrap();
    assert_eq!(value(&cloud, "a").await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn an_item_takes_so_much_a_second() {
    let cloud = cloud(
        1,
        Weather {
            partition_limit: Some(100.0),
            ..Weather::calm()
        },
    )
    .await;
    let client = single(&cloud.process());
    for _ in 0..100 {
        add(&client, "a", 1).send().await.unwrap();
    }
    let error = add(&client, "a", 1).send().await.unwrap_err();
    assert_eq!(code(&error), "ProvisionedThroughputExceededException");
    add(&client, "b", 1).send().await.unwrap();
    assert_eq!(
        reasons_of(add_all(&client, &["b", "a"]).send().await),
        ["None", "ThrottlingError"]
    );
    assert_eq!(cloud.met().count(Fault::PartitionLimit), 2);
    // A tenth flows off in a tenth of a second; a transaction takes twice as much.
    sleep(100 * MILLI).await;
    for _ in 0..5 {
        add_all(&client, &["a"]).send().await.unwrap();
    }
    add(&client, "a", 1).send().await.unwrap_err();
    sleep(SECOND).await;
    add(&client, "a", 1).send().await.unwrap();
    assert_eq!(value(&cloud, "a").await, Some(106));
}

#[tokio::test(start_paused = true)]
async fn a_token_answers_for_ten_minutes() {
    let cloud = cloud(1, Weather::calm()).await;
    let client = single(&cloud.process());
    let send = |keys: &'static [&str]| add_all(&client, keys).client_request_token("token").send();
    send(&["a", "b"]).await.unwrap();
    sleep(599 * SECOND).await;
    send(&["a", "b"]).await.unwrap();
    assert_eq!(value(&cloud, "a").await, Some(1));
    assert_eq!(cloud.met().count(Fault::TokenReplay), 1);
    // Reading what was written, transactionally.
    assert_eq!(
        (cloud.usage().transactional, cloud.usage().read),
        (4.0, 4.0)
    );

    let error = send(&["a"]).await.unwrap_err().into_service_error();
    assert!(
        error.is_idempotent_parameter_mismatch_exception(),
        "{error:?}"
    );
    // Whatever became of the table.
    let admin = cloud.admin();
    admin.delete_table().table_name(TABLE).send().await.unwrap();
    create(&admin, TABLE).await;
    send(&["a", "b"]).await.unwrap();
    assert_eq!(value(&cloud, "a").await, None);

    sleep(SECOND).await;
    send(&["a"]).await.unwrap();
    assert_eq!(value(&cloud, "a").await, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_token_of_a_cancelled_transaction_is_forgotten() {
    let cloud = cloud(1, holding()).await;
    let client = single(&cloud.process());
    let holder = add_all(&client, &["a"]).send();
    let other = later(MILLI, async {
        let send = || {
            add_all(&client, &["a"])
                .client_request_token("token")
                .send()
        };
        send().await.unwrap_err();
        sleep(20 * MILLI).await;
        send().await.unwrap();
    });
    join(holder, other).await.0.unwrap();
    assert_eq!(value(&cloud, "a").await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_token_under_way_is_in_progress() {
    let cloud = cloud(1, holding()).await;
    let client = single(&cloud.process());
    let send = || {
        add_all(&client, &["a"])
            .client_request_token("token")
            .send()
    };
    let again = later(MILLI, async {
        let error = send().await.unwrap_err().into_service_error();
        assert!(error.is_transaction_in_progress_exception(), "{error:?}");
    });
    join(send(), again).await.0.unwrap();
    send().await.unwrap();
    assert_eq!(value(&cloud, "a").await, Some(1));
    assert_eq!(cloud.met().count(Fault::InProgress), 1);
}

/// A row whose size is `bytes` by AWS's rules, from one that holds a number already.
fn grow(
    client: &Client,
    key: &str,
    bytes: usize,
) -> aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder {
    // pk + its value, sk + a zero, fill: names and values.
    let others = 2 + key.len() + 2 + 1 + "fill".len();
    let request = client
        .update_item()
        .key("pk", text(key))
        .key("sk", number(0));
    let request = request.update_expression("SET fill = :fill");
    request.expression_attribute_values(
        ":fill",
        AttributeValue::B(Blob::new(vec![0; bytes - others])),
    )
}

/// What `work` adds to the books.
async fn cost<T>(cloud: &Cloud, work: impl Future<Output = T>) -> Usage {
    let before = cloud.usage();
    work.await;
    let mut after = cloud.usage();
    after.plain -= before.plain;
    after.refused -= before.refused;
    after.transactional -= before.transactional;
    after.cancelled -= before.cancelled;
    after.read -= before.read;
    after.requests.clear();
    after
}

/// The books over any server; `reads` where the server is right about them.
async fn books(cloud: &Cloud, table: &str) {
    let client = single(&cloud.process());
    let is = |plain: f64, refused: f64, transactional: f64, cancelled: f64, read: f64| {
        let mut usage = Usage::default();
        usage.plain = plain;
        usage.refused = refused;
        usage.transactional = transactional;
        usage.cancelled = cancelled;
        usage.read = read;
        usage
    };
    let grow = |key: &str, bytes| grow(&client, key, bytes).table_name(table);
    let add = |key: &str| add(&client, key, 1).table_name(table);

    // To the byte, on the larger of before and after.
    for (bytes, units) in [
        (1024, 1.0),
        (1025, 2.0),
        (2048, 2.0),
        (100, 2.0),
        (100, 1.0),
        (5000, 5.0),
    ] {
        assert_eq!(
            cost(cloud, grow("a", bytes).send()).await,
            is(units, 0.0, 0.0, 0.0, 0.0),
            "{bytes}"
        );
    }
    // A number: one byte, and one for two digits; in a set each.
    for (digits, units) in [("1234567890", 1.0), ("12345678901", 2.0)] {
        let key = format!("n{digits}");
        grow(&key, 1024 - 7).send().await.unwrap();
        let request = add(&key).expression_attribute_values(":v", AttributeValue::N(digits.into()));
        assert_eq!(cost(cloud, request.send()).await.plain, units, "{digits}");
    }
    let bytes = |n: u8| Blob::new([n; 16]);
    grow("s", 1024 - 2 - 3 * 16).send().await.unwrap();
    for (sets, units) in [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)] {
        let request = client
            .update_item()
            .table_name(table)
            .key("pk", text("s"))
            .key("sk", number(0));
        let request = request
            .update_expression("ADD id :i")
            .expression_attribute_values(":i", AttributeValue::Bs(vec![bytes(sets)]));
        assert_eq!(cost(cloud, request.send()).await.plain, units, "{sets} ids");
    }
    // A condition that fails costs what is there, at least one.
    let refused = |key: &str| {
        add(key)
            .condition_expression("attribute_exists(nothing)")
            .send()
    };
    assert_eq!(cost(cloud, refused("a")).await, is(0.0, 5.0, 0.0, 0.0, 0.0));
    assert_eq!(
        cost(cloud, refused("none")).await,
        is(0.0, 1.0, 0.0, 0.0, 0.0)
    );

    // In a transaction twice, for each action.
    let action = |key: &str, condition: &str| {
        let update = aws_sdk_dynamodb::types::Update::builder()
            .table_name(table)
            .key("pk", text(key))
            .key("sk", number(0));
        let update = update
            .update_expression("ADD v :v")
            .expression_attribute_values(":v", number(1));
        let update = update.condition_expression(condition).build().unwrap();
        TransactWriteItem::builder().update(update).build()
    };
    let yes = "attribute_not_exists(nothing)";
    let both = client
        .transact_write_items()
        .transact_items(action("a", yes))
        .transact_items(action("new", yes));
    assert_eq!(cost(cloud, both.send()).await, is(0.0, 0.0, 12.0, 0.0, 0.0));
    let one = client
        .transact_write_items()
        .transact_items(action("a", yes));
    let one = one.transact_items(action("new", "attribute_exists(nothing)"));
    assert_eq!(cost(cloud, one.send()).await, is(0.0, 0.0, 0.0, 12.0, 0.0));
    // What shrinks in one costs what it was.
    let shrink = aws_sdk_dynamodb::types::Update::builder()
        .table_name(table)
        .key("pk", text("a"))
        .key("sk", number(0));
    let shrink = shrink.update_expression("REMOVE fill").build().unwrap();
    let shrink = client
        .transact_write_items()
        .transact_items(TransactWriteItem::builder().update(shrink).build());
    assert_eq!(
        cost(cloud, shrink.send()).await,
        is(0.0, 0.0, 10.0, 0.0, 0.0)
    );

    // Reads, by 4 KB.
    grow("r", 4097).send().await.unwrap();
    let get = |key: &str| {
        client
            .get_item()
            .table_name(table)
            .key("pk", text(key))
            .key("sk", number(0))
    };
    assert_eq!(
        cost(cloud, get("r").consistent_read(true).send()).await,
        is(0.0, 0.0, 0.0, 0.0, 2.0)
    );
    assert_eq!(
        cost(cloud, get("r").send()).await,
        is(0.0, 0.0, 0.0, 0.0, 1.0)
    );
    assert_eq!(
        cost(cloud, get("none").consistent_read(true).send()).await,
        is(0.0, 0.0, 0.0, 0.0, 1.0)
    );
    let keys =
        ["r", "new"].map(|key| [("pk".to_owned(), text(key)), ("sk".to_owned(), number(0))].into());
    let keys = KeysAndAttributes::builder()
        .set_keys(Some(keys.into()))
        .consistent_read(true);
    let batch = client
        .batch_get_item()
        .request_items(table, keys.build().unwrap());
    assert_eq!(cost(cloud, batch.send()).await, is(0.0, 0.0, 0.0, 0.0, 3.0));
    // Nobody sees what was asked for the books, and whoever asks gets it.
    let plain = add("new").send().await.unwrap();
    assert_eq!(plain.consumed_capacity, None);
    let asked = add("new")
        .return_consumed_capacity(ReturnConsumedCapacity::Total)
        .send()
        .await
        .unwrap();
    assert_eq!(asked.consumed_capacity.unwrap().capacity_units, Some(1.0));
    let refused = refused("new").await.unwrap_err().into_service_error();
    let aws_sdk_dynamodb::operation::update_item::UpdateItemError::ConditionalCheckFailedException(
        refused,
    ) = refused
    else {
        panic!("{refused:?}");
    };
    assert_eq!(refused.item, None);
}

#[tokio::test(start_paused = true)]
async fn units_are_counted_by_aws_rules() {
    let cloud = cloud(1, Weather::calm()).await;
    books(&cloud, TABLE).await;
}

#[tokio::test]
async fn units_are_counted_over_a_server_too() {
    let dynamo = Dynamo::connect().await;
    let table = dynamo.table("units");
    let cloud = Cloud::over(&dynamo, 1, Weather::calm());
    create(&cloud.admin(), &table).await;
    books(&cloud, &table).await;
}
