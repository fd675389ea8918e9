//! Which records fail, how often they are retried, and what is reported.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use murmur_core::{Decoded, Decoder, Processor, Record, Sum};
use murmur_lambda_ddbstreams::{Event, Handler};
use murmur_state::{Clock, EventHandler, ImageNote, ImageNotes, Random, RetryPolicy};

use crate::support::{
    Scripted, Seen, Step, change, clock, event, id, insert, number, numbers, reported, totals,
    undecodable,
};

fn three() -> Event {
    event([
        insert(1, "alice", 10),
        insert(2, "bob", 20),
        insert(3, "carol", 30),
    ])
}

#[tokio::test]
async fn only_what_failed_is_reported() {
    let store = Scripted::new(Sum::new()).script("bob", [Step::Refuse]);
    let handler = Handler::new(Processor::new([totals(&store)]).unwrap());
    let answer = handler.call(three()).await.unwrap();
    assert_eq!(reported(&answer), [number(2)]);
    let read = ["alice", "bob", "carol"].map(|name| store.total(name));
    assert_eq!(read, [Some(10), None, Some(30)]);
}

#[tokio::test]
async fn everything_that_is_not_done_is_reported_in_the_events_order() {
    // The two of carol cannot be added up, so the second one waits for the first.
    let store = Scripted::new(Sum::new())
        .script("alice", [Step::Refuse])
        .script("carol", [Step::Refuse]);
    let handler = Handler::new(Processor::new([totals(&store)]).unwrap());
    let batch = [
        insert(1, "carol", i64::MAX),
        insert(2, "bob", 1),
        insert(3, "alice", 1),
        insert(4, "carol", i64::MAX),
        insert(5, "alice", 1),
    ];
    let answer = handler.call(event(batch)).await.unwrap();
    assert_eq!(reported(&answer), numbers([1, 3, 4, 5]));
    assert_eq!(store.total("bob"), Some(1));
}

#[tokio::test]
async fn what_it_is_lent_is_as_it_was_whatever_became_of_it() {
    let store = Scripted::new(Sum::new()).script("bob", [Step::Refuse]);
    let handler = Handler::new(Processor::new([totals(&store)]).unwrap());
    let mut lent = event([
        insert(1, "alice", 10),
        insert(2, "bob", 20),
        undecodable(3),
        change(4, 1, Some(("alice", 10)), Some(("alice", 15))),
        change(5, 1, Some(("alice", 15)), None),
        change(6, 6, Some(("carol", 1)), Some(("carol", 2))),
        change(7, 7, Some(("dave", 1)), Some(("dave", 2))),
    ]);
    let unreadable = ImageNote::Unreadable("`n`: 5".to_owned());
    let notes = [
        ImageNotes::of("MODIFY", None, unreadable, ImageNote::AsShown),
        ImageNotes::of("MODIFY", None, ImageNote::AsShown, ImageNote::Empty),
    ];
    for (record, notes) in lent.records[5..].iter_mut().zip(notes) {
        record.record_format = notes.to_record_format();
    }
    let before = lent.clone();
    let answer = EventHandler::handle(&handler, &mut lent, "s").await;
    assert_eq!(reported(&answer.unwrap()), numbers([2, 3, 6]));
    assert_eq!(lent, before);
}

#[tokio::test]
async fn a_write_is_tried_three_times_unless_told_otherwise() {
    for (told, failures, writes, done) in [
        (None, 2, 3, true),
        (None, 3, 3, false),
        (Some(1), 1, 1, false),
        (Some(2), 1, 2, true),
        (Some(5), 4, 5, true),
        (Some(5), 9, 5, false),
    ] {
        let time = clock();
        let store = Scripted::taking(Duration::ZERO, &time, Sum::new())
            .script("alice", vec![Step::Fail; failures]);
        let mut builder = Processor::builder([totals(&store)]).clock(Arc::new(time));
        if let Some(attempts) = told {
            builder = builder.retry(RetryPolicy::default().max_attempts(attempts));
        }
        let handler = Handler::new(builder.build().unwrap());
        let answer = handler.call(event([insert(1, "alice", 10)])).await.unwrap();
        assert_eq!(reported(&answer).is_empty(), done, "{told:?} {failures}");
        assert_eq!(store.writes().len(), writes, "{told:?} {failures}");
    }
}

