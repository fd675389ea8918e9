//! The server's side of the cloud: what happens to a request when it arrives, and what it costs.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpConnector};
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use dynoxide::Database;
use murmur_state::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::books::{Books, per};
use super::connection::Fate;
use super::count::{Fault, Met, Usage};
use super::items::{self, Touch};
use super::lanes::Lanes;
use super::real::{Real, forward};
use super::sent::{Sent, is_plain_write, is_transaction};
use super::server::{self, Answer, Delivered, take};
use super::spells::Spells;
use super::tokens::{Seen, Tokens};
use super::versions::Versions;
use super::weather::Weather;
use super::{limits, refusal};
use crate::Dynamo;
use crate::time::Time;
use crate::wire::Request;

type Rewriter = dyn Fn(&mut Request) + Send + Sync;

type Observer = dyn Fn(&Answered<'_>) + Send + Sync;

/// A request that the server has answered, even if the answer does not arrive.
#[derive(Debug)]
pub struct Answered<'a> {
    /// The number of its process.
    pub process: u64,
    /// When it left its process, as time since the start.
    pub left: Duration,
    /// The request.
    pub request: &'a Request,
    /// The body of the answer.
    pub answer: &'a Value,
    /// Whether the request succeeded.
    pub is_ok: bool,
}

/// How long a client without timeouts waits before its connection breaks.
const SILENCE: Duration = Duration::from_secs(3600);

/// The longest time that a request may be under way.
const LONGEST_STALL: Duration = Duration::from_secs(15 * 60);

/// Over a real server: the most requests that overtake a stalled one.
const OVERTAKEN: f64 = 64.0;

enum Server {
    Here(Database),
    There(Box<Real>),
}

pub(super) struct Region {
    seed: u64,
    time: Time,
    server: Server,
    state: Mutex<State>,
    in_flight: watch::Sender<Flights>,
}

/// The number of requests under way, by the time since the start at which they left.
type Flights = BTreeMap<Duration, u64>;

pub(super) struct State {
    pub(super) weather: Weather,
    pub(super) rewriter: Option<Arc<Rewriter>>,
    pub(super) observer: Option<Arc<Observer>>,
    versions: Versions,
    pub(super) met: Met,
    pub(super) usage: Usage,
    processes: u64,
    lanes: Lanes,
    tokens: Tokens,
    pub(super) spells: Spells,
    key_names: HashMap<String, Vec<String>>,
    /// Over a real server: the requests that are still stalled.
    stalled: Vec<Stalled>,
}

/// A request that is stalled on its way to a real server.
struct Stalled {
    /// The most arrivals that overtake it.
    overtaken: u64,
    /// When it arrives at the latest, as time since the start.
    until: Duration,
    sent: Sent,
}

/// Counts a request as under way until it is dropped.
pub(super) struct Flight {
    left: Duration,
    in_flight: watch::Sender<Flights>,
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.in_flight.send_modify(|flights| {
            if let Some(count) = flights.get_mut(&self.left) {
                *count -= 1;
            }
            flights.retain(|_, count| *count > 0);
        });
    }
}

impl Region {
    pub(super) fn here(time: Time, seed: u64, weather: Weather) -> Self {
        let server = Server::Here(server::database(time.clone()));
        Self::new(time, server, seed, weather)
    }

    pub(super) fn over(time: Time, dynamo: Dynamo, seed: u64, weather: Weather) -> Self {
        let server = Server::There(Box::new(Real::new(dynamo)));
        Self::new(time, server, seed, weather)
    }

    fn new(time: Time, server: Server, seed: u64, weather: Weather) -> Self {
        check(&weather, &server);
        let state = State {
            weather,
            rewriter: None,
            observer: None,
            versions: Versions::default(),
            met: Met::default(),
            usage: Usage::default(),
            processes: 0,
            lanes: Lanes::default(),
            tokens: Tokens::default(),
            spells: Spells::default(),
            key_names: HashMap::new(),
            stalled: Vec::new(),
        };
        Self {
            seed,
            time,
            server,
            state: Mutex::new(state),
            in_flight: watch::Sender::new(Flights::new()),
        }
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) fn next_process(&self) -> u64 {
        let mut state = self.state();
        state.processes += 1;
        state.processes
    }

