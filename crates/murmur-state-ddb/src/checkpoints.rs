use aws_sdk_dynamodb::types::{AttributeValue, ReturnValuesOnConditionCheckFailure};
use futures::FutureExt;
use futures::future::BoxFuture;
use murmur_state::{Checkpoint, Checkpoints, Deadline, Place, Removed, Saved, StoreError};

use crate::attribute::{DATA, Item, PK, VER, integer, number, wrong_shape};
use crate::deduper::Deduper;
use crate::error::{Written, written};

/// Checkpoints as rows of the marker table: `data`, `ver`, and no `ttl`. Data is limited by the
/// item size, 400 KB.
impl Checkpoints for Deduper {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        async move {
            let place = self.place(name)?;
            let row = self.get(name, Deadline::NONE).await?;
            row.map(|row| checkpoint(&place, &row)).transpose()
        }
        .boxed()
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        async move {
            let place = self.place(name)?;
            let version = over.map_or(1, |over| over.saturating_add(1));
            let saved = Checkpoint {
                data: data.to_owned(),
                version,
            };
            let mut put = self
                .table
                .client
                .put_item()
                .table_name(&*self.table.name)
                .item(PK, AttributeValue::S(name.to_owned()))
                .item(DATA, AttributeValue::S(saved.data.clone()))
                .item(VER, number(version))
                .return_values_on_condition_check_failure(
                    ReturnValuesOnConditionCheckFailure::AllOld,
                );
            put = match over {
                None => put.condition_expression("attribute_not_exists(pk)"),
                Some(over) => put
                    .condition_expression("ver = :over")
                    .expression_attribute_values(":over", number(over)),
            };
            let once = self.table.write_once(&place, Deadline::NONE)?;
            let result = put.customize().config_override(once).send().await;
            match written(&place, result)? {
                Written::Done(_) => Ok(Saved::Version(version)),
                Written::Refused(row) if row.is_empty() => Ok(Saved::Conflict),
                // One's own save whose answer was lost is found as it was made.
                Written::Refused(row) if checkpoint(&place, &row)? == saved => {
                    Ok(Saved::Version(version))
                }
                Written::Refused(_) => Ok(Saved::Conflict),
            }
        }
        .boxed()
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        async move {
            let place = self.place(name)?;
            let result = self
                .table
                .client
                .delete_item()
                .table_name(&*self.table.name)
                .key(PK, AttributeValue::S(name.to_owned()))
                .condition_expression("attribute_not_exists(pk) OR ver = :over")
                .expression_attribute_values(":over", number(over))
                .return_values_on_condition_check_failure(
                    ReturnValuesOnConditionCheckFailure::AllOld,
                )
                .customize()
                .config_override(self.table.write_once(&place, Deadline::NONE)?)
                .send()
                .await;
            match written(&place, result)? {
                Written::Done(_) => Ok(Removed::Gone),
                // A row that is no checkpoint is nobody's save.
                Written::Refused(row) => checkpoint(&place, &row).map(|_| Removed::Conflict),
            }
        }
        .boxed()
    }
}

fn checkpoint(place: &Place, row: &Item) -> Result<Checkpoint, StoreError> {
    match row.get(DATA) {
        Some(AttributeValue::S(data)) => Ok(Checkpoint {
            data: data.clone(),
            version: integer(place, row, VER, "the version of a checkpoint")?,
        }),
        _ => Err(wrong_shape(place, row, DATA, "the text of a checkpoint")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::any_rows::{holds, look_at};

    #[test]
    fn no_row_is_taken_for_another_checkpoint() {
        let place = Place::table("Deduper", "markers");
        let good = Item::from([
            (PK.to_owned(), AttributeValue::S("likes/run/".into())),
            (DATA.to_owned(), AttributeValue::S("{}".into())),
            (VER.to_owned(), number(u64::MAX)),
        ]);
        look_at(&[good], &[], |row| {
            let Ok(Checkpoint { data, version }) = checkpoint(&place, row) else {
                return false;
            };
            assert!(holds(row, DATA, Some(&AttributeValue::S(data))), "{row:?}");
            assert!(holds(row, VER, Some(&number(version))), "{row:?}");
            true
        });
    }
}
