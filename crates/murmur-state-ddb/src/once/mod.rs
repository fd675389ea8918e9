//! Exactly once: the ids of the events a row has taken are kept with the row.
//!
//! One conditional update writes events and ids together. Before a row drops ids, they are written
//! to pages of the marker table. ARCHITECTURE.md has the argument why this is exact; [`lane`]
//! implements it.

mod cell;
mod ids;
mod lane;
mod page;
#[cfg(feature = "flaws")]
mod past;
mod row;
mod rules;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream;
use murmur_state::store::{Once, Outcome};
use murmur_state::{Key, StoreError};

pub(crate) use cell::{Cell, Refusal, Unwritable};
pub(crate) use ids::Element;
pub(crate) use lane::OnceBatch;
#[cfg(feature = "flaws")]
pub use past::Past;
pub(crate) use row::Slots;
#[cfg(not(feature = "flaws"))]
pub(crate) use rules::Rules;
#[cfg(feature = "flaws")]
pub use rules::Rules;

use crate::attribute::{Item, row_key};
use crate::rows::KEYS_PER_READ;
use ids::Id;
use lane::{Event, RowLane};
use row::Image;

/// Applies each event to each of its keys at most once. Distinct keys are written concurrently, the
/// events of one key in order.
pub(crate) async fn apply<V: Sync, C: Cell<V>>(
    batch: &OnceBatch<'_, C>,
    slots: &Slots,
    events: &[Once<V>],
) -> Vec<Outcome> {
    let RowLanes { lanes, repeats } = RowLanes::of(events);
    let mut looks = match C::READS {
        // Every cell reads its row anyway, when its turn comes.
        true => HashMap::new(),
        false => batch.look(slots, lanes.iter().map(|(key, _)| *key)).await,
    };
    let lanes: Vec<_> = lanes
        .into_iter()
        .map(|(key, events)| {
            let look = looks.remove(key);
            async move {
                let slot = slots.of(key);
                let lane = RowLane::new(batch, key, events);
                let place = batch.table.place().at(key);
                match batch
                    .table
                    .in_time(&place, batch.deadline, slot.lock())
                    .await
                {
                    Ok(mut known) => lane.run(&mut known, look).await,
                    Err(error) => lane.not_begun(&error),
                }
            }
        })
        .collect();
    let done: Vec<_> = stream::iter(lanes)
        .buffer_unordered(batch.table.options.concurrency)
        .collect()
        .await;

    let mut outcomes: Vec<Outcome> = events
        .iter()
        .map(|event| match event.adds.is_empty() {
            // An event without keys has nothing to repeat.
            true => Outcome::Applied,
            false => Outcome::Duplicate,
        })
        .collect();
    for (index, outcome) in done.into_iter().flatten() {
        outcomes[index].worsen(&outcome);
    }
    for (repeat, first) in repeats {
        let outcome = match &outcomes[first] {
            Outcome::Applied => Outcome::Duplicate,
            other => other.clone(),
        };
        outcomes[repeat].worsen(&outcome);
    }
    outcomes
}

impl<C> OnceBatch<'_, C> {
    /// Reads those rows of `keys` that this process should read before it writes them, many in one
    /// request. The read is eventually consistent, which is enough.
    async fn look<'k>(&self, slots: &Slots, keys: impl Iterator<Item = &'k Key>) -> Looks {
        let wants = |key: &Key| match slots.of(key).try_lock() {
            Ok(known) => known.wants_a_read(self.table.options.row_budget),
            // Another batch is about to read or write it.
            Err(_) => false,
        };
        let wanted: Vec<&Key> = keys.filter(|key| wants(key)).collect();
        let looks: Vec<_> = wanted
            .chunks(KEYS_PER_READ)
            .map(|keys| self.look_at(keys))
            .collect();
        let looks = stream::iter(looks).buffer_unordered(self.table.options.concurrency);
        let looks: Vec<Looks> = looks.collect().await;
        looks.into_iter().flatten().collect()
    }

    async fn look_at(&self, keys: &[&Key]) -> Looks {
        let rows = keys.iter().map(|key| row_key(key)).collect();
        let rows = self.table.get_items(rows, false, self.deadline).await;
        let mut rows = rows.and_then(|rows| {
            let named = rows.into_iter();
            let named = named.map(|row| Ok((self.table.key_of(&row)?, row)));
            named.collect::<Result<HashMap<Key, Item>, StoreError>>()
        });
        let mut look = |key: &Key| {
            let rows = rows.as_mut().map_err(|error| error.clone())?;
            let row = rows.remove(key).unwrap_or_default();
            let image = Image::of(&self.table.place().at(key), &row)?;
            Ok(Arc::new(image))
        };
        keys.iter().map(|key| ((*key).clone(), look(key))).collect()
    }
}

/// The rows as read, or why they could not be read.
type Looks = HashMap<Key, Result<Arc<Image>, StoreError>>;

/// A batch, grouped by row.
struct RowLanes<'a, V> {
    lanes: Vec<(&'a Key, Vec<Event<'a, V>>)>,
    /// Entries that repeat an event's id on the same key, each with the index of the first.
    repeats: Vec<(usize, usize)>,
}

impl<'a, V> RowLanes<'a, V> {
    fn of(events: &'a [Once<V>]) -> Self {
        let mut lanes: Vec<(&Key, Vec<Event<'_, V>>)> = Vec::new();
        let mut lane_of: HashMap<&Key, usize> = HashMap::with_capacity(events.len());
        let mut first: HashMap<(usize, Id), usize> = HashMap::with_capacity(events.len());
        let mut repeats = HashSet::new();
        for (index, event) in events.iter().enumerate() {
            let id = ids::id(&event.id);
            let element = Element::new(&id, event.created);
            for add in &event.adds {
                let lane = *lane_of.entry(&add.key).or_insert_with(|| {
                    lanes.push((&add.key, Vec::new()));
                    lanes.len() - 1
                });
                let of = *first.entry((lane, id)).or_insert(index);
                if of != index {
                    repeats.insert((index, of));
                    continue;
                }
                let events = &mut lanes[lane].1;
                // A second entry of one key in one event is the same event again.
                if events.last().is_some_and(|last| last.index == index) {
                    continue;
                }
                events.push(Event {
                    index,
                    element,
                    created: event.created.filter(|_| element.second().is_some()),
                    handed_over: event.handed_over,
                    value: &add.value,
                    ttl: add.ttl,
                });
            }
        }
        let mut repeats: Vec<_> = repeats.into_iter().collect();
        repeats.sort_unstable();
        Self { lanes, repeats }
    }
}
