//! The events of one batch for one row, settled write by write.

mod pages;
mod write;

use std::collections::VecDeque;
use std::sync::Arc;

use murmur_state::error::Place;
use murmur_state::store::Outcome;
use murmur_state::{Deadline, Key, PipelineName, RetryPolicy, StoreError, Timestamp};

use super::cell::{Cell, Refusal, Unwritable};
use super::ids::Element;
use super::row::{Image, KnownRow};
use super::rules::Rules;
use crate::attribute::Item;
use crate::change::Change;
use crate::deduper::Deduper;
use crate::table::Table;

/// What all lanes of a batch share.
pub(crate) struct OnceBatch<'a, C> {
    pub(crate) table: &'a Table,
    pub(crate) markers: &'a Deduper,
    pub(crate) cell: &'a C,
    pub(crate) pipeline: &'a PipelineName,
    pub(crate) deadline: Deadline,
}

impl<C> OnceBatch<'_, C> {
    fn rules(&self) -> &Rules {
        &self.markers.table.options.rules
    }

    fn budget(&self) -> usize {
        self.table.options.row_budget
    }

    fn now(&self) -> Timestamp {
        self.table.options.clock.now()
    }
}

/// What one event adds to the lane's row.
pub(crate) struct Event<'a, V> {
    /// Its index in the batch.
    pub(crate) index: usize,
    pub(crate) element: Element,
    /// When it was created, or `None` if its source gives no time.
    pub(crate) created: Option<Timestamp>,
    /// When its source gave it to this process.
    pub(crate) handed_over: Timestamp,
    pub(crate) value: &'a V,
    pub(crate) ttl: Option<i64>,
}

/// The events of one batch for one row, in order.
pub(crate) struct RowLane<'a, V, C> {
    batch: &'a OnceBatch<'a, C>,
    key: &'a Key,
    place: Place,
    todo: VecDeque<Event<'a, V>>,
    done: Vec<(usize, Outcome)>,
    /// Whether the row is read before the first write.
    reads_first: bool,
    /// How often the row's ids had moved on when no waiting event was in the row or in a page.
    clear: Option<u64>,
    /// The row as read, for cells that need it.
    row: Option<Item>,
    /// Whether the next write moves the ids on regardless of their size, to make room.
    makes_room: bool,
    /// How many events the next write may carry while some events are suspect.
    narrow: Option<Narrow>,
    /// Consecutive refused writes that settled no event.
    refusals: u32,
    /// How many events the write in progress carries.
    tried: usize,
}

/// One of the first `suspects` events makes a whole write fail.
struct Narrow {
    size: usize,
    suspects: usize,
}

type Step = Result<(), StoreError>;

impl<'a, V: Sync, C: Cell<V>> RowLane<'a, V, C> {
    pub(crate) fn new(
        batch: &'a OnceBatch<'a, C>,
        key: &'a Key,
        events: impl IntoIterator<Item = Event<'a, V>>,
    ) -> Self {
        Self {
            batch,
            key,
            place: batch.table.place().at(key),
            todo: events.into_iter().collect(),
            done: Vec::new(),
            reads_first: false,
            clear: None,
            row: None,
            makes_room: false,
            narrow: None,
            refusals: 0,
            tried: 0,
        }
    }

    /// Settles the events in order. Each write uses what the previous one found out. It ends when
    /// all events are settled, or when one fails by no fault of its own, which stops the lane.
    /// `look` is the row as read for this batch, if it was read.
    pub(crate) async fn run(
        mut self,
        known: &mut KnownRow,
        look: Option<Result<Arc<Image>, StoreError>>,
    ) -> Vec<(usize, Outcome)> {
        self.reads_first = known.begin(self.batch.budget());
        match look {
            Some(Ok(image)) => {
                known.see(image, 0, false);
                self.reads_first = false;
            }
            // Unless another batch has read it meanwhile.
            Some(Err(error)) if self.reads_first => return self.not_begun(&error),
            Some(Err(_)) | None => {}
        }
        while !self.todo.is_empty() {
            self.tried = 1;
            if let Err(error) = self.step(known).await {
                // Errors that a record is to blame for were settled with the record. An error here
                // is of a request without records, or of the set-up.
                self.stop(&error.blameless(self.place.clone()));
            }
        }
        self.done
    }

    /// Reports that no event was tried, for a reason that is not their own.
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

    /// Makes one write, or one step towards it. `Ok` means that the lane can continue.
    async fn step(&mut self, known: &mut KnownRow) -> Step {
        let is_read = match C::READS {
            true => self.row.is_some(),
            false => !self.reads_first,
        };
        let Some(image) = known.image().filter(|_| is_read) else {
            return self.read(known).await;
        };
        if self.clear != Some(image.per) {
            self.look_up(&image).await?;
        }
        // Only now: an event that was looked up was in its page, if at all, at the time judged
        // here.
        self.refuse_too_late(self.batch.now());
        if self.todo.is_empty() {
            return Ok(());
        }
        let chunk = self.chunk();
        match self.makes_room || known.should_move_on(chunk, self.batch.budget()) {
            true => self.move_on(known, &image, chunk).await,
            false => self.add(known, &image, chunk).await,
        }
    }

