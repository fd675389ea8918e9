//! Translates the SDK's errors into Murmur's. No other module does.

use std::error::Error;
use std::sync::Arc;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use murmur_state::error::{Cause, Place};
use murmur_state::service::CallFailure;
use murmur_state::{Fault, StoreError};

use crate::attribute::Item;

/// Whether a failed call can have changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// The result of a conditional write that the service answered.
#[derive(Debug)]
pub(crate) enum Written<T> {
    /// The condition held, and the write is done.
    Done(T),
    /// The condition did not hold on this row, which is empty if there is none.
    Refused(Item),
}

/// Separates a condition that did not hold from a failure.
pub(crate) fn written<T, E>(
    place: &Place,
    result: Result<T, SdkError<E>>,
) -> Result<Written<T>, StoreError>
where
    E: Conditional + ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    match result {
        Ok(done) => Ok(Written::Done(done)),
        Err(error) => match error.as_service_error().and_then(E::refused) {
            Some(row) => Ok(Written::Refused(row.clone())),
            None => Err(store_error(place, Access::Write, error)),
        },
    }
}

/// The result of a transaction that the service answered.
#[derive(Debug)]
pub(crate) enum Transacted {
    /// All its actions are done.
    Done,
    /// No action is done. There is one reason per action.
    Cancelled(Vec<Reason>),
}

/// One action's part in the cancellation of its transaction.
#[derive(Debug, Clone)]
pub(crate) enum Reason {
    /// The action is not a reason.
    None,
    /// Its condition did not hold on this row, which is empty if there is none.
    Refused(Item),
    /// The action failed.
    Failed(StoreError),
}

/// Separates a cancelled transaction, with its reasons, from one that failed as a whole.
///
/// Codes: "TransactionCanceledException" (API reference, TransactWriteItems).
pub(crate) fn transacted<T>(
    place: &Place,
    result: Result<T, SdkError<TransactWriteItemsError>>,
) -> Result<Transacted, StoreError> {
    let error = match result {
        Ok(_) => return Ok(Transacted::Done),
        Err(error) => error,
    };
    let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) =
        error.as_service_error()
    else {
        return Err(store_error(place, Access::Write, error));
    };
    let reasons = cancelled.cancellation_reasons().iter().map(|reason| {
        let code = reason.code().unwrap_or("None");
        if code == "None" {
            return Reason::None;
        }
        match CallFailure::answered(REFUSED, code) {
            CallFailure::ConditionFailed => {
                Reason::Refused(reason.item().cloned().unwrap_or_default())
            }
            failure => Reason::Failed(refused(Refusal {
                place: place.clone(),
                access: Access::Write,
                failure,
                status: REFUSED,
                code,
                message: reason.message().unwrap_or_default(),
                source: None,
            })),
        }
    });
    Ok(Transacted::Cancelled(reasons.collect()))
}

/// Errors of operations that take a condition.
pub(crate) trait Conditional {
    /// The row on which the condition did not hold, if that is the error.
    fn refused(&self) -> Option<Item>;
}

macro_rules! conditional {
    ($($error:ident),*) => {$(
        impl Conditional for $error {
            fn refused(&self) -> Option<Item> {
                match self {
                    Self::ConditionalCheckFailedException(failed) => {
                        Some(failed.item().cloned().unwrap_or_default())
                    }
                    _ => None,
                }
            }
        }
    )*};
}
conditional!(DeleteItemError, PutItemError, UpdateItemError);

/// The HTTP status of a refusal, which the reasons of a cancelled transaction do not repeat.
const REFUSED: u16 = 400;

/// The [`StoreError`] for a failed call.
pub(crate) fn store_error<E>(place: &Place, access: Access, error: SdkError<E>) -> StoreError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let status = error
        .raw_response()
        .map_or(0, |response| response.status().as_u16());
    let code = error.code().unwrap_or_default().to_owned();
    let message = error.message().unwrap_or_default().to_owned();
    let failure = call_failure(&error);
    refused(Refusal {
        place: place.clone(),
        access,
        failure,
        status,
        code: &code,
        message: &message,
        source: Some(Arc::new(error)),
    })
}

