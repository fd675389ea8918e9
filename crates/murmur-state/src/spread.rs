use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use sha2::{Digest, Sha256};

use crate::checkpoint::Checkpoints;
use crate::error::{OptionError, Place, StoreError};
use crate::ids::{ItemId, Key, MAX_PARTITION_KEY_BYTES};
use crate::monoid::{Group, Monoid, Overflow};
use crate::store::{
    Add, Binding, Bound, ExactlyOnce, ItemChange, Ledger, LedgerEntry, ListSegment, Listed, Mend,
    Once, Outcome, Read, Replace, StateRow, Store,
};
use crate::time::{Deadline, Random};

/// The most rows a key may have.
const MAX_ROWS: u32 = 1_000;

/// Rows per read of the store.
const PART: usize = 1_000;

/// Separates an entity from the number of its row.
const MARK: char = '#';

/// A store that keeps each hot key in several rows, which together take more writes than one row.
///
/// A partition of DynamoDB, and so a row, takes 1,000 write units a second (Amazon DynamoDB
/// Developer Guide, "Designing partition keys to distribute your workload"). Use `Spread` for a key
/// that gets more than about 500 a second; other keys do not need it. A write unit is one KB of the
/// row written once; in a transaction it counts twice.
///
/// # Rows
///
/// The key (`all`, 0), spread over 8 rows, is in the rows (`all#0`, 0) to (`all#7`, 0): the
/// *sub-rows* of the key. Errors name the row of the table.
///
/// - The id of an event determines its sub-row, so a redelivered event meets its own id.
/// - In a ledger the id of the item does, so that a contribution is taken back from the row that
///   has it.
/// - Plain merges have no id. The additions of one call to a key go to one of its sub-rows, those
///   of the next call to the next.
///
/// The number of the sub-row is the first 8 bytes of the id's SHA-256, as a big-endian integer,
/// modulo the number of rows. This is the same in every release: of 8 rows, the event `e1` is in
/// `all#2`.
///
/// # Promises
///
/// Each key has the promises of the wrapped store: an event that it applies once is applied once,
/// and the key's value is the combination of its sub-rows. The differences to a single row are:
///
/// - A single sub-row has no meaning: with retraction, one may be negative while the sum is
///   correct.
/// - A key is read row by row, not at one moment: each concurrent addition is either in the value
///   or not.
/// - Overflow is checked row by row. A key whose rows combine to more than the type holds can be
///   written, but not read ([`StoreError::Overflow`]).
/// - A failure at one sub-row does not block entries for the others.
/// - [`list`](Read::list) has one entry per sub-row, each with the key: combine the entries of a
///   key.
/// - A write of another delivery mode is only refused when it meets a row, and a key with few
///   events may not have all of its rows.
///
/// # Names
///
/// If only [some](Spread::only) entities are spread, an entity that looks like a sub-row of one of
/// them (`all#` and digits) is refused as [`StoreError::InvalidValue`], the record's own fault, and
/// reading it finds nothing. If all entities are spread, any name is allowed, since the last `#`
/// and number of a row's entity are always the sub-row's.
///
/// The name of a spread entity must leave room for the longest suffix in the 2,048 bytes of a key;
/// longer names are refused in the same way.
///
/// # Cost
///
/// - A read of a key reads all of its sub-rows: with 8 rows of up to 4 KB it costs 8 read units
///   instead of 1.
/// - A batch with *k* events of one key writes up to min(*k*, rows) rows instead of 1. Plain
///   merges, which have no id, still write 1. So use as few rows as the traffic needs, and only for
///   the keys that need it.
/// - Every event of a spread key costs a SHA-256 of its id.
///
/// # Changing the number of rows
///
/// The number of rows and the entities are part of the definition that a store is
/// [bound](ExactlyOnce::bind) by. A change needs a new version of the pipeline and new tables,
/// since an event or item would be looked for in another row than it is in. Without a new version,
/// the store refuses the change ([`StoreError::OtherOwner`]).
///
/// The modes without ids (at-least-once, claim-first) bind nothing. There, the number may be raised
/// at any time. It must never be lowered, and no entity added or left out: rows that are no longer
/// read would be missing in the totals.
///
/// # Example
///
/// ```
/// # use murmur_state::{Group, Monoid};
/// # use murmur_state::monoid::Overflow;
/// # #[derive(Clone)]
/// # struct Sum;
/// # impl Monoid for Sum {
/// #     type Input = i64;
/// #     type Value = i64;
/// #     fn identity(&self) -> i64 { 0 }
/// #     fn lift(&self, input: i64) -> i64 { input }
/// #     fn combine(&self, into: &mut i64, other: &i64) -> Result<(), Overflow> {
/// #         *into = into.checked_add(*other).ok_or(Overflow)?;
/// #         Ok(())
/// #     }
/// # }
/// use murmur_state::{Deadline, Key, MemoryStore, ReadExt, Spread, Store};
/// use murmur_state::store::Add;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let table = MemoryStore::new(Sum);
/// let store = Spread::new(Sum, table.clone(), 8)?.only(["all"])?;
/// let all = Key::new("all", 0)?;
/// for value in [5, 6, 7] {
///     let add = Add { key: all.clone(), value, ttl: None };
///     store.merge(&[add], Deadline::NONE).await;
/// }
/// assert_eq!(store.get(&all).await?, Some(18));
/// assert_eq!(table.rows().len(), 3); // three of `all#0` to `all#7`
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Spread<M, S> {
    monoid: M,
    store: S,
    rows: u32,
    /// The entities that are spread; `None` for all.
    only: Option<Arc<BTreeSet<String>>>,
    /// Counts the merges.
    merges: Arc<AtomicU32>,
}

