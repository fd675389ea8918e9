//! One attempt at a run, from its refusals to its report.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, Either, select};
use murmur_core::{BoxError, Pipeline, Processor};
use murmur_state::{
    Causes, Checkpoints, Deadline, Failure, Fault, HandoffToken, OptionError, Repeats, Retry,
    StoreError, Tokens,
};

use crate::budget::{Pace, ReadBudget};
use crate::error::{BootstrapError, SourceError};
use crate::register::{Register, Terms, Wanted};
use crate::rejections::Rejections;
use crate::report::{Counts, Earlier, Ended, Progress, Report};
use crate::run_record::RunRecord;
use crate::scan::{Parts, ProgressFn, Proof, State, Stop, retried, scan};
use crate::segment_row::{At, SegmentRows};
use crate::segments::Segments;
use crate::source::{Description, Source};
use crate::watch::{Known, Watch};

/// What a pipeline needs whose items settle.
const SETTLING_NEEDS: &str = "old and new images, by which its items settle (`.settle()`)";

/// Looks at the token of a run.
pub(crate) type TokenFn =
    dyn Fn(HandoffToken) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync;

/// The part of a run that is this process's.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) run: String,
    pub(crate) segments: Range<u32>,
}

/// What somebody said of a token.
#[derive(Debug)]
struct Checked(BoxError);

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Checked {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

impl Failure for Checked {
    fn fault(&self) -> Fault {
        let source = self.0.downcast_ref().map(SourceError::fault);
        let state = || self.0.downcast_ref().map(StoreError::fault);
        source.or_else(state).unwrap_or(Fault::Setup)
    }
}

/// A bootstrap with its options settled.
pub(crate) struct Run<T, S> {
    pub(crate) processor: Processor<T>,
    pub(crate) source: S,
    pub(crate) retry: Retry,
    pub(crate) tokens: Tokens,
    pub(crate) rejections: Arc<Rejections>,
    pub(crate) max_listed: usize,
    pub(crate) progress: Arc<ProgressFn>,
    pub(crate) place: Option<Arc<dyn Checkpoints>>,
    pub(crate) concurrency: usize,
    pub(crate) budget: ReadBudget,
    pub(crate) on_token: Option<Box<TokenFn>>,
    pub(crate) worker: Option<Worker>,
    pub(crate) live_is_running: bool,
    pub(crate) accept_all_rejected: bool,
    pub(crate) restart: bool,
}

impl<T: Send + Sync + 'static, S: Source> Run<T, S> {
    /// Runs until all is done or `shutdown` completes, and closes the source.
    pub(crate) async fn finish(
        self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<Report, BootstrapError> {
        let stop = shutdown.boxed().shared();
        let result = {
            let attempt = pin!(self.attempt(stop.clone()));
            match select(attempt, stop.clone()).await {
                Either::Left((result, _)) => result,
                Either::Right(((), attempt)) => {
                    self.retry.stop();
                    attempt.await
                }
            }
        };
        let result = result.map_err(|error| match self.retry.gave_up_after() {
            _ if !error.is_retryable() => error,
            _ if stop.now_or_never().is_some() => {
                tracing::debug!(error = %Causes(&error), "not done before the stop");
                BootstrapError::Stopped {
                    source_name: self.source.name().to_owned(),
                }
            }
            Some(tried) => BootstrapError::GaveUp {
                tried,
                source: Box::new(error),
            },
            None => error,
        });
        if let Err(error) = self.source.close().await {
            tracing::warn!(source = self.source.name(), error = %Causes(&error), "not closed");
        }
        result
    }

    async fn attempt(&self, stop: Stop<'_>) -> Result<Report, BootstrapError> {
        self.check_options()?;
        let name = self.source.name();
        let pipelines = self.processor.pipelines();
        let mut register =
            Register::load(name, &self.retry, pipelines, self.place.as_ref()).await?;
        let description = self.asked(|| self.source.describe()).await?;
        self.refuse_finished(&mut register, &description).await?;
        self.check(&description)?;
        let pace = Pace::new(self.budget, name, &description)?;
        let (mut record, rerun) = self.enter(&mut register, &description, &stop).await?;

        let rows = self.segment_rows(&register, &record)?;
        let part = self.part();
        // Of a run that was begun just now there is nothing to go on with.
        let found = match rerun {
            true => rows.load_all(part.clone()).await?,
            false => Default::default(),
        };
        let (mut earlier, mut rejected) = (Earlier::default(), Vec::new());
        for (row, _) in found.values() {
            earlier.segments += u32::from(row.at == At::End);
            earlier.counts += row.tally.counts;
            rejected.extend_from_slice(&row.tally.rejected);
        }
        rejected.truncate(self.max_listed);
        let (run, segments) = (&record.run, Segments::new(part.clone(), found));
        tracing::info!(
            source = name,
            run,
            rerun,
            ?part,
            ?earlier,
            "bootstrap started"
        );
        (self.progress)(&Progress::Started {
            run,
            rerun,
            token: record.token.as_ref(),
            segments: segments.of(),
            earlier: &earlier,
        });

        let clock = &**self.retry.clock();
        let known = self.known(&description, &record, &earlier);
        let mut state = State {
            watch: Watch::new(known, segments.done(), segments.of(), clock),
            segments,
            pace,
            counts: Counts::default(),
            rejected,
            max_listed: self.max_listed,
            proof: match self.accept_all_rejected || Proof::is_in(&earlier.counts) {
                true => Proof::Given,
                false => Proof::Waiting(Vec::new()),
            },
        };
        let parts = Parts {
            source: &self.source,
            processor: &self.processor,
            retry: &self.retry,
            rows: &rows,
            rejections: &self.rejections,
            progress: &*self.progress,
            settings: &description.settings,
            segments: self.source.segments(),
            knows_repeats: self.processor.repeats() != Repeats::Counted,
        };
        let ended = match scan(&parts, &mut state, self.concurrency, stop).await? {
            false => Ended::Stopped,
            true => {
                let left = state.segments.left();
                self.end(&mut register, &rows, &mut record, left).await?
            }
        };
        let report = Report {
            run: record.run,
            rerun,
            ended,
            token: record.token,
            earlier,
            counts: state.counts,
            left: u32::try_from(state.segments.left().len()).unwrap_or(u32::MAX),
            rejected: state.rejected,
        };
        let (run, rows) = (&report.run, report.counts.rows);
        tracing::info!(source = name, run, rows, ?ended, "bootstrap ended");
        (self.progress)(&match ended {
            Ended::Stopped => Progress::Stopped { report: &report },
            Ended::Finished | Ended::OwnPart => Progress::Finished { report: &report },
        });
        Ok(report)
    }

    /// What can be told without asking anybody.
    fn check_options(&self) -> Result<(), BootstrapError> {
        if self.concurrency == 0 {
            return Err(OptionError::new("concurrency", "must be at least 1").into());
        }
        let (name, segments) = (self.source.name(), self.source.segments());
        if segments == 0 {
            let reason = format!("source `{name}` has none; at least 1");
            return Err(OptionError::new("segments", reason).into());
        }
        Pace::check(self.budget)?;
        let pipelines = self.processor.pipelines();
        let one = |is: fn(&Pipeline<T>) -> bool| {
            let mut pipelines = pipelines.iter();
            pipelines.find(|pipeline| is(pipeline)).map(Pipeline::name)
        };
        if let Some(Worker {
            run,
            segments: part,
        }) = &self.worker
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
        if self.live_is_running
            && let Some(pipeline) = one(|pipeline| !pipeline.keeps_ledger())
        {
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

    /// Whether the source gives each pipeline what it needs.
    fn check(&self, description: &Description) -> Result<(), BootstrapError> {
        let source_name = || self.source.name().to_owned();
        for pipeline in self.processor.pipelines() {
            let (pipeline, ledger) = (pipeline.name().clone(), pipeline.keeps_ledger());
            if ledger && !description.leaves_out_by.is_empty() {
                return Err(BootstrapError::LedgerOfSome {
                    pipeline,
                    source_name: source_name(),
                    attributes: description.leaves_out_by.clone(),
                });
            }
            if ledger && !description.consistent {
                return Err(BootstrapError::LedgerOfThePast {
                    pipeline,
                    source_name: source_name(),
                });
            }
        }
        self.check_images(description)
    }

    /// Whether the stream carries what each pipeline needs.
    fn check_images(&self, description: &Description) -> Result<(), BootstrapError> {
        let Some(view) = &description.stream else {
            return Ok(());
        };
        for pipeline in self.processor.pipelines() {
            let needs_old = pipeline.needs_old_images();
            if !view.new_images || (needs_old && !view.old_images) {
                return Err(BootstrapError::MissingImages {
                    pipeline: pipeline.name().clone(),
                    stream: view.arn.clone(),
                    needed: match needs_old {
                        true if pipeline.settles() => SETTLING_NEEDS,
                        true => "old and new images",
                        false => "new images",
                    },
                });
            }
        }
        Ok(())
    }

    fn wanted(&self) -> Wanted<'_> {
        Wanted {
            run: self.worker.as_ref().map(|worker| worker.run.as_str()),
            restart: self.restart,
        }
    }

    /// An error if the run is finished. An end that was interrupted is completed first. What it
    /// filled must be what is here now: whoever hears that it is finished goes on to live.
    async fn refuse_finished(
        &self,
        register: &mut Register<'_>,
        description: &Description,
    ) -> Result<(), BootstrapError> {
        let Some((pipeline, record)) = register.finished(&self.wanted()) else {
            return Ok(());
        };
        register.refuse_other_definitions(&record)?;
        self.bind(record.token.as_ref(), description).await?;
        if self.processor.pipelines().iter().any(Pipeline::settles) {
            // Of a run that an earlier definition has finished nobody has looked.
            self.check_images(description)?;
        }
        self.settle().await?;
        register.finish(&record, false).await?;
        // Of a run of other pipelines too, they may be the ones who look after the segments.
        if let Ok(rows) = self.segment_rows(register, &record) {
            rows.remove_all(&record).await;
        }
        Err(BootstrapError::AlreadyFinished {
            pipeline,
            source_name: self.source.name().to_owned(),
            record: Box::new(record),
        })
    }

    /// Takes up the run there is or begins one: its record, and whether it was there before.
    async fn enter(
        &self,
        register: &mut Register<'_>,
        description: &Description,
        stop: &Stop<'_>,
    ) -> Result<(RunRecord, bool), BootstrapError> {
        let wanted = self.wanted();
        let mut lost = 0;
        loop {
            let now = self.retry.clock().now();
            let earlier = register.unfinished(&Terms {
                wanted: &wanted,
                settings: &description.settings,
                now: (!self.live_is_running).then_some(now),
            })?;
            let rerun = earlier.is_some();
            let record = match earlier {
                Some(record) => record,
                None => self.begin(register, description).await?,
            };
            self.show_token(&record, stop).await?;
            self.bind(record.token.as_ref(), description).await?;
            // The token has to be safe before the first page is read.
            match register.save(&record).await? {
                None => return Ok((record, rerun)),
                // Another worker was first with the record: this one goes on under it. Each
                // pipeline's record can be lost once.
                Some(_) if self.worker.is_some() && lost < self.processor.pipelines().len() => {
                    lost += 1;
                    register.reload_all().await?;
                    self.refuse_finished(register, description).await?;
                }
                Some(pipeline) => return Err(register.begun_elsewhere(&pipeline)),
            }
        }
    }

    /// The record of a new run.
    async fn begin(
        &self,
        register: &Register<'_>,
        description: &Description,
    ) -> Result<RunRecord, BootstrapError> {
        // Taken first: in doubt a run is thought older than it is.
        let captured_at = self.retry.clock().now();
        let token = self.asked(|| self.source.capture_handoff()).await?;
        let run = match &self.worker {
            Some(worker) => worker.run.clone(),
            None => self.tokens.text().map_err(OptionError::from)?,
        };
        Ok(RunRecord {
            run,
            pipelines: register.pipelines(),
            settings: description.settings.clone(),
            segments: self.source.segments(),
            captured_at,
            token,
            finished_at: None,
        })
    }

    /// Asks whoever wants to see the token whether the run may go on with it.
    async fn show_token(&self, record: &RunRecord, stop: &Stop<'_>) -> Result<(), BootstrapError> {
        let Some(check) = &self.on_token else {
            return Ok(());
        };
        let source_name = self.source.name();
        let token = record.token.clone().ok_or_else(|| {
            let reason = format!(
                "`{source_name}` has no stream, so there is no token to look at; switch one on, or leave this out"
            );
            OptionError::new("on_token", reason)
        })?;
        let ask = || {
            let answer = check(token.clone());
            async { answer.await.map_err(Checked) }
        };
        let again = |error: &Checked| {
            tracing::debug!(source = source_name, error = %Causes(error), "the token is shown again");
        };
        let asked = self.retry.run(Deadline::NONE, again, ask);
        match select(pin!(asked), stop.clone()).await {
            Either::Left((answer, _)) => {
                answer.map_err(|Checked(source)| BootstrapError::TokenRefused {
                    source_name: source_name.to_owned(),
                    run: record.run.clone(),
                    source,
                })
            }
            Either::Right(_) => Err(BootstrapError::Stopped {
                source_name: source_name.to_owned(),
            }),
        }
    }

    /// Sees that the pipelines' state is theirs, and follows from the stream of `token`.
    async fn bind(
        &self,
        token: Option<&HandoffToken>,
        description: &Description,
    ) -> Result<(), BootstrapError> {
        let theirs = token.map(|token| token.stream_arn.as_str());
        if let (Some(theirs), Some(ours)) = (theirs, &description.stream)
            && theirs != ours.arn
        {
            return Err(BootstrapError::OtherStream {
                source_name: self.source.name().to_owned(),
                theirs: theirs.to_owned(),
                ours: ours.arn.clone(),
            });
        }
        let bound = self.processor.bind(theirs, Deadline::NONE).await;
        bound.map_err(|error| BootstrapError::State {
            source_name: self.source.name().to_owned(),
            source: Box::new(error),
        })
    }

    fn segment_rows(
        &self,
        register: &Register<'_>,
        record: &RunRecord,
    ) -> Result<SegmentRows<'_>, BootstrapError> {
        let first = register.first_place(record);
        let (pipeline, place) = first.ok_or_else(|| {
            let names: Vec<_> = record.pipelines.keys().cloned().collect();
            OptionError::new(
                "pipelines",
                format!("the run is of others: {}", names.join(", ")),
            )
        })?;
        Ok(SegmentRows {
            place,
            pipeline,
            source_name: self.source.name(),
            run: record.run.clone(),
            by: self.tokens.text().map_err(OptionError::from)?,
            retry: &self.retry,
        })
    }

    /// The segments of this process.
    fn part(&self) -> Range<u32> {
        match &self.worker {
            Some(worker) => worker.segments.clone(),
            None => 0..self.source.segments(),
        }
    }

    fn known(&self, description: &Description, record: &RunRecord, earlier: &Earlier) -> Known {
        let (part, all) = (self.part(), self.source.segments());
        let share = part.len() as f64 / f64::from(all);
        let lasts = self.live_is_running || record.token.is_none();
        let pipelines = self.processor.pipelines();
        Known {
            rows: description.rows.map(|rows| rows as f64 * share),
            token_from: (!lasts).then_some(record.captured_at),
            ledgers: pipelines.iter().all(Pipeline::keeps_ledger),
            total: earlier.counts,
        }
    }

    /// This process's part is done, but for what it `left` to others: the run is finished if all of
    /// theirs is done, too.
    async fn end(
        &self,
        register: &mut Register<'_>,
        rows: &SegmentRows<'_>,
        record: &mut RunRecord,
        left: &BTreeSet<u32>,
    ) -> Result<Ended, BootstrapError> {
        let (part, all) = (self.part(), self.source.segments());
        let mut taken = None;
        for segment in left {
            if !rows.all_done(*segment..segment.saturating_add(1)).await? {
                taken = Some(*segment);
                break;
            }
        }
        let others_done = taken.is_none()
            && rows.all_done(0..part.start).await?
            && rows.all_done(part.end..all).await?;
        if !others_done {
            // Whoever was last removes the rows, and with them what there was to see.
            register.reload_all().await?;
            let finished = register.finished(&self.wanted());
            return match (finished, taken) {
                (Some((_, finished)), _) if finished.run == record.run => {
                    self.settle().await?;
                    Ok(Ended::Finished)
                }
                (_, Some(segment)) => Err(rows.taken(segment)),
                (_, None) => Ok(Ended::OwnPart),
            };
        }
        // First, so that no run is finished without it. Items may settle at any time.
        self.settle().await?;
        record.finished_at = Some(self.retry.clock().now());
        register.finish(record, true).await?;
        rows.remove_all(record).await;
        Ok(Ended::Finished)
    }

    /// Lets items settle where the definition says so.
    async fn settle(&self) -> Result<(), BootstrapError> {
        let settled = self.processor.settle(Deadline::NONE).await;
        settled.map_err(|error| BootstrapError::NotSettling {
            source_name: self.source.name().to_owned(),
            source: Box::new(error),
        })
    }

    /// Asks the source something that is not a page.
    async fn asked<A, Fut>(
        &self,
        operation: impl FnMut() -> Fut + Send,
    ) -> Result<A, BootstrapError>
    where
        A: Send,
        Fut: Future<Output = Result<A, SourceError>> + Send,
    {
        let (name, recorder) = (self.source.name(), &**self.processor.recorder());
        let answer = retried(&self.retry, recorder, name, Deadline::NONE, operation);
        answer.await.map_err(|source| BootstrapError::Source {
            source_name: name.to_owned(),
            source,
        })
    }
}
