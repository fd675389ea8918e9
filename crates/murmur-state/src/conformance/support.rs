//! Calls that retry, and names, for all parts of the suite.

use crate::store::{Add, Binding, Bound, Once, Outcome, Replace};
use crate::{Deadline, ExactlyOnce, Fault, Group, Key, Ledger, Monoid, PipelineName, Store};

pub(super) fn key(entity: &str, bucket: i64) -> Key {
    Key::new(entity, bucket).unwrap()
}

/// A proof for tests that use rows of `pipeline` without binding them; a store's own rows are then
/// not bound.
pub fn bound(pipeline: &str) -> Bound {
    Bound::new(Binding {
        pipeline: PipelineName::new(pipeline).unwrap(),
        version: 1,
        mode: "exactly-once".into(),
        definition: "no window".into(),
        stream: None,
    })
}

/// Merges, and sends again the entries that lost to contention, since they were not applied.
pub(super) async fn merge<M: Monoid, S: Store<M>>(store: &S, adds: &[Add<M::Value>]) {
    let mut pending = adds.to_vec();
    while !pending.is_empty() {
        let outcomes = store.merge(&pending, Deadline::NONE).await;
        pending = unfinished(pending, &outcomes);
    }
}

pub(super) async fn apply<M: Monoid, S: ExactlyOnce<M>>(
    store: &S,
    events: &[Once<M::Value>],
) -> Vec<Outcome> {
    let first = store
        .apply(&bound("conformance"), events, Deadline::NONE)
        .await;
    let mut pending = unfinished(events.to_vec(), &first);
    while !pending.is_empty() {
        let outcomes = store
            .apply(&bound("conformance"), &pending, Deadline::NONE)
            .await;
        pending = unfinished(pending, &outcomes);
    }
    first
}

pub(super) async fn replace<M: Group, S: Ledger<M>>(
    store: &S,
    items: &[Replace<M::Value>],
) -> Vec<Outcome> {
    let first = store
        .replace(&bound("conformance"), items, Deadline::NONE)
        .await;
    let mut pending = unfinished(items.to_vec(), &first);
    while !pending.is_empty() {
        let outcomes = store
            .replace(&bound("conformance"), &pending, Deadline::NONE)
            .await;
        pending = unfinished(pending, &outcomes);
    }
    first
}

pub(super) fn unfinished<E>(entries: Vec<E>, outcomes: &[Outcome]) -> Vec<E> {
    assert_eq!(entries.len(), outcomes.len(), "one outcome per entry");
    entries
        .into_iter()
        .zip(outcomes)
        .filter(|(_, outcome)| match outcome {
            Outcome::Applied | Outcome::Duplicate | Outcome::Superseded => false,
            Outcome::Blocked => true,
            Outcome::Failed(error) => {
                assert_eq!(
                    error.fault(),
                    Fault::Contention,
                    "unexpected failure: {error:?}"
                );
                true
            }
        })
        .map(|(entry, _)| entry)
        .collect()
}