impl<M, S> Spread<M, S> {
    /// Spreads every key of `store`, which holds values of `monoid`, over `rows` rows.
    ///
    /// `rows` should be the write units a second that the hottest key needs, divided by 500. More
    /// than 1,000 rows are refused: 1,000 rows take up to a million write units a second, 25 times
    /// a table's default limit (40,000), and a read of one key is ten requests.
    ///
    /// # Errors
    ///
    /// [`OptionError`] naming `rows` unless it is between 2 and 1,000.
    pub fn new(monoid: M, store: S, rows: u32) -> Result<Self, OptionError> {
        if !(2..=MAX_ROWS).contains(&rows) {
            return Err(OptionError::new(
                "rows",
                format!(
                    "{rows} is not between 2 and {MAX_ROWS}; a read of a key reads all of its rows"
                ),
            ));
        }
        Ok(Self {
            monoid,
            store,
            rows,
            only: None,
            // Random, so that processes that begin together begin at different rows.
            merges: Arc::new(AtomicU32::new(Random::new().bits() as u32)),
        })
    }

    /// Spreads only the keys of these entities, in every bucket; all others keep their one row. A
    /// second call replaces the first. Default: every key, which costs reads for keys that do not
    /// need it.
    ///
    /// # Errors
    ///
    /// [`OptionError`] naming `only` if `entities` is empty, if one of them is empty or too long to
    /// be a key with a number appended, or if one looks like a sub-row of another.
    pub fn only<E: Into<String>>(
        mut self,
        entities: impl IntoIterator<Item = E>,
    ) -> Result<Self, OptionError> {
        let refused = |reason: String| Err(OptionError::new("only", reason));
        let entities: BTreeSet<String> = entities.into_iter().map(Into::into).collect();
        if entities.is_empty() {
            return refused("it names no entity; leave it out to spread every key".to_owned());
        }
        self.only = Some(Arc::new(entities));
        for entity in self.only.iter().flat_map(|only| only.iter()) {
            if entity.is_empty() {
                return refused("an entity is empty, and no row can have an empty key".to_owned());
            }
            if entity.len() > self.longest() {
                return refused(format!("entity `{entity}`: {}", self.too_long(entity)));
            }
            if let Some((of, _)) = self.sub_row(entity) {
                return refused(format!(
                    "entity `{entity}` looks like a sub-row of `{of}`, which is spread as well; \
                     name one of them differently"
                ));
            }
        }
        Ok(self)
    }

