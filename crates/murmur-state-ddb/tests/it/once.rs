//! Exactly once: what is sent, what is recognised, how rows turn hot and cold, who is to blame.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;
use murmur_state::{
    Add, Clock, Deadline, EventId, ExactlyOnce, Fault, ManualClock, Once, Outcome, PipelineName,
    ReadExt, Store, StoreError, Timestamp,
};
use murmur_state_ddb::{BytesStore, Deduper, Int64SumStore, Rules, TableOptions};
use murmur_testkit::Dynamo;
use murmur_testkit::wire::{Action, Wire};
use serde_json::Value;

use crate::support::{
    Total, Words, add, key, marker_table, n, put_row, row, s, state_table, virtual_time, wire_on,
};

const HOUR: Duration = Duration::from_secs(3600);

/// A total per entity on tables of its own, over a wire, in virtual time.
struct Totals {
    dynamo: Dynamo,
    clock: ManualClock,
    state: String,
    markers: String,
    rules: Rules,
}

impl Totals {
    async fn new() -> Self {
        Self::with(Rules::default()).await
    }

    async fn with(rules: Rules) -> Self {
        let dynamo = Dynamo::connect().await;
        Self {
            clock: virtual_time().0,
            state: state_table(&dynamo).await,
            markers: marker_table(&dynamo).await,
            dynamo,
            rules,
        }
    }

    /// Rows turn hot as soon as they hold an id.
    async fn hot() -> Self {
        Self::with(Rules {
            cold_ids: 1,
            ..Rules::default()
        })
        .await
    }

    fn options(&self) -> TableOptions {
        TableOptions::default()
            .clock(Arc::new(self.clock.clone()))
            .rules(self.rules.clone())
    }

    /// Another process: it knows nothing of any row.
    fn process(&self, wire: &Wire) -> Process {
        let (client, options) = (wire.client(&self.dynamo), self.options());
        Process {
            store: Int64SumStore::with_options(client.clone(), &*self.state, options.clone())
                .unwrap(),
            markers: Deduper::with_options(client, &*self.markers, options).unwrap(),
        }
    }

    /// Makes the row of `entity` hot, by events 900 and 901. A process turns a row it has seen.
    async fn turn(&self, entity: &str) {
        let process = self.process(&Wire::calm());
        for number in 900..902 {
            process.done(&self.events(entity, number..number + 1)).await;
        }
        assert!(self.has(entity, "hot").await);
    }

    async fn total(&self, entity: &str) -> Option<i64> {
        let store = Int64SumStore::new(self.dynamo.client(), &*self.state);
        store.get(&key(entity)).await.unwrap()
    }

    async fn has(&self, entity: &str, attribute: &str) -> bool {
        let row = row(&self.dynamo.client(), &self.state, entity).await;
        row.unwrap().contains_key(attribute)
    }

    async fn marker_rows(&self) -> Vec<String> {
        let client = self.dynamo.client();
        let rows = client.scan().table_name(&self.markers).send().await;
        let rows = rows.unwrap();
        let names = rows.items().iter().map(|row| row["pk"].as_s().unwrap());
        names.cloned().collect()
    }

    /// The events numbered so, made now, each adding 1 to `entity`.
    fn events(&self, entity: &str, numbers: std::ops::Range<u64>) -> Vec<Once<i64>> {
        numbers
            .map(|number| self.event(number, &[(entity, 1)]))
            .collect()
    }

    fn event(&self, number: u64, adds: &[(&str, i64)]) -> Once<i64> {
        Once {
            id: EventId::new(format!("{number:032x}")).unwrap(),
            created: Some(self.clock.now()),
            adds: adds
                .iter()
                .map(|(entity, value)| add(entity, *value))
                .collect(),
        }
    }
}

struct Process {
    store: Int64SumStore,
    markers: Deduper,
}

impl Process {
    async fn send(&self, events: &[Once<i64>]) -> Vec<Outcome> {
        apply(&self.store, &self.markers, events).await
    }

    /// Sends events that must all be applied or duplicates; how many were applied.
    async fn done(&self, events: &[Once<i64>]) -> usize {
        let outcomes = self.send(events).await;
        let applied = |outcome: &&Outcome| match outcome {
            Outcome::Applied => true,
            Outcome::Duplicate => false,
            other => panic!("{other:?}"),
        };
        outcomes.iter().filter(applied).count()
    }
}

