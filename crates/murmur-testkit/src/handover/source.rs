//! The table as a bootstrap reads it: at a certain pace, observed, and changed where a rule is left
//! out.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use murmur_core::{AttributeValue, Row};
use murmur_snapshot::source::{Cursor, Description, Page};
use murmur_snapshot::{Source, SourceError};
use murmur_snapshot_ddb::ParallelScan;
use murmur_state::HandoffToken;
use murmur_streams::StreamStore;

use super::Rule;
use super::body::{Body, Doing};
use super::world::TABLE;
use crate::runs::{lock, must};
use crate::streams::describing;

/// How far each segment was read by any process, for a checkpoint that is saved too early.
pub(super) type ReadTo = Arc<Mutex<HashMap<u32, Option<Cursor>>>>;

/// The table as one process reads it.
pub(super) fn scan(body: &Body, streams: &StreamStore) -> ParallelScan {
    let scenario = &body.shared.scenario;
    let scan = ParallelScan::builder(body.connection.client(), TABLE)
        .streams(describing(streams))
        .segments(scenario.segments)
        .page_size(scenario.page)
        .clock(Arc::clone(&body.clock))
        .build();
    must("the scan", scan)
}

/// A scan by one process that bootstraps.
pub(super) struct Paced {
    pub(super) inner: ParallelScan,
    pub(super) body: Arc<Body>,
    pub(super) read_to: ReadTo,
    /// The segments from which this process has read a page.
    begun: Mutex<HashSet<u32>>,
}

impl Paced {
    /// The scan of one process, which gets the stream's description from `streams`.
    pub(super) fn new(body: &Arc<Body>, streams: &StreamStore, read_to: &ReadTo) -> Self {
        Self {
            inner: scan(body, streams),
            body: Arc::clone(body),
            read_to: Arc::clone(read_to),
            begun: Mutex::default(),
        }
    }

    fn pace(&self) -> Duration {
        let shared = &self.body.shared;
        let pace = match lock(&shared.log).stormy {
            true => shared.scenario.pace,
            false => Duration::ZERO,
        };
        self.body.dice(|dice| pace.mul_f64(dice.f64()))
    }

    fn is_without(&self, rule: Rule) -> bool {
        self.body.shared.scenario.without == Some(rule)
    }

    /// The rows as they were some time ago.
    fn stale(&self, rows: Vec<Row>) -> Vec<Row> {
        let shared = &self.body.shared;
        let ago = self.pace() * 8;
        let then = shared.time.elapsed().saturating_sub(ago);
        let old = |mut row: Row| {
            let Some(AttributeValue::S(name)) = row.item.get("id") else {
                return Some(row);
            };
            row.item = shared.history.version_at(name, then)?.item(name);
            Some(row)
        };
        rows.into_iter().filter_map(old).collect()
    }
}

impl Source for Paced {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn segments(&self) -> u32 {
        self.inner.segments()
    }

    async fn describe(&self) -> Result<Description, SourceError> {
        self.inner.describe().await
    }

    async fn capture_handoff(&self) -> Result<Option<HandoffToken>, SourceError> {
        let captured = self.inner.capture_handoff().await;
        let shared = &self.body.shared;
        lock(&shared.log).captured = shared.time.elapsed();
        captured
    }

    async fn page(
        &self,
        segment: u32,
        after: Option<&Cursor>,
        limit: Option<NonZeroU32>,
    ) -> Result<Page, SourceError> {
        let mut after = after.cloned();
        let first = !lock(&self.begun).contains(&segment);
        if self.is_without(Rule::PageBeforeCheckpoint) && first {
            match lock(&self.read_to).get(&segment) {
                Some(None) => return Ok(Page::default()),
                Some(Some(cursor)) => after = Some(cursor.clone()),
                None => {}
            }
        }
        self.body.does(Doing::Reading);
        self.body.sleep(self.pace()).await;
        self.body.request(|| ()).await;
        let mut page = self.inner.page(segment, after.as_ref(), limit).await?;
        lock(&self.begun).insert(segment);
        let shared = &self.body.shared;
        let place = (segment, after.map(|cursor| cursor.to_string()));
        let first = lock(&shared.log).pages.insert(place);
        shared.met(if first { "pages" } else { "pages read again" });
        if self.is_without(Rule::ConsistentPages) {
            page.rows = self.stale(page.rows);
        }
        if self.is_without(Rule::PageBeforeCheckpoint) {
            lock(&self.read_to).insert(segment, page.next.clone());
        }
        self.body.does(Doing::Page);
        self.body.sleep(self.pace()).await;
        Ok(page)
    }

    async fn close(&self) -> Result<(), SourceError> {
        self.inner.close().await
    }
}
