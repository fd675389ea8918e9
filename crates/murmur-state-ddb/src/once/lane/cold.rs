//! Writes to rows that hold their ids themselves: one conditional update.

use aws_sdk_dynamodb::operation::update_item::UpdateItemOutput;
use aws_sdk_dynamodb::types::ReturnValue;
use murmur_state::{Outcome, Timestamp};

use super::{Lane, Step, taken_by};
use crate::attribute::{CUR, Item, PREV, number, row_key};
use crate::change::Change;
use crate::error::Written;
use crate::once::cell::Cell;
use crate::once::ids::{Id, set, unless_taken};
use crate::once::row::{Face, Known};

impl<V: Sync, C: Cell<V>> Lane<'_, V, C> {
    /// Writes to a row whose ids are in it, or to no row.
    pub(super) async fn write_cold(&mut self, known: &mut Known, now: Timestamp) -> Step {
        let chunk = self.chunk();
        self.tried = chunk;
        let ttl = self.ttl(chunk);
        let form = Cold::of(&known.face, self.batch.rules().period(now));
        let change = form.change().only_if("attribute_not_exists(hot)").ttl(ttl);
        let Some(change) = self.with_values(change, chunk)? else {
            return Ok(());
        };
        let ids: Vec<Id> = self.front(chunk).map(|event| event.id).collect();
        let change = unless_taken(change, &[CUR, PREV], &ids).value(":new", set(&ids));
        if self.is_stale(now) {
            return Ok(());
        }

        let table = self.batch.table;
        let look = known.wants_a_look() || form != Cold::Same(form.period());
        let back = look.then_some(ReturnValue::AllNew);
        let key = row_key(self.key);
        let written = table.write(&self.place, key, change, back, self.batch.deadline);
        match written.await {
            Ok(Written::Done(UpdateItemOutput { attributes, .. })) => {
                match attributes {
                    Some(row) => known.see(&self.place, &row)?,
                    None => known.added(form.period(), chunk),
                }
                // What was read is not what is there any more.
                self.row = None;
                self.settle(chunk, &Outcome::Applied);
                Ok(())
            }
            Ok(Written::Refused(row)) => self.judge_cold(known, chunk, &form, row).await,
            Err(error) => self.judge_failure(known, now, chunk, error).await,
        }
    }

    /// A refusal is judged by the row that refused: flag and period first, since they decide
    /// where the ids are; then ids; what is left is the value.
    async fn judge_cold(
        &mut self,
        known: &mut Known,
        chunk: usize,
        form: &Cold,
        row: Item,
    ) -> Step {
        known.see(&self.place, &row)?;
        if !form.fits(&known.face) {
            self.remember(row);
            return self.refused(&self.conflict()).await;
        }
        if self.take_out(taken_by(&row)) {
            self.remember(row);
            return Ok(());
        }
        self.judge_value(chunk, row).await
    }
}

/// The forms of a write to a row that is not hot.
#[derive(Debug, PartialEq)]
enum Cold {
    /// To no row, or to one of this period: adds to its ids.
    Same(i64),
    /// To a row of an earlier period: its ids become the previous ones.
    Shift { from: i64, to: i64 },
    /// To a row of an earlier period that has no ids of it, since it was hot.
    Fresh { from: i64, to: i64 },
}

impl Cold {
    /// The form that fits a row of this face. A row's period only grows, whatever the clock says.
    fn of(face: &Face, period: i64) -> Self {
        match *face {
            Face::Cold { per, cur: true } if per < period => Self::Shift {
                from: per,
                to: period,
            },
            Face::Cold { per, cur: false } if per < period => Self::Fresh {
                from: per,
                to: period,
            },
            Face::Cold { per, .. } => Self::Same(per),
            Face::Unknown | Face::Absent | Face::Hot { .. } => Self::Same(period),
        }
    }

    fn period(&self) -> i64 {
        match self {
            Self::Same(per) => *per,
            Self::Shift { to, .. } | Self::Fresh { to, .. } => *to,
        }
    }

    /// Whether a row of this face can take the form.
    fn fits(&self, face: &Face) -> bool {
        match (self, face) {
            (Self::Same(_), Face::Absent) => true,
            (Self::Same(expected), Face::Cold { per, .. }) => expected == per,
            (Self::Shift { from, .. }, Face::Cold { per, cur }) => from == per && *cur,
            (Self::Fresh { from, .. }, Face::Cold { per, cur }) => from == per && !cur,
            _ => false,
        }
    }

    /// The change, as far as period and ids are concerned. The shift is made by the update
    /// itself, never from a copy that was read: what came in between moves along.
    fn change(&self) -> Change {
        let change = Change::default()
            .set("per = :per")
            .value(":per", number(self.period()));
        let from = |change: Change, from: &i64| {
            change.only_if("per = :from").value(":from", number(*from))
        };
        match self {
            Self::Same(_) => change
                .add("cur :new")
                .only_if("(attribute_not_exists(pk) OR per = :per)"),
            Self::Shift { from: per, .. } => from(change, per)
                .only_if("attribute_exists(cur)")
                .set("prev = cur")
                .set("cur = :new"),
            Self::Fresh { from: per, .. } => from(change, per)
                .only_if("attribute_not_exists(cur)")
                .set("cur = :new")
                .remove(PREV),
        }
    }
}
