//! The names of all attributes, and how the shared ones are read.
//!
//! `pk`, `sk`, `v`, `ttl` and `ver` have the same meaning as in the Go original, so that both can
//! work on one table. All others are specific to this implementation.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use murmur_state::error::Place;
use murmur_state::{Key, StoreError};

/// A row in the form of requests and answers.
pub(crate) type Item = HashMap<String, AttributeValue>;

/// The size limit of an item in bytes (Amazon DynamoDB Developer Guide, quotas).
pub(crate) const ITEM_LIMIT: usize = 400 * 1024;

/// Partition key, S: the entity of a state row, the id of a marker row.
pub(crate) const PK: &str = "pk";
/// Sort key of state rows, N: the time bucket, 0 without a window.
pub(crate) const SK: &str = "sk";
/// The value of a state row: N for integers, B for encoded values.
pub(crate) const V: &str = "v";
/// When the row may be removed, N: seconds since the epoch. A reserved word: always an alias.
pub(crate) const TTL: &str = "ttl";
/// How often a compare-and-swap row was written, N; the version of a checkpoint.
pub(crate) const VER: &str = "ver";
/// The last writer of a compare-and-swap row, B: 16 random bytes of one merge, by which a writer
/// whose answer was lost recognises its own write. In the main row of a checkpoint, S: the name of
/// its parts.
pub(crate) const TOK: &str = "tok";
/// The owner of a claim, S. Markers of the Go original have none.
pub(crate) const OWN: &str = "own";
/// In a control row: the ARN of the stream, S. A reserved word: always an alias.
pub(crate) const STREAM: &str = "stream";
/// In a control row: the region in which the pipeline writes, S. A reserved word: always an alias.
pub(crate) const REGION: &str = "region";
/// In a control row: what determines the content of the rows, S. A reserved word: always an alias.
pub(crate) const DEFINITION: &str = "definition";
/// The text of a checkpoint, S. A reserved word: always an alias.
pub(crate) const DATA: &str = "data";
/// In the main row of a checkpoint whose text is in parts: the number of parts, N.
pub(crate) const PARTS: &str = "parts";
/// In the same row: the SHA-256 of the whole text, S.
pub(crate) const SUM: &str = "sum";

// Reserved for the exact modes. The modes without ids refuse a state row that has any of them; see
// `NO_TRACES`.

/// Exactly-once: the newest events the row has taken, BS.
pub(crate) const CUR: &str = "cur";
/// Exactly-once: the events before those in `cur`, BS.
pub(crate) const PREV: &str = "prev";
/// Exactly-once: how often `cur` became `prev`, N.
pub(crate) const PER: &str = "per";
/// Exactly-once: how far the row's pages reach, M: for each level the last second of creation in
/// them.
pub(crate) const TOPS: &str = "tops";
/// Exactly-once: the events in a page, BS.
pub(crate) const IDS: &str = "ids";
/// In rows of an earlier layout, which are refused because their ids are elsewhere.
pub(crate) const HOT: &str = "hot";
/// Ledger: the row is a sum of contributions that a ledger keeps.
pub(crate) const LED: &str = "led";

/// The condition under which a mode without ids may write a row.
pub(crate) const NO_TRACES: &str = "attribute_not_exists(cur) AND attribute_not_exists(prev) \
     AND attribute_not_exists(per) AND attribute_not_exists(led)";

/// Refuses a row that an exact mode has written.
pub(crate) fn no_traces(place: &Place, row: &Item) -> Result<(), StoreError> {
    let carries = |names: &[&str]| names.iter().any(|name| row.contains_key(*name));
    let found = if carries(&[LED]) {
        "ledger"
    } else if carries(&[CUR, PREV, PER]) {
        "exactly-once"
    } else {
        return Ok(());
    };
    let wanted = "a mode without ids (at-least-once or claim-first)";
    Err(StoreError::OtherMode {
        place: place.clone(),
        found,
        wanted,
    })
}

/// The key of a state row.
pub(crate) fn row_key(key: &Key) -> Item {
    HashMap::from([
        (PK.to_owned(), AttributeValue::S(key.entity().to_owned())),
        (SK.to_owned(), number(key.bucket())),
    ])
}

/// A number as a DynamoDB attribute value.
pub(crate) fn number(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// The integer in `attribute`, which must fit in `T`.
pub(crate) fn integer<T: std::str::FromStr>(
    place: &Place,
    row: &Item,
    attribute: &'static str,
    expected: &'static str,
) -> Result<T, StoreError> {
    match row.get(attribute) {
        Some(AttributeValue::N(digits)) => digits.parse().ok(),
        _ => None,
    }
    .ok_or_else(|| wrong_shape(place, row, attribute, expected))
}

/// The text in `attribute`.
pub(crate) fn text<'a>(
    place: &Place,
    row: &'a Item,
    attribute: &'static str,
    expected: &'static str,
) -> Result<&'a str, StoreError> {
    match row.get(attribute) {
        Some(AttributeValue::S(text)) => Ok(text),
        _ => Err(wrong_shape(place, row, attribute, expected)),
    }
}

/// The error for an attribute of the wrong type or content.
pub(crate) fn wrong_shape(
    place: &Place,
    row: &Item,
    attribute: &'static str,
    expected: &'static str,
) -> StoreError {
    let found = match row.get(attribute) {
        None => "missing".to_owned(),
        Some(AttributeValue::N(digits)) => format!("the number {digits}"),
        Some(other) => format!("of type {}", type_name(other)),
    };
    StoreError::WrongShape {
        place: place.clone(),
        attribute,
        found,
        expected,
        source: None,
    }
}

fn type_name(value: &AttributeValue) -> &'static str {
    match value {
        AttributeValue::S(_) => "S",
        AttributeValue::N(_) => "N",
        AttributeValue::B(_) => "B",
        AttributeValue::Ss(_) => "SS",
        AttributeValue::Ns(_) => "NS",
        AttributeValue::Bs(_) => "BS",
        AttributeValue::M(_) => "M",
        AttributeValue::L(_) => "L",
        AttributeValue::Bool(_) => "BOOL",
        AttributeValue::Null(_) => "NULL",
        _ => "unknown",
    }
}
