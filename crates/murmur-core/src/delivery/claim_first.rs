use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use murmur_state::dedup::{Claim, Owner};
use murmur_state::{Deadline, Deduper, Fault, Monoid, PipelineName, Repeats, Store, StoreError};

use super::context::Context;
use super::merge::merge;
use super::mode::Delivery;
use crate::batch::BatchAdds;
use crate::record::Record;
use crate::verdict::Verdict;

/// How long after a stop the release of a claim is still retried: a claim that stays hides its
/// event.
const RELEASE_GRACE: Duration = Duration::from_secs(30);

/// The advice for a claim that its owner could not release.
const CLAIM_LEFT: &str = "it could not be released: when its event comes again it will be taken for a \
                          duplicate and lost; delete this row of the marker table before that";

/// The number of claims of one batch in flight at a time.
const CLAIM_CONCURRENCY: usize = 32;

/// How claims are named.
pub(crate) enum ClaimNames {
    PipelineAndEvent,
    BareEvent,
}

pub(crate) struct ClaimFirst<S, D> {
    pub(crate) store: S,
    pub(crate) deduper: Arc<D>,
    pub(crate) names: ClaimNames,
}

impl<S, D> ClaimFirst<S, D> {
    fn claim_name(&self, pipeline: &PipelineName, record: &Record) -> String {
        let id = record.event_id();
        match self.names {
            ClaimNames::PipelineAndEvent => pipeline.marker("claim", &[id]),
            ClaimNames::BareEvent => id.to_owned(),
        }
    }
}

impl<M: Monoid, S: Store<M>, D: Deduper> Delivery<M> for ClaimFirst<S, D> {
    type State = S;
    const MODE: &str = "claim-first";
    const REPEATS: Repeats = Repeats::EventOnce;

    fn state(&self) -> &S {
        &self.store
    }

    async fn deliver(
        &self,
        pipeline: &PipelineName,
        monoid: &M,
        BatchAdds { rows, shares }: BatchAdds<'_, M::Value>,
        context: &Context<'_>,
    ) -> Vec<Verdict> {
        // A fifth of the time is reserved for releasing, since a claim that stays hides its event.
        let clock = &**context.retry.clock();
        let work = match context.deadline.remaining(clock) {
            Some(left) => Deadline::within(clock, left * 4 / 5),
            None => Deadline::NONE,
        };
        let owner = &match Owner::new(context.tokens) {
            Ok(owner) => owner,
            Err(error) => {
                let error = error.at(self.store.place());
                let failed = |_| Verdict::Failed(Box::new(error.clone()));
                return shares.into_iter().map(failed).collect();
            }
        };
        let deduper = &*self.deduper;
        let mut claims = Vec::with_capacity(shares.len());
        for share in shares {
            let name = self.claim_name(pipeline, share.record);
            claims.push(async move {
                // Whether the claim may be held although no answer confirmed it.
                let mut lost = false;
                let attempt = || deduper.claim(&name, owner, context.retry.batch_deadline(work));
                let retried = |error: &StoreError| {
                    lost |= may_have_applied(error);
                    context.retried(pipeline, error);
                };
                let claim = context.retry.run(work, retried, attempt).await;
                lost |= claim.as_ref().is_err_and(may_have_applied);
                (name, share, claim, lost)
            });
        }
        let claimed: Vec<_> = stream::iter(claims)
            .buffered(CLAIM_CONCURRENCY)
            .collect()
            .await;

        let (mut verdicts, mut undone) = (Vec::with_capacity(claimed.len()), Vec::new());
        let (mut held, mut shares) = (Vec::new(), Vec::new());
        for (place, (name, share, claim, lost)) in claimed.into_iter().enumerate() {
            verdicts.push(match claim {
                Ok(Claim::First) => {
                    held.push((place, name));
                    shares.push(share);
                    Verdict::Applied
                }
                Ok(Claim::Duplicate) => Verdict::Duplicate,
                Err(error) => {
                    undone.extend(lost.then_some((place, name)));
                    Verdict::Failed(Box::new(error))
                }
            });
        }
        let within_work = Context {
            deadline: work,
            ..*context
        };
        let first = BatchAdds { rows, shares };
        let merged = merge(&self.store, pipeline, monoid, &first, &within_work).await;
        for ((place, name), verdict) in held.into_iter().zip(merged) {
            if !matches!(verdict, Verdict::Applied) {
                undone.push((place, name));
            }
            verdicts[place] = verdict;
        }
        let retry = &context.retry.with_grace(RELEASE_GRACE);
        let mut releases = Vec::with_capacity(undone.len());
        for (place, name) in undone {
            releases.push(async move {
                let released = retry
                    .run(
                        context.deadline,
                        |error| context.retried(pipeline, error),
                        || deduper.release(&name, owner, context.operation_deadline()),
                    )
                    .await;
                let error = released.err()?;
                context
                    .recorder
                    .error(&format!("{pipeline}:claim_left"), &error);
                tracing::error!(
                    pipeline = pipeline.as_str(), claim = name,
                    error = %murmur_state::Causes(&error),
                    "{CLAIM_LEFT}",
                );
                let error = StoreError::Setup {
                    place: self.store.place(),
                    advice: format!("claim `{name}`: {CLAIM_LEFT}"),
                    source: Some(Arc::new(error)),
                };
                Some((place, error))
            });
        }
        let left: Vec<_> = stream::iter(releases)
            .buffer_unordered(CLAIM_CONCURRENCY)
            .filter_map(ready)
            .collect()
            .await;
        for (place, error) in left {
            // A record that can never count is handed to the callback, and then does not come
            // again.
            let never = matches!(&verdicts[place], Verdict::Failed(error) if error.fault() == Fault::Record);
            if !never {
                verdicts[place] = Verdict::Failed(Box::new(error));
            }
        }
        verdicts
    }
}

fn may_have_applied(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Unavailable {
            may_have_applied: true,
            ..
        }
    )
}