async fn apply(store: &Int64SumStore, markers: &Deduper, events: &[Once<i64>]) -> Vec<Outcome> {
    let name = PipelineName::new("totals").unwrap();
    ExactlyOnce::<Total>::apply(store, &name, markers, events, Deadline::NONE).await
}

#[tokio::test]
async fn a_cold_key_and_batch_is_one_plain_update_for_up_to_70_events() {
    let totals = Totals::new().await;
    let wire = Wire::calm();
    let process = totals.process(&wire);
    assert_eq!(process.done(&totals.events("a", 0..70)).await, 70);
    assert_eq!(
        wire.counts().into_iter().collect::<Vec<_>>(),
        [("UpdateItem".to_owned(), 1)]
    );
    assert_eq!(process.done(&totals.events("a", 70..141)).await, 71);
    assert_eq!(wire.count("UpdateItem"), 3);
    assert_eq!(totals.total("a").await, Some(141));
    assert!(totals.marker_rows().await.is_empty());
}

#[tokio::test]
async fn what_was_taken_is_recognised_in_whatever_company_by_whatever_process() {
    let totals = Totals::new().await;
    let wire = Wire::calm();
    totals
        .process(&wire)
        .done(&totals.events("a", 0..100))
        .await;
    let other = totals.process(&wire);
    // Two writes of 70 and 30 were made: one refusal tells of all that are there.
    let before = wire.count("UpdateItem");
    assert_eq!(other.done(&totals.events("a", 50..120)).await, 20);
    assert_eq!(wire.count("UpdateItem") - before, 2);
    assert_eq!(totals.total("a").await, Some(120));
}

#[tokio::test]
async fn an_update_whose_answer_was_lost_is_sent_once_and_recognised() {
    for hot in [false, true] {
        let totals = if hot {
            Totals::hot().await
        } else {
            Totals::new().await
        };
        let calm = Wire::calm();
        if hot {
            totals.turn("a").await;
        } else {
            totals
                .process(&calm)
                .done(&totals.events("a", 900..902))
                .await;
        }
        let lossy = Wire::new(move |request| match &*request.operation {
            "UpdateItem" if !hot => Action::lose_answer(),
            "TransactWriteItems" => Action::DropAfter,
            _ => Action::Pass,
        });
        let events = totals.events("a", 4..9);
        let process = totals.process(&lossy);
        let outcomes = process.send(&events).await;
        let lost = |outcome: &Outcome| {
            matches!(
                outcome,
                Outcome::Failed(StoreError::Unavailable {
                    may_have_applied: true,
                    ..
                })
            )
        };
        assert!(outcomes.iter().all(lost), "{outcomes:?}");
        assert_eq!(totals.total("a").await, Some(7), "hot: {hot}");
        assert_eq!(totals.process(&calm).done(&events).await, 0);
        assert_eq!(totals.total("a").await, Some(7));
    }
}

#[tokio::test]
async fn nothing_is_sent_twice_by_the_sdk() {
    let totals = Totals::hot().await;
    let wire = Wire::new(|request| match &*request.operation {
        "UpdateItem" | "TransactWriteItems" => Action::error(500, "InternalServerError", ""),
        _ => Action::Pass,
    });
    totals.process(&wire).send(&totals.events("a", 0..1)).await;
    assert_eq!(wire.count("UpdateItem"), 1);
    totals.turn("a").await;
    // It learns by a refused update that the row is hot: the one that fails here.
    let wire = wire_on("TransactWriteItems", |_| {
        Action::error(500, "InternalServerError", "")
    });
    totals.process(&wire).send(&totals.events("a", 3..4)).await;
    assert_eq!(wire.count("TransactWriteItems"), 1);
    assert_eq!(totals.total("a").await, Some(2));
}

#[tokio::test]
async fn by_default_a_row_turns_hot_when_that_costs_less_and_forgets_nothing() {
    let totals = Totals::new().await;
    let wire = Wire::calm();
    let process = totals.process(&wire);
    let mut sent = 0;
    // One event at a time costs 4 units hot, and a unit per KB cold: 64 ids.
    let mut all = Vec::new();
    while totals.marker_rows().await.is_empty() {
        assert!(sent < 400, "it never turns hot");
        let events = totals.events("a", sent..sent + 10);
        assert_eq!(process.done(&events).await, 10);
        all.extend(events);
        sent += 10;
    }
    assert!((200..=300).contains(&sent), "{sent} ids");
    assert!(totals.has("a", "hot").await && !totals.has("a", "cur").await);
    totals.clock.advance(Duration::from_secs(30));
    let more = totals.events("a", sent..sent + 100);
    assert_eq!(process.done(&more).await, 100);
    all.extend(more);
    for process in [process, totals.process(&wire)] {
        assert_eq!(process.done(&all).await, 0);
    }
    assert_eq!(totals.total("a").await, Some(sent as i64 + 100));
}

