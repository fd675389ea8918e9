//! From the SDK's errors to a source's: one place.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use murmur_snapshot::SourceError;
use murmur_state::Cause;
use murmur_streams::StreamError;

use crate::parallel_scan::ParallelScan;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    DescribeTable,
    GetItem,
    Scan,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DescribeTable => "dynamodb:DescribeTable",
            Self::GetItem => "dynamodb:GetItem",
            Self::Scan => "dynamodb:Scan",
        })
    }
}

/// An error of the set-up that no answer said.
pub(crate) fn setup(scan: &ParallelScan, advice: impl Into<String>) -> SourceError {
    SourceError::Setup {
        place: scan.place(),
        advice: advice.into(),
        source: None,
    }
}

/// What a failed request asks of the caller.
///
/// Codes: "Error handling with DynamoDB" (Amazon DynamoDB Developer Guide) and "Common errors"
/// (API reference).
pub(crate) fn of<E>(scan: &ParallelScan, operation: Operation, error: SdkError<E>) -> SourceError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let code = error.code().unwrap_or_default().to_owned();
    let message = error.message().unwrap_or_default().to_owned();
    let (place, kind) = (scan.place(), kind(&error));
    let source: Option<Cause> = Some(Arc::new(error));
    let setup = |advice: String| SourceError::Setup {
        place: place.clone(),
        advice,
        source: source.clone(),
    };
    match (kind, code.as_str()) {
        (Kind::Unanswered, _) => SourceError::Unavailable { place, source },
        (Kind::NotSent, _) => setup(
            "the request could not be made; give the client a region, credentials and an \
             endpoint that exists"
                .to_owned(),
        ),
        (
            _,
            "LimitExceededException"
            | "ProvisionedThroughputExceededException"
            | "RequestLimitExceeded"
            | "Throttling"
            | "ThrottlingException",
        ) => SourceError::Throttled { place, source },
        (Kind::ServerError, _) => SourceError::Unavailable { place, source },
        (_, "ResourceNotFoundException") => setup(
            "there is no such table in the client's account and region; create it, or mend its \
             name or the region"
                .to_owned(),
        ),
        (_, "AccessDeniedException") => setup(format!(
            "access denied; allow {operation} on it ({message})"
        )),
        (
            _,
            "ExpiredTokenException"
            | "IncompleteSignatureException"
            | "InvalidSignatureException"
            | "MissingAuthenticationTokenException"
            | "UnrecognizedClientException",
        ) => setup(format!(
            "the credentials were refused ({code}); renew them, and check the client's region \
             and the machine's clock"
        )),
        (_, "ValidationException") if scan.filter.is_some() && operation == Operation::Scan => {
            setup(format!(
                "the scan was refused; check `filter`, its names and its values: {message}"
            ))
        }
        _ => setup(format!("the request was refused: {code}: {message}")),
    }
}

enum Kind {
    /// Nobody knows what became of it, and for a read that does not matter.
    Unanswered,
    /// Whatever stopped it before it was sent stops the next one too.
    NotSent,
    ServerError,
    Refused,
}

fn kind<E>(error: &SdkError<E>) -> Kind {
    match error {
        SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => {
            Kind::Unanswered
        }
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => Kind::Unanswered,
        SdkError::ServiceError(answer) if answer.raw().status().is_server_error() => {
            Kind::ServerError
        }
        SdkError::ServiceError(_) => Kind::Refused,
        _ => Kind::NotSent,
    }
}

/// What a failed look at the stream asks of the caller.
pub(crate) fn of_stream(scan: &ParallelScan, error: StreamError) -> SourceError {
    let place = scan.place();
    let advice = match &error {
        StreamError::Throttled { .. } => {
            return SourceError::Throttled {
                place,
                source: Some(Arc::new(error)),
            };
        }
        retryable if retryable.is_retryable() => {
            return SourceError::Unavailable {
                place,
                source: Some(Arc::new(error)),
            };
        }
        StreamError::Disabled { .. } => {
            "its stream is switched off; switch it on, or leave `streams` out and bring live to \
             the right place yourself"
        }
        _ => "its stream cannot be described, so that nobody knows where live begins",
    };
    SourceError::Setup {
        place,
        advice: advice.to_owned(),
        source: Some(Arc::new(error)),
    }
}
