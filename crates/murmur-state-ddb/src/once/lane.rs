//! The events of one batch for one row, settled write by write.

mod cold;
mod hot;

use std::collections::{HashSet, VecDeque};

use murmur_state::{
    Deadline, Key, Outcome, PipelineName, Place, RetryPolicy, StoreError, Timestamp,
};

use super::cell::{Cell, Refusal, Unwritable};
use super::ids::{Id, ids_in};
use super::row::{Face, Known};
use super::rules::Rules;
use crate::attribute::{CUR, Item, PREV};
use crate::change::Change;
use crate::deduper::Deduper;
use crate::table::Table;

/// What all lanes of a batch share.
pub(crate) struct Batch<'a, C> {
    pub(crate) table: &'a Table,
    pub(crate) markers: &'a Deduper,
    pub(crate) cell: &'a C,
    pub(crate) pipeline: &'a PipelineName,
    pub(crate) deadline: Deadline,
}

impl<C> Batch<'_, C> {
    fn rules(&self) -> &Rules {
        &self.markers.table.options.rules
    }

    fn now(&self) -> Timestamp {
        self.table.options.clock.now()
    }

    /// The key of a marker row of `key`, named by what sets it apart.
    fn marker(&self, kind: &str, key: &Key, what: &str) -> String {
        let bucket = key.bucket().to_string();
        let parts = [&*self.table.name, key.entity(), &bucket, what];
        self.pipeline.marker(kind, &parts)
    }
}

/// What one event adds to the lane's row.
pub(crate) struct Event<'a, V> {
    /// Its place in the batch.
    pub(crate) index: usize,
    pub(crate) id: Id,
    /// When it was created; `None` where its source does not say.
    pub(crate) created: Option<Timestamp>,
    pub(crate) value: &'a V,
    pub(crate) ttl: Option<i64>,
}

impl<V> Event<'_, V> {
    /// The second of creation, rounded down: the same through Lambda, the Streams API and the
    /// in-process store, which give times of different fineness.
    fn second(&self) -> Option<i64> {
        self.created.map(Timestamp::as_secs)
    }
}

/// The events of one batch for one row, in their order.
pub(crate) struct Lane<'a, V, C> {
    batch: &'a Batch<'a, C>,
    key: &'a Key,
    place: Place,
    todo: VecDeque<Event<'a, V>>,
    done: Vec<(usize, Outcome)>,
    /// The row as read, for cells that need it.
    row: Option<Item>,
    /// How many events the next write may carry, as long as that many are suspect.
    narrow: Option<Narrow>,
    /// Writes refused in a row without an event having been settled.
    refusals: u32,
    /// How many events the write under way carries.
    tried: usize,
}

/// Among `suspects` events at the front is one that fails a whole write.
struct Narrow {
    size: usize,
    suspects: usize,
}

type Step = Result<(), StoreError>;

impl<'a, V: Sync, C: Cell<V>> Lane<'a, V, C> {
    pub(crate) fn new(
        batch: &'a Batch<'a, C>,
        key: &'a Key,
        events: impl IntoIterator<Item = Event<'a, V>>,
    ) -> Self {
        Self {
            batch,
            key,
            place: batch.table.place().at(key),
            todo: events.into_iter().collect(),
            done: Vec::new(),
            row: None,
            narrow: None,
            refusals: 0,
            tried: 0,
        }
    }

    /// Settles the events in order, each write by what the one before taught, until all are
    /// settled or one fails by no fault of its own; that stops the lane.
    pub(crate) async fn run(mut self, known: &mut Known) -> Vec<(usize, Outcome)> {
        while !self.todo.is_empty() {
            self.tried = 1;
            let Err(error) = self.step(known).await else {
                continue;
            };
            // Whatever a record is to blame for was settled with the record. What comes here is of
            // a request that carried none, or of the set-up.
            let error = error.blameless(self.place.clone());
            if let StoreError::Unavailable { .. } = error {
                // Nobody knows what became of it.
                *known = Known::nothing();
            }
            self.stop(&error);
        }
        self.done
    }

    /// None of the events was tried, for a reason that is not theirs.
    pub(crate) fn not_begun(mut self, error: &StoreError) -> Vec<(usize, Outcome)> {
        self.tried = 1;
        self.stop(error);
        self.done
    }

