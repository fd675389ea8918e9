//! One transaction: the ledger rows of some items, and the state rows that change with them.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::types::TransactWriteItem;
use aws_sdk_dynamodb::types::{AttributeValue, Put, ReturnValuesOnConditionCheckFailure};
use murmur_state::error::Place;
use murmur_state::store::Outcome;
use murmur_state::{Fault, Key, StoreError, Timestamp};

use super::batch::{Group, KnownSoFar, LedgerBatch};
use super::books::Books;
use super::entry;
use super::pack::{Parcel, pack};
use super::turn::{Fate, RowShare, Turn};
use crate::attribute::{Item, LED, PER, number, row_key};
use crate::change::Change;
use crate::error::{Reason, Transacted, Written, unbuilt};
use crate::once::{Cell, Refusal, Unwritable};

/// How often an item is written again in one call before it fails as contended.
const PATIENCE: u32 = 10;

/// How far two clocks may differ: the one of Time to Live, and the one of this process.
const SPREAD: Duration = Duration::from_secs(2 * 45 * 60);

/// Items that are written together.
pub(super) struct Transaction<'a> {
    items: Vec<(Group<'a>, Turn)>,
    /// The rows that change, each by its total.
    rows: BTreeMap<Key, RowShare>,
}

/// The result of a transaction.
pub(super) enum Answer {
    Done,
    /// It was not sent, because another transaction failed at one of its rows.
    Blocked,
    /// It was not sent, because too much time has passed since it was composed.
    Stale,
    /// The sum of this row would leave its range.
    Overflow(Key),
    /// It was cancelled. There is one reason per action: items first, then rows.
    Cancelled(Vec<Reason>),
    Failed(StoreError),
}

/// Rows at which a transaction failed by no fault of its items.
#[derive(Default)]
pub(super) struct Stopped(Mutex<HashSet<Key>>);

impl Stopped {
    fn has_any<'k>(&self, mut keys: impl Iterator<Item = &'k Key>) -> bool {
        let stopped = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.any(|key| stopped.contains(key))
    }

    fn note<'k>(&self, keys: impl Iterator<Item = &'k Key>) {
        let mut stopped = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stopped.extend(keys.cloned());
    }
}

