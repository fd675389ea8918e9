//! The Lambda Runtime API, as a function sees it.
//!
//! Source: <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

const FUNCTION: &str = "murmur-test";
const FUNCTION_ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:murmur-test";
const TRACE: &str = "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0";

/// How long a process may take to ask for its first event. AWS allows 10 s; a busy test machine is
/// slower.
const START: Duration = Duration::from_secs(60);

/// An emulator of the Lambda Runtime API: one function, whose process polls for events here.
///
/// Start the process with the variables of [`env`](Self::env), then [`invoke`](Self::invoke) it.
/// Concurrent invocations queue; as many run at once as the process polls for. Unlike Lambda the
/// emulator neither starts, freezes nor kills the process. The server stops when this value is
/// dropped.
#[derive(Debug)]
pub struct RuntimeApi {
    address: SocketAddr,
    events: mpsc::UnboundedSender<Event>,
    function: Arc<Function>,
    server: JoinHandle<()>,
}

/// The reason why an invocation has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvocationError {
    /// The function answered with an error.
    #[error("the function failed with {kind}: {message}")]
    Function {
        /// `errorType` of the answer.
        kind: String,
        /// `errorMessage` of the answer.
        message: String,
    },
    /// The process reported that it cannot start. The field is the body of its report.
    #[error("the function did not start: {0}")]
    Init(String),
    /// No process asked for the event.
    #[error("no process asked for the event: was it started with `RuntimeApi::env`, does it run?")]
    NotPolled,
    /// The process took the event but did not answer in time.
    #[error("the function did not answer before its deadline, {0:?} after it took the event")]
    DeadlinePassed(Duration),
    /// The process answered with invalid JSON.
    #[error("the function's answer is not JSON: {0}")]
    NotJson(String),
}

type Answer = Result<Value, InvocationError>;

#[derive(Debug)]
struct Event {
    id: String,
    payload: Value,
    time: Duration,
    taken: oneshot::Sender<()>,
}

#[derive(Debug)]
struct Function {
    queue: tokio::sync::Mutex<mpsc::UnboundedReceiver<Event>>,
    waiting: Mutex<HashMap<String, oneshot::Sender<Answer>>>,
}

impl RuntimeApi {
    /// Starts the emulator on a free port of 127.0.0.1, on the runtime of the caller.
    ///
    /// # Panics
    ///
    /// If no port is available.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.unwrap_or_else(|error| panic!("no port for the API: {error}"));
        let address = listener
            .local_addr()
            .unwrap_or_else(|error| panic!("no address: {error}"));
        let (events, queue) = mpsc::unbounded_channel();
        let function = Arc::new(Function {
            queue: tokio::sync::Mutex::new(queue),
            waiting: Mutex::default(),
        });
        let runtime = Router::new()
            .route("/invocation/next", get(next))
            .route("/invocation/{id}/response", post(response))
            .route("/invocation/{id}/error", post(error))
            .route("/init/error", post(init_error))
            .with_state(function.clone());
        let routes = Router::new().nest("/2018-06-01/runtime", runtime);
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                panic!("the Runtime API stopped: {error}");
            }
        });
        Self {
            address,
            events,
            function,
            server,
        }
    }

    /// Host and port, in the form of `AWS_LAMBDA_RUNTIME_API`.
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// The variables that a Lambda process reads when it starts.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_LAMBDA_RUNTIME_API", self.endpoint()),
            ("AWS_LAMBDA_FUNCTION_NAME", FUNCTION.into()),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".into()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128".into()),
            (
                "AWS_LAMBDA_LOG_GROUP_NAME",
                format!("/aws/lambda/{FUNCTION}"),
            ),
            ("AWS_LAMBDA_LOG_STREAM_NAME", "test".into()),
        ]
    }

    /// Passes `payload` to the process that polls, and returns its answer. The function's deadline
    /// is `time` after it took the event.
    ///
    /// # Errors
    ///
    /// See [`InvocationError`]. If no process takes the event within a minute, the error is
    /// [`NotPolled`](InvocationError::NotPolled).
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: the process may have taken the event, and its answer is dropped then.
    pub async fn invoke(&self, payload: Value, time: Duration) -> Answer {
        let id = request_id();
        let (taken, is_taken) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        self.function.waiting().insert(id.clone(), answer);
        let _forget = Forget {
            function: &self.function,
            id: &id,
        };
        // The receiver is owned by `self.function`, so sending always succeeds.
        let _ = self.events.send(Event {
            id: id.clone(),
            payload,
            time,
            taken,
        });

        let mut answered = std::pin::pin!(answered);
        tokio::select! {
            biased;
            // A process reports an error at start before it takes an event.
            answer = &mut answered => return answer.unwrap_or(Err(InvocationError::NotPolled)),
            taken = tokio::time::timeout(START, is_taken) => {
                if !matches!(taken, Ok(Ok(()))) {
                    return Err(InvocationError::NotPolled);
                }
            }
        }
        match tokio::time::timeout(time, answered).await {
            Ok(Ok(answer)) => answer,
            _ => Err(InvocationError::DeadlinePassed(time)),
        }
    }
}

