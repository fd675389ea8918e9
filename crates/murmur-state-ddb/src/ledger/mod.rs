//! The ledger: a row of the marker table for each source item says what the item contributes, and
//! is written in one transaction with the rows of state that change with it.
//!
//! A batch is worked on in rounds. Each reads what is known of the items that need it, lets the
//! rule table ([`mod@turn`]) say what changes, packs the changes into transactions ([`pack`]) and sends
//! them ([`mod@write`]); what a refusal taught is the beginning of the next round. Changes of settled items
//! count by their ids in the end. The argument why that is exact is in ARCHITECTURE.md.

mod batch;
mod books;
mod entry;
mod pack;
mod rounds;
mod settled;
mod turn;
mod write;

pub(crate) use books::Books;
pub(crate) use settled::Settled;
pub(crate) use turn::Entry;
