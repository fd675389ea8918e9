use std::fmt;
use std::future::{Future, pending};
use std::sync::Arc;

use murmur_core::{BoxError, Decoder, Pipeline, Processor, ProcessorBuilder, Rejected};
use murmur_state::{Causes, Checkpoints, Clock, OptionError, Random, Recorder, Retry, RetryPolicy};
use serde::de::DeserializeOwned;

use crate::error::BootstrapError;
use crate::register::Register;
use crate::rejections::{RejectFn, Rejections};
use crate::report::{Progress, Report};
use crate::run_record::RunRecord;
use crate::scan::{Parts, ProgressFn, retried, scan};
use crate::source::Source;

/// Segments read at a time unless told otherwise.
const CONCURRENCY: usize = 8;

/// Rejected rows listed in the report unless told otherwise.
const MAX_LISTED: usize = 100;

/// Fills the state of pipelines from a snapshot, once.
///
/// Every page goes through the same [`Processor`] as live changes, with the pipelines' own
/// delivery modes.
///
/// # Runs
///
/// Where live begins (the handoff token) is captured before the first page and saved beside the
/// run's record, one [`RunRecord`] per pipeline, in that pipeline's marker table or in
/// [`checkpoints`](Bootstrap::checkpoints). The records decide whether a run may begin:
///
/// | records found | without [`again`](Bootstrap::again) |
/// |---|---|
/// | none | a new run |
/// | any finished | refused |
/// | unfinished, of exactly these pipelines, under 24 h old | the same run again, from the start of the scan, with the token of its first attempt; refused if any pipeline counts repeats |
/// | unfinished, older | refused: a stream keeps 24 h |
/// | unfinished, of other pipelines | refused |
///
/// A run of several pipelines begins for all of them or for none, and stays one run: the record
/// names them all, so that a start or an end that was interrupted between two records is
/// completed, never guessed at.
///
/// Of two that begin at once, one is refused. Do not begin a run again while it is under way
/// elsewhere: under exactly-once it is wasted work, but claim-first can lose a row at which the
/// other fails.
///
/// # Rows
///
/// A row that can never count (undecodable, with an unusable key, out of range) is counted,
/// traced, handed to [`on_rejected`](Bootstrap::on_rejected), listed in the report and passed
/// over. A row that fails for any other reason, after the retries, fails the run, which stays
/// unfinished.
#[must_use = "nothing is read before `run`"]
pub struct Bootstrap<T, S> {
    processor: ProcessorBuilder<T>,
    source: S,
    policy: RetryPolicy,
    random: Random,
    callback: Option<Box<RejectFn>>,
    progress: Box<ProgressFn>,
    place: Option<Arc<dyn Checkpoints>>,
    concurrency: usize,
    max_listed: usize,
    again: bool,
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
        let random = Random::new();
        let processor = ProcessorBuilder::with_decoder(pipelines, decoder);
        Self {
            processor: processor.random(random.clone()),
            source,
            policy: RetryPolicy::default(),
            random,
            callback: None,
            progress: Box::new(|_| ()),
            place: None,
            concurrency: CONCURRENCY,
            max_listed: MAX_LISTED,
            again: false,
        }
    }

    /// How often and how long a failed read or write is tried again; the budget is that of one
    /// page. Default: [`RetryPolicy::default`], 60 s a page.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self.processor = self.processor.retry(policy);
        self
    }

    /// Where counts and errors go: those of the pipelines, and `<source>:retry` for reads that
    /// are tried again. Default: nowhere.
    pub fn recorder(mut self, recorder: impl Recorder) -> Self {
        self.processor = self.processor.recorder(recorder);
        self
    }

    /// Where time comes from. Default: the machine's clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.processor = self.processor.clock(clock);
        self
    }

    /// Where jitter, owners and the run's id come from. Default: seeded by the system.
    pub fn random(mut self, random: Random) -> Self {
        self.random = random.clone();
        self.processor = self.processor.random(random);
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
        self.progress = Box::new(progress);
        self
    }

    /// How many segments are read at a time; at least 1. Each has one page in memory, and writes
    /// that page's sums: more is faster until the tables' capacity or this task's CPU is used
    /// up. Default 8, or as many segments as the source has.
    pub fn concurrency(mut self, segments: usize) -> Self {
        self.concurrency = segments;
        self
    }

    /// Keeps the records of the run here instead of in each pipeline's marker table. Needed by
    /// at-least-once pipelines, which have none. Must be the same place in every run. Default:
    /// each pipeline's marker table, one row per pipeline and source.
    pub fn checkpoints(mut self, place: impl Checkpoints) -> Self {
        self.place = Some(Arc::new(place));
        self
    }

    /// How many rejected rows the report lists; each costs its id and reason in memory.
    /// Default 100.
    pub fn max_listed(mut self, rows: usize) -> Self {
        self.max_listed = rows;
        self
    }

    /// Begins a new run, with a new token, whatever runs there were.
    ///
    /// What earlier runs left in the state stays there: rows they counted are counted again, or,
    /// where the markers still know them, taken for duplicates although the state may be new. So
    /// make the state tables *and* the marker tables anew first. Default: a finished or outdated
    /// run is refused.
    pub fn again(mut self) -> Self {
        self.again = true;
        self
    }

    /// Reads the source to its end and counts every row.
    ///
    /// # Errors
    ///
    /// [`BootstrapError`]: the run may not begin (nothing was read or written then), the source
    /// or a row failed, or the record could not be saved. After a failure the run can be run
    /// again within 24 hours of its first attempt.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: pages under way may be half written, and claims may be held. Use
    /// [`run_until`](Bootstrap::run_until) to stop it.
    pub async fn run(self) -> Result<Report, BootstrapError> {
        self.run_until(pending()).await
    }

    /// As [`run`](Bootstrap::run), until `shutdown` completes: then the rows under way are
    /// finished and the report says that it was stopped. The run stays unfinished.
    ///
    /// # Errors
    ///
    /// As [`run`](Bootstrap::run).
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe, as [`run`](Bootstrap::run); `shutdown` is there for that.
    pub async fn run_until(
        self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<Report, BootstrapError> {
        let Self {
            processor,
            source,
            policy,
            random,
            callback,
            progress,
            place,
            concurrency,
            max_listed,
            again,
        } = self;
        let rejections = Arc::new(Rejections::new(callback, max_listed));
        let taker = Arc::clone(&rejections);
        let processor = processor
            .on_rejected(move |rejected| {
                let taker = Arc::clone(&taker);
                async move { taker.take(rejected).await }
            })
            .build()?;
        let retry = Retry::new(policy, Arc::clone(processor.clock()), random.clone());
        let run = Run {
            processor,
            source,
            retry,
            random,
            rejections,
            progress,
            place,
            concurrency,
            again,
        };
        let result = run.to_end(shutdown).await;
        if let Err(error) = run.source.close().await {
            tracing::warn!(source = run.source.name(), error = %Causes(&error), "not closed");
        }
        result
    }
}

