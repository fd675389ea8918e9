//! Formats the figures for people, each with its target.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::pipeline::Mode;
use super::server::Speed;
use super::workload::Keys;
use super::{bootstrap, memory, processor, server, settling, steady, trigger, writers};

/// The Go original, measured on two cores over DynamoDB Local when the targets were set: the better
/// end of each range.
const ORIGINAL: Original = Original {
    source: "murmur in Go, two cores, DynamoDB Local",
    with_dedup: Cost {
        events_per_second: 713.0,
        cpu_per_event: 554.0,
        requests_per_event: 2.0,
        write_units_per_event: 2.0,
        processor_nanoseconds: 457.0,
    },
    without_dedup: Cost {
        events_per_second: 1_327.0,
        cpu_per_event: 273.0,
        requests_per_event: 1.0,
        write_units_per_event: 1.0,
        processor_nanoseconds: 91.0,
    },
    bootstrap: Fill {
        rows_per_second: 721.0,
        write_units_per_row: 2.0,
    },
};

#[derive(Debug, Clone, Copy, Serialize)]
struct Original {
    source: &'static str,
    with_dedup: Cost,
    without_dedup: Cost,
    bootstrap: Fill,
}

/// A bootstrap with deduplication, which is not exact on a table that is being written to.
#[derive(Debug, Clone, Copy, Serialize)]
struct Fill {
    rows_per_second: f64,
    write_units_per_row: f64,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Cost {
    events_per_second: f64,
    cpu_per_event: f64,
    requests_per_event: f64,
    write_units_per_event: f64,
    processor_nanoseconds: f64,
}

/// All measurements.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    quick: bool,
    cores: usize,
    original: Original,
    pub(super) processor: Option<processor::Figures>,
    pub(super) server: Option<server::Figures>,
    pub(super) trigger: Option<trigger::Figures>,
    pub(super) bootstrap: Option<bootstrap::Figures>,
    pub(super) memory: Option<Vec<memory::Run>>,
    pub(super) steady: Option<Vec<steady::Run>>,
    pub(super) settling: Option<Vec<settling::Run>>,
    pub(super) writers: Option<Vec<writers::Run>>,
}

/// A figure with its target.
#[derive(Debug, Serialize)]
struct Target {
    what: String,
    goal: String,
    reached: f64,
    met: bool,
    /// Whether the figure is (nearly) the same on any machine. Missing its target is a failure
    /// then.
    counted: bool,
}

impl Target {
    fn at_most(what: impl Into<String>, limit: f64, reached: f64) -> Self {
        Self {
            what: what.into(),
            goal: format!("≤ {limit}"),
            reached,
            met: reached <= limit,
            counted: false,
        }
    }

    fn at_least(what: impl Into<String>, limit: f64, reached: f64) -> Self {
        Self {
            what: what.into(),
            goal: format!("≥ {limit}"),
            reached,
            met: reached >= limit,
            counted: false,
        }
    }

    fn counted(mut self) -> Self {
        self.counted = true;
        self
    }
}

impl Report {
    pub(super) fn new(quick: bool) -> Self {
        Self {
            quick,
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            original: ORIGINAL,
            processor: None,
            server: None,
            trigger: None,
            bootstrap: None,
            memory: None,
            steady: None,
            settling: None,
            writers: None,
        }
    }

    /// Whether all counted figures meet their targets.
    pub(super) fn counts_are_met(&self) -> bool {
        self.targets()
            .iter()
            .all(|target| target.met || !target.counted)
    }

    /// Writes all figures to a file.
    pub(super) fn save(&self, path: &Path) -> Result<()> {
        let mut figures = serde_json::to_value(self)?;
        figures["targets"] = serde_json::to_value(self.targets())?;
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let text = serde_json::to_string_pretty(&figures)?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }

    fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        for (batch, limit) in [(100, 100.0), (10_000, 50.0)] {
            let group = self.processor.as_ref();
            let group = group.and_then(|figures| figures.get("processor_at_least_once"));
            if let Some(nanoseconds) = group.and_then(|group| group.get(&batch)) {
                let what = format!("processor, at-least-once, ns/event, batches of {batch}");
                targets.push(Target::at_most(what, limit, *nanoseconds));
            }
        }
        for run in self.server.iter().flat_map(|server| &server.runs) {
            if run.mode == Mode::ExactlyOnce && run.batch > 1 {
                targets.extend(of_server(run));
            }
        }
        targets.extend(self.bootstrap.iter().flat_map(of_bootstrap));
        for runs in self.memory.iter().flat_map(|runs| runs.chunks(2)) {
            targets.extend(of_memory(runs));
        }
        for run in self.steady.iter().flatten() {
            let what = format!("exactly-once, {}: units/event", run.load);
            let target = Target::at_most(what, run.load.target(), run.units);
            targets.push(target.counted());
        }
        for run in self.settling.iter().flatten() {
            let of = |what| format!("{}: units more, {what}", run.load);
            let later = Target::at_most(of("settled"), settling::MOST, run.more());
            let first = Target::at_most(of("at first"), settling::MOST_AT_FIRST, run.first_more());
            targets.extend([later.counted(), first.counted()]);
        }
        targets
    }
}

fn of_bootstrap(figures: &bootstrap::Figures) -> Vec<Target> {
    let what = "scan: rows/s to the bare SDK's";
    vec![Target::at_least(what, 0.9, figures.scan.ratio)]
}

/// The same work for few keys and for many.
fn of_memory(runs: &[memory::Run]) -> Option<Target> {
    let [few, many] = runs else { return None };
    let ratio = many.peak_mb? / few.peak_mb?;
    let what = format!(
        "memory, {}: the peak at {} keys to that at {}",
        many.work, many.keys, few.keys
    );
    // Memory kept per key would make it several times as much.
    Some(Target::at_most(what, 1.25, ratio).counted())
}

fn of_server(run: &server::Run) -> Vec<Target> {
    let server::Run { keys, batch, .. } = run;
    let of = format!("exactly-once, {keys}, batches of {batch}");
    let mut targets = vec![Target::at_least(
        format!("{of}: events/s to the bare loop's"),
        0.85,
        run.ratio,
    )];
    if *batch == 100 {
        let times = match keys {
            Keys::Zipf => 3.5,
            Keys::Uniform => 2.5,
        };
        let original = ORIGINAL.with_dedup.events_per_second;
        let bare = run.bare.events_per_second / original;
        targets.push(Target::at_least(
            format!("{of}: events/s to the original's (bare: {bare:.2})"),
            times,
            run.ours.events_per_second / original,
        ));
    }
    targets
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { quick, cores, .. } = self;
        writeln!(f, "\nOn {cores} cores.")?;
        if *quick {
            writeln!(
                f,
                "--quick: a twentieth of the work, the figures say little."
            )?;
        }
        self.original(f)?;
        if let Some(figures) = &self.processor {
            processors(f, figures)?;
        }
        if let Some(figures) = &self.server {
            servers(f, figures)?;
        }
        if let Some(figures) = &self.trigger {
            triggers(f, figures)?;
        }
        if let Some(figures) = &self.bootstrap {
            bootstraps(f, figures)?;
        }
        if let Some(runs) = &self.memory {
            memories(f, runs)?;
        }
        if let Some(runs) = &self.steady {
            write!(f, "{}", steady::Tables(runs))?;
        }
        if let Some(runs) = &self.settling {
            write!(f, "{}", settling::Table(runs))?;
        }
        if let Some(runs) = &self.writers {
            contention(f, runs)?;
        }
        writeln!(f, "\nTargets")?;
        for target in self.targets() {
            let met = if target.met { "met" } else { "MISSED" };
            let Target {
                what,
                goal,
                reached,
                ..
            } = target;
            writeln!(f, "  {what:<74} {goal:>8} {reached:>10.2}  {met}")?;
        }
        Ok(())
    }
}

impl Report {
    fn original(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Original {
            source,
            with_dedup,
            without_dedup,
            bootstrap,
        } = self.original;
        writeln!(f, "\nThe original ({source}), for comparison")?;
        for (name, cost) in [("with dedup", with_dedup), ("without", without_dedup)] {
            let Cost {
                events_per_second,
                cpu_per_event,
                requests_per_event,
                write_units_per_event,
                processor_nanoseconds,
            } = cost;
            writeln!(
                f,
                "  {name:<10} {events_per_second:>6} events/s, {cpu_per_event} µs CPU, \
                 {requests_per_event} requests and {write_units_per_event} write units an event, \
                 processor {processor_nanoseconds} ns"
            )?;
        }
        let Fill {
            rows_per_second,
            write_units_per_row,
        } = bootstrap;
        writeln!(
            f,
            "  bootstrap  {rows_per_second:>6} rows/s, {write_units_per_row} write units a row, \
             not exact"
        )
    }
}

