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

/// Pages under way at a time unless told otherwise.
const CONCURRENCY: usize = 8;

/// Rejected rows listed in the report unless told otherwise.
const MAX_LISTED: usize = 100;

impl<T: Send + Sync + 'static, S: Source> Bootstrap<T, S> {
    /// Begins a bootstrap of the processor's pipelines from `source`, in one scan. Each row is decoded
    /// once, by the processor's decoder, which also decodes the images of live changes.
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
    /// Hears how the run goes; called between pages, so it should return soon. Default: nobody.
    pub fn on_progress(mut self, progress: impl Fn(&Progress<'_>) + Send + Sync + 'static) -> Self {
        self.made.progress = Arc::new(progress);
        self
    }

    /// How many pages are under way at a time, being read or being written; at least 1. Each is in
    /// memory: more is faster until the tables' capacity or this task's CPU is used up. The pages
    /// of one segment are read one after the other but written side by side, so segments need
    /// not be more than this. Default 8.
    pub fn concurrency(mut self, pages: usize) -> Self {
        self.made.concurrency = pages;
        self
    }

    /// How fast the source is read, so that others have their share of the table's capacity.
    /// Writes are not part of it. Default: [`ReadBudget::Unlimited`].
    pub fn read_budget(mut self, budget: ReadBudget) -> Self {
        self.made.budget = budget;
        self
    }

    /// Looks at where live has to begin before anything is written: the place to check that it
    /// does, as `murmur_lambda_ddbstreams::Mapping::check` does for a mapping of Lambda's. `Err`
    /// refuses the run ([`TokenRefused`](BootstrapError::TokenRefused)); no page was read then, and
    /// nothing is kept of a run that was not begun before, so the next attempt captures a new token.
    ///
    /// Called in every attempt with the run's token, that of its first attempt, also when the run
    /// goes on: whoever must not have been changed since then is looked at again. A worker that
    /// finds that another was faster is asked once more, about the other's token. It is waited for
    /// without a limit of time, and dropped when the run is stopped. An `Err` of a [`SourceError`](crate::SourceError)
    /// or a [`StoreError`](murmur_state::StoreError) that [may pass](crate::SourceError::is_retryable) refuses nothing: it is asked
    /// again, as what fails in passing is. A source that has no token is refused
    /// ([`Option`](BootstrapError::Option)). Default: nobody looks.
    pub fn on_token<F, Fut>(mut self, check: F) -> Self
    where
        F: Fn(HandoffToken) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.made.on_token = Some(Box::new(move |token| Box::pin(check(token))));
        self
    }

    /// Reads only these segments, as one of several processes at the run called `run`.
    ///
    /// All workers of a run are given the same id, source settings and pipelines, and ranges that
    /// are disjoint and together hold every segment; they share the pipelines' marker tables (or
    /// [`checkpoints`](Self::checkpoints)) and nothing else. Whichever comes first captures
    /// the token and begins the run, and whichever finishes the last segment finishes it:
    /// [`Report::ended`](crate::Report::ended) says which one that was. A worker that failed or was killed is run
    /// again like any bootstrap, in whatever place, with the same range or parts of it.
    ///
    /// Another unfinished run is refused, with both ids named;
    /// [`restart`](Self::restart) begins anew instead, once, whichever worker comes first.
    /// Pipelines that count repeats are refused. Default: all segments, and an id drawn at random.
    pub fn worker(mut self, run: impl Into<String>, segments: Range<u32>) -> Self {
        let run = run.into();
        self.made.worker = Some(Worker { run, segments });
        self
    }

    /// Says that live has been reading this stream since before the run began (a mapping of
    /// Lambda's at TRIM_HORIZON, enabled before the first attempt, or a trigger begun from the
    /// run's token), and is still. The run may then be of any age, and nobody warns of that.
    ///
    /// The age of a run is limited since what is changed while it goes on has to be in the stream
    /// when live begins. If live has begun, it has those changes already; a ledger takes them in
    /// whatever order scan and stream bring them. If it has not, or rested for a day, changes are
    /// missing for good, and nothing here would notice. Every pipeline has to keep a ledger.
    /// Default: not said.
    pub fn live_is_running(mut self) -> Self {
        self.made.live_is_running = true;
        self
    }

    /// Keeps the records of the run here instead of in each pipeline's marker table. Needed by
    /// at-least-once pipelines, which have none. Must be the same place in every run. Default:
    /// each pipeline's marker table, one row per pipeline and source.
    pub fn checkpoints(mut self, place: impl Checkpoints) -> Self {
        self.made.place = Some(Arc::new(place));
        self
    }

    /// How many rejected rows the report lists; each costs its id and reason in memory. Of earlier
    /// attempts no more than the first 10 of each segment are known, which are kept in its
    /// checkpoint. Default 100.
    pub fn max_listed(mut self, rows: usize) -> Self {
        self.made.max_listed = rows;
        self
    }

    /// Takes a source of which every row is rejected for what it is. Without this such a run fails
    /// ([`AllRejected`](BootstrapError::AllRejected)) as soon as 1,000 rows were read and none was
    /// accepted, or at the end of what is there: it is the wrong file, or the wrong decoder. A row
    /// that the decoder skips is accepted; and once the run has accepted any row, any number may be
    /// rejected. Default: not taken.
    pub fn accept_all_rejected(mut self) -> Self {
        self.made.accept_all_rejected = true;
        self
    }

    /// Begins a new run, with a new token, whatever runs there were.
    ///
    /// This means new, empty state tables *and* marker tables, and consumers that were stopped
    /// meanwhile. Nothing is removed here, and what earlier runs or live left in the old ones
    /// stays: rows they counted are counted again, or, where the markers or the ledger still know
    /// them, taken for counted although the state may be new. Default: a run that is finished stays so, and
    /// an outdated one is refused.
    pub fn restart(mut self) -> Self {
        self.made.restart = true;
        self
    }

    /// Checks the options, as far as no table has to be asked.
    ///
    /// # Errors
    ///
    /// [`BootstrapError::Option`] naming the option: no concurrency (`concurrency`), a budget that cannot
    /// be kept (`read_budget`), a pipeline without a marker table (`checkpoints`), a run without a name,
    /// segments that the source does not have, or a pipeline that counts repeats (`worker`), a pipeline
    /// without a ledger (`live_is_running`), a source without segments (`segments`);
    /// [`BootstrapError::WindowsByArrival`].
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
            let reason = format!("source `{name}` has none; at least 1");
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
                return wrong(format!(
                    "{part:?} are not segments of `{name}`; they are 0..{segments}"
                ));
            }
            if let Some(pipeline) = one(|pipeline| pipeline.repeats() == Repeats::Counted) {
                return wrong(format!(
                    "pipeline `{pipeline}` counts again what comes again, and nobody can tell a worker that joins a run from one that begins its part again; give it a mode that recognises repeats"
                ));
            }
        }
        if *live_is_running && let Some(pipeline) = one(|pipeline| !pipeline.keeps_ledger()) {
            let reason = format!(
                "pipeline `{pipeline}` keeps no ledger, so what live and the scan both see counts twice"
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
