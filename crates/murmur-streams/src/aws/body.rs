//! Reads an answer of GetRecords that the SDK cannot parse, record by record.
//!
//! The SDK fails a whole answer for one record that it does not understand. DynamoDB Local 3.1.0
//! writes an empty map as `{}`, without a type, which makes such a record.

use aws_lambda_events::event::dynamodb::{EventRecord, UserIdentity};
use serde_dynamo::{AttributeValue, Item};
use serde_json::{Map, Value};

use super::convert::{self, Answer, Faults};

/// The records of a body and where to read on, or `None` if it is not an answer of GetRecords at
/// all. A record that cannot be read is marked as unreadable.
pub(super) fn read(body: &[u8], arn: &str) -> Option<Answer> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let fields = body.as_object()?;
    let records = fields.get("Records")?.as_array()?;
    Some(Answer {
        records: records.iter().map(|value| record(value, arn)).collect(),
        next: text(fields, "NextShardIterator").ok()?,
    })
}

fn record(value: &Value, arn: &str) -> EventRecord {
    let nothing = Map::new();
    let mut faults = Faults::default();
    let fields = faults.note(object(value, "the record"));
    let fields = fields.unwrap_or(&nothing);
    let mut event = EventRecord::default();
    event.event_source_arn = Some(arn.to_owned());
    let id = faults.note(text(fields, "eventID"));
    event.event_id = faults.required("eventID", id);
    let name = faults.note(text(fields, "eventName"));
    event.event_name = faults.required("eventName", name);
    // A field that no handler needs is no fault.
    event.event_version = text(fields, "eventVersion").unwrap_or_default();
    event.event_source = text(fields, "eventSource").unwrap_or_default();
    let region = text(fields, "awsRegion").ok().flatten();
    event.aws_region = region.unwrap_or_default();
    event.user_identity = faults.note(identity(fields));
    let change = fields.get("dynamodb").unwrap_or(&Value::Null);
    let change = faults.note(object(change, "`dynamodb`"));
    let change = change.unwrap_or(&nothing);
    let created = faults.note(number(change, "ApproximateCreationDateTime", |number| {
        // A value beyond `i64` saturates; no date can show it.
        number.as_f64().map(|seconds| seconds.floor() as i64)
    }));
    event.change.approximate_creation_date_time = convert::created(created);
    event.change.keys = faults.note(item(change, "Keys")).unwrap_or_default();
    event.change.new_image = faults.new_image(item(change, "NewImage"));
    event.change.old_image = faults.old_image(item(change, "OldImage"));
    event.change.sequence_number = faults.note(text(change, "SequenceNumber"));
    let size = number(change, "SizeBytes", serde_json::Number::as_i64);
    event.change.size_bytes = size.ok().flatten().unwrap_or_default();
    let view = faults.note(text(change, "StreamViewType"));
    let view_type = view
        .as_deref()
        .and_then(|view| convert::view_type(view).ok());
    event.change.stream_view_type = view_type;
    faults.tell(&mut event, view.as_deref());
    event
}

fn object<'a>(value: &'a Value, what: &str) -> Result<Option<&'a Map<String, Value>>, String> {
    match value {
        Value::Object(fields) => Ok(Some(fields)),
        Value::Null => Err(format!("{what} is missing")),
        _ => Err(format!("{what} is not a JSON object")),
    }
}

fn text(fields: &Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("`{name}` is not text")),
    }
}

fn number(
    fields: &Map<String, Value>,
    name: &str,
    read: impl Fn(&serde_json::Number) -> Option<i64>,
) -> Result<Option<i64>, String> {
    let number = match fields.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value.as_number().and_then(read),
    };
    number
        .map(Some)
        .ok_or_else(|| format!("`{name}` is not a number in the form of DynamoDB"))
}

fn identity(fields: &Map<String, Value>) -> Result<Option<UserIdentity>, String> {
    let Some(identity) = fields.get("userIdentity").filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let fields = object(identity, "`userIdentity`")?;
    let part = |name| fields.map_or(Ok(None), |fields| text(fields, name));
    let mut user = UserIdentity::default();
    user.type_ = part("Type")?.unwrap_or_default();
    user.principal_id = part("PrincipalId")?.unwrap_or_default();
    Ok(Some(user))
}

fn item(change: &Map<String, Value>, name: &str) -> Result<Option<Item>, String> {
    let Some(value) = change.get(name).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let mut item = Item::default();
    for (attribute, value) in object(value, &format!("`{name}`"))?.into_iter().flatten() {
        let path = format!("{name}.{attribute}");
        item.insert(attribute.clone(), attribute_value(value, &path)?);
    }
    Ok(Some(item))
}

