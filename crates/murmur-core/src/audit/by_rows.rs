//! Audit: compares the state with its ledger.

use std::hash::BuildHasher;
use std::ops::ControlFlow;

use hashbrown::{DefaultHashBuilder, HashMap};
use murmur_state::store::{Add, LedgerEntry};
use murmur_state::{Key, Monoid, PipelineName, Read};

use super::difference::KeyDifference;
use super::error::AuditError;
use super::listing::{Listing, Telling};
use super::options::AuditOptions;
use super::share::KeyShare;
use super::status::settled_of;
use super::sums::{Differing, State, Sums, list};
use crate::delivery::{Context, LedgerOf};
use crate::plan::Plan;

/// The number of consecutive passes over the ledger in which a key must be the same, and unequal,
/// to be listed. A correct row can only look wrong that often if a contribution moves into the key
/// behind one pass and out of it before the next, each time replaced by another of the same value.
const STANDS: u32 = 3;

/// The number of passes over the ledger before an audit gives up on keys that keep changing.
const PASSES: usize = 7;

/// The audit of one pipeline.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Audited {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The number of items that its ledger knows.
    pub ledger_rows: u64,
    /// The number of rows in its state.
    pub state_rows: u64,
    /// The number of keys that differ.
    pub differing: u64,
    /// The first differing keys, in order of the keys, up to the limit.
    pub keys: Vec<KeyDifference>,
    /// The number of keys that may differ, but kept changing during the audit.
    pub unsettled: u64,
    /// The number of parts in which the keys were audited.
    pub parts: u32,
    /// The cost in read units, if the store knows it.
    pub read_units: f64,
}

/// Compares the state with the ledger.
///
/// A row and the contributions to it change together. So a row is wrong if it stayed the same,
/// unequal to contributions that all stayed the same. Equal sums alone would not show that:
/// contributions that move back and forth between a few keys produce the same sums again.
pub(crate) async fn audit<T: Sync, M: Monoid, S: Read<M::Value>>(
    (pipeline, plan): (&PipelineName, &Plan<T, M>),
    (ledger, state): (&dyn LedgerOf<M>, &S),
    options: &AuditOptions,
    context: Context<'_>,
) -> Result<Audited, AuditError> {
    let pass = Pass {
        listing: Listing::new(pipeline, ledger, options, context),
        max_listed: options.max_listed,
        state: State {
            pipeline,
            plan,
            state,
            context,
        },
    };
    let mut telling = Telling::begin(pipeline, options, &context);
    let mut audited = Audited {
        pipeline: pipeline.clone(),
        ledger_rows: 0,
        state_rows: 0,
        differing: 0,
        keys: Vec::new(),
        unsettled: 0,
        parts: 0,
        read_units: 0.0,
    };
    let mut share = Some(KeyShare::first(options.max_keys));
    while let Some(of_keys) = share {
        audited.parts += 1;
        telling.progress.part = audited.parts;
        let part = pass.part(of_keys, &mut audited, &mut telling);
        share = part.await?.next();
    }
    audited.read_units = telling.progress.read_units;
    Ok(audited)
}

struct Pass<'a, T, M: Monoid, S> {
    listing: Listing<'a, M>,
    max_listed: usize,
    state: State<'a, T, M, S>,
}

impl<T: Sync, M: Monoid, S: Read<M::Value>> Pass<'_, T, M, S> {
    /// Audits the keys of `share`, or the first of them, and returns which.
    async fn part(
        &self,
        share: KeyShare,
        audited: &mut Audited,
        telling: &mut Telling<'_>,
    ) -> Result<KeyShare, AuditError> {
        let failed = |source| self.listing.failed(source);
        let monoid = &self.state.plan.monoid;
        let mut sums = Sums::new(share);
        let hasher = DefaultHashBuilder::default();
        let mark = |known: &LedgerEntry<_>| hasher.hash_one((&known.item, known.version));
        telling.progress.pass = 1;
        telling.progress.state_rows = 0;
        let ledger_rows = self
            .over_ledger(telling, |known, add| {
                sums.add(monoid, &add.key, &add.value, mark(known));
            })
            .await?;
        let compared = self.state.differing(sums, |rows, units| {
            telling.progress.state_rows = rows;
            telling.part(units);
        });
        let (mut open, state_rows, share) = compared.await.map_err(failed)?;
        if audited.parts == 1 {
            (audited.ledger_rows, audited.state_rows) = (ledger_rows, state_rows);
        }
        let (mut stood, mut named) = (HashMap::new(), Differing::new());
        for _ in 1..PASSES {
            if open.is_empty() {
                break;
            }
            telling.progress.pass += 1;
            let identity = monoid.identity();
            let keys: Vec<Key> = open.keys().cloned().collect();
            let mut sums = Sums::of(&keys, &identity, &share);
            self.over_ledger(telling, |known, add| {
                if sums.names(&add.key) {
                    sums.add(monoid, &add.key, &add.value, mark(known));
                }
            })
            .await?;
            let mut moving = Differing::new();
            let again = self.state.again(&open, sums).await;
            for (key, seen) in again.map_err(failed)? {
                let before = open.get(&key);
                let steady = before.is_some_and(|before| before.state == seen.state);
                if steady && seen.agrees(monoid) {
                    continue;
                }
                let stands = match before == Some(&seen) {
                    true => stood.remove(&key).unwrap_or(1) + 1,
                    false => 1,
                };
                if stands == STANDS {
                    named.insert(key, seen);
                } else {
                    stood.insert(key.clone(), stands);
                    moving.insert(key, seen);
                }
            }
            open = moving;
        }
        let invert = |value: &M::Value| Some(self.listing.ledger.invert(monoid, value));
        audited.differing += named.len() as u64;
        audited.unsettled += open.len() as u64;
        list(&mut audited.keys, (monoid, &named), invert, self.max_listed);
        Ok(share)
    }

    /// Passes every contribution of the ledger to `each`, and returns the number of items.
    async fn over_ledger(
        &self,
        telling: &mut Telling<'_>,
        mut each: impl FnMut(&LedgerEntry<M::Value>, &Add<M::Value>) + Send,
    ) -> Result<u64, AuditError> {
        let part = |part: &[LedgerEntry<M::Value>]| {
            // The ledger does not hold the contributions of settled items, so all their keys would
            // be listed.
            let items = settled_of(part);
            if items > 0 {
                return ControlFlow::Break(items);
            }
            for known in part {
                let adds = known.now.iter().chain(&known.kept);
                adds.for_each(|add| each(known, add));
            }
            ControlFlow::Continue(())
        };
        self.listing.over(telling, part).await
    }
}
