//! Every decoder of the public API, against damaged inputs: none panics, and none accepts what its
//! encoder does not write. Those of rows are held against it in their own crates.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::collections::BTreeSet;

use murmur_core::monoids::{Dated, Element};
use murmur_core::{First, Last, Set, item_id, item_key};
use murmur_lambda_ddbstreams::Mapping;
use murmur_state::images::{ImageNote, ImageNotes};
use murmur_state::monoid::Codec;
use murmur_state::{EventId, HandoffToken, ItemId, Key, PipelineName, SequenceNumber, Timestamp};
use murmur_streams::{AttributeValue, Item};
use murmur_testkit::damage::{accepts_only_json_it_writes, accepts_only_what_it_writes, damaged};
use serde_json::Value;

const ARN: &str = "arn:aws:dynamodb:eu-west-1:1:table/orders/stream/2026-01-01T00:00:00.000";

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn shard(id: u64) -> String {
    format!("shardId-000000017672256{id:05}-{:08x}", id * 7919)
}

#[test]
fn a_handoff_token() {
    let token = |shards| {
        let captured_at = Timestamp::from_millis(1_767_225_600_123);
        HandoffToken::new(ARN, captured_at, shards).encode()
    };
    let samples = [
        token(Vec::new()),
        token(vec![shard(1)]),
        token(vec![
            shard(1),
            shard(2),
            shard(3),
            "another form".to_owned(),
        ]),
    ];
    accepts_only_json_it_writes(&samples, |bytes| {
        let token = HandoffToken::decode(text(bytes)?).ok()?;
        let written = token.encode();
        assert_eq!(HandoffToken::decode(&written).unwrap(), token);
        Some(written.into_bytes())
    });
}

#[test]
fn notes_of_images() {
    let unreadable = || ImageNote::Unreadable("`n`: \"no\" number".to_owned());
    let samples = [
        ImageNotes::of("MODIFY", None, ImageNote::Empty, ImageNote::Empty),
        ImageNotes::of("MODIFY", None, unreadable(), ImageNote::Empty),
        ImageNotes::of("REMOVE", None, ImageNote::AsShown, unreadable()),
    ];
    let samples = samples.map(|notes| notes.to_record_format().unwrap());
    accepts_only_what_it_writes(&samples, b",:{}\"", |bytes| {
        let notes = ImageNotes::read(Some(text(bytes)?));
        notes.to_record_format().map(String::into_bytes)
    });
}

#[test]
fn a_sequence_number() {
    let samples = ["100000000000000000001", "0", "007"];
    accepts_only_what_it_writes(&samples, b"", |bytes| {
        let number = SequenceNumber::new(text(bytes)?).ok()?;
        // Shown as given, leading zeros included, since Lambda wants it back so.
        assert!(bytes.iter().all(u8::is_ascii_digit) && !bytes.is_empty());
        let json = serde_json::to_string(&number).unwrap();
        let back: SequenceNumber = serde_json::from_str(&json).unwrap();
        assert!(back == number && back.as_str() == number.as_str());
        Some(number.as_str().as_bytes().to_vec())
    });
}

#[test]
fn ids_and_names() {
    let samples = ["7fe1", "likes", "scan/2:id1:S1:x", "\u{e9}/4:a b"];
    accepts_only_what_it_writes(&samples[..2], b"", |bytes| {
        let name = PipelineName::new(text(bytes)?).ok()?;
        // No marker of one pipeline begins like those of another.
        let marker = name.marker("item", &["a/b"]);
        assert_eq!(marker.split('/').next(), Some(name.as_str()));
        Some(name.as_str().as_bytes().to_vec())
    });
    accepts_only_what_it_writes(&samples, b"", |bytes| {
        let id = EventId::new(text(bytes)?).ok()?;
        Some(id.as_str().as_bytes().to_vec())
    });
    accepts_only_what_it_writes(&samples, b"", |bytes| {
        let key = Key::new(text(bytes)?, 7).ok()?;
        Some(key.entity().as_bytes().to_vec())
    });
}

#[test]
fn an_items_name_and_its_parts() {
    let samples = [
        ItemId::from_parts(["id", "S", "order 1"]),
        ItemId::from_parts(["", "1:x", "\u{e9}"]),
        ItemId::from_parts(["0123456789ab"]),
    ];
    let samples = samples.map(|id| id.as_str().to_owned());
    accepts_only_what_it_writes(&samples, b":", |bytes| {
        let id = ItemId::from_text(text(bytes)?);
        let again = ItemId::from_parts(id.parts()?);
        Some(again.as_str().as_bytes().to_vec())
    });
}

