//! How fast a source is read.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use murmur_core::audit::Pacing;
use murmur_state::{Clock, OptionError};

use crate::source::{Description, Page};

/// The name of the option.
const OPTION: &str = "read_budget";

/// Rows of the first page, while the cost of a row is not known.
const FIRST_PAGE: f64 = 16.0;

/// How much unused budget may be made up for, so that a timer that fires late loses nothing.
const CREDIT: Duration = Duration::from_millis(100);

/// How fast a source may be read, in the read units that it says its pages cost
/// ([`Page::read_units`]).
///
/// The budget covers all segments that this process reads together; each worker has its own budget.
/// Over any minute the process exceeds it by at most the last page, which is sized to cost about
/// one second's worth: the cost of a page is known only afterwards, and reading then pauses until
/// it is paid for. The first page is small, and read alone.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum ReadBudget {
    /// As fast as source and pipelines allow. The default.
    #[default]
    Unlimited,
    /// At most this many read units a second; above zero.
    UnitsPerSecond(f64),
    /// At most this percentage of the table's provisioned read units, above 0 and up to 100.
    /// Refused if the table is billed by request.
    PercentOfProvisioned(f64),
}

/// Whether a page may be requested.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum May {
    /// Now.
    Begin,
    /// After a while.
    Wait(Duration),
    /// Not before the cost of the page that is being read is known.
    Learn,
}

/// The units set aside for a page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reserved {
    /// How many rows it may examine.
    pub(crate) limit: Option<NonZeroU32>,
    units: f64,
}

/// Keeps a budget: time has to pay for everything that was read, or set aside for a page that is
/// being read, before the next page begins.
#[derive(Debug)]
pub(crate) struct ReadPacer {
    /// `None` without a limit.
    per_second: Option<f64>,
    /// The moment at which everything is paid for, in seconds of the monotonic clock.
    paid_at: f64,
    reading: u32,
    units: f64,
    rows: f64,
    /// The most rows that any page examined.
    longest: f64,
}

impl ReadPacer {
    /// Checks the budget itself.
    pub(crate) fn check(budget: ReadBudget) -> Result<(), OptionError> {
        let (value, most, unit) = match budget {
            ReadBudget::Unlimited => return Ok(()),
            ReadBudget::UnitsPerSecond(units) => (units, f64::MAX, "read units a second"),
            ReadBudget::PercentOfProvisioned(percent) => (percent, 100.0, "percent"),
        };
        // NaN fails both comparisons.
        if value > 0.0 && value <= most {
            return Ok(());
        }
        let most = if most < f64::MAX {
            " and up to 100"
        } else {
            ""
        };
        let reason = format!("{value} {unit} is no budget; give a number above 0{most}");
        Err(OptionError::new(OPTION, reason))
    }

    pub(crate) fn new(
        budget: ReadBudget,
        source_name: &str,
        description: &Description,
    ) -> Result<Self, OptionError> {
        Self::check(budget)?;
        let per_second = match (budget, description.provisioned_read_units) {
            (ReadBudget::Unlimited, _) => None,
            (ReadBudget::UnitsPerSecond(units), _) => Some(units),
            (ReadBudget::PercentOfProvisioned(percent), Some(units)) => {
                Some(units * percent / 100.0)
            }
            (ReadBudget::PercentOfProvisioned(percent), None) => {
                let reason = format!(
                    "`{source_name}` has no known provisioned read units to take {percent} % of, as \
                     it is billed by request, or does not say; give units a second \
                     (`UnitsPerSecond`)"
                );
                return Err(OptionError::new(OPTION, reason));
            }
        };
        Ok(Self {
            per_second,
            paid_at: 0.0,
            reading: 0,
            units: 0.0,
            rows: 0.0,
            longest: 0.0,
        })
    }

    pub(crate) fn may(&self, now: Duration) -> May {
        if self.per_second.is_none() {
            return May::Begin;
        }
        if self.longest == 0.0 && self.reading > 0 {
            return May::Learn;
        }
        self.rest(now).map_or(May::Begin, May::Wait)
    }

    /// How many units a second there are; `None` without a limit.
    pub(crate) fn per_second(&self) -> Option<f64> {
        self.per_second
    }

    /// How long reading pauses until everything is paid for; `None` if it is.
    pub(crate) fn rest(&self, now: Duration) -> Option<Duration> {
        self.per_second?;
        rest(self.paid_at, now)
    }

