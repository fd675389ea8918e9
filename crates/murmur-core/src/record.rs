use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use murmur_state::handler::UNREADABLE;
use murmur_state::store::Position;
use murmur_state::{ItemId, SequenceNumber, Timestamp};
use serde_dynamo::{AttributeValue, Item};
use smallvec::SmallVec;

/// The input of a pipeline: a row found by a scan, or a change from a stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// A row of the table as a scan found it.
    Scanned(Row),
    /// A change of an item.
    Changed(Change),
}

/// A row of the table as a scan found it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Identifies the row in every run; made from the primary key.
    pub event_id: String,
    /// The item's name, the same in scan and stream ([`item_id`]).
    pub item_id: ItemId,
    /// The row's attributes.
    pub item: Item,
}

/// A change of an item, as a DynamoDB stream reports it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Change {
    /// The stream's `eventID`, unique in the whole stream.
    pub event_id: String,
    /// What happened.
    pub event: EventName,
    /// The item's primary key.
    pub keys: Item,
    /// The item after the change, if there is one and the stream carries new images.
    pub new_image: Option<Item>,
    /// The item before the change, if there was one and the stream carries old images. If a MODIFY
    /// carries an empty one, the item did not exist before.
    pub old_image: Option<Item>,
    /// The images that the record carries but its source could not read, each with the reason. Such
    /// an image is `None` above. Where the image is needed its side is rejected, and the other side
    /// counts.
    pub unreadable_images: Vec<(Side, String)>,
    /// The record's place in the order of its item's changes.
    pub sequence_number: Option<SequenceNumber>,
    /// When the change was made, rounded down to the second; `None` if the stream does not say. An
    /// impossible time counts as `None` ([`Record::created`]).
    pub created: Option<Timestamp>,
    /// Whether the stream says that DynamoDB's Time to Live removed the item, not a user
    /// ([`Definition::keep_expired_items`](crate::Definition::keep_expired_items)).
    pub expired: bool,
    /// The ARN of the stream.
    pub stream_arn: Option<String>,
}

/// What happened to an item.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum EventName {
    /// The item did not exist before.
    #[default]
    Insert,
    /// The item existed before and exists now.
    Modify,
    /// The item no longer exists.
    Remove,
    /// An event name that this release does not know; such a record is rejected.
    Other(String),
    /// The source could not read the record, for this reason. The record is rejected; its other
    /// fields hold what could be read.
    Unreadable(String),
}

impl From<&str> for EventName {
    fn from(name: &str) -> Self {
        match name {
            "INSERT" => Self::Insert,
            "MODIFY" => Self::Modify,
            "REMOVE" => Self::Remove,
            other => match other.strip_prefix(UNREADABLE) {
                Some(reason) => Self::Unreadable(reason.to_owned()),
                None => Self::Other(other.to_owned()),
            },
        }
    }
}

/// How far two clocks may differ before a creation time is not believed.
const CLOCKS: Duration = Duration::from_secs(45 * 60);

/// The first time that cannot be in seconds: the year 5138. Read as milliseconds it is in 1973.
const NOT_IN_SECONDS: Timestamp = Timestamp::from_secs(100_000_000_000);

impl Record {
    /// The id that is the same on every delivery of the record, as its source gave it.
    pub fn event_id(&self) -> &str {
        match self {
            Self::Scanned(row) => &row.event_id,
            Self::Changed(change) => &change.event_id,
        }
    }

    /// The name of the record's item.
    pub fn item_id(&self) -> ItemId {
        match self {
            Self::Scanned(row) => row.item_id.clone(),
            Self::Changed(change) => item_id(&change.keys),
        }
    }

    /// The sequence number; `None` for a scanned row.
    pub fn sequence_number(&self) -> Option<&SequenceNumber> {
        match self {
            Self::Scanned(_) => None,
            Self::Changed(change) => change.sequence_number.as_ref(),
        }
    }

    /// When the change was made, if its source says; `None` for a scanned row.
    ///
    /// Also `None` for a time that cannot be in seconds (milliseconds by mistake, or the year 5138
    /// or later). This check uses no clock, so every delivery of an event in every process gives
    /// the same time or none: stores decide by it how long to keep events.
    pub fn created(&self) -> Option<Timestamp> {
        self.said_created().filter(|at| *at < NOT_IN_SECONDS)
    }