    pub(super) fn endpoint(&self) -> String {
        match &self.server {
            Server::Here(_) => "http://cloud.invalid".into(),
            Server::There(real) => real.endpoint().to_owned(),
        }
    }

    /// The connector to the real server, if there is one.
    pub(super) fn connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> Option<SharedHttpConnector> {
        match &self.server {
            Server::Here(_) => None,
            Server::There(real) => Some(real.connector(settings, components)),
        }
    }

    pub(super) fn is_real(&self) -> bool {
        matches!(self.server, Server::There(_))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, fault: Fault) {
        self.state().met.note(fault);
    }

    pub(super) fn set_weather(&self, weather: Weather) {
        check(&weather, &self.server);
        let mut state = self.state();
        state.weather = weather;
        // Spells end with the weather that caused them.
        state.spells = Spells::default();
    }

    /// Counts a request that leaves its process, and returns its weather.
    pub(super) fn leaves(&self, request: &mut Request) -> Weather {
        let mut state = self.state();
        let count = state.usage.requests.entry(request.operation.clone());
        let count = count.or_default();
        request.nth = usize::try_from(*count).unwrap_or(usize::MAX);
        *count += 1;
        state.weather.clone()
    }

    /// Whether nothing in the weather takes time.
    pub(super) fn is_instant(&self) -> bool {
        let weather = &self.state().weather;
        !self.is_real() && weather.hold.is_zero() && weather.service.is_zero()
    }

    /// The true time.
    pub(super) fn now(&self) -> Timestamp {
        self.time.now()
    }

    /// How much time has passed since the start.
    pub(super) fn elapsed(&self) -> Duration {
        self.time.elapsed()
    }

    /// Counts a request that left at this time as under way.
    pub(super) fn takes_off(&self, left: Duration) -> Flight {
        self.in_flight
            .send_modify(|flights| *flights.entry(left).or_default() += 1);
        Flight {
            left,
            in_flight: self.in_flight.clone(),
        }
    }

    /// Over a real server, which is slower than stepped time: waits for requests that left before
    /// this one and would otherwise arrive later than allowed.
    async fn let_older_land(&self, sent: &Sent) {
        let now = self.time.elapsed();
        let is_late = |left: Duration| left < sent.left && left + LONGEST_STALL < now;
        let mut in_flight = self.in_flight.subscribe();
        // The sender is owned by `self`.
        let _ = in_flight
            .wait_for(|flights| !flights.keys().any(|left| is_late(*left)))
            .await;
    }

    pub(super) async fn flush(&self) {
        let mut in_flight = self.in_flight.subscribe();
        // The sender is owned by `self`.
        let _ = in_flight.wait_for(|flights| flights.is_empty()).await;
        loop {
            let stalled = self.state().stalled.pop();
            let Some(Stalled { sent, .. }) = stalled else {
                break;
            };
            self.arrive_late(sent).await;
        }
    }

    /// Does nothing over a real server, where there are no delays.
    pub(super) async fn sleep(&self, duration: Duration) {
        if !duration.is_zero() && !self.is_real() {
            self.time.sleep(duration).await;
        }
    }

    /// Waits as long as a client without timeouts waits for an answer.
    pub(super) async fn silence(&self) {
        self.sleep(SILENCE).await;
    }

    /// Delivers a request late, after its client has given up.
    pub(super) async fn stall(&self, sent: Sent, fate: &Fate) {
        if self.is_real() {
            let stalled = Stalled {
                overtaken: 1 + (fate.detail * OVERTAKEN) as u64,
                until: self.time.elapsed() + fate.stall,
                sent,
            };
            self.state().stalled.push(stalled);
        } else {
            self.sleep(fate.stall).await;
            self.arrive_late(sent).await;
        }
    }

