use std::collections::HashMap;

use futures::StreamExt;
use futures::stream;
use murmur_state::store::{Add, Once, Outcome};
use murmur_state::{Deadline, Fault, Key, StoreError};

/// Writes one entry into its row.
pub(crate) trait Write<V>: Sync {
    /// How many keys are written concurrently.
    fn concurrency(&self) -> usize;

    /// Combines `add` into its row.
    fn write(
        &self,
        add: &Add<V>,
        deadline: Deadline,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// Writes distinct keys concurrently and the entries of each key in order. Returns one outcome per
/// entry.
pub(crate) async fn merge<V: Sync>(
    writer: &impl Write<V>,
    adds: &[Add<V>],
    deadline: Deadline,
) -> Vec<Outcome> {
    let mut lanes: Vec<Vec<(usize, &Add<V>)>> = Vec::new();
    let mut lane_of: HashMap<&Key, usize> = HashMap::with_capacity(adds.len());
    for (index, add) in adds.iter().enumerate() {
        let lane = *lane_of.entry(&add.key).or_insert(lanes.len());
        match lanes.get_mut(lane) {
            Some(entries) => entries.push((index, add)),
            None => lanes.push(vec![(index, add)]),
        }
    }
    let lanes: Vec<_> = lanes
        .into_iter()
        .map(|entries| run(writer, entries, deadline))
        .collect();
    let done: Vec<Vec<(usize, Outcome)>> = stream::iter(lanes)
        .buffer_unordered(writer.concurrency())
        .collect()
        .await;

    let mut outcomes: Vec<(usize, Outcome)> = done.into_iter().flatten().collect();
    outcomes.sort_unstable_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Merges what the events add, without their ids, because a repetition changes nothing.
pub(crate) async fn merge_events<V: Clone + Sync>(
    writer: &impl Write<V>,
    events: &[Once<V>],
    deadline: Deadline,
) -> Vec<Outcome> {
    let adds: Vec<Add<V>> = events.iter().flat_map(|event| event.adds.clone()).collect();
    let mut merged = merge(writer, &adds, deadline).await.into_iter();
    let of_event = |event: &Once<V>| {
        let mut outcome = Outcome::Applied;
        for part in merged.by_ref().take(event.adds.len()) {
            outcome.worsen(&part);
        }
        outcome
    };
    events.iter().map(of_event).collect()
}

/// Writes one key's entries until one fails for a reason that is not its own.
async fn run<V: Sync>(
    writer: &impl Write<V>,
    entries: Vec<(usize, &Add<V>)>,
    deadline: Deadline,
) -> Vec<(usize, Outcome)> {
    let mut outcomes = Vec::with_capacity(entries.len());
    let mut stopped = false;
    for (index, add) in entries {
        let outcome = if stopped {
            Outcome::Blocked
        } else {
            match writer.write(add, deadline).await {
                Ok(()) => Outcome::Applied,
                Err(error) => {
                    stopped = error.fault() != Fault::Record;
                    Outcome::Failed(error)
                }
            }
        };
        outcomes.push((index, outcome));
    }
    outcomes
}
