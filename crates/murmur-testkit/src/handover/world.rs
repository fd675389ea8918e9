//! The table, the stream, the state and the processes of a run, from its start to its result.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join;
use murmur_core::audit::LedgerFindings;
use murmur_core::{Item, Processor, item_id};
use murmur_snapshot::reconcile::Findings;
use murmur_snapshot::run_record::RunRecord;
use murmur_snapshot::{Bootstrap, BootstrapError, Ended, Reconcile, ReconcileError, Source as _};
use murmur_state::store::Add;
use murmur_state::tokens::Tokens;
use murmur_state::{Causes, HandoffToken, ItemId, PipelineName, Timestamp};
use murmur_streams::{
    EventRecord, OperationType, StreamInfo, StreamRecord, StreamStore, StreamViewType, time_to_live,
};
use serde_json::json;
use tokio::task::JoinSet;

use super::body::{Body, Doing, Shared};
use super::history::{Change, History, decoder, keys_of};
use super::live::{self, Function};
use super::pipeline::{self, Held, MARKERS, NAME, STATE, State};
use super::report::Wrong;
use super::scenario::{Life, Live, Mode, Scenario};
use super::settling;
use super::source::{self, Paced, ReadTo};
use super::{Met, Rule};
use crate::chaos::SKEW;
use crate::cloud::{Cloud, Fault, Weather};
use crate::esm::Incoming;
use crate::runs::{lock, must};
use crate::time::Time;

/// The source table.
pub(super) const TABLE: &str = "orders";

/// The earliest time at which a history starts.
const START: Timestamp = Timestamp::from_secs(1_800_000_000);

const MINUTE: Duration = Duration::from_secs(60);

/// How often Time to Live removes rows.
const SWEEP: Duration = Duration::from_secs(6 * 3600);

/// More restarts than any run needs.
const ENDLESS: usize = 200;

pub(super) struct World {
    pub(super) shared: Arc<Shared>,
    cloud: Cloud,
    streams: StreamStore,
    arn: String,
    pub(super) state: State,
    read_to: ReadTo,
    /// The number of processes so far.
    processes: AtomicU64,
}

impl World {
    /// Creates the table with the items that are older than its stream, and sets the weather.
    pub(super) async fn new(scenario: Scenario) -> Arc<Self> {
        // Windows end at different points in each run.
        let time = Time::paused(START.plus(Duration::from_millis(scenario.seed % 90_000 * 1003)));
        let cloud = Cloud::in_process_at(&time, scenario.seed, scenario.weather.clone());
        let history = History::of(&scenario, time.now());
        let id = json!([{ "AttributeName": "id", "KeyType": "HASH" }]);
        let made = cloud.at_once(
            "CreateTable",
            json!({
                "TableName": TABLE,
                "KeySchema": id,
                "AttributeDefinitions": [{ "AttributeName": "id", "AttributeType": "S" }],
                "BillingMode": "PAY_PER_REQUEST",
                "StreamSpecification": {
                    "StreamEnabled": true, "StreamViewType": "NEW_AND_OLD_IMAGES"
                },
            }),
        );
        let arn = &made["TableDescription"]["LatestStreamArn"];
        let arn = arn.as_str().unwrap_or_default().to_owned();
        let streams = StreamStore::with_clock(time.clock(0));
        let info = StreamInfo::new(arn.as_str(), StreamViewType::NewAndOldImages);
        let registered = streams.register_stream_with_shards(info, scenario.shards);
        must("the stream", registered);
        let state = State::new(&scenario, &time, &cloud).await;
        for (item, version) in &history.older {
            put(&cloud, &version.item(item));
        }
        let shared = Shared::new(scenario, time, history);
        if shared.scenario.settling.is_some() {
            settling::watch(&cloud, &shared);
        }
        Arc::new(Self {
            shared,
            cloud,
            streams,
            arn,
            state,
            read_to: ReadTo::default(),
            processes: AtomicU64::new(0),
        })
    }

