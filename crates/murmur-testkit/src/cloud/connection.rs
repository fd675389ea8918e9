//! The connection of one process to the cloud.

use std::fmt;
use std::future::pending;
use std::io;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_sdk_dynamodb::config::retry::{RetryPartition, TokenBucket};
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, IdentityCache, Region as AwsRegion};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use fastrand::Rng;
use futures::FutureExt as _;
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use super::count::Fault;
use super::region::Region;
use super::sent::Sent;
use super::server::{Answer, Delivered};
use super::weather::Weather;
use crate::wire::Request;

type Rewriter = dyn Fn(&mut Request) + Send + Sync;

/// Changes the body of an answer. It gets `None` if there is no answer or if the answer is an error
/// other than a failed condition. For both it may return the body of a successful answer.
type AnswerRewriter = dyn Fn(&Request, Option<&mut Value>) -> Option<Value> + Send + Sync;

/// The connection of one process to a [`Cloud`](super::Cloud): its client, its random generator and
/// its death.
///
/// Clones are the same process.
#[derive(Clone)]
pub struct Process(Arc<Shared>);

struct Shared {
    region: Arc<Region>,
    number: u64,
    /// The connection meets no weather and is not counted.
    admin: bool,
    state: Mutex<State>,
    /// Whether a spell refused one of its requests.
    refused: AtomicBool,
    dead: watch::Sender<bool>,
}

struct State {
    dice: Rng,
    rewriter: Option<Arc<Rewriter>>,
    answers: Option<Arc<AnswerRewriter>>,
    /// Whether its writes arrive twice.
    twice: bool,
    /// How many requests the process has left. The last one is never answered.
    left: Option<u64>,
}

/// The fate of one request. All of it is drawn for every request, so that a change of one rate does
/// not shift the draws of later requests.
#[derive(Debug, Clone)]
pub(super) struct Fate {
    pub(super) fault: Option<Fault>,
    there: Duration,
    back: Duration,
    pub(super) stall: Duration,
    spell: Duration,
    /// How old the data of a read may be, where staleness is allowed.
    stale: Option<Duration>,
    /// For further choices: 0.0 to 1.0.
    pub(super) detail: f64,
}

impl Fate {
    const CALM: Self = Self {
        fault: None,
        there: Duration::ZERO,
        back: Duration::ZERO,
        stall: Duration::ZERO,
        spell: Duration::ZERO,
        stale: None,
        detail: 0.0,
    };

    fn is_instant(&self) -> bool {
        self.fault != Some(Fault::Stall) && self.there.is_zero() && self.back.is_zero()
    }

    fn draw(dice: &mut Rng, weather: &Weather, strikes: bool) -> Self {
        let mut chance = dice.f64();
        let mut fault = None;
        for (kind, rate) in weather.rates() {
            if chance < rate && fault.is_none() {
                fault = Some(kind);
            }
            chance -= rate;
        }
        let mut within = |range| stretch(range, dice.f64());
        let (there, back) = (within(&weather.latency), within(&weather.latency));
        let stall = within(&weather.stall_for);
        let detail = dice.f64();
        // A separate generator, so that it does not shift the draws of later requests.
        let aside = &mut Rng::with_seed(detail.to_bits());
        let stale = aside.f64() < weather.stale;
        Self {
            fault: fault.filter(|_| strikes),
            there,
            back,
            stall,
            detail,
            stale: stale.then(|| stretch(&weather.stale_for, aside.f64())),
            // Derived instead of drawn, so that a spell does not shift the draws of later requests.
            spell: stretch(&weather.spell_for, detail),
        }
    }
}

/// The point that lies `part` of the way from one end of the range to the other; `part` is 0.0 to
/// 1.0.
fn stretch(range: &RangeInclusive<Duration>, part: f64) -> Duration {
    let span = range.end().saturating_sub(*range.start());
    *range.start() + span.mul_f64(part)
}

impl Process {
    pub(super) fn new(region: Arc<Region>, number: u64) -> Self {
        Self::make(region, number, false)
    }

    pub(super) fn admin(region: Arc<Region>) -> Self {
        Self::make(region, 0, true)
    }

