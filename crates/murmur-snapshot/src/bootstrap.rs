use std::fmt;
use std::future::{Future, pending};
use std::ops::Range;
use std::sync::Arc;

use murmur_core::{BoxError, Decoder, Pipeline, ProcessorBuilder, Rejected};
use murmur_state::{Checkpoints, Clock, HandoffToken, Random, Recorder, RetryPolicy, Tokens};
use serde::de::DeserializeOwned;

use crate::budget::ReadBudget;
use crate::error::BootstrapError;
use crate::rejections::{RejectFn, Rejections};
use crate::report::{Progress, Report};
use crate::run::{Run, TokenFn, Worker};
use crate::scan::ProgressFn;
use crate::source::Source;

/// Pages under way at a time unless told otherwise.
const CONCURRENCY: usize = 8;

/// Rejected rows listed in the report unless told otherwise.
const MAX_LISTED: usize = 100;

/// Fills the state of pipelines from a snapshot, once.
///
/// Every page goes through the same [`Processor`](murmur_core::Processor) as live changes, with
/// the pipelines' own delivery modes.
///
/// # Runs
///
/// Where live begins (the handoff token) is captured before the first page and saved beside the
/// run's record, one [`RunRecord`](crate::RunRecord) per pipeline, in that pipeline's marker table
/// or in [`checkpoints`](Bootstrap::checkpoints). The records decide whether a run may begin:
///
/// | records found | without [`restart`](Bootstrap::restart) |
/// |---|---|
/// | none | a new run |
/// | any finished | refused |
/// | unfinished, of exactly these pipelines and this source, under 22 h 30 min old | the same run goes on, with the token of its first attempt; refused if any pipeline counts repeats |
/// | unfinished, older | refused, but for [`live_is_running`](Bootstrap::live_is_running): a stream keeps 24 h, and of two clocks each may be 45 min off |
/// | unfinished, of other pipelines, definitions or source settings | refused |
///
/// A run of several pipelines begins for all of them or for none, and stays one run: the record
/// names them all, so that a start or an end that was interrupted between two records is
/// completed, never guessed at.
///
/// # Going on
///
/// Each segment has a checkpoint beside the record of the first pipeline (by name), saved
/// whenever a page and all pages before it in its segment are done with. A run that was stopped,
/// failed or was killed goes on from there: what is done is not read again, and what was done
/// after the last checkpoint is recognised. [`Report::earlier`] says how much was skipped.
///
/// Of two processes at one segment the later to save is refused, and leaves the segment to the
/// other; it goes on with those that are its own, and fails at its end
/// ([`SegmentTaken`](BootstrapError::SegmentTaken)) unless the other has done its part by then. So
/// one that was thought dead does not go on beside the one that replaced it, and of any number at
/// one run at least one comes to its end. Of two that begin a run at the same moment, one is
/// refused. Still, do not begin a run again while it is under way elsewhere: under exactly-once and
/// with ledgers it is wasted work, but claim-first can lose a row at which the other fails.
///
/// When the run is finished, the checkpoints of its segments are removed.
///
/// # Items that settle
///
/// Items of pipelines whose definition says [`settle`](murmur_core::Definition::settle) settle from the
/// end of the run on, by their first change after that: this is said beside their state before the run
/// is recorded as finished, once for all workers. A run that is found finished says so, too, before it
/// is refused, which costs a write for each pipeline; for definitions that were given `settle` after
/// their bootstrap, [`Settle`](crate::Settle) is the command. A stream without old images is refused.
///
/// # Rows
///
/// A row that can never count (undecodable, with an unusable key, out of range) is counted,
/// traced, handed to [`on_rejected`](Bootstrap::on_rejected), listed in the report and passed
/// over; a source of nothing else fails the run
/// ([`accept_all_rejected`](Bootstrap::accept_all_rejected)). A row that fails for any other reason,
/// after the [retries](Bootstrap::retry), fails the run, which stays unfinished. A page is written
/// within an hour of being asked for, or read again; where a pipeline counts repeats it fails the run
/// instead, and so does a claim that could not be released.
#[must_use = "nothing is read before `run`"]
pub struct Bootstrap<T, S> {
    processor: ProcessorBuilder<T>,
    source: S,
    tokens: Tokens,
    callback: Option<Box<RejectFn>>,
    progress: Arc<ProgressFn>,
    place: Option<Arc<dyn Checkpoints>>,
    concurrency: usize,
    max_listed: usize,
    budget: ReadBudget,
    on_token: Option<Box<TokenFn>>,
    worker: Option<Worker>,
    live_is_running: bool,
    accept_all_rejected: bool,
    restart: bool,
}

