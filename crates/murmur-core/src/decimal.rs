//! Exact amounts: decimals as integers of their smallest unit.

use std::fmt;

use serde::de::{Deserializer, Error, Visitor};

/// A text that is not an amount, or cannot be kept exactly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecimalError {
    /// The text is not a decimal number.
    #[error("`{0}` is not a decimal number like -12.34")]
    NotANumber(String),
    /// The text has more decimals than the smallest unit.
    #[error("`{text}` has more than {scale} decimals; choose a larger scale, or round it yourself")]
    TooFine {
        /// The text.
        text: String,
        /// The number of decimals of the unit.
        scale: u32,
    },
    /// The amount is out of the range of `i64`.
    #[error("`{0}` in its smallest unit does not fit 64 bits")]
    TooLarge(String),
}

/// Converts `text` into its smallest unit, exactly: `minor_units("12.34", 2)` is 1234.
///
/// Takes DynamoDB's form of a Number: an optional sign, digits, an optional fraction, an optional
/// exponent. Decimals beyond `scale` must be zero; nothing is rounded.
///
/// # Errors
///
/// [`DecimalError`] if it is not a number, finer than `scale`, or too large.
///
/// ```
/// use murmur_core::decimal::{DecimalError, minor_units};
///
/// assert_eq!(minor_units("12.34", 2), Ok(1234));
/// assert_eq!(minor_units("-0.5", 2), Ok(-50));
/// assert_eq!(minor_units("7.100", 1), Ok(71));
/// assert!(matches!(minor_units("0.001", 2), Err(DecimalError::TooFine { .. })));
/// ```
pub fn minor_units(text: &str, scale: u32) -> Result<i64, DecimalError> {
    let too_large = || DecimalError::TooLarge(text.to_owned());
    let Decimal {
        negative,
        digits,
        exponent,
    } = Decimal::parse(text).ok_or_else(|| DecimalError::NotANumber(text.to_owned()))?;
    if digits.is_empty() {
        return Ok(0);
    }
    let shift = exponent + i64::from(scale);
    let shift = match u32::try_from(shift) {
        Ok(shift) => shift,
        Err(_) if shift < 0 => {
            return Err(DecimalError::TooFine {
                text: text.to_owned(),
                scale,
            });
        }
        Err(_) => return Err(too_large()),
    };
    let magnitude = digits
        .parse::<i128>()
        .ok()
        .and_then(|value| value.checked_mul(10i128.checked_pow(shift)?))
        .ok_or_else(too_large)?;
    i64::try_from(if negative { -magnitude } else { magnitude }).map_err(|_| too_large())
}

/// Whether the texts are the same number.
pub(crate) fn same(one: &str, other: &str) -> bool {
    let [one, other] = [one, other].map(Decimal::parse);
    one.is_some() && one == other
}

/// A number as `digits · 10^exponent`, the same for every text of the number.
#[derive(PartialEq)]
struct Decimal {
    negative: bool,
    /// Begins and ends with a digit other than zero; empty for zero itself.
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// `None` for a text that is not an optional sign, digits, an optional fraction, an optional
    /// exponent.
    fn parse(text: &str) -> Option<Self> {
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (negative, unsigned) = match mantissa.strip_prefix(['-', '+']) {
            Some(rest) => (mantissa.starts_with('-'), rest),
            None => (false, mantissa),
        };
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let all = format!("{whole}{fraction}");
        if all.is_empty() || !all.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let digits = all.trim_end_matches('0');
        let dropped = all.len() - digits.len();
        let digits = digits.trim_start_matches('0').to_owned();
        let places = i64::try_from(fraction.len()).ok()? - i64::try_from(dropped).ok()?;
        Some(match digits.is_empty() {
            true => Self {
                negative: false,
                digits,
                exponent: 0,
            },
            false => Self {
                negative,
                digits,
                exponent: i64::from(exponent) - places,
            },
        })
    }
}

/// The name by which [`deserialize`] asks [`from_item`](crate::from_item) for the digits of a
/// number.
pub(crate) const DIGITS: &str = "$murmur_core::decimal";

