use std::hash::{DefaultHasher, Hash, Hasher};

use serde_dynamo::{AttributeValue, Item};

/// The same for every change of an item, whatever the order of its key's attributes.
pub(crate) fn key_hash(keys: &Item) -> u64 {
    let mut keys: Vec<_> = keys.iter().collect();
    keys.sort_unstable_by_key(|(name, _)| *name);
    let mut hasher = DefaultHasher::new();
    for (name, value) in keys {
        name.hash(&mut hasher);
        match value {
            AttributeValue::S(text) => (0, text).hash(&mut hasher),
            AttributeValue::N(number) => (1, number).hash(&mut hasher),
            AttributeValue::B(bytes) => (2, bytes).hash(&mut hasher),
            // No other type can be a key.
            _ => {}
        }
    }
    hasher.finish()
}
