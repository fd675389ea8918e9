use super::*;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value, json};

/// A record of every form of attribute there is.
fn whole() -> Value {
    json!({
        "eventID": "event-1", "eventName": "MODIFY", "eventVersion": "1.1",
        "eventSource": "aws:dynamodb", "awsRegion": "eu-west-1",
        "eventSourceARN": "arn:aws:dynamodb:eu-west-1:1:table/orders/stream/1",
        "userIdentity": { "type": "Service", "principalId": "dynamodb.amazonaws.com" },
        "dynamodb": {
            "ApproximateCreationDateTime": 1_767_225_600.838,
            "Keys": { "id": { "S": "o-1" } },
            "NewImage": {
                "id": { "S": "o-1" }, "n": { "N": "12.3400000000000000001" }, "b": { "B": "AQI=" },
                "l": { "L": [{ "NULL": true }, { "BOOL": false }] }, "m": { "M": { "x": { "NS": ["1"] } } }
            },
            "OldImage": { "id": { "S": "o-1" }, "s": { "SS": ["a", "é"] }, "bs": { "BS": ["AQ=="] } },
            "SequenceNumber": "4421584500000000017450439091", "SizeBytes": 60,
            "StreamViewType": "NEW_AND_OLD_IMAGES"
        }
    })
}

fn one(record: &Value) -> EventRecord {
    let json = json!({ "Records": [record] }).to_string();
    let mut event: LenientEvent = serde_json::from_str(&json).unwrap();
    assert_eq!(event.len(), 1);
    event.records.remove(0)
}

/// Why it cannot be read.
fn reason(record: &EventRecord) -> &str {
    let name = &record.event_name;
    name.strip_prefix(UNREADABLE)
        .unwrap_or_else(|| panic!("{name}"))
}

/// The record with the value at `path` replaced or removed.
fn with(path: &str, value: Option<Value>) -> Value {
    let mut record = whole();
    let (parent, name) = path.rsplit_once('/').unwrap();
    let parent = record.pointer_mut(parent).and_then(Value::as_object_mut);
    let parent = parent.unwrap();
    match value {
        Some(value) => parent.insert(name.to_owned(), value),
        None => parent.remove(name),
    };
    record
}

#[test]
fn a_record_is_read_as_it_is() {
    let record = one(&whole());
    assert_eq!(record.event_name, "MODIFY");
    let digits = AttributeValue::N("12.3400000000000000001".into());
    assert_eq!(record.change.new_image["n"], digits);
    let created = record.change.approximate_creation_date_time;
    assert_eq!(created.timestamp(), 1_767_225_600);
    assert_eq!(record.record_format, None);
}

#[test]
fn what_cannot_be_read_says_what_it_is_and_keeps_what_can_be() {
    let iso = json!("2026-01-01T00:00:00.000Z");
    for (path, value, said) in [
        ("/eventID", json!(null), "`eventID`"),
        ("/eventName", json!(7), "`eventName`"),
        ("/userIdentity", json!("me"), "`userIdentity`"),
        (
            "/dynamodb/ApproximateCreationDateTime",
            iso,
            "`ApproximateCreationDateTime`",
        ),
    ] {
        let incoming = one(&with(path, Some(value)));
        assert!(reason(&incoming).contains(said), "{}", reason(&incoming));
        let change = &incoming.change;
        let number = "4421584500000000017450439091";
        assert_eq!(change.sequence_number.as_deref(), Some(number));
        assert_eq!(change.keys.len(), 1);
        assert!(change.new_image.is_empty() && change.old_image.is_empty());
        assert!(incoming.event_source_arn.is_some());
        let id = if path == "/eventID" { "" } else { "event-1" };
        assert_eq!(incoming.event_id, id);
    }
    for gone in ["/eventID", "/eventName", "/dynamodb"] {
        let incoming = one(&with(gone, None));
        assert!(reason(&incoming).contains("missing field"), "{gone}");
    }
    for nothing in [
        json!(null),
        json!(5),
        json!([]),
        json!(["e1", "INSERT"]),
        json!({}),
    ] {
        let incoming = one(&nothing);
        assert!(!reason(&incoming).is_empty());
        assert_eq!(incoming.change.sequence_number, None);
    }
}

