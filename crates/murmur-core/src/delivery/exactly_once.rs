use murmur_state::store::{Bound, Once};
use murmur_state::{EventId, ExactlyOnce, Monoid, PipelineName, Repeats, StoreError};

use super::answered::part;
use super::context::Context;
use super::merge::merge;
use super::mode::Delivery;
use super::owned::{Owned, Ownership};
use super::retrying::{of_keys, until_done};
use crate::batch::BatchAdds;
use crate::verdict::Verdict;

pub(crate) struct OncePerKey<M, S>(pub(crate) Owned<M, S>);

impl<M: Monoid, S: ExactlyOnce<M>> Delivery<M> for OncePerKey<M, S> {
    type State = S;
    const MODE: &str = "exactly-once";
    const REPEATS: Repeats = Repeats::EventOnce;

    fn state(&self) -> &S {
        &self.0.store
    }

    fn ownership(&self) -> &dyn Ownership {
        &self.0
    }

    async fn deliver(
        &self,
        pipeline: &PipelineName,
        monoid: &M,
        BatchAdds { rows, shares }: BatchAdds<'_, M::Value>,
        context: &Context<'_>,
    ) -> Vec<Verdict> {
        let own = self.0.of_own_streams(shares, context);
        let (answered, bound, shares) = own.await;
        let Some(bound) = bound else {
            return answered.verdicts;
        };
        let batch = BatchAdds { rows, shares };
        let delivered = if M::IDEMPOTENT {
            // Idempotent: the same value again changes nothing, so no ids are needed.
            merge(&self.0.store, pipeline, monoid, &batch, context).await
        } else {
            self.apply(&bound, batch, context).await
        };
        answered.with(delivered)
    }
}

impl<M: Monoid, S: ExactlyOnce<M>> OncePerKey<M, S> {
    async fn apply(
        &self,
        bound: &Bound,
        BatchAdds { rows, shares }: BatchAdds<'_, M::Value>,
        context: &Context<'_>,
    ) -> Vec<Verdict> {
        let handed_over = context.retry.clock().now();
        let (answered, events) = part(shares, |share| {
            Ok(Once {
                id: EventId::new(share.record.event_id()).map_err(StoreError::InvalidId)?,
                created: share.record.created(),
                handed_over,
                adds: share.adds.iter().map(|add| rows.add(add)).collect(),
            })
        });
        let outcomes = until_done(
            bound.pipeline(),
            self.0.store.place(),
            context,
            events,
            |event: &Once<_>| of_keys(&event.adds).collect(),
            |events: Vec<_>, until| async move {
                let outcomes = self.0.store.apply(bound, &events, until).await;
                (events, outcomes)
            },
        );
        answered.with(outcomes.await)
    }
}
