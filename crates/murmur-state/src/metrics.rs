use std::fmt;

/// Where counts and gauges go.
///
/// Names of counters follow one pattern: `<pipeline>` for records that took effect, and
/// `<pipeline>:retry`, `:dedup_skip`, `:dead_letter`, `:skip`, `:expired`, `:ttl_kept`,
/// `:superseded`, `:failed`, `:blocked` for what else became of them. Beside these,
/// `:impossible_time` counts records whose creation time is left out of account. Gauges are named by what they
/// measure and its unit, as in `<pipeline>:lag_ms`. Implementations must not block.
pub trait Recorder: fmt::Debug + Send + Sync + 'static {
    /// Adds `by` to the counter called `name`.
    fn count(&self, name: &str, by: u64);

    /// Notes `value` as what the gauge called `name` shows now; it may rise and fall.
    fn gauge(&self, name: &str, value: u64);

    /// Notes an error under `name`; it is counted separately.
    fn error(&self, name: &str, error: &(dyn std::error::Error + 'static));
}

/// Records nothing. The default.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoopRecorder;

impl Recorder for NoopRecorder {
    fn count(&self, _name: &str, _by: u64) {}
    fn gauge(&self, _name: &str, _value: u64) {}
    fn error(&self, _name: &str, _error: &(dyn std::error::Error + 'static)) {}
}

/// Writes `tracing` events of target `murmur::metrics`: counts at debug level with fields `name` and
/// `by`, gauges at debug level with `name` and `value`, errors at warn level with their causes.
#[derive(Debug, Clone, Copy, Default)]
pub struct TracingRecorder;

impl Recorder for TracingRecorder {
    fn count(&self, name: &str, by: u64) {
        tracing::debug!(target: "murmur::metrics", name, by);
    }

    fn gauge(&self, name: &str, value: u64) {
        tracing::debug!(target: "murmur::metrics", name, value);
    }

    fn error(&self, name: &str, error: &(dyn std::error::Error + 'static)) {
        tracing::warn!(target: "murmur::metrics", name, error = %Causes(error));
    }
}

/// Shows an error followed by all its causes, each after `": "`.
#[derive(Debug)]
pub struct Causes<'a>(pub &'a (dyn std::error::Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