    pub(super) fn scenario(&self) -> &Scenario {
        &self.shared.scenario
    }

    pub(super) fn time(&self) -> &Time {
        &self.shared.time
    }

    /// Creates a process. Bootstraps have a number.
    pub(super) fn body(&self, bootstrap: u64, life: &Life) -> Arc<Body> {
        let number = self.processes.fetch_add(1, Ordering::Relaxed) + 1;
        Body::new(&self.shared, &self.cloud, (number, bootstrap), life)
    }

    /// Plays the run. Returns the faults and the situations that occurred.
    pub(super) async fn play(self: Arc<Self>) -> (Vec<Wrong>, Met) {
        let mut processes = JoinSet::new();
        let lives = &self.scenario().bootstraps;
        let more = lives.last().into_iter();
        let more = more.flat_map(|last| (1..self.scenario().workers).map(move |_| last));
        for (nth, life) in lives.iter().chain(more).enumerate() {
            let (world, life) = (Arc::clone(&self), life.clone());
            let last = nth + 1 >= lives.len();
            processes.spawn(async move { world.bootstrap(nth as u64 + 1, life, last).await });
        }
        for life in &self.scenario().repairs {
            let (world, life) = (Arc::clone(&self), life.clone());
            processes.spawn(async move { world.repair(life).await });
        }
        if let Some(settling) = &self.scenario().settling {
            let (world, told_at) = (Arc::clone(&self), settling.told_at);
            processes.spawn(async move { world.tell(told_at).await });
        }
        let live = self.scenario().live;
        if live != Live::Mapping {
            for life in &self.scenario().readers {
                let (world, life) = (Arc::clone(&self), life.clone());
                processes.spawn(async move { world.reader(life).await });
            }
        }
        let mapping = async {
            if live == Live::Mapping {
                let body = self.body(0, &Life::EASY);
                let start = || {
                    let most = self.scenario().skew;
                    let skew = body.dice(|dice| dice.i64(-most..=most));
                    let body = self.body(0, &Life { skew, ..Life::EASY });
                    Function {
                        handler: live::handler(&self.state, &body),
                        body,
                    }
                };
                live::deliver(&body, self.incoming(), start).await;
            }
        };
        let scanning = async {
            while let Some(ended) = processes.join_next().await {
                must("a process", ended);
            }
        };
        let clearing = async {
            self.time().reached(self.scenario().calm_at).await;
            lock(&self.shared.log).stormy = false;
            self.cloud.set_weather(Weather::calm());
        };
        let all = join(join(self.write(), clearing), join(mapping, scanning));
        tokio::select! {
            biased;
            _ = all => {}
            () = self.forget() => {}
        }
        // Late requests arrive in the end.
        self.time().sleep(16 * MINUTE).await;
        self.cloud.flush().await;
        if live != Live::Mapping {
            self.catch_up().await;
        }
        if !self.scenario().lost.is_empty() {
            self.mend().await;
        }
        if self.scenario().settling.is_some() && !self.scenario().repairs.is_empty() {
            self.mend_nothing().await;
        }
        self.judge().await
    }

    /// Acts as Time to Live on the state for as long as the future is polled.
    async fn forget(&self) {
        while self.scenario().forgets {
            self.time().sleep(SWEEP).await;
            self.sweep().await;
        }
        std::future::pending().await
    }

    async fn sweep(&self) {
        let mut removed = self.cloud.expire(STATE, &["pk", "sk"]).await.len();
        removed += self.cloud.expire(MARKERS, &["pk"]).await.len();
        lock(&self.shared.log)
            .met
            .add("expired rows removed", removed as u64);
    }

