//! Converts a stream record from Lambda's form to Murmur's.

use std::mem;

use aws_lambda_events::event::dynamodb::{EventRecord, UserIdentity};
use murmur_core::{Change, EventName, Item, Side};
use murmur_state::images::{ImageNote, ImageNotes};
use murmur_state::{SequenceNumber, Timestamp};

/// The change that a record describes. Its contents are moved out of the record until
/// [`give_back`].
pub(crate) fn take(record: &mut EventRecord) -> Change {
    let ImageNotes {
        event_name: noted,
        new,
        old,
    } = ImageNotes::read(record.record_format.as_deref());
    let event = EventName::from(noted.as_deref().unwrap_or(&record.event_name));
    let expired = record.user_identity.as_ref().is_some_and(is_time_to_live);
    let event_id = mem::take(&mut record.event_id);
    let stream_arn = record.event_source_arn.take();
    let change = &mut record.change;
    let mut unreadable_images = Vec::new();
    let mut image = |side, item: &mut Item, note| match note {
        // An image has at least the item's key, so an empty one was not sent.
        ImageNote::AsShown => (!item.is_empty()).then(|| mem::take(item)),
        ImageNote::Empty => Some(mem::take(item)),
        ImageNote::Unreadable(reason) => {
            unreadable_images.push((side, reason));
            None
        }
    };
    let new_image = image(Side::New, &mut change.new_image, new);
    let old_image = image(Side::Old, &mut change.old_image, old);
    // An `Event` scales a fraction of a second incorrectly, and turns a missing time into 1970. So
    // only whole seconds other than zero are used.
    let created = match change.approximate_creation_date_time.timestamp() {
        0 => None,
        seconds => Some(Timestamp::from_secs(seconds)),
    };
    let sequence_number = change.sequence_number.as_deref().and_then(|digits| {
        SequenceNumber::new(digits)
            .inspect_err(|error| {
                tracing::warn!(event_id, %error, "the record is processed as having none");
            })
            .ok()
    });
    Change {
        event,
        keys: mem::take(&mut change.keys),
        new_image,
        old_image,
        unreadable_images,
        sequence_number,
        created,
        expired,
        stream_arn,
        event_id,
    }
}

/// Restores a record from which a change was [taken](take).
pub(crate) fn give_back(record: &mut EventRecord, change: Change) {
    let Change {
        event_id,
        keys,
        new_image,
        old_image,
        stream_arn,
        ..
    } = change;
    record.event_id = event_id;
    record.event_source_arn = stream_arn;
    record.change.keys = keys;
    // The other images were not taken.
    if let Some(image) = new_image {
        record.change.new_image = image;
    }
    if let Some(image) = old_image {
        record.change.old_image = image;
    }
}

/// Amazon DynamoDB Developer Guide, "DynamoDB Streams and Time to Live".
fn is_time_to_live(identity: &UserIdentity) -> bool {
    identity.type_ == "Service" && identity.principal_id == "dynamodb.amazonaws.com"
}

#[cfg(test)]
mod tests {
    use super::*;
    use murmur_core::AttributeValue;

    use crate::lenient::LenientEvent;

    const ARN: &str =
        "arn:aws:dynamodb:eu-west-1:123456789012:table/orders/stream/2026-01-01T00:00:00.000";

    fn only(json: &str) -> Change {
        let mut event: LenientEvent = serde_json::from_str(json).unwrap();
        assert_eq!(event.len(), 1);
        take(&mut event.records[0])
    }

    fn customer(item: Option<&Item>) -> Option<&AttributeValue> {
        item.and_then(|item| item.get("customer"))
    }

    #[test]
    fn an_insert_carries_every_field() {
        let insert = only(include_str!("../tests/events/insert.json"));
        assert_eq!(insert.event_id, "c4ca4238a0b923820dcc509a6f75849b");
        assert_eq!(insert.event, EventName::Insert);
        let id = AttributeValue::S("o-1".into());
        assert_eq!(insert.keys.get("id"), Some(&id));
        let alice = AttributeValue::S("alice".into());
        assert_eq!(customer(insert.new_image.as_ref()), Some(&alice));
        assert_eq!(insert.old_image, None);
        let number = insert.sequence_number.unwrap();
        assert_eq!(number.as_str(), "4421584500000000017450439091");
        assert_eq!(insert.created, Some(Timestamp::from_secs(1_767_225_600)));
        assert!(!insert.expired);
        assert_eq!(insert.stream_arn.as_deref(), Some(ARN));
    }

    #[test]
    fn a_modification_has_both_images_and_a_removal_the_old_one() {
        let modify = only(include_str!("../tests/events/modify.json"));
        assert_eq!(modify.event, EventName::Modify);
        assert!(modify.new_image.is_some() && modify.old_image.is_some());
        assert_ne!(modify.new_image, modify.old_image);

        let remove = only(include_str!("../tests/events/remove.json"));
        assert_eq!(remove.event, EventName::Remove);
        assert!(remove.new_image.is_none() && remove.old_image.is_some());
        assert!(!remove.expired, "a user removed it");
    }

    #[test]
    fn a_removal_by_time_to_live_is_told_from_a_users() {
        let json = include_str!("../tests/events/remove_by_ttl.json");
        assert!(only(json).expired);
        for (from, to) in [
            ("\"Service\"", "\"User\""),
            ("dynamodb.amazonaws.com", "lambda.amazonaws.com"),
        ] {
            assert!(!only(&json.replace(from, to)).expired, "{to}");
        }
        let null = only(include_str!("../tests/events/least.json"));
        assert!(!null.expired);
    }

    #[test]
    fn a_creation_time_is_cut_to_its_second() {
        let change = only(include_str!("../tests/events/sub_second.json"));
        assert_eq!(change.created, Some(Timestamp::from_secs(1_767_225_600)));
    }

    #[test]
    fn what_is_missing_is_absent_and_not_empty() {
        let least = only(include_str!("../tests/events/least.json"));
        assert_eq!(least.created, None);
        assert_eq!(least.sequence_number, None);
        assert_eq!(least.stream_arn, None);
        assert_eq!((least.new_image, least.old_image), (None, None));

        let keys_only = only(include_str!("../tests/events/keys_only.json"));
        assert_eq!(keys_only.keys.len(), 1);
        assert_eq!((keys_only.new_image, keys_only.old_image), (None, None));
    }

    #[test]
    fn an_event_name_nobody_knows_is_kept() {
        let change = only(include_str!("../tests/events/unknown_name.json"));
        assert_eq!(change.event, EventName::Other("ARCHIVE".into()));
    }

    #[test]
    fn a_sequence_number_that_is_no_number_is_absent() {
        let json = include_str!("../tests/events/insert.json");
        let bad = only(&json.replace("4421584500000000017450439091", "44-21"));
        assert_eq!(bad.sequence_number, None);
    }
}