    fn stop(&mut self, error: &StoreError) {
        for (n, event) in self.todo.drain(..).enumerate() {
            let outcome = match n < self.tried {
                true => Outcome::Failed(error.clone()),
                false => Outcome::Blocked,
            };
            self.done.push((event.index, outcome));
        }
    }

    /// One write, or one step towards it. `Ok` if the lane can go on.
    async fn step(&mut self, known: &mut Known) -> Step {
        let now = self.batch.now();
        self.refuse_too_old(now);
        if self.todo.is_empty() {
            return Ok(());
        }
        if C::READS && self.row.is_none() {
            return self.read(known).await;
        }
        let rules = self.batch.rules();
        match &known.face {
            Face::Hot { stamp, .. } if now.since(*stamp) >= rules.cool_after => {
                self.cool(known).await
            }
            Face::Hot { frozen: None, .. } => self.look_up_frozen(known).await,
            Face::Hot { .. } => self.write_hot(known, now).await,
            _ if known.should_turn(rules, self.todo.len(), self.markers().into_values()) => {
                self.turn(known, now, false).await
            }
            _ => self.write_cold(known, now).await,
        }
    }

    fn refuse_too_old(&mut self, now: Timestamp) {
        let limit = self.batch.rules().too_old;
        let too_old = |event: &Event<'_, V>| event.created.filter(|at| now.since(*at) > limit);
        if !self.todo.iter().any(|event| too_old(event).is_some()) {
            return;
        }
        for event in std::mem::take(&mut self.todo) {
            match too_old(&event) {
                Some(created) => {
                    let place = self.place.clone();
                    let error = StoreError::TooOld { place, created };
                    self.done.push((event.index, Outcome::Failed(error)));
                }
                None => self.todo.push_back(event),
            }
        }
        self.narrow = None;
    }

    /// Whether so much time has gone by since `composed` that what was judged then (age, period)
    /// may not hold any more.
    fn is_stale(&self, composed: Timestamp) -> bool {
        self.batch.now().since(composed) > self.batch.rules().recompose
    }

    async fn read(&mut self, known: &mut Known) -> Step {
        let row = self.batch.table.get_row(self.key, self.batch.deadline);
        let row = row.await?.unwrap_or_default();
        known.see(&self.place, &row)?;
        self.take_out(taken_by(&row));
        self.row = Some(row);
        Ok(())
    }

    /// The events of the next write: the first of those that wait.
    fn chunk(&self) -> usize {
        let limit = match &self.narrow {
            Some(narrow) => narrow.size.min(narrow.suspects),
            None => self.batch.rules().ids_per_update,
        };
        limit.min(self.todo.len()).max(1)
    }