    fn make(region: Arc<Region>, number: u64, admin: bool) -> Self {
        let state = State {
            // Far apart, so that seed 1 of one run does not equal process 1 of another.
            dice: Rng::with_seed(
                region
                    .seed()
                    .wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            ),
            rewriter: None,
            answers: None,
            twice: false,
            left: None,
        };
        Self(Arc::new(Shared {
            region,
            number,
            admin,
            state: Mutex::new(state),
            refused: AtomicBool::new(false),
            dead: watch::Sender::new(false),
        }))
    }

    /// A DynamoDB client with the SDK's defaults, including retries. Each client has its own retry
    /// quota; in a real process the SDK has one quota for all clients.
    pub fn client(&self) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::from_conf(self.client_config().build())
    }

    /// The configuration of [`client`](Self::client), for a client with other settings.
    pub fn client_config(&self) -> aws_sdk_dynamodb::config::Builder {
        let partition = RetryPartition::custom("cloud").token_bucket(TokenBucket::default());
        aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(AwsRegion::from_static("us-east-1"))
            .credentials_provider(Signer(self.clone()))
            .identity_cache(IdentityCache::no_cache())
            .endpoint_url(self.0.region.endpoint())
            .retry_partition(partition.build())
            .http_client(self.clone())
    }

    /// Changes the body of every request before it leaves the process. A test can, for example,
    /// remove a rule from a condition and check that the runs detect it.
    pub fn rewrite(&self, rewriter: impl Fn(&mut Request) + Send + Sync + 'static) {
        self.0.state().rewriter = Some(Arc::new(rewriter));
    }

    /// Changes every answer before it reaches the process. The rewriter gets the body of an answer
    /// that was served or refused by a condition, and `None` where no answer or an error would
    /// arrive. A value that it returns for `None` becomes the answer of a successful request.
    pub fn rewrite_answers(
        &self,
        rewriter: impl Fn(&Request, Option<&mut Value>) -> Option<Value> + Send + Sync + 'static,
    ) {
        self.0.state().answers = Some(Arc::new(rewriter));
    }

    /// Every write that arrives is served twice. The client gets the second answer.
    pub fn send_writes_twice(&self) {
        self.0.state().twice = true;
    }

    /// The number of the process, starting at 1.
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// Kills the process. Requests under way still arrive, but none is answered and no further
    /// request leaves. Their futures never complete.
    pub fn kill(&self) {
        let first = !self.0.dead.send_replace(true);
        if first && !self.0.admin {
            self.0.region.note(Fault::Kill);
        }
    }

    /// Kills the process at its `requests`-th request from now. A random draw decides whether that
    /// request arrives; 0 kills it at once.
    pub fn kill_after(&self, requests: u64) {
        if requests == 0 {
            self.kill();
        } else {
            self.0.state().left = Some(requests);
        }
    }

    /// Whether it was killed.
    pub fn is_killed(&self) -> bool {
        *self.0.dead.borrow()
    }

    /// Completes once the process is killed. Cancel safe.
    pub async fn killed(&self) {
        let mut dead = self.0.dead.subscribe();
        // The sender is owned by `self`.
        let _ = dead.wait_for(|dead| *dead).await;
    }

    /// Starts the spell that was drawn, if any, and applies a spell that is active.
    fn in_spell(&self, fate: &mut Fate) {
        let Shared {
            region,
            number,
            refused,
            ..
        } = &*self.0;
        let now = region.elapsed();
        let spells = &mut region.state().spells;
        if let Some(fault @ (Fault::Unsigned | Fault::Refused | Fault::Misfit)) = fate.fault {
            spells.begin(*number, fault, now + fate.spell);
            fate.fault = None;
        }
        // The service cannot refuse a request that does not reach it. A stalled request reaches it
        // later.
        if !matches!(
            fate.fault,
            Some(Fault::FailBefore | Fault::DropBefore | Fault::Stall)
        ) && let Some(fault) = spells.refuses(*number, now)
        {
            refused.store(true, Ordering::Relaxed);
            fate.fault = Some(fault);
        }
    }

    /// The same for a request to a store outside of the cloud. Returns the spell that strikes the
    /// request. `begins` is a spell that was drawn, with its length.
    pub(crate) fn spell(&self, begins: Option<(Fault, Duration)>) -> Option<Fault> {
        let Shared {
            region,
            number,
            refused,
            ..
        } = &*self.0;
        let now = region.elapsed();
        let struck = {
            let spells = &mut region.state().spells;
            if let Some((fault, lasts)) = begins {
                spells.begin(*number, fault, now + lasts);
            }
            match spells.unsigned(*number, now) {
                true => Fault::Unsigned,
                false => spells.refuses(*number, now)?,
            }
        };
        region.note(struck);
        if struck != Fault::Unsigned {
            refused.store(true, Ordering::Relaxed);
        }
        Some(struck)
    }

    /// Whether a spell refused one of its requests since the last call. The errors that its caller
    /// then reports about the set-up are expected.
    pub(crate) fn was_refused(&self) -> bool {
        self.0.refused.swap(false, Ordering::Relaxed)
    }

    /// A request that leaves the process, and its fate; `None` if it never leaves.
    fn leave(
        &self,
        request: HttpRequest,
        connector: Option<SharedHttpConnector>,
    ) -> Option<(Sent, Fate)> {
        if self.is_killed() {
            return None;
        }
        let region = &self.0.region;
        let mut sent = Sent::read(
            request,
            connector,
            self.0.number,
            !self.0.admin,
            region.elapsed(),
        );
        if self.0.admin {
            return Some((sent, Fate::CALM));
        }
        let own = self.0.state().rewriter.clone();
        let all = region.state().rewriter.clone();
        for rewriter in [own, all].into_iter().flatten() {
            rewriter(&mut sent.request);
        }
        let weather = region.leaves(&mut sent.request);
        let mut state = self.0.state();
        let mut fate = Fate::draw(&mut state.dice, &weather, sent.is_about_items());
        let last = state.left.as_mut().is_some_and(|left| {
            *left -= 1;
            *left == 0
        });
        drop(state);
        sent.stale = fate.stale;
        if sent.is_about_items() {
            self.in_spell(&mut fate);
        }
        if last {
            self.kill();
        }
        // A process that dies while sending may or may not have sent the request.
        (!last || fate.detail < 0.5).then_some((sent, fate))
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("killed", &self.is_killed())
            .finish_non_exhaustive()
    }
}

