//! How the values of a key are combined.

use std::fmt::Debug;

use crate::ids::SequenceNumber;

/// Two values could not be combined: the result does not fit the value's type.
///
/// Nothing is wrapped or saturated: a wrong total is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the combined value does not fit its type; keep such totals in a wider unit or split the key"
)]
pub struct Overflow;

/// The record that an input came from. It orders records whose user-given times are equal.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The record's event id.
    pub id: &'a str,
    /// Its sequence number; `None` for a scanned row.
    pub sequence: Option<&'a SequenceNumber>,
}

/// How the values of one key combine.
///
/// # Contract
///
/// For all values `a`, `b`, `c` for which no step overflows:
///
/// - `combine` is associative and **commutative**. Retries, shards and parallel segments bring the
///   records of a key in any order, so an order-sensitive fold is not a `Monoid`. ("First" and
///   "last" are minimum and maximum over a time that the user gives.)
/// - [`identity`](Monoid::identity) combined with `a` is `a`.
/// - If [`IDEMPOTENT`](Monoid::IDEMPOTENT) is true, `a` combined with `a` is `a`. Redelivery then
///   needs no bookkeeping, and Murmur writes none.
///
/// `murmur_core::laws` checks these laws on values that you choose.
pub trait Monoid: Clone + Send + Sync + 'static {
    /// The input from one record, before [`lift`](Monoid::lift).
    type Input;
    /// The value of a row.
    type Value: Clone + PartialEq + Debug + Send + Sync + 'static;

    /// Whether combining a value with itself changes nothing.
    const IDEMPOTENT: bool = false;

    /// The monoid's name in a store's [`Binding`](crate::store::Binding). It keeps another monoid of the
    /// same value type from continuing with the rows. Default: empty, which equals every other
    /// empty name.
    const NAME: &'static str = "";

    /// The value of a row without additions.
    fn identity(&self) -> Self::Value;

    /// Converts one record's input into a value.
    fn lift(&self, input: Self::Input) -> Self::Value;

    /// Like [`lift`](Monoid::lift), for values that also depend on the record they come from.
    /// Pipelines call this method; the default ignores `origin`.
    fn lift_from(&self, input: Self::Input, origin: Origin<'_>) -> Self::Value {
        let _ = origin;
        self.lift(input)
    }

    /// Combines `other` into `into`.
    ///
    /// # Errors
    ///
    /// [`Overflow`] if the result does not fit; `into` is then unchanged.
    fn combine(&self, into: &mut Self::Value, other: &Self::Value) -> Result<(), Overflow>;

    /// Whether `state`, made by stream processing, may come from the same items as `recount`, made
    /// by a scan, which knows no sequence numbers. Default: whether they are equal. Override it if
    /// values depend on the record they [come from](Monoid::lift_from).
    fn agrees(&self, state: &Self::Value, recount: &Self::Value) -> bool {
        state == recount
    }
}

/// A monoid with inverses: every addition can be taken back.
///
/// # Contract
///
/// `a` combined with `invert(a)` is the identity, unless `invert` overflows.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be taken back, so `.retract()` and `.ledger()` are not for it",
    label = "no `Group`: its values have no inverse",
    note = "use `.at_least_once()` or `.exactly_once()`: what deletions leave behind stays (a maximum is the \
            maximum ever seen)"
)]
pub trait Group: Monoid {
    /// The inverse of `value`.
    ///
    /// # Errors
    ///
    /// [`Overflow`] if the inverse does not fit (the negative of `i64::MIN`).
    fn invert(&self, value: &Self::Value) -> Result<Self::Value, Overflow>;
}

/// Monoids that are integer addition: a store may add with one atomic instruction.
pub trait Additive: Group<Value = i64> {}

/// Monoids that keep the greatest integer: a store may write only if the new value is greater.
pub trait KeepsGreatest: Monoid<Value = i64> {}

/// Monoids that keep the least integer: a store may write only if the new value is less.
pub trait KeepsLeast: Monoid<Value = i64> {}

/// Stored bytes are not an encoding that this monoid knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot decode the stored value: {reason}")]
pub struct CodecError {
    reason: String,
}

impl CodecError {
    /// An error with what was found and what was expected.
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
        }
    }
}

/// A monoid whose values can be stored as bytes.
///
/// # Contract
///
/// `decode(encode(v)) == v`, and equal values encode to equal bytes. The first byte is the version
/// of the encoding, so that a later release can read what an earlier one wrote.
pub trait Codec: Monoid {
    /// Encodes a value.
    fn encode(&self, value: &Self::Value) -> Vec<u8>;

    /// Decodes a value.
    ///
    /// # Errors
    ///
    /// [`CodecError`] if the bytes are truncated, or of an unknown version or kind.
    fn decode(&self, bytes: &[u8]) -> Result<Self::Value, CodecError>;
}