    fn front(&self, chunk: usize) -> impl Iterator<Item = &Event<'a, V>> {
        self.todo.iter().take(chunk)
    }

    /// When the row may be removed, as the newest of the first `chunk` events says.
    fn ttl(&self, chunk: usize) -> Option<i64> {
        self.front(chunk).last().and_then(|event| event.ttl)
    }

    /// The first `chunk` events have this outcome.
    fn settle(&mut self, chunk: usize, outcome: &Outcome) {
        let events = self.todo.drain(..chunk);
        self.done
            .extend(events.map(|event| (event.index, outcome.clone())));
        self.refusals = 0;
        if let Some(narrow) = &mut self.narrow {
            narrow.suspects = narrow.suspects.saturating_sub(chunk);
            if narrow.suspects == 0 {
                self.narrow = None;
            }
        }
    }

    /// Takes out the events whose ids `taken` names; whether there were any.
    fn take_out(&mut self, taken: impl Fn(&Id) -> bool) -> bool {
        let before = self.todo.len();
        for event in std::mem::take(&mut self.todo) {
            match taken(&event.id) {
                true => self.done.push((event.index, Outcome::Duplicate)),
                false => self.todo.push_back(event),
            }
        }
        let any = self.todo.len() < before;
        if any {
            self.narrow = None;
            self.refusals = 0;
        }
        any
    }

    /// One of the first `chunk` events makes the write fail by itself: tries fewer at a time,
    /// until the one to blame stands alone and fails with `error`.
    fn blame(&mut self, chunk: usize, size: usize, error: StoreError) {
        if chunk > 1 {
            let size = size.max(1);
            let suspects = chunk;
            self.narrow = Some(Narrow { size, suspects });
            return;
        }
        self.settle(1, &Outcome::Failed(error));
        if size == 0
            && let Some(narrow) = &mut self.narrow
        {
            // A half had to fail for this one; what is left of it may be good.
            narrow.size = narrow.suspects;
        }
    }

    fn overflow(&mut self, chunk: usize) {
        let place = self.place.clone();
        self.blame(chunk, 1, StoreError::Overflow { place });
    }

    /// `change` with what the first `chunk` events add. `None`: it cannot be, and the lane knows
    /// why.
    fn with_values(&mut self, change: Change, chunk: usize) -> Result<Option<Change>, StoreError> {
        let cell = self.batch.cell;
        let values = self.front(chunk).map(|event| event.value);
        let written = match cell.total(values) {
            Ok(total) => {
                let none = Item::new();
                let row = self.row.as_ref().unwrap_or(&none);
                cell.write(&self.place, change, row, &total)
            }
            Err(_) => Err(Unwritable::Overflow),
        };
        match written {
            Ok(change) => Ok(Some(change)),
            Err(Unwritable::Row(error)) => Err(error),
            Err(Unwritable::Overflow) => {
                self.overflow(chunk);
                Ok(None)
            }
        }
    }

    fn remember(&mut self, row: Item) {
        self.row = C::READS.then_some(row);
    }

    async fn judge_value(&mut self, chunk: usize, row: Item) -> Step {
        let refusal = self.batch.cell.refusal(&self.place, &row);
        self.remember(row);
        match refusal {
            Refusal::Row(error) => Err(error),
            Refusal::Overflow => {
                self.overflow(chunk);
                Ok(())
            }
            Refusal::Swapped => {
                let (attempts, ..) = self.batch.cell.patience();
                let attempts = attempts.saturating_add(1);
                let place = self.place.clone();
                self.refused(&StoreError::RetriesExhausted { place, attempts })
                    .await
            }
        }
    }

    /// A write was refused and taught something: it is composed anew, a few times. The first time
    /// at once, unless others swapped the value meanwhile: they may be about to do so again.
    async fn refused(&mut self, in_the_end: &StoreError) -> Step {
        let (patience, base, cap) = self.batch.cell.patience();
        if self.refusals >= patience {
            return Err(in_the_end.clone());
        }
        if self.refusals > 0 || matches!(in_the_end, StoreError::RetriesExhausted { .. }) {
            let waits = RetryPolicy::default().waits(base, cap);
            let Batch {
                table, deadline, ..
            } = self.batch;
            let pause = table.pause(&self.place, &waits, self.refusals, *deadline);
            pause.await?;
        }
        self.refusals += 1;
        Ok(())
    }

    /// What to do about a write that was not refused but failed.
    async fn judge_failure(
        &mut self,
        known: &mut Known,
        now: Timestamp,
        chunk: usize,
        error: StoreError,
    ) -> Step {
        match error {
            StoreError::InvalidValue { .. } => {
                self.blame(chunk, chunk / 2, error);
                Ok(())
            }
            StoreError::RowTooLarge { .. } => {
                let cell = self.batch.cell;
                let alone = |event: &Event<'_, V>| cell.too_large(event.value);
                let bytes = self.front(chunk).find_map(alone);
                if let Some(bytes) = bytes {
                    let error = StoreError::InvalidValue {
                        place: self.place.clone(),
                        reason: format!("{bytes} bytes by itself, over the item size limit"),
                        source: None,
                    };
                    self.blame(chunk, chunk / 2, error);
                    return Ok(());
                }
                match known.face {
                    // Its ids can make room.
                    Face::Cold { .. } | Face::Unknown => self.turn(known, now, true).await,
                    // A row that would hold nothing else.
                    Face::Absent => {
                        let error = StoreError::InvalidValue {
                            place: self.place.clone(),
                            reason: "over the item size limit by itself".to_owned(),
                            source: None,
                        };
                        self.blame(chunk, chunk / 2, error);
                        Ok(())
                    }
                    Face::Hot { .. } => Err(error),
                }
            }
            error => Err(error),
        }
    }

    fn conflict(&self) -> StoreError {
        StoreError::Conflict {
            place: self.place.clone(),
            source: None,
        }
    }
}

/// Whether an id is among those a row holds itself.
fn taken_by(row: &Item) -> impl Fn(&Id) -> bool {
    let taken: HashSet<&[u8]> = ids_in(row, CUR).chain(ids_in(row, PREV)).collect();
    move |id| taken.contains(id.as_slice())
}
