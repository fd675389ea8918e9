//! A DynamoDB that behaves like one far away: it fails, loses answers, throttles, and cancels
//! transactions that meet.
//!
//! A [`Cloud`] stands between AWS clients and a DynamoDB: one [in this process](Cloud::in_process),
//! reached without sockets so that tokio's paused clock works, or [a real server](Cloud::over). Its
//! [`Weather`] says what goes wrong, a seed decides when. Each [`Process`] has a connection of its own
//! and can be killed. [`Met`] counts what happened, [`Usage`] what it cost.
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
//! # How true it is
//!
//! The DynamoDB in this process is dynoxide, whose answers follow AWS closely. Before it stands what it
//! does not know: the limit of 300 operators in an expression, conflicts, throttles, tokens that
//! live by the simulation's time. `tests/cloud_compare.rs` sends thousands of seeded requests to it and
//! to DynamoDB Local 3.1.0. They differ in this:
//!
//! | request | here | DynamoDB Local |
//! |---|---|---|
//! | in a transaction: a wrong type under `ADD`, an absent attribute read, an item grown too large | cancelled, reason `ValidationError`, as AWS documents | `ValidationException` without reasons |
//! | in a transaction: two actions on one item, conditions that fail | `ValidationException`, as AWS documents | cancelled for the conditions |
//! | numbers such as `1.50` | stored trimmed, as AWS documents | stored as written |
//! | an update whose text and values pass 400 KB, its item not | refused, as dynoxide's authors measured on AWS | applied |
//! | `if_not_exists(a, b)`, `a` there, `b` absent | `a` | `ValidationException` |
//! | `<` and the like with a set | false | `ValidationException` |
//! | in a transaction: `BETWEEN` with its bounds reversed, `ADD` of a text or bytes | judged when its turn comes | `ValidationException` before anything is looked at |
//! | in a transaction: `SET` of a key attribute | **applied**; AWS documents a refusal | `ValidationException` |
//! | the words of a `ValidationException` | those of AWS of late | others |
//!
//! Not modelled: secondary indexes in the books, queries and scans that are not up to date,
//! splits and adaptive capacity of partitions, throttled reads by load. AWS documents neither what a cancelled
//! transaction costs nor what a batch write does at a held item: it is booked in full, and the
//! item is left unprocessed.

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

/// Where the time of a cloud in this process begins, unless it is given one.
pub const START: Timestamp = Timestamp::from_secs(1_800_000_000);

/// A DynamoDB with weather.
///
/// Clones are the same cloud. Every fault is drawn from the seed, the number of the process and the
/// order of its requests, so on a single thread with a paused clock a run repeats itself. What the SDK draws
/// for itself, the jitter of its own retries, comes from `fastrand`'s generator of the thread:
/// call `fastrand::seed` where it matters.
#[derive(Clone)]
pub struct Cloud(Arc<Region>);

impl Cloud {
    /// A DynamoDB without tables inside this process, whose time is tokio's and begins at [`START`].
    ///
    /// It works on a paused clock and on a running one, where it really waits.
    ///
    /// # Panics
    ///
    /// If the rates of the weather are no shares, or there is no tokio runtime.
    pub fn in_process(seed: u64, weather: Weather) -> Self {
        Self::in_process_at(&Time::paused(START), seed, weather)
    }

    /// The same at the time of a simulation, which must be of the paused kind.
    ///
    /// # Panics
    ///
    /// If `time` is of the stepped kind: then use [`over`](Self::over). If the rates of the weather are no shares.
    pub fn in_process_at(time: &Time, seed: u64, weather: Weather) -> Self {
        assert!(
            !time.is_stepped(),
            "a cloud in this process waits by tokio's clock: give it Time::paused"
        );
        Self(Arc::new(Region::here(time.clone(), seed, weather)))
    }

    /// The same faults in front of a real server: an embedded one over HTTP, or DynamoDB Local.
    ///
    /// Nothing waits there. A latency is none; a client whose answer never comes is told at once that
    /// it timed out; a stalled request arrives after up to 64 later ones, or at [`flush`](Self::flush); items are
    /// held while their transaction is with the server, if the weather holds them at all. With several
    /// requests at once the order, and so the run, does not repeat itself.
    ///
    /// # Panics
    ///
    /// If the rates of the weather are no shares, or it has a partition limit.
    pub fn over(dynamo: &Dynamo, seed: u64, weather: Weather) -> Self {
        Self::over_at(&Time::stepped(START), dynamo, seed, weather)
    }

    /// The same at the time of a simulation: a stalled request arrives at the latest when the
    /// time that the weather gives it has passed.
    ///
    /// # Panics
    ///
    /// As [`over`](Self::over).
    pub fn over_at(time: &Time, dynamo: &Dynamo, seed: u64, weather: Weather) -> Self {
        let region = Region::over(time.clone(), dynamo.clone(), seed, weather);
        Self(Arc::new(region))
    }

    /// A connection to this cloud, with dice of its own.
    pub fn process(&self) -> Process {
        Process::new(self.0.clone(), self.0.next_process())
    }

    /// A client that meets no weather, is no process and is not counted: to make tables, and to look
    /// at what is in them.
    pub fn admin(&self) -> aws_sdk_dynamodb::Client {
        Process::admin(self.0.clone()).client()
    }

    /// Has a request done at once, without a client, weather or books: for whoever writes to a
    /// table under test many times.
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

    /// Removes from a table with these key attributes what Time to Live would have by now, going
    /// by the attribute `ttl`; the keys of these rows.
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
            // Refused: somebody wrote it meanwhile.
            if deletion.send().await.is_ok() {
                removed.push(key);
            }
        }
        removed
    }

    /// Changes the weather, for requests from now on.
    ///
    /// # Panics
    ///
    /// If its rates are no shares, or it has a partition limit over a real server.
    pub fn set_weather(&self, weather: Weather) {
        self.0.set_weather(weather);
    }

    /// Changes the body of every request before it leaves its process, after the process's own
    /// [rewriter](Process::rewrite).
    pub fn rewrite(&self, rewriter: impl Fn(&mut Request) + Send + Sync + 'static) {
        self.0.state().rewriter = Some(Arc::new(rewriter));
    }

    /// Shows every request of a process that has been served, with its answer, to `observer`.
    pub fn observe(&self, observer: impl Fn(&Answered<'_>) + Send + Sync + 'static) {
        self.0.state().observer = Some(Arc::new(observer));
    }

    /// Completes once no request is under way any more, stalled ones included, which arrive then.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe in this process. Over a real server the request just being delivered may be lost.
    pub async fn flush(&self) {
        self.0.flush().await;
    }

    /// What was met so far.
    pub fn met(&self) -> Met {
        self.0.state().met.clone()
    }

    /// What was used so far.
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
