use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use hashbrown::{HashMap, HashSet};

use crate::checkpoint::{Checkpoint, Checkpoints, Removed, Saved};
use crate::dedup::{Claim, Deduper, Owner};
use crate::error::{Fault, Place, StoreError};
use crate::ids::{ItemId, Key, PipelineName};
use crate::monoid::{Group, Monoid, Overflow};
use crate::store::{
    Add, Binding, ExactlyOnce, ItemChange, Known, Ledger, ListSegment, Listed, MAX_KEYS, Mend,
    Once, Outcome, Position, Read, Replace, StateRow, Store,
};
use crate::time::{Clock, Deadline, SystemClock, Timestamp};

const STORE: &str = "MemoryStore";

/// How many stores were made in this process: each has rows of its own, and a name that says so.
static STORES: AtomicU64 = AtomicU64::new(1);

/// A store in this process: the reference for what every other store must do, and what tests of
/// pipelines run on. It holds everything until it is dropped; clones share the rows. It answers
/// at once, so deadlines do not concern it.
#[derive(Clone)]
pub struct MemoryStore<M: Monoid> {
    monoid: M,
    place: Place,
    inner: Arc<Mutex<Inner<M::Value>>>,
}

struct Inner<V> {
    bound: Option<Binding>,
    settling: bool,
    rows: HashMap<Key, Row<V>>,
    ledger: HashMap<ItemId, Known<V>>,
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
    /// An empty store.
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
        }
    }

    /// Every row, in order of the keys.
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

/// Keys at which an entry failed for a reason that is not its own.
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
    type Markers = MemoryDeduper;

    async fn bind(
        &self,
        binding: &Binding,
        _markers: &MemoryDeduper,
        _deadline: Deadline,
    ) -> Result<(), StoreError> {
        let bound = &mut self.lock().bound;
        if let Some(found) = bound {
            self.admit(found, binding)?;
            found.stream = found.stream.take().or_else(|| binding.stream.clone());
        } else {
            *bound = Some(binding.clone());
        }
        Ok(())
    }

    async fn check_binding(
        &self,
        binding: &Binding,
        _markers: &MemoryDeduper,
        _deadline: Deadline,
    ) -> Result<Option<Arc<str>>, StoreError> {
        match &self.lock().bound {
            Some(found) => {
                self.admit(found, binding)?;
                Ok(found.stream.clone())
            }
            None => Err(StoreError::Setup {
                place: self.place.clone(),
                advice: "it belongs to no pipeline yet, so there is nothing to compare; bootstrap \
                         the pipeline or start live first"
                    .to_owned(),
                source: None,
            }),
        }
    }

    async fn apply(
        &self,
        pipeline: &PipelineName,
        markers: &MemoryDeduper,
        events: &[Once<M::Value>],
        _deadline: Deadline,
    ) -> Vec<Outcome> {
        // State first, then markers, always: the two locks make one transaction.
        let mut inner = self.lock();
        let mut marked = markers.lock();
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
    /// Has each key of `event` take it, unless it has.
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
        // An event without keys has nothing to repeat.
        Ok(match applied || event.adds.is_empty() {
            true => Outcome::Applied,
            false => Outcome::Duplicate,
        })
    }
}

impl<M: Group> MemoryStore<M> {
    /// Makes an item contribute what `entry` says in place of what it contributed before: rows and
    /// ledger change together, or not at all.
    fn turn(
        &self,
        inner: &mut Inner<M::Value>,
        entry: &Replace<M::Value>,
        clock: &dyn Clock,
    ) -> Result<(), StoreError> {
        let Replace {
            item,
            at,
            now,
            keep,
            change,
            ..
        } = entry;
        let known = inner.ledger.get(item);
        let before = known.map_or(&[][..], |known| &known.now);
        let settles = change.as_ref().is_some_and(|change| change.settles);
        let mut changed: HashMap<Key, Row<M::Value>> = before
            .iter()
            .chain(now)
            .chain(keep)
            .filter_map(|add| Some((add.key.clone(), inner.rows.get(&add.key)?.clone())))
            .collect();
        let mut kept = known.map_or_else(Vec::new, |known| known.kept.clone());
        let today = clock.now().as_secs();
        kept.retain(|add| add.ttl.is_none_or(|ttl| ttl > today));
        for add in before {
            if add.ttl.is_none_or(|ttl| ttl > today) {
                let value = self.monoid.invert(&add.value);
                let value = value.map_err(|Overflow| self.overflow(&add.key))?;
                let add = Add {
                    value,
                    ..add.clone()
                };
                self.add(&mut changed, &add, Mode::Ledger)?;
            }
        }
        for add in now.iter().chain(keep) {
            self.add(&mut changed, add, Mode::Ledger)?;
        }
        for add in keep {
            self.keep(&mut kept, add)?;
        }
        let known = Known {
            item: item.clone(),
            version: known.map_or(1, |known| known.version + 1),
            at: at.clone(),
            settled: settles,
            now: if settles { Vec::new() } else { now.clone() },
            kept: if settles { Vec::new() } else { kept },
        };
        inner.rows.extend(changed);
        inner.ledger.insert(item.clone(), known);
        Ok(())
    }

