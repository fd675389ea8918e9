//! Without a ledger, or where items of it have settled: the table is counted once more, in memory, and compared key by key.

use std::fmt::{self, Write};
use std::hash::{BuildHasher, Hash, Hasher};

use futures::future::BoxFuture;
use hashbrown::DefaultHashBuilder;
use murmur_state::{ItemId, Monoid, PipelineName, Read, StoreError};

use super::keys::{Differing, State, Sums, list};
use super::ledger::LedgerOf;
use super::share::Share;
use super::{Found, InspectionOptions, KeyDifference, contributes, rejected};
use crate::delivery::Context;
use crate::outcome::Rejected;
use crate::plan::Plan;

/// Counts a table once more, and compares what comes out with a pipeline's state.
///
/// It takes two recounts: [`add`](RecountInspection::add) every row of the table, then
/// [`compare`](RecountInspection::compare); where that finds anything, wait as long as live may be
/// behind, and do both again. A key is named if its row and its recount were the same both times.
/// What differs otherwise is counted as unsettled.
///
/// In memory are at most [`max_keys`](InspectionOptions::max_keys) keys. Where there are more, the
/// keys that were left out are recounted in further parts, of at least half as many each.
pub struct RecountInspection<'a, T>(Box<dyn Recount<T> + 'a>);

/// What a comparison of a recount asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recounted {
    /// Nothing: all keys were compared.
    Done,
    /// The same keys once more, after the lag.
    Again,
    /// Keys that were left out, at once.
    Rest,
}

/// What a recount found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecountFindings {
    /// How many rows the state has.
    pub state_rows: u64,
    /// How many keys differed in the first recount.
    pub suspects: u64,
    /// How many keys differ.
    pub differing: u64,
    /// The first of them, in order of the keys, up to the limit.
    pub keys: Vec<KeyDifference>,
    /// How many keys differed in both recounts, and changed in between.
    pub unsettled: u64,
}

impl<'a, T: Send + Sync + 'static> RecountInspection<'a, T> {
    pub(crate) fn new<M: Monoid, S: Read<M::Value>>(
        (pipeline, plan): (&'a PipelineName, &'a Plan<T, M>),
        (state, ledger): (&'a S, Option<&'a dyn LedgerOf<M>>),
        options: InspectionOptions,
        context: Context<'a>,
    ) -> Self {
        Self(Box::new(Counting {
            state: State {
                pipeline,
                plan,
                state,
                context,
            },
            ledger,
            hasher: DefaultHashBuilder::default(),
            max_listed: options.max_listed,
            sums: Sums::new(Share::first(options.max_keys)),
            share: Share::first(options.max_keys),
            first: None,
            findings: RecountFindings::default(),
        }))
    }

    /// The pipeline.
    pub fn pipeline(&self) -> &PipelineName {
        self.0.pipeline()
    }

    /// Counts these rows; those that can never count are given back, and contribute nothing.
    pub fn add(&mut self, rows: &[Found<T>]) -> Vec<Rejected> {
        self.0.add(rows)
    }

    /// Compares all that was added with the state; whether a further recount is needed.
    ///
    /// # Errors
    ///
    /// The store's, after all retries.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it has to be begun anew.
    pub async fn compare(&mut self) -> Result<Recounted, StoreError> {
        self.0.compare().await
    }

    /// How many keys differed in the first recount.
    pub fn suspects(&self) -> u64 {
        self.0.suspects()
    }

    /// What was found.
    pub fn findings(self) -> RecountFindings {
        self.0.findings()
    }
}

impl<T> fmt::Debug for RecountInspection<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RecountInspection")
            .field(&self.0.pipeline().as_str())
            .finish()
    }
}

/// A recount with monoid and store erased.
trait Recount<T>: Send + Sync {
    fn pipeline(&self) -> &PipelineName;
    fn add(&mut self, rows: &[Found<T>]) -> Vec<Rejected>;
    fn compare(&mut self) -> BoxFuture<'_, Result<Recounted, StoreError>>;
    fn suspects(&self) -> u64;
    fn findings(self: Box<Self>) -> RecountFindings;
}

struct Counting<'a, T, M: Monoid, S> {
    state: State<'a, T, M, S>,
    /// The pipeline's ledger, if it keeps one.
    ledger: Option<&'a dyn LedgerOf<M>>,
    hasher: DefaultHashBuilder,
    max_listed: usize,
    sums: Sums<M::Value>,
    /// The keys that are recounted in this part, once they were compared.
    share: Share,
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

impl<T: Send + Sync, M: Monoid, S: Read<M::Value>> Recount<T> for Counting<'_, T, M, S> {
    fn pipeline(&self) -> &PipelineName {
        self.state.pipeline
    }

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

    fn compare(&mut self) -> BoxFuture<'_, Result<Recounted, StoreError>> {
        Box::pin(Counting::compare(self))
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
