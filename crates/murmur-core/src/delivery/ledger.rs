//! Delivery into a ledger that items may leave.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use murmur_state::{
    Bound, Deadline, EventId, Group, ItemChange, ItemId, LEDGER_MODE, Ledger, LedgerEntry,
    ListSegment, Listed, Mend, Outcome, Overflow, PipelineName, Place, Repeats, Replace,
    StoreError,
};

use super::answered::part;
use super::context::Context;
use super::ledger_of::{Answer, LedgerOf};
use super::mode::Delivery;
use super::owned::Owned;
use super::retrying::{OrderedBy, of_keys, until_done};
use crate::batch::{Additions, BatchAdds, RecordShare};
use crate::plan::the_record;
use crate::verdict::Verdict;

/// How long a process waits before it asks again whether items settle.
const ASK_AGAIN: Duration = Duration::from_secs(60);

pub(crate) struct InLedger<S> {
    pub(crate) owned: Owned<S>,
    /// Whether the definition lets items settle.
    settles: bool,
    /// Whether the store has reported that items settle, and when it was last asked.
    heard: AtomicBool,
    asked: Mutex<Option<Duration>>,
}

impl<S> InLedger<S> {
    pub(crate) fn new(owned: Owned<S>, settles: bool) -> Self {
        Self {
            owned,
            settles,
            heard: AtomicBool::new(false),
            asked: Mutex::default(),
        }
    }

    /// Whether items settle, as far as this process knows. Entries are handled correctly either
    /// way.
    async fn has_heard<M: Group>(&self, bound: &Bound, context: &Context<'_>) -> bool
    where
        S: Ledger<M>,
    {
        if !self.settles || self.heard.load(Ordering::Relaxed) {
            return self.settles;
        }
        let now = context.retry.clock().monotonic();
        {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if asked.is_some_and(|asked| now.saturating_sub(asked) < ASK_AGAIN) {
                return false;
            }
            *asked = Some(now);
        }
        let until = context.operation_deadline();
        let heard = match self.owned.store.is_settling(bound, until).await {
            Ok(settling) => settling,
            Err(error) => {
                tracing::warn!(
                    pipeline = bound.pipeline().as_str(),
                    error = %murmur_state::Causes(&error),
                    "the store did not say whether items settle; they stay in the ledger for now",
                );
                false
            }
        };
        self.heard.fetch_or(heard, Ordering::Relaxed);
        heard
    }
}

impl<M: Group, S: Ledger<M>> Delivery<M> for InLedger<S> {
    type State = S;
    const MODE: &str = LEDGER_MODE;
    const REPEATS: Repeats = Repeats::ItemOnce;
    const LEDGER: bool = true;

    fn state(&self) -> &S {
        &self.owned.store
    }

    fn ledger(&self) -> Option<&dyn LedgerOf<M>> {
        Some(self)
    }

    async fn bind(
        &self,
        pipeline: &PipelineName,
        stream: Option<&str>,
        context: &Context<'_>,
    ) -> Result<(), StoreError> {
        self.owned.bind::<M>(pipeline, stream, context).await?;
        Ok(())
    }

    async fn check_binding(
        &self,
        pipeline: &PipelineName,
        context: &Context<'_>,
    ) -> Result<Option<Arc<str>>, StoreError> {
        let bound = self.owned.check_binding::<M>(pipeline, context).await?;
        Ok(bound.stream().cloned())
    }

    async fn settle(
        &self,
        pipeline: &PipelineName,
        context: &Context<'_>,
    ) -> Result<(), StoreError> {
        let settle = async || {
            let until = context.operation_deadline();
            let bound = self.owned.bound::<M>(pipeline, until).await?;
            self.owned.store.settle(&bound, until).await
        };
        let settled = context.read(pipeline, settle).await;
        settled.map_err(|error| error.blameless(self.owned.store.place()))?;
        self.heard.store(self.settles, Ordering::Relaxed);
        Ok(())
    }

    async fn is_settling(
        &self,
        pipeline: &PipelineName,
        context: &Context<'_>,
    ) -> Result<bool, StoreError> {
        let ask = async || {
            let until = context.operation_deadline();
            let bound = self.owned.bound::<M>(pipeline, until).await?;
            self.owned.store.is_settling(&bound, until).await
        };
        let asked = context.read(pipeline, ask).await;
        asked.map_err(|error| error.blameless(self.owned.store.place()))
    }

