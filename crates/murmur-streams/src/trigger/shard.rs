//! The work on one shard: read, deliver, save the position, until it ends or the run does.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::Event;
use aws_lambda_events::streams::DynamoDbEventResponse;
use futures::StreamExt;
use futures::future::{self, BoxFuture, Either, Shared};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, pin_mut};
use murmur_state::{Attempts, Causes, Deadline, EventHandler, SequenceNumber, Timestamp};

use crate::error::StreamError;
use crate::item::key_hash;
use crate::record::created_at;
use crate::source::{Batch, Cursor, MAX_READ, Start, StreamSource};
use crate::trigger::begin::Begun;
use crate::trigger::deliver::Delivered;
use crate::trigger::engine::{Engine, Until, Watch, yield_now};
use crate::trigger::error::TriggerError;
use crate::trigger::gap::Gap;
use crate::trigger::lane::{Cut, Lane, Mark};
use crate::trigger::lineage::{Left, Task};
use crate::trigger::monitor::{Behind, Count, Progress};
use crate::trigger::positions::{At, Begin, Beginning, Held, Row};
use crate::trigger::room::Taken;
use crate::trigger::tracker::Tracker;

/// The pause after a read that left nothing behind is this part of the longest; after empty ones
/// each doubles. By default 200 ms: a shard takes 5 reads a second.
const FIRST_PAUSE: u32 = 5;

/// So many empty answers in a row say that all that was put before is read: DynamoDB answers
/// empty now and then although records follow.
const SURELY_EMPTY: u32 = 10;

/// So many failures in a row show that a batch fails for longer.
const KEEPS_FAILING: u32 = 3;

/// A failed read that is made later than this after it was due is a new one: what it waits for
/// meanwhile, room or its lanes, is no failure.
const LATE_AGAIN: Duration = Duration::from_secs(5);

/// What a shard waits for.
enum Step<'e> {
    /// Nothing if the run was stopped, or the shard was to be left.
    Read(Option<Read<'e>>),
    Delivered(usize, Delivered),
    Saved(Result<Option<Held>, TriggerError>),
}

/// A read that was tried.
struct Read<'e> {
    from: Cursor,
    answer: Result<Batch, StreamError>,
    /// The wall time before it was asked for.
    asked_at: Timestamp,
    room: Taken,
    attempts: Attempts<'e>,
}

/// Completes when a shard is to be left to another reader.
pub(crate) type Release = Shared<BoxFuture<'static, ()>>;

type Steps<'e> = FuturesUnordered<BoxFuture<'e, Step<'e>>>;

struct Shard<'e, 'w, S, H> {
    engine: &'e Engine<S, H>,
    watch: &'e Watch<'w>,
    /// Completes when another reader is to have it.
    release: Release,
    /// Whether it was begun at LATEST: a place that is in no row before the first record.
    latest: bool,
    arn: &'e str,
    has_child: bool,
    held: Held,
    lanes: Vec<Lane>,
    tracker: Tracker,
    /// Where to read on; `None` once it is read to its end.
    cursor: Option<Cursor>,
    /// Of the read that failed and comes again.
    attempts: Option<Attempts<'e>>,
    /// Whether the last read may have left records behind.
    more: bool,
    empty_reads: u32,
    /// When to read again, in monotonic time.
    next_read: Duration,
    /// When the last read was asked for that was answered.
    read_at: Option<Timestamp>,
    /// When all that had been put by then was done.
    clear_at: Option<Timestamp>,
    /// When a gap was told last: what was put before is no other gap.
    told_at: Option<Timestamp>,
    /// When to renew the lease at the latest, in monotonic time.
    renew_at: Duration,
    reading: bool,
    /// Whether the read under way waits for room.
    starved: bool,
    saving: bool,
    lost: bool,
    error: Option<TriggerError>,
}

impl<S, H> Engine<S, H>
where
    S: StreamSource,
    H: EventHandler<Event, Answer = DynamoDbEventResponse>,
{
    /// Reads one shard and delivers its records, until it ends, is lost, drained, or the run is
    /// stopped.
    pub(crate) async fn work(
        &self,
        task: Task,
        beginning: &Beginning,
        watch: &Watch<'_>,
        release: Release,
    ) -> Result<Left, TriggerError> {
        let begin = async {
            let _turn = self.begins.acquire().await;
            self.begin(&task, beginning).await
        };
        let begun = match self.unless_stopped(watch, begin).await? {
            Some(Ok(begun)) => begun,
            Some(Err(left)) => return Ok(left),
            None => return Ok(Left::Interrupted),
        };
        let shard = Shard::new(self, watch, release, beginning, &task, begun);
        let left = shard.run().await;
        self.monitor.left(&task.shard);
        left
    }
}

