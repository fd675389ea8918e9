mod checks;

use std::fmt;
use std::io::{IsTerminal, Write, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use murmur_state::{Grouped, Outage};
use serde_json::{Value, json};

use crate::bootstrap::{Counts, Ended, Progress, Report};

/// The default of `interval`.
const INTERVAL: Duration = Duration::from_secs(10);

/// The length of a bar; its position is the share done.
const LENGTH: u64 = 1000;

/// Shows the progress of a bootstrap, a [reconcile](ShowProgress::show_reconcile) or an
/// [audit](ShowProgress::show_audit): a bar on a terminal, and lines of JSON elsewhere.
///
/// Both show rows, rows a second, read units, the share done and the time left. The last two are
/// estimates, because a table's number of rows is an estimate, which DynamoDB updates about every
/// six hours.
///
/// ```
/// # use murmur_core::{Pipeline, Processor, Sum};
/// # use murmur_snapshot::{Bootstrap, JsonLines, ShowProgress};
/// # use murmur_state::MemoryStore;
/// # #[derive(serde::Deserialize)]
/// # struct Order { customer: String }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let orders = Pipeline::builder("orders").key(|o: &Order| o.customer.clone()).count();
/// # let orders = orders.every_change();
/// # let orders = orders.store(MemoryStore::new(murmur_core::Count::new())).exactly_once()?;
/// # let source = JsonLines::reader("orders", "".as_bytes()).key(["id"]).build()?;
/// let shown = ShowProgress::on_stderr();
/// let bootstrap = Bootstrap::builder(Processor::new([orders])?, source)
///     .on_progress(move |progress| shown.show(progress))
///     .build()?;
/// let report = bootstrap.run().await?;
/// # Ok(())
/// # }
/// ```
///
/// # Lines
///
/// Each line is an object with `event` and `run`, and further fields by event:
///
/// | `event` | when | further fields |
/// |---|---|---|
/// | `started` | before the first page | `goes_on`, `segments`, `segments_done`, `rows_before` |
/// | `progress` | after a page, at most every [`interval`](ShowProgress::interval) | `rows`, `rows_per_second`, `read_units`, `share_done`, `seconds_left` (null if not known), `seconds` |
/// | `late` | when the stream may be too short | `advice`, `seconds_since_capture`, `seconds_left` |
/// | `outage` | while requests fail and are retried | `message`, `error`, `seconds` without success |
/// | `outage_over` | when they succeed again | `message` |
/// | `finished`, `finished_before`, `part_finished`, `stopped` | at the end | every count of the report |
pub struct ShowProgress {
    to: To,
    interval: Duration,
    state: Mutex<State>,
}

enum To {
    Bar(ProgressBar),
    Lines(Mutex<Box<dyn Write + Send>>),
}

#[derive(Default)]
struct State {
    run: String,
    rows_before: u64,
    /// When progress was last written.
    told: Option<Duration>,
    /// The step of a reconcile or an audit that was last written.
    step: String,
}

impl ShowProgress {
    /// Shows progress on standard error: as a bar if it is a terminal, otherwise as lines.
    pub fn on_stderr() -> Self {
        match stderr().is_terminal() {
            true => Self::to(To::Bar(bar(ProgressBar::new(LENGTH)))),
            false => Self::lines(stderr()),
        }
    }

    /// Writes lines to `out`. Errors of writing are ignored.
    pub fn lines(out: impl Write + Send + 'static) -> Self {
        Self::to(To::Lines(Mutex::new(Box::new(out))))
    }

    fn to(to: To) -> Self {
        Self {
            to,
            interval: INTERVAL,
            state: Mutex::default(),
        }
    }

    /// The least time between two lines about pages. Does not apply to a bar. Default 10 s.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Shows an outage of a reconcile or an audit, for
    /// [`on_outage`](murmur_core::ProcessorBuilder::on_outage). A bootstrap reports outages as
    /// progress.
    pub fn show_outage(&self, outage: &Outage<'_>) {
        match &self.to {
            To::Bar(bar) => bar.println(outage.to_string()),
            To::Lines(out) => write_line(out, &outage_line(outage)),
        }
    }

    /// Shows the progress of a bootstrap, for
    /// [`on_progress`](crate::bootstrap::BootstrapBuilder::on_progress).
    pub fn show(&self, progress: &Progress<'_>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Progress::Started { run, earlier, .. } = progress {
            *state = State {
                run: (*run).to_owned(),
                rows_before: earlier.counts.rows,
                ..State::default()
            };
        }
        match &self.to {
            To::Bar(bar) => on_bar(bar, &state, progress),
            To::Lines(out) => {
                let Some(mut line) = line(&mut state, self.interval, progress) else {
                    return;
                };
                // A run that was finished before reports nothing but its end.
                line["run"] = match progress {
                    Progress::Finished { report } => json!(report.run),
                    _ => json!(state.run),
                };
                write_line(out, &line);
            }
        }
    }
}

