use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemOutput;
use aws_sdk_dynamodb::types::{AttributeValue, Put, ReturnValue, TransactWriteItem};
use murmur_state::{
    Deadline, Key, Outcome, PipelineName, Place, RetryPolicy, StoreError, Timestamp,
};

use super::cell::{Cell, Refusal, Unwritable};
use super::ids::{Id, ids_in, set, unless_taken};
use super::row::{Face, Frozen, Known};
use super::rules::Rules;
use crate::attribute::{CUR, HOT, HOT_AT, IDS, Item, PK, PREV, TTL, number, row_key};
use crate::change::Change;
use crate::deduper::Deduper;
use crate::error::{Reason, Transacted, Written, transacted, written};
use crate::table::Table;

/// Bytes of an id.
const ID_BYTES: usize = size_of::<Id>();

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

    fn token(&self) -> String {
        format!("{:032x}", self.table.options.random.bits())
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
            if let StoreError::Unavailable { .. } = error {
                // Nobody knows what became of it.
                *known = Known::nothing();
            }
            for (n, event) in self.todo.drain(..).enumerate() {
                let outcome = match n < self.tried {
                    true => Outcome::Failed(error.clone()),
                    false => Outcome::Blocked,
                };
                self.done.push((event.index, outcome));
            }
        }
        self.done
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

    /// Writes to a row whose ids are in it, or to no row.
    async fn write_cold(&mut self, known: &mut Known, now: Timestamp) -> Step {
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
        let sent = change
            .request(table.client.update_item(), &table.name, row_key(self.key))
            .set_return_values(look.then_some(ReturnValue::AllNew))
            .customize()
            .config_override(table.write_once(&self.place, self.batch.deadline)?)
            .send()
            .await;
        match written(&self.place, sent) {
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
            self.batch.table.pause(&waits, self.refusals).await;
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
                    Face::Absent | Face::Hot { .. } => Err(error),
                }
            }
            error => Err(error),
        }
    }

    /// The marker rows that the waiting events would take, with the bytes of their ids.
    fn markers(&self) -> BTreeMap<i64, usize> {
        let mut markers = BTreeMap::new();
        for (n, event) in (1..).zip(&self.todo) {
            // Without a creation time each event has a row of its own.
            *markers.entry(event.second().unwrap_or(-n)).or_default() += ID_BYTES;
        }
        markers
    }

    /// Moves the row's ids into a frozen item of the marker table and flags the row, if that is
    /// worth it when seen as it is now. Carries no events.
    async fn turn(&mut self, known: &mut Known, now: Timestamp, must: bool) -> Step {
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
                    frozen: Some(Frozen::of(&row)),
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
    async fn look_up_frozen(&mut self, known: &mut Known) -> Step {
        let Face::Hot { epoch, frozen, .. } = &mut known.face else {
            return Ok(());
        };
        let name = self.frozen_name(epoch);
        let row = self.batch.markers.get(&name, self.batch.deadline).await?;
        *frozen = Some(Frozen::of(&row.unwrap_or_default()));
        Ok(())
    }

    /// Writes to a row whose ids are in the marker table: both in one transaction.
    async fn write_hot(&mut self, known: &mut Known, now: Timestamp) -> Step {
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
    async fn cool(&mut self, known: &mut Known) -> Step {
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
        let sent = change
            .request(table.client.update_item(), &table.name, row_key(self.key))
            .return_values(ReturnValue::AllNew)
            .customize()
            .config_override(table.write_once(&self.place, self.batch.deadline)?)
            .send()
            .await;
        match written(&self.place, sent)? {
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

    fn conflict(&self) -> StoreError {
        StoreError::Conflict {
            place: self.place.clone(),
            source: None,
        }
    }

    /// Sends a transaction once. Its token is random and its own: a token used again with the
    /// same body would be answered with success, and nothing written.
    async fn transact(
        &self,
        actions: Result<Vec<TransactWriteItem>, BuildError>,
    ) -> Result<Transacted, StoreError> {
        let actions = actions.map_err(|error| StoreError::InvalidValue {
            place: self.place.clone(),
            reason: error.to_string(),
            source: None,
        })?;
        let table = self.batch.table;
        let sent = table
            .client
            .transact_write_items()
            .client_request_token(self.batch.token())
            .set_transact_items(Some(actions))
            .customize()
            .config_override(table.write_once(&self.place, self.batch.deadline)?)
            .send()
            .await;
        transacted(&self.place, sent)
    }
}

/// Whether an id is among those a row holds itself.
fn taken_by(row: &Item) -> impl Fn(&Id) -> bool {
    let taken: HashSet<&[u8]> = ids_in(row, CUR).chain(ids_in(row, PREV)).collect();
    move |id| taken.contains(id.as_slice())
}

/// Why a transaction was cancelled, if by anything but its conditions.
fn failure(reasons: &[Reason]) -> Option<StoreError> {
    reasons.iter().find_map(|reason| match reason {
        Reason::Failed(error) => Some(error.clone()),
        Reason::None | Reason::Refused(_) => None,
    })
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
