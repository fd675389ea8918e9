//! Letting the items of a running system settle.

mod error;

use std::fmt;
use std::sync::Arc;

use murmur_core::{Pipeline, Processor};
use murmur_state::{Causes, Checkpoints, Deadline, PipelineName, RetryPolicy, Timestamp};

use crate::retried::retried;
use crate::run_record::{RunRecord, RunRecordError};
use crate::source::{Description, Source};

pub use error::SettleError;

/// Lets the items of pipelines settle that were bootstrapped before their definition said
/// [`settle`](murmur_core::Definition::settle). A bootstrap with a definition that says `settle`
/// does the same at its end, and needs no `Settle`.
///
/// First deploy the definition with `settle` in every process that runs the pipeline. A process
/// without it reports every change of a settled item, and does not count the change.
///
/// `Settle` writes one permanent attribute beside each pipeline's state. Processes that run the
/// pipeline look for the attribute about once a minute. From then on each item leaves the ledger by
/// its first change. Running `Settle` again, at any time, changes nothing.
///
/// # Refused
///
/// All pipelines are checked before anything is written. These are refused:
///
/// - a pipeline without a ledger, or whose definition does not say `settle`;
/// - a bootstrap that was never begun, is not finished, or had another definition or state table;
/// - a source without a stream of new and old images;
/// - state that belongs to something else, or to a stream that is not the source's current one.
///
/// # Cost
///
/// A few reads and one write for each pipeline. No item and no row of the table is read.
///
/// Transient failures are retried by [`RetryPolicy::patient`], for 30 minutes, unless the processor
/// has another policy.
#[must_use = "nothing is written before `run`"]
pub struct Settle<T, S> {
    processor: Processor<T>,
    source: S,
    place: Option<Arc<dyn Checkpoints>>,
}

impl<T: Send + Sync + 'static, S: Source> Settle<T, S> {
    /// Begins a settle of the processor's pipelines, which were bootstrapped from `source`. Only
    /// the source's name and description are used; no item is decoded.
    pub fn builder(processor: Processor<T>, source: S) -> SettleBuilder<T, S> {
        SettleBuilder {
            made: Self {
                processor: processor.or_retry(RetryPolicy::patient()),
                source,
                place: None,
            },
        }
    }

    /// Checks all pipelines, and lets their items settle.
    ///
    /// # Errors
    ///
    /// [`SettleError`]: either it was refused, and nothing was written; or a read or write failed
    /// after all retries, and items of some pipelines may settle already.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: run it again.
    pub async fn run(self) -> Result<SettleReport, SettleError> {
        let report = self.to_end().await;
        let source = &self.source;
        if let Err(error) = source.close().await {
            tracing::warn!(source = source.name(), error = %Causes(&error), "not closed");
        }
        report
    }

    async fn to_end(&self) -> Result<SettleReport, SettleError> {
        let described = self.describe().await?;
        let stream = self.check_images(&described)?;
        let mut finished = Vec::new();
        for pipeline in self.processor.pipelines() {
            finished.push(self.finished(pipeline).await?);
        }
        let checked = self.processor.check_binding(Deadline::NONE).await;
        let bound = checked.map_err(|error| SettleError::Refused(Box::new(error)))?;
        for (pipeline, bound) in self.processor.pipelines().iter().zip(bound) {
            if let Some(bound) = bound.filter(|bound| **bound != *stream) {
                return Err(SettleError::OtherStream {
                    pipeline: pipeline.name().clone(),
                    theirs: bound.to_string(),
                    ours: stream.to_owned(),
                });
            }
        }
        let failed = |error| SettleError::State(Box::new(error));
        let before = self.processor.are_settling(Deadline::NONE).await;
        let before = before.map_err(failed)?;
        let settled = self.processor.settle(Deadline::NONE).await;
        settled.map_err(failed)?;
        let of_all = finished.into_iter().zip(before);
        Ok(SettleReport {
            pipelines: of_all
                .map(|(pipeline, already)| SettlingPipeline {
                    already,
                    ..pipeline
                })
                .collect(),
        })
    }

    async fn describe(&self) -> Result<Description, SettleError> {
        let (name, recorder) = (self.source.name(), &**self.processor.recorder());
        let described = retried(
            self.processor.retry(),
            recorder,
            name,
            Deadline::NONE,
            || self.source.describe(),
        );
        Ok(described.await?)
    }

    /// The stream, if it carries both images.
    fn check_images<'d>(&self, described: &'d Description) -> Result<&'d str, SettleError> {
        let source_name = || self.source.name().to_owned();
        match &described.stream {
            Some(view) if view.new_images && view.old_images => Ok(&view.arn),
            Some(view) => Err(SettleError::MissingImages {
                source_name: source_name(),
                stream: view.arn.clone(),
            }),
            None => Err(SettleError::NoStream {
                source_name: source_name(),
            }),
        }
    }

    /// The report of `pipeline`, if its bootstrap is finished.
    async fn finished(&self, pipeline: &Pipeline<T>) -> Result<SettlingPipeline, SettleError> {
        let name = || pipeline.name().clone();
        let source_name = || self.source.name().to_owned();
        let Some(record) = self.record(pipeline).await? else {
            return Err(SettleError::NeverBootstrapped {
                pipeline: name(),
                source_name: source_name(),
            });
        };
        let (theirs, ours) = (
            record.pipelines.get(pipeline.name().as_str()),
            pipeline.fingerprint(),
        );
        if let Some(theirs) = theirs.filter(|theirs| **theirs != ours) {
            return Err(SettleError::OtherDefinition {
                pipeline: name(),
                source_name: source_name(),
                theirs: theirs.clone(),
                ours,
            });
        }
        match record.finished_at {
            Some(finished_at) => Ok(SettlingPipeline {
                pipeline: name(),
                already: false,
                run: record.run,
                finished_at,
            }),
            None => Err(SettleError::NotFinished {
                pipeline: name(),
                source_name: source_name(),
                run: record.run,
            }),
        }
    }

    async fn record(&self, pipeline: &Pipeline<T>) -> Result<Option<RunRecord>, SettleError> {
        let place = RunRecord::place(self.place.as_ref(), pipeline)?;
        let source_name = self.source.name();
        let name = RunRecord::name(pipeline.name(), source_name);
        let again = |error: &_| {
            tracing::debug!(source = source_name, %error, "loading the run's record is retried");
        };
        let load = || place.load(&name);
        let found = self
            .processor
            .retry()
            .run(Deadline::NONE, again, load)
            .await;
        let record = found
            .map_err(RunRecordError::Store)
            .and_then(|found| match found {
                Some(found) => RunRecord::decode(&name, &found).map(Some),
                None => Ok(None),
            });
        record.map_err(|source| SettleError::Record {
            pipeline: pipeline.name().clone(),
            source_name: source_name.to_owned(),
            source: Box::new(source),
        })
    }
}

