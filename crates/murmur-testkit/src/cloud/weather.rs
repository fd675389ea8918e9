//! The faults that may occur, and their rates.

use std::ops::RangeInclusive;
use std::time::Duration;

const MILLI: Duration = Duration::from_millis(1);

/// The faults that may occur between a client and its DynamoDB, and the speed of both.
///
/// Rates are shares of the requests that read or write items, 0.0 to 1.0. At most one fault strikes
/// a request, so the rates sum to at most 1. Requests for tables (creating, describing) and Streams
/// requests meet no faults. Times are tokio's, rounded up to milliseconds, and meant for a paused
/// clock. [Over a real server](super::Cloud::over) nothing waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Weather {
    /// Not applied; the answer is a 500.
    pub fail_before: f64,
    /// Not applied; the connection breaks.
    pub drop_before: f64,
    /// Applied; the answer is replaced by a 500.
    pub fail_after: f64,
    /// Applied; the connection breaks before the answer.
    pub drop_after: f64,
    /// Applied; no answer arrives until the client gives up. Without timeouts the connection breaks
    /// after an hour.
    pub hang_after: f64,
    /// No answer arrives, and the request is delayed by a time from [`stall_for`](Self::stall_for).
    /// Then it is applied, even if its client has given up.
    pub stall: f64,
    /// Not applied: throttled. A part of a batch request may be left unprocessed instead.
    pub throttle: f64,
    /// Not applied: refused as if a transaction held one of its items. Reads outside of
    /// transactions never conflict, so they are served.
    pub conflict: f64,
    /// The process's credentials provider times out, from the next request on, for a time from
    /// [`spell_for`](Self::spell_for). No request can be signed during that time.
    pub unsigned: f64,
    /// The process's credentials are refused, from this request on, for a time from
    /// [`spell_for`](Self::spell_for).
    pub refused: f64,
    /// The set-up is wrong for all processes, from this request on, for a time from
    /// [`spell_for`](Self::spell_for): as if the table had an invalid name or another key schema.
    /// Requests are refused with a `ValidationException`.
    pub misfit: f64,
    /// A read that does not ask for consistency returns items as they were up to a time from
    /// [`stale_for`](Self::stale_for) ago. This rate is independent of the others, because such a
    /// read is answered.
    pub stale: f64,
    /// How old the data of a stale read may be. Default: up to a minute.
    pub stale_for: RangeInclusive<Duration>,
    /// How long a spell lasts. Default: 1 s to 2 minutes.
    pub spell_for: RangeInclusive<Duration>,
    /// How long a stalled request is delayed. Default: up to 15 minutes.
    pub stall_for: RangeInclusive<Duration>,
    /// How long each direction takes. Default: nothing.
    pub latency: RangeInclusive<Duration>,
    /// How long a transaction holds its items. A transaction or a plain write that meets a held
    /// item is refused with a conflict. Default: nothing, so conflicts only arise by chance.
    pub hold: Duration,
    /// How long a plain write keeps its item busy; writes to one item queue. Default: nothing.
    pub service: Duration,
    /// The write units per second that one item accepts before it throttles. AWS: 1,000 for a
    /// partition, which may be a single item. Default: no limit.
    pub partition_limit: Option<f64>,
}

impl Weather {
    /// No faults and no delays.
    pub fn calm() -> Self {
        Self {
            fail_before: 0.0,
            drop_before: 0.0,
            fail_after: 0.0,
            drop_after: 0.0,
            hang_after: 0.0,
            stall: 0.0,
            throttle: 0.0,
            conflict: 0.0,
            unsigned: 0.0,
            refused: 0.0,
            misfit: 0.0,
            stale: 0.0,
            stale_for: MILLI..=Duration::from_secs(60),
            spell_for: Duration::from_secs(1)..=Duration::from_secs(120),
            stall_for: MILLI..=Duration::from_secs(15 * 60),
            latency: Duration::ZERO..=Duration::ZERO,
            hold: Duration::ZERO,
            service: Duration::ZERO,
            partition_limit: None,
        }
    }

    /// 2 % of the answers are lost after the request was applied.
    pub fn lossy() -> Self {
        Self {
            fail_after: 0.008,
            drop_after: 0.008,
            hang_after: 0.004,
            ..Self::calm()
        }
    }

    /// Everything at once: one request in five meets a fault, answers take 1 to 20 ms each way, and
    /// transactions hold their items for 15 ms.
    pub fn storm() -> Self {
        Self {
            fail_before: 0.02,
            drop_before: 0.02,
            fail_after: 0.03,
            drop_after: 0.03,
            hang_after: 0.02,
            stall: 0.02,
            throttle: 0.03,
            conflict: 0.03,
            latency: MILLI..=20 * MILLI,
            hold: 15 * MILLI,
            service: MILLI,
            stale: 0.1,
            ..Self::calm()
        }
    }

    /// The rates, in a fixed order.
    pub(super) fn rates(&self) -> [(super::Fault, f64); 11] {
        use super::Fault;
        [
            (Fault::FailBefore, self.fail_before),
            (Fault::DropBefore, self.drop_before),
            (Fault::FailAfter, self.fail_after),
            (Fault::DropAfter, self.drop_after),
            (Fault::HangAfter, self.hang_after),
            (Fault::Stall, self.stall),
            (Fault::Throttle, self.throttle),
            (Fault::Conflict, self.conflict),
            (Fault::Unsigned, self.unsigned),
            (Fault::Refused, self.refused),
            (Fault::Misfit, self.misfit),
        ]
    }

    pub(super) fn check(&self) {
        let rates = self.rates();
        let sum: f64 = rates.iter().map(|(_, rate)| rate).sum();
        let mut each = rates.iter().map(|(_, rate)| *rate).chain([self.stale]);
        let each = each.all(|rate| (0.0..=1.0).contains(&rate));
        assert!(
            each && sum <= 1.0 + 1e-9,
            "the rates of a weather are 0 to 1 each and at most 1 together: {self:?}"
        );
    }
}

impl Default for Weather {
    fn default() -> Self {
        Self::calm()
    }
}
