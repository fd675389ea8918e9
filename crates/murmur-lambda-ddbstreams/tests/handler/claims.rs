//! The claim-first mode, under redelivery.

use std::sync::Arc;
use std::time::Duration;

use murmur_core::{Processor, Sum};
use murmur_lambda_ddbstreams::Handler;

use crate::support::{
    Claims, Scripted, Seen, Step, claimed_totals, clock, event, id, insert, number, reported,
};

#[tokio::test]
async fn a_redelivered_event_counts_once_however_the_batch_is_cut() {
    let (store, seen) = (Scripted::new(Sum::new()), Seen::default());
    let handler = Handler::new(
        Processor::builder([claimed_totals(&store, &Claims::default())])
            .recorder(seen.clone())
            .build()
            .unwrap(),
    );
    let records = [
        insert(1, "alice", 1),
        insert(2, "alice", 2),
        insert(3, "alice", 4),
    ];
    for cut in [0..2, 0..3, 1..3, 2..3] {
        let answer = handler.call(event(records[cut].to_vec())).await.unwrap();
        assert_eq!(reported(&answer), [""; 0]);
    }
    assert_eq!(store.total("alice"), Some(7));
    assert_eq!(seen.count("order_totals"), 3);
    assert_eq!(seen.count("order_totals:dedup_skip"), 5);
}

#[tokio::test]
async fn a_claim_is_given_back_when_the_merge_fails_and_the_event_counts_when_it_comes_again() {
    let time = clock();
    let store = Scripted::taking(Duration::ZERO, &time, Sum::new())
        .script("bob", vec![Step::Fail; 3])
        .script("carol", [Step::Refuse]);
    let handler = Handler::new(
        Processor::builder([claimed_totals(&store, &Claims::default())])
            .clock(Arc::new(time))
            .build()
            .unwrap(),
    );
    let batch = || {
        event([
            insert(1, "alice", 10),
            insert(2, "bob", 20),
            insert(3, "carol", 30),
        ])
    };
    let answer = handler.call(batch()).await.unwrap();
    assert_eq!(reported(&answer), [number(2), number(3)]);
    let answer = handler.call(batch()).await.unwrap();
    assert_eq!(reported(&answer), [""; 0]);
    let totals = ["alice", "bob", "carol"].map(|name| store.total(name));
    assert_eq!(totals, [Some(10), Some(20), Some(30)]);
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_its_owners_still() {
    let time = clock();
    let store = Scripted::taking(Duration::ZERO, &time, Sum::new());
    let claims = Claims::default()
        .script(&id(1), [Step::Lose])
        .script(&id(2), vec![Step::Lose; 3]);
    let handler = Handler::new(
        Processor::builder([claimed_totals(&store, &claims)])
            .clock(Arc::new(time))
            .build()
            .unwrap(),
    );
    let batch = || event([insert(1, "alice", 10), insert(2, "bob", 20)]);
    let answer = handler.call(batch()).await.unwrap();
    assert_eq!(reported(&answer), [number(2)]);
    assert_eq!((store.total("alice"), store.total("bob")), (Some(10), None));

    let answer = handler.call(batch()).await.unwrap();
    assert_eq!(reported(&answer), [""; 0]);
    assert_eq!(
        (store.total("alice"), store.total("bob")),
        (Some(10), Some(20))
    );
}

#[tokio::test]
async fn a_failed_claim_counts_nothing_and_is_tried_as_often_as_a_write() {
    let time = clock();
    let store = Scripted::taking(Duration::ZERO, &time, Sum::new());
    let claims = Claims::default()
        .script(&id(1), vec![Step::Fail; 2])
        .script(&id(2), vec![Step::Fail; 3])
        .script(&id(3), vec![Step::Throttle; 9]);
    let handler = Handler::new(
        Processor::builder([claimed_totals(&store, &claims)])
            .clock(Arc::new(time))
            .build()
            .unwrap(),
    );
    let batch = [
        insert(1, "alice", 10),
        insert(2, "bob", 20),
        insert(3, "carol", 30),
    ];
    let answer = handler.call(event(batch)).await.unwrap();
    assert_eq!(reported(&answer), [number(2)]);
    let totals = ["alice", "bob", "carol"].map(|name| store.total(name));
    assert_eq!(totals, [Some(10), None, Some(30)]);
}
