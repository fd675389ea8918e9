use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use murmur_state::{
    Add, Codec, Deadline, Key, Listed, Once, OptionError, Outcome, Overflow, PipelineName, Place,
    Read, RetryPolicy, StateRow, Store, StoreError,
};

use crate::attribute::{
    ITEM_LIMIT, Item, TOK, TTL, V, VER, integer, no_traces, number, wrong_shape,
};
use crate::change::Change;
use crate::deduper::Deduper;
use crate::error::Written;
use crate::lanes::{self, Write};
use crate::marked::{Markable, Marked, MarkerTable};
use crate::once::{self, Cell, OnceBatch, Refusal, Slots, Unwritable};
use crate::options::TableOptions;
use crate::table::Table;

const STORE: &str = "BytesStore";

/// The wait between two swaps starts at up to 10 ms and doubles up to 1 s. The winner needs one
/// round trip, and the waits spread further the more writers lose.
const SWAP_BASE: Duration = Duration::from_millis(10);
const SWAP_CAP: Duration = Duration::from_secs(1);

/// Holds the values of any monoid as bytes. Each entry is a read, a combination in this process,
/// and a compare-and-swap on the row's version.
///
/// A swap lost to another writer is tried again after a wait of full jitter. It continues from the
/// row that won, which the failed condition returns, so the row is not read again.
///
/// # At least once
///
/// Every merge leaves a random token in the row. After a lost answer the row is read:
///
/// - If the row has the token, the swap was applied.
/// - If the row is at the next version with another token, the swap was not applied.
/// - If the row has changed further, this cannot be told. A monoid that is not idempotent then
///   fails the entry with `may_have_applied: true`; an idempotent one combines it again, which is
///   harmless.
///
/// # Cost
///
/// One consistent read (one read unit per 4 KB) and one write unit per KB of the row and entry. A
/// lost swap costs the write units again. An entry that changes nothing is not written.
#[derive(Clone)]
pub struct BytesStore<M: Codec> {
    table: Table,
    monoid: M,
    max_retries: u32,
    slots: Arc<Slots>,
}

impl<M: Codec> BytesStore<M> {
    /// Creates a store of `monoid`'s values on `table`, a table made by
    /// [`create_bytes_table`](crate::create_bytes_table). The caller keeps the client. No request
    /// is sent until the store is used.
    pub fn new(client: Client, table: impl Into<Arc<str>>, monoid: M) -> Self {
        Self {
            table: Table::new(STORE, client, table),
            monoid,
            max_retries: 10,
            slots: Arc::default(),
        }
    }

    /// Like [`new`](Self::new), with options.
    ///
    /// # Errors
    ///
    /// [`OptionError`] names an option that is not valid.
    pub fn with_options(
        client: Client,
        table: impl Into<Arc<str>>,
        monoid: M,
        options: TableOptions,
    ) -> Result<Self, OptionError> {
        let store = Self::new(client, table, monoid);
        Ok(Self {
            table: store.table.with_options(options)?,
            ..store
        })
    }

    /// How often an entry is tried again after it lost a swap to another writer. Then it fails with
    /// [`StoreError::RetriesExhausted`]. 0 tries once.
    ///
    /// Default 10: up to 11 writes for one entry, with about 2 s of waits. Under more contention
    /// than that, use fewer writers per key.
    #[must_use]
    pub fn max_retries(mut self, max_retries: u32) -> Self {
        self.max_retries = max_retries;
        self
    }

    /// Combines the store with its marker table, which the exact modes need; the other modes do
    /// not. Takes the table's name or a shared [`Deduper`]. The marker table must not be the state
    /// table.
    #[must_use]
    pub fn markers(self, markers: impl Into<MarkerTable>) -> Marked<Self> {
        let table = self.table.clone();
        Marked::new(self, &table, markers.into())
    }

    fn value(&self, place: &Place, row: &Item) -> Result<M::Value, StoreError> {
        let expected = "bytes that this monoid wrote";
        let Some(AttributeValue::B(bytes)) = row.get(V) else {
            return Err(wrong_shape(place, row, V, expected));
        };
        self.monoid
            .decode(bytes.as_ref())
            .map_err(|error| StoreError::WrongShape {
                place: place.clone(),
                attribute: V,
                found: format!("{} bytes that cannot be decoded", bytes.as_ref().len()),
                expected,
                source: Some(Arc::new(error)),
            })
    }

    /// What a merge needs to know about a row, or `None` if there is no row.
    fn known(&self, place: &Place, row: &Item) -> Result<Option<ReadRow<M::Value>>, StoreError> {
        no_traces(place, row)?;
        self.known_of_any_mode(place, row)
    }

