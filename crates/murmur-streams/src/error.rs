//! Why a stream could not be read or written.

use murmur_state::{Cause, Failure, Fault, IdError, OptionError, SequenceNumber};

/// Why a stream could not be read or written.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// There is no such stream.
    #[error(
        "no stream `{arn}`: check ARN, account and region (a stream switched off and on again has a new ARN); a stream of the in-process store is registered first"
    )]
    UnknownStream {
        /// The requested ARN.
        arn: String,
        /// The service's answer.
        #[source]
        source: Option<Cause>,
    },
    /// The stream does not have this shard, or no longer.
    #[error(
        "stream `{arn}` has no shard `{shard}`: its records have been trimmed if it was listed before; records that were not read are lost, which needs a repair or a new bootstrap"
    )]
    UnknownShard {
        /// The stream.
        arn: String,
        /// The requested shard.
        shard: String,
        /// The service's answer.
        #[source]
        source: Option<Cause>,
    },
    /// The stream is switched off, so no further record will come.
    #[error(
        "stream `{arn}` is disabled: switch the table's stream on, and use the ARN it then has"
    )]
    Disabled {
        /// The stream.
        arn: String,
    },
    /// The caller may not read the stream.
    #[error(
        "access to stream `{arn}` is denied: allow dynamodb:DescribeStream, dynamodb:GetShardIterator and dynamodb:GetRecords on it"
    )]
    Denied {
        /// The stream.
        arn: String,
        /// The service's answer.
        #[source]
        source: Option<Cause>,
    },
    /// The request could not be sent: no credentials, no region, or a wrong endpoint.
    #[error(
        "stream `{arn}`: the request could not be made; check that credentials, region and endpoint are set"
    )]
    Setup {
        /// The stream.
        arn: String,
        /// What failed.
        #[source]
        source: Option<Cause>,
    },
    /// Too many requests, or more than two readers on a shard.
    #[error(
        "stream `{arn}`: throttled; try again later, and keep to two readers per shard, Lambda triggers included"
    )]
    Throttled {
        /// The stream.
        arn: String,
        /// The service's answer.
        #[source]
        source: Option<Cause>,
    },
    /// A server error, a timeout or a broken connection.
    #[error("stream `{arn}`: the service could not be reached or failed; try again later")]
    Unavailable {
        /// The stream.
        arn: String,
        /// What failed.
        #[source]
        source: Option<Cause>,
    },
    /// The service answered with success, but the SDK cannot parse the answer.
    #[error(
        "stream `{arn}`: the answer cannot be parsed; if this continues, the endpoint is newer than this release, or is not DynamoDB Streams"
    )]
    Unreadable {
        /// The stream.
        arn: String,
        /// What was wrong with the answer.
        #[source]
        source: Option<Cause>,
    },
    /// The shard takes no more records; its children do.
    #[error(
        "stream `{arn}`: shard `{shard}` is closed already; describe the stream, and take one of its open shards"
    )]
    ShardClosed {
        /// The stream.
        arn: String,
        /// The shard that was to be closed.
        shard: String,
    },
    /// The shard's range is a single hash, which cannot be divided.
    #[error(
        "stream `{arn}`: shard `{shard}` is too narrow to be split; roll it over, or split another"
    )]
    ShardTooNarrow {
        /// The stream.
        arn: String,
        /// The shard that was to be split.
        shard: String,
    },
    /// The requested records are older than the stream's 24 hours, or the retention of the
    /// in-process store.
    #[error(
        "stream `{arn}`, shard `{shard}`: the records asked for are trimmed (DynamoDB keeps 24 hours, the in-process store its retention); records that were not read are lost, which needs a repair or a new bootstrap"
    )]
    Trimmed {
        /// The stream.
        arn: String,
        /// The shard.
        shard: String,
        /// The service's answer.
        #[source]
        source: Option<Cause>,
    },
    /// An iterator that started at TRIM_HORIZON or LATEST expired before it gave a record, so no
    /// sequence number tells where it was.
    #[error(
        "stream `{arn}`, shard `{shard}`: the iterator expired before its first record; a new one misses records put and trimmed since it was made, so start again at TRIM_HORIZON if that was less than 22 h 30 min ago, and read at least every 15 minutes"
    )]
    IteratorExpired {
        /// The stream.
        arn: String,
        /// The shard.
        shard: String,
    },
    /// A record was put whose sequence number does not rise.
    #[error(
        "stream `{arn}`: sequence number {given} is not above {last}, the last one; leave it out to have one assigned"
    )]
    NotRising {
        /// The stream.
        arn: String,
        /// The given number.
        given: SequenceNumber,
        /// The last number of the stream.
        last: SequenceNumber,
    },
    /// The service refused the request.
    #[error(
        "stream `{arn}`: the service refused the request ({code}); sending it again will not help"
    )]
    Refused {
        /// The stream.
        arn: String,
        /// The service's error code.
        code: String,
        /// The service's answer.
        #[source]
        source: Option<Cause>,
    },
    /// The stream's answer cannot be understood.
    #[error(
        "stream `{arn}`: {reason}; the service may be newer than this release, or not DynamoDB Streams"
    )]
    Unexpected {
        /// The stream.
        arn: String,
        /// What was wrong with the answer.
        reason: String,
    },
    /// An invalid sequence number.
    #[error(transparent)]
    SequenceNumber(#[from] IdError),
    /// An invalid argument.
    #[error(transparent)]
    Option(#[from] OptionError),
}

murmur_state::debug_as_message!(StreamError);

impl Failure for StreamError {
    fn fault(&self) -> Fault {
        StreamError::fault(self)
    }
}

impl StreamError {
    /// What the caller can do about the failure.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Throttled { .. } => Fault::Contention,
            Self::Unavailable { .. } | Self::Unreadable { .. } => Fault::Transient,
            _ => Fault::Setup,
        }
    }

    /// Whether it can help to try the same again later.
    pub fn is_retryable(&self) -> bool {
        Failure::is_retryable(self)
    }

    pub(crate) fn unknown_stream(arn: &str) -> Self {
        Self::UnknownStream {
            arn: arn.to_owned(),
            source: None,
        }
    }

    pub(crate) fn unknown_shard(arn: &str, shard: &str) -> Self {
        Self::UnknownShard {
            arn: arn.to_owned(),
            shard: shard.to_owned(),
            source: None,
        }
    }

    pub(crate) fn trimmed(arn: &str, shard: &str) -> Self {
        Self::Trimmed {
            arn: arn.to_owned(),
            shard: shard.to_owned(),
            source: None,
        }
    }

    pub(crate) fn disabled(arn: &str) -> Self {
        Self::Disabled {
            arn: arn.to_owned(),
        }
    }

    pub(crate) fn unexpected(arn: &str, reason: impl Into<String>) -> Self {
        Self::Unexpected {
            arn: arn.to_owned(),
            reason: reason.into(),
        }
    }
}
