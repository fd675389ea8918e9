//! Rows whose ids are in the marker table: turning hot, writing both in one transaction, turning
//! cold again.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemOutput;
use aws_sdk_dynamodb::types::{AttributeValue, Put, ReturnValue, TransactWriteItem};
use murmur_state::{Outcome, StoreError, Timestamp};

use super::{Lane, Step};
use crate::attribute::{CUR, HOT, HOT_AT, IDS, PK, PREV, TTL, number, row_key};
use crate::change::Change;
use crate::error::{Reason, Transacted, Written, unbuilt};
use crate::once::cell::Cell;
use crate::once::ids::{Id, ids_in, set, unless_taken};
use crate::once::row::{Face, Frozen, Known};

impl<V: Sync, C: Cell<V>> Lane<'_, V, C> {
    /// The marker rows that the waiting events would take, with the bytes of their ids.
    pub(super) fn markers(&self) -> BTreeMap<i64, usize> {
        let mut markers = BTreeMap::new();
        for (n, event) in (1..).zip(&self.todo) {
            // Without a creation time each event has a row of its own.
            *markers.entry(event.second().unwrap_or(-n)).or_default() += size_of::<Id>();
        }
        markers
    }

    /// Moves the row's ids into a frozen item of the marker table and flags the row, if that is
    /// worth it when seen as it is now. Carries no events.
    pub(super) async fn turn(&mut self, known: &mut Known, now: Timestamp, must: bool) -> Step {
        self.read(known).await?;
        let Some(row) = self.row.clone() else {
            return Ok(());
        };
        let Face::Cold { per, .. } = known.face else {
            return Ok(());
        };
        let rules = self.batch.rules();
        let markers = self.markers().into_values();
        let worth_it = known.should_turn(rules, self.todo.len(), markers);
        if !(worth_it || must && known.holds_ids()) {
            let place = self.place.clone();
            return match must {
                true => Err(StoreError::RowTooLarge { place }),
                false => Ok(()),
            };
        }
        let epoch = self.batch.token();
        let mut frozen = Put::builder()
            .table_name(&*self.batch.markers.table.name)
            .item(PK, AttributeValue::S(self.frozen_name(&epoch)))
            .item(TTL, number(now.plus(rules.marker_life).as_secs()))
            .condition_expression("attribute_not_exists(pk)");
        let mut flagged = Change::default()
            .set("hot = :epoch")
            .set("hot_at = :now")
            .remove(CUR)
            .remove(PREV)
            .value(":epoch", AttributeValue::S(epoch.clone()))
            .value(":now", number(now.as_millis()))
            .only_if("attribute_not_exists(hot)")
            .only_if("per = :per")
            .value(":per", number(per));
        // Conditional on both generations as read: no id may come between reading and moving.
        for (attribute, equal, absent) in [
            (CUR, "cur = :cur", "attribute_not_exists(cur)"),
            (PREV, "prev = :prev", "attribute_not_exists(prev)"),
        ] {
            flagged = match row.get(attribute) {
                Some(ids) => {
                    frozen = frozen.item(attribute, ids.clone());
                    flagged
                        .only_if(equal)
                        .value(format!(":{attribute}"), ids.clone())
                }
                None => flagged.only_if(absent),
            };
        }
        let actions = frozen
            .build()
            .map(|frozen| TransactWriteItem::builder().put(frozen).build())
            .and_then(|frozen| {
                let table = &self.batch.table.name;
                Ok(vec![frozen, flagged.action(table, row_key(self.key))?])
            });
        match self.transact(actions).await? {
            Transacted::Done => {
                tracing::debug!(key = %self.key, table = %self.batch.table.name, "hot");
                known.moved_out(Face::Hot {
                    epoch,
                    stamp: now,
                    frozen: Some(Frozen::of(&self.place, &row)?),
                });
                if let Some(row) = &mut self.row {
                    row.remove(CUR);
                    row.remove(PREV);
                }
                Ok(())
            }
            Transacted::Cancelled(reasons) => {
                *known = Known::nothing();
                self.row = None;
                match failure(&reasons) {
                    Some(error) => Err(error),
                    None => self.refused(&self.conflict()).await,
                }
            }
        }
    }

    fn frozen_name(&self, epoch: &str) -> String {
        self.batch.marker("frozen", self.key, epoch)
    }

    /// Looks up the ids that the row had taken before it turned hot. Where the item is gone its
    /// time was over: ids that old are of events too old to come.
    pub(super) async fn look_up_frozen(&mut self, known: &mut Known) -> Step {
        let Face::Hot { epoch, frozen, .. } = &mut known.face else {
            return Ok(());
        };
        let name = self.frozen_name(epoch);
        let row = self.batch.markers.get(&name, self.batch.deadline).await?;
        *frozen = Some(Frozen::of(
            &self.batch.markers.place(&name)?,
            &row.unwrap_or_default(),
        )?);
        Ok(())
    }

    /// Writes to a row whose ids are in the marker table: both in one transaction.
    pub(super) async fn write_hot(&mut self, known: &mut Known, now: Timestamp) -> Step {
        let Face::Hot {
            epoch,
            frozen: Some(frozen),
            ..
        } = &known.face
        else {
            return Ok(());
        };
        let epoch = epoch.clone();
        if self.take_out(|id| frozen.has(id)) {
            return Ok(());
        }
        let chunk = self.chunk();
        self.tried = chunk;
        let change = Change::default()
            .set("hot_at = :now")
            .value(":now", number(now.as_millis()))
            .only_if("hot = :epoch")
            .value(":epoch", AttributeValue::S(epoch.clone()))
            .ttl(self.ttl(chunk));
        let Some(change) = self.with_values(change, chunk)? else {
            return Ok(());
        };
        let mut actions = self.marker_actions(chunk, now);
        let table = &self.batch.table.name;
        actions.push(change.action(table, row_key(self.key)));
        if self.is_stale(now) {
            return Ok(());
        }
        match self.transact(actions.into_iter().collect()).await {
            Ok(Transacted::Done) => {
                if let Face::Hot { stamp, .. } = &mut known.face {
                    *stamp = now;
                }
                self.row = None;
                self.settle(chunk, &Outcome::Applied);
                Ok(())
            }
            Ok(Transacted::Cancelled(reasons)) => {
                self.judge_hot(known, chunk, &epoch, reasons).await
            }
            Err(error) => self.judge_failure(known, now, chunk, error).await,
        }
    }

    /// The marker rows that take the first `chunk` events' ids, if none of them is there.
    fn marker_actions(
        &self,
        chunk: usize,
        now: Timestamp,
    ) -> Vec<Result<TransactWriteItem, BuildError>> {
        let mut rows: BTreeMap<String, (Timestamp, Vec<Id>)> = BTreeMap::new();
        for event in self.front(chunk) {
            let (name, from) = match event.second() {
                Some(second) => (
                    self.batch.marker("second", self.key, &second.to_string()),
                    Timestamp::from_secs(second),
                ),
                None => {
                    let id: String = event.id.iter().map(|byte| format!("{byte:02x}")).collect();
                    (self.batch.marker("event", self.key, &id), now)
                }
            };
            rows.entry(name)
                .or_insert((from, Vec::new()))
                .1
                .push(event.id);
        }
        let life = self.batch.rules().marker_life;
        let action = |(name, (from, ids)): (String, (Timestamp, Vec<Id>))| {
            let change = Change::default()
                .add("ids :new")
                .value(":new", set(&ids))
                .ttl(Some(from.plus(life).as_secs()));
            let key = HashMap::from([(PK.to_owned(), AttributeValue::S(name))]);
            unless_taken(change, &[IDS], &ids).action(&self.batch.markers.table.name, key)
        };
        rows.into_iter().map(action).collect()
    }

    /// Judged in the same order: the flag, the ids, the value.
    async fn judge_hot(
        &mut self,
        known: &mut Known,
        chunk: usize,
        epoch: &str,
        mut reasons: Vec<Reason>,
    ) -> Step {
        // The row is the last action.
        let of_row = reasons.pop();
        if let Some(Reason::Refused(row)) = &of_row {
            known.see(&self.place, row)?;
            let same = matches!(&known.face, Face::Hot { epoch: now, .. } if now == epoch);
            if !same {
                self.remember(row.clone());
                return self.refused(&self.conflict()).await;
            }
        }
        let taken: Vec<&[u8]> = reasons
            .iter()
            .filter_map(|reason| match reason {
                Reason::Refused(marker) => Some(ids_in(marker, IDS)),
                _ => None,
            })
            .flatten()
            .collect();
        if self.take_out(|id| taken.contains(&id.as_slice())) {
            return Ok(());
        }
        reasons.extend(of_row.clone());
        if let Some(error) = failure(&reasons) {
            return self
                .judge_failure(known, self.batch.now(), chunk, error)
                .await;
        }
        match of_row {
            Some(Reason::Refused(row)) => self.judge_value(chunk, row).await,
            _ => Err(self.conflict()),
        }
    }

    /// Takes the flag off a row that was not written for a horizon: the ids its markers hold are
    /// of events too old to come. The period stays.
    pub(super) async fn cool(&mut self, known: &mut Known) -> Step {
        let Face::Hot { epoch, stamp, .. } = &known.face else {
            return Ok(());
        };
        let change = Change::default()
            .remove(HOT)
            .remove(HOT_AT)
            .remove(CUR)
            .remove(PREV)
            .only_if("hot = :epoch")
            .value(":epoch", AttributeValue::S(epoch.clone()))
            .only_if("hot_at = :stamp")
            .value(":stamp", number(stamp.as_millis()));
        let table = self.batch.table;
        let back = Some(ReturnValue::AllNew);
        let key = row_key(self.key);
        let written = table.write(&self.place, key, change, back, self.batch.deadline);
        match written.await? {
            Written::Done(UpdateItemOutput { attributes, .. }) => {
                tracing::debug!(key = %self.key, table = %table.name, "cold again");
                let row = attributes.unwrap_or_default();
                known.see(&self.place, &row)?;
                self.remember(row);
                Ok(())
            }
            Written::Refused(row) => {
                known.see(&self.place, &row)?;
                self.remember(row);
                self.refused(&self.conflict()).await
            }
        }
    }

    /// Sends a transaction once. Its token is random and its own: a token used again with the
    /// same body would be answered with success, and nothing written.
    async fn transact(
        &self,
        actions: Result<Vec<TransactWriteItem>, BuildError>,
    ) -> Result<Transacted, StoreError> {
        let actions = actions.map_err(|error| unbuilt(&self.place, error))?;
        let batch = self.batch;
        let sent = batch.table.transact(&self.place, actions, batch.deadline);
        sent.await
    }
}

/// Why a transaction was cancelled, if by anything but its conditions.
fn failure(reasons: &[Reason]) -> Option<StoreError> {
    reasons.iter().find_map(|reason| match reason {
        Reason::Failed(error) => Some(error.clone()),
        Reason::None | Reason::Refused(_) => None,
    })
}
