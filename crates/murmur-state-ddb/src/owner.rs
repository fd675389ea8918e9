//! Control rows: they record which pipeline a state table belongs to, and which marker table
//! belongs to it.
//!
//! One row in the state table and one in the marker table hold the same facts and the same random
//! `life`, which is drawn when the pair is made. A different `life` shows that one of the tables
//! was replaced or emptied. Without the check, ids would be missing, or ids of deleted rows would
//! be taken for those of new rows.

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{AttributeValue, Put, TransactWriteItem};
use murmur_state::{
    Binding, Cause, Deadline, Key, LEDGER_MODE, ListSegment, PipelineName, Place, StoreError,
};

use crate::attribute::{DEFINITION, Item, PK, REGION, SK, STREAM, integer, number, text};
use crate::change::Change;
use crate::deduper::Deduper;
use crate::error::{Reason, Transacted, Written};
use crate::table::Table;

/// The entity of the state table's control row. No window has its bucket.
const ENTITY: &str = "#murmur";
const BUCKET: i64 = i64::MIN;

/// How often the pair is read again because another process was writing it.
const LOOKS: u32 = 10;

/// What the attributes of control rows should be.
const CONTROL: &str = "a text, as Murmur's control rows have it";

const PIPELINE: &str = "pipeline";
const VERSION: &str = "version";
const MODE: &str = "mode";
const LAYOUT: &str = "layout";
const STATE_TABLE: &str = "state_table";
const MARKER_TABLE: &str = "marker_table";
/// The attribute that the two rows of a pair share.
const LIFE: &str = "life";
/// In the marker table's row: the state table's row exists as well.
const PAIRED: &str = "paired";
/// In the marker table's row: items of the ledger settle.
const SETTLING: &str = "settling";

/// Whether the row at `key` is a control row, and so holds no state.
pub(crate) fn is_control_row(key: &Key) -> bool {
    (key.entity(), key.bucket()) == (ENTITY, BUCKET)
}

/// Binds `table` to `binding`, with its markers in `markers`, or checks that it is bound.
/// `layout` is how the store keeps values and ids.
pub(crate) async fn bind(
    table: &Table,
    markers: &Deduper,
    layout: &str,
    binding: &Binding,
    deadline: Deadline,
) -> Result<(), StoreError> {
    let pair = Pair::of(table, markers, layout, binding, deadline)?;
    for _ in 0..LOOKS {
        if pair.complete().await? {
            return Ok(());
        }
    }
    Err(pair.conflict())
}

/// Checks that `table` belongs to `binding`, with its markers in `markers`, and writes nothing.
/// Returns the stream that the table belongs to.
pub(crate) async fn check(
    table: &Table,
    markers: &Deduper,
    layout: &str,
    binding: &Binding,
    deadline: Deadline,
) -> Result<Option<Arc<str>>, StoreError> {
    let pair = Pair::of(table, markers, layout, binding, deadline)?;
    for _ in 0..LOOKS {
        if let Some(marker) = pair.found().await? {
            return pair.stream(&marker);
        }
    }
    Err(pair.conflict())
}

/// Records in a complete pair of `binding` that items of its ledger settle from now on.
pub(crate) async fn settle(
    table: &Table,
    markers: &Deduper,
    layout: &str,
    binding: &Binding,
    deadline: Deadline,
) -> Result<(), StoreError> {
    let pair = Pair::of(table, markers, layout, binding, deadline)?;
    for _ in 0..LOOKS {
        if let Some(marker) = pair.found().await?
            && (marker.contains_key(SETTLING) || pair.note_settling(&marker).await?)
        {
            return Ok(());
        }
    }
    Err(pair.conflict())
}

/// Whether [`settle`] was recorded for the pair of `pipeline` and `table`.
pub(crate) async fn is_settling(
    table: &Table,
    markers: &Deduper,
    pipeline: &PipelineName,
    deadline: Deadline,
) -> Result<bool, StoreError> {
    let name = marker_name(pipeline, &table.name);
    let marker = markers.get(&name, deadline).await?;
    Ok(marker.is_some_and(|marker| marker.contains_key(SETTLING)))
}

struct Pair<'a> {
    table: &'a Table,
    markers: &'a Deduper,
    layout: &'a str,
    binding: &'a Binding,
    deadline: Deadline,
}

