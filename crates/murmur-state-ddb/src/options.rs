use std::sync::Arc;
use std::time::Duration;

use murmur_state::time::{Random, SystemClock};
use murmur_state::tokens::Tokens;
use murmur_state::{Clock, OptionError};

use crate::attribute::ITEM_LIMIT;
use crate::once::{Element, Rules};

/// How a store or deduper makes its requests. All of them take the same options.
///
/// The constructor that takes the options checks them, and its error names an option that is not
/// valid.
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
    /// How many writes a store and its clones make at the same time, over all calls, and how many
    /// reads one call makes at the same time. Distinct keys are written concurrently; the entries
    /// of one key are always written in order. Must be at least 1.
    ///
    /// Default 16. A higher number is faster until the client's connections or the table's capacity
    /// are used up. While the table throttles, fewer writes are started: half as many as were
    /// running, then one more each time all of them succeed.
    #[must_use]
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }

    /// Lets `get_many` read eventually consistently, for half the read units. A read after a write
    /// may then miss the write. Reads that a merge makes stay strongly consistent.
    ///
    /// Default: strongly consistent, one read unit per 4 KB.
    #[must_use]
    pub fn eventually_consistent_reads(mut self) -> Self {
        self.consistent_reads = false;
        self
    }

    /// How long one request may take before the store gives it up. A closer deadline shortens it. A
    /// write that was given up may have been applied. Must be above zero.
    ///
    /// Default 5 s. A shorter time detects a dead connection sooner, but gives up slow answers.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// The size in bytes of a state row, including the event ids that exactly-once mode keeps in
    /// it, above which the older ids are written to pages of the marker table. A row whose value
    /// alone is larger gets as many times the budget as it needs. From 21, the bytes of one id, to
    /// 409,600, the size limit of an item. It affects cost only: processes may differ, and it can
    /// be changed at any time.
    ///
    /// Default 1,024, the size that one write unit covers. Each further KB costs one more unit per
    /// write and saves less than that in pages.
    #[must_use]
    pub fn row_budget(mut self, bytes: usize) -> Self {
        self.row_budget = bytes;
        self
    }

    /// The clock for waits, expiry and deadlines. It must be the clock on which the caller's
    /// [`Deadline`](murmur_state::Deadline)s were made.
    ///
    /// Default [`SystemClock`].
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The source of random jitter.
    ///
    /// Default: seeded by the system.
    #[must_use]
    pub fn random(mut self, random: Random) -> Self {
        self.random = random;
        self
    }

    /// The source of write tokens, which must differ between processes. Only tests should change
    /// it.
    ///
    /// Default: the operating system, for each token.
    #[must_use]
    pub fn tokens(mut self, tokens: Tokens) -> Self {
        self.tokens = tokens;
        self
    }

    /// Other numbers for the exactly-once protocol. The marker table's options decide.
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
                    "must be from {} bytes, the size of one id, to {}, the size limit of an item; \
                     the default of 1,024 is what one write unit covers",
                    budgets.start(),
                    budgets.end()
                ),
            ));
        }
        Ok(())
    }
}
