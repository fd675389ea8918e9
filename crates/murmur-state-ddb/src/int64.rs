use std::sync::Arc;

use aws_sdk_dynamodb::Client;
use murmur_state::{
    Add, Additive, Deadline, KeepsGreatest, KeepsLeast, Key, OptionError, Outcome, Read, Store,
    StoreError,
};

use crate::attribute::{V, integer, number};
use crate::error::Written;
use crate::lanes::{self, Write};
use crate::options::TableOptions;
use crate::rows::Update;
use crate::table::Table;

macro_rules! int64_store {
    ($(#[$doc:meta])* $store:ident, $rule:expr, $monoid:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $store {
            rows: Int64Rows,
        }

        impl $store {
            /// A store on `table`, as [`create_int64_table`](crate::create_int64_table) makes
            /// it. The caller keeps the client; nothing is sent until the store is used.
            pub fn new(client: Client, table: impl Into<Arc<str>>) -> Self {
                let table = Table::new(stringify!($store), client, table);
                Self { rows: Int64Rows { table, rule: $rule } }
            }

            /// The same with options.
            ///
            /// # Errors
            ///
            /// [`OptionError`] naming an option that cannot be used.
            pub fn with_options(
                client: Client,
                table: impl Into<Arc<str>>,
                options: TableOptions,
            ) -> Result<Self, OptionError> {
                let table = Table::new(stringify!($store), client, table).with_options(options)?;
                Ok(Self { rows: Int64Rows { table, rule: $rule } })
            }
        }

        impl Read<i64> for $store {
            async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<i64>>, StoreError> {
                self.rows.get_many(keys).await
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
    /// Totals: each entry is one atomic `ADD`, without a read.
    ///
    /// A total stays within `i64`: the write that would leave it is
    /// [`StoreError::Overflow`] and changes nothing.
    ///
    /// # At least once
    ///
    /// An `ADD` whose answer was lost may have been applied, and nothing in the row tells. Such
    /// an entry is sent once and fails with `may_have_applied: true`; whoever sends it again
    /// may count it twice, whoever does not may lose it.
    ///
    /// # Cost
    ///
    /// One write unit per KB of the row and entry, also for one that is refused.
    Int64SumStore, Rule::Add, Additive
}

int64_store! {
    /// The greatest value seen: each entry is one conditional write, without a read. A lower or
    /// equal one leaves the row as it is, its `ttl` too, and is
    /// [`Applied`](Outcome::Applied).
    ///
    /// # At least once
    ///
    /// Safe: the same value again changes nothing, in whatever order values come.
    ///
    /// # Cost
    ///
    /// One write unit per KB of the row and entry; a value that is not greater costs the same
    /// (a failed condition consumes write units: API reference, UpdateItem).
    Int64MaxStore, Rule::Greatest, KeepsGreatest
}

int64_store! {
    /// The least value seen: each entry is one conditional write, without a read. A greater or
    /// equal one leaves the row as it is, its `ttl` too, and is
    /// [`Applied`](Outcome::Applied).
    ///
    /// # At least once
    ///
    /// Safe: the same value again changes nothing, in whatever order values come.
    ///
    /// # Cost
    ///
    /// As [`Int64MaxStore`].
    Int64MinStore, Rule::Least, KeepsLeast
}

/// How an entry meets the value stored.
#[derive(Debug, Clone, Copy)]
enum Rule {
    Add,
    Greatest,
    Least,
}

impl Rule {
    /// The stored values, first and last, to which an entry of `value` is written; `None` if
    /// there are none. All lie within `i64`, so a stored number outside it is never written to.
    fn meets(self, value: i64) -> Option<(i64, i64)> {
        match self {
            // `ADD` does not stop at the range of i64, so the condition does.
            Self::Add => Some((
                i64::MIN.saturating_sub(value.min(0)),
                i64::MAX.saturating_sub(value.max(0)),
            )),
            Self::Greatest => value.checked_sub(1).map(|below| (i64::MIN, below)),
            Self::Least => value.checked_add(1).map(|above| (above, i64::MAX)),
        }
    }

    fn update(self) -> Update<'static> {
        match self {
            Self::Add => Update {
                set: &[],
                add: Some("v :value"),
            },
            Self::Greatest | Self::Least => Update {
                set: &["v = :value"],
                add: None,
            },
        }
    }
}

#[derive(Debug, Clone)]
struct Int64Rows {
    table: Table,
    rule: Rule,
}

impl Int64Rows {
    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<i64>>, StoreError> {
        let place = self.table.place();
        self.table
            .get_many(keys, |key, row| integer(&place.at(key), row, V, INT64))
            .await
    }
}

const INT64: &str = "a 64-bit integer";

impl Write<i64> for Int64Rows {
    fn concurrency(&self) -> usize {
        self.table.options.concurrency
    }

    async fn write(&self, add: &Add<i64>, deadline: Deadline) -> Result<(), StoreError> {
        let mut values = vec![(":value", number(add.value))];
        // A row without `v` is not Murmur's to fill: only a missing row counts as nothing.
        let condition = match self.rule.meets(add.value) {
            Some((first, last)) => {
                values.extend([(":first", number(first)), (":last", number(last))]);
                "attribute_not_exists(pk) OR v BETWEEN :first AND :last"
            }
            None => "attribute_not_exists(pk)",
        };
        let update = self.rule.update();
        match self
            .table
            .update(add, update, condition, values, deadline)
            .await?
        {
            Written::Done => Ok(()),
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
