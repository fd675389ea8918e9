use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use murmur_state::{Binding, ExactlyOnce, Monoid, PipelineName, StoreError};

use super::answered::{Answered, part};
use super::context::Context;
use crate::batch::Share;

/// A store that belongs to one pipeline in an exact mode, and to streams one by one.
pub(crate) struct Owned<S, K> {
    pub(crate) store: S,
    pub(crate) markers: Arc<K>,
    version: u32,
    mode: &'static str,
    definition: Arc<str>,
    /// Streams for which the store has agreed in this process.
    agreed: Mutex<HashSet<Option<Arc<str>>>>,
}

impl<S, K> Owned<S, K> {
    pub(crate) fn new(
        store: S,
        markers: Arc<K>,
        version: u32,
        mode: &'static str,
        definition: Arc<str>,
    ) -> Self {
        Self {
            store,
            markers,
            version,
            mode,
            definition,
            agreed: Mutex::default(),
        }
    }

    /// Parts the shares of streams to which the store belongs from those of streams to which it
    /// does not, whose outcome is the store's refusal.
    pub(super) async fn of_own_streams<'a, M: Monoid>(
        &self,
        pipeline: &PipelineName,
        shares: Vec<Share<'a, M::Value>>,
        context: &Context<'_>,
    ) -> (Answered, Vec<Share<'a, M::Value>>)
    where
        S: ExactlyOnce<M, Markers = K>,
    {
        let mut refused: HashMap<Option<&str>, StoreError> = HashMap::new();
        let mut last = None;
        for share in &shares {
            let stream = share.record.stream_arn();
            if last != Some(stream) {
                last = Some(stream);
                if !refused.contains_key(&stream)
                    && let Err(error) = self.bind::<M>(pipeline, stream, context).await
                {
                    refused.insert(stream, error);
                }
            }
        }
        part(shares, |share| {
            match refused.get(&share.record.stream_arn()) {
                Some(error) => Err(error.clone()),
                None => Ok(share),
            }
        })
    }

    pub(super) async fn bind<M: Monoid>(
        &self,
        pipeline: &PipelineName,
        stream: Option<&str>,
        context: &Context<'_>,
    ) -> Result<(), StoreError>
    where
        S: ExactlyOnce<M, Markers = K>,
    {
        let stream: Option<Arc<str>> = stream.map(Into::into);
        let agreed = || self.agreed.lock().unwrap_or_else(PoisonError::into_inner);
        if agreed().contains(&stream) {
            return Ok(());
        }
        let binding = self.binding(pipeline, stream.clone());
        let bind = || {
            let until = context.operation_deadline();
            self.store.bind(&binding, &self.markers, until)
        };
        let bound = context.read(pipeline, bind).await;
        // It carries no record.
        bound.map_err(|error| error.blameless(self.store.place()))?;
        agreed().insert(stream);
        Ok(())
    }

    pub(super) async fn check_binding<M: Monoid>(
        &self,
        pipeline: &PipelineName,
        context: &Context<'_>,
    ) -> Result<Option<Arc<str>>, StoreError>
    where
        S: ExactlyOnce<M, Markers = K>,
    {
        let binding = self.binding(pipeline, None);
        let check = || {
            let until = context.operation_deadline();
            self.store.check_binding(&binding, &self.markers, until)
        };
        let checked = context.read(pipeline, check).await;
        checked.map_err(|error| error.blameless(self.store.place()))
    }

    pub(super) fn binding(&self, pipeline: &PipelineName, stream: Option<Arc<str>>) -> Binding {
        Binding {
            pipeline: pipeline.clone(),
            version: self.version,
            mode: self.mode.into(),
            definition: Arc::clone(&self.definition),
            stream,
        }
    }
}
