//! The ledger: for each source item, a row of the marker table says what the item contributes. It
//! is written in one transaction with the state rows that change with it.
//!
//! A batch is processed in rounds. Each round reads what is known about the items that need it,
//! lets the rule table ([`mod@turn`]) decide what changes, packs the changes into transactions
//! ([`pack`]) and sends them ([`mod@write`]). The next round starts from what a refusal returned.
//! Changes of settled items are counted at the end, by their ids. ARCHITECTURE.md has the argument
//! why this is exact.

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
