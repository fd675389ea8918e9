//! A gate between a process and its DynamoDB that can hold a chosen request.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::Dynamo;

/// An HTTP port that forwards requests to a DynamoDB, counts them, and can hold one, so that a test
/// can kill the process that sent it at exactly that point.
///
/// The server executes every request that reached it, even if the sender is dead by then. The port
/// closes when this value is dropped.
#[derive(Debug)]
pub struct Gate {
    address: SocketAddr,
    dynamo: Dynamo,
    keeper: Arc<Keeper>,
    server: JoinHandle<()>,
}

/// The side on which a request is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hold {
    /// The server has not seen the request.
    Before,
    /// The server has executed the request; only the answer is missing.
    After,
}

#[derive(Debug)]
struct Keeper {
    client: Client<HttpConnector, Body>,
    server: Uri,
    log: Mutex<Log>,
    /// The number of requests at the server.
    inside: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Log {
    counts: BTreeMap<String, usize>,
    armed: Option<Armed>,
}

/// The request to hold.
#[derive(Debug)]
struct Armed {
    /// Only requests of this operation count.
    operation: Option<String>,
    /// How many requests pass first.
    before: u64,
    side: Hold,
    held: oneshot::Sender<String>,
}

impl Gate {
    /// Opens a gate to `dynamo` on a free port of 127.0.0.1, on the runtime of the caller.
    ///
    /// # Panics
    ///
    /// If no port is available.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn to(dynamo: &Dynamo) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.unwrap_or_else(|error| panic!("no port for the gate: {error}"));
        let address = listener
            .local_addr()
            .unwrap_or_else(|error| panic!("no address: {error}"));
        let server = dynamo.endpoint().parse();
        let keeper = Arc::new(Keeper {
            client: Client::builder(TokioExecutor::new()).build_http(),
            server: server.unwrap_or_else(|error| panic!("{}: {error}", dynamo.endpoint())),
            log: Mutex::default(),
            inside: watch::Sender::new(0),
        });
        let routes = Router::new().fallback(pass).with_state(keeper.clone());
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                panic!("the gate stopped: {error}");
            }
        });
        Self {
            address,
            dynamo: dynamo.clone(),
            keeper,
            server,
        }
    }

    /// The environment variables with which `aws-config` in another process finds the server
    /// through this gate.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let endpoint = ("AWS_ENDPOINT_URL", format!("http://{}", self.address));
        let others = self.dynamo.env().into_iter();
        let others = others.filter(|(name, _)| *name != endpoint.0);
        others.chain([endpoint.clone()]).collect()
    }

    /// Waits for the `nth` request from now on, counted from 0, holds it, and returns its
    /// operation. If `operation` is given, only its requests count. The held request never gets an
    /// answer: kill its process.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: if it is dropped before it completes, no request is held. A later call replaces
    /// an earlier one.
    pub async fn hold(&self, operation: Option<&str>, nth: u64, side: Hold) -> String {
        let (held, is_held) = oneshot::channel();
        self.keeper.log().armed = Some(Armed {
            operation: operation.map(str::to_owned),
            before: nth,
            side,
            held,
        });
        match is_held.await {
            Ok(operation) => operation,
            // Another call has replaced this one.
            Err(_) => pending().await,
        }
    }

    /// Completes once the server has finished every request that reached it.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn settled(&self) {
        let mut inside = self.keeper.inside.subscribe();
        // The sender is owned by `self`, so there is always an answer.
        let _ = inside.wait_for(|inside| *inside == 0).await;
    }

    /// The number of requests of each operation.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        self.keeper.log().counts.clone()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Keeper {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request. Returns where to report it if it is the one to hold.
    fn arrives(&self, operation: &str) -> Option<(Hold, oneshot::Sender<String>)> {
        let mut log = self.log();
        *log.counts.entry(operation.to_owned()).or_default() += 1;
        let meant = |armed: &Armed| {
            let named = armed.operation.as_deref();
            named.is_none_or(|named| named == operation) && !armed.held.is_closed()
        };
        let next = |armed: &mut Armed| meant(armed) && armed.before == 0;
        if let Some(armed) = log.armed.take_if(next) {
            return Some((armed.side, armed.held));
        }
        if let Some(armed) = &mut log.armed
            && meant(armed)
        {
            armed.before -= 1;
        }
        None
    }

    async fn forward(&self, request: Request) -> Response {
        let (mut parts, body) = request.into_parts();
        let mut target = self.server.clone().into_parts();
        target.path_and_query = parts.uri.into_parts().path_and_query;
        let (Ok(target), Ok(body)) = (
            Uri::from_parts(target),
            // A process that died in the middle of its request has sent none.
            to_bytes(body, usize::MAX).await,
        ) else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        parts.uri = target;
        self.inside.send_modify(|inside| *inside += 1);
        let sent = self.client.request(Request::from_parts(parts, body.into()));
        let answer = match sent.await {
            Ok(answer) => answer.map(Body::new).into_response(),
            Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        };
        self.inside.send_modify(|inside| *inside -= 1);
        answer
    }
}

async fn pass(State(keeper): State<Arc<Keeper>>, request: Request) -> Response {
    let target = request.headers().get("x-amz-target");
    let target = target.and_then(|target| target.to_str().ok());
    let operation = target.unwrap_or_default().rsplit('.').next();
    let operation = operation.unwrap_or_default().to_owned();
    let held = match keeper.arrives(&operation) {
        Some((Hold::Before, held)) => {
            let _ = held.send(operation);
            return pending().await;
        }
        Some((Hold::After, held)) => Some(held),
        None => None,
    };
    // Runs in its own task, so that it completes even if the client disconnects.
    let forwarded = tokio::spawn(async move { keeper.forward(request).await });
    let answer = forwarded
        .await
        .unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, error.to_string()).into_response());
    if let Some(held) = held {
        let _ = held.send(operation);
        return pending().await;
    }
    answer
}