    async fn arrive_late(&self, sent: Sent) {
        let write = sent.is_write();
        match self.serve(sent).await {
            Ok(answer) if write && answer.is_ok() => {
                self.note(Fault::Zombie);
                self.note(Fault::LostAnswer);
            }
            Ok(_) if write => self.note(Fault::ZombieRefused),
            _ => {}
        }
    }

    /// Throttles a request, or serves only a part of it.
    pub(super) async fn throttle(&self, mut sent: Sent, detail: f64) -> Delivered {
        self.note(Fault::Throttle);
        let request = &mut sent.request;
        let (low, rest) = (detail < 0.5, detail * 2.0 % 1.0);
        if is_transaction(&request.operation) && low {
            let struck = one_of(actions(&request.body), rest);
            let by_throughput = struck.iter().position(|struck| *struck).unwrap_or(0) % 2 == 0;
            return Ok(match by_throughput {
                true => refusal::cancelled_by_throughput(&struck),
                false => refusal::cancelled_by_throttling(&struck),
            });
        }
        let unprocessed = match request.operation.as_str() {
            "BatchGetItem" => "UnprocessedKeys",
            "BatchWriteItem" => "UnprocessedItems",
            _ if low => return Ok(refusal::exceeded()),
            _ => return Ok(refusal::throttled()),
        };
        let mut count = 0;
        refusal::split_batch(&mut request.body.clone(), |_| {
            count += 1;
            true
        });
        // A batch of which nothing is processed gets an error instead of an answer.
        let kept = (rest * f64::from(count)) as usize;
        if low || kept == 0 {
            return Ok(refusal::exceeded());
        }
        let left = refusal::split_batch(&mut request.body, |nth| nth < kept);
        let mut answer = self.serve(sent).await?;
        if answer.is_ok() {
            answer.body[unprocessed] = left;
        }
        Ok(answer)
    }

    /// Refuses a write, or a transactional read, because of a conflict with a transaction. Other
    /// reads never conflict, so they are served.
    pub(super) async fn conflict(&self, sent: Sent, detail: f64) -> Delivered {
        let operation = sent.request.operation.as_str();
        if is_transaction(operation) {
            self.note(Fault::Conflict);
            let held = one_of(actions(&sent.request.body), detail);
            if operation == "TransactWriteItems" && sent.counted {
                let touched = self.touched(&sent.request).await;
                self.charge_cancelled(&touched).await;
            }
            Ok(refusal::cancelled_by_conflict(&held))
        } else if is_plain_write(operation) && operation != "BatchWriteItem" {
            self.note(Fault::Conflict);
            Ok(refusal::conflict())
        } else {
            self.arrive(sent).await
        }
    }

    /// Refuses a request of a process whose credentials are invalid.
    pub(super) fn refuse(&self, detail: f64) -> Answer {
        self.note(Fault::Refused);
        match detail < 0.5 {
            true => refusal::expired(),
            false => refusal::unrecognized(),
        }
    }

    /// Refuses a request because of the set-up.
    pub(super) fn misfit(&self, sent: &Sent, detail: f64) -> Answer {
        self.note(Fault::Misfit);
        let Request {
            operation, body, ..
        } = &sent.request;
        match detail {
            detail if detail < 0.5 => refusal::bad_name(),
            detail if operation == "TransactWriteItems" => {
                refusal::cancelled_by_schema(&one_of(actions(body), detail))
            }
            _ => refusal::other_schema(),
        }
    }

    /// Delivers a request to the server. Over a real server the requests that it did not overtake
    /// arrive first.
    pub(super) async fn arrive(&self, sent: Sent) -> Delivered {
        if self.is_real() {
            self.let_older_land(&sent).await;
            let overtakes = u64::from(sent.counted && sent.is_about_items());
            let now = self.time.elapsed();
            let due: Vec<Stalled> = {
                let stalled = &mut self.state().stalled;
                for one in stalled.iter_mut() {
                    one.overtaken = one.overtaken.saturating_sub(overtakes);
                }
                // The server has no time of its own: a stalled request arrives in time if it
                // arrives before any other request.
                stalled
                    .extract_if(.., |one| one.overtaken == 0 || one.until < now)
                    .collect()
            };
            for late in due {
                self.arrive_late(late.sent).await;
            }
        }
        self.serve(sent).await
    }

