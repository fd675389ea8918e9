use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use murmur_state::{
    Add, Additive, Bound, Deadline, ItemId, KeepsGreatest, KeepsLeast, Key, Ledger, LedgerEntry,
    ListSegment, Listed, Mend, Once, OptionError, Outcome, Overflow, PipelineName, Place, Read,
    Replace, StateRow, Store, StoreError,
};

use crate::attribute::{Item, V, integer, number};
use crate::change::Change;
use crate::deduper::Deduper;
use crate::error::Written;
use crate::lanes::{self, Write};
use crate::ledger::{Books, Entry, Settled};
use crate::marked::{Markable, Marked, MarkerTable};
use crate::once::{self, Cell, OnceBatch, Refusal, Slots, Unwritable};
use crate::options::TableOptions;
use crate::owner;
use crate::table::Table;

macro_rules! int64_store {
    ($(#[$doc:meta])* $store:ident, $rule:expr, $monoid:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $store {
            rows: Int64Rows,
        }

        impl $store {
            /// Creates a store on `table`, a table made by
            /// [`create_int64_table`](crate::create_int64_table). The caller keeps the client. No
            /// request is sent until the store is used.
            pub fn new(client: Client, table: impl Into<Arc<str>>) -> Self {
                let table = Table::new(stringify!($store), client, table);
                Self { rows: Int64Rows::new(table, $rule) }
            }

            /// Like [`new`](Self::new), with options.
            ///
            /// # Errors
            ///
            /// [`OptionError`] names an option that is not valid.
            pub fn with_options(
                client: Client,
                table: impl Into<Arc<str>>,
                options: TableOptions,
            ) -> Result<Self, OptionError> {
                let table = Table::new(stringify!($store), client, table).with_options(options)?;
                Ok(Self { rows: Int64Rows::new(table, $rule) })
            }

            /// Combines the store with its marker table, which the exact modes need; the other
            /// modes do not. Takes the table's name or a shared [`Deduper`]. The marker table must
            /// not be the state table.
            #[must_use]
            pub fn markers(self, markers: impl Into<MarkerTable>) -> Marked<Self> {
                let table = self.rows.table.clone();
                Marked::new(self, &table, markers.into())
            }
        }

        impl Read<i64> for $store {
            fn place(&self) -> Place {
                self.rows.table.place()
            }

            async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<i64>>, StoreError> {
                self.rows.get_many(keys).await
            }

            async fn list(
                &self,
                after: Option<&str>,
            ) -> Result<Listed<StateRow<i64>>, StoreError> {
                self.rows.list(after).await
            }
        }

        impl<M: $monoid> Store<M> for $store {
            async fn merge(&self, adds: &[Add<i64>], deadline: Deadline) -> Vec<Outcome> {
                lanes::merge(&self.rows, adds, deadline).await
            }
        }
    };
}

int64_store! {
    /// Holds totals. Each entry is one atomic `ADD`, without a read.
    ///
    /// A total stays within `i64`. A write that would leave that range fails with
    /// [`StoreError::Overflow`] and changes nothing.
    ///
    /// # Exactly once
    ///
    /// Needs a marker table; see [`markers`](Int64SumStore::markers). A row keeps the ids of the
    /// last events it took, and one conditional update writes ids and total together. When the ids
    /// take more than half of the [budget](TableOptions::row_budget), the older ones are written to
    /// *pages*, which are rows of the marker table, and are then removed from the row.
    ///
    /// - An event that is older than the [horizon](crate::Deduper::horizon) allows fails with
    ///   [`StoreError::TooOld`].
    /// - An event that has no creation time and was handed over more than an hour ago fails with
    ///   [`StoreError::HeldTooLong`] and is delivered again.
    ///
    /// Costs:
    ///
    /// - One request and one write unit per KB of the row for up to 70 events of one batch and key.
    /// - One write unit for each write of a page of about 40 ids; most pages are written twice.
    /// - One consistent read of an event's page if the event is no newer than the ids in pages.
    /// - Half a read unit for each row that this process has not written lately. All rows of a
    ///   batch are read together, before the update.
    ///
    /// Clones of a store share what they know about rows. Separate stores learn of each other's
    /// writes when a write of theirs is refused. Never delete a row by hand: its ids are deleted
    /// with it.
    ///
    /// # At least once
    ///
    /// An `ADD` whose answer was lost may have been applied, and the row does not show it. Such an
    /// entry is sent once and fails with `may_have_applied: true`. A caller that sends it again may
    /// count it twice; a caller that does not may lose it.
    ///
    /// # Cost
    ///
    /// One write unit per KB of the row and entry, also for an entry that is refused.
    Int64SumStore, Rule::Add, Additive
}