#[tokio::test]
async fn throttles_spend_the_budget_and_no_attempts() {
    let time = clock();
    let store = Scripted::taking(Duration::ZERO, &time, Sum::new())
        .script("alice", vec![Step::Throttle; 12]);
    let processor = Processor::builder([totals(&store)])
        .retry(RetryPolicy::default().max_attempts(1))
        .clock(Arc::new(time));
    let handler = Handler::new(processor.build().unwrap());
    let answer = handler.call(three()).await.unwrap();
    assert_eq!(reported(&answer), [""; 0]);
    assert_eq!(store.total("alice"), Some(10));
}

#[tokio::test]
async fn the_budget_ends_what_would_go_on_for_ever() {
    for (told, budget) in [(None, 60), (Some(7), 7)] {
        let time = clock();
        let begun = time.monotonic();
        let one = Duration::from_millis(1);
        let store =
            Scripted::taking(one, &time, Sum::new()).script("bob", vec![Step::Throttle; 100_000]);
        let mut policy = RetryPolicy::default().waits(5 * one, 5 * one);
        if let Some(seconds) = told {
            policy = policy.budget(Duration::from_secs(seconds));
        }
        let processor = Processor::builder([totals(&store)])
            .retry(policy)
            .random(Random::seeded(7))
            .clock(Arc::new(time.clone()));
        let handler = Handler::new(processor.build().unwrap());
        let answer = handler.call(three()).await.unwrap();
        assert_eq!(reported(&answer), [number(2)]);
        let taken = time.monotonic() - begun;
        let budget = Duration::from_secs(budget);
        // It is counted from the last success, the first round of three writes. A write that was
        // started in time is waited for.
        assert!(
            taken < budget + 4 * one && taken > budget * 9 / 10,
            "{taken:?}"
        );
    }
}

/// The longest waits before the second, third … attempt, over many seeds.
async fn longest_waits(told: Option<(Duration, Duration)>) -> Vec<Duration> {
    let mut longest = vec![Duration::ZERO; 10];
    for seed in 0..100 {
        let time = clock();
        let store = Scripted::taking(Duration::ZERO, &time, Sum::new())
            .script("alice", vec![Step::Throttle; longest.len()]);
        let mut policy = RetryPolicy::default().budget(Duration::from_secs(3600));
        if let Some((base, max)) = told {
            policy = policy.waits(base, max);
        }
        let processor = Processor::builder([totals(&store)])
            .retry(policy)
            .random(Random::seeded(seed))
            .clock(Arc::new(time));
        let handler = Handler::new(processor.build().unwrap());
        let answer = handler.call(three()).await.unwrap();
        assert_eq!(reported(&answer), [""; 0]);
        let mut tries = store.writes();
        // The other two were written beside the first try.
        tries.drain(1..3);
        for (wait, longest) in tries.windows(2).zip(&mut longest) {
            *longest = (*longest).max(wait[1] - wait[0]);
        }
    }
    longest
}

#[tokio::test]
async fn waits_double_from_their_base_to_their_maximum_with_full_jitter() {
    let millis = Duration::from_millis;
    for (told, base, max) in [
        (None, millis(500), millis(5000)),
        (Some((millis(10), millis(40))), millis(10), millis(40)),
    ] {
        for (n, longest) in longest_waits(told).await.into_iter().enumerate() {
            let bound = (base * 2_u32.pow(n as u32)).min(max);
            assert!(longest <= bound, "wait {n}: {longest:?} is over {bound:?}");
            assert!(
                longest > bound * 3 / 4,
                "wait {n}: {longest:?} of {bound:?}"
            );
        }
    }
}

#[tokio::test]
async fn one_seed_draws_the_same_waits_every_time() {
    let tries = async |seed| {
        let time = clock();
        let store = Scripted::taking(Duration::ZERO, &time, Sum::new())
            .script("alice", vec![Step::Throttle; 5]);
        let processor = Processor::builder([totals(&store)])
            .random(Random::seeded(seed))
            .clock(Arc::new(time));
        let handler = Handler::new(processor.build().unwrap());
        handler.call(three()).await.unwrap();
        store.writes()
    };
    assert_eq!(tries(1).await, tries(1).await);
    assert_ne!(tries(1).await, tries(2).await);
}