/// The options of a [`Settle`] that are not its processor's. Made by [`Settle::builder`].
#[must_use = "a settle is made by `build`"]
pub struct SettleBuilder<T, S> {
    made: Settle<T, S>,
}

impl<T: Send + Sync + 'static, S: Source> SettleBuilder<T, S> {
    /// Where the records of the bootstrap are kept; the same place as in
    /// [`BootstrapBuilder::checkpoints`](crate::bootstrap::BootstrapBuilder::checkpoints). Default: each
    /// pipeline's marker table.
    pub fn checkpoints(mut self, place: impl Checkpoints) -> Self {
        self.made.place = Some(Arc::new(place));
        self
    }

    /// Checks the options, without any request.
    ///
    /// # Errors
    ///
    /// [`SettleError`]: a pipeline keeps no ledger, does not say that its items settle, or has no
    /// marker table (`checkpoints`).
    pub fn build(self) -> Result<Settle<T, S>, SettleError> {
        for pipeline in self.made.processor.pipelines() {
            check_definition(pipeline)?;
            RunRecord::place(self.made.place.as_ref(), pipeline)?;
        }
        Ok(self.made)
    }
}

impl<T, S: Source> fmt::Debug for SettleBuilder<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SettleBuilder").field(&self.made).finish()
    }
}

impl<T, S: Source> fmt::Debug for Settle<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settle")
            .field("source", &self.source.name())
            .field("processor", &self.processor)
            .finish_non_exhaustive()
    }
}

/// What [`Settle`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SettleReport {
    /// The pipelines, in their order.
    pub pipelines: Vec<SettlingPipeline>,
}

/// A pipeline whose items settle from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SettlingPipeline {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// Whether its items settled before this call.
    pub already: bool,
    /// The run that bootstrapped it.
    pub run: String,
    /// When that run was finished.
    pub finished_at: Timestamp,
}

/// Refuses a pipeline that cannot settle by its definition.
fn check_definition<T>(pipeline: &Pipeline<T>) -> Result<(), SettleError> {
    let name = || pipeline.name().clone();
    if !pipeline.keeps_ledger() {
        return Err(SettleError::NoLedger { pipeline: name() });
    }
    match pipeline.settles() {
        true => Ok(()),
        false => Err(SettleError::NotDefined { pipeline: name() }),
    }
}
