//! A source of JSON Lines files.

mod form;
mod gzip;
mod line;

use std::fmt;
use std::io;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use futures::lock::Mutex;
use murmur_core::Row;
use murmur_state::{HandoffToken, OptionError};
use tokio::fs::File;
use tokio::io::{AsyncBufRead, BufReader};

use self::gzip::{Inflating, Reader};
pub use self::line::KeyType;
use self::line::{Format, KeyPart, MAX_LINE};
use crate::error::SourceError;
use crate::source::{BadRow, Cursor, Description, Page, Source};

/// The default of `page_size`.
const PAGE_SIZE: usize = 1000;

/// Large enough that reading the file costs more than the switch to the blocking thread.
const FILE_BUFFER: usize = 128 * 1024;

/// A source that reads JSON Lines: one JSON object per line, from a file or any other reader.
///
/// By default the lines are plain objects. Strings, numbers, booleans, null, lists and objects
/// become attribute values of the same kind; numbers keep every digit. With
/// [`dynamodb_json`](JsonLinesBuilder::dynamodb_json) the lines are those of a table export.
///
/// Gzip is recognised by its first byte and not by the file's name. It is decompressed, with any
/// number of members. Other formats are recognised and refused by name before any row is read: an
/// incremental export, one JSON array, Ion, UTF-16, a byte order mark, gzip within gzip.
///
/// The source has one segment and no stream. A line is a bad row called `line N` if it is not such
/// an object, lacks a key attribute, is longer than 16 MiB, or is nested deeper than 128 levels.
/// Blank lines are ignored. A cursor is the number of lines read; continuing skips the lines before
/// it without parsing them.
///
/// A file shows a past state of the table, so pipelines that keep a
/// [ledger](murmur_core::definition::Stored::ledger) refuse it: scan the table instead.
///
/// Event and item ids are made of the attributes named by [`key`](JsonLinesBuilder::key). They
/// equal the ids of the same item in a scan or a stream of the table if number keys are written as
/// DynamoDB writes them (`1`, not `1.0`). Two lines of one key are one event.
///
/// The last page is kept in memory until the next is requested, which costs one copy.
pub struct JsonLines {
    name: String,
    place: String,
    key: Vec<KeyPart>,
    format: Format,
    page_size: usize,
    reading: Mutex<Reading>,
}

impl JsonLines {
    /// Reads the file at `path`; the source is called by its file name. The first page opens the
    /// file, and needs a tokio runtime.
    pub fn path(path: impl Into<PathBuf>) -> JsonLinesBuilder {
        let path = path.into();
        let name = match path.file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => path.display().to_string(),
        };
        let place = format!("file `{}`", path.display());
        JsonLinesBuilder::new(name, Some(place), Input::Path(path))
    }

    /// Reads `reader` once: a decompressor, a response body, bytes in memory. `name` is the
    /// source's name. A cursor before the current page is an error.
    pub fn reader(
        name: impl Into<String>,
        reader: impl AsyncBufRead + Send + Unpin + 'static,
    ) -> JsonLinesBuilder {
        JsonLinesBuilder::new(name.into(), None, Input::Once(Some(Box::new(reader))))
    }
}

/// Options of a [`JsonLines`] source.
#[must_use = "a source is made by `build`"]
pub struct JsonLinesBuilder {
    name: String,
    place: Option<String>,
    key: Vec<KeyPart>,
    format: Format,
    page_size: usize,
    input: Input,
}

impl JsonLinesBuilder {
    fn new(name: String, place: Option<String>, input: Input) -> Self {
        Self {
            name,
            place,
            key: Vec::new(),
            format: Format::Plain,
            page_size: PAGE_SIZE,
            input,
        }
    }

    /// The names of the attributes that make up the primary key: strings, numbers or binary.
    /// Required: the key tells whether a row was counted before. The types are those of the lines.
    /// Plain JSON has no binary type, so for a table with a binary key use
    /// [`typed_key`](Self::typed_key); otherwise a row is a different item than in the stream.
    pub fn key<A: Into<String>>(mut self, attributes: impl IntoIterator<Item = A>) -> Self {
        let untyped = |name: A| KeyPart {
            name: name.into(),
            kind: None,
        };
        self.key = attributes.into_iter().map(untyped).collect();
        self
    }

    /// As [`key`](Self::key), with the attribute types of the table. In plain JSON a binary key is
    /// written in base64. A line with a key of another type is a bad row.
    pub fn typed_key<A: Into<String>>(
        mut self,
        attributes: impl IntoIterator<Item = (A, KeyType)>,
    ) -> Self {
        let typed = |(name, kind): (A, KeyType)| KeyPart {
            name: name.into(),
            kind: Some(kind),
        };
        self.key = attributes.into_iter().map(typed).collect();
        self
    }

