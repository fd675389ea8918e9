//! Batches, retries, lineage, shutting down.

use std::future::{Future, pending, ready};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use murmur_state::{HandlerError, MemoryDeduper, Random};
use murmur_streams::{
    DynamoDbEventResponse, Event, StartingPosition, StoreSource, StreamError, StreamInfo,
    StreamStatus, StreamStore, StreamViewType, Trigger, TriggerBuilder, TriggerError,
};
use tokio::time::Instant;

use crate::support::{ARN, Answer, Fake, Scripted, drained, on, put, store};

#[tokio::test(start_paused = true)]
async fn batches_have_the_size_asked_for_and_every_record_once() {
    let store = store();
    put(&store, &["a", "b", "c", "d", "e"]);
    let handler = Scripted::default();
    let mut trigger = on(store.source(ARN), handler.clone())
        .batch_size(2)
        .build()
        .unwrap();
    let summary = trigger.drain().await.unwrap();
    assert_eq!(
        handler.batches(),
        [vec!["a", "b"], vec!["c", "d"], vec!["e"]]
    );
    assert_eq!((summary.batches, summary.records), (3, 5));
    assert_eq!(
        (summary.retries, summary.failures, summary.errors),
        (0, 0, 0)
    );
    put(&store, &["f"]);
    assert_eq!(trigger.drain().await.unwrap().records, 1);
    assert_eq!(handler.batches()[3..], [vec!["f"]]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_may_take_several_reads_and_is_100_by_default() {
    let store = store();
    put(&store, &["x"; 2_500]);
    for (size, batches) in [
        (Some(10_000), vec![2_500]),
        (Some(1_200), vec![1_200, 1_200, 100]),
    ] {
        let handler = Scripted::default();
        let mut builder = on(store.source(ARN), handler.clone());
        if let Some(size) = size {
            builder = builder.batch_size(size);
        }
        builder.build().unwrap().drain().await.unwrap();
        let sizes: Vec<_> = handler.batches().iter().map(Vec::len).collect();
        assert_eq!(sizes, batches);
    }
    let handler = Scripted::default();
    drained(&store, &handler).drain().await.unwrap();
    assert!(handler.batches().iter().all(|batch| batch.len() == 100));
}

#[tokio::test(start_paused = true)]
async fn from_the_lowest_failure_on_records_come_again() {
    let store = store();
    let numbers = put(&store, &["a", "b", "c", "d"]);
    let handler = Scripted::default();
    handler.answer(&[&numbers[3], &numbers[1]]);
    handler.answer(&[&numbers[2]]);
    let summary = drained(&store, &handler).drain().await.unwrap();
    assert_eq!(
        handler.batches(),
        [
            vec!["a", "b", "c", "d"],
            vec!["b", "c", "d"],
            vec!["c", "d"]
        ]
    );
    assert_eq!((summary.batches, summary.records), (1, 4));
    assert_eq!(
        (summary.retries, summary.failures, summary.errors),
        (2, 3, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn an_error_or_an_unknown_identifier_brings_the_whole_batch_again() {
    let store = store();
    let numbers = put(&store, &["a", "b"]);
    let handler = Scripted::default();
    handler.fail();
    handler
        .answers
        .lock()
        .unwrap()
        .push_back(Ok(vec![String::new()]));
    handler
        .answers
        .lock()
        .unwrap()
        .push_back(Ok(vec![numbers[1].to_string(), "e-1".into()]));
    let summary = drained(&store, &handler).drain().await.unwrap();
    assert_eq!(handler.batches(), vec![vec!["a", "b"]; 4]);
    assert_eq!(
        (summary.retries, summary.failures, summary.errors),
        (3, 3, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_function_that_lambda_could_call_is_a_handler() {
    let store = store();
    put(&store, &["a"]);
    async fn lambda(event: Event) -> Result<DynamoDbEventResponse, std::io::Error> {
        assert_eq!(event.records.len(), 1);
        Ok(DynamoDbEventResponse::default())
    }
    let mut trigger = Trigger::builder(store.source(ARN), lambda).build().unwrap();
    assert_eq!(trigger.drain().await.unwrap().records, 1);
}

#[tokio::test(start_paused = true)]
async fn exhausted_retries_name_shard_and_record_and_pass_nothing_over() {
    for (limit, deliveries) in [(0, 1), (2, 3)] {
        let store = store();
        let numbers = put(&store, &["a", "b", "c"]);
        let handler = Scripted::default();
        for _ in 0..deliveries {
            handler.answer(&[&numbers[1]]);
        }
        let mut trigger = on(store.source(ARN), handler.clone())
            .maximum_retry_attempts(limit)
            .build()
            .unwrap();
        let error = trigger.drain().await.unwrap_err();
        let shard_id = store.describe_stream(ARN).unwrap().shards.remove(0).id;
        let TriggerError::RetriesExhausted {
            shard,
            sequence_number,
            retries,
            source: None,
        } = &error
        else {
            panic!("{error:?}")
        };
        assert_eq!(
            (shard, sequence_number.as_str()),
            (&shard_id, numbers[1].as_str())
        );
        assert_eq!(*retries, limit);
        for part in [shard, sequence_number, "maximum_retry_attempts"] {
            assert!(error.to_string().contains(part), "{error}");
        }
        assert_eq!(handler.batches().len(), deliveries);
        // After the fix it continues with the record that failed.
        assert_eq!(trigger.drain().await.unwrap().records, 2);
        assert_eq!(handler.batches().last().unwrap(), &["b", "c"]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_handlers_error_is_the_source_of_exhausted_retries() {
    let store = store();
    put(&store, &["a"]);
    let handler = Scripted::default();
    handler.fail();
    let mut trigger = on(store.source(ARN), handler)
        .maximum_retry_attempts(0)
        .build()
        .unwrap();
    let error = trigger.drain().await.unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "the database is on fire");
}

#[tokio::test(start_paused = true)]
async fn progress_begins_the_count_of_retries_anew() {
    let store = store();
    let numbers = put(&store, &["a", "b", "c"]);
    let handler = Scripted::default();
    for number in [&numbers[0], &numbers[1], &numbers[2]] {
        handler.answer(&[number]);
    }
    let mut trigger = on(store.source(ARN), handler)
        .maximum_retry_attempts(1)
        .build()
        .unwrap();
    assert_eq!(trigger.drain().await.unwrap().records, 3);
}

#[tokio::test(start_paused = true)]
async fn retries_go_on_without_end_by_default_and_pause_by_full_jitter() {
    let store = store();
    put(&store, &["a"]);
    let calls: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let noted = Arc::clone(&calls);
    let failing = move |_: Event| {
        let mut calls = noted.lock().unwrap();
        calls.push(Instant::now());
        ready(match calls.len() {
            ..=500 => Err("down"),
            _ => Ok(DynamoDbEventResponse::default()),
        })
    };
    let mut trigger = Trigger::builder(store.source(ARN), failing)
        .random(Random::seeded(1))
        .retry_backoff(Duration::from_millis(100), Duration::from_millis(350))
        .build()
        .unwrap();
    assert_eq!(trigger.drain().await.unwrap().errors, 500);
    let calls = calls.lock().unwrap();
    let pauses: Vec<Duration> = calls.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(pauses.len(), 500);
    // The clock shows whole milliseconds.
    let shown = Duration::from_millis(2);
    for (pause, bound) in pauses
        .iter()
        .zip([100, 200].into_iter().chain(std::iter::repeat(350)))
    {
        assert!(*pause <= Duration::from_millis(bound) + shown, "{pause:?}");
    }
    let any = |judge: &dyn Fn(&Duration) -> bool| pauses.iter().any(judge);
    assert!(any(&|pause| *pause < Duration::from_millis(20)));
    assert!(any(&|pause| *pause > Duration::from_millis(330)));
    assert_ne!(pauses[10], pauses[11]);
}

#[tokio::test(start_paused = true)]
async fn a_parent_is_done_before_its_child_begins() {
    let store = store();
    let numbers = put(&store, &["a", "b"]);
    store.roll_over(ARN).unwrap();
    put(&store, &["c"]);
    store.roll_over(ARN).unwrap();
    store.roll_over(ARN).unwrap();
    put(&store, &["d"]);
    let handler = Scripted::default();
    handler.answer(&[&numbers[1]]);
    handler.fail();
    let summary = drained(&store, &handler).drain().await.unwrap();
    assert_eq!(
        handler.batches(),
        [vec!["a", "b"], vec!["b"], vec!["b"], vec!["c"], vec!["d"]]
    );
    assert_eq!(summary.records, 4);
}

#[tokio::test(start_paused = true)]
async fn latest_skips_what_was_there_and_nothing_that_came_after() {
    let store = store();
    put(&store, &["old"]);
    store.roll_over(ARN).unwrap();
    put(&store, &["older than the trigger"]);
    let handler = Scripted::default();
    let mut trigger = on(store.source(ARN), handler.clone())
        .starting_position(StartingPosition::Latest)
        .build()
        .unwrap();
    assert_eq!(trigger.drain().await.unwrap().records, 0);
    put(&store, &["a"]);
    store.roll_over(ARN).unwrap();
    put(&store, &["b"]);
    assert_eq!(trigger.drain().await.unwrap().records, 2);
    assert_eq!(handler.batches(), [["a"], ["b"]]);
}

#[tokio::test(start_paused = true)]
async fn shutting_down_finishes_what_is_under_way_and_begins_nothing_more() {
    let store = store();
    put(&store, &["a", "b"]);
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let slow = move |_: Event| {
        counted.fetch_add(1, Ordering::Relaxed);
        async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            Ok::<_, HandlerError>(DynamoDbEventResponse::default())
        }
    };
    let mut trigger = Trigger::builder(store.source(ARN), slow)
        .batch_size(1)
        .build()
        .unwrap();
    let summary = trigger
        .run(tokio::time::sleep(Duration::from_secs(3)))
        .await
        .unwrap();
    assert_eq!((summary.records, calls.load(Ordering::Relaxed)), (1, 1));
    // The next run continues from there.
    assert_eq!(trigger.drain().await.unwrap().records, 1);
    // A run that is shut down before it starts does nothing.
    put(&store, &["c"]);
    assert_eq!(trigger.run(ready(())).await.unwrap().records, 0);
}

#[tokio::test(start_paused = true)]
async fn shutting_down_cuts_pauses_short() {
    let store = store();
    let begun = tokio::time::Instant::now();
    let hour = Duration::from_secs(3_600);
    let failing = |_: Event| ready(Err::<DynamoDbEventResponse, _>("down"));
    let mut trigger = Trigger::builder(store.source(ARN), failing)
        .poll_interval(hour)
        .retry_backoff(hour, hour)
        .random(Random::seeded(1))
        .build()
        .unwrap();
    trigger
        .run(tokio::time::sleep(Duration::from_secs(1)))
        .await
        .unwrap();
    put(&store, &["a"]);
    let summary = trigger
        .run(tokio::time::sleep(Duration::from_secs(1)))
        .await
        .unwrap();
    assert_eq!(summary.errors, 1);
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_run_meets_records_and_shards_that_come_later() {
    let store = store();
    let handler = Scripted::default();
    let producer = async {
        for ids in [["a", "b"], ["c", "d"], ["e", "f"]] {
            tokio::time::sleep(Duration::from_secs(60)).await;
            put(&store, &ids);
            store.roll_over(ARN).unwrap();
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
    };
    let mut trigger = Trigger::builder(store.source(ARN), handler.clone())
        .build()
        .unwrap();
    let summary = trigger.run(producer).await.unwrap();
    assert_eq!(handler.batches(), [["a", "b"], ["c", "d"], ["e", "f"]]);
    assert_eq!(summary.records, 6);
}

#[tokio::test(start_paused = true)]
async fn pauses_between_reads_grow_to_the_poll_interval_while_nothing_comes() {
    let reads = Arc::new(Mutex::new(Vec::new()));
    let script: Vec<Answer> = vec![Ok(&[]), Ok(&[]), Ok(&["a"]), Ok(&["b"]), Ok(&["c"])];
    let source = Fake::open(script).noting(Arc::clone(&reads));
    let mut trigger = Trigger::builder(source, Scripted::default())
        .poll_interval(Duration::from_secs(10))
        .build()
        .unwrap();
    let begun = Instant::now();
    let summary = trigger
        .run(tokio::time::sleep(Duration::from_secs(50)))
        .await
        .unwrap();
    assert_eq!(summary.records, 3);
    let reads = reads.lock().unwrap();
    let at: Vec<u64> = reads.iter().map(|at| (*at - begun).as_secs()).collect();
    // Two empty answers, three with few records, then only empty ones.
    assert_eq!(at, [0, 2, 6, 8, 10, 12, 14, 18, 26, 36, 46]);
}

#[tokio::test(start_paused = true)]
async fn a_disabled_stream_is_drained_and_ends_a_run() {
    let store = store();
    put(&store, &["a"]);
    store.register_stream(
        StreamInfo::new(ARN, StreamViewType::KeysOnly).with_status(StreamStatus::Disabled),
    );
    let handler = Scripted::default();
    assert_eq!(drained(&store, &handler).drain().await.unwrap().records, 1);
    let error = drained(&store, &handler).run(pending()).await.unwrap_err();
    assert!(matches!(
        error,
        TriggerError::Stream(StreamError::Disabled { .. })
    ));
    assert_eq!(handler.batches(), [["a"], ["a"]]);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_stream_is_an_error() {
    let error = drained(&StreamStore::new(), &Scripted::default())
        .drain()
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        TriggerError::Stream(StreamError::UnknownStream { .. })
    ));
}

#[tokio::test(start_paused = true)]
async fn reads_that_fail_in_passing_are_made_again_while_the_budget_lasts() {
    let throttled = || StreamError::Throttled {
        arn: ARN.into(),
        source: None,
    };
    let handler = Scripted::default();
    let source = Fake::open(vec![Err(throttled()), Err(throttled()), Ok(&["a"])]);
    assert_eq!(
        on(source, handler.clone())
            .build()
            .unwrap()
            .drain()
            .await
            .unwrap()
            .records,
        1
    );

    let endless = || Fake::open((0..100_000).map(|_| Err(throttled())).collect());
    let mut trigger = on(endless(), handler.clone()).build().unwrap();
    let begun = Instant::now();
    let error = trigger.drain().await.unwrap_err();
    assert!(
        error.is_retryable() && error.to_string().contains("30 min"),
        "{error}"
    );
    let TriggerError::GaveUp { tried, source } = error else {
        panic!("{error}");
    };
    assert_eq!(tried, Duration::from_secs(30 * 60));
    assert!(matches!(
        *source,
        TriggerError::Stream(StreamError::Throttled { .. })
    ));
    let waited = begun.elapsed();
    assert!((1794..=1800).contains(&waited.as_secs()), "{waited:?}");

    let once = on(endless(), handler).retry_budget(Duration::ZERO);
    assert!(once.build().unwrap().drain().await.is_err());
    assert_eq!(begun.elapsed(), waited);
}

#[tokio::test(start_paused = true)]
async fn draining_takes_as_many_empty_answers_for_the_end_as_it_is_told() {
    for (reads, records) in [(1, 0), (2, 0), (3, 1)] {
        let source = Fake::open(vec![Ok(&[]), Ok(&[]), Ok(&["a"])]);
        let mut trigger = on(source, Scripted::default())
            .drain_empty_reads(reads)
            .build()
            .unwrap();
        assert_eq!(trigger.drain().await.unwrap().records, records, "{reads}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_keeps_failing_does_not_hold_up_the_others() {
    let source = Fake::two_shards(&["bad"], &["a", "b", "c"]);
    let (done, all_done) = tokio::sync::oneshot::channel();
    let (seen, done) = (AtomicUsize::new(0), Mutex::new(Some(done)));
    let handler = move |event: Event| {
        let bad = event.records[0].event_id == "bad";
        if !bad && seen.fetch_add(1, Ordering::Relaxed) == 2 {
            done.lock().unwrap().take().unwrap().send(()).unwrap();
        }
        ready(if bad {
            Err("down")
        } else {
            Ok(DynamoDbEventResponse::default())
        })
    };
    let mut trigger = Trigger::builder(source, handler)
        .batch_size(1)
        .build()
        .unwrap();
    let summary = trigger
        .run(async { all_done.await.unwrap() })
        .await
        .unwrap();
    assert_eq!(summary.records, 3);
}

#[tokio::test(start_paused = true)]
async fn another_shards_call_is_finished_before_an_error_is_returned() {
    let source = Fake::two_shards(&["slow"], &["bad"]);
    let finished = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&finished);
    let handler = move |event: Event| {
        let (bad, noted) = (event.records[0].event_id == "bad", Arc::clone(&noted));
        async move {
            if bad {
                return Err("down");
            }
            tokio::time::sleep(Duration::from_secs(9)).await;
            noted.store(true, Ordering::Relaxed);
            Ok(DynamoDbEventResponse::default())
        }
    };
    let mut trigger = Trigger::builder(source, handler)
        .maximum_retry_attempts(0)
        .build()
        .unwrap();
    assert!(trigger.run(pending()).await.is_err());
    assert!(finished.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_batch_after_one_that_failed_is_no_retry_of_it() {
    let store = store();
    put(&store, &["a", "b", "c"]);
    let handler = Scripted::default();
    handler.fail();
    handler.answer(&[]);
    handler.fail();
    let trigger = on(store.source(ARN), handler)
        .batch_size(1)
        .maximum_retry_attempts(1);
    let summary = trigger.build().unwrap().drain().await.unwrap();
    assert_eq!((summary.batches, summary.records), (3, 3));
    assert_eq!((summary.retries, summary.errors), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn only_empty_answers_in_a_row_are_taken_for_the_end() {
    let script: Vec<Answer> = vec![Ok(&[]), Ok(&["a"]), Ok(&[]), Ok(&["b"])];
    let trigger = on(Fake::open(script), Scripted::default()).drain_empty_reads(2);
    assert_eq!(trigger.build().unwrap().drain().await.unwrap().records, 2);
}

#[tokio::test(start_paused = true)]
async fn a_shard_with_a_child_is_drained_to_its_end_through_empty_answers() {
    let scripts = vec![
        vec![Ok(&[][..]), Ok(&["a"]), Ok(&[]), Ok(&[])],
        vec![Ok(&["b"][..])],
    ];
    let handler = Scripted::default();
    let source = Fake::new(scripts).parent(1, 0);
    on(source, handler.clone())
        .build()
        .unwrap()
        .drain()
        .await
        .unwrap();
    assert_eq!(handler.batches(), [["a"], ["b"]]);
}

#[tokio::test(start_paused = true)]
async fn a_child_begins_at_once_though_another_shard_is_idle() {
    let scripts = vec![vec![Ok(&["a"][..])], vec![], vec![Ok(&["b"][..])]];
    let handler = Scripted::default();
    let source = Fake::new(scripts).parent(2, 0);
    let mut trigger = Trigger::builder(source, handler.clone()).build().unwrap();
    trigger
        .run(tokio::time::sleep(Duration::from_secs(5)))
        .await
        .unwrap();
    assert_eq!(handler.batches(), [["a"], ["b"]]);
}

#[tokio::test(start_paused = true)]
async fn new_shards_are_found_though_none_has_ended() {
    let handler = Scripted::default();
    let source = Fake {
        at_first: 1,
        ..Fake::new(vec![vec![], vec![Ok(&["new"])]])
    };
    let mut trigger = Trigger::builder(source, handler.clone()).build().unwrap();
    trigger
        .run(tokio::time::sleep(Duration::from_secs(60)))
        .await
        .unwrap();
    assert_eq!(handler.batches(), [["new"]]);
}

#[tokio::test(start_paused = true)]
async fn other_tasks_get_their_turn_while_records_keep_coming() {
    let store = store();
    put(&store, &["first"]);
    let calls = Arc::new(AtomicUsize::new(0));
    let (counted, producer) = (Arc::clone(&calls), store.clone());
    // Neither this source nor this handler ever waits.
    let endless = move |_: Event| {
        if counted.fetch_add(1, Ordering::Relaxed) < 10_000 {
            put(&producer, &["next"]);
        }
        ready(Ok::<_, HandlerError>(DynamoDbEventResponse::default()))
    };
    let mut trigger = Trigger::builder(store.source(ARN), endless)
        .build()
        .unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(async move { stop.send(()).unwrap() });
    trigger.run(async { stopped.await.unwrap() }).await.unwrap();
    assert!(calls.load(Ordering::Relaxed) < 10_000);
}

#[tokio::test(start_paused = true)]
async fn shards_that_wait_for_each_other_are_an_error() {
    let mut source = Fake::two_shards(&["a"], &["b"]);
    source.shards[0].parent = Some(source.shards[1].id.clone());
    source.shards[1].parent = Some(source.shards[0].id.clone());
    let error = on(source, Scripted::default())
        .build()
        .unwrap()
        .drain()
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        TriggerError::Stream(StreamError::Unexpected { .. })
    ));
}

#[test]
fn options_that_cannot_be_used_are_refused_by_name() {
    let store = store();
    let refused = |set: fn(TriggerBuilder<StoreSource, Scripted>) -> TriggerBuilder<_, _>| {
        set(on(store.source(ARN), Scripted::default()))
            .build()
            .unwrap_err()
            .option
    };
    assert_eq!(refused(|trigger| trigger.batch_size(0)), "batch_size");
    assert_eq!(refused(|trigger| trigger.batch_size(10_001)), "batch_size");
    for reads in [0, 1_001] {
        let trigger = on(store.source(ARN), Scripted::default()).drain_empty_reads(reads);
        assert_eq!(trigger.build().unwrap_err().option, "drain_empty_reads");
    }
    for poll in [Duration::ZERO, Duration::from_micros(999)] {
        let trigger = on(store.source(ARN), Scripted::default()).poll_interval(poll);
        assert_eq!(trigger.build().unwrap_err().option, "poll_interval");
    }
    let quarter = Duration::from_secs(15 * 60);
    for (position, refused) in [
        (StartingPosition::Latest, true),
        (StartingPosition::TrimHorizon, false),
    ] {
        let trigger = on(store.source(ARN), Scripted::default()).poll_interval(quarter);
        let error = trigger.starting_position(position).build().err();
        let option = error.map(|error| error.option);
        assert_eq!(option, refused.then_some("poll_interval"));
    }
    assert_eq!(
        refused(|trigger| trigger.filter_event_names([])),
        "filter_event_names"
    );
    assert_eq!(
        refused(|trigger| trigger.maximum_batching_window(Duration::from_secs(301))),
        "maximum_batching_window"
    );
    let factor = "parallelization_factor";
    assert_eq!(refused(|trigger| trigger.parallelization_factor(0)), factor);
    assert_eq!(
        refused(|trigger| trigger.parallelization_factor(11)),
        factor
    );
    for age in [59, 8 * 24 * 3600] {
        let age = Duration::from_secs(age);
        let trigger = on(store.source(ARN), Scripted::default()).maximum_record_age(age);
        assert_eq!(trigger.build().unwrap_err().option, "maximum_record_age");
    }
    assert_eq!(
        refused(|trigger| trigger.maximum_shards(0)),
        "maximum_shards"
    );
    for lease in [2, 3_601] {
        let lease = Duration::from_secs(lease);
        let trigger = on(store.source(ARN), Scripted::default()).lease(lease);
        assert_eq!(trigger.build().unwrap_err().option, "lease");
    }
    assert_eq!(
        refused(|trigger| trigger.positions(MemoryDeduper::new(), "a:b")),
        "positions"
    );
    let attempts = |trigger: TriggerBuilder<_, _>| trigger.maximum_retry_attempts(10_001);
    assert_eq!(refused(attempts), "maximum_retry_attempts");
    let swapped = |trigger: TriggerBuilder<_, _>| {
        trigger.retry_backoff(Duration::from_secs(2), Duration::from_secs(1))
    };
    assert_eq!(refused(swapped), "retry_backoff");
    let widest = on(store.source(ARN), Scripted::default());
    assert!(
        widest
            .batch_size(10_000)
            .maximum_retry_attempts(10_000)
            .build()
            .is_ok()
    );
}

#[test]
fn a_run_can_be_spawned() {
    fn spawnable<F: Future + Send>(_: F) {}
    let (store, handler) = (store(), Scripted::default());
    let mut trigger = drained(&store, &handler);
    spawnable(trigger.run(ready(())));
    spawnable(trigger.drain());
    let source = Arc::new(store.source(ARN));
    let mut closure = Trigger::builder(Arc::clone(&source), |_: Event| async {
        Ok::<_, HandlerError>(DynamoDbEventResponse::default())
    })
    .build()
    .unwrap();
    spawnable(closure.drain());
    let mut borrowed = Trigger::builder(&*source, handler).build().unwrap();
    spawnable(borrowed.drain());
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_obeyed_at_whatever_moment_it_is_seen_first() {
    for nth in 1..200 {
        let source = Fake::two_shards(&["a", "b"], &["c", "d"]);
        let mut trigger = on(source, Scripted::default()).build().unwrap();
        // Like a signal from another thread, between any two checks of it.
        let mut looks = 0;
        let stop = std::future::poll_fn(move |_| {
            looks += 1;
            match looks < nth {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        });
        let run = tokio::time::timeout(Duration::from_secs(3600), trigger.run(stop));
        assert!(run.await.is_ok(), "it hangs if it is told at look {nth}");
    }
}
