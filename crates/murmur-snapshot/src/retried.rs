use std::future::Future;

use futures::FutureExt;
use futures::future::BoxFuture;
use murmur_state::retry::Retry;
use murmur_state::{Causes, Deadline, Recorder};

use crate::error::SourceError;

/// Calls a source until it answers, fails permanently, or runs out of attempts or time.
///
/// Boxed, because a source's futures nest deeply, and the compiler refuses deeper ones.
pub(crate) fn retried<'a, A, Op, Fut>(
    retry: &'a Retry,
    recorder: &'a dyn Recorder,
    source_name: &'a str,
    deadline: Deadline,
    operation: Op,
) -> BoxFuture<'a, Result<A, SourceError>>
where
    A: Send + 'a,
    Op: FnMut() -> Fut + Send + 'a,
    Fut: Future<Output = Result<A, SourceError>> + Send + 'a,
{
    let on_retry = move |error: &SourceError| {
        tracing::debug!(source = source_name, error = %Causes(error), "a request to the source failed");
        let name = format!("{source_name}:retry");
        recorder.count(&name, 1);
        recorder.error(&name, error);
    };
    retry.run(deadline, on_retry, operation).boxed()
}