    fn is_spread(&self, entity: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(entity))
    }

    /// The spread entity and the digits after it, if `entity` looks like a sub-row of one.
    fn sub_row<'a>(&self, entity: &'a str) -> Option<(&'a str, &'a str)> {
        let (of, digits) = entity.rsplit_once(MARK)?;
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        (is_number && !of.is_empty() && self.is_spread(of)).then_some((of, digits))
    }

    /// Whether a sub-row has this number, written in this way.
    fn has(&self, digits: &str) -> bool {
        digits
            .parse()
            .is_ok_and(|number: u32| number < self.rows && number.to_string() == digits)
    }

    /// The longest name of a spread entity, in bytes.
    fn longest(&self) -> usize {
        let digits = (self.rows - 1).checked_ilog10().unwrap_or(0) as usize + 1;
        MAX_PARTITION_KEY_BYTES - MARK.len_utf8() - digits
    }

    fn too_long(&self, entity: &str) -> String {
        let (bytes, rows, longest) = (entity.len(), self.rows, self.longest());
        format!(
            "it has {bytes} bytes, and an entity that is spread over {rows} rows can have at most {longest}"
        )
    }

    /// The rows of `key`.
    fn rows_of<'a>(&self, key: &'a Key) -> impl Iterator<Item = Key> + Send + use<'a, M, S> {
        let entity = key.entity();
        let (spread, numbers) = if self.is_spread(entity) {
            // An entity that is too long has none.
            let rows = if entity.len() > self.longest() {
                0
            } else {
                self.rows
            };
            (true, 0..rows)
        } else {
            (false, 0..u32::from(self.sub_row(entity).is_none()))
        };
        numbers.filter_map(move |number| match spread {
            true => numbered(key, number).ok(),
            false => Some(key.clone()),
        })
    }

    /// Its part of the definition as text.
    fn words(&self) -> String {
        let mut words = format!("spread over {} rows", self.rows);
        let mut separator = ": ";
        for entity in self.only.iter().flat_map(|only| only.iter()) {
            words.push_str(separator);
            push_name(&mut words, entity);
            separator = ", ";
        }
        words
    }

    fn spread(&self, binding: &Binding) -> Binding {
        Binding {
            definition: format!("{}, {}", binding.definition, self.words()).into(),
            ..binding.clone()
        }
    }
}

impl<M: Monoid, S: Read<M::Value>> Spread<M, S> {
    /// The row of `key` with this number, if the key is spread.
    fn row(&self, key: &Key, number: impl FnOnce() -> u32) -> Result<Key, StoreError> {
        let entity = key.entity();
        let invalid = |reason| StoreError::InvalidValue {
            place: self.store.place().at(key),
            reason,
            source: None,
        };
        if self.is_spread(entity) {
            return match entity.len() > self.longest() {
                true => Err(invalid(self.too_long(entity))),
                false => numbered(key, number()),
            };
        }
        match self.sub_row(entity) {
            None => Ok(key.clone()),
            Some((of, _)) => Err(invalid(format!(
                "its entity looks like a sub-row of `{of}`, which is {}; name it differently",
                self.words()
            ))),
        }
    }

    /// The key that `row` belongs to.
    fn key(&self, row: Key) -> Result<Key, StoreError> {
        match self.sub_row(row.entity()) {
            Some((entity, digits)) if self.has(digits) => {
                Key::new(entity, row.bucket()).map_err(StoreError::InvalidId)
            }
            None if !self.is_spread(row.entity()) => Ok(row),
            _ => Err(StoreError::Setup {
                place: self.store.place().at(&row),
                advice: format!(
                    "the store is {}, and this row is not one of its rows; it was written without `Spread`, \
                     or with other options; give each version of a pipeline a state table of its own",
                    self.words()
                ),
                source: None,
            }),
        }
    }

    /// Converts the `adds` of the event or item `id` into additions to rows.
    fn to_rows(&self, adds: &[Add<M::Value>], id: &str) -> Result<Vec<Add<M::Value>>, StoreError> {
        let number = LazyCell::new(|| number_of(id, self.rows));
        adds.iter()
            .map(|add| {
                Ok(Add {
                    key: self.row(&add.key, || *number)?,
                    value: add.value.clone(),
                    ttl: add.ttl,
                })
            })
            .collect()
    }

    fn to_keys(&self, adds: Vec<Add<M::Value>>) -> Result<Vec<Add<M::Value>>, StoreError> {
        adds.into_iter()
            .map(|Add { key, value, ttl }| {
                Ok(Add {
                    key: self.key(key)?,
                    value,
                    ttl,
                })
            })
            .collect()
    }

    fn known(&self, known: LedgerEntry<M::Value>) -> Result<LedgerEntry<M::Value>, StoreError> {
        Ok(LedgerEntry {
            now: self.to_keys(known.now)?,
            kept: self.to_keys(known.kept)?,
            ..known
        })
    }
}

/// The row of `key` with this number.
fn numbered(key: &Key, number: u32) -> Result<Key, StoreError> {
    let entity = format!("{}{MARK}{number}", key.entity());
    Key::new(entity, key.bucket()).map_err(StoreError::InvalidId)
}

/// The sub-row, out of `rows`, of the event or item `id`. This must never change: contributions are
/// found by it.
fn number_of(id: &str, rows: u32) -> u32 {
    let digest = Sha256::digest(id.as_bytes());
    let first = digest.iter().take(8);
    let first = first.fold(0, |number, byte| number << 8 | u64::from(*byte));
    // The remainder is less than `rows`.
    (first % u64::from(rows)) as u32
}

