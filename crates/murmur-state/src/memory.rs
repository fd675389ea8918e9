//! Stores and the marker table in memory.

mod deduper;
mod ledger;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::{HashMap, HashSet};

use crate::checkpoint::Checkpoints;
use crate::error::{Fault, Place, StoreError};
use crate::ids::{ItemId, Key, PipelineName};
use crate::monoid::{Monoid, Overflow};
use crate::store::{
    Add, Binding, Bound, ExactlyOnce, LedgerEntry, Listed, Once, Outcome, Read, StateRow, Store,
};
use crate::time::Deadline;
use deduper::Marked;
pub use deduper::MemoryDeduper;

const STORE: &str = "MemoryStore";

/// The number of stores made in this process. Each has its own rows, and a name with its number.
static STORES: AtomicU64 = AtomicU64::new(1);

/// A store in memory: the reference for the behaviour of every other store, and the store for tests
/// of pipelines.
///
/// It serves every delivery mode, since it has its own marker table. It keeps everything until it
/// is dropped; clones share rows and markers. It answers at once, so it ignores deadlines.
#[derive(Clone)]
pub struct MemoryStore<M: Monoid> {
    monoid: M,
    place: Place,
    inner: Arc<Mutex<Inner<M::Value>>>,
    markers: MemoryDeduper,
}

struct Inner<V> {
    bound: Option<Binding>,
    settling: bool,
    rows: HashMap<Key, Row<V>>,
    ledger: HashMap<ItemId, LedgerEntry<V>>,
}

#[derive(Clone)]
struct Row<V> {
    value: V,
    ttl: Option<i64>,
    mode: Mode,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Merge,
    ExactlyOnce,
    Ledger,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Merge => "a mode without ids (at-least-once or claim-first)",
            Self::ExactlyOnce => "exactly-once",
            Self::Ledger => "ledger",
        }
    }
}

impl<M: Monoid> MemoryStore<M> {
    /// An empty store with an empty marker table, on the machine's clock.
    pub fn new(monoid: M) -> Self {
        Self {
            monoid,
            place: Place::table(STORE, format!("memory {}", STORES.fetch_add(1, Relaxed))),
            inner: Arc::new(Mutex::new(Inner {
                bound: None,
                settling: false,
                rows: HashMap::new(),
                ledger: HashMap::new(),
            })),
            markers: MemoryDeduper::new(),
        }
    }

    /// Uses this marker table: one that a test inspects, that has its own clock, or that several
    /// pipelines share. Default: a new one.
    #[must_use]
    pub fn markers(mut self, markers: MemoryDeduper) -> Self {
        self.markers = markers;
        self
    }

    /// All rows, in order of their keys.
    pub fn rows(&self) -> Vec<StateRow<M::Value>> {
        let inner = self.lock();
        let row = |(key, row): (&Key, &Row<M::Value>)| StateRow {
            key: key.clone(),
            value: row.value.clone(),
            ttl: row.ttl,
        };
        let mut rows: Vec<_> = inner.rows.iter().map(row).collect();
        rows.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        rows
    }

    fn lock(&self) -> MutexGuard<'_, Inner<M::Value>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self, found: &Binding, binding: &Binding) -> Result<(), StoreError> {
        match found.admits(binding) {
            true => Ok(()),
            false => Err(StoreError::OtherOwner {
                place: self.place.clone(),
                found: found.to_string().into(),
                wanted: binding.to_string().into(),
            }),
        }
    }

    fn add(
        &self,
        rows: &mut HashMap<Key, Row<M::Value>>,
        add: &Add<M::Value>,
        mode: Mode,
    ) -> Result<(), StoreError> {
        let combine = |value: &mut M::Value| {
            let combined = self.monoid.combine(value, &add.value);
            combined.map_err(|Overflow| StoreError::Overflow {
                place: self.place.at(&add.key),
            })
        };
        match rows.get_mut(&add.key) {
            Some(row) if row.mode != mode => Err(StoreError::OtherMode {
                place: self.place.at(&add.key),
                found: row.mode.name(),
                wanted: mode.name(),
            }),
            Some(row) => {
                combine(&mut row.value)?;
                row.ttl = add.ttl;
                Ok(())
            }
            None => {
                let mut value = self.monoid.identity();
                combine(&mut value)?;
                let row = Row {
                    value,
                    ttl: add.ttl,
                    mode,
                };
                rows.insert(add.key.clone(), row);
                Ok(())
            }
        }
    }
}

impl<M: Monoid> fmt::Debug for MemoryStore<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(STORE)
            .field("rows", &self.lock().rows.len())
            .finish_non_exhaustive()
    }
}