    /// Writes to the table as planned and, with a trigger, to the stream.
    async fn write(&self) {
        let scenario = self.scenario();
        let mut cuts = scenario.cuts.iter().copied().peekable();
        for (nth, change) in self.shared.history.changes.iter().enumerate() {
            while let Some(cut) = cuts.next_if(|cut| *cut <= change.at) {
                self.time().reached(cut).await;
                self.cut(cut);
            }
            self.time().reached(change.at).await;
            self.change(change, scenario.lost.contains(&nth));
        }
    }

    fn change(&self, change: &Change, is_lost: bool) {
        match &change.after {
            Some(after) => put(&self.cloud, &after.item(&change.item)),
            None => {
                let key = json!({ "id": { "S": change.item } });
                let deletion = json!({ "TableName": TABLE, "Key": key });
                self.cloud.at_once("DeleteItem", deletion);
            }
        }
        if self.scenario().live != Live::Mapping && !is_lost {
            must("a record", self.streams.put_record(self.record(change)));
        }
        let mut log = lock(&self.shared.log);
        let when = match (log.newest.is_empty(), log.bootstrapping, log.finished) {
            (true, ..) => "writes before the scan",
            (_, 1.., _) | (.., false) => "writes during the scan",
            _ => "writes after the scan",
        };
        log.met.add(when, 1);
        log.met.add("records lost in a gap", u64::from(is_lost));
        log.met.add(change.kind, 1);
    }

    fn record(&self, change: &Change) -> StreamRecord {
        let image = |version: &Option<super::history::Version>| {
            let version = version.as_ref();
            version.map_or_else(Item::default, |version| version.item(&change.item))
        };
        StreamRecord {
            stream_arn: self.arn.clone(),
            event_id: change.event.clone(),
            event_name: match (&change.before, &change.after) {
                (None, _) => OperationType::Insert,
                (_, Some(_)) => OperationType::Modify,
                (_, None) => OperationType::Remove,
            },
            keys: keys_of(&change.item),
            old_image: image(&change.before),
            new_image: image(&change.after),
            sequence_number: Some(change.number.clone()),
            created_at: Some(self.created(change)),
            user_identity: change.expired.then(time_to_live),
            ..StreamRecord::default()
        }
    }

    fn created(&self, change: &Change) -> Timestamp {
        let now = self.time().now();
        now.minus(self.time().elapsed()).plus(change.at)
    }

    /// The records as a mapping receives them: its shards, and when it sees them.
    fn incoming(&self) -> Vec<Vec<Incoming>> {
        let scenario = self.scenario();
        let start = self.time().now().minus(self.time().elapsed());
        let mut shards = vec![Vec::new(); scenario.shards];
        for (nth, change) in self.shared.history.changes.iter().enumerate() {
            if scenario.lost.contains(&nth) {
                continue;
            }
            let lag = Duration::from_millis(scenario.seed.wrapping_mul(nth as u64) % 2000);
            let created = self.created(change);
            let own: usize = change.item.bytes().map(usize::from).sum();
            shards[own % scenario.shards].push(Incoming {
                created,
                seen: created.plus(lag).max(start.plus(scenario.outage)),
                record: EventRecord::from(&self.record(change)),
            });
        }
        shards
    }

    fn cut(&self, at: Duration) {
        let listed = must("the stream", self.streams.describe_stream(&self.arn));
        let mut open = listed
            .shards
            .iter()
            .filter(|shard| !listed.is_closed(shard));
        let Some(shard) = open.next_back() else {
            return;
        };
        // One of the two, or none if the shard is too narrow to be split.
        let rolled =
            at.as_nanos().is_multiple_of(2) || self.streams.split(&self.arn, &shard.id).is_err();
        if rolled {
            must(
                "a shard",
                self.streams.roll_over_shard(&self.arn, &shard.id),
            );
        }
        self.shared.met("shards split or rolled over");
    }