/// Writes a name so that a list of names is unambiguous for any names.
fn push_name(into: &mut String, name: &str) {
    if !name.contains([',', ' ', '"', '\\']) {
        return into.push_str(name);
    }
    into.push('"');
    for character in name.chars() {
        if matches!(character, '"' | '\\') {
            into.push('\\');
        }
        into.push(character);
    }
    into.push('"');
}

/// Entries in the form that the wrapped store takes.
struct Taken<E> {
    entries: Vec<E>,
    /// Entries refused without asking the store, each with its index.
    refused: Vec<(usize, StoreError)>,
}

impl<E> Taken<E> {
    fn of<F>(entries: &[F], take: impl Fn(&F) -> Result<E, StoreError>) -> Self {
        let mut taken = Self {
            entries: Vec::with_capacity(entries.len()),
            refused: Vec::new(),
        };
        for (place, entry) in entries.iter().enumerate() {
            match take(entry) {
                Ok(entry) => taken.entries.push(entry),
                Err(error) => taken.refused.push((place, error)),
            }
        }
        taken
    }

    /// The outcomes of all entries, in their order. If the store gives too many or too few answers,
    /// so does this.
    fn with(self, outcomes: Vec<Outcome>) -> Vec<Outcome> {
        if self.refused.is_empty() {
            return outcomes;
        }
        let mut all = Vec::with_capacity(outcomes.len() + self.refused.len());
        let mut refused = self.refused.into_iter().peekable();
        for outcome in outcomes {
            while let Some((_, error)) = refused.next_if(|(place, _)| *place == all.len()) {
                all.push(Outcome::Failed(error));
            }
            all.push(outcome);
        }
        all.extend(refused.map(|(_, error)| Outcome::Failed(error)));
        all
    }
}

/// The combined value of the rows of one key.
struct Combined<V> {
    value: Option<V>,
    /// Values that would have taken the result out of its range so far.
    spilt: Vec<V>,
}

impl<V: Clone> Combined<V> {
    fn add<M: Monoid<Value = V>>(&mut self, monoid: &M, value: V) {
        match &mut self.value {
            None => self.value = Some(value),
            Some(all) => {
                if monoid.combine(all, &value).is_err() {
                    self.spilt.push(value);
                }
            }
        }
    }

    /// Values that left the range in one order may be within it in another.
    fn value<M: Monoid<Value = V>>(mut self, monoid: &M) -> Result<Option<V>, Overflow> {
        while let Some(value) = &mut self.value
            && !self.spilt.is_empty()
        {
            let left = self.spilt.len();
            self.spilt
                .retain(|spilt| monoid.combine(value, spilt).is_err());
            if self.spilt.len() == left {
                return Err(Overflow);
            }
        }
        Ok(self.value)
    }
}

impl<M, S: fmt::Debug> fmt::Debug for Spread<M, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spread")
            .field("store", &self.store)
            .field("rows", &self.rows)
            .field("only", &self.only)
            .finish_non_exhaustive()
    }
}

