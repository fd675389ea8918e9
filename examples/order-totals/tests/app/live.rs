//! `run`, killed by SIGKILL again and again while the table is written, and started anew.
#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::StreamViewType;
use murmur_state::time::Random;
use murmur_testkit::gate::{Gate, Hold};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::{App, image, rows, section};

/// Longer than anything here takes.
const TIMEOUT: Duration = Duration::from_secs(60);
pub(crate) const CUSTOMERS: [&str; 6] = ["alice", "bob", "carol", "dave", "erin", "frank"];

/// How many orders there are before the table has a stream.
const BEFORE: u64 = 300;

/// An order: who made it, for how much.
pub(crate) type Content = (&'static str, i64);

/// Of each customer: cents, and orders.
pub(crate) type Sums = BTreeMap<&'static str, (i64, i64)>;

/// A `run` whose standard error is read along.
pub(crate) struct Running {
    process: Child,
    told: watch::Receiver<String>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut process = command.spawn().unwrap();
        let mut stderr = process.stderr.take().unwrap();
        let (text, told) = watch::channel(String::new());
        tokio::spawn(async move {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = stderr.read(&mut bytes).await {
                let more = String::from_utf8_lossy(&bytes[..read]);
                text.send_modify(|text| text.push_str(&more));
            }
        });
        Self { process, told }
    }

    /// Waits until it has said this.
    pub(crate) async fn says(&mut self, what: &str) {
        let said = self.told.wait_for(|text| text.contains(what));
        let said = tokio::time::timeout(TIMEOUT, said).await;
        let said = said.is_ok_and(|said| said.is_ok());
        assert!(said, "no `{what}`: {}", *self.told.borrow());
    }

    pub(crate) fn said(&self, what: &str) -> bool {
        self.told.borrow().contains(what)
    }

    /// Sends it a signal, and waits for its end: its exit status, and all it said.
    pub(crate) async fn end(self, signal: &str) -> (Option<i32>, String) {
        let id = self.process.id().expect("it runs").to_string();
        let mut kill = Command::new("kill");
        let sent = kill.args(["-s", signal, &id]).status().await;
        assert!(sent.unwrap().success());
        self.ended().await
    }

    pub(crate) async fn ended(mut self) -> (Option<i32>, String) {
        let status = tokio::time::timeout(TIMEOUT, self.process.wait()).await;
        // The text is whole once its writer is gone.
        let _ = self.told.wait_for(|_| false).await;
        let text = self.told.borrow().clone();
        let status = status.unwrap_or_else(|_| panic!("it does not end: {text}"));
        (status.unwrap().code(), text)
    }
}

pub(crate) fn run(app: &App) -> Command {
    let mut command = app.command(env!("CARGO_BIN_EXE_run"));
    command.args(["--table", &app.orders]);
    command
}

/// Metrics as `run` logs them: the sum of what was counted under this name.
fn counted(text: &str, name: &str) -> u64 {
    let of = format!("name=\"{name}\" by=");
    let counts = text.split(&of).skip(1);
    let number = |rest: &str| rest.split_whitespace().next().unwrap().parse::<u64>();
    counts.map(|rest| number(rest).unwrap()).sum()
}

/// What was done to the table.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) inserts: u32,
    pub(crate) amounts: u32,
    pub(crate) moves: u32,
    pub(crate) deletes: u32,
}

/// Somebody who changes orders at random until told to stop.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    work: JoinHandle<Changes>,
}