#[tokio::test]
async fn a_hot_write_is_one_transaction_with_a_marker_row_per_second() {
    let totals = Totals::hot().await;
    let wire = Wire::calm();
    let process = totals.process(&wire);
    process.done(&totals.events("a", 0..1)).await;
    let mut events = totals.events("a", 1..3);
    assert_eq!(process.done(&events).await, 2);
    assert_eq!(
        wire.count("TransactWriteItems"),
        2,
        "the turn, and the write"
    );
    totals.clock.advance(Duration::from_secs(1));
    events = totals.events("a", 3..6);
    // Without a creation time, or with one of 1970, an event has a row of its own.
    events[0].created = None;
    events[1].created = Some(Timestamp::from_millis(500));
    assert_eq!(process.done(&events).await, 3);
    let names = totals.marker_rows().await;
    let of = |kind: &str| names.iter().filter(|name| name.contains(kind)).count();
    assert_eq!(
        (of("/frozen/"), of("/second/"), of("/event/")),
        (1, 2, 2),
        "{names:?}"
    );
    let bodies = wire.requests();
    let tokens: HashSet<&str> = bodies
        .iter()
        .filter_map(|request| request.body["ClientRequestToken"].as_str())
        .collect();
    assert_eq!(tokens.len(), 3, "every transaction has a token of its own");
}

#[tokio::test]
async fn the_ids_of_the_last_period_are_kept_and_those_before_it_are_not() {
    let totals = Totals::new().await;
    let wire = Wire::calm();
    let process = totals.process(&wire);
    let first = totals.events("a", 0..5);
    process.done(&first).await;
    for shift in 1..=2 {
        totals.clock.advance(26 * HOUR);
        let next = totals.events("a", shift * 10..shift * 10 + 5);
        assert_eq!(process.done(&next).await, 5);
        assert_eq!(process.done(&next).await, 0);
        let row = row(&totals.dynamo.client(), &totals.state, "a")
            .await
            .unwrap();
        assert_eq!(row["cur"].as_bs().unwrap().len(), 5);
        assert_eq!(row["prev"].as_bs().unwrap().len(), 5);
    }
    // Whoever comes that late is not applied, so nothing is counted twice.
    let outcomes = process.send(&first).await;
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, Outcome::Failed(StoreError::TooOld { .. }))),
        "{outcomes:?}"
    );
    assert_eq!(totals.total("a").await, Some(15));
    // A process that remembers the row shifts it by one update, without a refusal.
    assert_eq!(wire.count("UpdateItem"), 1 + 2 * 2);
}

#[tokio::test]
async fn a_period_only_grows_whatever_the_clock_says() {
    let totals = Totals::new().await;
    let (ahead, behind) = (totals.process(&Wire::calm()), totals.process(&Wire::calm()));
    let late = totals.events("a", 0..3);
    totals.clock.advance(26 * HOUR);
    ahead.done(&totals.events("a", 3..5)).await;
    // A second writer whose clock shows the period before.
    let slow = Totals {
        clock: virtual_time().0,
        dynamo: totals.dynamo.clone(),
        state: totals.state.clone(),
        markers: totals.markers.clone(),
        rules: totals.rules.clone(),
    };
    assert_eq!(slow.process(&Wire::calm()).done(&late).await, 3);
    let period = row(&totals.dynamo.client(), &totals.state, "a")
        .await
        .unwrap()["per"]
        .clone();
    behind.done(&totals.events("a", 5..6)).await;
    let after = row(&totals.dynamo.client(), &totals.state, "a")
        .await
        .unwrap();
    assert_eq!(after["per"], period);
    assert_eq!(after["cur"].as_bs().unwrap().len(), 6);
}

