//! Polls the shards and invokes the function.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use aws_lambda_events::event::dynamodb::Event;
use aws_lambda_events::streams::DynamoDbEventResponse;
use fastrand::Rng;
use futures::StreamExt;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use murmur_state::SequenceNumber;

use super::{BoxError, Delivery, Environment, Incoming, RETENTION, STALL, Simulation};

/// The most requests that a process makes before it is killed.
const KILLED_WITHIN: usize = 12;

/// The wait between attempts doubles from the first value up to the second.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

type Records = Vec<Rc<Incoming>>;

/// The records of one invocation, and how often it has failed.
struct Batch {
    records: Records,
    attempts: u32,
}

/// One of the concurrent batchers of a shard. Each has its own order.
#[derive(Default)]
struct Batcher {
    queue: VecDeque<Rc<Incoming>>,
    /// What precedes the queue: a batch to be retried, possibly in halves.
    again: VecDeque<Batch>,
    /// The records acknowledged last, as far back as the checkpoint may move.
    acknowledged: Records,
    busy: bool,
    /// As time since the start.
    not_before: Duration,
}

impl Batcher {
    /// When the batcher has work to do, as time since the start; `None` for never.
    fn wakes(&self, elapsed: impl Fn(&Incoming) -> Duration) -> Option<Duration> {
        let retry = self.again.front().map(|_| Duration::ZERO);
        let first = || self.queue.front().map(|first| elapsed(first));
        match self.busy {
            true => None,
            false => Some(retry.or_else(first)?.max(self.not_before)),
        }
    }
}

/// Who receives the answer of an invocation.
enum Asker {
    Batcher(usize),
    /// No poller: the second one, which has lost its shard.
    Nobody,
}

enum Ended {
    Answered(DynamoDbEventResponse),
    Failed(BoxError),
    Killed,
    TimedOut,
}

struct Invocation<E> {
    asker: Asker,
    batch: Batch,
    ended: Ended,
    /// The process, if it is alive.
    process: Option<E>,
}

/// An invocation by another poller.
struct Stray {
    due: Duration,
    records: Records,
    race: bool,
}

pub(super) struct Poller<'a, E, S> {
    simulation: &'a Simulation,
    start: S,
    rng: Rng,
    began: Duration,
    batchers: Vec<Batcher>,
    running: FuturesUnordered<LocalBoxFuture<'static, Invocation<E>>>,
    strays: Vec<Stray>,
    idle: Vec<E>,
    delivered: HashSet<SequenceNumber>,
    done: HashSet<SequenceNumber>,
    delivery: Delivery,
}

impl<'a, E: Environment, S: FnMut() -> E> Poller<'a, E, S> {
    pub(super) fn new(simulation: &'a Simulation, shards: Vec<Vec<Incoming>>, start: S) -> Self {
        let factor = simulation.mapping.parallelization_factor;
        assert!(factor > 0, "a parallelization factor of 0");
        assert!(simulation.mapping.batch_size > 0, "a batch size of 0");
        let mut batchers: Vec<Batcher> = Vec::new();
        for shard in shards {
            let first = batchers.len();
            batchers.resize_with(first + factor, Batcher::default);
            for incoming in shard {
                let own = item_hash(&incoming) % factor as u64;
                batchers[first + own as usize]
                    .queue
                    .push_back(Rc::new(incoming));
            }
        }
        Self {
            simulation,
            start,
            rng: Rng::with_seed(simulation.seed),
            began: simulation.time.elapsed(),
            batchers,
            running: FuturesUnordered::new(),
            strays: Vec::new(),
            idle: Vec::new(),
            delivered: HashSet::new(),
            done: HashSet::new(),
            delivery: Delivery::default(),
        }
    }

