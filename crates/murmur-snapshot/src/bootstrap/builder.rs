use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use murmur_core::{BoxError, Pipeline, Processor};
use murmur_state::{Checkpoints, HandoffToken, OptionError, Repeats, RetryPolicy};

use super::error::BootstrapError;
use super::progress::Progress;
use super::run::{Bootstrap, Worker};
use crate::budget::{ReadBudget, ReadPacer};
use crate::run_record::RunRecord;
use crate::source::Source;

/// The default of `concurrency`.
const CONCURRENCY: usize = 8;

/// The default of `max_listed`.
const MAX_LISTED: usize = 100;

impl<T: Send + Sync + 'static, S: Source> Bootstrap<T, S> {
    /// Begins a bootstrap of the processor's pipelines from `source`, in one scan. Each row is
    /// decoded once, by the processor's decoder, which also decodes the images of stream records.
    pub fn builder(processor: Processor<T>, source: S) -> BootstrapBuilder<T, S> {
        BootstrapBuilder {
            made: Self {
                processor,
                source,
                rejections: Arc::default(),
                progress: Arc::new(|_| ()),
                place: None,
                concurrency: CONCURRENCY,
                max_listed: MAX_LISTED,
                budget: ReadBudget::default(),
                on_token: None,
                worker: None,
                live_is_running: false,
                accept_all_rejected: false,
                restart: false,
            },
        }
    }
}

/// The options of a [`Bootstrap`] that are not its processor's. Made by [`Bootstrap::builder`].
#[must_use = "a bootstrap is made by `build`"]
pub struct BootstrapBuilder<T, S> {
    made: Bootstrap<T, S>,
}