fn processors(f: &mut fmt::Formatter<'_>, figures: &processor::Figures) -> fmt::Result {
    writeln!(f, "\nThe processor on the in-memory store, ns per event")?;
    for (name, batches) in figures {
        write!(f, "  {name:<26}")?;
        for (batch, nanoseconds) in batches {
            write!(f, "  batch {batch}: {nanoseconds:>7.1}")?;
        }
        writeln!(f)?;
    }
    Ok(())
}

fn servers(f: &mut fmt::Formatter<'_>, figures: &server::Figures) -> fmt::Result {
    writeln!(
        f,
        "\nThe handler on DynamoDB Local, beside a bare loop of the same requests (batch by batch, \
         16 at a time)\n  {:<14} {:<8} {:>5} {:>9} {:>9} {:>6} {:>9} {:>9} {:>9} {:>8}",
        "mode",
        "keys",
        "batch",
        "events/s",
        "bare",
        "ratio",
        "CPU µs/ev",
        "bare",
        "req/event",
        "WU/event",
    )?;
    for run in &figures.runs {
        writeln!(
            f,
            "  {:<14} {:<8} {:>5} {:>9.0} {:>9.0} {:>6.2} {:>9.1} {:>9.1} {:>9.3} {:>8.3}",
            run.mode,
            run.keys,
            run.batch,
            run.ours.events_per_second,
            run.bare.events_per_second,
            run.ratio,
            run.ours.cpu_per_event,
            run.bare.cpu_per_event,
            run.requests_per_event,
            run.write_units_per_event,
        )?;
    }
    Ok(())
}

fn triggers(f: &mut fmt::Formatter<'_>, figures: &trigger::Figures) -> fmt::Result {
    writeln!(
        f,
        "\nThe trigger, beside a bare loop that hands the same records to the same handler, one \
         batch at a time; `req/r` is what handler and positions send\n  {:<12} {:<12} {:<12} \
         {:>5} {:>6} {:>9} {:>9} {:>6} {:>9} {:>9} {:>6} {:>8} {:>8} {:>7} {:>7}",
        "source",
        "handler",
        "positions",
        "batch",
        "factor",
        "records/s",
        "bare",
        "ratio",
        "CPU µs/r",
        "bare",
        "ratio",
        "reads/r",
        "saves/r",
        "req/r",
        "bare",
    )?;
    for run in &figures.runs {
        let trigger::Kind {
            source,
            work,
            positions,
            batch,
            factor,
        } = run.kind;
        writeln!(
            f,
            "  {source:<12} {work:<12} {positions:<12} {batch:>5} {factor:>6} {:>9.0} {:>9.0} \
             {:>6.2} {:>9.2} {:>9.2} {:>6.2} {:>8.4} {:>8.4} {:>7.3} {:>7.3}",
            run.ours.events_per_second,
            run.bare.events_per_second,
            run.ratio,
            run.ours.cpu_per_event,
            run.bare.cpu_per_event,
            run.cpu_ratio,
            run.reads_per_record,
            run.saves_per_record,
            run.requests_per_record,
            run.bare_requests_per_record,
        )?;
    }
    let Speed {
        events_per_second,
        cpu_per_event,
    } = figures.sdk;
    writeln!(
        f,
        "  GetRecords of the bare SDK, records counted and no more: {events_per_second:.0} \
         records/s, {cpu_per_event:.2} µs CPU a record"
    )
}