#[deny(clippy::missing_trait_methods)]
impl<M: Monoid, S: Read<M::Value>> Read<M::Value> for Spread<M, S> {
    fn place(&self) -> Place {
        self.store.place()
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<M::Value>>, StoreError> {
        let none = |_| Combined {
            value: None,
            spilt: Vec::new(),
        };
        let mut values: Vec<Combined<M::Value>> = keys.iter().map(none).collect();
        let places = keys.iter().enumerate();
        let mut rows =
            places.flat_map(|(place, key)| self.rows_of(key).map(move |row| (place, row)));
        loop {
            let (places, part): (Vec<usize>, Vec<Key>) = rows.by_ref().take(PART).unzip();
            if part.is_empty() {
                break;
            }
            let found = self.store.get_many(&part).await?;
            if found.len() != part.len() {
                return Err(StoreError::Setup {
                    place: self.store.place(),
                    advice: format!(
                        "it gave {} answers to {} keys, so the answers cannot be assigned to keys; \
                         fix the store to give one answer for each key, in order",
                        found.len(),
                        part.len()
                    ),
                    source: None,
                });
            }
            for (place, found) in places.into_iter().zip(found) {
                if let Some(found) = found {
                    values[place].add(&self.monoid, found);
                }
            }
        }
        let values = keys.iter().zip(values);
        let value = |(key, value): (&Key, Combined<_>)| {
            let value = value.value(&self.monoid);
            value.map_err(|Overflow| StoreError::Overflow {
                place: self.store.place().at(key),
            })
        };
        values.map(value).collect()
    }

    async fn list(&self, after: Option<&str>) -> Result<Listed<StateRow<M::Value>>, StoreError> {
        let Listed {
            entries,
            next,
            read_units,
        } = self.store.list(after).await?;
        let of_key = |row: StateRow<M::Value>| {
            Ok(StateRow {
                key: self.key(row.key)?,
                ..row
            })
        };
        Ok(Listed {
            entries: entries.into_iter().map(of_key).collect::<Result<_, _>>()?,
            next,
            read_units,
        })
    }
}

#[deny(clippy::missing_trait_methods)]
impl<M: Monoid, S: Store<M>> Store<M> for Spread<M, S> {
    async fn merge(&self, adds: &[Add<M::Value>], deadline: Deadline) -> Vec<Outcome> {
        let number = self.merges.fetch_add(1, Relaxed) % self.rows;
        let taken = Taken::of(adds, |add| {
            Ok(Add {
                key: self.row(&add.key, || number)?,
                value: add.value.clone(),
                ttl: add.ttl,
            })
        });
        let outcomes = self.store.merge(&taken.entries, deadline).await;
        taken.with(outcomes)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<M: Monoid, S: ExactlyOnce<M>> ExactlyOnce<M> for Spread<M, S> {
    fn checkpoints(&self) -> Arc<dyn Checkpoints> {
        self.store.checkpoints()
    }

    async fn bind(&self, binding: &Binding, deadline: Deadline) -> Result<Bound, StoreError> {
        self.store.bind(&self.spread(binding), deadline).await
    }

    async fn check_binding(
        &self,
        binding: &Binding,
        deadline: Deadline,
    ) -> Result<Bound, StoreError> {
        let binding = self.spread(binding);
        self.store.check_binding(&binding, deadline).await
    }

    async fn apply(
        &self,
        bound: &Bound,
        events: &[Once<M::Value>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        let taken = Taken::of(events, |event| {
            Ok(Once {
                id: event.id.clone(),
                created: event.created,
                handed_over: event.handed_over,
                adds: self.to_rows(&event.adds, event.id.as_str())?,
            })
        });
        let applied = self.store.apply(bound, &taken.entries, deadline).await;
        taken.with(applied)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<M: Group, S: Ledger<M>> Ledger<M> for Spread<M, S> {
    async fn replace(
        &self,
        bound: &Bound,
        items: &[Replace<M::Value>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        let taken = Taken::of(items, |entry| {
            Ok(Replace {
                item: entry.item.clone(),
                at: entry.at.clone(),
                created: entry.created,
                now: self.to_rows(&entry.now, entry.item.as_str())?,
                keep: self.to_rows(&entry.keep, entry.item.as_str())?,
                change: entry.change.as_ref().map(|change| ItemChange {
                    // A key refused in `now` contributes nothing in `before` either.
                    before: self
                        .to_rows(&change.before, entry.item.as_str())
                        .unwrap_or_default(),
                    ..change.clone()
                }),
            })
        });
        let replaced = self.store.replace(bound, &taken.entries, deadline).await;
        taken.with(replaced)
    }

    async fn known(
        &self,
        bound: &Bound,
        items: &[ItemId],
        deadline: Deadline,
    ) -> Result<Vec<Option<LedgerEntry<M::Value>>>, StoreError> {
        let known = self.store.known(bound, items, deadline).await?;
        let of_keys = |known: Option<_>| known.map(|known| self.known(known)).transpose();
        known.into_iter().map(of_keys).collect()
    }

    async fn list_known(
        &self,
        bound: &Bound,
        segment: ListSegment,
        after: Option<&str>,
    ) -> Result<Listed<LedgerEntry<M::Value>>, StoreError> {
        let Listed {
            entries,
            next,
            read_units,
        } = self.store.list_known(bound, segment, after).await?;
        let of_keys = |known| self.known(known);
        Ok(Listed {
            entries: entries.into_iter().map(of_keys).collect::<Result<_, _>>()?,
            next,
            read_units,
        })
    }

    async fn settle(&self, bound: &Bound, deadline: Deadline) -> Result<(), StoreError> {
        self.store.settle(bound, deadline).await
    }

    async fn is_settling(&self, bound: &Bound, deadline: Deadline) -> Result<bool, StoreError> {
        self.store.is_settling(bound, deadline).await
    }

    async fn mend(
        &self,
        bound: &Bound,
        items: &[Mend<M::Value>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        let taken = Taken::of(items, |entry| {
            Ok(Mend {
                item: entry.item.clone(),
                over: entry.over,
                now: self.to_rows(&entry.now, entry.item.as_str())?,
            })
        });
        let mended = self.store.mend(bound, &taken.entries, deadline).await;
        taken.with(mended)
    }
}

#[cfg(test)]
mod tests;
