//! Exactly once: the ids of the events a row has taken are kept with the row.
//!
//! A cold row holds them itself, and one conditional update takes events and ids together. A hot
//! row's are in rows of the marker table, written with it in one transaction. The argument why
//! that is exact is in ARCHITECTURE.md; [`lane`] is its text in code.

mod cell;
mod ids;
mod lane;
mod row;
mod rules;

use std::collections::{HashMap, HashSet};

use futures::StreamExt;
use futures::stream;
use murmur_state::{Key, Once, Outcome};

pub(crate) use cell::{Cell, Refusal, Unwritable};
pub(crate) use ids::Id;
pub(crate) use lane::Batch;
pub(crate) use row::Slots;
#[cfg(not(feature = "flaws"))]
pub(crate) use rules::Rules;
#[cfg(feature = "flaws")]
pub use rules::Rules;

use lane::{Event, Lane};

/// Applies each event to each of its keys at most once: distinct keys concurrently, the events
/// of one key in order.
pub(crate) async fn apply<V: Sync, C: Cell<V>>(
    batch: &Batch<'_, C>,
    slots: &Slots,
    events: &[Once<V>],
) -> Vec<Outcome> {
    let Lanes { lanes, repeats } = Lanes::of(events);
    let lanes: Vec<_> = lanes
        .into_iter()
        .map(|(key, events)| async move {
            let slot = slots.of(key);
            let lane = Lane::new(batch, key, events);
            let place = batch.table.place().at(key);
            match batch.table.turn(&place, batch.deadline, slot.lock()).await {
                Ok(mut known) => lane.run(&mut known).await,
                Err(error) => lane.not_begun(&error),
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

/// A batch by rows.
struct Lanes<'a, V> {
    lanes: Vec<(&'a Key, Vec<Event<'a, V>>)>,
    /// Entries that repeat an event's id on the same key, each with the place of the first.
    repeats: Vec<(usize, usize)>,
}

impl<'a, V> Lanes<'a, V> {
    fn of(events: &'a [Once<V>]) -> Self {
        let mut lanes: Vec<(&Key, Vec<Event<'_, V>>)> = Vec::new();
        let mut lane_of: HashMap<&Key, usize> = HashMap::with_capacity(events.len());
        let mut first: HashMap<(usize, Id), usize> = HashMap::with_capacity(events.len());
        let mut repeats = HashSet::new();
        for (index, event) in events.iter().enumerate() {
            let id = ids::id(&event.id);
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
                    id,
                    // Some sources say 1970 for "unknown".
                    created: event.created.filter(|created| created.as_secs() > 0),
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