impl<'a> Pair<'a> {
    fn of(
        table: &'a Table,
        markers: &'a Deduper,
        layout: &'a str,
        binding: &'a Binding,
        deadline: Deadline,
    ) -> Result<Self, StoreError> {
        let pair = Self {
            table,
            markers,
            layout,
            binding,
            deadline,
        };
        match table.name == markers.table.name {
            true => Err(pair.setup(
                "the marker table is the state table itself; give the pipeline a marker table of \
                 its own, as `create_dedup_table` makes it",
            )),
            false => Ok(pair),
        }
    }

    /// Takes one step towards a complete pair. Returns `true` if the pair is complete and belongs
    /// to this binding.
    ///
    /// The marker row is written first, then the state row with the same life, and then the marker
    /// row is marked as paired. A process that finds the pair half made continues from there.
    async fn complete(&self) -> Result<bool, StoreError> {
        let name = self.name();
        match self.look(&name).await? {
            (None, None) => {
                if !self.may_begin(&name).await? {
                    return Ok(false);
                }
                let life = self.table.token(&self.place())?;
                let row = self.row(PK, AttributeValue::S(name), &life);
                self.put(&self.markers.table, row).await?;
                Ok(false)
            }
            (Some(marker), None) => {
                let life = text(&self.place(), &marker, LIFE, CONTROL)?;
                let mut row = self.row(PK, AttributeValue::S(ENTITY.to_owned()), life);
                row.insert(SK.to_owned(), number(BUCKET));
                self.put(self.table, row).await?;
                Ok(false)
            }
            (None, Some(_)) => Ok(false),
            (Some(marker), Some(_)) => {
                let missing = self.missing(&marker);
                if missing.is_empty() && marker.contains_key(PAIRED) {
                    return Ok(true);
                }
                self.note(&marker, missing, name).await?;
                Ok(false)
            }
        }
    }

    /// The marker row, if both rows exist and belong to this binding, or `None` if the rows must be
    /// read again.
    async fn found(&self) -> Result<Option<Item>, StoreError> {
        match self.look(&self.name()).await? {
            (Some(marker), Some(_)) => Ok(Some(marker)),
            (None, Some(_)) => Ok(None),
            (_, None) => Err(self.setup(
                "it belongs to no pipeline yet, so there is nothing to compare; check the names \
                 of the tables, and bootstrap the pipeline or start streaming first",
            )),
        }
    }

    /// Reads the marker row called `name` and the state row, as far as they exist, and checks that
    /// they belong to this binding and to one pair. A state row without its marker row means that
    /// another process made the pair between the two reads.
    async fn look(&self, name: &str) -> Result<(Option<Item>, Option<Item>), StoreError> {
        let marker = self.markers.get(name, self.deadline).await?;
        let key = Key::new(ENTITY, BUCKET).map_err(StoreError::InvalidId)?;
        let state = self.table.get_row(&key, self.deadline).await?;
        for row in [&state, &marker].into_iter().flatten() {
            self.admit(row)?;
        }
        match (&marker, &state) {
            (Some(marker), None) if marker.contains_key(PAIRED) => Err(self.setup(&format!(
                "the marker table `{}` remembers events of an earlier table of this name; if the \
                 state table was made again, make a new marker table as well",
                self.markers.table.name
            ))),
            // The state row is the later of the two.
            (None, Some(state)) if self.markers.get(name, self.deadline).await?.is_none() => {
                let used = text(&self.place(), state, MARKER_TABLE, CONTROL)?;
                Err(self.setup(&format!(
                    "its events are remembered in the marker table `{used}`, not in `{}`; use \
                     `{used}`, or start over with an empty state table",
                    self.markers.table.name
                )))
            }
            (Some(marker), Some(state)) if marker.get(LIFE) != state.get(LIFE) => {
                Err(self.setup(&format!(
                    "it and the marker table `{}` do not belong together: one of them was made \
                     again; start over with two new, empty tables of other names",
                    self.markers.table.name
                )))
            }
            _ => Ok((marker, state)),
        }
    }

