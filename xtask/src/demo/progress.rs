//! Displays progress: a bar on a terminal, otherwise a line every two seconds.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use murmur_state::Grouped;

const LINE_EVERY: Duration = Duration::from_secs(2);

/// The progress of one step of known length.
pub(super) struct Bar {
    label: &'static str,
    bar: ProgressBar,
    /// When the last plain line was printed; `None` on a terminal.
    printed: Option<Mutex<Instant>>,
}

impl Bar {
    pub(super) fn new(label: &'static str, length: usize) -> Self {
        let template = "{msg:<20} {wide_bar} {human_pos}/{human_len}  {per_sec}  {eta} left";
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(length as u64)
            .with_style(style)
            .with_message(label);
        let plain = !std::io::stderr().is_terminal();
        Self {
            label,
            bar,
            printed: plain.then(|| Mutex::new(Instant::now())),
        }
    }

    pub(super) fn add(&self, done: usize) {
        self.set(self.bar.position() as usize + done);
    }

    pub(super) fn set(&self, done: usize) {
        self.bar.set_position(done as u64);
        let Some(printed) = &self.printed else { return };
        let mut printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
        if printed.elapsed() >= LINE_EVERY {
            *printed = Instant::now();
            eprintln!(
                "{}: {} of {}",
                self.label,
                Grouped(done as u64),
                Grouped(self.bar.length().unwrap_or(0))
            );
        }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
