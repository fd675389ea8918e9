//! An event that is read record by record.

use std::collections::HashMap;

use aws_lambda_events::event::dynamodb::{Event, EventRecord, UserIdentity};
use chrono::{DateTime, Utc};
use murmur_core::{AttributeValue, Item};
use murmur_state::handler::UNREADABLE;
use murmur_state::images::{ImageNote, ImageNotes};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde_json::value::RawValue;

/// An [`Event`] whose records are read one by one, so that an unreadable record is one rejected
/// record and not a failed invocation. It is the payload of [`run`](crate::run) and
/// [`Handler::invoke`](crate::Handler::invoke).
///
/// An unreadable record is handled like every record that can never count: it goes to the callback
/// for rejected records, or into the answer by its sequence number. Without either, the batch
/// fails. If only an image is unreadable, only that image is rejected, like one that a decoder
/// refuses. Once the callback has taken the record, its other image counts.
///
/// - Only the fields that a handler needs are read. `SizeBytes`, `awsRegion` and others may be
///   missing.
/// - An image `{}` is told apart from a missing one, which an [`Event`] cannot do. A MODIFY with an
///   old image of `{}` had nothing before. Any other image of `{}` is an item without attributes,
///   for the decoder to judge. If the stream's view type leaves the image out, it is missing all
///   the same.
///
/// It deserializes from `serde_json` only. A payload that is not an event (not JSON, or without
/// `Records`) is an error.
///
/// ```
/// use murmur_lambda_ddbstreams::LenientEvent;
///
/// let odd = r#"{ "Records": [{ "eventID": null, "dynamodb": { "SequenceNumber": "1" } }] }"#;
/// let event: LenientEvent = serde_json::from_str(odd)?;
/// assert_eq!(event.len(), 1);
/// assert!(serde_json::from_str::<LenientEvent>("{}").is_err());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct LenientEvent {
    pub(crate) records: Vec<EventRecord>,
}

/// A record of the payload.
struct Incoming(EventRecord);

impl LenientEvent {
    /// The number of records, unreadable ones included.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// Images of `{}` become missing ones.
impl From<Event> for LenientEvent {
    fn from(event: Event) -> Self {
        Self {
            records: event.records,
        }
    }
}

impl<'de> Deserialize<'de> for LenientEvent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(expecting = "an event of a DynamoDB stream, with a list of `Records`")]
        struct Payload {
            #[serde(rename = "Records")]
            records: Option<Vec<Incoming>>,
        }

        let payload = Payload::deserialize(deserializer)?;
        let records = payload.records.ok_or_else(|| {
            D::Error::custom(
                "the payload has no `Records`, so it is not an event of a DynamoDB stream; \
                 check what invokes this function",
            )
        })?;
        Ok(Self {
            records: records.into_iter().map(|Incoming(record)| record).collect(),
        })
    }
}

/// Accepts all JSON.
impl<'de> Deserialize<'de> for Incoming {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self(read(json.get())))
    }
}

/// What a handler needs of a record whose images are `I`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecordFields<I> {
    #[serde(rename = "eventID")]
    event_id: String,
    event_name: String,
    #[serde(rename = "eventSourceARN")]
    event_source_arn: Option<String>,
    user_identity: Option<UserIdentity>,
    dynamodb: ChangeFields<I>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChangeFields<I> {
    approximate_creation_date_time: Option<f64>,
    keys: Option<Item>,
    new_image: Option<I>,
    old_image: Option<I>,
    sequence_number: Option<String>,
    stream_view_type: Option<String>,
}

fn read(json: &str) -> EventRecord {
    // Derived types accept a list of values in place of an object.
    if !json.starts_with('{') {
        return unreadable(json, "the record is not an object".to_owned());
    }
    let error = match serde_json::from_str(json) {
        Ok(fields) => return record(fields, |_, image| Ok(image)),
        Err(error) => error,
    };
    match serde_json::from_str::<RecordFields<Box<RawValue>>>(json) {
        Ok(fields) => record(fields, |name, image| item(name, image.get())),
        Err(_) => unreadable(json, error.to_string()),
    }
}