    /// Whether a pair may be made for a state table that had no control row a moment ago. A ledger
    /// must start with an empty table, because existing rows would be in no contribution.
    async fn may_begin(&self, name: &str) -> Result<bool, StoreError> {
        if &*self.binding.mode != LEDGER_MODE {
            return Ok(true);
        }
        let whole = ListSegment::WHOLE;
        let page = self.table.scan(None, None, Some(1), whole, self.deadline);
        let rows = page.await?.rows;
        if rows.is_empty() {
            return Ok(true);
        }
        // A process that writes rows has made the pair before, perhaps just now.
        match self.markers.get(name, self.deadline).await? {
            Some(_) => Ok(false),
            None => Err(self.setup(
                "it already has rows that are in no ledger; give a pipeline with a ledger an \
                 empty state table, as `create_int64_table` makes it",
            )),
        }
    }

    /// The stream that a row names.
    fn stream(&self, row: &Item) -> Result<Option<Arc<str>>, StoreError> {
        let named = row.contains_key(STREAM);
        let read = || text(&self.place(), row, STREAM, CONTROL).map(Into::into);
        named.then(read).transpose()
    }

    /// Refuses a row that names another owner.
    fn admit(&self, row: &Item) -> Result<(), StoreError> {
        let place = self.place();
        let read = |attribute| text(&place, row, attribute, CONTROL);
        let found = Binding {
            pipeline: PipelineName::new(read(PIPELINE)?).map_err(StoreError::InvalidId)?,
            version: integer(&place, row, VERSION, "a version")?,
            mode: read(MODE)?.into(),
            // Rows of earlier releases have no definition. The first process to bind adds its own.
            definition: match row.contains_key(DEFINITION) {
                true => read(DEFINITION)?.into(),
                false => Arc::clone(&self.binding.definition),
            },
            stream: self.stream(row)?,
        };
        if let Some(region) = self.region()
            && row.contains_key(REGION)
            && read(REGION)? != region
        {
            let found = read(REGION)?;
            return Err(self.setup(&format!(
                "the pipeline writes it in region `{found}`, and this is `{region}`: if two \
                 regions write one global table, the later write of a row replaces the other's and \
                 totals are lost. Run the pipeline in `{found}` only. After a failover, start over \
                 with empty tables and a bootstrap, because a replica may lack the last writes"
            )));
        }
        let layout = read(LAYOUT)?;
        if found.admits(self.binding) && layout == self.layout {
            return Ok(());
        }
        Err(StoreError::OtherOwner {
            found: format!("{found}, kept as {layout}").into(),
            wanted: format!("{}, kept as {}", self.binding, self.layout).into(),
            place,
        })
    }

    fn row(&self, key: &str, name: AttributeValue, life: &str) -> Item {
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let mut row = HashMap::from([(key.to_owned(), name)]);
        row.extend(
            self.region()
                .map(|region| (REGION.to_owned(), text(region))),
        );
        for (attribute, value) in [
            (PIPELINE, text(self.binding.pipeline.as_str())),
            (VERSION, number(self.binding.version)),
            (MODE, text(&self.binding.mode)),
            (DEFINITION, text(&self.binding.definition)),
            (LAYOUT, text(self.layout)),
            (STATE_TABLE, text(&self.table.name)),
            (MARKER_TABLE, text(&self.markers.table.name)),
            (LIFE, text(life)),
        ] {
            row.insert(attribute.to_owned(), value);
        }
        row
    }

    /// What the marker row of a complete pair lacks: a stream that is named for the first time, or
    /// attributes that rows of earlier releases do not have.
    fn missing(&self, marker: &Item) -> Vec<(&'static str, String)> {
        let Binding {
            definition, stream, ..
        } = self.binding;
        let said = [
            (DEFINITION, Some(&**definition)),
            (REGION, self.region()),
            (STREAM, stream.as_deref()),
        ];
        let missing = said
            .into_iter()
            .filter(|(name, _)| !marker.contains_key(*name));
        missing
            .filter_map(|(name, value)| Some((name, value?.to_owned())))
            .collect()
    }

    /// The region of the tables, according to the client.
    fn region(&self) -> Option<&str> {
        self.table.client.config().region().map(AsRef::as_ref)
    }

