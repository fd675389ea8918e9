//! What a reader knows of images that it could not read.

use serde::{Deserialize, Serialize};

/// Facts about the images of a change that Lambda's form of a stream record cannot express: there,
/// an image is only a map, which may be empty.
///
/// It is part of the contract between a source of events and its
/// [`EventHandler`](crate::EventHandler), beside [`UNREADABLE`](crate::handler::UNREADABLE). A source writes
/// it into the record's `recordFormat` ([`to_record_format`](ImageNotes::to_record_format)), a
/// field that DynamoDB's streams do not use. A handler that does not know it sees an ordinary
/// Lambda record, or an unreadable one.
///
/// ```
/// use murmur_state::images::{ImageNote, ImageNotes};
///
/// let view = Some("NEW_AND_OLD_IMAGES");
/// let notes = ImageNotes::of("MODIFY", view, ImageNote::AsShown, ImageNote::Empty);
/// let format = notes.to_record_format();
/// assert_eq!(ImageNotes::read(format.as_deref()), notes);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageNotes {
    /// The actual event name, if the record's event name is [`UNREADABLE`](crate::handler::UNREADABLE)
    /// although only images could not be read.
    pub event_name: Option<String>,
    /// The note on the new image.
    pub new: ImageNote,
    /// The note on the old image.
    pub old: ImageNote,
}

/// A note on one image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImageNote {
    /// The image is as the record shows it; an empty map means that there is no image.
    #[default]
    AsShown,
    /// The image exists, as an item without attributes.
    Empty,
    /// The image exists, but could not be read, for this reason.
    Unreadable(String),
}

impl ImageNotes {
    /// The notes on a change; an image that came as an empty map is given as [`ImageNote::Empty`].
    ///
    /// An empty image counts as absent where there can be none: the old one of an insert, the new
    /// one of a removal, and one that a stream of this view type leaves out.
    pub fn of(event_name: &str, view_type: Option<&str>, new: ImageNote, old: ImageNote) -> Self {
        let carried = |note, none_of: &str, left_out_by: &str| match note {
            ImageNote::Empty
                if event_name == none_of
                    || view_type.is_some_and(|view| view == left_out_by || view == "KEYS_ONLY") =>
            {
                ImageNote::AsShown
            }
            note => note,
        };
        let new = carried(new, "REMOVE", "OLD_IMAGE");
        let old = carried(old, "INSERT", "NEW_IMAGE");
        let mut notes = Self {
            event_name: None,
            new,
            old,
        };
        if notes.unreadable().is_some() {
            notes.event_name = Some(event_name.to_owned());
        }
        notes
    }

    /// Why an image could not be read, if one could not; the new image's reason comes first.
    pub fn unreadable(&self) -> Option<&str> {
        [&self.new, &self.old]
            .into_iter()
            .find_map(|note| match note {
                ImageNote::Unreadable(reason) => Some(reason.as_str()),
                ImageNote::AsShown | ImageNote::Empty => None,
            })
    }

    /// The record's `recordFormat`; `None` if there is nothing to note.
    pub fn to_record_format(&self) -> Option<String> {
        let notes = (*self != Self::default()).then_some(self)?;
        serde_json::to_string(notes).ok()
    }

    /// The notes in a record's `recordFormat`; empty if it has another form.
    pub fn read(record_format: Option<&str>) -> Self {
        let read = |format| {
            let notes: Self = serde_json::from_str(format).ok()?;
            let is_whole = notes.event_name.is_some() == notes.unreadable().is_some();
            // Accepts only the exact text that is written for the notes.
            (is_whole && notes.to_record_format()? == format).then_some(notes)
        };
        record_format.and_then(read).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_image_is_one_only_where_there_can_be_one() {
        use ImageNote::{AsShown, Empty};
        let seen = |name: &str, view: Option<&str>| {
            let notes = ImageNotes::of(name, view, Empty, Empty);
            [notes.new == Empty, notes.old == Empty]
        };
        for both in [Some("NEW_AND_OLD_IMAGES"), None] {
            assert_eq!(seen("MODIFY", both), [true, true]);
            assert_eq!(seen("INSERT", both), [true, false]);
            assert_eq!(seen("REMOVE", both), [false, true]);
        }
        assert_eq!(seen("MODIFY", Some("NEW_IMAGE")), [true, false]);
        assert_eq!(seen("MODIFY", Some("OLD_IMAGE")), [false, true]);
        assert_eq!(seen("MODIFY", Some("KEYS_ONLY")), [false, false]);
        let plain = ImageNotes::of("MODIFY", None, AsShown, AsShown);
        assert_eq!(plain.to_record_format(), None);
    }

    #[test]
    fn notes_are_read_as_they_were_written_and_other_formats_say_nothing() {
        let unreadable = ImageNote::Unreadable("`n`: \"5\"".to_owned());
        let notes = ImageNotes::of("MODIFY", None, unreadable.clone(), ImageNote::Empty);
        assert_eq!(notes.event_name.as_deref(), Some("MODIFY"));
        assert_eq!(notes.unreadable(), Some("`n`: \"5\""));
        let format = notes.to_record_format();
        assert_eq!(ImageNotes::read(format.as_deref()), notes);
        for other in [None, Some(""), Some("application/json"), Some("{}")] {
            assert_eq!(ImageNotes::read(other), ImageNotes::default());
        }
    }
}
