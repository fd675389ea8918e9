//! The connection to a real server.

use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_smithy_http_client::Builder;
use aws_smithy_runtime_api::client::http::{
    HttpClient as _, HttpConnector as _, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use serde_json::Value;

use super::server::{Answer, Delivered};
use crate::Dynamo;

/// An outgoing request and its connector.
pub(super) type Wire = (HttpRequest, SharedHttpConnector);

pub(super) struct Real {
    dynamo: Dynamo,
    http: SharedHttpClient,
    /// A client's request whose headers serve as a template for the cloud's own requests.
    template: Mutex<Option<Wire>>,
}

impl Real {
    pub(super) fn new(dynamo: Dynamo) -> Self {
        Self {
            dynamo,
            http: Builder::new().build_http(),
            template: Mutex::default(),
        }
    }

    pub(super) fn endpoint(&self) -> &str {
        self.dynamo.endpoint()
    }

    pub(super) fn connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        self.http.http_connector(settings, components)
    }

    fn template(&self) -> MutexGuard<'_, Option<Wire>> {
        self.template.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a client's request as the template for the cloud's own requests.
    pub(super) fn learn(&self, (http, connector): &Wire) {
        let mut template = self.template();
        if template.is_none() {
            *template = http.try_clone().map(|http| (http, connector.clone()));
        }
    }

    /// Sends a request of the cloud's own. Returns null if there is no answer.
    pub(super) async fn ask(&self, operation: &str, body: &Value) -> Value {
        let wire = self
            .template()
            .as_ref()
            .and_then(|(http, connector)| Some((http.try_clone()?, connector.clone())));
        let Some((mut http, connector)) = wire else {
            return Value::Null;
        };
        let target = format!("DynamoDB_20120810.{operation}");
        http.headers_mut().insert("x-amz-target", target);
        let answer = forward((http, connector), body).await;
        answer.map_or(Value::Null, |answer| answer.body)
    }
}

/// Sends a request to a real server with `body` in place of its own.
pub(super) async fn forward((mut http, connector): Wire, body: &Value) -> Delivered {
    let text = body.to_string();
    http.headers_mut()
        .insert("content-length", text.len().to_string());
    *http.body_mut() = SdkBody::from(text);
    let response = connector.call(http).await?;
    let status = response.status().as_u16();
    let body = ByteStream::new(response.into_body()).collect().await;
    let body = body.map_err(|error| ConnectorError::io(Box::new(error)))?;
    let body = serde_json::from_slice(&body.into_bytes());
    let body = body.map_err(|error| ConnectorError::io(Box::new(error)))?;
    Ok(Answer { status, body })
}
