//! What the ledger knows about an item, as a row of the marker table.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use murmur_state::error::Place;
use murmur_state::store::{Add, LedgerEntry, Position};
use murmur_state::{ItemId, Key, PipelineName, SequenceNumber, StoreError, Timestamp};

use crate::attribute::{Item, PK, SK, TTL, V, VER, integer, number, text, wrong_shape};

/// The item of the row, S. The row's key may hold only a hash of it.
const ITEM: &str = "item";
/// Where the item was seen, S: a sequence number, or absent for a scan. For a settled item it is
/// [`SETTLED`] and a sequence number.
const AT: &str = "at";
/// The prefix of the position of a settled item. It is not a number, so that a release without
/// settling refuses the row instead of reading an item that contributes nothing.
const SETTLED: &str = "settled ";
/// What the item contributes, L of M, each with the attributes of the state row that it is part of.
/// Absent for nothing.
const NOW: &str = "now";
/// What earlier items of this name contribute for good, in the same form.
const KEPT: &str = "kept";

/// The kind of marker for ledger rows.
const KIND: &str = "item";

/// The key of the row of `item` in the ledger of the state table called `table`.
pub(crate) fn name(pipeline: &PipelineName, table: &str, item: &ItemId) -> String {
    pipeline.marker(KIND, &[table, item.as_str()])
}

/// The prefix of the keys of all of a pipeline's ledger rows, for every state table.
pub(crate) fn prefix(pipeline: &PipelineName) -> String {
    format!("{pipeline}/{KIND}")
}

/// The item of a row.
pub(crate) fn item(place: &Place, row: &Item) -> Result<ItemId, StoreError> {
    text(place, row, ITEM, "the name of an item").map(ItemId::from_text)
}

/// What `row` says about its item.
pub(crate) fn known(place: &Place, row: &Item) -> Result<LedgerEntry<i64>, StoreError> {
    let (at, settled) = match row.contains_key(AT) {
        false => (Position::Scan, false),
        true => {
            let at = text(place, row, AT, SEQUENCE_NUMBER)?;
            let (settled, digits) = match at.strip_prefix(SETTLED) {
                Some(digits) => (true, digits),
                None => (false, at),
            };
            let number = SequenceNumber::new(digits);
            let number = number.map_err(|_| wrong_shape(place, row, AT, SEQUENCE_NUMBER))?;
            (Position::Stream(number), settled)
        }
    };
    for contributes in [NOW, KEPT] {
        if settled && row.contains_key(contributes) {
            return Err(wrong_shape(
                place,
                row,
                contributes,
                "absent of a settled item",
            ));
        }
    }
    Ok(LedgerEntry {
        item: item(place, row)?,
        version: integer(place, row, VER, "a version")?,
        at,
        settled,
        now: contributions(place, row, NOW)?,
        kept: contributions(place, row, KEPT)?,
    })
}

const SEQUENCE_NUMBER: &str = "a sequence number, after `settled ` of a settled item";

fn contributions(
    place: &Place,
    row: &Item,
    attribute: &'static str,
) -> Result<Vec<Add<i64>>, StoreError> {
    let wrong = || wrong_shape(place, row, attribute, "a list of contributions");
    let list = match row.get(attribute) {
        None => return Ok(Vec::new()),
        Some(AttributeValue::L(list)) => list,
        Some(_) => return Err(wrong()),
    };
    let one = |value: &AttributeValue| -> Option<Add<i64>> {
        let AttributeValue::M(part) = value else {
            return None;
        };
        let integer = |name| match part.get(name) {
            Some(AttributeValue::N(digits)) => digits.parse::<i64>().ok(),
            _ => None,
        };
        let Some(AttributeValue::S(entity)) = part.get(PK) else {
            return None;
        };
        let ttl = match part.contains_key(TTL) {
            true => Some(integer(TTL)?),
            false => None,
        };
        // Any other attribute would be lost when the row is written again.
        let expected = 3 + usize::from(ttl.is_some());
        (part.len() == expected).then_some(())?;
        Some(Add {
            key: Key::new(entity, integer(SK)?).ok()?,
            value: integer(V)?,
            ttl,
        })
    };
    list.iter()
        .map(|value| one(value).ok_or_else(wrong))
        .collect()
}

