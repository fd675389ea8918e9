//! The source, the place of positions and the handler of one process, each with trouble of its
//! own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use futures::future::BoxFuture;
use murmur_lambda_ddbstreams::Handler;
use murmur_state::checkpoint::{Checkpoint, Removed, Saved};
use murmur_state::error::Place;
use murmur_state::{Checkpoints, EventHandler, HandlerError, Repeats, SequenceNumber, StoreError};
use murmur_streams::source::{Cursor, ReadBatch, Start, StreamDescription};
use murmur_streams::{
    DynamoDbEventResponse, Event, FailedBatch, StoreSource, StreamError, StreamSource,
    report_failures,
};

use crate::plan::{Life, NoAccess, within};
use crate::world::{ARN, Row, Saver, World};

const SECOND: Duration = Duration::from_secs(1);

/// Empty answers in a row, at most.
pub(crate) const FEIGNED: u32 = 2;

/// What a process is, and its dice.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) world: Arc<World>,
    pub(crate) life: Arc<Life>,
    dice: Arc<Mutex<Rng>>,
}

impl Process {
    pub(crate) fn new(world: Arc<World>, life: Life) -> Self {
        let seed = world.plan.seed.wrapping_mul(1_000_003) ^ life.number;
        Self {
            world,
            life: Arc::new(life),
            dice: Arc::new(Mutex::new(Rng::with_seed(seed))),
        }
    }

    fn dice<T>(&self, roll: impl FnOnce(&mut Rng) -> T) -> T {
        roll(&mut self.dice.lock().unwrap())
    }

    /// Whether trouble of one kind comes now; counts it.
    fn trouble(&self, kind: &'static str) -> bool {
        let comes = self.dice(|rng| rng.f64()) < self.life.trouble;
        if comes {
            self.world.met(kind);
        }
        comes
    }

    /// Why a call fails now, whatever it is, if a spell is on; counts it.
    fn no_access(&self) -> Option<NoAccess> {
        let now = self.world.time.elapsed();
        let spell = self
            .life
            .spell
            .filter(|spell| (spell.from..spell.until).contains(&now))?;
        self.world.met(match spell.why {
            NoAccess::Unsigned => "calls without credentials",
            NoAccess::Refused => "calls with refused credentials",
        });
        Some(spell.why)
    }

    /// The same of a call to a store.
    fn kept_out(&self) -> Result<(), StoreError> {
        match self.no_access() {
            None => Ok(()),
            Some(NoAccess::Unsigned) => Err(unavailable(false)),
            Some(NoAccess::Refused) => Err(StoreError::Setup {
                place: place(),
                advice: "the credentials were refused; renew them".to_owned(),
                source: None,
            }),
        }
    }

    async fn delay(&self, seldom: Duration) {
        let delay = self.dice(|rng| match rng.u8(..20) {
            _ if self.life.trouble == 0.0 => Duration::ZERO,
            0 => within(rng, SECOND, seldom),
            1..=5 => within(rng, Duration::from_millis(1), SECOND),
            _ => Duration::ZERO,
        });
        if !delay.is_zero() {
            self.world.time.sleep(delay).await;
        }
    }

    /// Takes what is given up, if it is in the mood.
    pub(crate) async fn take(
        self,
        handler: Handler<Row>,
        batch: FailedBatch,
    ) -> Result<(), HandlerError> {
        self.world.failed(&self.life, &batch);
        self.delay(2 * SECOND).await;
        if self.no_access().is_some() || self.trouble("callback failed") {
            return Err("the queue is full".into());
        }
        let FailedBatch { records, .. } = batch;
        if self.world.plan.mended {
            let mut event = Event::default();
            event.records.clone_from(&records);
            handler.call(event).await?;
            self.world.applied(&records);
            self.world.met("given up and applied");
        }
        self.world.given_up(&records);
        Ok(())
    }
}

pub(crate) struct Source {
    pub(crate) process: Process,
    pub(crate) inner: StoreSource,
    /// Empty answers in a row, by shard.
    pub(crate) feigned: Mutex<HashMap<String, u32>>,
}

