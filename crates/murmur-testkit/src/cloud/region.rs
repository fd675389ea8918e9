//! The server's side of the cloud: what a request meets when it arrives, and what it costs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use dynoxide::Database;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::connection::Fate;
use super::count::{Fault, Met, Usage};
use super::items::{self, Touch};
use super::server::{self, Answer};
use super::{limits, weather::Weather};
use crate::time::Time;
use crate::wire::Request;

type Rewriter = dyn Fn(&mut Request) + Send + Sync;
type Delivered = Result<Answer, ConnectorError>;

/// How long a client without timeouts hears nothing before its connection breaks.
const SILENCE: Duration = Duration::from_secs(3600);

/// How long a client request token is remembered.
const TOKEN_LIFE: Duration = Duration::from_secs(600);

/// A request that left its process.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) request: Request,
    counted: bool,
}

impl Sent {
    pub(super) fn read(request: HttpRequest, _connector: Option<SharedHttpConnector>) -> Self {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let body = request.body().bytes();
        let body = body.and_then(|bytes| serde_json::from_slice(bytes).ok());
        Self {
            request: Request {
                operation,
                nth: 0,
                body: body.unwrap_or_default(),
            },
            counted: true,
        }
    }

    pub(super) fn uncounted(mut self) -> Self {
        self.counted = false;
        self
    }

    /// Whether it reads or writes items: these are what the weather strikes.
    pub(super) fn is_about_items(&self) -> bool {
        matches!(
            self.request.operation.as_str(),
            "BatchGetItem" | "GetItem" | "Query" | "Scan" | "TransactGetItems"
        ) || self.is_write()
    }

    pub(super) fn is_write(&self) -> bool {
        matches!(
            self.request.operation.as_str(),
            "BatchWriteItem" | "DeleteItem" | "PutItem" | "TransactWriteItems" | "UpdateItem"
        )
    }
}

pub(super) struct Region {
    seed: u64,
    time: Time,
    database: Database,
    state: Mutex<State>,
    in_flight: watch::Sender<u64>,
}

pub(super) struct State {
    pub(super) weather: Weather,
    pub(super) rewriter: Option<Arc<Rewriter>>,
    pub(super) met: Met,
    pub(super) usage: Usage,
    processes: u64,
    lanes: HashMap<String, Lane>,
    tokens: HashMap<String, Token>,
    key_names: HashMap<String, Vec<String>>,
}

/// What goes on at one item.
#[derive(Default)]
struct Lane {
    /// By a transaction.
    held: bool,
    /// By plain writes, up to this time since the start.
    busy: Duration,
}

/// A client request token that was seen.
struct Token {
    body: Value,
    since: Duration,
    done: bool,
}

/// Counts a request as under way while it lives.
pub(super) struct Flight(watch::Sender<u64>);

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Region {
    pub(super) fn here(time: Time, seed: u64, weather: Weather) -> Self {
        weather.check();
        Self {
            seed,
            database: server::database(time.clone()),
            time,
            state: Mutex::new(State {
                weather,
                rewriter: None,
                met: Met::default(),
                usage: Usage::default(),
                processes: 0,
                lanes: HashMap::new(),
                tokens: HashMap::new(),
                key_names: HashMap::new(),
            }),
            in_flight: watch::Sender::new(0),
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
        "http://cloud.invalid".into()
    }

    pub(super) fn connector(
        &self,
        _settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> Option<SharedHttpConnector> {
        None
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, fault: Fault) {
        self.state().met.note(fault);
    }

    /// Counts a request that leaves its process, and says what weather it goes into.
    pub(super) fn leaves(&self, request: &mut Request) -> Weather {
        let mut state = self.state();
        let count = state.usage.requests.entry(request.operation.clone());
        let count = count.or_default();
        request.nth = usize::try_from(*count).unwrap_or(usize::MAX);
        *count += 1;
        state.weather.clone()
    }

    /// Whether requests meet nothing that takes time.
    pub(super) fn is_instant(&self) -> bool {
        let weather = &self.state().weather;
        weather.hold.is_zero() && weather.service.is_zero()
    }

    pub(super) fn takes_off(&self) -> Flight {
        self.in_flight.send_modify(|count| *count += 1);
        Flight(self.in_flight.clone())
    }

    pub(super) async fn flush(&self) {
        let mut in_flight = self.in_flight.subscribe();
        // Its sender lives in `self`.
        let _ = in_flight.wait_for(|count| *count == 0).await;
    }

    pub(super) async fn sleep(&self, duration: Duration) {
        if !duration.is_zero() {
            self.time.sleep(duration).await;
        }
    }

    pub(super) async fn silence(&self) {
        self.sleep(SILENCE).await;
    }

    /// Lets a request arrive late, when its client has given up.
    pub(super) async fn stall(&self, sent: Sent, fate: &Fate) {
        self.sleep(fate.stall).await;
        let write = sent.is_write();
        let result = self.arrive(sent).await;
        match result {
            Ok(answer) if write && answer.is_ok() => self.note(Fault::Zombie),
            Ok(_) if write => self.note(Fault::ZombieRefused),
            _ => {}
        }
    }

    pub(super) async fn throttle(&self, sent: Sent, detail: f64) -> Delivered {
        let _ = detail;
        self.arrive(sent).await
    }

    pub(super) async fn conflict(&self, sent: Sent, detail: f64) -> Delivered {
        let _ = detail;
        self.arrive(sent).await
    }

    /// A request reaches the server.
    pub(super) async fn arrive(&self, sent: Sent) -> Delivered {
        let Sent { request, counted } = sent;
        let Request {
            operation, body, ..
        } = request;
        if let Some(refusal) = limits::check(&operation, &body) {
            return Ok(refusal);
        }
        Ok(server::run(&self.database, &operation, body))
    }
}