impl Drop for RuntimeApi {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Removes an invocation when it ends, so that a late answer to it is an unknown one.
struct Forget<'a> {
    function: &'a Function,
    id: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.function.waiting().remove(self.id);
    }
}

impl Function {
    fn waiting(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<Answer>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, id: &str, answer: Answer) -> Response {
        match self.waiting().remove(id) {
            Some(waiting) => {
                let _ = waiting.send(answer);
                (StatusCode::ACCEPTED, json!({ "status": "OK" }).to_string()).into_response()
            }
            None => {
                let body = json!({ "errorType": "InvalidRequestID", "errorMessage": id });
                (StatusCode::BAD_REQUEST, body.to_string()).into_response()
            }
        }
    }
}

async fn next(State(function): State<Arc<Function>>) -> Response {
    loop {
        let event = function.queue.lock().await.recv().await;
        let Some(event) = event else {
            return StatusCode::GONE.into_response();
        };
        // The caller has stopped waiting: take the next event.
        if event.taken.send(()).is_err() {
            continue;
        }
        let deadline = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            + event.time;
        let headers = [
            ("content-type", "application/json".to_owned()),
            ("lambda-runtime-aws-request-id", event.id),
            (
                "lambda-runtime-deadline-ms",
                deadline.as_millis().to_string(),
            ),
            (
                "lambda-runtime-invoked-function-arn",
                FUNCTION_ARN.to_owned(),
            ),
            ("lambda-runtime-trace-id", TRACE.to_owned()),
        ];
        return (headers, event.payload.to_string()).into_response();
    }
}

async fn response(
    State(function): State<Arc<Function>>,
    Path(id): Path<String>,
    body: String,
) -> Response {
    let answer = serde_json::from_str(&body).map_err(|_| InvocationError::NotJson(body));
    function.answer(&id, answer)
}

async fn error(
    State(function): State<Arc<Function>>,
    Path(id): Path<String>,
    body: String,
) -> Response {
    let report: Value = serde_json::from_str(&body).unwrap_or_default();
    let text = |field: &str| report[field].as_str().unwrap_or_default().to_owned();
    let error = InvocationError::Function {
        kind: text("errorType"),
        message: text("errorMessage"),
    };
    function.answer(&id, Err(error))
}

async fn init_error(State(function): State<Arc<Function>>, body: String) -> StatusCode {
    for (_, waiting) in function.waiting().drain() {
        let _ = waiting.send(Err(InvocationError::Init(body.clone())));
    }
    StatusCode::ACCEPTED
}

/// An id in the form of a UUID, which some runtimes require.
fn request_id() -> String {
    let id = format!("{:032x}", fastrand::u128(..));
    [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-")
}
