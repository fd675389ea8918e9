//! The figures of the steady state: all of them, and the tables of `docs/costs.md`.

use std::fmt;

use super::super::workload::Keys;
use super::{BATCHES, LANES, Load, RATES, Run};

/// The cost of an event in the original, for any load: one unit each for a marker and a total.
const ORIGINAL: f64 = 2.0;

pub(in super::super) struct Tables<'a>(pub(in super::super) &'a [Run]);

impl Tables<'_> {
    fn run(&self, load: Load) -> Option<&Run> {
        self.0.iter().find(|run| run.load == load)
    }

    /// A Markdown table with a line per load and a column per batch size.
    fn table(
        &self,
        f: &mut fmt::Formatter<'_>,
        title: &str,
        cell: impl Fn(&Run) -> String,
    ) -> fmt::Result {
        write!(f, "\n{title}\n\n| keys | events/s | lanes |")?;
        for batch in BATCHES {
            write!(f, " {batch} |")?;
        }
        writeln!(f, "\n|---|---|---|{}", "---|".repeat(BATCHES.len()))?;
        for keys in Keys::ALL {
            for rate in RATES {
                for lanes in LANES {
                    write!(f, "| {keys} | {rate} | {lanes} |")?;
                    for batch in BATCHES {
                        let load = Load {
                            keys,
                            rate,
                            lanes,
                            batch,
                        };
                        let cell = self.run(load).map_or_else(String::new, &cell);
                        write!(f, " {cell} |")?;
                    }
                    writeln!(f)?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Tables<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nExactly-once in its steady state, in virtual time; of an event\n  {:<7} {:>5} {:>5} \
             {:>5} {:>7} {:>6} {:>6} {:>8} {:>6} {:>8} {:>6} {:>7} {:>7} {:>7} {:>8} {:>9}",
            "keys",
            "rate",
            "lanes",
            "batch",
            "events",
            "units",
            "WU",
            "refused",
            "RU",
            "requests",
            "rows",
            "pages",
            "rows r",
            "pages r",
            "depth",
            "$/month",
        )?;
        for run in self.0 {
            let Run {
                load,
                events,
                spent,
                units,
                round_trips,
                dollars_a_month,
            } = run;
            writeln!(
                f,
                "  {:<7} {:>5} {:>5} {:>5} {events:>7} {units:>6.3} {:>6.3} {:>8.3} {:>6.3} {:>8.3} \
                 {:>6.3} {:>7.4} {:>7.3} {:>7.4} {round_trips:>8.2} {dollars_a_month:>9.2}",
                load.keys,
                load.rate,
                load.lanes,
                load.batch,
                spent.write_units,
                spent.refused_units,
                spent.read_units,
                spent.requests,
                spent.row_writes,
                spent.page_writes,
                spent.row_reads,
                spent.page_reads,
            )?;
        }
        self.table(
            f,
            "Units an event (write units and a fifth of read units; in brackets the two), by the \
             size of batches; and the protocol before, original 2.00:",
            |run| {
                let before = run.load.before();
                let before = before.map_or_else(String::new, |units| format!("; {units:.2}"));
                format!(
                    "**{:.2}** ({:.2}, {:.2}){before}",
                    run.units, run.spent.write_units, run.spent.read_units
                )
            },
        )?;
        self.table(
            f,
            "Dollars a month (beside the original's), by the size of batches:",
            |run| {
                let original = run.load.dollars_a_month(ORIGINAL, 0.0);
                format!("{:.2} ({original:.2})", run.dollars_a_month)
            },
        )?;
        self.table(
            f,
            "Requests an event | round trips a batch, by the size of batches:",
            |run| format!("{:.2} \\| {:.2}", run.spent.requests, run.round_trips),
        )
    }
}
