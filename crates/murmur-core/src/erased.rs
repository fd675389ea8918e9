//! A pipeline as a processor uses it: definition and delivery combined, monoid and store erased.

use futures::future::BoxFuture;
use murmur_state::error::Place;
use murmur_state::store::MAX_KEYS;
use murmur_state::{Monoid, PipelineName, Read, Repeats, Timestamp};

use crate::audit::{
    self, AuditError, AuditOptions, Audited, ByItems, ByKeys, InspectionOptions, LedgerStatus,
};
use crate::batch::{Additions, BatchAdds, RecordShare, Rows};
use crate::delivery::{Context, Delivery, Ownership};
use crate::plan::{Contribution, Plan, Time};
use crate::record::{EventName, Record};
use crate::verdict::{Entry, PassedOver, Verdict};

/// A pipeline with its monoid and store erased: one boxed future per batch.
pub(crate) trait ErasedPipeline<T>: Send + Sync {
    /// What is known of it without asking the store.
    fn facts(&self) -> &Facts;
    /// Which pipeline its state is bound to.
    fn ownership(&self) -> &dyn Ownership;
    /// One verdict per entry.
    fn run<'a>(
        &'a self,
        entries: &'a [Entry<'a, T>],
        context: Context<'a>,
    ) -> BoxFuture<'a, Vec<Verdict>>;
    /// Has a ledger note that the items of these changes contribute nothing, without looking at
    /// their images. One verdict per entry.
    fn pass_over<'a>(
        &'a self,
        entries: &'a [PassedOver<'a, T>],
        context: Context<'a>,
    ) -> BoxFuture<'a, Vec<Verdict>>;
    /// Compares the state with the table by the ledger; `None` without a ledger.
    fn by_items<'a>(
        &'a self,
        options: InspectionOptions,
        context: Context<'a>,
    ) -> Option<Box<dyn ByItems<T> + 'a>>;
    /// Compares the state with the table by a recount, with or without a ledger.
    fn by_keys<'a>(
        &'a self,
        options: InspectionOptions,
        context: Context<'a>,
    ) -> Box<dyn ByKeys<T> + 'a>;
    /// The number of settled items in its ledger; `None` without a ledger.
    fn ledger_status<'a>(
        &'a self,
        settling: bool,
        options: &'a AuditOptions,
        context: Context<'a>,
    ) -> BoxFuture<'a, Result<Option<LedgerStatus>, AuditError>>;
    /// Compares the state with the ledger.
    fn audit<'a>(
        &'a self,
        options: &'a AuditOptions,
        context: Context<'a>,
    ) -> BoxFuture<'a, Result<Audited, AuditError>>;
}

/// Facts about a pipeline.
pub(crate) struct Facts {
    pub(crate) name: PipelineName,
    /// Whether it retracts.
    pub(crate) retracts: bool,
    /// Whether it needs the old image of an item that Time to Live removed.
    pub(crate) needs_old_of_expired: bool,
    /// Whether it needs the old image of every removed item, independent of its other needs.
    pub(crate) needs_old_of_removed: bool,
    pub(crate) windows_by_arrival: bool,
    pub(crate) repeats: Repeats,
    pub(crate) keeps_ledger: bool,
    pub(crate) keeps_expired: bool,
    /// Whether the definition lets items of a ledger settle.
    pub(crate) settles: bool,
    /// The definition as text, as far as it can be put into words.
    pub(crate) fingerprint: String,
    /// Where its values are.
    pub(crate) place: Place,
}

pub(crate) struct TypedPipeline<T, M: Monoid, D> {
    facts: Facts,
    plan: Plan<T, M>,
    delivery: D,
}