    /// Puts a control row if there is none. The next step checks a row that was there first.
    ///
    /// A plain put would do, but a transaction also finds out, before anything is stored, that a
    /// table supports no transactions and so cannot hold what an exact mode writes. This need not
    /// be checked again: only an empty table can become such a table.
    async fn put(&self, table: &Table, row: Item) -> Result<(), StoreError> {
        let place = table.place();
        let put = Put::builder()
            .table_name(&*table.name)
            .set_item(Some(row))
            .condition_expression("attribute_not_exists(pk)")
            .build();
        let put = put.map_err(|error| self.setup(&error.to_string()))?;
        let action = TransactWriteItem::builder().put(put).build();
        match table.transact(&place, vec![action], self.deadline).await {
            Ok(Transacted::Done) => Ok(()),
            Ok(Transacted::Cancelled(reasons)) => {
                let failed = reasons.into_iter().find_map(|reason| match reason {
                    Reason::Failed(error) => Some(error),
                    Reason::None | Reason::Refused(_) => None,
                });
                failed.map_or(Ok(()), Err)
            }
            Err(error) => Err(match refused_as_invalid(&error) {
                None => error,
                Some(message) => StoreError::Setup {
                    place,
                    advice: format!(
                        "it takes no transactions ({message}), but the exact modes need them; \
                         global tables of multi-region strong consistency (MRSC) have none, and no \
                         Time to Live: make the state and marker tables as tables of one region"
                    ),
                    source: Some(Arc::new(error)),
                },
            }),
        }
    }

    /// Records in the marker row that the pair is complete, and adds what the row lacks.
    async fn note(
        &self,
        marker: &Item,
        missing: Vec<(&'static str, String)>,
        name: String,
    ) -> Result<(), StoreError> {
        let place = self.place();
        let table = &self.markers.table;
        let life = text(&place, marker, LIFE, CONTROL)?;
        let mut change = Change::default()
            .set("paired = :paired")
            .value(":paired", AttributeValue::Bool(true))
            .only_if("life = :life")
            .value(":life", AttributeValue::S(life.to_owned()));
        for (attribute, said) in missing {
            let (set, only_if) = match attribute {
                DEFINITION => (
                    "#definition = :definition",
                    "(attribute_not_exists(#definition) OR #definition = :definition)",
                ),
                REGION => (
                    "#region = :region",
                    "(attribute_not_exists(#region) OR #region = :region)",
                ),
                _ => (
                    "#stream = :stream",
                    "(attribute_not_exists(#stream) OR #stream = :stream)",
                ),
            };
            change = change
                .set(set)
                .only_if(only_if)
                .value(format!(":{attribute}"), AttributeValue::S(said));
        }
        let key = HashMap::from([(PK.to_owned(), AttributeValue::S(name))]);
        let written = table.write(&place, key, change, None, self.deadline);
        // If the update is refused, another process was first or the life differs. The next step
        // tells which.
        written.await.map(|_| ())
    }

    /// Records in the marker row that items settle. Returns whether the row was still of this pair.
    async fn note_settling(&self, marker: &Item) -> Result<bool, StoreError> {
        let place = self.place();
        let life = text(&place, marker, LIFE, CONTROL)?;
        let change = Change::default()
            .set("settling = :settling")
            .value(":settling", AttributeValue::Bool(true))
            .only_if("life = :life")
            .value(":life", AttributeValue::S(life.to_owned()));
        let key = HashMap::from([(PK.to_owned(), AttributeValue::S(self.name()))]);
        let table = &self.markers.table;
        let written = table
            .write(&place, key, change, None, self.deadline)
            .await?;
        Ok(matches!(written, Written::Done(_)))
    }

    /// The name of the marker row.
    fn name(&self) -> String {
        marker_name(&self.binding.pipeline, &self.table.name)
    }

    fn place(&self) -> Place {
        self.table.place()
    }

    /// Other processes were writing the pair at every read.
    fn conflict(&self) -> StoreError {
        StoreError::Conflict {
            place: self.place(),
            source: None,
        }
    }

    fn setup(&self, advice: &str) -> StoreError {
        StoreError::Setup {
            place: self.place(),
            advice: advice.to_owned(),
            source: None,
        }
    }
}

/// The service's message, if it refused a transaction as invalid.
fn refused_as_invalid(error: &StoreError) -> Option<String> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let cause = error.downcast_ref::<Cause>();
        let error = cause.map_or(error, |cause| &**cause);
        if let Some(refused) = error.downcast_ref::<SdkError<TransactWriteItemsError>>() {
            let invalid = refused.code() == Some("ValidationException");
            return invalid.then(|| refused.message().unwrap_or_default().to_owned());
        }
        source = error.source();
    }
    None
}

fn marker_name(pipeline: &PipelineName, state_table: &str) -> String {
    pipeline.marker("owner", &[state_table])
}