fn write_line(out: &Mutex<Box<dyn Write + Send>>, line: &Value) {
    let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
    // The reader may be gone.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn bar(bar: ProgressBar) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:24} {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn on_bar(bar: &ProgressBar, state: &State, progress: &Progress<'_>) {
    match progress {
        Progress::Started { rerun, .. } => {
            let run = &state.run;
            bar.println(match rerun {
                false => format!("run `{run}` begins"),
                true => format!(
                    "run `{run}` goes on: {} rows are done already",
                    Grouped(state.rows_before)
                ),
            });
        }
        Progress::Page {
            total,
            share_done,
            time_left,
            elapsed,
            ..
        } => {
            bar.set_position((share_done * LENGTH as f64) as u64);
            let left = match time_left {
                Some(left) => format!("about {} left", HumanDuration(*left)),
                None => "time left not known yet".to_owned(),
            };
            // Floats saturate when they are cast.
            bar.set_message(format!(
                "about {:.0} %, {} rows, {}/s, {} read units, {left}",
                share_done * 100.0,
                Grouped(total.rows),
                Grouped(rate(state, total, *elapsed).round() as u64),
                Grouped(total.read_units.round() as u64),
            ));
        }
        Progress::Late { advice, .. } => bar.println(format!(
            "the run may take longer than the stream keeps changes: {advice}"
        )),
        Progress::Outage { outage } => bar.println(outage.to_string()),
        Progress::SegmentDone { .. } => {}
        Progress::Finished { .. } | Progress::Stopped { .. } => bar.finish_and_clear(),
    }
}

/// Rows a second in this attempt.
fn rate(state: &State, total: &Counts, elapsed: Duration) -> f64 {
    let rows = total.rows.saturating_sub(state.rows_before) as f64;
    match elapsed.as_secs_f64() {
        0.0 => 0.0,
        seconds => rows / seconds,
    }
}

/// The line for this progress, if there is one.
fn line(state: &mut State, interval: Duration, progress: &Progress<'_>) -> Option<Value> {
    Some(match progress {
        Progress::Started {
            rerun,
            segments,
            earlier,
            ..
        } => json!({
            "event": "started",
            "goes_on": rerun,
            "segments": segments,
            "segments_done": earlier.segments,
            "rows_before": earlier.counts.rows,
        }),
        Progress::Page {
            total,
            share_done,
            time_left,
            elapsed,
            ..
        } => {
            let due = |told: Duration| elapsed.saturating_sub(told) >= interval;
            if !state.told.is_none_or(due) {
                return None;
            }
            state.told = Some(*elapsed);
            json!({
                "event": "progress",
                "rows": total.rows,
                "rows_per_second": tenths(rate(state, total, *elapsed)),
                "read_units": tenths(total.read_units),
                "share_done": (share_done * 1000.0).floor() / 1000.0,
                "seconds_left": time_left.map(|left| left.as_secs()),
                "seconds": elapsed.as_secs(),
            })
        }
        Progress::Late {
            age,
            time_left,
            advice,
            ..
        } => json!({
            "event": "late",
            "advice": advice,
            "seconds_since_capture": age.as_secs(),
            "seconds_left": time_left.map(|left| left.as_secs()),
        }),
        Progress::Outage { outage } => outage_line(outage),
        Progress::SegmentDone { .. } => return None,
        Progress::Finished { report } | Progress::Stopped { report } => end(report),
    })
}

