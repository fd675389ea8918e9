//! What all kinds of random runs share. Each run is derived from a number.

use std::any::Any;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use murmur_state::Causes;
use tokio::runtime::Builder;
use tokio::task::LocalSet;

/// How often each kind of situation occurred.
///
/// The kinds are fixed, so that a kind that never occurred is visible.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Met {
    kinds: &'static [&'static str],
    counts: BTreeMap<&'static str, u64>,
}

impl Met {
    /// Zero counts for `kinds`, which are displayed in this order.
    pub(crate) fn of(kinds: &'static [&'static str]) -> Self {
        Self {
            kinds,
            counts: BTreeMap::new(),
        }
    }

    /// How often `kind` occurred.
    pub fn count(&self, kind: &str) -> u64 {
        self.counts.get(kind).copied().unwrap_or(0)
    }

    /// The kinds that never occurred.
    pub fn missing(&self) -> Vec<&'static str> {
        let kinds = self.kinds.iter().copied();
        kinds.filter(|kind| self.count(kind) == 0).collect()
    }

    pub(crate) fn add(&mut self, kind: &'static str, count: u64) {
        debug_assert!(self.kinds.contains(&kind), "{kind} is no kind");
        *self.counts.entry(kind).or_default() += count;
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        if self.kinds.is_empty() {
            self.kinds = other.kinds;
        }
        for (kind, count) in &other.counts {
            *self.counts.entry(kind).or_default() += count;
        }
    }
}

/// A table with one kind per line.
impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for kind in self.kinds {
            writeln!(f, "  {kind:<32}{:>10}", self.count(kind))?;
        }
        Ok(())
    }
}

/// How many faults of a run are displayed.
const SHOWN: usize = 5;

/// Displays the run called `name`: its faults, its scenario and the command that repeats it.
pub(crate) fn show(
    f: &mut fmt::Formatter<'_>,
    name: fmt::Arguments<'_>,
    wrong: &[impl fmt::Display],
    scenario: &impl fmt::Debug,
    again: &str,
) -> fmt::Result {
    if wrong.is_empty() {
        return write!(f, "{name}: all is well");
    }
    writeln!(f, "{name}: {} wrong", wrong.len())?;
    for wrong in wrong.iter().take(SHOWN) {
        writeln!(f, "  {wrong}")?;
    }
    if wrong.len() > SHOWN {
        writeln!(f, "  and {} more", wrong.len() - SHOWN)?;
    }
    writeln!(f, "  scenario: {scenario:?}")?;
    write!(f, "  again: {again}")
}

/// Plays `seeds` on all cores. No further run starts after `play` returns `false`.
pub(crate) fn on_all_cores(
    seeds: impl IntoIterator<Item = u64>,
    play: impl Fn(u64) -> bool + Sync,
) {
    let seeds = Mutex::new(seeds.into_iter().collect::<Vec<_>>().into_iter());
    let stop = AtomicBool::new(false);
    let next = || match stop.load(Ordering::Relaxed) {
        true => None,
        false => lock(&seeds).next(),
    };
    let work = || {
        while let Some(seed) = next() {
            if !play(seed) {
                stop.store(true, Ordering::Relaxed);
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
}

/// Runs `work` to its end on a runtime of its own, either a paused one or one for real servers. If
/// `work` panics, returns the message.
pub(crate) fn guarded<T>(
    seed: u64,
    paused: bool,
    work: impl AsyncFnOnce() -> T,
) -> Result<T, String> {
    // The SDK draws its jitter from this generator.
    fastrand::seed(seed);
    let mut builder = Builder::new_current_thread();
    match paused {
        true => builder.enable_time().start_paused(true),
        false => builder.enable_all(),
    };
    let played = catch_unwind(AssertUnwindSafe(|| {
        must("a runtime", builder.build()).block_on(LocalSet::new().run_until(work()))
    }));
    played.map_err(|panic| message(&*panic))
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or(panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
        .to_owned()
}

/// Unwraps a result that a run cannot do without.
///
/// # Panics
///
/// If it is an error.
pub(crate) fn must<T, E: Error + 'static>(what: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{what}: {}", Causes(&error)))
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of the choices, with a probability proportional to its weight.
pub(crate) fn pick<T: Clone>(rng: &mut Rng, choices: &[(u32, T)]) -> T {
    let all: u32 = choices.iter().map(|(weight, _)| weight).sum();
    let mut left = rng.u32(..all);
    for (weight, choice) in choices {
        match left.checked_sub(*weight) {
            Some(less) => left = less,
            None => return choice.clone(),
        }
    }
    panic!("no choices")
}

/// A random duration between the two.
pub(crate) fn within(rng: &mut Rng, from: Duration, to: Duration) -> Duration {
    from + to.saturating_sub(from).mul_f64(rng.f64())
}
