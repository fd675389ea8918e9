//! What DynamoDB and DynamoDB Streams mean by what they answer, and by not answering: the one
//! table of error codes. It knows plain strings, so that it needs no AWS crate.

use std::error::Error;

use crate::error::Fault;

/// What became of a call to DynamoDB or DynamoDB Streams that did not succeed.
///
/// [`answered`](Self::answered) judges an answer by its HTTP status and error code,
/// [`undispatched`](Self::undispatched) a request that got none. [`fault`](Self::fault) says what
/// that asks of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallFailure {
    /// Too many requests, or too much capacity asked for. Nothing was done.
    Throttled,
    /// Another request was at the same item, or used the same token. Nothing was done.
    Conflict,
    /// The resource is being created, changed or deleted. Nothing was done.
    Changing,
    /// The credentials, or the request's signature, are past their time; the next attempt is
    /// signed with renewed ones. Nothing was done.
    Expired,
    /// The service failed. The request may have been carried out.
    Unavailable,
    /// The connection was never made. Nothing was done.
    NotConnected,
    /// No answer came: a timeout, or a broken connection. The request may have been carried out.
    Unanswered,
    /// The answer said success and could not be read. The request was carried out.
    Unreadable,
    /// Credentials could not be loaded at the moment: their provider timed out or failed. Nothing
    /// was sent.
    NoCredentialsYet,
    /// The request could not be built, signed or addressed: no region, no credentials, or no
    /// usable endpoint. Nothing was sent.
    Unsendable,
    /// A condition of the request does not hold. Nothing was done.
    ConditionFailed,
    /// A transaction was cancelled; its reasons say why. Nothing was done.
    Cancelled,
    /// There is no such table, index, stream or shard.
    NotFound,
    /// The caller may not do this.
    Denied,
    /// The credentials or the signature are wrong.
    BadCredentials,
    /// The request is not valid; the message says what of it.
    Invalid,
    /// The items of one partition key are at their limit of 10 GB, which only tables with local
    /// secondary indexes have.
    CollectionFull,
    /// The stream's records that were asked for are trimmed.
    Trimmed,
    /// The shard iterator is older than 15 minutes.
    IteratorExpired,
    /// Refused, for a reason that concerns none of Murmur's calls or is not known.
    Other,
}

use CallFailure::{
    BadCredentials, Cancelled, Changing, CollectionFull, ConditionFailed, Conflict, Denied,
    Expired, Invalid, IteratorExpired, NotConnected, NotFound, Other, Throttled, Trimmed,
    Unanswered, Unavailable, Unsendable,
};

