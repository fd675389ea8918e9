//! One run: lists the shards from time to time, and has every one worked on that can be.

use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::Event;
use aws_lambda_events::streams::DynamoDbEventResponse;
use futures::future::{self, BoxFuture, Either};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use murmur_state::{Causes, Deadline, EventHandler};

use crate::description::StreamDescription;
use crate::error::StreamError;
use crate::source::StreamSource;
use crate::trigger::engine::{Engine, Until, Watch, yield_now};
use crate::trigger::error::TriggerError;
use crate::trigger::lineage::{Left, Lineage};
use crate::trigger::positions::Beginning;

/// How often new shards and the leases of others are looked for.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(10);

/// How often, after a shard has ended, the shards are listed until a child of it is there. Each
/// shard of an enabled stream that ends has one, but not at once on every list.
const CHILD_LISTINGS: u32 = 10;

/// What a run waits for.
enum Step {
    /// What the stream lists, and how reading it was begun; `None` if the run was stopped.
    Listed(Result<Option<(StreamDescription, Arc<Beginning>)>, TriggerError>),
    Left(Arc<str>, Result<Left, TriggerError>),
    Forgot(Result<(), TriggerError>),
}

pub(crate) struct Run<'e, 'w, S, H> {
    engine: &'e Engine<S, H>,
    watch: &'e Watch<'w>,
    lineage: Lineage,
    steps: FuturesUnordered<BoxFuture<'e, Step>>,
    listing: bool,
    /// When the shards were last asked for, in monotonic time.
    asked_at: Duration,
    /// When to list again: by wall time as well, since a machine that was suspended knows of shards
    /// that are long gone.
    list_at: Deadline,
    /// Whether no shard has ended since the shards were listed, and none lacks its children.
    up_to_date: bool,
    /// How often the shards were listed, since one has ended, without the children of all that
    /// have.
    without_child: u32,
    error: Option<TriggerError>,
}

