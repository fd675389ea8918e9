//! Claims: expiry, owners, lost answers, markers of the original; and checkpoints' lost answers.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::types::AttributeValue;
use murmur_state::{
    Checkpoint, Checkpoints, Claim, Deadline, Deduper as _, Fault, ManualClock, Owner, Removed,
    Saved, StoreError, Timestamp, Tokens,
};
use murmur_state_ddb::{Deduper, TableOptions};
use murmur_testkit::Dynamo;
use murmur_testkit::wire::{Action, Wire};

use crate::support::{marker_table, n, s, virtual_time, wire_on};

const NOW: i64 = 1_700_000_000;

fn owners() -> (Owner, Owner) {
    let tokens = Tokens::new();
    (Owner::new(&tokens).unwrap(), Owner::new(&tokens).unwrap())
}

async fn put_marker(client: &Client, table: &str, id: &str, rest: &[(&str, AttributeValue)]) {
    let mut put = client.put_item().table_name(table).item("pk", s(id));
    for (name, value) in rest {
        put = put.item(*name, value.clone());
    }
    put.send().await.unwrap();
}

/// A client with retries of its own, over `wire`.
fn eager(dynamo: &Dynamo, wire: &Wire) -> Client {
    let retries = RetryConfig::standard().with_max_attempts(9);
    let config = dynamo
        .client_config()
        .http_client(wire.clone())
        .retry_config(retries);
    Client::from_conf(config.build())
}

#[tokio::test]
async fn a_claim_is_remembered_for_48_hours_unless_told_otherwise() {
    let dynamo = Dynamo::connect().await;
    for (ttl, hours) in [(None, 48), (Some(Duration::from_secs(3600)), 1)] {
        let clock = ManualClock::new(Timestamp::from_millis(NOW * 1000 + 1));
        let options = TableOptions::default().clock(Arc::new(clock.clone()));
        let table = marker_table(&dynamo).await;
        let mut deduper = Deduper::with_options(dynamo.client(), &*table, options).unwrap();
        if let Some(ttl) = ttl {
            deduper = deduper.ttl(ttl).unwrap();
        }
        let (a, b) = owners();
        deduper.claim("id", &a, Deadline::NONE).await.unwrap();
        let get = dynamo
            .client()
            .get_item()
            .table_name(&*table)
            .key("pk", s("id"));
        let row = get.send().await.unwrap().item.unwrap();
        assert_eq!(row["ttl"], n(NOW + hours * 3600 + 1), "rounded up");

        clock.advance(Duration::from_secs(hours as u64 * 3600));
        assert_eq!(
            deduper.claim("id", &b, Deadline::NONE).await.unwrap(),
            Claim::Duplicate
        );
        clock.advance(Duration::from_secs(2));
        // Expired, though the row is not deleted yet.
        assert_eq!(
            deduper.claim("id", &b, Deadline::NONE).await.unwrap(),
            Claim::First
        );
        assert_eq!(
            deduper.claim("id", &a, Deadline::NONE).await.unwrap(),
            Claim::Duplicate
        );
    }
}

