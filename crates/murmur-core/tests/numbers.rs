//! Numbers pass through serde exactly, or are refused.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use murmur_core::decimal::minor_units;
use murmur_core::{AttributeValue, Item, decimal, from_item};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};

fn item(value: AttributeValue) -> Item {
    HashMap::from([("it".to_owned(), value)]).into()
}

fn number(digits: &str) -> Item {
    item(AttributeValue::N(digits.to_owned()))
}

#[derive(Debug, Deserialize)]
struct It<T> {
    it: T,
}

fn read<T: DeserializeOwned>(item: &Item) -> Result<T, String> {
    let read = from_item::<It<T>>(item);
    read.map(|It { it }| it).map_err(|error| error.to_string())
}

/// An amount in hundredths.
#[derive(Debug, PartialEq, Deserialize)]
struct Cents(#[serde(deserialize_with = "decimal::deserialize::<2, _>")] i64);

/// The value that a type without a preference gets.
#[derive(Debug, Clone, PartialEq)]
enum Any {
    Nothing,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Any>),
    Map(BTreeMap<String, Any>),
}

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Take;

        impl<'de> Visitor<'de> for Take {
            type Value = Any;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_unit<E>(self) -> Result<Any, E> {
                Ok(Any::Nothing)
            }

            fn visit_bool<E>(self, is: bool) -> Result<Any, E> {
                Ok(Any::Bool(is))
            }

            fn visit_i64<E>(self, int: i64) -> Result<Any, E> {
                Ok(Any::Int(int.into()))
            }

            fn visit_u64<E>(self, int: u64) -> Result<Any, E> {
                Ok(Any::Int(int.into()))
            }

            fn visit_i128<E>(self, int: i128) -> Result<Any, E> {
                Ok(Any::Int(int))
            }

            fn visit_f64<E>(self, float: f64) -> Result<Any, E> {
                Ok(Any::Float(float))
            }

            fn visit_str<E>(self, text: &str) -> Result<Any, E> {
                Ok(Any::Text(text.to_owned()))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Any, E> {
                Ok(Any::Bytes(bytes.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Any, A::Error> {
                let mut list = Vec::new();
                while let Some(value) = seq.next_element()? {
                    list.push(value);
                }
                Ok(Any::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Any, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry()? {
                    members.insert(name, value);
                }
                Ok(Any::Map(members))
            }
        }

        deserializer.deserialize_any(Take)
    }
}

/// Texts of numbers of up to 45 digits in all valid forms, and some invalid ones.
fn digits() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "-?[1-9][0-9]{0,18}(\\.[0-9]{1,4})?",
        3 => "[+-]?[0-9]{0,38}(\\.[0-9]{0,38})?([eE][+-]?[0-9]{1,3})?",
        1 => "[0-9]{1,16}\\.[0-9]{2}0{1,20}[0-9]{0,2}",
        1 => "0?\\.9{1,30}",
        1 => "[0-9.eE+-]{0,8}",
    ]
}

fn values() -> impl Strategy<Value = AttributeValue> {
    let plain = prop_oneof![
        ".{0,8}".prop_map(AttributeValue::S),
        any::<i64>().prop_map(|int| AttributeValue::N(int.to_string())),
        any::<u64>().prop_map(|int| AttributeValue::N(int.to_string())),
        "-?[1-9][0-9]{0,4}\\.[0-9]{1,3}".prop_map(AttributeValue::N),
        any::<Vec<u8>>().prop_map(AttributeValue::B),
        any::<bool>().prop_map(AttributeValue::Bool),
        Just(AttributeValue::Null(true)),
        prop::collection::vec(".{0,8}", 0..3).prop_map(AttributeValue::Ss),
        prop::collection::vec("[1-9][0-9]{0,9}", 0..3).prop_map(AttributeValue::Ns),
        prop::collection::vec(any::<Vec<u8>>(), 0..3).prop_map(AttributeValue::Bs),
    ];
    plain.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(AttributeValue::L),
            prop::collection::hash_map("[a-d]{1,2}", inner, 0..4).prop_map(AttributeValue::M),
        ]
    })
}

/// Whether both texts are the same number: both written out and compared digit by digit.
fn is_same(one: &str, other: &str) -> bool {
    fn written_out(text: &str) -> Option<(bool, Vec<u8>)> {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let exponent: i64 = exponent.parse().ok()?;
        let digits = mantissa.trim_start_matches(['-', '+']);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let mut line = vec![b'0'; 3_000];
        for (at, digit) in whole.bytes().chain(fraction.bytes()).enumerate() {
            let power = whole.len() as i64 - 1 - at as i64 + exponent;
            line[usize::try_from(1_500 - power).ok()?] = digit;
        }
        let is_zero = line.iter().all(|digit| *digit == b'0');
        Some((mantissa.starts_with('-') && !is_zero, line))
    }
    written_out(one).is_some_and(|one| Some(one) == written_out(other))
}

#[test]
fn digits_a_float_would_lose_are_not_lost() {
    for lost in [
        "0.9999999999999999999999999999",
        "12.3400000000000000001",
        "99999999999999999999999999999999999999",
    ] {
        assert!(minor_units(lost, 2).is_err(), "{lost}");
        assert!(read::<Cents>(&number(lost)).is_err(), "{lost}");
        assert!(read::<i64>(&number(lost)).is_err(), "{lost}");
        let any = read::<Any>(&number(lost)).unwrap();
        assert!(!matches!(any, Any::Float(_)), "{any:?}");
    }
    let kept = number("92233720368547758.07");
    assert_eq!(read(&kept), Ok(Cents(i64::MAX)));
    assert_eq!(read(&kept), Ok(Any::Text("92233720368547758.07".into())));
    let long = number("99999999999999999999999999999999999999");
    assert_eq!(read(&long), Ok(10i128.pow(38) - 1));
    assert_eq!(read(&number("12.34")), Ok(Any::Float(12.34)));
    assert_eq!(read(&number("12.34")), Ok(12.34f64));
}