    /// Runs a process that bootstraps. It is started again if a spell stopped it; the last one
    /// until the bootstrap is complete.
    async fn bootstrap(&self, number: u64, life: Life, last: bool) {
        self.time().reached(life.begin).await;
        for _ in 0..ENDLESS {
            let body = self.body(number, &life);
            {
                let mut log = lock(&self.shared.log);
                let newest = log.newest.entry(body.worker()).or_default();
                *newest = number.max(*newest);
                log.met.add("bootstraps", 1);
                let of_part = u64::from(self.scenario().workers > 1);
                log.met.add("bootstraps of a part", of_part);
                if log.bootstrapping > 0 {
                    log.met.add("bootstraps beside another", 1);
                }
                log.bootstrapping += 1;
            }
            let ended = body.live(&life, self.bootstrapping(&body, false)).await;
            if !self.bootstrapped(&body, ended, last) {
                return;
            }
            self.time().sleep(self.scenario().pace).await;
        }
        let error = lock(&self.shared.log).last_error.clone();
        self.shared
            .wrong(format!("the bootstrap does not come to its end: {error:?}"));
    }

    /// Records how a process that bootstraps ended. Returns whether it must be started again.
    fn bootstrapped(
        &self,
        body: &Body,
        ended: Option<Result<Ended, BootstrapError>>,
        last: bool,
    ) -> bool {
        let mut log = lock(&self.shared.log);
        log.bootstrapping -= 1;
        match ended {
            Some(Ok(Ended::Finished | Ended::FinishedBefore { .. })) => {
                log.finished = true;
                false
            }
            // The process that completes the last part completes the run.
            Some(Ok(_)) => false,
            Some(Err(error)) => {
                log.met.add("bootstraps that failed", 1);
                let by_spell = !error.is_retryable() && body.connection.was_refused();
                log.met
                    .add("bootstraps stopped by a spell", u64::from(by_spell));
                let error = Causes(&error).to_string();
                log.last_error = Some(error);
                last || by_spell
            }
            None => {
                let kind = match body.doing() {
                    Doing::Other => return last,
                    Doing::Reading => "bootstraps killed reading",
                    Doing::Page => "bootstraps killed within a page",
                    Doing::Writing => "bootstraps killed in a write",
                    Doing::Saving => "bootstraps killed at a checkpoint",
                };
                log.met.add(kind, 1);
                last
            }
        }
    }

    async fn bootstrapping(&self, body: &Arc<Body>, again: bool) -> Result<Ended, BootstrapError> {
        let source = Paced::new(body, &self.streams, &self.read_to);
        let pipeline = self.state.pipeline(body);
        let shared = Arc::clone(&self.shared);
        let processor = Processor::with_decoder([pipeline], decoder())
            .clock(Arc::clone(&body.clock))
            .random(body.random.clone())
            .tokens(Tokens::repeatable(body.random.clone()))
            .on_rejected(move |rejected| {
                shared.rejected(&rejected);
                async { Ok(()) }
            })
            .build()?;
        let mut bootstrap = Bootstrap::builder(processor, source)
            .checkpoints(self.state.places(body))
            .concurrency(self.scenario().concurrency)
            // These tables are so small that sometimes none of their rows can count.
            .accept_all_rejected();
        let Scenario {
            workers, segments, ..
        } = *self.scenario();
        if again {
            bootstrap = bootstrap.restart();
        } else if workers > 1 {
            let first = |worker: u64| (worker * u64::from(segments) / u64::from(workers)) as u32;
            let part = first(body.worker())..first(body.worker() + 1);
            bootstrap = bootstrap.worker("run", part);
        }
        if self.scenario().live == Live::Mapping && self.scenario().mode == Mode::Ledger {
            bootstrap = bootstrap.live_is_running();
        }
        let report = bootstrap.build()?.run().await?;
        // A row that no decoder reads belongs to no pipeline. All others must count, including
        // those of earlier attempts. Unusable keys occur where items settle.
        let mut rejected = report.rejected.iter().filter(|row| row.pipeline.is_some());
        let settles = self.scenario().settling.is_some();
        if let Some(row) = rejected.next().filter(|_| !settles) {
            self.shared
                .wrong(format!("a row counts as rejected: {row}"));
        }
        Ok(report.ended)
    }

