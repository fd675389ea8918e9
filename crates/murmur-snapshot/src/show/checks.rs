//! How reconciles and audits are shown.

use std::sync::PoisonError;
use std::time::Duration;

use indicatif::HumanCount;
use murmur_core::AuditProgress;
use serde_json::json;

use super::{LENGTH, ShowProgress, To, tenths, write_line};
use crate::reconcile::{ReconcileProgress, ReconcileStep};

impl ShowProgress {
    /// Shows what a reconcile [tells](crate::ReconcileBuilder::on_progress).
    ///
    /// A line has `event` (`reconcile`), `step` (`scan`, `settle`, `ledger` or `wait`), `rows`,
    /// `rows_expected` (null if nobody knows), `rows_per_second`, `ledger_rows`, `suspects`,
    /// `read_units` and `seconds`; `settle` has `items` too. The first of each step is told at once.
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

    /// Shows what an audit [tells](murmur_core::AuditOptions::on_progress).
    ///
    /// A line has `event` (`audit`), `pipeline`, `part`, `pass`, `ledger_rows`, `state_rows`,
    /// `read_units` and `seconds`. The first of each pass is told at once.
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
                "{pipeline}: part {part}, pass {pass}: {} ledger rows, {} state rows, {:.0} read \
                 units",
                HumanCount(ledger_rows),
                HumanCount(state_rows),
                read_units,
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

    /// Takes the bar away, so that what is printed next stands alone.
    pub fn finish(&self) {
        if let To::Bar(bar) = &self.to {
            bar.finish_and_clear();
        }
    }

    /// Whether a line is to tell of it: the first of a step, and then one an interval.
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

/// How much of the first scan is done, as an estimate.
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
            format!("looking closely at {} items", HumanCount(items))
        }
        ReconcileStep::Wait => "waiting for the lag, to count once more".to_owned(),
    };
    format!(
        "{doing}; {} rows, {rate:.0}/s, {} ledger rows, {} differed at first, {read_units:.0} read \
         units",
        HumanCount(rows),
        HumanCount(ledger_rows),
        HumanCount(suspects),
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
        let expected = "scanning, about 50 %; 12,000 rows, 1200/s, 7 ledger rows, 1,000 differed at \
                        first, 10 read units";
        assert_eq!(text, expected);
    }
}
