//! From one line to one row.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use murmur_core::{AttributeValue, Item, Row, item_id};
use serde_json::value::RawValue;

use crate::source::BadRow;

/// Bytes of the longest line that is parsed. An item has at most 400 KB (Amazon DynamoDB Developer
/// Guide, "Quotas"). The limit leaves room for JSON and for rows of other origin, and stops a file
/// without line ends from filling the memory.
pub(super) const MAX_LINE: usize = 16 * 1024 * 1024;

/// The deepest nesting that is parsed; DynamoDB allows 32 levels.
const MAX_DEPTH: usize = 128;

/// The type of a key attribute in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// A string (S).
    String,
    /// A number (N).
    Number,
    /// Binary (B).
    Binary,
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::String => "a string",
            Self::Number => "a number",
            Self::Binary => "binary",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Plain,
    DynamoDb,
}

/// An attribute of the primary key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyPart {
    pub(super) name: String,
    /// Its type in the table, if given.
    pub(super) kind: Option<KeyType>,
}

impl fmt::Display for KeyPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            None => f.write_str(&self.name),
            Some(kind) => write!(f, "{} ({kind})", self.name),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum LineError {
    #[error("the line is not an object of plain JSON")]
    Plain(#[source] serde_json::Error),
    #[error("the line is not an item in DynamoDB JSON, such as `{{\"id\":{{\"S\":\"7\"}}}}`")]
    DynamoDb(#[source] serde_json::Error),
    #[error("the line is longer than 16 MiB")]
    TooLong,
    #[error("the line is nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("the row has no attribute `{0}`, which is named as a key")]
    NoKey(String),
    #[error("the row's attribute `{0}`, named as a key, is not a string, number or binary")]
    KeyType(String),
    #[error("the row's attribute `{0}`, named as a key, is not {1}, as it is in the table")]
    OtherKeyType(String, KeyType),
    #[error("the row's attribute `{0}`, named as a binary key, is not base64")]
    Base64(String, #[source] serde_json::Error),
}

/// The row on line number `number`; `None` if the line is blank.
pub(super) fn row(
    format: Format,
    key: &[KeyPart],
    number: u64,
    line: &[u8],
) -> Option<Result<Row, BadRow>> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return None;
    }
    let bad = |item, error: LineError| BadRow {
        id: format!("line {number}"),
        item,
        error: Arc::new(error),
    };
    let item = match format {
        _ if line.len() > MAX_LINE => Err(LineError::TooLong),
        Format::Plain => plain_item(line),
        Format::DynamoDb => dynamodb_item(key, line),
    };
    Some(match item {
        Err(error) => Err(bad(Item::default(), error)),
        Ok(mut item) => match keys(format, key, &mut item) {
            Err(error) => Err(bad(item, error)),
            Ok(keys) => {
                let item_id = item_id(&keys);
                Ok(Row {
                    event_id: item_id.scan_event().as_str().to_owned(),
                    item_id,
                    item,
                })
            }
        },
    })
}

/// The key of `item`, with the attribute types of the table.
fn keys(format: Format, key: &[KeyPart], item: &mut Item) -> Result<Item, LineError> {
    let mut keys = HashMap::with_capacity(key.len());
    for KeyPart { name, kind } in key {
        let Some(value) = item.get_mut(name) else {
            return Err(LineError::NoKey(name.clone()));
        };
        if let (Format::Plain, Some(KeyType::Binary), AttributeValue::S(text)) =
            (format, kind, &*value)
        {
            let binary = serde_json::json!({ "B": text });
            *value = serde_json::from_value(binary)
                .map_err(|error| LineError::Base64(name.clone(), error))?;
        }
        let found = match value {
            AttributeValue::S(_) => KeyType::String,
            AttributeValue::N(_) => KeyType::Number,
            AttributeValue::B(_) => KeyType::Binary,
            _ => return Err(LineError::KeyType(name.clone())),
        };
        match kind {
            Some(kind) if *kind != found => {
                return Err(LineError::OtherKeyType(name.clone(), *kind));
            }
            _ => keys.insert(name.clone(), value.clone()),
        };
    }
    Ok(keys.into())
}

fn dynamodb_item(key: &[KeyPart], line: &[u8]) -> Result<Item, LineError> {
    let members: HashMap<String, &RawValue> =
        serde_json::from_slice(line).map_err(LineError::DynamoDb)?;
    let item = match members.get("Item") {
        // An item whose key is called `Item` is bare.
        Some(inner) if members.len() == 1 && !key.iter().any(|part| part.name == "Item") => {
            serde_json::from_str(inner.get())
        }
        _ => serde_json::from_slice(line),
    };
    item.map_err(LineError::DynamoDb)
}

fn plain_item(line: &[u8]) -> Result<Item, LineError> {
    let members = serde_json::from_slice(line).map_err(LineError::Plain)?;
    Ok(plain_members(members, 1)?.into())
}

fn plain_members(
    members: HashMap<String, &RawValue>,
    depth: usize,
) -> Result<HashMap<String, AttributeValue>, LineError> {
    let value = |(name, value): (_, &RawValue)| Ok((name, plain(value.get(), depth)?));
    members.into_iter().map(value).collect()
}

/// Converts the text of a JSON value, which is known to be valid. Numbers keep their text: a
/// conversion to float would change `12.34` and integers over 2⁵³.
fn plain(text: &str, depth: usize) -> Result<AttributeValue, LineError> {
    if depth >= MAX_DEPTH {
        return Err(LineError::TooDeep);
    }
    let parsed = |error| LineError::Plain(error);
    Ok(match text.as_bytes().first() {
        Some(b'{') => {
            let members = serde_json::from_str(text).map_err(parsed)?;
            AttributeValue::M(plain_members(members, depth + 1)?)
        }
        Some(b'[') => {
            let values: Vec<&RawValue> = serde_json::from_str(text).map_err(parsed)?;
            let values = values
                .into_iter()
                .map(|value| plain(value.get(), depth + 1));
            AttributeValue::L(values.collect::<Result<_, _>>()?)
        }
        Some(b'"') => AttributeValue::S(serde_json::from_str(text).map_err(parsed)?),
        Some(b't') => AttributeValue::Bool(true),
        Some(b'f') => AttributeValue::Bool(false),
        Some(b'n') => AttributeValue::Null(true),
        _ => AttributeValue::N(text.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutations::Mutations;
    use murmur_state::Causes;

    fn part(name: &str, kind: Option<KeyType>) -> KeyPart {
        KeyPart {
            name: name.to_owned(),
            kind,
        }
    }

    fn parse(format: Format, key: &str, line: &str) -> Result<Row, String> {
        row(format, &[part(key, None)], 7, line.as_bytes())
            .unwrap()
            .map_err(|bad| {
                assert_eq!(bad.id, "line 7");
                Causes(&*bad.error).to_string()
            })
    }

    #[test]
    fn plain_numbers_are_kept_digit_for_digit() {
        for number in [
            "9007199254740993",
            "12.34",
            "-0.10",
            "1e400",
            "123456789012345678901234567890",
        ] {
            let line = format!(r#"{{"id": 1, "deep": [{{"n": {number} }}]}}"#);
            let row = parse(Format::Plain, "id", &line).unwrap();
            let n = AttributeValue::N(number.to_owned());
            let deep = AttributeValue::L(vec![AttributeValue::M([("n".to_owned(), n)].into())]);
            assert_eq!(row.item["deep"], deep);
        }
    }

    #[test]
    fn every_plain_kind_has_its_attribute_kind() {
        let row = parse(
            Format::Plain,
            "id",
            r#" {"id":"a\"b","yes":true,"no":false,"none":null,"list":[1,"x",[]],"map":{}} "#,
        )
        .unwrap();
        assert_eq!(row.item["id"], AttributeValue::S("a\"b".into()));
        assert_eq!(row.item["yes"], AttributeValue::Bool(true));
        assert_eq!(row.item["no"], AttributeValue::Bool(false));
        assert_eq!(row.item["none"], AttributeValue::Null(true));
        let one = AttributeValue::N("1".into());
        let list = vec![
            one,
            AttributeValue::S("x".into()),
            AttributeValue::L(vec![]),
        ];
        assert_eq!(row.item["list"], AttributeValue::L(list));
        assert_eq!(row.item["map"], AttributeValue::M(HashMap::new()));
    }

    #[test]
    fn ids_are_those_of_the_item_in_a_scan() {
        let plain = parse(Format::Plain, "id", r#"{"id":"7","x":1}"#).unwrap();
        let bare = parse(Format::DynamoDb, "id", r#"{"id":{"S":"7"}}"#).unwrap();
        let wrapped = parse(Format::DynamoDb, "id", r#"{"Item":{"id":{"S":"7"}}}"#).unwrap();
        let keys = Item::from(HashMap::from([(
            "id".to_owned(),
            AttributeValue::S("7".into()),
        )]));
        for row in [plain, bare, wrapped] {
            assert_eq!(row.item_id, item_id(&keys));
            assert_eq!(row.event_id, item_id(&keys).scan_event().as_str());
        }
    }

    #[test]
    fn dynamodb_json_has_all_ten_forms() {
        let line = r#"{"id":{"B":"AQI="},"n":{"N":"9007199254740993.10"},"b":{"BOOL":true},
            "z":{"NULL":true},"m":{"M":{"x":{"S":"y"}}},"l":{"L":[{"N":"1"}]},"ss":{"SS":["a"]},
            "ns":{"NS":["1.0"]},"bs":{"BS":["AQ=="]},"s":{"S":"t"}}"#;
        let row = parse(Format::DynamoDb, "id", line).unwrap();
        assert_eq!(row.item["id"], AttributeValue::B(vec![1, 2]));
        assert_eq!(
            row.item["n"],
            AttributeValue::N("9007199254740993.10".into())
        );
        assert_eq!(row.item["ns"], AttributeValue::Ns(vec!["1.0".into()]));
        assert_eq!(row.item["bs"], AttributeValue::Bs(vec![vec![1]]));
        assert_eq!(row.item.len(), 10);
    }

    #[test]
    fn an_item_with_a_key_called_item_is_not_unwrapped() {
        let row = parse(Format::DynamoDb, "Item", r#"{"Item":{"S":"7"}}"#).unwrap();
        assert_eq!(row.item["Item"], AttributeValue::S("7".into()));
        // Beside other attributes it is one of them.
        let row = parse(
            Format::DynamoDb,
            "id",
            r#"{"id":{"S":"7"},"Item":{"S":"x"}}"#,
        )
        .unwrap();
        assert_eq!(row.item["Item"], AttributeValue::S("x".into()));
    }

    #[test]
    fn what_is_wrong_with_a_line_is_said() {
        let cases = [
            (Format::Plain, "{", "not an object of plain JSON: EOF"),
            (Format::Plain, "[1]", "not an object of plain JSON"),
            (Format::Plain, r#"{"id":1} x"#, "trailing characters"),
            (Format::Plain, r#"{"id":01}"#, "not an object of plain JSON"),
            (Format::Plain, r#"{"id":"\ud800"}"#, "hex escape"),
            (Format::Plain, r#"{"x":1}"#, "no attribute `id`"),
            (
                Format::Plain,
                r#"{"id":true}"#,
                "`id`, named as a key, is not a string",
            ),
            (
                Format::DynamoDb,
                r#"{"id":"7"}"#,
                "not an item in DynamoDB JSON",
            ),
            (
                Format::DynamoDb,
                r#"{"id":{"X":"7"}}"#,
                "'X' is not a known",
            ),
            (
                Format::DynamoDb,
                r#"{"Item":{"id":"7"}}"#,
                "not an item in DynamoDB JSON",
            ),
            (Format::DynamoDb, r#"{"id":{"B":"?"}}"#, "base64"),
        ];
        for (format, line, wanted) in cases {
            let said = parse(format, "id", line).unwrap_err();
            assert!(said.contains(wanted), "{line}: {said}");
        }
        let invalid = row(Format::Plain, &[part("id", None)], 7, b"{\"id\":\"\xff\"}");
        assert!(invalid.unwrap().is_err());
    }

    #[test]
    fn endless_nesting_is_an_error_not_an_overflow() {
        let deep = format!(
            r#"{{"id":1,"x":{}1{}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert!(
            parse(Format::Plain, "id", &deep)
                .unwrap_err()
                .contains("128 levels")
        );
        let deep = format!(r#"{{"id":{}}}"#, r#"{"M":{"x":"#.repeat(100_000));
        assert!(parse(Format::DynamoDb, "id", &deep).is_err());
    }

    #[test]
    fn a_line_that_is_too_long_is_said_to_be() {
        let long = vec![b'x'; MAX_LINE + 1];
        let bad = row(Format::Plain, &[part("id", None)], 1, &long)
            .unwrap()
            .unwrap_err();
        assert!(
            bad.error.to_string().contains("longer than"),
            "{}",
            bad.error
        );
    }

    #[test]
    fn a_key_has_the_type_that_it_has_in_the_table() {
        let parse = |format, kind, line: &str| {
            let parsed = row(format, &[part("id", Some(kind))], 7, line.as_bytes()).unwrap();
            parsed.map_err(|bad| Causes(&*bad.error).to_string())
        };
        let plain = parse(Format::Plain, KeyType::Binary, r#"{"id":"AQI="}"#).unwrap();
        let typed = parse(Format::DynamoDb, KeyType::Binary, r#"{"id":{"B":"AQI="}}"#).unwrap();
        assert_eq!(plain.item["id"], AttributeValue::B(vec![1, 2]));
        assert_eq!(plain.item_id, typed.item_id);
        let keys = HashMap::from([("id".to_owned(), AttributeValue::B(vec![1, 2]))]);
        assert_eq!(plain.item_id, item_id(&keys.into()));
        for (format, kind, line, wanted) in [
            (
                Format::Plain,
                KeyType::Binary,
                r#"{"id":"?"}"#,
                "not base64",
            ),
            (
                Format::Plain,
                KeyType::Binary,
                r#"{"id":7}"#,
                "is not binary",
            ),
            (
                Format::Plain,
                KeyType::Number,
                r#"{"id":"7"}"#,
                "not a number",
            ),
            (
                Format::Plain,
                KeyType::String,
                r#"{"id":7}"#,
                "not a string",
            ),
            (
                Format::DynamoDb,
                KeyType::Binary,
                r#"{"id":{"S":"AQI="}}"#,
                "is not binary",
            ),
        ] {
            let said = parse(format, kind, line).unwrap_err();
            assert!(said.contains(wanted), "{line}: {said}");
        }
    }

    /// A JSON value with numbers as their text, to compare what was read with what is there.
    fn told(value: &AttributeValue) -> serde_json::Value {
        match value {
            AttributeValue::N(number) => serde_json::from_str(number).unwrap(),
            AttributeValue::S(text) => text.as_str().into(),
            AttributeValue::Bool(is) => (*is).into(),
            AttributeValue::Null(_) => serde_json::Value::Null,
            AttributeValue::L(list) => list.iter().map(told).collect(),
            AttributeValue::M(map) => map
                .iter()
                .map(|(name, value)| (name.clone(), told(value)))
                .collect(),
            value => panic!("plain JSON has no {value:?}"),
        }
    }

    #[test]
    fn a_hundred_thousand_mutated_lines_are_bad_or_say_what_they_say() {
        let lines = [
            r#"{"id":"o-1","n":12.34,"deep":[{"x":null,"y":[true,false]},"\u00e9"],"m":{}}"#,
            r#"{"Item":{"id":{"S":"o-1"},"n":{"N":"12.34"},"b":{"B":"AQI="},"l":{"L":[{"BOOL":true}]}}}"#,
        ];
        let random = Mutations::seeded(11);
        let (mut good, mut bad) = (0, 0);
        for round in 0..50_000 {
            for (format, line) in [(Format::Plain, lines[0]), (Format::DynamoDb, lines[1])] {
                let mutated = match round % 10 {
                    0 => random.bytes(),
                    _ => random.mutated(line.as_bytes()),
                };
                let key = [part("id", None)];
                match row(format, &key, 1, &mutated) {
                    None => {}
                    Some(Err(_)) => bad += 1,
                    Some(Ok(row)) => {
                        good += 1;
                        assert!(row.item.contains_key("id"));
                        if format == Format::Plain {
                            let item: HashMap<_, _> = row.item.into();
                            let text: serde_json::Value = serde_json::from_slice(&mutated).unwrap();
                            assert_eq!(told(&AttributeValue::M(item)), text);
                        } else {
                            let text: serde_json::Value = serde_json::from_slice(&mutated).unwrap();
                            let item = text.get("Item").filter(|_| row.item.get("Item").is_none());
                            let inner = item.unwrap_or(&text).as_object().unwrap();
                            assert_eq!(row.item.len(), inner.len());
                        }
                    }
                }
                let _ = crate::jsonl::form::foreign(format, &key, &mutated);
            }
        }
        assert!(good > 3_000 && bad > 30_000, "{good} {bad}");
    }
}