impl<T: Send + Sync + 'static, S: Source> Bootstrap<T, S> {
    /// Fills `pipelines` from `source`, in one scan, decoding each row once by serde.
    pub fn new(pipelines: impl IntoIterator<Item = Pipeline<T>>, source: S) -> Self
    where
        T: DeserializeOwned,
    {
        Self::with_decoder(pipelines, source, Decoder::serde())
    }

    /// Fills `pipelines` from `source`, in one scan, decoding each row once by `decoder`: the
    /// one that also decodes the images of live changes.
    pub fn with_decoder(
        pipelines: impl IntoIterator<Item = Pipeline<T>>,
        source: S,
        decoder: Decoder<T>,
    ) -> Self {
        let processor = ProcessorBuilder::with_decoder(pipelines, decoder);
        Self {
            processor: processor.retry(RetryPolicy::patient()),
            source,
            tokens: Tokens::new(),
            callback: None,
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
        }
    }

    /// How often and how long what fails in passing is tried again: reads of the source, writes,
    /// checkpoints. The budget is the time that one operation may go without success; after that
    /// the run fails with [`GaveUp`](BootstrapError::GaveUp). An outage is told while it lasts
    /// ([`Progress::Outage`]). Default: [`RetryPolicy::patient`], 30 minutes.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.processor = self.processor.retry(policy);
        self
    }

    /// Where counts and errors go: those of the pipelines, and `<source>:retry` for reads that
    /// are tried again. After each page the gauges `<source>:rows`, `:read_units`,
    /// `:share_done_percent` and `:seconds_left` show what [`Progress::Page`] tells. Default:
    /// nowhere.
    pub fn recorder(mut self, recorder: impl Recorder) -> Self {
        self.processor = self.processor.recorder(recorder);
        self
    }

    /// Where time comes from. Default: the machine's clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.processor = self.processor.clock(clock);
        self
    }

    /// Where jitter comes from. Default: seeded by the system.
    pub fn random(mut self, random: Random) -> Self {
        self.processor = self.processor.random(random);
        self
    }

    /// Where owners and the run's id come from, which no two processes may share: only tests should
    /// change it. Default: the operating system, each time.
    pub fn tokens(mut self, tokens: Tokens) -> Self {
        self.tokens = tokens.clone();
        self.processor = self.processor.tokens(tokens);
        self
    }

    /// Takes rows that can never count, before they are passed over. `Err` fails the run. A row
    /// comes again when the run does, and once for each pipeline that rejects it.
    ///
    /// Default: none; such rows are counted, traced and listed in the report.
    pub fn on_rejected<F, Fut>(mut self, callback: F) -> Self
    where
        F: Fn(Rejected) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.callback = Some(Box::new(move |rejected| Box::pin(callback(rejected))));
        self
    }

    /// Hears how the run goes; called between pages, so it should return soon. Default: nobody.
    pub fn on_progress(mut self, progress: impl Fn(&Progress<'_>) + Send + Sync + 'static) -> Self {
        self.progress = Arc::new(progress);
        self
    }

    /// How many pages are under way at a time, being read or being written; at least 1. Each is in
    /// memory: more is faster until the tables' capacity or this task's CPU is used up. The pages
    /// of one segment are read one after the other but written side by side, so segments need
    /// not be more than this. Default 8.
    pub fn concurrency(mut self, pages: usize) -> Self {
        self.concurrency = pages;
        self
    }

    /// How fast the source is read, so that others have their share of the table's capacity.
    /// Writes are not part of it. Default: [`ReadBudget::Unlimited`].
    pub fn read_budget(mut self, budget: ReadBudget) -> Self {
        self.budget = budget;
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
        self.on_token = Some(Box::new(move |token| Box::pin(check(token))));
        self
    }

    /// Reads only these segments, as one of several processes at the run called `run`.
    ///
    /// All workers of a run are given the same id, source settings and pipelines, and ranges that
    /// are disjoint and together hold every segment; they share the pipelines' marker tables (or
    /// [`checkpoints`](Bootstrap::checkpoints)) and nothing else. Whichever comes first captures
    /// the token and begins the run, and whichever finishes the last segment finishes it:
    /// [`Report::ended`] says which one that was. A worker that failed or was killed is run
    /// again like any bootstrap, in whatever place, with the same range or parts of it.
    ///
    /// Another unfinished run is refused, with both ids named;
    /// [`restart`](Bootstrap::restart) begins anew instead, once, whichever worker comes first.
    /// Pipelines that count repeats are refused. Default: all segments, and an id drawn at random.
    pub fn worker(mut self, run: impl Into<String>, segments: Range<u32>) -> Self {
        let run = run.into();
        self.worker = Some(Worker { run, segments });
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
        self.live_is_running = true;
        self
    }

    /// Keeps the records of the run here instead of in each pipeline's marker table. Needed by
    /// at-least-once pipelines, which have none. Must be the same place in every run. Default:
    /// each pipeline's marker table, one row per pipeline and source.
    pub fn checkpoints(mut self, place: impl Checkpoints) -> Self {
        self.place = Some(Arc::new(place));
        self
    }

    /// How many rejected rows the report lists; each costs its id and reason in memory. Of earlier
    /// attempts no more than the first 10 of each segment are known, which are kept in its
    /// checkpoint. Default 100.
    pub fn max_listed(mut self, rows: usize) -> Self {
        self.max_listed = rows;
        self
    }

    /// Takes a source of which every row is rejected for what it is. Without this such a run fails
    /// ([`AllRejected`](BootstrapError::AllRejected)) as soon as 1,000 rows were read and none was
    /// accepted, or at the end of what is there: it is the wrong file, or the wrong decoder. A row
    /// that the decoder skips is accepted; and once the run has accepted any row, any number may be
    /// rejected. Default: not taken.
    pub fn accept_all_rejected(mut self) -> Self {
        self.accept_all_rejected = true;
        self
    }

    /// Begins a new run, with a new token, whatever runs there were.
    ///
    /// This means new, empty state tables *and* marker tables, and consumers that were stopped
    /// meanwhile. Nothing is removed here, and what earlier runs or live left in the old ones
    /// stays: rows they counted are counted again, or, where the markers or the ledger still know
    /// them, taken for counted although the state may be new. Default: a finished or outdated run
    /// is refused.
    pub fn restart(mut self) -> Self {
        self.restart = true;
        self
    }

    /// Reads the source to its end and counts every row.
    ///
    /// # Errors
    ///
    /// [`BootstrapError`]: the run may not begin (nothing was read or written then), the source
    /// or a row failed, or what is kept of the run could not be saved. After a failure the run can
    /// be run again, within 22 h 30 min of its first attempt.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it is as if the process had been killed: it can be run again, and goes on from its
    /// checkpoints; pages under way may be half written, and claims may be held, so claim-first can
    /// lose rows. Use [`run_until`](Bootstrap::run_until) to stop it.
    pub async fn run(self) -> Result<Report, BootstrapError> {
        self.run_until(pending()).await
    }

    /// As [`run`](Bootstrap::run), until `shutdown` completes: then the pages being written are
    /// finished, what fails in passing is tried again for no longer than two seconds, and the report
    /// says that it was stopped. The run stays unfinished.
    ///
    /// # Errors
    ///
    /// As [`run`](Bootstrap::run); [`Stopped`](BootstrapError::Stopped) where it was stopped before
    /// it had a run to report of.
    ///
    /// # Cancel safety
    ///
    /// As [`run`](Bootstrap::run); `shutdown` is there for that.
    pub async fn run_until(
        self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<Report, BootstrapError> {
        let Self {
            processor,
            source,
            tokens,
            callback,
            progress,
            place,
            concurrency,
            max_listed,
            budget,
            on_token,
            worker,
            live_is_running,
            accept_all_rejected,
            restart,
        } = self;
        let rejections = Arc::new(Rejections::new(callback));
        let taker = Arc::clone(&rejections);
        let tell = Arc::clone(&progress);
        let processor = processor
            .on_rejected(move |rejected| {
                let taker = Arc::clone(&taker);
                async move { taker.take(rejected).await }
            })
            .on_outage(move |outage| tell(&Progress::Outage { outage }))
            .build()?;
        let run = Run {
            retry: processor.retry().clone(),
            processor,
            source,
            tokens,
            rejections,
            max_listed,
            progress,
            place,
            concurrency,
            budget,
            on_token,
            worker,
            live_is_running,
            accept_all_rejected,
            restart,
        };
        run.finish(shutdown).await
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
