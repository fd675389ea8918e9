//! The simulator of Lambda's event source mapping, each behaviour seen with a scripted function.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::{Event, EventRecord};
use aws_lambda_events::streams::{DynamoDbBatchItemFailure, DynamoDbEventResponse};
use futures::future::{LocalBoxFuture, pending};
use murmur_core::AttributeValue;
use murmur_state::Timestamp;
use murmur_testkit::esm::{
    BoxError, Delivery, Environment, Incoming, Mapping, RETENTION, STALL, Simulation, Trouble,
};
use murmur_testkit::time::Time;

const START: Timestamp = Timestamp::from_secs(1_800_000_000);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// Record `n` of item `item`, created `after` the start and seen at once.
fn incoming(n: u64, item: &str, after: Duration) -> Incoming {
    let mut record = EventRecord::default();
    record.event_id = format!("{n:032x}");
    record.change.sequence_number = Some(format!(
        "{}",
        100_000_000_000_000_000_000u128 + u128::from(n)
    ));
    let key = AttributeValue::S(item.into());
    record.change.keys = std::collections::HashMap::from([("id".to_owned(), key)]).into();
    let created = START.plus(after);
    Incoming {
        created,
        seen: created,
        record,
    }
}

/// A shard of `count` records over three items, all there at the start.
fn shard(count: u64) -> Vec<Incoming> {
    let item = |n| format!("item-{}", n % 3);
    (0..count)
        .map(|n| incoming(n, &item(n), Duration::ZERO))
        .collect()
}

fn numbers(event: &Event) -> Vec<u64> {
    event.records.iter().map(number).collect()
}

fn number(record: &EventRecord) -> u64 {
    u64::from_str_radix(&record.event_id, 16).unwrap()
}

fn report(failed: &[&str]) -> DynamoDbEventResponse {
    let mut response = DynamoDbEventResponse::default();
    for name in failed {
        let mut failure = DynamoDbBatchItemFailure::default();
        failure.item_identifier = Some((*name).to_owned());
        response.batch_item_failures.push(failure);
    }
    response
}

fn sequence(n: u64) -> String {
    shard(n + 1)[n as usize]
        .record
        .change
        .sequence_number
        .clone()
        .unwrap()
}

fn simulation(mapping: Mapping, trouble: Trouble) -> Simulation {
    Simulation {
        mapping,
        trouble,
        seed: 7,
        time: Time::paused(START),
    }
}

/// Delivers `shards`, each event answered by `answer`, which is told how many came before.
async fn deliver(
    simulation: &Simulation,
    shards: Vec<Vec<Incoming>>,
    answer: impl Fn(usize, &Event) -> Result<DynamoDbEventResponse, BoxError> + 'static,
) -> (Delivery, Vec<Vec<u64>>) {
    let events: Rc<RefCell<Vec<Vec<u64>>>> = Rc::default();
    let answer = Rc::new(answer);
    let delivery = simulation
        .deliver(shards, || {
            let (events, answer) = (Rc::clone(&events), Rc::clone(&answer));
            move |event: Event| {
                let nth = events.borrow().len();
                events.borrow_mut().push(numbers(&event));
                let answer = answer(nth, &event);
                async move { answer }
            }
        })
        .await;
    let events = events.take();
    (delivery, events)
}

fn fine(_: usize, _: &Event) -> Result<DynamoDbEventResponse, BoxError> {
    Ok(report(&[]))
}

