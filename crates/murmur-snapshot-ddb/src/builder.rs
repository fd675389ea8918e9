use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use murmur_core::Item;
use murmur_state::time::SystemClock;
use murmur_state::{Clock, OptionError};

use crate::filter::Filter;
use crate::parallel_scan::{EventIdFn, ParallelScan};
use crate::settings::ScanSettings;

/// The most segments of a parallel scan (Amazon DynamoDB API Reference, "Scan").
const MAX_SEGMENTS: u32 = 1_000_000;

/// Options of a [`ParallelScan`].
#[must_use = "a scan is made by `build`"]
pub struct ParallelScanBuilder {
    client: Client,
    table: String,
    streams: Option<aws_sdk_dynamodbstreams::Client>,
    stream_arn: Option<String>,
    segments: u32,
    page_size: u32,
    consistent: bool,
    filter: Filter,
    event_id: Option<Box<EventIdFn>>,
    attempt_timeout: Duration,
    clock: Arc<dyn Clock>,
}

impl ParallelScan {
    /// Begins a scan of `table`, named by name or ARN, through `client`.
    pub fn builder(client: Client, table: impl Into<String>) -> ParallelScanBuilder {
        ParallelScanBuilder {
            client,
            table: table.into(),
            streams: None,
            stream_arn: None,
            segments: 1,
            page_size: 1000,
            consistent: true,
            filter: Filter::default(),
            event_id: None,
            attempt_timeout: Duration::from_secs(10),
            clock: SystemClock::shared(),
        }
    }
}

impl ParallelScanBuilder {
    /// Captures the handoff token before the first page, through this client. The token says where
    /// the stream consumer has to begin.
    ///
    /// Default: no token is captured, and you have to know where to begin yourself. Costs one
    /// DescribeTable and one DescribeStream per 100 shards, and the same again for each attempt at
    /// a bootstrap.
    pub fn streams(mut self, client: aws_sdk_dynamodbstreams::Client) -> Self {
        self.streams = Some(client);
        self
    }

    /// The stream that the stream consumer will read. It must be a stream of the table, and
    /// enabled. Needs [`streams`](Self::streams). Default: the table's latest stream.
    pub fn stream_arn(mut self, arn: impl Into<String>) -> Self {
        self.stream_arn = Some(arn.into());
        self
    }

    /// How many segments the table is scanned in, 1 to 1,000,000.
    /// [`BootstrapBuilder::concurrency`](murmur_snapshot::bootstrap::BootstrapBuilder::concurrency) says how
    /// many pages are read or written at a time. An unfinished run goes on only with the same
    /// number of segments.
    ///
    /// Default 1. More segments are faster while the table's read capacity lasts. 4 to 32 suit most
    /// tables; there must be at least as many as workers. Each segment costs at least one request,
    /// even on an empty table, and two writes in a bootstrap.
    pub fn segments(mut self, segments: u32) -> Self {
        self.segments = segments;
        self
    }

    /// The event id of a scanned item, for markers written by another program. It has to be the
    /// same in every run and different for every item: two items with one id are counted as one. An
    /// item with an empty id is rejected.
    ///
    /// Default: made of the primary key.
    pub fn event_id(mut self, event_id: impl Fn(&Item) -> String + Send + Sync + 'static) -> Self {
        self.event_id = Some(Box::new(event_id));
        self
    }

    /// Items examined per page, at least 1: the `Limit` of the Scan, applied before the filter. A
    /// page is also at most 1 MB. It is one batch of writes.
    ///
    /// Default 1000. Smaller pages need less memory and make smaller batches, with more requests.
    pub fn page_size(mut self, items: u32) -> Self {
        self.page_size = items;
        self
    }

    /// Leaves out items for which `expression` does not hold, on the server. Saves transfer and
    /// decoding, but no read units: those are spent before the filter.
    ///
    /// If a later change makes the filter match, only the stream brings the item. So a pipeline
    /// that keeps a [ledger](murmur_core::definition::Stored::ledger) accepts only a filter on attributes of
    /// the primary key. The filter is tried on one item before a bootstrap writes anything.
    /// Default: every item.
    pub fn filter(mut self, expression: impl Into<String>) -> Self {
        self.filter.expression = expression.into();
        self
    }

    /// The attribute name that `#placeholder` stands for in the [`filter`](Self::filter). Default:
    /// no placeholder.
    pub fn filter_name(
        mut self,
        placeholder: impl Into<String>,
        attribute: impl Into<String>,
    ) -> Self {
        let names = &mut self.filter.names;
        names.insert(placeholder.into(), attribute.into());
        self
    }

    /// The value that `:placeholder` stands for in the [`filter`](Self::filter). Default: no
    /// placeholder.
    pub fn filter_value(mut self, placeholder: impl Into<String>, value: AttributeValue) -> Self {
        self.filter.values.insert(placeholder.into(), value);
        self
    }

    /// Reads eventually consistently, for half the read units. The scan can miss an item that was
    /// written just before it. If the item's shard was closed by then, the stream does not bring
    /// the item either.
    ///
    /// Pipelines that keep a [ledger](murmur_core::definition::Stored::ledger) refuse it. Default: strongly
    /// consistent, one read unit per 4 KB.
    pub fn eventually_consistent(mut self) -> Self {
        self.consistent = false;
        self
    }

    /// How long one request may take before it is sent again; above zero. The SDK itself has no
    /// such limit, and would wait forever on a dead connection.
    ///
    /// Default 10 s.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// The clock that dates the handoff token. Default: the machine's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Checks the options, without any request.
    ///
    /// # Errors
    ///
    /// [`OptionError`] with the option's name.
    pub fn build(self) -> Result<ParallelScan, OptionError> {
        if self.table.is_empty() {
            return Err(OptionError::new(
                "table",
                "is empty; name the table to scan",
            ));
        }
        if !(1..=MAX_SEGMENTS).contains(&self.segments) {
            let reason = format!("{} is not within 1 to {MAX_SEGMENTS}", self.segments);
            return Err(OptionError::new("segments", reason));
        }
        let page_size = i32::try_from(self.page_size)
            .ok()
            .filter(|items| *items > 0);
        let page_size = page_size.ok_or_else(|| {
            let reason = format!("{} is not within 1 to {}", self.page_size, i32::MAX);
            OptionError::new("page_size", reason)
        })?;
        if self.attempt_timeout.is_zero() {
            return Err(OptionError::new(
                "attempt_timeout",
                "must be above zero, such as 10 s",
            ));
        }
        if self.stream_arn.is_some() && self.streams.is_none() {
            return Err(OptionError::new(
                "stream_arn",
                "needs a client for the stream; give one with `streams`",
            ));
        }
        let unused = [
            ("filter_name", self.filter.names.is_empty()),
            ("filter_value", self.filter.values.is_empty()),
        ];
        let filter = match self.filter.expression.is_empty() {
            false => Some(self.filter),
            true => match unused.iter().find(|(_, empty)| !empty) {
                None => None,
                Some((option, _)) => {
                    return Err(OptionError::new(option, "is of no use without a `filter`"));
                }
            },
        };
        let settings = ScanSettings {
            client: self.client,
            table: self.table,
            streams: self.streams,
            stream_arn: self.stream_arn,
            segments: self.segments,
            page_size,
            consistent: self.consistent,
            filter,
            attempt_timeout: self.attempt_timeout,
            clock: self.clock,
        };
        Ok(ParallelScan::new(settings, self.event_id))
    }
}

impl fmt::Debug for ParallelScanBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParallelScanBuilder")
            .field("table", &self.table)
            .field("segments", &self.segments)
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}
