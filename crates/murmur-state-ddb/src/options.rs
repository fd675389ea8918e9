use std::sync::Arc;
use std::time::Duration;

use murmur_state::{Clock, OptionError, Random, SystemClock, Tokens};

use crate::attribute::ITEM_LIMIT;
use crate::once::{Element, Rules};

/// How a store or deduper talks to its table; the same for all of them.
///
/// Checked by the constructor that takes it, which names an option that cannot be used.
///
/// ```
/// # use std::time::Duration;
/// # use murmur_state_ddb::TableOptions;
/// let options = TableOptions::default().concurrency(32).attempt_timeout(Duration::from_secs(2));
/// ```
#[derive(Debug, Clone)]
pub struct TableOptions {
    pub(crate) concurrency: usize,
    pub(crate) consistent_reads: bool,
    pub(crate) attempt_timeout: Duration,
    pub(crate) row_budget: usize,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Random,
    pub(crate) tokens: Tokens,
    pub(crate) rules: Rules,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self {
            concurrency: 16,
            consistent_reads: true,
            attempt_timeout: Duration::from_secs(5),
            row_budget: 1024,
            clock: SystemClock::shared(),
            random: Random::new(),
            tokens: Tokens::new(),
            rules: Rules::default(),
        }
    }
}

impl TableOptions {
    /// How many writes a store and its clones have under way at a time, over all calls, and how
    /// many reads one call: distinct keys are written concurrently, one key's entries always in
    /// order. At least 1.
    ///
    /// Default 16. More is faster until the client's connections or the table's capacity are
    /// used up. While the table throttles, fewer writes are let begin: half as many as were under
    /// way, then one more for each time that all of them went well.
    #[must_use]
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Lets `get_many` answer with what was there a moment ago: half the read units, and a read
    /// after a write may miss it. What a merge reads for itself stays consistent.
    ///
    /// Default: strongly consistent, one read unit per 4 KB.
    #[must_use]
    pub fn eventually_consistent_reads(mut self) -> Self {
        self.consistent_reads = false;
        self
    }

    /// How long one request may take before it is given up; less where a deadline leaves less.
    /// A write given up may have been applied. Above zero.
    ///
    /// Default 5 s. Shorter finds a dead connection sooner, and gives up slow answers.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// How many bytes a state row may have, with the ids of events that exactly-once keeps in it,
    /// before the older ids go to pages of the marker table. A row whose value takes more gets as
    /// many times the budget as it needs. From 21, the bytes of one id, to 409,600, what an item holds.
    /// It decides nothing but cost: processes may differ, and it can be changed at any time.
    ///
    /// Default 1,024: what a write unit pays for. More costs a unit more for each further KB and
    /// write, and saves less than that in pages.
    #[must_use]
    pub fn row_budget(mut self, bytes: usize) -> Self {
        self.row_budget = bytes;
        self
    }

    /// The clock that waits, judges expiry and is compared with deadlines: it must be the clock
    /// the caller's [`Deadline`](murmur_state::Deadline)s were made on.
    ///
    /// Default [`SystemClock`].
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where jitter comes from.
    ///
    /// Default: seeded by the system.
    #[must_use]
    pub fn random(mut self, random: Random) -> Self {
        self.random = random;
        self
    }

    /// Where write tokens come from, which no two processes may share: only tests should change it.
    ///
    /// Default: the operating system, each time.
    #[must_use]
    pub fn tokens(mut self, tokens: Tokens) -> Self {
        self.tokens = tokens;
        self
    }

    /// Other numbers for the exactly-once protocol; those of the marker table's options count.
    #[cfg(feature = "flaws")]
    #[doc(hidden)]
    #[must_use]
    pub fn rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }

    pub(crate) fn validate(&self) -> Result<(), OptionError> {
        if self.concurrency == 0 {
            return Err(OptionError::new("concurrency", "must be at least 1"));
        }
        if self.attempt_timeout.is_zero() {
            return Err(OptionError::new(
                "attempt_timeout",
                "must be above zero, such as 5 s",
            ));
        }
        let budgets = Element::BYTES..=ITEM_LIMIT;
        if !budgets.contains(&self.row_budget) {
            return Err(OptionError::new(
                "row_budget",
                format!(
                    "must be from {} bytes, what one id takes, to {}, what an item holds; the \
                     default of 1,024 is what a write unit pays for",
                    budgets.start(),
                    budgets.end()
                ),
            ));
        }
        Ok(())
    }
}