    /// [`created`](Record::created), unless it is too far ahead of `now`.
    pub(crate) fn created_by(&self, now: Timestamp) -> Option<Timestamp> {
        self.created().filter(|at| *at <= now.plus(CLOCKS))
    }

    /// The creation time, if there is one that is impossible at `now`.
    pub(crate) fn impossible_creation(&self, now: Timestamp) -> Option<Timestamp> {
        let said = self.said_created();
        said.filter(|_| self.created_by(now).is_none())
    }

    fn said_created(&self) -> Option<Timestamp> {
        match self {
            Self::Scanned(_) => None,
            Self::Changed(change) => change.created,
        }
    }

    /// The ARN of the stream that the record came from, if its source says.
    pub fn stream_arn(&self) -> Option<&str> {
        match self {
            Self::Scanned(_) => None,
            Self::Changed(change) => change.stream_arn.as_deref(),
        }
    }

    /// Whether it is a change of this kind.
    pub fn is(&self, event: &EventName) -> bool {
        matches!(self, Self::Changed(change) if change.event == *event)
    }

    /// Whether it is a MODIFY whose empty old image says that the item did not exist before.
    pub(crate) fn had_nothing_before(&self) -> bool {
        match self {
            Self::Scanned(_) => false,
            Self::Changed(change) => {
                let old = change.old_image.as_ref();
                change.event == EventName::Modify && old.is_some_and(|old| old.is_empty())
            }
        }
    }

    /// Whether it carries the state before the change, including nothing and an unreadable image.
    pub(crate) fn tells_what_was_before(&self) -> bool {
        let Self::Changed(change) = self else {
            return false;
        };
        match change.event {
            EventName::Insert => true,
            EventName::Modify | EventName::Remove => {
                change.old_image.is_some() || self.unreadable(Side::Old).is_some()
            }
            EventName::Other(_) | EventName::Unreadable(_) => false,
        }
    }

    /// Why the image of this side could not be read; `None` if it could.
    pub(crate) fn unreadable(&self, side: Side) -> Option<&str> {
        let Self::Changed(change) = self else {
            return None;
        };
        let mut images = change.unreadable_images.iter();
        let (_, reason) = images.find(|(unreadable, _)| *unreadable == side)?;
        Some(reason)
    }

    /// Whether it reports that DynamoDB's Time to Live removed the item.
    pub fn is_removal_by_ttl(&self) -> bool {
        self.is(&EventName::Remove) && matches!(self, Self::Changed(change) if change.expired)
    }

    /// The position at which the record was seen; `None` for a change without a sequence number.
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Scanned(_) => Some(Position::Scan),
            Self::Changed(change) => change.sequence_number.clone().map(Position::Stream),
        }
    }
}

