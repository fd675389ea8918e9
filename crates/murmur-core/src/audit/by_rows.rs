//! Whether the state is what its ledger says.

use std::hash::BuildHasher;
use std::ops::ControlFlow;

use hashbrown::{DefaultHashBuilder, HashMap};
use murmur_state::{Add, Key, LedgerEntry, Monoid, PipelineName, Read};

use super::difference::KeyDifference;
use super::error::AuditError;
use super::listing::{Listing, Telling};
use super::options::AuditOptions;
use super::share::KeyShare;
use super::status::settled_of;
use super::sums::{Differing, State, Sums, list};
use crate::delivery::{Context, LedgerOf};
use crate::plan::Plan;

/// In how many passes over the ledger in a row a key has to be the same, and at odds, to be named.
/// What moves into a key behind one pass and out of it before the next must be taken by another in
/// time, of the same value, for a row to look wrong once more.
const STANDS: u32 = 3;

/// How often an audit goes over the ledger before it gives up on keys that keep changing.
const PASSES: usize = 7;

/// What an audit found of one pipeline.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Audited {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// How many items its ledger knows.
    pub ledger_rows: u64,
    /// How many rows its state has.
    pub state_rows: u64,
    /// How many keys differ.
    pub differing: u64,
    /// The first of them, in order of the keys, up to the limit.
    pub keys: Vec<KeyDifference>,
    /// How many keys may differ, and kept changing while they were looked at.
    pub unsettled: u64,
    /// In how many parts the keys were audited.
    pub parts: u32,
    /// What it cost in read units, where the store knows.
    pub read_units: f64,
}

/// Compares the state with the ledger.
///
/// A row and the contributions to it change together, so a row that stayed what it was, at odds with
/// contributions that all stayed what they were, is wrong. Equal sums alone would not say so: what
/// moves to and fro between a few keys makes the same ones again.
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
    /// Audits the keys of `share`, or the first of them; which it were.
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

    /// Hands every contribution that the ledger knows to `each`; says how many items it knows.
    async fn over_ledger(
        &self,
        telling: &mut Telling<'_>,
        mut each: impl FnMut(&LedgerEntry<M::Value>, &Add<M::Value>) + Send,
    ) -> Result<u64, AuditError> {
        let part = |part: &[LedgerEntry<M::Value>]| {
            // What they contribute is in no row of the ledger, so that their keys would all be named.
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
