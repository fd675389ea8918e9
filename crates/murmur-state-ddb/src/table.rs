use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use futures::future::{Either, FutureExt, select};
use murmur_state::error::Place;
use murmur_state::{Deadline, Fault, OptionError, RetryPolicy, StoreError};

use crate::options::TableOptions;
use crate::write_gate::{WriteGate, Writing};

/// A table, and the way each call to it is made.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) client: Client,
    pub(crate) name: Arc<str>,
    pub(crate) options: TableOptions,
    gate: WriteGate,
    store: &'static str,
}

impl Table {
    pub(crate) fn new(store: &'static str, client: Client, name: impl Into<Arc<str>>) -> Self {
        Self {
            client,
            name: name.into(),
            gate: WriteGate::of(TableOptions::default().concurrency),
            options: TableOptions::default(),
            store,
        }
    }

    pub(crate) fn with_options(mut self, options: TableOptions) -> Result<Self, OptionError> {
        options.validate()?;
        self.gate = WriteGate::of(options.concurrency);
        self.options = options;
        Ok(self)
    }

    /// The table called `name`, with the same client and options.
    pub(crate) fn beside(&self, store: &'static str, name: Arc<str>) -> Self {
        Self {
            name,
            gate: WriteGate::of(self.options.concurrency),
            store,
            ..self.clone()
        }
    }

    pub(crate) fn place(&self) -> Place {
        Place::table(self.store, Arc::clone(&self.name))
    }

    /// The settings of a write. It is sent once, even if the client is configured to retry.
    ///
    /// The SDK sends a write again after a timeout or a 5xx, when the first may have been applied.
    /// An `ADD` would then count twice, and a claim would find itself and be reported as a
    /// duplicate.
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

    /// The settings of a read. The client's retries stay, and the deadline limits them all.
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
            Some(Duration::ZERO) => Err(passed(place)),
            Some(left) => Ok(left.min(timeout)),
            None => Ok(timeout),
        }
    }

    /// A unique text, for a write at `place`.
    pub(crate) fn token(&self, place: &Place) -> Result<String, StoreError> {
        let token = self.options.tokens.text();
        token.map_err(|error| error.at(place.clone()))
    }

    /// Waits before the `round`-th retry, counted from 0. Fails at once, without waiting, if the
    /// wait would end after the deadline.
    pub(crate) async fn pause(
        &self,
        place: &Place,
        policy: &RetryPolicy,
        round: u32,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        let clock = &*self.options.clock;
        let wait = policy.wait(round, Fault::Transient, &self.options.random);
        if deadline.remaining(clock).is_some_and(|left| wait >= left) {
            return Err(passed(place));
        }
        clock.sleep(wait).await;
        Ok(())
    }

    /// Starts a write at `place` when it is its turn among the concurrent writes.
    pub(crate) async fn begin_write(
        &self,
        place: &Place,
        deadline: Deadline,
    ) -> Result<Writing, StoreError> {
        self.in_time(place, deadline, self.gate.enter()).await
    }

    /// Waits for `wait`, a lock or a gate, but not longer than until the deadline.
    pub(crate) async fn in_time<F: Future>(
        &self,
        place: &Place,
        deadline: Deadline,
        wait: F,
    ) -> Result<F::Output, StoreError> {
        let mut wait = pin!(wait);
        // Usually it is ready, and the clock need not be read.
        if let Some(done) = wait.as_mut().now_or_never() {
            return Ok(done);
        }
        let clock = &*self.options.clock;
        loop {
            let Some(left) = deadline.remaining(clock) else {
                return Ok(wait.await);
            };
            match select(wait.as_mut(), clock.passes(left)).await {
                Either::Left((done, _)) => return Ok(done),
                // The clock may have been set back meanwhile.
                Either::Right(_) if deadline.passed(clock) => return Err(passed(place)),
                Either::Right(_) => {}
            }
        }
    }
}

fn passed(place: &Place) -> StoreError {
    StoreError::DeadlinePassed {
        place: place.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use aws_sdk_dynamodb::config::BehaviorVersion;
    use murmur_state::Clock;
    use murmur_state::time::SystemClock;

    use super::*;

    fn table() -> Table {
        let config = config::Builder::new().behavior_version(BehaviorVersion::latest());
        Table::new("test", Client::from_conf(config.build()), "t")
    }

    fn is_passed<T>(result: &Result<T, StoreError>) -> bool {
        matches!(result, Err(StoreError::DeadlinePassed { .. }))
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_is_waited_for_until_the_deadline_and_no_longer() {
        let (table, clock) = (table(), SystemClock::new());
        let (place, second) = (table.place(), Duration::from_secs(1));
        let began = clock.monotonic();
        let deadline = Deadline::within(&clock, 2 * second);
        let turn = table.in_time(&place, deadline, clock.sleep(second)).await;
        assert!(turn.is_ok());
        assert_eq!(clock.monotonic() - began, second);
        let turn = table.in_time(&place, deadline, pending::<()>()).await;
        assert!(is_passed(&turn));
        assert_eq!(clock.monotonic() - began, 2 * second);
        let turn = table.in_time(&place, Deadline::NONE, clock.sleep(60 * second));
        assert!(turn.await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_would_end_past_the_deadline_is_not_begun() {
        let (table, clock) = (table(), SystemClock::new());
        let (place, hour) = (table.place(), Duration::from_secs(3600));
        let began = clock.monotonic();
        let deadline = Deadline::within(&clock, Duration::from_millis(1));
        let waits = RetryPolicy::default().waits(hour, hour);
        assert!(is_passed(&table.pause(&place, &waits, 0, deadline).await));
        assert_eq!(clock.monotonic(), began);
        let pause = table.pause(&place, &waits, 0, Deadline::NONE).await;
        assert!(pause.is_ok() && clock.monotonic() > began);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_among_the_writes_is_waited_for_until_the_deadline() {
        let clock = SystemClock::new();
        let options = TableOptions::default().concurrency(1);
        let table = table().with_options(options).unwrap();
        let under_way = table.gate.enter().await;
        let began = clock.monotonic();
        let deadline = Deadline::within(&clock, Duration::from_secs(3));
        let sent = table.transact(&table.place(), Vec::new(), deadline).await;
        assert!(is_passed(&sent), "{sent:?}");
        assert_eq!(clock.monotonic() - began, Duration::from_secs(3));
        drop(under_way);
    }
}
