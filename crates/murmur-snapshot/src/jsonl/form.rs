//! Recognises files that are not JSON lines of items by their first line.

use std::collections::HashMap;

use serde_json::value::RawValue;

use super::line::{Format, KeyPart};

/// The advice for a file that begins with `line`, if it is not JSON lines of items.
pub(super) fn foreign(format: Format, key: &[KeyPart], line: &[u8]) -> Option<String> {
    let said = match line {
        [0xef, 0xbb, 0xbf, ..] => {
            "it begins with a byte order mark; remove that (`sed '1s/^\\xEF\\xBB\\xBF//'`)"
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [b'{', 0, ..] | [0, b'{', ..] => {
            "it is UTF-16; convert it (`iconv -f UTF-16 -t UTF-8`)"
        }
        [0x1f, 0x8b, ..] => "it is gzip within gzip; unpack it once (`gunzip`)",
        [0xe0, 0x01, 0x00, 0xea, ..] => {
            "it is binary Ion; export the table as DynamoDB JSON (`--export-format DYNAMODB_JSON`)"
        }
        _ if trimmed(line).starts_with(b"$ion_1_0") => {
            "it is Ion; export the table as DynamoDB JSON (`--export-format DYNAMODB_JSON`)"
        }
        _ if trimmed(line).first() == Some(&b'[') => {
            "it is one JSON array, not one object a line; convert it (`jq -c '.[]'`)"
        }
        _ if is_incremental(key, line) => {
            "it is an incremental export, a list of changes and not of items; export the table in \
             full (`--export-type FULL_EXPORT`)"
        }
        _ if format == Format::Plain && is_dynamodb(key, line) => {
            "its lines are DynamoDB JSON, and the source reads plain JSON; say `dynamodb_json`"
        }
        _ => return None,
    };
    Some(said.to_owned())
}

fn trimmed(line: &[u8]) -> &[u8] {
    line.trim_ascii_start()
}

/// Whether the line is a change of an incremental export, and not an item with such attributes.
fn is_incremental(key: &[KeyPart], line: &[u8]) -> bool {
    let Ok(members) = serde_json::from_slice::<HashMap<String, &RawValue>>(line) else {
        return false;
    };
    let is_change = |metadata: &&RawValue| metadata.get().contains("\"WriteTimestampMicros\"");
    members.get("Metadata").is_some_and(is_change)
        && members.contains_key("Keys")
        && !key.iter().any(|part| members.contains_key(&part.name))
}

/// Whether the line is an item of a table export, `{"Item":{"id":{"S":"7"}}}`, and not an item with
/// such an attribute.
fn is_dynamodb(key: &[KeyPart], line: &[u8]) -> bool {
    let Ok(members) = serde_json::from_slice::<HashMap<String, &RawValue>>(line) else {
        return false;
    };
    let item = match members.get("Item") {
        Some(item) if members.len() == 1 => serde_json::from_str(item.get()),
        _ => Ok(members),
    };
    let typed = |value: &&RawValue| {
        let value: Result<HashMap<String, String>, _> = serde_json::from_str(value.get());
        value.is_ok_and(|value| {
            value.len() == 1
                && value
                    .keys()
                    .all(|kind| ["S", "N", "B"].contains(&kind.as_str()))
        })
    };
    let item: HashMap<String, &RawValue> = item.unwrap_or_default();
    !key.is_empty()
        && key
            .iter()
            .all(|part| item.get(&part.name).is_some_and(typed))
}