    fn known_of_any_mode(
        &self,
        place: &Place,
        row: &Item,
    ) -> Result<Option<ReadRow<M::Value>>, StoreError> {
        if row.is_empty() {
            return Ok(None);
        }
        let ver = integer(
            place,
            row,
            VER,
            "a version, as compare-and-swap rows have it",
        )?;
        let token = match row.get(TOK) {
            None => None,
            Some(AttributeValue::B(token)) => Some(token.clone()),
            Some(_) => return Err(wrong_shape(place, row, TOK, "the bytes of a token")),
        };
        let ttl = row.contains_key(TTL);
        let ttl = ttl.then(|| integer(place, row, TTL, "a time in seconds"));
        let ttl = ttl.transpose()?;
        let value = self.value(place, row)?;
        Ok(Some(ReadRow {
            value,
            ttl,
            version: Version { ver, token },
        }))
    }

    async fn read(
        &self,
        place: &Place,
        key: &Key,
        deadline: Deadline,
    ) -> Result<Option<ReadRow<M::Value>>, StoreError> {
        self.known(
            place,
            &self.table.get_row(key, deadline).await?.unwrap_or_default(),
        )
    }

    fn combined(
        &self,
        place: &Place,
        known: Option<&ReadRow<M::Value>>,
        add: &Add<M::Value>,
    ) -> Result<M::Value, StoreError> {
        let mut value = known.map_or_else(|| self.monoid.identity(), |known| known.value.clone());
        self.monoid
            .combine(&mut value, &add.value)
            .map_err(|Overflow| StoreError::Overflow {
                place: place.clone(),
            })?;
        Ok(value)
    }

    /// The update that puts `value` in place of the known version, and only of that one.
    fn swap(
        &self,
        change: Change,
        value: &M::Value,
        over: Option<&Version>,
        token: &Blob,
    ) -> Change {
        let value = Blob::new(self.monoid.encode(value));
        let next = over.map_or(1, |over| over.ver.saturating_add(1));
        let change = change
            .set("v = :value")
            .set("ver = :next")
            .set("tok = :token")
            .value(":value", AttributeValue::B(value))
            .value(":next", number(next))
            .value(":token", AttributeValue::B(token.clone()));
        // The token makes each version unique, even after the row was removed and its version
        // numbers started again.
        match over {
            None => change.only_if("attribute_not_exists(pk)"),
            Some(Version { ver, token: None }) => change
                .only_if("ver = :ver AND attribute_not_exists(tok)")
                .value(":ver", number(ver)),
            Some(Version {
                ver,
                token: Some(token),
            }) => change
                .only_if("ver = :ver AND tok = :known")
                .value(":ver", number(ver))
                .value(":known", AttributeValue::B(token.clone())),
        }
    }

    /// A token that no other write's row has.
    fn token(&self, place: &Place) -> Result<Blob, StoreError> {
        let bits = self.table.options.tokens.bits();
        let bits = bits.map_err(|error| error.at(place.clone()))?;
        Ok(Blob::new(bits.to_be_bytes()))
    }

    /// Blames the value if it does not fit in any row, and the row otherwise.
    fn too_large(&self, place: &Place, add: &Add<M::Value>, grown: bool) -> StoreError {
        let alone = self.monoid.encode(&add.value).len() + add.key.entity().len();
        if grown && alone < ITEM_LIMIT {
            return StoreError::RowTooLarge {
                place: place.clone(),
            };
        }
        let reason = format!("{alone} bytes by itself, over the item size limit of {ITEM_LIMIT}");
        StoreError::InvalidValue {
            place: place.clone(),
            reason,
            source: None,
        }
    }
}

/// The parts of a row that a swap depends on.
struct ReadRow<V> {
    value: V,
    ttl: Option<i64>,
    version: Version,
}

/// The state of a row that a swap replaces. Rows of the Go original have no token.
#[derive(Clone, PartialEq, Eq)]
struct Version {
    ver: u64,
    token: Option<Blob>,
}

/// A swap whose answer was lost: the version it was to replace, and the failure.
struct Doubt {
    over: Option<Version>,
    error: StoreError,
}

impl Doubt {
    /// What a row that was read later, and does not have the swap's token, says about the swap.
    fn verdict(&self, found: Option<&Version>) -> Verdict {
        if found == self.over.as_ref() {
            return Verdict::NotYet;
        }
        let next = self
            .over
            .as_ref()
            .map_or(1, |over| over.ver.saturating_add(1));
        if found.is_some_and(|found| found.ver == next) {
            Verdict::Never
        } else {
            Verdict::Unknown
        }
    }
}