impl<'e, 'w, S, H> Run<'e, 'w, S, H>
where
    S: StreamSource,
    H: EventHandler<Event, Answer = DynamoDbEventResponse>,
{
    pub(crate) fn new(engine: &'e Engine<S, H>, watch: &'e Watch<'w>) -> Self {
        Self {
            engine,
            watch,
            lineage: Lineage::default(),
            steps: FuturesUnordered::new(),
            listing: false,
            asked_at: Duration::ZERO,
            list_at: Deadline::within(&*engine.options.clock, Duration::ZERO),
            up_to_date: false,
            without_child: 0,
            error: None,
        }
    }

    /// Runs until it is stopped, drained, or fails. `beginning` is kept for later runs.
    pub(crate) async fn finish(
        mut self,
        beginning: &mut Option<Arc<Beginning>>,
    ) -> Result<(), TriggerError> {
        loop {
            let stopping = self.watch.is_stopping();
            if !stopping {
                self.list_when_due(beginning.as_ref());
                // Not by what was listed once, while it is listed again.
                if let Some(beginning) = beginning.as_ref()
                    && !self.listing
                {
                    self.start_shards(beginning);
                }
            }
            if self.steps.is_empty() && (stopping || self.is_over()) {
                return self.error.map_or(Ok(()), Err);
            }
            match self.next_step().await {
                Some(Step::Listed(Ok(Some((listed, begun))))) => {
                    self.listed(&listed, &begun);
                    *beginning = Some(begun);
                }
                Some(Step::Listed(Ok(None))) => self.listing = false,
                Some(Step::Listed(Err(error)) | Step::Forgot(Err(error))) => self.fail(error),
                Some(Step::Left(shard, left)) => self.left(&shard, left),
                Some(Step::Forgot(Ok(()))) | None => {}
            }
            yield_now().await;
        }
    }

    fn list_when_due(&mut self, beginning: Option<&Arc<Beginning>>) {
        let is_due = self.list_at.passed(&*self.engine.options.clock);
        let drained = self.watch.until == Until::Drained && self.up_to_date;
        if self.listing || !is_due || drained && self.lineage.is_drained() {
            return;
        }
        (self.listing, self.asked_at) = (true, self.engine.options.clock.monotonic());
        let (engine, watch, known) = (self.engine, self.watch, beginning.cloned());
        let list = async move { Step::Listed(engine.list(watch, known).await) };
        self.steps.push(list.boxed());
    }

    fn start_shards(&mut self, beginning: &Arc<Beginning>) {
        let most = self.engine.options.maximum_shards;
        let room = most.saturating_sub(self.lineage.working());
        let (tasks, waiting) = self.lineage.start(room);
        self.engine.monitor.waiting(waiting);
        for task in tasks {
            let (engine, watch, shard) = (self.engine, self.watch, Arc::clone(&task.shard));
            let beginning = Arc::clone(beginning);
            let work = async move {
                let left = engine.work(task, &beginning, watch).await;
                Step::Left(shard, left)
            };
            self.steps.push(work.boxed());
        }
    }

    /// The next thing that happens; `None` if it is time to look again.
    async fn next_step(&mut self) -> Option<Step> {
        let clock = &self.engine.options.clock;
        let timer = match self.listing || self.watch.is_stopping() {
            true => future::pending().boxed(),
            false => clock.sleep(self.list_at.remaining(&**clock).unwrap_or_default()),
        };
        let stop = match self.watch.is_stopping() {
            true => future::pending().left_future(),
            false => self.watch.stop().right_future(),
        };
        let other = future::select(timer, stop);
        if self.steps.is_empty() {
            other.await;
            return None;
        }
        match future::select(self.steps.next(), other).await {
            Either::Left((step, _)) => step,
            Either::Right(_) => None,
        }
    }

    fn listed(&mut self, listed: &StreamDescription, beginning: &Beginning) {
        let engine = self.engine;
        self.listing = false;
        for shard in self
            .lineage
            .update(listed, beginning, |id| engine.monitor.reads(id))
        {
            let forget = async move {
                let forget = || engine.positions.forget(&shard);
                Step::Forgot(engine.persistently(forget).await)
            };
            self.steps.push(forget.boxed());
        }
        self.lineage.look_again();
        let ids = listed.ids();
        engine.kept.retain(|id| ids.contains(id));
        self.up_to_date = !self.awaits_children(listed);
        let idle = self.lineage.working() == 0 && self.lineage.is_done();
        let clock = &*engine.options.clock;
        let pause = match idle || !self.up_to_date {
            true => engine.options.poll_interval.min(DISCOVERY_INTERVAL),
            // A list of many pages is asked for no more than half of the time: the calls are
            // shared by all who read streams in the account.
            false => DISCOVERY_INTERVAL.max(clock.monotonic().saturating_sub(self.asked_at)),
        };
        self.list_at = Deadline::within(clock, pause);
        engine.monitor.gauge_lag();
        if idle
            && self.watch.until == Until::ShutDown
            && let Err(error) = listed.ensure_enabled()
        {
            self.fail(error.into());
        }
        if self.lineage.is_stuck() {
            let arn = &listed.info.stream_arn;
            self.fail(StreamError::unexpected(arn, "its shards wait for each other").into());
        }
    }

    /// Whether to list again for the children of a shard that has ended. A stream that is switched
    /// off ends its shards without any.
    fn awaits_children(&mut self, listed: &StreamDescription) -> bool {
        if !(listed.info.is_enabled() && self.lineage.awaits_children()) {
            return false;
        }
        self.without_child = self.without_child.saturating_add(1);
        if self.without_child == CHILD_LISTINGS {
            tracing::warn!(
                stream = listed.info.stream_arn,
                "a shard has ended, and no child of it is listed although the stream is enabled"
            );
        }
        self.without_child < CHILD_LISTINGS
    }

    fn left(&mut self, shard: &str, left: Result<Left, TriggerError>) {
        let left = left.unwrap_or_else(|error| {
            self.fail(error);
            Left::Interrupted
        });
        let child_begins = self.lineage.left(shard, left);
        if left == Left::Ended {
            (self.up_to_date, self.without_child) = (false, 0);
            if !child_begins {
                // Its children are not listed yet, or it has none.
                self.list_at = Deadline::within(&*self.engine.options.clock, Duration::ZERO);
            }
        }
    }

    fn is_over(&self) -> bool {
        self.watch.until == Until::Drained && self.up_to_date && self.lineage.is_drained()
    }

    /// Stops the run; the first error is the one that is returned.
    fn fail(&mut self, error: TriggerError) {
        self.watch.halt();
        if self.error.is_none() {
            self.error = Some(error);
        } else {
            tracing::error!(error = %Causes(&error), "the run failed once more");
        }
    }
}

impl<S: StreamSource, H: Sync> Engine<S, H> {
    /// What the stream lists now, and how reading it was begun.
    async fn list(
        &self,
        watch: &Watch<'_>,
        known: Option<Arc<Beginning>>,
    ) -> Result<Option<(StreamDescription, Arc<Beginning>)>, TriggerError> {
        let describe = self.persistently(|| self.source.describe());
        let Some(listed) = self.unless_stopped(watch, describe).await? else {
            return Ok(None);
        };
        if let Some(known) = known {
            return Ok(Some((listed, known)));
        }
        let begin = || {
            let (position, token) = (self.options.starting_position, &self.options.handoff);
            self.positions.begin(&listed, position, token.as_ref())
        };
        let begun = self.unless_stopped(watch, self.persistently(begin)).await?;
        Ok(begun.map(|beginning| (listed, Arc::new(beginning))))
    }
}
