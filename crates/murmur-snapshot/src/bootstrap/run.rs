//! A bootstrap, from its refusals to its report.

use std::collections::BTreeSet;
use std::fmt;
use std::future::{Future, pending};
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{Either, select};
use murmur_core::{Pipeline, Processor};
use murmur_state::retry::Retry;
use murmur_state::{Causes, Checkpoints, Deadline, HandoffToken, OptionError, Repeats};

use super::counts::Counts;
use super::error::BootstrapError;
use super::fit::{check_images, check_source};
use super::progress::{Progress, ProgressFn};
use super::proof::Proof;
use super::register::{Register, Terms, Wanted};
use super::rejections::Rejections;
use super::report::{Earlier, Ended, Report};
use super::scan::{Parts, State, Stop, scan};
use super::segment_row::{At, SegmentRows};
use super::segments::Segments;
use super::token_check::{TokenFn, check_token};
use super::watch::{ScanFacts, Watch};
use crate::budget::{ReadBudget, ReadPacer};
use crate::error::SourceError;
use crate::retried::retried;
use crate::run_record::RunRecord;
use crate::source::{Description, Source};

/// The part of a run that this process does.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) run: String,
    pub(crate) segments: Range<u32>,
}

/// The run that a bootstrap takes part in.
enum Entered {
    /// A run that goes on or begins.
    Run {
        record: RunRecord,
        /// Whether it was begun before.
        rerun: bool,
    },
    FinishedBefore(Report),
}