#[tokio::test]
async fn a_marker_of_the_original_is_a_duplicate_until_it_expires() {
    let dynamo = Dynamo::connect().await;
    let table = marker_table(&dynamo).await;
    let (_, options) = virtual_time();
    let deduper = Deduper::with_options(dynamo.client(), &*table, options).unwrap();
    let client = dynamo.client();
    put_marker(&client, &table, "live", &[("ttl", n(NOW + 1))]).await;
    put_marker(&client, &table, "expired", &[("ttl", n(NOW - 1))]).await;
    put_marker(&client, &table, "endless", &[]).await;
    let (a, _) = owners();
    let claim = async |id| deduper.claim(id, &a, Deadline::NONE).await.unwrap();
    assert_eq!(claim("live").await, Claim::Duplicate);
    assert_eq!(claim("expired").await, Claim::First);
    assert_eq!(claim("endless").await, Claim::Duplicate);
    // A marker without an owner is released by none.
    deduper.release("live", &a, Deadline::NONE).await.unwrap();
    assert_eq!(claim("live").await, Claim::Duplicate);
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_sent_once_and_recognised_when_repeated() {
    let dynamo = Dynamo::connect().await;
    for lost in [Action::lose_answer(), Action::DropAfter] {
        let table = marker_table(&dynamo).await;
        let wire = wire_on("PutItem", move |request| match request.nth {
            0 => lost.clone(),
            _ => Action::Pass,
        });
        let deduper = Deduper::new(eager(&dynamo, &wire), &*table);
        let (a, b) = owners();
        let error = deduper.claim("id", &a, Deadline::NONE).await.unwrap_err();
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
        assert_eq!(wire.count("PutItem"), 1);
        assert_eq!(
            deduper.claim("id", &b, Deadline::NONE).await.unwrap(),
            Claim::Duplicate
        );
        assert_eq!(
            deduper.claim("id", &a, Deadline::NONE).await.unwrap(),
            Claim::First
        );
    }
}

#[tokio::test]
async fn a_release_whose_answer_was_lost_is_sent_once_and_safe_to_repeat() {
    let dynamo = Dynamo::connect().await;
    let table = marker_table(&dynamo).await;
    let wire = wire_on("DeleteItem", |request| match request.nth {
        0 => Action::lose_answer(),
        _ => Action::Pass,
    });
    let deduper = Deduper::new(eager(&dynamo, &wire), &*table);
    let (a, b) = owners();
    deduper.claim("id", &a, Deadline::NONE).await.unwrap();
    deduper.release("id", &a, Deadline::NONE).await.unwrap_err();
    assert_eq!(wire.count("DeleteItem"), 1);
    assert_eq!(
        deduper.claim("id", &b, Deadline::NONE).await.unwrap(),
        Claim::First
    );
    deduper.release("id", &a, Deadline::NONE).await.unwrap();
    assert_eq!(
        deduper.claim("id", &a, Deadline::NONE).await.unwrap(),
        Claim::Duplicate
    );
}

#[tokio::test]
async fn ids_that_cannot_be_keys_are_clear_errors_of_the_record() {
    let dynamo = Dynamo::connect().await;
    let deduper = Deduper::new(dynamo.client(), marker_table(&dynamo).await);
    let (a, _) = owners();
    let claim = async |id: &str| deduper.claim(id, &a, Deadline::NONE).await;
    assert_eq!(claim(&"x".repeat(2048)).await.unwrap(), Claim::First);
    let error = claim(&"x".repeat(2049)).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Record);
    assert!(error.to_string().contains("2049 bytes"), "{error}");
    assert!(matches!(claim("").await, Err(StoreError::InvalidId(_))));
    assert!(
        deduper
            .release(&"x".repeat(2049), &a, Deadline::NONE)
            .await
            .is_err()
    );
    assert!(deduper.load(&"x".repeat(2049)).await.is_err());
    assert!(deduper.save("", "data", None).await.is_err());
    assert!(deduper.remove("", 1).await.is_err());
}

#[tokio::test]
async fn nothing_is_claimed_after_the_deadline() {
    let dynamo = Dynamo::connect().await;
    let (clock, options) = virtual_time();
    let wire = Wire::calm();
    let table = marker_table(&dynamo).await;
    let deduper = Deduper::with_options(wire.client(&dynamo), table, options).unwrap();
    let (a, _) = owners();
    let passed = Deadline::within(&clock, Duration::ZERO);
    for result in [
        deduper.claim("id", &a, passed).await.map(|_| ()),
        deduper.release("id", &a, passed).await,
    ] {
        assert!(
            matches!(result, Err(StoreError::DeadlinePassed { .. })),
            "{result:?}"
        );
    }
    assert!(wire.requests().is_empty());
}

#[tokio::test]
async fn a_time_of_zero_is_refused_by_name() {
    let dynamo = Dynamo::connect().await;
    let error = Deduper::new(dynamo.client(), "t")
        .ttl(Duration::ZERO)
        .unwrap_err();
    assert_eq!(error.option, "ttl");
    let options = TableOptions::default().attempt_timeout(Duration::ZERO);
    let error = Deduper::with_options(dynamo.client(), "t", options).unwrap_err();
    assert_eq!(error.option, "attempt_timeout");
}