/// A bootstrap with its options settled.
struct Run<T, S> {
    processor: Processor<T>,
    source: S,
    retry: Retry,
    random: Random,
    rejections: Arc<Rejections>,
    progress: Box<ProgressFn>,
    place: Option<Arc<dyn Checkpoints>>,
    concurrency: usize,
    again: bool,
}

impl<T: Send + Sync + 'static, S: Source> Run<T, S> {
    async fn to_end(
        &self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<Report, BootstrapError> {
        self.check()?;
        let (source, pipelines) = (self.source.name(), self.processor.pipelines());
        let mut register =
            Register::load(source, &self.retry, pipelines, self.place.as_ref()).await?;
        let earlier = if self.again {
            None
        } else {
            register.unfinished(self.retry.clock().now()).await?
        };
        let rerun = earlier.is_some();
        let mut record = match earlier {
            Some(record) => record,
            None => self.begin(register.pipelines()).await?,
        };
        // The token has to be safe before the first page is read.
        register.save(&record).await?;
        tracing::info!(source, run = record.run, rerun, "bootstrap started");
        (self.progress)(&Progress::Started {
            run: &record.run,
            rerun,
            token: record.token.as_ref(),
            segments: self.source.segments(),
        });

        let parts = Parts {
            source: &self.source,
            processor: &self.processor,
            retry: &self.retry,
            progress: &*self.progress,
        };
        let scanned = scan(parts, self.concurrency, shutdown).await?;
        if scanned.complete {
            record.finished_at = Some(self.retry.clock().now());
            register.finish(&record, true).await?;
        }
        let report = Report {
            run: record.run,
            rerun,
            stopped: !scanned.complete,
            token: record.token,
            counts: scanned.counts,
            rejected: self.rejections.listed(),
        };
        let (run, rows) = (&report.run, report.counts.rows);
        tracing::info!(
            source,
            run,
            rows,
            stopped = report.stopped,
            "bootstrap ended"
        );
        (self.progress)(&match report.stopped {
            false => Progress::Finished { report: &report },
            true => Progress::Stopped { report: &report },
        });
        Ok(report)
    }

    fn check(&self) -> Result<(), BootstrapError> {
        if self.concurrency == 0 {
            return Err(OptionError::new("concurrency", "must be at least 1").into());
        }
        if self.source.segments() == 0 {
            let reason = format!("source `{}` has none; at least 1", self.source.name());
            return Err(OptionError::new("segments", reason).into());
        }
        let mut pipelines = self.processor.pipelines().iter();
        match pipelines.find(|pipeline| pipeline.windows_by_arrival()) {
            None => Ok(()),
            Some(pipeline) => Err(BootstrapError::WindowsByArrival {
                pipeline: pipeline.name().clone(),
            }),
        }
    }

    /// The record of a new run.
    async fn begin(&self, pipelines: Vec<String>) -> Result<RunRecord, BootstrapError> {
        let source = self.source.name();
        // Taken first: in doubt a run is thought older than it is.
        let captured_at = self.retry.clock().now();
        let recorder = &**self.processor.recorder();
        let token = retried(&self.retry, recorder, source, || {
            self.source.capture_handoff()
        })
        .await
        .map_err(|error| BootstrapError::Source {
            source_name: source.to_owned(),
            source: error,
        })?;
        Ok(RunRecord {
            run: format!("{:032x}", self.random.bits()),
            pipelines,
            captured_at,
            token,
            finished_at: None,
        })
    }
}

impl<T, S: Source> fmt::Debug for Bootstrap<T, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bootstrap")
            .field("source", &self.source.name())
            .field("processor", &self.processor)
            .field("concurrency", &self.concurrency)
            .field("again", &self.again)
            .finish_non_exhaustive()
    }
}
