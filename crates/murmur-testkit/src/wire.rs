//! The connection between an AWS client and its server, where a closure decides about every
//! request.

use std::collections::BTreeMap;
use std::fmt;
use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use serde_json::{Value, json};

use crate::Dynamo;

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// It reaches the server, and the server's answer comes back.
    Pass,
    /// The server never sees it; the client gets this answer.
    Answer {
        /// The HTTP status.
        status: u16,
        /// The body.
        body: String,
    },
    /// The server processes it; its answer is replaced by this one.
    Then {
        /// The HTTP status.
        status: u16,
        /// The body.
        body: String,
    },
    /// The connection breaks before the server sees it.
    DropBefore,
    /// The server processes it; the connection breaks before the answer arrives.
    DropAfter,
    /// The server never sees it, and no answer arrives.
    Hang,
    /// The server processes it, and no answer arrives.
    HangAfter,
}

impl Action {
    /// The server never sees the request; the client gets DynamoDB's error `code`.
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::Answer {
            status,
            body: error_body(code, message),
        }
    }

    /// The server processes the request; its answer is replaced by a 500.
    pub fn lose_answer() -> Self {
        Self::Then {
            status: 500,
            body: error_body("InternalServerError", "answer lost"),
        }
    }
}

fn error_body(code: &str, message: &str) -> String {
    json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": message })
        .to_string()
}

/// A request as the client sent it.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The operation, such as `UpdateItem`.
    pub operation: String,
    /// The number of earlier requests of this operation.
    pub nth: usize,
    /// The body; null if it is not JSON.
    pub body: Value,
}

type Decide = dyn Fn(&Request) -> Action + Send + Sync;

/// An HTTP client over plain HTTP that asks a closure what happens to each request.
///
/// Every attempt passes through it, including the SDK's own retries. Clones share the closure and
/// the log.
#[derive(Clone)]
pub struct Wire {
    inner: SharedHttpClient,
    decide: Arc<Decide>,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    counts: BTreeMap<String, usize>,
    requests: Option<Vec<Request>>,
}

impl Wire {
    /// A wire on which `decide` determines what happens to each request. It keeps all requests.
    pub fn new(decide: impl Fn(&Request) -> Action + Send + Sync + 'static) -> Self {
        let log = Log {
            requests: Some(Vec::new()),
            ..Log::default()
        };
        Self {
            inner: aws_smithy_http_client::Builder::new().build_http(),
            decide: Arc::new(decide),
            log: Arc::new(Mutex::new(log)),
        }
    }

    /// A wire without faults.
    pub fn calm() -> Self {
        Self::new(|_| Action::Pass)
    }

    /// The same wire, counting requests without keeping them: for runs of any length.
    #[must_use]
    pub fn counting_only(self) -> Self {
        self.log().requests = None;
        self
    }

    /// A DynamoDB client of `dynamo`'s server over this wire, with the SDK's defaults, retries
    /// included.
    pub fn client(&self, dynamo: &Dynamo) -> aws_sdk_dynamodb::Client {
        let config = dynamo.client_config().http_client(self.clone());
        aws_sdk_dynamodb::Client::from_conf(config.build())
    }

    /// The number of requests of `operation` that were sent.
    pub fn count(&self, operation: &str) -> usize {
        self.log().counts.get(operation).copied().unwrap_or(0)
    }

    /// The number of requests of each operation that were sent.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        self.log().counts.clone()
    }

    /// Every request, in the order sent; empty if the wire is [counting only](Self::counting_only).
    pub fn requests(&self) -> Vec<Request> {
        self.log().requests.clone().unwrap_or_default()
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, request: &HttpRequest) -> Request {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let body = request
            .body()
            .bytes()
            .and_then(|bytes| serde_json::from_slice(bytes).ok());
        let mut log = self.log();
        let count = log.counts.entry(operation.clone()).or_default();
        let request = Request {
            operation,
            nth: *count,
            body: body.unwrap_or_default(),
        };
        *count += 1;
        if let Some(requests) = &mut log.requests {
            requests.push(request.clone());
        }
        request
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire")
            .field("counts", &self.counts())
            .finish_non_exhaustive()
    }
}

impl HttpClient for Wire {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let inner = self.inner.http_connector(settings, components);
        SharedHttpConnector::new(Connector {
            inner,
            wire: self.clone(),
        })
    }
}

#[derive(Debug)]
struct Connector {
    inner: SharedHttpConnector,
    wire: Wire,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let action = (self.wire.decide)(&self.wire.note(&request));
        let forward = |request| self.inner.call(request);
        match action {
            Action::Pass => forward(request),
            Action::Answer { status, body } => HttpConnectorFuture::ready(answer(status, body)),
            Action::DropBefore => HttpConnectorFuture::ready(Err(broken())),
            Action::Hang => HttpConnectorFuture::new(pending()),
            Action::Then { status, body } => {
                let applied = forward(request);
                HttpConnectorFuture::new(async move {
                    read_to_end(applied.await?).await?;
                    answer(status, body)
                })
            }
            Action::DropAfter => {
                let applied = forward(request);
                HttpConnectorFuture::new(async move {
                    read_to_end(applied.await?).await?;
                    Err(broken())
                })
            }
            Action::HangAfter => {
                let applied = forward(request);
                HttpConnectorFuture::new(async move {
                    read_to_end(applied.await?).await?;
                    pending().await
                })
            }
        }
    }
}

fn answer(status: u16, body: String) -> Result<HttpResponse, ConnectorError> {
    let status = status
        .try_into()
        .map_err(|error| ConnectorError::user(Box::new(error)))?;
    Ok(HttpResponse::new(status, SdkBody::from(body)))
}

/// Waits for the whole answer, so that the server has finished the request.
async fn read_to_end(response: HttpResponse) -> Result<(), ConnectorError> {
    let body = aws_smithy_types::byte_stream::ByteStream::new(response.into_body());
    body.collect()
        .await
        .map(drop)
        .map_err(|error| ConnectorError::io(Box::new(error)))
}

fn broken() -> ConnectorError {
    ConnectorError::io(Box::new(io::Error::from(io::ErrorKind::ConnectionReset)))
}