/// The error for a request that could not be built. No record causes it.
pub(crate) fn unbuilt(place: &Place, error: BuildError) -> StoreError {
    StoreError::Setup {
        place: place.clone(),
        advice: "the request could not be built".to_owned(),
        source: Some(Arc::new(error)),
    }
}

/// Classifies a failed call. `murmur-streams` has the same function for its crates, because neither
/// crate may depend on the other; both return [`CallFailure`].
fn call_failure<E>(error: &SdkError<E>) -> CallFailure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
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
    let mut calls = causes.filter_map(|cause| cause.downcast_ref::<SdkError<CredentialsError>>());
    let unreachable = calls.any(|call| {
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

/// A failed call and what is known about it.
struct Refusal<'a> {
    place: Place,
    access: Access,
    failure: CallFailure,
    status: u16,
    code: &'a str,
    message: &'a str,
    source: Option<Cause>,
}

/// The [`StoreError`] for a failure. Only a value that is proven bad is blamed on the record. The
/// service would refuse the rest for any record.
fn refused(refusal: Refusal<'_>) -> StoreError {
    let Refusal {
        place,
        access,
        failure,
        status,
        code,
        message,
        source,
    } = refusal;
    let advice = match failure {
        CallFailure::Throttled => return StoreError::Throttled { place, source },
        CallFailure::Conflict => return StoreError::Conflict { place, source },
        _ if failure.fault() == Fault::Transient => {
            let may_have_applied = failure.may_have_applied() && access == Access::Write;
            return StoreError::Unavailable {
                place,
                may_have_applied,
                source,
            };
        }
        CallFailure::Invalid if is_item_size(message) => {
            return StoreError::RowTooLarge { place };
        }
        CallFailure::Invalid if access == Access::Write && is_bad_value(message) => {
            return StoreError::InvalidValue {
                place,
                reason: message.to_owned(),
                source,
            };
        }
        CallFailure::Invalid if is_key_schema(message) => format!(
            "the table has another key schema ({message}); use a table made by this crate's \
             `create_` functions, or one with the same keys"
        ),
        CallFailure::Invalid => format!(
            "the service refuses the request for every record; check the table's name, keys and \
             indexes against its message: {code}: {message}"
        ),
        CallFailure::Unsendable => "the request could not be made; give the client a region, \
                                    credentials and an endpoint that exists"
            .to_owned(),
        CallFailure::NotFound => "there is no such table in the client's region and account; \
                                  create the table, or correct its name or the region"
            .to_owned(),
        CallFailure::Denied => format!(
            "access denied: {message}; grant the actions that the crate's documentation lists"
        ),
        CallFailure::BadCredentials => format!(
            "the credentials were refused ({code}); renew them, and check the client's region \
             and the machine's clock"
        ),
        CallFailure::CollectionFull => format!(
            "the items of one partition key have reached the limit of 10 GB that applies to a \
             table with local secondary indexes ({code}); use a table without them"
        ),
        _ => format!(
            "the endpoint answered {status} {code} {message}; check that message, and that the \
             endpoint is DynamoDB"
        ),
    };
    StoreError::Setup {
        place,
        advice,
        source,
    }
}

fn is_item_size(message: &str) -> bool {
    message.contains("Item size") && message.contains("exceeded")
}

/// Whether a message proves that a value of the request fits no row: a number out of range or
/// precision, or a key that is empty or too long. Index keys belong to the table, not the record.
///
/// The texts are DynamoDB's, which the servers used in tests repeat.
fn is_bad_value(message: &str) -> bool {
    let says = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
    let is_number = says(&[
        "Number overflow",
        "Number underflow",
        "magnitude larger than supported range",
        "magnitude smaller than supported range",
        "more than 38 significant digits",
    ]);
    let is_key = says(&[
        "Size of hashkey has exceeded",
        "Size of rangekey has exceeded",
        "range keys has exceeded the size limit",
        "key attribute cannot contain an empty string",
    ]);
    let is_of_index = message.to_lowercase().contains("index");
    is_number || is_key && !is_of_index
}

/// The last two texts are DynamoDB Local's.
fn is_key_schema(message: &str) -> bool {
    [
        "does not match the schema",
        "Missing the key",
        "Type mismatch for key",
        "number of conditions on the keys",
        "required keys was not given a value",
    ]
    .iter()
    .any(|text| message.contains(text))
}
