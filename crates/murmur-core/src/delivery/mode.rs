use std::future::{Future, ready};
use std::sync::Arc;

use murmur_state::{Monoid, PipelineName, Read, Repeats, StoreError};

use super::context::Context;
use super::ledger_of::LedgerOf;
use crate::batch::BatchAdds;
use crate::verdict::Verdict;

/// A delivery mode.
pub(crate) trait Delivery<M: Monoid>: Send + Sync + 'static {
    /// Its name.
    const MODE: &str;
    /// What it makes of a record that comes again.
    const REPEATS: Repeats;
    /// Whether it remembers what each item contributes, nothing included.
    const LEDGER: bool = false;

    /// Where its values are.
    type State: Read<M::Value>;

    /// Where its values are.
    fn state(&self) -> &Self::State;

    /// Its ledger, where it keeps one.
    fn ledger(&self) -> Option<&dyn LedgerOf<M>> {
        None
    }

    /// Makes the store belong to the pipeline where its records come from `stream`, or sees that
    /// it does.
    fn bind(
        &self,
        pipeline: &PipelineName,
        stream: Option<&str>,
        context: &Context<'_>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = (pipeline, stream, context);
        ready(Ok(()))
    }

    /// Sees that the store belongs to the pipeline, and writes nothing; the stream it belongs to.
    fn check_binding(
        &self,
        pipeline: &PipelineName,
        context: &Context<'_>,
    ) -> impl Future<Output = Result<Option<Arc<str>>, StoreError>> + Send {
        let _ = (pipeline, context);
        ready(Ok(None))
    }

    /// Lets items of a ledger settle from now on.
    fn settle(
        &self,
        pipeline: &PipelineName,
        context: &Context<'_>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = (pipeline, context);
        ready(Ok(()))
    }

    /// Whether items of a ledger settle.
    fn is_settling(
        &self,
        pipeline: &PipelineName,
        context: &Context<'_>,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send {
        let _ = (pipeline, context);
        ready(Ok(false))
    }

    /// One verdict per share.
    fn deliver(
        &self,
        pipeline: &PipelineName,
        monoid: &M,
        batch: BatchAdds<'_, M::Value>,
        context: &Context<'_>,
    ) -> impl Future<Output = Vec<Verdict>> + Send;
}
