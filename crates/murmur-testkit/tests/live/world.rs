//! The table, its stream, and what is known of every record; judges each delivery and each save
//! when it happens.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use fastrand::Rng;
use murmur_core::{Count, Pipeline, Processor, Sum};
use murmur_lambda_ddbstreams::Handler;
use murmur_state::{Clock, MemoryDeduper, MemoryStore, PipelineName, SequenceNumber, Timestamp};
use murmur_streams::{
    EventRecord, FailedBatch, FailureCondition, Item, OperationType, Status, StreamInfo,
    StreamRecord, StreamStore, StreamViewType, Summary, TriggerError,
};
use murmur_testkit::time::Time;
use serde::{Deserialize, Serialize};

use crate::met::Met;
use crate::plan::{Act, Life, Plan, Trims, Way};

pub(crate) const ARN: &str = "arn:aws:dynamodb:eu-west-1:1:table/orders/stream/label";
/// What the triggers' positions are kept under.
pub(crate) const NAME: &str = "live";

/// How long a run that failed may take to leave its shards.
const LEAVES: Duration = Duration::from_secs(60);
const START: Timestamp = Timestamp::from_secs(1_800_000_000);
const STREAM_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How old an event may be for the handler to recognise it.
const EVENT_LIFE: Duration = Duration::from_secs(24 * 3600 + 30 * 60);

/// Something that is not as it should be: its kind, and what it is about.
pub(crate) type Wrong = (&'static str, String);

/// An item of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    id: String,
    customer: String,
    amount: i64,
}

/// What is known of a record.
struct Change {
    item: usize,
    /// Its place among the item's changes.
    nth: usize,
    number: SequenceNumber,
    put_at: Timestamp,
    before: Option<Row>,
    after: Option<Row>,
    poison: bool,
    deliveries: u32,
    /// Whether a pipeline has it.
    applied: bool,
    /// Whether the handler answered so, or it was given up.
    done: bool,
    given_up: bool,
}

#[derive(Default)]
struct Shard {
    parent: Option<String>,
    /// In order.
    changes: Vec<usize>,
    /// The first of them that is not done.
    settled: usize,
    /// The highest position saved.
    position: Option<SequenceNumber>,
    /// Who saved its position last.
    saver: Option<Saver>,
    owner: Option<String>,
    /// When its lease ends.
    until: Option<Timestamp>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Saver {
    Life(u64),
    /// A request that arrived when nobody waited for it.
    Late,
}

#[derive(Default)]
struct State {
    table: Vec<Option<Row>>,
    changes: Vec<Change>,
    by_event: HashMap<String, usize>,
    by_item: Vec<Vec<usize>>,
    shards: BTreeMap<String, Shard>,
    /// The shards by the names of their positions.
    names: HashMap<String, String>,
    open: Vec<String>,
    /// When the last read that was answered was made, and answered.
    asked: HashMap<(u64, String), (Timestamp, Timestamp)>,
    /// Which processes ever held which shards.
    held: HashSet<(u64, String)>,
    gaps: u64,
    outcome: Option<Result<(), TriggerError>>,
    wrong: Vec<Wrong>,
    met: Met,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) time: Time,
    pub(crate) store: StreamStore,
    pub(crate) places: MemoryDeduper,
    sums: MemoryStore<Sum>,
    counts: MemoryStore<Count>,
    markers: MemoryDeduper,
    /// When reading was begun: what was trimmed by then nobody asked for.
    begun: OnceLock<Timestamp>,
    state: Mutex<State>,
}

