//! Exactly once: what is sent, what is recognised, how ids go to pages, who is to blame.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use murmur_state::conformance::bound;
use murmur_state::{
    Add, Clock, Deadline, EventId, ExactlyOnce, Fault, ItemId, Ledger, ManualClock, Once, Outcome,
    Position, ReadExt, Replace, SequenceNumber, Store, StoreError, Timestamp,
};
use murmur_state_ddb::{BytesStore, Deduper, Int64SumStore, Marked, Rules, TableOptions};
use murmur_testkit::Dynamo;
use murmur_testkit::wire::{Action, Request, Wire};
use serde_json::Value;

use crate::support::{
    Total, Words, add, key, marker_table, n, now, put_row, row, s, state_table, virtual_time,
    wire_on,
};

const HOUR: Duration = Duration::from_secs(3600);

/// Row budgets: the default, one that holds a few ids, the least.
const BUDGETS: [usize; 3] = [1024, 300, 21];

/// A total per entity on its own tables, over a wire, in virtual time.
struct Totals {
    dynamo: Dynamo,
    clock: ManualClock,
    state: String,
    markers: String,
    row_budget: usize,
    rules: Rules,
}

impl Totals {
    async fn new() -> Self {
        Self::with(1024).await
    }

    async fn with(row_budget: usize) -> Self {
        let dynamo = Dynamo::connect().await;
        Self {
            clock: virtual_time().0,
            state: state_table(&dynamo).await,
            markers: marker_table(&dynamo).await,
            dynamo,
            row_budget,
            rules: Rules::default(),
        }
    }

    fn options(&self) -> TableOptions {
        TableOptions::default()
            .clock(Arc::new(self.clock.clone()))
            .row_budget(self.row_budget)
            .rules(self.rules.clone())
    }

    /// Another process, which knows no row yet.
    fn process(&self, wire: &Wire) -> Process {
        let (client, options) = (wire.client(&self.dynamo), self.options());
        let store = Int64SumStore::with_options(client, &*self.state, options);
        Process {
            store: store.unwrap().markers(&*self.markers),
        }
    }

    async fn total(&self, entity: &str) -> Option<i64> {
        let store = Int64SumStore::new(self.dynamo.client(), &*self.state);
        store.get(&key(entity)).await.unwrap()
    }

    async fn row(&self, entity: &str) -> HashMap<String, AttributeValue> {
        let row = row(&self.dynamo.client(), &self.state, entity).await;
        row.unwrap()
    }

    /// How often the ids of `entity`'s row have moved on.
    async fn per(&self, entity: &str) -> u64 {
        self.row(entity).await["per"]
            .as_n()
            .unwrap()
            .parse()
            .unwrap()
    }

    async fn pages(&self) -> Vec<HashMap<String, AttributeValue>> {
        let client = self.dynamo.client();
        let rows = client.scan().table_name(&self.markers).send().await;
        rows.unwrap().items.unwrap()
    }

    /// Events with these numbers, created now, each adding 1 to `entity`.
    fn events(&self, entity: &str, numbers: std::ops::Range<u64>) -> Vec<Once<i64>> {
        numbers
            .map(|number| self.event(number, &[(entity, 1)]))
            .collect()
    }

    fn event(&self, number: u64, adds: &[(&str, i64)]) -> Once<i64> {
        Once {
            id: EventId::new(format!("{number:032x}")).unwrap(),
            created: Some(self.clock.now()),
            handed_over: self.clock.now(),
            adds: adds
                .iter()
                .map(|(entity, value)| add(entity, *value))
                .collect(),
        }
    }
}

/// Whether a request writes to a state row.
fn writes_values(request: &Request) -> bool {
    request.operation == "UpdateItem"
        && request.body["ExpressionAttributeValues"][":new"] != Value::Null
}

struct Process {
    store: Marked<Int64SumStore>,
}

impl Process {
    async fn send(&self, events: &[Once<i64>]) -> Vec<Outcome> {
        apply(&self.store, events).await
    }

