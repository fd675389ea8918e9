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
    /// What it does with a redelivered record.
    const REPEATS: Repeats;
    /// Whether it remembers what each item contributes, including nothing.
    const LEDGER: bool = false;

    /// The store of its values.
    type State: Read<M::Value>;

    /// The store of its values.
    fn state(&self) -> &Self::State;

    /// Its ledger, if it has one.
    fn ledger(&self) -> Option<&dyn LedgerOf<M>> {
        None
    }

    /// Binds the store to the pipeline and to `stream`, or checks that it is bound so.
    fn bind(
        &self,
        pipeline: &PipelineName,
        stream: Option<&str>,
        context: &Context<'_>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = (pipeline, stream, context);
        ready(Ok(()))
    }

    /// Checks that the store is bound to the pipeline, and writes nothing. Returns the stream that
    /// it is bound to.
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