    /// Adds the cost of other reads, or subtracts what they cost less than expected.
    pub(crate) fn spend(&mut self, now: Duration, units: f64) {
        if let Some(per_second) = self.per_second {
            self.paid_at = from(self.paid_at, now) + units / per_second;
        }
    }

    /// Begins a page.
    pub(crate) fn begin(&mut self, now: Duration) -> Reserved {
        let Some(per_second) = self.per_second else {
            return Reserved {
                limit: None,
                units: 0.0,
            };
        };
        self.reading += 1;
        // Pages grow step by step, since the source's own page size may cut them off.
        let (rows, units) = if self.longest == 0.0 {
            (FIRST_PAGE, 0.0)
        } else {
            // If pages cost nothing, only their growth is limited.
            let per_row = self.units / self.rows;
            let rows = (per_second / per_row)
                .min(2.0 * self.longest)
                .floor()
                .max(1.0);
            (rows, rows * per_row)
        };
        self.paid_at = from(self.paid_at, now) + units / per_second;
        // Saturates, as casts of floats do.
        let limit = NonZeroU32::new(rows as u32);
        Reserved { limit, units }
    }

    /// Ends a page. An error if its cost is not known, because then no budget can be kept.
    pub(crate) fn came(
        &mut self,
        reserved: Reserved,
        page: &Page,
        source_name: &str,
    ) -> Result<(), OptionError> {
        let Some(per_second) = self.per_second else {
            return Ok(());
        };
        self.reading = self.reading.saturating_sub(1);
        let Some(units) = page.read_units else {
            let reason =
                format!("the cost of pages of `{source_name}` is not known; leave the budget out");
            return Err(OptionError::new(OPTION, reason));
        };
        self.units += units;
        self.rows += page.examined as f64;
        self.longest = self.longest.max(page.examined as f64);
        self.paid_at += (units - reserved.units) / per_second;
        Ok(())
    }

    /// Ends a page that failed.
    pub(crate) fn gave_up(&mut self) {
        self.reading = self.reading.saturating_sub(1);
    }
}

/// The moment from which the next read has to be paid for.
fn from(paid_at: f64, now: Duration) -> f64 {
    paid_at.max(now.as_secs_f64() - CREDIT.as_secs_f64())
}

fn rest(paid_at: f64, now: Duration) -> Option<Duration> {
    let early = paid_at - CREDIT.as_secs_f64() - now.as_secs_f64();
    let rest = Duration::try_from_secs_f64(early).ok();
    rest.filter(|rest| !rest.is_zero())
}

/// The assumed cost of the first part of a listing: 1 MB, read consistently.
const FIRST_PART: f64 = 128.0;

/// How long a listing pauses before it checks again whether it may go on, because another part may
/// have cost less than was set aside.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Keeps a budget for parts of listings, whose size cannot be chosen: for each part under way, the
/// cost of the last part is set aside.
pub(crate) struct Account {
    clock: Arc<dyn Clock>,
    per_second: Option<f64>,
    books: Mutex<Books>,
}

struct Books {
    paid_at: f64,
    /// The cost of the last part.
    last: f64,
    under_way: f64,
    reserved: f64,
}

impl Account {
    pub(crate) fn new(per_second: Option<f64>, clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            per_second,
            books: Mutex::new(Books {
                paid_at: 0.0,
                last: FIRST_PART,
                under_way: 0.0,
                reserved: 0.0,
            }),
        }
    }

    /// Sets aside the cost of a part, or returns how long to pause first.
    fn begin(&self, per_second: f64) -> Option<Duration> {
        let now = self.clock.monotonic();
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rest) = rest(books.paid_at, now) {
            return Some(rest);
        }
        books.paid_at = from(books.paid_at, now) + books.last / per_second;
        books.reserved += books.last;
        books.under_way += 1.0;
        None
    }
}

impl Pacing for Account {
    fn before(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let Some(per_second) = self.per_second else {
                return;
            };
            while let Some(rest) = self.begin(per_second) {
                self.clock.sleep(rest.min(LOOK_AGAIN)).await;
            }
        })
    }

    fn after(&self, read_units: Option<f64>) {
        let Some(per_second) = self.per_second else {
            return;
        };
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let reserved = books.reserved / books.under_way.max(1.0);
        let units = read_units.unwrap_or_default();
        books.reserved -= reserved;
        books.under_way -= 1.0;
        books.paid_at += (units - reserved) / per_second;
        // The dearest so far: a part that cost little says nothing of the next.
        books.last = books.last.max(units);
    }
}