/// Fills the state of pipelines from a snapshot, once.
///
/// Every page goes through the same [`Processor`] as stream records, with the delivery mode of each
/// pipeline. Transient failures of reads, writes and checkpoints are retried by
/// [`RetryPolicy::patient`](murmur_state::RetryPolicy::patient), for 30 minutes, unless the
/// processor has another policy. After that the run fails with [`GaveUp`](BootstrapError::GaveUp).
/// An outage is reported while it lasts ([`Progress::Outage`]).
///
/// In addition to the pipelines' own counts, the processor's recorder gets `<source>:retry` for
/// reads that are retried. After each page it gets the gauges `<source>:rows`, `:read_units`,
/// `:share_done_percent` and `:seconds_left`, the figures of [`Progress::Page`].
///
/// # Runs
///
/// The handoff token says where the stream consumer has to begin. It is captured before the first
/// page and saved with the run's record: one [`RunRecord`] per pipeline, in that pipeline's marker
/// table or in [`checkpoints`](crate::bootstrap::BootstrapBuilder::checkpoints). The records decide whether a
/// run may begin:
///
/// | records found | without [`restart`](crate::bootstrap::BootstrapBuilder::restart) |
/// |---|---|
/// | none | a new run |
/// | finished, of one run, for all of these pipelines | nothing is read; the report has the run's token and says [`Ended::FinishedBefore`] |
/// | finished, for some of these pipelines only | refused |
/// | unfinished, of exactly these pipelines and this source, under 22 h 30 min old | the same run goes on, with the token of its first attempt; refused if any pipeline counts repeats |
/// | unfinished, older | refused without [`live_is_running`](crate::bootstrap::BootstrapBuilder::live_is_running): a stream keeps 24 h, and each of two clocks may be 45 min off |
/// | unfinished, of other pipelines, definitions or source settings | refused |
///
/// A run of several pipelines begins for all of them or for none, and stays one run. Each record
/// names all of them, so a start or an end that was interrupted between two records is completed by
/// the next attempt.
///
/// # Going on
///
/// Each segment has a checkpoint, kept with the record of the first pipeline (by name). It is saved
/// whenever a page and all pages before it in its segment are done. A run that was stopped, failed
/// or was killed goes on from its checkpoints: pages before them are not read again, and rows that
/// were counted after them are recognised. [`Report::earlier`] says how much was skipped.
///
/// If two processes work on one segment, the later one to save is refused. It leaves the segment to
/// the other process, goes on with its other segments, and at its end fails with
/// [`SegmentTaken`](BootstrapError::SegmentTaken) unless the other process has finished the
/// segment. So a process that seemed dead does not go on beside its replacement, and of any number
/// of processes at least one finishes. Of two processes that begin a run at the same moment, one is
/// refused. Do not start a run again while it is running elsewhere: with exactly-once and ledgers
/// it wastes work, and claim-first can lose a row at which the other process fails.
///
/// When the run is finished, the checkpoints of its segments are removed.
///
/// # Items that settle
///
/// If a definition says [`settle`](murmur_core::Definition::settle), its items settle from the end
/// of the run on, each by its first change after that. A note beside the state says so. It is
/// written before the run is recorded as finished, once for all workers. A call that finds the run
/// finished writes the note again, which costs one write for each pipeline. If `settle` was added
/// to a definition after its bootstrap, use [`Settle`](crate::Settle). A stream without old images
/// is refused.
///
/// # Rows
///
/// A row that can never count (undecodable, with an unusable key, out of range) is counted as
/// rejected, traced, listed in the report and passed over. If the processor has an
/// [`on_rejected`](murmur_core::ProcessorBuilder::on_rejected) callback, it receives the row; its
/// `Err` fails the run. A row can be received again when the run is run again. A source of which
/// every row is rejected fails the run
/// ([`accept_all_rejected`](crate::bootstrap::BootstrapBuilder::accept_all_rejected)).
///
/// A row that fails for any other reason, after the
/// [retries](murmur_core::ProcessorBuilder::retry), fails the run, which stays unfinished. A page
/// that is not written within an hour of being requested is read again; if a pipeline counts
/// repeats, it fails the run instead. A claim that could not be released also fails the run.
#[must_use = "nothing is read before `run`"]
pub struct Bootstrap<T, S> {
    pub(super) processor: Processor<T>,
    pub(super) source: S,
    pub(super) rejections: Arc<Rejections>,
    pub(super) progress: Arc<ProgressFn>,
    pub(super) place: Option<Arc<dyn Checkpoints>>,
    pub(super) concurrency: usize,
    pub(super) max_listed: usize,
    pub(super) budget: ReadBudget,
    pub(super) on_token: Option<Box<TokenFn>>,
    pub(super) worker: Option<Worker>,
    pub(super) live_is_running: bool,
    pub(super) accept_all_rejected: bool,
    pub(super) restart: bool,
}

