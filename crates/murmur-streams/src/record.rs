//! The record that the in-process store keeps.

use std::time::Duration;

use aws_lambda_events::event::dynamodb::{
    EventRecord, OperationType, StreamViewType, UserIdentity,
};
use chrono::DateTime;
use murmur_state::{SequenceNumber, Timestamp};
use serde_dynamo::Item;

/// One change of one item, as the in-process store keeps it.
///
/// [`EventRecord::from`] gives the record that a Lambda function would receive. Fields left empty
/// are filled in by [`StreamStore::put_record`](crate::StreamStore::put_record) where the field's
/// documentation says so. Construct it with `..StreamRecord::default()`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StreamRecord {
    /// Unique in the whole stream. Empty: an id is assigned.
    pub event_id: String,
    /// What happened to the item.
    pub event_name: OperationType,
    /// The version of the record's form. Empty: `1.1`.
    pub event_version: String,
    /// The service that made the record. Empty: `aws:dynamodb`.
    pub event_source: String,
    /// The region. Empty: the one in the stream's ARN.
    pub aws_region: String,
    /// Which images it has. The store always sets it to the stream's view type.
    pub stream_view_type: Option<StreamViewType>,
    /// The table. Empty: the stream's.
    pub table_name: String,
    /// The stream it belongs to. Always required.
    pub stream_arn: String,
    /// The item's primary key, which decides the shard.
    pub keys: Item,
    /// The item after the change. Empty if there is none, or if the stream does not carry it.
    pub new_image: Item,
    /// The item before the change. Empty if there was none, or if the stream does not carry it.
    pub old_image: Item,
    /// Its place in the stream. `None`: the next number is assigned.
    pub sequence_number: Option<SequenceNumber>,
    /// When the change was made. `None`: now, by the store's clock.
    pub created_at: Option<Timestamp>,
    /// Its size in bytes, as given.
    pub size_bytes: i64,
    /// Who made the change, if it was not a user; see [`time_to_live`].
    pub user_identity: Option<UserIdentity>,
}

/// The identity that marks a removal as made by Time to Live (Amazon DynamoDB Developer Guide,
/// "DynamoDB Streams and Time to Live").
///
/// No local server sets it. A record that you put yourself can have it:
///
/// ```
/// use murmur_streams::{Item, OperationType, StreamRecord, time_to_live};
///
/// fn expired(stream_arn: &str, keys: Item, last: Item) -> StreamRecord {
///     StreamRecord {
///         stream_arn: stream_arn.to_owned(),
///         event_name: OperationType::Remove,
///         keys,
///         old_image: last,
///         user_identity: Some(time_to_live()),
///         ..StreamRecord::default()
///     }
/// }
/// ```
pub fn time_to_live() -> UserIdentity {
    let mut identity = UserIdentity::default();
    identity.type_ = "Service".to_owned();
    identity.principal_id = "dynamodb.amazonaws.com".to_owned();
    identity
}

/// The record in the form that Lambda passes to a function.
///
/// The creation time is cut to whole seconds, as DynamoDB does. A missing creation time, and one
/// that no date can show, become 1970.
impl From<&StreamRecord> for EventRecord {
    fn from(record: &StreamRecord) -> Self {
        let StreamRecord {
            event_id,
            event_name,
            event_version,
            event_source,
            aws_region,
            stream_view_type,
            table_name,
            stream_arn,
            keys,
            new_image,
            old_image,
            sequence_number,
            created_at,
            size_bytes,
            user_identity,
        } = record;
        let mut event = Self::default();
        event.event_id = event_id.clone();
        event.event_name = event_name.to_string();
        event.event_version = some(event_version);
        event.event_source = some(event_source);
        event.aws_region = aws_region.clone();
        event.table_name = some(table_name);
        event.event_source_arn = some(stream_arn);
        event.user_identity = user_identity.clone();
        event.change.stream_view_type = stream_view_type.clone();
        event.change.keys = keys.clone();
        event.change.new_image = new_image.clone();
        event.change.old_image = old_image.clone();
        event.change.sequence_number = sequence_number.as_ref().map(|n| n.as_str().to_owned());
        event.change.approximate_creation_date_time = created_at
            .and_then(|at| DateTime::from_timestamp(at.as_secs(), 0))
            .unwrap_or_default();
        event.change.size_bytes = *size_bytes;
        event
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// How far two clocks may differ, and how far a creation time may be ahead of the present.
const CLOCK_ERROR: Duration = Duration::from_secs(45 * 60);

/// When the change was made, as far as the record says. A missing time was stored as 1970, and
/// counts as none. So does a time far ahead of `now`, such as milliseconds taken for seconds.
pub(crate) fn created_at(record: &EventRecord, now: Timestamp) -> Option<Timestamp> {
    let millis = record
        .change
        .approximate_creation_date_time
        .timestamp_millis();
    let created_at = Timestamp::from_millis(millis);
    (millis > 0 && created_at.since(now) <= CLOCK_ERROR).then_some(created_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_creation_time_far_ahead_says_nothing() {
        let now = Timestamp::from_secs(1_767_225_600);
        let shown = |secs: i64| {
            let mut record = EventRecord::default();
            let at = DateTime::from_timestamp(secs, 0);
            record.change.approximate_creation_date_time = at.unwrap_or_default();
            created_at(&record, now).map(|at| at.as_secs())
        };
        let (now, error) = (now.as_secs(), 45 * 60);
        for secs in [1, now - 90_000, now, now + error] {
            assert_eq!(shown(secs), Some(secs));
        }
        for secs in [-1, 0, now + error + 1, now * 1000] {
            assert_eq!(shown(secs), None, "{secs}");
        }
    }
}