    /// Sends events that must all be applied or duplicates. Returns how many were applied.
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

async fn apply(store: &Marked<Int64SumStore>, events: &[Once<i64>]) -> Vec<Outcome> {
    ExactlyOnce::<Total>::apply(store, &bound("totals"), events, Deadline::NONE).await
}

#[tokio::test]
async fn a_known_row_and_batch_is_one_plain_update_for_up_to_70_events() {
    let totals = Totals::new().await;
    let wire = Wire::calm();
    let process = totals.process(&wire);
    let both = |numbers: std::ops::Range<u64>| {
        let of = |number| totals.event(number, &[("a", 1), ("b", 1)]);
        numbers.map(of).collect::<Vec<_>>()
    };
    assert_eq!(process.done(&both(0..5)).await, 5);
    let counts = |wire: &Wire| wire.counts().into_iter().collect::<Vec<_>>();
    let of = |operation: &str, count| (operation.to_owned(), count);
    assert_eq!(
        counts(&wire),
        [of("BatchGetItem", 1), of("UpdateItem", 2)],
        "rows that are not known are read together"
    );
    assert_eq!(process.done(&both(5..15)).await, 10);
    assert_eq!(counts(&wire), [of("BatchGetItem", 1), of("UpdateItem", 4)]);
    assert_eq!(process.done(&totals.events("a", 20..161)).await, 141);
    assert_eq!(totals.total("a").await, Some(156));
    let largest = wire.requests();
    let largest = largest.iter().map(|request| {
        let new = &request.body["ExpressionAttributeValues"][":new"]["BS"];
        new.as_array().map_or(0, Vec::len)
    });
    assert_eq!(largest.max(), Some(70));
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
    let before = writes(&wire);
    assert_eq!(other.done(&totals.events("a", 50..120)).await, 20);
    assert_eq!(writes(&wire) - before, 1, "the row was read first");
    assert_eq!(totals.total("a").await, Some(120));
}

#[tokio::test]
async fn what_moves_out_of_a_row_is_in_pages_and_is_recognised() {
    for row_budget in BUDGETS {
        let totals = Totals::with(row_budget).await;
        let wire = Wire::calm();
        let process = totals.process(&wire);
        let mut all = Vec::new();
        for number in 0..150 {
            totals.clock.advance(Duration::from_millis(700));
            let event = totals.events("a", number..number + 1);
            assert_eq!(process.done(&event).await, 1);
            let row = totals.row("a").await;
            assert!(size(&row) <= row_budget.max(200), "{}: {row:?}", size(&row));
            all.extend(event);
        }
        let pages = totals.pages().await;
        let paged: usize = pages
            .iter()
            .map(|page| page["ids"].as_bs().unwrap().len())
            .sum();
        assert!(
            totals.per("a").await >= 3 && paged > 80,
            "{row_budget}: {paged}"
        );
        for page in &pages {
            assert!(page["pk"].as_s().unwrap().starts_with("totals/page/"));
            let ttl: i64 = page["ttl"].as_n().unwrap().parse().unwrap();
            let lives = ttl - totals.clock.now().as_secs();
            assert!(lives >= 47 * 3600, "{lives} s");
        }
        for process in [process, totals.process(&wire)] {
            assert_eq!(process.done(&all).await, 0);
        }
        assert_eq!(totals.total("a").await, Some(150));
        assert!(!wire.counts().contains_key("TransactWriteItems"));
    }
}

/// How many writes to state rows were sent.
fn writes(wire: &Wire) -> usize {
    wire.requests()
        .iter()
        .filter(|request| writes_values(request))
        .count()
}

/// Bytes of an item.
fn size(row: &HashMap<String, AttributeValue>) -> usize {
    let of = |(name, value): (&String, &AttributeValue)| {
        let value = match value {
            AttributeValue::S(text) => text.len(),
            AttributeValue::N(digits) => digits.len() / 2 + 2,
            AttributeValue::Bs(set) => set.iter().map(|bytes| bytes.as_ref().len()).sum(),
            AttributeValue::M(levels) => 3 + 8 * levels.len(),
            _ => 0,
        };
        name.len() + value
    };
    row.iter().map(of).sum()
}

#[tokio::test]
async fn only_an_event_that_may_be_in_a_page_is_looked_up() {
    let totals = Totals::with(21).await;
    let wire = Wire::calm();
    let process = totals.process(&wire);
    let mut events = Vec::new();
    for number in 0..6 {
        totals.clock.advance(Duration::from_secs(10));
        let event = totals.events("a", number..number + 1);
        process.done(&event).await;
        events.extend(event);
    }
    let looks = |wire: &Wire| wire.count("BatchGetItem");
    assert_eq!(looks(&wire), 1, "newer ones are in no page");
    assert_eq!(process.done(&events[..1]).await, 0);
    assert_eq!(looks(&wire), 2);
    // As old as the ids that were paged out, and never seen.
    let mut late = totals.event(50, &[("a", 1)]);
    late.created = events[0].created;
    assert_eq!(process.done(std::slice::from_ref(&late)).await, 1);
    assert_eq!(looks(&wire), 3);
    let read = wire.requests();
    let of_pages = |request: &&Request| request.body.to_string().contains("/page/");
    for read in read.iter().filter(of_pages) {
        let tables = read.body["RequestItems"].as_object();
        let consistent = tables.map(|tables| {
            let mut tables = tables.values();
            tables.all(|table| table["ConsistentRead"] == true)
        });
        assert!(read.operation == "UpdateItem" || consistent == Some(true));
    }
    assert_eq!(totals.total("a").await, Some(7));
}

#[tokio::test]
async fn who_was_refused_by_a_row_that_moved_on_often_reads_it_first() {
    let totals = Totals::with(21).await;
    let (wire, calm) = (Wire::calm(), Wire::calm());
    let (process, other) = (totals.process(&wire), totals.process(&calm));
    let mut number = 0;
    let mut next = || {
        number += 1;
        totals.clock.advance(Duration::from_secs(1));
        totals.events("a", number..number + 1)
    };
    process.done(&next()).await;
    let mut sent = Vec::new();
    for others in [3, 3, 3, 0, 0, 0] {
        for _ in 0..others {
            other.done(&next()).await;
        }
        let before = (wire.count("BatchGetItem"), writes(&wire));
        process.done(&next()).await;
        let after = (wire.count("BatchGetItem"), writes(&wire));
        sent.push((after.0 - before.0, after.1 - before.1));
    }
    // Writes are refused once; then the row is read first, but only while others write it.
    assert_eq!(sent, [(0, 2), (1, 1), (1, 1), (1, 1), (0, 1), (0, 1)]);
}

#[tokio::test]
async fn events_without_a_creation_time_have_pages_of_their_own() {
    let totals = Totals::with(21).await;
    let wire = Wire::calm();
    let process = totals.process(&wire);
    let mut events = totals.events("a", 0..5);
    events[0].created = None;
    events[1].created = Some(Timestamp::from_millis(500));
    events[2].created = None;
    for event in &events {
        assert_eq!(process.done(std::slice::from_ref(event)).await, 1);
    }
    let pages = totals.pages().await;
    let names: Vec<_> = pages
        .iter()
        .map(|page| page["pk"].as_s().unwrap())
        .collect();
    let undated = names.iter().filter(|name| name.contains("undated")).count();
    assert_eq!((undated, names.len()), (3, 3), "{names:?}");
    for process in [process, totals.process(&wire)] {
        assert_eq!(process.done(&events).await, 0);
    }
    // Its source still has it, and hands it over again.
    let mut held = totals.event(9, &[("a", 1)]);
    held.created = None;
    totals.clock.advance(HOUR + Duration::from_secs(1));
    let outcomes = totals
        .process(&wire)
        .send(std::slice::from_ref(&held))
        .await;
    assert!(
        matches!(
            &outcomes[..],
            [Outcome::Failed(StoreError::HeldTooLong { .. })]
        ),
        "{outcomes:?}"
    );
    held.handed_over = totals.clock.now();
    assert_eq!(totals.process(&wire).done(&[held]).await, 1);
    assert_eq!(totals.total("a").await, Some(6));
}

#[tokio::test]
async fn nothing_is_added_to_a_row_in_the_two_hours_before_it_may_be_removed() {
    let totals = Totals::new().await;
    let process = totals.process(&Wire::calm());
    let now = totals.clock.now();
    let event = |number, left: Duration| Once {
        adds: vec![Add {
            key: key("a"),
            value: 1,
            ttl: Some(now.plus(left).as_secs()),
        }],
        ..totals.event(number, &[])
    };
    let outcomes = process
        .send(&[event(1, 2 * HOUR), event(2, 3 * HOUR)])
        .await;
    assert!(
        matches!(
            &outcomes[..],
            [
                Outcome::Failed(StoreError::RowEnds { .. }),
                Outcome::Applied
            ]
        ),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn an_update_whose_answer_was_lost_is_sent_once_and_recognised() {
    for row_budget in BUDGETS {
        let totals = Totals::with(row_budget).await;
        let calm = Wire::calm();
        totals
            .process(&calm)
            .done(&totals.events("a", 900..902))
            .await;
        let lossy = Wire::new(|request| match writes_values(request) {
            true => Action::lose_answer(),
            false => Action::Pass,
        });
        let events = totals.events("a", 4..9);
        let outcomes = totals.process(&lossy).send(&events).await;
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
        assert_eq!(totals.total("a").await, Some(7), "{row_budget}");
        assert_eq!(totals.process(&calm).done(&events).await, 0);
        assert_eq!(totals.total("a").await, Some(7));
    }
}

#[tokio::test]
async fn nothing_is_sent_twice_by_the_sdk() {
    let totals = Totals::with(21).await;
    let fails = || {
        wire_on("UpdateItem", |_| {
            Action::error(500, "InternalServerError", "")
        })
    };
    let wire = fails();
    totals.process(&wire).send(&totals.events("a", 0..1)).await;
    assert_eq!(wire.count("UpdateItem"), 1);
    let process = totals.process(&Wire::calm());
    for number in 0..3 {
        process.done(&totals.events("a", number..number + 1)).await;
    }
    // The page of the one id that the row drops.
    let wire = fails();
    totals.process(&wire).send(&totals.events("a", 3..4)).await;
    assert_eq!(wire.count("UpdateItem"), 1);
    assert_eq!(totals.total("a").await, Some(3));
}

#[tokio::test]
async fn a_page_that_fails_keeps_the_ids_in_the_row_and_those_that_are_done_stay_so() {
    let totals = Totals::with(21).await;
    let mut events = totals.events("a", 0..30);
    for event in &mut events {
        event.created = None;
    }
    let process = totals.process(&Wire::calm());
    for ten in events.chunks(10) {
        process.done(ten).await;
    }
    let before = totals.row("a").await;
    // Ten pages, of which other ones fail each time.
    let wire =
        Wire::new(
            |request| match request.operation == "UpdateItem" && !writes_values(request) {
                true if request.nth.is_multiple_of(3) => {
                    Action::error(500, "InternalServerError", "")
                }
                _ => Action::Pass,
            },
        );
    let process = totals.process(&wire);
    let next = totals.events("a", 40..41);
    for round in 0.. {
        assert!(round < 5, "what was acknowledged is written again");
        match &process.send(&next).await[..] {
            [Outcome::Applied] => break,
            [Outcome::Failed(StoreError::Unavailable { .. })] => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(totals.row("a").await, before, "nothing is forgotten before");
    }
    assert_eq!(totals.process(&Wire::calm()).done(&events).await, 0);
    assert_eq!(totals.total("a").await, Some(31));
}

#[tokio::test]
async fn what_a_full_page_does_not_take_goes_to_finer_ones() {
    let totals = Totals::with(300).await;
    let full = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&full);
    let wire = Wire::new(move |request| {
        let ids = &request.body["ExpressionAttributeValues"][":ids"]["BS"];
        // A page of more than one id is too large here.
        match ids.as_array().map_or(0, Vec::len) > 1 {
            true => {
                seen.fetch_add(1, Ordering::Relaxed);
                let message = "Item size to update has exceeded the maximum allowed size";
                Action::error(400, "ValidationException", message)
            }
            false => Action::Pass,
        }
    });
    let process = totals.process(&wire);
    let mut all = Vec::new();
    for number in 0..40 {
        let event = totals.events("a", number..number + 1);
        assert_eq!(process.done(&event).await, 1);
        all.extend(event);
    }
    assert!(full.load(Ordering::Relaxed) > 0 && totals.per("a").await > 2);
    assert_eq!(totals.process(&Wire::calm()).done(&all).await, 0);
    assert_eq!(totals.total("a").await, Some(40));
}

#[tokio::test]
async fn a_page_that_holds_anything_else_is_refused_and_nothing_counted() {
    let totals = Totals::with(21).await;
    let process = totals.process(&Wire::calm());
    let events = totals.events("a", 0..3);
    for event in &events {
        process.done(std::slice::from_ref(event)).await;
    }
    let [page] = &totals.pages().await[..] else {
        panic!("one page")
    };
    let client = totals.dynamo.client();
    let put = client.put_item().table_name(&totals.markers);
    let put = put
        .item("pk", page["pk"].clone())
        .item("ids", s("nonsense"));
    put.send().await.unwrap();
    let outcomes = totals.process(&Wire::calm()).send(&events[..1]).await;
    match &outcomes[..] {
        [Outcome::Failed(error @ StoreError::WrongShape { .. })] => {
            assert_eq!(error.fault(), Fault::Setup);
            assert!(error.to_string().contains(&totals.markers), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(totals.total("a").await, Some(3));
}

#[tokio::test]
async fn a_budget_that_holds_no_id_or_more_than_an_item_is_refused() {
    let dynamo = Dynamo::connect().await;
    for (row_budget, fits) in [
        (0, false),
        (20, false),
        (21, true),
        (400 * 1024, true),
        (400 * 1024 + 1, false),
    ] {
        let options = TableOptions::default().row_budget(row_budget);
        let made = Int64SumStore::with_options(dynamo.client(), "t", options);
        match made {
            Ok(_) => assert!(fits, "{row_budget}"),
            Err(error) => assert!(!fits && error.option == "row_budget", "{error}"),
        }
    }
}

#[tokio::test]
async fn processes_of_different_budgets_write_one_row() {
    let totals: Vec<Totals> = {
        let first = Totals::new().await;
        let of = |row_budget| Totals {
            dynamo: first.dynamo.clone(),
            clock: first.clock.clone(),
            state: first.state.clone(),
            markers: first.markers.clone(),
            row_budget,
            rules: first.rules.clone(),
        };
        BUDGETS.map(of).into()
    };
    let processes: Vec<Process> = totals
        .iter()
        .map(|totals| totals.process(&Wire::calm()))
        .collect();
    let events = totals[0].events("a", 0..90);
    for (number, event) in events.iter().enumerate() {
        processes[number % 3]
            .done(std::slice::from_ref(event))
            .await;
    }
    for process in &processes {
        assert_eq!(process.done(&events).await, 0);
    }
    assert_eq!(totals[0].total("a").await, Some(90));
}

#[tokio::test]
async fn a_row_deleted_by_hand_is_learned_of() {
    for taken in [1, 3] {
        let totals = Totals::with(300).await;
        let process = totals.process(&Wire::calm());
        process.done(&totals.events("a", 0..taken)).await;
        let client = totals.dynamo.client();
        let delete = client.delete_item().table_name(&totals.state);
        let delete = delete.key("pk", s("a")).key("sk", n(0));
        delete.send().await.unwrap();
        assert_eq!(process.done(&totals.events("a", 10..13)).await, 3);
        assert_eq!(totals.total("a").await, Some(3));
    }
}

#[tokio::test]
async fn rows_that_cannot_be_read_fail_by_the_reason_and_with_one_request() {
    let totals = Totals::new().await;
    let wire = wire_on("BatchGetItem", |_| {
        Action::error(400, "AccessDeniedException", "not allowed")
    });
    let events: Vec<_> = (0..50)
        .map(|n| totals.event(n, &[(&format!("k{n}"), 1)]))
        .collect();
    for outcome in totals.process(&wire).send(&events).await {
        match outcome {
            Outcome::Failed(error) => assert_eq!(error.fault(), Fault::Setup, "{error}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        wire.counts().into_iter().collect::<Vec<_>>(),
        [("BatchGetItem".to_owned(), 1)]
    );
}

#[tokio::test]
async fn a_conflict_stops_its_lane_and_no_other() {
    let totals = Totals::new().await;
    let wire = Wire::new(|request| {
        match writes_values(request) && request.body["Key"]["pk"]["S"] == "a" {
            true => Action::error(
                400,
                "TransactionConflictException",
                "Transaction is ongoing for the item",
            ),
            false => Action::Pass,
        }
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
    assert_eq!(totals.total("b").await, Some(1));
}

#[tokio::test]
async fn two_batches_of_one_process_take_turns_at_a_key() {
    let totals = Totals::new().await;
    let wire = Wire::calm();
    let process = totals.process(&wire);
    process.done(&totals.events("a", 0..1)).await;
    let before = wire.count("UpdateItem");
    let batches: Vec<Vec<_>> = (1..=4)
        .map(|n| totals.events("a", n * 10..n * 10 + 5))
        .collect();
    let sends = batches.iter().map(|batch| process.done(batch));
    let applied: usize = futures::future::join_all(sends).await.into_iter().sum();
    assert_eq!(applied, 20);
    assert_eq!(wire.count("UpdateItem") - before, 4, "none is refused");
}

#[tokio::test]
async fn rows_of_other_modes_and_layouts_are_refused_and_left_as_they_are() {
    let totals = Totals::new().await;
    let client = totals.dynamo.client();
    let process = totals.process(&Wire::calm());
    let plain = [add("plain", 5)];
    Store::<Total>::merge(&process.store, &plain, Deadline::NONE).await;
    let ids = |bytes: usize| AttributeValue::Bs(vec![Blob::new(vec![1; bytes])]);
    for (entity, attributes) in [
        (
            "cold",
            vec![("v", n(5)), ("per", n(19_000)), ("cur", ids(16))],
        ),
        (
            "hot",
            vec![("v", n(5)), ("per", n(19_000)), ("hot", s("x"))],
        ),
        (
            "text",
            vec![("v", s("five")), ("per", n(3)), ("cur", ids(21))],
        ),
        ("short", vec![("v", n(5)), ("per", n(3)), ("cur", ids(20))]),
        ("none", vec![("v", n(5)), ("per", n(3))]),
        (
            "negative",
            vec![("v", n(5)), ("per", n(-3)), ("cur", ids(21))],
        ),
        ("stray", vec![("v", n(5)), ("led", n(1)), ("prev", ids(21))]),
    ] {
        put_row(&client, &totals.state, entity, &attributes).await;
    }
    for (entity, found) in [
        ("plain", "a mode without ids"),
        ("cold", "an earlier layout"),
        ("hot", "an earlier layout"),
        ("text", "`v`"),
        ("short", "`cur`"),
        ("none", "`cur`"),
        ("negative", "`per`"),
        ("stray", "`cur`"),
    ] {
        let before = totals.row(entity).await;
        match &process.send(&totals.events(entity, 0..2)).await[..] {
            [Outcome::Failed(error), _] => {
                assert_eq!(error.fault(), Fault::Setup);
                let shown = error.to_string();
                assert!(shown.contains(found) && shown.contains(entity), "{shown}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(totals.row(entity).await, before);
    }
}

#[tokio::test]
async fn a_ledgers_transactions_and_these_writes_take_one_row() {
    let totals = Totals::with(150).await;
    let process = totals.process(&Wire::calm());
    let bound = bound("totals");
    let mut wanted = 0;
    for round in 0..30_i64 {
        let number = round.unsigned_abs();
        let item = Replace {
            item: ItemId::from_text(format!("item-{}", round % 4)),
            at: Position::Stream(SequenceNumber::new((1000 + round).to_string()).unwrap()),
            created: Some(totals.clock.now()),
            now: vec![add("a", round), add("b", 1)],
            keep: Vec::new(),
            change: None,
        };
        let items = [item];
        let replaced = Ledger::<Total>::replace(&process.store, &bound, &items, Deadline::NONE);
        let events = totals.events("a", number * 2..number * 2 + 2);
        // The two differ in which one makes the row, and in which one comes first.
        let (replaced, outcomes) = match round % 2 {
            0 => {
                let outcomes = process.send(&events).await;
                (replaced.await, outcomes)
            }
            _ => futures::join!(replaced, process.send(&events)),
        };
        for outcome in replaced.iter().chain(&outcomes) {
            assert!(matches!(outcome, Outcome::Applied), "{outcome:?}");
        }
        assert_eq!(totals.process(&Wire::calm()).done(&events).await, 0);
        wanted += 2;
    }
    let of_items: i64 = (26..30).sum();
    assert_eq!(totals.total("a").await, Some(wanted + of_items));
    assert_eq!(totals.total("b").await, Some(4));
    assert!(totals.per("a").await > 3);
    // A row that only the ledger has written takes events too.
    assert_eq!(process.done(&totals.events("b", 900..903)).await, 3);
    assert_eq!(totals.total("b").await, Some(7));
}

#[tokio::test]
async fn ttl_is_kept_up_to_date() {
    let totals = Totals::with(21).await;
    let process = totals.process(&Wire::calm());
    let later = |hours: u32| Some(totals.clock.now().plus(hours * HOUR).as_secs());
    for (number, ttl) in (0..).zip([later(90), later(100), None, later(80)]) {
        let event = Once {
            adds: vec![Add {
                key: key("a"),
                value: 1,
                ttl,
            }],
            ..totals.event(number, &[])
        };
        process.done(&[event]).await;
        assert_eq!(totals.row("a").await.get("ttl").cloned(), ttl.map(n));
    }
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
async fn an_overflow_is_blamed_on_the_one_event_and_the_total_stays_right() {
    for row_budget in BUDGETS {
        let totals = Totals::with(row_budget).await;
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
        assert_eq!(totals.total("a").await, Some(i64::MAX - 1), "{row_budget}");
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
    // Together with the events already taken, the sum would leave the range; alone it does not.
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
    for (row_budget, poison) in BUDGETS.into_iter().zip([3, 0, 69]) {
        let totals = Totals::with(row_budget).await;
        let process = totals.process(&Wire::calm());
        process.done(&totals.events("a", 900..902)).await;
        let bad = base64(poison, totals.clock.now());
        let wire = Wire::new(move |request| {
            match request.body["UpdateExpression"] != "ADD ids :ids SET #ttl = :ttl"
                && request.body.to_string().contains(&*bad)
            {
                true => Action::error(
                    400,
                    "ValidationException",
                    "Number overflow. Attempting to store a number with magnitude larger than \
                     supported range",
                ),
                false => Action::Pass,
            }
        });
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
        let writes = writes(&wire);
        assert!(writes < 30, "it is bisected: {writes} writes");
    }
}

/// The event of that number as it stands in a request: 21 bytes in base64.
fn base64(number: u64, created: Timestamp) -> String {
    let second = created.as_secs().to_be_bytes();
    let bytes = [&u128::from(number).to_be_bytes()[..], &second[3..]].concat();
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
async fn a_row_at_the_item_limit_stops_its_lane_and_no_other() {
    let dynamo = Dynamo::connect().await;
    let state = state_table(&dynamo).await;
    let store = BytesStore::new(dynamo.client(), &*state, Bag);
    let store = store.markers(marker_table(&dynamo).await);
    let bound = bound("bags");
    let event = |number: u64, entity: &str, bytes: usize| Once {
        id: EventId::new(format!("{number:032x}")).unwrap(),
        created: None,
        handed_over: now(),
        adds: vec![add(entity, vec![b'x'; bytes])],
    };
    let send = async |events: &[Once<Vec<u8>>]| store.apply(&bound, events, Deadline::NONE).await;
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

/// As many letters as were added: bytes that grow, and are not idempotent.
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
    let store = store.markers(marker_table(&dynamo).await);
    let bound = bound("words");
    let event = Once {
        id: EventId::new("1").unwrap(),
        created: None,
        handed_over: now(),
        adds: vec![add("a", ["x".to_owned()].into())],
    };
    store.apply(&bound, &[event], Deadline::NONE).await;
    let row = row(&dynamo.client(), &state, "a").await.unwrap();
    assert!(
        !row.contains_key("cur") && !row.contains_key("per"),
        "{row:?}"
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
    assert!(markers(&dynamo).horizon(Duration::MAX).is_err());
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
    let bound = bound("totals");
    let events = totals.events("a", 0..2);
    let outcomes = ExactlyOnce::<Total>::apply(&process.store, &bound, &events, deadline).await;
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
    let totals = Totals::with(21).await;
    let process = totals.process(&Wire::calm());
    let long = "é".repeat(1000);
    for (number, id) in (0..).zip(["x", "X", "0123", "scan/1:a"]) {
        let mut event = totals.event(number, &[(&long, 1), ("b", 1)]);
        event.id = EventId::new(id).unwrap();
        assert_eq!(process.done(std::slice::from_ref(&event)).await, 1);
        assert_eq!(process.done(&[event]).await, 0);
    }
    assert_eq!(totals.total(&long).await, Some(4));
    let pages = totals.pages().await;
    let names: Vec<_> = pages
        .iter()
        .map(|page| page["pk"].as_s().unwrap())
        .collect();
    assert!(
        names
            .iter()
            .all(|name| name.starts_with("totals/") && name.len() <= 512),
        "{names:?}"
    );
}

#[tokio::test]
async fn the_wait_for_a_row_ends_at_the_deadline() {
    let totals = Totals::new().await;
    let wire = wire_on("UpdateItem", |request| match request.nth {
        0 => Action::Pass,
        _ => Action::Hang,
    });
    let process = totals.process(&wire);
    process.done(&totals.events("a", 0..1)).await;
    let Process { store } = process;
    let bound = bound("totals");
    let event = |number| [totals.event(number, &[("a", 1)])];
    let (events, more) = (event(1), event(2));
    let apply = |events, deadline| ExactlyOnce::<Total>::apply(&store, &bound, events, deadline);
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
