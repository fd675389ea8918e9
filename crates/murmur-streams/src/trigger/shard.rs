//! Processes one shard: reads, delivers and saves the position, until the shard or the run ends.

use std::sync::Arc;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::Event;
use aws_lambda_events::streams::DynamoDbEventResponse;
use futures::StreamExt;
use futures::future::{self, BoxFuture, Either};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, pin_mut};
use murmur_state::{Causes, EventHandler, SequenceNumber, Timestamp};

use crate::item::key_hash;
use crate::record::created_at;
use crate::source::{MAX_READ, StreamSource};
use crate::trigger::beginning::{Begin, Beginning};
use crate::trigger::deliver::Delivered;
use crate::trigger::ending::{Release, Until, Watch, yield_now};
use crate::trigger::engine::Engine;
use crate::trigger::error::TriggerError;
use crate::trigger::first_read::Begun;
use crate::trigger::lane::{Cut, DeliveryLane, Mark};
use crate::trigger::lineage::{Left, ShardTask};
use crate::trigger::monitor::{Behind, ShardProgress, Tally};
use crate::trigger::reader::{DoneBefore, Read, ReadRecords, ShardReader};
use crate::trigger::row::{At, Held, Row};
use crate::trigger::tracker::Tracker;

/// So many consecutive failures show that the failure of a batch is not a short one.
const KEEPS_FAILING: u32 = 3;

/// What a shard waits for.
enum Step<'e> {
    /// `None` if the run was stopped, or the shard was to be left.
    Read(Option<Read<'e>>),
    Delivered(usize, Delivered),
    Saved(Result<Option<Held>, TriggerError>),
}

type Steps<'e> = FuturesUnordered<BoxFuture<'e, Step<'e>>>;

struct Shard<'e, 'w, S, H> {
    engine: &'e Engine<S, H>,
    watch: &'e Watch<'w>,
    /// Completes when another reader should have the shard.
    release: Release,
    /// Whether it was begun at LATEST. Before the first record, that place is in no row.
    latest: bool,
    arn: &'e str,
    has_child: bool,
    held: Held,
    lanes: Vec<DeliveryLane>,
    tracker: Tracker,
    reader: ShardReader<'e, S, H>,
    /// The latest time to renew the lease, in monotonic time.
    renew_at: Duration,
    saving: bool,
    lost: bool,
    error: Option<TriggerError>,
}

