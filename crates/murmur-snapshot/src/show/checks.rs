//! Showing reconciles and audits.

use std::sync::PoisonError;
use std::time::Duration;

use murmur_core::audit::AuditProgress;
use murmur_state::Grouped;
use serde_json::json;

use super::{LENGTH, ShowProgress, To, tenths, write_line};
use crate::reconcile::{ReconcileProgress, ReconcileStep};

impl ShowProgress {
    /// Shows the progress of a reconcile, for
    /// [`on_progress`](crate::reconcile::ReconcileBuilder::on_progress).
    ///
    /// A line has `event` (`reconcile`), `step` (`scan`, `settle`, `ledger` or `wait`), `rows`,
    /// `rows_expected` (null if not known), `rows_per_second`, `ledger_rows`, `suspects`,
    /// `read_units` and `seconds`; `settle` also has `items`. The first line of each step is
    /// written at once.
    pub fn show_reconcile(&self, progress: &ReconcileProgress) {
        let step = match progress.step {
            ReconcileStep::Scan => "scan",
            ReconcileStep::Ledger => "ledger",
            ReconcileStep::Settle { .. } => "settle",
            ReconcileStep::Wait => "wait",
        };
        let rate = per_second(progress.rows, progress.elapsed);
        match &self.to {
            To::Bar(bar) => {
                if let Some(share) = share(progress) {
                    bar.set_position((share * LENGTH as f64) as u64);
                }
                bar.set_message(told(progress, rate));
            }
            To::Lines(out) => {
                let always = matches!(
                    progress.step,
                    ReconcileStep::Settle { .. } | ReconcileStep::Wait
                );
                if !self.is_due(step, progress.elapsed, always) {
                    return;
                }
                let mut line = json!({
                    "event": "reconcile",
                    "step": step,
                    "rows": progress.rows,
                    "rows_expected": progress.rows_expected,
                    "rows_per_second": tenths(rate),
                    "ledger_rows": progress.ledger_rows,
                    "suspects": progress.suspects,
                    "read_units": tenths(progress.read_units),
                    "seconds": progress.elapsed.as_secs(),
                });
                if let ReconcileStep::Settle { items } = progress.step {
                    line["items"] = json!(items);
                }
                write_line(out, &line);
            }
        }
    }

    /// Shows the progress of an audit, for
    /// [`on_progress`](murmur_core::audit::AuditOptions::on_progress).
    ///
    /// A line has `event` (`audit`), `pipeline`, `part`, `pass`, `ledger_rows`, `state_rows`,
    /// `read_units` and `seconds`. The first line of each pass is written at once.
    pub fn show_audit(&self, progress: &AuditProgress<'_>) {
        let AuditProgress {
            pipeline,
            part,
            pass,
            ledger_rows,
            state_rows,
            read_units,
            elapsed,
            ..
        } = *progress;
        match &self.to {
            To::Bar(bar) => bar.set_message(format!(
                "{pipeline}: part {part}, pass {pass}: {} ledger rows, {} state rows, {} read \
                 units",
                Grouped(ledger_rows),
                Grouped(state_rows),
                Grouped(read_units.round() as u64),
            )),
            To::Lines(out) => {
                let step = format!("{pipeline}/{part}/{pass}");
                if !self.is_due(&step, elapsed, false) {
                    return;
                }
                let line = json!({
                    "event": "audit",
                    "pipeline": pipeline.as_str(),
                    "part": part,
                    "pass": pass,
                    "ledger_rows": ledger_rows,
                    "state_rows": state_rows,
                    "read_units": tenths(read_units),
                    "seconds": elapsed.as_secs(),
                });
                write_line(out, &line);
            }
        }
    }

    /// Removes the bar, so that later output is not mixed with it.
    pub fn finish(&self) {
        if let To::Bar(bar) = &self.to {
            bar.finish_and_clear();
        }
    }

    /// Whether to write a line: the first of a step, and then one per interval.
    fn is_due(&self, step: &str, elapsed: Duration, always: bool) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let same = state.step == step;
        let early = state
            .told
            .is_some_and(|told| elapsed.saturating_sub(told) < self.interval);
        if same && early && !always {
            return false;
        }
        step.clone_into(&mut state.step);
        state.told = Some(elapsed);
        true
    }
}

