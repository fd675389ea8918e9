//! Writes and claims that fail.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use murmur_core::{Pipeline, Processor, RecordError, RecordOutcome, Sum};
use murmur_state::error::Place;
use murmur_state::intercept::{Intercept, Intercepted};
use murmur_state::store::{Binding, Bound};
use murmur_state::{
    Causes, Deadline, Fault, MemoryDeduper, MemoryStore, Read, RetryPolicy, StoreError,
};

use crate::support::{
    Answer, FlakyDeduper, Order, clock, insert, missing_table, order, scripted, throttled,
    unavailable, value,
};
use crate::{builder, following, outcomes, processor, totals};

#[tokio::test]
async fn throttles_spend_time_and_transient_failures_spend_attempts() {
    let mut left = 40;
    let store = scripted(move |_| {
        left -= 1;
        if left > 0 {
            Answer::Refuse(throttled())
        } else {
            Answer::Apply
        }
    });
    let (busy, counts) = processor(totals(store.clone()).at_least_once().unwrap());
    let batch = [insert("1", order("a", 5))];
    assert_outcomes!(outcomes(&busy, &batch).await, RecordOutcome::Failed(_));
    let patient = RetryPolicy::default().budget(Duration::from_secs(600));
    let (builder, _) = builder(totals(store.clone()).at_least_once().unwrap());
    let patient = builder.retry(patient).build().unwrap();
    assert_outcomes!(outcomes(&patient, &batch).await, RecordOutcome::Applied);
    assert_eq!(store.writes(), 40);
    assert!(counts.of("totals:retry") > 3);

    for (attempts, expected) in [(None, 3), (Some(1), 1), (Some(5), 5)] {
        let store = scripted(|_| Answer::Refuse(unavailable(false)));
        let (mut builder, _) = self::builder(totals(store.clone()).at_least_once().unwrap());
        if let Some(attempts) = attempts {
            builder = builder.retry(murmur_state::RetryPolicy::default().max_attempts(attempts));
        }
        let processor = builder.build().unwrap();
        let outcome = outcomes(&processor, &batch).await.remove(0);
        let RecordOutcome::Failed(error) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(error.is_retryable());
        assert_eq!(store.writes(), expected);
    }
}

#[tokio::test]
async fn a_failing_lane_does_not_stop_its_neighbours() {
    let store = scripted(|add| match add.key.entity() {
        "bad" => Answer::Refuse(missing_table()),
        _ => Answer::Apply,
    });
    let (processor, counts) = processor(totals(store.clone()).at_least_once().unwrap());
    let batch = [
        insert("1", order("good", 1)),
        insert("2", order("bad", 1)),
        insert("3", order("bad", 1)),
        insert("4", order("good", 1)),
    ];
    assert_outcomes!(
        outcomes(&processor, &batch).await,
        RecordOutcome::Applied,
        RecordOutcome::Failed(_),
        RecordOutcome::Failed(_),
        RecordOutcome::Applied
    );
    assert_eq!(value(&store, "good").await, Some(2));
    assert_eq!(counts.of("totals:failed"), 2);
}

#[tokio::test]
async fn after_a_failure_later_writes_of_the_lane_are_blocked() {
    // Two writes on one key, because together they would overflow.
    let store = scripted(|_| Answer::Refuse(missing_table()));
    let (processor, counts) = processor(totals(store.clone()).at_least_once().unwrap());
    let batch = [
        insert("1", order("a", i64::MAX)),
        insert("2", order("a", 1)),
    ];
    assert_outcomes!(
        outcomes(&processor, &batch).await,
        RecordOutcome::Failed(_),
        RecordOutcome::Blocked
    );
    assert_eq!((store.writes(), counts.of("totals:blocked")), (1, 1));
}

#[tokio::test]
async fn a_claim_is_released_when_its_merge_fails() {
    let mut broken = true;
    let store = scripted(move |_| {
        if std::mem::take(&mut broken) {
            Answer::Refuse(missing_table())
        } else {
            Answer::Apply
        }
    });
    let (processor, _) = processor(
        totals(store.clone())
            .claim_first(MemoryDeduper::new())
            .unwrap(),
    );
    let batch = [insert("1", order("a", 5))];
    assert_outcomes!(outcomes(&processor, &batch).await, RecordOutcome::Failed(_));
    assert_outcomes!(outcomes(&processor, &batch).await, RecordOutcome::Applied);
    assert_eq!(value(&store, "a").await, Some(5));
}

#[tokio::test]
async fn a_lost_answer_to_ones_own_claim_is_no_duplicate() {
    let deduper = FlakyDeduper::default();
    deduper.lose_claims.store(2, Ordering::Relaxed);
    let store = MemoryStore::new(Sum::new());
    let (processor, counts) = processor(totals(store.clone()).claim_first(deduper).unwrap());
    let batch = [insert("1", order("a", 5)), insert("2", order("a", 1))];
    assert!(
        outcomes(&processor, &batch)
            .await
            .iter()
            .all(RecordOutcome::is_done)
    );
    assert_eq!(value(&store, "a").await, Some(6));
    assert_eq!(counts.of("totals:retry"), 2);
}

