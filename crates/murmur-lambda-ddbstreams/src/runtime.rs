//! The thin layer between a [`Handler`] and Lambda's runtime.

use std::env;
use std::sync::Once;
use std::time::Duration;

use aws_lambda_events::streams::DynamoDbEventResponse;
use lambda_runtime::{Diagnostic, Error, LambdaEvent, service_fn};
use murmur_state::{Causes, Deadline};

use crate::handler::{Handler, InvocationError};
use crate::lenient::LenientEvent;

/// The variables that the runtime reads at its start, and without which it panics.
const NEEDED: [&str; 4] = [
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_VERSION",
];

/// The process was started neither by Lambda nor by a substitute for it.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{variable}` is not set, so this is no Lambda environment: deploy the function, or run it here with `cargo lambda watch`"
)]
pub struct NotInLambda {
    /// The environment variable that is missing.
    pub variable: &'static str,
}

murmur_state::debug_as_message!(NotInLambda);

/// Serves Lambda invocations with `handler` until the process ends.
///
/// The deadline is that of the invocation. A deadline that has passed before the invocation begins
/// (`cargo lambda watch` sends 1970) is ignored, with one warning.
///
/// # Errors
///
/// [`NotInLambda`], or any error after which the runtime cannot continue.
///
/// A payload that is not an event, or an [`InvocationError`], fails only its invocation, and its
/// batch is delivered again. A record that cannot be read is one rejected record
/// ([`LenientEvent`]).
///
/// # Cancel safety
///
/// Not cancel safe: as [`Handler::handle`].
pub async fn run<T: Send + Sync + 'static>(handler: Handler<T>) -> Result<(), Error> {
    if let Some(variable) = NEEDED.into_iter().find(|name| env::var(name).is_err()) {
        return Err(NotInLambda { variable }.into());
    }
    lambda_runtime::run(service_fn(|event| handler.invoke(event))).await
}

impl<T: Send + Sync + 'static> Handler<T> {
    /// Processes one invocation, including its deadline. [`run`] calls it; use it directly to run a
    /// runtime with your own layers.
    ///
    /// # Errors, Cancel safety
    ///
    /// As [`handle`](Handler::handle).
    pub async fn invoke(
        &self,
        event: LambdaEvent<LenientEvent>,
    ) -> Result<DynamoDbEventResponse, InvocationError> {
        let deadline = self.deadline(event.context.deadline);
        self.handle_lenient(event.payload, deadline).await
    }

    /// `at` is in milliseconds since the epoch.
    fn deadline(&self, at: u64) -> Deadline {
        static WARN: Once = Once::new();
        let clock = &**self.clock();
        let now = u64::try_from(clock.now().as_millis()).unwrap_or(0);
        match at.checked_sub(now) {
            None | Some(0) => {
                WARN.call_once(|| {
                    tracing::warn!(
                        deadline = at,
                        now,
                        "invocations begin after their deadline, so the deadline is ignored; \
                         on AWS this means that the clock is wrong"
                    );
                });
                Deadline::NONE
            }
            Some(left) => Deadline::within(clock, Duration::from_millis(left)),
        }
    }
}

impl From<InvocationError> for Diagnostic {
    fn from(error: InvocationError) -> Self {
        let error_type = match &error {
            InvocationError::NoSequenceNumber { .. } => "NoSequenceNumber",
        };
        Self {
            error_type: error_type.to_owned(),
            error_message: Causes(&error).to_string(),
        }
    }
}