    /// Runs a process that repairs, at any time.
    async fn repair(&self, life: Life) {
        self.time().reached(life.begin).await;
        let body = self.body(0, &life);
        self.shared.met("repairs");
        let repairing = async {
            loop {
                // Only refusals of this attempt excuse it.
                body.connection.was_refused();
                let was_bound = lock(&self.shared.log).bound;
                match self.repairing(&body).await {
                    Err(error) if !error.is_retryable() && body.connection.was_refused() => {
                        self.shared.met("repairs stopped by a spell");
                        body.sleep(self.scenario().pace).await;
                    }
                    // Neither a bootstrap nor the stream consumer has started yet: there is nothing
                    // to repair.
                    Err(ReconcileError::Refused(error)) if !was_bound && !error.is_retryable() => {
                        self.shared.met("repairs that came too early");
                        body.sleep(self.scenario().poll).await;
                    }
                    repaired => return repaired,
                }
            }
        };
        match body.live(&life, repairing).await {
            Some(Ok((found, _))) => self.mended(&found),
            Some(Err(error)) => {
                let error = Causes(&error).to_string();
                self.shared.wrong(format!("a repair failed: {error}"));
            }
            None => self.shared.met("repairs killed"),
        }
    }

    /// The items that a repair finds, and how many items and keys it leaves as they are.
    pub(super) async fn repairing(
        &self,
        body: &Arc<Body>,
    ) -> Result<(LedgerFindings, u64), ReconcileError> {
        let table = source::scan(body, &self.streams);
        let processor = Processor::with_decoder([self.state.pipeline(body)], decoder())
            .clock(Arc::clone(&body.clock))
            .random(body.random.clone())
            .build()?;
        let reconcile = Reconcile::builder(processor, table)
            .concurrency(self.scenario().concurrency)
            .lag(self.scenario().poll)
            .repair()
            .build()?;
        let mut reconciled = reconcile.run().await?;
        let pipeline = reconciled.pipelines.pop();
        let left = pipeline.as_ref().map_or(0, |one| one.left());
        match pipeline.map(|one| one.findings) {
            Some(Findings::Ledger(found)) => Ok((found, left)),
            other => panic!("no findings of a ledger, but {other:?}"),
        }
    }

    fn mended(&self, found: &LedgerFindings) {
        lock(&self.shared.log).met.add("items mended", found.mended);
    }

    /// Repairs the changes that the stream consumer never saw, after everything else has arrived.
    /// It must find all of them and nothing else.
    async fn mend(&self) {
        let body = self.body(0, &Life::EASY);
        let (found, _) = must("the last repair", self.repairing(&body).await);
        self.mended(&found);
        if found.mended < found.differing || found.unsettled > 0 {
            self.shared
                .wrong(format!("the last repair does not end it: {found:?}"));
        }
        let lost = &self.shared.history.changes[self.scenario().lost.clone()];
        let lost: Vec<ItemId> = lost
            .iter()
            .map(|change| item_id(&keys_of(&change.item)))
            .collect();
        for differing in &found.items {
            if !lost.contains(&differing.item) {
                self.shared
                    .wrong(format!("nothing of it was lost: {differing:?}"));
            }
        }
    }

    /// Runs a process of the trigger.
    async fn reader(&self, life: Life) {
        self.time().reached(life.begin).await;
        let body = self.body(0, &life);
        let ended = body.live(&life, self.reading(&body)).await;
        if ended.is_none() {
            self.shared.met("readers killed");
        }
    }