#[tokio::test]
async fn a_checkpoint_whose_answer_was_lost_is_sent_once_and_recognised_when_repeated() {
    let dynamo = Dynamo::connect().await;
    let table = marker_table(&dynamo).await;
    let wire = wire_on("PutItem", |request| match request.nth % 2 {
        0 => Action::DropAfter,
        _ => Action::Pass,
    });
    let deduper = Deduper::new(eager(&dynamo, &wire), &*table);
    for (over, version) in [(None, 1), (Some(1), 2)] {
        let data = format!("data-{version}");
        deduper.save("c", &data, over).await.unwrap_err();
        assert_eq!(
            deduper.save("c", &data, over).await.unwrap(),
            Saved::Version(version)
        );
        let found = deduper.load("c").await.unwrap();
        assert_eq!(found, Some(Checkpoint { data, version }));
    }
    assert_eq!(wire.count("PutItem"), 4);
}

#[tokio::test]
async fn a_removal_whose_answer_was_lost_is_sent_once_and_safe_to_repeat() {
    let dynamo = Dynamo::connect().await;
    for lost in [Action::lose_answer(), Action::DropAfter] {
        let table = marker_table(&dynamo).await;
        let wire = wire_on("DeleteItem", move |request| match request.nth {
            0 => lost.clone(),
            _ => Action::Pass,
        });
        let deduper = Deduper::new(eager(&dynamo, &wire), &*table);
        deduper.save("c", "data", None).await.unwrap();
        let error = deduper.remove("c", 1).await.unwrap_err();
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
        assert_eq!(wire.count("DeleteItem"), 1);
        assert_eq!(deduper.load("c").await.unwrap(), None);
        assert_eq!(deduper.remove("c", 1).await.unwrap(), Removed::Gone);
        assert_eq!(wire.count("DeleteItem"), 2);
    }
}

#[tokio::test]
async fn a_removal_that_did_not_arrive_spares_what_was_saved_before_it_is_repeated() {
    let dynamo = Dynamo::connect().await;
    let table = marker_table(&dynamo).await;
    let wire = wire_on("DeleteItem", |request| match request.nth {
        0 => Action::DropBefore,
        _ => Action::Pass,
    });
    let deduper = Deduper::new(eager(&dynamo, &wire), &*table);
    deduper.save("c", "one", None).await.unwrap();
    deduper.remove("c", 1).await.unwrap_err();
    deduper.save("c", "two", Some(1)).await.unwrap();
    assert_eq!(deduper.remove("c", 1).await.unwrap(), Removed::Conflict);
    let found = deduper.load("c").await.unwrap().unwrap();
    assert_eq!((found.data.as_str(), found.version), ("two", 2));
}

#[tokio::test]
async fn checkpoints_do_not_expire() {
    let dynamo = Dynamo::connect().await;
    let table = marker_table(&dynamo).await;
    let deduper = Deduper::new(dynamo.client(), &*table);
    deduper.save("c", "data", None).await.unwrap();
    let get = dynamo
        .client()
        .get_item()
        .table_name(&*table)
        .key("pk", s("c"));
    let row = get.send().await.unwrap().item.unwrap();
    assert!(!row.contains_key("ttl"), "{row:?}");
}

#[tokio::test]
async fn a_row_that_is_no_checkpoint_is_an_error_that_names_it() {
    let dynamo = Dynamo::connect().await;
    let table = marker_table(&dynamo).await;
    let deduper = Deduper::new(dynamo.client(), &*table);
    let client = dynamo.client();
    put_marker(&client, &table, "claim", &[("ttl", n(NOW))]).await;
    put_marker(&client, &table, "no-version", &[("data", s("x"))]).await;
    for name in ["claim", "no-version"] {
        for error in [
            deduper.load(name).await.unwrap_err(),
            deduper.save(name, "mine", None).await.unwrap_err(),
            deduper.remove(name, 1).await.unwrap_err(),
        ] {
            assert!(matches!(error, StoreError::WrongShape { .. }), "{error:?}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}

#[tokio::test]
async fn checkpoints_are_read_consistently() {
    let dynamo = Dynamo::connect().await;
    let wire = Wire::calm();
    let options = TableOptions::default().eventually_consistent_reads();
    let table = marker_table(&dynamo).await;
    let deduper = Deduper::with_options(wire.client(&dynamo), table, options).unwrap();
    deduper.load("c").await.unwrap();
    assert_eq!(wire.requests()[0].body["ConsistentRead"], true);
}