    async fn serve(&self, sent: Sent) -> Delivered {
        if let (Server::There(real), Some(wire)) = (&self.server, &sent.wire) {
            real.learn(wire);
        }
        let operation = sent.request.operation.as_str();
        if let Some(refusal) = limits::check(operation, &sent.request.body) {
            return Ok(refusal);
        }
        match operation {
            "TransactWriteItems" => self.transact(sent).await,
            "TransactGetItems" => self.read_together(sent).await,
            _ if is_plain_write(operation) => self.write(sent).await,
            "CreateTable" | "DeleteTable" => {
                self.state().key_names.clear();
                self.execute(sent).await
            }
            _ => self.execute(sent).await,
        }
    }

    /// A plain write: refused at a held item, otherwise applied after the writes before it.
    async fn write(&self, mut sent: Sent) -> Delivered {
        if !self.watches_items() {
            return self.execute(sent).await;
        }
        let mut touched = self.touched(&sent.request).await;
        let mut ids: Vec<String> = touched.iter().map(Touch::id).collect();
        let now = self.time.elapsed();
        let mut left = Value::Null;
        let mut free = now;
        {
            let mut state = self.state();
            let State {
                weather,
                met,
                lanes,
                ..
            } = &mut *state;
            let held = lanes.held(&ids);
            if held.contains(&true) {
                met.note(Fault::HeldConflict);
                if sent.request.operation != "BatchWriteItem" {
                    return Ok(refusal::conflict());
                }
                // For a batch, AWS documents unprocessed entries but no conflict.
                left = refusal::split_batch(&mut sent.request.body, |nth| !held[nth]);
                if !held.contains(&false) {
                    return Ok(Answer::ok(json!({ "UnprocessedItems": left })));
                }
                let free = |nth: &usize| !held[*nth];
                ids = (0..ids.len())
                    .filter(free)
                    .map(|nth| ids[nth].clone())
                    .collect();
                touched = (0..touched.len())
                    .filter(free)
                    .map(|nth| touched[nth].clone())
                    .collect();
            }
            if let Some(limit) = weather.partition_limit
                && lanes.full(&ids, now, limit).contains(&true)
            {
                met.note(Fault::PartitionLimit);
                return Ok(refusal::exceeded());
            }
            if !weather.service.is_zero() && !self.is_real() {
                free = lanes.queue(&ids, now, weather.service);
            }
        }
        if free > now {
            self.time.reached(free).await;
        }
        let mut answer = self.execute(sent).await?;
        if answer.is_ok() || answer.code() == "ConditionalCheckFailedException" {
            self.charge_items(&touched, 1.0).await;
        }
        if answer.is_ok() && !left.is_null() {
            answer.body["UnprocessedItems"] = left;
        }
        Ok(answer)
    }

    /// A reading transaction: cancelled if one of its items is being written.
    async fn read_together(&self, sent: Sent) -> Delivered {
        if self.watches_items() {
            let touched = self.touched(&sent.request).await;
            let ids: Vec<String> = touched.iter().map(Touch::id).collect();
            let mut state = self.state();
            let struck = state.lanes.busy(&ids, self.time.elapsed());
            if struck.contains(&true) {
                state.met.note(Fault::HeldConflict);
                return Ok(refusal::cancelled_by_conflict(&struck));
            }
        }
        self.execute(sent).await
    }