/// The row called `name` that says `known`. It is kept for at least `life` after `now`. It is kept
/// for good if any of its contributions is to a row that is kept for good, or if the item has
/// settled.
pub(crate) fn row(name: &str, known: &LedgerEntry<i64>, now: Timestamp, life: Duration) -> Item {
    let LedgerEntry {
        item,
        version,
        at,
        settled,
        now: contributes,
        kept,
    } = known;
    // The number of attributes that a row can have.
    let mut row = HashMap::with_capacity(7);
    row.insert(PK.to_owned(), AttributeValue::S(name.to_owned()));
    row.insert(ITEM.to_owned(), AttributeValue::S(item.as_str().to_owned()));
    row.insert(VER.to_owned(), number(version));
    if let Position::Stream(at) = at {
        let settled = if *settled { SETTLED } else { "" };
        row.insert(AT.to_owned(), AttributeValue::S(format!("{settled}{at}")));
    }
    for (attribute, adds) in [(NOW, contributes), (KEPT, kept)] {
        if !adds.is_empty() {
            let list = adds.iter().map(contribution).collect();
            row.insert(attribute.to_owned(), AttributeValue::L(list));
        }
    }
    let least = now.plus(life).as_secs();
    let mut last = contributes.iter().chain(kept).map(|add| add.ttl);
    let forgotten = last.try_fold(least, |last, ttl| Some(last.max(ttl?)));
    if let Some(ttl) = forgotten.filter(|_| !settled) {
        row.insert(TTL.to_owned(), number(ttl));
    }
    row
}

fn contribution(add: &Add<i64>) -> AttributeValue {
    let mut part = HashMap::with_capacity(4);
    part.insert(
        PK.to_owned(),
        AttributeValue::S(add.key.entity().to_owned()),
    );
    part.insert(SK.to_owned(), number(add.key.bucket()));
    part.insert(V.to_owned(), number(add.value));
    if let Some(ttl) = add.ttl {
        part.insert(TTL.to_owned(), number(ttl));
    }
    AttributeValue::M(part)
}

/// About how many bytes a contribution takes; never too low.
pub(crate) fn part(add: &Add<i64>) -> usize {
    // The names of four attributes, three numbers and the overhead of a map.
    96 + add.key.entity().len()
}

