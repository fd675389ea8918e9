//! The measured pipeline, as a user would write it.

use std::fmt;
use std::sync::Arc;

use anyhow::{Result, bail};
use aws_lambda_events::event::dynamodb::Event;
use aws_sdk_dynamodb::Client;
use murmur_core::{Definition, Pipeline, Processor, Sum};
use murmur_lambda_ddbstreams::Handler;
use murmur_state::time::{Random, SystemClock};
use murmur_state::tokens::Tokens;
use murmur_state::{Clock, Deadline, MemoryStore};
use murmur_state_ddb::{Int64SumStore, TableOptions, create_dedup_table, create_int64_table};
use serde::{Deserialize, Serialize};

/// The pipeline's name, which is part of the keys of its marker rows.
pub(super) const PIPELINE: &str = "totals";

/// How events are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Mode {
    AtLeastOnce,
    ClaimFirst,
    ExactlyOnce,
    Ledger,
}

impl Mode {
    pub(super) const ALL: [Self; 4] = [
        Self::AtLeastOnce,
        Self::ClaimFirst,
        Self::ExactlyOnce,
        Self::Ledger,
    ];
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::AtLeastOnce => "at-least-once",
            Self::ClaimFirst => "claim-first",
            Self::ExactlyOnce => "exactly-once",
            Self::Ledger => "ledger",
        })
    }
}

/// The item in the events.
#[derive(Debug, Deserialize)]
pub(super) struct Order {
    customer: String,
    amount: i64,
}

impl Order {
    pub(super) fn customer(&self) -> String {
        self.customer.clone()
    }

    pub(super) fn amount(&self) -> i64 {
        self.amount
    }
}

/// The two tables of a pipeline.
#[derive(Debug, Clone)]
pub(super) struct Tables {
    pub(super) state: String,
    pub(super) markers: String,
}

impl Tables {
    pub(super) async fn create(client: &Client) -> Result<Self> {
        let run = format!("murmur-bench-{:016x}", fastrand::u64(..));
        let tables = Self {
            state: format!("{run}-state"),
            markers: format!("{run}-markers"),
        };
        create_int64_table(client, &tables.state).await?;
        create_dedup_table(client, &tables.markers).await?;
        Ok(tables)
    }

    pub(super) async fn remove(&self, client: &Client) -> Result<()> {
        for table in [&self.state, &self.markers] {
            client.delete_table().table_name(table).send().await?;
        }
        Ok(())
    }
}

/// The settings of a process other than its client.
pub(super) struct Means {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Random,
    /// The number of concurrent writes.
    pub(super) concurrency: usize,
}

impl Default for Means {
    fn default() -> Self {
        Self {
            clock: SystemClock::shared(),
            random: Random::new(),
            concurrency: 16,
        }
    }
}

/// The handler of one process, with its own stores.
pub(super) fn handler(
    mode: Mode,
    client: &Client,
    tables: &Tables,
    means: Means,
) -> Result<Handler<Order>> {
    Ok(Handler::new(
        Processor::builder([totals(mode, client, tables, &means)?])
            .clock(means.clock)
            .random(means.random.clone())
            .tokens(Tokens::repeatable(means.random))
            .build()?,
    ))
}

/// The pipeline, with its own stores.
pub(super) fn totals(
    mode: Mode,
    client: &Client,
    tables: &Tables,
    means: &Means,
) -> Result<Pipeline<Order>> {
    let options = TableOptions::default()
        .clock(Arc::clone(&means.clock))
        .random(means.random.clone())
        .tokens(Tokens::repeatable(means.random.clone()))
        .concurrency(means.concurrency);
    let (state, markers) = (tables.state.as_str(), tables.markers.as_str());
    let store = Int64SumStore::with_options(client.clone(), state, options)?.markers(markers);
    let totals = Pipeline::builder(PIPELINE)
        .key(Order::customer)
        .value(Order::amount)
        .aggregate(Sum::new());
    let adding = |totals: Definition<Order, Sum>| totals.every_change().store(store.clone());
    Ok(match mode {
        Mode::AtLeastOnce => adding(totals).at_least_once(),
        Mode::ClaimFirst => adding(totals).claim_first(store.deduper().clone()),
        Mode::ExactlyOnce => adding(totals).exactly_once(),
        Mode::Ledger => totals.store(store).ledger(),
    }?)
}

/// The same with exactly-once delivery into stores of this process.
pub(super) fn in_memory(store: &MemoryStore<Sum>) -> Result<Handler<Order>> {
    let totals = Pipeline::builder(PIPELINE)
        .key(Order::customer)
        .value(Order::amount)
        .aggregate(Sum::new())
        .every_change()
        .store(store.clone())
        .exactly_once()?;
    Ok(Handler::new(Processor::new([totals])?))
}

/// Lets the handler count an event. It is an error if a record of it fails.
pub(super) async fn count(handler: &Handler<Order>, event: Event) -> Result<()> {
    let records = event.records.len();
    let answer = handler.handle(event, Deadline::NONE).await?;
    match answer.batch_item_failures.len() {
        0 => Ok(()),
        failed => bail!("{failed} of {records} events were not counted"),
    }
}