    /// A writing transaction: cancelled if one of its items is held, otherwise it holds all of
    /// them.
    async fn transact(&self, mut sent: Sent) -> Delivered {
        let token = match self.is_real() {
            // The real server handles tokens itself.
            true => None,
            false => take(&mut sent.request.body, "ClientRequestToken"),
        };
        let token = token.and_then(|token| token.as_str().map(str::to_owned));
        let touched = self.touched(&sent.request).await;
        if let Some(token) = &token
            && let Some(answer) = self.begin(token, &sent.request.body, &touched).await
        {
            return Ok(answer);
        }
        let answer = self.transact_now(sent, &touched).await;
        if let Some(token) = token {
            let done = self.time.elapsed();
            let applied = answer.as_ref().is_ok_and(Answer::is_ok);
            self.state().tokens.end(&token, applied, done);
        }
        answer
    }

    /// Remembers a transaction's token. Returns the answer if the token was used before.
    async fn begin(&self, token: &str, body: &Value, touched: &[Touch]) -> Option<Answer> {
        if token.is_empty() || token.len() > 36 {
            return Some(Answer::error(
                400,
                "ValidationException",
                format!(
                    "1 validation error detected: Value '{token}' at 'clientRequestToken' failed to \
                     satisfy constraint: Member must have length less than or equal to 36"
                ),
            ));
        }
        {
            let now = self.time.elapsed();
            let State { tokens, met, .. } = &mut *self.state();
            match tokens.begin(token, &body["TransactItems"], now) {
                Seen::New => return None,
                Seen::OfOtherItems => return Some(refusal::mismatch()),
                Seen::UnderWay => {
                    met.note(Fault::InProgress);
                    return Some(refusal::in_progress());
                }
                Seen::Done => met.note(Fault::TokenReplay),
            }
        }
        // A replay costs as much as reading what was written.
        let mut units = 0.0;
        for size in self.sizes(touched).await {
            units += 2.0 * per(size, 4096);
        }
        self.state().usage.read += units;
        Some(Answer::ok(json!({})))
    }

