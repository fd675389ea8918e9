//! How batches are cut: window, parallelization factor, bisecting, filters, and the shard they carry.

use std::collections::HashMap;
use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use murmur_state::{EventHandler, HandlerError, Random, Timestamp};
use murmur_streams::{
    DynamoDbEventResponse, Event, OperationType, Status, StreamError, StreamRecord, Trigger,
    TriggerError, report_failures,
};
use murmur_testkit::time::Time;
use tokio::time::{Instant, sleep};

use crate::support::{ARN, Fake, Scripted, on, put, put_item, store};

#[tokio::test(start_paused = true)]
async fn a_batch_waits_for_its_window_or_until_it_is_full() {
    let store = store();
    let calls: Arc<Mutex<Vec<(u64, usize)>>> = Arc::default();
    let (noted, begun) = (Arc::clone(&calls), Instant::now());
    let handler = move |event: Event| {
        let call = (begun.elapsed().as_secs(), event.records.len());
        noted.lock().unwrap().push(call);
        ready(Ok::<_, HandlerError>(DynamoDbEventResponse::default()))
    };
    let mut trigger = Trigger::builder(store.source(ARN), handler)
        .batch_size(4)
        .maximum_batching_window(Duration::from_secs(30))
        .build()
        .unwrap();
    let producer = async {
        put(&store, &["a", "b"]);
        sleep(Duration::from_secs(10)).await;
        put(&store, &["c"]);
        sleep(Duration::from_secs(50)).await;
        put(&store, &["d", "e", "f", "g", "h"]);
        sleep(Duration::from_secs(10)).await;
        // A shard that has ended has nothing to wait for.
        store.roll_over(ARN).unwrap();
        sleep(Duration::from_secs(5)).await;
    };
    trigger.run(producer).await.unwrap();
    let calls = calls.lock().unwrap();
    assert_eq!(calls.len(), 3, "{calls:?}");
    assert_eq!(calls[0], (30, 3));
    assert!(
        (60..=61).contains(&calls[1].0) && calls[1].1 == 4,
        "{calls:?}"
    );
    assert!(
        (70..=71).contains(&calls[2].0) && calls[2].1 == 1,
        "{calls:?}"
    );
}

/// Takes some time, and records how many calls and which items were in progress at once.
#[derive(Clone, Default)]
struct Slow {
    under_way: Arc<Mutex<HashMap<String, u32>>>,
    most: Arc<Mutex<usize>>,
    order: Arc<Mutex<HashMap<String, Vec<u32>>>>,
    shards: Arc<Mutex<Vec<String>>>,
}

impl EventHandler<Event> for Slow {
    type Answer = DynamoDbEventResponse;

    async fn handle(
        &self,
        event: &mut Event,
        shard: &str,
    ) -> Result<DynamoDbEventResponse, HandlerError> {
        self.shards.lock().unwrap().push(shard.to_owned());
        let names: Vec<(String, u32)> = event
            .records
            .iter()
            .map(|record| {
                let (item, n) = record.event_id.split_once('/').unwrap();
                (item.to_owned(), n.parse().unwrap())
            })
            .collect();
        {
            let mut under_way = self.under_way.lock().unwrap();
            let call = names[0].0.clone();
            for (item, _) in &names {
                assert!(
                    !under_way.contains_key(item),
                    "{item} is in two batches at once"
                );
            }
            under_way.insert(call, 1);
            let mut most = self.most.lock().unwrap();
            *most = (*most).max(under_way.len());
        }
        sleep(Duration::from_secs(1)).await;
        self.under_way.lock().unwrap().remove(&names[0].0);
        let mut order = self.order.lock().unwrap();
        for (item, n) in names {
            order.entry(item).or_default().push(n);
        }
        Ok(DynamoDbEventResponse::default())
    }
}

