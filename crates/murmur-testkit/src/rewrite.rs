//! Changes requests on their way, to leave out a rule that the product has no switch for.

use serde_json::{Map, Value};

/// Whether an expression of a write contains `text`.
pub(crate) fn mentions(part: &Map<String, Value>, expression: &str, text: &str) -> bool {
    let found = part.get(expression).and_then(Value::as_str);
    found.is_some_and(|found| found.contains(text))
}

/// Replaces text in an expression of a write.
pub(crate) fn replace(part: &mut Map<String, Value>, expression: &str, from: &str, to: &str) {
    if let Some(Value::String(text)) = part.get_mut(expression) {
        *text = text.replace(from, to);
    }
}

/// The writes of a request: the request itself, or the actions of a transaction.
pub(crate) fn parts(body: &Value) -> impl Iterator<Item = &Value> {
    let actions = body["TransactItems"].as_array();
    let of_transaction = actions
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .flat_map(Map::values);
    let alone = body.get("TableName").is_some().then_some(body);
    of_transaction.chain(alone)
}

/// The writes of a request, mutably.
pub(crate) fn parts_mut(body: &mut Value) -> Vec<&mut Map<String, Value>> {
    if body.get("TransactItems").is_none() {
        return body.as_object_mut().into_iter().collect();
    }
    let actions = body["TransactItems"].as_array_mut();
    actions
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
        .flat_map(Map::values_mut)
        .filter_map(Value::as_object_mut)
        .collect()
}
