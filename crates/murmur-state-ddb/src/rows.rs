//! Rows of a state table, read in bulk and written one by one under the conditions of the modes.

use std::collections::{HashMap, HashSet};
use std::iter;

use aws_sdk_dynamodb::operation::put_item::PutItemOutput;
use aws_sdk_dynamodb::operation::put_item::builders::PutItemFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::UpdateItemOutput;
use aws_sdk_dynamodb::types::{
    AttributeValue, KeysAndAttributes, ReturnConsumedCapacity, ReturnValue,
    ReturnValuesOnConditionCheckFailure, TransactWriteItem,
};
use futures::{StreamExt, TryStreamExt, stream};
use murmur_state::error::Place;
use murmur_state::store::{Add, ListSegment, Listed, StateRow};
use murmur_state::{Deadline, Key, RetryPolicy, StoreError};

use crate::attribute::{Item, NO_TRACES, PK, SK, TTL, integer, no_traces, row_key, wrong_shape};
use crate::change::Change;
use crate::error::{
    Access, Reason, Transacted, Written, store_error, transacted, unbuilt, written,
};
use crate::owner;
use crate::table::Table;

/// Keys of one BatchGetItem (API reference, BatchGetItem).
pub(crate) const KEYS_PER_READ: usize = 100;

/// Consecutive answers without an item after which a read fails as throttled.
const FRUITLESS: u32 = 10;

/// A page of a table.
pub(crate) struct Scanned {
    pub(crate) rows: Vec<Item>,
    /// The key of the last item that was evaluated, or `None` for the last page.
    pub(crate) last: Option<Item>,
    /// What the page cost, if the server says so.
    pub(crate) read_units: Option<f64>,
}

impl Table {
    /// The values of `keys`, one answer for each, in their order.
    pub(crate) async fn get_many<V: Clone>(
        &self,
        keys: &[Key],
        decode: impl Fn(&Key, &Item) -> Result<V, StoreError>,
    ) -> Result<Vec<Option<V>>, StoreError> {
        let mut seen = HashSet::with_capacity(keys.len());
        let distinct = keys.iter().filter(|key| seen.insert(*key));
        let rows = distinct.map(row_key).collect();
        let consistent = self.options.consistent_reads;
        let rows = self.get_items(rows, consistent, Deadline::NONE).await?;
        let mut values = HashMap::with_capacity(rows.len());
        for row in rows {
            let key = self.key_of(&row)?;
            let value = decode(&key, &row)?;
            values.insert(key, value);
        }
        Ok(keys.iter().map(|key| values.get(key).cloned()).collect())
    }

    /// One row, read consistently.
    pub(crate) async fn get_row(
        &self,
        key: &Key,
        deadline: Deadline,
    ) -> Result<Option<Item>, StoreError> {
        let place = self.place().at(key);
        let rows = self.get_chunk(&place, vec![row_key(key)], true, deadline);
        Ok(rows.await?.into_iter().next())
    }

    /// One row, read eventually consistently for half the read units.
    pub(crate) async fn peek_row(
        &self,
        key: &Key,
        deadline: Deadline,
    ) -> Result<Option<Item>, StoreError> {
        let place = self.place().at(key);
        let rows = self.get_chunk(&place, vec![row_key(key)], false, deadline);
        Ok(rows.await?.into_iter().next())
    }

    /// The items that exist for distinct `keys`, in no particular order.
    pub(crate) async fn get_items(
        &self,
        keys: Vec<Item>,
        consistent: bool,
        deadline: Deadline,
    ) -> Result<Vec<Item>, StoreError> {
        let place = &self.place();
        let mut keys = keys.into_iter();
        let chunks = iter::from_fn(|| {
            let chunk: Vec<_> = keys.by_ref().take(KEYS_PER_READ).collect();
            (!chunk.is_empty()).then_some(chunk)
        });
        let chunks: Vec<_> = chunks
            .map(|chunk| self.get_chunk(place, chunk, consistent, deadline))
            .collect();
        let items: Vec<Vec<Item>> = stream::iter(chunks)
            .buffer_unordered(self.options.concurrency)
            .try_collect()
            .await?;
        Ok(items.into_iter().flatten().collect())
    }