    /// Refuses an entry of more keys than an item may have.
    fn check_keys(&self, entry: &Replace<M::Value>) -> Result<(), StoreError> {
        let keys = entry.now.len() + entry.keep.len();
        match keys > MAX_KEYS {
            true => Err(StoreError::InvalidValue {
                place: self.place.clone(),
                reason: format!(
                    "item {} has {keys} keys, and one of a ledger can have {MAX_KEYS}",
                    entry.item
                ),
                source: None,
            }),
            false => Ok(()),
        }
    }

    /// Settles the item of `entry` just below it, if it has not yet and what it contributes is what it
    /// was before the entry: no row changes. Whether it has settled now.
    fn settles(&self, inner: &mut Inner<M::Value>, entry: &Replace<M::Value>, today: i64) -> bool {
        let known = inner.ledger.get(&entry.item);
        if known.is_some_and(|known| known.settled) {
            return true;
        }
        let (Some(change), Position::Stream(at)) = (&entry.change, &entry.at) else {
            return false;
        };
        let contributes = known.map_or(&[][..], |known| &known.now);
        let (true, Some(below)) = (
            change.settles && self.is_same(contributes, &change.before, today),
            at.predecessor(),
        ) else {
            return false;
        };
        let settled = Known {
            item: entry.item.clone(),
            version: known.map_or(1, |known| known.version + 1),
            at: Position::Stream(below),
            settled: true,
            now: Vec::new(),
            kept: Vec::new(),
        };
        inner.ledger.insert(entry.item.clone(), settled);
        true
    }

    /// Whether two contributions are the same in all rows that are still there.
    fn is_same(&self, one: &[Add<M::Value>], other: &[Add<M::Value>], today: i64) -> bool {
        let identity = self.monoid.identity();
        let counts =
            |add: &&Add<M::Value>| add.value != identity && add.ttl.is_none_or(|ttl| ttl > today);
        let one: HashMap<_, _> = one
            .iter()
            .filter(counts)
            .map(|add| (&add.key, &add.value))
            .collect();
        let mut other = other.iter().filter(counts);
        let len = other.clone().count();
        len == one.len() && other.all(|add| one.get(&add.key) == Some(&&add.value))
    }

    /// A change of a settled item, as an event of its own.
    fn event(
        &self,
        entry: &Replace<M::Value>,
        change: &ItemChange<M::Value>,
    ) -> Result<Once<M::Value>, StoreError> {
        let mut adds: Vec<Add<M::Value>> = Vec::new();
        let mut add = |one: &Add<M::Value>, value: M::Value| {
            match adds.iter_mut().find(|add| add.key == one.key) {
                Some(add) => self.monoid.combine(&mut add.value, &value),
                None => {
                    adds.push(Add {
                        value,
                        ..one.clone()
                    });
                    Ok(())
                }
            }
            .map_err(|Overflow| self.overflow(&one.key))
        };
        for one in entry.now.iter().chain(&entry.keep) {
            add(one, one.value.clone())?;
        }
        for one in &change.before {
            let value = self.monoid.invert(&one.value);
            add(one, value.map_err(|Overflow| self.overflow(&one.key))?)?;
        }
        // What was taken away and put back.
        let identity = self.monoid.identity();
        let was_there = |key: &Key| change.before.iter().any(|add| add.key == *key);
        adds.retain(|add| add.value != identity || !was_there(&add.key));
        Ok(Once {
            id: change.id.clone(),
            created: entry.created,
            handed_over: change.handed_over,
            adds,
        })
    }

    /// Counts a change of a settled item by its event's id.
    fn by_id(
        &self,
        inner: &mut Inner<M::Value>,
        marked: &mut Marked,
        pipeline: &PipelineName,
        entry: &Replace<M::Value>,
    ) -> Result<Outcome, StoreError> {
        let Some(change) = &entry.change else {
            return Err(StoreError::unknown_before(self.place.clone(), &entry.item));
        };
        let taken = self
            .event(entry, change)
            .and_then(|event| self.take(&mut inner.rows, marked, pipeline, &event, Mode::Ledger));
        taken.map_err(|error| error.of_settled(self.place.clone(), &entry.item))
    }

