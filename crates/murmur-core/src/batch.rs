//! What the records of a batch add, with each key looked up and kept once.

use std::hash::{BuildHasher, Hash};

use hashbrown::DefaultHashBuilder;
use hashbrown::hash_table::{Entry, HashTable};
use murmur_state::{Add, IdError, Key};
use smallvec::SmallVec;

use crate::record::Record;

/// What a batch adds, before delivery.
pub(crate) struct BatchAdds<'a, V> {
    pub(crate) rows: Rows,
    pub(crate) shares: Vec<RecordShare<'a, V>>,
}

impl<V> BatchAdds<'_, V> {
    /// Every addition, in the order of the shares.
    pub(crate) fn additions(&self) -> impl Iterator<Item = &Addition<V>> {
        self.shares.iter().flat_map(|share| &share.adds)
    }
}

/// What one record adds; mostly it is to one key.
pub(crate) struct RecordShare<'a, V> {
    pub(crate) record: &'a Record,
    pub(crate) adds: Additions<V>,
    /// What its item goes on contributing for good, in a ledger.
    pub(crate) keep: Additions<V>,
    /// What its item contributed before, in a ledger that settles; `None` if nothing tells.
    pub(crate) before: Option<Additions<V>>,
}

impl<'a, V> RecordShare<'a, V> {
    /// One that adds nothing.
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

/// A value to be combined into one of the batch's [`Rows`].
pub(crate) struct Addition<V> {
    pub(crate) row: usize,
    pub(crate) value: V,
}

/// The rows a batch adds to: each once, however many records name it.
pub(crate) struct Rows {
    rows: Vec<Row>,
    places: Index,
}

struct Row {
    key: Key,
    ttl: Option<i64>,
}

impl Rows {
    /// None yet; there is room for `capacity`.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self {
            rows: Vec::with_capacity(capacity),
            places: Index::with_capacity(capacity),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The place of `entity` in `bucket`, whose `ttl` is the same whichever record names it.
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

    /// The addition as a store takes it.
    pub(crate) fn add<V: Clone>(&self, Addition { row, value }: &Addition<V>) -> Add<V> {
        let Row { key, ttl } = &self.rows[*row];
        Add {
            key: key.clone(),
            value: value.clone(),
            ttl: *ttl,
        }
    }
}

/// The places of things in a list, found by what names them; the names stay in the list.
pub(crate) struct Index {
    places: HashTable<usize>,
    /// Seeded at random, since names are made of what a table's writers please.
    hasher: DefaultHashBuilder,
}

impl Index {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self {
            places: HashTable::with_capacity(capacity),
            hasher: DefaultHashBuilder::default(),
        }
    }

    /// The place of what is called `name`, or where to note it. `name_of` names what is at a
    /// place.
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