#[tokio::test]
async fn a_hot_row_turns_cold_a_horizon_after_its_last_write_and_not_before() {
    let totals = Totals::hot().await;
    let wire = Wire::calm();
    let process = totals.process(&wire);
    process.done(&totals.events("a", 0..1)).await;
    process.done(&totals.events("a", 1..2)).await;
    totals.clock.advance(25 * HOUR);
    process.done(&totals.events("a", 2..3)).await;
    assert!(totals.has("a", "hot").await);
    totals.clock.advance(25 * HOUR);
    process.done(&totals.events("a", 3..4)).await;
    assert!(
        totals.has("a", "hot").await,
        "the horizon begins with the last write"
    );

    // Somebody who knows only of an older write is refused, and learns.
    let stale = totals.process(&wire);
    stale.done(&totals.events("a", 4..5)).await;
    totals.clock.advance(20 * HOUR);
    process.done(&totals.events("a", 5..6)).await;
    totals.clock.advance(7 * HOUR);
    stale.done(&totals.events("a", 6..7)).await;
    assert!(totals.has("a", "hot").await);

    totals.clock.advance(26 * HOUR);
    let period = row(&totals.dynamo.client(), &totals.state, "a")
        .await
        .unwrap()["per"]
        .clone();
    process.done(&totals.events("a", 7..8)).await;
    let cold = row(&totals.dynamo.client(), &totals.state, "a")
        .await
        .unwrap();
    assert!(!cold.contains_key("hot") && !cold.contains_key("hot_at"));
    assert!(
        !cold.contains_key("prev"),
        "the ids from before are of events too old to come"
    );
    assert_ne!(cold["per"], period);
    assert_eq!(totals.total("a").await, Some(8));
}

#[tokio::test]
async fn a_row_that_turned_hot_meanwhile_refuses_the_plain_write() {
    let totals = Totals::new().await;
    let process = totals.process(&Wire::calm());
    let events = totals.events("a", 0..4);
    process.done(&events[..2]).await;
    let turning = Totals {
        rules: Rules {
            cold_ids: 1,
            ..Rules::default()
        },
        dynamo: totals.dynamo.clone(),
        clock: totals.clock.clone(),
        state: totals.state.clone(),
        markers: totals.markers.clone(),
    };
    let other = turning.process(&Wire::calm());
    // The first learns how many ids the row has, the second turns it.
    other.done(&totals.events("a", 10..11)).await;
    other.done(&totals.events("a", 11..12)).await;
    assert!(totals.has("a", "hot").await);
    assert_eq!(process.done(&events).await, 2);
    assert!(totals.has("a", "hot").await);
    assert_eq!(totals.total("a").await, Some(6));
}

#[tokio::test]
async fn a_turn_is_refused_if_an_id_came_after_the_row_was_read() {
    let totals = Totals::hot().await;
    totals
        .process(&Wire::calm())
        .done(&totals.events("a", 0..2))
        .await;
    // While the turn is on its way another process, which keeps rows cold, takes an event.
    let cold = Arc::new(Totals {
        rules: Rules::default(),
        dynamo: totals.dynamo.clone(),
        clock: totals.clock.clone(),
        state: totals.state.clone(),
        markers: totals.markers.clone(),
    });
    let between = cold.events("a", 2..3);
    let sent = Arc::new(AtomicUsize::new(0));
    let wire = {
        let (cold, between, sent) = (Arc::clone(&cold), between.clone(), Arc::clone(&sent));
        wire_on("TransactWriteItems", move |_| {
            if sent.fetch_add(1, Ordering::Relaxed) == 0 {
                let (cold, between) = (Arc::clone(&cold), between.clone());
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build();
                    runtime.unwrap().block_on(async {
                        assert_eq!(cold.process(&Wire::calm()).done(&between).await, 1);
                    });
                })
                .join()
                .unwrap();
            }
            Action::Pass
        })
    };
    let process = totals.process(&wire);
    process.done(&totals.events("a", 3..4)).await;
    process.done(&totals.events("a", 4..5)).await;
    assert!(!totals.has("a", "hot").await, "an id came in between");
    process.done(&totals.events("a", 5..6)).await;
    process.done(&totals.events("a", 6..7)).await;
    assert!(totals.has("a", "hot").await);
    assert!(
        sent.load(Ordering::Relaxed) >= 3,
        "refused once, turned, written"
    );
    assert_eq!(process.done(&between).await, 0, "the id moved along");
    assert_eq!(totals.total("a").await, Some(7));
}

#[tokio::test]
async fn an_event_too_old_is_refused_and_its_neighbours_are_not() {
    let totals = Totals::new().await;
    let process = totals.process(&Wire::calm());
    let mut events = totals.events("a", 0..4);
    let age = |hours: u64, minutes: u64| {
        Some(
            totals
                .clock
                .now()
                .minus(Duration::from_secs(hours * 3600 + minutes * 60)),
        )
    };
    events[1].created = age(24, 30);
    events[2].created = age(24, 31);
    let outcomes = process.send(&events).await;
    assert!(
        matches!(
            &outcomes[..],
            [Outcome::Applied, Outcome::Applied, Outcome::Failed(error @ StoreError::TooOld { .. }), Outcome::Applied]
                if error.fault() == Fault::Record
        ),
        "{outcomes:?}"
    );
    assert_eq!(totals.total("a").await, Some(3));
}

