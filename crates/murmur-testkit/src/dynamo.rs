//! The DynamoDB of a test.

use std::env;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};

use crate::Embedded;

/// The environment variable that names the DynamoDB endpoint of the tests, such as
/// `http://127.0.0.1:8000`. Unset or empty: every [`Dynamo`] starts an embedded server.
pub const ENDPOINT_VAR: &str = "MURMUR_DYNAMODB_ENDPOINT";

// DynamoDB Local keeps a set of tables per access key and region: all clients must say the same.
const REGION: &str = "us-east-1";
const ACCESS_KEY: &str = "murmur";
const SECRET_KEY: &str = "murmur";

/// Longest the server named by [`ENDPOINT_VAR`] may take to answer the first call.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// A DynamoDB with Streams for a test: clients, and table names nobody else uses.
///
/// An embedded server lives as long as this value or a clone of it.
#[derive(Clone, Debug)]
pub struct Dynamo {
    endpoint: String,
    embedded: Option<Embedded>,
}

impl Dynamo {
    /// The server that [`ENDPOINT_VAR`] names, else an [embedded one](Embedded) of its own.
    ///
    /// # Panics
    ///
    /// When the named server does not answer, or the embedded one cannot start.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is kept before it returns.
    pub async fn connect() -> Self {
        let Some(endpoint) = env::var(ENDPOINT_VAR).ok().filter(|url| !url.is_empty()) else {
            return Self::embedded(Embedded::start().unwrap_or_else(|error| {
                panic!("the embedded DynamoDB does not start: {error}");
            }));
        };
        let dynamo = Self::at(endpoint);
        let client = dynamo.client();
        let answer = tokio::time::timeout(FIRST_ANSWER, client.list_tables().limit(1).send());
        match answer.await {
            Ok(Ok(_)) => dynamo,
            Ok(Err(error)) => panic!(
                "{ENDPOINT_VAR} is {}, where no DynamoDB answers: start one, or unset the \
                 variable to use the embedded one: {error:?}",
                dynamo.endpoint
            ),
            Err(_) => panic!(
                "{ENDPOINT_VAR} is {}, which did not answer within {FIRST_ANSWER:?}",
                dynamo.endpoint
            ),
        }
    }

    /// The server at `endpoint`, whatever [`ENDPOINT_VAR`] says. Nothing is sent to it yet.
    pub fn at(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            embedded: None,
        }
    }

    /// A DynamoDB that is `server`, whatever [`ENDPOINT_VAR`] says.
    pub fn embedded(server: Embedded) -> Self {
        Self {
            endpoint: server.endpoint(),
            embedded: Some(server),
        }
    }

    /// The URL of the server.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether the server is the embedded one, which shows less than DynamoDB Local: see
    /// [`Embedded`].
    pub fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    /// A DynamoDB client with the SDK's defaults, retries included, on plain HTTP.
    pub fn client(&self) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::from_conf(self.client_config().build())
    }

    /// The configuration behind [`client`](Self::client), for a client with something changed.
    pub fn client_config(&self) -> aws_sdk_dynamodb::config::Builder {
        aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static(REGION))
            .credentials_provider(credentials())
            .endpoint_url(&self.endpoint)
            .http_client(aws_smithy_http_client::Builder::new().build_http())
    }

    /// A DynamoDB Streams client, configured like [`client`](Self::client).
    pub fn streams(&self) -> aws_sdk_dynamodbstreams::Client {
        let config = aws_sdk_dynamodbstreams::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static(REGION))
            .credentials_provider(credentials())
            .endpoint_url(&self.endpoint)
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .build();
        aws_sdk_dynamodbstreams::Client::from_conf(config)
    }

    /// The environment with which `aws-config` in another process finds this server.
    pub fn env(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint.clone()),
            ("AWS_REGION", REGION.into()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
        ]
    }

    /// A table name that begins with `stem`, new at every call in any process.
    pub fn table(&self, stem: &str) -> String {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        format!("{stem}-{}-{}-{call}", process::id(), now.as_micros())
    }
}

fn credentials() -> Credentials {
    Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "murmur-testkit")
}
