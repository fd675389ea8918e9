use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use murmur_state::Clock;

use crate::filter::Filter;

/// What a scan reads, and how.
pub(crate) struct ScanSettings {
    pub(crate) client: Client,
    pub(crate) table: String,
    pub(crate) streams: Option<aws_sdk_dynamodbstreams::Client>,
    pub(crate) stream_arn: Option<String>,
    pub(crate) segments: u32,
    pub(crate) page_size: i32,
    pub(crate) consistent: bool,
    pub(crate) filter: Option<Filter>,
    pub(crate) attempt_timeout: Duration,
    pub(crate) clock: Arc<dyn Clock>,
}

impl ScanSettings {
    pub(crate) fn place(&self) -> String {
        format!("table `{}`", self.table)
    }

    /// The configuration of every request.
    pub(crate) fn of_requests(&self) -> config::Builder {
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(self.attempt_timeout);
        config::Builder::new().timeout_config(timeouts.build())
    }
}