#[tokio::test]
async fn an_attempt_composed_long_ago_is_composed_anew() {
    /// A clock that jumps between two looks at it, as when the process was frozen.
    #[derive(Debug)]
    struct Frozen(ManualClock, Mutex<Vec<Duration>>);

    impl Clock for Frozen {
        fn now(&self) -> Timestamp {
            let now = self.0.now();
            if let Some(jump) = self.1.lock().unwrap().pop() {
                self.0.advance(jump);
            }
            now
        }
        fn monotonic(&self) -> Duration {
            self.0.monotonic()
        }
        fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
            self.0.sleep(duration)
        }
    }

    let totals = Totals::new().await;
    let wire = Wire::calm();
    let jumps = Mutex::new(vec![25 * HOUR]);
    let clock = Arc::new(Frozen(totals.clock.clone(), jumps));
    let store = Int64SumStore::with_options(
        wire.client(&totals.dynamo),
        &*totals.state,
        TableOptions::default().clock(clock),
    );
    let markers = Deduper::new(wire.client(&totals.dynamo), &*totals.markers);
    let outcomes = apply(&store.unwrap(), &markers, &totals.events("a", 0..1)).await;
    // Judged as young enough, then 25 hours went by before it was sent.
    assert!(
        matches!(&outcomes[..], [Outcome::Failed(StoreError::TooOld { .. })]),
        "{outcomes:?}"
    );
    assert_eq!(wire.count("UpdateItem"), 0);
}

#[tokio::test]
async fn an_overflow_is_blamed_on_the_one_event_and_the_total_stays_right() {
    for hot in [false, true] {
        let totals = if hot {
            Totals::hot().await
        } else {
            Totals::new().await
        };
        let process = totals.process(&Wire::calm());
        for number in 0..2 {
            process
                .done(&[totals.event(number, &[("a", i64::MAX / 2)])])
                .await;
        }
        let values = [1, 7, -3, i64::MAX, 2];
        let events: Vec<_> = (2..)
            .zip(values)
            .map(|(number, value)| totals.event(number, &[("a", value), ("b", 1)]))
            .collect();
        let outcomes = process.send(&events).await;
        for (outcome, value) in outcomes.iter().zip(values) {
            match outcome {
                Outcome::Failed(StoreError::Overflow { place }) => {
                    assert!([7, i64::MAX, 2].contains(&value));
                    assert_eq!(place.key.as_deref(), Some(&key("a")));
                }
                Outcome::Applied => assert!([1, -3, 2].contains(&value), "{value}"),
                other => panic!("{other:?}"),
            }
        }
        // MAX − 1, then 1 fits, 7 does not, −3 fits, MAX does not, 2 does.
        assert_eq!(totals.total("a").await, Some(i64::MAX - 1), "hot: {hot}");
        assert_eq!(totals.total("b").await, Some(5));
        let again = process.send(&events).await;
        assert!(
            again
                .iter()
                .all(|outcome| matches!(outcome, Outcome::Duplicate | Outcome::Failed(_)))
        );
        assert_eq!(totals.total("a").await, Some(i64::MAX - 1));
    }
}

#[tokio::test]
async fn duplicates_are_seen_before_an_overflow_is() {
    let totals = Totals::new().await;
    let process = totals.process(&Wire::calm());
    let (half, most) = (i64::MAX / 2, i64::MAX / 2 + 1);
    let taken = totals.event(0, &[("a", half)]);
    process.done(std::slice::from_ref(&taken)).await;
    // Together with what was taken already the sum would leave the range; alone it does not.
    let outcomes = process
        .send(&[taken, totals.event(1, &[("a", most)])])
        .await;
    assert!(
        matches!(&outcomes[..], [Outcome::Duplicate, Outcome::Applied]),
        "{outcomes:?}"
    );
    assert_eq!(totals.total("a").await, Some(i64::MAX));
}