impl<T: Send + Sync + 'static, S: Source> Bootstrap<T, S> {
    /// Reads the source to its end and counts every row.
    ///
    /// # Errors
    ///
    /// [`BootstrapError`]: the run may not begin (nothing was read or written), the source or a row
    /// failed, or the run's record or a checkpoint could not be saved. After a failure the run can
    /// be run again, within 22 h 30 min of its first attempt.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe. Dropping the future is like killing the process: the run can be run again,
    /// and goes on from its checkpoints, but pages may be half written and claims may be held, so
    /// claim-first can lose rows. Use [`run_until`](Self::run_until) to stop a run.
    pub async fn run(self) -> Result<Report, BootstrapError> {
        self.run_until(pending()).await
    }

    /// As [`run`](Self::run), until `shutdown` completes. Then the pages being written are
    /// finished, failures are retried for at most two more seconds, and the report says that the
    /// run was stopped. The run stays unfinished.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run), and [`Stopped`](BootstrapError::Stopped) if it was stopped before it
    /// had a run to report.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Self::run); use `shutdown` instead of dropping the future.
    pub async fn run_until(
        self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<Report, BootstrapError> {
        let stop = shutdown.boxed().shared();
        let result = {
            let attempt = pin!(self.attempt(stop.clone()));
            match select(attempt, stop.clone()).await {
                Either::Left((result, _)) => result,
                Either::Right(((), attempt)) => {
                    self.retry().stop();
                    attempt.await
                }
            }
        };
        let result = result.map_err(|error| match self.retry().gave_up_after() {
            _ if !error.is_retryable() => error,
            _ if stop.now_or_never().is_some() => {
                tracing::debug!(error = %Causes(&error), "failed after the stop");
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
            tracing::warn!(source = self.source.name(), error = %Causes(&error), "the source was not closed");
        }
        result
    }

    async fn attempt(&self, stop: Stop<'_>) -> Result<Report, BootstrapError> {
        let name = self.source.name();
        let pipelines = self.processor.pipelines();
        let mut register =
            Register::load(name, self.retry(), pipelines, self.place.as_ref()).await?;
        let description = self.asked(|| self.source.describe()).await?;
        if let Some(report) = self.finished_before(&mut register, &description).await? {
            return Ok(report);
        }
        check_source(pipelines, name, &description)?;
        let pace = ReadPacer::new(self.budget, name, &description)?;
        let (mut record, rerun) = match self.enter(&mut register, &description, &stop).await? {
            Entered::Run { record, rerun } => (record, rerun),
            Entered::FinishedBefore(report) => return Ok(report),
        };

        let rows = self.segment_rows(&register, &record)?;
        let part = self.part();
        // A run that was begun just now has no checkpoints.
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

        let clock = &**self.retry().clock();
        let facts = self.facts(&description, &record, &earlier);
        let mut state = State {
            watch: Watch::new(facts, segments.done(), segments.of(), clock),
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
            retry: self.retry(),
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
            _ => Progress::Finished { report: &report },
        });
        Ok(report)
    }

    fn retry(&self) -> &Retry {
        self.processor.retry()
    }

    fn wanted(&self) -> Wanted<'_> {
        Wanted {
            run: self.worker.as_ref().map(|worker| worker.run.as_str()),
            restart: self.restart,
        }
    }

    /// The report, if the run was finished before. Completes an interrupted end first. Definitions
    /// and state must be those of the run, because the caller goes on to read the stream.
    async fn finished_before(
        &self,
        register: &mut Register<'_>,
        description: &Description,
    ) -> Result<Option<Report>, BootstrapError> {
        let Some((record, finished_at)) = register.finished(&self.wanted()) else {
            return Ok(None);
        };
        register.refuse_other_definitions(&record)?;
        register.refuse_unfinished(&record)?;
        self.bind(record.token.as_ref(), description).await?;
        if self.processor.pipelines().iter().any(Pipeline::settles) {
            // A run that an earlier definition finished was not checked for images.
            check_images(self.processor.pipelines(), description)?;
        }
        self.settle().await?;
        register.finish(&record).await?;
        // If the run has further pipelines, one of those may keep the segments.
        if let Ok(rows) = self.segment_rows(register, &record) {
            rows.remove_all(&record).await;
        }
        let (source, run) = (self.source.name(), &record.run);
        tracing::info!(source, run, "bootstrap was finished before");
        let report = Report {
            run: record.run,
            rerun: true,
            ended: Ended::FinishedBefore { finished_at },
            token: record.token,
            earlier: Earlier::default(),
            counts: Counts::default(),
            left: 0,
            rejected: Vec::new(),
        };
        (self.progress)(&Progress::Finished { report: &report });
        Ok(Some(report))
    }

    /// Continues the unfinished run, or begins one.
    async fn enter(
        &self,
        register: &mut Register<'_>,
        description: &Description,
        stop: &Stop<'_>,
    ) -> Result<Entered, BootstrapError> {
        let wanted = self.wanted();
        let mut lost = 0;
        loop {
            let now = self.retry().clock().now();
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
            if let Some(check) = &self.on_token {
                check_token(check, self.source.name(), &record, self.retry(), stop).await?;
            }
            self.bind(record.token.as_ref(), description).await?;
            // The token has to be saved before the first page is read.
            match register.save(&record).await? {
                None => return Ok(Entered::Run { record, rerun }),
                // Another worker saved its record first: this worker goes on with that record. Each
                // pipeline's record can be lost once.
                Some(_) if self.worker.is_some() && lost < self.processor.pipelines().len() => {
                    lost += 1;
                    register.reload_all().await?;
                    if let Some(report) = self.finished_before(register, description).await? {
                        return Ok(Entered::FinishedBefore(report));
                    }
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
        // Taken first, so that a run is never taken for younger than it is.
        let captured_at = self.retry().clock().now();
        let token = self.asked(|| self.source.capture_handoff()).await?;
        let run = match &self.worker {
            Some(worker) => worker.run.clone(),
            None => self.processor.tokens().text().map_err(OptionError::from)?,
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

    /// Checks that the state belongs to the pipelines and follows the stream of `token`.
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
                format!("the run is of other pipelines: {}", names.join(", ")),
            )
        })?;
        Ok(SegmentRows {
            place,
            pipeline,
            source_name: self.source.name(),
            run: record.run.clone(),
            by: self.processor.tokens().text().map_err(OptionError::from)?,
            retry: self.retry(),
        })
    }

    /// The segments of this process.
    fn part(&self) -> Range<u32> {
        match &self.worker {
            Some(worker) => worker.segments.clone(),
            None => 0..self.source.segments(),
        }
    }

    fn facts(&self, description: &Description, record: &RunRecord, earlier: &Earlier) -> ScanFacts {
        let (part, all) = (self.part(), self.source.segments());
        let share = part.len() as f64 / f64::from(all);
        let lasts = self.live_is_running || record.token.is_none();
        let pipelines = self.processor.pipelines();
        ScanFacts {
            rows: description.rows.map(|rows| rows as f64 * share),
            token_from: (!lasts).then_some(record.captured_at),
            ledgers: pipelines.iter().all(Pipeline::keeps_ledger),
            total: earlier.counts,
        }
    }

    /// Ends this process's part, except for the segments it `left` to others. Finishes the run if
    /// all other segments are done too.
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
            // The process that finishes the run removes the rows, so look at the records again.
            register.reload_all().await?;
            let finished = register.finished(&self.wanted());
            return match (finished, taken) {
                (Some((finished, _)), _) if finished.run == record.run => {
                    self.settle().await?;
                    Ok(Ended::Finished)
                }
                (_, Some(segment)) => Err(rows.taken(segment)),
                (_, None) => Ok(Ended::OwnPart),
            };
        }
        // First, so that no run is finished without it. Items may settle at any time after it.
        self.settle().await?;
        record.finished_at = Some(self.retry().clock().now());
        register.finish(record).await?;
        rows.remove_all(record).await;
        Ok(Ended::Finished)
    }

    /// Lets items settle if the definition says so.
    async fn settle(&self) -> Result<(), BootstrapError> {
        let settled = self.processor.settle(Deadline::NONE).await;
        settled.map_err(|error| BootstrapError::NotSettling {
            source_name: self.source.name().to_owned(),
            source: Box::new(error),
        })
    }

    /// Sends a request other than a page to the source.
    async fn asked<A, Fut>(
        &self,
        operation: impl FnMut() -> Fut + Send,
    ) -> Result<A, BootstrapError>
    where
        A: Send,
        Fut: Future<Output = Result<A, SourceError>> + Send,
    {
        let (name, recorder) = (self.source.name(), &**self.processor.recorder());
        let answer = retried(self.retry(), recorder, name, Deadline::NONE, operation);
        Ok(answer.await?)
    }
}

impl<T, S: Source> fmt::Debug for Bootstrap<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bootstrap")
            .field("source", &self.source.name())
            .field("processor", &self.processor)
            .field("concurrency", &self.concurrency)
            .field("worker", &self.worker)
            .field("restart", &self.restart)
            .finish_non_exhaustive()
    }
}