/// Deserializes an amount with `SCALE` decimals into its smallest unit.
///
/// For a field that is a text, an integer, or a DynamoDB Number. It takes what [`minor_units`]
/// takes.
///
/// A Number with a fraction needs [`Decoder::serde`](crate::Decoder::serde) or
/// [`from_item`](crate::from_item), which pass its digits on. Other deserializers, including
/// `serde_dynamo`'s, first convert it to a float, and so do flattened and untagged types. A float
/// may have lost digits, and is refused.
///
/// ```
/// #[derive(serde::Deserialize)]
/// struct Order {
///     #[serde(deserialize_with = "murmur_core::decimal::deserialize::<2, _>")]
///     amount: i64,
/// }
/// let item = murmur_core::Item::from(std::collections::HashMap::from([(
///     "amount".to_owned(),
///     murmur_core::AttributeValue::N("12.34".to_owned()),
/// )]));
/// let order: Order = murmur_core::from_item(&item)?;
/// assert_eq!(order.amount, 1234);
/// # Ok::<(), serde_dynamo::Error>(())
/// ```
///
/// # Errors
///
/// The deserializer's error, with the text of a [`DecimalError`].
pub fn deserialize<'de, const SCALE: u32, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<i64, D::Error> {
    struct Amount<const SCALE: u32>;

    impl<'de, const SCALE: u32> Visitor<'de> for Amount<SCALE> {
        type Value = i64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an amount with at most {SCALE} decimals")
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<i64, E> {
            self.visit_str(&value.to_string())
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<i64, E> {
            self.visit_str(&value.to_string())
        }

        fn visit_i128<E: Error>(self, value: i128) -> Result<i64, E> {
            self.visit_str(&value.to_string())
        }

        fn visit_u128<E: Error>(self, value: u128) -> Result<i64, E> {
            self.visit_str(&value.to_string())
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<i64, E> {
            Err(E::custom(format!(
                "the amount came as the float {value}, which may have lost digits; decode the item \
                 by `Decoder::serde` or `murmur_core::from_item`, and the amount outside of \
                 flattened and untagged types"
            )))
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<i64, E> {
            minor_units(text, SCALE).map_err(E::custom)
        }

        /// For a deserializer that does not know the requested name.
        fn visit_newtype_struct<D: Deserializer<'de>>(
            self,
            deserializer: D,
        ) -> Result<i64, D::Error> {
            deserializer.deserialize_any(self)
        }
    }

    deserializer.deserialize_newtype_struct(DIGITS, Amount::<SCALE>)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::de::{self, IntoDeserializer};

    #[test]
    fn what_is_not_an_amount_is_refused_with_its_reason() {
        for text in [
            "", "-", ".", "1.2.3", "1,5", " 1", "1e", "NaN", "0x10", "1e1.5", "--1",
        ] {
            assert_eq!(
                minor_units(text, 2),
                Err(DecimalError::NotANumber(text.to_owned())),
                "{text}"
            );
        }
        assert!(matches!(
            minor_units("1.005", 2),
            Err(DecimalError::TooFine { scale: 2, .. })
        ));
        assert!(matches!(
            minor_units("1E-3", 2),
            Err(DecimalError::TooFine { .. })
        ));
        assert!(matches!(
            minor_units("92233720368547758.08", 2),
            Err(DecimalError::TooLarge(_))
        ));
        assert!(matches!(
            minor_units("1E+125", 2),
            Err(DecimalError::TooLarge(_))
        ));
    }

    #[test]
    fn the_whole_range_is_exact() {
        assert_eq!(minor_units("92233720368547758.07", 2), Ok(i64::MAX));
        assert_eq!(minor_units("-92233720368547758.08", 2), Ok(i64::MIN));
        assert_eq!(minor_units("1.5E+3", 2), Ok(150_000));
        assert_eq!(minor_units("1500E-3", 2), Ok(150));
        assert_eq!(minor_units("+.5", 1), Ok(5));
        assert_eq!(minor_units("0e9999", 0), Ok(0));
        assert_eq!(minor_units("00012.3400", 2), Ok(1234));
    }

    fn read<'de>(value: impl IntoDeserializer<'de, de::value::Error>) -> Result<i64, String> {
        deserialize::<2, _>(value.into_deserializer()).map_err(|error| error.to_string())
    }

    #[test]
    fn integers_and_texts_are_amounts_too() {
        assert_eq!(read(-7i64), Ok(-700));
        assert_eq!(read(7u64), Ok(700));
        assert_eq!(read("7.5"), Ok(750));
        assert!(read(u64::MAX).unwrap_err().contains("does not fit"));
        let error = read(true).unwrap_err();
        assert!(
            error.contains("an amount with at most 2 decimals"),
            "{error}"
        );
    }

    #[test]
    fn a_float_is_refused_since_it_may_have_lost_digits() {
        for float in [0.29, 7.0, -1_234_567_890_123.25, 12_345_678_901_234.123] {
            let error = read(float).unwrap_err();
            assert!(error.contains("murmur_core::from_item"), "{error}");
        }
    }

    #[test]
    fn one_number_has_many_texts() {
        let texts = ["1500", "+1500", "01500.00", "1.5e3", "15E2", "150000e-2"];
        for one in texts {
            for other in texts {
                assert!(same(one, other), "{one} {other}");
            }
            for other in ["-1500", "1500.01", "15e3", "x", ""] {
                assert!(!same(one, other), "{one} {other}");
            }
        }
        assert!(same("0", "-0.00e7") && !same("x", "x"));
    }

    proptest! {
        #[test]
        fn it_agrees_with_integers(value: i64, scale in 0u32..6) {
            let (sign, magnitude) = (if value < 0 { "-" } else { "" }, value.unsigned_abs());
            let unit = 10u64.pow(scale);
            let text = if scale == 0 {
                format!("{sign}{magnitude}")
            } else {
                let width = scale as usize;
                format!("{sign}{}.{:0width$}", magnitude / unit, magnitude % unit)
            };
            prop_assert_eq!(minor_units(&text, scale), Ok(value));
        }
    }
}
