//! One run: lists the shards repeatedly, and processes each that can be read.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::Event;
use aws_lambda_events::streams::DynamoDbEventResponse;
use futures::channel::oneshot;
use futures::future::{self, BoxFuture, Either};
use futures::stream::{self, FuturesUnordered};
use futures::{FutureExt, StreamExt, TryStreamExt};
use murmur_state::{Causes, Deadline, EventHandler, Timestamp};

use crate::description::StreamDescription;
use crate::error::StreamError;
use crate::source::StreamSource;
use crate::trigger::beginning::Beginning;
use crate::trigger::ending::{Until, Watch, yield_now};
use crate::trigger::engine::{BEGINS, Engine};
use crate::trigger::error::TriggerError;
use crate::trigger::lineage::{Left, Lineage, SeenRow};
use crate::trigger::progress_log::ProgressLog;
use crate::trigger::row::{At, Row};
use crate::trigger::workers::Workers;

/// How often to look for new shards and check the leases of other readers.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(10);

/// How long a list may be used to start shards. After a machine was suspended, its list has shards
/// that are long gone.
const GOOD_FOR: Duration = Duration::from_secs(15 * 60);

/// The longest pause between lists that is due to slow listing.
const MOST_PAUSE: Duration = Duration::from_secs(60);

/// How often, after a shard has ended, the shards are listed until they include a child of it. Each
/// shard of an enabled stream that ends has a child, but not every list has it at once.
const CHILD_LISTINGS: u32 = 10;

/// How long to try, at the end, to tell the other readers.
const LEAVING: Duration = Duration::from_millis(300);

/// What a run waits for.
enum Step {
    /// The stream's list, and how reading it was begun, or `None` if the run was stopped.
    Listed(Result<Option<(StreamDescription, Arc<Beginning>)>, TriggerError>),
    /// The readers that share the shards, if requested, and the content of some rows.
    Looked(Result<Option<Look>, TriggerError>),
    Left(Arc<str>, Result<Left, TriggerError>),
    Forgot(Result<(), TriggerError>),
}

struct Look {
    workers: Option<Workers>,
    rows: Vec<(Arc<str>, SeenRow)>,
}

/// How this reader shares the shards with others, in rounds.
struct Sharing {
    /// What the current round has seen so far.
    round: Option<HashMap<Arc<str>, SeenRow>>,
    /// When to start the next round, in monotonic time, or `None` before the shards are listed.
    next: Option<Duration>,
    workers: Workers,
    /// How many shards this reader may have.
    most: usize,
    /// Whether it had more than its share in the last round.
    had_more: bool,
}

pub(crate) struct TriggerRun<'e, 'w, S, H> {
    engine: &'e Engine<S, H>,
    watch: &'e Watch<'w>,
    lineage: Lineage,
    /// When the run started, by the wall clock.
    began: Timestamp,
    steps: FuturesUnordered<BoxFuture<'e, Step>>,
    listing: bool,
    /// `None` if no other reader can see the positions, or the run only reads what is there.
    share: Option<Sharing>,
    /// Tells shards that are read here to leave.
    releases: BTreeMap<Arc<str>, oneshot::Sender<()>>,
    /// When the shards were last requested, in monotonic time, and how long that took.
    asked_at: Duration,
    listing_took: Duration,
    /// Until when the last list may be used to start shards.
    good_until: Deadline,
    /// When to list again. It includes wall time, because after a machine was suspended its list
    /// has shards that are long gone.
    list_at: Deadline,
    /// Whether no shard has ended since the shards were listed, and none lacks its children.
    up_to_date: bool,
    /// How often, since a shard ended, the shards were listed without the children of all that have
    /// ended.
    without_child: u32,
    log: ProgressLog,
    error: Option<TriggerError>,
}