fn outage_line(outage: &Outage<'_>) -> Value {
    match outage {
        Outage::Lasts { lasted, error, .. } => json!({
            "event": "outage",
            "seconds": lasted.as_secs(),
            "error": error,
            "message": outage.to_string(),
        }),
        outage => json!({
            "event": "outage_over",
            "message": outage.to_string(),
        }),
    }
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

fn end(report: &Report) -> Value {
    let Counts {
        examined,
        rows,
        applied,
        duplicates,
        superseded,
        skipped,
        expired,
        rejected,
        read_units,
    } = report.counts;
    json!({
        "event": match report.ended {
            Ended::Finished => "finished",
            Ended::FinishedBefore { .. } => "finished_before",
            Ended::OwnPart => "part_finished",
            Ended::Stopped => "stopped",
        },
        "examined": examined,
        "rows": rows,
        "applied": applied,
        "duplicates": duplicates,
        "superseded": superseded,
        "skipped": skipped,
        "expired": expired,
        "rejected": rejected,
        "read_units": tenths(read_units),
        "rows_before": report.earlier.counts.rows,
    })
}

impl fmt::Debug for ShowProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let to = match self.to {
            To::Bar(_) => "a bar",
            To::Lines(_) => "lines",
        };
        f.debug_struct("ShowProgress")
            .field("to", &to)
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::bootstrap::Earlier;

    #[derive(Clone, Default)]
    pub(super) struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Shared {
        pub(super) fn lines(&self) -> Vec<Value> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        }
    }

    fn counts(rows: u64) -> Counts {
        Counts {
            rows,
            read_units: rows as f64 / 3.0,
            ..Counts::default()
        }
    }

    /// A run that goes on at 1,000 rows, with a page of 100 rows every four seconds.
    fn play(shown: &ShowProgress, pages: u64) {
        let earlier = Earlier {
            segments: 1,
            counts: counts(1_000),
        };
        shown.show(&Progress::Started {
            run: "r1",
            rerun: true,
            token: None,
            segments: 4,
            earlier: &earlier,
        });
        for n in 1..=pages {
            shown.show(&Progress::Page {
                segment: 0,
                page: &counts(100),
                total: &counts(1_000 + n * 100),
                share_done: 0.3333,
                time_left: Some(Duration::from_secs(90)),
                elapsed: Duration::from_secs(n * 4),
            });
        }
    }

    #[test]
    fn lines_tell_of_pages_now_and_then() {
        let out = Shared::default();
        let shown = ShowProgress::lines(out.clone());
        play(&shown, 6);
        shown.show(&Progress::Late {
            age: Duration::from_secs(60),
            life: Duration::from_secs(90),
            time_left: None,
            advice: "start live",
        });
        let lines = out.lines();
        assert!(lines.iter().all(|line| line["run"] == "r1"), "{lines:?}");
        let started = &lines[0];
        assert_eq!(
            (&started["event"], &started["goes_on"]),
            (&json!("started"), &json!(true))
        );
        assert_eq!(started["rows_before"], 1_000);
        let seconds: Vec<_> = lines
            .iter()
            .filter_map(|line| line["seconds"].as_u64())
            .collect();
        assert_eq!(seconds, [4, 16], "at once, then every ten seconds");
        assert_eq!(lines[1]["rows"], 1_100);
        assert_eq!(lines[1]["rows_per_second"], 25.0, "of this attempt");
        assert_eq!(
            (&lines[1]["share_done"], &lines[1]["seconds_left"]),
            (&json!(0.333), &json!(90))
        );
        assert_eq!(
            (&lines[3]["event"], &lines[3]["advice"]),
            (&json!("late"), &json!("start live"))
        );
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn a_bar_tells_rows_rate_units_share_and_time_left() {
        let hidden = bar(ProgressBar::hidden());
        hidden.set_length(LENGTH);
        let shown = ShowProgress::to(To::Bar(hidden.clone()));
        play(&shown, 2);
        assert_eq!(hidden.position(), 333);
        assert_eq!(
            hidden.message(),
            "about 33 %, 1,200 rows, 25/s, 400 read units, about 2 minutes left"
        );
    }
}