impl<T: Send + Sync + 'static, M: Monoid, D: Delivery<M>> TypedPipeline<T, M, D> {
    pub(crate) fn new(name: PipelineName, version: u32, plan: Plan<T, M>, delivery: D) -> Self {
        let (mode, terms, place) = (D::MODE, plan.terms(), delivery.state().place());
        let retracts = plan.invert.is_some();
        let facts = Facts {
            fingerprint: format!("{name}, version {version}, {mode}, {terms}, in {place}"),
            name,
            retracts,
            needs_old_of_expired: match D::LEDGER {
                true => plan.keeps_expired,
                false => retracts && !plan.keeps_expired,
            },
            needs_old_of_removed: plan.expires_at.is_some(),
            windows_by_arrival: matches!(plan.window, Some((_, Time::Arrival))),
            repeats: match M::IDEMPOTENT {
                true => Repeats::ItemOnce,
                false => D::REPEATS,
            },
            keeps_ledger: D::LEDGER,
            keeps_expired: plan.keeps_expired,
            settles: plan.settles,
            place,
        };
        Self {
            facts,
            plan,
            delivery,
        }
    }

    /// Returns the verdicts that are known without asking the store, and the shares to deliver,
    /// each with its index in the batch.
    fn prepare<'a>(
        &self,
        entries: &'a [Entry<'a, T>],
        context: &Context<'_>,
    ) -> (Vec<Verdict>, Vec<usize>, BatchAdds<'a, M::Value>) {
        let now = context.retry.clock().now();
        let mut rows = Rows::with_capacity(entries.len());
        let mut verdicts = Vec::with_capacity(entries.len());
        let mut places = Vec::with_capacity(entries.len());
        let mut shares = Vec::with_capacity(entries.len());
        let mut expired = 0;
        for (place, entry) in entries.iter().enumerate() {
            let Entry {
                record, new, old, ..
            } = entry;
            if self.plan.keeps(record, old.as_ref(), now) {
                tracing::debug!(
                    pipeline = self.facts.name.as_str(),
                    event_id = record.event_id(),
                    "removed by Time to Live: the item keeps counting",
                );
                verdicts.push(match D::LEDGER {
                    false => Verdict::Kept,
                    // The ledger may know an item that was put later, so the kept contributions
                    // come from the old image.
                    true => {
                        let images = (None, old.as_ref());
                        match self.plan.contribution(record, images, now, &mut rows) {
                            Err(error) => Verdict::Failed(error),
                            Ok(Contribution { adds, late, .. }) => {
                                expired += late;
                                places.push(place);
                                shares.push(RecordShare {
                                    keep: adds,
                                    before: self.before(entry, now, &mut rows),
                                    ..RecordShare::nothing(record)
                                });
                                Verdict::Kept
                            }
                        }
                    }
                });
                continue;
            }
            // With retraction, the new side of a removal counts for nothing.
            let gone = record.is(&EventName::Remove) && (self.facts.retracts || D::LEDGER);
            let images = (old.as_ref(), new.as_ref().filter(|_| !gone));
            let contribution = self.plan.contribution(record, images, now, &mut rows);
            verdicts.push(match contribution {
                Err(error) => Verdict::Failed(error),
                Ok(Contribution { adds, late, named }) => {
                    expired += late;
                    // A ledger must remember a change that leaves nothing. A scanned row that adds
                    // nothing changes nothing.
                    let noted = D::LEDGER && matches!(record, Record::Changed(_));
                    let silent = adds.is_empty() && !noted;
                    if !silent {
                        places.push(place);
                        shares.push(RecordShare {
                            adds,
                            before: self.before(entry, now, &mut rows),
                            ..RecordShare::nothing(record)
                        });
                    }
                    match (named, late) {
                        (false, _) => Verdict::Skipped,
                        (true, 1..) if silent => Verdict::Expired,
                        (true, _) => Verdict::Applied,
                    }
                }
            });
        }
        context.count(&self.facts.name, ":expired", expired);
        (verdicts, places, BatchAdds { rows, shares })
    }

    /// The contributions of the item of `entry` before the change, if items settle and the record
    /// carries them. They are the same function of the old image as the contributions were when
    /// that image was new, so an image that was refused as a new one contributes nothing as an old
    /// one.
    fn before(
        &self,
        entry: &Entry<'_, T>,
        now: Timestamp,
        rows: &mut Rows,
    ) -> Option<Additions<M::Value>> {
        let Entry { record, old, .. } = entry;
        if !self.plan.settles || !record.tells_what_was_before() {
            return None;
        }
        let images = (None, old.as_ref());
        let contribution = self.plan.contribution(record, images, now, rows);
        let adds = contribution.map_or_else(|_| Additions::new(), |found| found.adds);
        // An item with more keys is refused.
        Some(match adds.len() {
            ..=MAX_KEYS => adds,
            _ => Additions::new(),
        })
    }
}

