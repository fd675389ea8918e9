//! The function killed by SIGKILL in the middle of batches, again and again, and started anew.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::process::Stdio;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use murmur_core::definition::Stored;
use murmur_core::{BuildError, Count, Pipeline, Processor, Sum};
use murmur_lambda_ddbstreams::{Handler, run};
use murmur_state::time::Random;
use murmur_state::{Deadline, Timestamp};
use murmur_state_ddb::{Deduper, Int64SumStore, Marked, TableOptions};
use murmur_testkit::gate::{Gate, Hold};
use murmur_testkit::lambda::RuntimeApi;
use order_totals::{Order, Tables, WINDOW};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{App, change, image, number, today};

const TIMEOUT: Duration = Duration::from_secs(60);
const ROW_BUDGET: usize = 400;
const CUSTOMERS: [&str; 6] = ["alice", "bob", "carol", "dave", "erin", "frank"];

/// An order: who made it, for how much.
type Content = (&'static str, i64);

/// Of one customer: cents, and orders.
type Sums = (i64, i64);

/// A stream of changes, and the table it leaves.
struct Orders {
    records: Vec<Value>,
    table: BTreeMap<String, Content>,
}

impl Orders {
    /// One customer in two is alice, whose rows take the more events.
    fn new(changes: u32, below: &impl Fn(u64) -> u64) -> Self {
        let mut orders = Self {
            records: Vec::new(),
            table: BTreeMap::new(),
        };
        for n in 1..=changes {
            let id = format!("o-{}", below(60));
            let customer = CUSTOMERS[below(10).saturating_sub(4) as usize];
            let content: Content = (customer, 1 + below(1000) as i64);
            let shown = |order: &Content| image(&id, *order);
            let old = orders.table.get(&id).map(shown);
            let removed = old.is_some() && below(4) == 0;
            let new = (!removed).then(|| shown(&content));
            let mut record = change(n, &id, old, new);
            let created = today() - i64::from((changes - n) / 100);
            record["dynamodb"]["ApproximateCreationDateTime"] = created.into();
            orders.records.push(record);
            match removed {
                true => orders.table.remove(&id),
                false => orders.table.insert(id, content),
            };
        }
        orders
    }

    /// What is counted for `customer` when nothing is lost and nothing counts twice.
    fn recount(&self, customer: &str) -> Sums {
        let of = self.table.values().filter(|(name, _)| *name == customer);
        of.fold((0, 0), |(cents, orders), (_, more)| {
            (cents + more, orders + 1)
        })
    }
}

/// What befell a run, and what came of it.
#[derive(Default)]
struct Report {
    /// By where the request was held at which the process died, and its operation.
    kills: BTreeMap<(Hold, String), u32>,
    /// Invocations that brought records again that had been delivered before.
    redelivered: u32,
    /// How many requests of each operation there were in all.
    requests: BTreeMap<String, usize>,
    /// In the exactly-once mode: how often the ids of rows have moved on, and the pages they went to.
    moves: u64,
    pages: usize,
    /// Rows of orders that have left the ledger, and of those that have not.
    settled: usize,
    unsettled: usize,
    /// What differs from a recount: found, and wanted.
    wrong: Vec<(&'static str, Sums, Sums)>,
}

impl Report {
    fn kills(&self) -> u32 {
        self.kills.values().sum()
    }

    /// That the process died at each of these, before and after the server acted.
    fn shows(&self, operations: &[&str]) {
        for side in [Hold::Before, Hold::After] {
            for operation in operations {
                let at = (side, (*operation).to_owned());
                assert!(self.kills.contains_key(&at), "no kill {at:?}: {self}");
            }
        }
        assert!(self.kills() > 20, "{self}");
        assert!(self.redelivered > 20, "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kills, wrong) = (self.kills(), self.wrong.len());
        let redelivered = self.redelivered;
        write!(f, "{kills} kills, {redelivered} redeliveries, ")?;
        let all = CUSTOMERS.len();
        write!(f, "{wrong} of {all} customers wrong; killed at")?;
        for ((side, operation), times) in &self.kills {
            write!(f, " {side:?} {operation} {times}")?;
        }
        write!(f, "; requests {:?}", self.requests)?;
        let (moves, pages) = (self.moves, self.pages);
        write!(f, "; ids moved on {moves} times, to {pages} pages")?;
        let (settled, unsettled) = (self.settled, self.unsettled);
        write!(f, "; {settled} rows settled, {unsettled} not")?;
        for (customer, found, wanted) in &self.wrong {
            write!(f, "\n  {customer}: {found:?} instead of {wanted:?}")?;
        }
        Ok(())
    }
}

/// What is killed, and where.
struct Plan<'a> {
    seed: u64,
    changes: u32,
    /// The first request of a process whose tables are nobody's yet.
    first: &'a str,
    /// Requests at which it is killed, beside any.
    operations: &'a [&'a str],
    /// After how many changes orders are let settle.
    settles_after: Option<usize>,
}

/// Delivers changes to the process that `command` starts, in batches cut anew each time, and kills it at
/// requests drawn from the seed.
///
/// The seed decides orders, batches and kills; which request of several at a time comes first is
/// up to the process.
async fn kill_and_restart(plan: Plan<'_>, command: impl Fn(&App) -> Command) -> Report {
    let Plan {
        seed,
        changes,
        first,
        operations,
        mut settles_after,
    } = plan;
    let random = Random::seeded(seed);
    let below = |bound: u64| (random.bits() % u128::from(bound)) as u64;
    let orders = Orders::new(changes, &below);
    let (app, api) = (App::start().await, RuntimeApi::start().await);
    let gate = Gate::to(&app.dynamo).await;
    let mut report = Report::default();
    let (mut process, mut done, mut seen) = (None, 0, 0);
    while done < orders.records.len() {
        if settles_after.take_if(|after| done >= *after).is_some() {
            let pipelines = app.tables.pipelines(&app.client).unwrap();
            let says = Processor::new(pipelines).unwrap();
            says.settle(Deadline::NONE).await.unwrap();
        }
        // Some of what is done comes again, too.
        let from = done - (below(3) / 2 * below(20)).min(done as u64) as usize;
        let to = (done + 1 + below(40) as usize).min(orders.records.len());
        let batch = &orders.records[from..to];
        report.redelivered += u32::from(from < seen);
        seen = seen.max(to);
        // Before anything is counted: while the tables are made this application's, or claimed.
        let early = report.kills() < 4;
        let kill = below(4) > 0 || early;
        let side = match early {
            true => [Hold::Before, Hold::After][report.kills() as usize % 2],
            false => [Hold::Before, Hold::After][below(2) as usize],
        };
        // At any request, or one of a kind that could be rare.
        let kind = below(1 + operations.len() as u64) as usize;
        let (operation, nth) = match operations.get(kind) {
            _ if early => (Some(first), 0),
            Some(operation) => (Some(*operation), below(4)),
            None => (None, below(6)),
        };

        let child = process.get_or_insert_with(|| {
            let mut command = command(&app);
            let command = command.envs(gate.env()).envs(api.env());
            let command = command.stdout(Stdio::null()).stderr(Stdio::null());
            command.kill_on_drop(true).spawn().unwrap()
        });
        tokio::select! {
            biased;
            operation = gate.hold(operation, nth, side), if kill => {
                child.kill().await.unwrap();
                process = None;
                *report.kills.entry((side, operation)).or_default() += 1;
            }
            answer = api.invoke(json!({ "Records": batch }), TIMEOUT) => {
                done = first_failed(&answer.unwrap()).map_or(to, |failed| failed - 1);
            }
        }
    }
    // Once more, as a whole, by a process that lives.
    let mut living = process.expect("the last invocation was answered");
    let all = json!({ "Records": orders.records });
    let answer = api.invoke(all, TIMEOUT).await.unwrap();
    assert_eq!(first_failed(&answer), None, "seed {seed}");
    living.kill().await.unwrap();
    gate.settled().await;
    report.requests = gate.counts();
    for table in [&app.tables.totals, &app.tables.counts] {
        let per = |row: &Row| row.get("per")?.as_n().ok()?.parse::<u64>().ok();
        report.moves += rows(&app, table).await.iter().filter_map(per).sum::<u64>();
    }
    let markers = rows(&app, &app.tables.markers).await;
    report.pages = markers.iter().filter(|row| row.contains_key("ids")).count();
    let of_orders = || markers.iter().filter(|row| row.contains_key("item"));
    let is_settled = |row: &&Row| matches!(row.get("at"), Some(AttributeValue::S(at)) if at.starts_with("settled"));
    report.settled = of_orders().filter(is_settled).count();
    report.unsettled = of_orders().count() - report.settled;
    for customer in CUSTOMERS {
        let (cents, count) = app.state(customer).await;
        let found = (cents.unwrap_or(0), count.unwrap_or(0));
        let wanted = orders.recount(customer);
        if found != wanted {
            report.wrong.push((customer, found, wanted));
        }
    }
    report
}

type Row = HashMap<String, AttributeValue>;

async fn rows(app: &App, table: &str) -> Vec<Row> {
    let scan = app.client.scan().table_name(table).consistent_read(true);
    let rows = scan.into_paginator().items().send();
    rows.collect::<Result<_, _>>().await.unwrap()
}

/// The number of the first record that an answer reports.
fn first_failed(answer: &Value) -> Option<usize> {
    let failures = answer["batchItemFailures"].as_array().unwrap();
    let reported = failures.iter().map(|failure| &failure["itemIdentifier"]);
    let at = |reported: &Value| (1..=100_000).find(|n| *reported == number(*n));
    reported.map(|n| at(n).unwrap() as usize).min()
}

/// The function of this application, in its ledger and while orders leave it.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_killed_anywhere_in_its_batches_counts_every_order_once() {
    let ledger = &["BatchGetItem", "TransactWriteItems"][..];
    let settling = &[
        "BatchGetItem",
        "TransactWriteItems",
        "PutItem",
        "UpdateItem",
    ][..];
    let lambda = |app: &App| app.command(env!("CARGO_BIN_EXE_lambda"));
    for (seeds, operations, settles_after) in [(1..=2, ledger, None), (3..=5, settling, Some(200))]
    {
        let mut all = Report::default();
        for seed in seeds {
            let plan = Plan {
                seed,
                changes: 1000,
                first: "TransactWriteItems",
                operations,
                settles_after,
            };
            let report = kill_and_restart(plan, lambda).await;
            println!("ledger, seed {seed}: {report}");
            assert_eq!(report.wrong, [], "seed {seed}");
            assert_eq!(report.settled > 0, settles_after.is_some(), "{report}");
            all.redelivered += report.redelivered;
            for (at, times) in report.kills {
                *all.kills.entry(at).or_default() += times;
            }
        }
        all.shows(operations);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_exactly_once_it_counts_every_order_once_too() {
    let operations = ["UpdateItem", "BatchGetItem", "TransactWriteItems"];
    for seed in [1, 2] {
        let once = |app: &App| function(app, "killed::exactly_once_function");
        let plan = Plan {
            seed,
            changes: 1000,
            first: "TransactWriteItems",
            operations: &operations,
            settles_after: None,
        };
        let report = kill_and_restart(plan, once).await;
        println!("exactly once, seed {seed}: {report}");
        assert_eq!(report.wrong, [], "seed {seed}");
        report.shows(&operations);
        assert!(report.moves > 100 && report.pages > 20, "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claim_first_loses_orders_where_exactly_once_does_not() {
    let claiming = |app: &App| function(app, "killed::claim_first_function");
    let plan = Plan {
        seed: 1,
        changes: 400,
        // The claim of an event: this mode has no tables of its own.
        first: "PutItem",
        operations: &["PutItem", "UpdateItem"],
        settles_after: None,
    };
    let report = kill_and_restart(plan, claiming).await;
    println!("claim first: {report}");
    assert!(!report.wrong.is_empty());
    report.shows(&["PutItem"]);
}

/// A function that is one of the tests below, in a process of its own.
fn function(app: &App, test: &str) -> Command {
    let mut command = app.command(std::env::current_exe().unwrap().to_str().unwrap());
    command.args(["--ignored", "--exact", test]);
    command
}

/// Not a test: the same pipelines in the exactly-once mode, as the function of the test above.
#[tokio::test]
#[ignore = "a function that the test starts by itself"]
async fn exactly_once_function() {
    serve(
        |stored, _| stored.exactly_once(),
        |stored, _| stored.exactly_once(),
    )
    .await;
}

/// Not a test: the same pipelines in the claim-first mode, as the function of the test above.
#[tokio::test]
#[ignore = "a function that the comparison starts by itself"]
async fn claim_first_function() {
    serve(Stored::claim_first, Stored::claim_first).await;
}

/// The last step of a definition.
type Mode<M> =
    fn(Stored<Order, M, Marked<Int64SumStore>>, Deduper) -> Result<Pipeline<Order>, BuildError>;

async fn serve(of_totals: Mode<Sum>, of_counts: Mode<Count>) {
    if std::env::var_os("AWS_LAMBDA_RUNTIME_API").is_none() {
        return;
    }
    let client = Client::new(&order_totals::aws_config().await);
    let pipelines = pipelines(&Tables::from_env().unwrap(), &client, of_totals, of_counts);
    run(Handler::new(Processor::new(pipelines).unwrap()))
        .await
        .unwrap();
}

/// The application's pipelines in the claim-first mode.
pub(crate) fn claiming(tables: &Tables, client: &Client) -> [Pipeline<Order>; 2] {
    pipelines(tables, client, Stored::claim_first, Stored::claim_first)
}

fn pipelines(
    tables: &Tables,
    client: &Client,
    of_totals: Mode<Sum>,
    of_counts: Mode<Count>,
) -> [Pipeline<Order>; 2] {
    // So small that ids move on with every few events.
    let options = TableOptions::default().row_budget(ROW_BUDGET);
    let markers = Deduper::new(client.clone(), tables.markers.as_str());
    let store = |table: &str| {
        let store = Int64SumStore::with_options(client.clone(), table, options.clone());
        store.unwrap().markers(&markers)
    };
    let at = |order: &Order| Timestamp::from_secs(order.placed_at);
    let totals = Pipeline::builder("order_totals")
        .key(|order: &Order| order.customer.clone())
        .value(|order| order.amount_cents)
        .aggregate(Sum::new())
        .window(WINDOW, at)
        .retract()
        .store(store(&tables.totals));
    let counts = Pipeline::builder("order_counts")
        .key(|order: &Order| order.customer.clone())
        .count()
        .window(WINDOW, at)
        .retract()
        .store(store(&tables.counts));
    [
        of_totals(totals, markers.clone()).unwrap(),
        of_counts(counts, markers.clone()).unwrap(),
    ]
}
