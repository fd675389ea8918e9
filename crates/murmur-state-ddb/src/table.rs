use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use murmur_state::{Deadline, Fault, OptionError, Place, RetryPolicy, StoreError};

use crate::options::TableOptions;
use crate::pace::Pace;

/// A table, and how each call to it is made.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) client: Client,
    pub(crate) name: Arc<str>,
    pub(crate) options: TableOptions,
    pub(crate) pace: Pace,
    store: &'static str,
}

impl Table {
    pub(crate) fn new(store: &'static str, client: Client, name: impl Into<Arc<str>>) -> Self {
        Self {
            client,
            name: name.into(),
            pace: Pace::of(TableOptions::default().concurrency),
            options: TableOptions::default(),
            store,
        }
    }

    pub(crate) fn with_options(mut self, options: TableOptions) -> Result<Self, OptionError> {
        options.validate()?;
        self.pace = Pace::of(options.concurrency);
        self.options = options;
        Ok(self)
    }

    pub(crate) fn place(&self) -> Place {
        Place::table(self.store, Arc::clone(&self.name))
    }

    /// The settings of a write: sent once, whatever the client was told.
    ///
    /// The SDK sends a write again after a timeout or a 5xx, when the first may have been
    /// applied: an `ADD` would count twice, a claim would find itself and be called a duplicate.
    pub(crate) fn write_once(
        &self,
        place: &Place,
        deadline: Deadline,
    ) -> Result<config::Builder, StoreError> {
        let timeouts = TimeoutConfig::builder()
            .operation_attempt_timeout(self.time_left(place, deadline)?)
            .build();
        let once = RetryConfig::disabled();
        Ok(config::Builder::new()
            .retry_config(once)
            .timeout_config(timeouts))
    }

    /// The settings of a read: the client's retries stay, the deadline bounds them all.
    pub(crate) fn read(
        &self,
        place: &Place,
        deadline: Deadline,
    ) -> Result<config::Builder, StoreError> {
        let mut timeouts =
            TimeoutConfig::builder().operation_attempt_timeout(self.time_left(place, deadline)?);
        timeouts.set_operation_timeout(deadline.remaining(&*self.options.clock));
        Ok(config::Builder::new().timeout_config(timeouts.build()))
    }

    fn time_left(&self, place: &Place, deadline: Deadline) -> Result<Duration, StoreError> {
        let timeout = self.options.attempt_timeout;
        match deadline.remaining(&*self.options.clock) {
            Some(Duration::ZERO) => Err(StoreError::DeadlinePassed {
                place: place.clone(),
            }),
            Some(left) => Ok(left.min(timeout)),
            None => Ok(timeout),
        }
    }

    /// A text that nothing else has, for a write at `place`.
    pub(crate) fn token(&self, place: &Place) -> Result<String, StoreError> {
        let token = self.options.tokens.text();
        token.map_err(|error| error.at(place.clone()))
    }

    /// Waits before trying again for the `round`-th time, counted from 0.
    pub(crate) async fn pause(&self, policy: &RetryPolicy, round: u32) {
        let wait = policy.wait(round, Fault::Transient, &self.options.random);
        self.options.clock.sleep(wait).await;
    }
}
