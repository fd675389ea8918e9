use std::fmt;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A set of shard ids with a compact text form: sorted, each id stored as its difference to the one
/// before it.
///
/// 100,000 ids of DynamoDB's form take about 1.8 MB of text instead of 4.2 MB. Any text can be an
/// id. Equal sets have equal texts, and only such texts are accepted when read. Clones share the
/// ids.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ShardIds(Arc<[Box<str>]>);

impl ShardIds {
    /// Whether `id` is in the set.
    pub fn contains(&self, id: &str) -> bool {
        self.0.binary_search_by(|known| (**known).cmp(id)).is_ok()
    }

    /// The ids, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|id| &**id)
    }

    /// The number of ids.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The set as text. Each id, in order, is written as `shared.length:rest`: it consists of the
    /// first `shared` bytes of the previous id, followed by the `length` bytes of `rest`.
    fn encode(&self) -> String {
        let (mut text, mut before) = (String::new(), "");
        for id in self.iter() {
            let shared = shared(before, id);
            let rest = &id[shared..];
            text.push_str(&format!("{shared}.{}:{rest}", rest.len()));
            before = id;
        }
        text
    }

    /// `None` for a text that [`encode`](Self::encode) does not write.
    fn decode(text: &str) -> Option<Self> {
        let (mut ids, mut left): (Vec<Box<str>>, _) = (Vec::new(), text);
        while !left.is_empty() {
            let (numbers, rest) = left.split_once(':')?;
            let (shared, length) = numbers.split_once('.')?;
            let (rest, next) = rest.split_at_checked(length.parse().ok()?)?;
            let before = ids.last().map_or("", |id| &**id);
            let id = format!("{}{rest}", before.get(..shared.parse().ok()?)?);
            ids.push(id.into());
            left = next;
        }
        let ids = Self(ids.into());
        let sorted = ids.0.windows(2).all(|pair| pair[0] < pair[1]);
        (sorted && ids.encode() == text).then_some(ids)
    }
}

/// The length in bytes of the longest common prefix, in whole characters.
fn shared(a: &str, b: &str) -> usize {
    let pairs = a.chars().zip(b.chars());
    let same = pairs.take_while(|(a, b)| a == b);
    same.map(|(char, _)| char.len_utf8()).sum()
}

impl<T: Into<Box<str>>> FromIterator<T> for ShardIds {
    fn from_iter<I: IntoIterator<Item = T>>(ids: I) -> Self {
        let mut ids: Vec<Box<str>> = ids.into_iter().map(Into::into).collect();
        ids.sort_unstable();
        ids.dedup();
        Self(ids.into())
    }
}

impl Serialize for ShardIds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.encode())
    }
}

impl<'de> Deserialize<'de> for ShardIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::decode(&text).ok_or_else(|| D::Error::custom("not a list of shard ids"))
    }
}

/// Shows only the number of ids, since there may be a hundred thousand.
impl fmt::Debug for ShardIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} shard ids", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_ids_survive_and_the_text_is_as_the_set_is(
            ids in prop::collection::vec("(shardId-000[0-9]{3}-[a-f]{2}|[a-cé:.0-9\"]{0,4}|\\PC{0,3})", 0..20),
            turn: prop::sample::Index,
        ) {
            let set: ShardIds = ids.iter().map(String::as_str).collect();
            prop_assert_eq!(ShardIds::decode(&set.encode()), Some(set.clone()));
            prop_assert!(ids.iter().all(|id| set.contains(id)));
            let mut turned = ids.clone();
            turned.rotate_left(turn.index(ids.len().max(1)) % ids.len().max(1));
            let turned: ShardIds = turned.into_iter().collect();
            prop_assert_eq!(turned.encode(), set.encode());
        }

        #[test]
        fn what_is_read_is_what_would_be_written(text in "([0-9]{0,2}\\.[0-9]:[a-c]{0,4}){0,4}") {
            if let Some(set) = ShardIds::decode(&text) {
                prop_assert_eq!(set.encode(), text);
            }
        }
    }

    #[test]
    fn ids_as_dynamodb_names_them_are_kept_small() {
        let id = |n: u64| {
            format!(
                "shardId-{:020}-{:08x}",
                1_414_562_045_508 + n * 864,
                n * 2_654_435_761 % 4_294_967_296
            )
        };
        let ids: ShardIds = (0..100_000).map(id).collect();
        let text = ids.encode();
        assert!(text.len() < 2_100_000, "{}", text.len());
        assert_eq!(ShardIds::decode(&text), Some(ids));
    }
}
