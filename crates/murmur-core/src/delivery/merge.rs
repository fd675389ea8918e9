use murmur_state::store::{Add, Outcome};
use murmur_state::{Fault, Monoid, PipelineName, Store};

use super::context::Context;
use super::retrying::{of_keys, until_done};
use crate::batch::{BatchAdds, RecordShare};
use crate::verdict::Verdict;

/// Combines the additions to each key, merges them, and gives each record the worst outcome of its
/// additions. If a combined write is refused for its value, it is sent again record by record, so
/// that a faulty record does not fail the others.
pub(super) async fn merge<M: Monoid, S: Store<M>>(
    store: &S,
    pipeline: &PipelineName,
    monoid: &M,
    batch: &BatchAdds<'_, M::Value>,
    context: &Context<'_>,
) -> Vec<Verdict> {
    let mut combined = Combined::of(monoid, batch);
    let mut outcomes = settle_adds(store, pipeline, combined.writes, context).await;
    let mut alone = Vec::new();
    for (write, addition) in combined.of_additions.iter_mut().zip(batch.additions()) {
        if combined.shared[*write]
            && let Outcome::Failed(error) = &outcomes[*write]
            && error.fault() == Fault::Record
        {
            *write = outcomes.len() + alone.len();
            alone.push(batch.rows.add(addition));
        }
    }
    outcomes.extend(settle_adds(store, pipeline, alone, context).await);

    if outcomes
        .iter()
        .all(|outcome| matches!(outcome, Outcome::Applied))
    {
        return batch.shares.iter().map(|_| Verdict::Applied).collect();
    }
    let mut writes = combined.of_additions.into_iter();
    let verdict = |share: &RecordShare<'_, _>| {
        let mut worst = Outcome::Applied;
        for write in writes.by_ref().take(share.adds.len()) {
            worst.worsen(&outcomes[write]);
        }
        worst.into()
    };
    batch.shares.iter().map(verdict).collect()
}

/// The writes of a batch: for each key the additions of all records, combined as far as they do not
/// overflow.
struct Combined<V> {
    writes: Vec<Add<V>>,
    /// For each write, whether it combines several additions.
    shared: Vec<bool>,
    /// For each addition, the index of its write.
    of_additions: Vec<usize>,
}

impl<V: Clone> Combined<V> {
    fn of<M: Monoid<Value = V>>(monoid: &M, batch: &BatchAdds<'_, V>) -> Self {
        let rows = batch.rows.len();
        let mut combined = Self {
            writes: Vec::with_capacity(rows),
            shared: Vec::with_capacity(rows),
            of_additions: Vec::with_capacity(batch.shares.len()),
        };
        let mut newest: Vec<Option<usize>> = vec![None; rows];
        for addition in batch.additions() {
            let newest = &mut newest[addition.row];
            let takes_more = newest.filter(|&write| {
                let into = &mut combined.writes[write].value;
                monoid.combine(into, &addition.value).is_ok()
            });
            let write = match takes_more {
                Some(write) => {
                    combined.shared[write] = true;
                    write
                }
                None => {
                    combined.writes.push(batch.rows.add(addition));
                    combined.shared.push(false);
                    *newest.insert(combined.writes.len() - 1)
                }
            };
            combined.of_additions.push(write);
        }
        combined
    }
}

async fn settle_adds<M: Monoid, S: Store<M>>(
    store: &S,
    pipeline: &PipelineName,
    adds: Vec<Add<M::Value>>,
    context: &Context<'_>,
) -> Vec<Outcome> {
    if adds.is_empty() {
        return Vec::new();
    }
    until_done(
        pipeline,
        store.place(),
        context,
        adds,
        |add| of_keys(std::slice::from_ref(add)).collect(),
        |adds: Vec<_>, until| async move {
            let outcomes = store.merge(&adds, until).await;
            (adds, outcomes)
        },
    )
    .await
}
