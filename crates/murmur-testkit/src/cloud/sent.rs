//! A request under way, and its kind.

use std::time::Duration;

use aws_smithy_runtime_api::client::http::SharedHttpConnector;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;

use super::real::Wire;
use crate::wire::Request;

/// A request that left its process.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) request: Request,
    /// The number of the process that sent it.
    pub(super) process: u64,
    /// How old the data that it reads may be.
    pub(super) stale: Option<Duration>,
    /// Whether it is counted.
    pub(super) counted: bool,
    /// When it left, as time since the start.
    pub(super) left: Duration,
    /// What is sent to a real server, and its connector.
    pub(super) wire: Option<Wire>,
}

impl Sent {
    pub(super) fn read(
        request: HttpRequest,
        connector: Option<SharedHttpConnector>,
        process: u64,
        counted: bool,
        left: Duration,
    ) -> Self {
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
            process,
            stale: None,
            counted,
            left,
            wire: connector.map(|connector| (request, connector)),
        }
    }

    /// A copy of the request; `None` if it goes to a real server.
    pub(super) fn again(&self) -> Option<Self> {
        self.wire.is_none().then(|| Self {
            request: self.request.clone(),
            wire: None,
            ..*self
        })
    }

    /// Whether it reads or writes items. Only such requests meet the weather.
    pub(super) fn is_about_items(&self) -> bool {
        let operation = self.request.operation.as_str();
        let reads = [
            "BatchGetItem",
            "GetItem",
            "Query",
            "Scan",
            "TransactGetItems",
        ];
        reads.contains(&operation) || self.is_write()
    }

    pub(super) fn is_write(&self) -> bool {
        is_plain_write(&self.request.operation) || self.request.operation == "TransactWriteItems"
    }
}

pub(super) fn is_plain_write(operation: &str) -> bool {
    ["BatchWriteItem", "DeleteItem", "PutItem", "UpdateItem"].contains(&operation)
}

pub(super) fn is_transaction(operation: &str) -> bool {
    ["TransactGetItems", "TransactWriteItems"].contains(&operation)
}