/// An estimate of the share of the first scan that is done.
fn share(progress: &ReconcileProgress) -> Option<f64> {
    let expected = progress.rows_expected.filter(|rows| *rows > 0)?;
    Some((progress.rows as f64 / expected as f64).min(1.0))
}

fn per_second(rows: u64, elapsed: Duration) -> f64 {
    match elapsed.as_secs_f64() {
        0.0 => 0.0,
        seconds => rows as f64 / seconds,
    }
}

fn told(progress: &ReconcileProgress, rate: f64) -> String {
    let ReconcileProgress {
        step,
        rows,
        ledger_rows,
        suspects,
        read_units,
        ..
    } = *progress;
    let doing = match step {
        ReconcileStep::Scan => match share(progress) {
            Some(share) => format!("scanning, about {:.0} %", share * 100.0),
            None => "scanning".to_owned(),
        },
        ReconcileStep::Ledger => "listing the ledger".to_owned(),
        ReconcileStep::Settle { items } => {
            format!("looking closely at {} items", Grouped(items))
        }
        ReconcileStep::Wait => "waiting for the lag, to count again".to_owned(),
    };
    format!(
        "{doing}; {} rows, {}/s, {} ledger rows, {} differed at first, {} read units",
        Grouped(rows),
        Grouped(rate.round() as u64),
        Grouped(ledger_rows),
        Grouped(suspects),
        Grouped(read_units.round() as u64),
    )
}

#[cfg(test)]
mod tests {
    use murmur_state::PipelineName;

    use super::super::tests::Shared;
    use super::*;

    fn reconcile(step: ReconcileStep, seconds: u64) -> ReconcileProgress {
        ReconcileProgress {
            step,
            rows: 1_200 * seconds,
            rows_expected: Some(24_000),
            ledger_rows: 7,
            suspects: 1_000,
            read_units: 9.96,
            elapsed: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn lines_tell_of_each_step_at_once_and_then_now_and_then() {
        let out = Shared::default();
        let shown = ShowProgress::lines(out.clone());
        let settle = ReconcileStep::Settle { items: 5 };
        for (step, seconds) in [
            (ReconcileStep::Scan, 1),
            (ReconcileStep::Scan, 2),
            (ReconcileStep::Scan, 11),
            (settle, 12),
            (settle, 13),
            (ReconcileStep::Ledger, 14),
            (ReconcileStep::Ledger, 15),
        ] {
            shown.show_reconcile(&reconcile(step, seconds));
        }
        let lines = out.lines();
        let told: Vec<(&str, u64)> = lines
            .iter()
            .map(|line| {
                assert_eq!(line["event"], "reconcile");
                let step = line["step"].as_str().unwrap();
                (step, line["seconds"].as_u64().unwrap())
            })
            .collect();
        let expected = [
            ("scan", 1),
            ("scan", 11),
            ("settle", 12),
            ("settle", 13),
            ("ledger", 14),
        ];
        assert_eq!(told, expected);
        assert_eq!(lines[1]["rows_per_second"], 1200.0);
        assert_eq!(lines[2]["items"], 5);
        assert_eq!(lines[0]["read_units"], 10.0);

        let pipeline = PipelineName::new("totals").unwrap();
        for pass in [1, 1, 2] {
            shown.show_audit(&AuditProgress::at(&pipeline, pass));
        }
        let lines = out.lines();
        assert_eq!(lines.len(), 7);
        let audit = &lines[6];
        assert_eq!(
            (&audit["event"], &audit["pass"]),
            (&json!("audit"), &json!(2))
        );
    }

    #[test]
    fn people_are_told_with_separators() {
        let text = told(&reconcile(ReconcileStep::Scan, 10), 1_200.0);
        let expected = "scanning, about 50 %; 12,000 rows, 1,200/s, 7 ledger rows, 1,000 differed at \
                        first, 10 read units";
        assert_eq!(text, expected);
    }
}
