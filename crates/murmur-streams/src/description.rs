//! Descriptions of a stream and its shards.

use std::collections::HashSet;

use aws_lambda_events::event::dynamodb::{KeyType, StreamStatus, StreamViewType};
use murmur_state::{SequenceNumber, Timestamp};

use crate::error::StreamError;

/// What is known about a stream as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamInfo {
    /// The ARN, which names the table and the generation of the stream.
    pub stream_arn: String,
    /// The table whose changes it carries.
    pub table_name: String,
    /// Which images its records carry.
    pub stream_view_type: StreamViewType,
    /// When it was switched on, as text; the last part of the ARN.
    pub stream_label: String,
    /// Whether it takes records.
    pub stream_status: StreamStatus,
    /// The table's primary key. Empty if the server does not return it.
    pub key_schema: Vec<KeySchemaElement>,
    /// When it was created. The in-process store uses the time of registration.
    pub creation_time: Option<Timestamp>,
}

impl StreamInfo {
    /// Describes an enabled stream. Table name and label are taken from the ARN
    /// (`arn:aws:dynamodb:region:account:table/NAME/stream/LABEL`), and are empty if it has none.
    pub fn new(stream_arn: impl Into<String>, stream_view_type: StreamViewType) -> Self {
        let stream_arn = stream_arn.into();
        let part = |at| {
            stream_arn
                .splitn(4, '/')
                .nth(at)
                .unwrap_or_default()
                .to_owned()
        };
        Self {
            table_name: part(1),
            stream_label: part(3),
            stream_arn,
            stream_view_type,
            stream_status: StreamStatus::Enabled,
            key_schema: Vec::new(),
            creation_time: None,
        }
    }

    /// The same stream with another status.
    #[must_use]
    pub fn with_status(self, stream_status: StreamStatus) -> Self {
        Self {
            stream_status,
            ..self
        }
    }

    /// Whether the stream takes records, now or soon (ENABLED or ENABLING).
    pub fn is_enabled(&self) -> bool {
        matches!(
            self.stream_status,
            StreamStatus::Enabled | StreamStatus::Enabling
        )
    }

    /// Fails unless the stream takes records.
    ///
    /// # Errors
    ///
    /// [`StreamError::Disabled`] for a stream that is disabled or being disabled.
    pub fn ensure_enabled(&self) -> Result<(), StreamError> {
        if self.is_enabled() {
            return Ok(());
        }
        Err(StreamError::disabled(&self.stream_arn))
    }
}

/// One attribute of a table's primary key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySchemaElement {
    /// The attribute's name.
    pub attribute_name: String,
    /// HASH (partition key) or RANGE (sort key).
    pub key_type: KeyType,
}

/// One shard of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardInfo {
    /// The shard's id.
    pub id: String,
    /// The shard that it continues, whose records come first. It may have left the list already.
    pub parent: Option<String>,
    /// The first sequence number in it, if the stream gives it.
    pub first: Option<SequenceNumber>,
    /// The last sequence number it will ever have. Some servers show one for a shard that is still
    /// open; use [`StreamDescription::is_closed`].
    pub ending: Option<SequenceNumber>,
}

impl ShardInfo {
    /// A shard that continues `parent`, or no shard. It has no sequence numbers.
    pub fn new(id: impl Into<String>, parent: Option<String>) -> Self {
        Self {
            id: id.into(),
            parent,
            first: None,
            ending: None,
        }
    }
}

/// A stream and all its shards.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamDescription {
    /// The stream.
    pub info: StreamInfo,
    /// Its shards, in listed order.
    pub shards: Vec<ShardInfo>,
}

impl StreamDescription {
    /// A stream with these shards, in listed order.
    pub fn new(info: StreamInfo, shards: Vec<ShardInfo>) -> Self {
        Self { info, shards }
    }

    /// Whether a shard can take no more records: it has an ending sequence number *and* a listed
    /// child. In doubt it counts as open, and reading it is harmless. The call looks through all
    /// shards; for many shards use [`closed`](Self::closed).
    pub fn is_closed(&self, shard: &ShardInfo) -> bool {
        let is_child = |other: &ShardInfo| other.parent.as_deref() == Some(&*shard.id);
        shard.ending.is_some() && self.shards.iter().any(is_child)
    }

    /// The ids of all shards that [are closed](Self::is_closed), found in one pass.
    pub fn closed(&self) -> HashSet<&str> {
        let parents = self.parents();
        let closed = self.shards.iter().filter(|shard| shard.ending.is_some());
        closed
            .map(|shard| &*shard.id)
            .filter(|id| parents.contains(id))
            .collect()
    }

    /// Fails unless the stream takes records.
    ///
    /// # Errors
    ///
    /// [`StreamError::Disabled`] for a stream that is disabled or being disabled.
    pub fn ensure_enabled(&self) -> Result<(), StreamError> {
        self.info.ensure_enabled()
    }

    /// The ids of all shards.
    pub(crate) fn ids(&self) -> HashSet<&str> {
        self.shards.iter().map(|shard| &*shard.id).collect()
    }

    /// The ids of all shards that are the parent of a shard.
    pub(crate) fn parents(&self) -> HashSet<&str> {
        let parents = self.shards.iter();
        parents
            .filter_map(|shard| shard.parent.as_deref())
            .collect()
    }
}
