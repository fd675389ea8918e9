//! From the SDK's errors to a source's: one place.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use murmur_snapshot::SourceError;
use murmur_state::Fault;
use murmur_state::error::Cause;
use murmur_state::service::CallFailure;
use murmur_streams::StreamError;
use murmur_streams::aws::call_failure;

use crate::settings::ScanSettings;

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

/// An error of the set-up that the scan found itself.
pub(crate) fn setup(scan: &ScanSettings, advice: impl Into<String>) -> SourceError {
    SourceError::Setup {
        place: scan.place(),
        advice: advice.into(),
        source: None,
    }
}

/// What a failed request asks of the caller.
pub(crate) fn of<E>(scan: &ScanSettings, operation: Operation, error: SdkError<E>) -> SourceError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let code = error.code().unwrap_or_default().to_owned();
    let message = error.message().unwrap_or_default().to_owned();
    let (place, failure) = (scan.place(), call_failure(&error));
    let source: Option<Cause> = Some(Arc::new(error));
    let advice = match (failure.fault(), failure) {
        (_, CallFailure::NotConnected) => return SourceError::NotConnected { place, source },
        (Fault::Contention, _) => return SourceError::Throttled { place, source },
        (Fault::Transient, _) => return SourceError::Unavailable { place, source },
        (_, CallFailure::Unsendable) => "the request could not be made; give the client a region, \
                                         credentials and an endpoint that exists"
            .to_owned(),
        (_, CallFailure::NotFound) => "there is no such table in the client's account and region; \
                                       create it, or correct its name or the region"
            .to_owned(),
        (_, CallFailure::Denied) => {
            format!("access denied; allow {operation} on it ({message})")
        }
        (_, CallFailure::BadCredentials) => format!(
            "the credentials were refused ({code}); renew them, and check the client's region \
             and the machine's clock"
        ),
        (_, CallFailure::Invalid) if scan.filter.is_some() && operation == Operation::Scan => {
            format!("the scan was refused; check `filter`, its names and its values: {message}")
        }
        _ => format!("the request was refused: {code}: {message}"),
    };
    SourceError::Setup {
        place,
        advice,
        source,
    }
}

/// What a failed request to the stream asks of the caller.
pub(crate) fn of_stream(scan: &ScanSettings, error: StreamError) -> SourceError {
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
            "its stream is switched off; switch it on, or leave `streams` out and start the stream \
             consumer at the right place yourself"
        }
        _ => "its stream cannot be described, so there is no handoff token; fix the cause",
    };
    SourceError::Setup {
        place,
        advice: advice.to_owned(),
        source: Some(Arc::new(error)),
    }
}
