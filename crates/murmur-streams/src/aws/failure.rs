//! Translates the SDK's errors into this crate's. No other module does.

use std::error::Error;
use std::sync::Arc;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_dynamodbstreams::config::http::HttpResponse;
use aws_sdk_dynamodbstreams::error::{ProvideErrorMetadata, SdkError};
use murmur_state::error::Cause;
use murmur_state::service::CallFailure;

use crate::error::StreamError;

/// Classifies a failed call, by the service's table of codes, and by the SDK's error for a request
/// without an answer. It serves every client of the AWS SDK.
pub fn call_failure<E>(error: &SdkError<E, HttpResponse>) -> CallFailure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        // For an answer that it cannot parse, the SDK has no class of its own and fails the
        // operation.
        SdkError::ServiceError(answer) if answer.raw().status().is_success() => {
            CallFailure::Unreadable
        }
        SdkError::ServiceError(answer) => CallFailure::said(
            answer.raw().status().as_u16(),
            answer.err().code().unwrap_or_default(),
            answer.err().message().unwrap_or_default(),
        ),
        SdkError::ConstructionFailure(_) => CallFailure::Unsendable,
        SdkError::DispatchFailure(failure) => match no_credentials(error) {
            Some(failure) => failure,
            None if failure.is_user() => CallFailure::Unsendable,
            None => CallFailure::undispatched(error, failure.is_io() || failure.is_timeout()),
        },
        // The body ended early, or no answer came in time.
        _ => CallFailure::Unanswered,
    }
}

/// The failure of a credentials provider, if it stopped the request.
fn no_credentials(error: &(dyn Error + 'static)) -> Option<CallFailure> {
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    let failed = causes.find_map(|cause| cause.downcast_ref::<CredentialsError>())?;
    // An unreachable credentials endpoint appears as an unhandled error of its provider.
    let causes = std::iter::successors(failed.source(), |&error| error.source());
    let unreachable = causes
        .filter_map(|cause| cause.downcast_ref::<SdkError<CredentialsError, HttpResponse>>())
        .any(|call| {
            !matches!(
                call,
                SdkError::ServiceError(_) | SdkError::ConstructionFailure(_)
            )
        });
    Some(match failed {
        CredentialsError::ProviderTimedOut(_) | CredentialsError::ProviderError(_) => {
            CallFailure::NoCredentialsYet
        }
        CredentialsError::Unhandled(_) if unreachable => CallFailure::NoCredentialsYet,
        _ => CallFailure::Unsendable,
    })
}

pub(super) fn is_expired_iterator<E>(error: &SdkError<E, HttpResponse>) -> bool
where
    E: ProvideErrorMetadata + Error + 'static,
{
    call_failure(error) == CallFailure::IteratorExpired
}

/// The error of a call about a stream as a whole.
pub(super) fn of_stream<E>(arn: &str, error: SdkError<E, HttpResponse>) -> StreamError
where
    E: Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let failure = call_failure(&error);
    let code = error.code().unwrap_or("no code").to_owned();
    let (arn, source) = (arn.to_owned(), Some(Arc::new(error) as Cause));
    match failure {
        CallFailure::NotFound => StreamError::UnknownStream { arn, source },
        CallFailure::Denied | CallFailure::BadCredentials => StreamError::Denied { arn, source },
        CallFailure::Throttled | CallFailure::Conflict => StreamError::Throttled { arn, source },
        CallFailure::Changing
        | CallFailure::Expired
        | CallFailure::Unavailable
        | CallFailure::NotConnected
        | CallFailure::Unanswered
        | CallFailure::NoCredentialsYet => StreamError::Unavailable { arn, source },
        CallFailure::Unreadable => StreamError::Unreadable { arn, source },
        CallFailure::Unsendable => StreamError::Setup { arn, source },
        _ => StreamError::Refused { arn, code, source },
    }
}

/// The error of a call about one shard.
pub(super) fn of_shard<E>(arn: &str, shard: &str, error: SdkError<E, HttpResponse>) -> StreamError
where
    E: Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let failure = call_failure(&error);
    let (arn, shard) = (arn.to_owned(), shard.to_owned());
    match failure {
        CallFailure::NotFound => StreamError::UnknownShard {
            arn,
            shard,
            source: Some(Arc::new(error)),
        },
        CallFailure::Trimmed => StreamError::Trimmed {
            arn,
            shard,
            source: Some(Arc::new(error)),
        },
        _ => of_stream(&arn, error),
    }
}