#[tokio::test]
async fn one_value_that_the_service_refuses_never_fails_its_neighbours() {
    for (hot, poison) in [(false, 3), (true, 3), (false, 0), (true, 69)] {
        let totals = if hot {
            Totals::hot().await
        } else {
            Totals::new().await
        };
        match hot {
            true => totals.turn("a").await,
            false => {
                let process = totals.process(&Wire::calm());
                process.done(&totals.events("a", 900..902)).await;
            }
        }
        let bad: Value = serde_json::to_value(base64(poison)).unwrap();
        let wire =
            Wire::new(
                move |request| match request.body.to_string().contains(&bad.to_string()) {
                    true => Action::error(
                        400,
                        "ValidationException",
                        "Number overflow. Attempting to store a number with magnitude larger than \
                     supported range",
                    ),
                    false => Action::Pass,
                },
            );
        let process = totals.process(&wire);
        let outcomes = process.send(&totals.events("a", 0..80)).await;
        for (number, outcome) in (0..).zip(&outcomes) {
            match outcome {
                Outcome::Applied => assert_ne!(number, poison),
                Outcome::Failed(error @ StoreError::InvalidValue { .. }) => {
                    assert_eq!(number, poison);
                    assert_eq!(error.fault(), Fault::Record);
                }
                other => panic!("{number}: {other:?}"),
            }
        }
        assert_eq!(totals.total("a").await, Some(2 + 79));
        let writes = wire.count("UpdateItem") + wire.count("TransactWriteItems");
        assert!(writes < 30, "it is bisected: {writes} writes");
    }
}

#[tokio::test]
async fn a_request_that_carries_no_event_blames_none() {
    let totals = Totals::hot().await;
    // The row turns hot in a transaction of its own, which this refuses for a value.
    let wire = wire_on("TransactWriteItems", |_| {
        Action::error(
            400,
            "ValidationException",
            "Number overflow. Attempting to store a number with magnitude larger than supported \
             range",
        )
    });
    let process = totals.process(&wire);
    for number in 0..9 {
        for outcome in process.send(&totals.events("a", number..number + 1)).await {
            if let Outcome::Failed(error) = outcome {
                assert_eq!(error.fault(), Fault::Setup, "{error}");
            }
        }
    }
    let turns = wire.count("TransactWriteItems");
    assert!(turns > 0 && turns < 9, "{turns} turns were tried");
}

/// The number as it stands in a request: 16 bytes in base64.
fn base64(number: u64) -> String {
    let bytes = u128::from(number).to_be_bytes();
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for digit in 0..4 {
            match digit <= chunk.len() {
                true => text.push(alphabet[(bits >> (18 - 6 * digit)) as usize & 63] as char),
                false => text.push('='),
            }
        }
    }
    text
}

