//! Checkpoints larger than an item.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_dynamodb::types::AttributeValue;
use murmur_state::{Checkpoints, Removed, Saved, StoreError};
use murmur_state_ddb::Deduper;
use murmur_testkit::Dynamo;
use murmur_testkit::wire::{Action, Wire};

use crate::support::marker_table;

/// The names of all rows.
async fn rows(dynamo: &Dynamo, table: &str) -> Vec<String> {
    let pages = dynamo.client().scan().table_name(table);
    let mut names = Vec::new();
    let mut pages = pages.projection_expression("pk").into_paginator().send();
    while let Some(page) = pages.next().await {
        for row in page.unwrap().items.unwrap_or_default() {
            names.push(row["pk"].as_s().unwrap().clone());
        }
    }
    names.sort();
    names
}

fn large(text: &str) -> String {
    text.repeat(1_000_000 / text.len())
}

#[tokio::test]
async fn rows_that_are_no_longer_needed_are_removed() {
    let dynamo = Dynamo::connect().await;
    let table = marker_table(&dynamo).await;
    let place = Deduper::new(dynamo.client(), table.as_str());
    let (one, two) = (large("one"), large("two"));
    place.save("c", &one, None).await.unwrap();
    assert_eq!(
        rows(&dynamo, &table).await.len(),
        4,
        "a row and three parts"
    );
    let steps = [
        (1, &two, 4),
        (2, &two, 4),
        (3, &"small".to_owned(), 1),
        (4, &one, 4),
    ];
    for (over, data, left) in steps {
        place.save("c", data, Some(over)).await.unwrap();
        assert_eq!(rows(&dynamo, &table).await.len(), left);
        // A refused save leaves no rows.
        assert_eq!(
            place.save("c", &large("other"), Some(over)).await.unwrap(),
            Saved::Conflict
        );
        assert_eq!(rows(&dynamo, &table).await.len(), left);
    }
    assert_eq!(place.remove("c", 5).await.unwrap(), Removed::Gone);
    assert_eq!(rows(&dynamo, &table).await, [""; 0]);
}

/// Fails at every request in turn, before or after it is carried out. A load then returns the text
/// from before or the saved one, and the same save can be repeated.
#[tokio::test]
async fn a_save_that_fails_anywhere_leaves_the_old_text_or_the_new_one() {
    let dynamo = Dynamo::connect().await;
    let (one, two) = (large("one"), large("two"));
    for lost in [
        Action::error(500, "InternalServerError", ""),
        Action::lose_answer(),
    ] {
        for at in 0.. {
            let table = marker_table(&dynamo).await;
            let healthy = Deduper::new(dynamo.client(), table.as_str());
            healthy.save("c", &one, None).await.unwrap();
            let action = lost.clone();
            let sent = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&sent);
            let wire = Wire::new(move |_| match count.fetch_add(1, Ordering::Relaxed) == at {
                true => action.clone(),
                false => Action::Pass,
            });
            let place = Deduper::new(wire.client(&dynamo), table.as_str());
            let failed = place.save("c", &two, Some(1)).await.is_err();
            let found = healthy.load("c").await.unwrap().unwrap();
            let data = if found.version == 1 { &one } else { &two };
            assert!(found.data == *data, "request {at} failed");
            assert_eq!(
                healthy.save("c", &two, Some(1)).await.unwrap(),
                Saved::Version(2)
            );
            assert!(healthy.load("c").await.unwrap().unwrap().data == two);
            if sent.load(Ordering::Relaxed) <= at {
                assert!(!failed && at > 6);
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_part_that_is_gone_or_changed_is_an_error_that_names_the_checkpoint() {
    let dynamo = Dynamo::connect().await;
    let table = marker_table(&dynamo).await;
    let place = Deduper::new(dynamo.client(), table.as_str());
    for change in [Some("another text"), None] {
        let version = place
            .load("c")
            .await
            .ok()
            .flatten()
            .map(|found| found.version);
        assert_eq!(version, None);
        place.save("c", &large("one"), None).await.unwrap();
        let part = rows(&dynamo, &table)
            .await
            .into_iter()
            .find(|name| name.ends_with("/1"));
        let key = AttributeValue::S(part.unwrap());
        let client = dynamo.client();
        match change {
            Some(text) => {
                let put = client.put_item().table_name(&table).item("pk", key);
                let put = put.item("data", AttributeValue::S(text.to_owned()));
                put.send().await.map(drop).unwrap();
            }
            None => {
                let delete = client.delete_item().table_name(&table).key("pk", key);
                delete.send().await.map(drop).unwrap();
            }
        }
        let error = place.load("c").await.unwrap_err();
        assert!(matches!(error, StoreError::WrongShape { .. }), "{error:?}");
        for part in [table.as_str(), "c", "restore", "remove"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        assert_eq!(place.remove("c", 1).await.unwrap(), Removed::Gone);
    }
}
