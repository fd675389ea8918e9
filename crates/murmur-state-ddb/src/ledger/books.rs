use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use murmur_state::error::Place;
use murmur_state::store::{LedgerEntry, ListSegment, Listed};
use murmur_state::{Deadline, ItemId, PipelineName, StoreError, Timestamp};

use super::entry;
use super::settled::Settled;
use crate::attribute::{PK, text};
use crate::deduper::Deduper;
use crate::once::Slots;
use crate::rows::Scanned;
use crate::table::Table;

/// What the key of a marker row should be.
const NAME: &str = "a string";

/// The ledger of a state table, as one call uses it.
pub(crate) struct Books<'a, C> {
    pub(crate) table: &'a Table,
    pub(crate) markers: &'a Deduper,
    pub(crate) cell: &'a C,
    pub(crate) slots: &'a Slots,
    pub(crate) settled: &'a Settled,
    pub(crate) pipeline: &'a PipelineName,
    pub(crate) deadline: Deadline,
}

impl<C> Books<'_, C> {
    /// What is known about each of `items`.
    pub(crate) async fn known(
        &self,
        items: &[ItemId],
    ) -> Result<Vec<Option<LedgerEntry<i64>>>, StoreError> {
        let name = |item| entry::name(self.pipeline, &self.table.name, item);
        let names: Vec<String> = items.iter().map(name).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.look(&names, true).await?.into_iter().collect()
    }

    /// The content of each of the rows called `names`, if it exists and can be read.
    pub(super) async fn look(
        &self,
        names: &[&str],
        consistent: bool,
    ) -> Result<Vec<Result<Option<LedgerEntry<i64>>, StoreError>>, StoreError> {
        let rows = self.markers.get_many(names, consistent, self.deadline);
        let rows = rows.await?;
        let place = self.markers.table.place();
        let mut found = HashMap::with_capacity(rows.len());
        for row in &rows {
            found.insert(text(&place, row, PK, NAME)?, row);
        }
        let known = |name: &&str| {
            let row = found.get(name);
            row.map(|row| entry::known(&self.place_of(name), row))
                .transpose()
        };
        Ok(names.iter().map(known).collect())
    }

    /// The row called `name` in the ledger.
    pub(super) fn place_of(&self, name: &str) -> Place {
        let place = self.markers.place(name);
        place.unwrap_or_else(|_| self.markers.table.place())
    }

    /// A part of everything that is known.
    pub(crate) async fn list(
        &self,
        segment: ListSegment,
        after: Option<&str>,
    ) -> Result<Listed<LedgerEntry<i64>>, StoreError> {
        let markers = &self.markers.table;
        let place = markers.place();
        let start = after.map(|after| {
            let name = AttributeValue::S(after.to_owned());
            HashMap::from([(PK.to_owned(), name)])
        });
        let prefix = entry::prefix(self.pipeline);
        let page = markers.scan(start, Some(&prefix), None, segment, self.deadline);
        let Scanned {
            rows,
            last,
            read_units,
        } = page.await?;
        let mut entries = Vec::with_capacity(rows.len());
        for row in rows {
            let name = text(&place, &row, PK, NAME)?;
            let place = self.place_of(name);
            let item = entry::item(&place, &row)?;
            // Other state tables of this pipeline, such as those of earlier versions, have ledgers
            // here too.
            if entry::name(self.pipeline, &self.table.name, &item) == name {
                entries.push(entry::known(&place, &row)?);
            }
        }
        let last = last.as_ref().map(|last| text(&place, last, PK, NAME));
        Ok(Listed {
            entries,
            next: last.transpose()?.map(str::to_owned),
            read_units,
        })
    }

    pub(super) fn now(&self) -> Timestamp {
        self.table.options.clock.now()
    }
}