#[derive(Deserialize)]
struct Saved {
    at: At,
    owner: Option<String>,
    until: Option<Timestamp>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum At {
    Begun,
    From(SequenceNumber),
    After(SequenceNumber),
    Ended,
}

impl World {
    pub(crate) fn new(plan: Plan) -> Self {
        let time = Time::paused(START.plus(Duration::from_millis(plan.seed % 5_000)));
        let store = StreamStore::with_clock(time.clock(0));
        let info = StreamInfo::new(ARN, StreamViewType::NewAndOldImages);
        store
            .register_stream_with_shards(info, plan.shards)
            .unwrap();
        let items = plan.items as usize;
        let world = Self {
            store,
            places: MemoryDeduper::with_ttl(STREAM_LIFE, time.clock(0)),
            sums: MemoryStore::new(Sum::new()),
            counts: MemoryStore::new(Count::new()),
            markers: MemoryDeduper::with_ttl(STREAM_LIFE, time.clock(0)),
            state: Mutex::new(State {
                table: vec![None; items],
                by_item: vec![Vec::new(); items],
                ..State::default()
            }),
            begun: match plan.handoff {
                true => OnceLock::from(time.now()),
                false => OnceLock::new(),
            },
            time,
            plan,
        };
        let opened = world.store.describe_stream(ARN).unwrap().shards;
        for shard in opened {
            world.lock().opened(shard.id, None);
        }
        world
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn met(&self, kind: &'static str) {
        self.lock().met.add(kind, 1);
    }

    pub(crate) fn wrong(&self, kind: &'static str, what: impl ToString) {
        self.lock().wrong(kind, what);
    }

    /// The handler a user would write.
    pub(crate) fn handler(&self, clock: std::sync::Arc<dyn Clock>) -> Handler<Row> {
        let sums: Pipeline<Row> = Pipeline::builder("sums")
            .key(|row: &Row| row.customer.clone())
            .value(|row: &Row| row.amount)
            .aggregate(Sum::new())
            .retract()
            .store(self.sums.clone().markers(self.markers.clone()))
            .exactly_once()
            .unwrap();
        let counts: Pipeline<Row> = Pipeline::builder("counts")
            .key(|row: &Row| row.customer.clone())
            .count()
            .retract()
            .store(self.counts.clone().markers(self.markers.clone()))
            .exactly_once()
            .unwrap();
        Handler::new(
            Processor::builder([sums, counts])
                .clock(clock)
                .build()
                .unwrap(),
        )
    }

    /// Writes to the table as planned, until nothing is left to do.
    pub(crate) async fn write(&self) {
        let rng = &mut Rng::with_seed(self.plan.seed ^ 0x0057_5249_5445);
        for (at, act) in &self.plan.acts {
            self.time.reached(*at).await;
            let open = self.lock().open.clone();
            let shard = &open[rng.usize(..open.len())];
            // More shards than that make runs slow, and nothing else.
            let act = match act {
                Act::Split | Act::RollOver if open.len() > 5 => Act::RollOverShard,
                other => *other,
            };
            match act {
                Act::Change => self.change(rng),
                cut => self.cut(cut, shard),
            }
        }
    }

    /// Closes shards, and opens their children.
    pub(crate) fn cut(&self, how: Act, shard: &str) {
        let kind = match how {
            Act::Change => return,
            Act::Split => {
                self.store.split(ARN, shard).unwrap();
                "splits"
            }
            Act::RollOverShard => {
                self.store.roll_over_shard(ARN, shard).unwrap();
                "roll-overs"
            }
            Act::RollOver => {
                self.store.roll_over(ARN).unwrap();
                "roll-overs"
            }
        };
        let mut state = self.lock();
        state.met.add(kind, 1);
        for listed in self.store.describe_stream(ARN).unwrap().shards {
            if !state.shards.contains_key(&listed.id) {
                if let Some(parent) = &listed.parent {
                    state.closed(parent);
                }
                state.opened(listed.id, listed.parent.as_deref());
            }
        }
    }

    /// Changes an item, and puts that into the stream.
    fn change(&self, rng: &mut Rng) {
        let item = rng.usize(..self.plan.items as usize);
        let before = self.lock().table[item].clone();
        let removed = before.is_some() && rng.u8(..3) == 0;
        let row = Row {
            id: item.to_string(),
            customer: format!("customer-{}", rng.u8(..3)),
            amount: rng.i64(-50..1_000),
        };
        let after = (!removed).then_some(row);
        let image = |row: &Option<Row>| -> Item {
            let row = row.as_ref();
            row.map_or_else(Item::default, |row| serde_dynamo::to_item(row).unwrap())
        };
        let nth = self.lock().by_item[item].len();
        let event_id = format!("event-{item}-{nth}");
        let key = serde_dynamo::to_item(BTreeMap::from([("id", item.to_string())]));
        let number = self.store.put_record(StreamRecord {
            stream_arn: ARN.to_owned(),
            event_id: event_id.clone(),
            event_name: match (&before, &after) {
                (None, _) => OperationType::Insert,
                (_, None) => OperationType::Remove,
                _ => OperationType::Modify,
            },
            keys: key.unwrap(),
            old_image: image(&before),
            new_image: image(&after),
            ..StreamRecord::default()
        });
        let mut state = self.lock();
        let count = |shard: &str| self.store.shard_record_count(ARN, shard).unwrap();
        let mut open = state.open.iter();
        let shard = open.find(|shard| count(shard) > state.shards[*shard].changes.len());
        let shard = shard.unwrap().clone();
        let at = state.changes.len();
        let poison = self.plan.poison && rng.u8(..20) == 0;
        state.table[item].clone_from(&after);
        state.changes.push(Change {
            item,
            nth,
            number: number.unwrap(),
            put_at: self.time.now(),
            before,
            after,
            poison,
            deliveries: 0,
            applied: false,
            done: false,
            given_up: false,
        });
        state.by_event.insert(event_id, at);
        state.by_item[item].push(at);
        state.shards.get_mut(&shard).unwrap().changes.push(at);
        state.met.add("changes", 1);
    }

    /// A batch is handed to a handler.
    pub(crate) fn delivered(&self, life: &Life, shard: &str, records: &[EventRecord]) {
        let mut state = self.lock();
        let at = self.places(&state, shard, records);
        if records.is_empty() || records.len() > life.batch_size {
            state.wrong("a batch of a size not asked for", records.len());
        }
        if at.windows(2).any(|pair| pair[0] >= pair[1]) {
            state.wrong("a batch out of order", shard);
        }
        if let Some(parent) = state.unfinished_ancestor(shard, self) {
            state.wrong("a child delivered before its parent was done", parent);
        }
        for (place, change) in at.iter().enumerate() {
            let Change { item, nth, .. } = state.changes[*change];
            let missing = state.by_item[item][..nth]
                .iter()
                .filter(|earlier| !self.is_settled(&state.changes[**earlier]))
                .find(|earlier| !at[..place].contains(earlier));
            if let Some(earlier) = missing.copied() {
                let earlier = state.changes[earlier].nth;
                state.wrong(
                    "a change delivered before an earlier one was done",
                    format!("{nth} of item {item} before {earlier}"),
                );
            }
            let change = &mut state.changes[*change];
            change.deliveries += 1;
            if change.deliveries > 1 {
                state.met.add("redelivered records", 1);
            }
        }
        let saver = state.shards[shard].saver;
        let held = state.held.contains(&(life.number, shard.to_owned()));
        if held && saver != Some(Saver::Life(life.number)) {
            state.met.add("zombie deliveries", 1);
        }
    }

    pub(crate) fn is_poison(&self, record: &EventRecord) -> bool {
        let state = self.lock();
        state.changes[state.by_event[&record.event_id]].poison
    }

    /// The pipelines have these records.
    pub(crate) fn applied(&self, records: &[EventRecord]) {
        let mut state = self.lock();
        for record in records {
            let at = state.by_event[&record.event_id];
            if std::mem::replace(&mut state.changes[at].applied, true) {
                state.met.add("duplicates recognised", 1);
            }
        }
    }

    /// The handler answers that these records are done.
    pub(crate) fn done(&self, records: &[EventRecord]) {
        let mut state = self.lock();
        for record in records {
            let at = state.by_event[&record.event_id];
            state.changes[at].done = true;
        }
    }

    /// A batch is handed to `on_failure`.
    pub(crate) fn failed(&self, life: &Life, batch: &FailedBatch) {
        let FailedBatch {
            shard,
            start_sequence_number,
            end_sequence_number,
            records,
            condition,
            ..
        } = batch;
        let mut state = self.lock();
        let at = self.places(&state, shard, records);
        let number = |at: Option<&usize>| at.map(|at| state.changes[*at].number.to_string());
        let numbers = (number(at.first()), number(at.last()));
        let named = (Some(start_sequence_number), Some(end_sequence_number));
        if (numbers.0.as_ref(), numbers.1.as_ref()) != named {
            state.wrong("given up under other numbers", shard);
        }
        match condition {
            FailureCondition::RetryAttemptsExhausted { retries, .. } => {
                if life.attempts.is_none_or(|attempts| *retries < attempts) {
                    state.wrong("given up before its retries were used", retries);
                }
            }
            _ => {
                let now = self.time.clock(life.skew).now();
                let age = |at: &usize| now.since(state.changes[*at].put_at);
                if !at.iter().all(|at| age(at) + SECOND > EVENT_LIFE) {
                    state.wrong("given up for an age they do not have", shard);
                }
                state.met.add("given up for age", at.len() as u64);
            }
        }
    }

    /// `on_failure` has taken a batch.
    pub(crate) fn given_up(&self, records: &[EventRecord]) {
        let mut state = self.lock();
        for record in records {
            let at = state.by_event[&record.event_id];
            let change = &mut state.changes[at];
            (change.done, change.given_up) = (true, true);
            state.met.add("given up", 1);
        }
    }

    /// A position was saved, or not because of somebody else's save; it is `now` by the clock
    /// of whoever saved.
    pub(crate) fn saved(&self, by: Saver, now: Timestamp, name: &str, data: &str, accepted: bool) {
        let mut state = self.lock();
        let Some(shard) = state.names.get(name).cloned() else {
            self.begun.get_or_init(|| self.time.now());
            return;
        };
        let Saved { at, owner, until } = serde_json::from_str(data).unwrap();
        if !accepted {
            // A run that gave up on a save cannot know whether it was made when it leaves.
            let renewed = owner.is_some() && by != Saver::Late;
            if renewed && state.shards[&shard].saver == Some(by) {
                state.wrong("a reader lost a shard to itself", &shard);
            }
            if let Saver::Life(life) = by
                && state.held.contains(&(life, shard))
            {
                state.met.add("zombie saves refused", 1);
            }
            return;
        }
        if let Some(parent) = state.unfinished_ancestor(&shard, self) {
            state.wrong("a position before the parent is done", parent);
        }
        let first = state.settle(&shard, self);
        let known = &state.shards[&shard];
        let ahead = known.changes.get(first).is_some_and(|first| match &at {
            At::Begun => false,
            At::From(number) => *number > state.changes[*first].number,
            At::After(number) => *number >= state.changes[*first].number,
            At::Ended => true,
        });
        if ahead {
            state.wrong("a position ahead of what is done", &shard);
        }
        if matches!(at, At::Ended) && state.open.contains(&shard) {
            state.wrong("an open shard is said to have ended", &shard);
        }
        if let Saver::Life(life) = by {
            state.held.insert((life, shard.clone()));
        }
        let known = state.shards.get_mut(&shard).unwrap();
        let other = known.saver.is_some_and(|saver| saver != by);
        let taken = other && known.owner.is_none() && owner.is_some();
        known.saver = Some(by);
        let goes_back = match at {
            At::Begun | At::From(_) => known.position.is_some(),
            At::After(number) => {
                let number = Some(number);
                let back = number < known.position;
                known.position = number.max(known.position.take());
                back
            }
            At::Ended => false,
        };
        let before = std::mem::replace(&mut known.owner, owner);
        let lease = std::mem::replace(&mut known.until, until);
        if taken {
            state.met.add("shards taken that others gave up", 1);
        }
        let known = state.shards.get_mut(&shard).unwrap();
        if before.is_some() && known.owner.is_some() && before != known.owner {
            state.met.add("takeovers", 1);
            if lease > Some(now) {
                state.wrong("a lease taken that had not ended", &shard);
            }
        }
        if goes_back {
            state.wrong("a position goes back", &shard);
        }
    }

    /// A read was answered that was made at `at`.
    pub(crate) fn read(&self, life: &Life, shard: &str, at: Timestamp) {
        let key = (life.number, shard.to_owned());
        let answered_at = self.time.now();
        self.lock().asked.insert(key, (at, answered_at));
    }

    /// A run has ended, or is dropped.
    pub(crate) fn ran(
        &self,
        life: &Life,
        summary: &Summary,
        outcome: Option<Result<(), TriggerError>>,
    ) {
        let mut state = self.lock();
        state.gaps += summary.gaps;
        for (kind, count) in [
            ("gaps continued", summary.gaps),
            ("batches", summary.batches),
            ("retries", summary.retries),
            ("bisections", summary.bisections),
            ("leases lost", summary.leases_lost),
            ("shards given up to others", summary.leases_given),
        ] {
            state.met.add(kind, count);
        }
        if let Some(Ok(())) = outcome
            && life.way == Way::Drain
        {
            state.met.add("drains", 1);
        }
        if let Some(Err(error)) = &outcome {
            let error = match error {
                TriggerError::GaveUp { source, .. } => source,
                error => error,
            };
            let nobody = life.attempts.is_some() && !life.on_failure;
            let now = self.time.elapsed();
            let struck = life
                .spell
                .is_some_and(|spell| (spell.from..=spell.until + LEAVES).contains(&now));
            let fails = |error: &TriggerError| struck || life.trouble > 0.0 && error.is_retryable();
            let (kind, allowed) = match error {
                TriggerError::RetriesExhausted { .. } => ("stopped: retries", nobody),
                TriggerError::RecordTooOld { .. } => (
                    "stopped: age",
                    !life.on_failure && self.plan.trims != Trims::Never,
                ),
                TriggerError::Gap { .. } => ("stopped: gap", self.plan.trims == Trims::Fail),
                TriggerError::Position { .. } => ("stopped: position", fails(error)),
                _ => ("stopped: stream", fails(error)),
            };
            state.met.add(kind, 1);
            if !allowed {
                state.wrong("a run ended with an error it should not", error);
            }
        }
        if life.number == 0 {
            state.outcome = outcome;
        }
    }

    /// Whether the lag a monitor shows can be true.
    pub(crate) fn watched(&self, life: &Life, status: &Status) {
        if life.skew <= 0 {
            // To a clock that is behind, the newest records have no age.
            return;
        }
        let (mut state, now) = (self.lock(), self.time.now());
        for shard in &status.shards {
            let key = (life.number, shard.shard.clone());
            let Some((at, answered_at)) = state.asked.get(&key).copied() else {
                continue;
            };
            if answered_at == now {
                // Not looked at yet.
                continue;
            }
            let changes = &state.shards[&shard.shard].changes;
            let behind = changes.iter().map(|change| &state.changes[*change]);
            let behind = behind.filter(|change| !self.is_settled(change));
            if shard.lag == Some(Duration::ZERO) && behind.clone().any(|c| c.put_at < at) {
                state.wrong("no lag shown, and records are not done", &shard.shard);
            }
        }
    }

    /// Whether every record that still can be is done.
    pub(crate) fn is_over(&self) -> bool {
        let state = self.lock();
        let mut changes = state.changes.iter();
        changes.all(|change| change.done || self.is_trimmed(change))
    }

    /// What is wrong at the end, and what was met.
    pub(crate) fn judge(&self, lag: Option<Duration>) -> (Vec<Wrong>, Met) {
        let mut state = self.lock();
        let left = state.changes.iter();
        let left = left.filter(|change| !change.done && !self.is_unasked(change));
        let (lost, left): (Vec<_>, Vec<_>) = left.partition(|change| self.is_trimmed(change));
        let (lost, left) = (lost.len() as u64, left.len());
        state.met.add("records trimmed unread", lost);
        let (trims, gaps) = (self.plan.trims, state.gaps);
        let stopped = match &state.outcome {
            Some(Ok(())) => None,
            Some(Err(error)) => Some(error.clone()),
            None => {
                state.wrong("the healthy reader does not catch up", "");
                None
            }
        };
        let gap = matches!(stopped, Some(TriggerError::Gap { .. }));
        if left > 0 && !gap {
            state.wrong("records that were never done", left);
        }
        let admitted = match trims {
            Trims::Never => false,
            Trims::Fail => gap,
            Trims::Continue => gaps > 0,
        };
        if lost > 0 && !admitted {
            state.wrong("records lost, and nobody said so", lost);
        }
        if trims == Trims::Never && gaps > 0 {
            state.wrong("gaps, and nothing was trimmed", gaps);
        }
        if stopped.is_none() && lag != Some(Duration::ZERO) {
            state.wrong("a lag at the end", format!("{lag:?}"));
        }
        self.recount(&mut state);
        (state.wrong.clone(), state.met.clone())
    }

    /// Each total must be the sum over what was applied, and that is the table if all was.
    fn recount(&self, state: &mut State) {
        let mut wanted: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        let mut add = |row: &Option<Row>, sign: i64| {
            if let Some(row) = row {
                let total = wanted.entry(row.customer.clone()).or_default();
                *total = (total.0 + sign * row.amount, total.1 + sign);
            }
        };
        if state.changes.iter().all(|change| change.applied) {
            state.table.iter().for_each(|row| add(row, 1));
        } else {
            for change in state.changes.iter().filter(|change| change.applied) {
                add(&change.before, -1);
                add(&change.after, 1);
            }
        }
        let mut found: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        for row in self.sums.rows() {
            found.entry(row.key.entity().to_owned()).or_default().0 = row.value;
        }
        for row in self.counts.rows() {
            found.entry(row.key.entity().to_owned()).or_default().1 = row.value;
        }
        wanted.retain(|_, total| *total != (0, 0));
        found.retain(|_, total| *total != (0, 0));
        if found != wanted {
            state.wrong(
                "totals that are no recount",
                format!("{found:?}, wanted {wanted:?}"),
            );
        }
        let undone = state.changes.iter().filter(|change| change.done);
        if undone
            .clone()
            .any(|change| !change.applied && !change.given_up)
        {
            state.wrong("a record is done that no pipeline has", "");
        }
    }

    fn places(&self, state: &State, shard: &str, records: &[EventRecord]) -> Vec<usize> {
        let place = |record: &EventRecord| {
            let at = state.by_event[&record.event_id];
            assert!(state.shards[shard].changes.contains(&at), "not of {shard}");
            at
        };
        records.iter().map(place).collect()
    }

    fn is_trimmed(&self, change: &Change) -> bool {
        self.time.now().since(change.put_at) >= STREAM_LIFE
    }

    /// Whether what comes after it may be.
    fn is_settled(&self, change: &Change) -> bool {
        let given_up = self.plan.trims == Trims::Continue && self.is_trimmed(change);
        change.done || given_up || self.is_unasked(change)
    }

    fn is_unasked(&self, change: &Change) -> bool {
        let begun = self.begun.get();
        begun.is_some_and(|begun| begun.since(change.put_at) >= STREAM_LIFE)
    }
}

const SECOND: Duration = Duration::from_secs(1);

impl State {
    fn wrong(&mut self, kind: &'static str, what: impl ToString) {
        self.wrong.push((kind, what.to_string()));
    }

