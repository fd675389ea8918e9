//! A DynamoDB that behaves like a remote one: it fails, loses answers, throttles, and cancels
//! transactions that conflict.
//!
//! A [`Cloud`] stands between AWS clients and a DynamoDB: either one [in this
//! process](Cloud::in_process), reached without sockets so that tokio's paused clock works, or [a
//! real server](Cloud::over). Its [`Weather`] says what can go wrong; a seed decides when. Each
//! [`Process`] has its own connection and can be killed. [`Met`] counts the faults that occurred,
//! [`Usage`] their cost.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! use murmur_testkit::cloud::{Cloud, Fault, Weather};
//!
//! let cloud = Cloud::in_process(7, Weather::lossy());
//! let process = cloud.process();
//! let tables = process.client().list_tables().send().await?;
//! assert!(tables.table_names().is_empty());
//! assert_eq!(cloud.met().count(Fault::LostAnswer), 0);
//! assert_eq!(cloud.usage().requests_of("ListTables"), 1);
//! # Ok::<(), aws_sdk_dynamodb::Error>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Fidelity
//!
//! The DynamoDB in this process is dynoxide, whose answers follow AWS closely. The cloud adds what
//! dynoxide lacks: the limit of 300 operators in an expression, conflicts, throttling, and client
//! request tokens that expire in the simulation's time. `tests/cloud_compare.rs` sends thousands of
//! seeded requests to the cloud and to DynamoDB Local 3.1.0. They differ as follows:
//!
//! | request | here | DynamoDB Local |
//! |---|---|---|
//! | in a transaction: a wrong type under `ADD`, an absent attribute read, an item grown too large | cancelled, reason `ValidationError`, as AWS documents | `ValidationException` without reasons |
//! | in a transaction: two actions on one item, conditions that fail | `ValidationException`, as AWS documents | cancelled for the conditions |
//! | numbers such as `1.50` | stored trimmed, as AWS documents | stored as written |
//! | an update whose text and values pass 400 KB, its item not | refused, as dynoxide's authors measured on AWS | applied |
//! | `if_not_exists(a, b)`, `a` present, `b` absent | `a` | `ValidationException` |
//! | `<` and the like with a set | false | `ValidationException` |
//! | in a transaction: `BETWEEN` with its bounds reversed, `ADD` of a text or bytes | checked when its turn comes | `ValidationException` before any action is checked |
//! | in a transaction: `SET` of a key attribute | **applied**; AWS documents a refusal | `ValidationException` |
//! | the text of a `ValidationException` | that of current AWS | another |
//!
//! Not modelled:
//!
//! - secondary indexes in the cost
//! - queries and scans that return stale data
//! - splits and adaptive capacity of partitions
//! - reads throttled by load
//!
//! AWS documents neither the cost of a cancelled transaction nor what a batch write does at a held
//! item. Here the transaction is charged in full, and the item is left unprocessed.

mod books;
mod connection;
mod count;
mod items;
mod lanes;
mod limits;
mod real;
mod refusal;
mod region;
mod sent;
mod server;
mod spells;
mod tokens;
mod versions;
mod weather;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_sdk_dynamodb::types::AttributeValue;
use murmur_state::Timestamp;

use crate::Dynamo;
use crate::runs::must;
use crate::time::Time;
pub use crate::wire::Request;

pub use connection::Process;
pub use count::{Fault, Met, Usage};
pub use region::Answered;
pub use weather::Weather;

use region::Region;

/// The time at which a cloud in this process starts, unless it is given another.
pub const START: Timestamp = Timestamp::from_secs(1_800_000_000);

/// A DynamoDB with weather.
///
/// Clones are the same cloud. Every fault is derived from the seed, the number of the process and
/// the order of its requests. On a single thread with a paused clock a run is therefore repeatable.
/// The SDK draws the jitter of its own retries from the thread's `fastrand` generator: call
/// `fastrand::seed` where it matters.
#[derive(Clone)]
pub struct Cloud(Arc<Region>);

impl Cloud {
    /// A DynamoDB without tables inside this process. Its time is tokio's and starts at [`START`].
    ///
    /// It works on a paused clock and on a running one; on a running clock it really waits.
    ///
    /// # Panics
    ///
    /// If a rate of the weather is not between 0 and 1, if the rates sum to more than 1, or outside
    /// of a tokio runtime.
    pub fn in_process(seed: u64, weather: Weather) -> Self {
        Self::in_process_at(&Time::paused(START), seed, weather)
    }

    /// The same at the time of a simulation, which must be of the paused kind.
    ///
    /// # Panics
    ///
    /// If `time` is of the stepped kind (use [`over`](Self::over) instead), or if the rates of the
    /// weather are invalid.
    pub fn in_process_at(time: &Time, seed: u64, weather: Weather) -> Self {
        assert!(
            !time.is_stepped(),
            "a cloud in this process waits by tokio's clock: give it Time::paused"
        );
        Self(Arc::new(Region::here(time.clone(), seed, weather)))
    }