#[test]
fn of_a_record_whose_image_cannot_be_read_all_else_is_read() {
    let good = one(&whole()).change;
    let images = [
        (json!({ "meta": {} }), "attribute `meta`"),
        (json!({ "n": { "N": 5 } }), "attribute `n`"),
        (json!({ "n": { "VECTOR": "1" } }), "attribute `n`"),
        (json!({ "n": { "S": "a", "N": "1" } }), "attribute `n`"),
        (json!(5), "invalid type"),
        (json!([]), "invalid type"),
    ];
    for (image, said) in &images {
        for side in ["NewImage", "OldImage"] {
            let record = one(&with(&format!("/dynamodb/{side}"), Some(image.clone())));
            let reason = reason(&record);
            assert!(reason.contains(said) && reason.contains(side), "{reason}");
            let notes = ImageNotes::read(record.record_format.as_deref());
            assert_eq!(notes.event_name.as_deref(), Some("MODIFY"));
            let unreadable = ImageNote::Unreadable(reason.to_owned());
            let mut expected = good.clone();
            if side == "NewImage" {
                expected.new_image = Item::default();
                assert_eq!((notes.new, notes.old), (unreadable, ImageNote::AsShown));
            } else {
                expected.old_image = Item::default();
                assert_eq!((notes.new, notes.old), (ImageNote::AsShown, unreadable));
            }
            assert_eq!(record.change, expected);
        }
    }
    // If a member appears twice, nothing tells which one is right.
    let odd = with("/dynamodb/NewImage", Some(json!(5))).to_string();
    for (once, twice) in [
        ("\"OldImage\":", "\"OldImage\":{},\"OldImage\":"),
        ("\"eventName\":", "\"eventName\":\"INSERT\",\"eventName\":"),
    ] {
        let odd = odd.replace(once, twice);
        let json = format!("{{\"Records\":[{odd}]}}");
        let event: LenientEvent = serde_json::from_str(&json).unwrap();
        let record = &event.records[0];
        assert!(record.event_name.starts_with(UNREADABLE));
        assert_eq!(record.record_format, None);
    }
}

#[test]
fn what_is_not_needed_may_be_missing_or_strange() {
    for path in [
        "/dynamodb/SizeBytes",
        "/awsRegion",
        "/eventVersion",
        "/eventSource",
    ] {
        for value in [None, Some(json!(null)), Some(json!({ "odd": [] }))] {
            assert_eq!(one(&with(path, value)), one(&whole()), "{path}");
        }
    }
    for optional in [
        "/eventSourceARN",
        "/userIdentity",
        "/dynamodb/ApproximateCreationDateTime",
        "/dynamodb/NewImage",
        "/dynamodb/SequenceNumber",
        "/dynamodb/StreamViewType",
    ] {
        let missing = one(&with(optional, None));
        assert_eq!(missing, one(&with(optional, Some(json!(null)))));
        assert_eq!(missing.event_name, "MODIFY", "{optional}");
    }
}

#[test]
fn an_empty_image_is_one_only_where_the_stream_carries_it() {
    let image = |name: &str, side: &str, view: Option<&str>| {
        let mut record = with(&format!("/dynamodb/{side}"), Some(json!({})));
        record["eventName"] = name.into();
        record["dynamodb"]["StreamViewType"] = view.map_or(json!(null), Value::from);
        let notes = ImageNotes::read(one(&record).record_format.as_deref());
        [notes.new, notes.old].contains(&ImageNote::Empty)
    };
    let both = Some("NEW_AND_OLD_IMAGES");
    for view in [both, None] {
        assert!(image("MODIFY", "OldImage", view) && image("MODIFY", "NewImage", view));
        assert!(image("REMOVE", "OldImage", view) && image("INSERT", "NewImage", view));
        assert!(!image("INSERT", "OldImage", view) && !image("REMOVE", "NewImage", view));
    }
    assert!(image("MODIFY", "OldImage", Some("OLD_IMAGE")));
    assert!(image("MODIFY", "NewImage", Some("NEW_IMAGE")));
    for (side, view) in [("OldImage", "NEW_IMAGE"), ("NewImage", "OLD_IMAGE")] {
        assert!(!image("MODIFY", side, Some(view)));
        assert!(!image("MODIFY", side, Some("KEYS_ONLY")));
    }
}

#[test]
fn a_time_no_date_can_show_is_as_far_as_dates_go() {
    for odd in [json!(1_767_225_600_123_456_i64), json!(1e300)] {
        let odd = with("/dynamodb/ApproximateCreationDateTime", Some(odd));
        let record = one(&odd);
        let created = record.change.approximate_creation_date_time;
        assert_eq!(created, DateTime::<Utc>::MAX_UTC);
    }
}