impl<S, H> Engine<S, H>
where
    S: StreamSource,
    H: EventHandler<Event, Answer = DynamoDbEventResponse>,
{
    /// Reads one shard and delivers its records, until it ends, is lost or drained, or the run is
    /// stopped.
    pub(crate) async fn work(
        &self,
        task: ShardTask,
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
        task: &ShardTask,
        Begun { held, cursor }: Begun,
    ) -> Self {
        let options = &engine.options;
        let now = options.clock.monotonic();
        let reader = ShardReader::new(engine, watch.until, Arc::clone(&held.shard), cursor);
        Self {
            engine,
            watch,
            release,
            latest: beginning.shards.get(&*task.shard) == Some(&Begin::Latest),
            arn: &beginning.stream_arn,
            has_child: task.has_child,
            held,
            lanes: (0..options.parallelization_factor)
                .map(|_| DeliveryLane::default())
                .collect(),
            tracker: Tracker::default(),
            reader,
            renew_at: now.saturating_add(engine.positions.lease / 3),
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
            let idle = steps.is_empty() || ending && self.reader.is_starved() && steps.len() == 1;
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

    /// Whether nothing more is to be started.
    fn is_ending(&self) -> bool {
        self.lost || self.error.is_some() || self.is_told_to_end() || self.makes_room()
    }

    fn is_told_to_end(&self) -> bool {
        self.watch.is_stopping() || self.is_released()
    }

    /// Whether another reader should have the shard.
    fn is_released(&self) -> bool {
        self.release().now_or_never().is_some()
    }

    /// Completes when another reader should have the shard and can find its place.
    fn release(&self) -> Release {
        match self.latest && self.at() == At::Begun {
            true => future::pending().boxed().shared(),
            false => self.release.clone(),
        }
    }

    /// Whether the records it holds block other shards, and may do so without end.
    fn makes_room(&self) -> bool {
        let options = &self.engine.options;
        let failures = self.lanes.iter().map(DeliveryLane::failures).max();
        // If retries are limited, it keeps failing only if `on_failure` does not take the records.
        let limit = options.maximum_retry_attempts.unwrap_or(0);
        failures.is_some_and(|failures| failures > limit)
            && failures >= Some(KEEPS_FAILING)
            && self.engine.room.is_wanted()
            && self.lanes.iter().all(|lane| !lane.is_busy())
    }

    fn is_ended(&self) -> bool {
        self.reader.is_at_end() && self.tracker.is_clear()
    }

    fn is_drained(&self) -> bool {
        // A shard with a child will end, and its child waits for that.
        self.watch.until == Until::Drained && !self.has_child && self.has_caught_up()
    }

    /// Whether everything that was there is done.
    fn has_caught_up(&self) -> bool {
        self.tracker.is_clear() && self.reader.has_caught_up()
    }

    fn begin_steps(&mut self, steps: &mut Steps<'e>) {
        let (engine, arn) = (self.engine, self.arn);
        let clock = &engine.options.clock;
        let now = clock.monotonic();
        self.reader.forget_old_failures();
        let cut = self.cut();
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            if let Some(part) = lane.next(now, cut) {
                let shard = Arc::clone(&self.held.shard);
                let call =
                    async move { Step::Delivered(at, engine.deliver(arn, &shard, part).await) };
                steps.push(call.boxed());
            }
        }
        if self.wants_records() {
            let (watch, released) = (self.watch, self.release());
            let read = self.reader.begin(watch, released);
            steps.extend(read.map(|read| read.map(Step::Read).boxed()));
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
        let (options, starved) = (&self.engine.options, self.reader.is_starved());
        Cut {
            batch_size: options.batch_size,
            window: match starved {
                true => Duration::ZERO,
                false => options.batching_window,
            },
            short: starved || !self.reader.left_more() || self.is_full(),
            ended: self.reader.is_at_end(),
        }
    }

    /// Whether the limit of reading ahead is reached.
    fn is_full(&self) -> bool {
        let options = &self.engine.options;
        let most = options.batch_size * options.parallelization_factor;
        self.tracker.len() >= most.saturating_mul(2).max(MAX_READ)
    }

    fn wants_records(&self) -> bool {
        let batch_size = self.engine.options.batch_size;
        !self.is_drained()
            && !self.is_full()
            && self.lanes.iter().any(|lane| lane.is_hungry(batch_size))
    }

    /// Whether the row is behind what is done.
    fn is_behind(&self) -> bool {
        self.at() != self.held.row.at
    }

    fn at(&self) -> At {
        match (self.tracker.position(), self.tracker.first()) {
            (Some(number), _) => At::After(number.clone()),
            // Otherwise it could not be found out later that this record was trimmed.
            (None, Some(first)) if self.held.row.at == At::Begun => At::From(first.clone()),
            _ => self.held.row.at.clone(),
        }
    }

    fn through(&self) -> Option<Timestamp> {
        let through = self.held.row.through.max(self.tracker.passed());
        through.max(self.reader.clear_at())
    }

    /// The next event, or `None` if it is time to check again. `ending` is the value that this turn
    /// has acted on. If it were evaluated again it might have changed, and nothing would be waited
    /// for.
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

    /// Completes when there is something to start.
    fn timer(&self) -> BoxFuture<'static, ()> {
        let cut = self.cut();
        let lanes = self.lanes.iter().filter_map(|lane| lane.wakes(cut));
        let read = self.reader.due_at().filter(|_| self.wants_records());
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
                let done = self.done();
                match self.reader.took(read, done) {
                    Ok(Some(records)) => self.queue(records),
                    Ok(None) => {}
                    Err(error) => self.fail(error),
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

    /// What is done, in the form that the reader needs.
    fn done(&self) -> DoneBefore {
        DoneBefore {
            through: self.through(),
            all: self.tracker.is_clear(),
            none: matches!(self.at(), At::From(_)),
        }
    }

    /// Gives records that were read to the lanes.
    fn queue(&mut self, ReadRecords { records, mut room }: ReadRecords) {
        let options = &self.engine.options;
        let (now, wall_now) = (options.clock.monotonic(), options.clock.now());
        let mut filtered = 0;
        for record in records {
            let number = record.change.sequence_number.as_deref();
            // Reading cannot continue after an invalid number. The record counts all the same.
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
        self.engine.monitor.count(Tally::Filtered, filtered);
        self.engine.monitor.count(Tally::Records, filtered);
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
                "the shard had another error while stopping"
            );
            return;
        }
        self.error = Some(error);
    }

    fn lose(&mut self) {
        tracing::warn!(
            shard = &*self.held.shard,
            "another reader has taken the shard over; it delivers again what was not saved"
        );
        self.engine.monitor.count(Tally::LeasesLost, 1);
        self.lost = true;
    }

    fn report(&self) {
        let undone = self.tracker.oldest().or(self.tracker.passed());
        let read_at = self.reader.read_at().filter(|_| self.has_caught_up());
        let behind = match (read_at, undone) {
            (Some(read_at), _) => Behind::Nothing {
                read_at,
                surely: self.reader.has_surely_caught_up(),
            },
            (None, Some(time)) => Behind::Since(time),
            (None, None) => Behind::Unknown,
        };
        let failures = self.lanes.iter().map(DeliveryLane::failures).max();
        let progress = ShardProgress {
            behind,
            pending: self.tracker.len(),
            failures: failures.unwrap_or(0),
        };
        self.engine.monitor.shard(&self.held.shard, progress);
    }

    /// Stores where a later run of this trigger may continue without looking the place up.
    fn remember(&self) {
        let cursor = self.reader.cursor().filter(|_| self.tracker.is_clear());
        let place = cursor.map(|cursor| (self.held.version, cursor.clone()));
        self.engine.cursors.note(&self.held.shard, place);
    }

    /// Saves the position for the last time and gives the lease up.
    async fn leave(mut self) -> Result<Left, TriggerError> {
        self.report();
        // The last save may take a while, and other shards should not wait so long for the room.
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
                self.engine.monitor.count(Tally::LeasesGiven, 1);
                Ok(Left::Elsewhere)
            }
            None if self.is_drained() => Ok(Left::Empty),
            // The shard made room, and will be started again.
            None => Ok(Left::Interrupted),
        }
    }
}