/// Error codes, and the codes of cancellation reasons.
///
/// Sources: "Common errors", the errors of each operation and "TransactionCanceledException"
/// (Amazon DynamoDB API Reference), "Error handling with DynamoDB" (Amazon DynamoDB Developer
/// Guide), `BatchStatementErrorCodeEnum`, and the lists of `aws_runtime::retries::classifiers`.
const CODES: &[(&str, CallFailure)] = &[
    ("BandwidthLimitExceeded", Throttled),
    ("EC2ThrottledException", Throttled),
    // Of Streams: more than two readers of a shard. Of tables: too many changes at a time.
    ("LimitExceededException", Throttled),
    ("PriorRequestNotComplete", Throttled),
    ("ProvisionedThroughputExceeded", Throttled),
    ("ProvisionedThroughputExceededException", Throttled),
    ("RequestLimitExceeded", Throttled),
    ("RequestThrottled", Throttled),
    ("RequestThrottledException", Throttled),
    ("SlowDown", Throttled),
    ("ThrottledException", Throttled),
    ("Throttling", Throttled),
    ("ThrottlingError", Throttled),
    ("ThrottlingException", Throttled),
    ("TooManyRequestsException", Throttled),
    // Each attempt draws a token of its own. That another request has used it says nothing about
    // this one but that it was not carried out; the next attempt draws another token.
    ("IdempotentParameterMismatchException", Conflict),
    ("ReplicatedWriteConflictException", Conflict),
    ("TransactionConflict", Conflict),
    ("TransactionConflictException", Conflict),
    ("TransactionInProgressException", Conflict),
    ("ResourceInUse", Changing),
    ("ResourceInUseException", Changing),
    ("TableInUseException", Changing),
    ("ExpiredToken", Expired),
    ("ExpiredTokenException", Expired),
    ("RequestExpired", Expired),
    ("InternalFailure", Unavailable),
    ("InternalServerError", Unavailable),
    ("RequestAbortedException", Unavailable),
    ("RequestTimeout", Unavailable),
    ("RequestTimeoutException", Unavailable),
    ("ServiceUnavailable", Unavailable),
    ("ServiceUnavailableException", Unavailable),
    ("ConditionalCheckFailed", ConditionFailed),
    ("ConditionalCheckFailedException", ConditionFailed),
    ("TransactionCanceledException", Cancelled),
    ("IndexNotFoundException", NotFound),
    ("ResourceNotFound", NotFound),
    ("ResourceNotFoundException", NotFound),
    ("TableNotFoundException", NotFound),
    ("AccessDenied", Denied),
    ("AccessDeniedException", Denied),
    ("NotAuthorized", Denied),
    ("OptInRequired", Denied),
    ("IncompleteSignature", BadCredentials),
    ("IncompleteSignatureException", BadCredentials),
    ("InvalidClientTokenId", BadCredentials),
    ("InvalidSignatureException", BadCredentials),
    ("MissingAuthenticationToken", BadCredentials),
    ("MissingAuthenticationTokenException", BadCredentials),
    ("RequestTimeTooSkewed", BadCredentials),
    ("SignatureDoesNotMatch", BadCredentials),
    ("UnrecognizedClientException", BadCredentials),
    ("MalformedHttpRequestException", Invalid),
    ("RequestEntityTooLargeException", Invalid),
    ("SerializationException", Invalid),
    ("UnknownOperationException", Invalid),
    ("ValidationError", Invalid),
    ("ValidationException", Invalid),
    ("ItemCollectionSizeLimitExceeded", CollectionFull),
    ("ItemCollectionSizeLimitExceededException", CollectionFull),
    ("TrimmedDataAccessException", Trimmed),
    ("ExpiredIteratorException", IteratorExpired),
    // Of calls that Murmur does not make.
    ("BackupInUseException", Other),
    ("BackupNotFoundException", Other),
    ("ContinuousBackupsUnavailableException", Other),
    ("DuplicateItem", Other),
    ("DuplicateItemException", Other),
    ("ExportConflictException", Other),
    ("ExportNotFoundException", Other),
    ("GlobalTableAlreadyExistsException", Other),
    ("GlobalTableNotFoundException", Other),
    ("ImportConflictException", Other),
    ("ImportNotFoundException", Other),
    ("InvalidEndpointException", Other),
    ("InvalidExportTimeException", Other),
    ("InvalidRestoreTimeException", Other),
    ("PointInTimeRecoveryUnavailableException", Other),
    ("PolicyNotFoundException", Other),
    ("ReplicaAlreadyExistsException", Other),
    ("ReplicaNotFoundException", Other),
    ("TableAlreadyExistsException", Other),
];

impl CallFailure {
    /// What an answer with this HTTP status and error code means. An unknown code is
    /// [`Unavailable`](Self::Unavailable) with a status of 500 and above, and
    /// [`Other`](Self::Other) below. Codes of cancellation reasons are known, too; they have no
    /// status of their own, and take 400.
    pub fn answered(status: u16, code: &str) -> Self {
        match Self::named(code) {
            Some(known) => known,
            None if status >= 500 || status == 408 => Unavailable,
            None if status == 429 => Throttled,
            None => Other,
        }
    }