    fn keep(&self, kept: &mut Vec<Add<M::Value>>, add: &Add<M::Value>) -> Result<(), StoreError> {
        match kept.iter_mut().find(|kept| kept.key == add.key) {
            Some(kept) => self
                .monoid
                .combine(&mut kept.value, &add.value)
                .map_err(|Overflow| self.overflow(&add.key)),
            None => {
                kept.push(add.clone());
                Ok(())
            }
        }
    }

    fn overflow(&self, key: &Key) -> StoreError {
        StoreError::Overflow {
            place: self.place.at(key),
        }
    }

    /// What the ledger's table answers without anything being changed; `None` to go on.
    fn unchanged(known: Option<&Known<M::Value>>, at: &Position) -> Option<Outcome> {
        match (known.map(|known| &known.at), at) {
            (Some(Position::Scan), Position::Scan) => Some(Outcome::Duplicate),
            (Some(Position::Stream(_)), Position::Scan) => Some(Outcome::Superseded),
            (Some(Position::Stream(seen)), Position::Stream(at)) if at == seen => {
                Some(Outcome::Duplicate)
            }
            (Some(Position::Stream(seen)), Position::Stream(at)) if at < seen => {
                Some(Outcome::Superseded)
            }
            _ => None,
        }
    }

    /// Does `entries` in order; `enter` answers each, or fails by the error.
    fn in_order<E>(
        &self,
        entries: &[E],
        parts: impl Fn(&E) -> (&ItemId, &[Add<M::Value>]),
        mut enter: impl FnMut(&E) -> Result<Outcome, StoreError>,
    ) -> Vec<Outcome> {
        let mut stopped = Stopped::default();
        let mut held = HashSet::new();
        entries
            .iter()
            .map(|entry| {
                let (item, now) = parts(entry);
                if held.contains(item) || stopped.blocks(now) {
                    held.insert(item.clone());
                    return Outcome::Blocked;
                }
                enter(entry).unwrap_or_else(|error| {
                    if error.fault() != Fault::Record {
                        held.insert(item.clone());
                    }
                    stopped.note(&error, now);
                    Outcome::Failed(error)
                })
            })
            .collect()
    }
}

impl<M: Group> Ledger<M> for MemoryStore<M> {
    async fn replace(
        &self,
        pipeline: &PipelineName,
        markers: &MemoryDeduper,
        items: &[Replace<M::Value>],
        _deadline: Deadline,
    ) -> Vec<Outcome> {
        // State first, then markers, as `apply` does.
        let inner = &mut *self.lock();
        let marked = &mut *markers.lock();
        let clock = &*markers.clock;
        self.in_order(
            items,
            |entry| (&entry.item, &entry.now),
            |entry| {
                self.check_keys(entry)?;
                let known = inner.ledger.get(&entry.item);
                if let Some(outcome) = Self::unchanged(known, &entry.at) {
                    return Ok(outcome);
                }
                if self.settles(inner, entry, clock.now().as_secs()) {
                    // Each counts by itself, so one that fails holds up nothing.
                    let counted = self.by_id(inner, marked, pipeline, entry);
                    return Ok(counted.unwrap_or_else(Outcome::Failed));
                }
                self.turn(inner, entry, clock)?;
                Ok(Outcome::Applied)
            },
        )
    }

    async fn settle(
        &self,
        binding: &Binding,
        markers: &MemoryDeduper,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        self.check_binding(binding, markers, deadline).await?;
        self.lock().settling = true;
        Ok(())
    }

    async fn is_settling(
        &self,
        _pipeline: &PipelineName,
        _markers: &MemoryDeduper,
        _deadline: Deadline,
    ) -> Result<bool, StoreError> {
        Ok(self.lock().settling)
    }

    async fn known(
        &self,
        _pipeline: &PipelineName,
        _markers: &MemoryDeduper,
        items: &[ItemId],
        _deadline: Deadline,
    ) -> Result<Vec<Option<Known<M::Value>>>, StoreError> {
        let inner = self.lock();
        let known = items.iter().map(|item| inner.ledger.get(item).cloned());
        Ok(known.collect())
    }