impl<'a> Transaction<'a> {
    /// The transactions that make all of `turns`.
    pub(super) fn all(turns: Vec<(Group<'a>, Turn)>, contended: &HashSet<Key>) -> Vec<Self> {
        let parcels: Vec<Parcel<'_>> = turns
            .iter()
            .map(|(group, turn)| Parcel {
                keys: turn.shares.iter().map(|share| &share.key).collect(),
                bytes: turn
                    .after
                    .as_ref()
                    .map_or(0, |after| entry::size(&group.name, after)),
                alone: group.alone,
            })
            .collect();
        let plan = pack(&parcels, contended);
        let mut turns: Vec<_> = turns.into_iter().map(Some).collect();
        let of_places = |places: Vec<usize>| {
            let items = places.into_iter();
            Self::of(
                items
                    .filter_map(|place| turns.get_mut(place)?.take())
                    .collect(),
            )
        };
        plan.into_iter().map(of_places).collect()
    }

    fn of(items: Vec<(Group<'a>, Turn)>) -> Self {
        let mut rows: BTreeMap<Key, RowShare> = BTreeMap::new();
        for share in items.iter().flat_map(|(_, turn)| &turn.shares) {
            match rows.get_mut(&share.key) {
                Some(row) => {
                    row.by += share.by;
                    row.contributed |= share.contributed;
                }
                None => {
                    rows.insert(share.key.clone(), share.clone());
                }
            }
        }
        Self { items, rows }
    }
}

impl<C: Cell<i64, Total = i128>> Books<'_, C> {
    /// Sends a transaction while no other transaction of this process writes to its rows.
    pub(super) async fn send(
        &self,
        transaction: &Transaction<'_>,
        stopped: &Stopped,
        composed: Timestamp,
    ) -> Answer {
        let keys = || transaction.rows.keys();
        // In the order of the keys, so that no two transactions wait for each other.
        let slots: Vec<_> = keys().map(|key| self.slots.of(key)).collect();
        let mut locks = Vec::with_capacity(slots.len());
        let table = self.table.place();
        for slot in &slots {
            let lock = self.table.in_time(&table, self.deadline, slot.lock());
            match lock.await {
                Ok(lock) => locks.push(lock),
                Err(error) => {
                    stopped.note(keys());
                    return Answer::Failed(error);
                }
            }
        }
        if stopped.has_any(keys()) {
            return Answer::Blocked;
        }
        if self.now().since(composed) > self.markers.table.options.rules.recompose {
            return Answer::Stale;
        }
        if let ([(group, turn)], true) = (&transaction.items[..], transaction.rows.is_empty())
            && let Some(write) = self.row(group, turn, composed)
        {
            return self.send_alone(write).await;
        }
        let place = match transaction.rows.keys().next() {
            Some(key) if transaction.rows.len() == 1 => self.table.place().at(key),
            _ => self.table.place(),
        };
        let actions = match self.actions(transaction, composed) {
            Ok(actions) => actions,
            Err(answer) => return answer,
        };
        match self.table.transact(&place, actions, self.deadline).await {
            Ok(Transacted::Done) => Answer::Done,
            Ok(Transacted::Cancelled(reasons)) => Answer::Cancelled(reasons),
            Err(error) => {
                if !is_of_its_items(&error) {
                    stopped.note(keys());
                }
                Answer::Failed(error)
            }
        }
    }

    /// Sends a change that moves no state row, as a put of its own at half the price of a
    /// transaction.
    async fn send_alone(&self, write: LedgerRow<'_>) -> Answer {
        let put = self.markers.table.client.put_item();
        let put = put
            .set_item(Some(write.row))
            .condition_expression(write.condition)
            .set_expression_attribute_values(write.version);
        let place = self.place_of(write.name);
        match self.markers.table.put(&place, put, self.deadline).await {
            Ok(Written::Done(_)) => Answer::Done,
            Ok(Written::Refused(row)) => Answer::Cancelled(vec![Reason::Refused(row)]),
            Err(error @ StoreError::Conflict { .. }) => {
                Answer::Cancelled(vec![Reason::Failed(error)])
            }
            Err(error) => Answer::Failed(error),
        }
    }

    fn actions(
        &self,
        transaction: &Transaction<'_>,
        composed: Timestamp,
    ) -> Result<Vec<TransactWriteItem>, Answer> {
        let unbuilt = |error: aws_sdk_dynamodb::error::BuildError| {
            Answer::Failed(unbuilt(&self.table.place(), error))
        };
        let mut actions = Vec::with_capacity(transaction.items.len() + transaction.rows.len());
        for (group, turn) in &transaction.items {
            if let Some(write) = self.row(group, turn, composed) {
                let put = Put::builder()
                    .table_name(&*self.markers.table.name)
                    .set_item(Some(write.row))
                    .condition_expression(write.condition)
                    .set_expression_attribute_values(write.version)
                    .return_values_on_condition_check_failure(
                        ReturnValuesOnConditionCheckFailure::AllOld,
                    );
                let put = put.build().map_err(unbuilt)?;
                actions.push(TransactWriteItem::builder().put(put).build());
            }
        }
        for (key, row) in &transaction.rows {
            let change = Change::default()
                .set("led = :led")
                .value(":led", AttributeValue::Bool(true))
                // A row with contributions exists until Time to Live removes it.
                .only_if(match row.contributed {
                    true => "(attribute_exists(led) OR attribute_exists(per))",
                    false => {
                        "(attribute_not_exists(pk) OR attribute_exists(led) \
                         OR attribute_exists(per))"
                    }
                })
                .ttl(row.ttl);
            let place = self.table.place().at(key);
            let change = self.cell.write(&place, change, &Item::new(), &row.by);
            let change = change.map_err(|unwritable| match unwritable {
                Unwritable::Overflow => Answer::Overflow(key.clone()),
                Unwritable::Row(error) => Answer::Failed(error),
            })?;
            let action = change.action(&self.table.name, row_key(key));
            actions.push(action.map_err(unbuilt)?);
        }
        Ok(actions)
    }

    /// The write of the new ledger row over the one that was read.
    fn row<'g>(
        &self,
        group: &'g Group<'_>,
        turn: &Turn,
        composed: Timestamp,
    ) -> Option<LedgerRow<'g>> {
        let after = turn.after.as_ref()?;
        let life = self.markers.table.options.rules.ledger_life;
        let known = group.known.read();
        Some(LedgerRow {
            name: &group.name,
            row: entry::row(&group.name, after, composed, life),
            condition: match known {
                None => "attribute_not_exists(pk)",
                Some(_) => "ver = :ver",
            },
            version: known.map(|known| Item::from([(":ver".to_owned(), number(known.version))])),
        })
    }

    /// The meaning of a refusal by the row at `key`.
    fn refusal(&self, key: &Key, share: &RowShare, row: &Item) -> Refused {
        let place = self.table.place().at(key);
        if row.is_empty() {
            let near = self.now().plus(SPREAD).as_secs();
            return match (share.contributed, share.ttl) {
                (false, _) => Refused::Overflow(place),
                (true, Some(ttl)) if ttl <= near => Refused::Gone,
                (true, _) => Refused::Row(StoreError::Setup {
                    place,
                    advice: "the row is gone, though items contribute to it; restore it, or make \
                             new state and marker tables and bootstrap again"
                        .to_owned(),
                    source: None,
                }),
            };
        }
        if ![LED, PER].iter().any(|exact| row.contains_key(*exact)) {
            return Refused::Row(StoreError::OtherMode {
                place,
                found: "a mode without ids (at-least-once or claim-first)",
                wanted: "ledger",
            });
        }
        match self.cell.refusal(&place, row) {
            Refusal::Row(error) => Refused::Row(error),
            Refusal::Overflow | Refusal::Swapped => Refused::Overflow(place),
        }
    }
}

