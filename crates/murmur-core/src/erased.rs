//! A pipeline as a processor sees it: definition and delivery put together, monoid and store erased.

use futures::future::BoxFuture;
use murmur_state::{MAX_KEYS, Monoid, PipelineName, Place, Read, Repeats, Timestamp};

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
    /// What is known of it without asking anything.
    fn facts(&self) -> &Facts;
    /// What knows which pipeline its state belongs to.
    fn ownership(&self) -> &dyn Ownership;
    /// One verdict per entry.
    fn run<'a>(
        &'a self,
        entries: &'a [Entry<'a, T>],
        context: Context<'a>,
    ) -> BoxFuture<'a, Vec<Verdict>>;
    /// Has a ledger note that the items of these changes contribute nothing, whatever they say:
    /// one verdict per entry.
    fn pass_over<'a>(
        &'a self,
        entries: &'a [PassedOver<'a, T>],
        context: Context<'a>,
    ) -> BoxFuture<'a, Vec<Verdict>>;
    /// What compares the state with the table by the ledger; `None` if it keeps none.
    fn by_items<'a>(
        &'a self,
        options: InspectionOptions,
        context: Context<'a>,
    ) -> Option<Box<dyn ByItems<T> + 'a>>;
    /// What compares the state with the table by a recount, with a ledger or without.
    fn by_keys<'a>(
        &'a self,
        options: InspectionOptions,
        context: Context<'a>,
    ) -> Box<dyn ByKeys<T> + 'a>;
    /// How many items of its ledger have settled; `None` if it keeps none.
    fn ledger_status<'a>(
        &'a self,
        settling: bool,
        options: &'a AuditOptions,
        context: Context<'a>,
    ) -> BoxFuture<'a, Result<Option<LedgerStatus>, AuditError>>;
    /// Whether the state is what the ledger says.
    fn audit<'a>(
        &'a self,
        options: &'a AuditOptions,
        context: Context<'a>,
    ) -> BoxFuture<'a, Result<Audited, AuditError>>;
}

/// What a pipeline says of itself.
pub(crate) struct Facts {
    pub(crate) name: PipelineName,
    /// Whether it takes old images back.
    pub(crate) retracts: bool,
    /// Whether it needs the old image of an item that Time to Live removed.
    pub(crate) needs_old_of_expired: bool,
    /// Whether it needs the old image of an item that is removed, whatever else it needs.
    pub(crate) needs_old_of_removed: bool,
    pub(crate) windows_by_arrival: bool,
    pub(crate) repeats: Repeats,
    pub(crate) keeps_ledger: bool,
    pub(crate) keeps_expired: bool,
    /// Whether the definition lets items of a ledger settle.
    pub(crate) settles: bool,
    /// What of the definition can be put into words.
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

    /// What is known without asking the store, and what must be delivered, each share with its
    /// place in the batch.
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
                    "removed by Time to Live: the item goes on counting",
                );
                verdicts.push(match D::LEDGER {
                    false => Verdict::Kept,
                    // What the ledger knows may be of an item that was put since, so that what
                    // goes on counting is what the old image says.
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
            // The new side of a removal counts for nothing where old images are taken back.
            let gone = record.is(&EventName::Remove) && (self.facts.retracts || D::LEDGER);
            let images = (old.as_ref(), new.as_ref().filter(|_| !gone));
            let contribution = self.plan.contribution(record, images, now, &mut rows);
            verdicts.push(match contribution {
                Err(error) => Verdict::Failed(error),
                Ok(Contribution { adds, late, named }) => {
                    expired += late;
                    // In a ledger, that a change leaves nothing is something to remember. A
                    // scanned row that adds nothing is not: it changes nothing, whatever is
                    // known of its item.
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

    /// What the item of `entry` contributed before, where items settle and the record tells: the same
    /// function of its old image as its contribution was when that was new. So what is refused as a new
    /// image contributes nothing as an old one.
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
        // An item of more keys is refused.
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
                // Its next change will take back what this one says, so that an item that is over a sum's
                // range must not settle by it.
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
                // Skipped stays skipped where a ledger has only noted it.
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