#[tokio::test]
async fn a_conflict_stops_its_lane_and_no_other() {
    let totals = Totals::hot().await;
    totals.turn("a").await;
    let wire = wire_on("TransactWriteItems", |_| Action::Answer {
        status: 400,
        body: serde_json::json!({
            "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
            "Message": "Transaction cancelled",
            "CancellationReasons": [{ "Code": "None" }, { "Code": "TransactionConflict" }],
        })
        .to_string(),
    });
    let mut events = totals.events("a", 2..82);
    events.insert(3, totals.event(500, &[("b", 1)]));
    let outcomes = totals.process(&wire).send(&events).await;
    for (place, outcome) in outcomes.iter().enumerate() {
        match (place, outcome) {
            (3, Outcome::Applied) => {}
            (0..=70, Outcome::Failed(error @ StoreError::Conflict { .. })) => {
                assert_eq!(error.fault(), Fault::Contention);
            }
            (71.., Outcome::Blocked) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(totals.total("a").await, Some(2));
    assert_eq!(totals.total("b").await, Some(1));
}

#[tokio::test]
async fn rows_of_other_modes_are_refused_and_left_as_they_are() {
    let totals = Totals::new().await;
    let client = totals.dynamo.client();
    let process = totals.process(&Wire::calm());
    let plain = [add("plain", 5)];
    Store::<Total>::merge(&process.store, &plain, Deadline::NONE).await;
    put_row(
        &client,
        &totals.state,
        "ledger",
        &[("v", n(5)), ("led", n(1))],
    )
    .await;
    put_row(
        &client,
        &totals.state,
        "text",
        &[("v", s("five")), ("per", n(18_000))],
    )
    .await;
    for entity in ["plain", "ledger"] {
        let outcomes = process.send(&totals.events(entity, 0..2)).await;
        assert!(
            matches!(&outcomes[..], [Outcome::Failed(error @ StoreError::OtherMode { .. }), _] if error.fault() == Fault::Setup),
            "{outcomes:?}"
        );
        assert_eq!(totals.total(entity).await, Some(5));
    }
    let outcomes = process.send(&totals.events("text", 0..1)).await;
    assert!(
        matches!(
            &outcomes[..],
            [Outcome::Failed(StoreError::WrongShape { .. })]
        ),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn a_row_at_the_item_limit_stops_its_lane_and_no_other() {
    let dynamo = Dynamo::connect().await;
    let state = state_table(&dynamo).await;
    let store = BytesStore::new(dynamo.client(), &*state, Bag);
    let markers = Deduper::new(dynamo.client(), marker_table(&dynamo).await);
    let name = PipelineName::new("bags").unwrap();
    let event = |number: u64, entity: &str, bytes: usize| Once {
        id: EventId::new(format!("{number:032x}")).unwrap(),
        created: None,
        adds: vec![add(entity, vec![b'x'; bytes])],
    };
    let send =
        async |events: &[Once<Vec<u8>>]| store.apply(&name, &markers, events, Deadline::NONE).await;
    send(&[event(0, "full", 250_000)]).await;
    let outcomes = send(&[
        event(1, "full", 200_000),
        event(2, "full", 10),
        event(3, "other", 10),
        event(4, "huge", 500_000),
        event(5, "huge", 10),
    ])
    .await;
    match &outcomes[..] {
        [
            Outcome::Failed(row),
            Outcome::Failed(_),
            Outcome::Applied,
            Outcome::Failed(value),
            Outcome::Applied,
        ] => {
            assert_eq!((row.fault(), value.fault()), (Fault::Setup, Fault::Record));
            let shown = row.to_string();
            assert!(shown.contains(&state) && shown.contains("full"), "{shown}");
            assert!(
                value.to_string().contains("500001 bytes by itself"),
                "{value}"
            );
        }
        other => panic!("{other:?}"),
    }
    let bytes = |found: Option<Vec<u8>>| found.unwrap().len();
    assert_eq!(bytes(store.get(&key("full")).await.unwrap()), 250_000);
    assert_eq!(bytes(store.get(&key("huge")).await.unwrap()), 10);
}

/// As many letters as were put in: bytes that grow, and are not idempotent.
#[derive(Clone, Debug)]
struct Bag;

impl murmur_state::Monoid for Bag {
    type Input = Vec<u8>;
    type Value = Vec<u8>;
    fn identity(&self) -> Vec<u8> {
        Vec::new()
    }
    fn lift(&self, input: Vec<u8>) -> Vec<u8> {
        input
    }
    fn combine(&self, into: &mut Vec<u8>, other: &Vec<u8>) -> Result<(), murmur_state::Overflow> {
        into.extend(other);
        Ok(())
    }
}

impl murmur_state::Codec for Bag {
    fn encode(&self, value: &Vec<u8>) -> Vec<u8> {
        [&[1], &value[..]].concat()
    }
    fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>, murmur_state::CodecError> {
        Ok(bytes[1..].to_vec())
    }
}

#[tokio::test]
async fn an_idempotent_monoid_writes_no_ids() {
    let dynamo = Dynamo::connect().await;
    let state = state_table(&dynamo).await;
    let store = BytesStore::new(dynamo.client(), &*state, Words);
    let markers = Deduper::new(dynamo.client(), marker_table(&dynamo).await);
    let name = PipelineName::new("words").unwrap();
    let event = Once {
        id: EventId::new("1").unwrap(),
        created: None,
        adds: vec![add("a", ["x".to_owned()].into())],
    };
    store.apply(&name, &markers, &[event], Deadline::NONE).await;
    let row = row(&dynamo.client(), &state, "a").await.unwrap();
    assert!(
        !row.contains_key("cur") && !row.contains_key("per"),
        "{row:?}"
    );
}

#[tokio::test]
async fn two_batches_of_one_process_take_turns_at_a_key() {
    let totals = Totals::hot().await;
    let wire = Wire::calm();
    let process = totals.process(&wire);
    process.done(&totals.events("a", 0..1)).await;
    process.done(&totals.events("a", 1..2)).await;
    let before = wire.count("TransactWriteItems");
    let batches: Vec<Vec<_>> = (1..=8)
        .map(|n| totals.events("a", n * 10..n * 10 + 5))
        .collect();
    let sends = batches.iter().map(|batch| process.done(batch));
    let applied: usize = futures::future::join_all(sends).await.into_iter().sum();
    assert_eq!(applied, 40);
    assert_eq!(
        wire.count("TransactWriteItems") - before,
        8,
        "none is refused"
    );
}

#[tokio::test]
async fn a_horizon_shorter_than_a_streams_is_only_had_by_name() {
    let markers = |dynamo: &Dynamo| Deduper::new(dynamo.client(), "markers");
    let dynamo = Dynamo::connect().await;
    let refused = markers(&dynamo).horizon(25 * HOUR).unwrap_err();
    assert!(
        refused.to_string().contains("horizon_below_a_streams"),
        "{refused}"
    );
    markers(&dynamo).horizon(26 * HOUR).unwrap();
    markers(&dynamo).horizon(100 * HOUR).unwrap();
    markers(&dynamo).horizon_below_a_streams(HOUR).unwrap();
    assert!(
        markers(&dynamo)
            .horizon_below_a_streams(Duration::ZERO)
            .is_err()
    );
}

#[tokio::test]
async fn after_the_deadline_nothing_is_sent() {
    let totals = Totals::new().await;
    let wire = Wire::calm();
    let process = totals.process(&wire);
    let deadline = Deadline::within(&totals.clock, Duration::ZERO);
    let name = PipelineName::new("totals").unwrap();
    let events = totals.events("a", 0..2);
    let outcomes =
        ExactlyOnce::<Total>::apply(&process.store, &name, &process.markers, &events, deadline)
            .await;
    assert!(
        matches!(
            &outcomes[0],
            Outcome::Failed(StoreError::DeadlinePassed { .. })
        ),
        "{outcomes:?}"
    );
    assert!(wire.counts().is_empty());
}

#[tokio::test]
async fn long_keys_and_odd_ids_keep_apart() {
    let totals = Totals::hot().await;
    let process = totals.process(&Wire::calm());
    let long = "é".repeat(1000);
    for (number, id) in (0..).zip(["x", "X", "0123", "scan/1:a"]) {
        let mut event = totals.event(number, &[(&long, 1), ("b", 1)]);
        event.id = EventId::new(id).unwrap();
        assert_eq!(process.done(std::slice::from_ref(&event)).await, 1);
        assert_eq!(process.done(&[event]).await, 0);
    }
    assert_eq!(totals.total(&long).await, Some(4));
    let names = totals.marker_rows().await;
    assert!(
        names
            .iter()
            .all(|name| name.starts_with("totals/") && name.len() <= 512),
        "{names:?}"
    );
}

#[tokio::test]
async fn ttl_is_kept_up_to_date_cold_and_hot() {
    for hot in [false, true] {
        let totals = if hot {
            Totals::hot().await
        } else {
            Totals::new().await
        };
        let process = totals.process(&Wire::calm());
        for (number, ttl) in (0..).zip([Some(100), Some(200), None, Some(300)]) {
            let event = Once {
                adds: vec![Add {
                    key: key("a"),
                    value: 1,
                    ttl,
                }],
                ..totals.event(number, &[])
            };
            process.done(&[event]).await;
            let row = row(&totals.dynamo.client(), &totals.state, "a")
                .await
                .unwrap();
            assert_eq!(row.get("ttl").cloned(), ttl.map(n), "hot: {hot}");
        }
    }
}

#[tokio::test]
async fn the_wait_for_a_row_ends_at_the_deadline() {
    let totals = Totals::new().await;
    let wire = wire_on("UpdateItem", |_| Action::Hang);
    let Process { store, markers } = totals.process(&wire);
    let pipeline = PipelineName::new("totals").unwrap();
    let event = |number| [totals.event(number, &[("a", 1)])];
    let (events, more) = (event(1), event(2));
    let apply = |events, deadline| {
        ExactlyOnce::<Total>::apply(&store, &pipeline, &markers, events, deadline)
    };
    let mut holds = Box::pin(apply(&events[..], Deadline::NONE));
    assert!(futures::poll!(holds.as_mut()).is_pending());
    let deadline = Deadline::within(&totals.clock, HOUR);
    let mut waits = Box::pin(apply(&more[..], deadline));
    assert!(futures::poll!(waits.as_mut()).is_pending());
    totals.clock.advance(HOUR / 2);
    assert!(futures::poll!(waits.as_mut()).is_pending());
    totals.clock.advance(HOUR / 2);
    let outcomes = futures::poll!(waits.as_mut());
    assert!(
        matches!(
            &outcomes,
            Poll::Ready(outcomes)
                if matches!(&outcomes[..], [Outcome::Failed(StoreError::DeadlinePassed { .. })])
        ),
        "{outcomes:?}"
    );
}