impl Source {
    fn fail(&self) -> Result<(), StreamError> {
        let (arn, source) = (ARN.to_owned(), None);
        match self.process.no_access() {
            None => {}
            Some(NoAccess::Unsigned) => return Err(StreamError::Unavailable { arn, source }),
            Some(NoAccess::Refused) => return Err(StreamError::Denied { arn, source }),
        }
        if self.process.trouble("reads failed") {
            return Err(StreamError::Unavailable { arn, source });
        }
        if self.process.trouble("throttles") {
            return Err(StreamError::Throttled { arn, source });
        }
        Ok(())
    }

    /// An iterator that gave no record yet and has expired is for the trigger to judge.
    async fn ask(
        &self,
        shard: &str,
        from: &Cursor,
        limit: usize,
    ) -> Result<ReadBatch, StreamError> {
        let asked = self.inner.read(shard, from, limit).await;
        if matches!(asked, Err(StreamError::IteratorExpired { .. })) {
            self.process.world.met("iterators expired");
        }
        asked
    }

    /// A place that stays where it is while records come and go.
    async fn fixed(&self, shard: &str, from: &Cursor) -> Result<Option<Cursor>, StreamError> {
        Ok(match from {
            Cursor::Start(Start::TrimHorizon) => {
                let oldest = self.inner.read(shard, from, 1).await?.records;
                let number = oldest
                    .first()
                    .and_then(|r| r.change.sequence_number.clone());
                number.map(|number| Start::At(SequenceNumber::new(number).unwrap()).into())
            }
            other => Some(other.clone()),
        })
    }
}

impl StreamSource for Source {
    async fn describe(&self) -> Result<StreamDescription, StreamError> {
        self.process.delay(5 * SECOND).await;
        self.fail()?;
        self.inner.describe().await
    }

    async fn read(
        &self,
        shard: &str,
        from: &Cursor,
        limit: usize,
    ) -> Result<ReadBatch, StreamError> {
        let Process { world, life, .. } = &self.process;
        self.process.delay(5 * SECOND).await;
        self.fail()?;
        let (read_at, mut answered) = (world.time.now(), false);
        let feigned = *self
            .feigned
            .lock()
            .unwrap()
            .entry(shard.to_owned())
            .or_default();
        let batch = if feigned < FEIGNED
            && self.process.trouble("empty reads")
            && let Some(place) = self.fixed(shard, from).await?
        {
            // Still fails for what is trimmed.
            self.ask(shard, &place, 1).await?;
            *self
                .feigned
                .lock()
                .unwrap()
                .entry(shard.to_owned())
                .or_default() += 1;
            ReadBatch::new(Vec::new(), Some(place))
        } else {
            let limit = match self.process.trouble("short reads") {
                true => self.process.dice(|rng| rng.usize(1..=3)),
                false => limit,
            };
            let batch = self.ask(shard, from, limit).await?;
            self.feigned.lock().unwrap().remove(shard);
            answered = true;
            batch
        };
        self.process.delay(5 * SECOND).await;
        if answered {
            world.read(life, shard, read_at);
        }
        Ok(batch)
    }
}

pub(crate) struct Places {
    pub(crate) process: Process,
}

fn place() -> Place {
    Place::table("MemoryDeduper", "positions")
}

fn unavailable(may_have_applied: bool) -> StoreError {
    StoreError::Unavailable {
        place: place(),
        may_have_applied,
        source: None,
    }
}