    /// Takes out events that must not be written any more: those so old that their page may be
    /// gone, and those that would create a row again that Time to Live has removed.
    fn refuse_too_late(&mut self, now: Timestamp) {
        let rules = self.batch.rules();
        let place = &self.place;
        let too_late = |event: &Event<'_, V>| {
            let place = place.clone();
            let ends = |ttl: &i64| Timestamp::from_secs(*ttl) <= now.plus(rules.before_ttl);
            if let Some(created) = event.created
                && now.since(created) > rules.too_old
            {
                return Some(StoreError::TooOld { place, created });
            }
            if event.created.is_none() && now.since(event.handed_over) > rules.undated {
                let handed_over = event.handed_over;
                return Some(StoreError::HeldTooLong { place, handed_over });
            }
            event
                .ttl
                .filter(ends)
                .map(|ttl| StoreError::RowEnds { place, ttl })
        };
        let before = self.todo.len();
        let done = &mut self.done;
        self.todo.retain(|event| match too_late(event) {
            Some(error) => {
                done.push((event.index, Outcome::Failed(error)));
                false
            }
            None => true,
        });
        if self.todo.len() < before {
            self.narrow = None;
        }
    }

    /// Reads the row. The read is eventually consistent where the value is not needed.
    async fn read(&mut self, known: &mut KnownRow) -> Step {
        let OnceBatch {
            table, deadline, ..
        } = self.batch;
        let row = match C::READS {
            true => table.get_row(self.key, *deadline).await?,
            false => table.peek_row(self.key, *deadline).await?,
        };
        let row = row.unwrap_or_default();
        known.see(self.image(&row)?, 0, C::READS);
        self.reads_first = false;
        self.remember(row);
        Ok(())
    }

    /// The number of events in the next write: the first of those that wait.
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

    fn elements(&self, chunk: usize) -> Vec<Element> {
        self.front(chunk).map(|event| event.element).collect()
    }

    /// When the row may be removed, according to the newest of the first `chunk` events.
    fn ttl(&self, chunk: usize) -> Option<i64> {
        self.front(chunk).last().and_then(|event| event.ttl)
    }

    /// Gives this outcome to the first `chunk` events.
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

    fn image(&self, row: &Item) -> Result<Arc<Image>, StoreError> {
        Image::of(&self.place, row).map(Arc::new)
    }

    /// Takes out the events for which `is_taken` is true. Returns whether there were any.
    fn take_out(&mut self, is_taken: impl Fn(&Element) -> bool) -> bool {
        let before = self.todo.len();
        let done = &mut self.done;
        self.todo.retain(|event| {
            let is_taken = is_taken(&event.element);
            if is_taken {
                done.push((event.index, Outcome::Duplicate));
            }
            !is_taken
        });
        let any = self.todo.len() < before;
        if any {
            self.narrow = None;
            self.refusals = 0;
        }
        any
    }

    /// One of the first `chunk` events makes the write fail by itself. Tries fewer at a time until
    /// that event is alone and fails with `error`.
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
            // One half failed because of this event. The rest of that half may be good.
            narrow.size = narrow.suspects;
        }
    }

    fn overflow(&mut self, chunk: usize) {
        let place = self.place.clone();
        self.blame(chunk, 1, StoreError::Overflow { place });
    }

    /// `change` with what the first `chunk` events add. `None` means that this is impossible and
    /// that the lane has been told why.
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

    /// Prepares to compose a refused write again, up to a limit. The first retry is immediate,
    /// unless another process swapped the value meanwhile, which may happen again.
    async fn refused(&mut self, in_the_end: &StoreError) -> Step {
        let (patience, base, cap) = self.batch.cell.patience();
        if self.refusals >= patience {
            return Err(in_the_end.clone());
        }
        if self.refusals > 0 || matches!(in_the_end, StoreError::RetriesExhausted { .. }) {
            let waits = RetryPolicy::default().waits(base, cap);
            let OnceBatch {
                table, deadline, ..
            } = self.batch;
            let pause = table.pause(&self.place, &waits, self.refusals, *deadline);
            pause.await?;
        }
        self.refusals += 1;
        Ok(())
    }

    /// Decides what to do about a write that failed without being refused.
    fn judge_failure(&mut self, image: &Image, chunk: usize, error: StoreError) -> Step {
        match error {
            StoreError::InvalidValue { .. } => {
                self.blame(chunk, chunk / 2, error);
                Ok(())
            }
            StoreError::RowTooLarge { .. } => {
                let cell = self.batch.cell;
                let alone = |event: &Event<'_, V>| cell.too_large(event.value);
                let bytes = self.front(chunk).find_map(alone);
                let reason = match bytes {
                    Some(bytes) => format!("{bytes} bytes by itself, over the item size limit"),
                    // A row that was read, and that would hold nothing else.
                    None if C::READS && !image.is_begun => {
                        "over the item size limit by itself".to_owned()
                    }
                    None if self.makes_room || !image.is_begun => return Err(error),
                    None => {
                        self.makes_room = true;
                        return Ok(());
                    }
                };
                let error = StoreError::InvalidValue {
                    place: self.place.clone(),
                    reason,
                    source: None,
                };
                self.blame(chunk, chunk / 2, error);
                Ok(())
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
