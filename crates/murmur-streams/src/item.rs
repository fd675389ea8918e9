//! Decides which items are the same.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::mem;

use serde_dynamo::{AttributeValue, Item};

/// The hash of an item's primary key. It is the same for equal keys for the life of the process.
pub(crate) fn key_hash(keys: &Item) -> u64 {
    // A sum does not depend on the order.
    keys.iter().map(attribute_hash).fold(0, u64::wrapping_add)
}

fn attribute_hash((name, value): (&String, &AttributeValue)) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    mem::discriminant(value).hash(&mut hasher);
    match value {
        AttributeValue::S(text) | AttributeValue::N(text) => text.hash(&mut hasher),
        AttributeValue::B(bytes) => bytes.hash(&mut hasher),
        // DynamoDB has no keys of other types. Equal ones still have the same hash.
        _ => {}
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn key(attributes: impl IntoIterator<Item = (&'static str, AttributeValue)>) -> Item {
        let attributes = attributes.into_iter();
        let attributes: HashMap<String, AttributeValue> = attributes
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        attributes.into()
    }

    #[test]
    fn a_hash_depends_on_names_types_and_values_and_on_no_order() {
        let s = |text: &str| AttributeValue::S(text.to_owned());
        let forwards = || ["a", "b", "c", "d", "e"].map(|name| (name, s(name)));
        let mut backwards = forwards();
        backwards.reverse();
        // Each map of the standard library has its own order.
        for _ in 0..20 {
            assert_eq!(
                key_hash(&key(forwards())),
                key_hash(&key(backwards.clone()))
            );
        }
        let others = [
            key([("id", s("1"))]),
            key([("id", AttributeValue::N("1".to_owned()))]),
            key([("id", AttributeValue::B(b"1".to_vec()))]),
            key([("id", s("2"))]),
            key([("di", s("1"))]),
            key([("id", s("1")), ("at", s(""))]),
            key([("id", AttributeValue::Bool(true))]),
            key([("id", AttributeValue::Null(true))]),
            key([]),
        ];
        for (at, one) in others.iter().enumerate() {
            for other in &others[..at] {
                assert_ne!(key_hash(one), key_hash(other), "{one:?} {other:?}");
            }
        }
    }
}