/// Keys whose entries failed for a reason that is not their own.
#[derive(Default)]
struct Stopped(HashSet<Key>);

impl Stopped {
    fn blocks<V>(&self, adds: &[Add<V>]) -> bool {
        adds.iter().any(|add| self.0.contains(&add.key))
    }

    fn note<V>(&mut self, error: &StoreError, adds: &[Add<V>]) {
        if error.fault() != Fault::Record {
            self.0.extend(adds.iter().map(|add| add.key.clone()));
        }
    }
}

impl<M: Monoid> Read<M::Value> for MemoryStore<M> {
    fn place(&self) -> Place {
        self.place.clone()
    }

    async fn get_many(&self, keys: &[Key]) -> Result<Vec<Option<M::Value>>, StoreError> {
        let inner = self.lock();
        Ok(keys
            .iter()
            .map(|key| inner.rows.get(key).map(|row| row.value.clone()))
            .collect())
    }

    async fn list(&self, _after: Option<&str>) -> Result<Listed<StateRow<M::Value>>, StoreError> {
        Ok(Listed {
            entries: self.rows(),
            next: None,
            read_units: None,
        })
    }
}

impl<M: Monoid> Store<M> for MemoryStore<M> {
    async fn merge(&self, adds: &[Add<M::Value>], _deadline: Deadline) -> Vec<Outcome> {
        let mut inner = self.lock();
        let mut stopped = Stopped::default();
        adds.iter()
            .map(|add| {
                if stopped.blocks(std::slice::from_ref(add)) {
                    return Outcome::Blocked;
                }
                match self.add(&mut inner.rows, add, Mode::Merge) {
                    Ok(()) => Outcome::Applied,
                    Err(error) => {
                        stopped.note(&error, std::slice::from_ref(add));
                        Outcome::Failed(error)
                    }
                }
            })
            .collect()
    }
}

impl<M: Monoid> ExactlyOnce<M> for MemoryStore<M> {
    fn checkpoints(&self) -> Arc<dyn Checkpoints> {
        Arc::new(self.markers.clone())
    }

    async fn bind(&self, binding: &Binding, _deadline: Deadline) -> Result<Bound, StoreError> {
        let bound = &mut self.lock().bound;
        let found = bound.get_or_insert_with(|| binding.clone());
        self.admit(found, binding)?;
        found.stream = found.stream.take().or_else(|| binding.stream.clone());
        Ok(Bound::new(found.clone()))
    }

    async fn check_binding(
        &self,
        binding: &Binding,
        _deadline: Deadline,
    ) -> Result<Bound, StoreError> {
        match &self.lock().bound {
            Some(found) => {
                self.admit(found, binding)?;
                Ok(Bound::new(found.clone()))
            }
            None => Err(StoreError::Setup {
                place: self.place.clone(),
                advice: "it belongs to no pipeline yet, so there is nothing to compare; bootstrap \
                         the pipeline or start its stream consumer first"
                    .to_owned(),
                source: None,
            }),
        }
    }

    async fn apply(
        &self,
        bound: &Bound,
        events: &[Once<M::Value>],
        _deadline: Deadline,
    ) -> Vec<Outcome> {
        // Always state before markers: the two locks make one transaction.
        let mut inner = self.lock();
        let mut marked = self.markers.lock();
        let pipeline = bound.pipeline();
        let mut stopped = Stopped::default();
        events
            .iter()
            .map(|event| {
                if stopped.blocks(&event.adds) {
                    return Outcome::Blocked;
                }
                let rows = &mut inner.rows;
                let taken = self.take(rows, &mut marked, pipeline, event, Mode::ExactlyOnce);
                taken.unwrap_or_else(|error| {
                    stopped.note(&error, &event.adds);
                    Outcome::Failed(error)
                })
            })
            .collect()
    }
}

impl<M: Monoid> MemoryStore<M> {
    /// Counts `event` on each of its keys, unless the key has counted it before.
    fn take(
        &self,
        rows: &mut HashMap<Key, Row<M::Value>>,
        marked: &mut Marked,
        pipeline: &PipelineName,
        event: &Once<M::Value>,
        mode: Mode,
    ) -> Result<Outcome, StoreError> {
        let mut applied = false;
        for add in &event.adds {
            let bucket = add.key.bucket().to_string();
            let marker = pipeline.marker("once", &[add.key.entity(), &bucket, event.id.as_str()]);
            if !marked.once.contains(&marker) {
                self.add(rows, add, mode)?;
                marked.once.insert(marker);
                applied = true;
            }
        }
        // An event without keys has nothing that could repeat.
        Ok(match applied || event.adds.is_empty() {
            true => Outcome::Applied,
            false => Outcome::Duplicate,
        })
    }
}
