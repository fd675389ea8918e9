use std::fmt;

use murmur_state::Key;

/// How far the state of a key is from what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDifference {
    /// The key.
    pub key: Key,
    /// How far.
    pub difference: Difference,
}

impl fmt::Display for KeyDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.difference)
    }
}

/// How far a value is from what it should be. Values are shown as their `Debug` has them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// The state less what it should be: `-500` lacks 500, `500` has so much too many.
    By(String),
    /// What it is and what it should be, where one cannot be taken from the other.
    Values {
        /// What the state says.
        state: String,
        /// What it should say.
        should_be: String,
    },
    /// What it should be leaves the range of its type.
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

/// A difference of two values that have one, or one that leaves the range of its type.
pub(super) fn shown<V: fmt::Debug>(by: Option<&V>) -> Difference {
    match by {
        Some(by) => Difference::By(format!("{by:?}")),
        None => Difference::Overflow,
    }
}
