use std::collections::HashMap;
use std::future::ready;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use murmur_state::{Binding, Bound, Deadline, ExactlyOnce, Monoid, StoreError};

use super::answered::{Answered, part};
use super::context::Context;
use crate::batch::RecordShare;

type Answer<'a, A> = BoxFuture<'a, Result<A, StoreError>>;

/// Which pipeline a store belongs to, its type erased. The defaults are those of modes that do not
/// keep track of it.
pub(crate) trait Ownership: Send + Sync {
    /// Makes the store belong to the pipeline where its records come from `stream`, or sees that
    /// it does.
    fn bind<'a>(&'a self, stream: Option<&'a str>, context: Context<'a>) -> Answer<'a, ()> {
        let _ = (stream, context);
        Box::pin(ready(Ok(())))
    }

    /// Sees that the store belongs to the pipeline, and writes nothing; the stream it belongs to.
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

/// A store of which no mode keeps track.
pub(super) struct Unowned;

impl Ownership for Unowned {}

/// A store that belongs to one pipeline in an exact mode, and to streams one by one.
pub(crate) struct Owned<M, S> {
    pub(super) store: S,
    /// To whom it belongs, of no stream in particular.
    binding: Binding,
    agreed: Mutex<Agreed>,
    monoid: PhantomData<fn() -> M>,
}

/// What the store has agreed to in this process.
#[derive(Default)]
struct Agreed {
    streams: HashMap<Option<Arc<str>>, Bound>,
    /// What it answered last, be it that it was bound or only looked at.
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

    /// Parts the shares of streams to which the store belongs from those of streams to which it
    /// does not, whose outcome is the store's refusal. `None` if it belongs to none of the streams.
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

    /// The proof that the store belongs to the pipeline, as it was given before; asked for once if it
    /// was not.
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
