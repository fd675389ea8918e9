//! The owner of a store's rows.

use std::fmt;
use std::sync::Arc;

use crate::ids::PipelineName;

/// The name of the ledger's delivery mode in a [`Binding`].
pub const LEDGER_MODE: &str = "ledger";

/// The owner of a store's rows.
///
/// If two pipelines, two versions of a definition or two modes used the same rows, the totals of
/// both would be wrong, and nothing would reveal it. A store therefore keeps the binding beside its
/// rows, and refuses another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The pipeline's name.
    pub pipeline: PipelineName,
    /// The version of its definition.
    pub version: u32,
    /// Its delivery mode, for example `exactly-once`.
    pub mode: Arc<str>,
    /// The part of its definition that decides what the rows hold, as text: window, retraction,
    /// monoid.
    pub definition: Arc<str>,
    /// The ARN of the stream that its records come from; `None` until a record comes from a stream.
    pub stream: Option<Arc<str>>,
}

impl Binding {
    /// Whether work under `other` may continue in rows bound by `self`: all fields are equal, or
    /// one of the two names no stream.
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

/// Proof that a store's rows belong to a pipeline. [`bind`] and [`check_binding`] return it, and
/// every call that works with the rows requires it, so a store cannot be used unbound by mistake.
///
/// Clones are cheap. One proof serves every stream of its pipeline.
///
/// [`bind`]: crate::ExactlyOnce::bind
/// [`check_binding`]: crate::ExactlyOnce::check_binding
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound(Arc<Binding>);

impl Bound {
    /// For implementations of stores, which return it after they have checked that their rows
    /// belong to `binding`, and for their tests. A pipeline gets the proof from the store.
    pub fn new(binding: Binding) -> Self {
        Self(Arc::new(binding))
    }

    /// The owner of the rows.
    pub fn binding(&self) -> &Binding {
        &self.0
    }

    /// The pipeline that owns the rows.
    pub fn pipeline(&self) -> &PipelineName {
        &self.0.pipeline
    }

    /// The stream of the rows, as far as the call that returned the proof knows it: `check_binding`
    /// returns the stored one, `bind` the one given to it.
    pub fn stream(&self) -> Option<&Arc<str>> {
        self.0.stream.as_ref()
    }
}