/// The record with its images read by `image`, which gets the name of each.
fn record<I>(
    fields: RecordFields<I>,
    image: impl Fn(&str, I) -> Result<Item, String>,
) -> EventRecord {
    let RecordFields {
        event_id,
        event_name,
        event_source_arn,
        user_identity,
        dynamodb:
            ChangeFields {
                approximate_creation_date_time,
                keys,
                new_image,
                old_image,
                sequence_number,
                stream_view_type,
            },
    } = fields;
    let new = new_image.map(|new| image("NewImage", new)).transpose();
    let old = old_image.map(|old| image("OldImage", old)).transpose();
    let notes = ImageNotes::of(
        &event_name,
        stream_view_type.as_deref(),
        note(&new),
        note(&old),
    );

    let mut record = EventRecord::default();
    record.event_id = event_id;
    record.event_name = match notes.unreadable() {
        Some(reason) => format!("{UNREADABLE}{reason}"),
        None => event_name,
    };
    record.event_source_arn = event_source_arn;
    record.user_identity = user_identity;
    record.record_format = notes.to_record_format();
    record.change.approximate_creation_date_time = approximate_creation_date_time
        .map(creation_time)
        .unwrap_or_default();
    record.change.keys = keys.unwrap_or_default();
    record.change.new_image = new.ok().flatten().unwrap_or_default();
    record.change.old_image = old.ok().flatten().unwrap_or_default();
    record.change.sequence_number = sequence_number;
    record
}

fn note(image: &Result<Option<Item>, String>) -> ImageNote {
    match image {
        Ok(Some(item)) if item.is_empty() => ImageNote::Empty,
        Ok(_) => ImageNote::AsShown,
        Err(reason) => ImageNote::Unreadable(reason.clone()),
    }
}

/// The whole second. A time in some other unit, which no date can show, becomes the last possible
/// second, which is as impossible.
fn creation_time(seconds: f64) -> DateTime<Utc> {
    let date = DateTime::from_timestamp(seconds.floor() as i64, 0);
    date.unwrap_or(match seconds > 0.0 {
        true => DateTime::<Utc>::MAX_UTC,
        false => DateTime::<Utc>::MIN_UTC,
    })
}

/// The readable parts of a record that is unreadable beyond its images, field by field. `error` is
/// the reason if every field can be read by itself.
fn unreadable(json: &str, error: String) -> EventRecord {
    let mut reason = None;
    let fields = members(json);
    let change = fields.get("dynamodb").map(|json| members(json.get()));
    let change = change.unwrap_or_default();

    let mut record = EventRecord::default();
    record.event_id = field(&fields, "eventID", &mut reason).unwrap_or_default();
    record.event_source_arn = field(&fields, "eventSourceARN", &mut reason);
    record.change.sequence_number = field(&change, "SequenceNumber", &mut reason);
    if let Some(keys) = change.get("Keys").filter(|keys| keys.get() != "null") {
        match item("Keys", keys.get()) {
            Ok(keys) => record.change.keys = keys,
            Err(error) => _ = reason.get_or_insert(error),
        }
    }
    // Read only to find the reason.
    let _: Option<String> = field(&fields, "eventName", &mut reason);
    let _: Option<UserIdentity> = field(&fields, "userIdentity", &mut reason);
    let _: Option<f64> = field(&change, "ApproximateCreationDateTime", &mut reason);

    record.event_name = format!("{UNREADABLE}{}", reason.unwrap_or(error));
    record
}

type Members<'a> = HashMap<String, &'a RawValue>;

/// The members of an object, each as text, or none if it is not an object.
fn members(json: &str) -> Members<'_> {
    serde_json::from_str(json).unwrap_or_default()
}

/// The member called `name`, if it can be read. Otherwise stores the reason, unless there already
/// is one.
fn field<T: DeserializeOwned>(
    of: &Members<'_>,
    name: &str,
    reason: &mut Option<String>,
) -> Option<T> {
    let json = of.get(name)?.get();
    match serde_json::from_str(json) {
        Ok(value) => Some(value),
        // A member that may be missing may also be null.
        Err(_) if json == "null" && name != "eventID" && name != "eventName" => None,
        Err(error) => {
            reason.get_or_insert_with(|| format!("`{name}`: {error}"));
            None
        }
    }
}

/// The item called `name`. The error names the attribute that cannot be read.
fn item(name: &str, json: &str) -> Result<Item, String> {
    serde_json::from_str(json).map_err(|error| {
        let attributes = members(json);
        let wrong = attributes.iter().find_map(|(attribute, value)| {
            let error = serde_json::from_str::<AttributeValue>(value.get()).err()?;
            Some(format!("`{name}`, attribute `{attribute}`: {error}"))
        });
        wrong.unwrap_or_else(|| format!("`{name}`: {error}"))
    })
}

#[cfg(test)]
mod tests;