#[tokio::test(start_paused = true)]
async fn a_shard_comes_in_order_and_in_batches_no_larger_than_asked() {
    let mapping = Mapping {
        batch_size: 7,
        ..Mapping::default()
    };
    let simulation = simulation(mapping, Trouble::default());
    let (delivery, events) = deliver(&simulation, vec![shard(50)], fine).await;
    assert!(events.iter().all(|event| (1..=7).contains(&event.len())));
    assert!(events.iter().any(|event| event.len() == 7));
    assert_eq!(events.concat(), (0..50).collect::<Vec<_>>());
    assert_eq!(delivery.met.redelivered, 0);
    assert_eq!(delivery.met.invocations, events.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn records_come_when_they_are_seen_and_not_before() {
    let simulation = simulation(Mapping::default(), Trouble::default());
    let mut late = incoming(1, "b", HOUR);
    late.seen = START.plus(3 * HOUR);
    let records = vec![incoming(0, "a", HOUR), late];
    let time = simulation.time.clone();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let start = || {
        let (time, seen) = (time.clone(), Rc::clone(&seen));
        move |event: Event| {
            seen.borrow_mut().push((numbers(&event), time.elapsed()));
            async { Ok::<_, Infallible>(report(&[])) }
        }
    };
    simulation.deliver(vec![records], start).await;
    assert_eq!(seen.take(), [(vec![0], HOUR), (vec![1], 3 * HOUR)]);
}

#[tokio::test(start_paused = true)]
async fn after_a_report_all_from_the_lowest_number_on_come_again() {
    let simulation = simulation(Mapping::default(), Trouble::default());
    let answer = |nth, event: &Event| {
        let whole = event.records.len() == 9;
        Ok(match (nth, whole) {
            (_, true) => report(&[&sequence(6), &sequence(4), &sequence(8)]),
            _ => report(&[]),
        })
    };
    // The batch is cut at random: seen whole for some seed.
    for seed in 0..20 {
        let simulation = Simulation {
            seed,
            ..simulation.clone()
        };
        let (delivery, events) = deliver(&simulation, vec![shard(9)], answer).await;
        if events[0].len() == 9 {
            assert_eq!(events[1], [4, 5, 6, 7, 8]);
            assert_eq!((delivery.met.partial, delivery.met.redelivered), (1, 5));
            return;
        }
    }
    panic!("no batch was whole");
}

#[tokio::test(start_paused = true)]
async fn an_error_an_empty_and_an_unknown_name_bring_the_whole_batch_again() {
    let simulation = simulation(Mapping::default(), Trouble::default());
    for failing in 0..3 {
        let answer = move |nth, _: &Event| match (nth, failing) {
            (0, 0) => Err("no".into()),
            (0, 1) => Ok(report(&[&sequence(2), ""])),
            (0, _) => Ok(report(&[&sequence(2), &sequence(77)])),
            _ => Ok(report(&[])),
        };
        let (delivery, events) = deliver(&simulation, vec![shard(9)], answer).await;
        assert_eq!(events[0], events[1], "case {failing}");
        assert_eq!(delivery.met.partial, 0);
        assert_eq!(delivery.met.redelivered, events[0].len() as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn without_report_batch_item_failures_the_answer_is_not_read() {
    let mapping = Mapping {
        report_batch_item_failures: false,
        ..Mapping::default()
    };
    let simulation = simulation(mapping, Trouble::default());
    let all = |_, event: &Event| {
        let first = event.records[0].change.sequence_number.clone().unwrap();
        Ok(report(&[&first]))
    };
    let (delivery, events) = deliver(&simulation, vec![shard(9)], all).await;
    assert_eq!(events.concat(), (0..9).collect::<Vec<_>>());
    assert!(delivery.on_failure.is_empty());
}

#[tokio::test(start_paused = true)]
async fn bisecting_finds_the_one_record_that_fails() {
    let mapping = Mapping {
        bisect_batch_on_function_error: true,
        maximum_retry_attempts: Some(2),
        ..Mapping::default()
    };
    let simulation = simulation(mapping, Trouble::default());
    let poison = |_, event: &Event| match numbers(event).contains(&5) {
        true => Err("poison".into()),
        false => Ok(report(&[])),
    };
    let (delivery, events) = deliver(&simulation, vec![shard(9)], poison).await;
    let given_up: Vec<u64> = delivery.on_failure.iter().map(number).collect();
    assert_eq!(given_up, [5]);
    assert!(delivery.met.bisected > 0);
    let alone = events.iter().filter(|event| **event == [5]).count();
    assert_eq!(alone, 3, "the first time and two retries: {events:?}");
}

#[tokio::test(start_paused = true)]
async fn after_the_retries_the_batch_goes_to_the_on_failure_destination() {
    let mapping = Mapping {
        maximum_retry_attempts: Some(3),
        ..Mapping::default()
    };
    let simulation = simulation(mapping, Trouble::default());
    let answer = |_, event: &Event| match numbers(event).contains(&0) {
        true => Err("no".into()),
        false => Ok(report(&[])),
    };
    let (delivery, events) = deliver(&simulation, vec![shard(9)], answer).await;
    let failed: Vec<u64> = delivery.on_failure.iter().map(number).collect();
    assert_eq!(events.iter().filter(|event| **event == failed).count(), 4);
    assert!(failed.contains(&0));
}

#[tokio::test(start_paused = true)]
async fn records_past_the_maximum_age_are_given_up_and_those_past_retention_lost() {
    let never = |_, _: &Event| Err("no".into());
    let mapping = Mapping {
        maximum_record_age: Some(HOUR),
        ..Mapping::default()
    };
    let aged = simulation(mapping, Trouble::default());
    let (delivery, _) = deliver(&aged, vec![shard(9)], never).await;
    assert_eq!((delivery.on_failure.len(), delivery.trimmed.len()), (9, 0));
    assert!(aged.time.elapsed() < HOUR + 2 * MINUTE);

    let forgotten = simulation(Mapping::default(), Trouble::default());
    let (delivery, _) = deliver(&forgotten, vec![shard(9)], never).await;
    assert_eq!((delivery.on_failure.len(), delivery.trimmed.len()), (0, 9));
    assert!(forgotten.time.elapsed() < RETENTION + 2 * MINUTE);
}

/// A function that takes a second, and notes what runs at once.
#[derive(Default)]
struct Slow {
    time: Option<Time>,
    running: RefCell<Vec<Vec<u64>>>,
    most: Cell<usize>,
    overlapped: Cell<usize>,
}

impl Slow {
    async fn handle(self: Rc<Self>, event: Event) -> Result<DynamoDbEventResponse, Infallible> {
        let own = numbers(&event);
        {
            let mut running = self.running.borrow_mut();
            let shared = |other: &Vec<u64>| other.iter().any(|n| own.contains(n));
            if running.iter().any(shared) {
                self.overlapped.set(self.overlapped.get() + 1);
            }
            running.push(own.clone());
            self.most.set(self.most.get().max(running.len()));
        }
        let time = self.time.clone().unwrap();
        time.sleep(Duration::from_secs(1)).await;
        let mut running = self.running.borrow_mut();
        let place = running.iter().position(|other| *other == own).unwrap();
        running.remove(place);
        Ok(report(&[]))
    }
}

#[tokio::test(start_paused = true)]
async fn with_a_parallelization_factor_batches_overlap_and_items_keep_their_order() {
    let mapping = Mapping {
        batch_size: 2,
        parallelization_factor: 4,
        ..Mapping::default()
    };
    let simulation = simulation(mapping, Trouble::default());
    let order: Rc<RefCell<BTreeMap<String, Vec<u64>>>> = Rc::default();
    let slow = Rc::new(Slow {
        time: Some(simulation.time.clone()),
        ..Slow::default()
    });
    let start = || {
        let (slow, order) = (Rc::clone(&slow), Rc::clone(&order));
        move |event: Event| {
            for record in &event.records {
                let item = murmur_core::item_id(&record.change.keys).to_string();
                order
                    .borrow_mut()
                    .entry(item)
                    .or_default()
                    .push(number(record));
            }
            Rc::clone(&slow).handle(event)
        }
    };
    let records = (0..60).map(|n| incoming(n, &format!("item-{}", n % 8), Duration::ZERO));
    simulation.deliver(vec![records.collect()], start).await;
    assert!((2..=4).contains(&slow.most.get()), "{}", slow.most.get());
    assert_eq!(slow.overlapped.get(), 0);
    let order = order.take();
    assert_eq!(order.len(), 8);
    assert!(order.values().all(|numbers| numbers.is_sorted()));
}

#[tokio::test(start_paused = true)]
async fn racing_invocations_share_records_while_both_run() {
    let trouble = Trouble {
        race: 0.5,
        ..Trouble::default()
    };
    let simulation = simulation(Mapping::default(), trouble);
    let slow = Rc::new(Slow {
        time: Some(simulation.time.clone()),
        ..Slow::default()
    });
    let start = || {
        let slow = Rc::clone(&slow);
        move |event: Event| Rc::clone(&slow).handle(event)
    };
    let shards = (0..20).map(|_| shard(10)).collect();
    let delivery = simulation.deliver(shards, start).await;
    assert!(delivery.met.raced > 0);
    assert!(slow.overlapped.get() as u64 >= delivery.met.raced);
}

#[tokio::test(start_paused = true)]
async fn what_succeeded_can_come_again_as_long_as_the_stream_keeps_it() {
    let trouble = Trouble {
        again: 1.0,
        ..Trouble::default()
    };
    let mut longest = Duration::ZERO;
    for seed in 0..20 {
        let simulation = Simulation {
            seed,
            ..simulation(Mapping::default(), trouble)
        };
        let began = simulation.time.elapsed();
        let (delivery, events) = deliver(&simulation, vec![shard(30)], fine).await;
        assert_eq!(delivery.met.again * 2, events.len() as u64);
        assert_eq!(delivery.met.redelivered, 30);
        longest = longest.max(simulation.time.elapsed() - began);
    }
    assert!((STALL..=RETENTION).contains(&longest), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_falls_back_brings_records_again_in_other_batches() {
    let mapping = Mapping {
        batch_size: 5,
        ..Mapping::default()
    };
    let trouble = Trouble {
        regroup: 0.5,
        ..Trouble::default()
    };
    let simulation = simulation(mapping, trouble);
    let (delivery, events) = deliver(&simulation, vec![shard(50)], fine).await;
    assert!(delivery.met.regrouped > 0 && delivery.met.redelivered > 0);
    let distinct: HashSet<u64> = events.concat().into_iter().collect();
    assert_eq!(distinct.len(), 50);
    // Somewhere an event begins among what an earlier event had.
    let among = |n: &u64| events.iter().any(|event| event[1..].contains(n));
    assert!(events.iter().any(|event| among(&event[0])));
}

/// A process that makes three requests per event, a second apart.
struct Process {
    time: Time,
    doom: Rc<Cell<usize>>,
    dead: Rc<tokio::sync::Notify>,
    served: Rc<Cell<u32>>,
    most_served: Rc<Cell<u32>>,
}

impl Environment for Process {
    fn invoke(
        &self,
        _event: Event,
        _timeout: Duration,
    ) -> LocalBoxFuture<'static, Result<DynamoDbEventResponse, BoxError>> {
        let (time, doom, dead) = (
            self.time.clone(),
            Rc::clone(&self.doom),
            Rc::clone(&self.dead),
        );
        self.served.set(self.served.get() + 1);
        self.most_served
            .set(self.most_served.get().max(self.served.get()));
        Box::pin(async move {
            for _ in 0..3 {
                if doom.get() == 1 {
                    dead.notify_one();
                    pending::<()>().await;
                }
                doom.set(doom.get().saturating_sub(1));
                time.sleep(Duration::from_secs(1)).await;
            }
            Ok(report(&[]))
        })
    }

    fn kill_after(&self, requests: usize) {
        self.doom.set(requests);
    }

    fn killed(&self) -> LocalBoxFuture<'static, ()> {
        let dead = Rc::clone(&self.dead);
        Box::pin(async move { dead.notified().await })
    }
}

fn process(time: &Time, most_served: &Rc<Cell<u32>>) -> Process {
    Process {
        time: time.clone(),
        doom: Rc::default(),
        dead: Rc::default(),
        served: Rc::default(),
        most_served: Rc::clone(most_served),
    }
}

#[tokio::test(start_paused = true)]
async fn a_killed_process_never_comes_back_and_its_batch_goes_to_a_new_one() {
    let trouble = Trouble {
        kill: 0.7,
        ..Trouble::default()
    };
    let mapping = Mapping {
        batch_size: 1,
        ..Mapping::default()
    };
    let simulation = simulation(mapping, trouble);
    let time = simulation.time.clone();
    let most_served = Rc::default();
    let delivery = simulation
        .deliver(vec![shard(30)], || process(&time, &most_served))
        .await;
    let met = delivery.met;
    assert!(met.killed > 0);
    // One at a time: whoever did not die is idle and serves again.
    assert_eq!(met.processes, met.killed + 1);
    assert_eq!(met.invocations, 30 + met.killed);
    assert_eq!(met.redelivered, met.killed);
    assert!(most_served.get() > 1);
}

#[tokio::test(start_paused = true)]
async fn an_invocation_past_its_timeout_is_cut_off_and_comes_again() {
    let mapping = Mapping {
        batch_size: 1,
        timeout: Duration::from_secs(2),
        maximum_retry_attempts: Some(1),
        ..Mapping::default()
    };
    let simulation = simulation(mapping, Trouble::default());
    let time = simulation.time.clone();
    let served = Rc::default();
    let delivery = simulation
        .deliver(vec![shard(2)], || process(&time, &served))
        .await;
    assert_eq!(delivery.met.timed_out, 4);
    assert_eq!(delivery.met.processes, 4);
    assert_eq!(delivery.on_failure.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_process_is_cut_off_before_its_timeout_as_far_as_it_knows() {
    let trouble = Trouble {
        cut: 0.5,
        ..Trouble::default()
    };
    let simulation = simulation(Mapping::default(), trouble);
    let time = simulation.time.clone();
    let served = Rc::default();
    let shards = (0..30).map(|_| shard(1)).collect();
    let delivery = simulation.deliver(shards, || process(&time, &served)).await;
    assert!(delivery.met.timed_out > 0);
    assert!(delivery.on_failure.is_empty() && delivery.trimmed.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_brings_the_batch_again() {
    let trouble = Trouble {
        lost_answer: 0.5,
        ..Trouble::default()
    };
    let simulation = simulation(Mapping::default(), trouble);
    let (delivery, events) = deliver(&simulation, vec![shard(30)], fine).await;
    assert!(delivery.met.lost_answers > 0);
    assert_eq!(delivery.met.errors, 0, "the function did not fail");
    let came: HashSet<u64> = events.concat().into_iter().collect();
    assert_eq!(came.len(), 30);
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_delivers_the_same_and_all_of_it_whatever_goes_wrong() {
    let mapping = Mapping {
        batch_size: 4,
        parallelization_factor: 3,
        bisect_batch_on_function_error: true,
        ..Mapping::default()
    };
    let run = async |seed| {
        let simulation = Simulation {
            seed,
            ..simulation(mapping.clone(), Trouble::all(0.2))
        };
        deliver(&simulation, vec![shard(40), shard(0)], fine).await
    };
    for seed in 0..50 {
        let (delivery, events) = run(seed).await;
        let came: HashSet<u64> = events.concat().into_iter().collect();
        assert_eq!(came.len(), 40, "seed {seed}");
        assert!(delivery.on_failure.is_empty() && delivery.trimmed.is_empty());
        let (again, same) = run(seed).await;
        assert_eq!((again.met, same), (delivery.met, events), "seed {seed}");
    }
}

#[tokio::test]
async fn on_stepped_time_days_pass_between_records_and_all_come() {
    let time = Time::stepped(START);
    let simulation = Simulation {
        mapping: Mapping::default(),
        trouble: Trouble::all(0.2),
        seed: 3,
        time: time.clone(),
    };
    let records = (0..20)
        .map(|n| incoming(n, "a", HOUR * 5 * n as u32))
        .collect();
    let (delivery, events) = deliver(&simulation, vec![records], fine).await;
    let came: HashSet<u64> = events.concat().into_iter().collect();
    assert_eq!(came.len(), 20);
    assert!(delivery.trimmed.is_empty());
    assert!(time.elapsed() >= 95 * HOUR);
}
