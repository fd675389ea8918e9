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

    /// What knows which pipeline the store belongs to.
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