    fn opened(&mut self, shard: String, parent: Option<&str>) {
        let name = PipelineName::new(NAME).unwrap();
        let name = name.marker("shard", &[&shard]);
        self.names.insert(name, shard.clone());
        self.open.push(shard.clone());
        let parent = parent.map(ToOwned::to_owned);
        self.shards.insert(
            shard,
            Shard {
                parent,
                ..Shard::default()
            },
        );
    }

    fn closed(&mut self, shard: &str) {
        self.open.retain(|open| open != shard);
    }

    /// The first change of a shard that is not done.
    fn settle(&mut self, shard: &str, world: &World) -> usize {
        let shard = self.shards.get_mut(shard).unwrap();
        let is_settled = |at: &usize| world.is_settled(&self.changes[*at]);
        while shard.changes.get(shard.settled).is_some_and(is_settled) {
            shard.settled += 1;
        }
        shard.settled
    }

    fn unfinished_ancestor(&mut self, shard: &str, world: &World) -> Option<String> {
        let mut next = self.shards[shard].parent.clone();
        while let Some(ancestor) = next {
            if self.settle(&ancestor, world) < self.shards[&ancestor].changes.len() {
                return Some(ancestor);
            }
            next = self.shards[&ancestor].parent.clone();
        }
        None
    }
}