    /// The items of up to 100 distinct keys. Unprocessed keys are requested again.
    async fn get_chunk(
        &self,
        place: &Place,
        mut pending: Vec<Item>,
        consistent: bool,
        deadline: Deadline,
    ) -> Result<Vec<Item>, StoreError> {
        let mut items = Vec::with_capacity(pending.len());
        let mut fruitless = 0;
        while !pending.is_empty() {
            let asked = pending.len();
            let request = KeysAndAttributes::builder()
                .set_keys(Some(pending))
                .consistent_read(consistent)
                .build()
                .map_err(|error| unbuilt(place, error))?;
            let answer = self
                .client
                .batch_get_item()
                .request_items(&*self.name, request)
                .customize()
                .config_override(self.read(place, deadline)?)
                .send()
                .await
                .map_err(|error| store_error(place, Access::Read, error))?;
            let found = answer.responses.into_iter().flatten();
            items.extend(found.flat_map(|(_, items)| items));
            let left = answer.unprocessed_keys.into_iter().flatten();
            pending = left.flat_map(|(_, left)| left.keys).collect();
            if pending.is_empty() {
                break;
            }
            fruitless = if pending.len() < asked {
                0
            } else {
                fruitless + 1
            };
            if fruitless == FRUITLESS {
                return Err(StoreError::Throttled {
                    place: place.clone(),
                    source: None,
                });
            }
            tracing::debug!(table = %self.name, left = pending.len(), "unprocessed keys");
            self.pause(place, &RetryPolicy::default(), fruitless, deadline)
                .await?;
        }
        Ok(items)
    }

    /// A part of all rows, without the control row.
    pub(crate) async fn list<V>(
        &self,
        after: Option<&str>,
        decode: impl Fn(&Key, &Item) -> Result<V, StoreError>,
    ) -> Result<Listed<StateRow<V>>, StoreError> {
        let start = after.map(|after| self.key_named(after)).transpose()?;
        let Scanned {
            rows,
            last,
            read_units,
        } = self
            .scan(
                start.as_ref().map(row_key),
                None,
                None,
                ListSegment::WHOLE,
                Deadline::NONE,
            )
            .await?;
        let mut entries = Vec::with_capacity(rows.len());
        for row in rows {
            let key = self.key_of(&row)?;
            if owner::is_control_row(&key) {
                continue;
            }
            let place = self.place().at(&key);
            let expires = row.contains_key(TTL);
            let ttl = || integer(&place, &row, TTL, "a time in seconds");
            entries.push(StateRow {
                value: decode(&key, &row)?,
                ttl: expires.then(ttl).transpose()?,
                key,
            });
        }
        let last = last.map(|last| self.key_of(&last)).transpose()?;
        Ok(Listed {
            entries,
            next: last.as_ref().map(listed_at),
            read_units,
        })
    }

    /// The key at which a listing continues.
    fn key_named(&self, text: &str) -> Result<Key, StoreError> {
        let parts = text.split_once('/');
        let key = parts.and_then(|(bucket, entity)| Key::new(entity, bucket.parse().ok()?).ok());
        let key = key.filter(|key| listed_at(key) == text);
        key.ok_or_else(|| StoreError::Setup {
            place: self.place(),
            advice: format!(
                "a listing cannot go on at `{text}`; give back what the part before it said"
            ),
            source: None,
        })
    }

    /// A page of the items of a segment of the table, read consistently. With `prefix`, only items
    /// whose `pk` begins with it. `limit` is the number of items that are evaluated.
    pub(crate) async fn scan(
        &self,
        start: Option<Item>,
        prefix: Option<&str>,
        limit: Option<i32>,
        segment: ListSegment,
        deadline: Deadline,
    ) -> Result<Scanned, StoreError> {
        let place = self.place();
        let mut request = self
            .client
            .scan()
            .table_name(&*self.name)
            .consistent_read(true)
            .return_consumed_capacity(ReturnConsumedCapacity::Total)
            .set_limit(limit)
            .set_exclusive_start_key(start);
        if segment != ListSegment::WHOLE {
            request = request
                .segment(segment.number().cast_signed())
                .total_segments(segment.of().get().cast_signed());
        }
        if let Some(prefix) = prefix {
            request = request
                .filter_expression("begins_with(pk, :prefix)")
                .expression_attribute_values(":prefix", AttributeValue::S(prefix.to_owned()));
        }
        let answer = request
            .customize()
            .config_override(self.read(&place, deadline)?)
            .send()
            .await
            .map_err(|error| store_error(&place, Access::Read, error))?;
        Ok(Scanned {
            rows: answer.items.unwrap_or_default(),
            last: answer.last_evaluated_key.filter(|last| !last.is_empty()),
            read_units: answer
                .consumed_capacity
                .and_then(|used| used.capacity_units),
        })
    }

    pub(crate) fn key_of(&self, row: &Item) -> Result<Key, StoreError> {
        let place = self.place();
        let (Some(AttributeValue::S(entity)), Some(AttributeValue::N(bucket))) =
            (row.get(PK), row.get(SK))
        else {
            return Err(wrong_shape(
                &place,
                row,
                PK,
                "a string, beside `sk`, a number",
            ));
        };
        let bucket = bucket
            .parse()
            .map_err(|_| wrong_shape(&place, row, SK, "a 64-bit integer"))?;
        Key::new(entity.as_str(), bucket)
            .map_err(|_| wrong_shape(&place, row, PK, "a key that a state row can have"))
    }

