//! The form in which positions are stored as checkpoints.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::trigger::error::TriggerError;

/// The content of a checkpoint, in a form that later releases must be able to read.
pub(crate) trait StoredForm: Serialize + DeserializeOwned {
    /// The version of the form that this release writes and reads.
    const VERSION: u32;
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

#[derive(Deserialize)]
struct Head {
    version: u32,
}

/// The content in the form that is saved.
pub(crate) fn encode<T: StoredForm>(content: &T) -> serde_json::Value {
    serde_json::json!(Versioned {
        version: T::VERSION,
        content,
    })
}

/// The content of the row called `name`.
pub(crate) fn decode<T: StoredForm>(name: &str, data: &str) -> Result<T, TriggerError> {
    let unreadable = |source| TriggerError::UnreadablePosition {
        name: name.to_owned(),
        source: Arc::new(source),
    };
    let head: Head = serde_json::from_str(data).map_err(unreadable)?;
    if head.version != T::VERSION {
        return Err(TriggerError::UnknownPosition {
            name: name.to_owned(),
            version: head.version,
        });
    }
    let Versioned { content, .. } = serde_json::from_str(data).map_err(unreadable)?;
    // A missing field would be read as its default, and of a repeated field the last would count.
    // The order of fields differs between builds.
    let (found, written): (serde_json::Value, _) = (
        serde_json::from_str(data).map_err(unreadable)?,
        encode(&content),
    );
    if found != written || data.len() != written.to_string().len() {
        let lost = "it has too few or too many fields";
        return Err(unreadable(serde::de::Error::custom(lost)));
    }
    Ok(content)
}
