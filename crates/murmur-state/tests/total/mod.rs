//! The monoid that the tests keep in stores.

use murmur_state::monoid::Overflow;
use murmur_state::{Group, Monoid};

#[derive(Clone, Debug)]
pub(crate) struct Total;

impl Monoid for Total {
    type Input = i64;
    type Value = i64;
    fn identity(&self) -> i64 {
        0
    }
    fn lift(&self, input: i64) -> i64 {
        input
    }
    fn combine(&self, into: &mut i64, other: &i64) -> Result<(), Overflow> {
        *into = into.checked_add(*other).ok_or(Overflow)?;
        Ok(())
    }
}

impl Group for Total {
    fn invert(&self, value: &i64) -> Result<i64, Overflow> {
        value.checked_neg().ok_or(Overflow)
    }
}
