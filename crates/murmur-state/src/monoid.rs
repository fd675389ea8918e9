use std::fmt::Debug;

use crate::ids::SequenceNumber;

/// Two values could not be combined: the result does not fit the value's type.
///
/// Nothing is wrapped or saturated: a total that would be wrong is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the combined value does not fit its type; keep such totals in a wider unit or split the key"
)]
pub struct Overflow;

/// Which record an input came from: what orders records whose user-given times are equal.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The record's event id.
    pub id: &'a str,
    /// Its sequence number; `None` for a scanned row.
    pub sequence: Option<&'a SequenceNumber>,
}

/// How the values of one key are put together.
///
/// # Contract
///
/// For all values `a`, `b`, `c` for which no step overflows:
///
/// - `combine` is associative and **commutative**. Records of one key meet in whatever order
///   retries, shards and parallel segments bring them, so an order-sensitive fold is not a
///   `Monoid`. ("First" and "last" are minimum and maximum over a time the user gives.)
/// - [`identity`](Monoid::identity) combined with `a` is `a`.
/// - If [`IDEMPOTENT`](Monoid::IDEMPOTENT) is true, `a` combined with `a` is `a`. Redelivery
///   then needs no bookkeeping, and Murmur writes none.
///
/// `murmur_core::laws` checks all of it on values of your choosing.
pub trait Monoid: Clone + Send + Sync + 'static {
    /// What one record gives, before [`lift`](Monoid::lift).
    type Input;
    /// What a row holds.
    type Value: Clone + PartialEq + Debug + Send + Sync + 'static;

    /// Whether combining a value with itself changes nothing.
    const IDEMPOTENT: bool = false;

    /// What it is called in a store's [`Binding`](crate::Binding), so that rows of one monoid are
    /// not gone on with by another of the same value type. Default: nothing, which compares as
    /// equal.
    const NAME: &'static str = "";

    /// The value of a row to which nothing was added.
    fn identity(&self) -> Self::Value;

    /// Turns one record's input into a value.
    fn lift(&self, input: Self::Input) -> Self::Value;

    /// As [`lift`](Monoid::lift), where the value also depends on the record it came from.
    /// A pipeline calls this one; the default ignores `origin`.
    fn lift_from(&self, input: Self::Input, origin: Origin<'_>) -> Self::Value {
        let _ = origin;
        self.lift(input)
    }

    /// Combines `other` into `into`.
    ///
    /// # Errors
    ///
    /// [`Overflow`] if the result does not fit; `into` is unchanged then.
    fn combine(&self, into: &mut Self::Value, other: &Self::Value) -> Result<(), Overflow>;

    /// Whether `state` may be what live made of the items of which `recount` was made by a scan,
    /// which knows of no sequence number. The default: if they are equal. To be replaced where
    /// values depend on the record they [came from](Monoid::lift_from).
    fn agrees(&self, state: &Self::Value, recount: &Self::Value) -> bool {
        state == recount
    }
}

/// A monoid whose every value has an inverse, so that what was added can be taken back.
///
/// # Contract
///
/// `a` combined with `invert(a)` is the identity, wherever `invert` does not overflow.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be taken back, so `.retract()` and `.ledger()` are not for it",
    label = "no `Group`: its values have no inverse",
    note = "use `.at_least_once()` or `.exactly_once()`: what deletions leave behind stays (a maximum is the \
            maximum ever seen)"
)]
pub trait Group: Monoid {
    /// The value that undoes `value`.
    ///
    /// # Errors
    ///
    /// [`Overflow`] if the inverse does not fit (the negative of `i64::MIN`).
    fn invert(&self, value: &Self::Value) -> Result<Self::Value, Overflow>;
}

/// Monoids that are integer addition: a store may add with one atomic instruction.
pub trait Additive: Group<Value = i64> {}

/// Monoids that keep the greatest integer: a store may write only if greater.
pub trait KeepsGreatest: Monoid<Value = i64> {}

/// Monoids that keep the least integer: a store may write only if less.
pub trait KeepsLeast: Monoid<Value = i64> {}

/// Bytes in a state row are not an encoding this monoid knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot decode the stored value: {reason}")]
pub struct CodecError {
    reason: String,
}

impl CodecError {
    /// An error that says what was found and what was expected.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}

/// A monoid whose values can be kept as bytes.
///
/// # Contract
///
/// `decode(encode(v)) == v`, and equal values encode to equal bytes. The first byte names the
/// version of the encoding, so that a later release can read what an earlier one wrote.
pub trait Codec: Monoid {
    /// The value's bytes.
    fn encode(&self, value: &Self::Value) -> Vec<u8>;

    /// The value of these bytes.
    ///
    /// # Errors
    ///
    /// [`CodecError`] if the bytes are truncated, or of a version or kind not known here.
    fn decode(&self, bytes: &[u8]) -> Result<Self::Value, CodecError>;
}
