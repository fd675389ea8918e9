use murmur_state::{Cause, Failure, Fault};

/// Why a source could not be read. `place` names the source, such as ``table `orders` ``.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The source's capacity is used up.
    #[error(
        "{place}: throttled; it is tried again while time allows, more capacity or fewer segments \
         help"
    )]
    Throttled {
        /// Which source.
        place: String,
        /// The answer that said so.
        #[source]
        source: Option<Cause>,
    },
    /// No connection could be made: no request was sent.
    #[error(
        "{place}: no connection; check that the endpoint is right, and that a server answers there"
    )]
    NotConnected {
        /// Which source.
        place: String,
        /// What failed.
        #[source]
        source: Option<Cause>,
    },
    /// A server error, a timeout, a broken connection, a failed disk.
    #[error("{place}: it could not be read")]
    Unavailable {
        /// Which source.
        place: String,
        /// What failed.
        #[source]
        source: Option<Cause>,
    },
    /// The set-up is wrong: `advice` says what to do.
    #[error("{place}: {advice}")]
    Setup {
        /// Which source.
        place: String,
        /// What to do.
        advice: String,
        /// What failed.
        #[source]
        source: Option<Cause>,
    },
    /// The cursor does not continue a segment of this source.
    #[error("{place}: cannot continue at cursor `{cursor}`: {reason}")]
    Cursor {
        /// Which source.
        place: String,
        /// The cursor's text.
        cursor: String,
        /// Why not, and what would be right.
        reason: String,
    },
}

murmur_state::debug_as_message!(SourceError);

impl SourceError {
    /// What the failure asks of the caller.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Throttled { .. } => Fault::Contention,
            Self::NotConnected { .. } | Self::Unavailable { .. } => Fault::Transient,
            Self::Setup { .. } | Self::Cursor { .. } => Fault::Setup,
        }
    }

    /// Whether trying the same again can help.
    pub fn is_retryable(&self) -> bool {
        Failure::is_retryable(self)
    }
}

impl Failure for SourceError {
    fn fault(&self) -> Fault {
        SourceError::fault(self)
    }
}
