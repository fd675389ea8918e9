//! Reads single items of the table.

use aws_sdk_dynamodb::types::ReturnConsumedCapacity;
use murmur_core::item_key;
use murmur_snapshot::lookup::{Look, LookedUp};
use murmur_snapshot::{Lookup, SourceError};
use murmur_state::ItemId;

use crate::attributes::Attributes;
use crate::error::{self, Operation};
use crate::parallel_scan::ParallelScan;

/// Looks items up by GetItem, always strongly consistent, one read unit per 4 KB. The scan's filter
/// is not applied. A scan with a filter does not hold every item.
impl Lookup for ParallelScan {
    fn holds_every_item(&self) -> Result<(), SourceError> {
        match self.settings().filter {
            None => Ok(()),
            Some(_) => Err(error::setup(
                self.settings(),
                "its `filter` leaves items out, which cannot be told from items that are gone; scan \
                 without the filter here",
            )),
        }
    }

    async fn look_up(&self, item: &ItemId) -> Result<Look, SourceError> {
        let table = self.described().await?;
        let key: Option<Attributes> = item_key(item).map(Into::into);
        let key = key.filter(|key| {
            let own = table.keys_of(key);
            own.is_ok_and(|own| own.len() == key.len())
        });
        let key = key.ok_or_else(|| {
            error::setup(
                self.settings(),
                format!(
                    "{item} is not the key of an item of it; check that the state was counted from \
                     this table"
                ),
            )
        })?;
        let settings = self.settings();
        let answer = settings
            .client
            .get_item()
            .table_name(&settings.table)
            .set_key(Some(key))
            .consistent_read(true)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .customize()
            .config_override(settings.of_requests())
            .send()
            .await
            .map_err(|error| error::of(settings, Operation::GetItem, error))?;
        let found = match answer.item.filter(|item| !item.is_empty()) {
            None => LookedUp::Gone,
            Some(attributes) => match self.row(table, attributes) {
                Ok(row) => LookedUp::Row(row),
                Err(bad) => LookedUp::Bad(bad),
            },
        };
        let used = answer.consumed_capacity;
        Ok(Look::new(found, used.and_then(|used| used.capacity_units)))
    }
}