    /// The same faults in front of a real server: an embedded one over HTTP, or DynamoDB Local.
    ///
    /// Nothing waits there:
    ///
    /// - There is no latency.
    /// - A client whose answer never comes gets a timeout at once.
    /// - A stalled request arrives after up to 64 later ones, or at [`flush`](Self::flush).
    /// - If the weather holds items at all, they are held while their transaction is at the server.
    ///
    /// With several concurrent requests their order, and so the run, is not repeatable.
    ///
    /// # Panics
    ///
    /// If the rates of the weather are invalid, or if it has a partition limit.
    pub fn over(dynamo: &Dynamo, seed: u64, weather: Weather) -> Self {
        Self::over_at(&Time::stepped(START), dynamo, seed, weather)
    }

    /// The same at the time of a simulation. A stalled request arrives at the latest when the
    /// weather's delay has passed.
    ///
    /// # Panics
    ///
    /// As [`over`](Self::over).
    pub fn over_at(time: &Time, dynamo: &Dynamo, seed: u64, weather: Weather) -> Self {
        let region = Region::over(time.clone(), dynamo.clone(), seed, weather);
        Self(Arc::new(region))
    }

    /// A connection to this cloud, with its own random generator.
    pub fn process(&self) -> Process {
        Process::new(self.0.clone(), self.0.next_process())
    }

    /// A client for creating tables and reading their contents. It meets no weather, is no process
    /// and is not counted.
    pub fn admin(&self) -> aws_sdk_dynamodb::Client {
        Process::admin(self.0.clone()).client()
    }

    /// Executes a request at once, without a client or weather, and does not count it: for tests
    /// that write to a table many times.
    ///
    /// # Panics
    ///
    /// Over a real server, and if the request is refused.
    pub fn at_once(&self, operation: &str, body: serde_json::Value) -> serde_json::Value {
        self.0.at_once(operation, body)
    }

    /// All rows of a table.
    ///
    /// # Panics
    ///
    /// If the table cannot be read.
    pub async fn rows(&self, table: &str) -> Vec<HashMap<String, AttributeValue>> {
        let admin = self.admin();
        let scan = admin.scan().table_name(table).consistent_read(true);
        let mut pages = scan.into_paginator().items().send();
        let mut rows = Vec::new();
        while let Some(row) = pages.next().await {
            rows.push(must("a scan", row));
        }
        rows
    }

    /// Removes from a table with these key attributes the rows that Time to Live would have removed
    /// by now, by the attribute `ttl`. Returns the keys of these rows.
    ///
    /// # Panics
    ///
    /// If the table cannot be read.
    pub async fn expire(&self, table: &str, keys: &[&str]) -> Vec<HashMap<String, AttributeValue>> {
        let now = self.0.now().as_secs();
        let mut removed = Vec::new();
        for row in self.rows(table).await {
            let expired = match row.get("ttl") {
                Some(AttributeValue::N(ttl)) => ttl.parse().is_ok_and(|ttl: i64| ttl < now),
                _ => false,
            };
            if !expired {
                continue;
            }
            let key = row.into_iter();
            let key = key.filter(|(name, _)| keys.contains(&name.as_str()));
            let key: HashMap<_, _> = key.collect();
            let deletion = self
                .admin()
                .delete_item()
                .table_name(table)
                .set_key(Some(key.clone()))
                .condition_expression("#ttl < :now")
                .expression_attribute_names("#ttl", "ttl")
                .expression_attribute_values(":now", AttributeValue::N(now.to_string()));
            // An error means that the row was written meanwhile.
            if deletion.send().await.is_ok() {
                removed.push(key);
            }
        }
        removed
    }

    /// Changes the weather of requests from now on.
    ///
    /// # Panics
    ///
    /// If its rates are invalid, or if it has a partition limit over a real server.
    pub fn set_weather(&self, weather: Weather) {
        self.0.set_weather(weather);
    }

    /// Changes the body of every request before it leaves its process, after the process's own
    /// [rewriter](Process::rewrite).
    pub fn rewrite(&self, rewriter: impl Fn(&mut Request) + Send + Sync + 'static) {
        self.0.state().rewriter = Some(Arc::new(rewriter));
    }

    /// Passes every request of a process that has been served, with its answer, to `observer`.
    pub fn observe(&self, observer: impl Fn(&Answered<'_>) + Send + Sync + 'static) {
        self.0.state().observer = Some(Arc::new(observer));
    }

    /// Completes once no request is under way. Stalled requests arrive first.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe in this process. Over a real server the request being delivered may be lost.
    pub async fn flush(&self) {
        self.0.flush().await;
    }

    /// The faults that occurred so far.
    pub fn met(&self) -> Met {
        self.0.state().met.clone()
    }

    /// The requests and the capacity used so far.
    pub fn usage(&self) -> Usage {
        self.0.state().usage.clone()
    }
}

impl fmt::Debug for Cloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cloud")
            .field("met", &self.met())
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}