impl<T: Send + Sync + 'static, M: Monoid, D: Delivery<M>> ErasedPipeline<T>
    for TypedPipeline<T, M, D>
{
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn ownership(&self) -> &dyn Ownership {
        self.delivery.ownership()
    }

    fn pass_over<'a>(
        &'a self,
        entries: &'a [PassedOver<'a, T>],
        context: Context<'a>,
    ) -> BoxFuture<'a, Vec<Verdict>> {
        Box::pin(async move {
            let now = context.retry.clock().now();
            let mut rows = Rows::with_capacity(entries.len());
            let nothing = |passed: &PassedOver<'a, T>| RecordShare {
                // The item's next change takes back what this one says, so an item that overflows a
                // sum must not settle by it.
                before: match passed.by_its_images {
                    true => self.before(passed.entry, now, &mut rows),
                    false => None,
                },
                ..RecordShare::nothing(passed.entry.record)
            };
            let shares = entries.iter().map(nothing).collect();
            let batch = BatchAdds { rows, shares };
            self.delivery
                .deliver(&self.facts.name, &self.plan.monoid, batch, &context)
                .await
        })
    }

    fn run<'a>(
        &'a self,
        entries: &'a [Entry<'a, T>],
        context: Context<'a>,
    ) -> BoxFuture<'a, Vec<Verdict>> {
        let (mut verdicts, places, batch) = self.prepare(entries, &context);
        Box::pin(async move {
            if batch.shares.is_empty() {
                return verdicts;
            }
            let delivered = self
                .delivery
                .deliver(&self.facts.name, &self.plan.monoid, batch, &context)
                .await;
            for (place, verdict) in places.into_iter().zip(delivered) {
                // A skipped record stays skipped if a ledger has only noted it.
                if !matches!(verdict, Verdict::Applied) {
                    verdicts[place] = verdict;
                }
            }
            verdicts
        })
    }

    fn by_items<'a>(
        &'a self,
        options: InspectionOptions,
        context: Context<'a>,
    ) -> Option<Box<dyn ByItems<T> + 'a>> {
        let plan = (&self.facts.name, &self.plan);
        let ledger = self.delivery.ledger()?;
        Some(audit::by_items(plan, ledger, options, context))
    }

    fn by_keys<'a>(
        &'a self,
        options: InspectionOptions,
        context: Context<'a>,
    ) -> Box<dyn ByKeys<T> + 'a> {
        let (plan, state) = ((&self.facts.name, &self.plan), self.delivery.state());
        audit::by_keys(plan, (state, self.delivery.ledger()), options, context)
    }

    fn ledger_status<'a>(
        &'a self,
        settling: bool,
        options: &'a AuditOptions,
        context: Context<'a>,
    ) -> BoxFuture<'a, Result<Option<LedgerStatus>, AuditError>> {
        Box::pin(async move {
            let Some(ledger) = self.delivery.ledger() else {
                return Ok(None);
            };
            let of = (&self.facts.name, ledger);
            let status = audit::status(of, settling, options, context).await;
            status.map(Some)
        })
    }

    fn audit<'a>(
        &'a self,
        options: &'a AuditOptions,
        context: Context<'a>,
    ) -> BoxFuture<'a, Result<Audited, AuditError>> {
        Box::pin(async move {
            let Some(ledger) = self.delivery.ledger() else {
                return Err(AuditError::NoLedger {
                    pipeline: self.facts.name.clone(),
                });
            };
            let plan = (&self.facts.name, &self.plan);
            audit::audit(plan, (ledger, self.delivery.state()), options, context).await
        })
    }
}
