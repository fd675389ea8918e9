use std::fmt;
use std::num::NonZeroU32;
use std::sync::{Arc, OnceLock};

use murmur_core::{Item, Row, item_id};
use murmur_snapshot::source::{BadRow, Cursor, Description, Page};
use murmur_snapshot::{Source, SourceError};
use murmur_state::HandoffToken;

use crate::attributes::{self, Attributes, RowError};
use crate::cursor::ScanCursor;
use crate::describe;
use crate::handoff;
use crate::request;
use crate::settings::ScanSettings;
use crate::table::{self, Table};

/// A DynamoDB table, scanned in segments.
///
/// Event and item ids are made of the primary key. DescribeTable names its attributes, before the
/// first page. A page is at most 1 MB before the filter, so a page can be empty and still have a
/// next one (Amazon DynamoDB Developer Guide, "Scanning tables"). A cursor is refused for another
/// segment, another number of segments, or another table.
///
/// It only reads, so the client's own retries may stay on.
pub struct ParallelScan {
    settings: ScanSettings,
    event_id: Option<Box<EventIdFn>>,
    described: OnceLock<Table>,
}

pub(crate) type EventIdFn = dyn Fn(&Item) -> String + Send + Sync;

impl ParallelScan {
    pub(crate) fn new(settings: ScanSettings, event_id: Option<Box<EventIdFn>>) -> Self {
        Self {
            settings,
            event_id,
            described: OnceLock::new(),
        }
    }

    pub(crate) fn settings(&self) -> &ScanSettings {
        &self.settings
    }

    /// The description of the table. Requested once; segments that begin at the same moment may
    /// each request it.
    pub(crate) async fn described(&self) -> Result<&Table, SourceError> {
        if let Some(table) = self.described.get() {
            return Ok(table);
        }
        let table = table::describe(&self.settings).await?;
        Ok(self.described.get_or_init(|| table))
    }

    pub(crate) fn row(&self, table: &Table, attributes: Attributes) -> Result<Row, BadRow> {
        let keys = table.keys_of(&attributes);
        let bad = |id: String, error: RowError| BadRow::new(id, Arc::new(error));
        let keys =
            keys.map_err(|error| bad(format!("a row of {}", self.settings.place()), error))?;
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
        &self.settings.table
    }

    fn segments(&self) -> u32 {
        self.settings.segments
    }

    async fn describe(&self) -> Result<Description, SourceError> {
        describe::describe(&self.settings).await
    }

    async fn capture_handoff(&self) -> Result<Option<HandoffToken>, SourceError> {
        handoff::capture(&self.settings).await
    }

    async fn page(
        &self,
        segment: u32,
        after: Option<&Cursor>,
        limit: Option<NonZeroU32>,
    ) -> Result<Page, SourceError> {
        let start = after
            .map(|cursor| ScanCursor::start_key(&self.settings, segment, cursor))
            .transpose()?;
        let table = self.described().await?;
        let limit = limit.and_then(|limit| i32::try_from(limit.get()).ok());
        let limit = limit.map_or(self.settings.page_size, |limit| {
            limit.min(self.settings.page_size)
        });
        let answer = request::scan(&self.settings, segment, start, limit).await?;

        let next = answer
            .last_evaluated_key
            .filter(|key| !key.is_empty())
            .map(|key| ScanCursor::new(&self.settings, segment, key))
            .transpose()
            .map_err(|error| SourceError::Setup {
                place: self.settings.place(),
                advice:
                    "the key of the next page cannot be read; a newer release may know its kind"
                        .to_owned(),
                source: Some(Arc::new(error)),
            })?;
        let mut page = Page::new(Vec::new(), next.map(|next| next.encode()));
        page.examined = u64::try_from(answer.scanned_count).unwrap_or_default();
        page.read_units = answer
            .consumed_capacity
            .and_then(|used| used.capacity_units);
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
            .field("table", &self.settings.table)
            .field("segments", &self.settings.segments)
            .field("consistent", &self.settings.consistent)
            .field("filter", &self.settings.filter)
            .finish_non_exhaustive()
    }
}