enum Verdict {
    /// The swap may still arrive. It can be sent again, because only one of the two can win.
    NotYet,
    /// Another writer replaced the version that the swap was to replace.
    Never,
    /// The row has changed further, or is gone. The swap may have been applied in between.
    Unknown,
}

impl<M: Codec> Write<M::Value> for BytesStore<M> {
    fn concurrency(&self) -> usize {
        self.table.options.concurrency
    }

    async fn write(&self, add: &Add<M::Value>, deadline: Deadline) -> Result<(), StoreError> {
        let place = self.table.place().at(&add.key);
        let token = self.token(&place)?;
        let mut known = self.read(&place, &add.key, deadline).await?;
        let mut doubt: Option<Doubt> = None;
        // Once a swap is in doubt, no other failure may hide that it may have been applied.
        let blame = |doubt: Option<Doubt>, error| doubt.map_or(error, |doubt| doubt.error);

        let swaps = RetryPolicy::default().waits(SWAP_BASE, SWAP_CAP);
        for round in 0..=self.max_retries {
            if round > 0 {
                let pause = self.table.pause(&place, &swaps, round - 1, deadline);
                if let Err(error) = pause.await {
                    return Err(blame(doubt, error));
                }
            }
            let value = match self.combined(&place, known.as_ref(), add) {
                Ok(value) => value,
                Err(error) => return Err(blame(doubt, error)),
            };
            if known
                .as_ref()
                .is_some_and(|known| known.value == value && known.ttl == add.ttl)
            {
                return Ok(());
            }
            let over = known.as_ref().map(|known| &known.version);
            let change = self.swap(Change::default(), &value, over, &token);
            let row = match self.table.update(add, change, deadline).await {
                Ok(Written::Done(_)) => return Ok(()),
                Ok(Written::Refused(row)) => row,
                Err(
                    error @ StoreError::Unavailable {
                        may_have_applied: true,
                        ..
                    },
                ) => {
                    let over = over.cloned();
                    let row = self.table.get_row(&add.key, deadline).await;
                    doubt = Some(Doubt { over, error });
                    match row {
                        Ok(row) => row.unwrap_or_default(),
                        Err(error) => return Err(blame(doubt, error)),
                    }
                }
                Err(StoreError::RowTooLarge { .. }) => {
                    return Err(blame(doubt, self.too_large(&place, add, known.is_some())));
                }
                Err(error) => return Err(blame(doubt, error)),
            };
            if row.get(TOK) == Some(&AttributeValue::B(token.clone())) {
                return Ok(());
            }
            known = match self.known(&place, &row) {
                Ok(known) => known,
                Err(error) => return Err(blame(doubt, error)),
            };
            doubt = match doubt.take() {
                None => None,
                Some(doubt) => match doubt.verdict(known.as_ref().map(|known| &known.version)) {
                    Verdict::NotYet => Some(doubt),
                    Verdict::Never => None,
                    Verdict::Unknown if M::IDEMPOTENT => None,
                    Verdict::Unknown => return Err(doubt.error),
                },
            };
        }
        let attempts = self.max_retries.saturating_add(1);
        Err(blame(
            doubt,
            StoreError::RetriesExhausted { place, attempts },
        ))
    }
}

impl<M: Codec> Read<M::Value> for BytesStore<M> {
    fn place(&self) -> Place {
        self.table.place()
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<M::Value>>, StoreError> {
        let place = self.table.place();
        self.table
            .get_many(keys, |key, row| self.value(&place.at(key), row))
            .await
    }

    async fn list(&self, after: Option<&str>) -> Result<Listed<StateRow<M::Value>>, StoreError> {
        let place = self.table.place();
        self.table
            .list(after, |key, row| self.value(&place.at(key), row))
            .await
    }
}

impl<M: Codec> Store<M> for BytesStore<M> {
    async fn merge(&self, adds: &[Add<M::Value>], deadline: Deadline) -> Vec<Outcome> {
        lanes::merge(self, adds, deadline).await
    }
}

/// Keeps ids in the row, as [`Int64SumStore`](crate::Int64SumStore) does, beside the
/// compare-and-swap. An idempotent monoid needs no ids and is merged.
impl<M: Codec> Markable<M> for BytesStore<M> {
    const LAYOUT: &'static str = if M::IDEMPOTENT {
        "idempotent bytes"
    } else {
        "bytes"
    };

    fn table(&self) -> &Table {
        &self.table
    }

