//! What the records of a batch add, with each key looked up and kept once.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use murmur_state::{Add, IdError, Key};
use smallvec::SmallVec;

use crate::record::Record;

/// What a batch adds, before delivery.
pub(crate) struct Batch<'a, V> {
    pub(crate) rows: Rows,
    pub(crate) shares: Vec<Share<'a, V>>,
}

impl<V> Batch<'_, V> {
    /// Every addition, in the order of the shares.
    pub(crate) fn additions(&self) -> impl Iterator<Item = &Addition<V>> {
        self.shares.iter().flat_map(|share| &share.adds)
    }
}

/// What one record adds; mostly it is to one key.
pub(crate) struct Share<'a, V> {
    pub(crate) record: &'a Record,
    pub(crate) adds: Additions<V>,
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
    places: HashTable<usize>,
    /// Seeded at random, since keys are made of what a table's writers please.
    hasher: DefaultHashBuilder,
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
            places: HashTable::with_capacity(capacity),
            hasher: DefaultHashBuilder::default(),
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
        let Self {
            rows,
            places,
            hasher,
        } = self;
        let hash = hasher.hash_one((entity, bucket));
        let same = |&place: &usize| {
            let key = &rows[place].key;
            key.bucket() == bucket && key.entity() == entity
        };
        if let Some(&place) = places.find(hash, same) {
            return Ok(place);
        }
        let (place, key) = (rows.len(), Key::new(entity, bucket)?);
        rows.push(Row { key, ttl });
        places.insert_unique(hash, place, |&place| {
            let key = &rows[place].key;
            hasher.hash_one((key.entity(), key.bucket()))
        });
        Ok(place)
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