fn bootstraps(f: &mut fmt::Formatter<'_>, figures: &bootstrap::Figures) -> fmt::Result {
    let bootstrap::Scan {
        rows,
        ours,
        bare,
        ratio,
        cpu_ratio,
    } = figures.scan;
    writeln!(
        f,
        "\nA scan of {rows} rows, 8 pages at a time, beside the same requests of the bare SDK, \
         nothing decoded\n  {:.0} rows/s to {:.0}, ratio {ratio:.2}; {:.2} µs CPU a row to {:.2}, \
         ratio {cpu_ratio:.2}",
        ours.events_per_second, bare.events_per_second, ours.cpu_per_event, bare.cpu_per_event,
    )?;
    writeln!(
        f,
        "\nA bootstrap on DynamoDB Local, 8 pages at a time (write units: one page at a time), \
         beside a bare loop of the same requests, 16 at a time\n  {:<14} {:<8} {:>6} {:>8} {:>8} {:>6} {:>8} {:>8} {:>8} {:>8} \
         {:>8} {:>9}",
        "mode",
        "keys",
        "rows",
        "rows/s",
        "bare",
        "ratio",
        "CPU µs/r",
        "bare",
        "req/row",
        "bare",
        "WU/row",
        "least WU",
    )?;
    for run in &figures.runs {
        writeln!(
            f,
            "  {:<14} {:<8} {:>6} {:>8.0} {:>8.0} {:>6.2} {:>8.1} {:>8.1} {:>8.4} {:>8.4} {:>8.3} \
             {:>9.3}",
            run.mode,
            run.keys,
            run.rows,
            run.ours.events_per_second,
            run.bare.events_per_second,
            run.ratio,
            run.ours.cpu_per_event,
            run.bare.cpu_per_event,
            run.requests_per_row,
            run.bare_requests_per_row,
            run.write_units_per_row,
            run.least_write_units_per_row,
        )?;
    }
    Ok(())
}

fn memories(f: &mut fmt::Formatter<'_>, runs: &[memory::Run]) -> fmt::Result {
    writeln!(
        f,
        "\nMemory of a process that does one thing, MB\n  {:<14} {:>7} {:>7} {:>7}",
        "work", "keys", "before", "peak",
    )?;
    for run in runs {
        writeln!(
            f,
            "  {:<14} {:>7} {:>7.1} {:>7.1}",
            run.work,
            run.keys,
            run.before_mb.unwrap_or(f64::NAN),
            run.peak_mb.unwrap_or(f64::NAN),
        )?;
    }
    Ok(())
}

fn contention(f: &mut fmt::Formatter<'_>, runs: &[writers::Run]) -> fmt::Result {
    writeln!(
        f,
        "\nExactly-once, writers of one key, 50 ms between two writes of each; of an event\n\n\
         | writers | events a write | events/s | writes refused, % | units | write units | read units \
         | requests |\n|---|---|---|---|---|---|---|---|",
    )?;
    for run in runs {
        writeln!(
            f,
            "| {} | {} | {:.0} | {:.1} | {:.2} | {:.2} | {:.2} | {:.2} |",
            run.writers,
            run.events_a_write,
            run.events_per_second,
            run.refused * 100.0,
            run.units,
            run.spent.write_units,
            run.spent.read_units,
            run.spent.requests,
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::virtual_time::Spent;
    use super::super::workload::Keys;
    use super::*;

    fn of(units: f64) -> Report {
        let spent = Spent {
            write_units: units,
            refused_units: 0.0,
            read_units: 0.0,
            requests: 1.0,
            row_writes: 1.0,
            page_writes: 0.0,
            row_reads: 0.0,
            page_reads: 0.0,
        };
        let load = steady::Load {
            keys: Keys::Zipf,
            rate: 10,
            lanes: 1,
            batch: 1,
        };
        let mut report = Report::new(false);
        report.steady = Some(vec![steady::Run {
            load,
            events: 1,
            spent,
            units,
            round_trips: 1.0,
            dollars_a_month: 1.0,
        }]);
        report
    }

    #[test]
    fn a_count_that_misses_its_target_is_a_failure() {
        assert!(of(1.3).counts_are_met());
        assert!(!of(1.31).counts_are_met());
        assert!(of(1.31).to_string().contains("MISSED"));
    }

    #[test]
    fn memory_that_grows_with_the_keys_is_a_failure() {
        let run = |keys, peak_mb| memory::Run {
            work: memory::Work::Bootstrap,
            keys,
            before_mb: None,
            peak_mb: Some(peak_mb),
        };
        let mut report = Report::new(false);
        report.memory = Some(vec![run(1, 20.0), run(10, 24.0)]);
        assert!(report.counts_are_met());
        report.memory = Some(vec![run(1, 20.0), run(10, 40.0)]);
        assert!(!report.counts_are_met());
    }
}
