//! Converts the SDK's types to Lambda's and this crate's.

use std::collections::{HashMap, HashSet};

use aws_lambda_events::event::dynamodb::{
    EventRecord, KeyType, StreamStatus, StreamViewType, UserIdentity,
};
use aws_sdk_dynamodbstreams::primitives::DateTime;
use aws_sdk_dynamodbstreams::types::{self, AttributeValue};
use murmur_state::handler::UNREADABLE;
use murmur_state::images::{ImageNote, ImageNotes};
use murmur_state::{SequenceNumber, Timestamp};
use serde_dynamo::Item;

use crate::description::{KeySchemaElement, ShardInfo, StreamDescription, StreamInfo};
use crate::error::StreamError;

/// The contents of one answer of GetRecords.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) records: Vec<EventRecord>,
    pub(super) next: Option<String>,
}

/// Faults of a record that make parts of it unreadable, while the rest is read all the same.
#[derive(Debug, Default)]
pub(super) struct Faults {
    first: Option<String>,
    new: ImageNote,
    old: ImageNote,
}

impl Faults {
    /// The value that was read, or a default. The first of several faults is reported.
    pub(super) fn note<T: Default>(&mut self, read: Result<T, String>) -> T {
        read.unwrap_or_else(|reason| {
            self.first.get_or_insert(reason);
            T::default()
        })
    }

    /// A text that every record has.
    pub(super) fn required(&mut self, name: &str, text: Option<String>) -> String {
        self.note(text.ok_or_else(|| format!("`{name}` is missing")))
    }

    /// The new image that was read, or an empty one.
    pub(super) fn new_image(&mut self, read: Result<Option<Item>, String>) -> Item {
        image(read, &mut self.new)
    }

    /// The old image that was read, or an empty one.
    pub(super) fn old_image(&mut self, read: Result<Option<Item>, String>) -> Item {
        image(read, &mut self.old)
    }

    /// Marks a record that could not be read, or whose images could not. `view_type` is the
    /// record's own view type.
    pub(super) fn tell(self, event: &mut EventRecord, view_type: Option<&str>) {
        let unreadable = |reason: &str| format!("{UNREADABLE}{reason}");
        if let Some(reason) = &self.first {
            event.event_name = unreadable(reason);
            return;
        }
        let notes = ImageNotes::of(&event.event_name, view_type, self.new, self.old);
        event.record_format = notes.to_record_format();
        if let Some(reason) = notes.unreadable() {
            event.event_name = unreadable(reason);
        }
    }
}

fn image(read: Result<Option<Item>, String>, note: &mut ImageNote) -> Item {
    let (image, said) = match read {
        Ok(None) => (Item::default(), ImageNote::AsShown),
        Ok(Some(item)) if item.is_empty() => (item, ImageNote::Empty),
        Ok(Some(item)) => (item, ImageNote::AsShown),
        Err(reason) => (Item::default(), ImageNote::Unreadable(reason)),
    };
    *note = said;
    image
}

/// A record as Lambda passes it to a function. A record that cannot be understood is marked as
/// unreadable.
pub(super) fn record(record: types::Record, arn: &str) -> EventRecord {
    let mut faults = Faults::default();
    let mut event = EventRecord::default();
    event.event_id = faults.required("eventID", record.event_id);
    // The name as sent, even one the SDK does not know: DynamoDB Local has one of its own.
    let name = record.event_name.map(|name| name.as_str().to_owned());
    event.event_name = faults.required("eventName", name);
    event.event_version = record.event_version;
    event.event_source = record.event_source;
    event.aws_region = record.aws_region.unwrap_or_default();
    event.event_source_arn = Some(arn.to_owned());
    event.user_identity = record.user_identity.map(|identity| {
        let mut user = UserIdentity::default();
        user.type_ = identity.r#type.unwrap_or_default();
        user.principal_id = identity.principal_id.unwrap_or_default();
        user
    });
    let mut view = None;
    match record.dynamodb {
        Some(change) => {
            let created_at = change.approximate_creation_date_time;
            event.change.approximate_creation_date_time = created(created_at.map(|at| at.secs()));
            event.change.keys = faults.note(item(change.keys, "Keys")).unwrap_or_default();
            event.change.new_image = faults.new_image(item(change.new_image, "NewImage"));
            event.change.old_image = faults.old_image(item(change.old_image, "OldImage"));
            event.change.sequence_number = change.sequence_number;
            event.change.size_bytes = change.size_bytes.unwrap_or_default();
            view = change.stream_view_type;
            event.change.stream_view_type =
                view.as_ref().and_then(|view| view_type(view.as_str()).ok());
        }
        None => faults.note(Err("`dynamodb` is missing".to_owned())),
    }
    faults.tell(&mut event, view.as_ref().map(|view| view.as_str()));
    event
}

/// Whole seconds, as Lambda gives them, or 1970 if the record has none.
pub(super) fn created(seconds: Option<i64>) -> chrono::DateTime<chrono::Utc> {
    seconds
        .and_then(|seconds| chrono::DateTime::from_timestamp(seconds, 0))
        .unwrap_or_default()
}

