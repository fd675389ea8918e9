//! The time and memory that this process has used.

use std::fs;
use std::time::{Duration, Instant};

/// Measures wall-clock and CPU time from its creation.
pub(super) struct Stopwatch {
    wall: Instant,
    cpu: Duration,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self {
            wall: Instant::now(),
            cpu: cpu_time(),
        }
    }

    pub(super) fn wall(&self) -> Duration {
        self.wall.elapsed()
    }

    /// User and system time of this process, over all threads.
    pub(super) fn cpu(&self) -> Duration {
        cpu_time().saturating_sub(self.cpu)
    }
}

#[cfg(unix)]
fn cpu_time() -> Duration {
    use rustix::time::{ClockId, clock_gettime};

    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Not implemented on other systems.
#[cfg(not(unix))]
fn cpu_time() -> Duration {
    Duration::ZERO
}

/// The peak memory of this process in MB, if the system reports it.
pub(super) fn peak_mb() -> Option<f64> {
    of_status("VmHWM:")
}

/// The current memory of this process in MB, if the system reports it.
pub(super) fn resident_mb() -> Option<f64> {
    of_status("VmRSS:")
}

fn of_status(field: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kilobytes: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes / 1024.0)
}