/// The credentials of a process.
#[derive(Debug)]
struct Signer(Process);

impl ProvideCredentials for Signer {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let Shared {
            region,
            number,
            admin,
            ..
        } = &*self.0.0;
        let unsigned = region.state().spells.unsigned(*number, region.elapsed());
        future::ProvideCredentials::ready(match unsigned && !admin {
            true => {
                region.note(Fault::Unsigned);
                Err(CredentialsError::provider_timed_out(PROVIDER_TIMEOUT))
            }
            false => Ok(Credentials::new("murmur", "murmur", None, None, "testkit")),
        })
    }
}

/// The timeout that the credentials provider reports.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(5);

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpClient for Process {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Connector {
            process: self.clone(),
            inner: self.0.region.connector(settings, components),
        })
    }
}

#[derive(Debug)]
struct Connector {
    process: Process,
    /// The connector to the real server, if there is one.
    inner: Option<SharedHttpConnector>,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let process = self.process.clone();
        let Some((sent, fate)) = process.leave(request, self.inner.clone()) else {
            return HttpConnectorFuture::new(pending());
        };
        let region = process.0.region.clone();
        let instant = region.is_instant() && fate.is_instant();
        let flight = region.takes_off(sent.left);
        let (answer, mut answered) = oneshot::channel();
        let travel = async move {
            let _flight = flight;
            travel(&process, sent, fate, answer).await;
        };
        if instant {
            // Nothing has to be awaited: the request completes before the client can give up, and
            // needs no task.
            let arrived = travel.now_or_never();
            debug_assert!(arrived.is_some(), "an instant request waited");
            if let Ok(answer) = answered.try_recv() {
                return HttpConnectorFuture::ready(answer.and_then(http));
            }
        } else {
            // Runs in its own task, because a request continues after its client has given up.
            tokio::spawn(travel);
        }
        let process = self.process.clone();
        HttpConnectorFuture::new(async move {
            // An instant request that was not answered yet is never answered.
            if !instant && let Ok(answer) = answered.await {
                return answer.and_then(http);
            }
            if process.is_killed() {
                return pending().await;
            }
            process.0.region.silence().await;
            Err(broken())
        })
    }
}