pub(super) fn description(
    described: types::StreamDescription,
    shards: Vec<types::Shard>,
    arn: &str,
) -> Result<StreamDescription, StreamError> {
    let status = described
        .stream_status
        .ok_or_else(|| missing(arn, "StreamStatus"))?;
    let view = described
        .stream_view_type
        .ok_or_else(|| missing(arn, "StreamViewType"))?;
    let info = StreamInfo {
        stream_arn: described.stream_arn.unwrap_or_else(|| arn.to_owned()),
        table_name: described
            .table_name
            .ok_or_else(|| missing(arn, "TableName"))?,
        stream_view_type: view_type(view.as_str())
            .map_err(|reason| StreamError::unexpected(arn, reason))?,
        stream_label: described.stream_label.unwrap_or_default(),
        stream_status: stream_status(status.as_str(), arn)?,
        key_schema: described
            .key_schema
            .unwrap_or_default()
            .into_iter()
            .map(|element| key_element(element, arn))
            .collect::<Result<_, _>>()?,
        creation_time: described.creation_request_date_time.as_ref().map(timestamp),
    };
    // Pages may overlap while shards come and go.
    let mut seen = HashSet::new();
    let mut unique = Vec::with_capacity(shards.len());
    for shard in shards {
        let shard = shard_info(shard, arn)?;
        if seen.insert(shard.id.clone()) {
            unique.push(shard);
        }
    }
    Ok(StreamDescription {
        info,
        shards: unique,
    })
}

fn shard_info(shard: types::Shard, arn: &str) -> Result<ShardInfo, StreamError> {
    let number = |digits: Option<String>| digits.map(SequenceNumber::new).transpose();
    let (first, ending) = match shard.sequence_number_range {
        Some(range) => (range.starting_sequence_number, range.ending_sequence_number),
        None => (None, None),
    };
    Ok(ShardInfo {
        id: shard.shard_id.ok_or_else(|| missing(arn, "ShardId"))?,
        parent: shard.parent_shard_id,
        first: number(first)?,
        ending: number(ending)?,
    })
}

fn key_element(
    element: types::KeySchemaElement,
    arn: &str,
) -> Result<KeySchemaElement, StreamError> {
    let key_type = match element.key_type.as_str() {
        "HASH" => KeyType::Hash,
        "RANGE" => KeyType::Range,
        other => return Err(unknown(arn, "key type", other)),
    };
    Ok(KeySchemaElement {
        attribute_name: element.attribute_name,
        key_type,
    })
}

pub(super) fn view_type(name: &str) -> Result<StreamViewType, String> {
    Ok(match name {
        "NEW_IMAGE" => StreamViewType::NewImage,
        "OLD_IMAGE" => StreamViewType::OldImage,
        "NEW_AND_OLD_IMAGES" => StreamViewType::NewAndOldImages,
        "KEYS_ONLY" => StreamViewType::KeysOnly,
        other => return Err(format!("unknown stream view type `{other}`")),
    })
}

fn stream_status(name: &str, arn: &str) -> Result<StreamStatus, StreamError> {
    Ok(match name {
        "ENABLING" => StreamStatus::Enabling,
        "ENABLED" => StreamStatus::Enabled,
        "DISABLING" => StreamStatus::Disabling,
        "DISABLED" => StreamStatus::Disabled,
        other => return Err(unknown(arn, "stream status", other)),
    })
}

fn item(
    attributes: Option<HashMap<String, AttributeValue>>,
    image: &str,
) -> Result<Option<Item>, String> {
    let Some(attributes) = attributes else {
        return Ok(None);
    };
    // The conversion panics on an unknown type.
    match attributes.iter().find(|(_, value)| !is_known(value)) {
        Some((name, _)) => Err(format!("attribute `{image}.{name}` is of an unknown type")),
        None => Ok(Some(attributes.into())),
    }
}

fn is_known(value: &AttributeValue) -> bool {
    match value {
        AttributeValue::M(map) => map.values().all(is_known),
        AttributeValue::L(list) => list.iter().all(is_known),
        other => !other.is_unknown(),
    }
}

fn timestamp(at: &DateTime) -> Timestamp {
    let millis = i64::from(at.subsec_nanos() / 1_000_000);
    Timestamp::from_millis(
        Timestamp::from_secs(at.secs())
            .as_millis()
            .saturating_add(millis),
    )
}

fn missing(arn: &str, what: &str) -> StreamError {
    StreamError::unexpected(arn, format!("its answer has no {what}"))
}

fn unknown(arn: &str, what: &str, name: &str) -> StreamError {
    StreamError::unexpected(arn, format!("unknown {what} `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_nobody_knows_are_named() {
        let error = stream_status("X", "arn").unwrap_err();
        assert!(matches!(error, StreamError::Unexpected { .. }) && !error.is_retryable());
        let reason = view_type("NEW_SHAPE").unwrap_err();
        assert!(reason.contains("`NEW_SHAPE`"), "{reason}");
    }
}