fn attribute_value(value: &Value, path: &str) -> Result<AttributeValue, String> {
    let fields = value
        .as_object()
        .ok_or_else(|| format!("attribute `{path}` is not a JSON object"))?;
    let mut typed = fields.iter().filter(|(_, value)| !value.is_null());
    match (typed.next(), typed.next()) {
        (None, _) => Err(format!(
            "attribute `{path}` is `{{}}`, without a type, as DynamoDB Local 3.1.0 writes an empty map"
        )),
        (Some(_), Some(_)) => Err(format!("attribute `{path}` has more than one type")),
        (Some((kind, inner)), None) => match (kind.as_str(), inner) {
            ("M", Value::Object(map)) => {
                let inner = |(name, value): (&String, &Value)| {
                    let value = attribute_value(value, &format!("{path}.{name}"))?;
                    Ok((name.clone(), value))
                };
                map.iter()
                    .map(inner)
                    .collect::<Result<_, _>>()
                    .map(AttributeValue::M)
            }
            ("L", Value::Array(list)) => {
                let inner = |(at, value)| attribute_value(value, &format!("{path}[{at}]"));
                let values = list.iter().enumerate().map(inner);
                values.collect::<Result<_, _>>().map(AttributeValue::L)
            }
            _ => {
                let typed = Map::from_iter([(kind.clone(), inner.clone())]);
                serde_json::from_value(Value::Object(typed))
                    .map_err(|error| format!("attribute `{path}`: {error}"))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use murmur_state::handler::UNREADABLE;
    use murmur_state::images::{ImageNote, ImageNotes};
    use murmur_testkit::damage::damaged;
    use serde_json::json;

    #[test]
    fn of_a_damaged_body_each_record_comes_as_it_is_or_says_that_it_is_not_readable() {
        let record = |number: u64, image: Value| {
            json!({
                "eventID": format!("e-{number}"), "eventName": "INSERT", "awsRegion": "eu-west-1",
                "dynamodb": {
                    "ApproximateCreationDateTime": 1_700_000_000, "Keys": { "id": { "S": "k" } },
                    "NewImage": image, "SizeBytes": 12, "StreamViewType": "NEW_IMAGE",
                    "SequenceNumber": format!("10000000000000000000{number}"),
                },
            })
        };
        let full =
            json!({ "n": { "N": "1.5" }, "b": { "B": "AP8=" }, "l": { "L": [{ "S": "a" }] } });
        let records = [
            record(1, full),
            record(2, json!({ "m": { "M": {} } })),
            record(3, json!({})),
        ];
        let body = json!({ "Records": records, "NextShardIterator": "next" }).to_string();
        let (mut whole, mut unreadable, mut images, mut empties) = (0, 0, 0, 0);
        for bytes in damaged(&[body], b",:{}[]\"") {
            let Some(answer) = read(&bytes, "arn") else {
                continue;
            };
            let parsed: Value = serde_json::from_slice(&bytes).unwrap();
            let listed = parsed["Records"].as_array().unwrap();
            assert_eq!(answer.records.len(), listed.len());
            for (event, listed) in answer.records.iter().zip(listed) {
                if event.event_name.starts_with(UNREADABLE) {
                    unreadable += 1;
                    let notes = ImageNotes::read(event.record_format.as_deref());
                    if let ImageNote::Unreadable(_) = notes.new {
                        images += 1;
                        assert_eq!(notes.event_name.as_deref(), listed["eventName"].as_str());
                        assert!(event.change.new_image.is_empty() && !event.event_id.is_empty());
                    }
                    continue;
                }
                whole += 1;
                let number = event.change.sequence_number.as_deref();
                assert_eq!(number, listed["dynamodb"]["SequenceNumber"].as_str());
                let image = listed["dynamodb"]["NewImage"].as_object();
                assert_eq!(event.change.new_image.len(), image.map_or(0, Map::len));
                let notes = ImageNotes::read(event.record_format.as_deref());
                let name = listed["eventName"].as_str();
                let empty = image.is_some_and(Map::is_empty) && name != Some("REMOVE");
                assert_eq!(notes.new == ImageNote::Empty, empty, "{listed}");
                empties += u32::from(empty);
            }
        }
        assert!(whole > 10_000 && unreadable > 500, "{whole}, {unreadable}");
        assert!(images > 100 && empties > 10_000, "{images}, {empties}");
    }
}