impl<T: Send + Sync + 'static, S: Source> BootstrapBuilder<T, S> {
    /// Receives the progress of the run. Called between pages, so it should return soon. Default:
    /// no callback.
    pub fn on_progress(mut self, progress: impl Fn(&Progress<'_>) + Send + Sync + 'static) -> Self {
        self.made.progress = Arc::new(progress);
        self
    }

    /// How many pages are read or written at a time; at least 1. Each page is held in memory. More
    /// pages are faster until the tables' capacity or this task's CPU is used up. The pages of one
    /// segment are read one after the other but written in parallel, so there need not be more
    /// segments than this. Default 8.
    pub fn concurrency(mut self, pages: usize) -> Self {
        self.made.concurrency = pages;
        self
    }

    /// How fast the source is read, to leave read capacity of the table to other readers. Does not
    /// limit writes. Default: [`ReadBudget::Unlimited`].
    pub fn read_budget(mut self, budget: ReadBudget) -> Self {
        self.made.budget = budget;
        self
    }

    /// Receives the handoff token before anything is written, so that you can check that streaming
    /// will start there, as `murmur_lambda_ddbstreams::Mapping::check` does for a Lambda mapping.
    /// `Err` refuses the run ([`TokenRefused`](BootstrapError::TokenRefused)): no page was read,
    /// and no record is kept of a new run, so the next attempt captures a new token.
    ///
    /// The check is called in every attempt, with the token of the run's first attempt, so a
    /// mapping that was edited since the first attempt is caught. A worker that loses the race to
    /// begin a run is called again, with the winner's token. The check has no time limit, and is
    /// dropped when the run is stopped. An `Err` of a [`SourceError`](crate::SourceError) or a
    /// [`StoreError`](murmur_state::StoreError) that [may pass](crate::SourceError::is_retryable)
    /// refuses nothing: the check is called again, under the retry policy. A source without a token
    /// is refused ([`Option`](BootstrapError::Option)). Default: no check.
    pub fn on_token<F, Fut>(mut self, check: F) -> Self
    where
        F: Fn(HandoffToken) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.made.on_token = Some(Box::new(move |token| Box::pin(check(token))));
        self
    }

    /// Reads only these segments, as one of several processes that work on the run called `run`.
    ///
    /// All workers of a run have the same id, source settings and pipelines. Their ranges are
    /// disjoint and together hold every segment. Workers share the pipelines' marker tables (or
    /// [`checkpoints`](Self::checkpoints)) and nothing else. The first worker captures the token
    /// and begins the run. The worker that finishes the last segment finishes the run;
    /// [`Report::ended`](crate::Report::ended) says which one did. A worker that failed or was
    /// killed is run again like any bootstrap, on any machine, with the same range or parts of it.
    ///
    /// Another unfinished run is refused with both ids. With [`restart`](Self::restart) the first
    /// worker begins a new run instead, once. Pipelines that count repeats are refused. Default:
    /// all segments, and a random id.
    pub fn worker(mut self, run: impl Into<String>, segments: Range<u32>) -> Self {
        let run = run.into();
        self.made.worker = Some(Worker { run, segments });
        self
    }

    /// States that the stream consumer has been running since before the run began, and still runs:
    /// a Lambda mapping at TRIM_HORIZON, enabled before the first attempt, or a trigger started
    /// from the run's token. The run may then be of any age, without a warning.
    ///
    /// The age of a run is limited because changes made during the run must still be in the stream
    /// when the stream consumer starts. A consumer that is already running has those changes, and a
    /// ledger takes scan and stream in any order. If the consumer was not running, or paused for a
    /// day, changes are missing permanently, and the bootstrap cannot notice. Every pipeline has to
    /// keep a ledger. Default: not stated.
    pub fn live_is_running(mut self) -> Self {
        self.made.live_is_running = true;
        self
    }

    /// Keeps the records of the run in `place` instead of in each pipeline's marker table. Required
    /// for at-least-once pipelines, which have no marker table. Must be the same place in every
    /// run. Default: each pipeline's marker table, one row per pipeline and source.
    pub fn checkpoints(mut self, place: impl Checkpoints) -> Self {
        self.made.place = Some(Arc::new(place));
        self
    }

    /// How many rejected rows the report lists. Each costs its id and reason in memory. Of earlier
    /// attempts only the first 10 rows of each segment are known, from its checkpoint. Default 100.
    pub fn max_listed(mut self, rows: usize) -> Self {
        self.made.max_listed = rows;
        self
    }

    /// Accepts a source of which every row is rejected. Without this option such a run fails
    /// ([`AllRejected`](BootstrapError::AllRejected)) after 1,000 rows without an accepted one, or
    /// at the end of the source, because source or decoder are probably wrong. A row that the
    /// decoder skips is accepted. Once the run has accepted any row, any number may be rejected.
    /// Default: not accepted.
    pub fn accept_all_rejected(mut self) -> Self {
        self.made.accept_all_rejected = true;
        self
    }

    /// Begins a new run, with a new token, even if there was one before.
    ///
    /// Use it with new, empty state tables *and* marker tables, and with the stream consumer
    /// stopped while you make them. `restart` removes nothing. In old tables, rows that were
    /// counted before are counted again, or, if the marker table still knows them, taken for
    /// counted although the state may be new. Default: a finished run stays finished, and an
    /// outdated one is refused.
    pub fn restart(mut self) -> Self {
        self.made.restart = true;
        self
    }

    /// Checks the options, without any request.
    ///
    /// # Errors
    ///
    /// [`BootstrapError::WindowsByArrival`], or [`BootstrapError::Option`] with the option's name:
    ///
    /// - `concurrency`: it is zero;
    /// - `read_budget`: the budget cannot be kept;
    /// - `checkpoints`: a pipeline has no marker table;
    /// - `worker`: the run has no name, the source lacks these segments, or a pipeline counts
    ///   repeats;
    /// - `live_is_running`: a pipeline keeps no ledger;
    /// - `segments`: the source has none.
    pub fn build(self) -> Result<Bootstrap<T, S>, BootstrapError> {
        self.check()?;
        let Bootstrap {
            processor,
            rejections,
            progress,
            ..
        } = &self.made;
        let (tell, noted) = (Arc::clone(progress), Arc::clone(rejections));
        let processor = processor
            .or_retry(RetryPolicy::patient())
            .and_on_outage(move |outage| tell(&Progress::Outage { outage }))
            .passing_over(move |rejected| noted.note(rejected));
        Ok(Bootstrap {
            processor,
            ..self.made
        })
    }

    fn check(&self) -> Result<(), BootstrapError> {
        let Bootstrap {
            processor,
            source,
            place,
            concurrency,
            budget,
            worker,
            live_is_running,
            ..
        } = &self.made;
        if *concurrency == 0 {
            return Err(OptionError::new("concurrency", "must be at least 1").into());
        }
        let (name, segments) = (source.name(), source.segments());
        if segments == 0 {
            let reason = format!("source `{name}` has none; it needs at least 1");
            return Err(OptionError::new("segments", reason).into());
        }
        ReadPacer::check(*budget)?;
        let pipelines = processor.pipelines();
        for pipeline in pipelines {
            RunRecord::place(place.as_ref(), pipeline)?;
        }
        let one = |is: fn(&Pipeline<T>) -> bool| {
            let mut pipelines = pipelines.iter();
            pipelines.find(|pipeline| is(pipeline)).map(Pipeline::name)
        };
        if let Some(Worker {
            run,
            segments: part,
        }) = worker
        {
            let wrong = |reason: String| Err(OptionError::new("worker", reason).into());
            if run.is_empty() {
                return wrong("the run's id is empty; give the same to all its workers".into());
            }
            if part.is_empty() || part.end > segments {
                let (from, to) = (part.start, part.end);
                return wrong(format!(
                    "{from}..{to} are not segments of `{name}`; they are 0..{segments}"
                ));
            }
            if let Some(pipeline) = one(|pipeline| pipeline.repeats() == Repeats::Counted) {
                return wrong(format!(
                    "pipeline `{pipeline}` counts repeated rows again, and a worker that starts its \
                     part again cannot be told from one that joins the run; give the pipeline a \
                     mode that recognises repeats"
                ));
            }
        }
        if *live_is_running && let Some(pipeline) = one(|pipeline| !pipeline.keeps_ledger()) {
            let reason = format!(
                "pipeline `{pipeline}` keeps no ledger, so a row that scan and stream both bring \
                 counts twice; leave the option out, or define the pipeline with a ledger"
            );
            return Err(OptionError::new("live_is_running", reason).into());
        }
        match one(Pipeline::windows_by_arrival) {
            None => Ok(()),
            Some(pipeline) => Err(BootstrapError::WindowsByArrival {
                pipeline: pipeline.clone(),
            }),
        }
    }
}

impl<T, S: Source> fmt::Debug for BootstrapBuilder<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BootstrapBuilder").field(&self.made).finish()
    }
}