    /// Reads DynamoDB JSON (`{"id":{"S":"7"}}`), each line bare or in `{"Item":…}` as table exports
    /// write them. Default: plain JSON.
    pub fn dynamodb_json(mut self) -> Self {
        self.format = Format::DynamoDb;
        self
    }

    /// Lines per page, at least 1. A page is one batch of writes, and is held in memory twice.
    /// Default 1000.
    pub fn page_size(mut self, lines: usize) -> Self {
        self.page_size = lines;
        self
    }

    /// The source's name. It must stay the same between runs. Default: the file's name, or the name
    /// given with the reader.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Checks the options. Nothing is opened yet.
    ///
    /// # Errors
    ///
    /// [`OptionError`] naming the option: no name, no key, a page size of zero.
    pub fn build(self) -> Result<JsonLines, OptionError> {
        if self.name.is_empty() {
            return Err(OptionError::new(
                "name",
                "is empty; the run's record is found by it",
            ));
        }
        if self.key.is_empty() || self.key.iter().any(|part| part.name.is_empty()) {
            return Err(OptionError::new(
                "key",
                "name the attributes of the primary key, such as `.key([\"id\"])`",
            ));
        }
        if self.page_size == 0 {
            return Err(OptionError::new("page_size", "must be at least 1"));
        }
        Ok(JsonLines {
            place: self
                .place
                .unwrap_or_else(|| format!("reader `{}`", self.name)),
            name: self.name,
            key: self.key,
            format: self.format,
            page_size: self.page_size,
            reading: Mutex::new(Reading {
                input: self.input,
                reader: None,
                is_known: false,
                line: Vec::new(),
                lines: 0,
                page: PageSoFar::at(0),
            }),
        })
    }
}

enum Input {
    Path(PathBuf),
    Once(Option<Reader>),
}

/// The state of the reading. It holds everything that an interrupted call has read.
struct Reading {
    input: Input,
    reader: Option<Inflating>,
    /// Whether the first line was checked.
    is_known: bool,
    /// The line that is being read.
    line: Vec<u8>,
    /// How many lines were read completely.
    lines: u64,
    page: PageSoFar,
}

/// The page that is being read, or the last one returned.
struct PageSoFar {
    /// How many lines are before the page.
    from: u64,
    rows: Vec<Row>,
    bad: Vec<BadRow>,
    complete: bool,
    last: bool,
}

impl PageSoFar {
    fn at(from: u64) -> Self {
        Self {
            from,
            rows: Vec::new(),
            bad: Vec::new(),
            complete: false,
            last: false,
        }
    }

    fn len(&self) -> usize {
        self.rows.len() + self.bad.len()
    }
}

impl Reading {
    /// Turns to the page after the first `from` lines, of at most `most` lines.
    fn aim(&mut self, from: u64, most: usize) {
        let room = self.page.len() < most || (self.page.complete && self.page.len() == most);
        if self.page.from == from && room {
            return;
        }
        if from < self.lines {
            self.rewind();
        }
        self.page = PageSoFar::at(from);
    }

    fn rewind(&mut self) {
        self.reader = None;
        self.is_known = false;
        self.line.clear();
        self.lines = 0;
        self.page = PageSoFar::at(self.page.from);
    }

    /// Reads the next line into `line`, without its line end; `false` at the end of the input.
    /// Cancel safe: the next call completes a line that was half read.
    async fn next_line(&mut self) -> io::Result<bool> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            none => none.insert(Inflating::new(match &mut self.input {
                Input::Path(path) => {
                    let file = File::open(path).await?;
                    Box::new(BufReader::with_capacity(FILE_BUFFER, file))
                }
                Input::Once(reader) => reader.take().ok_or_else(|| {
                    io::Error::new(
                        io::ErrorKind::Unsupported,
                        "a reader can be read only once; give a new one",
                    )
                })?,
            })),
        };
        loop {
            let buffer = reader.fill().await?;
            if buffer.is_empty() {
                let more = !self.line.is_empty();
                self.lines += u64::from(more);
                return Ok(more);
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let text = &buffer[..end.unwrap_or(buffer.len())];
            // One byte over the limit is enough to reject the line.
            let room = (MAX_LINE + 1).saturating_sub(self.line.len());
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            let taken = end.map_or(buffer.len(), |end| end + 1);
            reader.consume(taken);
            if end.is_some() {
                self.lines += 1;
                return Ok(true);
            }
        }
    }
}

