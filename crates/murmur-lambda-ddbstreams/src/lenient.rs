//! An event, read record by record.

use std::collections::HashMap;

use aws_lambda_events::event::dynamodb::{Event, EventRecord, UserIdentity};
use chrono::{DateTime, Utc};
use murmur_core::{AttributeValue, Item};
use murmur_state::UNREADABLE;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _};
use serde_json::value::RawValue;

/// An [`Event`] whose records are read one by one, so that one that cannot be read is one rejected
/// record and not a failed invocation: the payload that [`run`](crate::run) and
/// [`Handler::invoke`](crate::Handler::invoke) take.
///
/// What cannot be read goes the way of every record that can never count: to the callback for
/// rejected records, or into the answer by its sequence number. Without either, the batch fails.
///
/// - Only what a handler needs is read. `SizeBytes`, `awsRegion` and the like may be missing.
/// - An image that is `{}` is told from one that is missing, which an [`Event`] cannot do. A MODIFY
///   with an old image of `{}` had nothing before; any other image of `{}` is an item without
///   attributes, for the decoder to judge. In a stream whose view type leaves the image out it is
///   missing all the same.
///
/// It deserializes from `serde_json` only. What is no event at all (no JSON, no `Records`) is an
/// error.
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
    pub(crate) records: Vec<Incoming>,
}

/// A record, and what of it an [`EventRecord`] cannot say.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Incoming {
    pub(crate) record: EventRecord,
    /// The new image came, and is empty.
    pub(crate) empty_new: bool,
    /// The old image came, and is empty.
    pub(crate) empty_old: bool,
}

impl LenientEvent {
    /// How many records there are, those that could not be read included.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// Its images of `{}` are missing ones.
impl From<Event> for LenientEvent {
    fn from(event: Event) -> Self {
        let incoming = |record| Incoming {
            record,
            ..Incoming::default()
        };
        Self {
            records: event.records.into_iter().map(incoming).collect(),
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
                "the payload has no `Records`: it is no event of a DynamoDB stream; \
                 see what invokes this function",
            )
        })?;
        Ok(Self { records })
    }
}

/// Fails on nothing that is JSON.
impl<'de> Deserialize<'de> for Incoming {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        Ok(read(json.get()))
    }
}

/// What a handler needs of a record.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecordFields {
    #[serde(rename = "eventID")]
    event_id: String,
    event_name: String,
    #[serde(rename = "eventSourceARN")]
    event_source_arn: Option<String>,
    user_identity: Option<UserIdentity>,
    dynamodb: ChangeFields,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChangeFields {
    approximate_creation_date_time: Option<f64>,
    keys: Option<Item>,
    new_image: Option<Item>,
    old_image: Option<Item>,
    sequence_number: Option<String>,
    stream_view_type: Option<String>,
}

fn read(json: &str) -> Incoming {
    // Derived types take a list of values for an object, too.
    if !json.starts_with('{') {
        return unreadable(json, "it is not an object".to_owned());
    }
    match serde_json::from_str(json) {
        Ok(fields) => incoming(fields),
        Err(error) => unreadable(json, error.to_string()),
    }
}

fn incoming(fields: RecordFields) -> Incoming {
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
    let carries = |other: &str| {
        stream_view_type.as_deref() != Some("KEYS_ONLY")
            && stream_view_type.as_deref() != Some(other)
    };
    let is_empty = |image: &Option<Item>| image.as_ref().is_some_and(|image| image.is_empty());
    // A removal leaves nothing, and an insert finds nothing: there, an empty image is a missing one.
    let empty_new = is_empty(&new_image) && carries("OLD_IMAGE") && event_name != "REMOVE";
    let empty_old = is_empty(&old_image) && carries("NEW_IMAGE") && event_name != "INSERT";

    let mut record = EventRecord::default();
    record.event_id = event_id;
    record.event_name = event_name;
    record.event_source_arn = event_source_arn;
    record.user_identity = user_identity;
    record.change.approximate_creation_date_time = approximate_creation_date_time
        .map(creation_time)
        .unwrap_or_default();
    record.change.keys = keys.unwrap_or_default();
    record.change.new_image = new_image.unwrap_or_default();
    record.change.old_image = old_image.unwrap_or_default();
    record.change.sequence_number = sequence_number;
    Incoming {
        record,
        empty_new,
        empty_old,
    }
}

/// The whole second; the last there is for a time in some other unit that no date can show, which
/// is as impossible.
fn creation_time(seconds: f64) -> DateTime<Utc> {
    let date = DateTime::from_timestamp(seconds.floor() as i64, 0);
    date.unwrap_or(match seconds > 0.0 {
        true => DateTime::<Utc>::MAX_UTC,
        false => DateTime::<Utc>::MIN_UTC,
    })
}

/// What can be read of a record that cannot be read as a whole, field by field. `error` is what
/// there is to say if every field can be read by itself.
fn unreadable(json: &str, error: String) -> Incoming {
    let mut reason = None;
    let fields = members(json);
    let change = fields.get("dynamodb").map(|json| members(json.get()));
    let change = change.unwrap_or_default();

    let mut record = EventRecord::default();
    record.event_id = field(&fields, "eventID", &mut reason).unwrap_or_default();
    record.event_source_arn = field(&fields, "eventSourceARN", &mut reason);
    record.change.sequence_number = field(&change, "SequenceNumber", &mut reason);
    record.change.keys = item(&change, "Keys", &mut reason).unwrap_or_default();
    // Read for the reason only.
    let _: Option<String> = field(&fields, "eventName", &mut reason);
    let _: Option<UserIdentity> = field(&fields, "userIdentity", &mut reason);
    let _: Option<f64> = field(&change, "ApproximateCreationDateTime", &mut reason);
    item(&change, "NewImage", &mut reason);
    item(&change, "OldImage", &mut reason);

    record.event_name = format!("{UNREADABLE}{}", reason.unwrap_or(error));
    Incoming {
        record,
        ..Incoming::default()
    }
}

type Members<'a> = HashMap<String, &'a RawValue>;

/// The members of an object, each by its text; none if it is not one.
fn members(json: &str) -> Members<'_> {
    serde_json::from_str(json).unwrap_or_default()
}

/// The member called `name`, if it can be read. Notes why not, if that is the first there is.
fn field<T: DeserializeOwned>(
    of: &Members<'_>,
    name: &str,
    reason: &mut Option<String>,
) -> Option<T> {
    let json = of.get(name)?.get();
    match serde_json::from_str(json) {
        Ok(value) => Some(value),
        // What may be missing may be null.
        Err(_) if json == "null" && name != "eventID" && name != "eventName" => None,
        Err(error) => {
            reason.get_or_insert_with(|| format!("`{name}`: {error}"));
            None
        }
    }
}

/// As [`field`], naming the attribute that cannot be read.
fn item(of: &Members<'_>, name: &str, reason: &mut Option<String>) -> Option<Item> {
    let attributes = members(of.get(name)?.get());
    for attribute in attributes.keys() {
        let mut wrong = None;
        let _: Option<AttributeValue> = field(&attributes, attribute, &mut wrong);
        if let Some(wrong) = wrong {
            reason.get_or_insert_with(|| format!("`{name}`, attribute {wrong}"));
        }
    }
    field(of, name, reason)
}

#[cfg(test)]
mod tests;
