use murmur_state::monoid::{Additive, KeepsGreatest, KeepsLeast, Overflow};
use murmur_state::{Group, Monoid};

/// The sum of integers.
///
/// Exact: a sum outside of `i64` is refused, not wrapped.
///
/// There is no sum of floats: float addition is not associative, so no total of it could be
/// promised. Keep amounts in their smallest unit; [`minor_units`](crate::decimal::minor_units)
/// converts decimals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(());

impl Sum {
    /// The sum of integers.
    pub const fn new() -> Self {
        Self(())
    }
}

/// The number of records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count(());

impl Count {
    /// The number of records.
    pub const fn new() -> Self {
        Self(())
    }
}

/// The smallest integer seen. A retracted or removed record does not undo it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Min(());

impl Min {
    /// The smallest integer seen.
    pub const fn new() -> Self {
        Self(())
    }
}

/// The largest integer seen. A retracted or removed record does not undo it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Max(());

impl Max {
    /// The largest integer seen.
    pub const fn new() -> Self {
        Self(())
    }
}

fn add(into: &mut i64, other: i64) -> Result<(), Overflow> {
    *into = into.checked_add(other).ok_or(Overflow)?;
    Ok(())
}

impl Monoid for Sum {
    type Input = i64;
    type Value = i64;
    const NAME: &'static str = "sum";

    fn identity(&self) -> i64 {
        0
    }

    fn lift(&self, input: i64) -> i64 {
        input
    }

    fn combine(&self, into: &mut i64, other: &i64) -> Result<(), Overflow> {
        add(into, *other)
    }
}

impl Group for Sum {
    fn invert(&self, value: &i64) -> Result<i64, Overflow> {
        value.checked_neg().ok_or(Overflow)
    }
}

impl Additive for Sum {}

impl Monoid for Count {
    type Input = ();
    type Value = i64;
    const NAME: &'static str = "count";

    fn identity(&self) -> i64 {
        0
    }

    fn lift(&self, (): ()) -> i64 {
        1
    }

    fn combine(&self, into: &mut i64, other: &i64) -> Result<(), Overflow> {
        add(into, *other)
    }
}

impl Group for Count {
    fn invert(&self, value: &i64) -> Result<i64, Overflow> {
        value.checked_neg().ok_or(Overflow)
    }
}

impl Additive for Count {}

impl Monoid for Min {
    type Input = i64;
    type Value = i64;
    const IDEMPOTENT: bool = true;
    const NAME: &'static str = "min";

    fn identity(&self) -> i64 {
        i64::MAX
    }

    fn lift(&self, input: i64) -> i64 {
        input
    }

    fn combine(&self, into: &mut i64, other: &i64) -> Result<(), Overflow> {
        *into = (*into).min(*other);
        Ok(())
    }
}

impl KeepsLeast for Min {}

impl Monoid for Max {
    type Input = i64;
    type Value = i64;
    const IDEMPOTENT: bool = true;
    const NAME: &'static str = "max";

    fn identity(&self) -> i64 {
        i64::MIN
    }

    fn lift(&self, input: i64) -> i64 {
        input
    }

    fn combine(&self, into: &mut i64, other: &i64) -> Result<(), Overflow> {
        *into = (*into).max(*other);
        Ok(())
    }
}

impl KeepsGreatest for Max {}