impl<'e, 'w, S, H> Shard<'e, 'w, S, H>
where
    S: StreamSource,
    H: EventHandler<Event, Answer = DynamoDbEventResponse>,
{
    fn new(
        engine: &'e Engine<S, H>,
        watch: &'e Watch<'w>,
        release: Release,
        beginning: &'e Beginning,
        task: &Task,
        Begun { held, cursor }: Begun,
    ) -> Self {
        let options = &engine.options;
        let now = options.clock.monotonic();
        Self {
            engine,
            watch,
            release,
            latest: beginning.shards.get(&*task.shard) == Some(&Begin::Latest),
            arn: &beginning.stream_arn,
            has_child: task.has_child,
            held,
            lanes: (0..options.parallelization_factor)
                .map(|_| Lane::default())
                .collect(),
            tracker: Tracker::default(),
            cursor: Some(cursor),
            attempts: None,
            more: true,
            empty_reads: 0,
            next_read: now,
            read_at: None,
            clear_at: None,
            told_at: None,
            renew_at: now.saturating_add(engine.positions.lease / 3),
            reading: false,
            starved: false,
            saving: false,
            lost: false,
            error: None,
        }
    }

    async fn run(mut self) -> Result<Left, TriggerError> {
        let mut steps = Steps::new();
        loop {
            let ending = self.is_ending();
            if !ending {
                self.begin_steps(&mut steps);
            }
            // A read that waits for room may be dropped.
            let idle = steps.is_empty() || ending && self.starved && steps.len() == 1;
            if idle && (ending || self.is_ended() || self.is_drained()) {
                drop(steps);
                return self.leave().await;
            }
            self.report();
            self.remember();
            if let Some(step) = self.next_step(&mut steps, ending).await {
                self.take(step);
            }
            yield_now().await;
        }
    }

    /// Whether nothing more is to be begun.
    fn is_ending(&self) -> bool {
        self.lost || self.error.is_some() || self.is_told_to_end() || self.makes_room()
    }

    fn is_told_to_end(&self) -> bool {
        self.watch.is_stopping() || self.is_released()
    }

    /// Whether another reader is to have it.
    fn is_released(&self) -> bool {
        self.release().now_or_never().is_some()
    }

    /// Completes when another reader is to have it, and can find where it stands.
    fn release(&self) -> Release {
        match self.latest && self.at() == At::Begun {
            true => future::pending().boxed().shared(),
            false => self.release.clone(),
        }
    }

    /// Whether what it holds is in the way of others, and may stay so without end.
    fn makes_room(&self) -> bool {
        let options = &self.engine.options;
        let failures = self.lanes.iter().map(Lane::failures).max();
        // Where retries are limited it fails on only if `on_failure` does not take it.
        let limit = options.maximum_retry_attempts.unwrap_or(0);
        failures.is_some_and(|failures| failures > limit)
            && failures >= Some(KEEPS_FAILING)
            && self.engine.room.is_wanted()
            && self.lanes.iter().all(|lane| !lane.is_busy())
    }

    fn is_ended(&self) -> bool {
        self.cursor.is_none() && self.tracker.is_clear()
    }

    fn is_drained(&self) -> bool {
        // One with a child will end, and its child waits for that.
        self.watch.until == Until::Drained && !self.has_child && self.has_caught_up()
    }

    /// Whether all is done that was there. A read that brought little may have left records
    /// behind, and so may an empty one.
    fn has_caught_up(&self) -> bool {
        let is_end = self.empty_reads >= self.engine.options.drain_empty_reads;
        self.tracker.is_clear() && (is_end || self.cursor.is_none())
    }

    fn begin_steps(&mut self, steps: &mut Steps<'e>) {
        let (engine, arn) = (self.engine, self.arn);
        let clock = &engine.options.clock;
        let now = clock.monotonic();
        let late_at = self.next_read.saturating_add(LATE_AGAIN);
        self.attempts.take_if(|_| now > late_at);
        let cut = self.cut();
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            if let Some(part) = lane.next(now, cut) {
                let shard = Arc::clone(&self.held.shard);
                let call =
                    async move { Step::Delivered(at, engine.deliver(arn, &shard, part).await) };
                steps.push(call.boxed());
            }
        }
        if self.wants_records()
            && self.next_read <= now
            && let Some(cursor) = self.cursor.clone()
        {
            self.reading = true;
            let (shard, watch) = (Arc::clone(&self.held.shard), self.watch);
            let room = engine.room.try_take();
            self.starved = room.is_none();
            let released = self.release();
            let attempts = self.attempts.take();
            let read = async move {
                let room = match room {
                    Some(room) => room,
                    None => {
                        let turn = engine.unless_stopped(watch, engine.room.take().map(Ok));
                        match future::select(pin!(turn), released).await {
                            Either::Left((Ok::<_, StreamError>(Some(Some(room))), _)) => room,
                            _ => return Step::Read(None),
                        }
                    }
                };
                let attempts = attempts
                    .filter(|_| clock.monotonic() <= late_at)
                    .unwrap_or_else(|| engine.retry.attempts(Deadline::NONE));
                let asked_at = clock.now();
                let read = engine.source.read(&shard, &cursor, MAX_READ);
                let answer = engine.unless_stopped(watch, read).await.transpose();
                Step::Read(answer.map(|answer| Read {
                    from: cursor,
                    answer,
                    asked_at,
                    room,
                    attempts,
                }))
            };
            steps.push(read.boxed());
        }
        if !self.saving && (self.is_behind() || self.renew_at <= now) {
            self.saving = true;
            self.renew_at = now.saturating_add(engine.positions.lease / 3);
            let row = engine.positions.leased(self.at(), self.through());
            let held = self.held.clone();
            let save = async move {
                let save = || engine.positions.put(&held.shard, &row, Some(held.version));
                Step::Saved(engine.persistently(save).await)
            };
            steps.push(save.boxed());
        }
    }

    fn cut(&self) -> Cut {
        let options = &self.engine.options;
        Cut {
            batch_size: options.batch_size,
            window: match self.starved {
                true => Duration::ZERO,
                false => options.batching_window,
            },
            short: !self.more || self.starved || self.is_full(),
            ended: self.cursor.is_none(),
        }
    }

    /// Whether as much is read ahead as may be.
    fn is_full(&self) -> bool {
        let options = &self.engine.options;
        let most = options.batch_size * options.parallelization_factor;
        self.tracker.len() >= most.saturating_mul(2).max(MAX_READ)
    }

    fn wants_records(&self) -> bool {
        let batch_size = self.engine.options.batch_size;
        !self.reading
            && !self.is_drained()
            && !self.is_full()
            && self.lanes.iter().any(|lane| lane.is_hungry(batch_size))
    }

    /// Whether the row says less than is done.
    fn is_behind(&self) -> bool {
        self.at() != self.held.row.at
    }

    fn at(&self) -> At {
        match (self.tracker.position(), self.tracker.first()) {
            (Some(number), _) => At::After(number.clone()),
            // Else nobody could tell later that it was trimmed.
            (None, Some(first)) if self.held.row.at == At::Begun => At::From(first.clone()),
            _ => self.held.row.at.clone(),
        }
    }

    fn through(&self) -> Option<Timestamp> {
        let through = self.held.row.through.max(self.tracker.passed());
        through.max(self.clear_at)
    }

    /// The next thing that happens; `None` if it is time to look again. `ending` is what this turn
    /// has acted on: asked for again it might have changed, and nothing would be waited for.
    async fn next_step(&self, steps: &mut Steps<'e>, ending: bool) -> Option<Step<'e>> {
        let other = match ending {
            true => future::pending().left_future(),
            false => {
                let stop = future::select(self.watch.stop(), self.release());
                future::select(self.timer(), stop).map(drop).right_future()
            }
        };
        if steps.is_empty() {
            other.await;
            return None;
        }
        let next = steps.next();
        pin_mut!(next);
        match future::select(next, other).await {
            Either::Left((step, _)) => step,
            Either::Right(_) => None,
        }
    }

    /// Completes when there is something to begin.
    fn timer(&self) -> BoxFuture<'static, ()> {
        let cut = self.cut();
        let lanes = self.lanes.iter().filter_map(|lane| lane.wakes(cut));
        let read = (self.wants_records() && self.cursor.is_some()).then_some(self.next_read);
        let lasting = self.engine.positions.lasting && !self.saving;
        let renew = lasting.then_some(self.renew_at);
        let wake = lanes.chain(read).chain(renew).min();
        let clock = &self.engine.options.clock;
        match wake {
            Some(wake) => clock.sleep(wake.saturating_sub(clock.monotonic())),
            None => future::pending().boxed(),
        }
    }

    fn take(&mut self, step: Step<'e>) {
        match step {
            Step::Read(read) => {
                (self.reading, self.starved) = (false, false);
                if let Some(Err(error)) = read.map(|read| self.took(read)) {
                    self.fail(error);
                }
            }
            Step::Delivered(at, delivered) => self.delivered(at, delivered),
            Step::Saved(Ok(Some(held))) => {
                self.saving = false;
                self.held = held;
            }
            Step::Saved(Ok(None)) => {
                self.saving = false;
                self.lose();
            }
            Step::Saved(Err(error)) => {
                self.saving = false;
                self.fail(error);
            }
        }
    }

    fn took(&mut self, read: Read<'e>) -> Result<(), TriggerError> {
        let Read {
            from,
            answer,
            asked_at,
            mut room,
            mut attempts,
        } = read;
        let Batch { records, next } = match answer {
            Ok(batch) => batch,
            Err(error) => match attempts.after(&error) {
                Some(wait) => {
                    let shard = &*self.held.shard;
                    tracing::debug!(shard, error = %Causes(&error), "a read is tried again");
                    let now = self.engine.options.clock.monotonic();
                    self.next_read = now.saturating_add(wait);
                    // What was read before does not wait for what cannot be read now.
                    self.more = false;
                    self.attempts = Some(attempts);
                    return Ok(());
                }
                None => return self.unreadable(&from, error),
            },
        };
        attempts.progressed();
        self.judge(&from)?;
        let options = &self.engine.options;
        let (now, wall_now) = (options.clock.monotonic(), options.clock.now());
        let first_pause = options.poll_interval / FIRST_PAUSE;
        self.more = records.len() >= MAX_READ;
        self.cursor = next;
        self.read_at = Some(asked_at);
        if records.is_empty() {
            self.empty_reads = self.empty_reads.saturating_add(1);
            let surely = match self.watch.until {
                Until::Drained => options.drain_empty_reads,
                Until::ShutDown => options.drain_empty_reads.max(SURELY_EMPTY),
            };
            let clear = self.tracker.is_clear() && self.empty_reads >= surely;
            if clear && self.cursor.is_some() {
                self.clear_at = Some(asked_at);
            }
            let doubled = 2u32.saturating_pow(self.empty_reads - 1);
            let pause = first_pause.saturating_mul(doubled);
            self.next_read = now.saturating_add(pause.min(options.poll_interval));
            return Ok(());
        }
        if !self.more {
            self.next_read = now.saturating_add(first_pause);
        }
        self.empty_reads = 0;
        let mut filtered = 0;
        for record in records {
            let number = record.change.sequence_number.as_deref();
            // Numbers that are none cannot be gone on after; the records count all the same.
            let number = number.and_then(|number| SequenceNumber::new(number).ok());
            let wanted = options.wants(&record);
            let lane = match self.lanes.len() as u64 {
                0 | 1 => 0,
                lanes => key_hash(&record.change.keys) % lanes,
            };
            let ordinal = self.tracker.push(number, created_at(&record, wall_now));
            match self.lanes.get_mut(lane as usize) {
                Some(lane) if wanted => {
                    let mark = Mark {
                        ordinal,
                        read_at: now,
                        _room: room.part(&record),
                    };
                    lane.push(record, mark);
                }
                _ => {
                    filtered += 1;
                    self.tracker.done(ordinal);
                }
            }
        }
        self.engine.monitor.count(Count::Filtered, filtered);
        self.engine.monitor.count(Count::Records, filtered);
        Ok(())
    }

    /// Whether a read that has been answered missed anything by where it began. Only its answer
    /// ends the doubt: the process may have been suspended since it asked.
    fn judge(&mut self, from: &Cursor) -> Result<(), TriggerError> {
        match from {
            Cursor::Start(Start::TrimHorizon) => {
                let through = self.through().max(self.told_at);
                let gap = self.engine.trimmed_since(through);
                gap.map_or(Ok(()), |gap| self.gap(gap))
            }
            Cursor::Start(Start::Latest) => {
                if self
                    .through()
                    .is_some_and(|asked_for| self.engine.is_late(asked_for))
                {
                    self.engine.missed_latest(&self.held.shard);
                }
                Ok(())
            }
            // Numbers are judged by the stream, and an iterator that is valid by where it began.
            Cursor::Start(_) | Cursor::Iterator { .. } => Ok(()),
        }
    }

    /// Goes on after a read that failed for good, where that is allowed.
    fn unreadable(&mut self, from: &Cursor, error: StreamError) -> Result<(), TriggerError> {
        match error {
            StreamError::Trimmed { .. } => {
                // A number may be too old although nothing after it is gone. What was read and is
                // not done is, or was put before what is.
                let done = self.tracker.is_clear() && !matches!(self.at(), At::From(_));
                if !done || self.engine.trimmed_since(self.through()).is_some() {
                    self.gap(Gap::Trimmed)?;
                }
                self.cursor = Some(Start::TrimHorizon.into());
                Ok(())
            }
            StreamError::IteratorExpired { .. } => {
                let begun = match from {
                    Cursor::Start(begun) | Cursor::Iterator { renew: begun, .. } => begun,
                };
                if *begun == Start::Latest {
                    self.gap(Gap::LatestExpired)?;
                }
                // Judged when it is answered, as any beginning.
                self.cursor = Some(begun.clone().into());
                Ok(())
            }
            StreamError::UnknownShard { .. } => {
                self.engine.on_gap(&self.held.shard, Gap::ShardGone)?;
                self.cursor = None;
                Ok(())
            }
            error => Err(error.into()),
        }
    }

    /// Fails, or goes on with what there is: what was put until now is part of the gap that was
    /// told.
    fn gap(&mut self, gap: Gap) -> Result<(), TriggerError> {
        self.engine.on_gap(&self.held.shard, gap)?;
        self.told_at = Some(self.engine.options.clock.now());
        if self.tracker.is_clear() {
            self.clear_at = self.told_at;
        }
        Ok(())
    }

    fn delivered(&mut self, at: usize, delivered: Delivered) {
        let Delivered {
            done,
            left,
            wait,
            error,
        } = delivered;
        for ordinal in done {
            self.tracker.done(ordinal);
        }
        let now = self.engine.options.clock.monotonic();
        if let Some(lane) = self.lanes.get_mut(at) {
            lane.give_back(left, now.saturating_add(wait));
        }
        if let Some(error) = error {
            self.fail(error);
        }
    }

    fn fail(&mut self, error: TriggerError) {
        if self.error.is_some() {
            tracing::error!(
                shard = &*self.held.shard,
                error = %Causes(&error),
                "the shard failed once more"
            );
            return;
        }
        self.error = Some(error);
    }

    fn lose(&mut self) {
        tracing::warn!(
            shard = &*self.held.shard,
            "another reader has taken the shard; what is not saved it delivers again"
        );
        self.engine.monitor.count(Count::LeasesLost, 1);
        self.lost = true;
    }

    fn report(&self) {
        let undone = self.tracker.oldest().or(self.tracker.passed());
        let behind = match (self.read_at.filter(|_| self.has_caught_up()), undone) {
            (Some(read_at), _) => Behind::Nothing(read_at),
            (None, Some(time)) => Behind::Since(time),
            (None, None) => Behind::Unknown,
        };
        let failures = self.lanes.iter().map(Lane::failures).max();
        let progress = Progress {
            behind,
            pending: self.tracker.len(),
            failures: failures.unwrap_or(0),
        };
        self.engine.monitor.shard(&self.held.shard, progress);
    }

    /// Notes where a later run of this trigger may go on without looking the place up.
    fn remember(&self) {
        let cursor = self.cursor.as_ref().filter(|_| self.tracker.is_clear());
        let place = cursor.map(|cursor| (self.held.version, cursor.clone()));
        self.engine.kept.note(&self.held.shard, place);
    }

    /// Saves the position for the last time and gives the lease up.
    async fn leave(mut self) -> Result<Left, TriggerError> {
        self.report();
        // The last save may take a while, and nobody waits that long for the room that they have.
        self.lanes.clear();
        let ended = self.is_ended() && !self.lost;
        let released = !ended && !self.lost && self.error.is_none() && self.is_released();
        if !self.lost {
            let at = if ended { At::Ended } else { self.at() };
            let row = Row::released(at, self.through());
            let (positions, held) = (&self.engine.positions, &self.held);
            let release = || positions.put(&held.shard, &row, Some(held.version));
            match self.engine.persistently(release).await {
                Ok(Some(held)) => self.held = held,
                Ok(None) => self.lose(),
                Err(error) => self.fail(error),
            }
        }
        self.remember();
        match self.error {
            Some(error) => Err(error),
            None if self.lost => Ok(Left::Elsewhere),
            None if ended => Ok(Left::Ended),
            None if self.watch.is_stopping() => Ok(Left::Interrupted),
            None if released => {
                self.engine.monitor.count(Count::LeasesGiven, 1);
                Ok(Left::Elsewhere)
            }
            None if self.is_drained() => Ok(Left::Empty),
            // It makes room, and comes again.
            None => Ok(Left::Interrupted),
        }
    }
}