impl<'e, 'w, S, H> TriggerRun<'e, 'w, S, H>
where
    S: StreamSource,
    H: EventHandler<Event, Answer = DynamoDbEventResponse>,
{
    pub(crate) fn new(engine: &'e Engine<S, H>, watch: &'e Watch<'w>) -> Self {
        Self {
            engine,
            watch,
            lineage: Lineage::default(),
            began: engine.options.clock.now(),
            steps: FuturesUnordered::new(),
            listing: false,
            share: (engine.positions.lasting && watch.until == Until::ShutDown).then(|| Sharing {
                round: None,
                next: None,
                workers: Workers::default(),
                most: 0,
                had_more: false,
            }),
            releases: BTreeMap::new(),
            asked_at: Duration::ZERO,
            listing_took: Duration::ZERO,
            good_until: Deadline::NONE,
            list_at: Deadline::within(&*engine.options.clock, Duration::ZERO),
            up_to_date: false,
            without_child: 0,
            log: ProgressLog::default(),
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
                if let Some(beginning) = beginning.as_ref() {
                    self.look_when_due();
                    if !self.good_until.passed(&*self.engine.options.clock) {
                        self.start_shards(beginning);
                    }
                }
            }
            if self.steps.is_empty() && (stopping || self.is_over()) {
                if self.share.is_some() {
                    self.engine.leave_others().await;
                }
                if !stopping {
                    self.log.end(self.engine);
                }
                return self.error.map_or(Ok(()), Err);
            }
            match self.next_step(stopping).await {
                Some(Step::Listed(Ok(Some((listed, begun))))) => {
                    self.listed(&listed, &begun);
                    *beginning = Some(begun);
                }
                Some(Step::Listed(Ok(None))) => self.listing = false,
                Some(Step::Listed(Err(error)) | Step::Forgot(Err(error))) => self.fail(error),
                Some(Step::Looked(Ok(Some(look)))) => self.looked(look),
                Some(Step::Looked(Ok(None))) => {}
                Some(Step::Looked(Err(error))) => self.fail(error),
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
        let most = self
            .share
            .as_ref()
            .map_or(most, |share| most.min(share.most));
        let room = most.saturating_sub(self.lineage.working());
        let (tasks, waiting) = self.lineage.start(room);
        self.engine.monitor.waiting(waiting);
        for task in tasks {
            let (engine, watch, shard) = (self.engine, self.watch, Arc::clone(&task.shard));
            let beginning = Arc::clone(beginning);
            let (sender, release) = oneshot::channel();
            self.releases.insert(Arc::clone(&shard), sender);
            let release = async move { release.await.unwrap_or(()) };
            let release = release.boxed().shared();
            let work = async move {
                let left = engine.work(task, &beginning, watch, release).await;
                Step::Left(shard, left)
            };
            self.steps.push(work.boxed());
        }
    }

    /// The next event, or `None` if it is time to check again. `stopping` is the value that this
    /// turn has acted on. If it were evaluated again it might have changed, and nothing would be
    /// waited for.
    async fn next_step(&mut self, stopping: bool) -> Option<Step> {
        let clock = &self.engine.options.clock;
        let list_in = self.list_at.remaining(&**clock).unwrap_or_default();
        let share = self.share.as_ref().filter(|share| share.round.is_none());
        let share = share.and_then(|share| share.next);
        let look_in = share.map(|next| next.saturating_sub(clock.monotonic()));
        let lists = !self.listing && !self.is_over();
        let wake = [lists.then_some(list_in), look_in];
        let wake = wake.into_iter().flatten().min();
        let timer = match wake {
            None => future::pending().boxed(),
            Some(wake) => clock.sleep(wake),
        };
        let other = match stopping {
            true => future::pending().left_future(),
            false => future::select(timer, self.watch.stop())
                .map(drop)
                .right_future(),
        };
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
        self.log.begin(engine, listed, beginning, self.began);
        // A run that drains reports only at its end that everything is done.
        let all_begun = self.watch.until == Until::ShutDown
            && self.up_to_date
            && self.lineage.working() == engine.monitor.shards();
        self.log.tell(engine, all_begun);
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
        match &mut self.share {
            Some(share) => {
                share.next.get_or_insert(engine.options.clock.monotonic());
            }
            None => self.lineage.look_again(),
        }
        let ids = listed.ids();
        engine.cursors.retain(|id| ids.contains(id));
        self.up_to_date = !self.awaits_children(listed);
        let idle = self.lineage.working() == 0 && self.lineage.is_done();
        let clock = &*engine.options.clock;
        let pause = match idle || !self.up_to_date {
            true => engine.options.poll_interval.min(DISCOVERY_INTERVAL),
            false => DISCOVERY_INTERVAL,
        };
        // A list of many pages is requested at most half of the time, because all stream readers of
        // the account share the calls.
        let took = clock.monotonic().saturating_sub(self.asked_at);
        self.listing_took = took.min(MOST_PAUSE);
        self.list_at = Deadline::within(clock, pause.max(self.listing_took));
        self.good_until = Deadline::within(clock, GOOD_FOR.saturating_add(self.listing_took));
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

    /// Whether to list again for the children of a shard that has ended. When a stream is disabled
    /// its shards end without children.
    fn awaits_children(&mut self, listed: &StreamDescription) -> bool {
        if !(listed.info.is_enabled() && self.lineage.awaits_children()) {
            return false;
        }
        self.without_child = self.without_child.saturating_add(1);
        if self.without_child == CHILD_LISTINGS {
            tracing::warn!(
                stream = listed.info.stream_arn,
                "a shard has ended, but none of its children is listed although the stream is enabled"
            );
        }
        self.without_child < CHILD_LISTINGS
    }

    fn left(&mut self, shard: &str, left: Result<Left, TriggerError>) {
        let left = left.unwrap_or_else(|error| {
            self.fail(error);
            Left::Interrupted
        });
        self.releases.remove(shard);
        let child_begins = self.lineage.left(shard, left);
        if left == Left::Ended {
            (self.up_to_date, self.without_child) = (false, 0);
            if !child_begins {
                // Its children are not listed yet, or it has none.
                self.list_at = Deadline::within(&*self.engine.options.clock, self.listing_took);
            }
        }
    }

    /// Starts a round, which finds out the readers and the shards of each.
    fn look_when_due(&mut self) {
        let now = self.engine.options.clock.monotonic();
        let pause = DISCOVERY_INTERVAL.min(self.engine.positions.lease / 3);
        let Some(share) = &mut self.share else {
            return;
        };
        if share.round.is_none() && share.next.is_some_and(|next| now >= next) {
            share.round = Some(HashMap::new());
            share.next = Some(now.saturating_add(pause));
            let others = self.lineage.others();
            self.look(others, true);
        }
    }

    fn look(&self, shards: Vec<Arc<str>>, beats: bool) {
        let (engine, watch, began) = (self.engine, self.watch, self.began);
        let look = async move {
            let look = engine.look(shards, beats, began);
            Step::Looked(engine.unless_stopped(watch, look).await)
        };
        self.steps.push(look.boxed());
    }

    /// Takes over what was seen. At the end of a round it works out this reader's share, and gives
    /// up shards that others lack.
    fn looked(&mut self, Look { workers, rows }: Look) {
        let Some(share) = &mut self.share else {
            return;
        };
        if let Some(workers) = workers {
            share.workers = workers;
        }
        let round = share.round.get_or_insert_default();
        for (id, seen) in rows {
            self.lineage.seen(&id, &seen);
            round.insert(id, seen);
        }
        // Shards that can be read now because others turned out to have ended.
        let mut more = self.lineage.others();
        more.retain(|id| !round.contains_key(id));
        if !more.is_empty() {
            return self.look(more, false);
        }
        let round = share.round.take().unwrap_or_default();
        let me = self.engine.positions.owner.as_str();
        let shares = share.workers.shares(self.lineage.readable());
        share.most = shares.get(me).copied().unwrap_or(0);
        let has = |worker: &str| {
            let of = |seen: &&SeenRow| matches!(seen, SeenRow::Elsewhere(owner) if owner == worker);
            round.values().filter(of).count()
        };
        let others = shares.iter().filter(|(worker, _)| **worker != me);
        let lack: usize = others
            .map(|(worker, share)| share.saturating_sub(has(worker)))
            .sum();
        let free = round
            .values()
            .filter(|seen| **seen == SeenRow::Free)
            .count();
        let too_many = self.releases.len().saturating_sub(share.most);
        let wanted = too_many.min(lack.saturating_sub(free));
        let had_more = std::mem::replace(&mut share.had_more, wanted > 0);
        if had_more && wanted > 0 {
            let given = wanted.div_ceil(2);
            tracing::info!(
                shards = given,
                "shards are given up to other readers, so that each has its share"
            );
            for _ in 0..given {
                // Dropping the sender tells the shard.
                drop(self.releases.pop_last());
            }
        }
    }

    fn is_over(&self) -> bool {
        self.watch.until == Until::Drained && self.up_to_date && self.lineage.is_drained()
    }

    /// Stops the run. The first error is the one that is returned.
    fn fail(&mut self, error: TriggerError) {
        self.watch.halt();
        if self.error.is_none() {
            self.error = Some(error);
        } else {
            tracing::error!(error = %Causes(&error), "the run had another error while stopping");
        }
    }
}

impl<S: StreamSource, H: Sync> Engine<S, H> {
    /// Reads the rows of shards, after a beat if that is due.
    async fn look(
        &self,
        shards: Vec<Arc<str>>,
        beats: bool,
        began: Timestamp,
    ) -> Result<Look, TriggerError> {
        let workers = match beats {
            true => {
                let beat = || self.positions.beat(self.options.maximum_shards);
                Some(self.persistently(beat).await?)
            }
            false => None,
        };
        let looks = shards.into_iter().map(|shard| async move {
            let found = self.persistently(|| self.positions.find(&shard)).await?;
            let seen = match found {
                Some((row, _)) if row.at == At::Ended => SeenRow::Ended,
                Some((row, version)) if self.positions.is_left_over(&row, began) => {
                    // Otherwise it would be held for this reader, which may have no room for it.
                    let free = Row::released(row.at, row.through);
                    let put = || self.positions.put(&shard, &free, Some(version));
                    self.persistently(put).await?;
                    SeenRow::Free
                }
                Some((row, _)) if self.positions.is_elsewhere(&row) => {
                    SeenRow::Elsewhere(row.owner.unwrap_or_default())
                }
                _ => SeenRow::Free,
            };
            Ok::<_, TriggerError>((shard, seen))
        });
        let looks: Vec<_> = looks.collect();
        let rows = stream::iter(looks).buffer_unordered(BEGINS);
        Ok(Look {
            workers,
            rows: rows.try_collect().await?,
        })
    }

    /// Tells the other readers that this one is gone. If that fails they find out by themselves.
    async fn leave_others(&self) {
        let enough = self.options.clock.sleep(LEAVING);
        match future::select(pin!(self.positions.leave()), enough).await {
            Either::Left((Ok(()), _)) => {}
            Either::Left((Err(error), _)) => {
                tracing::debug!(error = %Causes(&error), "the other readers were not told of the end");
            }
            Either::Right(_) => {
                tracing::debug!("the other readers were not told of the end in time");
            }
        }
    }

    /// The stream's current list, and how reading it was begun.
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