#[test]
fn what_is_no_event_is_an_error_that_says_so() {
    for (json, said) in [
        ("{}", "no `Records`"),
        (r#"{"Records":null}"#, "no `Records`"),
        (r#"{"detail-type":"Scheduled Event"}"#, "no `Records`"),
        (r#"{"Records":{}}"#, "sequence"),
        ("5", "an event of a DynamoDB stream"),
        (r#"{"Records":[{]}"#, "line 1"),
    ] {
        let error = serde_json::from_str::<LenientEvent>(json).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[derive(Debug, Clone)]
enum Change {
    /// The n-th value of the tree becomes something else.
    Replace(usize, usize),
    Remove(usize),
    /// A byte of the text becomes another.
    Flip(usize, u8),
    Cut(usize),
    Double(usize, usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        4 => (0usize..60, 0usize..14).prop_map(|(at, by)| Change::Replace(at, by)),
        2 => (0usize..60).prop_map(Change::Remove),
        2 => (any::<u16>(), any::<u8>()).prop_map(|(at, by)| Change::Flip(at.into(), by)),
        1 => any::<u16>().prop_map(|at| Change::Cut(at.into())),
        1 => (any::<u16>(), 1usize..40).prop_map(|(at, length)| Change::Double(at.into(), length)),
    ];
    prop::collection::vec(change, 0..4)
}

/// Changes the `at`-th value of `tree`.
fn visit(tree: &mut Value, at: &mut usize, change: &mut impl FnMut(&mut Value)) {
    if *at == 0 {
        change(tree);
    }
    *at = at.wrapping_sub(1);
    match tree {
        Value::Object(members) => members
            .values_mut()
            .for_each(|value| visit(value, at, change)),
        Value::Array(values) => values.iter_mut().for_each(|value| visit(value, at, change)),
        _ => {}
    }
}

fn changed(changes: &[Change]) -> Vec<u8> {
    let small = json!({
        "eventID": "2", "eventName": "REMOVE", "dynamodb": { "Keys": { "id": { "N": "1" } } }
    });
    let mut tree = json!({ "Records": [whole(), small] });
    for change in changes {
        match change {
            Change::Replace(at, by) => {
                let odd = [
                    json!(null),
                    json!({}),
                    json!([]),
                    json!(""),
                    json!("x"),
                    json!(0),
                    json!(-1),
                    json!(1.5),
                    json!(1e300),
                    json!(1_767_225_600_123_i64),
                    json!(true),
                    json!({ "N": "1" }),
                    json!({ "S": "a", "N": "1" }),
                    json!([{ "S": "a" }]),
                ];
                visit(&mut tree, &mut at.clone(), &mut |value| {
                    *value = odd[*by].clone()
                });
            }
            Change::Remove(at) => visit(&mut tree, &mut at.clone(), &mut |value| match value {
                Value::Object(members) => members.clear(),
                Value::Array(values) => values.clear(),
                value => *value = Value::Null,
            }),
            _ => {}
        }
    }
    let mut text = tree.to_string().into_bytes();
    for change in changes {
        let place = |at: &usize| at % text.len().max(1);
        match change {
            Change::Flip(at, by) => {
                let at = place(at);
                if let Some(byte) = text.get_mut(at) {
                    *byte = *by;
                }
            }
            Change::Cut(at) => text.truncate(place(at)),
            Change::Double(at, length) => {
                let from = place(at);
                let to = text.len().min(from + length);
                let again = text[from..to].to_vec();
                text.splice(to..to, again);
            }
            _ => {}
        }
    }
    text
}

fn is_item(item: &Item, json: &Value) -> bool {
    match json {
        Value::Null => item.is_empty(),
        json => serde_json::to_value(item).unwrap() == *json,
    }
}

/// Whether the record as read says what the JSON says.
fn is_faithful(record: &EventRecord, json: &Value) -> bool {
    let notes = ImageNotes::read(record.record_format.as_deref());
    let is_image = |item: &Item, note: &ImageNote, json: &Value| match note {
        ImageNote::AsShown => is_item(item, json),
        ImageNote::Empty => item.is_empty() && *json == json!({}),
        ImageNote::Unreadable(_) => item.is_empty(),
    };
    let change = &json["dynamodb"];
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let identity = record.user_identity.clone().unwrap_or_default();
    let user = &json["userIdentity"];
    let created = record.change.approximate_creation_date_time.timestamp();
    let is_created = match &change["ApproximateCreationDateTime"] {
        Value::Null => created == 0,
        json => json.as_f64().is_some_and(|at| {
            at.floor() as i64 == created || at.abs() > 8e12 && created.abs() > 8_000_000_000_000
        }),
    };
    json["eventID"] == *record.event_id
        && json["eventName"] == *notes.event_name.as_deref().unwrap_or(&record.event_name)
        && text(&json["eventSourceARN"]) == record.event_source_arn
        && text(&change["SequenceNumber"]) == record.change.sequence_number
        && text(&user["type"]).unwrap_or_default() == identity.type_
        && text(&user["principalId"]).unwrap_or_default() == identity.principal_id
        && is_item(&record.change.keys, &change["Keys"])
        && is_image(&record.change.new_image, &notes.new, &change["NewImage"])
        && is_image(&record.change.old_image, &notes.old, &change["OldImage"])
        && is_created
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100_000,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn each_record_is_read_as_it_is_or_rejected(changes in changes()) {
        let json = changed(&changes);
        let records = serde_json::from_slice::<Members<'_>>(&json).ok().and_then(|members| {
            serde_json::from_str::<Vec<&RawValue>>(members.get("Records")?.get()).ok()
        });
        let event = serde_json::from_slice::<LenientEvent>(&json);
        let Some(records) = records else {
            prop_assert!(event.is_err());
            return Ok(());
        };
        // Two lists of `Records` in one object are refused; every other object with a list is
        // accepted.
        let Ok(event) = event else {
            let error = event.unwrap_err().to_string();
            prop_assert!(error.contains("duplicate field"), "{error}");
            return Ok(());
        };
        prop_assert_eq!(event.len(), records.len(), "one for each");
        for (record, json) in event.records.iter().zip(records) {
            if record.event_name.starts_with(UNREADABLE) && record.record_format.is_none() {
                continue;
            }
            if let Ok(json) = serde_json::from_str(json.get()) {
                prop_assert!(is_faithful(record, &json), "{json}");
            }
        }
    }
}
