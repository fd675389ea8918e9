//! The table of error codes against what the SDK knows of the services.

use aws_runtime::retries::classifiers::{THROTTLING_ERRORS, TRANSIENT_ERRORS};
use murmur_state::Fault;
use murmur_state::service::CallFailure;

/// The names of the errors that the SDK models, as its own types spell them.
macro_rules! modelled {
    ($service:ident: $($error:ident),* $(,)?) => {
        [$((stringify!($error), size_of::<$service::types::error::$error>()).0),*]
    };
}

#[test]
fn what_the_sdk_calls_throttling_or_transient_is_tried_again() {
    for code in THROTTLING_ERRORS {
        let fault = CallFailure::named(code).map(CallFailure::fault);
        assert_eq!(fault, Some(Fault::Contention), "{code}");
    }
    for code in TRANSIENT_ERRORS {
        let fault = CallFailure::named(code).map(CallFailure::fault);
        assert_eq!(fault, Some(Fault::Transient), "{code}");
    }
}

#[test]
fn every_error_that_the_sdk_models_is_in_the_table() {
    let tables = modelled!(aws_sdk_dynamodb:
        BackupInUseException,
        BackupNotFoundException,
        ConditionalCheckFailedException,
        ContinuousBackupsUnavailableException,
        DuplicateItemException,
        ExportConflictException,
        ExportNotFoundException,
        GlobalTableAlreadyExistsException,
        GlobalTableNotFoundException,
        IdempotentParameterMismatchException,
        ImportConflictException,
        ImportNotFoundException,
        IndexNotFoundException,
        InternalServerError,
        InvalidEndpointException,
        InvalidExportTimeException,
        InvalidRestoreTimeException,
        ItemCollectionSizeLimitExceededException,
        LimitExceededException,
        PointInTimeRecoveryUnavailableException,
        PolicyNotFoundException,
        ProvisionedThroughputExceededException,
        ReplicaAlreadyExistsException,
        ReplicaNotFoundException,
        ReplicatedWriteConflictException,
        RequestLimitExceeded,
        ResourceInUseException,
        ResourceNotFoundException,
        TableAlreadyExistsException,
        TableInUseException,
        TableNotFoundException,
        ThrottlingException,
        TransactionCanceledException,
        TransactionConflictException,
        TransactionInProgressException,
    );
    let streams = modelled!(aws_sdk_dynamodbstreams:
        ExpiredIteratorException,
        InternalServerError,
        LimitExceededException,
        ResourceNotFoundException,
        TrimmedDataAccessException,
    );
    for code in tables.into_iter().chain(streams) {
        assert!(CallFailure::named(code).is_some(), "{code}");
    }
}

#[test]
fn every_code_that_is_documented_and_not_modelled_is_in_the_table() {
    // "Common errors" (Amazon DynamoDB API Reference), "Error handling with DynamoDB" (Amazon
    // DynamoDB Developer Guide).
    let common = [
        ("AccessDeniedException", Fault::Setup),
        ("ExpiredTokenException", Fault::Transient),
        ("IncompleteSignature", Fault::Setup),
        ("IncompleteSignatureException", Fault::Setup),
        ("InternalFailure", Fault::Transient),
        ("InvalidClientTokenId", Fault::Setup),
        ("InvalidSignatureException", Fault::Setup),
        ("MalformedHttpRequestException", Fault::Setup),
        ("MissingAuthenticationTokenException", Fault::Setup),
        ("NotAuthorized", Fault::Setup),
        ("OptInRequired", Fault::Setup),
        ("RequestAbortedException", Fault::Transient),
        ("RequestEntityTooLargeException", Fault::Setup),
        ("RequestExpired", Fault::Transient),
        ("RequestTimeoutException", Fault::Transient),
        ("SerializationException", Fault::Setup),
        ("ServiceUnavailable", Fault::Transient),
        ("ThrottlingException", Fault::Contention),
        ("UnknownOperationException", Fault::Setup),
        ("UnrecognizedClientException", Fault::Setup),
        ("ValidationError", Fault::Setup),
        ("ValidationException", Fault::Setup),
    ];
    // Reasons of a cancelled transaction ("TransactionCanceledException").
    let reasons = [
        ("ConditionalCheckFailed", Fault::Setup),
        ("DuplicateItem", Fault::Setup),
        ("ItemCollectionSizeLimitExceeded", Fault::Setup),
        ("ProvisionedThroughputExceeded", Fault::Contention),
        ("ThrottlingError", Fault::Contention),
        ("TransactionConflict", Fault::Contention),
    ];
    for (code, fault) in common.into_iter().chain(reasons) {
        let known = CallFailure::named(code).map(CallFailure::fault);
        assert_eq!(known, Some(fault), "{code}");
    }
}
