use std::fmt::Write;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use murmur_state::{EventId, Place, StoreError};
use sha2::{Digest, Sha256};

use crate::attribute::{Item, wrong_shape};
use crate::change::Change;

/// An event as a row remembers it.
pub(crate) type Id = [u8; 16];

/// The 16 bytes of an event id: those its 32 lower-case hex digits stand for, dashes or none, as
/// a stream's `eventID` has them; else the first half of its SHA-256.
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

/// The ids as a set. DynamoDB knows no empty sets, so there must be one at least.
pub(crate) fn set<'a>(ids: impl IntoIterator<Item = &'a Id>) -> AttributeValue {
    AttributeValue::Bs(ids.into_iter().map(|id| Blob::new(*id)).collect())
}

/// Refuses an attribute that is there and holds anything but ids: no id would be found in it, and
/// its events would count again.
pub(crate) fn only_ids(
    place: &Place,
    row: &Item,
    attribute: &'static str,
) -> Result<(), StoreError> {
    let is_id = |bytes: &Blob| bytes.as_ref().len() == size_of::<Id>();
    match row.get(attribute) {
        None => Ok(()),
        Some(AttributeValue::Bs(ids)) if ids.iter().all(is_id) => Ok(()),
        Some(_) => Err(wrong_shape(
            place,
            row,
            attribute,
            "a set of event ids, 16 bytes each",
        )),
    }
}

/// The ids in an attribute of a row; none if it is absent.
pub(crate) fn ids_in<'a>(row: &'a Item, attribute: &str) -> impl Iterator<Item = &'a [u8]> {
    let ids = match row.get(attribute) {
        Some(AttributeValue::Bs(ids)) => ids.as_slice(),
        _ => &[],
    };
    ids.iter().map(AsRef::as_ref)
}

/// The change, made only if none of `ids` is in any of the sets `attributes`. One NOT over ORs:
/// of the 300 operators of a condition, each id and set takes two.
pub(crate) fn unless_taken<'a>(
    mut change: Change,
    attributes: &[&str],
    ids: impl IntoIterator<Item = &'a Id>,
) -> Change {
    let mut condition = String::from("NOT (");
    let mut first = true;
    for (n, id) in ids.into_iter().enumerate() {
        for attribute in attributes {
            let or = if first { "" } else { " OR " };
            first = false;
            // Writing to a String cannot fail.
            let _ = write!(condition, "{or}contains({attribute}, :i{n})");
        }
        change = change.value(format!(":i{n}"), AttributeValue::B(Blob::new(*id)));
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
}