impl JsonLines {
    /// Fills the current page.
    async fn fill(&self, reading: &mut Reading, most: usize) -> Result<(), SourceError> {
        let from = reading.page.from;
        while !reading.page.complete {
            let more = match reading.next_line().await {
                Ok(more) => more,
                Err(error) => {
                    // After a failure the position in the input is not known.
                    reading.rewind();
                    return Err(self.failed(error));
                }
            };
            let is_blank = reading.line.iter().all(u8::is_ascii_whitespace);
            if more
                && !is_blank
                && !std::mem::replace(&mut reading.is_known, true)
                && let Some(advice) = form::foreign(self.format, &self.key, &reading.line)
            {
                reading.rewind();
                return Err(SourceError::Setup {
                    place: self.place.clone(),
                    advice,
                    source: None,
                });
            }
            if reading.lines <= from && more {
                reading.line.clear();
                continue;
            }
            if !more && reading.lines < from {
                return Err(SourceError::Cursor {
                    place: self.place.clone(),
                    cursor: from.to_string(),
                    reason: format!(
                        "there are only {} lines; is it the same file?",
                        reading.lines
                    ),
                });
            }
            if more {
                match line::row(self.format, &self.key, reading.lines, &reading.line) {
                    Some(Ok(row)) => reading.page.rows.push(row),
                    Some(Err(bad)) => reading.page.bad.push(bad),
                    None => {}
                }
                reading.line.clear();
            }
            reading.page.last = !more;
            reading.page.complete = !more || reading.page.len() >= most;
        }
        Ok(())
    }

    fn failed(&self, error: io::Error) -> SourceError {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => "there is no such file; check the path",
            io::ErrorKind::PermissionDenied => "it may not be read; check the file's permissions",
            io::ErrorKind::IsADirectory => "it is a directory; name one file in it",
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                "its content is damaged or cut off; get the file again"
            }
            io::ErrorKind::Unsupported => "it cannot be read again from the beginning",
            _ => {
                return SourceError::Unavailable {
                    place: self.place.clone(),
                    source: Some(Arc::new(error)),
                };
            }
        };
        SourceError::Setup {
            place: self.place.clone(),
            advice: advice.to_owned(),
            source: Some(Arc::new(error)),
        }
    }

    fn cursor_error(&self, cursor: &Cursor, reason: &str) -> SourceError {
        SourceError::Cursor {
            place: self.place.clone(),
            cursor: cursor.to_string(),
            reason: reason.to_owned(),
        }
    }
}

impl Source for JsonLines {
    fn name(&self) -> &str {
        &self.name
    }

    fn segments(&self) -> u32 {
        1
    }

    async fn describe(&self) -> Result<Description, SourceError> {
        let lines = match self.format {
            Format::Plain => "JSON lines",
            Format::DynamoDb => "DynamoDB JSON lines",
        };
        let key: Vec<_> = self.key.iter().map(KeyPart::to_string).collect();
        let (name, key) = (&self.name, key.join(", "));
        Ok(Description::new(format!("{lines} `{name}`, key {key}")))
    }

    async fn capture_handoff(&self) -> Result<Option<HandoffToken>, SourceError> {
        Ok(None)
    }

    async fn page(
        &self,
        segment: u32,
        after: Option<&Cursor>,
        limit: Option<NonZeroU32>,
    ) -> Result<Page, SourceError> {
        if segment != 0 {
            return Err(SourceError::Setup {
                place: self.place.clone(),
                advice: format!("there is no segment {segment}; it has one, segment 0"),
                source: None,
            });
        }
        let from = match after {
            None => 0,
            // A number has many texts, and only one of them was given out.
            Some(cursor) => match cursor.as_str().parse::<u64>() {
                Ok(lines) if lines.to_string() == cursor.as_str() => lines,
                _ => return Err(self.cursor_error(cursor, "it is not a number of lines")),
            },
        };
        let limit = limit.and_then(|limit| usize::try_from(limit.get()).ok());
        let most = limit.map_or(self.page_size, |limit| limit.min(self.page_size));
        let mut reading = self.reading.lock().await;
        reading.aim(from, most);
        self.fill(&mut reading, most).await?;
        let page = &reading.page;
        Ok(Page {
            rows: page.rows.clone(),
            bad: page.bad.clone(),
            next: (!page.last).then(|| Cursor::new(reading.lines.to_string())),
            examined: page.len() as u64,
            read_units: None,
        })
    }

    async fn close(&self) -> Result<(), SourceError> {
        self.reading.lock().await.reader = None;
        Ok(())
    }
}

impl fmt::Debug for JsonLines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLines")
            .field("place", &self.place)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for JsonLinesBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JsonLinesBuilder")
            .field("name", &self.name)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
