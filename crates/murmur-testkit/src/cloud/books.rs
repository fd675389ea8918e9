//! The cost of a request, as reported by the server.

use serde_json::Value;

use super::count::Usage;
use super::items;
use super::sent::{is_plain_write, is_transaction};
use super::server::{Answer, take};

/// What is requested from the server in addition to the client's request, to learn its cost.
pub(super) struct Books {
    operation: String,
    /// The client did not ask for the capacity, so it is removed from the answer.
    hide_capacity: bool,
    hide_item: bool,
}

impl Books {
    pub(super) fn keeps(operation: &str) -> bool {
        is_plain_write(operation)
            || is_transaction(operation)
            || ["BatchGetItem", "GetItem", "Query", "Scan"].contains(&operation)
    }

    pub(super) fn open(operation: &str, body: &mut Value) -> Self {
        let mut ask = |field: &str, wanted: &str| {
            let hide = !body[field].is_string() || body[field] == "NONE";
            if hide && let Some(body) = body.as_object_mut() {
                body.insert(field.into(), wanted.into());
            }
            hide
        };
        let hide_capacity = ask("ReturnConsumedCapacity", "TOTAL");
        let conditional = ["DeleteItem", "PutItem", "UpdateItem"].contains(&operation);
        let hide_item = conditional && ask("ReturnValuesOnConditionCheckFailure", "ALL_OLD");
        Self {
            operation: operation.to_owned(),
            hide_capacity,
            hide_item,
        }
    }

    pub(super) fn close(self, answer: &mut Answer, usage: &mut Usage, real: bool) {
        if answer.code() == "ConditionalCheckFailedException" {
            usage.refused += per(items::size(&answer.body["Item"]), 1024);
            if self.hide_item {
                take(&mut answer.body, "Item");
            }
            return;
        }
        if !answer.is_ok() {
            return;
        }
        let units = capacity(&answer.body["ConsumedCapacity"]);
        if is_plain_write(&self.operation) {
            usage.plain += units;
        } else if self.operation != "TransactWriteItems" {
            usage.read += units;
        } else if !real {
            usage.transactional += units;
        }
        if self.hide_capacity {
            take(&mut answer.body, "ConsumedCapacity");
        }
    }
}

/// The units in a `ConsumedCapacity`, of one table or several.
fn capacity(consumed: &Value) -> f64 {
    match consumed {
        Value::Array(tables) => tables.iter().map(capacity).sum(),
        table => table["CapacityUnits"].as_f64().unwrap_or(0.0),
    }
}

/// Units for `size` bytes at `step` bytes each, at least 1.
pub(super) fn per(size: usize, step: usize) -> f64 {
    size.div_ceil(step).max(1) as f64
}