impl Writer {
    pub(crate) fn start(app: &Arc<App>, seed: u64, mut orders: BTreeMap<String, Content>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (app, stopped) = (Arc::clone(app), Arc::clone(&stop));
        let work = tokio::spawn(async move {
            let random = Random::seeded(seed);
            let mut changes = Changes::default();
            while !stopped.load(Ordering::Relaxed) {
                let id = format!("o-{}", below(&random, 2 * BEFORE));
                let (customer, cents) = content(&random);
                let new = match orders.get(&id) {
                    None => {
                        changes.inserts += 1;
                        Some((customer, cents))
                    }
                    Some(_) if below(&random, 3) == 0 => {
                        changes.deletes += 1;
                        None
                    }
                    Some((same, before)) if *same == customer || below(&random, 2) == 0 => {
                        changes.amounts += 1;
                        Some((*same, before + cents))
                    }
                    Some((_, cents)) => {
                        changes.moves += 1;
                        Some((customer, *cents))
                    }
                };
                match new {
                    Some(order) => {
                        app.put_order(&id, order).await;
                        orders.insert(id, order);
                    }
                    None => {
                        app.delete_order(&id).await;
                        orders.remove(&id);
                    }
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            changes
        });
        Self { stop, work }
    }

    pub(crate) async fn stop(self) -> Changes {
        self.stop.store(true, Ordering::Relaxed);
        self.work.await.unwrap()
    }
}

pub(crate) fn below(random: &Random, bound: u64) -> u64 {
    (random.bits() % u128::from(bound)) as u64
}

/// One order in two is alice's.
fn content(random: &Random) -> Content {
    let customer = CUSTOMERS[below(random, 10).saturating_sub(4) as usize];
    (customer, 1 + below(random, 1000) as i64)
}

/// A deployment whose table got its orders before it got its stream.
pub(crate) async fn app_with_orders(
    seed: u64,
    count: u64,
) -> (Arc<App>, BTreeMap<String, Content>) {
    let app = App::without_stream().await;
    let random = Random::seeded(seed);
    let mut orders = BTreeMap::new();
    for n in 0..count {
        let (id, order) = (format!("o-{n}"), content(&random));
        app.put_order(&id, order).await;
        orders.insert(id, order);
    }
    let images = StreamViewType::NewAndOldImages;
    app.switch_stream(Some(images)).await.expect("a stream");
    (Arc::new(app), orders)
}

impl App {
    /// What a count of the whole table gives.
    pub(crate) async fn recount(&self) -> Sums {
        let mut sums: Sums = CUSTOMERS.map(|customer| (customer, (0, 0))).into();
        let scan = self.client.scan().table_name(&self.orders);
        let mut items = scan.consistent_read(true).into_paginator().items().send();
        while let Some(item) = items.next().await {
            let item = item.unwrap();
            let customer = item["customer"].as_s().unwrap();
            let (cents, orders) = sums.get_mut(customer.as_str()).expect("a customer");
            *cents += item["amount_cents"].as_n().unwrap().parse::<i64>().unwrap();
            *orders += 1;
        }
        sums
    }

    /// What the state tables say.
    pub(crate) async fn sums(&self) -> Sums {
        let mut sums = Sums::new();
        for customer in CUSTOMERS {
            let (cents, orders) = self.state(customer).await;
            sums.insert(customer, (cents.unwrap_or(0), orders.unwrap_or(0)));
        }
        sums
    }

    /// Waits until a `run` has made the state say what the table does, which nobody changes any
    /// more.
    pub(crate) async fn catches_up(&self, run: &Running) -> Duration {
        let (begun, wanted) = (Instant::now(), self.recount().await);
        loop {
            let found = self.sums().await;
            if found == wanted {
                return begun.elapsed();
            }
            assert!(
                begun.elapsed() < TIMEOUT,
                "{found:?} instead of {wanted:?}: {}",
                *run.told.borrow()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Where a process is killed.
type At = Option<(&'static str, Hold)>;

/// Every kind of request on both sides, and some random moments, in random order.
fn plan(random: &Random) -> Vec<At> {
    let mut rest: Vec<At> = vec![None; 4];
    for operation in ["BatchGetItem", "UpdateItem", "PutItem", "GetRecords"] {
        rest.extend([Hold::Before, Hold::After].map(|side| Some((operation, side))));
    }
    let mut plan = Vec::new();
    while !rest.is_empty() {
        plan.push(rest.swap_remove(below(random, rest.len() as u64) as usize));
    }
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn run_killed_anywhere_while_live_counts_every_order_once() {
    let (seed, begun) = (1, Instant::now());
    let random = Random::seeded(seed);
    let (app, orders) = app_with_orders(seed, BEFORE).await;
    let gate = Gate::to(&app.dynamo).await;
    let start = || {
        let mut command = run(&app);
        // Small batches, so that there are many requests to be killed at; a name, so that none
        // waits for the lease of the one before.
        command
            .args(["--batch-size", "40", "--parallelization-factor", "2"])
            .args(["--worker", "run"])
            .envs(gate.env())
            .env("RUST_LOG", "warn,murmur::metrics=debug");
        Running::start(&mut command)
    };

    let writer = Writer::start(&app, seed, orders);
    let mut running = start();
    running.says("live: reading ").await;
    let plan = plan(&random);
    let mut kills: BTreeMap<String, u32> = BTreeMap::new();
    let (mut texts, mut downs) = (String::new(), Duration::ZERO);
    for at in &plan {
        let at = match *at {
            Some((operation, side)) => {
                let held = gate.hold(Some(operation), below(&random, 6), side);
                let held = tokio::time::timeout(TIMEOUT, held).await;
                held.unwrap_or_else(|_| panic!("no {operation}: {:?}", gate.counts()));
                format!("{side:?} {operation}")
            }
            None => {
                let moment = 100 + below(&random, 900);
                tokio::time::sleep(Duration::from_millis(moment)).await;
                "at a random moment".to_owned()
            }
        };
        *kills.entry(at).or_default() += 1;
        let (status, text) = running.end("KILL").await;
        assert_eq!(status, None, "{text}");
        texts += &text;
        // The writer goes on meanwhile.
        let down = Duration::from_millis(below(&random, 500));
        tokio::time::sleep(down).await;
        downs += down;
        running = start();
        running.says("the bootstrap was finished before").await;
        running.says("live: reading ").await;
    }
    let changes = writer.stop().await;
    let caught_up = app.catches_up(&running).await;
    let (status, text) = running.end("INT").await;
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("\nlive ended: "), "{text}");
    texts += &text;
    gate.settled().await;
    assert_eq!(app.sums().await, app.recount().await);

    // What is done is behind its position: a run that follows finds nothing to do.
    let reads = || gate.counts()["GetRecords"];
    let (before, mut idle) = (reads(), start());
    idle.says("live: reading ").await;
    while reads() < before + 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (status, text) = idle.end("TERM").await;
    assert_eq!(status, Some(0), "{text}");
    assert!(
        text.contains("\nlive ended: changes done 0, failures 0"),
        "{text}"
    );

    let Changes {
        inserts,
        amounts,
        moves,
        deletes,
    } = changes;
    let redelivered =
        counted(&texts, "order_totals:dedup_skip") + counted(&texts, "order_totals:superseded");
    println!(
        "{} kills and restarts: {kills:?}; {inserts} inserts, {amounts} amounts, {moves} moves, {deletes} \
         deletes; {redelivered} changes redelivered; down for {downs:?}, caught up in \
         {caught_up:?}; {:?} in all; requests {:?}",
        plan.len(),
        begun.elapsed(),
        gate.counts(),
    );
    assert!(plan.len() >= 10 && kills.len() == 9, "{kills:?}");
    for kind in [inserts, amounts, moves, deletes] {
        assert!(
            kind > 10,
            "{changes:?}",
            changes = (inserts, amounts, moves, deletes)
        );
    }
    assert!(redelivered > 0);
    assert_eq!(counted(&texts, "order_totals:dead_letter"), 0);

    // A transaction needs what its actions need.
    let mut granted: BTreeSet<String> = rows(section("permissions"))
        .iter()
        .filter(|row| row[0] == "RunPolicy")
        .flat_map(|row| row[2].split_whitespace())
        .map(|action| action.replace("dynamodb:", ""))
        .collect();
    granted.insert("TransactWriteItems".to_owned());
    assert_eq!(gate.counts().into_keys().collect::<BTreeSet<_>>(), granted);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_worker_takes_over_from_one_that_was_killed() {
    let seed = 2;
    let (app, orders) = app_with_orders(seed, 60).await;
    let start = |worker: &str| {
        let mut command = run(&app);
        command
            .args(["--worker", worker, "--lease-seconds", "3"])
            .env("RUST_LOG", "warn,murmur::metrics=debug");
        Running::start(&mut command)
    };
    let done = "name=\"orders_live:records\"";

    let mut first = start("first");
    first.says("live: reading ").await;
    let writer = Writer::start(&app, seed, orders);
    first.says(done).await;
    let mut second = start("second");
    second.says("live: reading ").await;
    // Longer than the lease, which the first renews.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!second.said(done), "the stream has one shard");
    let (_, before) = first.end("KILL").await;
    let killed = Instant::now();
    second.says(done).await;
    let taken_over = killed.elapsed();
    let changes = writer.stop().await;
    app.catches_up(&second).await;
    let (status, after) = second.end("INT").await;
    assert_eq!(status, Some(0), "{after}");
    assert_eq!(app.sums().await, app.recount().await);
    let records = |text| counted(text, "orders_live:records");
    println!(
        "{changes:?}; {} changes were done before the kill and {} after it; taken over in \
         {taken_over:?}",
        records(&before),
        records(&after)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_is_never_answered_is_made_again() {
    let (app, _) = app_with_orders(4, 10).await;
    let gate = Gate::to(&app.dynamo).await;
    let mut running = Running::start(run(&app).envs(gate.env()));
    running.says("live: reading ").await;
    let held = gate.hold(Some("GetRecords"), 1, Hold::Before);
    tokio::time::timeout(TIMEOUT, held).await.unwrap();
    app.put_order("o-live", ("alice", 5)).await;
    app.catches_up(&running).await;
    let (status, text) = running.end("INT").await;
    assert_eq!(status, Some(0), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_count_stops_it_or_is_named_and_passed_over() {
    let (app, _) = app_with_orders(3, 10).await;
    let start = |arguments: &[&str]| {
        let mut command = run(&app);
        command.args(["--maximum-retry-attempts", "2"]);
        Running::start(command.args(arguments))
    };
    let mut running = start(&[]);
    running.says("live: reading ").await;
    let mut bad = image("o-bad", ("alice", 0));
    bad["amount_cents"] = serde_json::json!({ "S": "a lot" });
    app.put_order("o-before", ("alice", 10_000)).await;
    app.put(serde_json::from_value(bad).unwrap()).await;
    app.put_order("o-after", ("bob", 10_000)).await;

    let (status, text) = running.ended().await;
    assert_eq!(status, Some(1), "{text}");
    let error = text.lines().find(|line| line.starts_with("error: "));
    let error = error.unwrap_or_else(|| panic!("{text}"));
    for part in [
        "shard `",
        "sequence number ",
        "2 retries",
        "--on-rejected skip",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    assert!(
        text.contains("cannot be decoded"),
        "the reason is there: {text}"
    );

    // Again it begins with that change, and is told to go on. Mended, the order counts.
    let mut running = start(&["--on-rejected", "skip"]);
    running.says("rejected: sequence number ").await;
    app.put_order("o-bad", ("alice", 7)).await;
    app.catches_up(&running).await;
    let (status, text) = running.end("INT").await;
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("o-bad"), "{text}");
    let ended = "\nlive ended: changes done 3, failures 0, retries 0, rejected 1\n";
    assert!(text.contains(ended), "{text}");
}