#[tokio::test]
async fn counts_go_by_the_pipelines_name() {
    let (time, seen) = (clock(), Seen::default());
    let store = Scripted::taking(Duration::ZERO, &time, Sum::new())
        .script("bob", [Step::Throttle, Step::Fail])
        .script("carol", [Step::Refuse]);
    let handler = Handler::new(
        Processor::builder([totals(&store)])
            .clock(Arc::new(time))
            .recorder(seen.clone())
            .on_rejected(|_| async { Ok(()) })
            .build()
            .unwrap(),
    );
    let batch = [
        insert(1, "alice", 1),
        insert(1, "alice", 1),
        insert(2, "bob", 2),
        insert(3, "carol", 3),
        undecodable(4),
        insert(5, "", 5),
    ];
    handler.call(event(batch)).await.unwrap();
    for (name, expected) in [
        ("order_totals", 2),
        ("order_totals:retry", 2),
        ("order_totals:dedup_skip", 1),
        ("order_totals:dead_letter", 2),
        ("order_totals:failed", 3),
    ] {
        assert_eq!(seen.count(name), expected, "{name}");
    }
}

#[tokio::test]
async fn what_the_decoder_skips_is_done_and_counted() {
    let (store, seen) = (Scripted::new(Sum::new()), Seen::default());
    let decoder = Decoder::item(|_| Ok(Decoded::Skip));
    let handler = Handler::new(
        Processor::with_decoder([totals(&store)], decoder)
            .recorder(seen.clone())
            .build()
            .unwrap(),
    );
    let answer = handler.call(three()).await.unwrap();
    assert_eq!(reported(&answer), [""; 0]);
    assert_eq!(seen.count("order_totals:skip"), 3);
    assert_eq!(store.writes().len(), 0);
}

#[tokio::test]
async fn a_record_that_can_never_count_blocks_nobody_whatever_the_callback_says() {
    for (callback, expected) in [
        (None, vec![number(2)]),
        (Some(true), vec![]),
        (Some(false), vec![number(2)]),
    ] {
        let (store, taken) = (Scripted::new(Sum::new()), Arc::new(Mutex::new(Vec::new())));
        let mut builder = Processor::builder([totals(&store)]);
        if let Some(takes) = callback {
            let taken = Arc::clone(&taken);
            builder = builder.on_rejected(move |rejected| {
                taken.lock().unwrap().push(rejected);
                async move {
                    if takes {
                        Ok(())
                    } else {
                        Err("the queue is full".into())
                    }
                }
            });
        }
        let handler = Handler::new(builder.build().unwrap());
        let batch = [
            insert(1, "alice", 10),
            undecodable(2),
            insert(3, "alice", 30),
        ];
        let answer = handler.call(event(batch)).await.unwrap();
        assert_eq!(reported(&answer), expected, "{callback:?}");
        assert_eq!(store.total("alice"), Some(40));

        let taken = taken.lock().unwrap();
        assert_eq!(taken.len(), usize::from(callback.is_some()));
        for rejected in taken.iter() {
            let Record::Changed(change) = &rejected.record else {
                panic!("{rejected:?}");
            };
            assert_eq!(change.event_id, id(2));
            assert!(change.new_image.is_some(), "the callback sees all of it");
            assert_eq!(rejected.pipeline, None, "no pipeline can use it");
        }
    }
}

#[tokio::test]
async fn keys_that_no_row_can_have_fail_their_record_only() {
    let store = Scripted::new(Sum::new());
    let handler = Handler::new(Processor::new([totals(&store)]).unwrap());
    let batch = [
        insert(1, "alice", 10),
        insert(2, "", 20),
        insert(3, &"x".repeat(2049), 30),
        insert(4, "alice", 40),
    ];
    let answer = handler.call(event(batch)).await.unwrap();
    assert_eq!(reported(&answer), numbers([2, 3]));
    assert_eq!(store.total("alice"), Some(50));
}

#[tokio::test]
async fn an_image_that_cannot_be_decoded_leaves_the_other_to_count() {
    let (store, calls) = (Scripted::new(Sum::new()), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&calls);
    let handler = Handler::new(
        Processor::builder([totals(&store)])
            .on_rejected(move |_| {
                count.fetch_add(1, Ordering::Relaxed);
                async { Ok(()) }
            })
            .build()
            .unwrap(),
    );
    handler.call(event([insert(1, "alice", 10)])).await.unwrap();
    let mut modify = change(2, 1, Some(("alice", 10)), Some(("alice", 0)));
    modify["dynamodb"]["NewImage"] = undecodable(1)["dynamodb"]["NewImage"].clone();
    let answer = handler.call(event([modify])).await.unwrap();
    assert_eq!(reported(&answer), [""; 0]);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_eq!(
        store.total("alice"),
        Some(0),
        "the old image was taken back"
    );
}