    pub(super) async fn run(mut self) -> Delivery {
        let time = self.simulation.time.clone();
        loop {
            self.begin_what_is_due();
            let next = self.next_wake();
            if self.running.is_empty() {
                match next {
                    Some(next) => time.sleep(next.saturating_sub(time.elapsed())).await,
                    None => return self.delivery,
                }
                continue;
            }
            let wake = async {
                match next {
                    Some(next) => time.reached(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                ended = self.running.next() => {
                    if let Some(invocation) = ended {
                        self.conclude(invocation);
                    }
                }
                () = wake => {}
            }
        }
    }

    fn elapsed(&self) -> Duration {
        self.simulation.time.elapsed()
    }

    /// When the mapping sees a record, as time since the start.
    fn seen(&self, incoming: &Incoming) -> Duration {
        let now = self.simulation.time.now();
        match incoming.seen <= now {
            true => self.began,
            false => self.elapsed() + incoming.seen.since(now),
        }
    }

    fn next_wake(&self) -> Option<Duration> {
        let batchers = self.batchers.iter();
        let own = batchers.filter_map(|batcher| batcher.wakes(|incoming| self.seen(incoming)));
        own.chain(self.strays.iter().map(|stray| stray.due)).min()
    }

    fn begin_what_is_due(&mut self) {
        let elapsed = self.elapsed();
        for at in 0..self.batchers.len() {
            let wakes = self.batchers[at].wakes(|incoming| self.seen(incoming));
            if wakes.is_some_and(|wakes| wakes <= elapsed) {
                self.begin_batch(at);
            }
        }
        let (due, later) = std::mem::take(&mut self.strays)
            .into_iter()
            .partition(|stray| stray.due <= elapsed);
        self.strays = later;
        let due: Vec<Stray> = due;
        for Stray { records, race, .. } in due {
            // A poller can deliver what it has read even after the stream dropped it.
            let now = self.simulation.time.now();
            let records: Records = records
                .into_iter()
                .filter(|incoming| now.since(incoming.created) < RETENTION + STALL)
                .collect();
            if records.is_empty() {
                continue;
            }
            match race {
                true => self.delivery.met.raced += 1,
                false => self.delivery.met.again += 1,
            }
            let batch = Batch {
                records,
                attempts: 0,
            };
            self.invoke(Asker::Nobody, batch);
        }
    }

    /// Invokes the function with the batcher's next batch, unless the batch is empty by now.
    fn begin_batch(&mut self, at: usize) {
        let mut batch = match self.batchers[at].again.pop_front() {
            Some(batch) => batch,
            None => self.next_batch(at),
        };
        let now = self.simulation.time.now();
        let maximum = self.simulation.mapping.maximum_record_age;
        batch.records.retain(|incoming| {
            let age = now.since(incoming.created);
            let given_up = match maximum {
                _ if age > RETENTION => &mut self.delivery.trimmed,
                Some(maximum) if age > maximum => &mut self.delivery.on_failure,
                _ => return true,
            };
            // A record that was acknowledged before the checkpoint moved back is not lost.
            if !self.done.contains(&number_of(incoming)) {
                given_up.push(incoming.record.clone());
            }
            false
        });
        if batch.records.is_empty() {
            return;
        }
        self.batchers[at].busy = true;
        if self.happens(self.simulation.trouble.race) {
            self.plan_race(at, &batch.records);
        }
        self.invoke(Asker::Batcher(at), batch);
    }

    /// Usually as many visible records as fit: a poller takes what is there when it polls.
    fn next_batch(&mut self, at: usize) -> Batch {
        let now = self.simulation.time.now();
        let queue = &self.batchers[at].queue;
        let there = queue.iter().take_while(|incoming| incoming.seen <= now);
        let most = there.count().min(self.simulation.mapping.batch_size);
        let size = match self.rng.bool() {
            true => most,
            false => self.rng.usize(1..=most.max(1)),
        };
        let queue = &mut self.batchers[at].queue;
        Batch {
            records: queue.drain(..size.min(queue.len())).collect(),
            attempts: 0,
        }
    }

    /// Plans a second poller that takes the same records, or some of them and later ones.
    fn plan_race(&mut self, at: usize, records: &[Rc<Incoming>]) {
        let now = self.simulation.time.now();
        let mut records: Records = match self.rng.bool() {
            true => records.to_vec(),
            false => records[self.rng.usize(..records.len())..].to_vec(),
        };
        let room = self.simulation.mapping.batch_size - records.len();
        let following = self.batchers[at].queue.iter();
        let following = following
            .take_while(|incoming| incoming.seen <= now)
            .take(self.rng.usize(0..=room));
        records.extend(following.cloned());
        // Usually at the same time. If the first invocation has ended by then, it is a late
        // repetition.
        let due = self.elapsed() + Duration::from_millis(self.rng.u64(0..=200));
        self.strays.push(Stray {
            due,
            records,
            race: true,
        });
    }

    /// Any of the idle processes, including one that has been idle for long and has old knowledge.
    fn idle(&mut self) -> Option<E> {
        let at = self.rng.usize(..self.idle.len().max(1));
        (at < self.idle.len()).then(|| self.idle.swap_remove(at))
    }

    fn invoke(&mut self, asker: Asker, batch: Batch) {
        let trouble = self.simulation.trouble;
        let timeout = self.simulation.mapping.timeout;
        let process = match self.idle() {
            Some(idle) if !self.happens(trouble.fresh) => idle,
            _ => {
                self.delivery.met.processes += 1;
                (self.start)()
            }
        };
        if self.happens(trouble.kill) {
            process.kill_after(self.rng.usize(1..=KILLED_WITHIN));
        }
        let cut = match self.happens(trouble.cut) {
            // Most invocations take milliseconds, some minutes: every order of magnitude is equally
            // likely.
            true => Duration::from_secs_f64(10f64.powf(self.rng.f64() * 5.0 - 3.0)).min(timeout),
            false => timeout,
        };
        let mut event = Event::default();
        for incoming in &batch.records {
            if !self.delivered.insert(number_of(incoming)) {
                self.delivery.met.redelivered += 1;
            }
            event.records.push(incoming.record.clone());
        }
        self.delivery.met.invocations += 1;
        let time = self.simulation.time.clone();
        self.running.push(Box::pin(async move {
            let work = time.within(cut, process.invoke(event, timeout));
            let ended = tokio::select! {
                biased;
                () = process.killed() => Ended::Killed,
                answer = work => match answer {
                    None => Ended::TimedOut,
                    Some(Ok(response)) => Ended::Answered(response),
                    Some(Err(error)) => Ended::Failed(error),
                },
            };
            let lives = !matches!(ended, Ended::Killed | Ended::TimedOut);
            Invocation {
                asker,
                batch,
                ended,
                process: lives.then_some(process),
            }
        }));
    }

    fn conclude(&mut self, invocation: Invocation<E>) {
        let Invocation {
            asker,
            batch,
            mut ended,
            process,
        } = invocation;
        self.idle.extend(process);
        let met = &mut self.delivery.met;
        match &ended {
            Ended::Killed => met.killed += 1,
            Ended::TimedOut => met.timed_out += 1,
            Ended::Failed(error) => {
                met.errors += 1;
                self.delivery.last_error = Some(error.to_string());
            }
            Ended::Answered(_) => {}
        }
        let Asker::Batcher(at) = asker else { return };
        if matches!(ended, Ended::Answered(_)) && self.happens(self.simulation.trouble.lost_answer)
        {
            self.delivery.met.lost_answers += 1;
            ended = Ended::Failed("the answer was lost".into());
        }
        self.batchers[at].busy = false;
        let done = match &ended {
            Ended::Answered(response) => self.acknowledged_by(response, &batch.records),
            Ended::Failed(_) | Ended::Killed | Ended::TimedOut => 0,
        };
        let Batch {
            mut records,
            attempts,
        } = batch;
        let left = records.split_off(done);
        if left.is_empty() && self.happens(self.simulation.trouble.again) {
            self.plan_repetition(records.clone());
        }
        self.acknowledge(at, records);
        if left.is_empty() {
            if self.happens(self.simulation.trouble.regroup) {
                self.fall_back(at);
            }
        } else if done > 0 {
            self.delivery.met.partial += 1;
            self.retry(at, left, 0);
        } else {
            let answered = matches!(ended, Ended::Answered(_));
            self.try_again(at, left, attempts, answered);
        }
    }

    /// How many records, counted from the first, the answer acknowledges.
    fn acknowledged_by(&self, response: &DynamoDbEventResponse, records: &[Rc<Incoming>]) -> usize {
        if !self.simulation.mapping.report_batch_item_failures {
            return records.len();
        }
        let mut failed = Vec::new();
        for failure in &response.batch_item_failures {
            let name = failure.item_identifier.as_deref().unwrap_or_default();
            let place = records.iter().position(|incoming| {
                incoming.record.change.sequence_number.as_deref() == Some(name)
            });
            match place {
                Some(place) => failed.push((number_of(&records[place]), place)),
                // The id is not in the batch, so the whole batch has failed.
                None => return 0,
            }
        }
        failed
            .into_iter()
            .min()
            .map_or(records.len(), |(_, place)| place)
    }

    fn acknowledge(&mut self, at: usize, records: Records) {
        self.done
            .extend(records.iter().map(|incoming| number_of(incoming)));
        let batcher = &mut self.batchers[at];
        batcher.acknowledged.extend(records);
        let keep = 2 * self.simulation.mapping.batch_size.min(50);
        let forget = batcher.acknowledged.len().saturating_sub(keep);
        batcher.acknowledged.drain(..forget);
    }

    fn plan_repetition(&mut self, records: Records) {
        let now = self.simulation.time.now();
        let oldest = records.iter().map(|incoming| now.since(incoming.created));
        let most = match self.rng.u8(..4) {
            0..=1 => Duration::ZERO,
            2 => STALL,
            // As long as the stream keeps it, as when the mapping is created again.
            _ => RETENTION.saturating_sub(oldest.max().unwrap_or_default()),
        };
        self.strays.push(Stray {
            due: self.elapsed() + most.mul_f64(self.rng.f64()),
            records,
            race: false,
        });
    }

    /// Moves the checkpoint back. The records after it are delivered again in new batches.
    fn fall_back(&mut self, at: usize) {
        let batcher = &mut self.batchers[at];
        if batcher.acknowledged.is_empty() || !batcher.again.is_empty() {
            return;
        }
        let from = self.rng.usize(..batcher.acknowledged.len());
        for incoming in batcher.acknowledged.drain(from..).rev() {
            batcher.queue.push_front(incoming);
        }
        self.delivery.met.regrouped += 1;
    }

    /// Prepares the next attempt after one that acknowledged nothing.
    fn try_again(&mut self, at: usize, mut records: Records, attempts: u32, answered: bool) {
        let mapping = &self.simulation.mapping;
        // An answer says where to continue. Only a function error splits the batch.
        if mapping.bisect_batch_on_function_error && !answered && records.len() > 1 {
            self.delivery.met.bisected += 1;
            let second = records.split_off(records.len() / 2);
            self.retry(at, second, attempts);
            return self.retry(at, records, attempts);
        }
        if mapping
            .maximum_retry_attempts
            .is_some_and(|most| attempts >= most)
        {
            let given_up = records.iter().map(|incoming| incoming.record.clone());
            return self.delivery.on_failure.extend(given_up);
        }
        self.retry(at, records, attempts + 1);
    }

    fn retry(&mut self, at: usize, records: Records, attempts: u32) {
        let wait = FIRST_WAIT.saturating_mul(2u32.saturating_pow(attempts));
        let batcher = &mut self.batchers[at];
        batcher.not_before = self.simulation.time.elapsed() + wait.min(LONGEST_WAIT);
        batcher.again.push_front(Batch { records, attempts });
    }

    fn happens(&mut self, probability: f64) -> bool {
        self.rng.f64() < probability
    }
}

fn number_of(incoming: &Incoming) -> SequenceNumber {
    let digits = incoming.record.change.sequence_number.as_deref();
    match SequenceNumber::new(digits.unwrap_or_default()) {
        Ok(number) => number,
        Err(error) => panic!("a record of a stream has a sequence number: {error}"),
    }
}

/// A hash that is the same for every change of an item.
fn item_hash(incoming: &Incoming) -> u64 {
    let mut hasher = DefaultHasher::new();
    murmur_core::item_id(&incoming.record.change.keys)
        .as_str()
        .hash(&mut hasher);
    hasher.finish()
}
