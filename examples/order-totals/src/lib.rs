//! Live totals and counts of orders, per customer and day.
//!
//! The pipelines are defined once, here. `bootstrap` fills them from the table of orders, and
//! `lambda` keeps them live from its stream; `run` does both in one process. Each order leaves the
//! ledger by its first change after the bootstrap.

pub mod cli;
pub mod stop;
pub mod worker;

use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::Client;
use murmur_core::{BuildError, Pipeline, Sum, Window};
use murmur_state::Timestamp;
use murmur_state_ddb::{Int64SumStore, Marked};

/// Days, kept for 90 of them.
pub const WINDOW: Window = Window::daily().retention_days(90);

/// How long one request may take before it is sent again.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// An item of the source table: the attributes that are needed here.
#[derive(Debug, Clone, PartialEq, serde::Deserialize)]
pub struct Order {
    /// The customer.
    pub customer: String,
    /// The amount, in cents.
    pub amount_cents: i64,
    /// When it was placed, in seconds since 1970.
    pub placed_at: i64,
}

impl Order {
    fn placed_at(&self) -> Timestamp {
        Timestamp::from_secs(self.placed_at)
    }
}

/// The total amount of orders of each customer per day, in cents.
///
/// # Errors
///
/// If the definition cannot be used.
pub fn order_totals(store: Marked<Int64SumStore>) -> Result<Pipeline<Order>, BuildError> {
    Pipeline::builder("order_totals")
        .key(|order: &Order| order.customer.clone())
        .value(|order| order.amount_cents)
        .aggregate(Sum::new())
        .window(WINDOW, Order::placed_at)
        .settle()
        .store(store)
        .ledger()
}

/// The number of orders of each customer per day.
///
/// # Errors
///
/// If the definition cannot be used.
pub fn order_counts(store: Marked<Int64SumStore>) -> Result<Pipeline<Order>, BuildError> {
    Pipeline::builder("order_counts")
        .key(|order: &Order| order.customer.clone())
        .count()
        .window(WINDOW, Order::placed_at)
        .settle()
        .store(store)
        .ledger()
}

/// The tables of this application. A state table belongs to one pipeline; the marker table can
/// be shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// State of [`order_totals`].
    pub totals: String,
    /// State of [`order_counts`].
    pub counts: String,
    /// Ledger, run records and positions of both pipelines.
    pub markers: String,
}

/// A required environment variable is not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the environment variable {variable} is not set; set it to the name of the {table}")]
pub struct NotSet {
    /// The variable.
    pub variable: &'static str,
    /// What it should name.
    pub table: &'static str,
}

impl Tables {
    /// The tables that `TOTALS_TABLE`, `COUNTS_TABLE` and `MARKER_TABLE` name.
    ///
    /// # Errors
    ///
    /// [`NotSet`] naming the first that is missing or empty.
    pub fn from_env() -> Result<Self, NotSet> {
        Self::from_variables(|variable| std::env::var(variable).ok())
    }

    /// As [`from_env`](Tables::from_env), with the variables that `lookup` finds.
    ///
    /// # Errors
    ///
    /// As [`from_env`](Tables::from_env).
    pub fn from_variables(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, NotSet> {
        let table = |variable, table| {
            lookup(variable)
                .filter(|name| !name.is_empty())
                .ok_or(NotSet { variable, table })
        };
        Ok(Self {
            totals: table("TOTALS_TABLE", "state table of the totals")?,
            counts: table("COUNTS_TABLE", "state table of the counts")?,
            markers: table("MARKER_TABLE", "marker table")?,
        })
    }

    /// Both pipelines, on these tables.
    ///
    /// # Errors
    ///
    /// If a definition cannot be used.
    pub fn pipelines(&self, client: &Client) -> Result<[Pipeline<Order>; 2], BuildError> {
        let markers = self.markers.as_str();
        let store = |table: &str| Int64SumStore::new(client.clone(), table).markers(markers);
        Ok([
            order_totals(store(&self.totals))?,
            order_counts(store(&self.counts))?,
        ])
    }
}

/// Region, credentials and endpoint, as every AWS tool finds them.
pub async fn aws_config() -> aws_config::SdkConfig {
    // By default the SDK waits without limit, even on a dead connection.
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT_TIMEOUT);
    aws_config::defaults(BehaviorVersion::latest())
        .timeout_config(timeouts.build())
        .load()
        .await
}

/// The code of the project's pages, which compiles and holds.
#[cfg(doctest)]
pub mod pages {
    #[doc = include_str!("../../../README.md")]
    pub struct Readme;

    #[doc = include_str!("../../../docs/getting-started.md")]
    pub struct GettingStarted;

    #[doc = include_str!("../../../docs/choosing-a-mode.md")]
    pub struct ChoosingAMode;

    #[doc = include_str!("../../../docs/extending.md")]
    pub struct Extending;
}
