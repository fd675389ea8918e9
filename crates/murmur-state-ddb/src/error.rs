//! The one place where the SDK's errors become Murmur's.

use std::error::Error;
use std::sync::Arc;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use murmur_state::{Cause, Place, StoreError};

use crate::attribute::Item;

/// Whether a failed call can have changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// What became of a conditional write that the service answered.
#[derive(Debug)]
pub(crate) enum Written<T> {
    /// The condition held, the write is done.
    Done(T),
    /// The condition did not hold on this row; empty if there is none.
    Refused(Item),
}

/// Tells a condition that did not hold from a failure.
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

/// What became of a transaction that the service answered.
#[derive(Debug)]
pub(crate) enum Transacted {
    /// All its actions are done.
    Done,
    /// None of them is; why, action by action.
    Cancelled(Vec<Reason>),
}

/// What one action has to do with the cancellation of its transaction.
#[derive(Debug, Clone)]
pub(crate) enum Reason {
    /// Nothing.
    None,
    /// Its condition did not hold on this row; empty if there is none.
    Refused(Item),
    /// It could not be done.
    Failed(StoreError),
}

/// Tells a cancelled transaction, reason by reason, from one that failed as a whole.
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
        let message = reason.message().unwrap_or_default().to_owned();
        let place = place.clone();
        let source = None;
        Reason::Failed(match reason.code().unwrap_or("None") {
            "None" => return Reason::None,
            "ConditionalCheckFailed" => {
                return Reason::Refused(reason.item().cloned().unwrap_or_default());
            }
            "TransactionConflict" => StoreError::Conflict { place, source },
            "ProvisionedThroughputExceeded" | "ThrottlingError" | "RequestLimitExceeded" => {
                StoreError::Throttled { place, source }
            }
            "ItemCollectionSizeLimitExceeded" => StoreError::RowTooLarge { place },
            _ if is_item_size(&message) => StoreError::RowTooLarge { place },
            code @ "ValidationError" => StoreError::InvalidValue {
                place,
                reason: format!("{code}: {message}"),
                source,
            },
            code => StoreError::Setup {
                place,
                advice: format!(
                    "the transaction was cancelled with `{code}`, which this release does not \
                     know; a newer one may: {message}"
                ),
                source,
            },
        })
    });
    Ok(Transacted::Cancelled(reasons.collect()))
}

/// Errors of operations that take a condition.
pub(crate) trait Conditional {
    /// The row on which the condition did not hold, if that is what went wrong.
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

/// What a failed call means to the caller.
///
/// Codes: "Error handling with DynamoDB" (Amazon DynamoDB Developer Guide) and "Common errors"
/// (API reference). A 4xx was not applied; after a 5xx, a timeout or a broken connection nobody
/// knows.
pub(crate) fn store_error<E>(place: &Place, access: Access, error: SdkError<E>) -> StoreError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let status = error
        .raw_response()
        .map_or(0, |response| response.status().as_u16());
    let code = error.code().unwrap_or_default().to_owned();
    let message = error.message().unwrap_or_default().to_owned();
    let sent = match &error {
        SdkError::ConstructionFailure(_) => Sent::Unsendable,
        SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => {
            if never_connected(&error) {
                Sent::No
            } else {
                Sent::Perhaps
            }
        }
        SdkError::DispatchFailure(_) if names_setup(&error) => Sent::Unsendable,
        SdkError::ServiceError(_) if (400..500).contains(&status) => Sent::Answered,
        _ => Sent::Perhaps,
    };
    let place = place.clone();
    let source: Option<Cause> = Some(Arc::new(error));
    match sent {
        Sent::Answered => answered(place, &code, message, status, source),
        Sent::Unsendable => StoreError::Setup {
            place,
            advice: "the request could not be made; give the client a region, credentials and \
                     an endpoint that exists"
                .to_owned(),
            source,
        },
        Sent::No | Sent::Perhaps => {
            let may_have_applied = sent == Sent::Perhaps && access == Access::Write;
            StoreError::Unavailable {
                place,
                may_have_applied,
                source,
            }
        }
    }
}

/// How far a failed request got.
#[derive(PartialEq, Eq)]
enum Sent {
    /// It could not be built or signed.
    Unsendable,
    /// It did not reach the server.
    No,
    /// It may have reached the server, and nobody knows what became of it.
    Perhaps,
    /// The server refused it.
    Answered,
}

/// What a refusal means.
fn answered(
    place: Place,
    code: &str,
    message: String,
    status: u16,
    source: Option<Cause>,
) -> StoreError {
    let setup = |advice: String| StoreError::Setup {
        place: place.clone(),
        advice,
        source: source.clone(),
    };
    match code {
        "ProvisionedThroughputExceededException"
        | "ThrottlingException"
        | "Throttling"
        | "RequestLimitExceeded"
        | "LimitExceededException" => StoreError::Throttled { place, source },
        "TransactionConflictException"
        | "TransactionInProgressException"
        | "ReplicatedWriteConflictException" => StoreError::Conflict { place, source },
        // The table is being created or changed: it passes by itself.
        "ResourceInUseException" => StoreError::Unavailable {
            place,
            may_have_applied: false,
            source,
        },
        "ResourceNotFoundException" => setup(
            "there is no such table in the client's region and account; create the table, or \
             mend its name or the region"
                .to_owned(),
        ),
        "AccessDeniedException" | "NotAuthorized" => setup(format!(
            "access denied: {message}; grant the actions that the crate's documentation lists"
        )),
        "UnrecognizedClientException"
        | "ExpiredTokenException"
        | "ExpiredToken"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "OptInRequired"
        | "SignatureDoesNotMatch" => setup(format!(
            "the credentials were refused ({code}); renew them, and check the client's region \
             and the machine's clock"
        )),
        "ItemCollectionSizeLimitExceededException" => StoreError::RowTooLarge { place },
        "ValidationException" if is_item_size(&message) => StoreError::RowTooLarge { place },
        "ValidationException" if is_key_schema(&message) => setup(format!(
            "the table has another key schema ({message}); use a table made by this crate's \
             `create_` functions, or one with the same keys"
        )),
        "ValidationException" | "SerializationException" => StoreError::InvalidValue {
            place,
            reason: message,
            source,
        },
        _ => setup(format!(
            "the endpoint answered {status} {code} {message}; check that it is DynamoDB, and \
             what it says"
        )),
    }
}

fn is_item_size(message: &str) -> bool {
    message.contains("Item size") && message.contains("exceeded")
}

/// The last two are DynamoDB Local's words.
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

/// Whether the connection was never made. The SDK does not say; the text is that of the HTTP
/// library it uses. Where it is another library, the answer is the cautious one.
fn never_connected(error: &dyn Error) -> bool {
    chain(error).any(|cause| cause.to_string() == "client error (Connect)")
}

/// Whether a request failed while it was signed or addressed.
fn names_setup(error: &dyn Error) -> bool {
    chain(error).any(|cause| {
        let text = cause.to_string().to_lowercase();
        ["credential", "identity", "auth scheme", "region"]
            .iter()
            .any(|word| text.contains(word))
    })
}

fn chain(error: &dyn Error) -> impl Iterator<Item = &dyn Error> {
    std::iter::successors(Some(error), |&error| error.source())
}