/// About how many bytes that row takes; never too low.
pub(crate) fn size(name: &str, known: &LedgerEntry<i64>) -> usize {
    let parts: usize = known.now.iter().chain(&known.kept).map(part).sum();
    256 + name.len() + known.item.as_str().len() + parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::any_rows::{holds, look_at};

    fn adds() -> impl Strategy<Value = Vec<Add<i64>>> {
        let add = (
            "[a-z]{1,4}",
            any::<i64>(),
            any::<i64>(),
            any::<Option<i64>>(),
        );
        let add = add.prop_map(|(entity, bucket, value, ttl)| Add {
            key: Key::new(entity, bucket).unwrap(),
            value,
            ttl,
        });
        proptest::collection::vec(add, 0..4)
    }

    proptest! {
        #[test]
        fn rows_survive_the_round_trip(
            at: Option<u64>,
            version: u64,
            settled: bool,
            now in adds(),
            kept in adds(),
        ) {
            let settled = settled && at.is_some();
            let at = match at {
                None => Position::Scan,
                Some(at) => Position::Stream(SequenceNumber::new(format!("00{at}")).unwrap()),
            };
            let (now, kept) = if settled { (Vec::new(), Vec::new()) } else { (now, kept) };
            let item = ItemId::from_parts(["id", "S", "x"]);
            let one = LedgerEntry { item, version, at, settled, now, kept };
            let (name, place) = ("n", Place::table("test", "t"));
            let second = Timestamp::from_secs(1_000);
            let written = row(name, &one, second, Duration::from_secs(10));
            prop_assert_eq!(&known(&place, &written).unwrap(), &one);

            let ttls: Vec<_> = one.now.iter().chain(&one.kept).map(|add| add.ttl).collect();
            let forgotten = written.get(TTL).map(|_| integer::<i64>(&place, &written, TTL, "").unwrap());
            match settled || ttls.contains(&None) {
                true => prop_assert_eq!(forgotten, None),
                false => {
                    let last = ttls.into_iter().flatten().max().unwrap_or(1_010);
                    prop_assert_eq!(forgotten, Some(last.max(1_010)));
                }
            }
        }
    }

    #[test]
    fn rows_of_another_shape_are_refused_and_named() {
        let place = Place::table("Deduper", "markers");
        let good = row(
            "n",
            &LedgerEntry {
                item: ItemId::from_parts(["x"]),
                version: 1,
                at: Position::Stream(SequenceNumber::new("7").unwrap()),
                settled: false,
                now: vec![Add {
                    key: Key::new("a", 0).unwrap(),
                    value: 5,
                    ttl: None,
                }],
                kept: Vec::new(),
            },
            Timestamp::from_secs(0),
            Duration::ZERO,
        );
        for (attribute, value) in [
            (VER, AttributeValue::S("1".into())),
            (ITEM, AttributeValue::Bool(true)),
            (AT, AttributeValue::S("seven".into())),
            (AT, AttributeValue::S("settled ".into())),
            (NOW, AttributeValue::S("a".into())),
            (NOW, AttributeValue::L(vec![AttributeValue::Bool(true)])),
            (
                KEPT,
                AttributeValue::L(vec![AttributeValue::M(HashMap::new())]),
            ),
        ] {
            let mut bad = good.clone();
            bad.insert(attribute.to_owned(), value);
            let error = known(&place, &bad).unwrap_err();
            assert!(error.to_string().contains(attribute), "{error}");
        }
        // A settled item does not say what it contributes.
        let mut bad = good.clone();
        bad.insert(AT.to_owned(), AttributeValue::S("settled 7".into()));
        let error = known(&place, &bad).unwrap_err();
        assert!(error.to_string().contains(NOW), "{error}");
    }

    #[test]
    fn no_row_is_taken_for_another() {
        let place = Place::table("Deduper", "markers");
        let add = |entity: &str, ttl| Add {
            key: Key::new(entity, -3).unwrap(),
            value: 5,
            ttl,
        };
        let known_as = |at, now, kept| LedgerEntry {
            item: ItemId::from_parts(["id", "S", "x"]),
            version: 7,
            at,
            settled: false,
            now,
            kept,
        };
        let number = SequenceNumber::new("100000000000000000001").unwrap();
        let settled = LedgerEntry {
            settled: true,
            ..known_as(Position::Stream(number.clone()), Vec::new(), Vec::new())
        };
        let good = [
            settled,
            known_as(Position::Scan, vec![add("a", None)], Vec::new()),
            known_as(
                Position::Stream(number),
                vec![add("a", Some(9))],
                vec![add("b", Some(8))],
            ),
        ];
        let write =
            |known: &LedgerEntry<i64>| row("n", known, Timestamp::from_secs(0), Duration::ZERO);
        look_at(
            &good.map(|known| write(&known)),
            &[AT, NOW, KEPT],
            |found| {
                let Ok(known) = known(&place, found) else {
                    return false;
                };
                let again = write(&known);
                let empty = AttributeValue::L(Vec::new());
                for attribute in [ITEM, VER, AT, NOW, KEPT] {
                    let nothing = found.get(attribute) == Some(&empty);
                    let same = holds(found, attribute, again.get(attribute));
                    assert!(same || nothing, "{attribute}: {found:?}");
                }
                true
            },
        );
    }
}