#[test]
fn an_amount_that_came_as_a_float_is_refused_whatever_it_is() {
    #[derive(Debug, Deserialize)]
    struct Flat {
        #[serde(flatten)]
        it: It<Cents>,
    }
    let error = from_item::<Flat>(&number("12.34")).unwrap_err();
    assert!(error.to_string().contains("flattened"), "{error}");
    assert_eq!(from_item::<Flat>(&number("12")).unwrap().it.it.0, 1200);
    let foreign: Result<It<Cents>, _> = serde_dynamo::from_item(number("12.3400000000000000001"));
    assert!(foreign.unwrap_err().to_string().contains("from_item"));
    let json: Result<It<Cents>, _> = serde_json::from_str(r#"{"it":12.3400000000000000001}"#);
    assert!(json.unwrap_err().to_string().contains("from_item"));
    let json: It<Cents> = serde_json::from_str(r#"{"it":"12.34"}"#).unwrap();
    assert_eq!(json.it, Cents(1234));
}

#[test]
fn amounts_are_found_wherever_they_stand() {
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Paid {
        Cash(Cents),
        Card { amount: Cents },
        Not,
    }
    let n = |digits: &str| AttributeValue::N(digits.into());
    let map = |pairs: &[(&str, AttributeValue)]| {
        let pairs = pairs.iter().cloned();
        AttributeValue::M(pairs.map(|(name, value)| (name.into(), value)).collect())
    };
    let list = AttributeValue::L(vec![n("0.01"), AttributeValue::Null(true)]);
    assert_eq!(read(&item(list)), Ok([Some(Cents(1)), None]));
    let set = AttributeValue::Ns(vec!["0.5".into()]);
    assert_eq!(read(&item(set)), Ok(vec![Cents(50)]));
    let keyed = map(&[("7", n("1.1"))]);
    assert_eq!(read(&item(keyed)), Ok(BTreeMap::from([(7u8, Cents(110))])));
    let cash = map(&[("cash", n("2.5"))]);
    assert_eq!(read(&item(cash)), Ok(Paid::Cash(Cents(250))));
    let card = map(&[("card", map(&[("amount", n("9.99"))]))]);
    let card = read(&item(card));
    assert_eq!(card, Ok(Paid::Card { amount: Cents(999) }));
    let not = AttributeValue::S("not".into());
    assert_eq!(read(&item(not)), Ok(Paid::Not));
    let error = read::<Paid>(&item(map(&[]))).unwrap_err();
    assert!(error.contains("map"), "{error}");
}

#[test]
fn what_is_not_expected_is_said() {
    let error = read::<i64>(&item(AttributeValue::S("5".into()))).unwrap_err();
    assert!(error.contains("\"5\"") && error.contains("i64"), "{error}");
    let error = read::<i64>(&number("12.5")).unwrap_err();
    assert!(error.contains("12.5") && error.contains("i64"), "{error}");
    assert!(read::<f32>(&number("1e100")).is_err(), "not infinite");
    assert!(read::<u8>(&number("-1")).is_err());
    assert!(read::<String>(&number("5")).is_err());
    assert!(read::<()>(&item(AttributeValue::Null(false))).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 50_000,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_number_is_exact_or_refused(text in digits()) {
        let item = number(&text);
        // An amount equals its digits.
        let by_serde = read::<Cents>(&item).ok().map(|Cents(cents)| cents);
        prop_assert_eq!(by_serde, minor_units(&text, 2).ok());
        if let Some(cents) = by_serde {
            prop_assert!(is_same(&text, &format!("{cents}e-2")), "{cents}");
        }
        // So does an integer.
        let integers = [
            read::<i64>(&item).map(i128::from),
            read::<u64>(&item).map(i128::from),
            read::<i128>(&item),
        ];
        for int in integers.into_iter().flatten() {
            prop_assert!(is_same(&text, &int.to_string()), "{int}");
        }
        // A type without a preference gets the same.
        let seen = match read::<Any>(&item) {
            Ok(Any::Int(int)) => int.to_string(),
            Ok(Any::Float(float)) => float.to_string(),
            Ok(Any::Text(seen)) => seen,
            other => panic!("{other:?}"),
        };
        prop_assert!(seen == text || is_same(&text, &seen), "{seen}");
        // Deserializers that know only floats give an amount exactly, or refuse it.
        let dynamo: Result<It<Cents>, _> = serde_dynamo::from_item(item);
        let json: Result<It<Cents>, _> = serde_json::from_str(&format!(r#"{{"it":{text}}}"#));
        for Cents(cents) in dynamo.ok().into_iter().chain(json.ok()).map(|It { it }| it) {
            prop_assert_eq!(Some(cents), by_serde);
        }
    }

    #[test]
    fn items_are_read_as_serde_dynamo_reads_them(value in values()) {
        let item = item(value);
        let theirs: It<Any> = serde_dynamo::from_item(item.clone()).unwrap();
        prop_assert_eq!(read::<Any>(&item), Ok(theirs.it));
    }
}
