//! Without a ledger, or where items of it have settled: the table is counted once more, in memory, and
//! compared key by key.

use std::fmt::{self, Write};
use std::hash::{BuildHasher, Hash, Hasher};

use futures::future::BoxFuture;
use hashbrown::DefaultHashBuilder;
use murmur_state::{ItemId, Monoid, PipelineName, Read, StoreError};

use super::findings::RecountFindings;
use super::found::{Found, contributes, rejected};
use super::inspecting::{InspectionError, InspectionOptions};
use super::share::KeyShare;
use super::sums::{Differing, State, Sums, list};
use crate::delivery::{Context, LedgerOf};
use crate::outcome::Rejected;
use crate::plan::Plan;

/// Counts a table once more, and compares what comes out with a pipeline's state, with monoid and
/// store erased.
///
/// It takes two recounts: [`add`](Self::add) every row of the table, then [`compare`](Self::compare);
/// where that finds anything, do both again after the lag. A key is named if its row and its recount
/// were the same both times. What differs otherwise is counted as unsettled.
///
/// In memory are at most [`max_keys`](InspectionOptions::max_keys) keys. Where there are more, the
/// keys that were left out are recounted in further parts, of at least half as many each.
pub(crate) trait ByKeys<T>: Send + Sync {
    /// Counts these rows; those that can never count are given back, and contribute nothing.
    fn add(&mut self, rows: &[Found<T>]) -> Vec<Rejected>;

    /// Compares all that was added with the state; whether a further recount is needed. Dropped, it
    /// has to be begun once more.
    fn compare(&mut self) -> BoxFuture<'_, Result<Recounted, InspectionError>>;

    /// How many keys differed in the first recount.
    fn suspects(&self) -> u64;

    /// What was found.
    fn findings(self: Box<Self>) -> RecountFindings;
}

/// What a comparison of a recount asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recounted {
    /// Nothing: all keys were compared.
    Done,
    /// The same keys once more, after the lag.
    Again,
    /// Keys that were left out, at once.
    Rest,
}

/// Begins a recount of `plan`'s keys.
pub(crate) fn by_keys<'a, T: Send + Sync, M: Monoid, S: Read<M::Value>>(
    (pipeline, plan): (&'a PipelineName, &'a Plan<T, M>),
    (state, ledger): (&'a S, Option<&'a dyn LedgerOf<M>>),
    options: InspectionOptions,
    context: Context<'a>,
) -> Box<dyn ByKeys<T> + 'a> {
    Box::new(Counting {
        state: State {
            pipeline,
            plan,
            state,
            context,
        },
        ledger,
        hasher: DefaultHashBuilder::default(),
        max_listed: options.max_listed,
        sums: Sums::new(KeyShare::first(options.max_keys)),
        share: KeyShare::first(options.max_keys),
        first: None,
        findings: RecountFindings::default(),
    })
}

struct Counting<'a, T, M: Monoid, S> {
    state: State<'a, T, M, S>,
    /// The pipeline's ledger, if it keeps one.
    ledger: Option<&'a dyn LedgerOf<M>>,
    hasher: DefaultHashBuilder,
    max_listed: usize,
    sums: Sums<M::Value>,
    /// The keys that are recounted in this part, once they were compared.
    share: KeyShare,
    /// What differed in the first recount, once that is done.
    first: Option<Differing<M::Value>>,
    findings: RecountFindings,
}

impl<T: Send + Sync, M: Monoid, S: Read<M::Value>> Counting<'_, T, M, S> {
    async fn compare(&mut self) -> Result<Recounted, StoreError> {
        let sums = std::mem::replace(&mut self.sums, Sums::new(self.share.clone()));
        let Some(first) = self.first.take() else {
            let (differing, rows, share) = self.state.differing(sums, |_, _| ()).await?;
            self.findings.state_rows = rows;
            self.findings.suspects += differing.len() as u64;
            self.share = share;
            if differing.is_empty() {
                return Ok(self.rest());
            }
            self.sums = Sums::new(self.share.clone());
            self.first = Some(differing);
            return Ok(Recounted::Again);
        };
        let plan = self.state.plan;
        let monoid = &plan.monoid;
        let mut named = self.state.again(&first, sums).await?;
        named.retain(|_, seen| !seen.agrees(monoid));
        let differing = named.len();
        named.retain(|key, seen| first.get(key) == Some(seen));
        let invert = |value: &M::Value| match self.ledger {
            Some(ledger) => Some(ledger.invert(monoid, value)),
            None => plan.invert.map(|invert| invert(monoid, value)),
        };
        self.findings.unsettled += (differing - named.len()) as u64;
        self.findings.differing += named.len() as u64;
        list(
            &mut self.findings.keys,
            (monoid, &named),
            invert,
            self.max_listed,
        );
        Ok(self.rest())
    }

    /// Goes on with the keys that were left out, if there are any.
    fn rest(&mut self) -> Recounted {
        let Some(share) = self.share.next() else {
            return Recounted::Done;
        };
        self.sums = Sums::new(share.clone());
        self.share = share;
        Recounted::Rest
    }
}

impl<T: Send + Sync, M: Monoid, S: Read<M::Value>> ByKeys<T> for Counting<'_, T, M, S> {
    fn add(&mut self, rows: &[Found<T>]) -> Vec<Rejected> {
        let State {
            pipeline,
            plan,
            context,
            ..
        } = &self.state;
        let now = context.retry.clock().now();
        let mut refused = Vec::new();
        for found in rows {
            match contributes(plan, found, self.ledger.is_some(), now) {
                Ok(adds) => {
                    for add in adds {
                        let counts = |first: &Differing<_>| first.contains_key(&add.key);
                        if self.first.as_ref().is_none_or(counts) {
                            let mark = mark(&self.hasher, &found.item, &add.value);
                            self.sums.add(&plan.monoid, &add.key, &add.value, mark);
                        }
                    }
                }
                Err(error) => {
                    let record = found.row.as_ref().map(|(record, _)| record);
                    refused.extend(record.map(|record| rejected(pipeline, record, *error)));
                }
            }
        }
        refused
    }

    fn compare(&mut self) -> BoxFuture<'_, Result<Recounted, InspectionError>> {
        Box::pin(async move {
            let compared = Counting::compare(self).await;
            compared.map_err(|source| InspectionError::Store {
                pipeline: self.state.pipeline.clone(),
                source,
            })
        })
    }

    fn suspects(&self) -> u64 {
        self.findings.suspects
    }

    fn findings(self: Box<Self>) -> RecountFindings {
        self.findings
    }
}

/// Tells what an item contributes from another value, and from what other items do: sums alone would be
/// the same again where the items of a key change places.
fn mark<V: fmt::Debug>(hasher: &DefaultHashBuilder, item: &ItemId, value: &V) -> u64 {
    struct Hashing<H>(H);

    impl<H: Hasher> fmt::Write for Hashing<H> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.write(text.as_bytes());
            Ok(())
        }
    }

    let mut hashing = Hashing(hasher.build_hasher());
    item.hash(&mut hashing.0);
    // A value that cannot be shown counts by its item alone.
    let _ = write!(hashing, "{value:?}");
    hashing.0.finish()
}