#[tokio::test]
async fn every_attempt_at_a_claim_has_the_whole_time_of_one() {
    let deduper = FlakyDeduper::default();
    deduper.refuse_claims.store(2, Ordering::Relaxed);
    let pipeline = totals(MemoryStore::new(Sum::new())).claim_first(deduper.clone());
    let (processor, _) = processor(pipeline.unwrap());
    let batch = [insert("1", order("a", 5))];
    assert_outcomes!(outcomes(&processor, &batch).await, RecordOutcome::Applied);
    // The waits between attempts moved the clock.
    let claims = deduper.claims.lock().unwrap();
    let later = claims.windows(2).filter(|pair| pair[0] != pair[1]);
    assert_eq!((claims.len(), later.count()), (3, 2));
}

#[tokio::test]
async fn a_claim_that_fails_for_good_is_given_back_too() {
    let deduper = FlakyDeduper::default();
    let store = MemoryStore::new(Sum::new());
    let (processor, _) = processor(totals(store.clone()).claim_first(deduper.clone()).unwrap());
    deduper.lose_claims.store(3, Ordering::Relaxed);
    let batch = [insert("1", order("a", 5))];
    assert_outcomes!(outcomes(&processor, &batch).await, RecordOutcome::Failed(_));
    assert_outcomes!(outcomes(&processor, &batch).await, RecordOutcome::Applied);
    assert_eq!(value(&store, "a").await, Some(5));
}

#[tokio::test]
async fn claim_first_counts_a_write_twice_whose_answer_was_lost() {
    // The documented risk of this mode.
    let mut losses = 3;
    let store = scripted(move |_| {
        losses -= 1;
        if losses >= 0 {
            Answer::Lose
        } else {
            Answer::Apply
        }
    });
    let (processor, _) = processor(
        totals(store.clone())
            .claim_first(MemoryDeduper::new())
            .unwrap(),
    );
    outcomes(&processor, &[insert("1", order("a", 5))]).await;
    assert_eq!(value(&store, "a").await, Some(15));
}

#[tokio::test]
async fn what_the_deadline_leaves_no_time_for_is_reported_and_its_claim_given_back() {
    let clock = clock();
    let ticking = clock.clone();
    let store = scripted(move |_| {
        ticking.advance(Duration::from_secs(1));
        Answer::Refuse(throttled())
    });
    let pipeline = totals(store.clone())
        .claim_first(MemoryDeduper::new())
        .unwrap();
    let (builder, _) = builder(pipeline);
    let processor = builder.clock(Arc::new(clock.clone())).build().unwrap();
    let deadline = Deadline::within(&clock, Duration::from_secs(10));
    let batch = [insert("1", order("a", 5))];
    let outcome = processor.process(&batch, deadline).await.remove(0);
    assert!(!outcome.is_done());
    assert!(!deadline.passed(&clock), "it answers before the deadline");
    let again = processor.process(&batch, Deadline::NONE).await.remove(0);
    assert!(
        !matches!(again, RecordOutcome::Duplicate),
        "the claim was given back"
    );
}

