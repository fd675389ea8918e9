//! Deserializes an item into any type with serde, with every number exact.

use std::collections::HashMap;

use serde::de::value::{MapAccessDeserializer, MapDeserializer, SeqDeserializer};
use serde::de::{self, Deserialize, Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_dynamo::{AttributeValue, Error, Item};

use crate::decimal;

/// Deserializes `item`, like [`Decoder::serde`](crate::Decoder::serde).
///
/// Every number arrives exactly, or is refused:
///
/// - Integer fields, up to 128 bits, take integers in their range and nothing else.
/// - [`decimal::deserialize`] sees the number's digits as DynamoDB keeps them.
/// - A field of `f64` or `f32` gets the nearest float. Do not add up amounts in floats.
/// - A type that does not say what it wants (flattened and untagged types, `serde_json::Value`)
///   gets a 64-bit integer or a float if that prints as the same number, and otherwise a 128-bit
///   integer or a text of the digits. Many such types refuse the latter two.
///
/// Apart from numbers it agrees with [`serde_dynamo::from_item`], whose numbers pass through
/// floats. Only the parts of the item that `T` keeps are copied.
///
/// # Errors
///
/// Names what was found, and what `T` expects instead.
///
/// ```
/// use murmur_core::{AttributeValue, Item, decimal, from_item};
///
/// #[derive(serde::Deserialize)]
/// struct Order {
///     #[serde(deserialize_with = "decimal::deserialize::<2, _>")]
///     amount: i64,
/// }
/// let item = |amount: &str| {
///     let amount = AttributeValue::N(amount.to_owned());
///     Item::from(std::collections::HashMap::from([("amount".to_owned(), amount)]))
/// };
/// assert_eq!(from_item::<Order>(&item("12.34"))?.amount, 1234);
/// assert!(from_item::<Order>(&item("12.3400000000000000001")).is_err());
/// # Ok::<(), serde_dynamo::Error>(())
/// ```
pub fn from_item<'a, T: Deserialize<'a>>(item: &'a Item) -> Result<T, Error> {
    T::deserialize(Value::Map(item.inner()))
}

/// An attribute's value, or an element of a set.
#[derive(Clone, Copy)]
enum Value<'a> {
    Number(&'a str),
    Text(&'a str),
    Bytes(&'a [u8]),
    Bool(bool),
    Null(bool),
    Map(&'a HashMap<String, AttributeValue>),
    List(&'a [AttributeValue]),
    Texts(&'a [String]),
    Numbers(&'a [String]),
    BytesSet(&'a [Vec<u8>]),
}

impl<'a> From<&'a AttributeValue> for Value<'a> {
    fn from(value: &'a AttributeValue) -> Self {
        match value {
            AttributeValue::N(digits) => Self::Number(digits),
            AttributeValue::S(text) => Self::Text(text),
            AttributeValue::B(bytes) => Self::Bytes(bytes),
            AttributeValue::Bool(is) => Self::Bool(*is),
            AttributeValue::Null(is) => Self::Null(*is),
            AttributeValue::M(members) => Self::Map(members),
            AttributeValue::L(values) => Self::List(values),
            AttributeValue::Ss(texts) => Self::Texts(texts),
            AttributeValue::Ns(numbers) => Self::Numbers(numbers),
            AttributeValue::Bs(values) => Self::BytesSet(values),
        }
    }
}

impl Value<'_> {
    fn found(&self) -> de::Unexpected<'_> {
        match self {
            Self::Number(_) => de::Unexpected::Other("a number"),
            Self::Text(text) => de::Unexpected::Str(text),
            Self::Bytes(bytes) => de::Unexpected::Bytes(bytes),
            Self::Bool(is) => de::Unexpected::Bool(*is),
            Self::Null(true) => de::Unexpected::Unit,
            Self::Null(false) => de::Unexpected::Other("NULL that is false"),
            Self::Map(_) => de::Unexpected::Map,
            Self::List(_) | Self::Texts(_) | Self::Numbers(_) | Self::BytesSet(_) => {
                de::Unexpected::Seq
            }
        }
    }
}

/// Passes a sequence's elements to `visitor`.
fn sequence<'de, V: Visitor<'de>>(
    values: impl Iterator<Item = Value<'de>>,
    visitor: V,
) -> Result<V::Value, Error> {
    visitor.visit_seq(SeqDeserializer::new(values))
}

/// The members of a map, in the form of serde's own map access.
fn members<'a>(
    map: &'a HashMap<String, AttributeValue>,
) -> MapDeserializer<'a, impl Iterator<Item = (Name<'a>, Value<'a>)>, Error> {
    MapDeserializer::new(map.iter().map(|(name, value)| (Name(name), value.into())))
}

/// Passes a number to a visitor that takes any type.
fn any_number<'de, V: Visitor<'de>>(digits: &'de str, visitor: V) -> Result<V::Value, Error> {
    if let Ok(number) = digits.parse() {
        return visitor.visit_i64(number);
    }
    if let Ok(number) = digits.parse() {
        return visitor.visit_u64(number);
    }
    if let Ok(number) = digits.parse() {
        return visitor.visit_i128(number);
    }
    match digits.parse::<f64>() {
        Ok(float) if decimal::same(&float.to_string(), digits) => visitor.visit_f64(float),
        _ => visitor.visit_borrowed_str(digits),
    }
}

macro_rules! integers {
    ($($deserialize:ident => $visit:ident: $type:ty,)+) => {$(
        fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let Self::Number(digits) = self else {
                return Err(Error::invalid_type(self.found(), &visitor));
            };
            let number: $type = digits.parse().map_err(|_| {
                let found = format!("the number {digits}");
                Error::invalid_value(de::Unexpected::Other(&found), &visitor)
            })?;
            visitor.$visit(number)
        }
    )+};
}

macro_rules! floats {
    ($($deserialize:ident => $visit:ident: $type:ty,)+) => {$(
        fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let Self::Number(digits) = self else {
                return Err(Error::invalid_type(self.found(), &visitor));
            };
            match digits.parse::<$type>() {
                Ok(number) if number.is_finite() => visitor.$visit(number),
                _ => {
                    let found = format!("the number {digits}");
                    Err(Error::invalid_value(de::Unexpected::Other(&found), &visitor))
                }
            }
        }
    )+};
}

impl<'de> Deserializer<'de> for Value<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Self::Number(digits) => any_number(digits, visitor),
            Self::Text(text) => visitor.visit_borrowed_str(text),
            Self::Bytes(bytes) => visitor.visit_borrowed_bytes(bytes),
            Self::Bool(is) => visitor.visit_bool(is),
            Self::Null(true) => visitor.visit_unit(),
            Self::Null(false) => Err(Error::invalid_type(self.found(), &visitor)),
            Self::Map(map) => visitor.visit_map(members(map)),
            Self::List(values) => sequence(values.iter().map(Value::from), visitor),
            Self::Texts(texts) => sequence(texts.iter().map(|text| Value::Text(text)), visitor),
            Self::Numbers(all) => sequence(all.iter().map(|digits| Value::Number(digits)), visitor),
            Self::BytesSet(all) => sequence(all.iter().map(|bytes| Value::Bytes(bytes)), visitor),
        }
    }

    integers! {
        deserialize_i8 => visit_i8: i8,
        deserialize_i16 => visit_i16: i16,
        deserialize_i32 => visit_i32: i32,
        deserialize_i64 => visit_i64: i64,
        deserialize_i128 => visit_i128: i128,
        deserialize_u8 => visit_u8: u8,
        deserialize_u16 => visit_u16: u16,
        deserialize_u32 => visit_u32: u32,
        deserialize_u64 => visit_u64: u64,
        deserialize_u128 => visit_u128: u128,
    }

    floats! {
        deserialize_f32 => visit_f32: f32,
        deserialize_f64 => visit_f64: f64,
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Self::Null(true) => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self {
            Self::Number(digits) if name == decimal::DIGITS => visitor.visit_borrowed_str(digits),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self {
            Self::Text(text) => visitor.visit_enum(text.into_deserializer()),
            Self::Map(map) if map.len() == 1 => {
                visitor.visit_enum(MapAccessDeserializer::new(members(map)))
            }
            _ => Err(Error::invalid_type(self.found(), &visitor)),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    // These pass the value found to the visitor, which names what it expects instead.
    forward_to_deserialize_any! {
        bool char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier
    }
}

impl<'de> IntoDeserializer<'de, Error> for Value<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// The name of a map's member. Types with numbers as keys read it as a number.
#[derive(Clone, Copy)]
struct Name<'a>(&'a str);

macro_rules! parsed {
    ($($deserialize:ident => $visit:ident,)+) => {$(
        fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.0.parse() {
                Ok(value) => visitor.$visit(value),
                Err(_) => Err(Error::invalid_type(de::Unexpected::Str(self.0), &visitor)),
            }
        }
    )+};
}

impl<'de> Deserializer<'de> for Name<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.0)
    }

    parsed! {
        deserialize_bool => visit_bool,
        deserialize_i8 => visit_i8,
        deserialize_i16 => visit_i16,
        deserialize_i32 => visit_i32,
        deserialize_i64 => visit_i64,
        deserialize_i128 => visit_i128,
        deserialize_u8 => visit_u8,
        deserialize_u16 => visit_u16,
        deserialize_u32 => visit_u32,
        deserialize_u64 => visit_u64,
        deserialize_u128 => visit_u128,
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(self.0.into_deserializer())
    }

    forward_to_deserialize_any! {
        f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple tuple_struct map
        struct identifier ignored_any
    }
}

impl<'de> IntoDeserializer<'de, Error> for Name<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}