/// A write of a ledger row that replaces exactly the version that was read.
struct LedgerRow<'g> {
    name: &'g str,
    row: Item,
    condition: &'static str,
    /// The values of the condition.
    version: Option<Item>,
}

/// The meaning of a refusal by a row.
enum Refused {
    /// The sum would leave its range.
    Overflow(Place),
    /// Time to Live has removed the row.
    Gone,
    /// The row has the wrong content.
    Row(StoreError),
}

/// The same error for another row.
fn placed(error: StoreError, place: Place) -> StoreError {
    match error {
        StoreError::Throttled { source, .. } => StoreError::Throttled { place, source },
        StoreError::RowTooLarge { .. } => StoreError::RowTooLarge { place },
        StoreError::InvalidValue { reason, source, .. } => StoreError::InvalidValue {
            place,
            reason,
            source,
        },
        StoreError::Setup { advice, source, .. } => StoreError::Setup {
            place,
            advice,
            source,
        },
        other => other,
    }
}

/// Whether an error is the fault of what is written.
fn is_of_its_items(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::InvalidValue { .. } | StoreError::RowTooLarge { .. }
    )
}

impl<'a> LedgerBatch<'a> {
    /// Settles the entries that the answer to a transaction settles, and keeps the rest for the
    /// next round. Returns whether the transaction conflicted with another.
    pub(super) fn judge<C: Cell<i64, Total = i128>>(
        &mut self,
        books: &Books<'_, C>,
        transaction: Transaction<'a>,
        answer: Answer,
    ) -> bool {
        match answer {
            Answer::Done => {
                for (mut group, turn) in transaction.items {
                    if let Some(after) = &turn.after {
                        books.settled.note(after);
                    }
                    group.known = KnownSoFar::Read(turn.after);
                    self.answer(group, turn.fates);
                }
            }
            Answer::Blocked => {
                for (mut group, _) in transaction.items {
                    group.end(&Outcome::Blocked, &mut self.outcomes);
                }
            }
            Answer::Stale => {
                for (mut group, _) in transaction.items {
                    group.look_first(books.settled);
                    self.keep(group);
                }
            }
            Answer::Overflow(key) => {
                let place = books.table.place().at(&key);
                self.blame(transaction, &StoreError::Overflow { place }, |turn| {
                    turn.shares.iter().any(|share| share.key == key)
                });
            }
            Answer::Failed(error) if is_of_its_items(&error) => {
                self.blame(transaction, &error, |_| true);
            }
            Answer::Failed(error) => {
                self.fail(transaction.items, &error);
            }
            Answer::Cancelled(reasons) => return self.cancelled(books, transaction, reasons),
        }
        false
    }

