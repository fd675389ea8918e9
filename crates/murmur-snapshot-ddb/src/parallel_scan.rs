use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::operation::scan::ScanOutput;
use aws_sdk_dynamodb::types::ReturnConsumedCapacity;
use murmur_core::{Item, Row, item_id};
use murmur_snapshot::{BadRow, Cursor, Description, Page, Source, SourceError};
use murmur_state::{Clock, HandoffToken};

use crate::attributes::{self, Attributes, RowError};
use crate::builder::ParallelScanBuilder;
use crate::cursor::ScanCursor;
use crate::describe;
use crate::error::{self, Operation};
use crate::filter::Filter;
use crate::handoff;
use crate::table::{self, Table};

/// A DynamoDB table, scanned in segments.
///
/// Event and item ids are made of the primary key, whose attributes are learned from
/// DescribeTable before the first page. A page is at most 1 MB before the filter, so it can be
/// empty and yet go on (Amazon DynamoDB Developer Guide, "Scanning tables"). A cursor continues
/// the same segment, of the same number of segments, of the same table; anything else is
/// refused.
///
/// It only reads: the client's own retries may stay on.
pub struct ParallelScan {
    pub(crate) client: Client,
    pub(crate) table: String,
    pub(crate) streams: Option<aws_sdk_dynamodbstreams::Client>,
    pub(crate) stream_arn: Option<String>,
    pub(crate) segments: u32,
    pub(crate) page_size: i32,
    pub(crate) consistent: bool,
    pub(crate) filter: Option<Filter>,
    pub(crate) event_id: Option<Box<EventIdFn>>,
    pub(crate) attempt_timeout: Duration,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) described: OnceLock<Table>,
}

pub(crate) type EventIdFn = dyn Fn(&Item) -> String + Send + Sync;

impl ParallelScan {
    /// Begins a scan of `table`, named by name or ARN, through `client`.
    pub fn builder(client: Client, table: impl Into<String>) -> ParallelScanBuilder {
        ParallelScanBuilder::new(client, table.into())
    }

    pub(crate) fn place(&self) -> String {
        format!("table `{}`", self.table)
    }

    /// The settings of every request.
    pub(crate) fn settings(&self) -> config::Builder {
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(self.attempt_timeout);
        config::Builder::new().timeout_config(timeouts.build())
    }

    /// What is known of the table. Asked for once, or a few times by segments that begin at the
    /// same moment, which costs nothing but the requests.
    pub(crate) async fn described(&self) -> Result<&Table, SourceError> {
        if let Some(table) = self.described.get() {
            return Ok(table);
        }
        let table = table::describe(self).await?;
        Ok(self.described.get_or_init(|| table))
    }

    /// One request, of at most `limit` items.
    pub(crate) async fn scan(
        &self,
        segment: u32,
        start: Option<Attributes>,
        limit: i32,
    ) -> Result<ScanOutput, SourceError> {
        // Both are at most 1,000,000.
        let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let mut request = self
            .client
            .scan()
            .table_name(&self.table)
            .segment(number(segment))
            .total_segments(number(self.segments))
            .limit(limit)
            .consistent_read(self.consistent)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .set_exclusive_start_key(start);
        if let Some(filter) = &self.filter {
            // The service refuses an empty map.
            let names = Some(filter.names.clone()).filter(|names| !names.is_empty());
            let values = Some(filter.values.clone()).filter(|values| !values.is_empty());
            request = request
                .filter_expression(&filter.expression)
                .set_expression_attribute_names(names)
                .set_expression_attribute_values(values);
        }
        request
            .customize()
            .config_override(self.settings())
            .send()
            .await
            .map_err(|error| error::of(self, Operation::Scan, error))
    }

    pub(crate) fn row(&self, table: &Table, attributes: Attributes) -> Result<Row, BadRow> {
        let keys = table.keys_of(&attributes);
        let bad = |id: String, error: RowError| BadRow {
            id,
            item: Item::default(),
            error: Arc::new(error),
        };
        let keys = keys.map_err(|error| bad(format!("a row of {}", self.place()), error))?;
        let item_id = item_id(&keys);
        let item = attributes::item(attributes).map_err(|error| bad(item_id.to_string(), error))?;
        let event_id = match &self.event_id {
            Some(event_id) => event_id(&item),
            None => item_id.scan_event().as_str().to_owned(),
        };
        Ok(Row {
            event_id,
            item_id,
            item,
        })
    }
}

impl Source for ParallelScan {
    fn name(&self) -> &str {
        &self.table
    }

    fn segments(&self) -> u32 {
        self.segments
    }

    async fn describe(&self) -> Result<Description, SourceError> {
        describe::describe(self).await
    }

    async fn capture_handoff(&self) -> Result<Option<HandoffToken>, SourceError> {
        handoff::capture(self).await
    }

    async fn page(
        &self,
        segment: u32,
        after: Option<&Cursor>,
        limit: Option<NonZeroU32>,
    ) -> Result<Page, SourceError> {
        let start = after
            .map(|cursor| ScanCursor::start_key(self, segment, cursor))
            .transpose()?;
        let table = self.described().await?;
        let limit = limit.and_then(|limit| i32::try_from(limit.get()).ok());
        let limit = limit.map_or(self.page_size, |limit| limit.min(self.page_size));
        let answer = self.scan(segment, start, limit).await?;

        let next = answer
            .last_evaluated_key
            .filter(|key| !key.is_empty())
            .map(|key| ScanCursor::new(self, segment, key))
            .transpose()
            .map_err(|error| SourceError::Setup {
                place: self.place(),
                advice: "the key to go on at cannot be read".to_owned(),
                source: Some(Arc::new(error)),
            })?;
        let mut page = Page {
            next: next.map(|next| next.encode()),
            examined: u64::try_from(answer.scanned_count).unwrap_or_default(),
            read_units: answer
                .consumed_capacity
                .and_then(|used| used.capacity_units),
            ..Page::default()
        };
        for attributes in answer.items.unwrap_or_default() {
            match self.row(table, attributes) {
                Ok(row) => page.rows.push(row),
                Err(bad) => page.bad.push(bad),
            }
        }
        Ok(page)
    }

    /// Does nothing: the clients belong to the caller.
    async fn close(&self) -> Result<(), SourceError> {
        Ok(())
    }
}

impl fmt::Debug for ParallelScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParallelScan")
            .field("table", &self.table)
            .field("segments", &self.segments)
            .field("consistent", &self.consistent)
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}
