//! Converts the SDK's attribute values to Murmur's.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use murmur_core::Item;

pub(crate) type Attributes = HashMap<String, AttributeValue>;

/// Why a scanned item cannot be read as a row.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowError {
    #[error("attribute `{0}` is of a kind that this release does not know; a newer one may")]
    UnknownKind(String),
    #[error("the item has no attribute `{0}`, which the table's key schema names")]
    NoKey(String),
}

/// The item of `attributes`. The conversion panics on unknown kinds, so it looks for those first.
pub(crate) fn item(attributes: Attributes) -> Result<Item, RowError> {
    match attributes.iter().find(|(_, value)| !is_known(value)) {
        Some((name, _)) => Err(RowError::UnknownKind(name.clone())),
        None => Ok(attributes.into()),
    }
}

fn is_known(value: &AttributeValue) -> bool {
    match value {
        AttributeValue::L(values) => values.iter().all(is_known),
        AttributeValue::M(values) => values.values().all(is_known),
        other => !other.is_unknown(),
    }
}
