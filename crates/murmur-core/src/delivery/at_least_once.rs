use murmur_state::{Monoid, PipelineName, Repeats, Store};

use super::context::Context;
use super::merge::merge;
use super::mode::Delivery;
use crate::batch::BatchAdds;
use crate::verdict::Verdict;

pub(crate) struct AtLeastOnce<S> {
    pub(crate) store: S,
}

impl<M: Monoid, S: Store<M>> Delivery<M> for AtLeastOnce<S> {
    type State = S;
    const MODE: &str = "at-least-once";
    const REPEATS: Repeats = Repeats::Counted;

    fn state(&self) -> &S {
        &self.store
    }

    async fn deliver(
        &self,
        pipeline: &PipelineName,
        monoid: &M,
        batch: BatchAdds<'_, M::Value>,
        context: &Context<'_>,
    ) -> Vec<Verdict> {
        merge(&self.store, pipeline, monoid, &batch, context).await
    }
}