    /// One conditional write to the row of `add`, sent once. Refuses a row that an exact mode has
    /// written. `change` holds everything but the `ttl`.
    pub(crate) async fn update<V>(
        &self,
        add: &Add<V>,
        change: Change,
        deadline: Deadline,
    ) -> Result<Written<UpdateItemOutput>, StoreError> {
        let place = self.place().at(&add.key);
        let change = change.only_if(NO_TRACES).ttl(add.ttl);
        let key = row_key(&add.key);
        let written = self.write(&place, key, change, None, deadline).await?;
        if let Written::Refused(row) = &written {
            no_traces(&place, row)?;
        }
        Ok(written)
    }

    /// One transaction, sent once with a token of its own. A repeated token with the same content
    /// would be answered as done without a write. Errors name `place`.
    pub(crate) async fn transact(
        &self,
        place: &Place,
        actions: Vec<TransactWriteItem>,
        deadline: Deadline,
    ) -> Result<Transacted, StoreError> {
        let writing = self.begin_write(place, deadline).await?;
        let sent = self
            .client
            .transact_write_items()
            .client_request_token(self.token(place)?)
            .set_transact_items(Some(actions))
            .customize()
            .config_override(self.write_once(place, deadline)?)
            .send()
            .await;
        let done = transacted(place, sent);
        let is_throttle =
            |reason: &Reason| matches!(reason, Reason::Failed(StoreError::Throttled { .. }));
        writing.answered(match &done {
            Err(error) => matches!(error, StoreError::Throttled { .. }),
            Ok(Transacted::Cancelled(reasons)) => reasons.iter().any(is_throttle),
            Ok(Transacted::Done) => false,
        });
        done
    }

    /// One conditional put, sent once. A refusal returns the item as it is. Errors name `place`.
    pub(crate) async fn put(
        &self,
        place: &Place,
        put: PutItemFluentBuilder,
        deadline: Deadline,
    ) -> Result<Written<PutItemOutput>, StoreError> {
        let writing = self.begin_write(place, deadline).await?;
        let sent = put
            .table_name(&*self.name)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .customize()
            .config_override(self.write_once(place, deadline)?)
            .send()
            .await;
        let done = written(place, sent);
        writing.answered(matches!(done, Err(StoreError::Throttled { .. })));
        done
    }

    /// One conditional update of the item at `key`, sent once. `back` says what an applied update
    /// returns. Errors name `place`.
    pub(crate) async fn write(
        &self,
        place: &Place,
        key: Item,
        change: Change,
        back: Option<ReturnValue>,
        deadline: Deadline,
    ) -> Result<Written<UpdateItemOutput>, StoreError> {
        let writing = self.begin_write(place, deadline).await?;
        let sent = change
            .request(self.client.update_item(), &self.name, key)
            .set_return_values(back)
            .customize()
            .config_override(self.write_once(place, deadline)?)
            .send()
            .await;
        let done = written(place, sent);
        writing.answered(matches!(done, Err(StoreError::Throttled { .. })));
        done
    }
}

/// The text by which a listing continues after `key`.
fn listed_at(key: &Key) -> String {
    format!("{}/{}", key.bucket(), key.entity())
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::Client;
    use aws_sdk_dynamodb::config::{BehaviorVersion, Config};
    use murmur_testkit::damage::accepts_only_what_it_writes;

    use super::*;
    use crate::any_rows::{holds, look_at};

    fn table() -> Table {
        let config = Config::builder().behavior_version(BehaviorVersion::latest());
        Table::new("Int64SumStore", Client::from_conf(config.build()), "totals")
    }

    fn key() -> Key {
        Key::new("customer/1", i64::MIN).unwrap()
    }

    #[test]
    fn no_row_is_taken_for_that_of_another_key() {
        let table = table();
        look_at(&[row_key(&key())], &[], |row| {
            let Ok(key) = table.key_of(row) else {
                return false;
            };
            let again = row_key(&key);
            assert!(
                again
                    .iter()
                    .all(|(name, value)| holds(row, name, Some(value)))
            );
            true
        });
    }

    #[test]
    fn a_listing_goes_on_only_at_what_a_listing_said() {
        let table = table();
        let samples = [listed_at(&key()), "7/\u{e9}".to_owned()];
        accepts_only_what_it_writes(&samples, b"/", |bytes| {
            let key = table.key_named(std::str::from_utf8(bytes).ok()?).ok()?;
            Some(listed_at(&key).into_bytes())
        });
    }
}
