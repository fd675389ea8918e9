//! From the SDK's errors to ours: one place.

use std::error::Error;
use std::sync::Arc;

use aws_sdk_dynamodbstreams::config::http::HttpResponse;
use aws_sdk_dynamodbstreams::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodbstreams::operation::get_records::GetRecordsError;
use murmur_state::Cause;

use crate::error::StreamError;

pub(super) fn is_expired_iterator(error: &SdkError<GetRecordsError>) -> bool {
    error
        .as_service_error()
        .is_some_and(GetRecordsError::is_expired_iterator_exception)
}

/// The error of a call about a stream as a whole.
pub(super) fn of_stream<E>(arn: &str, error: SdkError<E>) -> StreamError
where
    E: Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let (fault, code) = (judge(&error), error.code().unwrap_or("no code").to_owned());
    let (arn, source) = (arn.to_owned(), Some(Arc::new(error) as Cause));
    match fault {
        Fault::Missing => StreamError::UnknownStream { arn, source },
        Fault::Denied => StreamError::Denied { arn, source },
        Fault::Throttled => StreamError::Throttled { arn, source },
        Fault::Unavailable => StreamError::Unavailable { arn, source },
        Fault::NotSent => StreamError::Setup { arn, source },
        Fault::Trimmed | Fault::Refused => StreamError::Refused { arn, code, source },
    }
}

/// The error of a call about one shard.
pub(super) fn of_shard<E>(arn: &str, shard: &str, error: SdkError<E>) -> StreamError
where
    E: Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let fault = judge(&error);
    let (arn, shard) = (arn.to_owned(), shard.to_owned());
    match fault {
        Fault::Missing => StreamError::UnknownShard {
            arn,
            shard,
            source: Some(Arc::new(error)),
        },
        Fault::Trimmed => StreamError::Trimmed {
            arn,
            shard,
            source: Some(Arc::new(error)),
        },
        _ => of_stream(&arn, error),
    }
}

enum Fault {
    Missing,
    Denied,
    Throttled,
    Unavailable,
    NotSent,
    Trimmed,
    Refused,
}

fn judge<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Fault {
    match error {
        SdkError::ServiceError(answer) => match answer.err().code().unwrap_or_default() {
            "ResourceNotFoundException" => Fault::Missing,
            "TrimmedDataAccessException" => Fault::Trimmed,
            "LimitExceededException"
            | "ProvisionedThroughputExceededException"
            | "RequestLimitExceeded"
            | "ThrottlingException" => Fault::Throttled,
            "AccessDeniedException"
            | "ExpiredTokenException"
            | "InvalidSignatureException"
            | "MissingAuthenticationTokenException"
            | "UnrecognizedClientException" => Fault::Denied,
            _ if answer.raw().status().is_server_error() => Fault::Unavailable,
            _ => Fault::Refused,
        },
        SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => {
            Fault::Unavailable
        }
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => Fault::Unavailable,
        // Whatever stopped the request before it was sent stops the next one too.
        _ => Fault::NotSent,
    }
}
