//! Generates rows for tests of code that reads rows: good rows in which attributes are missing, or
//! have any type and value.

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use fastrand::Rng;
use murmur_testkit::damage::CASES;

use crate::attribute::{Item, PK, SK, TTL, V};

/// Texts and numbers at the limits of what is expected.
const TEXTS: [&str; 16] = [
    "",
    "0",
    "-0",
    "7",
    "-7",
    "007",
    "+5",
    "1.5",
    "1E3",
    "9223372036854775807",
    "-9223372036854775809",
    "18446744073709551616",
    "100000000000000000000000000000000000001",
    "4:item",
    "\u{e9}",
    " ",
];

/// Gives `look` many rows: each of `good` unchanged, then with up to three of its attributes, or of
/// `others`, removed or replaced by any value.
///
/// # Panics
///
/// If `look` refuses a good row, or accepts every changed row.
pub(crate) fn look_at(good: &[Item], others: &[&str], look: impl Fn(&Item) -> bool) {
    for row in good {
        assert!(look(row), "a good row is refused: {row:?}");
    }
    let rng = &mut Rng::with_seed(13);
    let mut refused = 0;
    for _ in 0..CASES {
        let mut row = good[rng.usize(..good.len())].clone();
        let mut names: Vec<String> = row.keys().cloned().collect();
        names.sort_unstable();
        names.extend(others.iter().map(|name| (*name).to_owned()));
        for _ in 0..rng.usize(1..=3) {
            let name = names[rng.usize(..names.len())].clone();
            match rng.u8(..8) {
                0 => drop(row.remove(&name)),
                // A part of a good row, in the wrong place.
                1 => {
                    let other = &good[rng.usize(..good.len())];
                    if let Some(value) = other.get(&names[rng.usize(..names.len())]) {
                        row.insert(name, value.clone());
                    }
                }
                2 | 3 => harm_a_part(rng, row.get_mut(&name)),
                _ => drop(row.insert(name, value(rng, 2))),
            }
        }
        refused += u32::from(!look(&row));
    }
    assert!(refused > CASES / 20, "hardly any row was refused");
}

/// Removes or replaces an attribute of a map in a list, or adds one.
fn harm_a_part(rng: &mut Rng, list: Option<&mut AttributeValue>) {
    if let Some(AttributeValue::L(parts)) = list
        && let Some(AttributeValue::M(part)) = parts.first_mut()
    {
        let name = [PK, SK, V, TTL, "x"][rng.usize(..5)];
        match rng.bool() {
            true => drop(part.remove(name)),
            false => drop(part.insert(name.to_owned(), value(rng, 0))),
        }
    }
}

fn text(rng: &mut Rng) -> String {
    TEXTS[rng.usize(..TEXTS.len())].to_owned()
}

fn bytes(rng: &mut Rng) -> Blob {
    let length = [0, 3, 15, 16, 16, 17][rng.usize(..6)];
    Blob::new(vec![rng.u8(..3); length])
}

/// Any value, with values nested to that depth.
fn value(rng: &mut Rng, depth: u32) -> AttributeValue {
    let several = |rng: &mut Rng| 0..rng.usize(..3);
    match rng.u8(..if depth > 0 { 13 } else { 9 }) {
        0 | 1 => AttributeValue::S(text(rng)),
        2 | 3 => AttributeValue::N(text(rng)),
        4 => AttributeValue::B(bytes(rng)),
        5 => AttributeValue::Bool(rng.bool()),
        6 => AttributeValue::Null(true),
        7 => AttributeValue::Bs(several(rng).map(|_| bytes(rng)).collect()),
        8 => match rng.bool() {
            true => AttributeValue::Ss(several(rng).map(|_| text(rng)).collect()),
            false => AttributeValue::Ns(several(rng).map(|_| text(rng)).collect()),
        },
        9 | 10 => AttributeValue::L(several(rng).map(|_| value(rng, depth - 1)).collect()),
        _ => {
            let names = [PK, SK, V, TTL, "x"];
            let names = names.into_iter().filter(|_| rng.u8(..4) > 0);
            let names: Vec<_> = names.map(str::to_owned).collect();
            let part = names.into_iter().map(|name| (name, value(rng, depth - 1)));
            AttributeValue::M(part.collect())
        }
    }
}

/// Whether two values are the same, even if their numbers are written differently.
pub(crate) fn same(one: &AttributeValue, other: &AttributeValue) -> bool {
    match (one, other) {
        (AttributeValue::N(one), AttributeValue::N(other)) => {
            let number = |digits: &str| digits.parse::<i128>().ok();
            number(one).is_some() && number(one) == number(other)
        }
        (AttributeValue::L(one), AttributeValue::L(other)) => {
            let mut pairs = one.iter().zip(other);
            one.len() == other.len() && pairs.all(|(one, other)| same(one, other))
        }
        (AttributeValue::M(one), AttributeValue::M(other)) => {
            let has = |(name, value)| other.get(name).is_some_and(|other| same(value, other));
            one.len() == other.len() && one.iter().all(has)
        }
        _ => one == other,
    }
}

/// Whether `attribute` of `row` holds `value`, or is absent if `value` is `None`.
pub(crate) fn holds(row: &Item, attribute: &str, value: Option<&AttributeValue>) -> bool {
    match (row.get(attribute), value) {
        (Some(found), Some(value)) => same(found, value),
        (found, value) => found.is_none() && value.is_none(),
    }
}