    async fn list_known(
        &self,
        _pipeline: &PipelineName,
        _markers: &MemoryDeduper,
        segment: ListSegment,
        _after: Option<&str>,
    ) -> Result<Listed<Known<M::Value>>, StoreError> {
        let inner = self.lock();
        let of_segment = |known: &&Known<M::Value>| {
            // Unseeded, so that every listing divides the items alike.
            let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&known.item);
            hash % u64::from(segment.of().get()) == u64::from(segment.number())
        };
        let entries = inner.ledger.values().filter(of_segment);
        let mut entries: Vec<_> = entries.cloned().collect();
        entries.sort_unstable_by(|one, other| one.item.cmp(&other.item));
        Ok(Listed {
            entries,
            next: None,
            read_units: None,
        })
    }

    async fn mend(
        &self,
        _pipeline: &PipelineName,
        markers: &MemoryDeduper,
        items: &[Mend<M::Value>],
        _deadline: Deadline,
    ) -> Vec<Outcome> {
        let inner = &mut *self.lock();
        self.in_order(
            items,
            |entry| (&entry.item, &entry.now),
            |entry| {
                let known = inner.ledger.get(&entry.item);
                let settled = known.is_some_and(|known| known.settled);
                if settled || known.map(|known| known.version) != entry.over {
                    return Ok(Outcome::Superseded);
                }
                let at = known.map_or(Position::Scan, |known| known.at.clone());
                let entry = Replace {
                    item: entry.item.clone(),
                    at,
                    created: None,
                    now: entry.now.clone(),
                    keep: Vec::new(),
                    change: None,
                };
                self.check_keys(&entry)?;
                self.turn(inner, &entry, &*markers.clock)?;
                Ok(Outcome::Applied)
            },
        )
    }
}

/// How long a [`MemoryDeduper`] remembers a claim unless told otherwise: a stream's 24 hours of
/// retention twice over.
const REMEMBERED: Duration = Duration::from_secs(48 * 3600);

/// The marker table in this process: claims, markers of events taken, checkpoints. Clones share
/// it. Claims expire by its clock, by which a ledger also knows which rows are past their `ttl`;
/// the markers of exactly-once stay until it is dropped. It answers at once, so deadlines do not
/// concern it.
#[derive(Clone)]
pub struct MemoryDeduper {
    ttl: Duration,
    clock: Arc<dyn Clock>,
    marked: Arc<Mutex<Marked>>,
}

#[derive(Default)]
struct Marked {
    claims: HashMap<String, (Owner, Timestamp)>,
    once: HashSet<String>,
    checkpoints: HashMap<String, Checkpoint>,
}

impl MemoryDeduper {
    /// An empty one that remembers claims for 48 hours of the machine's clock.
    pub fn new() -> Self {
        Self::with_ttl(REMEMBERED, SystemClock::shared())
    }

    /// An empty one that remembers claims for `ttl` by `clock`.
    pub fn with_ttl(ttl: Duration, clock: Arc<dyn Clock>) -> Self {
        Self {
            ttl,
            clock,
            marked: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Marked> {
        self.marked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryDeduper {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryDeduper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let marked = self.lock();
        f.debug_struct("MemoryDeduper")
            .field("claims", &marked.claims.len())
            .field("once", &marked.once.len())
            .field("checkpoints", &marked.checkpoints.len())
            .finish_non_exhaustive()
    }
}

impl Deduper for MemoryDeduper {
    async fn claim(
        &self,
        id: &str,
        owner: &Owner,
        _deadline: Deadline,
    ) -> Result<Claim, StoreError> {
        let now = self.clock.now();
        let mut marked = self.lock();
        match marked.claims.get(id) {
            Some((holder, until)) if *until > now => Ok(if holder == owner {
                Claim::First
            } else {
                Claim::Duplicate
            }),
            _ => {
                marked
                    .claims
                    .insert(id.to_owned(), (owner.clone(), now.plus(self.ttl)));
                Ok(Claim::First)
            }
        }
    }

    async fn release(
        &self,
        id: &str,
        owner: &Owner,
        _deadline: Deadline,
    ) -> Result<(), StoreError> {
        let mut marked = self.lock();
        if marked
            .claims
            .get(id)
            .is_some_and(|(holder, _)| holder == owner)
        {
            marked.claims.remove(id);
        }
        Ok(())
    }
}

impl Checkpoints for MemoryDeduper {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        Box::pin(async move { Ok(self.lock().checkpoints.get(name).cloned()) })
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        Box::pin(async move {
            let mut marked = self.lock();
            let known = marked.checkpoints.get(name);
            let next = Checkpoint {
                data: data.to_owned(),
                version: over.map_or(1, |over| over + 1),
            };
            if known == Some(&next) {
                return Ok(Saved::Version(next.version));
            }
            if known.map(|known| known.version) != over {
                return Ok(Saved::Conflict);
            }
            let version = next.version;
            marked.checkpoints.insert(name.to_owned(), next);
            Ok(Saved::Version(version))
        })
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        Box::pin(async move {
            let mut marked = self.lock();
            match marked.checkpoints.get(name) {
                Some(known) if known.version != over => Ok(Removed::Conflict),
                _ => {
                    marked.checkpoints.remove(name);
                    Ok(Removed::Gone)
                }
            }
        })
    }
}
