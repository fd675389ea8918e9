//! The items that a request reads or writes, and their sizes.

use dynoxide::Item;
use dynoxide::types::{item_size, normalize_dynamo_number};
use serde::Deserialize;
use serde_json::{Map, Value};

/// One item of a request.
#[derive(Debug, Clone)]
pub(super) struct Touch {
    pub(super) table: String,
    /// The key attributes.
    pub(super) key: Map<String, Value>,
    /// The whole item that a Put leaves.
    pub(super) put: Option<Value>,
}

impl Touch {
    /// An id of the item. It is the same for equal items, even if their numbers are written
    /// differently.
    pub(super) fn id(&self) -> String {
        let mut id = self.table.clone();
        for (name, value) in &self.key {
            let (kind, value) = value
                .as_object()
                .and_then(|value| value.iter().next())
                .map(|(kind, value)| (kind.as_str(), value.as_str().unwrap_or_default()))
                .unwrap_or_default();
            for part in [name.as_str(), kind] {
                id.push('\u{0}');
                id.push_str(part);
            }
            id.push('\u{0}');
            match kind {
                "N" => id.push_str(&normalize_dynamo_number(value)),
                _ => id.push_str(value),
            }
        }
        id
    }

    /// Whether `item` is this item.
    pub(super) fn is(&self, item: &Value) -> bool {
        let same = |(name, value): (&String, &Value)| {
            let numbers = (value["N"].as_str(), item[name]["N"].as_str());
            match numbers {
                (Some(one), Some(other)) => {
                    normalize_dynamo_number(one) == normalize_dynamo_number(other)
                }
                _ => item.get(name) == Some(value),
            }
        };
        self.key.iter().all(same)
    }

    /// The size of the item that a Put leaves, otherwise 0.
    pub(super) fn put_size(&self) -> usize {
        self.put.as_ref().map_or(0, size)
    }
}

/// The size of an item by DynamoDB's rules; 0 if the value is no item.
pub(super) fn size(item: &Value) -> usize {
    Item::deserialize(item).map_or(0, |item| item_size(&item))
}

/// The items of a request, in its order. `key_names` looks up the key attributes of a table; only a
/// Put needs it. Empty for requests that address no single items.
pub(super) fn touched(
    operation: &str,
    body: &Value,
    mut key_names: impl FnMut(&str) -> Vec<String>,
) -> Vec<Touch> {
    let mut one = |table: &str, part: &Value| {
        let put = part.get("Item").filter(|item| item.is_object());
        let key = match put {
            Some(item) => key_names(table)
                .into_iter()
                .filter_map(|name| item.get(&name).map(|value| (name, value.clone())))
                .collect(),
            None => part["Key"].as_object().cloned().unwrap_or_default(),
        };
        Touch {
            table: table.to_owned(),
            key,
            put: put.cloned(),
        }
    };
    let table_of = |part: &Value| part["TableName"].as_str().unwrap_or_default().to_owned();
    match operation {
        "DeleteItem" | "GetItem" | "PutItem" | "UpdateItem" => vec![one(&table_of(body), body)],
        "TransactGetItems" | "TransactWriteItems" => list(&body["TransactItems"])
            .filter_map(|action| action.as_object()?.values().find(|part| part.is_object()))
            .map(|part| one(&table_of(part), part))
            .collect(),
        "BatchWriteItem" => tables(body)
            .flat_map(|(table, requests)| list(requests).map(move |request| (table, request)))
            .filter_map(|(table, request)| {
                Some((
                    table,
                    request
                        .as_object()?
                        .values()
                        .find(|part| part.is_object())?,
                ))
            })
            .map(|(table, part)| one(table, part))
            .collect(),
        _ => Vec::new(),
    }
}

/// The tables a request puts whole items into.
pub(super) fn put_into(operation: &str, body: &Value) -> Vec<String> {
    let of = |part: &Value| part["TableName"].as_str().map(str::to_owned);
    match operation {
        "PutItem" => of(body).into_iter().collect(),
        "TransactWriteItems" => list(&body["TransactItems"])
            .filter_map(|action| of(&action["Put"]))
            .collect(),
        "BatchWriteItem" => tables(body).map(|(table, _)| table.to_owned()).collect(),
        _ => Vec::new(),
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn tables(body: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let tables = body["RequestItems"].as_object();
    tables
        .into_iter()
        .flatten()
        .map(|(table, part)| (table.as_str(), part))
}
