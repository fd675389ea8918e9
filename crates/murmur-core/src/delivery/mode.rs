use std::future::Future;

use murmur_state::{Monoid, PipelineName, Read, Repeats};

use super::context::Context;
use super::ledger_of::LedgerOf;
use super::owned::{Ownership, Unowned};
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

    /// Which pipeline the store is bound to.
    fn ownership(&self) -> &dyn Ownership {
        &Unowned
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
