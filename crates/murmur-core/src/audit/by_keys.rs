//! Comparison without a ledger, or where items of one have settled: recounts the table in memory,
//! and compares key by key.

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

/// Recounts a table, and compares the result with a pipeline's state, with monoid and store erased.
///
/// It takes two recounts: [`add`](Self::add) every row of the table, then
/// [`compare`](Self::compare); if that finds differences, do both again after the lag. A key is
/// listed if its row and its recount were the same both times. Other differences are counted as
/// unsettled.
///
/// At most [`max_keys`](InspectionOptions::max_keys) keys are in memory. If there are more, the
/// keys left out are recounted in further parts, of at least half as many keys each.
pub(crate) trait ByKeys<T>: Send + Sync {
    /// Counts these rows. Returns those that can never count; they contribute nothing.
    fn add(&mut self, rows: &[Found<T>]) -> Vec<Rejected>;

    /// Compares everything that was added with the state, and returns whether a further recount is
    /// needed. Dropped, it has to be started over.
    fn compare(&mut self) -> BoxFuture<'_, Result<Recounted, InspectionError>>;

    /// The number of keys that differed in the first recount.
    fn suspects(&self) -> u64;

    /// The findings.
    fn findings(self: Box<Self>) -> RecountFindings;
}

/// What is needed after a comparison.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recounted {
    /// Nothing: all keys were compared.
    Done,
    /// The same keys once more, after the lag.
    Again,
    /// The keys that were left out, without waiting.
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
    /// The pipeline's ledger, if it has one.
    ledger: Option<&'a dyn LedgerOf<M>>,
    hasher: DefaultHashBuilder,
    max_listed: usize,
    sums: Sums<M::Value>,
    /// The keys that this part recounts; known after the first comparison.
    share: KeyShare,
    /// The differences of the first recount, after it is done.
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

    /// Continues with the keys that were left out, if there are any.
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
                source: Box::new(source),
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

/// A hash of an item and its value. It tells contributions of the same sum apart: the sum alone
/// would stay the same if the items of a key changed places.
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
    // A value without a `Debug` form is hashed by its item alone.
    let _ = write!(hashing, "{value:?}");
    hashing.0.finish()
}
