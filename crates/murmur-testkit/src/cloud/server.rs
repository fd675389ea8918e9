//! The DynamoDB inside this process: JSON in, JSON out, no sockets.

use std::sync::Arc;

use aws_smithy_runtime_api::client::result::ConnectorError;
use dynoxide::storage_backend::Clock;
use dynoxide::{Database, DynoxideError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::time::Time;

/// An HTTP answer: status and body.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Answer {
    pub(super) fn ok(body: Value) -> Self {
        Self { status: 200, body }
    }

    /// DynamoDB's error `code`.
    pub(super) fn error(status: u16, code: &str, message: impl Into<String>) -> Self {
        let kind = match code {
            "ValidationException" => format!("com.amazon.coral.validate#{code}"),
            _ => format!("com.amazonaws.dynamodb.v20120810#{code}"),
        };
        let body = json!({ "__type": kind, "message": message.into() });
        Self { status, body }
    }

    pub(super) fn is_ok(&self) -> bool {
        self.status == 200
    }

    /// The error's name without its namespace; empty if the answer is no error.
    pub(super) fn code(&self) -> &str {
        let kind = self.body["__type"].as_str().unwrap_or_default();
        kind.rsplit('#').next().unwrap_or_default()
    }
}

/// The answer of a server, or the reason why there is none.
pub(super) type Delivered = Result<Answer, ConnectorError>;

pub(super) fn take(body: &mut Value, field: &str) -> Option<Value> {
    body.as_object_mut()?.remove(field)
}

/// The simulation's time as the database's clock.
struct DatabaseClock(Time);

impl Clock for DatabaseClock {
    fn now_unix_secs(&self) -> u64 {
        u64::try_from(self.0.now().as_secs()).unwrap_or(0)
    }

    fn now_unix_secs_f64(&self) -> f64 {
        self.0.now().as_millis() as f64 / 1000.0
    }
}

pub(super) fn database(time: Time) -> Database {
    Database::memory_with_clock(Arc::new(DatabaseClock(time)))
        .unwrap_or_else(|error| panic!("no in-memory database: {error}"))
}

/// Executes one request like the HTTP server.
pub(super) fn run(db: &Database, operation: &str, body: Value) -> Answer {
    match operation {
        "BatchGetItem" => call(body, |request| db.batch_get_item(request)),
        "BatchWriteItem" => call(body, |request| db.batch_write_item(request)),
        "CreateTable" => call(body, |request| db.create_table(request)),
        "DeleteItem" => call(body, |request| db.delete_item(request)),
        "DeleteTable" => call(body, |request| db.delete_table(request)),
        "DescribeTable" => call(body, |request| db.describe_table(request)),
        "DescribeTimeToLive" => call(body, |request| db.describe_time_to_live(request)),
        "GetItem" => call(body, |request| db.get_item(request)),
        "ListTables" => call(body, |request| db.list_tables(request)),
        "PutItem" => call(body, |request| db.put_item(request)),
        "Query" => call(body, |request| db.query(request)),
        "Scan" => call(body, |request| db.scan(request)),
        "TransactGetItems" => call(body, |request| db.transact_get_items(request)),
        "TransactWriteItems" => call(body, |request| db.transact_write_items(request)),
        "UpdateItem" => update(db, body),
        "UpdateTable" => call(body, |request| db.update_table(request)),
        "UpdateTimeToLive" => call(body, |request| db.update_time_to_live(request)),
        _ => Answer::error(
            400,
            "UnknownOperationException",
            format!("the in-process DynamoDB has no {operation}"),
        ),
    }
}

/// For a row that did not exist, dynoxide returns the keys as the old item, DynamoDB returns
/// nothing.
fn update(db: &Database, body: Value) -> Answer {
    let created = body["ReturnValues"] == "ALL_OLD" && {
        let get = json!({
            "TableName": body["TableName"], "Key": body["Key"], "ConsistentRead": true
        });
        run(db, "GetItem", get).body.get("Item").is_none()
    };
    let mut answer = call(body, |request| db.update_item(request));
    if created
        && answer.is_ok()
        && let Some(fields) = answer.body.as_object_mut()
    {
        fields.remove("Attributes");
    }
    answer
}

fn call<Q: DeserializeOwned, A: Serialize>(
    body: Value,
    act: impl FnOnce(Q) -> Result<A, DynoxideError>,
) -> Answer {
    let request = match serde_json::from_value(body) {
        Ok(request) => request,
        Err(error) => return unreadable(&error.to_string()),
    };
    match act(request) {
        Ok(answer) => match serde_json::to_value(answer) {
            Ok(body) => Answer::ok(body),
            Err(error) => panic!("the answer is no JSON: {error}"),
        },
        Err(error) => Answer {
            status: error.status_code(),
            body: serde_json::from_str(&error.to_json())
                .unwrap_or_else(|wrong| panic!("the error is no JSON: {wrong}")),
        },
    }
}

/// Dynoxide marks errors of its own deserializers with a prefix; other errors are malformed bodies.
fn unreadable(message: &str) -> Answer {
    for prefix in ["VALIDATION_REQUEST:", "VALIDATION_AS_READ:", "VALIDATION:"] {
        if let Some(message) = message.strip_prefix(prefix) {
            return Answer::error(400, "ValidationException", message);
        }
    }
    if message.contains("missing field") || message.contains("AttributeValue") {
        return Answer::error(400, "ValidationException", message);
    }
    let message = message.strip_prefix("SERIALIZATION:").unwrap_or(message);
    Answer::error(400, "SerializationException", message)
}
