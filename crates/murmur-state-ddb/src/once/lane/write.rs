//! The two writes to a row. Each is one conditional update that writes values and ids together.

use aws_sdk_dynamodb::types::ReturnValue;
use murmur_state::StoreError;
use murmur_state::store::Outcome;

use super::{RowLane, Step};
use crate::attribute::{CUR, Item, PREV, number, row_key};
use crate::change::Change;
use crate::error::Written;
use crate::once::cell::Cell;
use crate::once::ids::{set, unless_taken};
use crate::once::row::{Image, KnownRow};

impl<V: Sync, C: Cell<V>> RowLane<'_, V, C> {
    /// Adds the ids of the first `chunk` events to the row's, with what the events add.
    pub(super) async fn add(&mut self, known: &mut KnownRow, image: &Image, chunk: usize) -> Step {
        let change = Change::default().add("cur :new");
        let change = match image.is_begun {
            false => change.set("per = if_not_exists(per, :per)"),
            true => change,
        };
        let look = known.wants_a_look(chunk, self.batch.budget());
        // A value that was read belongs to exactly this version of the row.
        let reach = match C::READS {
            true => Reach::ThisPer,
            false => Reach::NextPer,
        };
        match self.write(image, change, chunk, reach, look).await? {
            Sent::Done(None) => {
                self.settle(chunk, &Outcome::Applied);
                known.added(chunk);
            }
            Sent::Done(Some(row)) => {
                self.settle(chunk, &Outcome::Applied);
                let image = self.image(&row)?;
                self.remember(row);
                self.follow(&image);
                known.see(image, chunk, true);
                known.look_whose_turn(chunk, self.batch.budget());
            }
            Sent::Refused(row) => return self.judge(known, image, chunk, reach, row).await,
            Sent::Not => {}
        }
        Ok(())
    }

    /// Pages out the ids that the row drops now. Then its newer ids become the older ones, and
    /// those of the first `chunk` events the newer.
    pub(super) async fn move_on(
        &mut self,
        known: &mut KnownRow,
        image: &Image,
        chunk: usize,
    ) -> Step {
        self.page_out(known, image).await?;
        let mut tops = image.tops.clone();
        tops.merge(&known.paged.tops);
        // Copies within the row, never from a copy that was read, so that ids added since then move
        // along.
        let change = Change::default()
            .set("prev = cur")
            .set("cur = :new")
            .set("per = :next")
            .set("tops = :tops")
            .value(":next", number(image.per.saturating_add(1)))
            .value(":tops", tops.attribute());
        match self
            .write(image, change, chunk, Reach::ThisPer, true)
            .await?
        {
            Sent::Done(row) => {
                self.settle(chunk, &Outcome::Applied);
                self.makes_room = false;
                let row = row.unwrap_or_default();
                let image = self.image(&row)?;
                self.remember(row);
                tracing::trace!(
                    key = %self.key, table = %self.batch.table.name, per = image.per,
                    "its ids moved on",
                );
                self.follow(&image);
                known.moved_on(image);
                Ok(())
            }
            Sent::Refused(row) => {
                let before = image.per;
                let judged = self.judge(known, image, chunk, Reach::ThisPer, row).await;
                if known.image().is_some_and(|image| image.per != before) {
                    known.tried_in_vain();
                }
                judged
            }
            Sent::Not => Ok(()),
        }
    }

    /// Sends a write of the first `chunk` events to the row of `image`, on the condition that the
    /// row is within `reach`. The write returns the row if it is to `look`.
    async fn write(
        &mut self,
        image: &Image,
        change: Change,
        chunk: usize,
        reach: Reach,
        look: bool,
    ) -> Result<Sent, StoreError> {
        self.tried = chunk;
        let change = reach
            .within(change, image)
            .value(":per", number(image.per))
            .ttl(self.ttl(chunk));
        let Some(change) = self.with_values(change, chunk)? else {
            return Ok(Sent::Not);
        };
        let elements = self.elements(chunk);
        let change = unless_taken(change, &[CUR, PREV], &elements).value(":new", set(&elements));
        let table = self.batch.table;
        let back = look.then_some(ReturnValue::AllNew);
        let key = row_key(self.key);
        let written = table.write(&self.place, key, change, back, self.batch.deadline);
        match written.await {
            Ok(Written::Done(answer)) => {
                // The row as read is outdated now.
                self.row = None;
                Ok(Sent::Done(answer.attributes))
            }
            Ok(Written::Refused(row)) => Ok(Sent::Refused(row)),
            Err(error) => self.judge_failure(image, chunk, error).map(|()| Sent::Not),
        }
    }

    /// Judges a refusal by the row that it returned. How often the ids have moved on comes first,
    /// because it decides where they are. The ids come second. The remaining cause is the value.
    async fn judge(
        &mut self,
        known: &mut KnownRow,
        before: &Image,
        chunk: usize,
        reach: Reach,
        row: Item,
    ) -> Step {
        let image = self.image(&row)?;
        let is_reached = reach.has(before, &image);
        let any = self.follow(&image);
        known.see(image, 0, true);
        if !is_reached {
            self.remember(row);
            return self.refused(&self.conflict()).await;
        }
        if any {
            self.remember(row);
            return Ok(());
        }
        self.judge_value(chunk, row).await
    }

    /// Takes over the row and takes out the events that it has. Returns whether there were any.
    /// Events found clear stay clear if the ids have moved on at most once, because the ids dropped
    /// by that move were looked at. Otherwise they are looked up again.
    fn follow(&mut self, image: &Image) -> bool {
        let known = self.clear.filter(|per| image.is_within_one_of(*per));
        self.clear = known.map(|_| image.per);
        self.take_out(|id| image.has(id))
    }
}

/// The result of a write that did not fail.
enum Sent {
    /// The write is done. Holds the row after it, if it was requested.
    Done(Option<Item>),
    Refused(Item),
    /// The write was not sent, or one of its events is suspect. The lane knows what to do next.
    Not,
}

/// How often a row's ids may have moved on since a write was composed.
#[derive(Clone, Copy)]
enum Reach {
    ThisPer,
    /// Once, because the ids dropped by that move were looked at.
    NextPer,
}

/// The condition of a row that does not exist, or that only a ledger has written.
const NOT_BEGUN: &str =
    "attribute_not_exists(per) AND (attribute_not_exists(pk) OR attribute_exists(led))";

impl Reach {
    /// The change, on the condition that the row is within reach of `image`. If `image` is of a row
    /// that was not begun, its ids have never moved on.
    fn within(self, change: Change, image: &Image) -> Change {
        let change = match (self, image.is_begun) {
            (Self::ThisPer, true) => change.only_if("per = :per"),
            (Self::NextPer, true) => change.only_if("per BETWEEN :per AND :after"),
            (Self::ThisPer, false) => change.only_if(NOT_BEGUN),
            (Self::NextPer, false) => {
                change.only_if(format!("(per BETWEEN :per AND :after OR {NOT_BEGUN})"))
            }
        };
        match self {
            Self::ThisPer => change,
            Self::NextPer => change.value(":after", number(image.per.saturating_add(1))),
        }
    }

    fn has(self, before: &Image, now: &Image) -> bool {
        match self {
            Self::ThisPer => now.per == before.per && now.is_begun == before.is_begun,
            Self::NextPer => now.is_within_one_of(before.per) && (now.is_begun || !before.is_begun),
        }
    }
}