#[tokio::test]
async fn a_claim_that_was_never_made_is_not_given_back() {
    let deduper = FlakyDeduper::default();
    let store = MemoryStore::new(Sum::new());
    let (processor, _) = processor(totals(store).claim_first(deduper.clone()).unwrap());
    deduper.refuse_claims.store(3, Ordering::Relaxed);
    assert_outcomes!(
        outcomes(&processor, &[insert("1", order("a", 5))]).await,
        RecordOutcome::Failed(_)
    );
    assert_eq!(deduper.releases.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_claim_that_cannot_be_given_back_is_told_by_name_and_what_can_never_count_as_ever() {
    let never = StoreError::InvalidValue {
        place: Place::table("test", "totals"),
        reason: "too large".to_owned(),
        source: None,
    };
    for (refused, fault) in [(throttled(), Fault::Setup), (never, Fault::Record)] {
        let deduper = FlakyDeduper::default();
        let store = scripted(move |_| Answer::Refuse(refused.clone()));
        let (processor, _) = processor(totals(store).claim_first(deduper.clone()).unwrap());
        deduper.refuse_releases.store(usize::MAX, Ordering::Relaxed);
        let batch = [insert("1", order("a", 5))];
        let outcome = outcomes(&processor, &batch).await.remove(0);
        let error = crate::error(&outcome);
        assert_eq!(error.fault(), fault, "{error}");
        let text = Causes(error).to_string();
        let told = text.contains("claim `totals") && text.contains("delete this row");
        assert_eq!(told, fault == Fault::Setup, "{text}");
    }
}

#[tokio::test]
async fn too_few_or_too_many_outcomes_count_as_not_done_and_name_the_store() {
    for by in [-1, 1] {
        let store = || {
            let mut store = scripted(|_| Answer::Apply);
            store.0.miscounts = by;
            store
        };
        let markers = MemoryDeduper::new;
        let pipelines = [
            totals(store()).at_least_once(),
            totals(store()).claim_first(markers()),
            totals(store()).exactly_once(),
            following(store()).ledger(),
        ];
        for pipeline in pipelines {
            let (processor, _) = processor(pipeline.unwrap());
            let batch = [insert("1", order("a", 5)), insert("2", order("b", 5))];
            for outcome in outcomes(&processor, &batch).await {
                let error = crate::error(&outcome);
                assert_eq!(error.fault(), Fault::Setup, "{error}");
                let text = Causes(error).to_string();
                let counts = format!("{} answers to 2 entries", 2 + by);
                assert!(text.contains(&counts), "{text}");
                assert!(text.contains("MemoryStore"), "{text}");
            }
        }
    }
}

#[test]
fn two_pipelines_on_one_state_table_are_refused() {
    let store = MemoryStore::new(Sum::new());
    let named = |name: &str| {
        Pipeline::builder(name)
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new())
            .every_change()
    };
    let one = || named("one").store(store.clone()).at_least_once().unwrap();
    let markers = MemoryDeduper::new();
    for other in [
        named("other").store(store.clone()).at_least_once().unwrap(),
        named("other")
            .store(store.clone())
            .claim_first(markers)
            .unwrap(),
    ] {
        let built = Processor::new([one(), other]);
        let error = built.map(|_| ()).unwrap_err();
        assert_eq!(error.option, "pipelines");
        for word in ["`one`", "`other`", "one state table"] {
            assert!(error.reason.contains(word), "{error}");
        }
    }
    let apart = named("other").store(MemoryStore::new(Sum::new()));
    let apart = apart.at_least_once().unwrap();
    assert!(Processor::new([one(), apart]).is_ok());
}

#[tokio::test]
async fn no_new_table_is_claimed_where_another_belongs_to_something_else() {
    let (fresh, taken) = (MemoryStore::new(Sum::new()), MemoryStore::new(Sum::new()));
    let on = |name: &str, store: &MemoryStore<Sum>| {
        Pipeline::builder(name)
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new())
            .retract()
            .store(store.clone())
            .exactly_once()
            .unwrap()
    };
    let bind = async |stream, pipelines: Vec<Pipeline<Order>>| {
        let processor = Processor::new(pipelines).unwrap();
        processor.bind(stream, Deadline::NONE).await
    };
    let (one, other) = (Some("stream one"), Some("stream other"));
    bind(one, vec![on("owner", &taken)]).await.unwrap();
    for (stream, name) in [(one, "second"), (other, "owner")] {
        let error = bind(stream, vec![on("first", &fresh), on(name, &taken)]).await;
        match error.unwrap_err() {
            RecordError::State { pipeline, .. } => assert_eq!(pipeline.as_str(), name),
            error => panic!("{error}"),
        }
    }
    // Its table can still be bound to another pipeline, beside one whose state is its own.
    let both = vec![on("third", &fresh), on("owner", &taken)];
    bind(one, both).await.unwrap();
    let error = bind(one, vec![on("first", &fresh)]).await.unwrap_err();
    assert!(matches!(error, RecordError::State { .. }), "{error}");
}

#[tokio::test]
async fn no_new_table_is_claimed_while_another_cannot_be_asked() {
    struct Silent(MemoryStore<Sum>);

    impl Intercept for Silent {
        type Monoid = Sum;
        type Inner = MemoryStore<Sum>;

        fn inner(&self) -> &MemoryStore<Sum> {
            &self.0
        }

        async fn check_binding(&self, _: &Binding, _: Deadline) -> Result<Bound, StoreError> {
            Err(StoreError::Throttled {
                place: self.0.place(),
                source: None,
            })
        }
    }

    let fresh = MemoryStore::new(Sum::new());
    let silent = Intercepted(Silent(MemoryStore::new(Sum::new())));
    let of = |name: &str| {
        Pipeline::builder(name)
            .key(|o: &Order| o.customer.clone())
            .value(|o| o.cents)
            .aggregate(Sum::new())
            .retract()
    };
    let first = of("first").store(fresh.clone()).exactly_once().unwrap();
    let second = of("second").store(silent).exactly_once().unwrap();
    let policy = RetryPolicy::default().budget(Duration::ZERO);
    let processor = Processor::builder([first, second]).retry(policy);
    let bound = processor.build().unwrap().bind(None, Deadline::NONE).await;
    assert!(bound.unwrap_err().is_retryable());
    let other = of("other").store(fresh).exactly_once().unwrap();
    let processor = Processor::new([other]).unwrap();
    processor.bind(None, Deadline::NONE).await.unwrap();
}
