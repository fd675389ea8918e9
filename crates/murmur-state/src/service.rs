//! The meaning of DynamoDB's and DynamoDB Streams' error answers, and of missing answers: the one
//! table of error codes. It uses plain strings, so it needs no AWS crate.

use std::error::Error;

use crate::error::Fault;

/// The kind of failure of a call to DynamoDB or DynamoDB Streams.
///
/// [`answered`](Self::answered) classifies an answer by its HTTP status and error code,
/// [`undispatched`](Self::undispatched) a request without an answer. [`fault`](Self::fault) tells
/// what the caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallFailure {
    /// Too many requests, or too much capacity asked for. Nothing was done.
    Throttled,
    /// Another request changed the same item, or used the same token. Nothing was done.
    Conflict,
    /// The resource is being created, changed or deleted. Nothing was done.
    Changing,
    /// The credentials, or the request's signature, have expired; the next attempt is signed with
    /// renewed ones. Nothing was done.
    Expired,
    /// The service failed. The request may have been applied.
    Unavailable,
    /// No connection was made. Nothing was done.
    NotConnected,
    /// No answer arrived: a timeout, or a broken connection. The request may have been applied.
    Unanswered,
    /// The answer reported success but could not be read. The request was applied.
    Unreadable,
    /// Credentials could not be loaded this time: their provider timed out or failed. Nothing was
    /// sent.
    NoCredentialsYet,
    /// The request could not be built, signed or addressed: no region, no credentials, or no
    /// usable endpoint. Nothing was sent.
    Unsendable,
    /// A condition of the request does not hold. Nothing was done.
    ConditionFailed,
    /// A transaction was cancelled; its reasons say why. Nothing was done.
    Cancelled,
    /// The table, index, stream or shard does not exist.
    NotFound,
    /// The caller lacks permission.
    Denied,
    /// The credentials or the signature are wrong.
    BadCredentials,
    /// The request is not valid; the message says why.
    Invalid,
    /// The items of one partition key have reached their limit of 10 GB, which only tables with
    /// local secondary indexes have.
    CollectionFull,
    /// The requested records have been trimmed from the stream.
    Trimmed,
    /// The shard iterator is older than 15 minutes.
    IteratorExpired,
    /// Refused for a reason that does not apply to Murmur's calls, or is unknown.
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
    // For streams: more than two readers of a shard. For tables: too many changes at a time.
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
    // Each attempt draws its own token. If another request has used it, this request was not
    // applied, and the next attempt draws another token.
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
    // For calls that Murmur does not make.
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
    /// The meaning of an answer with this HTTP status and error code. An unknown code is
    /// [`Unavailable`](Self::Unavailable) with a status of 500 and above, and
    /// [`Other`](Self::Other) below. Codes of cancellation reasons are known too; they have no
    /// status of their own, so pass 400.
    pub fn answered(status: u16, code: &str) -> Self {
        match Self::named(code) {
            Some(known) => known,
            None if status >= 500 || status == 408 => Unavailable,
            None if status == 429 => Throttled,
            None => Other,
        }
    }

    /// Like [`answered`](Self::answered), but also reads the message, since an expired signature
    /// has no code of its own. It is temporary, because the next attempt is signed again. After a
    /// machine was suspended, it is the first answer to arrive.
    pub fn said(status: u16, code: &str, message: &str) -> Self {
        let past = ["Signature expired", "Signature not yet current"];
        match Self::answered(status, code) {
            BadCredentials if past.iter().any(|text| message.contains(text)) => Expired,
            other => other,
        }
    }

    /// The meaning of `code`, if the table has it.
    pub fn named(code: &str) -> Option<Self> {
        let known = CODES.iter().find(|(name, _)| *name == code);
        known.map(|(_, means)| *means)
    }

    /// The kind of failure of a request that was handed to the HTTP client and got no answer.
    /// `broken` tells that the client reported a broken connection or a timeout. The caller
    /// classifies errors of credentials, since it knows their provider's errors. Other errors are
    /// recognised by the messages of the AWS SDK and its HTTP library, since neither has a type for
    /// them.
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

    /// What the caller can do about it. Never [`Fault::Record`], since no code by itself proves
    /// that a record is at fault.
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

    /// Whether the request may have been applied nevertheless.
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