/// The name of the item with this primary key: its attributes in order of their names, each with
/// its type. The same key gives the same name, no matter how it was read.
pub fn item_id(keys: &Item) -> ItemId {
    let mut attributes: SmallVec<[_; 2]> = keys.iter().collect();
    attributes.sort_unstable_by_key(|(name, _)| *name);
    let texts: SmallVec<[(&str, &str, Cow<'_, str>); 2]> = attributes
        .into_iter()
        .map(|(name, value)| match value {
            AttributeValue::S(text) => (name.as_str(), "S", text.into()),
            AttributeValue::N(number) => (name.as_str(), "N", number.into()),
            AttributeValue::B(bytes) => (
                name.as_str(),
                "B",
                bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            ),
            // Not a key type. Named all the same, so that the item is not dropped.
            other => (name.as_str(), "?", format!("{other:?}").into()),
        })
        .collect();
    ItemId::from_parts(
        texts
            .iter()
            .flat_map(|(name, kind, text)| [*name, *kind, text.as_ref()]),
    )
}

/// The primary key of the item called `id`, the inverse of [`item_id`]. `None` if `item_id` did not
/// make the name, or made it from attributes that cannot be a key.
pub fn item_key(id: &ItemId) -> Option<Item> {
    let parts = id.parts()?;
    let mut key = HashMap::with_capacity(2);
    for attribute in parts.chunks(3) {
        let &[name, kind, text] = attribute else {
            return None;
        };
        let value = match kind {
            "S" => AttributeValue::S(text.to_owned()),
            "N" => AttributeValue::N(text.to_owned()),
            "B" => AttributeValue::B(bytes(text)?),
            _ => return None,
        };
        key.insert(name.to_owned(), value);
    }
    let key = Item::from(key);
    // Rejects repeated names and digits in another form.
    (!key.is_empty() && item_id(&key) == *id).then_some(key)
}

/// The bytes that `hex` writes with two digits each.
fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let byte = |pair: &[u8]| match pair {
        &[high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
        _ => None,
    };
    hex.as_bytes().chunks(2).map(byte).collect()
}

/// Which state of an item is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The current state: a scanned row, or the state after a change.
    New,
    /// The state before a change.
    Old,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::New => "new image",
            Self::Old => "old image",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(pairs: &[(&str, AttributeValue)]) -> Item {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect::<HashMap<_, _>>()
            .into()
    }

    #[test]
    fn item_ids_do_not_depend_on_attribute_order_and_keep_types_apart() {
        let text = |value: &str| AttributeValue::S(value.into());
        let a = keys(&[("pk", text("1")), ("sk", text("2"))]);
        let b = keys(&[("sk", text("2")), ("pk", text("1"))]);
        assert_eq!(item_id(&a), item_id(&b));
        let number = keys(&[("pk", AttributeValue::N("1".into())), ("sk", text("2"))]);
        assert_ne!(item_id(&a), item_id(&number));
        let bytes = keys(&[("pk", AttributeValue::B(vec![1, 255]))]);
        assert_eq!(item_id(&bytes).as_str(), "2:pk1:B4:01ff");
    }

    fn key_value() -> impl Strategy<Value = AttributeValue> {
        prop_oneof![
            any::<String>().prop_map(AttributeValue::S),
            any::<i64>().prop_map(|n| AttributeValue::N(n.to_string())),
            any::<Vec<u8>>().prop_map(AttributeValue::B),
        ]
    }

    proptest! {
        #[test]
        fn a_key_is_found_again_in_its_name(one in key_value(), other in proptest::option::of(key_value()), names in ("[a-z:0-9]{1,9}", "[A-Z:0-9é]{0,9}")) {
            let mut pairs = vec![(&*names.0, one)];
            pairs.extend(other.map(|other| (&*names.1, other)));
            let key = keys(&pairs);
            prop_assert_eq!(item_key(&item_id(&key)), Some(key));
        }
    }

    #[test]
    fn what_is_no_key_has_none() {
        let odd = keys(&[("pk", AttributeValue::Bool(true))]);
        assert_eq!(item_key(&item_id(&odd)), None);
        let parts: [&[&str]; 4] = [&[], &["line 4"], &["pk", "B", "0g"], &["pk", "B", "123"]];
        for parts in parts {
            assert_eq!(
                item_key(&ItemId::from_parts(parts.iter().copied())),
                None,
                "{parts:?}"
            );
        }
    }

    #[test]
    fn event_names_nobody_knows_are_kept() {
        assert_eq!(EventName::from("REMOVE"), EventName::Remove);
        assert_eq!(EventName::from("MERGE"), EventName::Other("MERGE".into()));
        let unreadable = format!("{UNREADABLE}no event id");
        let reason = EventName::Unreadable("no event id".into());
        assert_eq!(EventName::from(&*unreadable), reason);
    }

    #[test]
    fn a_creation_time_says_nothing_ahead_of_the_clocks_or_in_another_unit() {
        let now = Timestamp::from_secs(1_767_225_600);
        let at = |created| {
            Record::Changed(Change {
                created: Some(created),
                ..Change::default()
            })
        };
        let ahead = |secs| now.plus(Duration::from_secs(secs));
        for possible in [now, ahead(45 * 60), now.minus(Duration::from_secs(86_400))] {
            assert_eq!(at(possible).created_by(now), Some(possible));
            assert_eq!(at(possible).impossible_creation(now), None);
        }
        // By the clock of this process, which does not change what a store knows the event by.
        let early = ahead(45 * 60 + 1);
        assert_eq!(at(early).created_by(now), None);
        assert_eq!(at(early).impossible_creation(now), Some(early));
        assert_eq!(at(early).created(), Some(early));
        // By any clock.
        let millis = Timestamp::from_secs(1_767_225_600_123);
        for now in [now, Timestamp::from_secs(2_000_000_000_000)] {
            assert_eq!(at(millis).created(), None);
            assert_eq!(at(millis).impossible_creation(now), Some(millis));
        }
    }
}
