//! Whom a store's rows belong to.

use std::fmt;
use std::sync::Arc;

use crate::ids::PipelineName;

/// The name of the ledger's delivery mode, as it stands in a [`Binding`].
pub const LEDGER_MODE: &str = "ledger";

/// Whom a store's rows belong to.
///
/// Two pipelines, two versions of a definition or two modes on the same rows would each be wrong
/// without a sign of it, so a store keeps this beside its rows and refuses whatever differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The pipeline's name.
    pub pipeline: PipelineName,
    /// The version of its definition.
    pub version: u32,
    /// Its delivery mode, for example `exactly-once`.
    pub mode: Arc<str>,
    /// What of its definition decides what the rows hold, in words: window, retraction, monoid.
    pub definition: Arc<str>,
    /// The ARN of the stream its records come from; `None` as long as none came from a stream.
    pub stream: Option<Arc<str>>,
}

impl Binding {
    /// Whether work under `other` may go on in rows bound by `self`: all is equal, or one of the
    /// two names no stream.
    pub fn admits(&self, other: &Self) -> bool {
        let same_stream = match (&self.stream, &other.stream) {
            (Some(one), Some(two)) => one == two,
            _ => true,
        };
        same_stream
            && (&self.pipeline, self.version, &self.mode, &self.definition)
                == (
                    &other.pipeline,
                    other.version,
                    &other.mode,
                    &other.definition,
                )
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pipeline,
            version,
            mode,
            definition,
            stream,
        } = self;
        write!(
            f,
            "pipeline `{pipeline}`, version {version}, {mode}, {definition}"
        )?;
        match stream {
            Some(stream) => write!(f, ", of stream {stream}"),
            None => Ok(()),
        }
    }
}

/// The proof that a store's rows belong to a pipeline: what [`bind`] and [`check_binding`] answer, and
/// what every call that works with the rows asks for. So a store cannot be used unbound by mistake.
///
/// Clones are cheap. One proof serves every stream of its pipeline.
///
/// [`bind`]: crate::ExactlyOnce::bind
/// [`check_binding`]: crate::ExactlyOnce::check_binding
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound(Arc<Binding>);

impl Bound {
    /// For stores, which answer it once they have seen that their rows belong to `binding`, and for tests
    /// of stores. A pipeline gets it from the store.
    pub fn new(binding: Binding) -> Self {
        Self(Arc::new(binding))
    }

    /// Whom the rows belong to.
    pub fn binding(&self) -> &Binding {
        &self.0
    }

    /// The pipeline they belong to.
    pub fn pipeline(&self) -> &PipelineName {
        &self.0.pipeline
    }

    /// The stream they belong to, as far as the call that answered this knows: `check_binding` says what
    /// the store keeps, `bind` what it was called with.
    pub fn stream(&self) -> Option<&Arc<str>> {
        self.0.stream.as_ref()
    }
}
