//! Control rows: whom a state table belongs to, and to which marker table.
//!
//! One row in the state table and one in the marker table say the same, and carry the same random
//! `life`, drawn when the pair is made. So it shows when either table is replaced or emptied
//! while the other still remembers: its ids would be missing, or those of rows that are gone
//! would be taken for theirs.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use murmur_state::{
    Binding, Deadline, Key, LEDGER_MODE, ListSegment, PipelineName, Place, StoreError,
};

use crate::attribute::{Item, PK, SK, STREAM, integer, number, text};
use crate::change::Change;
use crate::deduper::Deduper;
use crate::error::written;
use crate::table::Table;

/// The entity of the state table's control row. Its bucket is one that no window gives.
const ENTITY: &str = "#murmur";
const BUCKET: i64 = i64::MIN;

/// How often the pair is read again because somebody else was at it.
const LOOKS: u32 = 10;

/// What their attributes should be.
const CONTROL: &str = "a text, as Murmur's control rows have it";

const PIPELINE: &str = "pipeline";
const VERSION: &str = "version";
const MODE: &str = "mode";
const LAYOUT: &str = "layout";
const STATE_TABLE: &str = "state_table";
const MARKER_TABLE: &str = "marker_table";
/// What the two rows of a pair have in common.
const LIFE: &str = "life";
/// In the marker table's row: the state table's row is there, too.
const PAIRED: &str = "paired";

/// Whether the row at `key` says whom a state table belongs to, and is no state.
pub(crate) fn is_control_row(key: &Key) -> bool {
    (key.entity(), key.bucket()) == (ENTITY, BUCKET)
}

/// Makes `table` belong to `binding`, with its markers in `markers`, or sees that it does.
/// `layout` is how the store keeps values and ids.
pub(crate) async fn bind(
    table: &Table,
    markers: &Deduper,
    layout: &str,
    binding: &Binding,
    deadline: Deadline,
) -> Result<(), StoreError> {
    let pair = Pair {
        table,
        markers,
        layout,
        binding,
        deadline,
    };
    if table.name == markers.table.name {
        return Err(pair.setup(
            "the marker table is the state table itself; give the pipeline a marker table of \
             its own, as `create_dedup_table` makes it",
        ));
    }
    for _ in 0..LOOKS {
        if pair.complete().await? {
            return Ok(());
        }
    }
    Err(StoreError::Conflict {
        place: pair.place(),
        source: None,
    })
}

struct Pair<'a> {
    table: &'a Table,
    markers: &'a Deduper,
    layout: &'a str,
    binding: &'a Binding,
    deadline: Deadline,
}