int64_store! {
    /// Keeps the greatest value seen. Each entry is one conditional write, without a read. A lower
    /// or equal value leaves the row and its `ttl` unchanged and is [`Applied`](Outcome::Applied).
    ///
    /// # At least once
    ///
    /// Safe: writing the same value again changes nothing, in any order of values.
    ///
    /// # Cost
    ///
    /// One write unit per KB of the row and entry. A value that is not greater costs the same,
    /// because a failed condition consumes write units (API reference, UpdateItem).
    Int64MaxStore, Rule::Greatest, KeepsGreatest
}

int64_store! {
    /// Keeps the least value seen. Each entry is one conditional write, without a read. A greater
    /// or equal value leaves the row and its `ttl` unchanged and is [`Applied`](Outcome::Applied).
    ///
    /// # At least once
    ///
    /// Safe: writing the same value again changes nothing, in any order of values.
    ///
    /// # Cost
    ///
    /// The same as [`Int64MaxStore`].
    Int64MinStore, Rule::Least, KeepsLeast
}

impl<M: Additive> Markable<M> for Int64SumStore {
    const LAYOUT: &'static str = "sum";

    fn table(&self) -> &Table {
        &self.rows.table
    }

    async fn apply(
        &self,
        pipeline: &PipelineName,
        markers: &Deduper,
        events: &[Once<i64>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        let batch = OnceBatch {
            table: &self.rows.table,
            markers,
            cell: &self.rows,
            pipeline,
            deadline,
        };
        once::apply(&batch, &self.rows.slots, events).await
    }
}

impl<M: Additive> Ledger<M> for Marked<Int64SumStore> {
    async fn replace(
        &self,
        bound: &Bound,
        items: &[Replace<i64>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        let entries = items.iter().enumerate();
        let entries = entries.map(|(index, entry)| Entry::seen(index, entry));
        self.books(bound, deadline).enter(entries).await
    }

    async fn known(
        &self,
        bound: &Bound,
        items: &[ItemId],
        deadline: Deadline,
    ) -> Result<Vec<Option<LedgerEntry<i64>>>, StoreError> {
        self.books(bound, deadline).known(items).await
    }

    async fn list_known(
        &self,
        bound: &Bound,
        segment: ListSegment,
        after: Option<&str>,
    ) -> Result<Listed<LedgerEntry<i64>>, StoreError> {
        let books = self.books(bound, Deadline::NONE);
        books.list(segment, after).await
    }

    async fn settle(&self, bound: &Bound, deadline: Deadline) -> Result<(), StoreError> {
        let (table, layout) = (&self.store.rows.table, self.deduper.layout("sum"));
        owner::settle(table, &self.deduper, &layout, bound.binding(), deadline).await
    }

    async fn is_settling(&self, bound: &Bound, deadline: Deadline) -> Result<bool, StoreError> {
        let table = &self.store.rows.table;
        owner::is_settling(table, &self.deduper, bound.pipeline(), deadline).await
    }

    async fn mend(&self, bound: &Bound, items: &[Mend<i64>], deadline: Deadline) -> Vec<Outcome> {
        let entries = items.iter().enumerate();
        let entries = entries.map(|(index, entry)| Entry::looked_up(index, entry));
        self.books(bound, deadline).enter(entries).await
    }
}

impl Marked<Int64SumStore> {
    fn books<'a>(&'a self, bound: &'a Bound, deadline: Deadline) -> Books<'a, Int64Rows> {
        let rows = &self.store.rows;
        Books {
            table: &rows.table,
            markers: &self.deduper,
            cell: rows,
            slots: &rows.slots,
            settled: &rows.settled,
            pipeline: bound.pipeline(),
            deadline,
        }
    }
}

macro_rules! exactly_once_without_ids {
    ($($store:ident: $monoid:ident, $layout:literal;)*) => {$(
        impl<M: $monoid> Markable<M> for $store {
            const LAYOUT: &'static str = $layout;

            fn table(&self) -> &Table {
                &self.rows.table
            }

            async fn apply(
                &self,
                _pipeline: &PipelineName,
                _markers: &Deduper,
                events: &[Once<i64>],
                deadline: Deadline,
            ) -> Vec<Outcome> {
                lanes::merge_events(&self.rows, events, deadline).await
            }
        }
    )*};
}

exactly_once_without_ids! {
    Int64MaxStore: KeepsGreatest, "max";
    Int64MinStore: KeepsLeast, "min";
}

/// How an entry changes the stored value.
#[derive(Debug, Clone, Copy)]
enum Rule {
    Add,
    Greatest,
    Least,
}

impl Rule {
    /// The first and the last stored value to which an entry of `value` is written, or `None` if
    /// there is none. Both are within `i64`, so a stored number outside `i64` is never overwritten.
    fn meets(self, value: i64) -> Option<(i64, i64)> {
        match self {
            // `ADD` does not stop at the range of `i64`, so the condition has to.
            Self::Add => Some((
                i64::MIN.saturating_sub(value.min(0)),
                i64::MAX.saturating_sub(value.max(0)),
            )),
            Self::Greatest => value.checked_sub(1).map(|below| (i64::MIN, below)),
            Self::Least => value.checked_add(1).map(|above| (above, i64::MAX)),
        }
    }