    async fn reading(&self, body: &Arc<Body>) {
        let token = self.token(body).await;
        self.shared.met(match token {
            Some(_) => "triggers at the token",
            None => "triggers at the horizon",
        });
        let source = self.streams.source(self.arn.as_str());
        let mut trigger = live::trigger(&self.state, body, source, token.as_ref());
        loop {
            // Only refusals of this attempt excuse it.
            body.connection.was_refused();
            // It ends when it cannot save or load, and resumes where it was.
            let ended = trigger.run(std::future::pending()).await;
            if let Err(error) = ended
                && !error.is_retryable()
            {
                if !body.connection.was_refused() {
                    self.shared.wrong(format!("a trigger: {}", Causes(&error)));
                    return;
                }
                self.shared.met("readers stopped by a spell");
            }
            body.sleep(self.scenario().poll).await;
        }
    }

    /// Reads what is left after the faults have ended.
    async fn catch_up(&self) {
        // Every lease has expired by then, by any process's clock.
        let skew = Duration::from_secs(SKEW.unsigned_abs());
        self.time().sleep(2 * skew + 4 * self.scenario().poll).await;
        let body = self.body(0, &Life::EASY);
        let token = self.token(&body).await;
        let source = self.streams.source(self.arn.as_str());
        let mut trigger = live::trigger(&self.state, &body, source, token.as_ref());
        if let Err(error) = trigger.drain().await {
            let error = Causes(&error).to_string();
            self.shared
                .wrong(format!("the stream is not read to its end: {error}"));
        }
    }

    /// The bootstrap's token as soon as it exists; `None` if the trigger needs none.
    async fn token(&self, body: &Arc<Body>) -> Option<HandoffToken> {
        if self.scenario().live != Live::AtToken {
            return None;
        }
        let name = must("a name", PipelineName::new(NAME));
        let places = self.state.places(body);
        let late = self.scenario().without == Some(Rule::TokenBeforeScan);
        loop {
            let record = RunRecord::load(&*places, &name, TABLE).await;
            let finished = lock(&self.shared.log).finished;
            if let Ok(Some(record)) = record
                && (finished || !late)
            {
                if !late {
                    return record.token;
                }
                let source = Paced::new(body, &self.streams, &self.read_to);
                let captured = source.inner.capture_handoff().await;
                let mut log = lock(&self.shared.log);
                let token = log
                    .late_token
                    .get_or_insert_with(|| must("a token", captured));
                return token.clone();
            }
            body.sleep(5 * self.scenario().poll).await;
        }
    }

    /// The faults at the end.
    async fn judge(&self) -> (Vec<Wrong>, Met) {
        if self.scenario().settling.is_some() {
            self.mend_settled().await;
        }
        let held = self.state.held().await;
        let mut wrong = self.compare(&held);
        if self.scenario().mode == Mode::Ledger {
            wrong.extend(self.look_up(&held));
            if held.known.iter().all(|known| !known.settled) {
                wrong.extend(self.audit(&held));
            }
            let body = self.body(u64::MAX, &Life::EASY);
            if let Err(error) = self.bootstrapping(&body, true).await {
                let error = Causes(&error).to_string();
                self.shared
                    .wrong(format!("one more bootstrap failed: {error}"));
            }
            let after = self.state.held().await;
            if self.lasting(&held) != self.lasting(&after) {
                let what = "one more bootstrap changed something";
                wrong.push(Wrong::Other(what.to_owned()));
            }
        }
        let log = lock(&self.shared.log);
        if !log.finished {
            wrong.push(Wrong::Other("nobody finished the bootstrap".to_owned()));
        }
        wrong.extend(log.wrong.iter().cloned());
        let (mut met, cloud) = (log.met.clone(), self.cloud.met());
        for (kind, fault) in [
            ("throttles", Fault::Throttle),
            ("conflicts", Fault::Conflict),
            ("conflicts", Fault::HeldConflict),
            ("lost answers", Fault::LostAnswer),
            ("requests that came late", Fault::Zombie),
            ("requests that came late", Fault::ZombieRefused),
            ("requests that could not be signed", Fault::Unsigned),
            ("credentials refused", Fault::Refused),
            ("refusals for the set-up", Fault::Misfit),
        ] {
            met.add(kind, cloud.count(fault));
        }
        (wrong, met)
    }