    async fn deliver(
        &self,
        pipeline: &PipelineName,
        _monoid: &M,
        BatchAdds { rows, shares }: BatchAdds<'_, M::Value>,
        context: &Context<'_>,
    ) -> Vec<Verdict> {
        let handed_over = context.retry.clock().now();
        let own = self.owned.of_own_streams::<M>(pipeline, shares, context);
        let (foreign, bound, shares) = own.await;
        let Some(bound) = &bound else {
            return foreign.verdicts;
        };
        let settles = self.has_heard::<M>(bound, context).await;
        let (unplaced, items) = part(shares, |share| {
            let RecordShare {
                record,
                adds,
                keep,
                before,
            } = share;
            let all = |adds: &Additions<_>| adds.iter().map(|add| rows.add(add)).collect();
            let change = |before: Additions<_>| {
                Ok(ItemChange {
                    id: EventId::new(record.event_id()).map_err(StoreError::InvalidId)?,
                    handed_over,
                    before: all(&before),
                    settles,
                })
            };
            Ok(Replace {
                item: record.item_id(),
                at: record
                    .position()
                    .ok_or_else(|| no_sequence_number(self.settles))?,
                created: record.created(),
                now: all(&adds),
                keep: all(&keep),
                change: before.map(change).transpose()?,
            })
        });
        let outcomes = until_done(
            pipeline,
            self.owned.store.place(),
            context,
            items,
            // Also blocks entries of the same item: if this one were written first, an earlier one
            // that keeps something would be superseded, and would keep nothing.
            |entry: &Replace<_>| {
                let item = OrderedBy::Item(entry.item.clone());
                let before = entry
                    .change
                    .iter()
                    .flat_map(|change| of_keys(&change.before));
                let adds = of_keys(&entry.now).chain(of_keys(&entry.keep));
                adds.chain(before).chain([item]).collect()
            },
            |items: Vec<_>, until| async move {
                let outcomes = self.owned.store.replace(bound, &items, until).await;
                (items, outcomes)
            },
        );
        foreign.with(unplaced.with(outcomes.await))
    }
}

impl<M: Group, S: Ledger<M>> LedgerOf<M> for InLedger<S> {
    fn place(&self) -> Place {
        self.owned.store.place()
    }

    fn known<'a>(
        &'a self,
        pipeline: &'a PipelineName,
        items: &'a [ItemId],
        deadline: Deadline,
    ) -> Answer<'a, Vec<Option<LedgerEntry<M::Value>>>> {
        Box::pin(async move {
            let bound = self.owned.bound::<M>(pipeline, deadline).await?;
            self.owned.store.known(&bound, items, deadline).await
        })
    }

    fn list_known<'a>(
        &'a self,
        pipeline: &'a PipelineName,
        segment: ListSegment,
        after: Option<&'a str>,
    ) -> Answer<'a, Listed<LedgerEntry<M::Value>>> {
        Box::pin(async move {
            let bound = self.owned.bound::<M>(pipeline, Deadline::NONE).await?;
            self.owned.store.list_known(&bound, segment, after).await
        })
    }

    fn mend<'a>(
        &'a self,
        pipeline: &'a PipelineName,
        items: &'a [Mend<M::Value>],
        deadline: Deadline,
    ) -> BoxFuture<'a, Vec<Outcome>> {
        Box::pin(async move {
            match self.owned.bound::<M>(pipeline, deadline).await {
                Ok(bound) => self.owned.store.mend(&bound, items, deadline).await,
                Err(error) => vec![Outcome::Failed(error); items.len()],
            }
        })
    }

    fn invert(&self, monoid: &M, value: &M::Value) -> Result<M::Value, Overflow> {
        monoid.invert(value)
    }
}

/// A change without a place in the order. Where items settle it must not be passed over: the item's
/// next change would take back what this one should have added.
fn no_sequence_number(settles: bool) -> StoreError {
    let (place, source) = (the_record(), None);
    match settles {
        true => StoreError::Setup {
            place,
            advice: "it has no sequence number, which a ledger needs; use a source that gives one"
                .to_owned(),
            source,
        },
        false => StoreError::InvalidValue {
            place,
            reason: "it has no sequence number, which a ledger needs".into(),
            source,
        },
    }
}
