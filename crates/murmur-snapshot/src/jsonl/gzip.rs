//! Decompresses gzip, if the input is compressed.

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

pub(super) type Reader = Box<dyn AsyncBufRead + Send + Unpin>;

/// The first byte of gzip, which no text begins with.
const MAGIC: u8 = 0x1f;

/// How much is decompressed at a time; the result can be a thousand times as large.
const PIECE: usize = 4096;

/// Decompression into memory fails only if the input is wrong.
fn damaged(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A reader of text that may be compressed.
pub(super) struct Inflating {
    reader: Reader,
    state: State,
}

enum State {
    Unknown,
    Plain,
    Gzip {
        inflater: Box<MultiGzDecoder<Vec<u8>>>,
        /// How much of the decompressed text was consumed.
        taken: usize,
        is_over: bool,
    },
}

impl Inflating {
    pub(super) fn new(reader: Reader) -> Self {
        Self {
            reader,
            state: State::Unknown,
        }
    }

    /// The next text; empty at the end of the input. Cancel safe.
    pub(super) async fn fill(&mut self) -> io::Result<&[u8]> {
        if matches!(self.state, State::Unknown) {
            self.state = match self.reader.fill_buf().await?.first() {
                Some(&MAGIC) => State::Gzip {
                    inflater: Box::new(MultiGzDecoder::new(Vec::new())),
                    taken: 0,
                    is_over: false,
                },
                _ => State::Plain,
            };
        }
        match &mut self.state {
            State::Unknown | State::Plain => self.reader.fill_buf().await,
            State::Gzip {
                inflater,
                taken,
                is_over,
            } => {
                while *taken >= inflater.get_ref().len() && !*is_over {
                    inflater.get_mut().clear();
                    *taken = 0;
                    let buffer = self.reader.fill_buf().await?;
                    let piece = &buffer[..buffer.len().min(PIECE)];
                    if piece.is_empty() {
                        inflater.try_finish().map_err(damaged)?;
                        *is_over = true;
                    } else {
                        inflater.write_all(piece).map_err(damaged)?;
                        inflater.flush().map_err(damaged)?;
                        let read = piece.len();
                        self.reader.consume(read);
                    }
                }
                Ok(inflater.get_ref().get(*taken..).unwrap_or_default())
            }
        }
    }

    /// Consumes `bytes` of the text that `fill` returned.
    pub(super) fn consume(&mut self, bytes: usize) {
        match &mut self.state {
            State::Unknown | State::Plain => self.reader.consume(bytes),
            State::Gzip { taken, .. } => *taken += bytes,
        }
    }
}
