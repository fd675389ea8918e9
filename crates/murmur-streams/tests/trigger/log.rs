//! What a run logs and counts.

use std::collections::BTreeMap;
use std::error::Error;
use std::future::{pending, ready};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use murmur_state::{Checkpoints, HandlerError, MemoryDeduper, Recorder, Timestamp};
use murmur_streams::{
    DynamoDbEventResponse, Event, StartingPosition, StreamInfo, StreamRecord, StreamViewType,
    Trigger,
};
use murmur_testkit::time::Time;
use tokio::time::{sleep, timeout};

use crate::support::{ARN, Scripted, World, on, put, store};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        // If a test without a subscriber traced first, tracing would be off for all tests.
        let all = tracing_subscriber::fmt().with_writer(io::sink).finish();
        let _ = tracing::subscriber::set_global_default(all);
        let writer = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn endless_retries_without_an_age_limit_are_warned_of_by_both_options() {
    for (attempts, age, warned) in [
        (None, None, true),
        (Some(3), None, false),
        (None, Some(Duration::from_secs(3600)), false),
    ] {
        let (store, log) = (store(), Log::default());
        let _guard = log.listen();
        let mut trigger = on(store.source(ARN), Scripted::default());
        if let Some(attempts) = attempts {
            trigger = trigger.maximum_retry_attempts(attempts);
        }
        if let Some(age) = age {
            trigger = trigger.maximum_record_age(age);
        }
        trigger.build().unwrap().drain().await.unwrap();
        let text = log.text();
        for option in [
            "WARN",
            "maximum_retry_attempts",
            "maximum_record_age",
            "blocks its shard",
        ] {
            assert_eq!(text.contains(option), warned, "{text}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn latest_begun_again_before_its_first_record_is_a_gap_that_is_told() {
    let (store, log, place) = (store(), Log::default(), Arc::new(MemoryDeduper::new()));
    let _guard = log.listen();
    let reader = || {
        on(store.source(ARN), Scripted::default())
            .positions(Arc::clone(&place), "live")
            .owner("one")
            .poll_interval(Duration::from_secs(1))
            .starting_position(StartingPosition::Latest)
            .build()
            .unwrap()
    };
    let dies = &mut reader();
    assert!(
        timeout(Duration::from_secs(5), dies.run(pending()))
            .await
            .is_err()
    );
    put(&store, &["a"]);
    // The trigger itself continues where it was.
    let summary = dies.drain().await.unwrap();
    assert_eq!((summary.records, summary.gaps), (1, 0));
    store.roll_over(ARN).unwrap();
    put(&store, &["b"]);
    // So does another process, once a record was done.
    let summary = reader().drain().await.unwrap();
    assert_eq!((summary.records, summary.gaps), (1, 0));
    assert!(!log.text().contains("begun at LATEST"), "{}", log.text());

    let other = "arn:aws:dynamodb:eu-west-1:1:table/other/stream/2026-01-01T00:00:00.000";
    store.register_stream(StreamInfo::new(other, StreamViewType::KeysOnly));
    let reader = || {
        on(store.source(other), Scripted::default())
            .positions(Arc::clone(&place), "other")
            .starting_position(StartingPosition::Latest)
            .build()
            .unwrap()
    };
    reader().drain().await.unwrap();
    let record = || StreamRecord {
        stream_arn: other.into(),
        ..StreamRecord::default()
    };
    store.put_record(record()).unwrap();
    let summary = reader().drain().await.unwrap();
    assert_eq!((summary.records, summary.gaps), (0, 1));
    assert!(log.text().contains("begun at LATEST"), "{}", log.text());

    // A reader that died before it reached its shards has also missed the changes since.
    let time = Time::paused(Timestamp::from_secs(1_800_000_000));
    let reader = || {
        on(store.source(other), Scripted::default())
            .positions(Arc::clone(&place), "third")
            .clock(time.clock(0))
            .poll_interval(Duration::from_secs(1))
            .starting_position(StartingPosition::Latest)
            .build()
            .unwrap()
    };
    let dies = &mut reader();
    let mut run = Box::pin(dies.run(pending()));
    while place.load("third/stream/").await.unwrap().is_none() {
        assert!(futures::poll!(&mut run).is_pending());
    }
    drop(run);
    store.put_record(record()).unwrap();
    time.sleep(Duration::from_secs(120)).await;
    let summary = reader().drain().await.unwrap();
    assert_eq!((summary.records, summary.gaps), (0, 1));
}

type Seen = BTreeMap<String, u64>;

#[derive(Debug, Clone, Default)]
struct Counts(Arc<Mutex<(Seen, Seen)>>);

impl Recorder for Counts {
    fn count(&self, name: &str, by: u64) {
        *self.0.lock().unwrap().0.entry(name.to_owned()).or_default() += by;
    }

    fn gauge(&self, name: &str, value: u64) {
        self.0.lock().unwrap().1.insert(name.to_owned(), value);
    }

    fn error(&self, _: &str, _: &(dyn Error + 'static)) {}
}

#[tokio::test(start_paused = true)]
async fn counts_and_lag_go_to_the_recorder_under_the_triggers_name() {
    let (store, counts) = (store(), Counts::default());
    put(&store, &["a", "bad", "c"]);
    let handler = |event: Event| {
        let bad = event.records.iter().any(|record| record.event_id == "bad");
        ready(match bad {
            true => Err::<_, HandlerError>("down".into()),
            false => Ok(DynamoDbEventResponse::default()),
        })
    };
    let mut trigger = Trigger::builder(store.source(ARN), handler)
        .positions(MemoryDeduper::new(), "orders_live")
        .recorder(counts.clone())
        .bisect_batch_on_error(true)
        .maximum_retry_attempts(1)
        .on_failure(|_| ready(Ok(())))
        .build()
        .unwrap();
    trigger.run(sleep(Duration::from_secs(60))).await.unwrap();
    let (counts, gauges) = counts.0.lock().unwrap().clone();
    let expected = [
        ("orders_live:batches", 1),
        ("orders_live:bisected", 2),
        ("orders_live:errors", 4),
        ("orders_live:given_up", 1),
        ("orders_live:records", 3),
        ("orders_live:retry", 5),
    ];
    let expected = expected.map(|(name, count)| (name.to_owned(), count));
    assert_eq!(counts, Seen::from(expected));
    assert_eq!(gauges, Seen::from([("orders_live:lag_ms".to_owned(), 0)]));
}

#[tokio::test(start_paused = true)]
async fn a_run_says_what_it_reads_how_far_behind_it_is_and_when_it_has_caught_up() {
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let (world, log) = (World::new(), Log::default());
    let _guard = log.listen();
    let (time, store) = (&world.time, &world.store);
    let handler = |event: Event| {
        let (time, records) = (time.clone(), event.records.len() as u64);
        async move {
            time.sleep(minutes(records)).await;
            Ok::<_, HandlerError>(DynamoDbEventResponse::default())
        }
    };
    let trigger = || {
        Trigger::builder(store.source(ARN), handler)
            .positions(Arc::clone(&world.place), "orders_live")
            .clock(time.clock(0))
            .batch_size(1)
            .maximum_retry_attempts(1)
            .build()
            .unwrap()
    };
    put(store, &["a", "b", "c", "d", "e"]);
    time.sleep(minutes(120)).await;
    trigger().run(time.sleep(minutes(30))).await.unwrap();

    let lines = |of: &str| -> Vec<String> {
        let text = log.text();
        let lines = text.lines().filter(|line| line.contains(of));
        lines.map(str::to_owned).collect()
    };
    let reads = lines("reads the stream");
    for part in ["INFO", ARN, "orders_live", "TRIM_HORIZON", "shards=1"] {
        assert!(reads[0].contains(part), "{reads:?}");
    }
    let behind = lines("is behind");
    assert!((5..=6).contains(&behind.len()), "{behind:?}");
    for part in ["INFO", "orders_live", "behind=2 h", "pending=5"] {
        assert!(behind[0].contains(part), "{behind:?}");
    }
    let caught_up = lines("has caught up");
    assert_eq!((reads.len(), caught_up.len()), (1, 1), "{}", log.text());
    assert!(caught_up[0].contains("records=5"), "{caught_up:?}");

    // A change that is done within a minute is not logged; a longer wait is.
    let mut second = trigger();
    let mut run = Box::pin(second.run(time.sleep(minutes(60))));
    let later = async {
        time.sleep(minutes(10)).await;
        put(store, &["f"]);
        time.sleep(minutes(10)).await;
        put(store, &["g", "h", "i"]);
    };
    futures::join!(&mut run, later).0.unwrap();
    let reads = lines("reads the stream");
    assert!(reads[1].contains("where reading stopped"), "{reads:?}");
    let behind = &lines("is behind")[behind.len()..];
    assert!((2..=3).contains(&behind.len()), "{}", log.text());
    assert_eq!((reads.len(), lines("has caught up").len()), (2, 3));

    // A drain reads what is there, and logs that at its end.
    put(store, &["j"]);
    trigger().drain().await.unwrap();
    assert_eq!(lines("has caught up").len(), 4, "{}", log.text());
}
