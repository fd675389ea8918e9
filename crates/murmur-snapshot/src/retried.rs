use std::future::Future;

use futures::FutureExt;
use futures::future::BoxFuture;
use murmur_state::{Causes, Deadline, Recorder, Retry};

use crate::error::SourceError;

/// Asks a source until it answers, fails for good, or attempts or time are used up.
///
/// Boxed, because a source's futures nest deeply already and the compiler gives up on deeper ones.
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
        tracing::debug!(source = source_name, error = %Causes(error), "the source failed");
        let name = format!("{source_name}:retry");
        recorder.count(&name, 1);
        recorder.error(&name, error);
    };
    retry.run(deadline, on_retry, operation).boxed()
}
