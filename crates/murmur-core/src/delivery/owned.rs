use std::collections::HashMap;
use std::future::ready;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use murmur_state::store::{Binding, Bound};
use murmur_state::{Deadline, ExactlyOnce, Monoid, StoreError};

use super::answered::{Answered, part};
use super::context::Context;
use crate::batch::RecordShare;

type Answer<'a, A> = BoxFuture<'a, Result<A, StoreError>>;

/// Which pipeline a store is bound to, with the store's type erased. The defaults are for modes
/// that bind no store.
pub(crate) trait Ownership: Send + Sync {
    /// Binds the store to the pipeline and to `stream`, or checks that it is bound so.
    fn bind<'a>(&'a self, stream: Option<&'a str>, context: Context<'a>) -> Answer<'a, ()> {
        let _ = (stream, context);
        Box::pin(ready(Ok(())))
    }

    /// Checks that the store is bound to the pipeline, and writes nothing. Returns the stream that
    /// it is bound to.
    fn check_binding<'a>(&'a self, context: Context<'a>) -> Answer<'a, Option<Arc<str>>> {
        let _ = context;
        Box::pin(ready(Ok(None)))
    }

    /// Lets items of a ledger settle from now on.
    fn settle<'a>(&'a self, context: Context<'a>) -> Answer<'a, ()> {
        let _ = context;
        Box::pin(ready(Ok(())))
    }

    /// Whether items of a ledger settle.
    fn is_settling<'a>(&'a self, context: Context<'a>) -> Answer<'a, bool> {
        let _ = context;
        Box::pin(ready(Ok(false)))
    }
}

/// A store that is bound to no pipeline.
pub(super) struct Unowned;

impl Ownership for Unowned {}

/// A store in an exact mode, bound to one pipeline, and to each stream when it first appears.
pub(crate) struct Owned<M, S> {
    pub(super) store: S,
    /// What the store is bound to, apart from streams.
    binding: Binding,
    agreed: Mutex<Agreed>,
    monoid: PhantomData<fn() -> M>,
}

/// The bindings that the store has confirmed in this process.
#[derive(Default)]
struct Agreed {
    streams: HashMap<Option<Arc<str>>, Bound>,
    /// The last answer, from binding or from a check.
    last: Option<Bound>,
}

impl<M: Monoid, S: ExactlyOnce<M>> Owned<M, S> {
    pub(crate) fn new(store: S, binding: Binding) -> Self {
        Self {
            store,
            binding,
            agreed: Mutex::default(),
            monoid: PhantomData,
        }
    }

    fn agreed(&self) -> MutexGuard<'_, Agreed> {
        self.agreed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Separates the shares of streams that the store is bound to from those of other streams,
    /// whose outcome is the store's refusal. `None` if the store is bound to none of the streams.
    pub(super) async fn of_own_streams<'a>(
        &self,
        shares: Vec<RecordShare<'a, M::Value>>,
        context: &Context<'_>,
    ) -> (Answered, Option<Bound>, Vec<RecordShare<'a, M::Value>>) {
        let mut refused: HashMap<Option<&str>, StoreError> = HashMap::new();
        let (mut last, mut proof) = (None, None);
        for share in &shares {
            let stream = share.record.stream_arn();
            if last == Some(stream) || refused.contains_key(&stream) {
                continue;
            }
            last = Some(stream);
            match self.bound_to(stream, context).await {
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

    async fn bound_to(
        &self,
        stream: Option<&str>,
        context: &Context<'_>,
    ) -> Result<Bound, StoreError> {
        let stream: Option<Arc<str>> = stream.map(Into::into);
        if let Some(bound) = self.agreed().streams.get(&stream) {
            return Ok(bound.clone());
        }
        let binding = Binding {
            stream: stream.clone(),
            ..self.binding.clone()
        };
        let bound = self
            .ask(context, || {
                self.store.bind(&binding, context.operation_deadline())
            })
            .await?;
        let mut agreed = self.agreed();
        agreed.streams.insert(stream, bound.clone());
        agreed.last = Some(bound.clone());
        Ok(bound)
    }

    /// The proof that the store is bound to the pipeline, from an earlier answer, or by asking
    /// once.
    pub(super) async fn bound(&self, deadline: Deadline) -> Result<Bound, StoreError> {
        let last = self.agreed().last.clone();
        match last {
            Some(bound) => Ok(bound),
            None => self.look(deadline).await,
        }
    }

    async fn look(&self, deadline: Deadline) -> Result<Bound, StoreError> {
        let bound = self.store.check_binding(&self.binding, deadline).await?;
        self.agreed().last = Some(bound.clone());
        Ok(bound)
    }

    /// Asks the store something that carries no record, until the retries' time is up.
    pub(super) async fn ask<A, Asking>(
        &self,
        context: &Context<'_>,
        ask: impl FnMut() -> Asking,
    ) -> Result<A, StoreError>
    where
        Asking: Future<Output = Result<A, StoreError>>,
    {
        let asked = context.read(&self.binding.pipeline, ask).await;
        asked.map_err(|error| error.blameless(self.store.place()))
    }
}

impl<M: Monoid, S: ExactlyOnce<M>> Ownership for Owned<M, S> {
    fn bind<'a>(&'a self, stream: Option<&'a str>, context: Context<'a>) -> Answer<'a, ()> {
        Box::pin(async move { self.bound_to(stream, &context).await.map(|_| ()) })
    }

    fn check_binding<'a>(&'a self, context: Context<'a>) -> Answer<'a, Option<Arc<str>>> {
        Box::pin(async move {
            let look = || self.look(context.operation_deadline());
            Ok(self.ask(&context, look).await?.stream().cloned())
        })
    }
}