    /// Whether the window of a bucket may be over by some clock, so that some processes drop
    /// changes to it and others count them.
    pub(super) fn is_over(&self, bucket: i64) -> bool {
        let skew = Duration::from_secs(SKEW.unsigned_abs());
        let now = self.time().now().plus(skew);
        let window = pipeline::window(self.scenario());
        window.is_some_and(|window| window.is_expired(bucket, now))
    }

    /// Compares the totals with a recount.
    fn compare(&self, held: &Held) -> Vec<Wrong> {
        let expected = self
            .shared
            .history
            .expected(self.scenario(), self.told_from());
        let mut found: BTreeMap<(String, i64), i64> = BTreeMap::new();
        for row in &held.rows {
            let address = (row.key.entity().to_owned(), row.key.bucket());
            found.insert(address, row.value);
        }
        let mut addresses = expected.addresses();
        addresses.extend(found.keys());
        let mut wrong = Vec::new();
        for address in addresses {
            if self.is_over(address.1) {
                continue;
            }
            let found = found.get(address).copied().unwrap_or_default();
            if !expected.allows(address, found) {
                wrong.push(Wrong::Total {
                    row: format!("{address:?}"),
                    found,
                    wanted: expected.of(address),
                });
            }
        }
        wrong
    }

    /// The time since the start from which the stream consumer sees every change.
    fn told_from(&self) -> Duration {
        match self.scenario().live {
            Live::Mapping | Live::AtHorizon => Duration::ZERO,
            // Shards that were closed when the token was captured are not read.
            Live::AtToken => lock(&self.shared.log).captured,
        }
    }

    /// Checks that every row is the sum of its contributions in the ledger.
    fn audit(&self, held: &Held) -> Vec<Wrong> {
        let today = self.time().now().as_secs();
        let lives = |ttl: Option<i64>| ttl.is_none_or(|ttl| ttl > today + SKEW);
        let mut sums: BTreeMap<(&str, i64), i64> = BTreeMap::new();
        let known = held.known.iter();
        for Add { key, value, ttl } in known.flat_map(|known| known.now.iter().chain(&known.kept)) {
            if lives(*ttl) {
                *sums.entry((key.entity(), key.bucket())).or_default() += value;
            }
        }
        let mut wrong = Vec::new();
        for row in held.rows.iter().filter(|row| lives(row.ttl)) {
            let address = (row.key.entity(), row.key.bucket());
            let sum = sums.remove(&address).unwrap_or_default();
            if sum != row.value {
                let (key, value) = (&row.key, row.value);
                let what = format!("audit: {key} holds {value}, and the ledger knows of {sum}");
                wrong.push(Wrong::Other(what));
            }
        }
        for ((entity, bucket), sum) in sums.into_iter().filter(|(_, sum)| *sum != 0) {
            let what = format!("audit: no row ({entity}, {bucket}), and the ledger knows of {sum}");
            wrong.push(Wrong::Other(what));
        }
        wrong
    }

    /// The part of the contents that no window's end affects.
    fn lasting(&self, held: &Held) -> Held {
        let lasts = |add: &Add<i64>| !self.is_over(add.key.bucket());
        let rows = held
            .rows
            .iter()
            .filter(|row| !self.is_over(row.key.bucket()));
        let known = held.known.iter();
        let known = known.filter(|known| known.now.iter().chain(&known.kept).all(lasts));
        Held {
            rows: rows.cloned().collect(),
            known: known.cloned().collect(),
        }
    }
}

fn put(cloud: &Cloud, item: &Item) {
    let item = must("an item", serde_json::to_value(item));
    cloud.at_once("PutItem", json!({ "TableName": TABLE, "Item": item }));
}
