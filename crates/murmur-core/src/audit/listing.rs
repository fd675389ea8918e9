//! Lists a ledger from beginning to end.

use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use murmur_state::store::{LedgerEntry, ListSegment, Listed};
use murmur_state::{Clock, Monoid, PipelineName, StoreError};

use super::error::AuditError;
use super::options::{AuditOptions, AuditProgress, ProgressFn};
use crate::delivery::{Context, LedgerOf};

/// Reports the progress of an audit.
pub(super) struct Telling<'a> {
    tell: &'a ProgressFn,
    clock: &'a dyn Clock,
    begun: Duration,
    pub(super) progress: AuditProgress<'a>,
}

impl<'a> Telling<'a> {
    /// Continues with `pipeline`.
    pub(super) fn begin(
        pipeline: &'a PipelineName,
        options: &'a AuditOptions,
        context: &Context<'a>,
    ) -> Self {
        let clock = &**context.retry.clock();
        Self {
            tell: &*options.progress,
            clock,
            begun: clock.monotonic(),
            progress: AuditProgress::at(pipeline, 1),
        }
    }

    pub(super) fn part(&mut self, read_units: Option<f64>) {
        self.progress.read_units += read_units.unwrap_or_default();
        self.progress.elapsed = self.clock.monotonic().saturating_sub(self.begun);
        (self.tell)(&self.progress);
    }
}

type Part<'a, V> = BoxFuture<'a, Result<(ListSegment, Listed<LedgerEntry<V>>), StoreError>>;

/// A ledger, and the options for listing it.
pub(super) struct Listing<'a, M: Monoid> {
    pub(super) pipeline: &'a PipelineName,
    pub(super) ledger: &'a dyn LedgerOf<M>,
    segments: NonZeroU32,
    context: Context<'a>,
}

impl<'a, M: Monoid> Listing<'a, M> {
    pub(super) fn new(
        pipeline: &'a PipelineName,
        ledger: &'a dyn LedgerOf<M>,
        options: &AuditOptions,
        context: Context<'a>,
    ) -> Self {
        Self {
            pipeline,
            ledger,
            segments: NonZeroU32::new(options.concurrency).unwrap_or(NonZeroU32::MIN),
            context,
        }
    }

    /// Passes the ledger's items to `each`, part by part, until `each` stops because of settled
    /// items; returns their number.
    pub(super) async fn over(
        &self,
        telling: &mut Telling<'_>,
        mut each: impl FnMut(&[LedgerEntry<M::Value>]) -> ControlFlow<u64> + Send,
    ) -> Result<u64, AuditError> {
        telling.progress.ledger_rows = 0;
        let segments = ListSegment::all(self.segments);
        let mut parts: FuturesUnordered<_> =
            segments.map(|segment| self.listed(segment, None)).collect();
        while let Some(part) = parts.next().await {
            let (segment, listed) = part.map_err(|source| self.failed(source))?;
            if let Some(next) = listed.next {
                parts.push(self.listed(segment, Some(next)));
            }
            if let ControlFlow::Break(items) = each(&listed.entries) {
                return Err(AuditError::Settled {
                    pipeline: self.pipeline.clone(),
                    items,
                });
            }
            telling.progress.ledger_rows += listed.entries.len() as u64;
            telling.part(listed.read_units);
        }
        Ok(telling.progress.ledger_rows)
    }

    pub(super) fn failed(&self, source: StoreError) -> AuditError {
        AuditError::Store {
            pipeline: self.pipeline.clone(),
            source,
        }
    }

    fn listed(&self, segment: ListSegment, after: Option<String>) -> Part<'_, M::Value> {
        let Self {
            pipeline,
            ledger,
            context,
            ..
        } = self;
        Box::pin(async move {
            let read = || ledger.list_known(segment, after.as_deref());
            Ok((segment, context.list(pipeline, read).await?))
        })
    }
}