#[tokio::test(start_paused = true)]
async fn a_factor_has_so_many_batches_of_a_shard_at_once_and_keeps_each_items_order() {
    for factor in [1, 3, 10] {
        let store = store();
        for n in 0..5 {
            for item in 0..200 {
                put_item(&store, &format!("i{item}"), &format!("i{item}/{n}"));
            }
        }
        let handler = Slow::default();
        let mut trigger = Trigger::builder(store.source(ARN), handler.clone())
            .batch_size(1)
            .parallelization_factor(factor)
            .build()
            .unwrap();
        let begun = Instant::now();
        assert_eq!(trigger.drain().await.unwrap().records, 1000);
        assert_eq!(*handler.most.lock().unwrap(), factor);
        let took = begun.elapsed().as_secs();
        assert!(took < 1002 / factor as u64 * 3, "{took} s with {factor}");
        for numbers in handler.order.lock().unwrap().values() {
            assert_eq!(*numbers, (0..5).collect::<Vec<_>>());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_fails_holds_up_its_own_items_until_the_shard_has_read_far_enough() {
    let store = store();
    for n in 0..300 {
        put_item(&store, &format!("i{}", n % 30), &format!("i{}", n % 30));
    }
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&seen);
    let handler = move |event: Event| {
        let bad = event.records.iter().any(|record| record.event_id == "i7");
        let ids = event.records.into_iter().map(|record| record.event_id);
        noted.lock().unwrap().extend(ids.filter(|_| !bad));
        ready(if bad {
            Err("down")
        } else {
            Ok(DynamoDbEventResponse::default())
        })
    };
    let mut trigger = Trigger::builder(store.source(ARN), handler)
        .batch_size(1)
        .parallelization_factor(10)
        .build()
        .unwrap();
    let summary = trigger.run(sleep(Duration::from_secs(60))).await.unwrap();
    // One of ten lanes is stuck, with all items that share it.
    assert!((150..300).contains(&summary.records), "{summary:?}");
    assert_eq!(seen.lock().unwrap().len() as u64, summary.records);
    assert!(summary.errors > 5);
}

#[tokio::test(start_paused = true)]
async fn a_failing_batch_is_cut_in_two_until_the_record_it_fails_of_is_alone() {
    let store = store();
    put(&store, &["a", "b", "c", "d", "bad", "f", "g", "h"]);
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let given_up: Arc<Mutex<Vec<String>>> = Arc::default();
    let (noted, taken) = (Arc::clone(&seen), Arc::clone(&given_up));
    let handler = move |event: Event| {
        let ids: Vec<String> = event
            .records
            .into_iter()
            .map(|record| record.event_id)
            .collect();
        noted.lock().unwrap().push(ids.concat());
        ready(match ids.contains(&"bad".to_owned()) {
            true => Err("down"),
            false => Ok(DynamoDbEventResponse::default()),
        })
    };
    let mut trigger = Trigger::builder(store.source(ARN), handler)
        .bisect_batch_on_error(true)
        .maximum_retry_attempts(2)
        .on_failure(move |batch| {
            let ids = batch.records.into_iter().map(|record| record.event_id);
            taken.lock().unwrap().extend(ids);
            ready(Ok(()))
        })
        .build()
        .unwrap();
    let summary = trigger.drain().await.unwrap();
    assert_eq!(
        *seen.lock().unwrap(),
        [
            "abcdbadfgh",
            "abcd",
            "badfgh",
            "badf",
            "bad",
            "bad",
            "bad",
            "f",
            "gh"
        ]
    );
    assert_eq!(*given_up.lock().unwrap(), ["bad"]);
    assert_eq!((summary.bisections, summary.retries), (3, 8));
    assert_eq!((summary.records, summary.given_up), (8, 1));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nothing_is_done_is_cut_in_two_as_well() {
    let store = store();
    let numbers = put(&store, &["a", "b", "c", "d"]);
    let handler = Scripted::default();
    handler.answer(&[&numbers[0]]);
    handler.answer(&[&numbers[1]]);
    let trigger = on(store.source(ARN), handler.clone()).bisect_batch_on_error(true);
    assert_eq!(
        trigger.build().unwrap().drain().await.unwrap().bisections,
        1
    );
    // A partial answer says where to continue, so nothing is cut.
    assert_eq!(
        handler.batches(),
        [
            vec!["a", "b", "c", "d"],
            vec!["a", "b"],
            vec!["b"],
            vec!["c", "d"]
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_filter_passes_other_event_names_over_and_the_position_moves_on() {
    let store = store();
    for (n, name) in [
        OperationType::Insert,
        OperationType::Modify,
        OperationType::Remove,
        OperationType::Insert,
        OperationType::Modify,
    ]
    .into_iter()
    .enumerate()
    {
        store
            .put_record(StreamRecord {
                stream_arn: ARN.into(),
                event_id: n.to_string(),
                event_name: name,
                ..StreamRecord::default()
            })
            .unwrap();
    }
    let handler = Scripted::default();
    let names = [OperationType::Insert, OperationType::Remove];
    let trigger = on(store.source(ARN), handler.clone()).filter_event_names(names);
    let mut trigger = trigger.build().unwrap();
    let summary = trigger.drain().await.unwrap();
    assert_eq!(handler.batches(), [["0", "2", "3"]]);
    assert_eq!((summary.records, summary.filtered), (5, 2));
    let again = trigger.drain().await.unwrap();
    assert_eq!((again.records, again.filtered), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_batch_carries_its_shard() {
    let store = store();
    put(&store, &["i/1"]);
    store.roll_over(ARN).unwrap();
    put(&store, &["i/2"]);
    let handler = Slow::default();
    let mut trigger = Trigger::builder(store.source(ARN), handler.clone())
        .build()
        .unwrap();
    trigger.drain().await.unwrap();
    let shards = store.describe_stream(ARN).unwrap().shards;
    let ids: Vec<String> = shards.into_iter().map(|shard| shard.id).collect();
    assert_eq!(*handler.shards.lock().unwrap(), ids);
}

#[tokio::test(start_paused = true)]
async fn a_monitor_shows_lag_failures_and_what_is_pending() {
    let store = store();
    put(&store, &["a", "b", "c"]);
    let numbers: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&numbers);
    let handler = move |event: Event| {
        let bad = event.records[0].change.sequence_number.clone().unwrap();
        noted.lock().unwrap().push(bad.clone());
        ready(Ok::<_, HandlerError>(report_failures([bad])))
    };
    let mut trigger = Trigger::builder(store.source(ARN), handler)
        .random(Random::seeded(1))
        .build()
        .unwrap();
    let monitor = trigger.monitor();
    let watch = async {
        sleep(Duration::from_secs(60)).await;
        let status = monitor.status();
        let [shard] = &status.shards[..] else {
            panic!("{status:?}")
        };
        assert!(shard.failures > 5, "{status:?}");
        assert_eq!(shard.pending, 3);
        // The store's clock is the machine's, which does not move on paused time.
        assert!(shard.lag.is_some());
        assert!(status.summary.failures > 5);
    };
    let summary = trigger.run(watch).await.unwrap();
    assert_eq!(monitor.status().summary, summary);
    assert_eq!(monitor.status().shards, []);
}

#[tokio::test(start_paused = true)]
async fn no_lag_is_shown_while_nothing_comes_and_it_grows_while_nothing_can_be_read() {
    let time = Time::paused(Timestamp::from_secs(1_800_000_000));
    let throttled = || StreamError::Throttled {
        arn: ARN.into(),
        source: None,
    };
    // Empty for some minutes, then throttled permanently.
    let empty = (0..300).map(|_| Ok(&[][..]));
    let script = empty.chain((0..100_000).map(|_| Err(throttled())));
    let mut trigger = Trigger::builder(Fake::open(script.collect()), Scripted::default())
        .clock(time.clock(0))
        .retry_budget(Duration::from_secs(3600))
        .build()
        .unwrap();
    let monitor = trigger.monitor();
    assert_eq!(monitor.status(), Status::default());
    let look = async {
        time.sleep(Duration::from_secs(200)).await;
        assert_eq!(monitor.status().shards[0].lag, Some(Duration::ZERO));
        time.sleep(Duration::from_secs(700)).await;
        let lag = monitor.status().shards[0].lag.unwrap();
        assert!((590..610).contains(&lag.as_secs()), "{lag:?}");
    };
    trigger.run(look).await.unwrap();
}

/// Keeps the records it is given.
struct Keeps(Scripted);

impl EventHandler<Event> for Keeps {
    type Answer = DynamoDbEventResponse;

    async fn handle(
        &self,
        event: &mut Event,
        shard: &str,
    ) -> Result<DynamoDbEventResponse, HandlerError> {
        let answer = self.0.handle(event, shard).await;
        drop(event.records.drain(1..));
        answer
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_keep_records_only_when_all_are_done() {
    let store = store();
    let numbers = put(&store, &["a", "b", "c"]);
    let handler = Scripted::default();
    handler.fail();
    handler.answer(&[&numbers[1]]);
    let keeps = Keeps(handler.clone());
    let mut trigger = Trigger::builder(store.source(ARN), keeps).build().unwrap();
    let shard_id = store.describe_stream(ARN).unwrap().shards.remove(0).id;
    for failed in [true, false] {
        let error = trigger.drain().await.unwrap_err();
        let TriggerError::RecordsKept {
            shard,
            lent: 3,
            left: 1,
            source,
        } = &error
        else {
            panic!("{error:?}")
        };
        assert_eq!((shard, source.is_some()), (&shard_id, failed));
        assert!(error.to_string().contains("fix the handler"), "{error}");
    }
    // Records that it did not leave are read from the stream again.
    assert_eq!(trigger.drain().await.unwrap().records, 3);
    assert_eq!(handler.batches(), [["a", "b", "c"]; 3]);
}