    fn change(self, value: i64) -> Change {
        let change = Change::default().value(":value", number(value));
        match self {
            Self::Add => change.add("v :value"),
            Self::Greatest | Self::Least => change.set("v = :value"),
        }
    }
}

#[derive(Debug, Clone)]
struct Int64Rows {
    table: Table,
    rule: Rule,
    slots: Arc<Slots>,
    settled: Arc<Settled>,
}

impl Int64Rows {
    fn new(table: Table, rule: Rule) -> Self {
        Self {
            table,
            rule,
            slots: Arc::default(),
            settled: Arc::default(),
        }
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<i64>>, StoreError> {
        let place = self.table.place();
        self.table
            .get_many(keys, |key, row| integer(&place.at(key), row, V, INT64))
            .await
    }

    async fn list(&self, after: Option<&str>) -> Result<Listed<StateRow<i64>>, StoreError> {
        let place = self.table.place();
        self.table
            .list(after, |key, row| integer(&place.at(key), row, V, INT64))
            .await
    }
}

const INT64: &str = "a 64-bit integer";

/// The condition that the stored value, if there is one, lies between two others.
const WITHIN: &str = "(attribute_not_exists(pk) OR v BETWEEN :first AND :last)";

/// Totals in exactly-once mode.
impl Cell<i64> for Int64Rows {
    /// 128 bits, in which the values of one write always fit.
    type Total = i128;

    const READS: bool = false;

    fn total<'a>(&self, values: impl Iterator<Item = &'a i64>) -> Result<i128, Overflow> {
        Ok(values.copied().map(i128::from).sum())
    }

    fn write(
        &self,
        _place: &Place,
        change: Change,
        _row: &Item,
        total: &i128,
    ) -> Result<Change, Unwritable> {
        // `ADD` does not stop at the range of `i64`, so the condition has to.
        let first = i128::from(i64::MIN).max(i128::from(i64::MIN) - total);
        let last = i128::from(i64::MAX).min(i128::from(i64::MAX) - total);
        if first > last {
            return Err(Unwritable::Overflow);
        }
        let fits_alone = (first..=last).contains(&0);
        Ok(change
            .add("v :sum")
            .value(":sum", number(total))
            .only_if(if fits_alone {
                WITHIN
            } else {
                "v BETWEEN :first AND :last"
            })
            .value(":first", number(first))
            .value(":last", number(last)))
    }

    fn refusal(&self, place: &Place, row: &Item) -> Refusal {
        if row.is_empty() {
            return Refusal::Overflow;
        }
        match integer::<i64>(place, row, V, INT64) {
            Ok(_) => Refusal::Overflow,
            Err(error) => Refusal::Row(error),
        }
    }

    fn too_large(&self, _value: &i64) -> Option<usize> {
        None
    }

    fn patience(&self) -> (u32, Duration, Duration) {
        (10, Duration::from_millis(10), Duration::from_secs(1))
    }
}

impl Write<i64> for Int64Rows {
    fn concurrency(&self) -> usize {
        self.table.options.concurrency
    }

    async fn write(&self, add: &Add<i64>, deadline: Deadline) -> Result<(), StoreError> {
        let change = self.rule.change(add.value);
        // Only a missing row counts as nothing. A row without `v` was not written by Murmur.
        let change = match self.rule.meets(add.value) {
            Some((first, last)) => change
                .only_if(WITHIN)
                .value(":first", number(first))
                .value(":last", number(last)),
            None => change.only_if("attribute_not_exists(pk)"),
        };
        match self.table.update(add, change, deadline).await? {
            Written::Done(_) => Ok(()),
            Written::Refused(row) => {
                let place = self.table.place().at(&add.key);
                let _: i64 = integer(&place, &row, V, INT64)?;
                match self.rule {
                    Rule::Add => Err(StoreError::Overflow { place }),
                    Rule::Greatest | Rule::Least => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_of_a_sum_are_exactly_those_that_stay_in_range() {
        let edges = [
            i64::MIN,
            i64::MIN + 1,
            -7,
            -1,
            0,
            1,
            7,
            i64::MAX - 1,
            i64::MAX,
        ];
        for value in edges {
            let (first, last) = Rule::Add.meets(value).unwrap();
            for stored in edges {
                let fits = i64::try_from(i128::from(stored) + i128::from(value)).is_ok();
                assert_eq!((first..=last).contains(&stored), fits, "{stored} + {value}");
            }
        }
    }

    #[test]
    fn greatest_and_least_meet_only_what_they_change() {
        let edges = [i64::MIN, -1, 0, 1, i64::MAX];
        for value in edges {
            for stored in edges {
                let within = |met: Option<(i64, i64)>| {
                    met.is_some_and(|(first, last)| (first..=last).contains(&stored))
                };
                assert_eq!(within(Rule::Greatest.meets(value)), value > stored);
                assert_eq!(within(Rule::Least.meets(value)), value < stored);
            }
        }
    }
}
