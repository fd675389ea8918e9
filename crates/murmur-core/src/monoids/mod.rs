//! The built-in monoids.

mod dated;
mod element;
mod numeric;
mod set;

pub use dated::{ByTime, Dated, First, Last};
pub use element::Element;
pub use numeric::{Count, Max, Min, Sum};
pub use set::Set;
