//! The additions of a batch's records, with each key looked up and kept once.

use std::hash::{BuildHasher, Hash};

use hashbrown::DefaultHashBuilder;
use hashbrown::hash_table::{Entry, HashTable};
use murmur_state::store::Add;
use murmur_state::{IdError, Key};
use smallvec::SmallVec;

use crate::record::Record;

/// The additions of a batch, before delivery.
pub(crate) struct BatchAdds<'a, V> {
    pub(crate) rows: Rows,
    pub(crate) shares: Vec<RecordShare<'a, V>>,
}

impl<V> BatchAdds<'_, V> {
    /// All additions, in the order of the shares.
    pub(crate) fn additions(&self) -> impl Iterator<Item = &Addition<V>> {
        self.shares.iter().flat_map(|share| &share.adds)
    }
}

/// The additions of one record, mostly to one key.
pub(crate) struct RecordShare<'a, V> {
    pub(crate) record: &'a Record,
    pub(crate) adds: Additions<V>,
    /// Contributions that its item makes for good, in a ledger.
    pub(crate) keep: Additions<V>,
    /// Its item's contributions before the change, in a ledger that settles; `None` if they are
    /// unknown.
    pub(crate) before: Option<Additions<V>>,
}

impl<'a, V> RecordShare<'a, V> {
    /// A share without additions.
    pub(crate) fn nothing(record: &'a Record) -> Self {
        Self {
            record,
            adds: Additions::new(),
            keep: Additions::new(),
            before: None,
        }
    }
}

pub(crate) type Additions<V> = SmallVec<[Addition<V>; 1]>;

/// A value to combine into one of the batch's [`Rows`].
pub(crate) struct Addition<V> {
    pub(crate) row: usize,
    pub(crate) value: V,
}

/// The rows that a batch adds to: each once, no matter how many records name it.
pub(crate) struct Rows {
    rows: Vec<Row>,
    places: Index,
}

struct Row {
    key: Key,
    ttl: Option<i64>,
}

impl Rows {
    /// No rows yet, with room for `capacity`.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self {
            rows: Vec::with_capacity(capacity),
            places: Index::with_capacity(capacity),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The index of `entity` in `bucket`. Its `ttl` is the same for every record that names it.
    pub(crate) fn place(
        &mut self,
        entity: &str,
        bucket: i64,
        ttl: Option<i64>,
    ) -> Result<usize, IdError> {
        let Self { rows, places } = self;
        let key_of = |place: usize| {
            let key: &Key = &rows[place].key;
            (key.entity(), key.bucket())
        };
        match places.entry((entity, bucket), key_of) {
            Entry::Occupied(place) => Ok(*place.get()),
            Entry::Vacant(place) => {
                let key = Key::new(entity, bucket)?;
                place.insert(rows.len());
                rows.push(Row { key, ttl });
                Ok(rows.len() - 1)
            }
        }
    }

    pub(crate) fn key(&self, place: usize) -> &Key {
        &self.rows[place].key
    }

    /// The addition in the form that a store takes.
    pub(crate) fn add<V: Clone>(&self, Addition { row, value }: &Addition<V>) -> Add<V> {
        let Row { key, ttl } = &self.rows[*row];
        Add {
            key: key.clone(),
            value: value.clone(),
            ttl: *ttl,
        }
    }
}

/// Indexes of values in a list, found by name; the names stay in the list.
pub(crate) struct Index {
    places: HashTable<usize>,
    /// Seeded randomly, since the writers of a table choose the names.
    hasher: DefaultHashBuilder,
}

impl Index {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self {
            places: HashTable::with_capacity(capacity),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// The index of the value called `name`, or the place to store it. `name_of` returns the name
    /// of the value at an index.
    pub(crate) fn entry<N: Hash + Eq>(
        &mut self,
        name: N,
        name_of: impl Fn(usize) -> N,
    ) -> Entry<'_, usize> {
        self.places.entry(
            self.hasher.hash_one(&name),
            |&place| name_of(place) == name,
            |&place| self.hasher.hash_one(name_of(place)),
        )
    }
}
