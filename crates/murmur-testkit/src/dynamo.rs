//! The DynamoDB that a test uses.

use std::env;
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};

use crate::Embedded;

/// The environment variable with the DynamoDB endpoint of the tests, such as
/// `http://127.0.0.1:8000`. If it is unset or empty, every [`Dynamo`] starts an embedded server.
pub const ENDPOINT_VAR: &str = "MURMUR_DYNAMODB_ENDPOINT";

// DynamoDB Local keeps one set of tables per access key and region, so all clients must use the
// same.
const REGION: &str = "us-east-1";
const ACCESS_KEY: &str = "murmur";
const SECRET_KEY: &str = "murmur";

/// How long the server named by [`ENDPOINT_VAR`] may take to answer the first call.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// A DynamoDB with Streams for a test: clients, and unique table names.
///
/// An embedded server runs until this value and its clones are dropped.
#[derive(Clone, Debug)]
pub struct Dynamo {
    endpoint: String,
    embedded: Option<Embedded>,
}

impl Dynamo {
    /// Connects to the server that [`ENDPOINT_VAR`] names, otherwise starts an [embedded
    /// one](Embedded).
    ///
    /// # Panics
    ///
    /// If the named server does not answer, or the embedded one cannot start.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no state is kept before it returns.
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

    /// The server at `endpoint`, regardless of [`ENDPOINT_VAR`]. Nothing is sent to it yet.
    pub fn at(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            embedded: None,
        }
    }

    /// A DynamoDB on `server`, regardless of [`ENDPOINT_VAR`].
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

    /// Whether the server is the embedded one, which lacks some behaviour of DynamoDB Local: see
    /// [`Embedded`].
    pub fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    /// A DynamoDB client with the SDK's defaults, retries included, on plain HTTP.
    pub fn client(&self) -> aws_sdk_dynamodb::Client {
        aws_sdk_dynamodb::Client::from_conf(self.client_config().build())
    }

    /// The configuration of [`client`](Self::client), for a client with other settings.
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

    /// The environment variables with which `aws-config` in another process finds this server.
    pub fn env(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint.clone()),
            ("AWS_REGION", REGION.into()),
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
        ]
    }

    /// A table name that starts with `stem`, unique for every call in any process.
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
