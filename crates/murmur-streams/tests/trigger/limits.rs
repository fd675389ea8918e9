//! Which records are given up, when, and where they go.

use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use murmur_state::{Clock, EVENT_LIFE, EventHandler, HandlerError, Repeats, SystemClock};
use murmur_streams::{
    DynamoDbEventResponse, Event, FailedBatch, FailureCondition, StreamInfo, StreamRecord,
    StreamStore, StreamViewType, Trigger, TriggerError,
};

use crate::support::{ARN, Scripted, on, put, store};

fn aged(store: &StreamStore, ids: &[(&str, Duration)]) -> Vec<String> {
    let put = |(id, age): &(&str, Duration)| {
        let record = StreamRecord {
            stream_arn: ARN.into(),
            event_id: (*id).into(),
            created_at: Some(SystemClock::new().now().minus(*age)),
            ..StreamRecord::default()
        };
        store.put_record(record).unwrap().to_string()
    };
    ids.iter().map(put).collect()
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn what_is_given_up_is_handed_over_with_its_position_and_passed_over() {
    let store = store();
    let numbers = put(&store, &["a", "b", "c", "d"]);
    let handler = Scripted::default();
    for _ in 0..3 {
        handler.answer(&[&numbers[1]]);
    }
    let taken: Arc<Mutex<Vec<FailedBatch>>> = Arc::default();
    let taker = Arc::clone(&taken);
    let mut trigger = on(store.source(ARN), handler.clone())
        .batch_size(3)
        .maximum_retry_attempts(2)
        .on_failure(move |batch| {
            taker.lock().unwrap().push(batch);
            ready(Ok(()))
        })
        .build()
        .unwrap();
    let summary = trigger.drain().await.unwrap();
    assert_eq!(
        handler.batches(),
        [
            vec!["a", "b", "c"],
            vec!["b", "c"],
            vec!["b", "c"],
            vec!["d"]
        ]
    );
    assert_eq!((summary.records, summary.given_up), (4, 2));
    let taken = taken.lock().unwrap();
    let [batch] = &taken[..] else {
        panic!("{taken:?}")
    };
    assert_eq!(batch.stream_arn, ARN);
    assert_eq!(
        batch.shard,
        store.describe_stream(ARN).unwrap().shards[0].id
    );
    assert_eq!(batch.start_sequence_number, numbers[1].as_str());
    assert_eq!(batch.end_sequence_number, numbers[2].as_str());
    assert_eq!(batch.records.len(), 2);
    assert!(matches!(
        batch.condition,
        FailureCondition::RetryAttemptsExhausted {
            retries: 2,
            error: None
        }
    ));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_takes_comes_again() {
    let store = store();
    put(&store, &["a"]);
    let handler = Scripted::default();
    for _ in 0..3 {
        handler.fail();
    }
    let refused = Arc::new(Mutex::new(0));
    let count = Arc::clone(&refused);
    let mut trigger = on(store.source(ARN), handler.clone())
        .maximum_retry_attempts(0)
        .on_failure(move |_| {
            *count.lock().unwrap() += 1;
            ready(Err("the queue is full".into()))
        })
        .build()
        .unwrap();
    let summary = trigger.drain().await.unwrap();
    assert_eq!(*refused.lock().unwrap(), 3);
    assert_eq!(handler.batches(), vec![["a"]; 4]);
    assert_eq!((summary.records, summary.given_up), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn records_that_are_too_old_are_taken_out_of_their_batch() {
    let store = store();
    let numbers = aged(
        &store,
        &[
            ("old", 9 * MINUTE),
            ("young", MINUTE),
            ("older", 12 * MINUTE),
            ("new", Duration::ZERO),
        ],
    );
    let handler = Scripted::default();
    let taken: Arc<Mutex<Vec<FailedBatch>>> = Arc::default();
    let taker = Arc::clone(&taken);
    let mut trigger = on(store.source(ARN), handler.clone())
        .maximum_record_age(5 * MINUTE)
        .on_failure(move |batch| {
            taker.lock().unwrap().push(batch);
            ready(Ok(()))
        })
        .build()
        .unwrap();
    let summary = trigger.drain().await.unwrap();
    assert_eq!(handler.batches(), [["young", "new"]]);
    assert_eq!((summary.records, summary.given_up), (4, 2));
    let taken = taken.lock().unwrap();
    assert_eq!(taken.len(), 1);
    assert_eq!(taken[0].start_sequence_number, numbers[0]);
    assert_eq!(taken[0].end_sequence_number, numbers[2]);
    let FailureCondition::RecordAgeExceeded { age, limit } = taken[0].condition else {
        panic!("{taken:?}")
    };
    assert!(age >= 9 * MINUTE && age < 10 * MINUTE, "{age:?}");
    assert_eq!(limit, 5 * MINUTE);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_too_old_stops_a_trigger_without_a_destination() {
    let store = store();
    let numbers = aged(&store, &[("young", MINUTE), ("old", 9 * MINUTE)]);
    let handler = Scripted::default();
    let mut trigger = on(store.source(ARN), handler.clone())
        .maximum_record_age(5 * MINUTE)
        .build()
        .unwrap();
    for _ in 0..2 {
        let error = trigger.drain().await.unwrap_err();
        let TriggerError::RecordTooOld {
            sequence_number, ..
        } = &error
        else {
            panic!("{error:?}")
        };
        assert_eq!(*sequence_number, numbers[1]);
        for part in ["maximum_record_age", "on_failure", "0h 5m 0s"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }
    assert_eq!(handler.batches(), Vec::<Vec<String>>::new());
}

/// A handler that recognises events, or counts items once.
#[derive(Clone)]
pub(crate) struct Recognises(pub(crate) Scripted, pub(crate) Repeats);

impl EventHandler<Event> for Recognises {
    type Answer = DynamoDbEventResponse;

    async fn handle(
        &self,
        event: &mut Event,
        shard: &str,
    ) -> Result<DynamoDbEventResponse, HandlerError> {
        self.0.handle(event, shard).await
    }

    fn repeats(&self) -> Repeats {
        self.1
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_forgets_events_gets_none_it_may_have_forgotten() {
    let late = EVENT_LIFE + MINUTE;
    for (repeats, delivered) in [
        (Repeats::Counted, true),
        (Repeats::ItemOnce, true),
        (Repeats::EventOnce, false),
    ] {
        let store = StreamStore::new().retention(2 * EVENT_LIFE);
        store.register_stream(StreamInfo::new(ARN, StreamViewType::KeysOnly));
        aged(&store, &[("late", late)]);
        let handler = Recognises(Scripted::default(), repeats);
        let trigger = Trigger::builder(store.source(ARN), handler.clone());
        let drained = trigger.build().unwrap().drain().await;
        assert_eq!(handler.0.batches().len(), usize::from(delivered));
        match drained {
            Ok(summary) => assert!(delivered && summary.records == 1),
            Err(TriggerError::RecordTooOld { limit, .. }) => {
                assert!(!delivered && limit == EVENT_LIFE);
            }
            Err(error) => panic!("{error:?}"),
        }
        let longer = Trigger::builder(store.source(ARN), handler)
            .maximum_record_age(late)
            .build();
        match repeats {
            Repeats::EventOnce => {
                let error = longer.unwrap_err();
                assert_eq!(error.option, "maximum_record_age");
            }
            _ => assert!(longer.is_ok()),
        }
    }
}
