//! Delivery into a ledger that items may leave.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use murmur_state::error::Place;
use murmur_state::monoid::Overflow;
use murmur_state::store::{
    Bound, ItemChange, LEDGER_MODE, LedgerEntry, ListSegment, Listed, Mend, Outcome, Replace,
};
use murmur_state::{Deadline, EventId, Group, ItemId, Ledger, PipelineName, Repeats, StoreError};

use super::answered::part;
use super::context::Context;
use super::ledger_of::{Answer, LedgerOf};
use super::mode::Delivery;
use super::owned::{Owned, Ownership};
use super::retrying::{OrderedBy, of_keys, until_done};
use crate::batch::{Additions, BatchAdds, RecordShare};
use crate::plan::the_record;
use crate::verdict::Verdict;

/// How long a process waits before it asks again whether items settle.
const ASK_AGAIN: Duration = Duration::from_secs(60);

pub(crate) struct InLedger<M, S> {
    owned: Owned<M, S>,
    /// Whether the definition lets items settle.
    settles: bool,
    heard: Mutex<Heard>,
}

/// What the store has reported of whether items settle.
#[derive(Clone, Copy)]
enum Heard {
    /// It was not asked yet.
    Nothing,
    /// They did not, when it was asked at this monotonic time.
    No(Duration),
    /// They do, for good.
    Yes,
}

impl<M: Group, S: Ledger<M>> InLedger<M, S> {
    pub(crate) fn new(owned: Owned<M, S>, settles: bool) -> Self {
        Self {
            owned,
            settles,
            heard: Mutex::new(Heard::Nothing),
        }
    }

    /// Whether items settle, as far as this process knows. Entries are handled correctly either
    /// way.
    async fn has_heard(&self, bound: &Bound, context: &Context<'_>) -> bool {
        let now = context.retry.clock().monotonic();
        match &mut *self.heard() {
            _ if !self.settles => return false,
            Heard::Yes => return true,
            Heard::No(asked) if now.saturating_sub(*asked) < ASK_AGAIN => return false,
            // Batches that come meanwhile do not ask as well.
            heard => *heard = Heard::No(now),
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
        if heard {
            *self.heard() = Heard::Yes;
        }
        heard
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Group, S: Ledger<M>> Delivery<M> for InLedger<M, S> {
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

    fn ownership(&self) -> &dyn Ownership {
        self
    }

    async fn deliver(
        &self,
        pipeline: &PipelineName,
        _monoid: &M,
        BatchAdds { rows, shares }: BatchAdds<'_, M::Value>,
        context: &Context<'_>,
    ) -> Vec<Verdict> {
        let handed_over = context.retry.clock().now();
        let own = self.owned.of_own_streams(shares, context);
        let (foreign, bound, shares) = own.await;
        let Some(bound) = &bound else {
            return foreign.verdicts;
        };
        let settles = self.has_heard(bound, context).await;
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

impl<M: Group, S: Ledger<M>> Ownership for InLedger<M, S> {
    fn bind<'a>(&'a self, stream: Option<&'a str>, context: Context<'a>) -> Answer<'a, ()> {
        self.owned.bind(stream, context)
    }

    fn check_binding<'a>(&'a self, context: Context<'a>) -> Answer<'a, Option<Arc<str>>> {
        self.owned.check_binding(context)
    }

    fn settle<'a>(&'a self, context: Context<'a>) -> Answer<'a, ()> {
        Box::pin(async move {
            let settle = async || {
                let until = context.operation_deadline();
                let bound = self.owned.bound(until).await?;
                self.owned.store.settle(&bound, until).await
            };
            self.owned.ask(&context, settle).await?;
            *self.heard() = Heard::Yes;
            Ok(())
        })
    }

    fn is_settling<'a>(&'a self, context: Context<'a>) -> Answer<'a, bool> {
        Box::pin(async move {
            let is_settling = async || {
                let until = context.operation_deadline();
                let bound = self.owned.bound(until).await?;
                self.owned.store.is_settling(&bound, until).await
            };
            self.owned.ask(&context, is_settling).await
        })
    }
}

impl<M: Group, S: Ledger<M>> LedgerOf<M> for InLedger<M, S> {
    fn place(&self) -> Place {
        self.owned.store.place()
    }

    fn known<'a>(
        &'a self,
        items: &'a [ItemId],
        deadline: Deadline,
    ) -> Answer<'a, Vec<Option<LedgerEntry<M::Value>>>> {
        Box::pin(async move {
            let bound = self.owned.bound(deadline).await?;
            self.owned.store.known(&bound, items, deadline).await
        })
    }

    fn list_known<'a>(
        &'a self,
        segment: ListSegment,
        after: Option<&'a str>,
    ) -> Answer<'a, Listed<LedgerEntry<M::Value>>> {
        Box::pin(async move {
            let bound = self.owned.bound(Deadline::NONE).await?;
            self.owned.store.list_known(&bound, segment, after).await
        })
    }

    fn mend<'a>(
        &'a self,
        items: &'a [Mend<M::Value>],
        deadline: Deadline,
    ) -> BoxFuture<'a, Vec<Outcome>> {
        Box::pin(async move {
            match self.owned.bound(deadline).await {
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
