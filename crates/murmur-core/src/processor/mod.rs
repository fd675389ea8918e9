mod audits;
mod builder;
mod processing;

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use murmur_state::retry::Retry;
use murmur_state::time::Random;
use murmur_state::tokens::Tokens;
use murmur_state::{Clock, Deadline, Outage, Recorder, Repeats, RetryPolicy, StoreError};

use crate::decode::{BoxError, Decoder};
use crate::delivery::Context;
use crate::outcome::{RecordError, Rejected};
use crate::pipeline::Pipeline;

pub use builder::ProcessorBuilder;

type OutageFn = dyn Fn(&Outage<'_>) + Send + Sync;

type RejectFn = dyn Fn(Rejected) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync;

/// Takes batches of records through decoding and every pipeline, and returns an outcome per record.
///
/// Lambda handler, bootstrap, reconcile and settle are each built on one, and share its pipelines,
/// decoder, retries, recorder, callbacks and clock. Cloning is cheap and shares everything.
pub struct Processor<T> {
    shared: Arc<Shared<T>>,
    /// The retry policy, if one was set.
    policy: Option<RetryPolicy>,
    retry: Retry,
    on_rejected: Option<Arc<RejectFn>>,
    on_outage: Option<Arc<OutageFn>>,
}

struct Shared<T> {
    pipelines: Vec<Pipeline<T>>,
    decoder: Decoder<T>,
    needs_old: bool,
    needs_old_of_expired: bool,
    /// Old images of removals that the stream does not attribute to Time to Live.
    needs_old_of_removed: bool,
    /// Whether items of any pipeline settle, which needs the old image of every change.
    settles: bool,
    recorder: Arc<dyn Recorder>,
    random: Random,
    tokens: Tokens,
}

/// A retry by `policy`, or by the default policy. It knows of no outage yet.
fn retry(
    policy: Option<RetryPolicy>,
    clock: Arc<dyn Clock>,
    random: Random,
    on_outage: Option<Arc<OutageFn>>,
) -> Retry {
    let retry = Retry::new(policy.unwrap_or_default(), clock, random);
    match on_outage {
        Some(tell) => retry.on_outage(move |outage| tell(outage)),
        None => retry,
    }
}

fn not_its_state<T>(pipeline: &Pipeline<T>, source: StoreError) -> RecordError {
    RecordError::State {
        pipeline: pipeline.name().clone(),
        source,
    }
}

impl<T: Send + Sync + 'static> Processor<T> {
    /// The pipelines.
    pub fn pipelines(&self) -> &[Pipeline<T>] {
        &self.shared.pipelines
    }

    /// A clone for an operation of its own. It uses `policy` unless a
    /// [retry](ProcessorBuilder::retry) was set. It knows of no outage yet, and stopping it stops
    /// nothing else.
    #[must_use]
    pub fn or_retry(&self, policy: RetryPolicy) -> Self {
        let mut other = self.clone();
        other.policy.get_or_insert(policy);
        other.with_own_retry()
    }

    /// A clone for an operation of its own, which also reports its outages to `tell`, after the
    /// callback given to [`on_outage`](ProcessorBuilder::on_outage).
    #[must_use]
    pub fn and_on_outage(&self, tell: impl Fn(&Outage<'_>) + Send + Sync + 'static) -> Self {
        let (mut other, first) = (self.clone(), self.on_outage.clone());
        other.on_outage = Some(Arc::new(move |outage| {
            if let Some(first) = &first {
                first(outage);
            }
            tell(outage);
        }));
        other.with_own_retry()
    }

    /// A clone that also passes over records that can never count if no
    /// [callback](ProcessorBuilder::on_rejected) was set. `hear` is called for each record passed
    /// over, after the callback has taken it.
    #[must_use]
    pub fn passing_over(&self, hear: impl Fn(&Rejected) + Send + Sync + 'static) -> Self {
        let (mut other, first, hear) = (self.clone(), self.on_rejected.clone(), Arc::new(hear));
        other.on_rejected = Some(Arc::new(move |rejected| {
            let (first, hear) = (first.clone(), Arc::clone(&hear));
            Box::pin(async move {
                if let Some(first) = first {
                    first(rejected.clone()).await?;
                }
                hear(&rejected);
                Ok(())
            })
        }));
        other
    }

    /// A clone with its own retry.
    fn with_own_retry(mut self) -> Self {
        let (policy, tell) = (self.policy, self.on_outage.clone());
        let clock = Arc::clone(self.clock());
        self.retry = retry(policy, clock, self.shared.random.clone(), tell);
        self
    }

    /// The clock that measures deadlines.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        self.retry.clock()
    }

    /// How operations are retried. A clone of it, used for other operations, shares the policy and
    /// the knowledge of an outage.
    pub fn retry(&self) -> &Retry {
        &self.retry
    }

    /// Where counts go.
    pub fn recorder(&self) -> &Arc<dyn Recorder> {
        &self.shared.recorder
    }

    /// The source of claim owners and run ids.
    pub fn tokens(&self) -> &Tokens {
        &self.shared.tokens
    }

    /// The weakest promise among the pipelines' modes for a redelivered record.
    pub fn repeats(&self) -> Repeats {
        self.pipelines()
            .iter()
            .map(Pipeline::repeats)
            .min()
            .unwrap_or(Repeats::Counted)
    }

    /// Binds the state of every pipeline to that pipeline and to `stream`, or checks that it is
    /// bound so. Modes that do not track an owner are left out. The first batch does the same; call
    /// this to see a mistake before anything is read or counted.
    ///
    /// With several pipelines, all are checked before a new table is claimed: if the state of one
    /// belongs to something else, or to another stream, no table is claimed.
    ///
    /// # Errors
    ///
    /// [`RecordError::State`] naming the first pipeline whose state belongs to something else, or
    /// could not be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: call it again.
    pub async fn bind(&self, stream: Option<&str>, deadline: Deadline) -> Result<(), RecordError> {
        let context = self.context(deadline);
        let bind = async |pipeline: &Pipeline<T>| {
            let bound = pipeline.erased.ownership().bind(stream, context).await;
            bound.map_err(|source| not_its_state(pipeline, source))
        };
        if let [pipeline] = self.pipelines() {
            return bind(pipeline).await;
        }
        let mut unclaimed = Vec::new();
        for pipeline in self.pipelines() {
            match pipeline.erased.ownership().check_binding(context).await {
                Ok(_) => bind(pipeline).await?,
                Err(source @ StoreError::OtherOwner { .. }) => {
                    return Err(not_its_state(pipeline, source));
                }
                Err(source) if source.is_retryable() => {
                    return Err(not_its_state(pipeline, source));
                }
                // It was never claimed, or binding it reports the error.
                Err(_) => unclaimed.push(pipeline),
            }
        }
        for pipeline in unclaimed {
            bind(pipeline).await?;
        }
        Ok(())
    }

    /// Checks that the state of every pipeline is bound to that pipeline, as [`bind`](Self::bind)
    /// does, and writes nothing. Modes that do not track an owner are left out. State that neither
    /// a bootstrap nor the stream consumer ever bound is an error.
    ///
    /// Returns, for each pipeline, the stream that its state is bound to, if one was ever named.
    ///
    /// # Errors
    ///
    /// Like `bind`.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn check_binding(
        &self,
        deadline: Deadline,
    ) -> Result<Vec<Option<Arc<str>>>, RecordError> {
        let context = self.context(deadline);
        let mut streams = Vec::with_capacity(self.pipelines().len());
        for pipeline in self.pipelines() {
            let checked = pipeline.erased.ownership().check_binding(context).await;
            streams.push(checked.map_err(|source| not_its_state(pipeline, source))?);
        }
        Ok(streams)
    }

    /// Lets the items of every pipeline with [`settle`](crate::Definition::settle) settle from now
    /// on. This is written beside the state, where each process of the pipeline looks about once a
    /// minute, and cannot be undone. Pipelines without the option are left out. A bootstrap does
    /// this at its end.
    ///
    /// # Errors
    ///
    /// [`RecordError::State`] naming the first pipeline whose state was never bound, belongs to
    /// something else, or could not be written.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: call it again.
    pub async fn settle(&self, deadline: Deadline) -> Result<(), RecordError> {
        let context = self.context(deadline);
        for pipeline in self
            .pipelines()
            .iter()
            .filter(|pipeline| pipeline.settles())
        {
            let settled = pipeline.erased.ownership().settle(context).await;
            settled.map_err(|source| not_its_state(pipeline, source))?;
        }
        Ok(())
    }

    /// For each pipeline, whether [`settle`](Self::settle) was called, so that its items settle.
    ///
    /// # Errors
    ///
    /// [`RecordError::State`] naming the first pipeline whose state could not be read, or was never
    /// bound although it keeps a ledger.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn are_settling(&self, deadline: Deadline) -> Result<Vec<bool>, RecordError> {
        let context = self.context(deadline);
        let mut settling = Vec::with_capacity(self.pipelines().len());
        for pipeline in self.pipelines() {
            let asked = pipeline.erased.ownership().is_settling(context).await;
            settling.push(asked.map_err(|source| not_its_state(pipeline, source))?);
        }
        Ok(settling)
    }

    pub(crate) fn context(&self, deadline: Deadline) -> Context<'_> {
        Context {
            retry: &self.retry,
            tokens: &self.shared.tokens,
            recorder: &*self.shared.recorder,
            deadline,
            pacing: None,
        }
    }
}

impl<T> Clone for Processor<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            policy: self.policy,
            retry: self.retry.clone(),
            on_rejected: self.on_rejected.clone(),
            on_outage: self.on_outage.clone(),
        }
    }
}

impl<T> fmt::Debug for Processor<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Processor")
            .field("pipelines", &self.shared.pipelines)
            .field("decoder", &self.shared.decoder)
            .finish_non_exhaustive()
    }
}
