use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use murmur_state::error::Place;
use murmur_state::{EventId, StoreError, Timestamp};
use sha2::{Digest, Sha256};

use crate::attribute::{Item, wrong_shape};
use crate::change::Change;

/// The bytes that stand for an event's id.
pub(crate) type Id = [u8; 16];

const SECOND_BYTES: usize = 5;

/// An event as rows and pages store it: its id, and its second of creation in 5 bytes, or 0 if its
/// source gives none. Both are the same at every delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Element([u8; Self::BYTES]);

impl Element {
    pub(crate) const BYTES: usize = size_of::<Id>() + SECOND_BYTES;

    /// `created` is rounded down to the second, because sources differ in precision. A time that
    /// does not fit in 5 bytes, and 1970, which some sources send for "unknown", count as none.
    pub(crate) fn new(id: &Id, created: Option<Timestamp>) -> Self {
        let second = created.map_or(0, Timestamp::as_secs);
        let second = match second.cast_unsigned().to_be_bytes() {
            [0, 0, 0, bytes @ ..] => bytes,
            _ => [0; SECOND_BYTES],
        };
        let mut bytes = [0; Self::BYTES];
        bytes[..size_of::<Id>()].copy_from_slice(id);
        bytes[size_of::<Id>()..].copy_from_slice(&second);
        Self(bytes)
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(crate) fn id(&self) -> &[u8] {
        &self.0[..size_of::<Id>()]
    }

    /// The second of creation, if it is known.
    pub(crate) fn second(&self) -> Option<i64> {
        let digits = self.0[size_of::<Id>()..].iter();
        let second = digits.fold(0, |second, byte| second << 8 | i64::from(*byte));
        (second > 0).then_some(second)
    }

    fn blob(&self) -> Blob {
        Blob::new(self.0)
    }
}

/// The 16 bytes of an event id. 32 lower-case hex digits, with or without dashes, as in a stream's
/// `eventID`, are decoded; any other id becomes the first half of its SHA-256.
pub(crate) fn id(event: &EventId) -> Id {
    hex(event.as_str()).unwrap_or_else(|| hash(event.as_str()))
}

fn hex(text: &str) -> Option<Id> {
    let mut digits = text.bytes().filter(|byte| *byte != b'-').map(|byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => return None,
        };
        Some(digit)
    });
    let mut id = Id::default();
    for byte in &mut id {
        *byte = digits.next()?? << 4 | digits.next()??;
    }
    digits.next().is_none().then_some(id)
}

fn hash(text: &str) -> Id {
    let digest = Sha256::digest(text.as_bytes());
    let mut id = Id::default();
    id.copy_from_slice(&digest[..16]);
    id
}

/// The elements as a set. There must be at least one, because DynamoDB has no empty sets.
pub(crate) fn set<'a>(elements: impl IntoIterator<Item = &'a Element>) -> AttributeValue {
    AttributeValue::Bs(elements.into_iter().map(Element::blob).collect())
}

/// The elements in an attribute of a row, or none if it is absent. Any other content is refused,
/// because no id would be found in it and its events would count again.
pub(crate) fn elements(
    place: &Place,
    row: &Item,
    attribute: &'static str,
) -> Result<Vec<Element>, StoreError> {
    let found = match row.get(attribute) {
        None => return Ok(Vec::new()),
        Some(AttributeValue::Bs(found)) => found.iter().map(|bytes| Element::of(bytes.as_ref())),
        Some(_) => return Err(no_elements(place, row, attribute)),
    };
    found
        .collect::<Option<_>>()
        .ok_or_else(|| no_elements(place, row, attribute))
}

fn no_elements(place: &Place, row: &Item, attribute: &'static str) -> StoreError {
    let expected = "a set of event ids, 21 bytes each with the second of creation";
    wrong_shape(place, row, attribute, expected)
}

/// Adds the condition that none of `elements` is in any of the sets `attributes`. It is one NOT
/// over ORs: of the 300 operators of a condition, each element and set takes two.
pub(crate) fn unless_taken<'a>(
    mut change: Change,
    attributes: &[&str],
    elements: impl IntoIterator<Item = &'a Element>,
) -> Change {
    let mut condition = String::from("NOT (");
    let mut or = "";
    for (n, element) in elements.into_iter().enumerate() {
        let name = format!(":i{n}");
        for attribute in attributes {
            for text in [or, "contains(", attribute, ", ", &name, ")"] {
                condition.push_str(text);
            }
            or = " OR ";
        }
        change = change.value(name, AttributeValue::B(element.blob()));
    }
    condition.push(')');
    change.only_if(condition)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Id {
        id(&EventId::new(text).unwrap())
    }

    #[test]
    fn a_streams_event_id_is_its_digits_with_dashes_or_without() {
        let plain = of("0123456789abcdef0123456789abcdef");
        assert_eq!(plain[..4], [0x01, 0x23, 0x45, 0x67]);
        assert_eq!(plain, of("01234567-89ab-cdef-0123-456789abcdef"));
        assert_ne!(plain, of("0123456789abcdef0123456789abcdee"));
    }

    #[test]
    fn any_other_id_is_hashed_and_kept_apart() {
        let others = [
            "0123456789ABCDEF0123456789ABCDEF",
            "0123456789abcdef0123456789abcdef0",
            "0123456789abcdef0123456789abcde",
            "1",
            "-",
        ];
        let mut ids: Vec<Id> = others.iter().map(|text| of(text)).collect();
        ids.push(of("0123456789abcdef0123456789abcdef"));
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), others.len() + 1);
    }

    #[test]
    fn an_element_has_the_id_and_the_second_however_fine_the_time() {
        let id = of("0123456789abcdef0123456789abcdef");
        let dated = |millis| Element::new(&id, Some(Timestamp::from_millis(millis)));
        assert_eq!(dated(1_800_000_000_000), dated(1_800_000_000_999));
        assert_ne!(dated(1_800_000_000_000), dated(1_800_000_001_000));
        assert_eq!(dated(1_800_000_000_001).second(), Some(1_800_000_000));
        assert_eq!(dated(1_800_000_000_001).id(), id);
        let undated = Element::new(&id, None);
        for unknown in [i64::MIN, -1, 0, 999, (1 << 40) * 1000, i64::MAX] {
            assert_eq!(dated(unknown), undated, "{unknown}");
        }
        assert_eq!(undated.second(), None);
        let last = (1 << 40) - 1;
        assert_eq!(dated(last * 1000).second(), Some(last));
    }
}
