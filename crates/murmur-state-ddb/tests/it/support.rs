//! Monoids, tables and rows of these tests.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use murmur_state::{
    Add, Additive, Clock, Codec, CodecError, Group, KeepsGreatest, KeepsLeast, Key, ManualClock,
    Monoid, Overflow, SystemClock, Timestamp,
};
use murmur_state_ddb::{TableOptions, create_dedup_table, create_int64_table};
use murmur_testkit::Dynamo;
use murmur_testkit::wire::{Action, Request, Wire};

macro_rules! integer_monoid {
    ($name:ident, $idempotent:expr, $identity:expr, $combine:expr) => {
        #[derive(Clone, Debug)]
        pub(crate) struct $name;

        impl Monoid for $name {
            type Input = i64;
            type Value = i64;
            const IDEMPOTENT: bool = $idempotent;
            fn identity(&self) -> i64 {
                $identity
            }
            fn lift(&self, input: i64) -> i64 {
                input
            }
            fn combine(&self, into: &mut i64, other: &i64) -> Result<(), Overflow> {
                *into = $combine(*into, *other).ok_or(Overflow)?;
                Ok(())
            }
        }
    };
}

integer_monoid!(Total, false, 0, i64::checked_add);
integer_monoid!(Highest, true, i64::MIN, |a: i64, b| Some(a.max(b)));
integer_monoid!(Lowest, true, i64::MAX, |a: i64, b| Some(a.min(b)));

impl Group for Total {
    fn invert(&self, value: &i64) -> Result<i64, Overflow> {
        value.checked_neg().ok_or(Overflow)
    }
}
impl Additive for Total {}
impl KeepsGreatest for Highest {}
impl KeepsLeast for Lowest {}

/// Not idempotent: a total kept as bytes, so that a value applied twice shows.
impl Codec for Total {
    fn encode(&self, value: &i64) -> Vec<u8> {
        [&[1][..], &value.to_be_bytes()].concat()
    }
    fn decode(&self, bytes: &[u8]) -> Result<i64, CodecError> {
        match bytes {
            [1, digits @ ..] => digits.try_into().map(i64::from_be_bytes).ok(),
            _ => None,
        }
        .ok_or_else(|| CodecError::new("not a total"))
    }
}

/// Idempotent: a set of texts.
#[derive(Clone, Debug)]
pub(crate) struct Words;

impl Monoid for Words {
    type Input = String;
    type Value = BTreeSet<String>;
    const IDEMPOTENT: bool = true;
    fn identity(&self) -> Self::Value {
        BTreeSet::new()
    }
    fn lift(&self, input: String) -> Self::Value {
        BTreeSet::from([input])
    }
    fn combine(&self, into: &mut Self::Value, other: &Self::Value) -> Result<(), Overflow> {
        into.extend(other.iter().cloned());
        Ok(())
    }
}

impl Codec for Words {
    fn encode(&self, value: &Self::Value) -> Vec<u8> {
        let words: Vec<&str> = value.iter().map(String::as_str).collect();
        format!("1{}", words.join("\n")).into_bytes()
    }
    fn decode(&self, bytes: &[u8]) -> Result<Self::Value, CodecError> {
        let text = std::str::from_utf8(bytes).map_err(|_| CodecError::new("not a text"))?;
        let words = text
            .strip_prefix('1')
            .ok_or_else(|| CodecError::new("unknown version"))?;
        Ok(words.split('\n').map(str::to_owned).collect())
    }
}

pub(crate) fn words(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

pub(crate) fn key(entity: &str) -> Key {
    Key::new(entity, 0).unwrap()
}

pub(crate) fn add<V>(entity: &str, value: V) -> Add<V> {
    Add {
        key: key(entity),
        value,
        ttl: None,
    }
}

pub(crate) async fn state_table(dynamo: &Dynamo) -> String {
    let table = dynamo.table("state");
    create_int64_table(&dynamo.client(), &table).await.unwrap();
    table
}

pub(crate) async fn marker_table(dynamo: &Dynamo) -> String {
    let table = dynamo.table("markers");
    create_dedup_table(&dynamo.client(), &table).await.unwrap();
    table
}

/// A wire on which `decide` answers the requests of one operation, counted from 0.
pub(crate) fn wire_on(
    operation: &'static str,
    decide: impl Fn(&Request) -> Action + Send + Sync + 'static,
) -> Wire {
    Wire::new(move |request| {
        if request.operation == operation {
            decide(request)
        } else {
            Action::Pass
        }
    })
}

/// The default time of a store.
pub(crate) fn now() -> Timestamp {
    SystemClock::new().now()
}

/// A clock that moves only by the waits asked of it, and options with it.
pub(crate) fn virtual_time() -> (ManualClock, TableOptions) {
    let clock = ManualClock::new(Timestamp::from_secs(1_700_000_000));
    (
        clock.clone(),
        TableOptions::default().clock(Arc::new(clock)),
    )
}

pub(crate) fn n(value: impl ToString) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub(crate) fn s(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

pub(crate) fn b(bytes: &[u8]) -> AttributeValue {
    AttributeValue::B(Blob::new(bytes))
}

/// Writes a row as another writer would.
pub(crate) async fn put_row(
    client: &Client,
    table: &str,
    entity: &str,
    attributes: &[(&str, AttributeValue)],
) {
    let mut put = client
        .put_item()
        .table_name(table)
        .item("pk", s(entity))
        .item("sk", n(0));
    for (name, value) in attributes {
        put = put.item(*name, value.clone());
    }
    put.send().await.unwrap();
}

/// A state row as it is.
pub(crate) async fn row(
    client: &Client,
    table: &str,
    entity: &str,
) -> Option<HashMap<String, AttributeValue>> {
    let get = client
        .get_item()
        .table_name(table)
        .key("pk", s(entity))
        .key("sk", n(0));
    get.consistent_read(true).send().await.unwrap().item
}