impl ReadBudget {
    /// What keeps an [audit](murmur_core::Processor::audit) to this budget, which is then for the
    /// tables that it lists, ledger and state together. A store that does not know what its
    /// listings cost is not held back.
    ///
    /// # Errors
    ///
    /// [`OptionError`] for a budget that cannot be kept, or is a percentage: there are two tables.
    pub fn pacing(self, clock: Arc<dyn Clock>) -> Result<Arc<dyn Pacing>, OptionError> {
        ReadPacer::check(self)?;
        match self {
            Self::Unlimited => Ok(Arc::new(Account::new(None, clock))),
            Self::UnitsPerSecond(units) => Ok(Arc::new(Account::new(Some(units), clock))),
            Self::PercentOfProvisioned(_) => {
                let reason = "an audit lists several tables; give units a second";
                Err(OptionError::new(OPTION, reason))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(rows: u64, units: f64) -> Page {
        Page {
            examined: rows,
            read_units: Some(units),
            ..Page::default()
        }
    }

    fn pace(units: f64) -> ReadPacer {
        let budget = ReadBudget::UnitsPerSecond(units);
        ReadPacer::new(budget, "orders", &Description::default()).unwrap()
    }

    #[test]
    fn a_budget_that_cannot_be_kept_is_named() {
        let units = ReadBudget::UnitsPerSecond;
        let percent = ReadBudget::PercentOfProvisioned;
        for budget in [
            units(0.0),
            units(-1.0),
            units(f64::NAN),
            units(f64::INFINITY),
            percent(0.0),
            percent(100.1),
            percent(f64::NAN),
        ] {
            let error = ReadPacer::check(budget).unwrap_err();
            assert_eq!(error.option, OPTION, "{budget:?}");
        }
        for budget in [units(0.5), percent(100.0), ReadBudget::Unlimited] {
            ReadPacer::check(budget).unwrap();
        }
    }

    #[test]
    fn a_percentage_is_of_what_is_provisioned() {
        let mut described = Description::default();
        let budget = ReadBudget::PercentOfProvisioned(25.0);
        let error = ReadPacer::new(budget, "orders", &described).unwrap_err();
        assert!(error.reason.contains("UnitsPerSecond"), "{error}");
        described.provisioned_read_units = Some(400.0);
        let pace = ReadPacer::new(budget, "orders", &described).unwrap();
        assert_eq!(pace.per_second, Some(100.0));
    }

    #[test]
    fn the_first_page_is_small_and_alone_and_the_next_ones_grow_to_a_seconds_worth() {
        let (mut pace, now) = (pace(10.0), Duration::ZERO);
        assert_eq!(pace.may(now), May::Begin);
        let reserved = pace.begin(now);
        assert_eq!(reserved.limit, NonZeroU32::new(16));
        assert_eq!(pace.may(now), May::Learn);
        // A tenth of a unit a row: 100 rows are a second's worth.
        pace.came(reserved, &page(16, 1.6), "orders").unwrap();
        let mut limits = Vec::new();
        let mut now = Duration::ZERO;
        for _ in 0..5 {
            while let May::Wait(wait) = pace.may(now) {
                now += wait;
            }
            let reserved = pace.begin(now);
            let rows = reserved.limit.unwrap().get();
            limits.push(rows);
            let page = page(rows.into(), f64::from(rows) / 10.0);
            pace.came(reserved, &page, "orders").unwrap();
        }
        assert_eq!(limits[..2], [32, 64]);
        assert!(limits[2..].iter().all(|rows| (99..=100).contains(rows)));
    }

    #[test]
    fn what_was_read_is_paid_for_before_more_is_read() {
        let mut pace = pace(10.0);
        let reserved = pace.begin(Duration::ZERO);
        pace.came(reserved, &page(16, 50.0), "orders").unwrap();
        let May::Wait(wait) = pace.may(Duration::ZERO) else {
            panic!("it does not wait");
        };
        assert!(
            wait.abs_diff(Duration::from_millis(4800)) <= CREDIT,
            "{wait:?}"
        );
        assert_eq!(pace.may(Duration::from_secs(5)), May::Begin);
    }

    #[test]
    fn a_source_that_does_not_say_what_it_costs_has_no_budget() {
        let mut pace = pace(10.0);
        let reserved = pace.begin(Duration::ZERO);
        let error = pace.came(reserved, &Page::default(), "orders").unwrap_err();
        assert!(error.reason.contains("`orders`"), "{error}");
    }
}
