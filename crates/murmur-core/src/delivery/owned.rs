use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use murmur_state::{Binding, Bound, Deadline, ExactlyOnce, Monoid, PipelineName, StoreError};

use super::answered::{Answered, part};
use super::context::Context;
use crate::batch::RecordShare;

/// A store in an exact mode, bound to one pipeline, and to each stream when it first appears.
pub(crate) struct Owned<S> {
    pub(crate) store: S,
    version: u32,
    mode: &'static str,
    definition: Arc<str>,
    agreed: Mutex<Agreed>,
}

/// The bindings that the store has confirmed in this process.
#[derive(Default)]
struct Agreed {
    streams: HashMap<Option<Arc<str>>, Bound>,
    /// The last answer, from binding or from a check.
    last: Option<Bound>,
}

impl<S> Owned<S> {
    pub(crate) fn new(store: S, version: u32, mode: &'static str, definition: Arc<str>) -> Self {
        Self {
            store,
            version,
            mode,
            definition,
            agreed: Mutex::default(),
        }
    }

    fn agreed(&self) -> MutexGuard<'_, Agreed> {
        self.agreed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Separates the shares of streams that the store is bound to from those of other streams,
    /// whose outcome is the store's refusal. `None` if the store is bound to none of the streams.
    pub(super) async fn of_own_streams<'a, M: Monoid>(
        &self,
        pipeline: &PipelineName,
        shares: Vec<RecordShare<'a, M::Value>>,
        context: &Context<'_>,
    ) -> (Answered, Option<Bound>, Vec<RecordShare<'a, M::Value>>)
    where
        S: ExactlyOnce<M>,
    {
        let mut refused: HashMap<Option<&str>, StoreError> = HashMap::new();
        let (mut last, mut proof) = (None, None);
        for share in &shares {
            let stream = share.record.stream_arn();
            if last == Some(stream) || refused.contains_key(&stream) {
                continue;
            }
            last = Some(stream);
            match self.bind::<M>(pipeline, stream, context).await {
                Ok(bound) => proof = Some(bound),
                Err(error) => {
                    refused.insert(stream, error);
                }
            }
        }
        let (answered, shares) = part(shares, |share| {
            match refused.get(&share.record.stream_arn()) {
                Some(error) => Err(error.clone()),
                None => Ok(share),
            }
        });
        (answered, proof, shares)
    }

    pub(super) async fn bind<M: Monoid>(
        &self,
        pipeline: &PipelineName,
        stream: Option<&str>,
        context: &Context<'_>,
    ) -> Result<Bound, StoreError>
    where
        S: ExactlyOnce<M>,
    {
        let stream: Option<Arc<str>> = stream.map(Into::into);
        if let Some(bound) = self.agreed().streams.get(&stream) {
            return Ok(bound.clone());
        }
        let binding = self.binding(pipeline, stream.clone());
        let bind = || self.store.bind(&binding, context.operation_deadline());
        let bound = context.read(pipeline, bind).await;
        // The request carries no record.
        let bound = bound.map_err(|error| error.blameless(self.store.place()))?;
        let mut agreed = self.agreed();
        agreed.streams.insert(stream, bound.clone());
        agreed.last = Some(bound.clone());
        Ok(bound)
    }

    pub(super) async fn check_binding<M: Monoid>(
        &self,
        pipeline: &PipelineName,
        context: &Context<'_>,
    ) -> Result<Bound, StoreError>
    where
        S: ExactlyOnce<M>,
    {
        let check = || self.look::<M>(pipeline, context.operation_deadline());
        let checked = context.read(pipeline, check).await;
        checked.map_err(|error| error.blameless(self.store.place()))
    }

    /// The proof that the store is bound to the pipeline, from an earlier answer, or by asking
    /// once.
    pub(crate) async fn bound<M: Monoid>(
        &self,
        pipeline: &PipelineName,
        deadline: Deadline,
    ) -> Result<Bound, StoreError>
    where
        S: ExactlyOnce<M>,
    {
        let last = self.agreed().last.clone();
        match last {
            Some(bound) => Ok(bound),
            None => self.look::<M>(pipeline, deadline).await,
        }
    }

    async fn look<M: Monoid>(
        &self,
        pipeline: &PipelineName,
        deadline: Deadline,
    ) -> Result<Bound, StoreError>
    where
        S: ExactlyOnce<M>,
    {
        let binding = self.binding(pipeline, None);
        let bound = self.store.check_binding(&binding, deadline).await?;
        self.agreed().last = Some(bound.clone());
        Ok(bound)
    }

    fn binding(&self, pipeline: &PipelineName, stream: Option<Arc<str>>) -> Binding {
        Binding {
            pipeline: pipeline.clone(),
            version: self.version,
            mode: self.mode.into(),
            definition: Arc::clone(&self.definition),
            stream,
        }
    }
}