    /// Judges a refusal by the ledger rows first, because a change composed from an outdated ledger
    /// row proves nothing about the state rows.
    fn cancelled<C: Cell<i64, Total = i128>>(
        &mut self,
        books: &Books<'_, C>,
        mut transaction: Transaction<'a>,
        mut of_items: Vec<Reason>,
    ) -> bool {
        let of_rows = of_items.split_off(transaction.items.len().min(of_items.len()));
        let (mut learned, mut met) = (false, false);
        let mut failed = None;
        for ((group, _), reason) in transaction.items.iter_mut().zip(of_items) {
            match reason {
                Reason::None => {}
                Reason::Refused(row) => {
                    learned = true;
                    group.known = match row.is_empty() {
                        true => KnownSoFar::Read(None),
                        false => match entry::known(&books.place_of(&group.name), &row) {
                            Ok(known) => KnownSoFar::Read(Some(known)),
                            Err(error) => {
                                group.fail(&error, &mut self.outcomes);
                                continue;
                            }
                        },
                    };
                }
                Reason::Failed(StoreError::Conflict { .. }) => {
                    met = true;
                    group.alone = true;
                }
                Reason::Failed(error) => {
                    let error = placed(error, books.place_of(&group.name));
                    failed = failed.or(Some((None, error)));
                }
            }
        }
        let mut refused = Vec::new();
        for ((key, share), reason) in transaction.rows.iter().zip(of_rows) {
            match reason {
                Reason::None => {}
                Reason::Refused(row) => refused.push((key.clone(), share.clone(), row)),
                Reason::Failed(StoreError::Conflict { .. }) => {
                    met = true;
                    self.contended.insert(key.clone());
                }
                Reason::Failed(error) => failed = failed.or(Some((Some(key.clone()), error))),
            }
        }
        if learned || met {
            self.again(books, transaction.items);
            return met;
        }
        if let Some((key, error)) = failed {
            let touched = |turn: &Turn| match &key {
                Some(key) => turn.shares.iter().any(|share| share.key == *key),
                None => true,
            };
            match is_of_its_items(&error) {
                true => self.blame(transaction, &error, touched),
                false => self.fail(transaction.items, &error),
            }
            return false;
        }
        let Some((key, share, row)) = refused.into_iter().next() else {
            // Cancelled without a reason: treated as a conflict.
            self.again(books, transaction.items);
            return true;
        };
        let touched = |turn: &Turn| turn.shares.iter().any(|share| share.key == key);
        match books.refusal(&key, &share, &row) {
            Refused::Gone => {
                self.gone.insert(key);
                self.again(books, transaction.items);
            }
            Refused::Overflow(place) => {
                self.blame(transaction, &StoreError::Overflow { place }, touched);
            }
            Refused::Row(error) => {
                let (with, without): (Vec<_>, Vec<_>) = transaction
                    .items
                    .into_iter()
                    .partition(|(_, turn)| touched(turn));
                self.fail(with, &error);
                self.again(books, without);
            }
        }
        false
    }

    /// Fails all entries of these items.
    fn fail(&mut self, items: Vec<(Group<'a>, Turn)>, error: &StoreError) {
        for (mut group, _) in items {
            group.fail(error, &mut self.outcomes);
        }
    }

    /// Keeps items that are to be composed again, unless that has failed too often.
    fn again<C>(&mut self, books: &Books<'_, C>, items: Vec<(Group<'a>, Turn)>) {
        for (mut group, _) in items {
            group.refusals += 1;
            if group.refusals > PATIENCE {
                let place = books.table.place();
                let source = None;
                group.fail(&StoreError::Conflict { place, source }, &mut self.outcomes);
            }
            self.keep(group);
        }
    }

    /// One of the `touched` items makes the transaction fail by itself. Each of them is tried
    /// alone; then each entry of the item to blame is, until the entry to blame fails with `error`.
    fn blame(
        &mut self,
        transaction: Transaction<'a>,
        error: &StoreError,
        touched: impl Fn(&Turn) -> bool,
    ) {
        let only = transaction.items.len() == 1;
        for (mut group, turn) in transaction.items {
            if !only {
                group.alone |= touched(&turn);
            } else if group.next().len() > 1 {
                group.one_by_one = true;
            } else {
                // The entry is delivered again, and what follows it must not be done by then.
                let rest = (error.fault() != Fault::Record).then(|| group.entries.split_off(1));
                for entry in rest.into_iter().flatten() {
                    self.outcomes[entry.index] = Outcome::Blocked;
                }
                self.answer(group, vec![Fate::Is(Outcome::Failed(error.clone()))]);
                continue;
            }
            self.keep(group);
        }
    }
}
