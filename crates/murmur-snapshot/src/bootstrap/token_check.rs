//! Calls the user's check of a run's handoff token.

use std::error::Error;
use std::fmt;
use std::pin::pin;

use futures::future::{BoxFuture, Either, select};
use murmur_core::BoxError;
use murmur_state::error::Failure;
use murmur_state::retry::Retry;
use murmur_state::{Causes, Deadline, Fault, HandoffToken, OptionError, StoreError};

use super::error::BootstrapError;
use super::scan::Stop;
use crate::error::SourceError;
use crate::run_record::RunRecord;

/// The check of a run's token.
pub(crate) type TokenFn =
    dyn Fn(HandoffToken) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync;

/// Why the check refused a token.
#[derive(Debug)]
struct Checked(BoxError);

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Checked {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

impl Failure for Checked {
    fn fault(&self) -> Fault {
        let source = self.0.downcast_ref().map(SourceError::fault);
        let state = || self.0.downcast_ref().map(StoreError::fault);
        source.or_else(state).unwrap_or(Fault::Setup)
    }
}

/// Calls `check` with the run's token.
pub(crate) async fn check_token(
    check: &TokenFn,
    source_name: &str,
    record: &RunRecord,
    retry: &Retry,
    stop: &Stop<'_>,
) -> Result<(), BootstrapError> {
    let token = record.token.clone().ok_or_else(|| {
        let reason = format!(
            "`{source_name}` has no stream, so there is no token to check; switch a stream on, or \
             leave this option out"
        );
        OptionError::new("on_token", reason)
    })?;
    let ask = || {
        let answer = check(token.clone());
        async { answer.await.map_err(Checked) }
    };
    let again = |error: &Checked| {
        tracing::debug!(source = source_name, error = %Causes(error), "the check of the token is retried");
    };
    let asked = retry.run(Deadline::NONE, again, ask);
    match select(pin!(asked), stop.clone()).await {
        Either::Left((answer, _)) => {
            answer.map_err(|Checked(source)| BootstrapError::TokenRefused {
                source_name: source_name.to_owned(),
                run: record.run.clone(),
                source,
            })
        }
        Either::Right(_) => Err(BootstrapError::Stopped {
            source_name: source_name.to_owned(),
        }),
    }
}
