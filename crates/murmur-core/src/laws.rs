//! Checks for the laws of a monoid, to run on your own.
//!
//! Each check takes values and returns the law that they break. Use any generator of values, such
//! as proptest:
//!
//! ```
//! use murmur_core::{Sum, laws};
//! use proptest::prelude::*;
//!
//! proptest!(|(a in any::<i32>(), b in any::<i32>(), c in any::<i32>())| {
//!     let [a, b, c] = [a, b, c].map(i64::from);
//!     laws::group(&Sum::new(), &a, &b, &c)?;
//! });
//! ```
//!
//! If a step overflows there is nothing to compare, and the law counts as kept. Values are compared
//! by `==`. A monoid whose equal states differ in form (a sketch) needs a `Value` whose `PartialEq`
//! compares its answers, not its bytes.

use std::fmt;

use murmur_state::monoid::Codec;
use murmur_state::{Group, Monoid};

/// A law that does not hold, with values that show it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{law} does not hold: {left} ≠ {right}")]
pub struct BrokenLaw {
    /// The law's name.
    pub law: &'static str,
    /// One side, in its `Debug` form.
    pub left: String,
    /// The other side.
    pub right: String,
}

fn equal<V: PartialEq + fmt::Debug>(
    law: &'static str,
    left: Option<V>,
    right: Option<V>,
) -> Result<(), BrokenLaw> {
    match (left, right) {
        (Some(left), Some(right)) if left != right => Err(BrokenLaw {
            law,
            left: format!("{left:?}"),
            right: format!("{right:?}"),
        }),
        _ => Ok(()),
    }
}

fn combine<M: Monoid>(monoid: &M, values: [&M::Value; 2]) -> Option<M::Value> {
    let mut all = values[0].clone();
    monoid.combine(&mut all, values[1]).ok().map(|()| all)
}

/// Checks associativity, identity and commutativity, and idempotence if the monoid claims it.
///
/// # Errors
///
/// [`BrokenLaw`]: the first one found.
pub fn monoid<M: Monoid>(
    monoid: &M,
    a: &M::Value,
    b: &M::Value,
    c: &M::Value,
) -> Result<(), BrokenLaw> {
    let join = |x: &M::Value, y: &M::Value| combine(monoid, [x, y]);
    equal(
        "associativity",
        join(a, b).and_then(|ab| join(&ab, c)),
        join(b, c).and_then(|bc| join(a, &bc)),
    )?;
    equal("commutativity", join(a, b), join(b, a))?;
    let identity = monoid.identity();
    equal("identity on the left", join(&identity, a), Some(a.clone()))?;
    equal("identity on the right", join(a, &identity), Some(a.clone()))?;
    if M::IDEMPOTENT {
        equal("idempotence", join(a, a), Some(a.clone()))?;
    }
    Ok(())
}

/// Checks the laws of [`monoid`], and that every value has an inverse.
///
/// # Errors
///
/// [`BrokenLaw`]: the first one found.
pub fn group<M: Group>(
    group: &M,
    a: &M::Value,
    b: &M::Value,
    c: &M::Value,
) -> Result<(), BrokenLaw> {
    monoid(group, a, b, c)?;
    for value in [a, b, c] {
        if let Ok(inverse) = group.invert(value) {
            equal(
                "inverse",
                combine(group, [value, &inverse]),
                Some(group.identity()),
            )?;
        }
    }
    Ok(())
}

/// Checks that decoding returns the encoded value, and that equal values have equal bytes.
///
/// # Errors
///
/// [`BrokenLaw`]: the first one found.
pub fn codec<M: Codec>(codec: &M, a: &M::Value, b: &M::Value) -> Result<(), BrokenLaw> {
    for value in [a, b, &codec.identity()] {
        let decoded = codec.decode(&codec.encode(value));
        equal("round trip", Some(decoded), Some(Ok(value.clone())))?;
    }
    if a == b {
        equal(
            "equal bytes for equal values",
            Some(codec.encode(a)),
            Some(codec.encode(b)),
        )?;
    }
    Ok(())
}