impl Pair<'_> {
    /// One step towards a complete pair; `true` if it is complete, and this binding's.
    ///
    /// The marker row is written first, then the state row with its life, then the marker row is
    /// told so. Whoever finds the pair half made goes on where the other stopped.
    async fn complete(&self) -> Result<bool, StoreError> {
        let name = marker_name(&self.binding.pipeline, &self.table.name);
        let marker = self.markers.get(&name, self.deadline).await?;
        let key = Key::new(ENTITY, BUCKET).map_err(StoreError::InvalidId)?;
        let state = self.table.get_row(&key, self.deadline).await?;
        for row in [&state, &marker].into_iter().flatten() {
            self.admit(row)?;
        }
        let life = |row: &Option<Item>| row.as_ref().and_then(|row| row.get(LIFE)).cloned();
        match (&marker, &state) {
            (None, None) => {
                if !self.may_begin(&name).await? {
                    return Ok(false);
                }
                let life = self.table.token(&self.place())?;
                let row = self.row(PK, AttributeValue::S(name), &life);
                self.put(&self.markers.table, row).await?;
                Ok(false)
            }
            (Some(marker), None) if !marker.contains_key(PAIRED) => {
                let life = text(&self.place(), marker, LIFE, CONTROL)?;
                let mut row = self.row(PK, AttributeValue::S(ENTITY.to_owned()), life);
                row.insert(SK.to_owned(), number(BUCKET));
                self.put(self.table, row).await?;
                Ok(false)
            }
            (Some(_), None) => Err(self.setup(&format!(
                "the marker table `{}` remembers events of an earlier table of this name; after \
                 the state table was made anew, make a new marker table as well",
                self.markers.table.name
            ))),
            // The state row is the later of the two: unless the pair was made between the looks,
            // its marker row is gone.
            (None, Some(_)) if self.markers.get(&name, self.deadline).await?.is_some() => Ok(false),
            (None, Some(state)) => {
                let used = text(&self.place(), state, MARKER_TABLE, CONTROL)?;
                Err(self.setup(&format!(
                    "its events are remembered in the marker table `{used}`, and `{}` knows \
                     nothing of it; use that table, or begin anew with an empty state table",
                    self.markers.table.name
                )))
            }
            (Some(_), Some(_)) if life(&marker) != life(&state) => Err(self.setup(&format!(
                "it and the marker table `{}` do not belong together: one of them was made anew; \
                 begin anew with both tables empty",
                self.markers.table.name
            ))),
            (Some(marker), Some(_)) => {
                let paired = marker.contains_key(PAIRED);
                let named = marker.contains_key(STREAM) || self.binding.stream.is_none();
                if paired && named {
                    return Ok(true);
                }
                self.note(marker, name).await?;
                Ok(false)
            }
        }
    }

    /// Whether a pair may be made of a state table that had no control row a moment ago. A ledger
    /// begins in an empty table: what is there already would be in no contribution.
    async fn may_begin(&self, name: &str) -> Result<bool, StoreError> {
        if &*self.binding.mode != LEDGER_MODE {
            return Ok(true);
        }
        let page = self.table.scan(None, None, Some(1), ListSegment::WHOLE);
        let rows = page.await?.rows;
        if rows.is_empty() {
            return Ok(true);
        }
        // Whoever writes rows has made the pair before: it may have been made just now.
        match self.markers.get(name, self.deadline).await? {
            Some(_) => Ok(false),
            None => Err(self.setup(
                "it has rows already that no ledger knows of; give a pipeline with a ledger an \
                 empty state table, as `create_int64_table` makes it",
            )),
        }
    }

    /// Refuses a row that names another owner.
    fn admit(&self, row: &Item) -> Result<(), StoreError> {
        let place = self.place();
        let read = |attribute| text(&place, row, attribute, CONTROL);
        let found = Binding {
            pipeline: PipelineName::new(read(PIPELINE)?).map_err(StoreError::InvalidId)?,
            version: integer(&place, row, VERSION, "a version")?,
            mode: read(MODE)?.into(),
            stream: row
                .contains_key(STREAM)
                .then(|| read(STREAM).map(Into::into))
                .transpose()?,
        };
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
        for (attribute, value) in [
            (PIPELINE, text(self.binding.pipeline.as_str())),
            (VERSION, number(self.binding.version)),
            (MODE, text(&self.binding.mode)),
            (LAYOUT, text(self.layout)),
            (STATE_TABLE, text(&self.table.name)),
            (MARKER_TABLE, text(&self.markers.table.name)),
            (LIFE, text(life)),
        ] {
            row.insert(attribute.to_owned(), value);
        }
        row
    }

    /// Puts a control row where none is. One that came first is looked at in the next step.
    async fn put(&self, table: &Table, row: Item) -> Result<(), StoreError> {
        let place = self.place();
        let sent = table
            .client
            .put_item()
            .table_name(&*table.name)
            .set_item(Some(row))
            .condition_expression("attribute_not_exists(pk)")
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .customize()
            .config_override(table.write_once(&place, self.deadline)?)
            .send()
            .await;
        written(&place, sent).map(|_| ())
    }

    /// Notes in the marker row that the pair is complete, and the stream where it is new.
    async fn note(&self, marker: &Item, name: String) -> Result<(), StoreError> {
        let place = self.place();
        let table = &self.markers.table;
        let life = text(&place, marker, LIFE, CONTROL)?;
        let mut change = Change::default()
            .set("paired = :paired")
            .value(":paired", AttributeValue::Bool(true))
            .only_if("life = :life")
            .value(":life", AttributeValue::S(life.to_owned()));
        if let Some(stream) = &self.binding.stream {
            let stream = AttributeValue::S(stream.as_ref().to_owned());
            change = change
                .set("#stream = :stream")
                .only_if("(attribute_not_exists(#stream) OR #stream = :stream)")
                .value(":stream", stream);
        }
        let key = HashMap::from([(PK.to_owned(), AttributeValue::S(name))]);
        let written = table.write(&place, key, change, None, self.deadline);
        // Refused, another stream came first, or another life: the next step says which.
        written.await.map(|_| ())
    }

    fn place(&self) -> Place {
        self.table.place()
    }

    fn setup(&self, advice: &str) -> StoreError {
        StoreError::Setup {
            place: self.place(),
            advice: advice.to_owned(),
            source: None,
        }
    }
}

fn marker_name(pipeline: &PipelineName, state_table: &str) -> String {
    pipeline.marker("owner", &[state_table])
}