    async fn apply(
        &self,
        pipeline: &PipelineName,
        markers: &Deduper,
        events: &[Once<M::Value>],
        deadline: Deadline,
    ) -> Vec<Outcome> {
        if M::IDEMPOTENT {
            return lanes::merge_events(self, events, deadline).await;
        }
        let batch = OnceBatch {
            table: &self.table,
            markers,
            cell: self,
            pipeline,
            deadline,
        };
        once::apply(&batch, &self.slots, events).await
    }
}

impl<M: Codec> Cell<M::Value> for BytesStore<M> {
    type Total = M::Value;

    const READS: bool = true;

    fn total<'a>(&self, values: impl Iterator<Item = &'a M::Value>) -> Result<M::Value, Overflow> {
        let mut total = self.monoid.identity();
        for value in values {
            self.monoid.combine(&mut total, value)?;
        }
        Ok(total)
    }

    fn write(
        &self,
        place: &Place,
        change: Change,
        row: &Item,
        total: &M::Value,
    ) -> Result<Change, Unwritable> {
        let known = self
            .known_of_any_mode(place, row)
            .map_err(Unwritable::Row)?;
        let mut value = known
            .as_ref()
            .map_or_else(|| self.monoid.identity(), |known| known.value.clone());
        self.monoid
            .combine(&mut value, total)
            .map_err(|Overflow| Unwritable::Overflow)?;
        let over = known.as_ref().map(|known| &known.version);
        let token = self.token(place).map_err(Unwritable::Row)?;
        Ok(self.swap(change, &value, over, &token))
    }

    fn refusal(&self, _place: &Place, _row: &Item) -> Refusal {
        Refusal::Swapped
    }

    fn too_large(&self, value: &M::Value) -> Option<usize> {
        let bytes = self.monoid.encode(value).len();
        (bytes >= ITEM_LIMIT).then_some(bytes)
    }

    fn patience(&self) -> (u32, Duration, Duration) {
        (self.max_retries, SWAP_BASE, SWAP_CAP)
    }
}

impl<M: Codec> fmt::Debug for BytesStore<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(STORE)
            .field("table", &self.table)
            .field("max_retries", &self.max_retries)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::config::{BehaviorVersion, Config};
    use murmur_state::{CodecError, Monoid};

    use super::*;
    use crate::any_rows::{holds, look_at};
    use crate::attribute::{PER, PK, SK};

    #[derive(Clone)]
    struct Bits;

    impl Monoid for Bits {
        type Input = u8;
        type Value = u8;
        const IDEMPOTENT: bool = true;

        fn identity(&self) -> u8 {
            0
        }

        fn lift(&self, input: u8) -> u8 {
            input
        }

        fn combine(&self, into: &mut u8, other: &u8) -> Result<(), Overflow> {
            *into |= other;
            Ok(())
        }
    }

    impl Codec for Bits {
        fn encode(&self, value: &u8) -> Vec<u8> {
            vec![1, *value, 0]
        }

        fn decode(&self, bytes: &[u8]) -> Result<u8, CodecError> {
            match bytes {
                [1, value, 0] => Ok(*value),
                _ => Err(CodecError::new("no bits")),
            }
        }
    }

    #[test]
    fn no_row_is_taken_for_another() {
        let config = Config::builder().behavior_version(BehaviorVersion::latest());
        let store = BytesStore::new(Client::from_conf(config.build()), "sets", Bits);
        let place = store.table.place();
        let blob = |bytes: &[u8]| AttributeValue::B(Blob::new(bytes));
        let original = Item::from([
            (PK.to_owned(), AttributeValue::S("a".into())),
            (SK.to_owned(), number(0)),
            (V.to_owned(), blob(&[1, 7, 0])),
            (VER.to_owned(), number(3)),
        ]);
        let mut ours = original.clone();
        ours.insert(TOK.to_owned(), blob(&[9; 16]));
        ours.insert(TTL.to_owned(), number(1_900_000_000));
        look_at(&[original, ours], &[TOK, TTL, PER], |row| {
            let Ok(known) = store.known(&place, row) else {
                return false;
            };
            let known = known.unwrap();
            let Version { ver, token } = known.version;
            assert!(
                holds(row, V, Some(&blob(&Bits.encode(&known.value)))),
                "{row:?}"
            );
            assert!(holds(row, VER, Some(&number(ver))), "{row:?}");
            assert!(
                holds(row, TOK, token.map(AttributeValue::B).as_ref()),
                "{row:?}"
            );
            assert!(holds(row, TTL, known.ttl.map(number).as_ref()), "{row:?}");
            assert!(!row.contains_key(PER), "{row:?}");
            true
        });
    }
}