/// Takes one request to the server and its answer back.
async fn travel(process: &Process, sent: Sent, fate: Fate, answer: oneshot::Sender<Delivered>) {
    let region = &process.0.region;
    let write = sent.is_write();
    let mut way = WayBack::of(process, &sent, answer);
    region.sleep(fate.there).await;
    let delivered = match fate.fault {
        Some(fault @ Fault::FailBefore) => {
            region.note(fault);
            Some(Ok(failure()))
        }
        Some(fault @ Fault::DropBefore) => {
            region.note(fault);
            Some(Err(broken()))
        }
        Some(fault @ Fault::Stall) => {
            region.note(fault);
            // The client gets no answer while the request is under way.
            way.deliver(None);
            region.stall(sent, &fate).await;
            region.is_real().then(|| Err(timed_out()))
        }
        Some(Fault::Throttle) => Some(region.throttle(sent, fate.detail).await),
        Some(Fault::Refused) => Some(Ok(region.refuse(fate.detail))),
        Some(Fault::Misfit) => Some(Ok(region.misfit(&sent, fate.detail))),
        Some(Fault::Conflict) => Some(region.conflict(sent, fate.detail).await),
        fault => {
            let twice = write && process.0.state().twice;
            if let Some(first) = sent.again().filter(|_| twice) {
                // The answer to the first request is discarded.
                let _ = region.arrive(first).await;
            }
            let result = region.arrive(sent).await;
            let applied = write && result.as_ref().is_ok_and(Answer::is_ok);
            if let Some(fault) = fault {
                region.note(fault);
                if applied {
                    region.note(Fault::LostAnswer);
                }
            }
            let delivered = match fault {
                Some(Fault::FailAfter) => Some(Ok(failure())),
                Some(Fault::DropAfter) => Some(Err(broken())),
                Some(_) => region.is_real().then(|| Err(timed_out())),
                None => Some(result),
            };
            region.sleep(fate.back).await;
            if fault.is_none() && applied && !way.is_heard() {
                region.note(Fault::LostAnswer);
            }
            way.deliver(delivered);
            return;
        }
    };
    region.sleep(fate.back).await;
    way.deliver(delivered);
}

/// Where the answer to a request is delivered, once.
struct WayBack {
    process: Process,
    to: Option<oneshot::Sender<Delivered>>,
    change: Option<(Arc<AnswerRewriter>, Request)>,
}

impl WayBack {
    fn of(process: &Process, sent: &Sent, to: oneshot::Sender<Delivered>) -> Self {
        let answers = process.0.state().answers.clone();
        Self {
            process: process.clone(),
            to: Some(to),
            change: answers.map(|answers| (answers, sent.request.clone())),
        }
    }

    fn is_heard(&self) -> bool {
        !self.process.is_killed() && self.to.as_ref().is_some_and(|to| !to.is_closed())
    }

    /// `None` means that no answer arrives for now.
    fn deliver(&mut self, delivered: Option<Delivered>) {
        let delivered = match &self.change {
            Some((answers, request)) => changed(&**answers, request, delivered),
            None => delivered,
        };
        if let Some(delivered) = delivered
            && !self.process.is_killed()
            && let Some(to) = self.to.take()
        {
            // The client may have stopped waiting.
            let _ = to.send(delivered);
        }
    }
}

/// What reaches a process whose answers are rewritten.
fn changed(
    answers: &AnswerRewriter,
    request: &Request,
    delivered: Option<Delivered>,
) -> Option<Delivered> {
    match delivered {
        Some(Ok(mut answer))
            if answer.is_ok() || answer.code() == "ConditionalCheckFailedException" =>
        {
            answers(request, Some(&mut answer.body));
            Some(Ok(answer))
        }
        failed => match answers(request, None) {
            Some(body) => Some(Ok(Answer::ok(body))),
            None => failed,
        },
    }
}

fn http(answer: Answer) -> Result<HttpResponse, ConnectorError> {
    let status = answer.status.try_into();
    let status = status.map_err(|error| ConnectorError::user(Box::new(error)))?;
    Ok(HttpResponse::new(
        status,
        SdkBody::from(answer.body.to_string()),
    ))
}

fn failure() -> Answer {
    Answer::error(500, "InternalServerError", "by chance")
}

/// The error of a client's own timeout. Over a real server it is returned without waiting.
fn timed_out() -> ConnectorError {
    ConnectorError::timeout(Box::new(io::Error::from(io::ErrorKind::TimedOut)))
}

fn broken() -> ConnectorError {
    ConnectorError::io(Box::new(io::Error::from(io::ErrorKind::ConnectionReset)))
}
