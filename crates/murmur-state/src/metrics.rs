use std::fmt;

/// The destination of counts, gauges and errors. Implementations must not block.
///
/// Counters follow one naming pattern:
///
/// - `<pipeline>` counts records that took effect.
/// - `<pipeline>:retry`, `:dedup_skip`, `:dead_letter`, `:skip`, `:expired`, `:ttl_kept`,
///   `:superseded`, `:failed` and `:blocked` count records with these outcomes.
/// - `<pipeline>:impossible_time` counts records whose creation time is ignored because it is
///   impossible.
///
/// A gauge is named by what it measures and its unit, as in `<trigger>:lag_ms`.
pub trait Recorder: fmt::Debug + Send + Sync + 'static {
    /// Adds `by` to the counter called `name`.
    fn count(&self, name: &str, by: u64);

    /// Sets the gauge called `name` to `value`; it may rise and fall.
    fn gauge(&self, name: &str, value: u64);

    /// Reports an error under `name`; errors are counted separately.
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

/// Writes `tracing` events with target `murmur::metrics`: counts at debug level with fields `name`
/// and `by`, gauges at debug level with `name` and `value`, errors at warn level with their causes.
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

/// Implements `Debug` of an error as its message and its causes, for people: it is what
/// `fn main() -> Result<(), Box<dyn Error>>` prints.
#[doc(hidden)]
#[macro_export]
macro_rules! debug_as_message {
    ($error:ty) => {
        impl ::std::fmt::Debug for $error {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(&$crate::Causes(self), f)
            }
        }
    };
}

/// Displays an error followed by all its causes, each after `": "`.
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

#[cfg(test)]
mod tests {
    use crate::OptionError;

    #[derive(thiserror::Error)]
    #[error("the bootstrap cannot be built")]
    struct Refused(#[source] OptionError);

    debug_as_message!(Refused);

    #[test]
    fn what_main_prints_of_an_error_is_its_message_and_causes() {
        let error: Box<dyn std::error::Error> =
            Box::new(Refused(OptionError::new("segments", "must be at least 1")));
        let printed = format!("Error: {error:?}");
        assert_eq!(
            printed,
            "Error: the bootstrap cannot be built: option `segments`: must be at least 1"
        );
    }
}