    async fn transact_now(&self, sent: Sent, touched: &[Touch]) -> Delivered {
        if !self.watches_items() {
            return self.execute_together(sent, touched).await;
        }
        let ids: Vec<String> = touched.iter().map(Touch::id).collect();
        let now = self.time.elapsed();
        let mut free = now;
        let refused = 'refused: {
            let mut state = self.state();
            let State {
                weather,
                met,
                lanes,
                ..
            } = &mut *state;
            let held = lanes.held(&ids);
            if held.contains(&true) {
                met.note(Fault::HeldConflict);
                break 'refused Some(refusal::cancelled_by_conflict(&held));
            }
            if let Some(limit) = weather.partition_limit {
                let full = lanes.full(&ids, now, limit);
                if full.contains(&true) {
                    met.note(Fault::PartitionLimit);
                    return Ok(refusal::cancelled_by_throttling(&full));
                }
            }
            if !weather.hold.is_zero() {
                free = lanes.hold(&ids, now).max(now + weather.hold);
            }
            None
        };
        if let Some(refused) = refused {
            if sent.counted {
                self.charge_cancelled(touched).await;
            }
            return Ok(refused);
        }
        if free > now && !self.is_real() {
            self.time.reached(free).await;
        }
        let answer = self.execute_together(sent, touched).await;
        {
            let State { weather, lanes, .. } = &mut *self.state();
            lanes.release(&ids);
            lanes.forget_quiet(self.time.elapsed(), weather.partition_limit);
        }
        let paid =
            |answer: &Answer| answer.is_ok() || answer.code() == "TransactionCanceledException";
        if answer.as_ref().is_ok_and(paid) {
            self.charge_items(touched, 2.0).await;
        }
        answer
    }

    /// Executes a transaction and records its cost.
    async fn execute_together(&self, sent: Sent, touched: &[Touch]) -> Delivered {
        let counted = sent.counted;
        let before = match self.is_real() && counted {
            true => self.sizes(touched).await,
            false => Vec::new(),
        };
        let answer = self.execute(sent).await?;
        if !counted {
            return Ok(answer);
        }
        if answer.code() == "TransactionCanceledException" {
            self.charge_cancelled(touched).await;
        } else if answer.is_ok() && self.is_real() {
            // DynamoDB Local reports 2 units for a transaction of any size.
            let after = self.sizes(touched).await;
            let larger = before
                .iter()
                .zip(after)
                .map(|(before, after)| after.max(*before));
            let units: f64 = larger.map(|size| 2.0 * per(size, 1024)).sum();
            self.state().usage.transactional += units;
        }
        Ok(answer)
    }

    /// Executes a request on the server and records the cost that the server reports.
    async fn execute(&self, sent: Sent) -> Delivered {
        let Sent {
            mut request,
            counted,
            wire,
            process,
            stale,
            left,
        } = sent;
        let replaced = self.about_to_be_replaced(&request).await;
        let observer = self.state().observer.clone().filter(|_| counted);
        let asked = (observer.is_some() || stale.is_some()).then(|| request.clone());
        let books = counted && Books::keeps(&request.operation);
        let books = books.then(|| Books::open(&request.operation, &mut request.body));
        let mut answer = match (&self.server, wire) {
            (Server::Here(database), _) => server::run(database, &request.operation, request.body),
            (Server::There(_), Some(wire)) => forward(wire, &request.body).await?,
            (Server::There(_), None) => panic!("a request to a real server has no way there"),
        };
        if let Some(books) = books {
            let real = self.is_real();
            books.close(&mut answer, &mut self.state().usage, real);
        }
        if answer.is_ok() {
            let now = self.time.elapsed();
            let state = &mut *self.state();
            let kept = *state.weather.stale_for.end();
            for (touch, before) in replaced {
                state.versions.replace(&touch, before, now, kept);
            }
            if let (Some(age), Some(asked)) = (stale, &asked) {
                // A generator of its own, so that no request's draws are shifted.
                let dice = &mut fastrand::Rng::with_seed(age.as_nanos() as u64);
                let Request {
                    operation, body, ..
                } = asked;
                let times = (now, age);
                let versions = &state.versions;
                if versions.age(operation, body, &mut answer.body, times, dice) {
                    state.met.note(Fault::Stale);
                }
            }
        }
        if let (Some(observer), Some(request)) = (observer, &asked) {
            observer(&Answered {
                process,
                left,
                request,
                answer: &answer.body,
                is_ok: answer.is_ok(),
            });
        }
        Ok(answer)
    }

    /// The current items that a write is about to replace, if reads may be stale.
    async fn about_to_be_replaced(&self, request: &Request) -> Vec<(Touch, Value)> {
        let operation = request.operation.as_str();
        let writes = is_plain_write(operation) || operation == "TransactWriteItems";
        if !writes || self.state().weather.stale <= 0.0 {
            return Vec::new();
        }
        let mut replaced = Vec::new();
        for touch in self.touched(request).await {
            let (table, key) = (&touch.table, &touch.key);
            let get = json!({ "TableName": table, "Key": key, "ConsistentRead": true });
            let before = self.aside("GetItem", &get).await["Item"].take();
            replaced.push((touch, before));
        }
        replaced
    }

    /// Executes a request in this process, without weather.
    pub(super) fn at_once(&self, operation: &str, body: Value) -> Value {
        let Server::Here(database) = &self.server else {
            panic!("a real server does nothing at once");
        };
        let answer = server::run(database, operation, body);
        assert!(answer.is_ok(), "{operation}: {:?}", answer.body);
        answer.body
    }

    /// Whether the request's items matter to anything.
    fn watches_items(&self) -> bool {
        let state = self.state();
        let weather = &state.weather;
        // Lanes of an earlier weather stay until they are released.
        !weather.hold.is_zero()
            || !weather.service.is_zero()
            || weather.partition_limit.is_some()
            || !state.lanes.is_empty()
    }

    /// Charges the items what they used, if items are limited.
    async fn charge_items(&self, touched: &[Touch], each: f64) {
        let Some(limit) = self.state().weather.partition_limit else {
            return;
        };
        let sizes = self.sizes(touched).await;
        let now = self.time.elapsed();
        let lanes = &mut self.state().lanes;
        for (touch, size) in touched.iter().zip(sizes) {
            lanes.charge(touch.id(), each * per(size, 1024), now, limit);
        }
    }

    /// AWS documents no price for a cancelled transaction. It is charged as if it had been applied
    /// to the items as they are, the most that it can cost.
    async fn charge_cancelled(&self, touched: &[Touch]) {
        let sizes = self.sizes(touched).await;
        let larger = touched
            .iter()
            .zip(sizes)
            .map(|(touch, size)| size.max(touch.put_size()));
        let units: f64 = larger.map(|size| 2.0 * per(size, 1024)).sum();
        self.state().usage.cancelled += units;
    }

    /// The current sizes of the items; 0 for an absent item.
    async fn sizes(&self, touched: &[Touch]) -> Vec<usize> {
        match &self.server {
            Server::Here(database) => {
                let size = |touch: &Touch| {
                    let key = &touch.key;
                    let get =
                        json!({ "TableName": touch.table, "Key": key, "ConsistentRead": true });
                    items::size(&server::run(database, "GetItem", get).body["Item"])
                };
                touched.iter().map(size).collect()
            }
            Server::There(_) => {
                let mut keys = serde_json::Map::new();
                for touch in touched {
                    let table = keys
                        .entry(&touch.table)
                        .or_insert_with(|| json!({ "Keys": [], "ConsistentRead": true }));
                    if let Some(keys) = table["Keys"].as_array_mut() {
                        keys.push(touch.key.clone().into());
                    }
                }
                let mut sizes = vec![0; touched.len()];
                let mut left = Value::Object(keys);
                while left.as_object().is_some_and(|left| !left.is_empty()) {
                    let get = json!({ "RequestItems": left });
                    let mut answer = self.aside("BatchGetItem", &get).await;
                    for (table, items) in answer["Responses"].as_object().into_iter().flatten() {
                        for item in items.as_array().into_iter().flatten() {
                            let of = |touch: &&Touch| touch.table == *table && touch.is(item);
                            let nth = touched.iter().position(|touch| of(&touch));
                            if let Some(nth) = nth {
                                sizes[nth] = items::size(item);
                            }
                        }
                    }
                    left = answer["UnprocessedKeys"].take();
                }
                sizes
            }
        }
    }

    /// Sends a request of the cloud's own. Returns null if there is no answer.
    async fn aside(&self, operation: &str, body: &Value) -> Value {
        match &self.server {
            Server::Here(database) => server::run(database, operation, body.clone()).body,
            Server::There(real) => real.ask(operation, body).await,
        }
    }

    /// The items that a request is about.
    async fn touched(&self, request: &Request) -> Vec<Touch> {
        for table in items::put_into(&request.operation, &request.body) {
            if !self.state().key_names.contains_key(&table) {
                let names = self.key_names(&table).await;
                self.state().key_names.insert(table, names);
            }
        }
        let state = self.state();
        items::touched(&request.operation, &request.body, |table| {
            state.key_names.get(table).cloned().unwrap_or_default()
        })
    }

    /// The names of a table's key attributes; empty if the table does not exist.
    async fn key_names(&self, table: &str) -> Vec<String> {
        let answer = self
            .aside("DescribeTable", &json!({ "TableName": table }))
            .await;
        let schema = answer["Table"]["KeySchema"].as_array();
        let names = schema.into_iter().flatten();
        names
            .filter_map(|key| key["AttributeName"].as_str().map(str::to_owned))
            .collect()
    }
}

fn check(weather: &Weather, server: &Server) {
    weather.check();
    assert!(
        weather.partition_limit.is_none() || matches!(server, Server::Here(_)),
        "a real server's requests take real time: a limit per second needs a cloud in this process"
    );
}

/// The number of actions in a transaction.
fn actions(body: &Value) -> usize {
    body["TransactItems"].as_array().map_or(0, Vec::len)
}

/// `count` flags, one of them set. `detail`, 0.0 to 1.0, decides which.
fn one_of(count: usize, detail: f64) -> Vec<bool> {
    let chosen = (detail * count as f64) as usize;
    (0..count).map(|nth| nth == chosen).collect()
}
