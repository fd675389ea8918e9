use std::fmt;

use murmur_state::Key;

/// How far the state of a key is off.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyDifference {
    /// The key.
    pub key: Key,
    /// How far it is off.
    pub difference: Difference,
}

impl fmt::Display for KeyDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.difference)
    }
}

/// How far a value is off. Values are shown in their `Debug` form.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// The state minus the correct value: `-500` is 500 too low, `500` is 500 too high.
    By(String),
    /// Both values, for types without subtraction.
    Values {
        /// The value in the state.
        state: String,
        /// The correct value.
        should_be: String,
    },
    /// The correct value is outside the range of its type.
    Overflow,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::By(by) => write!(f, "off by {by}"),
            Self::Values { state, should_be } => write!(f, "is {state}, should be {should_be}"),
            Self::Overflow => f.write_str("should be more than its type can hold"),
        }
    }
}

/// The difference of two values; `None` if it is outside the range of their type.
pub(super) fn shown<V: fmt::Debug>(by: Option<&V>) -> Difference {
    match by {
        Some(by) => Difference::By(format!("{by:?}")),
        None => Difference::Overflow,
    }
}