    /// The same by what the answer says, too: a signature that is past its time has no code of its
    /// own. That passes, since the next attempt is signed anew; after a machine was suspended it is
    /// the first answer there is.
    pub fn said(status: u16, code: &str, message: &str) -> Self {
        let past = ["Signature expired", "Signature not yet current"];
        match Self::answered(status, code) {
            BadCredentials if past.iter().any(|text| message.contains(text)) => Expired,
            other => other,
        }
    }

    /// What `code` means, if it is in the table.
    pub fn named(code: &str) -> Option<Self> {
        let known = CODES.iter().find(|(name, _)| *name == code);
        known.map(|(_, means)| *means)
    }

    /// What became of a request that was handed to the HTTP client and got no answer. `broken`
    /// says that the client named a broken connection or a timeout. Credentials are judged by the
    /// caller, who knows their provider's errors; the rest is told by the words of the AWS SDK and
    /// of its HTTP library, since neither has a type for it.
    pub fn undispatched(error: &(dyn Error + 'static), broken: bool) -> Self {
        let says = |words: &[&str]| {
            let mut causes = std::iter::successors(Some(error), |&error| error.source());
            causes.any(|cause| {
                let text = cause.to_string().to_lowercase();
                words.iter().any(|word| text.contains(word))
            })
        };
        if broken && says(&["client error (connect)"]) {
            NotConnected
        } else if broken {
            Unanswered
        } else if says(&["identity resolver timed out"]) {
            Self::NoCredentialsYet
        } else if says(&["credential", "identity", "auth scheme", "region"]) {
            Unsendable
        } else {
            Unanswered
        }
    }

    /// What the failure asks of the caller: never [`Fault::Record`], since no code by itself proves
    /// that a record is to blame.
    pub fn fault(self) -> Fault {
        match self {
            Throttled | Conflict => Fault::Contention,
            Changing
            | Expired
            | Unavailable
            | NotConnected
            | Unanswered
            | Self::Unreadable
            | Self::NoCredentialsYet => Fault::Transient,
            Unsendable | ConditionFailed | Cancelled | NotFound | Denied | BadCredentials
            | Invalid | CollectionFull | Trimmed | IteratorExpired | Other => Fault::Setup,
        }
    }

    /// Whether the request may have been carried out all the same.
    pub fn may_have_applied(self) -> bool {
        matches!(self, Unavailable | Unanswered | Self::Unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_is_in_the_table_once() {
        for (place, (code, _)) in CODES.iter().enumerate() {
            let first = CODES.iter().position(|(name, _)| name == code);
            assert_eq!(first, Some(place), "{code}");
        }
    }

    #[test]
    fn what_is_not_known_goes_by_the_status() {
        for (status, means) in [
            (400, Other),
            (403, Other),
            (404, Other),
            (408, Unavailable),
            (429, Throttled),
            (500, Unavailable),
            (503, Unavailable),
            (504, Unavailable),
        ] {
            for code in ["", "SomethingNew"] {
                assert_eq!(CallFailure::answered(status, code), means, "{status}");
            }
        }
        // What the code says is known better.
        assert_eq!(CallFailure::answered(503, "SlowDown"), Throttled);
        assert_eq!(
            CallFailure::answered(400, "InternalServerError"),
            Unavailable
        );
    }

    #[test]
    fn a_signature_past_its_time_passes_and_a_wrong_one_does_not() {
        let code = "InvalidSignatureException";
        let expired = "Signature expired: 20261130T080000Z is now earlier than 20261130T081000Z";
        assert_eq!(CallFailure::said(400, code, expired), Expired);
        let wrong = "The request signature we calculated does not match the signature you provided";
        assert_eq!(CallFailure::said(400, code, wrong), BadCredentials);
        assert_eq!(CallFailure::said(503, "SlowDown", expired), Throttled);
    }

    #[test]
    fn no_code_blames_a_record_and_none_that_is_retried_is_lost_sight_of() {
        for (code, means) in CODES {
            assert_ne!(means.fault(), Fault::Record, "{code}");
            if means.may_have_applied() {
                assert_eq!(means.fault(), Fault::Transient, "{code}");
            }
        }
    }
}