impl Checkpoints for Places {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        Box::pin(async move {
            self.process.delay(5 * SECOND).await;
            self.process.kept_out()?;
            if self.process.trouble("loads failed") {
                return Err(unavailable(false));
            }
            let loaded = self.process.world.places.load(name).await;
            self.process.delay(5 * SECOND).await;
            loaded
        })
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        let Process { world, life, .. } = &self.process;
        Box::pin(async move {
            // At times longer than the lease.
            self.process.delay(2 * life.lease).await;
            self.process.kept_out()?;
            if self.process.trouble("saves failed") {
                return Err(unavailable(false));
            }
            let lost = self.process.trouble("saves with the answer lost");
            if lost && self.process.dice(|rng| rng.u8(..4)) == 0 {
                world.met("saves that came late");
                let wait = self.process.dice(|rng| within(rng, SECOND, 60 * SECOND));
                let (world, name) = (Arc::clone(world), name.to_owned());
                let (data, clock) = (data.to_owned(), world.time.clock(life.skew));
                tokio::spawn(async move {
                    world.time.sleep(wait).await;
                    let saved = world.places.save(&name, &data, over).await.unwrap();
                    let accepted = matches!(saved, Saved::Version(_));
                    world.saved(Saver::Late, clock.now(), &name, &data, accepted);
                });
                return Err(unavailable(true));
            }
            let saved = world.places.save(name, data, over).await?;
            let accepted = matches!(saved, Saved::Version(_));
            let now = world.time.clock(life.skew).now();
            world.saved(Saver::Life(life.number), now, name, data, accepted);
            if lost {
                return Err(unavailable(true));
            }
            self.process.delay(5 * SECOND).await;
            Ok(saved)
        })
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        Box::pin(async move {
            self.process.delay(5 * SECOND).await;
            self.process.kept_out()?;
            let removed = self.process.world.places.remove(name, over).await?;
            match self.process.trouble("saves with the answer lost") {
                true => Err(unavailable(true)),
                false => Ok(removed),
            }
        })
    }
}

/// The real handler, and what may happen around it.
pub(crate) struct Wrapped {
    pub(crate) process: Process,
    pub(crate) inner: Handler<Row>,
}

impl EventHandler<Event> for Wrapped {
    type Answer = DynamoDbEventResponse;

    async fn handle(
        &self,
        event: &mut Event,
        shard: &str,
    ) -> Result<DynamoDbEventResponse, HandlerError> {
        let Process { world, life, .. } = &self.process;
        let records = &event.records;
        world.delivered(life, shard, records);
        self.process.delay(2 * SECOND).await;
        if self.process.no_access().is_some() {
            return Err("the store lets nobody in".into());
        }
        if self.process.trouble("handler failed before") {
            return Err("the database is on fire".into());
        }
        let all = records.len();
        let poison = records.iter().position(|record| world.is_poison(record));
        if poison.is_some() && self.process.dice(|rng| rng.bool()) {
            return Err("a record of this batch is too much".into());
        }
        let mut good = poison.unwrap_or(all);
        if self.process.trouble("partial answers") {
            good = self.process.dice(|rng| rng.usize(..=good));
        }
        if good > 0 {
            let mut part = Event::default();
            part.records = records[..good].to_vec();
            let answer = EventHandler::handle(&self.inner, &mut part, shard).await?;
            assert_eq!(answer.batch_item_failures.len(), 0, "{answer:?}");
            assert_eq!(part.records, records[..good], "not as it was lent");
            world.applied(&records[..good]);
        }
        if self.process.trouble("slow calls") {
            let wait = self.process.dice(|rng| within(rng, SECOND, 2 * life.lease));
            world.time.sleep(wait).await;
        }
        if self.process.trouble("handler failed after") {
            return Err("the answer is lost".into());
        }
        if self.process.trouble("partial after applying") {
            good = self.process.dice(|rng| rng.usize(..=good));
        }
        if good < all && self.process.trouble("unknown identifiers") {
            return Ok(report_failures(["nothing of this batch"]));
        }
        world.done(&records[..good]);
        let mut failed = records[good..].to_vec();
        self.process.dice(|rng| rng.shuffle(&mut failed));
        let lowest = records.get(good).map(|record| &record.event_id);
        failed.retain(|record| {
            Some(&record.event_id) == lowest || self.process.dice(|rng| rng.bool())
        });
        let numbers = failed.into_iter().filter_map(|r| r.change.sequence_number);
        Ok(report_failures(numbers))
    }

    fn repeats(&self) -> Repeats {
        EventHandler::repeats(&self.inner)
    }
}