#[test]
fn an_items_name_and_its_key() {
    let key = |attributes: &[(&str, AttributeValue)]| {
        let attributes = attributes.iter().cloned();
        let attributes = attributes.map(|(name, value)| (name.to_owned(), value));
        Item::from(attributes.collect::<std::collections::HashMap<_, _>>())
    };
    let order = AttributeValue::S("order 1".into());
    let samples = [
        item_id(&key(&[("id", order.clone())])),
        item_id(&key(&[
            ("id", order),
            ("n", AttributeValue::N("-1.5".into())),
        ])),
        item_id(&key(&[("b", AttributeValue::B(vec![0, 171, 255]))])),
    ];
    let samples = samples.map(|id| id.as_str().to_owned());
    accepts_only_what_it_writes(&samples, b":", |bytes| {
        let key = item_key(&ItemId::from_text(text(bytes)?))?;
        Some(item_id(&key).as_str().as_bytes().to_vec())
    });
}

fn of_set<E: Element>(sets: [Vec<E>; 2]) {
    let set = Set::<E>::new();
    let samples = sets.map(|elements| set.encode(&BTreeSet::from_iter(elements)));
    accepts_only_what_it_writes(&samples, b"", |bytes| {
        Some(set.encode(&set.decode(bytes).ok()?))
    });
}

#[test]
fn sets() {
    of_set::<i64>([vec![-1, 0, 256], vec![7]]);
    of_set::<Vec<u8>>([vec![vec![], vec![0, 1], vec![9]], vec![vec![1; 20]]]);
    of_set(["a b \u{e9}", "zz"].map(|words| words.split(' ').map(str::to_owned).collect()));
}

fn dated<E>(sequence: Option<&str>, id: &str, value: E) -> Option<Dated<E>> {
    Some(Dated {
        at: Timestamp::from_millis(1_767_225_600_123),
        sequence: sequence.map(|digits| SequenceNumber::new(digits).unwrap()),
        id: id.to_owned(),
        value,
    })
}

fn of_dated<E: Element, M: Codec<Value = Option<Dated<E>>>>(monoid: &M, value: E) {
    let samples = [
        monoid.encode(&None),
        monoid.encode(&dated(None, "scan/1:a", value.clone())),
        monoid.encode(&dated(Some("100000000000000000001"), "7fe1", value.clone())),
        monoid.encode(&dated(Some("0"), "", value)),
    ];
    accepts_only_what_it_writes(&samples, b"", |bytes| {
        Some(monoid.encode(&monoid.decode(bytes).ok()?))
    });
}

#[test]
fn firsts_and_lasts() {
    of_dated(&First::<i64>::new(), -5);
    of_dated(&Last::<Vec<u8>>::new(), vec![0, 1, 255]);
    of_dated(&Last::<String>::new(), "\u{e9}".to_owned());
}

fn mapping() -> Vec<Vec<u8>> {
    let printed = format!(
        r#"{{"EventSourceArn":"{ARN}","StartingPosition":"TRIM_HORIZON","State":"Enabled",
"LastModified":"2026-11-21T09:00:00+00:00","FunctionResponseTypes":["ReportBatchItemFailures"],
"TumblingWindowInSeconds":0,"FilterCriteria":{{"Filters":[]}},"MaximumRetryAttempts":-1,
"DestinationConfig":{{"OnFailure":{{"Destination":"arn:aws:sqs:eu-west-1:1:failed"}}}}}}"#
    );
    let seconds = printed.replace(r#""2026-11-21T09:00:00+00:00""#, "1795253400.25");
    vec![printed.into_bytes(), seconds.into_bytes()]
}

/// Lambda writes it, in more fields than are read, and what those hold is passed over: so it is
/// loose by nature, and what is accepted says what the text says.
#[test]
fn an_event_source_mapping() {
    let token = HandoffToken::new(ARN, Timestamp::from_secs(1_795_253_401), Vec::new());
    let mut fit = 0;
    for input in damaged(&mapping(), b"{}[],:\"") {
        if let Ok(mapping) = serde_json::from_slice::<Mapping>(&input)
            && mapping.check(&token).is_ok()
            && let Ok(read) = serde_json::from_slice::<Value>(&input)
        {
            assert_eq!(read["EventSourceArn"], ARN);
            assert_eq!(read["StartingPosition"], "TRIM_HORIZON");
            assert_eq!(read["State"], "Enabled");
            let types = read["FunctionResponseTypes"].as_array().unwrap();
            assert!(types.iter().any(|kind| kind == "ReportBatchItemFailures"));
            let filters = read["FilterCriteria"]["Filters"].as_array();
            assert!(filters.is_none_or(Vec::is_empty));
            fit += 1;
        }
    }
    assert!(fit > 1000, "{fit}");
}
